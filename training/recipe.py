"""Training recipes: strict YAML documents with overrides."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.architecture import Architecture
from model.bundle import MANIFEST, InputConfig, PostprocessingConfig, check_fit, read_manifest
from model.errors import BundleError

CONFIGS = resources.files("training") / "configs"

Inputs = Literal["pictures", "keypoints"]
Tuning = Literal["head", "adapters", "reader", "all", "auto"]
LOCATOR_FILE = Path(str(resources.files("training") / "locator.onnx"))


class RecipeError(Exception):
    """Raised for a recipe that cannot be read, or with unknown or invalid settings."""


class Section(BaseModel):
    """Frozen and strict model: unknown settings are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Section):
    """Loading and sampling of videos.

    Attributes:
        class_balance_exponent: exponent by which videos with rare actions are sampled more often; 0 samples uniformly.
        workers: number of processes that load videos; 0 loads them in the training process.
        cache: folder for decoded frames.
        margin: size of cached frames relative to the network's input, for random crops.
    """

    class_balance_exponent: float = Field(default=0.5, ge=0, le=2)
    workers: int = Field(default=2, ge=0)
    cache: Path | None = None
    margin: float = Field(default=1.15, ge=1, le=2)


class AugmentConfig(Section):
    """Random augmentation of windows; ranges are (minimum, maximum), single numbers probabilities.

    Attributes:
        scale: side of the crop, relative to the frame.
        flip: mirror (no class distinguishes left and right).
        speed: frames of the video per frame of the window.
        truncate: use a random part of the video, of at least half its length.
        freeze: repeat the last frame, as in the padding of short clips.
        close: show a close-up, from head and shoulders to head and knees, of videos with keypoints.
        colour: change colours, sharpness and noise.
    """

    scale: tuple[float, float] = (0.75, 1.0)
    flip: float = Field(default=0.5, ge=0, le=1)
    speed: tuple[float, float] = (0.8, 1.25)
    truncate: float = Field(default=0.3, ge=0, le=1)
    freeze: float = Field(default=0.1, ge=0, le=1)
    close: float = Field(default=0.0, ge=0, le=1)
    colour: bool = True


class StageConfig(Section):
    """One training stage: objective, trainable weights, and schedule.

    Attributes:
        objective: detection (focal and DIoU losses of points), dense (losses of actions and keypoints at every step),
            or keypoints (loss of the keypoints that the pose estimator finds, in frames sampled from the whole video).
        given: input of the network: pictures, or the keypoints of the sidecars.
        keypoint_noise: of these keypoints, see keypoint_noise.py.
        tuning: trainable weights, see set_trainable.
        batch: windows per step, over all devices.
        frames: maximum number of frames of a window, 0 for the network's. Short windows help an untrained backbone.
        head_rate, adapter_rate, backbone_rate: peak learning rates.
        warmup: steps of linear warm-up, before cosine decay to `final` times the peak.
        dense: weight of the dense loss in the objective detection.
        keypoints, distillation: weights of the keypoints and of the teacher's features in the dense loss.
        validate_every: steps between measurements of the held-out loss, 0 for none; the best weights are retained.
        patience: stop after this number of measurements without improvement; 0 disables early stopping.
    """

    objective: Literal["detection", "dense", "keypoints"] = "detection"
    given: Inputs = "pictures"
    keypoint_noise: float = Field(default=0.01, ge=0)
    tuning: Tuning = "adapters"
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    frames: int = Field(default=0, ge=0)
    head_rate: float = Field(default=1e-4, gt=0)
    adapter_rate: float = Field(default=2e-4, gt=0)
    backbone_rate: float = Field(default=1e-4, gt=0)
    warmup: int = Field(default=100, ge=0)
    final: float = Field(default=0.01, ge=0, le=1)
    dense: float = Field(default=0.0, ge=0)
    keypoints: float = Field(default=0.0, ge=0)
    distillation: float = Field(default=0.0, ge=0)
    validate_every: int = Field(default=0, ge=0)
    patience: int = Field(default=0, ge=0)

    @property
    def needs_keypoints(self) -> bool:
        """True if the stage uses the sidecars' keypoints, as input or as target."""
        return "keypoints" in (self.objective, self.given)

    @model_validator(mode="after")
    def _check_validation(self) -> Self:
        if self.validate_every and self.objective != "detection":
            raise ValueError("validate_every goes with the objective detection, whose loss is measured")
        if self.patience and not self.validate_every:
            raise ValueError("patience counts measurements: set validate_every to the steps between them")
        return self


class Recipe(Section):
    """Recipe of a training run.

    Attributes:
        name, version, notes, licence: of the bundle.
        synthetic: whether the data shows synthetic people, as stated in the bundle.
        backbone: file of pretrained weights, of `mmad import-weights` or an earlier run.
        start: bundle to fine-tune instead. It also provides name, licence, framing, input, architecture and
            postprocessing unless the recipe sets them.
        wise_ft_alpha: weight of the initial weights in their average with the trained ones; 0 disables it ("Robust
            fine-tuning of zero-shot models", CVPR 2022).
        finder: bundle whose pose estimator is used.
        teacher: bundle whose features are distilled in stages with `distillation`; its input must match the recipe's.
        framing: person for data cropped around the person: the bundle then includes the locator and crops likewise.
        precision: bf16 computes the backbone in bfloat16; the head stays in fp32.
        activation_checkpointing: recompute blocks in the backward pass to save memory.
        weights: precision of the weights in the bundle.
        ema: decay of the exponential moving average of the weights, which is the result; 0 disables it.
        save_minutes: minutes between checkpoints.
        validate_videos: number of validation videos for the report; 0 for all.
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
    def _check_settings(self) -> Self:
        check_fit(self.input, self.architecture)
        if self.stages[-1].objective != "detection":
            raise ValueError("the last stage must have the objective detection: it trains the head")
        uses_keypoints = any(stage.needs_keypoints or stage.tuning == "reader" for stage in self.stages)
        if (uses_keypoints or self.finder is not None) and not self.architecture.finds_keypoints:
            raise ValueError(
                "the objective keypoints, given: keypoints, tuning: reader and finder go with architecture.backbone."
                "kind pose or stem heatmaps"
            )
        for number, stage in enumerate(self.stages):
            if stage.frames > self.input.window_frames:
                raise ValueError(
                    f"stages.{number}.frames {stage.frames} do not fit into a window: "
                    f"input.window_frames is {self.input.window_frames}"
                )
        if self.backbone is not None and self.start is not None:
            raise ValueError("backbone and start both say what to begin with: give one of them")
        if self.wise_ft_alpha and self.start is None:
            raise ValueError(f"wise_ft_alpha {self.wise_ft_alpha} needs a bundle that was begun with: set start")
        if self.teacher is None and any(stage.distillation for stage in self.stages):
            raise ValueError("distillation needs a teacher: set teacher to a bundle")
        return self

    def to_yaml(self) -> str:
        """Return the recipe as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_recipe(source: str, overrides: list[str]) -> Recipe:
    """Load a recipe from a file, or by its name in training/configs.

    Overrides are `key.key=value` with values in YAML; list items by index, as in stages.0.steps=20. Raises RecipeError,
    which names the file, the key and the fault.
    """
    try:
        document = yaml.safe_load(_read(source))
    except yaml.YAMLError as error:
        raise RecipeError(f"{source} is no YAML: {error}") from error
    if not isinstance(document, dict):
        raise RecipeError(f"{source} holds no settings")
    for override in overrides:
        _apply_override(document, override)
    if document.get("start"):
        document = merge_settings(_read_bundle_settings(Path(document["start"])), document)
    try:
        return Recipe.model_validate(document, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(key) for key in first["loc"]) or "the document"
        raise RecipeError(f"{source}: {field}: {first['msg'].removeprefix('Value error, ')}") from error


def _read_bundle_settings(folder: Path) -> dict[str, Any]:
    try:
        manifest = read_manifest(folder / MANIFEST)
    except BundleError as error:
        raise RecipeError(f"start: {error}") from error
    parts = manifest.model_dump(mode="json", include={"licence", "input", "architecture", "postprocessing"})
    framing = "person" if manifest.locator else "none"
    return {"name": f"{manifest.name}-tuned", "framing": framing} | parts


def merge_settings(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested dictionaries; values of `over` take precedence."""
    result = dict(base)
    for key, value in over.items():
        both_nested = isinstance(result.get(key), dict) and isinstance(value, dict)
        result[key] = merge_settings(result[key], value) if both_nested else value
    return result


def list_shipped_recipes() -> list[str]:
    """Return the names of the recipes in training/configs."""
    return sorted(entry.name.removesuffix(".yaml") for entry in CONFIGS.iterdir() if entry.name.endswith(".yaml"))


def _read(source: str) -> str:
    shipped = CONFIGS / f"{source}.yaml"
    if shipped.is_file():
        return shipped.read_text("utf-8")
    try:
        return Path(source).read_text("utf-8")
    except OSError as error:
        raise RecipeError(
            f"no recipe {source!r}: give a file, or one of {', '.join(list_shipped_recipes())} ({error.strerror})"
        ) from error


def _apply_override(document: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override!r} is not of the form key=value")
    *outer, last = path.split(".")
    node: Any = document
    for key in outer:
        try:
            node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
        except (ValueError, IndexError, AttributeError) as error:
            raise RecipeError(f"--set {override}: there is no {key} in {path}") from error
    try:
        node[int(last) if isinstance(node, list) else last] = yaml.safe_load(value)
    except (ValueError, IndexError, TypeError) as error:
        raise RecipeError(f"--set {override}: there is no {path}") from error
