"""A bundle as what training begins with: its weights, its manifest, and what stays of it."""

from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from model.bundle import LOCATOR, WEIGHTS, Bundle, Manifest, Training
from model.errors import BundleError
from model.network import Network
from training.evaluation.calibration import expected_calibration_error, find_correct
from training.evaluation.validation import ValidationResult, apply_calibration
from training.keypoint_noise import get_joint_reader
from training.recipe import LOCATOR_FILE, Recipe

# Annotated actions in the half of the held-out videos that calibration and thresholds are fitted on.
ENOUGH_ACTIONS = 30


def start_network(network: Network, folder: Path) -> None:
    """Put in a bundle's weights, as float32 whatever its file keeps them as.

    Raises:
        BundleError: they are another network's.
    """
    try:
        network.load_state_dict(_wide(folder))
    except RuntimeError as error:
        raise BundleError(
            f"{folder}: its weights do not fit the recipe; leave input and architecture as the bundle's: {error}"
        ) from error


def start_finder(network: Network, folder: Path) -> None:
    """Put in a bundle's finder of joints alone.

    Raises:
        BundleError: no whole bundle, or one that has none, or another one.
    """
    Bundle.load(folder)
    prefix = "backbone.finder."
    weights = {
        name.removeprefix(prefix): value for name, value in _wide(folder).items() if name.startswith(prefix)
    }
    try:
        get_joint_reader(network).finder.load_state_dict(weights)
    except RuntimeError as error:
        raise BundleError(
            f"finder {folder}: its finder of joints does not fit the recipe's: {error}"
        ) from error


def _wide(folder: Path) -> dict[str, Tensor]:
    """A bundle's weights as float32, whatever its file keeps them as."""
    weights = load_file(folder / WEIGHTS)
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def find_locator(recipe: dict[str, Any]) -> Path | None:
    """The locator's file that comes with a run's bundle: that of the bundle it started from, or mmad's own.

    Args:
        recipe: the document of the run.
    """
    if recipe.get("framing") != "person":
        return None
    before = Path(recipe["start"]) / LOCATOR if recipe.get("start") else LOCATOR_FILE
    return before if before.exists() else LOCATOR_FILE


def tuned_manifest(start: Bundle, recipe: Recipe, data: str) -> Manifest:
    """Of the bundle that comes of another: all of the other's but for what the recipe says, and what it is made of.

    A locator comes with its file, when the bundle is exported.
    """
    before = start.manifest
    trained = Training(
        data=f"{data}; began with bundle {before.name} {before.version}, weights {start.weights_sha256}",
        synthetic=recipe.synthetic,
        notes="; ".join(part for part in (recipe.notes, _past(before)) if part),
    )
    ours = {
        name: getattr(recipe, name)
        for name in ("name", "version", "licence", "input", "architecture", "postprocessing")
    }
    return Manifest(
        **(dict(before) | ours | {"trained_on": trained, "metrics": None, "locator": None, "files": {}})
    )


def _past(before: Manifest) -> str:
    if before.trained_on is None:
        return "began with weights that were never trained"
    kind = "synthetic people" if before.trained_on.synthetic else before.trained_on.data
    said = f" ({before.trained_on.notes})" if before.trained_on.notes else ""
    return f"began with weights trained on {kind}{said}"


class CalibrationChoice(NamedTuple):
    """What scores of a tuned bundle mean: measured values with the calibration to be used, and where that is from."""

    measured: ValidationResult
    explanation: str


def choose_calibration(measured: ValidationResult, before: Manifest) -> CalibrationChoice:
    """Calibration and thresholds as fitted on held-out videos; with too few actions, those of the first bundle.

    Both go together, since thresholds are of calibrated scores. A bundle that was never trained has none worth keeping.
    """
    half = measured.truth.select_videos(measured.truth.videos[0::2])
    if len(half) >= ENOUGH_ACTIONS:
        return CalibrationChoice(
            measured, f"calibration and thresholds are fitted on {len(half)} held-out actions"
        )
    few = f"{len(half)} held-out actions to fit calibration and thresholds on, {ENOUGH_ACTIONS} are wanted"
    if before.trained_on is None:
        return CalibrationChoice(
            measured, f"only {few}, and {before.name} was never trained: take no score for more than an order"
        )
    others = measured.truth.videos[1::2]
    truth, found = (side.select_videos(others) for side in (measured.truth, measured.predictions))
    kept = apply_calibration(found, before.calibration)
    error = (
        measured.calibration_error[0],
        expected_calibration_error(kept.scores, find_correct(truth, found)),
    )
    settled = measured._replace(
        thresholds=before.thresholds, calibration=before.calibration, calibration_error=error
    )
    return CalibrationChoice(settled, f"only {few}: those of {before.name} are kept")
