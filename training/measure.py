"""What a bundle is worth on a folder of videos, run as the service runs it, beside what knows nothing."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle import MANIFEST, Bundle
from model.detections import Detections
from model.detector import Detector
from model.engines import Engine
from model.errors import DetectorError
from model.network import Network
from model.taxonomy import Taxonomy
from model.video import Limits
from training.calibration import expected_error, right
from training.dataset import Item, load_corpus
from training.evaluate import LevelReport, average_precision, evaluate, without_duplicates
from training.findings import versions
from training.instances import Instances
from training.tables import read_annotations
from training.validate import NetworkEngine, gather

Watch = Callable[[int, int], None]

_SEED = 0
_NO_LIMITS = Limits(max_duration_s=36_000, max_pixels=2**30)


class MeasureError(Exception):
    """A folder or a prior that nothing can be measured with."""


class Speed(NamedTuple):
    """Of the whole way: seconds of the clock, frames decoded and seconds of video seen in them."""

    seconds: float
    frames: int
    video_s: float

    @property
    def frames_per_second(self) -> float:
        """Decoded frames of the videos a second of the clock."""
        return self.frames / max(self.seconds, 1e-9)

    @property
    def times_real_time(self) -> float:
        """Seconds of video a second of the clock."""
        return self.video_s / max(self.seconds, 1e-9)


class Worth(NamedTuple):
    """Mean mAP over tIoU 0.1 to 0.9 at both levels."""

    action: float
    body: float

    @property
    def average(self) -> float:
        """Of both levels."""
        return (self.action + self.body) / 2


class Prior(NamedTuple):
    """How often each action occurs, (actions,), and where that was counted."""

    counts: NDArray[np.int64]
    source: str


@dataclass(frozen=True)
class Measurement:
    """Of one bundle on one folder.

    Attributes:
        truth, predictions: segments of the videos. action, body: mAP at both levels.
        baselines: by name, what those get that do not look, or were not trained.
        prior: where the frequencies of the baselines are from.
        calibration_error: expected, of all proposals. shown_error: of those that are shown by default.
    """

    truth: Instances
    predictions: Instances
    action: LevelReport
    body: LevelReport
    speed: Speed
    baselines: dict[str, Worth]
    prior: str
    calibration_error: float
    shown_error: float

    @property
    def worth(self) -> Worth:
        """The bundle's own."""
        return Worth(self.action.average, self.body.average)


def load_items(folder: Path, taxonomy: Taxonomy, subset: str, limit: int | None) -> list[Item]:
    """Videos of a subset, all of them or `limit` evenly spread ones.

    Raises:
        CorpusError: a folder without annotations or with videos missing.
        MeasureError: frames in the place of videos, or nothing annotated.
    """
    items = load_corpus([folder], taxonomy, subset, 0.0).items
    if items[0].path.suffix == ".npz":
        raise MeasureError(
            f"{folder} holds frames, not videos: the whole way begins with decoding; make it with --frames mp4"
        )
    if not any(len(item.labels) for item in items):
        raise MeasureError(f"{folder}: no video of subset {subset!r} has annotations to measure by")
    count = min(limit or len(items), len(items))
    return [items[place] for place in np.linspace(0, len(items) - 1, count).astype(int)]


def read_prior(path: Path, taxonomy: Taxonomy) -> Prior:
    """Frequencies from training annotations: a CSV, or a JSON of which the subset train counts."""
    truth = read_annotations(path, taxonomy, subset="train").instances
    if not len(truth):
        raise MeasureError(f"{path} has no annotations of a subset train to count")
    return Prior(np.bincount(truth.labels, minlength=len(taxonomy.actions)), path.name)


def measure(
    bundle: Bundle, engine: Engine, items: Sequence[Item], prior: Prior | None, watch: Watch, untrained: bool
) -> Measurement:
    """Run a bundle over videos and evaluate what it finds, beside baselines that are measured alike.

    Args:
        bundle: what is measured. engine: runs its network. items: videos. watch: told how many are done, of how many.
        prior: frequencies for the baselines; without, those of the videos themselves, which favours the baselines.
        untrained: also run the same network with random weights, the whole way.

    Raises:
        MeasureError: a video that the service would refuse.
    """
    rounds = 2 if untrained else 1
    found, speed = _run(bundle, engine, items, lambda done: watch(done, rounds * len(items)))
    truth = _truth(items, [one.media.duration_s for one in found])
    predictions = gather(truth, [one.proposals for one in found])
    taxonomy = bundle.manifest.taxonomy
    counted = prior or Prior(
        np.bincount(truth.labels, minlength=len(taxonomy.actions)),
        "the measured videos themselves, which favours the baselines",
    )
    baselines: dict[str, Worth] = {}
    if untrained:
        random = NetworkEngine(untrained_network(bundle), engine.device)
        theirs, _ = _run(bundle, random, items, lambda done: watch(len(items) + done, rounds * len(items)))
        others = gather(truth, [one.proposals for one in theirs])
        baselines["untrained network"] = _worth(truth, others, taxonomy)
    baselines |= _without_looking(truth, predictions, counted.counts, taxonomy)
    hits = right(truth, predictions)
    shown = predictions.scores >= _thresholds(bundle)[predictions.labels]
    return Measurement(
        truth,
        predictions,
        evaluate(truth, predictions, len(taxonomy.actions)),
        evaluate(truth.to_body_level(taxonomy), predictions.to_body_level(taxonomy), len(taxonomy.bodies)),
        speed,
        baselines,
        counted.source,
        expected_error(predictions.scores, hits),
        expected_error(predictions.scores[shown], hits[shown]),
    )


def untrained_network(bundle: Bundle) -> Network:
    """The bundle's architecture as training begins it without pretrained weights, from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return Network(bundle.manifest)


def _run(
    bundle: Bundle, engine: Engine, items: Sequence[Item], watch: Callable[[int], None]
) -> tuple[list[Detections], Speed]:
    detector = Detector(bundle, engine)
    found: list[Detections] = []
    begin = time.perf_counter()
    for place, item in enumerate(items):
        watch(place)
        try:
            with item.path.open("rb") as file:
                found.append(detector.detect(file, limits=_NO_LIMITS))
        except (DetectorError, OSError) as error:
            raise MeasureError(f"{item.path}: {error}") from error
    seconds = time.perf_counter() - begin
    media = [one.media for one in found]
    return found, Speed(
        seconds, sum(one.frames_decoded for one in media), sum(one.duration_s for one in media)
    )


def _truth(items: Sequence[Item], durations: Sequence[float]) -> Instances:
    """Ground truth of the items, with durations as decoded."""
    counts = [len(item.labels) for item in items]
    return Instances(
        videos=tuple(item.name for item in items),
        durations=np.array(durations, float),
        video=np.repeat(np.arange(len(items)), counts),
        segments=np.concatenate([item.segments for item in items]).reshape(-1, 2),
        labels=np.concatenate([item.labels for item in items]),
        scores=np.ones(sum(counts)),
    )


def _thresholds(bundle: Bundle) -> NDArray[np.float64]:
    """(actions,): from which score on a proposal is shown by default."""
    thresholds = bundle.manifest.thresholds
    count = len(bundle.manifest.taxonomy.actions)
    return np.array(thresholds.per_class or (thresholds.default,) * count)


def _without_looking(
    truth: Instances, predictions: Instances, counts: NDArray[np.int64], taxonomy: Taxonomy
) -> dict[str, Worth]:
    """What frequencies alone get, and what the bundle's own segments and scores get with labels dealt anew."""
    of_bodies = np.zeros(len(taxonomy.bodies))
    np.add.at(of_bodies, np.array(taxonomy.body_of), counts)
    body_truth = truth.to_body_level(taxonomy)
    levels = ((truth, counts.astype(float)), (body_truth, of_bodies))
    most, every = (
        Worth(*(_mean_precision(one, whole_videos(one, n, keep), len(n)) for one, n in levels))
        for keep in (1, None)
    )
    dealt = np.random.default_rng(_SEED).permutation(predictions.labels)
    return {
        "most frequent class, whole video": most,
        "every class, whole video": every,
        "own proposals, labels shuffled": _worth(truth, replace(predictions, labels=dealt), taxonomy),
    }


def whole_videos(truth: Instances, counts: NDArray[np.float64], keep: int | None) -> Instances:
    """For each video a segment from its start to its end of the `keep` most frequent classes, or of every class.

    Scored by frequency.
    """
    labels = np.argsort(-counts, kind="stable")[:keep]
    ends = np.repeat(truth.durations, len(labels))
    videos = len(truth.videos)
    return replace(
        truth,
        video=np.repeat(np.arange(videos), len(labels)),
        segments=np.stack([np.zeros(len(ends)), ends], axis=1),
        labels=np.tile(labels, videos),
        scores=np.tile(counts[labels] / max(counts.sum(), 1), videos),
    )


def _worth(truth: Instances, predictions: Instances, taxonomy: Taxonomy) -> Worth:
    return Worth(
        _mean_precision(truth, predictions, len(taxonomy.actions)),
        _mean_precision(
            truth.to_body_level(taxonomy), predictions.to_body_level(taxonomy), len(taxonomy.bodies)
        ),
    )


def _mean_precision(truth: Instances, predictions: Instances, classes: int) -> float:
    """mAP, mean over tIoUs, by the same metric as all else."""
    precision = average_precision(without_duplicates(truth), predictions, classes)
    return float(np.nan_to_num(precision[:, ~np.isnan(precision[0])].mean()))


def record_metrics(bundle: Bundle, subset: str, document: dict[str, Any]) -> None:
    """Write what was measured on a subset into the bundle's manifest, in the place of what was there of it."""
    evaluation, errors = document["evaluation"], document["calibration_error"]
    levels = {level: evaluation[level] for level in ("action", "body")}
    numbers: dict[str, float] = {
        "videos": evaluation["videos"],
        **{f"{level}_mAP": found["average"] for level, found in levels.items()},
        "average_mAP": evaluation["average"],
        **{f"{level}_mAP_0.5": found["mAP"]["0.5"] for level, found in levels.items()},
        "calibration_error": errors["all"],
        "calibration_error_of_shown": errors["shown"],
        **{f"average_mAP_of_{_slug(name)}": one["average"] for name, one in document["baselines"].items()},
    }
    ours = {f"{subset}_{name}": float(value) for name, value in numbers.items() if value is not None}
    others = {
        name: value
        for name, value in (bundle.manifest.metrics or {}).items()
        if not name.startswith(f"{subset}_")
    }
    manifest = bundle.manifest.model_copy(update={"metrics": others | ours})
    aside = bundle.folder / f".{MANIFEST}"
    aside.write_text(manifest.to_json(), encoding="utf-8")
    aside.replace(bundle.folder / MANIFEST)


def _slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")


def to_document(found: Measurement, bundle: Bundle, engine: Engine, device: str) -> dict[str, object]:
    """report.json but for evaluation and errors, which others write."""
    manifest = bundle.manifest
    own = found.worth
    return {
        "bundle": {
            "name": manifest.name,
            "version": manifest.version,
            "weights_sha256": bundle.weights_sha256,
            "trained_on": None if manifest.trained_on is None else manifest.trained_on.data,
        },
        "instances": len(found.truth),
        "baselines": {
            name: one._asdict() | {"average": one.average, "ratio": ratios(own, one)}
            for name, one in found.baselines.items()
        },
        "prior": found.prior,
        "calibration_error": {"all": found.calibration_error, "shown": found.shown_error},
        "speed": found.speed._asdict()
        | {
            "frames_per_second": found.speed.frames_per_second,
            "times_real_time": found.speed.times_real_time,
            "engine": engine.name,
            "device": device,
        },
        **versions(),
    }


def ratios(own: Worth, other: Worth) -> dict[str, float | None]:
    """How many times another's mAP the bundle's is; None where the other has none."""
    pairs = {"action": (own.action, other.action), "body": (own.body, other.body)}
    pairs["average"] = (own.average, other.average)
    return {name: mine / theirs if theirs else None for name, (mine, theirs) in pairs.items()}
