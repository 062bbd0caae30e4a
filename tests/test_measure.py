"""Measuring a bundle against trivial baselines with known scores."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import structlog
import torch
from typer.testing import CliRunner

from mmad.cli import app
from model.bundle import Bundle
from tests import clips
from tests.test_detector import ACTION, WhiteSpotter
from training.evaluation.measure import (
    MapScores,
    MeasureError,
    _compute_trivial_baselines,
    load_samples,
    measure,
    ratios,
    read_prior,
)
from training.evaluation.measure import make_untrained_network as make_untrained
from training.instances import Instances
from training.tables import standard_labels

TAXONOMY = standard_labels()
OTHER = 0  # of another body part
WHITE_S, LENGTH_S = (1.0, 3.5), 4.0


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Four videos in MMA-52's layout, white for 5/8 of their duration: three of ACTION, the last of OTHER."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "videos" / "deep").mkdir(parents=True)
    labels = {"a": ACTION, "b": ACTION, "c": ACTION, "d": OTHER}
    for name in labels:
        clips.white_between(folder / "videos" / "deep" / f"{name}.mp4", *WHITE_S, LENGTH_S)
    entries = {
        name: {"subset": "test", "duration": LENGTH_S, "actions": [[label, *WHITE_S]]} for name, label in labels.items()
    }
    entries["elsewhere"] = {"subset": "train", "duration": 9.0, "actions": [[OTHER, 1.0, 2.0]]}
    (folder / "mmad.json").write_text(json.dumps(entries))
    return folder


def check_progress(done: int, count: int) -> None:
    assert 0 <= done < count


def test_measurement_and_baselines_have_known_scores(bundle: Bundle, data: Path) -> None:
    items = load_samples(data, TAXONOMY, "test", None)
    measurement = measure(bundle, WhiteSpotter(bundle), items, None, check_progress, untrained=False)
    # Boundaries are exact to a frame. The white of d is detected as ACTION, with the same score as the other three.
    assert measurement.action.precision[7, ACTION] == 1.0
    assert measurement.action.precision[0, OTHER] == 0.0
    assert measurement.body.precision[0, TAXONOMY.body_ids[OTHER]] == 0.0
    # A whole video has a tIoU of 0.625 with its white: correct at six of nine thresholds. OTHER is the last of four.
    most_frequent, every_class = (
        measurement.baselines[f"{which}, whole video"] for which in ("most frequent class", "every class")
    )
    assert most_frequent.action == pytest.approx(6 / 9 / 2)
    assert every_class.action == pytest.approx(6 / 9 * (1 + 1 / 4) / 2)
    assert every_class.body == pytest.approx(every_class.action)
    assert "favours the baselines" in measurement.prior
    # One label in all proposals: shuffling changes nothing.
    assert measurement.baselines["own proposals, labels shuffled"] == pytest.approx(tuple(measurement.map_scores))
    assert set(ratios(measurement.map_scores, most_frequent)) == {"action", "body", "average"}
    assert ratios(measurement.map_scores, most_frequent)["action"] == pytest.approx(
        measurement.map_scores.action / (3 / 9)
    )
    assert ratios(measurement.map_scores, MapScores(0, 0)) == {"action": None, "body": None, "average": None}
    # Every proposal has the score of logit 5; three of four are correct, all are shown.
    assert measurement.calibration_error == pytest.approx(1 / (1 + np.exp(-5)) - 0.75, abs=0.3)
    assert measurement.shown_error == measurement.calibration_error
    assert measurement.speed.frames == 4 * 60
    assert measurement.speed.video_s == pytest.approx(4 * LENGTH_S)


def test_baseline_class_is_most_frequent_in_training(bundle: Bundle, data: Path) -> None:
    items = load_samples(data, TAXONOMY, "test", None)
    prior = read_prior(data / "mmad.json", TAXONOMY)
    assert np.flatnonzero(prior.counts).tolist() == [OTHER]
    measurement = measure(bundle, WhiteSpotter(bundle), items, prior, check_progress, untrained=False)
    assert measurement.baselines["most frequent class, whole video"].action == pytest.approx(6 / 9 / 4 / 2)
    assert measurement.prior == "mmad.json"


def test_shuffled_labels_score_low_with_many_classes() -> None:
    rng = np.random.default_rng(1)
    count = 400
    truth = Instances(
        videos=tuple(map(str, range(count))),
        durations=np.full(count, 10.0),
        video=np.arange(count),
        segments=np.tile([2.0, 5.0], (count, 1)),
        labels=rng.integers(0, 52, count),
        scores=np.ones(count),
    )
    baselines = _compute_trivial_baselines(
        truth, replace(truth, scores=rng.random(count)), np.bincount(truth.labels, minlength=52), TAXONOMY
    )
    shuffled = baselines["own proposals, labels shuffled"]
    assert 0 < shuffled.action < 0.06
    assert 0.01 < shuffled.body < 0.1


def test_untrained_network_is_fixed_and_leaves_random_state(bundle: Bundle) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = make_untrained(bundle).state_dict()
    assert torch.equal(torch.rand(3), expected)
    second = make_untrained(bundle).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_measure_command_agrees_with_detect_and_evaluate(data: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        with structlog.testing.capture_logs():  # logs would mix with the JSON document
            result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    printed = json.loads(run("measure", "--data", str(data), "--out", str(tmp_path / "out"), "--json"))
    files = [str(data / "videos" / "deep" / f"{name}.mp4") for name in "abcd"]
    run("detect", *files, "--format", "mac-csv", "--out", str(tmp_path / "predictions.zip"))
    evaluated = json.loads(
        run("evaluate", "--annotations", str(data / "mmad.json"), "--subset", "test",
            "--predictions", str(tmp_path / "predictions.zip"), "--json")
    )  # fmt: skip
    for level in ("action", "body"):  # results are rounded to milliseconds and thousandths
        assert printed["evaluation"][level]["mAP"] == pytest.approx(evaluated[level]["mAP"], abs=2e-3)
        assert printed["evaluation"][level]["average"] > 0
    assert next(iter(printed["baselines"])) == "untrained network"
    assert len(printed["baselines"]) == 4
    assert printed["speed"]["engine"] == "openvino"
    assert "cores" in printed["speed"]["device"]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == printed
    tables = (tmp_path / "out" / "tables.md").read_text()
    assert f"| {TAXONOMY.actions[ACTION].code} | {TAXONOMY.actions[ACTION].name} | 3 |" in tables
    files_written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"classes.png", "false-positives.png", "false-negatives.png"} < files_written
    assert sum(name.endswith(("-a.png", "-b.png", "-c.png", "-d.png")) for name in files_written) == 4


def test_measure_command_prints_summary(data: Path) -> None:
    result = CliRunner().invoke(app, ["measure", "--data", str(data), "--limit", "2", "--no-untrained"])
    assert result.exit_code == 0, result.output
    for text in ("2 videos", "every class, whole video", "expected calibration error", "frames a second"):
        assert text in result.stdout
    assert "untrained network" not in result.stdout


def test_unmeasurable_data_is_refused(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    np.savez(tmp_path / "frames" / "a.npz", frames=np.zeros((4, 8, 8, 3), np.uint8), fps=15.0)
    entries = {"a": {"subset": "test", "duration": 1.0, "actions": [[3, 0.1, 0.5]]}}
    (tmp_path / "mmad.json").write_text(json.dumps(entries))
    with pytest.raises(MeasureError, match="holds frames, not videos"):
        load_samples(tmp_path, TAXONOMY, "test", None)
    (tmp_path / "frames" / "a.npz").unlink()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_text("hello")
    items = load_samples(tmp_path, TAXONOMY, "test", None)
    with pytest.raises(MeasureError, match=r"a\.mp4: the file is no video"):
        measure(bundle, WhiteSpotter(bundle), items, None, check_progress, untrained=False)
    (tmp_path / "mmad.json").write_text(json.dumps({"a": {"subset": "test", "duration": 1.0, "actions": []}}))
    with pytest.raises(MeasureError, match="no video of subset 'test' has annotations"):
        load_samples(tmp_path, TAXONOMY, "test", None)
    with pytest.raises(MeasureError, match="no annotations of a subset train"):
        read_prior(tmp_path / "mmad.json", TAXONOMY)


def test_limit_selects_videos_evenly(data: Path) -> None:
    assert [item.name for item in load_samples(data, TAXONOMY, "test", 2)] == ["a", "d"]
    assert len(load_samples(data, TAXONOMY, "test", 99)) == 4


def test_record_adds_metrics_to_bundle(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.folder, folder)
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["metrics"] = {"validation_videos": 3.0, "test_of_before": 1.0}
    (folder / "bundle.json").write_text(json.dumps(manifest))
    result = CliRunner().invoke(
        app,
        [
            "measure",
            "--bundle",
            str(folder),
            "--data",
            str(data),
            "--no-untrained",
            "--out",
            str(tmp_path / "out"),
            "--record",
        ],
    )
    assert result.exit_code == 0, result.output
    printed = json.loads((tmp_path / "out" / "report.json").read_text())
    metrics = Bundle.load(folder).manifest.metrics or {}
    assert metrics["validation_videos"] == 3
    assert "test_of_before" not in metrics
    assert metrics["test_videos"] == 4
    assert metrics["test_action_mAP"] == printed["evaluation"]["action"]["average"]
    whole = printed["baselines"]["every class, whole video"]["average"]
    assert metrics["test_average_mAP_of_every_class_whole_video"] == whole
