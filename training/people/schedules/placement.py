"""Place drawn events in time and assign sides so that no two need the same body part at once."""

from typing import NamedTuple

import numpy as np

from model.arrays import Booleans, Integers
from model.arrays import Doubles as Floats
from training.people.actions import ACTIONS, Sides, get_resources
from training.people.schedules.table import AT_END_S, END, INSIDE

GAP_S = 0.25  # between two events that use the same part of the body
MARGIN_S = AT_END_S  # from an end of the video to an event that does not touch it
SIDES: tuple[Sides, ...] = (("left",), ("right",), ("left", "right"))

_PLACEMENTS = 160
_MOMENTS = 48  # at which the number of concurrent actions is sampled
# Log odds of a placement: per fraction of time with 0, with 2, and with 3 or more actions, and per event that overlaps
# no other. Real videos are rarely idle, and most of their actions overlap another, if briefly.
_LOG_ODDS = np.array([-35.0, 4.0, -4.0])
_LOG_ODDS_ALONE = -1.6


def _compute_resource_bits() -> Integers:
    """Return (actions, SIDES) bit masks of the resources in use."""
    resources_by_side = [[get_resources(action, sides) for sides in SIDES] for action in ACTIONS]
    names = sorted(frozenset().union(*(resources for row in resources_by_side for resources in row)))
    return np.array([[sum(1 << names.index(name) for name in one) for one in row] for row in resources_by_side])


_RESOURCE_BITS = _compute_resource_bits()
_BOTH = np.array([action.both for action in ACTIONS])


class Drafts(NamedTuple):
    """Events without times and sides, (n,) each; `before` is the index of the event directly followed, or -1."""

    labels: Integers
    anchors: Integers
    lengths_s: Floats
    before: Integers


class Placement(NamedTuple):
    """Indices into SIDES, starts and ends in seconds, (n,) each."""

    sides: Integers
    starts_s: Floats
    ends_s: Floats


def place_events(rng: np.random.Generator, drafts: Drafts, duration_s: float) -> Placement | None:
    """Draw many placements and choose a realistic one among those without conflicts; None if there is none."""
    sides = _draw_sides(rng, drafts)
    starts = _draw_starts(rng, drafts, duration_s)
    # Set exactly, without rounding errors.
    ends = np.where(drafts.anchors & END, duration_s, starts + drafts.lengths_s)
    fits = _fits(drafts, sides, starts, ends)
    if not fits.any():
        return None
    sides, starts, ends = sides[fits], starts[fits], ends[fits]
    chosen = _choose(rng, starts, ends, duration_s)
    return Placement(sides[chosen], starts[chosen], ends[chosen])


def _draw_sides(rng: np.random.Generator, drafts: Drafts) -> Integers:
    """Draw (placements, n) indices into SIDES."""
    shape = (_PLACEMENTS, len(drafts.labels))
    sides = np.where(rng.random(shape) < _BOTH[drafts.labels], 2, rng.integers(2, size=shape))
    linked = drafts.before >= 0
    sides[:, linked] = sides[:, drafts.before[linked]]
    return sides


def _draw_starts(rng: np.random.Generator, drafts: Drafts, duration_s: float) -> Floats:
    """Draw (placements, n) starts in seconds."""
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
    """Return (placements,) whether all events that share a resource are at least GAP_S apart."""
    resource_bits = _RESOURCE_BITS[drafts.labels, sides]
    common = (resource_bits[:, :, None] & resource_bits[:, None, :]) != 0
    close = (starts[:, :, None] < ends[:, None, :] + GAP_S) & (starts[:, None, :] < ends[:, :, None] + GAP_S)
    exempt = np.eye(len(drafts.labels), dtype=bool)
    linked = np.flatnonzero(drafts.before >= 0)
    exempt[linked, drafts.before[linked]] = exempt[drafts.before[linked], linked] = True
    return np.asarray(~(common & close & ~exempt).any(axis=(1, 2)))


def _choose(rng: np.random.Generator, starts: Floats, ends: Floats, duration_s: float) -> int:
    """Draw the index of a placement by its log odds; starts and ends are (placements, n)."""
    moments = (np.arange(_MOMENTS) + 0.5) / _MOMENTS * duration_s
    going = ((starts[:, :, None] <= moments) & (moments < ends[:, :, None])).sum(axis=1)
    shares = np.stack([(going == 0).mean(axis=1), (going == 2).mean(axis=1), (going >= 3).mean(axis=1)])
    apart = (starts[:, :, None] >= ends[:, None, :]) | (starts[:, None, :] >= ends[:, :, None])
    # No event is apart from itself, hence the - 1.
    alone = apart.sum(axis=2) == starts.shape[1] - 1
    log_odds = _LOG_ODDS @ shares + _LOG_ODDS_ALONE * alone.sum(axis=1)
    odds = np.exp(log_odds - log_odds.max())
    return int(rng.choice(len(odds), p=odds / odds.sum()))
