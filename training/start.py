"""Start training from a bundle: load its weights, and derive the manifest of the new bundle."""

from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from model.bundle import LOCATOR, WEIGHTS, Bundle, Manifest, Training
from model.errors import BundleError
from model.network import Network
from training.evaluation.calibration import expected_calibration_error, find_correct
from training.evaluation.validation import ValidationResult, apply_calibration
from training.keypoint_noise import get_keypoint_reader
from training.recipe import LOCATOR_FILE, Recipe

# Minimum number of ground truth instances for fitting calibration and thresholds.
MIN_ACTIONS = 30


def start_network(network: Network, folder: Path) -> None:
    """Load a bundle's weights into a network, as float32.

    Raises:
        BundleError: the weights belong to another architecture.
    """
    try:
        network.load_state_dict(_load_float32(folder))
    except RuntimeError as error:
        raise BundleError(
            f"{folder}: its weights do not fit the recipe; leave input and architecture as the bundle's: {error}"
        ) from error


def start_finder(network: Network, folder: Path) -> None:
    """Load only the finder of keypoints from a bundle.

    Raises:
        BundleError: the bundle is invalid, or has no finder or one of another architecture.
    """
    Bundle.load(folder)
    prefix = "backbone.finder."
    weights = {
        name.removeprefix(prefix): value for name, value in _load_float32(folder).items() if name.startswith(prefix)
    }
    try:
        get_keypoint_reader(network).finder.load_state_dict(weights)
    except RuntimeError as error:
        raise BundleError(f"finder {folder}: its finder of keypoints does not fit the recipe's: {error}") from error


def _load_float32(folder: Path) -> dict[str, Tensor]:
    """Load a bundle's weights, which may be stored as fp16, as float32."""
    weights = load_file(folder / WEIGHTS)
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def find_locator(recipe: dict[str, Any]) -> Path | None:
    """Return the locator file for a run's bundle: that of the start bundle, or the shipped one; None without framing.

    Args:
        recipe: the recipe as a parsed YAML document.
    """
    if recipe.get("framing") != "person":
        return None
    locator = Path(recipe["start"]) / LOCATOR if recipe.get("start") else LOCATOR_FILE
    return locator if locator.exists() else LOCATOR_FILE


def tuned_manifest(start: Bundle, recipe: Recipe, data: str) -> Manifest:
    """Return the manifest of a fine-tuned bundle: that of the start bundle, with the settings of the recipe.

    The locator is added when the bundle is exported.
    """
    before = start.manifest
    trained = Training(
        data=f"{data}; began with bundle {before.name} {before.version}, weights {start.weights_sha256}",
        synthetic=recipe.synthetic,
        notes="; ".join(part for part in (recipe.notes, _describe_training(before)) if part),
    )
    settings = {
        name: getattr(recipe, name)
        for name in ("name", "version", "licence", "input", "architecture", "postprocessing")
    }
    return Manifest(
        **(dict(before) | settings | {"trained_on": trained, "metrics": None, "locator": None, "files": {}})
    )


def _describe_training(before: Manifest) -> str:
    """Return a note about the training of the start bundle."""
    if before.trained_on is None:
        return "began with weights that were never trained"
    kind = "synthetic people" if before.trained_on.synthetic else before.trained_on.data
    notes = f" ({before.trained_on.notes})" if before.trained_on.notes else ""
    return f"began with weights trained on {kind}{notes}"


class CalibrationChoice(NamedTuple):
    """Validation result with the calibration and thresholds to use, and an explanation of where they are from."""

    measured: ValidationResult
    explanation: str


def choose_calibration(measured: ValidationResult, before: Manifest) -> CalibrationChoice:
    """Choose calibration and thresholds: those fitted on held-out videos, or with too few actions the start bundle's.

    They are chosen together, since thresholds apply to calibrated scores. An untrained start bundle has none to reuse.
    """
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
    calibrated = apply_calibration(predictions, before.calibration)
    error = (
        measured.calibration_error[0],
        expected_calibration_error(calibrated.scores, find_correct(truth, predictions)),
    )
    updated = measured._replace(thresholds=before.thresholds, calibration=before.calibration, calibration_error=error)
    return CalibrationChoice(updated, f"only {few}: those of {before.name} are kept")
