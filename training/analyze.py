"""Where a detector goes wrong: profiles of its false positives and of what it misses (DETAD, ECCV 2018)."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from training.evaluate import TIOUS, average_precision, match, taken, tiou_matrix, without_duplicates
from training.instances import Booleans, Floats, Instances, Integers

TIOU = 0.5
NEAR_TIOU = 0.1
KINDS = ("true positive", "double detection", "wrong label", "localisation", "confusion", "background")
MULTIPLES = 10
# The paper's buckets. Instances are counted in their video.
COVERAGE_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
LENGTH_EDGES = (0.0, 3.0, 5.0, 8.0, 9.0, np.inf)
COUNT_EDGES = (-1.0, 2.0, 5.0, 7.0, np.inf)


class Bucket(NamedTuple):
    """Ground truth of one size, more than `above` and up to `up_to`, and how much was missed; None of nothing."""

    above: float
    up_to: float
    instances: int
    missed: float | None


class Analysis(NamedTuple):
    """Attributes:
    false_positives: for the best 1G to 10G predictions (G: ground truth of each class), the share of every kind.
    gains: what the mean mAP over tIoU 0.5 to 0.9 would gain if all predictions of a kind were left out.
    false_negatives: by coverage of the video, by length in seconds, by number of instances in the video.
    average: mean mAP over tIoU 0.1 to 0.9 as it is.
    average_from_half: over 0.5 to 0.9, where every error that is told of here is one.
    """

    false_positives: list[dict[str, float]]
    gains: dict[str, float]
    false_negatives: dict[str, list[Bucket]]
    average: float
    average_from_half: float


def analyze(truth: Instances, predictions: Instances, classes: int) -> Analysis:
    """Profiles of predictions against ground truth, both over the same videos."""
    truth = without_duplicates(truth)
    kinds = classify(truth, predictions)
    counts = np.bincount(truth.labels, minlength=classes)
    rank = _rank_within_class(predictions)
    profile = []
    for multiple in range(1, MULTIPLES + 1):
        chosen = kinds[rank < multiple * counts[predictions.labels]]
        shares = np.bincount(chosen, minlength=len(KINDS)) / max(len(chosen), 1)
        profile.append(dict(zip(KINDS, shares.tolist(), strict=True)))
    average, from_half = _averages(truth, predictions, classes)
    gains = {
        name: _averages(truth, predictions[kinds != kind], classes)[1] - from_half
        for kind, name in enumerate(KINDS)
        if kind
    }
    return Analysis(profile, gains, missed_by_size(truth, predictions), average, from_half)


def to_document(analysis: Analysis) -> dict[str, object]:
    """As JSON has it; the last bucket's open end is a word."""
    buckets = {
        name: [bucket._asdict() | {"up_to": str(bucket.up_to)} for bucket in sizes]
        for name, sizes in analysis.false_negatives.items()
    }
    return analysis._asdict() | {"false_negatives": buckets}


def classify(truth: Instances, predictions: Instances) -> Integers:
    """(predictions,): the index in KINDS of each, at a tIoU of 0.5; what is nearer decides over what is right.

    Right label, taken: true positive; free no more: double detection. Enough overlap with another label only: wrong
    label. Some overlap (0.1) with the right label: localisation; with another: confusion. Else background.
    """
    right = match(truth, predictions, (TIOU,))[0]
    kinds = np.full(len(predictions), KINDS.index("background"))
    of_truth = {video: np.flatnonzero(truth.video == video) for video in np.unique(truth.video)}
    for video in np.unique(predictions.video):
        targets = of_truth.get(video)
        if targets is None:
            continue
        group = np.flatnonzero(predictions.video == video)
        overlap = tiou_matrix(predictions.segments[group], truth.segments[targets])
        same = predictions.labels[group][:, None] == truth.labels[targets][None]
        best_same = np.where(same, overlap, 0).max(axis=1)
        best_other = np.where(same, 0, overlap).max(axis=1)
        kinds[group] = np.select(
            [
                right[group],
                best_same >= TIOU,
                best_other >= TIOU,
                best_same >= NEAR_TIOU,
                best_other >= NEAR_TIOU,
            ],
            [0, 1, 2, 3, 4],
            default=5,
        )
    return kinds


def missed_by_size(truth: Instances, predictions: Instances) -> dict[str, list[Bucket]]:
    """Share of ground truth that no prediction takes at a tIoU of 0.5, by size."""
    found = taken(truth, predictions, (TIOU,))[0]
    lengths = truth.segments[:, 1] - truth.segments[:, 0]
    count = np.bincount(truth.video, minlength=len(truth.videos))[truth.video]
    return {
        # A video of unknown duration has no share to speak of: NaN lies in no bucket.
        "coverage": _buckets(np.minimum(lengths / truth.durations[truth.video], 1.0), found, COVERAGE_EDGES),
        "length": _buckets(lengths, found, LENGTH_EDGES),
        "instances": _buckets(count.astype(float), found, COUNT_EDGES),
    }


def video_scores(truth: Instances, predictions: Instances) -> list[float]:
    """Of every video: the share of its ground truth that its best predictions, as many, take at a tIoU of 0.5."""
    scores = []
    for video in range(len(truth.videos)):
        real = truth[truth.video == video]
        mine = predictions[predictions.video == video]
        best = mine[np.argsort(-mine.scores, kind="stable")[: len(real)]]
        scores.append(float(taken(real, best, (TIOU,))[0].mean()) if len(real) else float(not len(mine)))
    return scores


def _buckets(sizes: Floats, found: Booleans, edges: tuple[float, ...]) -> list[Bucket]:
    buckets = []
    for above, up_to in pairwise(edges):
        inside = (sizes > above) & (sizes <= up_to)
        missed = float(1 - found[inside].mean()) if inside.any() else None
        buckets.append(Bucket(above, up_to, int(inside.sum()), missed))
    return buckets


def _rank_within_class(predictions: Instances) -> Integers:
    """(predictions,): 0 for the best of its class, 1 for the next ..."""
    order = np.lexsort((np.arange(len(predictions)), -predictions.scores, predictions.labels))
    labels = predictions.labels[order]
    starts = np.searchsorted(labels, labels)
    rank = np.empty(len(predictions), np.int64)
    rank[order] = np.arange(len(predictions)) - starts
    return rank


def _averages(truth: Instances, predictions: Instances, classes: int) -> tuple[float, float]:
    """Mean mAP over all tIoUs, and over those from TIOU on."""
    precision = average_precision(truth, predictions, classes)
    present = precision[:, ~np.isnan(precision[0])]
    if not present.size:
        return 0.0, 0.0
    return float(present.mean()), float(present[np.array(TIOUS) >= TIOU].mean())
