"""Statistics of detections: counts, durations, concurrency and co-occurrence."""

from collections import Counter
from collections.abc import Iterable, Sequence

from service.schemas import BodySegment, Concurrency, Detection, Label, Labels, Pair, Simultaneous, Summary, Tally

Interval = tuple[float, float]


def summarize(
    detections: Sequence[Detection], segments: Sequence[BodySegment], labels: Labels, part: Interval
) -> Summary:
    """Compute the summary of the classes with detections in a part of the video, to which durations are clipped."""
    by_action = _group_by_label((detection.action.id, (detection.start_s, detection.end_s)) for detection in detections)
    by_body = _group_by_label((segment.body.id, (segment.start_s, segment.end_s)) for segment in segments)
    everything = [interval for group in by_action.values() for interval in group]
    return Summary(
        by_action=[_make_tally(label, by_action[label.id], part) for label in labels.actions if label.id in by_action],
        by_body=[_make_tally(label, by_body[label.id], part) for label in labels.bodies if label.id in by_body],
        concurrency=_compute_concurrency(everything, part),
        pairs=_make_pairs(detections, by_action, part),
    )


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the union of intervals: ordered by time, neither overlapping nor touching."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _group_by_label(rows: Iterable[tuple[int, Interval]]) -> dict[int, list[Interval]]:
    groups: dict[int, list[Interval]] = {}
    for label, interval in rows:
        groups.setdefault(label, []).append(interval)
    return groups


def clip(intervals: Iterable[Interval], part: Interval) -> list[Interval]:
    """Return the intervals' parts within `part`; empty ones are left out."""
    inside = ((max(start, part[0]), min(end, part[1])) for start, end in intervals)
    return [(start, end) for start, end in inside if end > start]


def _make_tally(label: Label, intervals: list[Interval], part: Interval) -> Tally:
    length = part[1] - part[0]
    return Tally(
        **label.model_dump(include=set(Label.model_fields)),
        count=len(intervals),
        total_s=round(_sum_lengths(clip(merge(intervals), part)), 3),
        rate_per_min=round(60 * len(intervals) / length, 3) if length > 0 else 0.0,
    )


def _compute_concurrency(intervals: list[Interval], part: Interval) -> Concurrency:
    inside = clip(intervals, part)
    seconds = _compute_seconds_by_count(inside, part)
    length = part[1] - part[0]
    return Concurrency(
        max=max(seconds, default=0),
        mean=round(_sum_lengths(inside) / length, 3) if length > 0 else 0.0,
        seconds=[Simultaneous(count=count, total_s=round(seconds[count], 3)) for count in sorted(seconds)],
    )


def _compute_seconds_by_count(intervals: list[Interval], part: Interval) -> dict[int, float]:
    """Return for each n that occurs how many seconds exactly n intervals overlap (sweep over starts and ends)."""
    steps = sorted([(start, 1) for start, _ in intervals] + [(end, -1) for _, end in intervals])
    seconds: dict[int, float] = {}
    count, since = 0, part[0]
    for time, step in [*steps, (part[1], 0)]:
        if time > since:
            seconds[count] = seconds.get(count, 0.0) + time - since
            since = time
        count += step
    return seconds


def _make_pairs(detections: Sequence[Detection], by_action: dict[int, list[Interval]], part: Interval) -> list[Pair]:
    actions = {detection.id: detection.action for detection in detections}
    labels = {action.id: action for action in actions.values()}
    # Both detections list an overlap: it is counted for the lower action id.
    counts = Counter(
        (detection.action.id, actions[other].id)
        for detection in detections
        for other in detection.overlaps
        if detection.action.id < actions[other].id
    )
    merged = {label: clip(merge(intervals), part) for label, intervals in by_action.items()}
    pairs = []
    for (first, second), count in counts.items():
        either = merge([*merged[first], *merged[second]])
        both_s = _sum_lengths(merged[first]) + _sum_lengths(merged[second]) - _sum_lengths(either)
        pairs.append(Pair(first=labels[first], second=labels[second], count=count, total_s=max(0.0, round(both_s, 3))))
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.total_s, pair.first.id, pair.second.id))


def _sum_lengths(intervals: Iterable[Interval]) -> float:
    return sum(end - start for start, end in intervals)
