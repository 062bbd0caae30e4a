"""Commands for those who train and measure: evaluation, error analysis, statistics, weights from elsewhere."""

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.table import Table

from mmad.client import Json
from mmad.options import AsJson, BundleDir, load_bundle, settings_with
from mmad.terminal import failing_on, out, print_table, tell, write

if TYPE_CHECKING:
    from model.taxonomy import Taxonomy
    from training.instances import Instances
    from training.tables import Loaded

app = typer.Typer()

AnnotationFile = Annotated[
    Path,
    typer.Option(
        "--annotations", help="CSV or JSON of the data set, ActivityNet JSON, or Label Studio's JSON."
    ),
]
PredictionFile = Annotated[
    Path, typer.Option("--predictions", help="The challenge's CSV or zip, ActivityNet JSON, or mmad results.")
]
LabelFile = Annotated[
    Path | None, typer.Option("--labels", help="Label list; the bundle's labels by default.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse files with rows that make no sense.")]


Subset = Annotated[
    str | None, typer.Option("--subset", help="Takes only this subset, where the file names some.")
]
OutDir = Annotated[Path, typer.Option("--out", help="Folder for what is made.")]


class Videos(StrEnum):
    """Whose ground truth counts."""

    PREDICTED = "predicted"
    ALL = "all"


WhichVideos = Annotated[Videos, typer.Option("--videos", help="All videos, or only those with a prediction.")]


@app.command()
def evaluate(
    annotations: AnnotationFile,
    predictions: PredictionFile,
    subset: Annotated[
        str | None, typer.Option(help="Takes only this subset, where the file names some.")
    ] = None,
    videos: WhichVideos = Videos.ALL,
    labels: LabelFile = None,
    bundle: BundleDir = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Mean average precision of predictions, at action and body level."""
    from training.evaluate import evaluate as evaluate_level
    from training.evaluate import to_document
    from training.tables import TableError

    with failing_on(TableError):
        taxonomy = _taxonomy(labels, bundle)
        sides = _read_sides(annotations, predictions, taxonomy, subset, videos, strict=strict)
    truth, found = sides.truth, sides.found
    action = evaluate_level(truth, found, len(taxonomy.actions))
    truth_parts, found_parts = truth.to_body_level(taxonomy), found.to_body_level(taxonomy)
    body = evaluate_level(truth_parts, found_parts, len(taxonomy.bodies))
    document = {
        "videos": len(truth.videos),
        "annotated": sides.annotated,
        "predicted": sides.predicted,
        **to_document(action, body, len(truth.videos), taxonomy),
    }
    if as_json:
        write(json.dumps(document, indent=1), None)
    else:
        print_evaluation(document)


@app.command()
def analyze(
    annotations: AnnotationFile,
    predictions: PredictionFile,
    out_dir: OutDir,
    subset: Subset = None,
    videos: WhichVideos = Videos.ALL,
    labels: LabelFile = None,
    bundle: BundleDir = None,
    strict: Strict = False,
    timelines: Annotated[
        int, typer.Option(min=0, help="Draw so many of the best and of the worst videos.")
    ] = 3,
) -> None:
    """Where predictions go wrong: false positives and negatives, as JSON and as figures."""
    from training import figures
    from training.analyze import analyze as analyze_errors
    from training.analyze import to_document, video_scores
    from training.tables import TableError

    with failing_on(TableError, OSError):
        out_dir.mkdir(parents=True, exist_ok=True)
        taxonomy = _taxonomy(labels, bundle)
        sides = _read_sides(annotations, predictions, taxonomy, subset, videos, strict=strict)
        truth, found = sides.truth, sides.found
        analysis = analyze_errors(truth, found, len(taxonomy.actions))
        document = to_document(analysis) | {"videos": len(truth.videos)}
        write(json.dumps(document, indent=1), out_dir / "analysis.json")
        figures.draw_false_positives(analysis, out_dir / "false_positives.png")
        figures.draw_false_negatives(analysis, out_dir / "false_negatives.png")
        for index in figures.worst_and_best(video_scores(truth, found), timelines):
            video = truth.videos[index]
            plain = re.sub(r"[^\w.-]", "_", video)
            figures.draw_timeline(video, truth, found, taxonomy, out_dir / f"timeline_{plain}.png")
    out.print(
        f"{out_dir}: {len(truth.videos)} videos, average mAP {100 * analysis.average:.2f}", highlight=False
    )


@app.command()
def stats(
    annotations: AnnotationFile,
    out_dir: OutDir,
    subset: Subset = None,
    fps: Annotated[
        float | None, typer.Option(min=1, help="Assume this rate for CSV files, whatever they say.")
    ] = None,
    labels: LabelFile = None,
    bundle: BundleDir = None,
    strict: Strict = False,
) -> None:
    """What a data set is made of, as JSON and as figures."""
    from training import figures
    from training.statistics import compute, to_document
    from training.tables import TableError, read_annotations

    with failing_on(TableError, OSError):
        out_dir.mkdir(parents=True, exist_ok=True)
        taxonomy = _taxonomy(labels, bundle)
        truth = _told(read_annotations(annotations, taxonomy, subset=subset, fps=fps, strict=strict))
        known = [video for video, length in zip(truth.videos, truth.durations, strict=True) if length > 0]
        if len(known) < len(truth.videos):
            tell(f"{len(truth.videos) - len(known)} videos without a known duration are left out", "yellow")
            truth = truth.of_videos(known)
        if not len(truth):
            raise TableError(f"{annotations} has no annotations of videos with a known duration to count")
        statistics = compute(truth, taxonomy)
        write(json.dumps(to_document(statistics), indent=1), out_dir / "statistics.json")
        figures.draw_classes(statistics, taxonomy, out_dir / "classes.png")
        figures.draw_lengths(truth, statistics, out_dir / "lengths.png")
        figures.draw_cooccurrence(statistics, taxonomy, out_dir / "cooccurrence.png")
    table = Table(show_header=False, title=str(annotations))
    for name, value in (
        ("videos", f"{statistics.videos:,}"),
        ("instances", f"{statistics.instances:,}"),
        ("instances a video", f"{statistics.instances / statistics.videos:.2f}"),
        ("hours", f"{statistics.hours:.2f}"),
        ("length of videos", f"{statistics.video_duration.mean:.2f} s"),
        ("length of instances", f"{statistics.instance_duration.mean:.2f} s"),
        ("instances that overlap another", f"{100 * statistics.overlapping:.1f} %"),
        (
            "time with 0, 1, 2 ... actions",
            ", ".join(f"{100 * share:.1f} %" for share in statistics.concurrent_time[:5]),
        ),
    ):
        table.add_row(name, value)
    print_table(table)


@app.command("import-weights")
def import_weights(
    source: Annotated[Path, typer.Argument(help="Hugging Face folder, .pth or .safetensors.")],
    out_path: Annotated[Path, typer.Option("--out", help="File to write, .safetensors.")],
    labels: LabelFile = None,
    bundle: BundleDir = None,
    config: Annotated[
        Path | None, typer.Option(help="JSON with parts of a bundle.json: input, architecture, thresholds.")
    ] = None,
) -> None:
    """Bring VideoMAE weights, or a whole OpenTAD detector: the first for training, the second for mmad export."""
    from training.tables import TableError
    from training.weights import (
        WeightsError,
        backbone_config,
        detector_manifest,
        import_backbone,
        import_detector,
        read_settings,
        read_weights,
    )

    with failing_on(WeightsError, TableError, OSError):
        imported = read_weights(source)
        settings = read_settings(config) if config else {}
        if imported.detector:
            manifest = detector_manifest(imported, _taxonomy(labels, bundle), settings)
            import_detector(imported, manifest, out_path)
            seen = manifest.input
            adapter = manifest.architecture.adapter.kind
            kind = f"a detector of {len(manifest.taxonomy.actions)} classes, adapter {adapter}"
            tell(
                f"assumed, unless --config says otherwise: {seen.width} x {seen.height} at {seen.fps:g} fps, "
                f"windows of {seen.window_frames} frames; in the pyramid {manifest.architecture.head.heads} heads, "
                "full attention, no position table"
            )
        else:
            import_backbone(imported, backbone_config(imported, settings), out_path)
            kind = "a backbone"
    out.print(
        f"{out_path}: {kind}; {imported.matched} tensors matched, {len(imported.left)} left", highlight=False
    )
    for name in imported.left[:20]:
        tell(f"left: {name}")


class _Sides(NamedTuple):
    """Ground truth and predictions of the same videos, with the numbers of annotated and predicted videos."""

    truth: "Instances"
    found: "Instances"
    annotated: int
    predicted: int


def _read_sides(
    annotations: Path,
    predictions: Path,
    taxonomy: "Taxonomy",
    subset: str | None,
    videos: Videos,
    *,
    strict: bool,
) -> _Sides:
    """Ground truth and predictions of all annotated videos, or of those with a prediction.

    Raises:
        TableError: there is nothing to measure, or nothing to measure against.
    """
    from training.tables import TableError, read_annotations, read_predictions

    truth = _told(read_annotations(annotations, taxonomy, subset=subset, strict=strict))
    if not truth.videos:
        raise typer.BadParameter(f"no video of {annotations} is left to evaluate", param_hint="--annotations")
    if not len(truth):
        raise TableError(f"{annotations} has {len(truth.videos)} videos and no annotation to measure against")
    durations = dict(zip(truth.videos, truth.durations.tolist(), strict=True))
    loaded = read_predictions(predictions, taxonomy, durations, strict=strict)
    found = _told(loaded)
    if loaded.faults and not len(found):
        raise TableError(f"none of the {len(loaded.faults):,} predictions of {predictions} can be used")
    annotated, chosen = len(truth.videos), sorted({found.videos[index] for index in found.video})
    if not chosen and videos is Videos.PREDICTED:
        raise TableError(
            f"{predictions} has no predictions: --videos predicted leaves no video to measure on"
        )
    if not chosen:
        tell(f"{predictions} has no predictions: nothing is found, and every number is 0", "yellow")
    elif len(chosen) < annotated:
        tell(_coverage(len(chosen), annotated, videos), "yellow")
    if videos is Videos.PREDICTED:
        truth, found = truth.of_videos(chosen), found.of_videos(chosen)
        if not len(truth):
            raise TableError(
                f"the {len(chosen)} videos with predictions have no annotation to measure against"
            )
    return _Sides(truth, found, annotated, len(chosen))


def _coverage(predicted: int, annotated: int, videos: Videos) -> str:
    """The warning that only some of the annotated videos have predictions."""
    if videos is Videos.PREDICTED:
        return f"measured on the {predicted:,} of {annotated:,} videos that have predictions (--videos predicted)"
    return (
        f"only {predicted:,} of {annotated:,} videos have predictions: in the other {annotated - predicted:,} nothing "
        "counts as found; --videos predicted measures without them"
    )


def _taxonomy(labels: Path | None, bundle: Path | None) -> "Taxonomy":
    from training.tables import read_labels

    if labels is not None:
        return read_labels(labels)
    return load_bundle(settings_with({"bundle"}, bundle=bundle).bundle).manifest.taxonomy


def _told(loaded: "Loaded") -> "Instances":
    """The instances that were read; prints a note for each dropped row and each forgiven name."""
    for notice in loaded.notices[:10]:
        tell(notice, "yellow")
    for fault in loaded.faults[:10]:
        tell(f"dropped: {fault}", "yellow")
    if loaded.faults:
        tell(
            f"{len(loaded.faults)} rows dropped, {len(loaded.instances)} kept; --strict refuses such a file",
            "yellow",
        )
    return loaded.instances


def print_evaluation(document: Json) -> None:
    """What `to_document` of an evaluation holds, but for single classes, as a table."""
    levels = ("action", "body")
    table = Table("tIoU", *levels, title=f"mAP in percent, {document['videos']} videos")
    for tiou in document["action"]["mAP"]:
        table.add_row(tiou, *(f"{100 * document[level]['mAP'][tiou]:.2f}" for level in levels))
    for name, key in (
        ("average", "average"),
        ("mean at 0.2, 0.5, 0.7", "challenge"),
        ("of frames", "frame_mAP"),
    ):
        table.add_row(name, *(f"{100 * document[level][key]:.2f}" for level in levels))
    for count in document["action"]["average_recall"]:
        values = (f"{100 * document[level]['average_recall'][count]:.2f}" for level in levels)
        table.add_row(f"recall at {count}", *values)
    print_table(table)
    out.print(f"average of both levels: {100 * document['average']:.2f}", highlight=False)
