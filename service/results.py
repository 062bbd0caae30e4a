"""Turns a job's stored proposals into results; any number of views can be made from the same proposals."""

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import Problem
from service.merging import Doubles, merge_proposals
from service.schemas import (
    BodySegment,
    Context,
    Detection,
    Hidden,
    HiddenDetection,
    Label,
    Labels,
    Result,
    ResultView,
    Shown,
    TimedView,
    View,
)
from service.summary import Interval, summarize

# Detections below this score are almost always wrong: they are not counted as hidden.
MIN_HIDDEN_SCORE = 0.02
_MAX_BEST_HIDDEN = 3
# A proposal shorter than this fraction of a window is not part of an action that spans several windows.
_MIN_PART_WINDOW_FRACTION = 0.25


@dataclass(frozen=True)
class StoredProposals:
    """All proposals of the detector, best first: segments (n, 2) in seconds, scores (n,), labels (n,) as action ids."""

    segments: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    context: Context

    def to_bytes(self) -> bytes:
        """Serialize to a compressed .npz, with the context as JSON."""
        buffer = io.BytesIO()
        context = np.frombuffer(self.context.model_dump_json().encode(), np.uint8)
        np.savez_compressed(buffer, segments=self.segments, scores=self.scores, labels=self.labels, context=context)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "StoredProposals":
        """The inverse of to_bytes."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            context = Context.model_validate_json(arrays["context"].tobytes())
            return cls(arrays["segments"], arrays["scores"], arrays["labels"], context)

    def round_times(self) -> Doubles:
        """Return starts and ends, (n, 2) in seconds, rounded to milliseconds and at least 1 ms long."""
        times = np.round(self.segments.astype(float), 3)
        # Rounded again, because 5.057 + 0.001 is not exactly 5.058.
        times[:, 1] = np.round(np.maximum(times[:, 1], times[:, 0] + 0.001), 3)
        return times


@dataclass(frozen=True)
class _DetectionArrays:
    """Detections, best first; `index` is each one's best proposal, `thresholds` the score from which it is shown."""

    index: NDArray[np.int64]
    times: Doubles  # (n, 2) start and end in seconds
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]  # action ids
    thresholds: NDArray[np.float32]

    def __getitem__(self, chosen: Any) -> "_DetectionArrays":
        return _DetectionArrays(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.index)


def make_result(stored: StoredProposals, view: View) -> Result:
    """Make the result for a view; raises Problem invalid_parameter for an unknown label."""
    context = stored.context
    result_view = ResultView.model_validate(view.model_dump(include=set(ResultView.model_fields)))
    candidates = _filter(_merge(stored, result_view.min_score), context.labels, result_view)
    above = candidates[candidates.scores >= candidates.thresholds]
    detections = _make_detections(above[: result_view.top_k], context.labels)
    segments = _make_body_segments(detections)
    shown = compute_shown_interval(result_view, context.media.duration_s)
    return Result(
        job_id=context.job_id,
        media=context.media,
        model=context.model,
        settings=Shown.model_validate(result_view.model_dump() | {"region": context.settings.region}),
        coverage=context.coverage,
        partial=context.partial,
        detections=[] if result_view.level == "body" else detections,
        body_segments=[] if result_view.level == "action" else segments,
        summary=summarize(detections, segments, context.labels, shown),
        hidden=_make_hidden(candidates, len(above) - len(detections), context.labels),
        warnings=context.warnings,
        reproduction=context.reproduction,
    )


def with_defaults(stored: StoredProposals, view: TimedView) -> ResultView:
    """Return the view with its unset fields taken from the job's options."""
    options = stored.context.settings.model_dump(include=set(View.model_fields))
    given = view.model_dump(include=set(ResultView.model_fields), exclude_unset=True)
    return ResultView.model_validate(options | given)


def find_action_ids(labels: Labels, selection: Sequence[str]) -> set[int]:
    """Return the action ids for codes or names of actions or body parts; raises Problem for an unknown one.

    `selection` was split at commas: adjacent items are joined if they make a name with commas. Case is ignored.
    """
    ids_by_text: dict[str, set[int]] = {}
    for action in labels.actions:
        for text in (action.code, action.name, action.body.code, action.body.name):
            ids_by_text.setdefault(_normalize(text), set()).add(action.id)
    chosen: set[int] = set()
    longest = 1 + max(text.count(",") for text in ids_by_text)
    position = 0
    while position < len(selection):
        for end in range(min(position + longest, len(selection)), position, -1):
            if (text := _normalize(",".join(selection[position:end]))) in ids_by_text:
                chosen |= ids_by_text[text]
                position = end
                break
        else:
            raise _make_unknown_label_problem(selection[position], labels)
    return chosen


def _normalize(text: str) -> str:
    """Normalize a code or a name for comparison: NFC, case-folded, with single spaces."""
    plain = unicodedata.normalize("NFC", text).casefold()
    return ",".join(" ".join(part.split()) for part in plain.split(","))


def _make_unknown_label_problem(text: str, labels: Labels) -> Problem:
    all_labels = [*labels.bodies, *labels.actions]
    spelled = {_normalize(name): name for label in all_labels for name in (label.name, label.code)}
    near = get_close_matches(_normalize(text), spelled, n=3, cutoff=0.5)
    hint = f"; near it are {', '.join(repr(spelled[key]) for key in near)}" if near else ""
    return Problem(
        "invalid_parameter",
        f"labels: {text[:64]!r} is neither an action nor a body part{hint}; GET /labels, or mmad labels, lists all",
    )


def compute_shown_interval(view: TimedView, duration_s: float) -> Interval:
    """Return start and end in seconds of the part of the video that is shown."""
    start_s = min(view.from_s or 0.0, duration_s)
    end_s = duration_s if view.to_s is None else min(view.to_s, duration_s)
    return start_s, end_s


def _merge(stored: StoredProposals, min_score: float | None) -> _DetectionArrays:
    """Merge the proposals into detections, regardless of their scores."""
    context = stored.context
    window_s = context.reproduction.window_frames / context.reproduction.decode_fps
    by_action = np.array(context.thresholds, np.float32)
    part_s = _MIN_PART_WINDOW_FRACTION * window_s
    index, times = merge_proposals(stored.round_times(), stored.scores, stored.labels, by_action, part_s)
    labels = stored.labels[index]
    thresholds = by_action[labels] if min_score is None else np.full(len(index), min_score, np.float32)
    return _DetectionArrays(index, times, stored.scores[index], labels, thresholds)


def _filter(detections: _DetectionArrays, labels: Labels, view: TimedView) -> _DetectionArrays:
    selected = np.ones(len(detections), np.bool_)
    if view.labels is not None:
        selected &= np.isin(detections.labels, list(find_action_ids(labels, view.labels)))
    if view.from_s is not None:
        selected &= detections.times[:, 1] > view.from_s
    if view.to_s is not None:
        selected &= detections.times[:, 0] < view.to_s
    return detections[selected]


def _make_hidden(candidates: _DetectionArrays, cut_by_top_k: int, labels: Labels) -> Hidden:
    """Count and list the best detections with scores from MIN_HIDDEN_SCORE up to the view's threshold."""
    scores = candidates.scores
    below = candidates[(scores < candidates.thresholds) & (scores >= np.float32(MIN_HIDDEN_SCORE))]
    best = below[:_MAX_BEST_HIDDEN]
    rows = zip(_make_documents(best, labels), best.thresholds.tolist(), strict=True)
    return Hidden(
        count=len(below),
        from_score=MIN_HIDDEN_SCORE,
        best=[HiddenDetection(**values, threshold=round(threshold, 4)) for values, threshold in rows],
        cut_by_top_k=cut_by_top_k,
    )


def _make_documents(detections: _DetectionArrays, labels: Labels) -> list[dict[str, Any]]:
    """Return the fields of each detection except `overlaps`."""
    bodies = [action.body for action in labels.actions]
    names = [Label(id=action.id, code=action.code, name=action.name) for action in labels.actions]
    scores = np.round(detections.scores.astype(float), 4)
    columns = (detections.index, detections.times, scores, detections.labels)
    return [
        {
            "id": f"p{index}", "start_s": start_s, "end_s": end_s, "score": score,
            "action": names[label], "body": bodies[label],
        }
        for index, (start_s, end_s), score, label in zip(*(column.tolist() for column in columns), strict=True)
    ]  # fmt: skip


def _make_detections(detections: _DetectionArrays, labels: Labels) -> list[Detection]:
    ordered = detections[np.lexsort((detections.index, detections.times[:, 0]))]
    documents = _make_documents(ordered, labels)
    return [
        Detection(**values, overlaps=[documents[other]["id"] for other in others])
        for values, others in zip(documents, _find_overlaps(ordered.times), strict=True)
    ]


def _find_overlaps(times: Doubles) -> list[list[int]]:
    """Return for each interval (start, end), ordered by start, which ones overlap it; touching is not overlapping."""
    starts, ends = times[:, 0], times[:, 1]
    # Candidates begin at the first interval whose running maximum of ends exceeds this start, and end where starts
    # reach this end.
    until = np.searchsorted(starts, ends)
    since = np.searchsorted(np.maximum.accumulate(ends), starts, side="right")
    overlaps = []
    for position in range(len(times)):
        near = np.arange(since[position], until[position])
        overlaps.append(near[(ends[near] > starts[position]) & (near != position)].tolist())
    return overlaps


def _make_body_segments(detections: Sequence[Detection]) -> list[BodySegment]:
    """Merge detections of one body part that touch or overlap; both ordered by start."""
    groups: list[list[Detection]] = []
    current: dict[int, tuple[list[Detection], float]] = {}  # by body part: the last group and its end
    for detection in detections:
        group, end_s = current.get(detection.body.id, ([], 0.0))
        if not group or detection.start_s > end_s:
            group = []
            groups.append(group)
        group.append(detection)
        current[detection.body.id] = (group, max(end_s, detection.end_s))
    segments = [
        BodySegment(
            start_s=group[0].start_s,
            end_s=max(detection.end_s for detection in group),
            score=max(detection.score for detection in group),
            body=group[0].body,
            actions=[detection.id for detection in group],
        )
        for group in groups
    ]
    return sorted(segments, key=lambda segment: (segment.start_s, segment.body.id))
