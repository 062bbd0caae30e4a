"""Metrics: small cases, properties, and comparison with public evaluators on real files."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mmad.cli import app
from tests.command import mmad
from tests.test_tables import TAXONOMY
from training.evaluation import metrics
from training.evaluation.metrics import TIOUS, evaluate, without_duplicates
from training.instances import Instances, Row, collect
from training.tables import read_annotations, read_labels, read_predictions


def instances(
    *rows: tuple[str, float, float, int] | tuple[str, float, float, int, float], videos: str = "ab"
) -> Instances:
    full = [Row(row[0], row[1], row[2], row[3], row[4] if len(row) == 5 else 1.0, "") for row in rows]
    return collect(full, dict.fromkeys(videos, 20.0))


def precision_at(report: metrics.LevelReport, tiou: float, label: int) -> float:
    return float(report.precision[TIOUS.index(tiou), label])


def test_perfect_prediction_scores_one() -> None:
    truth = instances(("a", 1, 3, 0), ("a", 2, 5, 1), ("b", 0, 9, 0))
    report = evaluate(truth, truth, 3)
    assert report.average == pytest.approx(1)
    assert report.recall == pytest.approx((1, 1, 1, 1))
    assert np.isnan(report.precision[:, 2]).all()
    assert report.frame_precision[:2].tolist() == pytest.approx([1, 1])


def test_average_precision_of_known_case() -> None:
    truth = instances(("a", 0, 10, 0), ("b", 0, 10, 0))
    predictions = instances(("a", 0, 10, 0, 0.9), ("a", 0, 10, 0, 0.8), ("b", 0, 5, 0, 0.7), ("b", 8, 12, 0, 0.6))
    report = evaluate(truth, predictions, 1)
    # The second is a double detection; the third overlaps by half: precision 1, then 2/3 at a recall of 1.
    assert precision_at(report, 0.5, 0) == pytest.approx((1 + 2 / 3) / 2)
    assert precision_at(report, 0.6, 0) == pytest.approx(0.5)
    assert report.recall[0] == pytest.approx(
        (2 + 9 * 1) / 10 / 2
    )  # only the first COCO threshold accepts the half overlap


def test_higher_score_matches_truth_with_largest_overlap() -> None:
    truth = instances(("a", 0, 4, 0), ("a", 3, 7, 0))
    predictions = instances(("a", 3, 7, 0, 0.5), ("a", 2, 6.5, 0, 0.9))
    # The higher score matches the second truth; the other prediction overlaps the first too little.
    assert precision_at(evaluate(truth, predictions, 1), 0.5, 0) == pytest.approx(0.5)
    assert precision_at(evaluate(truth, predictions, 1), 0.1, 0) == pytest.approx(1)


def test_duplicate_ground_truth_counts_once() -> None:
    truth = instances(("a", 0, 4, 0), ("a", 0.0005, 4.0005, 0), ("a", 0, 4, 1), ("b", 0, 4, 0), ("a", 0, 4.01, 0))
    assert len(without_duplicates(truth)) == 4


def test_body_level_maps_labels_to_body_parts() -> None:
    predictions = instances(("a", 1, 3, 0, 0.9), ("a", 1, 3, 1, 0.8), ("a", 1, 3, 2, 0.7), ("b", 1, 3, 3, 0.6))
    body = predictions.to_body_level(TAXONOMY)
    assert body.labels.tolist() == [0, 1, 1, 0]
    assert (body.segments is predictions.segments, body.scores is predictions.scores) == (True, True)


def test_evaluating_different_videos_is_refused() -> None:
    with pytest.raises(ValueError, match="different videos"):
        evaluate(instances(videos="ab"), instances(videos="a"), 1)


def test_no_predictions_or_no_truth_score_zero() -> None:
    truth = instances(("a", 1, 3, 0))
    assert evaluate(truth, instances(), 1).average == 0
    assert evaluate(instances(), truth, 1).average == 0


def test_frames_with_equal_scores_are_ranked_together() -> None:
    truth = instances(("a", 0, 5, 0), videos="a")
    whole = instances(("a", 0, 20, 0, 0.4), videos="a")
    assert evaluate(truth, whole, 1).frame_precision[0] == pytest.approx(0.25)
    better = instances(("a", 0, 20, 0, 0.4), ("a", 0, 2.5, 0, 0.9), videos="a")
    assert evaluate(truth, better, 1).frame_precision[0] == pytest.approx(0.5 * 1 + 0.5 * 0.25)


def test_frame_precision_with_negative_scores_or_no_predictions() -> None:
    truth = instances(("a", 0, 5, 0), videos="a")
    assert evaluate(truth, instances(("a", 0, 5, 0, -1.0), videos="a"), 1).frame_precision[0] == pytest.approx(1)
    assert evaluate(truth, instances(videos="a"), 1).frame_precision[0] == 0


@pytest.mark.parametrize("duration_s", [20.0, 1e6, 1e8, math.inf])
def test_frame_precision_with_placeholder_durations(duration_s: float) -> None:
    """Also with predictions up to that duration; 1e9 frames would not fit into memory."""
    truth = instances(("a", 0, 5, 0), ("b", 2, 4, 0))
    predictions = instances(("a", 0, 4, 0, 0.9), ("b", 2, 6, 0, 0.8), ("a", 19, duration_s + 10, 0, 0.1))
    durations = np.full(2, duration_s)
    report = evaluate(replace(truth, durations=durations), replace(predictions, durations=durations), 1)
    # 40 frames of 40, then 60 of 80; the frames from 19 s on come last and are negative.
    assert report.frame_precision[0] == pytest.approx((40 * 1 + 20 * 60 / 80) / 70)


@given(
    truth=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=6),
    predictions=st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 60), st.integers(1, 60), st.integers(1, 5)), max_size=12
    ),
    lengths=st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
def test_frame_precision_equals_its_definition(truth: list, predictions: list, lengths: tuple[int, int]) -> None:
    """Compare with a list of all frames; segments may exceed the duration."""
    sides = [
        instances(*(("ab"[row[0]], row[1] / 10, (row[1] + row[2]) / 10, 0, *row[3:]) for row in side))
        for side in (truth, predictions)
    ]
    durations = np.array(lengths) / 10
    report = evaluate(*(replace(side, durations=durations) for side in sides), 1)
    positives, scores = [], []
    for video in (0, 1):
        for frame in range(lengths[video]):
            annotated = [row for row in truth if row[0] == video and row[1] <= frame < row[1] + row[2]]
            predicted = [row[3] for row in predictions if row[0] == video and row[1] <= frame < row[1] + row[2]]
            positives.append(bool(annotated))
            scores.append(max(predicted, default=0))
    if not any(positives):
        assert np.isnan(report.frame_precision[0])
        return
    expected = 0.0
    for positive, score in zip(positives, scores, strict=True):
        if positive and score:
            above = [hit for hit, other in zip(positives, scores, strict=True) if other >= score]
            expected += sum(above) / len(above) / sum(positives)
    assert report.frame_precision[0] == pytest.approx(expected)


def tiou(first: tuple[float, float], second: tuple[float, float]) -> float:
    shared = max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
    return shared / (first[1] - first[0] + second[1] - second[0] - shared)


def naive_precision(truth: list, predictions: list, min_tiou: float) -> float:
    """Average precision of one class and one video, as public evaluators compute it."""
    unmatched, correct = list(truth), []
    for start, end, _ in sorted(predictions, key=lambda row: -row[2]):
        overlaps = {other: tiou((start, end), other) for other in unmatched}
        best = max(overlaps, key=overlaps.__getitem__, default=None)
        hit = best is not None and overlaps[best] >= min_tiou
        if hit:
            unmatched.remove(best)
        correct.append(hit)
    precision = [sum(correct[: n + 1]) / (n + 1) for n in range(len(correct))]
    return sum(max(precision[n:]) for n in range(len(correct)) if correct[n]) / len(truth)


segment = st.tuples(st.integers(0, 15), st.integers(1, 5)).map(lambda pair: (float(pair[0]), float(sum(pair))))


@given(
    truth=st.lists(segment, min_size=1, max_size=5, unique=True),
    predictions=st.lists(st.tuples(segment, st.integers(1, 10_000)), max_size=12, unique_by=lambda row: row[1]),
)
def test_average_precision_equals_naive_computation(truth: list, predictions: list) -> None:
    flat = [(*row, score / 10_000) for row, score in predictions]
    report = evaluate(
        instances(*(("a", *row, 0) for row in truth)), instances(*(("a", *row[:2], 0, row[2]) for row in flat)), 1
    )
    for min_tiou in (0.15, 0.5):
        correct, _ = metrics.match(
            instances(*(("a", *row, 0) for row in truth)),
            instances(*(("a", *row[:2], 0, row[2]) for row in flat)),
            (min_tiou,),
        )
        order = np.argsort([-row[2] for row in flat])
        ours = metrics.area_under_precision(correct[0][order], len(truth))
        assert ours == pytest.approx(naive_precision(truth, flat, min_tiou))
    assert 0 <= report.average <= 1


CASES = [
    f"{file}|{videos}|{level}"
    for file in ("prediction_val", "synth_a_unique")
    for videos in ("restricted", "full_val")
    for level in ("action", "body")
]


@pytest.mark.shared("reference/map.json")
@pytest.mark.parametrize("annotations", ["val.csv", "mmad.json"])
@pytest.mark.parametrize("case", CASES)
def test_map_equals_public_evaluators(shared: Path, case: str, annotations: str) -> None:
    expected = json.loads((shared / "reference/map.json").read_text())[case]
    file, which, level = case.split("|")
    taxonomy = read_labels(shared / "data/labels.json")
    truth = read_annotations(shared / "data/mma52" / annotations, taxonomy, subset="val").instances
    durations = dict(zip(truth.videos, truth.durations.tolist(), strict=True))
    path = {"prediction_val": "data/mma52/prediction_val.csv", "synth_a_unique": "reference/map_predictions.csv"}[file]
    predictions = read_predictions(shared / path, taxonomy, durations).instances
    if which == "restricted":
        chosen = sorted({predictions.videos[index] for index in predictions.video})
        if file == "synth_a_unique":
            chosen = json.loads((shared / "reference/map_videos.json").read_text())[file]
        truth, predictions = truth.select_videos(chosen), predictions.select_videos(chosen)
    classes = 52
    if level == "body":
        truth, predictions, classes = truth.to_body_level(taxonomy), predictions.to_body_level(taxonomy), 7
    report = evaluate(truth, predictions, classes)
    assert len(truth.videos) == expected["n_videos"]
    np.testing.assert_allclose(report.mean_precision, expected["opentad"]["mAP"], atol=1e-6)
    assert report.average == pytest.approx(expected["opentad"]["avg"], abs=1e-6)
    for label, precision in expected["opentad"]["per_class_ap"].items():
        np.testing.assert_allclose(report.precision[:, int(label)], precision, atol=1e-5)


@pytest.mark.shared("data/mma52/val.csv")
def test_perfect_prediction_of_val_at_body_level(shared: Path) -> None:
    """22 segments of one body part coincide: each is predicted twice and can be correct once."""
    taxonomy = read_labels(shared / "data/labels.json")
    truth = read_annotations(shared / "data/mma52/val.csv", taxonomy).instances.to_body_level(taxonomy)
    assert len(truth) - len(without_duplicates(truth)) == 22
    assert evaluate(truth, truth, 7).average > 0.998


ANNOTATED = {"segment": [1.0, 2.0], "label": "nodding"}


def run_evaluate(folder: Path, truth: dict, results: dict, *arguments: str) -> Result:
    """Run the command on two small files in ActivityNet's JSON."""
    database = {video: {"duration": 1e8, "annotations": annotations} for video, annotations in truth.items()}
    (folder / "truth.json").write_text(json.dumps({"database": database}))
    (folder / "predictions.json").write_text(json.dumps({"results": results}))
    files = ("--annotations", str(folder / "truth.json"), "--predictions", str(folder / "predictions.json"))
    return CliRunner().invoke(app, ["evaluate", *files, *arguments])


def test_evaluate_command_reports_number_of_videos(tmp_path: Path) -> None:
    truth = {name: [ANNOTATED] for name in ("a", "b", "c")}
    predictions = {"a": [ANNOTATED | {"score": 0.5}], "b": []}
    result = run_evaluate(tmp_path, truth, predictions, "--json")
    assert (result.exit_code, "only 1 of 3 videos have predictions" in result.stderr) == (0, True)
    assert "in the other 2 nothing counts as found" in result.stderr
    assert "--videos predicted" in result.stderr
    document = json.loads(result.stdout)
    assert [document[name] for name in ("videos", "annotated", "predicted")] == [3, 3, 1]
    assert document["action"]["average"] == pytest.approx(1 / 3)
    result = run_evaluate(tmp_path, truth, predictions, "--json", "--videos", "predicted")
    assert "measured on the 1 of 3 videos that have predictions" in result.stderr
    document = json.loads(result.stdout)
    assert [document[name] for name in ("videos", "annotated", "predicted")] == [1, 3, 1]
    assert document["action"]["average"] == pytest.approx(1)
    everything = {name: [ANNOTATED | {"score": 0.5}] for name in truth}
    assert "predictions" not in run_evaluate(tmp_path, truth, everything).stderr


@pytest.mark.parametrize(
    ("truth", "predictions", "arguments", "status", "message"),
    [
        ({"a": []}, {"a": [ANNOTATED | {"score": 1}]}, (), 1, "has 1 videos and no annotation to measure against"),
        ({"a": [ANNOTATED]}, {"a": []}, (), 0, "has no predictions: nothing is found, and every number is 0"),
        ({"a": [ANNOTATED]}, {}, ("--videos", "predicted"), 1, "leaves no video to measure on"),
        ({"0001": [ANNOTATED]}, {"v_1": [ANNOTATED]}, (), 1, "1 videos are not among those annotated: 'v_1'; there is '0001'"),
        ({"0001": [ANNOTATED]}, {"v_1": [ANNOTATED]}, (), 1, "none of the 1 predictions"),
        ({"a": [ANNOTATED], "b": []}, {"b": [ANNOTATED | {"score": 1}]}, ("--videos", "predicted"), 1, "the 1 videos with predictions have no annotation"),
    ],
)  # fmt: skip
def test_evaluate_command_reports_missing_input(
    truth: dict, predictions: dict, arguments: tuple[str, ...], status: int, message: str, tmp_path: Path
) -> None:
    result = run_evaluate(tmp_path, truth, predictions, *arguments)
    assert result.exit_code == status
    assert message in result.stderr


@pytest.mark.shared("data/mma52/val.csv")
def test_evaluate_command_on_real_files(shared: Path, tmp_path: Path) -> None:
    files = ["--annotations", str(shared / "data/mma52/mmad.json"), "--subset", "val"]
    files += ["--predictions", str(shared / "data/mma52/prediction_val.csv"), "--videos", "predicted"]
    result = mmad("evaluate", *files, "--json")
    assert result.returncode == 0
    document = json.loads(result.stdout)
    assert [document[name] for name in ("videos", "annotated", "predicted")] == [14, 1475, 14]
    assert document["action"]["average"] == pytest.approx(0.07358379, abs=1e-6)
    assert document["body"]["average"] == pytest.approx(0.13915545, abs=1e-6)
    assert document["average"] == pytest.approx((0.07358379 + 0.13915545) / 2, abs=1e-6)
    assert list(document["action"]["mAP"]) == [str(tiou) for tiou in TIOUS]
    assert document["action"]["challenge"] == pytest.approx((0.16840312 + 0.05909873 + 0.03169865) / 3, abs=1e-6)
    assert "line 281" in result.stderr
    strict = mmad("evaluate", *files, "--strict")
    assert strict.returncode == 1
    assert "1 rows that make no sense" in strict.stderr
    assert "13.92" in mmad("evaluate", *files).stdout
    nothing = mmad("evaluate", "--annotations", files[1], "--subset", "moon", "--predictions", files[5])
    assert nothing.returncode == 2
