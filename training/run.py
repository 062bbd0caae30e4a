"""A training run: recipe, data, output folder, and its training examples."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from model.architecture import Architecture, BackboneConfig
from model.arrays import Images
from model.bundle import Bundle, InputConfig, Manifest, Thresholds, Training
from model.taxonomy import Taxonomy
from training.augment import Example, make_example
from training.dataset import DatasetError, Sample, VideoDataset, read_frames, read_keypoints
from training.recipe import Recipe, StageConfig
from training.start import tuned_manifest
from training.weights import WeightsError, load_backbone

CHECKPOINT, HISTORY, RECIPE, BACKBONE = "checkpoint.pt", "history.jsonl", "recipe.yaml", "backbone.safetensors"


class TrainingError(Exception):
    """Raised for a run that cannot be started, continued or resumed."""


@dataclass(frozen=True)
class Run:
    """Recipe, data and output folder of a training run.

    `keypoints` is their number in the sidecars, 0 if there are none; `held_out` is for stages with validate_every.
    """

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
    """Return the manifest of the bundle that a recipe trains.

    Raises TrainingError if pretrained weights cannot be read, or the start bundle has other labels, and BundleError if
    the start bundle does not match its hashes.
    """
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
    """Return the recipe's architecture with the normalisation and position settings of its pretrained backbone."""
    backbone = recipe.architecture.backbone
    if recipe.backbone is None or not isinstance(backbone, BackboneConfig):
        return recipe.architecture
    try:
        pretrained, _ = load_backbone(recipe.backbone)
    except (WeightsError, OSError) as error:
        raise TrainingError(str(error)) from error
    known = {name: getattr(pretrained, name) for name in ("norm_eps", "final_norm", "position_grid", "mlp_ratio")}
    return recipe.architecture.model_copy(update={"backbone": backbone.model_copy(update=known)})


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
