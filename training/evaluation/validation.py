"""Evaluate a network on validation videos: predictions, mAP, calibration and display thresholds."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from model.arrays import Booleans, Doubles
from model.bundle import Bundle, Calibration, Manifest, Thresholds
from model.detector import Detector
from model.engines import TorchEngine
from model.head import Points
from model.network import Network
from model.segments import Proposals, calibrate
from model.windows import windows
from training.augment import resize_to_input
from training.dataset import DatasetError, Sample, VideoDataset, read_frames, read_keypoints, spread
from training.evaluation.calibration import expected_calibration_error, fit_calibration
from training.evaluation.metrics import LevelReport, evaluate_levels, find_correct
from training.instances import Instances
from training.keypoint_noise import add_keypoint_noise, features_from_keypoints
from training.recipe import Inputs, Recipe

# Minimum number of ground truth instances for fitting calibration and thresholds.
MIN_ACTIONS = 30
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
        """Predict points, see Network.forward."""
        features = features_from_keypoints(self.network, clips.flatten(1, 2)[:, :, 0], mask)
        return self.network.detector(features, mask)  # type: ignore[no-any-return]


class ValidationResult(NamedTuple):
    """Result on validation videos; `calibration_error` is before and after calibration, on videos not fitted on."""

    truth: Instances
    predictions: Instances
    action: LevelReport
    body: LevelReport
    thresholds: Thresholds
    calibration: Calibration | None
    calibration_error: tuple[float, float]


class CalibrationChoice(NamedTuple):
    """Validation result with the calibration and thresholds to use, and an explanation of where they are from."""

    measured: ValidationResult
    explanation: str


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
    chosen = spread(len(dataset.samples), recipe.validate_videos)
    engine = TorchEngine(network if given == "pictures" else KeypointNetwork(network), device)
    detector = Detector(Bundle(Path(), manifest), engine)
    proposals = []
    for done, index in enumerate(chosen):
        on_progress(done, len(chosen))
        sample = dataset.samples[index]
        inputs = read_inputs(sample, recipe, index, given)
        cut_windows = windows(inputs, recipe.input.window_frames, recipe.input.overlap_frames)
        proposals.append(detector.propose(cut_windows).clipped(0.0, sample.duration_s))
    truth = dataset.truth(chosen)
    predictions = to_instances(truth, proposals)
    fitted_on, others = (
        [side.select_videos(truth.videos[part::2]) for side in (truth, predictions)] for part in (0, 1)
    )
    calibration = fit_calibration(*fitted_on)
    return ValidationResult(
        truth,
        predictions,
        *evaluate_levels(truth, predictions, manifest.taxonomy),
        choose_thresholds(fitted_on[0], calibrate_scores(fitted_on[1], calibration), len(manifest.taxonomy.actions)),
        calibration,
        _measure_calibration(others[0], others[1], calibration),
    )


def _measure_calibration(
    truth: Instances, predictions: Instances, calibration: Calibration | None
) -> tuple[float, float]:
    """Return the expected calibration error before and after calibration."""
    correct = find_correct(truth, predictions)
    calibrated = calibrate_scores(predictions, calibration)
    before = expected_calibration_error(predictions.scores, correct)
    return before, expected_calibration_error(calibrated.scores, correct)


def read_inputs(sample: Sample, recipe: Recipe, index: int, given: Inputs) -> Any:
    """Read all frames at the input size, or keypoints (frames, 1, keypoints, 3) with noise of the seed `index`."""
    if given == "pictures":
        return resize_to_input(read_frames(sample, recipe.input, 1.0, recipe.data.cache), recipe.input)
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


def calibrate_scores(predictions: Instances, calibration: Calibration | None) -> Instances:
    """Return predictions with calibrated scores."""
    scores = calibrate(predictions.scores.astype(np.float32), calibration)
    return replace(predictions, scores=scores.astype(float))


def choose_calibration(measured: ValidationResult, before: Manifest) -> CalibrationChoice:
    """Choose the fitted calibration and thresholds, or with too few actions those of a trained start bundle."""
    half = measured.truth.select_videos(measured.truth.videos[0::2])
    if len(half) >= MIN_ACTIONS:
        return CalibrationChoice(measured, f"calibration and thresholds are fitted on {len(half)} held-out actions")
    few = f"{len(half)} held-out actions to fit calibration and thresholds on, {MIN_ACTIONS} are wanted"
    if before.trained_on is None:
        return CalibrationChoice(
            measured, f"only {few}, and {before.name} was never trained: take no score for more than an order"
        )
    others = measured.truth.videos[1::2]
    truth, predictions = (side.select_videos(others) for side in (measured.truth, measured.predictions))
    error = (measured.calibration_error[0], _measure_calibration(truth, predictions, before.calibration)[1])
    updated = measured._replace(thresholds=before.thresholds, calibration=before.calibration, calibration_error=error)
    return CalibrationChoice(updated, f"only {few}: those of {before.name} are kept")


def choose_thresholds(truth: Instances, predictions: Instances, actions: int) -> Thresholds:
    """Choose the lowest displayed score of each action, for the best F1 at tIoU 0.5.

    With calibrated scores the optimal threshold is half of the best F1 ("Optimal thresholding of classifiers to
    maximize F1 measure", ECML 2014). With few examples this estimate has less variance than the position of the
    highest F1. The threshold of an action with few instances is shrunk towards that of all actions.
    """
    correct = find_correct(truth, predictions)
    overall = _best_f1(predictions.scores, correct, len(truth)) / 2 or _DEFAULT_THRESHOLD
    per_class = []
    for action in range(actions):
        of_action = predictions.labels == action
        positives = int((truth.labels == action).sum())
        own = _best_f1(predictions.scores[of_action], correct[of_action], positives) / 2 or overall
        mixed = (positives * own + _PRIOR_WEIGHT * overall) / (positives + _PRIOR_WEIGHT)
        per_class.append(max(mixed, _MIN_THRESHOLD))
    return Thresholds(default=max(overall, _MIN_THRESHOLD), per_class=tuple(per_class))


def _best_f1(scores: Doubles, correct: Booleans, positives: int) -> float:
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
