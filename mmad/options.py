"""What commands have in common: options, settings, the bundle."""

from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmad.terminal import fail, failing_on

if TYPE_CHECKING:
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


def settings_with(**given: object) -> "Settings":
    """The environment's settings with the options given; wrong ones end the command with status 2."""
    from pydantic import ValidationError

    from service.settings import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"])
        fail(f"MMAD_{name.removeprefix('MMAD_').upper()}={first.get('input')!r}: {first['msg']}", status=2)


def load_bundle(folder: Path | None) -> "Bundle":
    """A bundle, the shipped one where none is named; one that does not fit ends the command."""
    from model.bundle import Bundle
    from model.errors import BundleError

    with failing_on(BundleError):
        return Bundle.load(folder or Path(str(files("bundles") / "demo")))
