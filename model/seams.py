"""Proposals of overlapping windows made one: what two windows both saw is found once.

      window A  |-----------------------|
      window B                  |-----------------------|
      the seam                  |-------|

Both windows describe the seam. Two proposals of one action are the same action if their parts inside the seam
agree, with a tIoU of at least 0.5, or if one is cut by the edge of its window and the end that both see agrees.
The better score decides. Only a boundary that its window cut off is taken from the other: the start from A, or
the end from B, of the best twin that goes on there.
"""

from dataclasses import dataclass

import numpy as np

from model.nms import overlaps, tious
from model.segments import Booleans, Floats, Proposals

SAME_TIOU = 0.5
# A boundary this near to the edge of a window, as a part of the seam's length, may be the edge's and not the action's.
EDGE = 0.1
EDGE_MOST_S = 0.5


@dataclass(frozen=True)
class Seam:
    """The stretch both windows saw, in seconds."""

    start_s: float
    end_s: float

    @property
    def span(self) -> Floats:
        """Start and end: (2,)."""
        return np.array([self.start_s, self.end_s], np.float32)

    @property
    def edge_s(self) -> float:
        """How near to the edge of a window a boundary counts as cut."""
        return min(EDGE * (self.end_s - self.start_s), EDGE_MOST_S)


def join_at_seam(earlier: Proposals, later: Proposals, seam: Seam) -> Proposals:
    """The proposals of both windows, each action once.

    Args:
        earlier: of all windows so far.
        later: of the next window.
        seam: from the start of the next window to the end of the one before.
    """
    both = Proposals.join([earlier, later])
    is_later = np.arange(len(both)) >= len(earlier)
    in_seam = np.flatnonzero(overlaps(both.segments, seam.span) > 0)
    # An earlier proposal may be cut by its window at the seam's end, a later one at the seam's start.
    near_start, near_end = seam.edge_s >= np.abs(both.segments - seam.span).T
    is_cut = np.where(is_later, near_start, near_end)
    segments, alive = both.segments.copy(), np.ones(len(both), bool)
    for best in in_seam[np.argsort(-both.scores[in_seam], kind="stable")]:
        if not alive[best]:
            continue
        rivals = in_seam[alive[in_seam] & (is_later[in_seam] != is_later[best])]
        rivals = rivals[both.labels[rivals] == both.labels[best]]
        twins = rivals[_same(both.segments[rivals], is_cut[rivals], both.segments[best], is_cut[best], seam)]
        alive[twins] = False
        if is_cut[best]:
            segments[best] = _completed(segments[best], both[twins], is_later[best], seam)
    return Proposals(segments, both.scores, both.labels)[alive]


def _same(rivals: Floats, rivals_cut: Booleans, best: Floats, best_cut: bool, seam: Seam) -> Booleans:
    """Which of (n, 2) segments of the other window describe the same action as one segment: (n,)."""
    start, end = seam.span
    agree = tious(np.clip(rivals, start, end), np.clip(best, start, end)) >= SAME_TIOU
    seen_end = (np.abs(rivals - best) <= seam.edge_s).any(axis=1)
    same: Booleans = agree | ((rivals_cut | best_cut) & seen_end)
    return same


def _completed(best: Floats, twins: Proposals, is_later: bool, seam: Seam) -> Floats:
    """A segment that its window cut, with the boundary of the best twin that goes on beyond the seam."""
    side = 0 if is_later else 1
    beyond = twins.segments[:, side] < seam.start_s if is_later else twins.segments[:, side] > seam.end_s
    donors = twins[beyond]
    if len(donors):
        best = best.copy()
        best[side] = donors.segments[np.argmax(donors.scores), side]
    return best
