"""Evaluate a network on validation videos: predictions, mAP, calibration and display thresholds."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.bundle import Bundle, Calibration, Manifest, Thresholds
from model.detector import Detector
from model.engines import TorchEngine
from model.head import Points
from model.network import Network
from model.segments import Proposals, calibrate
from model.windows import windows
from training.augment import resize_to_input
from training.dataset import DatasetError, Frames, Sample, VideoDataset, read_frames, read_keypoints
from training.evaluation.calibration import expected_calibration_error, find_correct, fit_calibration
from training.evaluation.metrics import LevelReport, evaluate, match
from training.instances import Instances
from training.keypoint_noise import add_keypoint_noise, features_from_keypoints
from training.recipe import Inputs, Recipe

Floats = NDArray[np.float64]

_THRESHOLD_TIOU = 0.5
# Proposals that are correct less than once in ten times are not displayed, even if that would improve F1.
_MIN_THRESHOLD = 0.1
_DEFAULT_THRESHOLD = 0.3  # used if no prediction is correct
_PRIOR_WEIGHT = 10  # weight of the overall threshold, as a number of ground truth instances of an action


class KeypointNetwork(nn.Module):
    """A network with a pose backbone that reads keypoints (B, clips, frames, 1, keypoints, 3) instead of clips."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Tensor, mask: Tensor) -> Points:
        """Predict points; see Network.forward."""
        features = features_from_keypoints(self.network, clips.flatten(1, 2)[:, :, 0], mask)
        return self.network.detector(features, mask)  # type: ignore[no-any-return]


class ValidationResult(NamedTuple):
    """Predictions and metrics on validation videos.

    Attributes:
        truth, predictions: segments of all videos.
        action, body: metrics at both levels.
        thresholds: lowest displayed score of each action.
        calibration: of the scores.
        calibration_error: expected calibration error before and after calibration, on videos that it was not fitted on.
    """

    truth: Instances
    predictions: Instances
    action: LevelReport
    body: LevelReport
    thresholds: Thresholds
    calibration: Calibration | None
    calibration_error: tuple[float, float]


def evaluate_network(
    network: Network,
    manifest: Manifest,
    dataset: VideoDataset,
    recipe: Recipe,
    device: str,
    on_progress: Callable[[int, int], None],
    given: Inputs = "pictures",
) -> ValidationResult:
    """Run the network on a data set as the service would, or on noisy ground truth keypoints, and evaluate it.

    Calibration and display thresholds are fitted on every second video; the calibration error is measured on the
    others. mAP needs neither and is measured on all videos.
    """
    count = len(dataset.samples) if not recipe.validate_videos else min(recipe.validate_videos, len(dataset.samples))
    chosen = np.unique(np.linspace(0, len(dataset.samples) - 1, count).astype(int)).tolist()
    engine = TorchEngine(network if given == "pictures" else KeypointNetwork(network), device)
    detector = Detector(Bundle(Path(), manifest), engine)
    proposals = []
    for done, index in enumerate(chosen):
        on_progress(done, len(chosen))
        sample = dataset.samples[index]
        frames = (
            read_input_frames(sample, recipe) if given == "pictures" else read_noisy_keypoints(sample, recipe, index)
        )
        cut_windows = windows(frames, recipe.input.window_frames, recipe.input.overlap_frames)
        proposals.append(detector.propose(cut_windows).clipped(0.0, sample.duration_s))
    truth = dataset.truth(chosen)
    predictions = to_instances(truth, proposals)
    taxonomy = manifest.taxonomy
    fitted_on, others = (
        [side.select_videos(truth.videos[part::2]) for side in (truth, predictions)] for part in (0, 1)
    )
    calibration = fit_calibration(*fitted_on)
    calibrated = [apply_calibration(half, calibration) for half in (fitted_on[1], others[1])]
    correct = find_correct(*others)
    return ValidationResult(
        truth,
        predictions,
        evaluate(truth, predictions, len(taxonomy.actions)),
        evaluate(truth.to_body_level(taxonomy), predictions.to_body_level(taxonomy), len(taxonomy.bodies)),
        choose_thresholds(fitted_on[0], calibrated[0], len(taxonomy.actions)),
        calibration,
        (
            expected_calibration_error(others[1].scores, correct),
            expected_calibration_error(calibrated[1].scores, correct),
        ),
    )


def read_input_frames(sample: Sample, recipe: Recipe) -> Frames:
    """Read all frames of a sample at the network's input size."""
    return resize_to_input(read_frames(sample, recipe.input, 1.0, recipe.data.cache), recipe.input)


def read_noisy_keypoints(sample: Sample, recipe: Recipe, index: int) -> NDArray[np.float32]:
    """Read the keypoints (frames, 1, keypoints, 3) of a sample's sidecar and add noise.

    The noise level is the keypoint_noise of the last stage that is trained on keypoints.
    """
    frames = max(round(sample.duration_s * recipe.input.fps), 1)
    keypoints = read_keypoints(sample, recipe.input.fps, frames)
    if keypoints is None:
        raise DatasetError(f"{sample.path} has no sidecar with keypoints to be measured by")
    error = next((stage.keypoint_noise for stage in recipe.stages[::-1] if stage.given == "keypoints"), 0.0)
    positions = torch.from_numpy(keypoints.places).float()[None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(index)
        noisy = add_keypoint_noise(positions, torch.ones(1, frames, dtype=torch.bool), error)
    return noisy[0, :, None].numpy()


def to_instances(truth: Instances, proposals: Sequence[Proposals]) -> Instances:
    """Join the proposals of each video; they are in the order of `truth.videos`."""
    joined = Proposals.join(list(proposals))
    return Instances(
        videos=truth.videos,
        durations=truth.durations,
        video=np.repeat(np.arange(len(proposals)), [len(one) for one in proposals]),
        segments=joined.segments.astype(float),
        labels=joined.labels,
        scores=joined.scores.astype(float),
    )


def apply_calibration(predictions: Instances, calibration: Calibration | None) -> Instances:
    """Return the predictions with calibrated scores."""
    scores = calibrate(predictions.scores.astype(np.float32), calibration)
    return replace(predictions, scores=scores.astype(float))


def choose_thresholds(truth: Instances, predictions: Instances, actions: int) -> Thresholds:
    """Choose the lowest displayed score of each action, for the best F1 at tIoU 0.5.

    With calibrated scores the optimal threshold is half of the best F1 ("Optimal thresholding of classifiers to
    maximize F1 measure", ECML 2014). With few examples this estimate has less variance than the position of the
    highest F1. The threshold of an action with few instances is shrunk towards that of all actions.
    """
    correct = match(truth, predictions, (_THRESHOLD_TIOU,))[0]
    overall = _best_f1(predictions.scores, correct, len(truth)) / 2 or _DEFAULT_THRESHOLD
    per_class = []
    for action in range(actions):
        of_action = predictions.labels == action
        positives = int((truth.labels == action).sum())
        own = _best_f1(predictions.scores[of_action], correct[of_action], positives) / 2 or overall
        mixed = (positives * own + _PRIOR_WEIGHT * overall) / (positives + _PRIOR_WEIGHT)
        per_class.append(max(mixed, _MIN_THRESHOLD))
    return Thresholds(default=max(overall, _MIN_THRESHOLD), per_class=tuple(per_class))


def _best_f1(scores: Floats, correct: NDArray[np.bool_], positives: int) -> float:
    """Return the highest F1 over all thresholds, 0 if no prediction is correct."""
    if not correct.any():
        return 0.0
    hits = np.cumsum(correct[np.argsort(-scores, kind="stable")])
    return float((2 * hits / (np.arange(1, len(hits) + 1) + positives)).max())


def collect_metrics(result: ValidationResult) -> dict[str, float]:
    """Return the metrics that are stored in a bundle, as fractions."""
    action, body = result.action, result.body
    return {
        "videos": float(len(result.truth.videos)),
        "action_mAP": action.average,
        "body_mAP": body.average,
        "average_mAP": (action.average + body.average) / 2,
        "action_mAP_0.5": float(action.mean_precision[4]),
        "body_mAP_0.5": float(body.mean_precision[4]),
        "calibration_error_before": result.calibration_error[0],
        "calibration_error": result.calibration_error[1],
    }
