"""How a network is trained, as one strict document: YAML with overrides."""

from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.architecture import Architecture
from model.bundle import MANIFEST, InputConfig, PostprocessingConfig, check_fit, read_manifest
from model.errors import BundleError
from training.tuning import Tuning

CONFIGS = resources.files("training") / "configs"

Inputs = Literal["pictures", "joints"]
LOCATOR_FILE = Path(str(resources.files("training") / "locator.onnx"))


class RecipeError(Exception):
    """A recipe that cannot be read, or that names what does not exist."""


class Section(BaseModel):
    """Frozen and strict: a misspelt setting fails at load."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Section):
    """What videos are taken, and how often.

    Attributes:
        class_balance_exponent: exponent by which videos with rare actions are drawn more often; 0 draws all alike.
        workers: processes that read; 0 reads in the training process.
        cache: keep decoded frames in this folder, so that a video is decoded once.
        margin: pictures are kept so much larger than the network's input, for crops.
    """

    class_balance_exponent: float = Field(default=0.5, ge=0, le=2)
    workers: int = Field(default=2, ge=0)
    cache: Path | None = None
    margin: float = Field(default=1.15, ge=1, le=2)


class AugmentConfig(Section):
    """What is changed at random about a window; ranges are (least, most).

    Attributes:
        scale: side of the square that is cut out, of the picture's.
        flip: probability of a mirror image (no class is sided).
        speed: frames of the video per frame of the window.
        truncate: probability that a window shows a part of the video only, of at least half.
        gamma, gain, tint: of colours: exponent, factor, factor of each channel.
        grey: probability of no colour at all. blur: probability. noise: most grain, of white.
        freeze: probability that the end is a repeated frame, as short clips are padded.
        close: probability of a close-up, of videos whose joints are known: head and shoulders, or down to the knees.
    """

    scale: tuple[float, float] = (0.75, 1.0)
    flip: float = Field(default=0.5, ge=0, le=1)
    speed: tuple[float, float] = (0.8, 1.25)
    truncate: float = Field(default=0.3, ge=0, le=1)
    gamma: tuple[float, float] = (0.7, 1.4)
    gain: tuple[float, float] = (0.8, 1.2)
    tint: float = Field(default=0.08, ge=0, lt=1)
    grey: float = Field(default=0.1, ge=0, le=1)
    blur: float = Field(default=0.2, ge=0, le=1)
    noise: float = Field(default=0.02, ge=0, le=1)
    freeze: float = Field(default=0.1, ge=0, le=1)
    close: float = Field(default=0.0, ge=0, le=1)


class StageConfig(Section):
    """One stage: what is minimised, what moves, for how long.

    Attributes:
        objective: detection (focal and DIoU losses of points), dense (every action at every step, and joints), or
            joints (where a backbone that reads them finds them, in frames from all over a video).
        given: what such a backbone is given: pictures, or the joints of the sidecars as if it had found them there.
        joint_error: of such joints, see training/keypoint_noise.py.
        tuning: what moves: the head, the head and adapters, all but what finds joints (reader), all; auto is adapters
            where there are some, else the reader of a backbone that finds joints, else all.
        steps: of the optimiser.
        batch: windows a step, over all devices. frames: of a window at most, 0 for as many as the network takes; short
            ones show more people for the same work, which is what a backbone needs to begin.
        head_rate, adapter_rate, backbone_rate: learning rates at their highest.
        weight_decay: of AdamW. warmup: steps of linear growth; a cosine brings rates to `final` of their highest.
        clip_norm: gradients are scaled down to this norm.
        dense: weight of the dense loss beside the detection loss. joints: weight of the joints within it.
        distillation: weight, within the dense loss, of features that tell the teacher's.
        validate_every: so many steps apart what the run would leave is measured on the videos held out, and the best is
            what the stage leaves; 0 for never. patience: it ends after so many measurements without a better one; 0
            for never.
    """

    objective: Literal["detection", "dense", "joints"] = "detection"
    given: Inputs = "pictures"
    joint_error: float = Field(default=0.01, ge=0)
    tuning: Tuning = "adapters"
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    frames: int = Field(default=0, ge=0)
    head_rate: float = Field(default=1e-4, gt=0)
    adapter_rate: float = Field(default=2e-4, gt=0)
    backbone_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: int = Field(default=100, ge=0)
    final: float = Field(default=0.01, ge=0, le=1)
    clip_norm: float = Field(default=1.0, gt=0)
    dense: float = Field(default=0.0, ge=0)
    joints: float = Field(default=0.0, ge=0)
    distillation: float = Field(default=0.0, ge=0)
    validate_every: int = Field(default=0, ge=0)
    patience: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _measures_detections(self) -> Self:
        if self.validate_every and self.objective != "detection":
            raise ValueError("validate_every goes with the objective detection, whose loss is measured")
        if self.patience and not self.validate_every:
            raise ValueError("patience counts measurements: set validate_every to the steps between them")
        return self


class Recipe(Section):
    """All of it.

    Attributes:
        name, version, notes: of the bundle.
        synthetic: whether the data shows synthetic people; the bundle says so.
        seed: of everything random.
        backbone: weights of `mmad import-weights` to begin with.
        start: bundle to begin with instead: its whole network, and what the recipe does not say of name, licence,
            framing, input, architecture and postprocessing.
        wise_ft_alpha: how much of the weights that it begins with is in those that the run leaves; 0 for none. Half of
            both keeps more of what the first were good for elsewhere than the trained ones alone, after "Robust
            fine-tuning of zero-shot models" (CVPR 2022).
        finder: bundle whose finder of joints to begin with.
        teacher: bundle whose features stages with `distillation` learn to predict; its input must be this recipe's.
        framing: person for data cropped around the person: the locator comes with the bundle, which then crops alike.
        precision: bf16 computes the backbone in bfloat16; the head stays fp32.
        activation_checkpointing: recompute blocks in the backward pass, for memory.
        weights: how the bundle stores them.
        ema: decay of the moving average of the weights, which is what is kept; 0 keeps the last ones.
        save_minutes: between checkpoints.
        validate_videos: how many of the validation videos the report measures; 0 for all.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: str = "1"
    notes: str = ""
    licence: str = "Apache-2.0"
    synthetic: bool = False
    seed: int = Field(default=0, ge=0)
    backbone: Path | None = None
    start: Path | None = None
    wise_ft_alpha: float = Field(default=0.0, ge=0, lt=1)
    finder: Path | None = None
    teacher: Path | None = None
    framing: Literal["none", "person"] = "none"
    input: InputConfig
    architecture: Architecture
    postprocessing: PostprocessingConfig = PostprocessingConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    activation_checkpointing: bool = False
    weights: Literal["fp32", "fp16"] = "fp32"
    ema: float = Field(default=0.999, ge=0, lt=1)
    save_minutes: float = Field(default=5.0, gt=0)
    validate_videos: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _detects(self) -> Self:
        if self.stages[-1].objective != "detection":
            raise ValueError("the last stage must have the objective detection: it trains the head")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_fit(self.input, self.architecture)
        return self

    @model_validator(mode="after")
    def _finds_joints(self) -> Self:
        of_joints = any(
            "joints" in (stage.objective, stage.given) or stage.tuning == "reader" for stage in self.stages
        )
        if (of_joints or self.finder is not None) and not self.architecture.finds_joints:
            raise ValueError(
                "the objective joints, given: joints, tuning: reader and finder go with architecture.backbone.kind "
                "pose or stem heatmaps"
            )
        return self

    @model_validator(mode="after")
    def _windows_hold_the_frames(self) -> Self:
        for number, stage in enumerate(self.stages):
            if stage.frames > self.input.window_frames:
                raise ValueError(
                    f"stages.{number}.frames {stage.frames} do not fit into a window: "
                    f"input.window_frames is {self.input.window_frames}"
                )
        return self

    @model_validator(mode="after")
    def _begins_once(self) -> Self:
        if self.backbone is not None and self.start is not None:
            raise ValueError("backbone and start both say what to begin with: give one of them")
        if self.wise_ft_alpha and self.start is None:
            raise ValueError(
                f"wise_ft_alpha {self.wise_ft_alpha} needs a bundle that was begun with: set start"
            )
        return self

    @model_validator(mode="after")
    def _imitates_somebody(self) -> Self:
        if self.teacher is None and any(stage.distillation for stage in self.stages):
            raise ValueError("distillation needs a teacher: set teacher to a bundle")
        return self

    def to_yaml(self) -> str:
        """The document that gives this recipe."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_recipe(source: str, overrides: list[str]) -> Recipe:
    """Read a recipe.

    Args:
        source: a file, or the name of one in training/configs.
        overrides: `key.key=value`, values in YAML; list items by number, as in stages.0.steps=20.

    Raises:
        RecipeError: naming the file, the key and what is wrong with it.
    """
    text = _read(source)
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source} is no YAML: {error}") from error
    if not isinstance(document, dict):
        raise RecipeError(f"{source} holds no settings")
    for override in overrides:
        _override(document, override)
    if document.get("start"):
        document = _merged(_of_bundle(Path(document["start"])), document)
    return parse_recipe(document, source)


def parse_recipe(document: Any, source: str) -> Recipe:
    """A recipe of what a YAML document holds; raises RecipeError naming the key that does not fit."""
    try:
        return Recipe.model_validate(document, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(key) for key in first["loc"]) or "the document"
        raise RecipeError(f"{source}: {field}: {first['msg'].removeprefix('Value error, ')}") from error


def _of_bundle(folder: Path) -> dict[str, Any]:
    """What a recipe that starts from a bundle need not say."""
    try:
        manifest = read_manifest(folder / MANIFEST)
    except BundleError as error:
        raise RecipeError(f"start: {error}") from error
    parts = manifest.model_dump(mode="json", include={"licence", "input", "architecture", "postprocessing"})
    framing = "person" if manifest.locator else "none"
    return {"name": f"{manifest.name}-tuned", "framing": framing} | parts


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Key by key, what is over goes before what is below."""
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        result[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


def list_shipped_recipes() -> list[str]:
    """Names of the recipes that come with mmad."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in CONFIGS.iterdir() if entry.name.endswith(".yaml")
    )


def _read(source: str) -> str:
    named = CONFIGS / f"{source}.yaml"
    if named.is_file():
        return named.read_text("utf-8")
    try:
        return Path(source).read_text("utf-8")
    except OSError as error:
        raise RecipeError(
            f"no recipe {source!r}: give a file, or one of {', '.join(list_shipped_recipes())} ({error.strerror})"
        ) from error


def _override(document: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override!r} is not of the form key=value")
    *outer, last = path.split(".")
    place: Any = document
    for key in outer:
        try:
            place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
        except (ValueError, IndexError, AttributeError) as error:
            raise RecipeError(f"--set {override}: there is no {key} in {path}") from error
    try:
        place[int(last) if isinstance(place, list) else last] = yaml.safe_load(value)
    except (ValueError, IndexError, TypeError) as error:
        raise RecipeError(f"--set {override}: there is no {path}") from error
