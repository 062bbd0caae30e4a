"""Sample schedules of synthetic videos with the statistics of the real data set.

The actions of a schedule and their lengths are drawn first, so that their frequencies do not depend on how well they
fit together. Then many placements in time are drawn. Placements in which two actions need the same body part at once
are rejected, and one of the others is chosen at odds that favour little idle time. If none is left, actions and
lengths are drawn again.
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

from model.arrays import Doubles as Floats
from model.arrays import Integers
from model.taxonomy import Taxonomy
from training.evaluation.statistics import compute_statistics
from training.instances import Instances, Row, collect
from training.people.actions import BY_CODE, Sides
from training.people.options import Mix
from training.people.schedules.placement import MARGIN_S, SIDES, Drafts, Placement, place_events
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
from training.tables import standard_labels

__all__ = ["Event", "Mix", "Schedule", "load_table", "sample_schedule", "to_instances"]

MIN_EVENT_S = 0.35
MIN_DURATION_S = 1.0
STRETCH, RETRACT = "C4", "C10"  # a RETRACT follows the STRETCH of the same arm

_CODES = tuple(BY_CODE)
_STRETCH, _RETRACT = _CODES.index(STRETCH), _CODES.index(RETRACT)
_SHORT = 0.999 * SIZE_LIMITS[0]  # of the video: an action that is short in seconds stays short in a short video
_ATTEMPTS = 20  # failed attempts after which the schedule gets one event less


class Event(NamedTuple):
    """One labelled micro-action."""

    code: str
    start_s: float
    end_s: float
    sides: Sides


@dataclass(frozen=True)
class Schedule:
    """The events of one video.

    Attributes:
        duration_s: of the video.
        events: sorted by start. An event that starts at 0 began before the video, one that ends at `duration_s`
            continues after it. Events that use the same body part are at least placement.GAP_S apart, except that a
            RETRACT directly follows its STRETCH.
    """

    duration_s: float
    events: tuple[Event, ...]


class _Odds(NamedTuple):
    """Sampling weights derived from a table. A state is a pair of action and size.

    Attributes:
        levels, duration_s: quantiles of the videos' durations.
        numbers: (bands, most + 1) weights of the number of events.
        first: (states,) weights of the first state.
        following: (states, states) weights of another state, given one drawn before.
        tilts: (bands, NUMBERS, states) factors on both, by duration band and number of events.
        anchors: (states, 4) weights of INSIDE, START, END and WHOLE.
        lengths: (states, levels) quantiles: seconds for short states, fractions of the video for others.
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
    rng: np.random.Generator, mix: Mix = Mix.REAL, table: Table | None = None, duration_s: float | None = None
) -> Schedule:
    """Sample a schedule; the result is determined by the state of `rng`.

    Args:
        rng: advanced by the call.
        mix: how often each action occurs.
        table: statistics to follow; the shipped table if None.
        duration_s: of the video, at least MIN_DURATION_S; drawn if None. The number of events depends on it.

    Raises:
        ValueError: the duration is too short or not finite.
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
        if drafts is not None and (placement := place_events(rng, drafts, duration_s)) is not None:
            return Schedule(float(duration_s), _events(drafts, placement))
    raise AssertionError("one event alone always fits")


@lru_cache(maxsize=8)
def _odds(table: Table, mix: Mix) -> _Odds:
    sizes = [size for action in table.actions.values() for size in action.sizes]
    anchors = np.array([size.anchors for size in sizes], float)
    first = anchors.sum(axis=1)
    following = np.array([[size.together.get(name, 0.0) for name in state_names()] for size in sizes])
    following += np.triu(following, 1).T
    following[following.sum(axis=1) == 0] = first  # states that never occur with another
    if mix is Mix.BALANCED:
        first /= np.repeat(first.reshape(-1, SIZES).sum(axis=1), SIZES)
        following = np.tile(first, (len(first), 1))
    weights = np.array([size.weight if mix is Mix.REAL else size.balanced_weight for size in sizes])
    size_counts = np.array(table.sizes, float)
    overall = size_counts.sum(axis=(0, 1)) / size_counts.sum()
    size_counts += overall  # avoids division by zero in empty rows
    tilts = size_counts / size_counts.sum(axis=2, keepdims=True) / overall
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


def _draft(rng: np.random.Generator, odds: _Odds, number: int, tilts: Floats, duration_s: float) -> Drafts | None:
    states = _draw_states(rng, odds, number, tilts)
    anchors = np.array([_draw(rng, odds.anchors[state]) for state in states])
    before = _link(rng, states, anchors, odds.anchors[_STRETCH * SIZES :][:2].sum(axis=1))
    lengths = _draw_lengths(rng, odds, states, anchors, duration_s)
    linked = before >= 0
    if (lengths[linked] + lengths[before[linked]] > duration_s).any():
        return None
    return Drafts(states // SIZES, anchors, lengths, before)


def _draw_states(rng: np.random.Generator, odds: _Odds, number: int, tilts: Floats) -> Integers:
    """Draw (number,) states; each depends on a random earlier one, which preserves the marginal frequencies."""
    states = np.empty(number, np.int64)
    states[0] = _draw(rng, odds.first * tilts)
    for index in range(1, number):
        states[index] = _draw(rng, odds.following[states[rng.integers(index)]] * tilts)
    return states


def _link(rng: np.random.Generator, states: Integers, anchors: Integers, stretch_odds: Floats) -> Integers:
    """Pair every RETRACT that does not start with the video with a STRETCH; changes `states` and `anchors` in place.

    Without a free STRETCH, another event is turned into one.

    Args:
        rng: draws the partner.
        states, anchors: (n,) of all events.
        stretch_odds: weights of a short and of a long STRETCH.

    Returns:
        (n,) index of the event that each event directly follows, -1 for all but RETRACT.
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
        # A full STRETCH would leave no time for the RETRACT.
        states[partner] = _STRETCH * SIZES + _draw(rng, stretch_odds)
        # Only one of the two can be anchored to an end of the video.
        anchors[partner] = anchors[partner] & START if anchors[index] == INSIDE else INSIDE
        before[index] = partner
    return before


def _draw_lengths(
    rng: np.random.Generator, odds: _Odds, states: Integers, anchors: Integers, duration_s: float
) -> Floats:
    drawn = np.array([np.interp(rng.random(), LEVELS, odds.lengths[state]) for state in states])
    short = states % SIZES == 0
    drawn = np.where(short, np.minimum(drawn, _SHORT * duration_s), drawn * duration_s)
    longest_s = duration_s - np.where(anchors == INSIDE, 2 * MARGIN_S, MARGIN_S)
    return np.where(anchors == WHOLE, duration_s, np.clip(drawn, MIN_EVENT_S, longest_s))


def _events(drafts: Drafts, placement: Placement) -> tuple[Event, ...]:
    """Return the events sorted by start, then by end."""
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
    """Convert schedules to annotations of videos synth00000, synth00001 ..."""
    id_of = {action.code: action.id for action in taxonomy.actions}
    names = [f"synth{index:05d}" for index in range(len(schedules))]
    rows = [
        Row(name, event.start_s, event.end_s, id_of[event.code], 1.0, name)
        for name, schedule in zip(names, schedules, strict=True)
        for event in schedule.events
    ]
    return collect(rows, {name: one.duration_s for name, one in zip(names, schedules, strict=True)})


def _document(instances: Instances) -> dict[str, object]:
    """Convert annotations to the data set's JSON."""
    actions: list[list[list[float]]] = [[] for _ in instances.videos]
    for video, (start_s, end_s), label in zip(instances.video, instances.segments, instances.labels, strict=True):
        actions[video].append([int(label), round(float(start_s), 4), round(float(end_s), 4)])
    return {
        name: {"subset": "train", "duration": round(float(length), 4), "actions": listed}
        for name, length, listed in zip(instances.videos, instances.durations, actions, strict=True)
    }


def _draw(rng: np.random.Generator, odds: Floats) -> int:
    sums = np.cumsum(odds)
    return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))


def _report(instances: Instances, taxonomy: Taxonomy, table: Table) -> str:
    """Compare annotations with the table; counts are scaled to the same number of videos."""
    ours = compute_statistics(instances, taxonomy)
    middle = len(table.duration_s) // 2
    shares = zip_longest(table.concurrent_time, ours.concurrent_time, fillvalue=0.0)
    overall = [
        ("instances per video", table.instances / table.videos, ours.instances / ours.videos),
        ("median duration, s", table.duration_s[middle], float(np.median(instances.durations))),
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
    """Sample schedules and print their statistics beside the real ones."""
    parser = ArgumentParser(description="How sampled schedules compare to the real data set's.")
    parser.add_argument("--schedules", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write them as annotations, which `mmad stats` reads")
    options = parser.parse_args()
    taxonomy = standard_labels()
    rng = np.random.default_rng(options.seed)
    instances = to_instances([sample_schedule(rng) for _ in range(options.schedules)], taxonomy)
    sys.stdout.write(_report(instances, taxonomy, load_table()) + "\n")
    if options.out is not None:
        options.out.write_text(json.dumps(_document(instances)), encoding="utf-8")


if __name__ == "__main__":
    main()
