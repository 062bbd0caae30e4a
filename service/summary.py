"""Detections in numbers: how often, how long, how many at once, which together. All of one stretch of the video."""

from collections.abc import Iterable, Sequence

import numpy as np

from service.schemas import (
    BodySegment,
    Concurrency,
    Detection,
    Label,
    Labels,
    Pair,
    Simultaneous,
    Summary,
    Tally,
)

Interval = tuple[float, float]


def summarize(
    detections: Sequence[Detection], segments: Sequence[BodySegment], labels: Labels, stretch: Interval
) -> Summary:
    """The summary of a stretch (start and end in seconds).

    Args:
        detections: that overlap the stretch, in order of time; what lies outside of it is counted, its time is not.
        segments: the body segments made of them.
        labels: all classes; those without any detection are left out.
        stretch: the part of the video that is shown.
    """
    by_action = _grouped((one.action.id, (one.start_s, one.end_s)) for one in detections)
    by_body = _grouped((one.body.id, (one.start_s, one.end_s)) for one in segments)
    everything = [interval for group in by_action.values() for interval in group]
    return Summary(
        by_action=[
            _tally(label, by_action[label.id], stretch) for label in labels.actions if label.id in by_action
        ],
        by_body=[_tally(label, by_body[label.id], stretch) for label in labels.bodies if label.id in by_body],
        concurrency=_concurrency(everything, stretch),
        pairs=_pairs(detections, by_action, stretch),
    )


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Their union: in order of time, and neither overlapping nor touching."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _grouped(rows: Iterable[tuple[int, Interval]]) -> dict[int, list[Interval]]:
    groups: dict[int, list[Interval]] = {}
    for label, interval in rows:
        groups.setdefault(label, []).append(interval)
    return groups


def _clipped(intervals: Iterable[Interval], stretch: Interval) -> list[Interval]:
    inside = ((max(start, stretch[0]), min(end, stretch[1])) for start, end in intervals)
    return [(start, end) for start, end in inside if end > start]


def _tally(label: Label, intervals: list[Interval], stretch: Interval) -> Tally:
    busy = sum(end - start for start, end in _clipped(merge(intervals), stretch))
    length = stretch[1] - stretch[0]
    return Tally(
        id=label.id,
        code=label.code,
        name=label.name,
        count=len(intervals),
        total_s=round(busy, 3),
        rate_per_min=round(60 * len(intervals) / length, 3) if length > 0 else 0.0,
    )


def _concurrency(intervals: list[Interval], stretch: Interval) -> Concurrency:
    seconds = _seconds_by_count(_clipped(intervals, stretch), stretch)
    weighted = sum(count * length for count, length in seconds.items())
    length = stretch[1] - stretch[0]
    return Concurrency(
        max=max(seconds, default=0),
        mean=round(weighted / length, 3) if length > 0 else 0.0,
        seconds=[Simultaneous(count=count, total_s=round(seconds[count], 3)) for count in sorted(seconds)],
    )


def _seconds_by_count(intervals: list[Interval], stretch: Interval) -> dict[int, float]:
    """For how many seconds of the stretch exactly n intervals were going on, for each n that occurs."""
    steps = sorted([(start, 1) for start, _ in intervals] + [(end, -1) for _, end in intervals])
    seconds: dict[int, float] = {}
    count, since = 0, stretch[0]
    for time, step in [*steps, (stretch[1], 0)]:
        if time > since:
            seconds[count] = seconds.get(count, 0.0) + time - since
            since = time
        count += step
    return seconds


def _pairs(
    detections: Sequence[Detection], by_action: dict[int, list[Interval]], stretch: Interval
) -> list[Pair]:
    """Actions that overlap, by how often they do."""
    labels = {one.action.id: one.action for one in detections}
    merged = {label: _clipped(merge(intervals), stretch) for label, intervals in by_action.items()}
    pairs = [
        Pair(
            first=labels[first],
            second=labels[second],
            count=count,
            total_s=round(_seconds_of_both(merged[first], merged[second]), 3),
        )
        for (first, second), count in _count_pairs(detections).items()
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.total_s, pair.first.id, pair.second.id))


def _count_pairs(detections: Sequence[Detection]) -> dict[tuple[int, int], int]:
    """How many detections of two different actions overlap; the lower id first."""
    action_of = {one.id: one.action.id for one in detections}
    counts: dict[tuple[int, int], int] = {}
    for one in detections:
        mine = one.action.id
        for name in one.overlaps:
            # Every overlap is told by both: the one with the lower id counts it.
            if mine < (other := action_of[name]):
                counts[mine, other] = counts.get((mine, other), 0) + 1
    return counts


def _seconds_of_both(first: list[Interval], second: list[Interval]) -> float:
    """Time in which an interval of each list is going on; both are in order of time, and neither overlaps itself."""
    if not first or not second:
        return 0.0
    edges = np.array(second).ravel()
    # How much of the second list lies before each of its edges.
    covered = np.concatenate(([0.0], np.cumsum(np.diff(edges) * (np.arange(len(edges) - 1) % 2 == 0))))
    starts, ends = np.array(first).T
    return float((np.interp(ends, edges, covered) - np.interp(starts, edges, covered)).sum())
