"""Evaluate a bundle on a folder of videos, run as the service runs it, and compare it with trivial baselines."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from model.arrays import Doubles, Integers
from model.bundle import MANIFEST, Bundle
from model.detections import Detections
from model.detector import Detector
from model.engines import Engine, TorchEngine
from model.errors import DetectorError
from model.network import Network
from model.taxonomy import Taxonomy
from model.video import UNLIMITED
from training.dataset import Sample, load_dataset, make_truth, spread
from training.evaluation.calibration import expected_calibration_error
from training.evaluation.metrics import (
    LevelReport,
    average_classes,
    average_precision,
    evaluate_levels,
    find_correct,
    without_duplicates,
)
from training.evaluation.report import versions
from training.evaluation.validation import to_instances
from training.files import write_aside
from training.instances import Instances
from training.tables import read_annotations

_SEED = 0


class MeasureError(Exception):
    """Raised for videos or class frequencies that a bundle cannot be measured with."""


class Speed(NamedTuple):
    """Speed from file to detections: wall-clock seconds, decoded frames, seconds of video."""

    seconds: float
    frames: int
    video_s: float


class MapScores(NamedTuple):
    """Mean mAP over tIoU 0.1 to 0.9 at both levels."""

    action: float
    body: float

    @property
    def average(self) -> float:
        """Mean of both levels."""
        return (self.action + self.body) / 2


class Prior(NamedTuple):
    """Number of instances of each action, (actions,), and the data that they were counted in."""

    counts: Integers
    source: str


@dataclass(frozen=True)
class Measurement:
    """Metrics of one bundle on one folder of videos.

    `prior` says where the class frequencies of the baselines are from. `shown_error` is the expected calibration error
    of the proposals that are displayed by default, `calibration_error` of all.
    """

    truth: Instances
    predictions: Instances
    action: LevelReport
    body: LevelReport
    speed: Speed
    baselines: dict[str, MapScores]
    prior: str
    calibration_error: float
    shown_error: float

    @property
    def map_scores(self) -> MapScores:
        """Mean mAP of the bundle."""
        return MapScores(self.action.average, self.body.average)


def load_samples(folder: Path, taxonomy: Taxonomy, subset: str, limit: int | None) -> list[Sample]:
    """Load the videos of a subset, or `limit` of them at equal intervals. Raises DatasetError or MeasureError."""
    samples = load_dataset([folder], taxonomy, subset, 0.0).samples
    if samples[0].path.suffix == ".npz":
        raise MeasureError(
            f"{folder} holds frames, not videos: the whole way begins with decoding; make it with --frames mp4"
        )
    if not any(len(sample.labels) for sample in samples):
        raise MeasureError(f"{folder}: no video of subset {subset!r} has annotations to measure by")
    return [samples[index] for index in spread(len(samples), limit)]


def read_prior(path: Path, taxonomy: Taxonomy) -> Prior:
    """Count the classes in training annotations: a CSV, or the subset train of a JSON file."""
    truth = read_annotations(path, taxonomy, subset="train").instances
    if not len(truth):
        raise MeasureError(f"{path} has no annotations of a subset train to count")
    return Prior(np.bincount(truth.labels, minlength=len(taxonomy.actions)), path.name)


def measure(
    bundle: Bundle,
    engine: Engine,
    samples: Sequence[Sample],
    prior: Prior | None,
    on_progress: Callable[[int, int], None],
    untrained: bool,
) -> Measurement:
    """Run a bundle on videos and evaluate its predictions and those of the baselines.

    Without a `prior` the baselines use the class frequencies of the videos. `untrained` adds the same network with
    random weights. `on_progress` gets the numbers of finished and of all runs. Raises MeasureError if the service would
    reject one of the videos.
    """
    runs = (2 if untrained else 1) * len(samples)
    results, speed = _run(bundle, engine, samples, lambda done: on_progress(done, runs))
    truth = make_truth(samples, [one.media.duration_s for one in results])
    predictions = to_instances(truth, [one.proposals for one in results])
    taxonomy = bundle.manifest.taxonomy
    frequencies = prior or Prior(
        np.bincount(truth.labels, minlength=len(taxonomy.actions)),
        "the measured videos themselves, which favours the baselines",
    )
    baselines: dict[str, MapScores] = {}
    if untrained:
        random = TorchEngine(make_untrained_network(bundle), engine.device)
        random_results, _ = _run(bundle, random, samples, lambda done: on_progress(len(samples) + done, runs))
        others = to_instances(truth, [one.proposals for one in random_results])
        baselines["untrained network"] = _map_scores(truth, others, taxonomy)
    baselines |= _compute_trivial_baselines(truth, predictions, frequencies.counts, taxonomy)
    correct = find_correct(truth, predictions)
    thresholds = bundle.manifest.thresholds
    lowest = np.array(thresholds.per_class or (thresholds.default,) * len(taxonomy.actions))
    shown = predictions.scores >= lowest[predictions.labels]
    return Measurement(
        truth,
        predictions,
        *evaluate_levels(truth, predictions, taxonomy),
        speed,
        baselines,
        frequencies.source,
        expected_calibration_error(predictions.scores, correct),
        expected_calibration_error(predictions.scores[shown], correct[shown]),
    )


def make_untrained_network(bundle: Bundle) -> Network:
    """Return the bundle's architecture with randomly initialised weights, from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return Network(bundle.manifest)


def _run(
    bundle: Bundle, engine: Engine, samples: Sequence[Sample], on_progress: Callable[[int], None]
) -> tuple[list[Detections], Speed]:
    detector = Detector(bundle, engine)
    results: list[Detections] = []
    begin = time.perf_counter()
    for done, sample in enumerate(samples):
        on_progress(done)
        try:
            with sample.path.open("rb") as file:
                results.append(detector.detect(file, limits=UNLIMITED))
        except (DetectorError, OSError) as error:
            raise MeasureError(f"{sample.path}: {error}") from error
    seconds = time.perf_counter() - begin
    media = [one.media for one in results]
    return results, Speed(seconds, sum(one.frames_decoded for one in media), sum(one.duration_s for one in media))


def _compute_trivial_baselines(
    truth: Instances, predictions: Instances, counts: Integers, taxonomy: Taxonomy
) -> dict[str, MapScores]:
    """Compute mAP of predictions from class frequencies alone, and of the bundle's proposals with shuffled labels."""
    body_counts = np.asarray(np.bincount(taxonomy.body_ids, counts, len(taxonomy.bodies)), float)
    body_truth = truth.to_body_level(taxonomy)
    levels = ((truth, counts.astype(float)), (body_truth, body_counts))
    most_frequent, every = (
        MapScores(*(_mean_precision(one, predict_whole_videos(one, n, top), len(n)) for one, n in levels))
        for top in (1, None)
    )
    shuffled = np.random.default_rng(_SEED).permutation(predictions.labels)
    return {
        "most frequent class, whole video": most_frequent,
        "every class, whole video": every,
        "own proposals, labels shuffled": _map_scores(truth, replace(predictions, labels=shuffled), taxonomy),
    }


def predict_whole_videos(truth: Instances, counts: Doubles, top: int | None) -> Instances:
    """Predict the `top` most frequent classes, or all, over the whole of each video; scores are their frequencies."""
    labels = np.argsort(-counts, kind="stable")[:top]
    ends = np.repeat(truth.durations, len(labels))
    videos = len(truth.videos)
    return replace(
        truth,
        video=np.repeat(np.arange(videos), len(labels)),
        segments=np.stack([np.zeros(len(ends)), ends], axis=1),
        labels=np.tile(labels, videos),
        scores=np.tile(counts[labels] / max(counts.sum(), 1), videos),
    )


def _map_scores(truth: Instances, predictions: Instances, taxonomy: Taxonomy) -> MapScores:
    return MapScores(
        _mean_precision(truth, predictions, len(taxonomy.actions)),
        _mean_precision(truth.to_body_level(taxonomy), predictions.to_body_level(taxonomy), len(taxonomy.bodies)),
    )


def _mean_precision(truth: Instances, predictions: Instances, classes: int) -> float:
    return float(average_classes(average_precision(without_duplicates(truth), predictions, classes)).mean())


def record_metrics(bundle: Bundle, subset: str, document: dict[str, Any]) -> None:
    """Write the metrics of a subset into the bundle's manifest, replacing earlier ones of the same subset."""
    evaluation, errors = document["evaluation"], document["calibration_error"]
    action, body = evaluation["action"], evaluation["body"]
    numbers: dict[str, float] = {
        "videos": evaluation["videos"],
        "action_mAP": action["average"],
        "body_mAP": body["average"],
        "average_mAP": evaluation["average"],
        "action_mAP_0.5": action["mAP"]["0.5"],
        "body_mAP_0.5": body["mAP"]["0.5"],
        "calibration_error": errors["all"],
        "calibration_error_of_shown": errors["shown"],
    }
    for name, one in document["baselines"].items():
        numbers[f"average_mAP_of_{name.replace(',', '').replace(' ', '_')}"] = one["average"]
    updated = {f"{subset}_{name}": float(value) for name, value in numbers.items() if value is not None}
    others = {
        name: value for name, value in (bundle.manifest.metrics or {}).items() if not name.startswith(f"{subset}_")
    }
    manifest = bundle.manifest.model_copy(update={"metrics": others | updated})
    with write_aside(bundle.folder / MANIFEST) as temporary:
        temporary.write_text(manifest.to_json(), encoding="utf-8")


def to_document(measurement: Measurement, bundle: Bundle, engine: Engine, device: str) -> dict[str, object]:
    """Return the contents of report.json, without its fields evaluation and errors."""
    manifest, speed = bundle.manifest, measurement.speed
    seconds = max(speed.seconds, 1e-9)
    return {
        "bundle": {
            "name": manifest.name,
            "version": manifest.version,
            "weights_sha256": bundle.weights_sha256,
            "trained_on": None if manifest.trained_on is None else manifest.trained_on.data,
        },
        "instances": len(measurement.truth),
        "baselines": {
            name: one._asdict() | {"average": one.average, "ratio": ratios(measurement.map_scores, one)}
            for name, one in measurement.baselines.items()
        },
        "prior": measurement.prior,
        "calibration_error": {"all": measurement.calibration_error, "shown": measurement.shown_error},
        "speed": speed._asdict()
        | {
            "frames_per_second": speed.frames / seconds,
            "times_real_time": speed.video_s / seconds,
            "engine": engine.name,
            "device": device,
        },
        **versions(),
    }


def ratios(own: MapScores, other: MapScores) -> dict[str, float | None]:
    """Return the mAP of the bundle divided by that of a baseline; None if the baseline has 0."""
    names = ("action", "body", "average")
    return {name: getattr(own, name) / getattr(other, name) if getattr(other, name) else None for name in names}
