"""Temporal action detection's metrics, by OpenTAD's conventions.

Mean average precision at a tIoU: for each action the predictions of all videos, best first (equal scores in their
order), take the free ground truth of their video that they overlap most, if by the tIoU or more; the area under the
interpolated precision over recall is the action's average precision; the mean goes over actions that the ground
truth has. Ground truth of one action that agrees within a millisecond counts once. Body level maps every segment,
true or predicted, to its body part, and keeps every prediction.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from model.taxonomy import Taxonomy
from training.instances import Booleans, Floats, Instances, Integers

TIOUS = tuple(round(0.1 * step, 1) for step in range(1, 10))
# The MAC challenge of 2026 ranks by the mean of these.
CHALLENGE_TIOUS = (0.2, 0.5, 0.7)
# COCO's thresholds and numbers of detections, each of a video and an action.
RECALL_TIOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
RECALL_AT = (1, 5, 10, 100)
FRAMES_PER_S = 10
_SAME_S = 1e-3


@dataclass(frozen=True)
class LevelReport:
    """One level's metrics, all fractions.

    Attributes:
        precision: (tIoUs, classes), NaN where the ground truth lacks the class.
        recall: at RECALL_AT detections a video and class, mean over RECALL_TIOUS and classes.
        frame_precision: (classes,), average precision of frames, NaN where no frame has the class.
    """

    precision: Floats
    recall: tuple[float, ...]
    frame_precision: Floats

    @property
    def mean_precision(self) -> Floats:
        """(tIoUs,): mAP."""
        present = ~np.isnan(self.precision[0])
        if not present.any():
            return np.zeros(len(self.precision))
        return np.asarray(self.precision[:, present].mean(axis=1))

    @property
    def average(self) -> float:
        """Mean of mAP over the tIoUs."""
        return float(self.mean_precision.mean())


def evaluate(truth: Instances, predictions: Instances, classes: int) -> LevelReport:
    """All metrics of one level; both sides must count videos alike.

    Args:
        truth: ground truth; videos without any count too.
        predictions: with scores, nothing thresholded.
        classes: how many there are.
    """
    if truth.videos != predictions.videos:
        raise ValueError("ground truth and predictions list different videos")
    unique = without_duplicates(truth)
    return LevelReport(
        average_precision(unique, predictions, classes),
        average_recall(unique, predictions, classes),
        frame_precision(unique, predictions, classes),
    )


def without_duplicates(truth: Instances) -> Instances:
    """Ground truth of one video and class that agrees within a millisecond, once; the first stays."""
    kept = np.ones(len(truth), bool)
    for group in _groups(truth):
        for place, index in enumerate(group):
            earlier = group[:place][kept[group[:place]]]
            same = np.abs(truth.segments[earlier] - truth.segments[index]).max(axis=1, initial=0) <= _SAME_S
            kept[index] = not (len(earlier) and same.any())
    return truth[kept]


def average_precision(truth: Instances, predictions: Instances, classes: int) -> Floats:
    """(tIoUs, classes): interpolated average precision; NaN for a class without ground truth."""
    right = match(truth, predictions, TIOUS)
    best_first = np.argsort(-predictions.scores, kind="stable")
    precision = np.full((len(TIOUS), classes), np.nan)
    for label in np.unique(truth.labels):
        mine = best_first[predictions.labels[best_first] == label]
        count = int((truth.labels == label).sum())
        precision[:, label] = [area_under_precision(right[tiou, mine], count) for tiou in range(len(TIOUS))]
    return precision


def match(truth: Instances, predictions: Instances, tious: tuple[float, ...]) -> Booleans:
    """(tIoUs, predictions): which predictions take a ground truth of their video and class, best score first."""
    return _assign(truth, predictions, tious)[0]


def taken(truth: Instances, predictions: Instances, tious: tuple[float, ...]) -> Booleans:
    """(tIoUs, ground truth): which ground truth a prediction of its video and class takes."""
    return _assign(truth, predictions, tious)[1]


def _assign(truth: Instances, predictions: Instances, tious: tuple[float, ...]) -> tuple[Booleans, Booleans]:
    """(tIoUs, predictions) that are right, and (tIoUs, ground truth) that is taken."""
    right = np.zeros((len(tious), len(predictions)), bool)
    gone = np.zeros((len(tious), len(truth)), bool)
    thresholds = np.array(tious)
    truths = {_key(truth, group[0]): group for group in _groups(truth)}
    for group in _groups(predictions):
        targets = truths.get(_key(predictions, group[0]))
        if targets is None:
            continue
        order = group[np.argsort(-predictions.scores[group], kind="stable")]
        overlap = tiou_matrix(predictions.segments[order], truth.segments[targets])
        for place in np.flatnonzero(overlap.max(axis=1) >= thresholds[0]):
            for target in np.argsort(-overlap[place], kind="stable"):
                mine = targets[target]
                wins = ~gone[:, mine] & (overlap[place, target] >= thresholds) & ~right[:, order[place]]
                right[wins, order[place]] = True
                gone[wins, mine] = True
    return right, gone


def area_under_precision(right: Booleans, positives: int) -> float:
    """Average precision of predictions in order of score, precision made to never rise with recall."""
    if not len(right):
        return 0.0
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[right].sum() / positives)


def average_recall(truth: Instances, predictions: Instances, classes: int) -> tuple[float, ...]:
    """At each of RECALL_AT: the share of ground truth found by so many detections of its video and class."""
    present = np.unique(truth.labels)
    if not len(present):
        return (0.0,) * len(RECALL_AT)
    rank = np.zeros(len(predictions), np.int64)
    for group in _groups(predictions):
        rank[group[np.argsort(-predictions.scores[group], kind="stable")]] = np.arange(len(group))
    counts = np.bincount(truth.labels, minlength=classes)[present]
    recalls = []
    for limit in RECALL_AT:
        chosen = predictions[rank < limit]
        right = match(truth, chosen, RECALL_TIOUS)
        found = np.stack([np.bincount(chosen.labels[row], minlength=classes)[present] for row in right])
        recalls.append(float((found / counts).mean()))
    return tuple(recalls)


def frame_precision(truth: Instances, predictions: Instances, classes: int) -> Floats:
    """(classes,): average precision of single frames, FRAMES_PER_S of them, scored by the best segment over them.

    Frames are counted, not listed: neither time nor memory grows with durations, which may be placeholders.
    """
    # A video of unknown duration lasts as long as its ground truth.
    ends = np.zeros(len(truth.videos))
    np.maximum.at(ends, truth.video, truth.segments[:, 1])
    known = ~np.isnan(truth.durations)
    ends[known] = truth.durations[known]
    lengths = np.ceil(ends * FRAMES_PER_S)
    result = np.full(classes, np.nan)
    for label in np.unique(truth.labels):
        sides = [_on_frames(side[side.labels == label], lengths) for side in (truth, predictions)]
        shown, scores, frames = _stretches(*sides)
        positives = shown > -np.inf
        if frames[positives].any():
            result[label] = _frame_average_precision(positives, scores, frames)
    return result


def tiou_matrix(segments: Floats, others: Floats) -> Floats:
    """(n, 2) and (m, 2) -> (n, m): temporal intersection over union."""
    start = np.maximum(segments[:, None, 0], others[None, :, 0])
    end = np.minimum(segments[:, None, 1], others[None, :, 1])
    shared = np.maximum(end - start, 0)
    lengths, other_lengths = segments[:, 1] - segments[:, 0], others[:, 1] - others[:, 0]
    union = lengths[:, None] + other_lengths[None] - shared
    return np.asarray(shared / np.maximum(union, np.finfo(float).tiny))


def to_document(action: LevelReport, body: LevelReport, videos: int, taxonomy: Taxonomy) -> dict[str, object]:
    """What `mmad evaluate --json` prints."""
    levels = {
        "action": _level_document(action, [one.code for one in taxonomy.actions]),
        "body": _level_document(body, [one.code for one in taxonomy.bodies]),
    }
    return {"videos": videos, **levels, "average": (action.average + body.average) / 2}


def _level_document(report: LevelReport, codes: list[str]) -> dict[str, object]:
    present = [index for index in range(len(codes)) if not np.isnan(report.precision[0, index])]
    mean = dict(zip(TIOUS, report.mean_precision, strict=True))
    frames = report.frame_precision[~np.isnan(report.frame_precision)]
    return {
        "mAP": {str(tiou): float(value) for tiou, value in mean.items()},
        "average": report.average,
        "per_class": {
            codes[index]: {
                "AP": {
                    str(tiou): float(x) for tiou, x in zip(TIOUS, report.precision[:, index], strict=True)
                },
                "average": float(report.precision[:, index].mean()),
            }
            for index in present
        },
        "challenge": float(np.mean([mean[tiou] for tiou in CHALLENGE_TIOUS])),
        "average_recall": dict(zip(map(str, RECALL_AT), report.recall, strict=True)),
        "frame_mAP": float(frames.mean()) if len(frames) else 0.0,
    }


def _groups(instances: Instances) -> Iterator[Integers]:
    """Indices of each video's segments of one class, in their order."""
    if not len(instances):
        return
    key = instances.video * (int(instances.labels.max()) + 1) + instances.labels
    order = np.argsort(key, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(key[order])) + 1)


def _key(instances: Instances, index: int) -> tuple[int, int]:
    return int(instances.video[index]), int(instances.labels[index])


class _Frames(NamedTuple):
    """Segments in whole frames, in order of score: videos (n,), first frames and those after the last (n, 2)."""

    video: Integers
    spans: Floats
    scores: Floats


def _on_frames(instances: Instances, lengths: Floats) -> _Frames:
    """Segments of one class, cut to their videos' lengths in frames; those of no frame are left out."""
    order = np.argsort(instances.scores, kind="stable")
    video = instances.video[order]
    spans = np.clip(np.rint(instances.segments[order] * FRAMES_PER_S), 0, lengths[video][:, None])
    kept = spans[:, 1] > spans[:, 0]
    return _Frames(video[kept], spans[kept], instances.scores[order][kept])


def _stretches(truth: _Frames, predictions: _Frames) -> tuple[Floats, Floats, Floats]:
    """Stretches within which nothing begins or ends: the best score on both sides, -inf for none, and their frames.

    Between the segments of a video, and from one video to the next, there are stretches without any score.
    """
    video = np.concatenate([truth.video, predictions.video]).repeat(2)
    places = np.concatenate([truth.spans, predictions.spans]).reshape(-1)
    points = np.unique(np.stack([video, places], axis=1), axis=0)
    rank = {(one, place): index for index, (one, place) in enumerate(points.tolist())}
    best = []
    for side in (truth, predictions):
        scores = np.full(len(points), -np.inf)
        for one, (start, stop), score in zip(
            side.video.tolist(), side.spans.tolist(), side.scores, strict=True
        ):
            scores[rank[one, start] : rank[one, stop]] = score
        best.append(scores)
    frames = np.append(np.diff(points[:, 1]), 0.0)
    return best[0], best[1], frames


def _frame_average_precision(positives: Booleans, scores: Floats, frames: Floats) -> float:
    """Mean precision at every positive frame that a prediction covers, over all positive frames.

    Frames of one score are taken together, as they cannot be told apart.

    Args:
        positives, scores, frames: (n,) of stretches of frames.
    """
    covered = np.flatnonzero(scores > -np.inf)
    if not len(covered):
        return 0.0
    order = covered[np.argsort(-scores[covered], kind="stable")]
    last_of_score = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits = np.cumsum(np.where(positives, frames, 0.0)[order])[last_of_score]
    precision = hits / np.cumsum(frames[order])[last_of_score]
    gained = np.diff(hits, prepend=0)
    return float((precision * gained).sum() / frames[positives].sum())
