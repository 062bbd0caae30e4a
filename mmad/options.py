"""What commands have in common: options, settings, the bundle."""

import os
from collections.abc import Collection
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmad.terminal import fail, failing_on

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from model.bundle import Bundle
    from service.settings import Settings


class Engine(StrEnum):
    """What runs the network."""

    AUTO = "auto"
    OPENVINO = "openvino"
    ONNX = "onnx"
    TORCH = "torch"


class Device(StrEnum):
    """Where the network runs."""

    CPU = "cpu"
    CUDA = "cuda"


class Weights(StrEnum):
    """How a bundle stores weights."""

    FP32 = "fp32"
    FP16 = "fp16"


class EafScores(StrEnum):
    """Where an ELAN file has scores."""

    TIER = "tier"
    VALUE = "value"


class Format(StrEnum):
    """How results are written, as service.exports lists them: that needs NumPy, and the client alone has none."""

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


AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON document on standard output, and nothing else.")
]
RegionOption = Annotated[
    str | None,
    typer.Option(metavar="X,Y,W,H", help="Part of the picture to look at, as fractions of its size."),
]
BundleDir = Annotated[
    Path | None, typer.Option("--bundle", help="Bundle folder; the shipped one by default.")
]


# Settings that commands without a service read.
DETECTING = frozenset(
    {
        "bundle", "engine", "device", "sandbox", "max_duration_s", "max_pixels", "max_fps",
        "decoder_memory_bytes", "decoder_cpu_s", "decoder_stall_s",
    }
)  # fmt: skip


def settings_with(needs: Collection[str] | None = None, **given: object) -> "Settings":
    """The environment's settings with the options given; wrong ones end the command with status 2.

    Args:
        needs: the settings that the command reads; a wrong one that is not among them has its default. None: all.
        given: options by their settings' names; None where an option was not given.
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
        wrong = {str(one["loc"][0]).removeprefix("MMAD_").lower(): one for one in error.errors()}
        for name, one in wrong.items():
            if needs is None or name in needs:
                fail(f"MMAD_{name.upper()}={one.get('input')!r}: {one['msg']}", status=2)
        settings = Settings(**{name: _default_of(Settings.model_fields[name]) for name in wrong} | values)
    if (needs is None or "data_dir" in needs) and settings.data_dir.is_relative_to(NO_HOME):
        fail(f"user id {os.getuid()} has no home directory: set MMAD_DATA_DIR to a folder for mmad's data")
    return settings


def _default_of(field: "FieldInfo") -> Any:
    return field.get_default(call_default_factory=True, validated_data={})


def load_bundle(folder: Path | None) -> "Bundle":
    """A bundle, the shipped one where none is named; one that does not fit ends the command."""
    from model.bundle import Bundle
    from model.errors import BundleError

    with failing_on(BundleError):
        return Bundle.load(folder or Path(str(files("bundles") / "demo")))
