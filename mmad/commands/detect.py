"""`mmad detect`: detects in local video files, without a service."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import structlog
import typer

from mmad import options
from mmad.files import check_writable
from mmad.terminal import (
    exit_on,
    fail,
    format_error,
    print_hidden,
    print_result,
    print_status,
    progress_bar,
    write_bytes,
)
from mmad.videos import Video, find_videos

if TYPE_CHECKING:
    from model.bundle import Bundle
    from model.detector import Detector
    from model.video import Limits
    from service.exports import Format as Export
    from service.exports import VideoResult
    from service.schemas import EafScores, Options
    from service.settings import Settings

app = typer.Typer()
log = structlog.get_logger()

# Formats that contain all proposals, or the hidden detections.
_COMPLETE = ("json", "mac-csv", "frames-csv", "frames-npz")


@app.command()
def detect(
    videos: Annotated[
        list[Path], typer.Argument(metavar="VIDEO...", help="Video files, or folders with videos at any depth.")
    ],
    bundle: options.BundleDir = None,
    engine: options.EngineOption = None,
    device: options.DeviceOption = None,
    region: options.RegionOption = None,
    min_score: options.MinScore = None,
    labels: options.LabelNames = None,
    top_k: options.TopK = None,
    max_duration: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="SECONDS",
                     help="Refuse longer videos; MMAD_MAX_DURATION_S or no limit by default."),
    ] = None,
    form: Annotated[options.Format | None, typer.Option("--format", help="Format of results.")] = None,
    rate: options.Rate = 5.0,
    eaf_scores: options.EafScoresOption = "tier",
    out_path: Annotated[
        Path | None,
        typer.Option("--out", help="File to write; a folder for several videos in a format with one file per video."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:  # fmt: skip
    """Detect micro-actions in local video files, without a service."""
    options.check_format(form, as_json)
    from model.detector import Detector
    from model.engines import load_engine
    from model.errors import DetectorError
    from model.sandbox.sandbox import make_decoder
    from service.exports import find_format

    found = find_videos(videos)
    form = form or ("json" if as_json or out_path else None)
    several = len(videos) > 1 or videos[0].is_dir()
    export = find_format(form) if form else None
    for module in export.needs if export else ():
        import_module(module)  # fails before the work, not after
    output = _Output(export, out_path, several, rate, eaf_scores)
    output.check_usage(found)
    settings = options.load_settings(
        options.DETECT_SETTINGS, bundle=bundle, engine=engine, device=device, max_duration_s=max_duration
    )
    loaded = options.load_bundle(settings.bundle)
    wanted = _parse_options(loaded, min_score=min_score, top_k=top_k, labels=labels and ",".join(labels), region=region)
    if not found:
        fail("there is no video to look at")
    with exit_on(DetectorError, OSError):
        output.check_writable()
        network = load_engine(loaded, settings.engine, settings.device, settings.data_dir / "cache")
        detector = Detector(loaded, network, decoder=make_decoder(settings.sandbox))
    with closing(detector.decoder):
        failed = _detect_each(found, detector, wanted, settings, output)
    with exit_on(OSError):
        output.finish()
    if failed and len(found) > 1:
        lines = "".join(f"\n  {path}: {message}" for path, message in failed.items())
        print_status(f"{len(failed)} of {len(found)} videos failed:{lines}", "red")
    raise typer.Exit(1 if failed else 0)


def _detect_each(
    videos: Sequence[Video], detector: "Detector", wanted: "Options", settings: "Settings", output: "_Output"
) -> dict[Path, str]:
    """Detect in each video, continuing after failures. Returns the error message of each failed video."""
    from model.errors import DetectorError

    failed: dict[Path, str] = {}
    for number, video in enumerate(videos, 1):
        count = f"{number} of {len(videos)}: " if len(videos) > 1 else ""
        try:
            with progress_bar(count + video.path.name) as progress:
                analysed = _detect_file(detector, video, wanted, settings, progress)
            output.add(analysed)
        except Exception as error:
            if not isinstance(error, DetectorError | OSError):
                log.exception("detect_failed", video=str(video.path))
            failed[video.path] = format_error(error, video.path)
            print_status(f"{video.path}: {failed[video.path]}", "red")
    return failed


class _Output:
    """Writes results: as tables, or in an export format to standard output, a file or a folder.

    `several` is true if the arguments name several videos or a folder. `rate` and `eaf_scores` are VideoResult's.
    """

    def __init__(
        self, export: "Export | None", path: Path | None, several: bool, rate: float, eaf_scores: "EafScores"
    ) -> None:
        self._export, self._path, self._several = export, path, several
        self._parameters: dict[str, Any] = {"rate": rate, "eaf_scores": eaf_scores}
        in_folder = several or (path is not None and path.is_dir())
        self._file_per_video = export is not None and not export.several and in_folder
        self._results: list[VideoResult] = []

    def check_usage(self, videos: Sequence[Video]) -> None:
        """Exit with status 2 if the format cannot be written to this output, or names of videos collide."""
        from service.exports import find_name_collision

        export, path = self._export, self._path
        if export is None:
            return
        problem = None
        if path is None:
            if not export.is_text:
                problem = f"{export.name} cannot be printed to a terminal: give a file"
            elif self._file_per_video:
                problem = f"{export.name} holds one video a file: give a folder for {len(videos)} files"
        elif path.is_dir() and export.several:
            problem = f"{path} is a folder, and {export.name} holds all videos in one file: give that"
        elif path.is_file() and self._file_per_video:
            problem = f"{path} is a file, and {export.name} holds one video a file: give a folder"
        elif path.is_file() and any(video.path.exists() and video.path.samefile(path) for video in videos):
            problem = f"{path} is one of the videos: it would be lost"
        if problem:
            raise typer.BadParameter(problem, param_hint="--out")
        if export.name in ("json", "jsonl"):
            return
        clash = find_name_collision([video.name for video in videos], any_case=self._file_per_video)
        different = list(dict.fromkeys(clash))
        if clash:
            problem = f"{len(clash)} videos are named {different[0]!r}: rename them"
            if len(different) > 1:
                problem = f"{' and '.join(map(repr, different))} are one name to many file systems: rename one"
            raise typer.BadParameter(problem, param_hint="VIDEO...")

    def check_writable(self) -> None:
        """Raise OSError if the output is not writable, before the detection starts."""
        if self._path is not None and self._file_per_video:
            self._path.mkdir(parents=True, exist_ok=True)
            check_writable(self._path / uuid4().hex)
        elif self._path is not None:
            check_writable(self._path)

    def add(self, analysed: "VideoResult") -> None:
        """Print a video's table, write its file, or store its result for the common file."""
        from service.exports import write_export

        if self._export is None:
            print_result(analysed.source, analysed.result.model_dump(mode="json"))
            return
        if self._export.name not in _COMPLETE:
            print_hidden(analysed.result.model_dump(mode="json"))
        analysed = replace(analysed, **self._parameters)
        if self._path is None or not self._file_per_video:
            self._results.append(analysed)
            return
        path = self._path / f"{analysed.video}{self._export.suffix}"  # a name may contain folders
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(write_export(self._export.name, [analysed]), path)

    def finish(self) -> None:
        """Write the common file of all videos."""
        from service.exports import write_export, write_json

        if self._export is None or self._file_per_video:
            return
        if self._export.name == "json":
            # A list for several videos, even if only one of them succeeded.
            write_bytes(write_json(self._results, as_list=self._several or not self._results), self._path)
        elif self._results or self._export.several:
            write_bytes(write_export(self._export.name, self._results), self._path)


def _parse_options(loaded: "Bundle", **given: object) -> "Options":
    """Parse options of the result; invalid labels or regions exit with status 2."""
    from service.errors import Problem
    from service.parameters import parse_parameters
    from service.results import find_action_ids
    from service.schemas import Options
    from workers.serialization import make_labels

    try:
        parsed = parse_parameters(Options, {name: str(value) for name, value in given.items() if value is not None})
        if parsed.labels is not None:
            find_action_ids(make_labels(loaded), parsed.labels)
    except Problem as problem:
        fail(problem.detail, status=2)
    return parsed


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
    detector: "Detector", video: Video, wanted: "Options", settings: "Settings", progress: Callable[[str, float], None]
) -> "VideoResult":
    from model.bundle import sha256
    from service.exports import VideoResult
    from service.results import make_result
    from workers.serialization import make_region, make_stored_proposals

    with video.path.open("rb") as file:
        detections = detector.detect(file, region=make_region(wanted), limits=_make_limits(settings), progress=progress)
    stored = make_stored_proposals(detections, detector, wanted, job_id=None, video_sha256=sha256(video.path))
    return VideoResult(video.name, make_result(stored, wanted), stored, str(video.path))
