"""Merges proposals into detections; detections of one action do not overlap."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass
class _ActionTimeline:
    """The detections of one action, ordered by time and not overlapping."""

    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    best: list[int] = field(default_factory=list)
    """Index of the best proposal of each: the lowest, as proposals are ordered best first."""

    def find_overlapping(self, start_s: float, end_s: float) -> slice:
        """Return the detections that overlap an interval; touching is not overlapping."""
        return slice(bisect_right(self.ends, start_s), bisect_left(self.starts, end_s))

    def is_continued(self, overlap: slice, start_s: float, end_s: float, part_s: float) -> bool:
        """Whether an interval extends one of these detections on exactly one side; both must last at least `part_s`."""
        return end_s - start_s >= part_s and any(
            until_s - since_s >= part_s and (start_s < since_s) != (end_s > until_s)
            for since_s, until_s in zip(self.starts[overlap], self.ends[overlap], strict=True)
        )

    def replace(self, overlap: slice, start_s: float, end_s: float, best: int) -> None:
        """Replace the detections of a slice by one."""
        self.starts[overlap], self.ends[overlap], self.best[overlap] = [start_s], [end_s], [best]


def merge_proposals(
    times: Doubles, scores: Floats, labels: Integers, thresholds: Floats, part_s: float
) -> tuple[Integers, Doubles]:
    """Merge the proposals of one video into detections: each one's best proposal (n,) and times (n, 2), best first.

    `times` are (n, 2) starts and ends in seconds, `labels` (n,) action ids, `scores` (n,), the best first; `thresholds`
    are the display thresholds of all actions. A part of an action lasts at least `part_s`.

    Proposals are taken best first. One that overlaps no detection of its action becomes a new detection. Any other is
    a duplicate and is dropped, unless it continues a detection: a window covers only a part of a longer action, so
    proposals of adjacent windows form a chain. A proposal is merged with all detections it overlaps if

    - it continues one of them: both last at least `part_s`, and the proposal extends beyond it on exactly one side;
    - its score is at least half of the weakest of them; if it overlaps only one, the action's threshold suffices.
    """
    timelines: dict[int, _ActionTimeline] = {}
    score_list: list[float] = scores.tolist()
    threshold_list: list[float] = thresholds[labels].tolist()
    rows = zip(times.tolist(), score_list, labels.tolist(), threshold_list, strict=True)
    for index, ((start_s, end_s), score, label, threshold) in enumerate(rows):
        timeline = timelines.setdefault(label, _ActionTimeline())
        overlap = timeline.find_overlapping(start_s, end_s)
        best = index
        if overlap.start < overlap.stop:
            best, weakest = min(timeline.best[overlap]), max(timeline.best[overlap])
            least_score = score_list[weakest] / 2
            if overlap.stop - overlap.start == 1:
                least_score = min(threshold, least_score)
            if not (score >= least_score and timeline.is_continued(overlap, start_s, end_s, part_s)):
                continue
            start_s = min(start_s, timeline.starts[overlap.start])
            end_s = max(end_s, timeline.ends[overlap.stop - 1])
        timeline.replace(overlap, start_s, end_s, best)
    rows_by_best = sorted(
        row
        for timeline in timelines.values()
        for row in zip(timeline.best, timeline.starts, timeline.ends, strict=True)
    )
    table = np.array(rows_by_best, float).reshape(-1, 3)
    return table[:, 0].astype(np.int64), table[:, 1:]
