"""Error profiles, statistics and figures, on small cases and the real annotations."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.command import mmad
from tests.test_evaluate import instances
from training.evaluation.errors import KINDS, analyze, classify, missed_by_size, video_scores
from training.evaluation.figures import worst_and_best
from training.evaluation.statistics import compute_statistics
from training.tables import read_annotations, read_labels

PNG = b"\x89PNG\r\n"


TRUTH = instances(("a", 0, 10, 0), ("a", 12, 14, 1), ("b", 0, 4, 0))
PREDICTIONS = instances(
    ("a", 0, 9, 0, 0.9),  # correct
    ("a", 0, 10, 0, 0.8),  # correct, but a double detection
    ("a", 0, 9, 1, 0.7),  # overlaps action 0
    ("a", 0, 2, 0, 0.6),  # a fifth of action 0
    ("a", 8, 12, 1, 0.5),  # overlaps a little of action 0
    ("a", 17, 19, 0, 0.4),  # background
    ("b", 10, 12, 0, 0.3),  # background
)


def test_each_kind_of_error_is_recognised() -> None:
    assert [KINDS[kind] for kind in classify(TRUTH, PREDICTIONS)] == [
        "true positive", "double detection", "wrong label", "localisation", "confusion", "background", "background",
    ]  # fmt: skip


def test_profiles_count_best_predictions_of_each_class() -> None:
    analysis = analyze(TRUTH, PREDICTIONS, 3)
    # 1G: the best two of action 0, the best one of action 1.
    first = analysis.false_positives[0]
    assert first["true positive"] == first["double detection"] == first["wrong label"] == pytest.approx(1 / 3)
    last = analysis.false_positives[-1]
    assert last["background"] == pytest.approx(2 / 7)
    for profile in analysis.false_positives:
        assert sum(profile.values()) == pytest.approx(1)
    assert len(analysis.false_positives) == 10
    assert set(analysis.gains) == set(KINDS) - {"true positive"}


def test_gains_equal_effect_of_removing_errors() -> None:
    truth = instances(("a", 0, 10, 0))
    analysis = analyze(truth, instances(("a", 15, 16, 0, 0.9), ("a", 0, 10, 0, 0.8)), 1)
    assert analysis.average == pytest.approx(0.5)
    assert analysis.gains["background"] == pytest.approx(0.5)
    assert analysis.gains["confusion"] == 0
    near = analyze(truth, instances(("a", 0, 4, 0, 0.9), ("a", 0, 10, 0, 0.8)), 1)
    # At 0.1 to 0.4 the first is correct, the second a double detection.
    assert near.average == pytest.approx((4 * 1 + 5 * 0.5) / 9)
    assert near.average_from_half == pytest.approx(0.5)
    assert near.gains["localisation"] == pytest.approx(0.5)


def test_missed_actions_are_grouped_by_size() -> None:
    missed = missed_by_size(TRUTH, PREDICTIONS)
    # Videos last 20 s: coverages of 0.5, 0.1 and 0.2; the longest is detected.
    assert [(bucket.instances, bucket.missed) for bucket in missed["coverage"]] == [
        (2, 1),
        (0, None),
        (1, 0),
        (0, None),
        (0, None),
    ]
    assert [bucket.instances for bucket in missed["length"]] == [1, 1, 0, 0, 1]
    assert [(bucket.above, bucket.up_to) for bucket in missed["length"]][-1] == (9, np.inf)
    assert [(bucket.instances, bucket.missed) for bucket in missed["instances"]] == [
        (3, pytest.approx(2 / 3)),
        (0, None),
        (0, None),
        (0, None),
    ]


def test_videos_are_ranked_by_their_scores() -> None:
    assert video_scores(TRUTH, PREDICTIONS) == [0.5, 0]
    assert worst_and_best([0.5, 0.0, 1.0, 0.2], 1) == [1, 2]
    assert worst_and_best([0.5], 3) == [0]


@pytest.mark.shared("data/mma52/statistics.json")
@pytest.mark.parametrize("subset", ["train", "val"])
def test_statistics_of_real_annotations(shared: Path, subset: str) -> None:
    taxonomy = read_labels(shared / "data/labels.json")
    truth = read_annotations(shared / "data/mma52/mmad.json", taxonomy, subset=subset).instances
    ours = compute_statistics(truth, taxonomy)
    expected = json.loads((shared / "data/mma52/statistics.json").read_text())[subset]
    assert (ours.videos, ours.instances) == (expected["n_videos"], expected["n_instances"])
    assert ours.instances == {"train": 13698, "val": 4735}[subset]
    assert ours.hours == pytest.approx(expected["total_hours"], abs=1e-3)
    assert ours.class_count == expected["class_count"]
    assert ours.body_count == expected["body_count"]
    assert ours.instances_per_video == expected["instances_per_video"]["hist"]
    for name, other in (
        ("video_duration", "video_duration"),
        ("instance_duration", "instance_duration"),
        ("coverage", "coverage_ratio_of_instance"),
    ):
        actual, published = getattr(ours, name), expected[other]
        assert actual.mean == pytest.approx(published["mean"], abs=2e-4)
        assert actual.std == pytest.approx(published["std"], abs=2e-4)
        np.testing.assert_allclose(actual.quantiles, published["quantiles"], atol=2e-3)
    assert ours.concurrent_time[:5] == pytest.approx(expected["fraction_time_with_k_concurrent"][:5], abs=2e-4)
    assert ours.overlap_count == expected["cooccurrence_overlap_count"]
    assert ours.overlapping == pytest.approx(expected["fraction_instances_overlapping_another"], abs=2e-4)
    assert ours.starting == pytest.approx(expected["fraction_start_at_0"], abs=2e-4)


@pytest.mark.shared("data/mma52/train.csv")
@pytest.mark.parametrize(("subset", "video_s", "instance_s"), [("train", 10.25, 4.10), ("val", 10.60, 4.10)])
def test_durations_of_real_annotations_at_assumed_30_fps(
    shared: Path, subset: str, video_s: float, instance_s: float
) -> None:
    taxonomy = read_labels(shared / "data/labels.json")
    truth = read_annotations(shared / f"data/mma52/{subset}.csv", taxonomy, fps=30).instances
    ours = compute_statistics(truth, taxonomy)
    assert ours.video_duration.mean == pytest.approx(video_s, abs=0.005)
    assert ours.instance_duration.mean == pytest.approx(instance_s, abs=0.005)


def test_stats_and_analyze_commands_write_files(tmp_path: Path) -> None:
    rows = ["0,v1,30,90,9,300,30.0", "1,v1,60,300,21,300,30.0", "2,v2,0,120,9,290,29.0"]
    (tmp_path / "a.csv").write_text(
        "id,video_id,start_frame,end_frame,class,total_frames,fps\n" + "\n".join(rows) + "\n"
    )
    predictions = ["0,v1,1.1,3.0,9,0.9", "1,v1,5,6,3,0.5", "2,v2,0,3.9,21,0.4"]
    (tmp_path / "p.csv").write_text(",video_id,t_start,t_end,class,score\n" + "\n".join(predictions) + "\n")
    files = ["--annotations", str(tmp_path / "a.csv")]
    result = mmad("stats", *files, "--out", str(tmp_path / "stats"))
    assert result.returncode == 0, result.stderr
    document = json.loads((tmp_path / "stats/statistics.json").read_text())
    assert document["class_count"][9] == 2
    assert document["instance_duration"]["mean"] == pytest.approx((2 + 8 + 120 / 29) / 3)
    mmad("stats", *files, "--fps", "30", "--out", str(tmp_path / "assumed"))
    assumed = json.loads((tmp_path / "assumed/statistics.json").read_text())
    assert assumed["instance_duration"]["mean"] == pytest.approx((2 + 8 + 4) / 3)
    result = mmad("analyze", *files, "--predictions", str(tmp_path / "p.csv"), "--out", str(tmp_path / "analysis"))
    assert result.returncode == 0, result.stderr
    analysis = json.loads((tmp_path / "analysis/analysis.json").read_text())
    assert analysis["videos"] == 2
    assert analysis["false_positives"][0]["true positive"] == 0.5
    figures = [
        "stats/classes",
        "stats/lengths",
        "stats/cooccurrence",
        "analysis/false_positives",
        "analysis/false_negatives",
    ]
    for name in [*figures, "analysis/timeline_v1", "analysis/timeline_v2"]:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG), name
    no_predictions = tmp_path / "n.csv"
    no_predictions.write_text(",video_id,t_start,t_end,class,score\n")
    mmad("analyze", *files, "--predictions", str(no_predictions), "--out", str(tmp_path / "nothing"))
    missed = json.loads((tmp_path / "nothing/analysis.json").read_text())["false_negatives"]["length"]
    assert [bucket["missed"] for bucket in missed] == [1, 1, 1, None, None]
    unknown = {"a/../b": {"actions": [[1, 2, 3]]}, "c": {"duration": 9, "actions": [[1, 2, 3]]}}
    (tmp_path / "u.json").write_text(json.dumps(unknown))
    (tmp_path / "u.csv").write_text(",video_id,t_start,t_end,class,score\n0,a/../b,2,1e9,1,0.5\n")
    warned = mmad("stats", "--annotations", str(tmp_path / "u.json"), "--out", str(tmp_path / "u"))
    assert warned.returncode == 0
    assert "1 videos without a known duration are left out" in warned.stderr
    files = ["--annotations", str(tmp_path / "u.json"), "--predictions", str(tmp_path / "u.csv")]
    assert mmad("analyze", *files, "--out", str(tmp_path / "v")).returncode == 0
    assert (tmp_path / "v/timeline_a_.._b.png").exists()
    assert mmad("evaluate", *files).returncode == 0
    (tmp_path / "empty.csv").write_text("id,video_id,start_frame,end_frame,class,total_frames,fps\n")
    assert mmad("stats", "--annotations", str(tmp_path / "empty.csv"), "--out", str(tmp_path / "x")).returncode == 1
