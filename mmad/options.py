"""Options shared by commands, and loading of settings and bundles."""

import os
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmad.terminal import exit_on, fail
from service.schemas import EafScores

if TYPE_CHECKING:
    from model.bundle import Bundle
    from service.settings import Settings


Engine = Literal["auto", "openvino", "onnx", "torch"]
Device = Literal["cpu", "cuda"]
# The formats of service.exports, which needs NumPy and so cannot be imported by the client.
Format = Literal[
    "json", "jsonl", "csv", "frames-csv", "frames-npz", "vtt", "eaf", "boris", "label-studio", "activitynet", "mac-csv",
    "png", "svg",
]  # fmt: skip

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, and nothing else.")]
BundleDir = Annotated[Path | None, typer.Option("--bundle", help="Bundle folder; the shipped one by default.")]
EngineOption = Annotated[Engine | None, typer.Option(help="Inference engine.")]
DeviceOption = Annotated[Device | None, typer.Option(help="Device of the inference engine.")]
# Parameters of a request: the fields of service.schemas.JobOptions and ExportView.
RegionOption = Annotated[
    str | None, typer.Option(metavar="X,Y,W,H", help="Part of the picture to look at, as fractions of its size.")
]
MinScore = Annotated[
    float | None, typer.Option(min=0, max=1, help="Minimum score; the bundle's thresholds by default.")
]
TopK = Annotated[int | None, typer.Option(min=1, help="Only the top detections of each video, by score.")]
LabelNames = Annotated[
    list[str] | None,
    typer.Option(help="Only these actions or body parts, by code or name, such as B1, nodding or Head; separated by "
                      "commas, or repeated."),
]  # fmt: skip
Rate = Annotated[float, typer.Option(min=1, max=30, help="Samples per second, for frames-csv and frames-npz.")]
EafScoresOption = Annotated[
    EafScores, typer.Option(help="Place of scores in eaf: a tier below each action's, or the values.")
]

# Settings that detection without a service reads.
DETECT_SETTINGS = frozenset({
    "bundle", "engine", "device", "sandbox", "max_duration_s", "max_pixels", "max_fps", "decoder_memory_bytes",
    "decoder_cpu_s", "decoder_stall_s",
})  # fmt: skip


def check_format(form: Format | None, as_json: bool) -> None:
    """Exit with status 2 if --json and another format are given."""
    if as_json and form not in (None, "json"):
        raise typer.BadParameter(f"--json and --format {form} cannot both be had", param_hint="--format")


def load_settings(needs: Collection[str] | None = None, **given: object) -> "Settings":
    """Load settings from the environment and the command's options; invalid ones exit with status 2.

    `needs` names the settings that the command reads, None for all: others fall back to their defaults if they are
    invalid. Options that are None were not given.
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
        fields = {name: Settings.model_fields[name] for name in invalid}
        defaults = {
            name: field.get_default(call_default_factory=True, validated_data={}) for name, field in fields.items()
        }
        settings = Settings(**defaults | values)
    if (needs is None or "data_dir" in needs) and settings.data_dir.is_relative_to(NO_HOME):
        fail(f"user id {os.getuid()} has no home directory: set MMAD_DATA_DIR to a folder for mmad's data")
    return settings


def load_configured_bundle(folder: Path | None) -> "Bundle":
    """Load a bundle; MMAD_BUNDLE or the shipped one by default."""
    return load_bundle(load_settings({"bundle"}, bundle=folder).bundle)


def load_bundle(folder: Path | None) -> "Bundle":
    """Load a bundle, the shipped one by default; an invalid bundle exits with status 1."""
    from model.bundle import Bundle
    from model.errors import BundleError

    with exit_on(BundleError):
        return Bundle.load(folder or Path(str(files("bundles") / "demo")))
