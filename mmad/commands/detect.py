"""The command that detects here, without a server."""

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import structlog
import typer

from mmad.options import (
    DETECTING,
    AsJson,
    BundleDir,
    Device,
    EafScores,
    Engine,
    Format,
    RegionOption,
    load_bundle,
    settings_with,
)
from mmad.terminal import (
    bar,
    check_writable,
    fail,
    failing_on,
    print_result,
    reason,
    tell,
    tell_hidden,
    write_file,
)
from mmad.videos import Video, find_videos

if TYPE_CHECKING:
    from model.bundle import Bundle
    from model.detector import Detector
    from model.video import Limits
    from service.exports import Analysed
    from service.exports import Format as Export
    from service.schemas import Options
    from service.settings import Settings

app = typer.Typer()
log = structlog.get_logger()

# Formats that hold all proposals, or what is hidden.
_COMPLETE = (Format.JSON, Format.MAC_CSV, Format.FRAMES_CSV, Format.FRAMES_NPZ)


@app.command()
def detect(
    videos: Annotated[
        list[Path],
        typer.Argument(metavar="VIDEO...", help="Video files; of a folder all videos, at any depth."),
    ],
    bundle: BundleDir = None,
    engine: Annotated[Engine | None, typer.Option(help="What runs the network.")] = None,
    device: Annotated[Device | None, typer.Option(help="Where the network runs.")] = None,
    region: RegionOption = None,
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least score; the bundle's thresholds by default.")
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(help="Only these actions or body parts, by code or name, as B1, nodding or Head; "
                          "with commas between, or once or more."),
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Only so many of each video, the best.")] = None,
    max_duration: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="SECONDS",
                     help="Refuse longer videos; no limit by default, but for MMAD_MAX_DURATION_S."),
    ] = None,
    form: Annotated[Format | None, typer.Option("--format", help="How results are written.")] = None,
    rate: Annotated[
        float, typer.Option(min=1, max=30, help="Times a second, for frames-csv and frames-npz.")
    ] = 5.0,
    eaf_scores: Annotated[
        EafScores, typer.Option(help="Where eaf has scores: in a tier below each action's, or in the values.")
    ] = EafScores.TIER,
    out_path: Annotated[
        Path | None,
        typer.Option("--out", help="File to write; a folder for several videos in a format of one video a file."),
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Detect micro-actions in video files, here, without a server."""
    if as_json and form not in (None, Format.JSON):
        raise typer.BadParameter(f"--json and --format {form} cannot both be had", param_hint="--format")
    from model.errors import DetectorError

    several = len(videos) > 1 or videos[0].is_dir()
    chosen = find_videos(videos)
    form = form or (Format.JSON if as_json or out_path else None)
    export = _find_export(form, chosen, out_path, several) if form else None
    settings = settings_with(
        DETECTING,
        bundle=bundle,
        engine=engine and engine.value,
        device=device and device.value,
        max_duration_s=max_duration,
    )
    loaded = load_bundle(settings.bundle)
    options = _options(
        loaded, min_score=min_score, top_k=top_k, labels=labels and ",".join(labels), region=region
    )
    if not chosen:
        fail("there is no video to look at")
    output = _Output(export, out_path, several)
    with failing_on(DetectorError, OSError):
        output.check()
        detector = _load_detector(loaded, settings)

    def detect_one(video: Video, progress: Callable[[str, float], None]) -> "Analysed":
        found = _detect_file(detector, video, options, settings, progress)
        return replace(found, rate=rate, eaf_scores=eaf_scores.value)

    with closing(detector.decoder):
        failed = _detect_each(chosen, detect_one, output)
    with failing_on(OSError):
        output.finish()
    if failed and len(chosen) > 1:
        lines = "".join(f"\n  {path}: {why}" for path, why in failed.items())
        tell(f"{len(failed)} of {len(chosen)} videos failed:{lines}", "red")
    raise typer.Exit(1 if failed else 0)


def _detect_each(
    videos: Sequence[Video],
    detect_one: Callable[[Video, Callable[[str, float], None]], "Analysed"],
    output: "_Output",
) -> dict[Path, str]:
    """Detect in one video after the other; a video that fails stops no other. Returns why each of those failed."""
    from model.errors import DetectorError

    failed: dict[Path, str] = {}
    for number, video in enumerate(videos, 1):
        count = f"{number} of {len(videos)}: " if len(videos) > 1 else ""
        try:
            with bar(count + video.path.name) as progress:
                found = detect_one(video, progress)
            output.add(found)
        except Exception as error:
            if not isinstance(error, DetectorError | OSError):
                log.exception("detect_failed", video=str(video.path))
            failed[video.path] = reason(error, video.path)
            tell(f"{video.path}: {failed[video.path]}", "red")
    return failed


def _find_export(form: Format, videos: Sequence[Video], out_path: Path | None, several: bool) -> "Export":
    """The format, if it can be written as asked; ends the command with status 2 if not."""
    from service.exports import find_format

    export = find_format(form.value)
    for module in export.needs:
        import_module(module)
    one_each = _is_one_each(export, out_path, several)
    problem = None
    if out_path is None and not export.is_text:
        problem = f"{form.value} cannot be printed to a terminal: give a file"
    elif out_path is None and one_each:
        problem = f"{form.value} holds one video a file: give a folder for {len(videos)} files"
    elif out_path is not None and out_path.is_dir() and export.several:
        problem = f"{out_path} is a folder, and {form.value} holds all videos in one file: give that"
    elif out_path is not None and out_path.is_file() and one_each:
        problem = f"{out_path} is a file, and {form.value} holds one video a file: give a folder"
    elif out_path is not None and any(_is_same(video.path, out_path) for video in videos):
        problem = f"{out_path} is one of the videos: it would be lost"
    if problem:
        raise typer.BadParameter(problem, param_hint="--out")
    if form not in (Format.JSON, Format.JSONL):
        _refuse_one_name([video.name for video in videos], files=one_each)
    return export


def _is_same(video: Path, out_path: Path) -> bool:
    return out_path.is_file() and video.exists() and video.samefile(out_path)


def _refuse_one_name(names: Sequence[str], *, files: bool) -> None:
    """End the command with status 2 if results of two videos would have one name, or one file."""
    from service.exports import find_clash

    clash = find_clash(names, any_case=files)
    shown = list(dict.fromkeys(clash))
    if len(shown) > 1:
        raise typer.BadParameter(
            f"{' and '.join(map(repr, shown))} are one name to many file systems: rename one", param_hint="VIDEO..."
        )  # fmt: skip
    if clash:
        raise typer.BadParameter(
            f"{len(clash)} videos are named {shown[0]!r}: rename them", param_hint="VIDEO..."
        )


def _is_one_each(export: "Export", out_path: Path | None, several: bool) -> bool:
    """Whether each video has a file of its own, in the folder `out_path`."""
    return not export.several and (several or (out_path is not None and out_path.is_dir()))


class _Output:
    """Where results go: a table for people, or a format to standard output, a file or a folder.

    Args:
        export: the format; None for the table.
        path: file or folder; None for standard output.
        several: whether several videos were asked for.
    """

    def __init__(self, export: "Export | None", path: Path | None, several: bool) -> None:
        self._export, self._path, self._several = export, path, several
        self._folder = path if export and _is_one_each(export, path, several) else None
        self._found: list[Analysed] = []

    def check(self) -> None:
        """Raise OSError if nothing can be written there: before the work rather than after it."""
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            check_writable(self._folder / uuid4().hex)
        elif self._path is not None:
            check_writable(self._path)

    def add(self, found: "Analysed") -> None:
        """Print a video's table, write its file, or keep its result for the file of all."""
        from service.exports import write_export

        if self._export is None:
            print_result(found.source, found.result.model_dump(mode="json"))
            return
        if self._export.name not in _COMPLETE:
            tell_hidden(found.result.model_dump(mode="json"))
        if self._folder is None:
            self._found.append(found)
            return
        path = self._folder / f"{found.video}{self._export.suffix}"  # names may have folders too
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, write_export(self._export.name, [found]))

    def finish(self) -> None:
        """Write the file of all videos."""
        from service.exports import write_export, write_json

        if self._export is None or self._folder is not None:
            return
        if self._export.name == Format.JSON:
            # A list if several were asked for, however many could be read.
            content = write_json(self._found, as_list=self._several or not self._found)
        elif self._found or self._export.several:
            content = write_export(self._export.name, self._found)
        else:
            return
        if self._path is None:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        else:
            write_file(self._path, content)


def _load_detector(bundle: "Bundle", settings: "Settings") -> "Detector":
    from model.detector import Detector
    from model.engines import load_engine
    from model.sandbox.sandbox import make_decoder

    engine = load_engine(bundle, settings.engine, settings.device, settings.data_dir / "cache")
    return Detector(bundle, engine, decoder=make_decoder(settings.sandbox))


def _options(loaded: "Bundle", **given: object) -> "Options":
    """The view options of a result; invalid labels or regions end the command with status 2."""
    from service.errors import Problem
    from service.parameters import parse_parameters
    from service.results import chosen_actions
    from service.schemas import Options
    from workers.serialization import make_labels

    try:
        options = parse_parameters(
            Options, {name: str(value) for name, value in given.items() if value is not None}
        )
        if options.labels is not None:
            chosen_actions(make_labels(loaded), options.labels)
    except Problem as problem:
        fail(problem.detail, status=2)
    return options


def _limits(settings: "Settings") -> "Limits":
    """Decoder limits from the settings; length and CPU time are unlimited unless they are set."""
    from model.video import UNLIMITED
    from workers.serialization import make_limits

    limits = make_limits(settings)
    if "max_duration_s" not in settings.model_fields_set:
        limits = replace(limits, max_duration_s=UNLIMITED.max_duration_s)
    if "decoder_cpu_s" not in settings.model_fields_set:
        limits = replace(limits, max_cpu_s=UNLIMITED.max_cpu_s)
    return limits


def _detect_file(
    detector: "Detector",
    video: Video,
    options: "Options",
    settings: "Settings",
    progress: Callable[[str, float], None],
) -> "Analysed":
    """The result of one file."""
    from model.bundle import sha256
    from service.exports import Analysed
    from service.results import make_result
    from workers.serialization import make_context, make_region, store_proposals

    with video.path.open("rb") as file:
        found = detector.detect(
            file, region=make_region(options), limits=_limits(settings), progress=progress
        )
    context = make_context(found, detector, options, job_id=None, video_sha256=sha256(video.path))
    stored = store_proposals(found, context)
    return Analysed(video.name, make_result(stored, options), stored, str(video.path))
