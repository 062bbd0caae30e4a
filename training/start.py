"""Start training from a bundle: load its weights, and derive the manifest of the new bundle."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from model.bundle import LOCATOR, WEIGHTS, Bundle, Manifest, Training
from model.errors import BundleError
from model.network import Network
from training.keypoint_noise import get_keypoint_reader
from training.recipe import LOCATOR_FILE, Recipe


def start_network(network: Network, folder: Path) -> None:
    """Load a bundle's weights into a network, as float32.

    Raises BundleError if the weights belong to another architecture.
    """
    try:
        network.load_state_dict(_load_float32(folder))
    except RuntimeError as error:
        raise BundleError(
            f"{folder}: its weights do not fit the recipe; leave input and architecture as the bundle's: {error}"
        ) from error


def start_finder(network: Network, folder: Path) -> None:
    """Load only the pose estimator of a bundle.

    Raises BundleError if the bundle is invalid, or has no pose estimator or one of another architecture.
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
    weights = load_file(folder / WEIGHTS)
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def find_locator(recipe: dict[str, Any]) -> Path | None:
    """Return the locator file for a recipe (a parsed YAML document): the start bundle's, or the shipped one.

    None without framing.
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
    names = ("name", "version", "licence", "input", "architecture", "postprocessing")
    settings = {name: getattr(recipe, name) for name in names}
    return Manifest(**dict(before) | settings | {"trained_on": trained, "metrics": None, "locator": None, "files": {}})


def _describe_training(before: Manifest) -> str:
    if before.trained_on is None:
        return "began with weights that were never trained"
    kind = "synthetic people" if before.trained_on.synthetic else before.trained_on.data
    notes = f" ({before.trained_on.notes})" if before.trained_on.notes else ""
    return f"began with weights trained on {kind}{notes}"
