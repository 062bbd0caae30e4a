"""What a report tells of predictions: tables to read, and figures."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from model.taxonomy import Action, Body, Taxonomy
from training import figures
from training.analyze import Analysis, video_scores
from training.evaluate import TIOUS, LevelReport
from training.instances import Instances

TABLES = "tables.md"
_PACKAGES = ("mmad", "torch", "lightning-fabric", "numpy", "av", "onnxruntime", "openvino")
_TIMELINES = 3  # of the worst videos, and of the best
_SHOWN_TIOUS = (0.1, 0.3, 0.5, 0.7, 0.9)


def write_tables(
    truth: Instances, action: LevelReport, body: LevelReport, taxonomy: Taxonomy, path: Path
) -> None:
    """mAP at both levels, and the average precision of every class, in Markdown and percent."""
    levels = [
        _level("body part", truth.to_body_level(taxonomy), body, taxonomy.bodies),
        _level("action", truth, action, taxonomy.actions),
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


def _level(
    kind: str, truth: Instances, report: LevelReport, classes: tuple[Action, ...] | tuple[Body, ...]
) -> list[str]:
    """A table of every class that the ground truth has."""
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


def draw(
    truth: Instances,
    predictions: Instances,
    action: LevelReport,
    analysis: Analysis,
    taxonomy: Taxonomy,
    folder: Path,
) -> None:
    """Draw classes, kinds of errors, and timelines of the worst and the best videos."""
    figures.draw_precision(action.precision.mean(axis=0), taxonomy, folder / "classes.png")
    figures.draw_false_positives(analysis, folder / "false-positives.png")
    figures.draw_false_negatives(analysis, folder / "false-negatives.png")
    scores = video_scores(truth, predictions)
    for place in figures.worst_and_best(scores, _TIMELINES):
        name = truth.videos[place]
        path = folder / f"{scores[place]:.2f}-{name}.png"
        figures.draw_timeline(name, truth, predictions, taxonomy, path)


def describe_device(device: str) -> str:
    """A GPU's name, or how many processor cores there were."""
    if device != "cpu" and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"cpu, {len(os.sched_getaffinity(0))} cores of {platform.machine()}"


def versions() -> dict[str, object]:
    """Of Python, and of the packages that compute."""
    return {"python": platform.python_version(), "versions": {name: _version(name) for name in _PACKAGES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
