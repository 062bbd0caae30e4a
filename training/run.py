"""A run: what is trained on what, where it is kept, and its examples by their number."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from model.architecture import Architecture, BackboneConfig
from model.bundle import Bundle, InputConfig, Manifest, Thresholds, Training
from model.taxonomy import Taxonomy
from training.augment import Example, make_example
from training.dataset import Corpus, CorpusError, Frames, Item, Source, read_frames, read_joints
from training.recipe import Recipe, StageConfig
from training.start import tuned_manifest
from training.weights import WeightsError, load_backbone

CHECKPOINT, HISTORY, RECIPE, BACKBONE = (
    "checkpoint.pt",
    "history.jsonl",
    "recipe.yaml",
    "backbone.safetensors",
)


class TrainingError(Exception):
    """A run that cannot begin, go on or be taken up again."""


@dataclass(frozen=True)
class Run:
    """What is trained, on what, and where it is kept.

    Attributes:
        recipe: how. manifest: of the network. corpus: where training videos come from.
        out: folder of the run. joints: how many joints sidecars have, 0 if none.
        held_out: videos that stages with validate_every are measured on.
    """

    recipe: Recipe
    manifest: Manifest
    corpus: Source
    out: Path
    joints: int
    held_out: Corpus | None = None

    def digest(self) -> str:
        """Of the videos to train on and of those held out."""
        return self.corpus.digest() + (self.held_out.digest() if self.held_out is not None else "")


def make_manifest(recipe: Recipe, taxonomy: Taxonomy, data: str) -> Manifest:
    """Of the bundle that a recipe makes.

    Raises:
        TrainingError: pretrained weights that cannot be read, or a bundle of other labels.
        BundleError: a bundle to start from that does not fit its hashes.
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
        architecture=_as_pretrained(recipe),
        postprocessing=recipe.postprocessing,
        thresholds=Thresholds(default=0.2),
    )


def _as_pretrained(recipe: Recipe) -> Architecture:
    """The recipe's architecture, with what only the pretrained weights know: how they normalise and count places."""
    backbone = recipe.architecture.backbone
    if recipe.backbone is None or not isinstance(backbone, BackboneConfig):
        return recipe.architecture
    try:
        theirs, _ = load_backbone(recipe.backbone)
    except (WeightsError, OSError) as error:
        raise TrainingError(str(error)) from error
    known = {name: getattr(theirs, name) for name in ("norm_eps", "final_norm", "position_grid", "mlp_ratio")}
    return recipe.architecture.model_copy(update={"backbone": backbone.model_copy(update=known)})


class Examples(Dataset[Example]):
    """Examples of a stage by their number."""

    def __init__(self, run: Run, stage: int) -> None:
        self._run, self._stage = run, stage
        given = run.recipe.stages[stage].given
        self._source = run.corpus if given == "joints" else run.corpus.with_pictures()

    def __getitem__(self, number: int) -> Example:
        recipe = self._run.recipe
        rng = np.random.default_rng(np.random.SeedSequence((recipe.seed, self._stage, number)))
        before = sum(stage.steps * stage.batch for stage in recipe.stages[: self._stage])
        item = self._source.draw(rng, before + number)
        stage = recipe.stages[self._stage]
        seen, frames = self._pictures(item, stage)
        joints = read_joints(item, seen.fps, len(frames)) if self._run.joints else None
        if joints is None and (stage.objective == "joints" or stage.given == "joints"):
            raise CorpusError(
                f"{item.path} has no sidecar with joints, which stage {self._stage} learns from: take videos of mmad "
                "synth, or a recipe of another backbone"
            )
        return make_example(
            rng, frames, item.segments, item.labels, joints, seen, recipe.augment, stage.frames,
            scattered=stage.objective == "joints",
        )  # fmt: skip

    def _pictures(self, item: Item, stage: StageConfig) -> tuple[InputConfig, Frames]:
        """A video's frames and what is to be made of them; single black pixels where a stage looks at none."""
        recipe = self._run.recipe
        if stage.given == "pictures":
            return recipe.input, read_frames(item, recipe.input, recipe.data.margin, recipe.data.cache)
        count = max(round(item.duration_s * recipe.input.fps), 1)
        return recipe.input.model_copy(update={"height": 1, "width": 1}), np.zeros((count, 1, 1, 3), np.uint8)
