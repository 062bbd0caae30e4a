"""Reports: tables and figures of an evaluation; checkpoint, bundle and report of a training run."""

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from model.bundle import Manifest
from model.export import Weights, export_bundle, save_checkpoint
from model.network import Network
from model.taxonomy import Action, Body, Taxonomy
from training.evaluation import figures
from training.evaluation.errors import Analysis, analyze, video_scores
from training.evaluation.errors import to_document as errors_document
from training.evaluation.metrics import TIOUS, LevelReport, to_document
from training.evaluation.validation import ValidationResult, collect_metrics
from training.instances import Instances
from training.run import HISTORY, RECIPE, find_locator

TABLES = "tables.md"
_PACKAGES = ("mmad", "torch", "lightning-fabric", "numpy", "av", "onnxruntime", "openvino")
_TIMELINES = 3  # number of worst videos, and of best ones
_SHOWN_TIOUS = (0.1, 0.3, 0.5, 0.7, 0.9)


def write_tables(truth: Instances, action: LevelReport, body: LevelReport, taxonomy: Taxonomy, path: Path) -> None:
    """Write mAP at both levels and the average precision of every class as Markdown, in percent."""
    levels = [
        _make_level_table("body part", truth.to_body_level(taxonomy), body, taxonomy.bodies),
        _make_level_table("action", truth, action, taxonomy.actions),
    ]
    lines = [
        "# mAP in percent",
        _row("tIoU", *(f"{tiou:g}" for tiou in TIOUS), "mean"),
        _row(*["---"] * (len(TIOUS) + 2)),
        *(
            _row(name, *(_percent(value) for value in (*report.mean_precision, report.average)))
            for name, report in (("action", action), ("body", body))
        ),
        *(line for level in levels for line in ("", *level)),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _make_level_table(
    kind: str, truth: Instances, report: LevelReport, classes: tuple[Action, ...] | tuple[Body, ...]
) -> list[str]:
    counts = np.bincount(truth.labels, minlength=len(classes))
    shown = [TIOUS.index(tiou) for tiou in _SHOWN_TIOUS]
    head = ("code", kind, "instances", *(f"AP at {tiou:g}" for tiou in _SHOWN_TIOUS), "mean AP")
    rows = []
    for one in classes:
        column = report.precision[:, one.id]
        if not np.isnan(column[0]):
            values = (*column[shown], column.mean())
            rows.append(_row(one.code, one.name, counts[one.id], *map(_percent, values)))
    return [f"## Every {kind}", _row(*head), _row(*["---"] * len(head)), *rows]


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def draw_figures(
    truth: Instances, predictions: Instances, action: LevelReport, analysis: Analysis, taxonomy: Taxonomy, folder: Path
) -> None:
    """Draw average precision, kinds of errors, and timelines of the worst and the best videos."""
    figures.draw_precision(action.precision.mean(axis=0), taxonomy, folder / "classes.png")
    figures.draw_false_positives(analysis, folder / "false-positives.png")
    figures.draw_false_negatives(analysis, folder / "false-negatives.png")
    scores = video_scores(truth, predictions)
    for index in figures.worst_and_best(scores, _TIMELINES):
        name = truth.videos[index]
        path = folder / f"{scores[index]:.2f}-{name}.png"
        figures.draw_timeline(name, truth, predictions, taxonomy, path)


def describe_device(device: str) -> str:
    """Return the name of the GPU, or the number and architecture of the CPU cores."""
    if device != "cpu" and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"cpu, {len(os.sched_getaffinity(0))} cores of {platform.machine()}"


def versions() -> dict[str, object]:
    """Return the versions of Python and of the packages that affect results."""
    return {"python": platform.python_version(), "versions": {name: _version(name) for name in _PACKAGES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def write_results(
    network: Network,
    manifest: Manifest,
    result: ValidationResult,
    out: Path,
    *,
    device: str = "auto",
    weights: Weights = "fp32",
) -> Manifest:
    """Write network.safetensors (fp32), bundle/ and report/ from the result on validation videos."""
    final_manifest = manifest.model_copy(
        update={
            "metrics": {f"validation_{name}": value for name, value in collect_metrics(result).items()},
            "thresholds": result.thresholds,
            "calibration": result.calibration,
        }
    )
    checkpoint = out / "network.safetensors"
    save_checkpoint(checkpoint, network, final_manifest)
    engine_errors: dict[str, float] = {}
    text = (out / RECIPE).read_text("utf-8")
    recipe = yaml.safe_load(text)
    export_bundle(checkpoint, out / "bundle", engine_errors.__setitem__, weights, find_locator(recipe))
    folder = out / "report"
    folder.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in (out / HISTORY).read_text("utf-8").splitlines()]
    taxonomy = final_manifest.taxonomy
    figures.draw_history(rows, folder / "loss.png")
    errors = analyze(result.truth, result.predictions, len(taxonomy.actions))
    if len(result.truth):
        draw_figures(result.truth, result.predictions, result.action, errors, taxonomy, folder)
    write_tables(result.truth, result.action, result.body, taxonomy, folder / TABLES)
    document = {
        "evaluation": to_document(result.action, result.body, len(result.truth.videos), taxonomy),
        "metrics": final_manifest.metrics,
        "errors": errors_document(errors),
        "engines": engine_errors,
        "training": summarise_cost(rows, recipe) | {"device": describe_device(device)},
        "seed": recipe["seed"],
        "weights": weights,
        **versions(),
        "recipe": text,
    }
    (folder / "report.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return final_manifest


def summarise_cost(rows: list[dict[str, Any]], recipe: dict[str, Any]) -> dict[str, object]:
    """Summarise the rows of history.jsonl: steps, windows, frames, seconds, frames per second."""
    frames, seconds = (sum(row.get(name, 0) for row in rows) for name in ("frames", "seconds"))
    return {
        "steps": len(rows),
        "windows": sum(recipe["stages"][row["stage"]]["batch"] for row in rows),
        "frames": frames,
        "seconds": seconds,
        "frames_per_second": frames / seconds if seconds else None,
    }
