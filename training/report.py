"""What a run leaves behind: checkpoint, bundle, and a folder of figures and numbers."""

import json
from pathlib import Path
from typing import Any

import yaml

from model.bundle import Manifest
from model.export import Agreement, Weights, export_bundle, save_checkpoint
from model.network import Network
from training import figures
from training.analyze import analyze
from training.analyze import to_document as errors_document
from training.evaluate import to_document
from training.findings import TABLES, describe_device, draw, versions, write_tables
from training.run import HISTORY, RECIPE
from training.start import locator_of
from training.validate import Measured, metrics_of


def conclude(
    network: Network,
    manifest: Manifest,
    measured: Measured,
    out: Path,
    *,
    device: str = "auto",
    weights: Weights = "fp32",
) -> Manifest:
    """Write network.safetensors, bundle/ and report/; returns the manifest with what was measured.

    Args:
        network: trained. manifest: of its bundle. measured: on validation videos. out: folder of the run.
        device: that it was trained on, as `mmad train` was asked for it.
        weights: how the bundle stores them; the checkpoint always has fp32.
    """
    concluded = manifest.model_copy(
        update={
            "metrics": {f"validation_{name}": value for name, value in metrics_of(measured).items()},
            "thresholds": measured.thresholds,
            "calibration": measured.calibration,
        }
    )
    checkpoint = out / "network.safetensors"
    save_checkpoint(checkpoint, network, concluded)
    agreements: list[Agreement] = []
    recipe = (out / RECIPE).read_text("utf-8")
    locator = locator_of(yaml.safe_load(recipe))
    export_bundle(checkpoint, out / "bundle", agreements.append, weights, locator)
    folder = out / "report"
    folder.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in (out / HISTORY).read_text("utf-8").splitlines()]
    taxonomy = concluded.taxonomy
    figures.draw_history(rows, folder / "loss.png")
    errors = analyze(measured.truth, measured.predictions, len(taxonomy.actions))
    if len(measured.truth):
        draw(measured.truth, measured.predictions, measured.action, errors, taxonomy, folder)
    write_tables(measured.truth, measured.action, measured.body, taxonomy, folder / TABLES)
    document = {
        "evaluation": to_document(measured.action, measured.body, len(measured.truth.videos), taxonomy),
        "metrics": concluded.metrics,
        "errors": errors_document(errors),
        "engines": {one.engine: one.max_abs_error for one in agreements},
        "training": effort(rows, yaml.safe_load(recipe)) | {"device": describe_device(device)},
        "seed": yaml.safe_load(recipe)["seed"],
        "weights": weights,
        **versions(),
        "recipe": recipe,
    }
    (folder / "report.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return concluded


def effort(rows: list[dict[str, Any]], recipe: dict[str, Any]) -> dict[str, object]:
    """What training cost, of history's rows: steps, windows and frames seen, seconds, frames a second."""
    frames, seconds = (sum(row.get(name, 0) for row in rows) for name in ("frames", "seconds"))
    return {
        "steps": len(rows),
        "windows": sum(recipe["stages"][row["stage"]]["batch"] for row in rows),
        "frames": frames,
        "seconds": seconds,
        "frames_per_second": frames / seconds if seconds else None,
    }
