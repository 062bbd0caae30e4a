"""The results folder of a training run."""

import json
from pathlib import Path

import numpy as np
import pytest

from model.bundle import Thresholds
from model.export import load_checkpoint
from tests.untrained_bundle import make_untrained_manifest, make_untrained_network
from training.evaluation import report
from training.evaluation.metrics import evaluate
from training.evaluation.validation import ValidationResult
from training.instances import Instances
from training.recipe import load_recipe
from training.run import HISTORY, RECIPE

MANIFEST = make_untrained_manifest()


def validation_result() -> ValidationResult:
    """Return results of five videos: three detected, one with a wrong label, one missed."""
    truth = Instances(
        videos=tuple("abcde"),
        durations=np.full(5, 10.0),
        video=np.arange(5),
        segments=np.tile([2.0, 5.0], (5, 1)),
        labels=np.array([3, 3, 3, 9, 9]),
        scores=np.ones(5),
    )
    predictions = truth[np.arange(4)]
    levels = [
        evaluate(one, other, count)
        for one, other, count in (
            (truth, predictions, 52),
            (truth.to_body_level(MANIFEST.taxonomy), predictions.to_body_level(MANIFEST.taxonomy), 7),
        )
    ]
    return ValidationResult(truth, predictions, *levels, Thresholds(default=0.3), None, (0.2, 0.1))


def run_folder(folder: Path, rows: list[dict[str, float]]) -> None:
    (folder / RECIPE).write_text(load_recipe("smoke", ["seed=5"]).to_yaml())
    (folder / HISTORY).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_report_has_metrics_errors_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight_formats: list[object] = []
    monkeypatch.setattr(report, "export_bundle", lambda *arguments: weight_formats.append(arguments[3]))
    run_folder(tmp_path, [{"stage": 0, "step": 1, "loss": 2.0}, {"stage": 1, "step": 1, "loss": 1.0}])
    report.write_results(
        make_untrained_network(MANIFEST), MANIFEST, validation_result(), tmp_path, device="cpu", weights="fp16"
    )
    assert weight_formats == ["fp16"]
    document = json.loads((tmp_path / "report" / "report.json").read_text())
    assert document["seed"] == 5
    assert document["training"]["device"].startswith("cpu, ")
    assert document["training"]["steps"] == 2
    assert "stages:" in document["recipe"]
    assert document["versions"]["torch"].startswith("2.")
    assert document["metrics"]["validation_calibration_error"] == 0.1
    assert set(document["errors"]) >= {"false_positives", "false_negatives", "gains"}
    assert document["errors"]["false_negatives"]["length"][0]["missed"] == pytest.approx(0.2)
    files = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"loss.png", "tables.md", "classes.png", "false-positives.png", "false-negatives.png"} < files
    assert {"0.00-e.png", "1.00-a.png"} < files
    checkpoint, _ = load_checkpoint(tmp_path / "network.safetensors")
    assert all(value.dtype.itemsize == 4 for value in checkpoint.values())


def test_report_has_table_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "export_bundle", lambda *_: None)
    run_folder(tmp_path, [])
    report.write_results(make_untrained_network(MANIFEST), MANIFEST, validation_result(), tmp_path)
    tables = (tmp_path / "report" / "tables.md").read_text()
    assert "| A2 | turning around | 3 | 100.00 | 100.00 | 100.00 | 100.00 | 100.00 | 100.00 |" in tables
    assert "| B1 | nodding | 2 | 50.00 | 50.00 | 50.00 | 50.00 | 50.00 | 50.00 |" in tables
    assert "| action | 75.00 |" in tables
    assert "shrugging" not in tables  # not in the annotations


def test_cost_is_summarised_from_history() -> None:
    recipe = {"stages": [{"batch": 2}, {"batch": 4}]}
    rows = [{"stage": 0, "step": 1}, {"stage": 1, "step": 1}, {"stage": 1, "step": 2}]
    cost = report.summarise_cost([row | {"frames": 50, "seconds": 0.5} for row in rows], recipe)
    assert cost == {
        "steps": 3, "windows": 10, "frames": 150, "seconds": 1.5, "frames_per_second": pytest.approx(100)
    }  # fmt: skip
