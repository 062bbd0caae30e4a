"""Options shared by commands, and loading of settings and bundles."""

import os
from collections.abc import Collection
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmad.terminal import exit_on, fail

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from model.bundle import Bundle
    from service.settings import Settings


class Engine(StrEnum):
    """Inference engine."""

    AUTO = "auto"
    OPENVINO = "openvino"
    ONNX = "onnx"
    TORCH = "torch"


class Device(StrEnum):
    """Device of the inference engine."""

    CPU = "cpu"
    CUDA = "cuda"


class Weights(StrEnum):
    """Floating point type of stored weights."""

    FP32 = "fp32"
    FP16 = "fp16"


class EafScores(StrEnum):
    """Place of scores in an ELAN file."""

    TIER = "tier"
    VALUE = "value"


class Format(StrEnum):
    """Formats of results: the same as in service.exports, which needs NumPy and so cannot be imported by the client."""

    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    FRAMES_CSV = "frames-csv"
    FRAMES_NPZ = "frames-npz"
    VTT = "vtt"
    EAF = "eaf"
    BORIS = "boris"
    LABEL_STUDIO = "label-studio"
    ACTIVITYNET = "activitynet"
    MAC_CSV = "mac-csv"
    PNG = "png"
    SVG = "svg"


AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, and nothing else.")]
RegionOption = Annotated[
    str | None, typer.Option(metavar="X,Y,W,H", help="Part of the picture to look at, as fractions of its size.")
]
BundleDir = Annotated[Path | None, typer.Option("--bundle", help="Bundle folder; the shipped one by default.")]


# Settings that detection without a service reads.
DETECT_SETTINGS = frozenset(
    {
        "bundle", "engine", "device", "sandbox", "max_duration_s", "max_pixels", "max_fps",
        "decoder_memory_bytes", "decoder_cpu_s", "decoder_stall_s",
    }
)  # fmt: skip


def load_settings(needs: Collection[str] | None = None, **given: object) -> "Settings":
    """Load settings from the environment and the command's options; invalid ones exit with status 2.

    Args:
        needs: names of the settings that the command reads; None for all. Other settings fall back to their defaults
            if they are invalid.
        given: options by the names of their settings; None for options that were not given.
    """
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from service.settings import NO_HOME, Settings

    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        settings = Settings(**values)
    except SettingsError as error:
        fail(f"a setting that is a list is not JSON: {error}", status=2)
    except ValidationError as error:
        invalid = {str(one["loc"][0]).removeprefix("MMAD_").lower(): one for one in error.errors()}
        for name, one in invalid.items():
            if needs is None or name in needs:
                fail(f"MMAD_{name.upper()}={one.get('input')!r}: {one['msg']}", status=2)
        settings = Settings(**{name: _get_default(Settings.model_fields[name]) for name in invalid} | values)
    if (needs is None or "data_dir" in needs) and settings.data_dir.is_relative_to(NO_HOME):
        fail(f"user id {os.getuid()} has no home directory: set MMAD_DATA_DIR to a folder for mmad's data")
    return settings


def _get_default(field: "FieldInfo") -> Any:
    return field.get_default(call_default_factory=True, validated_data={})


def load_bundle(folder: Path | None) -> "Bundle":
    """Load a bundle, the shipped one by default; an invalid bundle exits with status 1."""
    from model.bundle import Bundle
    from model.errors import BundleError

    with exit_on(BundleError):
        return Bundle.load(folder or Path(str(files("bundles") / "demo")))
