"""A training run: recipe, data, output folder, training examples, and the bundle that it starts from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset

from model.architecture import Architecture, BackboneConfig
from model.arrays import Images
from model.bundle import LOCATOR, WEIGHTS, Bundle, InputConfig, Manifest, Thresholds, Training
from model.errors import BundleError
from model.network import Network
from model.taxonomy import Taxonomy
from training.augment import Example, make_example
from training.dataset import DatasetError, Sample, VideoDataset, read_frames, read_keypoints
from training.keypoint_noise import get_keypoint_reader
from training.recipe import LOCATOR_FILE, Recipe, StageConfig
from training.weights import WeightsError, load_backbone

# Prefix of the pose estimator's weights in a network.
FINDER = "backbone.finder."
CHECKPOINT, HISTORY, RECIPE, BACKBONE = "checkpoint.pt", "history.jsonl", "recipe.yaml", "backbone.safetensors"


class TrainingError(Exception):
    """Raised for a run that cannot be started, continued or resumed."""


@dataclass(frozen=True)
class Run:
    """A training run; `keypoints` is their number in the sidecars, `held_out` is for stages with validate_every."""

    recipe: Recipe
    manifest: Manifest
    dataset: VideoDataset
    out: Path
    keypoints: int
    held_out: VideoDataset | None = None

    def digest(self) -> str:
        """Return a digest of the training and held-out videos."""
        return self.dataset.digest() + (self.held_out.digest() if self.held_out is not None else "")


def make_manifest(recipe: Recipe, taxonomy: Taxonomy, data: str) -> Manifest:
    """Return the manifest of the bundle that a recipe trains. Raises TrainingError or BundleError."""
    if recipe.start is not None:
        start = Bundle.load(recipe.start)
        if start.manifest.taxonomy != taxonomy:
            raise TrainingError(f"{recipe.start} has other labels than the annotations")
        return tuned_manifest(start, recipe, data)
    return Manifest(
        name=recipe.name,
        version=recipe.version,
        licence=recipe.licence,
        trained_on=Training(data=data, synthetic=recipe.synthetic, notes=recipe.notes),
        taxonomy=taxonomy,
        input=recipe.input,
        architecture=_match_pretrained(recipe),
        postprocessing=recipe.postprocessing,
        thresholds=Thresholds(default=0.2),
    )


def _match_pretrained(recipe: Recipe) -> Architecture:
    backbone = recipe.architecture.backbone
    if recipe.backbone is None or not isinstance(backbone, BackboneConfig):
        return recipe.architecture
    try:
        pretrained, _ = load_backbone(recipe.backbone)
    except (WeightsError, OSError) as error:
        raise TrainingError(str(error)) from error
    known = {name: getattr(pretrained, name) for name in ("norm_eps", "final_norm", "position_grid", "mlp_ratio")}
    return recipe.architecture.model_copy(update={"backbone": backbone.model_copy(update=known)})


def tuned_manifest(start: Bundle, recipe: Recipe, data: str) -> Manifest:
    """Return the manifest of a fine-tuned bundle, without the locator, which the export adds."""
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


def start_network(network: Network, folder: Path) -> None:
    """Load a bundle's weights into a network, as float32. Raises BundleError if they are of another architecture."""
    try:
        network.load_state_dict(_load_float32(folder))
    except RuntimeError as error:
        raise BundleError(
            f"{folder}: its weights do not fit the recipe; leave input and architecture as the bundle's: {error}"
        ) from error


def start_finder(network: Network, folder: Path) -> None:
    """Load only the pose estimator of a bundle. Raises BundleError if it has none of this architecture."""
    Bundle.load(folder)
    weights = {
        name.removeprefix(FINDER): value for name, value in _load_float32(folder).items() if name.startswith(FINDER)
    }
    try:
        get_keypoint_reader(network).finder.load_state_dict(weights)
    except RuntimeError as error:
        raise BundleError(f"finder {folder}: its finder of keypoints does not fit the recipe's: {error}") from error


def _load_float32(folder: Path) -> dict[str, Tensor]:
    weights = load_file(folder / WEIGHTS)
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def find_locator(recipe: dict[str, Any]) -> Path | None:
    """Return the locator file for a recipe (a parsed YAML document): the start bundle's or the shipped one, if any."""
    if recipe.get("framing") != "person":
        return None
    locator = Path(recipe["start"]) / LOCATOR if recipe.get("start") else LOCATOR_FILE
    return locator if locator.exists() else LOCATOR_FILE


class Examples(Dataset[Example]):
    """Training examples of a stage; each is determined by the seed, the stage and its number."""

    def __init__(self, run: Run, stage: int) -> None:
        self._run, self._stage = run, stage
        given = run.recipe.stages[stage].given
        self._source = run.dataset if given == "keypoints" else run.dataset.with_frames()

    def __getitem__(self, number: int) -> Example:
        recipe = self._run.recipe
        rng = np.random.default_rng(np.random.SeedSequence((recipe.seed, self._stage, number)))
        sample = self._source.draw(rng)
        stage = recipe.stages[self._stage]
        config, frames = self._read_frames(sample, stage)
        keypoints = read_keypoints(sample, config.fps, len(frames)) if self._run.keypoints else None
        if keypoints is None and stage.needs_keypoints:
            raise DatasetError(
                f"{sample.path} has no sidecar with keypoints, which stage {self._stage} learns from: take videos of "
                "mmad synth, or a recipe of another backbone"
            )
        return make_example(
            rng, frames, sample.segments, sample.labels, keypoints, config, recipe.augment, stage.frames,
            scattered=stage.objective == "keypoints",
        )  # fmt: skip

    def _read_frames(self, sample: Sample, stage: StageConfig) -> tuple[InputConfig, Images]:
        recipe = self._run.recipe
        if stage.given == "pictures":
            return recipe.input, read_frames(sample, recipe.input, recipe.data.margin, recipe.data.cache)
        count = max(round(sample.duration_s * recipe.input.fps), 1)
        return recipe.input.model_copy(update={"height": 1, "width": 1}), np.zeros((count, 1, 1, 3), np.uint8)
