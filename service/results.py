"""From a job's stored proposals to its result, as often and with as many thresholds as a caller likes."""

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import Problem
from service.merging import merge_proposals
from service.schemas import (
    BodySegment,
    Detection,
    Document,
    Hidden,
    HiddenDetection,
    Label,
    Labels,
    Media,
    ModelUsed,
    Notice,
    Options,
    Reproduction,
    Result,
    ResultView,
    Shown,
    Stretch,
    TimedView,
    View,
)
from service.summary import Interval, summarize

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# Detections below this score are almost always wrong: they are not counted as hidden.
HIDDEN_FROM = 0.02
_BEST_HIDDEN = 3
# A proposal shorter than this share of a window is not part of an action that spans several windows.
_PART_OF_WINDOW = 0.25


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
    reproduction: Reproduction


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

    def shown_times(self) -> Floats:
        """Starts and ends as results tell them, (n, 2) in seconds, to the millisecond and never of no length."""
        times = np.round(self.segments.astype(float), 3)
        # An action shorter than the rounding keeps a length. Rounded again: 5.057 + 0.001 is no 5.058.
        times[:, 1] = np.round(np.maximum(times[:, 1], times[:, 0] + 0.001), 3)
        return times


@dataclass(frozen=True)
class _Found:
    """Detections, best first: index (n,) of the best proposal, times (n, 2), scores (n,), labels (n,), least (n,).

    `least` is the score from which each is shown.
    """

    index: Indices
    times: Floats
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    least: NDArray[np.float32]

    def __getitem__(self, chosen: Any) -> "_Found":
        return _Found(
            self.index[chosen],
            self.times[chosen],
            self.scores[chosen],
            self.labels[chosen],
            self.least[chosen],
        )

    def __len__(self) -> int:
        return len(self.index)


def make_result(stored: StoredProposals, view: View) -> Result:
    """The result document for what a caller wants to see; raises Problem for a label that is not known."""
    context, wanted = stored.context, _complete(view)
    found = _wanted(_find(stored, wanted.min_score), context.labels, wanted)
    reaching = found[found.scores >= found.least]
    detections = _detections(reaching[: wanted.top_k], context.labels)
    segments = _body_segments(detections)
    return Result(
        job_id=context.job_id,
        media=context.media,
        model=context.model,
        settings=Shown.model_validate(wanted.model_dump() | {"region": context.settings.region}),
        coverage=context.coverage,
        partial=context.partial,
        detections=[] if wanted.level == "body" else detections,
        body_segments=[] if wanted.level == "action" else segments,
        summary=summarize(detections, segments, context.labels, _stretch(wanted, context.media.duration_s)),
        hidden=_hidden(found, len(reaching) - len(detections), context.labels),
        warnings=context.warnings,
        reproduction=context.reproduction,
    )


def with_defaults(stored: StoredProposals, view: TimedView) -> ResultView:
    """A view in which what the caller left open is as the job was asked for."""
    asked = stored.context.settings.model_dump(include=set(View.model_fields))
    given = view.model_dump(include=set(ResultView.model_fields), exclude_unset=True)
    return ResultView.model_validate(asked | given)


def chosen_actions(labels: Labels, wanted: Sequence[str]) -> set[int]:
    """Action ids for codes or names of actions or body parts, in upper or lower case.

    Args:
        labels: of the bundle.
        wanted: what was given between commas; neighbours that are one name with commas in it are taken as that.

    Raises:
        Problem: invalid_parameter, for what is none of them; the detail names what is most like it.
    """
    known: dict[str, set[int]] = {}
    for action in labels.actions:
        for text in (action.code, action.name, action.body.code, action.body.name):
            known.setdefault(_comparable(text), set()).add(action.id)
    chosen: set[int] = set()
    longest = 1 + max(text.count(",") for text in known)
    place = 0
    while place < len(wanted):
        for end in range(min(place + longest, len(wanted)), place, -1):
            if (text := _comparable(",".join(wanted[place:end]))) in known:
                chosen |= known[text]
                place = end
                break
        else:
            raise _unknown_label(wanted[place], labels)
    return chosen


def _comparable(text: str) -> str:
    """A code or a name for comparison: NFC, case-folded, with single spaces."""
    plain = unicodedata.normalize("NFC", text).casefold()
    return ",".join(" ".join(part.split()) for part in plain.split(","))


def _unknown_label(text: str, labels: Labels) -> Problem:
    every = [*labels.bodies, *labels.actions]
    spelled = {_comparable(word): word for one in every for word in (one.name, one.code)}
    near = get_close_matches(_comparable(text), spelled, n=3, cutoff=0.5)
    hint = f"; near it are {', '.join(repr(spelled[word]) for word in near)}" if near else ""
    return Problem(
        "invalid_parameter",
        f"labels: {text[:64]!r} is neither an action nor a body part{hint}; GET /labels, or mmad labels, lists all",
    )


def _complete(view: View) -> ResultView:
    """Any view as the fullest kind of it."""
    return ResultView.model_validate(view.model_dump(include=set(ResultView.model_fields)))


def _stretch(view: TimedView, duration_s: float) -> Interval:
    """The part of the video that is shown."""
    start_s = min(view.from_s or 0.0, duration_s)
    end_s = duration_s if view.to_s is None else min(view.to_s, duration_s)
    return start_s, end_s


def _find(stored: StoredProposals, min_score: float | None) -> _Found:
    """All detections, whatever they score."""
    context = stored.context
    window_s = context.reproduction.window_frames / context.reproduction.decode_fps
    thresholds = np.array(context.thresholds, np.float32)
    index, times = merge_proposals(
        stored.shown_times(), stored.scores, stored.labels, thresholds, _PART_OF_WINDOW * window_s
    )
    labels = stored.labels[index]
    least = thresholds[labels] if min_score is None else np.full(len(index), min_score, np.float32)
    return _Found(index, times, stored.scores[index], labels, least)


def _wanted(found: _Found, labels: Labels, view: TimedView) -> _Found:
    """Those with the view's labels, in its part of the video."""
    kept = np.ones(len(found), np.bool_)
    if view.labels is not None:
        kept &= np.isin(found.labels, list(chosen_actions(labels, view.labels)))
    if view.from_s is not None:
        kept &= found.times[:, 1] > view.from_s
    if view.to_s is not None:
        kept &= found.times[:, 0] < view.to_s
    return found[kept]


def _hidden(found: _Found, cut_by_top_k: int, labels: Labels) -> Hidden:
    """Number and best of the detections that score at least HIDDEN_FROM and less than the view shows."""
    below = found[(found.scores < found.least) & (found.scores >= np.float32(HIDDEN_FROM))]
    best = below[:_BEST_HIDDEN]
    rows = zip(_documents(best, labels), best.least.tolist(), strict=True)
    return Hidden(
        count=len(below),
        from_score=HIDDEN_FROM,
        best=[HiddenDetection(**values, threshold=round(least, 4)) for values, least in rows],
        cut_by_top_k=cut_by_top_k,
    )


def _documents(found: _Found, labels: Labels) -> list[dict[str, Any]]:
    """The fields of a detection, but for what it overlaps."""
    bodies = [action.body for action in labels.actions]
    names = [Label(id=action.id, code=action.code, name=action.name) for action in labels.actions]
    columns = (found.index, found.times, np.round(found.scores.astype(float), 4), found.labels)
    return [
        {
            "id": f"p{index}", "start_s": start_s, "end_s": end_s, "score": score,
            "action": names[label], "body": bodies[label],
        }
        for index, (start_s, end_s), score, label in zip(*(column.tolist() for column in columns), strict=True)
    ]  # fmt: skip


def _detections(found: _Found, labels: Labels) -> list[Detection]:
    """In order of time."""
    ordered = found[np.lexsort((found.index, found.times[:, 0]))]
    documents = _documents(ordered, labels)
    return [
        Detection(**values, overlaps=[documents[other]["id"] for other in others])
        for values, others in zip(documents, _overlaps(ordered.times), strict=True)
    ]


def _overlaps(times: Floats) -> list[list[int]]:
    """For each interval (n, 2), in order of start, the places of those that overlap it; touching is no overlap."""
    starts, ends = times[:, 0], times[:, 1]
    # What starts at or after my end cannot overlap me, nor what comes before the first that reaches beyond my start.
    until = np.searchsorted(starts, ends)
    since = np.searchsorted(np.maximum.accumulate(ends), starts, side="right")
    found = []
    for place in range(len(times)):
        near = np.arange(since[place], until[place])
        found.append(near[(ends[near] > starts[place]) & (near != place)].tolist())
    return found


def _body_segments(detections: Sequence[Detection]) -> list[BodySegment]:
    """Detections of one body part merged where they touch or overlap, in order of time."""
    segments: list[BodySegment] = []
    for body in sorted({detection.body.id for detection in detections}):
        group: list[Detection] = []
        reached_s = 0.0
        for detection in (one for one in detections if one.body.id == body):
            if group and detection.start_s > reached_s:
                segments.append(_segment(group, reached_s))
                group = []
            group.append(detection)
            reached_s = max(reached_s, detection.end_s)
        segments.append(_segment(group, reached_s))
    return sorted(segments, key=lambda segment: (segment.start_s, segment.body.id))


def _segment(group: Sequence[Detection], end_s: float) -> BodySegment:
    return BodySegment(
        start_s=group[0].start_s,
        end_s=end_s,
        score=max(one.score for one in group),
        body=group[0].body,
        actions=[one.id for one in group],
    )
