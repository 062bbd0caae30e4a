"""`mmad evaluate`, `mmad analyze`, `mmad stats` and `mmad import-weights`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmad.models import Json
from mmad.options import AsJson, BundleDir, load_configured_bundle
from mmad.terminal import exit_on, out, print_status, print_table, write_json

if TYPE_CHECKING:
    from model.taxonomy import Taxonomy
    from training.instances import Instances
    from training.tables import ReadResult

app = typer.Typer()

AnnotationFile = Annotated[
    Path, typer.Option("--annotations", help="CSV or JSON of the data set, ActivityNet JSON or Label Studio JSON.")
]
PredictionFile = Annotated[
    Path, typer.Option("--predictions", help="CSV or zip of the challenge, ActivityNet JSON, or results of mmad.")
]
LabelFile = Annotated[Path | None, typer.Option("--labels", help="Label list; the bundle's labels by default.")]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse files with invalid rows.")]
Subset = Annotated[str | None, typer.Option("--subset", help="Use only this subset, if the file has subsets.")]
OutDir = Annotated[Path, typer.Option("--out", help="Folder for JSON and figures.")]
WhichVideos = Annotated[
    Literal["predicted", "all"], typer.Option("--videos", help="All videos, or only those with a prediction.")
]


@app.command()
def evaluate(
    annotations: AnnotationFile,
    predictions: PredictionFile,
    subset: Subset = None,
    videos: WhichVideos = "all",
    labels: LabelFile = None,
    bundle: BundleDir = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Compute the mean average precision of predictions, at action and body level."""
    from training.evaluation.metrics import evaluate_levels, to_document
    from training.files import AnnotationError

    with exit_on(AnnotationError):
        taxonomy = _load_taxonomy(labels, bundle)
        truth, found, counts = _read_sides(annotations, predictions, taxonomy, subset, videos, strict=strict)
    action, body = evaluate_levels(truth, found, taxonomy)
    count = len(truth.videos)
    document = {"videos": count, **counts, **to_document(action, body, count, taxonomy)}
    if as_json:
        write_json(document)
    else:
        print_evaluation(document)


@app.command()
def analyze(
    annotations: AnnotationFile,
    predictions: PredictionFile,
    out_dir: OutDir,
    subset: Subset = None,
    videos: WhichVideos = "all",
    labels: LabelFile = None,
    bundle: BundleDir = None,
    strict: Strict = False,
    timelines: Annotated[int, typer.Option(min=0, help="Number of best and of worst videos to draw.")] = 3,
) -> None:
    """Analyse the errors of predictions: false positives and negatives, as JSON and figures."""
    from training.evaluation import figures
    from training.evaluation.errors import analyze as analyze_errors
    from training.evaluation.errors import to_document, video_scores
    from training.files import AnnotationError

    with exit_on(AnnotationError, OSError):
        out_dir.mkdir(parents=True, exist_ok=True)
        taxonomy = _load_taxonomy(labels, bundle)
        truth, found, _ = _read_sides(annotations, predictions, taxonomy, subset, videos, strict=strict)
        analysis = analyze_errors(truth, found, len(taxonomy.actions))
        document = to_document(analysis) | {"videos": len(truth.videos)}
        write_json(document, out_dir / "analysis.json")
        figures.draw_false_positives(analysis, out_dir / "false_positives.png")
        figures.draw_false_negatives(analysis, out_dir / "false_negatives.png")
        for index in figures.worst_and_best(video_scores(truth, found), timelines):
            video = truth.videos[index]
            file_name = re.sub(r"[^\w.-]", "_", video)
            figures.draw_timeline(video, truth, found, taxonomy, out_dir / f"timeline_{file_name}.png")
    out.print(f"{out_dir}: {len(truth.videos)} videos, average mAP {100 * analysis.average:.2f}")


@app.command()
def stats(
    annotations: AnnotationFile,
    out_dir: OutDir,
    subset: Subset = None,
    fps: Annotated[
        float | None, typer.Option(min=1, help="Frame rate of CSV files, instead of the one in the file.")
    ] = None,
    labels: LabelFile = None,
    bundle: BundleDir = None,
    strict: Strict = False,
) -> None:
    """Compute statistics of a data set, as JSON and figures."""
    from training.evaluation import figures
    from training.evaluation.statistics import compute_statistics, to_document
    from training.files import AnnotationError
    from training.tables import read_annotations

    with exit_on(AnnotationError, OSError):
        out_dir.mkdir(parents=True, exist_ok=True)
        taxonomy = _load_taxonomy(labels, bundle)
        truth = _report_faults(read_annotations(annotations, taxonomy, subset=subset, fps=fps, strict=strict))
        known = [video for video, length in zip(truth.videos, truth.durations, strict=True) if length > 0]
        if len(known) < len(truth.videos):
            print_status(f"{len(truth.videos) - len(known)} videos without a known duration are left out", "yellow")
            truth = truth.select_videos(known)
        if not len(truth):
            raise AnnotationError(f"{annotations} has no annotations of videos with a known duration to count")
        statistics = compute_statistics(truth, taxonomy)
        write_json(to_document(statistics), out_dir / "statistics.json")
        figures.draw_classes(statistics, taxonomy, out_dir / "classes.png")
        figures.draw_lengths(truth, statistics, out_dir / "lengths.png")
        figures.draw_cooccurrence(statistics, taxonomy, out_dir / "cooccurrence.png")
    shares = ", ".join(f"{100 * share:.1f} %" for share in statistics.concurrent_time[:5])
    rows = {
        "videos": f"{statistics.videos:,}",
        "instances": f"{statistics.instances:,}",
        "instances a video": f"{statistics.instances / statistics.videos:.2f}",
        "hours": f"{statistics.hours:.2f}",
        "length of videos": f"{statistics.video_duration.mean:.2f} s",
        "length of instances": f"{statistics.instance_duration.mean:.2f} s",
        "instances that overlap another": f"{100 * statistics.overlapping:.1f} %",
        "time with 0, 1, 2 ... actions": shares,
    }
    print_table([], list(rows.items()), title=str(annotations))


@app.command("import-weights")
def import_weights(
    source: Annotated[Path, typer.Argument(help="Hugging Face folder, .pth or .safetensors.")],
    out_path: Annotated[Path, typer.Option("--out", help=".safetensors file to write.")],
    labels: LabelFile = None,
    bundle: BundleDir = None,
    config: Annotated[
        Path | None, typer.Option(help="JSON with sections of a bundle.json: input, architecture, thresholds.")
    ] = None,
) -> None:
    """Import VideoMAE weights (for mmad train) or an OpenTAD detector (for mmad export)."""
    from training import weights
    from training.files import AnnotationError

    with exit_on(weights.WeightsError, AnnotationError, OSError):
        imported = weights.read_weights(source)
        settings = weights.read_settings(config) if config else {}
        if imported.detector:
            manifest = weights.detector_manifest(imported, _load_taxonomy(labels, bundle), settings)
            weights.import_detector(imported, manifest, out_path)
            inputs, architecture = manifest.input, manifest.architecture
            kind = f"a detector of {len(manifest.taxonomy.actions)} classes, adapter {architecture.adapter.kind}"
            print_status(
                f"assumed, unless --config says otherwise: {inputs.width} x {inputs.height} at {inputs.fps:g} fps, "
                f"windows of {inputs.window_frames} frames; in the pyramid {architecture.head.heads} heads, "
                "full attention, no position table"
            )
        else:
            weights.import_backbone(imported, weights.backbone_config(imported, settings), out_path)
            kind = "a backbone"
    out.print(f"{out_path}: {kind}; {imported.matched} tensors matched, {len(imported.unmatched)} left")
    for name in imported.unmatched[:20]:
        print_status(f"left: {name}")


def _read_sides(
    annotations: Path, predictions: Path, taxonomy: "Taxonomy", subset: str | None, videos: str, *, strict: bool
) -> "tuple[Instances, Instances, dict[str, int]]":
    """Read ground truth and predictions of all annotated videos, or of those with a prediction.

    Also returns the numbers of annotated and predicted videos. Raises AnnotationError.
    """
    from training.files import AnnotationError
    from training.tables import read_annotations, read_predictions

    truth = _report_faults(read_annotations(annotations, taxonomy, subset=subset, strict=strict))
    if not truth.videos:
        raise typer.BadParameter(f"no video of {annotations} is left to evaluate", param_hint="--annotations")
    if not len(truth):
        raise AnnotationError(f"{annotations} has {len(truth.videos)} videos and no annotation to measure against")
    durations = dict(zip(truth.videos, truth.durations.tolist(), strict=True))
    loaded = read_predictions(predictions, taxonomy, durations, strict=strict)
    found = _report_faults(loaded)
    if loaded.faults and not len(found):
        raise AnnotationError(f"none of the {len(loaded.faults):,} predictions of {predictions} can be used")
    annotated, chosen = len(truth.videos), sorted({found.videos[index] for index in found.video})
    if not chosen and videos == "predicted":
        raise AnnotationError(f"{predictions} has no predictions: --videos predicted leaves no video to measure on")
    covered, rest = f"{len(chosen):,} of {annotated:,} videos", annotated - len(chosen)
    if not chosen:
        print_status(f"{predictions} has no predictions: nothing is found, and every number is 0", "yellow")
    elif rest and videos == "predicted":
        print_status(f"measured on the {covered} that have predictions (--videos predicted)", "yellow")
    elif rest:
        print_status(
            f"only {covered} have predictions: in the other {rest:,} nothing counts as found; "
            "--videos predicted measures without them", "yellow",
        )  # fmt: skip
    if videos == "predicted":
        truth, found = truth.select_videos(chosen), found.select_videos(chosen)
        if not len(truth):
            raise AnnotationError(f"the {len(chosen)} videos with predictions have no annotation to measure against")
    return truth, found, {"annotated": annotated, "predicted": len(chosen)}


def _load_taxonomy(labels: Path | None, bundle: Path | None) -> "Taxonomy":
    from training.tables import read_labels

    if labels is not None:
        return read_labels(labels)
    return load_configured_bundle(bundle).manifest.taxonomy


def _report_faults(loaded: "ReadResult") -> "Instances":
    """Return the loaded instances; prints the first dropped rows and corrected names."""
    for notice in loaded.notices[:10]:
        print_status(notice, "yellow")
    for fault in loaded.faults[:10]:
        print_status(f"dropped: {fault}", "yellow")
    if loaded.faults:
        print_status(
            f"{len(loaded.faults)} rows dropped, {len(loaded.instances)} kept; --strict refuses such a file", "yellow"
        )
    return loaded.instances


def print_evaluation(document: Json) -> None:
    """Print an evaluation document as a table, without the single classes."""
    levels = [document["action"], document["body"]]
    rows = [(tiou, *(percent(level["mAP"][tiou]) for level in levels)) for tiou in levels[0]["mAP"]]
    for name, key in (("average", "average"), ("mean at 0.2, 0.5, 0.7", "challenge"), ("of frames", "frame_mAP")):
        rows.append((name, *(percent(level[key]) for level in levels)))
    for count in levels[0]["average_recall"]:
        rows.append((f"recall at {count}", *(percent(level["average_recall"][count]) for level in levels)))
    print_table(("tIoU", "action", "body"), rows, title=f"mAP in percent, {document['videos']} videos")
    out.print(f"average of both levels: {percent(document['average'])}")


def percent(fraction: float) -> str:
    """Format a fraction in percent."""
    return f"{100 * fraction:.2f}"
