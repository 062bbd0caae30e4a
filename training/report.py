"""What a run leaves behind: checkpoint, bundle, and a folder of figures and numbers."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from model.bundle import Manifest
from model.export import Agreement, export_bundle, save_checkpoint
from model.network import Network
from training import figures
from training.analyze import analyze, video_scores
from training.evaluate import to_document
from training.train import HISTORY, RECIPE
from training.validate import Measured, metrics_of

_TIMELINES = 3
_PACKAGES = ("mmad", "torch", "lightning-fabric", "numpy", "av")


def conclude(network: Network, manifest: Manifest, measured: Measured, out: Path) -> Manifest:
    """Write network.safetensors, bundle/ and report/; returns the manifest with what was measured."""
    concluded = manifest.model_copy(
        update={
            "metrics": metrics_of(measured),
            "thresholds": measured.thresholds,
            "calibration": measured.calibration,
        }
    )
    checkpoint = out / "network.safetensors"
    save_checkpoint(checkpoint, network, concluded)
    agreements: list[Agreement] = []
    export_bundle(checkpoint, out / "bundle", agreements.append)
    folder = out / "report"
    folder.mkdir(exist_ok=True)
    _write_numbers(measured, concluded, agreements, folder)
    _draw(measured, concluded, out, folder)
    return concluded


def _write_numbers(measured: Measured, manifest: Manifest, agreements: list[Agreement], folder: Path) -> None:
    taxonomy = manifest.taxonomy
    document = {
        "evaluation": to_document(measured.action, measured.body, len(measured.truth.videos), taxonomy),
        "errors": _errors(measured, len(taxonomy.actions)),
        "engines": {one.engine: one.max_abs_error for one in agreements},
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "recipe": (folder.parent / RECIPE).read_text("utf-8"),
    }
    (folder / "report.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _errors(measured: Measured, actions: int) -> dict[str, object]:
    if not len(measured.truth):
        return {}
    found = analyze(measured.truth, measured.predictions, actions)
    return {name: value for name, value in found._asdict().items() if name != "false_negatives"}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _draw(measured: Measured, manifest: Manifest, out: Path, folder: Path) -> None:
    rows = [json.loads(line) for line in (out / HISTORY).read_text("utf-8").splitlines()]
    figures.draw_history(rows, folder / "loss.png")
    if not len(measured.truth):
        return
    found = analyze(measured.truth, measured.predictions, len(manifest.taxonomy.actions))
    figures.draw_false_positives(found, folder / "false-positives.png")
    figures.draw_false_negatives(found, folder / "false-negatives.png")
    scores = video_scores(measured.truth, measured.predictions)
    for place in figures.worst_and_best(scores, _TIMELINES):
        name = measured.truth.videos[place]
        path = folder / f"{scores[place]:.2f}-{name}.png"
        figures.draw_timeline(name, measured.truth, measured.predictions, manifest.taxonomy, path)
