"""`mmad detect`: detects in local video files, without a service."""

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
    DETECT_SETTINGS,
    AsJson,
    BundleDir,
    Device,
    EafScores,
    Engine,
    Format,
    RegionOption,
    load_bundle,
    load_settings,
)
from mmad.terminal import (
    check_writable,
    exit_on,
    fail,
    format_error,
    print_hidden,
    print_result,
    print_status,
    progress_bar,
    write_file,
)
from mmad.videos import Video, find_videos

if TYPE_CHECKING:
    from model.bundle import Bundle
    from model.detector import Detector
    from model.video import Limits
    from service.exports import Format as Export
    from service.exports import VideoResult
    from service.schemas import Options
    from service.settings import Settings

app = typer.Typer()
log = structlog.get_logger()

# Formats that contain all proposals, or the hidden detections.
_COMPLETE = (Format.JSON, Format.MAC_CSV, Format.FRAMES_CSV, Format.FRAMES_NPZ)


@app.command()
def detect(
    videos: Annotated[
        list[Path],
        typer.Argument(metavar="VIDEO...", help="Video files, or folders with videos at any depth."),
    ],
    bundle: BundleDir = None,
    engine: Annotated[Engine | None, typer.Option(help="Inference engine.")] = None,
    device: Annotated[Device | None, typer.Option(help="Device of the inference engine.")] = None,
    region: RegionOption = None,
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Minimum score; the bundle's thresholds by default.")
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(help="Only these actions or body parts, by code or name, such as B1, nodding or Head; "
                          "separated by commas, or repeated."),
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Only the top detections of each video, by score.")] = None,
    max_duration: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="SECONDS",
                     help="Refuse longer videos; MMAD_MAX_DURATION_S or no limit by default."),
    ] = None,
    form: Annotated[Format | None, typer.Option("--format", help="Format of results.")] = None,
    rate: Annotated[
        float, typer.Option(min=1, max=30, help="Samples per second, for frames-csv and frames-npz.")
    ] = 5.0,
    eaf_scores: Annotated[
        EafScores, typer.Option(help="Place of scores in eaf: a tier below each action's, or the values.")
    ] = EafScores.TIER,
    out_path: Annotated[
        Path | None,
        typer.Option("--out", help="File to write; a folder for several videos in a format with one file per video."),
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Detect micro-actions in local video files, without a service."""
    if as_json and form not in (None, Format.JSON):
        raise typer.BadParameter(f"--json and --format {form} cannot both be had", param_hint="--format")
    from model.errors import DetectorError

    several = len(videos) > 1 or videos[0].is_dir()
    found = find_videos(videos)
    form = form or (Format.JSON if as_json or out_path else None)
    export = _find_export(form, found, out_path, several) if form else None
    settings = load_settings(
        DETECT_SETTINGS,
        bundle=bundle,
        engine=engine and engine.value,
        device=device and device.value,
        max_duration_s=max_duration,
    )
    loaded = load_bundle(settings.bundle)
    options = _parse_options(
        loaded, min_score=min_score, top_k=top_k, labels=labels and ",".join(labels), region=region
    )
    if not found:
        fail("there is no video to look at")
    output = _Output(export, out_path, several)
    with exit_on(DetectorError, OSError):
        output.check()
        detector = _load_detector(loaded, settings)

    def detect_one(video: Video, progress: Callable[[str, float], None]) -> "VideoResult":
        analysed = _detect_file(detector, video, options, settings, progress)
        return replace(analysed, rate=rate, eaf_scores=eaf_scores.value)

    with closing(detector.decoder):
        failed = _detect_each(found, detect_one, output)
    with exit_on(OSError):
        output.finish()
    if failed and len(found) > 1:
        lines = "".join(f"\n  {path}: {message}" for path, message in failed.items())
        print_status(f"{len(failed)} of {len(found)} videos failed:{lines}", "red")
    raise typer.Exit(1 if failed else 0)


def _detect_each(
    videos: Sequence[Video],
    detect_one: Callable[[Video, Callable[[str, float], None]], "VideoResult"],
    output: "_Output",
) -> dict[Path, str]:
    """Detect in each video, continuing after failures. Returns the error message of each failed video."""
    from model.errors import DetectorError

    failed: dict[Path, str] = {}
    for number, video in enumerate(videos, 1):
        count = f"{number} of {len(videos)}: " if len(videos) > 1 else ""
        try:
            with progress_bar(count + video.path.name) as progress:
                analysed = detect_one(video, progress)
            output.add(analysed)
        except Exception as error:
            if not isinstance(error, DetectorError | OSError):
                log.exception("detect_failed", video=str(video.path))
            failed[video.path] = format_error(error, video.path)
            print_status(f"{video.path}: {failed[video.path]}", "red")
    return failed


def _find_export(form: Format, videos: Sequence[Video], out_path: Path | None, several: bool) -> "Export":
    """Return the format; exits with status 2 if it cannot be written to this output."""
    from service.exports import find_format

    export = find_format(form.value)
    for module in export.needs:
        import_module(module)
    file_per_video = _has_file_per_video(export, out_path, several)
    problem = None
    if out_path is None and not export.is_text:
        problem = f"{form.value} cannot be printed to a terminal: give a file"
    elif out_path is None and file_per_video:
        problem = f"{form.value} holds one video a file: give a folder for {len(videos)} files"
    elif out_path is not None and out_path.is_dir() and export.several:
        problem = f"{out_path} is a folder, and {form.value} holds all videos in one file: give that"
    elif out_path is not None and out_path.is_file() and file_per_video:
        problem = f"{out_path} is a file, and {form.value} holds one video a file: give a folder"
    elif out_path is not None and any(_is_same_file(video.path, out_path) for video in videos):
        problem = f"{out_path} is one of the videos: it would be lost"
    if problem:
        raise typer.BadParameter(problem, param_hint="--out")
    if form not in (Format.JSON, Format.JSONL):
        _check_names([video.name for video in videos], files=file_per_video)
    return export


def _is_same_file(video: Path, out_path: Path) -> bool:
    return out_path.is_file() and video.exists() and video.samefile(out_path)


def _check_names(names: Sequence[str], *, files: bool) -> None:
    """Exit with status 2 if two results would have the same name, or the same file if `files`."""
    from service.exports import find_name_collision

    clash = find_name_collision(names, any_case=files)
    different = list(dict.fromkeys(clash))
    if len(different) > 1:
        raise typer.BadParameter(
            f"{' and '.join(map(repr, different))} are one name to many file systems: rename one", param_hint="VIDEO..."
        )  # fmt: skip
    if clash:
        raise typer.BadParameter(f"{len(clash)} videos are named {different[0]!r}: rename them", param_hint="VIDEO...")


def _has_file_per_video(export: "Export", out_path: Path | None, several: bool) -> bool:
    """Return whether each video gets its own file, in the folder `out_path`."""
    return not export.several and (several or (out_path is not None and out_path.is_dir()))


class _Output:
    """Writes results: as tables, or in an export format to standard output, a file or a folder.

    Args:
        export: the format; None for the table.
        path: file or folder; None for standard output.
        several: whether the arguments name several videos or a folder.
    """

    def __init__(self, export: "Export | None", path: Path | None, several: bool) -> None:
        self._export, self._path, self._several = export, path, several
        self._folder = path if export and _has_file_per_video(export, path, several) else None
        self._results: list[VideoResult] = []

    def check(self) -> None:
        """Raise OSError if the output is not writable, before the detection starts."""
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            check_writable(self._folder / uuid4().hex)
        elif self._path is not None:
            check_writable(self._path)

    def add(self, analysed: "VideoResult") -> None:
        """Print a video\'s table, write its file, or store its result for the common file."""
        from service.exports import write_export

        if self._export is None:
            print_result(analysed.source, analysed.result.model_dump(mode="json"))
            return
        if self._export.name not in _COMPLETE:
            print_hidden(analysed.result.model_dump(mode="json"))
        if self._folder is None:
            self._results.append(analysed)
            return
        path = self._folder / f"{analysed.video}{self._export.suffix}"  # a name may contain folders
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, write_export(self._export.name, [analysed]))

    def finish(self) -> None:
        """Write the common file of all videos."""
        from service.exports import write_export, write_json

        if self._export is None or self._folder is not None:
            return
        if self._export.name == Format.JSON:
            # A list for several videos, even if only one of them succeeded.
            content = write_json(self._results, as_list=self._several or not self._results)
        elif self._results or self._export.several:
            content = write_export(self._export.name, self._results)
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


def _parse_options(loaded: "Bundle", **given: object) -> "Options":
    """Parse options of the result; invalid labels or regions exit with status 2."""
    from service.errors import Problem
    from service.parameters import parse_parameters
    from service.results import find_action_ids
    from service.schemas import Options
    from workers.serialization import make_labels

    try:
        options = parse_parameters(Options, {name: str(value) for name, value in given.items() if value is not None})
        if options.labels is not None:
            find_action_ids(make_labels(loaded), options.labels)
    except Problem as problem:
        fail(problem.detail, status=2)
    return options


def _make_limits(settings: "Settings") -> "Limits":
    """Make decoder limits from the settings; duration and CPU time are unlimited unless they are set."""
    from model.video import UNLIMITED
    from workers.serialization import make_limits

    limits = make_limits(settings)
    if "max_duration_s" not in settings.model_fields_set:
        limits = replace(limits, max_duration_s=UNLIMITED.max_duration_s)
    if "decoder_cpu_s" not in settings.model_fields_set:
        limits = replace(limits, max_cpu_s=UNLIMITED.max_cpu_s)
    return limits


def _detect_file(
    detector: "Detector", video: Video, options: "Options", settings: "Settings", progress: Callable[[str, float], None]
) -> "VideoResult":
    """Detect in one file."""
    from model.bundle import sha256
    from service.exports import VideoResult
    from service.results import make_result
    from workers.serialization import make_context, make_region, make_stored_proposals

    with video.path.open("rb") as file:
        detections = detector.detect(
            file, region=make_region(options), limits=_make_limits(settings), progress=progress
        )
    context = make_context(detections, detector, options, job_id=None, video_sha256=sha256(video.path))
    stored = make_stored_proposals(detections, context)
    return VideoResult(video.name, make_result(stored, options), stored, str(video.path))
