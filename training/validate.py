"""What a trained network is worth: predictions for validation videos, mAP, and thresholds for display."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle import Bundle, Calibration, Manifest, Thresholds
from model.detector import Detector
from model.engines import RawPoints
from model.network import Network
from model.segments import Proposals, calibrate
from model.windows import windows
from training.augment import plain_example
from training.calibration import expected_error, fit, right
from training.dataset import Corpus, CorpusError, Frames, Item, read_frames, read_joints
from training.evaluate import LevelReport, evaluate, match
from training.instances import Instances
from training.keypoint_noise import as_found, features_of
from training.recipe import Given, Recipe

Floats = NDArray[np.float64]

_THRESHOLD_TIOU = 0.5
# Guesses that are right less than once in ten times are not worth showing, whatever F1 says.
_LEAST = 0.1
_UNKNOWN = 0.3  # where nothing is right
_PRIOR = 10  # examples of an action that weigh as much as all others' threshold


class NetworkEngine:
    """A network in training as an engine of the detector."""

    name, precision = "torch", "fp32"

    def __init__(self, network: Network, device: str) -> None:
        self.device = device
        self._network = network.eval().to(device)

    def run(self, clips: NDArray[np.uint8], mask: NDArray[np.bool_]) -> RawPoints:
        """See model.engines.Engine."""
        with torch.inference_mode():
            points = self._network(
                torch.from_numpy(clips[None]).to(self.device), torch.from_numpy(mask[None]).to(self.device)
            )
        return RawPoints(points.logits[0].float().cpu().numpy(), points.offsets[0].float().cpu().numpy())


class JointsEngine(NetworkEngine):
    """The same of a network that reads joints, when those are given in the place of pictures."""

    def run(self, clips: NDArray[Any], mask: NDArray[np.bool_]) -> RawPoints:
        """(clips, frames, 1, joints, 3) of joints; see model.engines.Engine."""
        with torch.inference_mode():
            steps = torch.from_numpy(mask[None]).to(self.device)
            joints = torch.from_numpy(clips).to(self.device).flatten(0, 1)[None, :, 0]
            points = self._network.detector(features_of(self._network, joints, steps), steps)
        return RawPoints(points.logits[0].float().cpu().numpy(), points.offsets[0].float().cpu().numpy())


class Measured(NamedTuple):
    """Of validation videos.

    Attributes:
        truth, predictions: their segments. action, body: mAP at both levels.
        thresholds: from which predictions are shown, by action.
        calibration: of scores. calibration_error: expected, before and after, on the videos that it was not made of.
    """

    truth: Instances
    predictions: Instances
    action: LevelReport
    body: LevelReport
    thresholds: Thresholds
    calibration: Calibration | None
    calibration_error: tuple[float, float]


def measure(
    network: Network,
    manifest: Manifest,
    corpus: Corpus,
    recipe: Recipe,
    device: str,
    watch: Callable[[int, int], None],
    given: Given = "pictures",
) -> Measured:
    """Run the network over a corpus as the service would, or on joints as if they were found, and evaluate it.

    Half of the videos choose the calibration of scores and the thresholds for display, the other half tells what the
    calibration is worth; all are measured for mAP, which needs neither.
    """
    count = (
        len(corpus.items) if not recipe.validate_videos else min(recipe.validate_videos, len(corpus.items))
    )
    chosen = np.unique(np.linspace(0, len(corpus.items) - 1, count).astype(int)).tolist()
    engine = NetworkEngine(network, device) if given == "pictures" else JointsEngine(network, device)
    detector = Detector(Bundle(Path(), manifest), engine)
    found = []
    for place, index in enumerate(chosen):
        watch(place, len(chosen))
        item = corpus.items[index]
        frames = plain_pictures(item, recipe) if given == "pictures" else given_joints(item, recipe, index)
        cut = windows(frames, recipe.input.window_frames, recipe.input.overlap_frames)
        found.append(detector.propose(cut).clipped(0.0, item.duration_s))
    truth = corpus.truth(chosen)
    predictions = gather(truth, found)
    taxonomy = manifest.taxonomy
    ours, others = (
        [side.of_videos(truth.videos[part::2]) for side in (truth, predictions)] for part in (0, 1)
    )
    calibration = fit(*ours)
    shown = [calibrated(one, calibration) for one in (ours[1], others[1])]
    hits = right(*others)
    return Measured(
        truth,
        predictions,
        evaluate(truth, predictions, len(taxonomy.actions)),
        evaluate(truth.to_body_level(taxonomy), predictions.to_body_level(taxonomy), len(taxonomy.bodies)),
        choose_thresholds(ours[0], shown[0], len(taxonomy.actions)),
        calibration,
        (expected_error(others[1].scores, hits), expected_error(shown[1].scores, hits)),
    )


def plain_pictures(item: Item, recipe: Recipe) -> Frames:
    """All frames of an item as a detector sees them."""
    return plain_example(read_frames(item, recipe.input, 1.0, recipe.data.cache), recipe.input)


def given_joints(item: Item, recipe: Recipe, index: int) -> NDArray[np.float32]:
    """(frames, 1, joints, 3) of an item's sidecar, with errors of the last stage that learns from joints."""
    frames = max(round(item.duration_s * recipe.input.fps), 1)
    joints = read_joints(item, recipe.input.fps, frames)
    if joints is None:
        raise CorpusError(f"{item.path} has no sidecar with joints to be measured by")
    error = next((stage.joint_error for stage in recipe.stages[::-1] if stage.given == "joints"), 0.0)
    places = torch.from_numpy(joints.places).float()[None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(index)
        found = as_found(places, torch.ones(1, frames, dtype=torch.bool), error)
    return found[0, :, None].numpy()


def gather(truth: Instances, found: Sequence[Proposals]) -> Instances:
    """What was proposed for each of the truth's videos, in their order."""
    joined = Proposals.join(list(found))
    return Instances(
        videos=truth.videos,
        durations=truth.durations,
        video=np.repeat(np.arange(len(found)), [len(one) for one in found]),
        segments=joined.segments.astype(float),
        labels=joined.labels,
        scores=joined.scores.astype(float),
    )


def calibrated(predictions: Instances, calibration: Calibration | None) -> Instances:
    """Predictions with the scores that a bundle with this calibration gives them."""
    scores = calibrate(predictions.scores.astype(np.float32), calibration)
    return replace(predictions, scores=scores.astype(float))


def choose_thresholds(truth: Instances, predictions: Instances, actions: int) -> Thresholds:
    """Scores from which on predictions are shown, for the best F1 at tIoU 0.5 of each action.

    Of calibrated scores the best threshold is half of the best F1 ("Optimal thresholding of classifiers to maximize F1
    measure", ECML 2014), which fewer examples tell better than the place where F1 happens to be highest; with few of an
    action it is near that of all actions.
    """
    right = match(truth, predictions, (_THRESHOLD_TIOU,))[0]
    overall = _best_f1(predictions.scores, right, len(truth)) / 2 or _UNKNOWN
    per_class = []
    for action in range(actions):
        mine = predictions.labels == action
        positives = int((truth.labels == action).sum())
        own = _best_f1(predictions.scores[mine], right[mine], positives) / 2 or overall
        mixed = (positives * own + _PRIOR * overall) / (positives + _PRIOR)
        per_class.append(max(mixed, _LEAST))
    return Thresholds(default=max(overall, _LEAST), per_class=tuple(per_class))


def _best_f1(scores: Floats, right: NDArray[np.bool_], positives: int) -> float:
    """The highest F1 of any threshold; 0 where nothing is right."""
    if not right.any():
        return 0.0
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    return float((2 * hits / (np.arange(1, len(hits) + 1) + positives)).max())


def metrics_of(measured: Measured) -> dict[str, float]:
    """What a bundle's metrics say, as fractions."""
    action, body = measured.action, measured.body
    return {
        "videos": float(len(measured.truth.videos)),
        "action_mAP": action.average,
        "body_mAP": body.average,
        "average_mAP": (action.average + body.average) / 2,
        "action_mAP_0.5": float(action.mean_precision[4]),
        "body_mAP_0.5": float(body.mean_precision[4]),
        "calibration_error_before": measured.calibration_error[0],
        "calibration_error": measured.calibration_error[1],
    }
