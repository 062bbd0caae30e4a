"""What happens when in a synthetic video: schedules with the statistics of the real data set.

A schedule's actions, and how long they last, are drawn first: their frequencies and lengths then do not depend on how
they fit. Many placements are drawn next, those in which two actions would use one part of the body are left out, and
one of the others is chosen, rather one in which something is going on all the time. Only where none is left do
actions and lengths have to be drawn again.
"""

import json
import math
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.taxonomy import Taxonomy
from training.instances import Floats, Instances, Integers, Row, collect
from training.people.actions import BY_CODE, Sides
from training.people.options import Mix
from training.people.schedules.placement import MARGIN_S, SIDES, Drafts, Placement, place
from training.people.schedules.table import (
    BANDS,
    INSIDE,
    LEVELS,
    NUMBERS,
    SIZE_LIMITS,
    SIZES,
    START,
    WHOLE,
    Table,
    load_table,
    state_names,
)
from training.statistics import compute
from training.tables import standard_labels

__all__ = ["Event", "Mix", "Schedule", "load_table", "sample_schedule", "to_instances"]

MIN_EVENT_S = 0.35
MIN_DURATION_S = 1.0
STRETCH, RETRACT = "C4", "C10"  # an arm is retracted that was stretched

_CODES = tuple(BY_CODE)
_STRETCH, _RETRACT = _CODES.index(STRETCH), _CODES.index(RETRACT)
_SHORT = 0.999 * SIZE_LIMITS[0]  # of the video: what is short in seconds stays so in a short video
_ATTEMPTS = 20  # before a schedule makes do with an event less


class Event(NamedTuple):
    """One labelled micro-action."""

    code: str
    start_s: float
    end_s: float
    sides: Sides


@dataclass(frozen=True)
class Schedule:
    """What happens in one video.

    Attributes:
        duration_s: of the video.
        events: by start. One that starts at 0 is under way when the video begins, one that ends at `duration_s` when
            it ends. No two that use one part of the body come closer than placement.GAP_S; only RETRACT follows its
            STRETCH at once.
    """

    duration_s: float
    events: tuple[Event, ...]


class _Odds(NamedTuple):
    """A table as the sampler needs it; a state is an action in a size.

    Attributes:
        levels, duration_s: quantiles of the videos' durations.
        numbers: (bands, most + 1) how many events.
        first, following: (states,), (states, states) the first state, another given one of those before.
        tilts: (bands, NUMBERS, states) factors to both for videos as long, with as many events.
        anchors: (states, 4).
        lengths: (states, levels) seconds of short ones, parts of the video of others.
    """

    levels: Floats
    duration_s: Floats
    numbers: Floats
    first: Floats
    following: Floats
    tilts: Floats
    anchors: Floats
    lengths: Floats


def sample_schedule(
    rng: np.random.Generator,
    mix: Mix = Mix.REAL,
    table: Table | None = None,
    duration_s: float | None = None,
) -> Schedule:
    """A schedule, determined by the state of `rng`.

    Args:
        rng: its state goes on.
        mix: how often each action occurs.
        table: the statistics to follow; those shipped if None.
        duration_s: of the video, at least MIN_DURATION_S; drawn if None. The number of events follows from it.
    """
    odds = _odds(table or load_table(), mix)
    if duration_s is None:
        duration_s = float(np.interp(rng.random(), odds.levels, odds.duration_s))
    if not MIN_DURATION_S <= duration_s < math.inf:
        raise ValueError(f"a schedule cannot last {duration_s:g} s, the least is {MIN_DURATION_S:g} s")
    band = min(int(np.interp(duration_s, odds.duration_s, odds.levels) * BANDS), BANDS - 1)
    number = _draw(rng, odds.numbers[band])
    for attempt in count():
        fewer = max(1, number - attempt // _ATTEMPTS)
        row = min(max(fewer, NUMBERS[0]), NUMBERS[-1]) - NUMBERS[0]
        drafts = _draft(rng, odds, fewer, odds.tilts[band, row], duration_s)
        if drafts is not None and (placement := place(rng, drafts, duration_s)) is not None:
            return Schedule(float(duration_s), _events(drafts, placement))
    raise AssertionError("one event alone always fits")


@lru_cache(maxsize=8)
def _odds(table: Table, mix: Mix) -> _Odds:
    sizes = [size for action in table.actions.values() for size in action.sizes]
    anchors = np.array([size.anchors for size in sizes], float)
    first = anchors.sum(axis=1)
    following = np.array([[size.together.get(name, 0.0) for name in state_names()] for size in sizes])
    following += np.triu(following, 1).T
    following[following.sum(axis=1) == 0] = first  # of what was always alone
    if mix is Mix.BALANCED:
        first /= np.repeat(first.reshape(-1, SIZES).sum(axis=1), SIZES)
        following = np.tile(first, (len(first), 1))
    weights = np.array([size.weight if mix is Mix.REAL else size.balanced_weight for size in sizes])
    sizes_of = np.array(table.sizes, float)
    overall = sizes_of.sum(axis=(0, 1)) / sizes_of.sum()
    sizes_of += overall  # a row may be empty
    tilts = sizes_of / sizes_of.sum(axis=2, keepdims=True) / overall
    return _Odds(
        levels=np.linspace(0, 1, len(table.duration_s)),
        duration_s=np.array(table.duration_s),
        numbers=np.array(table.numbers, float),
        first=first * weights,
        following=following * weights,
        tilts=np.tile(tilts, len(_CODES)),
        anchors=anchors,
        lengths=np.array([size.lengths or (0.0,) * len(LEVELS) for size in sizes]),
    )


def _draft(
    rng: np.random.Generator, odds: _Odds, number: int, tilts: Floats, duration_s: float
) -> Drafts | None:
    states = _draw_states(rng, odds, number, tilts)
    anchors = np.array([_draw(rng, odds.anchors[state]) for state in states])
    before = _link(rng, states, anchors, odds.anchors[_STRETCH * SIZES :][:2].sum(axis=1))
    lengths = _draw_lengths(rng, odds, states, anchors, duration_s)
    linked = before >= 0
    if (lengths[linked] + lengths[before[linked]] > duration_s).any():
        return None
    return Drafts(states // SIZES, anchors, lengths, before)


def _draw_states(rng: np.random.Generator, odds: _Odds, number: int, tilts: Floats) -> Integers:
    """Each goes with one of those before as in real videos: so the frequencies of all stay the real ones."""
    states = np.empty(number, np.int64)
    states[0] = _draw(rng, odds.first * tilts)
    for index in range(1, number):
        states[index] = _draw(rng, odds.following[states[rng.integers(index)]] * tilts)
    return states


def _link(rng: np.random.Generator, states: Integers, anchors: Integers, stretch_odds: Floats) -> Integers:
    """Makes one of the others the STRETCH before a RETRACT that is not under way at the start, in place.

    Args:
        rng: draws which.
        states, anchors: (n,) of all events.
        stretch_odds: of a STRETCH being short or long.

    Returns (n,) the event that one follows at once, -1 for all but RETRACT.
    """
    before = np.full(len(states), -1)
    for index in np.flatnonzero((states // SIZES == _RETRACT) & (anchors & START == 0)):
        free = (states // SIZES != _RETRACT) & ~np.isin(np.arange(len(states)), before)
        stretches = free & (states // SIZES == _STRETCH)
        partners = np.flatnonzero(stretches if stretches.any() else free)
        if not len(partners):
            anchors[index] = START
            continue
        partner = rng.choice(partners)
        # A full one would leave no room.
        states[partner] = _STRETCH * SIZES + _draw(rng, stretch_odds)
        # Of the two only one can have its place given by an end of the video.
        anchors[partner] = anchors[partner] & START if anchors[index] == INSIDE else INSIDE
        before[index] = partner
    return before


def _draw_lengths(
    rng: np.random.Generator, odds: _Odds, states: Integers, anchors: Integers, duration_s: float
) -> Floats:
    drawn = np.array([np.interp(rng.random(), LEVELS, odds.lengths[state]) for state in states])
    short = states % SIZES == 0
    drawn = np.where(short, np.minimum(drawn, _SHORT * duration_s), drawn * duration_s)
    room = duration_s - np.where(anchors == INSIDE, 2 * MARGIN_S, MARGIN_S)
    return np.where(anchors == WHOLE, duration_s, np.clip(drawn, MIN_EVENT_S, room))


def _events(drafts: Drafts, placement: Placement) -> tuple[Event, ...]:
    """By start; of those that start at once, the one that ends first comes first."""
    rows = zip(
        drafts.labels.tolist(),
        placement.starts_s.tolist(),
        placement.ends_s.tolist(),
        placement.sides.tolist(),
        strict=True,
    )
    events = [Event(_CODES[label], start, end, SIDES[side]) for label, start, end, side in rows]
    return tuple(sorted(events, key=lambda event: (event.start_s, event.end_s)))


def to_instances(schedules: Sequence[Schedule], taxonomy: Taxonomy) -> Instances:
    """As annotations of videos synth00000, synth00001 ..."""
    id_of = {action.code: action.id for action in taxonomy.actions}
    names = [f"synth{index:05d}" for index in range(len(schedules))]
    rows = [
        Row(name, event.start_s, event.end_s, id_of[event.code], 1.0, name)
        for name, schedule in zip(names, schedules, strict=True)
        for event in schedule.events
    ]
    return collect(rows, {name: one.duration_s for name, one in zip(names, schedules, strict=True)})


def _document(found: Instances) -> dict[str, object]:
    """As the data set's JSON."""
    actions: list[list[list[float]]] = [[] for _ in found.videos]
    for video, (start_s, end_s), label in zip(found.video, found.segments, found.labels, strict=True):
        actions[video].append([int(label), round(float(start_s), 4), round(float(end_s), 4)])
    return {
        name: {"subset": "train", "duration": round(float(length), 4), "actions": listed}
        for name, length, listed in zip(found.videos, found.durations, actions, strict=True)
    }


def _draw(rng: np.random.Generator, odds: Floats) -> int:
    sums = np.cumsum(odds)
    return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))


def _report(found: Instances, taxonomy: Taxonomy, table: Table) -> str:
    """Compares annotations to the table; counts are scaled to as many videos."""
    ours = compute(found, taxonomy)
    middle = len(table.duration_s) // 2
    shares = zip_longest(table.concurrent_time, ours.concurrent_time, fillvalue=0.0)
    overall = [
        ("instances per video", table.instances / table.videos, ours.instances / ours.videos),
        ("median duration, s", table.duration_s[middle], float(np.median(found.durations))),
        ("start with the video", table.starting, ours.starting),
        ("overlap another", table.overlapping, ours.overlapping),
        *((f"time with {number} actions", real, here) for number, (real, here) in enumerate(shares)),
    ]
    lines = [f"{name:24}{real:9.3f}{here:9.3f}" for name, real, here in overall]
    lines.append(f"{'':6}{'real count':>12}{'sampled':>9}{'real mean, s':>14}{'sampled':>9}{'ratio':>7}")
    id_of = {action.code: action.id for action in taxonomy.actions}
    for code, action in table.actions.items():
        mean_s = ours.class_duration[id_of[code]].mean
        count = ours.class_count[id_of[code]] * table.videos / ours.videos
        numbers = f"{action.count:12}{count:9.0f}{action.mean_s:14.2f}{mean_s:9.2f}"
        lines.append(f"{code:6}{numbers}{mean_s / action.mean_s:7.2f}")
    return "\n".join([f"{'':24}{'real':>9}{'sampled':>9}", *lines])


def main() -> None:
    """Sample schedules and print how they compare to the real ones."""
    parser = ArgumentParser(description="How sampled schedules compare to the real data set's.")
    parser.add_argument("--schedules", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write them as annotations, which `mmad stats` reads")
    options = parser.parse_args()
    taxonomy = standard_labels()
    rng = np.random.default_rng(options.seed)
    found = to_instances([sample_schedule(rng) for _ in range(options.schedules)], taxonomy)
    sys.stdout.write(_report(found, taxonomy, load_table()) + "\n")
    if options.out is not None:
        options.out.write_text(json.dumps(_document(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
