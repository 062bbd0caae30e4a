"""Bundles: folders with the weights of a network, its exported graph, and a manifest."""

import hashlib
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, model_validator

from model.architecture import Architecture
from model.errors import BundleError
from model.taxonomy import Section, Taxonomy

MANIFEST = "bundle.json"
WEIGHTS = "weights.safetensors"
GRAPH = "network.onnx"
LOCATOR = "locator.onnx"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]


class InputConfig(Section):
    """The network's input. A window has `window_frames` frames and is split into clips of `clip_frames`."""

    height: PositiveInt
    width: PositiveInt
    fps: PositiveFloat
    window_frames: PositiveInt
    overlap_frames: NonNegativeInt
    clip_frames: PositiveInt
    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]

    @model_validator(mode="after")
    def _windows_advance(self) -> Self:
        if self.window_frames % self.clip_frames:
            raise ValueError("window_frames must be a multiple of clip_frames")
        if self.overlap_frames >= self.window_frames:
            raise ValueError("overlap_frames must be below window_frames")
        return self


class PostprocessingConfig(Section):
    """Post-processing: candidates are the input of NMS, proposals its output.

    Segment voting (a tIoU above 0) only applies with class_agnostic: a single action has too few candidates.
    """

    candidate_score: Fraction = 0.001
    candidates: PositiveInt = 2000
    nms: Literal["soft", "hard"] = "soft"
    soft_nms_sigma: PositiveFloat = 0.7
    hard_nms_tiou: Fraction = 0.5
    class_agnostic: bool = False
    voting_tiou: Fraction = 0.0
    proposal_score: Fraction = 0.001
    proposals: PositiveInt = 200


class LocatorConfig(Section):
    """Configuration of locator.onnx: side of its square input, minimum score, and margin around a person."""

    size: PositiveInt
    threshold: Fraction
    margin: float = Field(ge=1)


class Thresholds(Section):
    """Display thresholds: minimum calibrated scores of detections to show; `per_class` has one for each action."""

    default: Fraction
    per_class: tuple[Fraction, ...] | None = None


class Calibration(Section):
    """Piecewise linear map from the network's scores to the probability of a tIoU of at least 0.5 with an action.

    Both lists are strictly ascending, so that calibration does not change the order of proposals.
    """

    scores: tuple[Fraction, ...] = Field(min_length=2)
    probabilities: tuple[Fraction, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if len(self.scores) != len(self.probabilities):
            raise ValueError(f"{len(self.scores)} scores do not fit {len(self.probabilities)} probabilities")
        for name, values in (("scores", self.scores), ("probabilities", self.probabilities)):
            if any(later <= before for before, later in pairwise(values)):
                raise ValueError(f"{name} must ascend")
        return self


class Training(Section):
    """The data that the weights were trained on."""

    data: str
    synthetic: bool
    notes: str = ""


def check_fit(config: InputConfig, parts: Architecture) -> None:
    """Raise ValueError unless frames, clips and windows are divisible by the network's strides."""
    backbone, head = parts.backbone, parts.head
    for name, value, divisor in (
        ("height", config.height, backbone.patch_size),
        ("width", config.width, backbone.patch_size),
        ("clip_frames", config.clip_frames, backbone.tubelet_size),
        ("window_frames", config.window_frames, head.strides[-1]),
    ):
        if value % divisor:
            raise ValueError(f"input.{name} {value} is no multiple of {divisor}")


class Manifest(Section):
    """The content of bundle.json. `trained_on` is null for untrained weights, `locator` if people are not located."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    trained_on: Training | None
    metrics: dict[str, float] | None = None
    taxonomy: Taxonomy
    input: InputConfig
    architecture: Architecture
    postprocessing: PostprocessingConfig = PostprocessingConfig()
    thresholds: Thresholds
    calibration: Calibration | None = None
    locator: LocatorConfig | None = None
    files: dict[str, Sha256] = Field(default={})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_fit(self.input, self.architecture)
        per_class = self.thresholds.per_class
        if per_class is not None and len(per_class) != len(self.taxonomy.actions):
            raise ValueError(
                f"thresholds.per_class has {len(per_class)} values for {len(self.taxonomy.actions)} actions"
            )
        return self

    @property
    def required_files(self) -> tuple[str, ...]:
        """Names of the files beside the manifest."""
        return (WEIGHTS, GRAPH, LOCATOR) if self.locator else (WEIGHTS, GRAPH)

    def to_json(self) -> str:
        """Return the text of bundle.json."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Bundle:
    """A folder with a valid manifest and files that match its hashes."""

    folder: Path
    manifest: Manifest

    @property
    def weights_sha256(self) -> str:
        """The hash that identifies the weights in results."""
        return self.manifest.files[WEIGHTS]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read bundle.json and check the SHA-256 of every file; raises BundleError."""
        manifest = read_manifest(folder / MANIFEST)
        for required in manifest.required_files:
            if required not in manifest.files:
                raise BundleError(f"{folder / MANIFEST} lists no {required}; make the bundle with mmad export")
        for name, expected in manifest.files.items():
            if Path(name).name != name:
                raise BundleError(f"{folder / MANIFEST}: files: {name!r} is not a plain file name")
            path = folder / name
            try:
                actual = sha256(path)
            except OSError as error:
                raise BundleError(f"{path} cannot be read ({error.strerror})") from error
            if actual != expected:
                raise BundleError(f"{path} has SHA-256 {actual}, {MANIFEST} says {expected}: copy the bundle anew")
        return cls(folder, manifest)


def read_manifest(path: Path) -> Manifest:
    """Read bundle.json; raises BundleError, which names the field."""
    try:
        return parse_manifest(path.read_bytes(), path)
    except OSError as error:
        message = f"no bundle at {path.parent}: {path.name} cannot be read ({error.strerror})"
        raise BundleError(message) from error


def parse_manifest(content: str | bytes, source: Path) -> Manifest:
    """Parse a manifest; raises BundleError, which names `source` and the field."""
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(key) for key in first["loc"]) or "the document"
        raise BundleError(f"{source}: {field}: {first['msg'].removeprefix('Value error, ')}") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
