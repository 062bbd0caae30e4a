"""Commands for those who train and measure: evaluation."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mmad.client import Json
from mmad.options import AsJson, BundleDir, load_bundle, settings_with
from mmad.terminal import failing_on, out, tell, write

if TYPE_CHECKING:
    from model.taxonomy import Taxonomy
    from training.instances import Instances
    from training.tables import Loaded

app = typer.Typer()

AnnotationFile = Annotated[
    Path, typer.Option("--annotations", help="CSV or JSON of the data set, or ActivityNet JSON.")
]
PredictionFile = Annotated[
    Path, typer.Option("--predictions", help="The challenge's CSV or zip, ActivityNet JSON, or mmad results.")
]
LabelFile = Annotated[
    Path | None, typer.Option("--labels", help="Label list; the bundle's labels by default.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse files with rows that make no sense.")]


class Videos(StrEnum):
    """Whose ground truth counts."""

    PREDICTED = "predicted"
    ALL = "all"


@app.command()
def evaluate(
    annotations: AnnotationFile,
    predictions: PredictionFile,
    subset: Annotated[
        str | None, typer.Option(help="Takes only this subset, where the file names some.")
    ] = None,
    videos: Annotated[Videos, typer.Option(help="All videos, or only those with a prediction.")] = Videos.ALL,
    labels: LabelFile = None,
    bundle: BundleDir = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Mean average precision of predictions, at action and body level."""
    from training.evaluate import evaluate as evaluate_level
    from training.evaluate import to_document
    from training.tables import TableError, read_annotations, read_predictions

    with failing_on(TableError):
        taxonomy = _taxonomy(labels, bundle)
        truth = _told(read_annotations(annotations, taxonomy, subset=subset, strict=strict))
        durations = dict(zip(truth.videos, truth.durations.tolist(), strict=True))
        found = _told(read_predictions(predictions, taxonomy, durations, strict=strict))
        if videos is Videos.PREDICTED:
            chosen = sorted({found.videos[index] for index in found.video})
            truth, found = truth.of_videos(chosen), found.of_videos(chosen)
    if not truth.videos:
        raise typer.BadParameter(f"no video of {annotations} is left to evaluate", param_hint="--annotations")
    action = evaluate_level(truth, found, len(taxonomy.actions))
    truth_parts, found_parts = truth.to_body_level(taxonomy), found.to_body_level(taxonomy)
    body = evaluate_level(truth_parts, found_parts, len(taxonomy.bodies))
    document = to_document(action, body, len(truth.videos), taxonomy)
    if as_json:
        write(json.dumps(document, indent=1), None)
    else:
        _print_evaluation(document)


def _taxonomy(labels: Path | None, bundle: Path | None) -> "Taxonomy":
    from training.tables import read_labels

    if labels is not None:
        return read_labels(labels)
    return load_bundle(settings_with(bundle=bundle).bundle).manifest.taxonomy


def _told(loaded: "Loaded") -> "Instances":
    """What was read; what was dropped is told."""
    for fault in loaded.faults[:10]:
        tell(f"dropped: {fault}", "yellow")
    if loaded.faults:
        tell(
            f"{len(loaded.faults)} rows dropped, {len(loaded.instances)} kept; --strict refuses such a file",
            "yellow",
        )
    return loaded.instances


def _print_evaluation(document: Json) -> None:
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
    out.print(table)
    out.print(f"average of both levels: {100 * document['average']:.2f}", highlight=False)
