"""From a job's stored proposals to its result, as often and with as many thresholds as a caller likes."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import Problem
from service.schemas import (
    BodySegment,
    Concurrency,
    Detection,
    Document,
    Label,
    Labels,
    Media,
    ModelUsed,
    Notice,
    Options,
    Result,
    Simultaneous,
    Stretch,
    Summary,
    Tally,
    View,
)

Interval = tuple[float, float]


class Context(Document):
    """All of a result but the detections: stored with the proposals, so that a view needs nothing else."""

    job_id: str | None
    media: Media
    model: ModelUsed
    settings: Options
    coverage: list[Stretch]
    partial: bool
    warnings: list[Notice]
    labels: Labels
    thresholds: list[float]


@dataclass(frozen=True)
class StoredProposals:
    """Everything the detector proposed, best first: segments (n, 2) in seconds, scores (n,), action ids (n,)."""

    segments: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    context: Context

    def to_bytes(self) -> bytes:
        """As a compressed .npz; the context is JSON within."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            segments=self.segments,
            scores=self.scores,
            labels=self.labels,
            context=np.frombuffer(self.context.model_dump_json().encode(), np.uint8),
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "StoredProposals":
        """The inverse of to_bytes."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            context = Context.model_validate_json(arrays["context"].tobytes())
            return cls(arrays["segments"], arrays["scores"], arrays["labels"], context)


def make_result(stored: StoredProposals, view: View) -> Result:
    """The result document for what a caller wants to see; raises Problem for a label that is not known."""
    context = stored.context
    detections = _detections(stored, _chosen(stored, view))
    segments = _body_segments(detections)
    settings = context.settings.model_copy(update={name: getattr(view, name) for name in View.model_fields})
    return Result(
        job_id=context.job_id,
        media=context.media,
        model=context.model,
        settings=settings,
        coverage=context.coverage,
        partial=context.partial,
        detections=detections,
        body_segments=segments,
        summary=_summary(detections, segments, context.labels, context.media.duration_s),
        warnings=context.warnings,
    )


def chosen_actions(labels: Labels, codes: Iterable[str]) -> set[int]:
    """Action ids for codes of actions or body parts; raises Problem naming the code that is neither."""
    chosen: set[int] = set()
    for code in codes:
        found = {action.id for action in labels.actions if code in (action.code, action.body.code)}
        if not found:
            raise Problem(
                "invalid_parameter", f"labels: {code!r} is neither an action nor a body part; see GET /labels"
            )
        chosen |= found
    return chosen


def _chosen(stored: StoredProposals, view: View) -> NDArray[np.int64]:
    """Indices of the proposals to show, best first."""
    if view.min_score is None:
        shown = stored.scores >= np.array(stored.context.thresholds, np.float32)[stored.labels]
    else:
        shown = stored.scores >= np.float32(view.min_score)
    if view.labels is not None:
        shown &= np.isin(stored.labels, list(chosen_actions(stored.context.labels, view.labels)))
    return np.flatnonzero(shown)[: view.top_k]


def _detections(stored: StoredProposals, chosen: NDArray[np.int64]) -> list[Detection]:
    """In order of time."""
    times = np.round(stored.segments.astype(float), 3)
    # An action shorter than the rounding keeps a length.
    times[:, 1] = np.maximum(times[:, 1], times[:, 0] + 0.001)
    order = chosen[np.lexsort((chosen, times[chosen, 0]))]
    ids = np.array([f"p{index}" for index in order])
    starts, ends = times[order, 0], times[order, 1]
    detections = []
    for place, index in enumerate(order):
        # In order of start: what starts at or after my end cannot overlap me.
        until = np.searchsorted(starts, ends[place])
        overlapping = ends[:until] > starts[place]
        if place < until:
            overlapping[place] = False
        action = stored.context.labels.actions[stored.labels[index]]
        detections.append(
            Detection(
                id=str(ids[place]),
                start_s=starts[place],
                end_s=ends[place],
                score=round(float(stored.scores[index]), 4),
                action=Label(id=action.id, code=action.code, name=action.name),
                body=action.body,
                overlaps=[str(other) for other in ids[:until][overlapping]],
            )
        )
    return detections


def _body_segments(detections: Sequence[Detection]) -> list[BodySegment]:
    """Detections of one body part merged where they touch or overlap, in order of time."""
    merged: list[BodySegment] = []
    for body in sorted({detection.body.id for detection in detections}):
        group: list[Detection] = []
        for detection in (one for one in detections if one.body.id == body):
            if group and detection.start_s > max(one.end_s for one in group):
                merged.append(_merge(group))
                group = []
            group.append(detection)
        merged.append(_merge(group))
    return sorted(merged, key=lambda segment: (segment.start_s, segment.body.id))


def _merge(group: Sequence[Detection]) -> BodySegment:
    return BodySegment(
        start_s=group[0].start_s,
        end_s=max(one.end_s for one in group),
        score=max(one.score for one in group),
        body=group[0].body,
        actions=[one.id for one in group],
    )


def _summary(
    detections: Sequence[Detection], segments: Sequence[BodySegment], labels: Labels, duration_s: float
) -> Summary:
    by_action = [
        _tally(
            action, [(one.start_s, one.end_s) for one in detections if one.action.id == action.id], duration_s
        )
        for action in labels.actions
    ]
    by_body = [
        _tally(body, [(one.start_s, one.end_s) for one in segments if one.body.id == body.id], duration_s)
        for body in labels.bodies
    ]
    intervals = [(one.start_s, one.end_s) for one in detections]
    return Summary(
        by_action=[tally for tally in by_action if tally.count],
        by_body=[tally for tally in by_body if tally.count],
        concurrency=_concurrency(intervals, duration_s),
    )


def _tally(label: Label, intervals: list[Interval], duration_s: float) -> Tally:
    busy = sum(seconds for count, seconds in _seconds_by_count(intervals, duration_s).items() if count)
    rate = 60 * len(intervals) / duration_s if duration_s else 0.0
    return Tally(
        id=label.id,
        code=label.code,
        name=label.name,
        count=len(intervals),
        total_s=round(busy, 3),
        rate_per_min=round(rate, 3),
    )


def _concurrency(intervals: list[Interval], duration_s: float) -> Concurrency:
    seconds = _seconds_by_count(intervals, duration_s)
    weighted = sum(count * length for count, length in seconds.items())
    return Concurrency(
        max=max(seconds, default=0),
        mean=round(weighted / duration_s, 3) if duration_s else 0.0,
        seconds=[Simultaneous(count=count, total_s=round(seconds[count], 3)) for count in sorted(seconds)],
    )


def _seconds_by_count(intervals: list[Interval], duration_s: float) -> dict[int, float]:
    """For how many seconds exactly n intervals were going on, for each n that occurs."""
    steps = sorted([(start, 1) for start, _ in intervals] + [(end, -1) for _, end in intervals])
    seconds: dict[int, float] = {}
    count, since = 0, 0.0
    for time, step in [*steps, (duration_s, 0)]:
        if time > since:
            seconds[count] = seconds.get(count, 0.0) + time - since
            since = time
        count += step
    return seconds
