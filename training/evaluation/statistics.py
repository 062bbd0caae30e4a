"""Statistics of a data set: counts, durations, co-occurrence and concurrency of actions."""

from dataclasses import asdict, dataclass

import numpy as np

from model.arrays import Booleans, Doubles, Integers
from model.taxonomy import Taxonomy
from training.instances import Instances

QUANTILES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)


@dataclass(frozen=True)
class Summary:
    """Summary of a set of values: count, mean, standard deviation, and the quantiles QUANTILES."""

    n: int
    mean: float
    std: float
    quantiles: list[float]


@dataclass(frozen=True)
class Statistics:
    """Statistics of one subset. Times are in seconds, classes in the order of their ids.

    Attributes:
        instances_per_video: number of videos with 0, 1, 2 ... instances.
        concurrent_time: fraction of the time with 0, 1, 2 ... simultaneous actions.
        overlap_count: (classes, classes) pairs of instances that overlap in time; a pair of one class counts once.
        overlapping, starting: fractions of instances that overlap another, and that start with the video.
    """

    videos: int
    instances: int
    hours: float
    video_duration: Summary
    instance_duration: Summary
    coverage: Summary
    instances_per_video: list[int]
    class_count: list[int]
    body_count: list[int]
    class_duration: list[Summary]
    concurrent_time: list[float]
    overlap_count: list[list[int]]
    overlapping: float
    starting: float


def compute_statistics(truth: Instances, taxonomy: Taxonomy) -> Statistics:
    """Compute the statistics of videos with known durations."""
    classes = len(taxonomy.actions)
    lengths = truth.segments[:, 1] - truth.segments[:, 0]
    per_video = np.bincount(truth.video, minlength=len(truth.videos))
    overlap, alone = _overlaps(truth, classes)
    return Statistics(
        videos=len(truth.videos),
        instances=len(truth),
        hours=float(truth.durations.sum() / 3600),
        video_duration=summarise(truth.durations),
        instance_duration=summarise(lengths),
        coverage=summarise(lengths / truth.durations[truth.video]),
        instances_per_video=np.bincount(per_video).tolist(),
        class_count=np.bincount(truth.labels, minlength=classes).tolist(),
        body_count=np.bincount(truth.to_body_level(taxonomy).labels, minlength=len(taxonomy.bodies)).tolist(),
        class_duration=[summarise(lengths[truth.labels == label]) for label in range(classes)],
        concurrent_time=_concurrent_time(truth).tolist(),
        overlap_count=overlap.tolist(),
        overlapping=float(1 - alone.mean()) if len(truth) else 0.0,
        starting=float((truth.segments[:, 0] == 0).mean()) if len(truth) else 0.0,
    )


def summarise(values: Doubles) -> Summary:
    """Summarise values; all statistics of no values are 0."""
    if not len(values):
        return Summary(0, 0.0, 0.0, [0.0] * len(QUANTILES))
    return Summary(len(values), float(values.mean()), float(values.std()), np.quantile(values, QUANTILES).tolist())


def to_document(statistics: Statistics) -> dict[str, object]:
    """Return the statistics as a JSON document."""
    return asdict(statistics)


def _overlaps(truth: Instances, classes: int) -> tuple[Integers, Booleans]:
    """Count overlapping pairs of instances by class, and return which instances overlap no other."""
    count = np.zeros((classes, classes), np.int64)
    alone = np.ones(len(truth), bool)
    for video in range(len(truth.videos)):
        group = np.flatnonzero(truth.video == video)
        start, end = truth.segments[group].T
        overlapping = np.minimum.outer(end, end) > np.maximum.outer(start, start)
        first, second = (group[index] for index in np.nonzero(np.triu(overlapping, 1)))
        np.add.at(count, (truth.labels[first], truth.labels[second]), 1)
        alone[first] = alone[second] = False
    return count + count.T - np.diag(np.diag(count)), alone


def _concurrent_time(truth: Instances) -> Doubles:
    """Return the fraction of all videos' time with exactly 0, 1, 2 ... simultaneous actions."""
    seconds = np.zeros(1)
    for video, duration in enumerate(truth.durations):
        times = np.clip(truth.segments[truth.video == video], 0, duration)
        points = np.unique(np.concatenate([[0.0, duration], times.ravel()]))
        middles = (points[1:] + points[:-1]) / 2
        active = ((times[:, :1] <= middles) & (times[:, 1:] > middles)).sum(axis=0)
        durations = np.bincount(active, weights=np.diff(points))
        seconds = np.pad(seconds, (0, max(0, len(durations) - len(seconds))))
        seconds[: len(durations)] += durations
    total = seconds.sum()
    return np.asarray(seconds / total) if total else seconds
