"""The command that detects here, without a server."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmad.options import (
    DETECTING,
    AsJson,
    BundleDir,
    Device,
    Engine,
    Format,
    RegionOption,
    load_bundle,
    settings_with,
)
from mmad.terminal import bar, fail, failing_on, print_result, tell

if TYPE_CHECKING:
    from model.detector import Detector
    from service.exports import Analysed
    from service.exports import Format as Export
    from service.schemas import Options
    from service.settings import Settings

app = typer.Typer()


@app.command()
def detect(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO...", help="Video files.")],
    bundle: BundleDir = None,
    engine: Annotated[Engine | None, typer.Option(help="What runs the network.")] = None,
    device: Annotated[Device | None, typer.Option(help="Where the network runs.")] = None,
    region: RegionOption = None,
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least score; the bundle's thresholds by default.")
    ] = None,
    form: Annotated[Format | None, typer.Option("--format", help="How results are written.")] = None,
    rate: Annotated[
        float, typer.Option(min=1, max=30, help="Times a second, for frames-csv and frames-npz.")
    ] = 5.0,
    out_path: Annotated[
        Path | None,
        typer.Option("--out", help="File to write; a folder for several videos in a format of one video a file."),
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Detect micro-actions in video files, here, without a server."""
    if as_json and form not in (None, Format.JSON):
        raise typer.BadParameter(f"--json and --format {form} cannot both be had", param_hint="--format")
    from model.detector import Detector
    from model.engines import load_engine
    from model.errors import DetectorError
    from model.sandbox.sandbox import make_decoder

    written = form or (Format.JSON if as_json or out_path else None)
    export = _export(written, videos, out_path) if written else None
    settings = settings_with(
        DETECTING, bundle=bundle, engine=engine and engine.value, device=device and device.value
    )
    options = _options(min_score, region)
    loaded = load_bundle(settings.bundle)
    with failing_on(DetectorError, OSError):
        chosen = load_engine(loaded, settings.engine, settings.device, settings.data_dir / "cache")
        if out_path is not None and export is not None:
            _try_to_write(out_path, _is_folder(export, videos))
        decoder = make_decoder(settings.sandbox)
    found: list[Analysed] = []
    with closing(decoder):
        detector = Detector(loaded, chosen, decoder=decoder)
        for video in videos:
            try:
                with bar(video.name) as progress:
                    found.append(_detect_file(detector, video, options, settings, rate, progress))
            except (DetectorError, OSError) as error:
                tell(f"{video}: {error}", "red")
    if export is None:
        for one in found:
            print_result(one.source, one.result.model_dump(mode="json"))
    else:
        with failing_on(OSError):
            _write(export, found, out_path, _is_folder(export, videos), len(videos))
    raise typer.Exit(1 if len(found) < len(videos) else 0)


def _export(form: Format, videos: Sequence[Path], out_path: Path | None) -> "Export":
    """The format, if it can be written as asked; ends the command with status 2 if not."""
    from service.exports import find_format

    export = find_format(form.value)
    for module in export.needs:
        import_module(module)
    if out_path is None and not export.is_text:
        raise typer.BadParameter(f"{form.value} is no text: a file for it is needed", param_hint="--out")
    if out_path is None and _is_folder(export, videos):
        raise typer.BadParameter(
            f"{form.value} holds one video a file: a folder for {len(videos)} files is needed", param_hint="--out"
        )  # fmt: skip
    name, times = Counter(video.stem for video in videos).most_common(1)[0]
    if times > 1 and form not in (Format.JSON, Format.JSONL):
        raise typer.BadParameter(f"{times} videos are named {name!r}: rename them", param_hint="VIDEO...")
    return export


def _is_folder(export: "Export", videos: Sequence[Path]) -> bool:
    """Whether each video gets a file of its own."""
    return len(videos) > 1 and not export.several


def _try_to_write(path: Path, is_folder: bool) -> None:
    """Better told now than when all the work is done."""
    if is_folder:
        path.mkdir(parents=True, exist_ok=True)
        return
    existed = path.exists()
    path.open("a").close()
    if not existed:
        path.unlink()


def _write(
    export: "Export", found: Sequence["Analysed"], path: Path | None, is_folder: bool, asked: int
) -> None:
    """To standard output, a file, or a file for each video."""
    from service.exports import write_export, write_json

    if is_folder and path is not None:
        for one in found:
            (path / f"{one.video}{export.suffix}").write_bytes(write_export(export.name, [one]))
        return
    if export.name == Format.JSON:
        # As many as were asked for say what the document is, not as many as could be read.
        content = write_json(found, as_list=asked > 1 or not found)
    elif found or export.several:
        content = write_export(export.name, found)
    else:
        return
    if path is None:
        sys.stdout.buffer.write(content)
    else:
        path.write_bytes(content)


def _options(min_score: float | None, region: str | None) -> "Options":
    """What is asked of the detector; a region that does not fit ends the command with status 2."""
    from service.errors import Problem
    from service.parameters import parse_parameters
    from service.schemas import Options

    given = {"min_score": None if min_score is None else str(min_score), "region": region}
    try:
        options = parse_parameters(
            Options, {name: value for name, value in given.items() if value is not None}
        )
    except Problem as problem:
        fail(problem.detail, status=2)
    return options


def _detect_file(
    detector: "Detector",
    video: Path,
    options: "Options",
    settings: "Settings",
    rate: float,
    progress: Callable[[str, float], None],
) -> "Analysed":
    """The result of one file."""
    from model.bundle import sha256
    from service.exports import Analysed
    from service.results import make_result
    from workers.documents import make_context, make_limits, make_region, store_proposals

    with video.open("rb") as file:
        limits = make_limits(settings)
        found = detector.detect(file, region=make_region(options), limits=limits, progress=progress)
    context = make_context(found, detector, options, job_id=None, video_sha256=sha256(video))
    stored = store_proposals(found, context)
    return Analysed(video.stem, make_result(stored, options), stored, str(video), rate)
