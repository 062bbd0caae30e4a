"""Metrics of temporal action detection, by OpenTAD's conventions.

Mean average precision at a tIoU threshold: the predictions of an action in all videos are sorted by score (stable).
Each is matched to the unmatched ground truth of its video with the highest tIoU, if that reaches the threshold. Average
precision is the area under the interpolated precision-recall curve; its mean is taken over the actions that occur in
the ground truth. Ground truth of one action whose boundaries agree within a millisecond counts once. At body level
every segment is mapped to its body part; no predictions are merged.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from model.arrays import Booleans, Doubles, Integers
from model.taxonomy import Taxonomy
from training.instances import Instances

TIOU = 0.5  # of predictions that count as correct
TIOUS = tuple(round(0.1 * step, 1) for step in range(1, 10))
# The MAC challenge of 2026 ranks by the mean of these.
CHALLENGE_TIOUS = (0.2, 0.5, 0.7)
# COCO's tIoU thresholds, and numbers of detections per video and action.
RECALL_TIOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
RECALL_AT = (1, 5, 10, 100)
FRAMES_PER_S = 10
_SAME_S = 1e-3


@dataclass(frozen=True)
class LevelReport:
    """Metrics of one level, as fractions.

    Attributes:
        precision: (tIoUs, classes) average precision, NaN for classes without ground truth.
        recall: with RECALL_AT detections per video and class, mean over RECALL_TIOUS and classes.
        frame_precision: (classes,) average precision of frames, NaN for classes without ground truth frames.
    """

    precision: Doubles
    recall: tuple[float, ...]
    frame_precision: Doubles

    @property
    def mean_precision(self) -> Doubles:
        """mAP at each tIoU, (tIoUs,)."""
        return average_classes(self.precision)

    @property
    def average(self) -> float:
        """mAP averaged over the tIoUs."""
        return float(self.mean_precision.mean())


def evaluate(truth: Instances, predictions: Instances, classes: int) -> LevelReport:
    """Compute all metrics of one level. Raises ValueError if the two sides list different videos."""
    if truth.videos != predictions.videos:
        raise ValueError("ground truth and predictions list different videos")
    unique = without_duplicates(truth)
    return LevelReport(
        average_precision(unique, predictions, classes),
        average_recall(unique, predictions, classes),
        frame_precision(unique, predictions, classes),
    )


def evaluate_levels(truth: Instances, predictions: Instances, taxonomy: Taxonomy) -> tuple[LevelReport, LevelReport]:
    """Compute all metrics of actions and of body parts."""
    body_truth, body_predictions = (side.to_body_level(taxonomy) for side in (truth, predictions))
    action = evaluate(truth, predictions, len(taxonomy.actions))
    return action, evaluate(body_truth, body_predictions, len(taxonomy.bodies))


def without_duplicates(truth: Instances) -> Instances:
    """Remove instances whose video, class and boundaries (within 1 ms) equal those of an earlier one."""
    unique = np.ones(len(truth), bool)
    for group in _groups(truth):
        for position, index in enumerate(group):
            earlier = group[:position][unique[group[:position]]]
            same = np.abs(truth.segments[earlier] - truth.segments[index]).max(axis=1, initial=0) <= _SAME_S
            unique[index] = not (len(earlier) and same.any())
    return truth[unique]


def average_precision(truth: Instances, predictions: Instances, classes: int) -> Doubles:
    """Return interpolated average precision (tIoUs, classes); NaN for a class without ground truth."""
    correct, _ = match(truth, predictions, TIOUS)
    best_first = np.argsort(-predictions.scores, kind="stable")
    precision = np.full((len(TIOUS), classes), np.nan)
    for label in np.unique(truth.labels):
        of_class = best_first[predictions.labels[best_first] == label]
        count = int((truth.labels == label).sum())
        precision[:, label] = [area_under_precision(correct[tiou, of_class], count) for tiou in range(len(TIOUS))]
    return precision


def match(truth: Instances, predictions: Instances, tious: tuple[float, ...]) -> tuple[Booleans, Booleans]:
    """Match as the module says; return which are matched, (tIoUs, predictions) and (tIoUs, ground truth)."""
    correct = np.zeros((len(tious), len(predictions)), bool)
    matched = np.zeros((len(tious), len(truth)), bool)
    thresholds = np.array(tious)
    truths = {(truth.video[group[0]], truth.labels[group[0]]): group for group in _groups(truth)}
    for group in _groups(predictions):
        targets = truths.get((predictions.video[group[0]], predictions.labels[group[0]]))
        if targets is None:
            continue
        order = group[np.argsort(-predictions.scores[group], kind="stable")]
        overlap = tiou_matrix(predictions.segments[order], truth.segments[targets])
        for row in np.flatnonzero(overlap.max(axis=1) >= thresholds[0]):
            for column in np.argsort(-overlap[row], kind="stable"):
                prediction, target = order[row], targets[column]
                hits = ~matched[:, target] & (overlap[row, column] >= thresholds) & ~correct[:, prediction]
                correct[hits, prediction] = True
                matched[hits, target] = True
    return correct, matched


def find_correct(truth: Instances, predictions: Instances) -> Booleans:
    """Return which predictions match ground truth at a tIoU of at least 0.5, (predictions,)."""
    return match(truth, predictions, (TIOU,))[0][0]  # type: ignore[no-any-return]


def area_under_precision(correct: Booleans, positives: int) -> float:
    """Return the average precision of predictions sorted by score, with monotonically decreasing precision."""
    if not len(correct):
        return 0.0
    hits = np.cumsum(correct)
    precision = hits / np.arange(1, len(correct) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[correct].sum() / positives)


def average_classes(precision: Doubles) -> Doubles:
    """Return mAP at each tIoU from average precision (tIoUs, classes): the mean over classes with ground truth."""
    present = ~np.isnan(precision[0])
    return np.asarray(precision[:, present].mean(axis=1)) if present.any() else np.zeros(len(precision))


def average_recall(truth: Instances, predictions: Instances, classes: int) -> tuple[float, ...]:
    """Return the recall with each number RECALL_AT of best detections per video and class."""
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
        correct, _ = match(truth, chosen, RECALL_TIOUS)
        hits = np.stack([np.bincount(chosen.labels[row], minlength=classes)[present] for row in correct])
        recalls.append(float((hits / counts).mean()))
    return tuple(recalls)


def frame_precision(truth: Instances, predictions: Instances, classes: int) -> Doubles:
    """Return the average precision of frames at FRAMES_PER_S, (classes,); a frame has the score of its best segment.

    Runs of frames are counted, so that time and memory do not grow with the durations, which may be placeholders.
    """
    # If the duration is unknown, the video ends with its last ground truth segment.
    ends = np.zeros(len(truth.videos))
    np.maximum.at(ends, truth.video, truth.segments[:, 1])
    known = ~np.isnan(truth.durations)
    ends[known] = truth.durations[known]
    lengths = np.ceil(ends * FRAMES_PER_S)
    result = np.full(classes, np.nan)
    for label in np.unique(truth.labels):
        sides = [_on_frames(side[side.labels == label], lengths) for side in (truth, predictions)]
        true_scores, scores, frames = _split_into_runs(*sides)
        positives = true_scores > -np.inf
        if frames[positives].any():
            result[label] = _frame_average_precision(positives, scores, frames)
    return result


def tiou_matrix(segments: Doubles, others: Doubles) -> Doubles:
    """Return the temporal intersection over union of segments (n, 2) and (m, 2), as (n, m)."""
    start = np.maximum(segments[:, None, 0], others[None, :, 0])
    end = np.minimum(segments[:, None, 1], others[None, :, 1])
    shared = np.maximum(end - start, 0)
    lengths, other_lengths = segments[:, 1] - segments[:, 0], others[:, 1] - others[:, 0]
    union = lengths[:, None] + other_lengths[None] - shared
    return np.asarray(shared / np.maximum(union, np.finfo(float).tiny))


def to_document(action: LevelReport, body: LevelReport, videos: int, taxonomy: Taxonomy) -> dict[str, object]:
    """Return the JSON document that `mmad evaluate --json` prints."""
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
                "AP": {str(tiou): float(x) for tiou, x in zip(TIOUS, report.precision[:, index], strict=True)},
                "average": float(report.precision[:, index].mean()),
            }
            for index in present
        },
        "challenge": float(np.mean([mean[tiou] for tiou in CHALLENGE_TIOUS])),
        "average_recall": dict(zip(map(str, RECALL_AT), report.recall, strict=True)),
        "frame_mAP": float(frames.mean()) if len(frames) else 0.0,
    }


def _groups(instances: Instances) -> Iterator[Integers]:
    """Yield the indices of each video's segments of one class, in their order."""
    if not len(instances):
        return
    key = instances.video * (int(instances.labels.max()) + 1) + instances.labels
    order = np.argsort(key, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(key[order])) + 1)


def _on_frames(instances: Instances, lengths: Doubles) -> Instances:
    """Convert segments of one class to frames, sorted by score and clipped to their videos; drop empty ones."""
    ordered = instances[np.argsort(instances.scores, kind="stable")]
    spans = np.clip(np.rint(ordered.segments * FRAMES_PER_S), 0, lengths[ordered.video][:, None])
    return replace(ordered, segments=spans)[spans[:, 1] > spans[:, 0]]


def _split_into_runs(truth: Instances, predictions: Instances) -> tuple[Doubles, Doubles, Doubles]:
    """Return the highest true and predicted score (or -inf) of runs of frames between boundaries, and their lengths."""
    video = np.concatenate([truth.video, predictions.video]).repeat(2)
    boundaries = np.concatenate([truth.segments, predictions.segments]).reshape(-1)
    points = np.unique(np.stack([video, boundaries], axis=1), axis=0)
    run = {(one, boundary): index for index, (one, boundary) in enumerate(points.tolist())}
    best = []
    for side in (truth, predictions):
        scores = np.full(len(points), -np.inf)
        for one, (start, stop), score in zip(side.video.tolist(), side.segments.tolist(), side.scores, strict=True):
            scores[run[one, start] : run[one, stop]] = score
        best.append(scores)
    frames = np.append(np.diff(points[:, 1]), 0.0)
    return best[0], best[1], frames


def _frame_average_precision(positives: Booleans, scores: Doubles, frames: Doubles) -> float:
    """Return the average precision of runs of so many frames (n,); frames of equal score are ranked together."""
    covered = np.flatnonzero(scores > -np.inf)
    if not len(covered):
        return 0.0
    order = covered[np.argsort(-scores[covered], kind="stable")]
    last_of_score = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits = np.cumsum(np.where(positives, frames, 0.0)[order])[last_of_score]
    precision = hits / np.cumsum(frames[order])[last_of_score]
    new_hits = np.diff(hits, prepend=0)
    return float((precision * new_hits).sum() / frames[positives].sum())
