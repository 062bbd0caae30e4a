"""Merges proposals into detections: no two of one action overlap."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Scores = NDArray[np.float32]


class Distinct(NamedTuple):
    """Detections, best first.

    Attributes:
        best: (n,) the index of the best proposal of each.
        times: (n, 2) start and end in seconds.
    """

    best: Integers
    times: Floats


@dataclass
class _Line:
    """The detections of one action in order of time; no two overlap."""

    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    best: list[int] = field(default_factory=list)
    """The best proposal of each: proposals come best first, so the lowest index."""

    def overlapping(self, start_s: float, end_s: float) -> slice:
        """Those that share time with an interval; touching is no overlap."""
        return slice(bisect_right(self.ends, start_s), bisect_left(self.starts, end_s))

    def is_continued(self, place: slice, start_s: float, end_s: float, part_s: float) -> bool:
        """Whether an interval extends one of these detections on exactly one side; both must last at least `part_s`."""
        return end_s - start_s >= part_s and any(
            until_s - since_s >= part_s and (start_s < since_s) != (end_s > until_s)
            for since_s, until_s in zip(self.starts[place], self.ends[place], strict=True)
        )

    def put(self, place: slice, start_s: float, end_s: float, best: int) -> None:
        """One detection where those of a slice were."""
        self.starts[place], self.ends[place], self.best[place] = [start_s], [end_s], [best]


def merge_proposals(
    times: Floats, scores: Scores, labels: Integers, thresholds: Scores, part_s: float
) -> Distinct:
    """Detections from the proposals of one video, the same for every view of them.

    Best first, a proposal that overlaps no detection of its action is a new one. Others are the same action found
    again and are left out, unless they continue it: a window sees a part of what is longer, so proposals of
    neighbouring windows form a chain. A proposal joins all detections it overlaps if it continues one of them (both
    last `part_s` or more, and the proposal reaches beyond it on one side only) and its score is comparable: half of the
    weakest of them; the action's threshold will do where it overlaps only one.

    Args:
        times: (n, 2) start and end in seconds, best proposal first.
        scores: (n,), descending.
        labels: (n,) action ids.
        thresholds: (actions,) scores from which a proposal is shown.
        part_s: how long a part of an action is at least: a quarter of a window.
    """
    lines: dict[int, _Line] = {}
    known: list[float] = scores.tolist()
    least: list[float] = thresholds[labels].tolist()
    rows = zip(times.tolist(), known, labels.tolist(), least, strict=True)
    for index, ((start_s, end_s), score, label, threshold) in enumerate(rows):
        line = lines.setdefault(label, _Line())
        place = line.overlapping(start_s, end_s)
        best = index
        if place.start < place.stop:
            best, weakest = min(line.best[place]), max(line.best[place])
            least_score = known[weakest] / 2
            if place.stop - place.start == 1:
                least_score = min(threshold, least_score)
            if not (score >= least_score and line.is_continued(place, start_s, end_s, part_s)):
                continue
            start_s = min(start_s, line.starts[place.start])
            end_s = max(end_s, line.ends[place.stop - 1])
        line.put(place, start_s, end_s, best)
    found = sorted(
        row for line in lines.values() for row in zip(line.best, line.starts, line.ends, strict=True)
    )
    table = np.array(found, float).reshape(-1, 3)
    return Distinct(table[:, 0].astype(np.int64), table[:, 1:])
