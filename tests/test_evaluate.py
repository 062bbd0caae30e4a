"""The metrics, by hand-made cases, by properties, and held against public evaluators on real files."""

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


def at(report: metrics.LevelReport, tiou: float, label: int) -> float:
    return float(report.precision[TIOUS.index(tiou), label])


def test_a_perfect_prediction_scores_one() -> None:
    truth = instances(("a", 1, 3, 0), ("a", 2, 5, 1), ("b", 0, 9, 0))
    report = evaluate(truth, truth, 3)
    assert report.average == pytest.approx(1)
    assert report.recall == pytest.approx((1, 1, 1, 1))
    assert np.isnan(report.precision[:, 2]).all()
    assert report.frame_precision[:2].tolist() == pytest.approx([1, 1])


def test_average_precision_by_hand() -> None:
    truth = instances(("a", 0, 10, 0), ("b", 0, 10, 0))
    found = instances(("a", 0, 10, 0, 0.9), ("a", 0, 10, 0, 0.8), ("b", 0, 5, 0, 0.7), ("b", 8, 12, 0, 0.6))
    report = evaluate(truth, found, 1)
    # The second finds nothing free; the third overlaps by half: precision 1, then 2/3 at a recall of 1.
    assert at(report, 0.5, 0) == pytest.approx((1 + 2 / 3) / 2)
    assert at(report, 0.6, 0) == pytest.approx(0.5)
    assert report.recall[0] == pytest.approx((2 + 9 * 1) / 10 / 2)  # only the first tIoU of COCO's takes the half


def test_the_better_score_takes_the_truth_it_overlaps_most() -> None:
    truth = instances(("a", 0, 4, 0), ("a", 3, 7, 0))
    found = instances(("a", 3, 7, 0, 0.5), ("a", 2, 6.5, 0, 0.9))
    # The better one overlaps the second truth more and takes it; for the other, the first is too far.
    assert at(evaluate(truth, found, 1), 0.5, 0) == pytest.approx(0.5)
    assert at(evaluate(truth, found, 1), 0.1, 0) == pytest.approx(1)


def test_ground_truth_that_agrees_counts_once() -> None:
    truth = instances(("a", 0, 4, 0), ("a", 0.0005, 4.0005, 0), ("a", 0, 4, 1), ("b", 0, 4, 0), ("a", 0, 4.01, 0))
    assert len(without_duplicates(truth)) == 4


def test_body_level_keeps_every_segment_under_its_part() -> None:
    found = instances(("a", 1, 3, 0, 0.9), ("a", 1, 3, 1, 0.8), ("a", 1, 3, 2, 0.7), ("b", 1, 3, 3, 0.6))
    body = found.to_body_level(TAXONOMY)
    assert body.labels.tolist() == [0, 1, 1, 0]
    assert (body.segments is found.segments, body.scores is found.scores) == (True, True)


def test_different_videos_are_refused() -> None:
    with pytest.raises(ValueError, match="different videos"):
        evaluate(instances(videos="ab"), instances(videos="a"), 1)


def test_nothing_predicted_and_nothing_true_are_answers() -> None:
    truth = instances(("a", 1, 3, 0))
    assert evaluate(truth, instances(), 1).average == 0
    assert evaluate(instances(), truth, 1).average == 0


def test_frames_of_one_score_cannot_be_told_apart() -> None:
    truth = instances(("a", 0, 5, 0), videos="a")
    whole = instances(("a", 0, 20, 0, 0.4), videos="a")
    assert evaluate(truth, whole, 1).frame_precision[0] == pytest.approx(0.25)
    better = instances(("a", 0, 20, 0, 0.4), ("a", 0, 2.5, 0, 0.9), videos="a")
    assert evaluate(truth, better, 1).frame_precision[0] == pytest.approx(0.5 * 1 + 0.5 * 0.25)


def test_scores_may_be_negative_and_nothing_predicted_finds_nothing() -> None:
    truth = instances(("a", 0, 5, 0), videos="a")
    assert evaluate(truth, instances(("a", 0, 5, 0, -1.0), videos="a"), 1).frame_precision[0] == pytest.approx(1)
    assert evaluate(truth, instances(videos="a"), 1).frame_precision[0] == 0


@pytest.mark.parametrize("duration_s", [20.0, 1e6, 1e8, math.inf])
def test_frames_are_counted_whatever_a_placeholder_says(duration_s: float) -> None:
    """Also of predictions that reach as far; 1e9 frames of a video would not fit into memory."""
    truth = instances(("a", 0, 5, 0), ("b", 2, 4, 0))
    found = instances(("a", 0, 4, 0, 0.9), ("b", 2, 6, 0, 0.8), ("a", 19, duration_s + 10, 0, 0.1))
    durations = np.full(2, duration_s)
    report = evaluate(replace(truth, durations=durations), replace(found, durations=durations), 1)
    # 40 frames of 40, then 60 of 80: the frames from 19 s on come last and hold nothing.
    assert report.frame_precision[0] == pytest.approx((40 * 1 + 20 * 60 / 80) / 70)


@given(
    truth=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=6),
    found=st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 60), st.integers(1, 60), st.integers(1, 5)), max_size=12
    ),
    lengths=st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
def test_frames_as_written_out(truth: list, found: list, lengths: tuple[int, int]) -> None:
    """Against a list of all frames; segments may reach beyond the end."""
    sides = [
        instances(*(("ab"[one[0]], one[1] / 10, (one[1] + one[2]) / 10, 0, *one[3:]) for one in side))
        for side in (truth, found)
    ]
    durations = np.array(lengths) / 10
    report = evaluate(*(replace(side, durations=durations) for side in sides), 1)
    positives, scores = [], []
    for video in (0, 1):
        for frame in range(lengths[video]):
            at = [one for one in truth if one[0] == video and one[1] <= frame < one[1] + one[2]]
            over = [one[3] for one in found if one[0] == video and one[1] <= frame < one[1] + one[2]]
            positives.append(bool(at))
            scores.append(max(over, default=0))
    if not any(positives):
        assert np.isnan(report.frame_precision[0])
        return
    expected = 0.0
    for positive, score in zip(positives, scores, strict=True):
        if positive and score:
            above = [hit for hit, other in zip(positives, scores, strict=True) if other >= score]
            expected += sum(above) / len(above) / sum(positives)
    assert report.frame_precision[0] == pytest.approx(expected)


def tiou(one: tuple[float, float], other: tuple[float, float]) -> float:
    shared = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    return shared / (one[1] - one[0] + other[1] - other[0] - shared)


def naive_precision(truth: list, found: list, least: float) -> float:
    """Written out for one class and one video, as the field's evaluators go about it."""
    free, right = list(truth), []
    for start, end, _ in sorted(found, key=lambda one: -one[2]):
        overlaps = {other: tiou((start, end), other) for other in free}
        best = max(overlaps, key=overlaps.__getitem__, default=None)
        hit = best is not None and overlaps[best] >= least
        if hit:
            free.remove(best)
        right.append(hit)
    precision = [sum(right[: n + 1]) / (n + 1) for n in range(len(right))]
    return sum(max(precision[n:]) for n in range(len(right)) if right[n]) / len(truth)


segment = st.tuples(st.integers(0, 15), st.integers(1, 5)).map(lambda pair: (float(pair[0]), float(sum(pair))))


@given(
    truth=st.lists(segment, min_size=1, max_size=5, unique=True),
    found=st.lists(st.tuples(segment, st.integers(1, 10_000)), max_size=12, unique_by=lambda one: one[1]),
)
def test_as_written_out(truth: list, found: list) -> None:
    flat = [(*one, score / 10_000) for one, score in found]
    report = evaluate(
        instances(*(("a", *one, 0) for one in truth)), instances(*(("a", *one[:2], 0, one[2]) for one in flat)), 1
    )
    for least in (0.15, 0.5):
        right, _ = metrics.match(
            instances(*(("a", *one, 0) for one in truth)),
            instances(*(("a", *one[:2], 0, one[2]) for one in flat)),
            (least,),
        )
        order = np.argsort([-one[2] for one in flat])
        ours = metrics.area_under_precision(right[0][order], len(truth))
        assert ours == pytest.approx(naive_precision(truth, flat, least))
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
def test_as_public_evaluators(shared: Path, case: str, annotations: str) -> None:
    expected = json.loads((shared / "reference/map.json").read_text())[case]
    file, which, level = case.split("|")
    taxonomy = read_labels(shared / "data/labels.json")
    truth = read_annotations(shared / "data/mma52" / annotations, taxonomy, subset="val").instances
    durations = dict(zip(truth.videos, truth.durations.tolist(), strict=True))
    path = {"prediction_val": "data/mma52/prediction_val.csv", "synth_a_unique": "reference/map_predictions.csv"}[file]
    found = read_predictions(shared / path, taxonomy, durations).instances
    if which == "restricted":
        chosen = sorted({found.videos[index] for index in found.video})
        if file == "synth_a_unique":
            chosen = json.loads((shared / "reference/map_videos.json").read_text())[file]
        truth, found = truth.select_videos(chosen), found.select_videos(chosen)
    classes = 52
    if level == "body":
        truth, found, classes = truth.to_body_level(taxonomy), found.to_body_level(taxonomy), 7
    report = evaluate(truth, found, classes)
    assert len(truth.videos) == expected["n_videos"]
    np.testing.assert_allclose(report.mean_precision, expected["opentad"]["mAP"], atol=1e-6)
    assert report.average == pytest.approx(expected["opentad"]["avg"], abs=1e-6)
    for label, precision in expected["opentad"]["per_class_ap"].items():
        np.testing.assert_allclose(report.precision[:, int(label)], precision, atol=1e-5)


@pytest.mark.shared("data/mma52/val.csv")
def test_a_perfect_prediction_of_val_at_body_level(shared: Path) -> None:
    """22 segments of one body part coincide there: each is predicted twice, and can be right once."""
    taxonomy = read_labels(shared / "data/labels.json")
    truth = read_annotations(shared / "data/mma52/val.csv", taxonomy).instances.to_body_level(taxonomy)
    assert len(truth) - len(without_duplicates(truth)) == 22
    assert evaluate(truth, truth, 7).average > 0.998


ANNOTATED = {"segment": [1.0, 2.0], "label": "nodding"}


def measured(folder: Path, truth: dict, results: dict, *arguments: str) -> Result:
    """The command on two small files in ActivityNet's JSON."""
    database = {video: {"duration": 1e8, "annotations": marks} for video, marks in truth.items()}
    (folder / "truth.json").write_text(json.dumps({"database": database}))
    (folder / "found.json").write_text(json.dumps({"results": results}))
    files = ("--annotations", str(folder / "truth.json"), "--predictions", str(folder / "found.json"))
    return CliRunner().invoke(app, ["evaluate", *files, *arguments])


def test_the_command_says_on_how_many_videos_a_number_rests(tmp_path: Path) -> None:
    truth = {name: [ANNOTATED] for name in ("a", "b", "c")}
    found = {"a": [ANNOTATED | {"score": 0.5}], "b": []}
    done = measured(tmp_path, truth, found, "--json")
    assert (done.exit_code, "only 1 of 3 videos have predictions" in done.stderr) == (0, True)
    assert "in the other 2 nothing counts as found" in done.stderr
    assert "--videos predicted" in done.stderr
    document = json.loads(done.stdout)
    assert [document[name] for name in ("videos", "annotated", "predicted")] == [3, 3, 1]
    assert document["action"]["average"] == pytest.approx(1 / 3)
    done = measured(tmp_path, truth, found, "--json", "--videos", "predicted")
    assert "measured on the 1 of 3 videos that have predictions" in done.stderr
    document = json.loads(done.stdout)
    assert [document[name] for name in ("videos", "annotated", "predicted")] == [1, 3, 1]
    assert document["action"]["average"] == pytest.approx(1)
    everything = {name: [ANNOTATED | {"score": 0.5}] for name in truth}
    assert "predictions" not in measured(tmp_path, truth, everything).stderr


@pytest.mark.parametrize(
    ("truth", "found", "arguments", "status", "said"),
    [
        ({"a": []}, {"a": [ANNOTATED | {"score": 1}]}, (), 1, "has 1 videos and no annotation to measure against"),
        ({"a": [ANNOTATED]}, {"a": []}, (), 0, "has no predictions: nothing is found, and every number is 0"),
        ({"a": [ANNOTATED]}, {}, ("--videos", "predicted"), 1, "leaves no video to measure on"),
        ({"0001": [ANNOTATED]}, {"v_1": [ANNOTATED]}, (), 1, "1 videos are not among those annotated: 'v_1'; there is '0001'"),
        ({"0001": [ANNOTATED]}, {"v_1": [ANNOTATED]}, (), 1, "none of the 1 predictions"),
        ({"a": [ANNOTATED], "b": []}, {"b": [ANNOTATED | {"score": 1}]}, ("--videos", "predicted"), 1, "the 1 videos with predictions have no annotation"),
    ],
)  # fmt: skip
def test_the_command_says_what_there_is_nothing_of(
    truth: dict, found: dict, arguments: tuple[str, ...], status: int, said: str, tmp_path: Path
) -> None:
    done = measured(tmp_path, truth, found, *arguments)
    assert done.exit_code == status
    assert said in done.stderr


@pytest.mark.shared("data/mma52/val.csv")
def test_the_command(shared: Path, tmp_path: Path) -> None:
    files = ["--annotations", str(shared / "data/mma52/mmad.json"), "--subset", "val"]
    files += ["--predictions", str(shared / "data/mma52/prediction_val.csv"), "--videos", "predicted"]
    found = mmad("evaluate", *files, "--json")
    assert found.returncode == 0
    document = json.loads(found.stdout)
    assert [document[name] for name in ("videos", "annotated", "predicted")] == [14, 1475, 14]
    assert document["action"]["average"] == pytest.approx(0.07358379, abs=1e-6)
    assert document["body"]["average"] == pytest.approx(0.13915545, abs=1e-6)
    assert document["average"] == pytest.approx((0.07358379 + 0.13915545) / 2, abs=1e-6)
    assert list(document["action"]["mAP"]) == [str(tiou) for tiou in TIOUS]
    assert document["action"]["challenge"] == pytest.approx((0.16840312 + 0.05909873 + 0.03169865) / 3, abs=1e-6)
    assert "line 281" in found.stderr
    strict = mmad("evaluate", *files, "--strict")
    assert strict.returncode == 1
    assert "1 rows that make no sense" in strict.stderr
    assert "13.92" in mmad("evaluate", *files).stdout
    nothing = mmad("evaluate", "--annotations", files[1], "--subset", "moon", "--predictions", files[5])
    assert nothing.returncode == 2
