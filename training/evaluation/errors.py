"""Error analysis of a detector: false positive profile and false negatives by size (DETAD, ECCV 2018)."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from model.arrays import Booleans, Doubles, Integers
from training.evaluation.metrics import (
    TIOU,
    TIOUS,
    average_classes,
    average_precision,
    find_correct,
    match,
    tiou_matrix,
    without_duplicates,
)
from training.instances import Instances

NEAR_TIOU = 0.1
KINDS = ("true positive", "double detection", "wrong label", "localisation", "confusion", "background")
MULTIPLES = 10
# Buckets of the paper: share of the video, seconds, and instances per video.
COVERAGE_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
LENGTH_EDGES = (0.0, 3.0, 5.0, 8.0, 9.0, np.inf)
COUNT_EDGES = (-1.0, 2.0, 5.0, 7.0, np.inf)


class Bucket(NamedTuple):
    """Ground truth of sizes in (above, up_to]: its count, and the share that was missed (None if there is none)."""

    above: float
    up_to: float
    instances: int
    missed: float | None


class Analysis(NamedTuple):
    """Result of the error analysis.

    Attributes:
        false_positives: shares of each kind in the best 1G to 10G predictions of a class with G instances.
        gains: increase of `average_from_half` if all predictions of one kind are removed.
        false_negatives: by coverage of the video, by length in seconds, by number of instances in the video.
        average, average_from_half: mean mAP over tIoU 0.1 to 0.9, and 0.5 to 0.9.
    """

    false_positives: list[dict[str, float]]
    gains: dict[str, float]
    false_negatives: dict[str, list[Bucket]]
    average: float
    average_from_half: float


def analyze(truth: Instances, predictions: Instances, classes: int) -> Analysis:
    """Analyse predictions against ground truth of the same videos."""
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
    """Return a JSON document; the end of the last bucket, infinity, is a string."""
    buckets = {
        name: [bucket._asdict() | {"up_to": str(bucket.up_to)} for bucket in sizes]
        for name, sizes in analysis.false_negatives.items()
    }
    return analysis._asdict() | {"false_negatives": buckets}


def classify(truth: Instances, predictions: Instances) -> Integers:
    """Return the index in KINDS of each prediction, (predictions,), at a tIoU of 0.5.

    The first condition that holds decides: matched to ground truth (true positive); tIoU of 0.5 with the same label
    (double detection) or with another label (wrong label); tIoU of 0.1 with the same label (localisation) or with
    another label (confusion). All others are background.
    """
    correct = find_correct(truth, predictions)
    kinds = np.full(len(predictions), KINDS.index("background"))
    for video in np.intersect1d(truth.video, predictions.video):
        targets, group = (np.flatnonzero(side.video == video) for side in (truth, predictions))
        overlap = tiou_matrix(predictions.segments[group], truth.segments[targets])
        same = predictions.labels[group][:, None] == truth.labels[targets][None]
        best_same = np.where(same, overlap, 0).max(axis=1)
        best_other = np.where(same, 0, overlap).max(axis=1)
        kinds[group] = np.select(
            [correct[group], best_same >= TIOU, best_other >= TIOU, best_same >= NEAR_TIOU, best_other >= NEAR_TIOU],
            [0, 1, 2, 3, 4],
            default=5,
        )
    return kinds


def missed_by_size(truth: Instances, predictions: Instances) -> dict[str, list[Bucket]]:
    """Return the share of ground truth that no prediction matches at a tIoU of 0.5, by size."""
    matched = match(truth, predictions, (TIOU,))[1][0]
    lengths = truth.segments[:, 1] - truth.segments[:, 0]
    count = np.bincount(truth.video, minlength=len(truth.videos))[truth.video]
    return {
        # The coverage is NaN if the duration is unknown, and lies in no bucket.
        "coverage": _buckets(np.minimum(lengths / truth.durations[truth.video], 1.0), matched, COVERAGE_EDGES),
        "length": _buckets(lengths, matched, LENGTH_EDGES),
        "instances": _buckets(count.astype(float), matched, COUNT_EDGES),
    }


def video_scores(truth: Instances, predictions: Instances) -> list[float]:
    """Return the recall of each video at a tIoU of 0.5, with as many predictions as ground truth instances."""
    scores = []
    for video in range(len(truth.videos)):
        true = truth[truth.video == video]
        predicted = predictions[predictions.video == video]
        best = predicted[np.argsort(-predicted.scores, kind="stable")[: len(true)]]
        scores.append(float(match(true, best, (TIOU,))[1].mean()) if len(true) else float(not len(predicted)))
    return scores


def _buckets(sizes: Doubles, matched: Booleans, edges: tuple[float, ...]) -> list[Bucket]:
    buckets = []
    for above, up_to in pairwise(edges):
        inside = (sizes > above) & (sizes <= up_to)
        missed = float(1 - matched[inside].mean()) if inside.any() else None
        buckets.append(Bucket(above, up_to, int(inside.sum()), missed))
    return buckets


def _rank_within_class(predictions: Instances) -> Integers:
    """Return the rank of each prediction within its class by score, (predictions,), 0 for the best."""
    order = np.lexsort((np.arange(len(predictions)), -predictions.scores, predictions.labels))
    labels = predictions.labels[order]
    starts = np.searchsorted(labels, labels)
    rank = np.empty(len(predictions), np.int64)
    rank[order] = np.arange(len(predictions)) - starts
    return rank


def _averages(truth: Instances, predictions: Instances, classes: int) -> tuple[float, float]:
    means = average_classes(average_precision(truth, predictions, classes))
    return float(means.mean()), float(means[np.array(TIOUS) >= TIOU].mean())
