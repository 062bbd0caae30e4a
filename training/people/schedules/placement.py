"""Where drawn events come to lie in time, and on which side, so that none gets into another's way."""

from typing import NamedTuple

import numpy as np

from training.instances import Booleans, Floats, Integers
from training.people.actions import ACTIONS, Sides, held
from training.people.schedules.table import AT_END_S, END, INSIDE

GAP_S = 0.25  # between two events that use the same part of the body
MARGIN_S = AT_END_S  # from an end of the video to an event that does not touch it
SIDES: tuple[Sides, ...] = (("left",), ("right",), ("left", "right"))

_PLACEMENTS = 160
_MOMENTS = 48  # at which a placement's concurrency is looked at
# What the log odds of a placement are: per fraction of its time with 0, 2, 3 and more actions, and per event that
# overlaps no other. Real videos are rarely idle, and most of their actions overlap another, if briefly.
_LOG_ODDS = np.array([-35.0, 4.0, -4.0])
_LOG_ODDS_ALONE = -1.6


def _held_bits() -> Integers:
    """(actions, SIDES) what is held, a bit for each resource."""
    held_by = [[held(action, sides) for sides in SIDES] for action in ACTIONS]
    names = sorted(frozenset().union(*(resources for row in held_by for resources in row)))
    return np.array([[sum(1 << names.index(name) for name in one) for one in row] for row in held_by])


_HELD = _held_bits()
_BOTH = np.array([action.both for action in ACTIONS])


class Drafts(NamedTuple):
    """Events without their time and side: (n,) each; `before` is the event that one follows at once, or -1."""

    labels: Integers
    anchors: Integers
    lengths_s: Floats
    before: Integers


class Placement(NamedTuple):
    """(n,) of each event its index into SIDES, and seconds."""

    sides: Integers
    starts_s: Floats
    ends_s: Floats


def place(rng: np.random.Generator, drafts: Drafts, duration_s: float) -> Placement | None:
    """Draws many placements, and of those that fit one that is like a real one; None where none fits."""
    sides = _draw_sides(rng, drafts)
    starts = _draw_starts(rng, drafts, duration_s)
    # What ends with the video does so to the last bit.
    ends = np.where(drafts.anchors & END, duration_s, starts + drafts.lengths_s)
    fits = _fits(drafts, sides, starts, ends)
    if not fits.any():
        return None
    sides, starts, ends = sides[fits], starts[fits], ends[fits]
    chosen = _choose(rng, starts, ends, duration_s)
    return Placement(sides[chosen], starts[chosen], ends[chosen])


def _draw_sides(rng: np.random.Generator, drafts: Drafts) -> Integers:
    """(placements, n) indices into SIDES."""
    shape = (_PLACEMENTS, len(drafts.labels))
    sides = np.where(rng.random(shape) < _BOTH[drafts.labels], 2, rng.integers(2, size=shape))
    linked = drafts.before >= 0
    sides[:, linked] = sides[:, drafts.before[linked]]
    return sides


def _draw_starts(rng: np.random.Generator, drafts: Drafts, duration_s: float) -> Floats:
    """(placements, n) seconds."""
    last = duration_s - drafts.lengths_s
    free = MARGIN_S + rng.random((_PLACEMENTS, len(last))) * (last - 2 * MARGIN_S)
    starts = np.select([drafts.anchors == INSIDE, drafts.anchors == END], [free, last], 0.0)
    for index in np.flatnonzero(drafts.before >= 0):
        partner = drafts.before[index]
        length = drafts.lengths_s[partner]
        if drafts.anchors[index] == END:
            starts[:, partner] = starts[:, index] - length
        elif drafts.anchors[partner] == INSIDE:
            starts[:, partner] *= (last[index] - length) / last[partner]
        starts[:, index] = starts[:, partner] + length
    return starts


def _fits(drafts: Drafts, sides: Integers, starts: Floats, ends: Floats) -> Booleans:
    """(placements,) whether no two events that hold the same come closer than GAP_S."""
    held_bits = _HELD[drafts.labels, sides]
    common = (held_bits[:, :, None] & held_bits[:, None, :]) != 0
    close = (starts[:, :, None] < ends[:, None, :] + GAP_S) & (starts[:, None, :] < ends[:, :, None] + GAP_S)
    exempt = np.eye(len(drafts.labels), dtype=bool)
    linked = np.flatnonzero(drafts.before >= 0)
    exempt[linked, drafts.before[linked]] = exempt[drafts.before[linked], linked] = True
    return np.asarray(~(common & close & ~exempt).any(axis=(1, 2)))


def _choose(rng: np.random.Generator, starts: Floats, ends: Floats, duration_s: float) -> int:
    """One of the placements, starts and ends (placements, n), by how like a real one it is."""
    moments = (np.arange(_MOMENTS) + 0.5) / _MOMENTS * duration_s
    going = ((starts[:, :, None] <= moments) & (moments < ends[:, :, None])).sum(axis=1)
    shares = np.stack([(going == 0).mean(axis=1), (going == 2).mean(axis=1), (going >= 3).mean(axis=1)])
    apart = (starts[:, :, None] >= ends[:, None, :]) | (starts[:, None, :] >= ends[:, :, None])
    # An event is not apart from itself.
    alone = apart.sum(axis=2) == starts.shape[1] - 1
    log_odds = _LOG_ODDS @ shares + _LOG_ODDS_ALONE * alone.sum(axis=1)
    odds = np.exp(log_odds - log_odds.max())
    return int(rng.choice(len(odds), p=odds / odds.sum()))
