"""Proposals of overlapping windows made one: what two windows both saw is found once.

      window A  |-----------------------|
      window B                  |-----------------------|
      the seam                  |-------|

Both windows describe the seam. Two proposals of one action whose parts inside the seam agree (tIoU of at
least 0.5) are the same action. It takes its start from A where it began before B's view, and its end from B
where it goes on beyond A's; inside the seam the better score decides.
"""

from dataclasses import dataclass

import numpy as np

from model.nms import overlaps, tious
from model.segments import Proposals

SAME_TIOU = 0.5


@dataclass(frozen=True)
class Seam:
    """The stretch both windows saw, in seconds."""

    start_s: float
    end_s: float


def join_at_seam(earlier: Proposals, later: Proposals, seam: Seam) -> Proposals:
    """The proposals of both windows, each action once.

    Args:
        earlier: of all windows so far.
        later: of the next window.
        seam: from the start of the next window to the end of the one before.
    """
    both = Proposals.join([earlier, later])
    is_later = np.arange(len(both)) >= len(earlier)
    span = np.array([seam.start_s, seam.end_s], np.float32)
    in_seam = np.flatnonzero(overlaps(both.segments, span) > 0)
    visible = np.clip(both.segments, span[0], span[1])
    segments, alive = both.segments.copy(), np.ones(len(both), bool)
    for best in in_seam[np.argsort(-both.scores[in_seam], kind="stable")]:
        if not alive[best]:
            continue
        rivals = in_seam[alive[in_seam] & (is_later[in_seam] != is_later[best])]
        rivals = rivals[both.labels[rivals] == both.labels[best]]
        same = rivals[tious(visible[rivals], visible[best]) >= SAME_TIOU]
        if len(same):
            twin = same[np.argmax(both.scores[same])]
            before, after = (twin, best) if is_later[best] else (best, twin)
            if both.segments[before, 0] < span[0]:
                segments[best, 0] = both.segments[before, 0]
            if both.segments[after, 1] > span[1]:
                segments[best, 1] = both.segments[after, 1]
            alive[same] = False
    return Proposals(segments, both.scores, both.labels)[alive]
