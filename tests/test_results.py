"""Results made from proposals: thresholds, filters, summary, hidden detections and frame scores."""

import io
from typing import Any

import numpy as np
import pytest

from mmad.terminal import print_hidden
from service.errors import Problem
from service.parameters import parse_parameters
from service.results import StoredProposals, find_action_ids, make_result, with_defaults
from service.schemas import ActionLabel, ExportView, FramesView, Labels, Options, Result, ResultView, View
from service.scores import compute_score_track, make_frame_scores, to_csv, to_npz
from tests.result_examples import BODIES, EXAMPLE, LABELS, REPRODUCTION, make_proposals


def codes_and_starts(result: Result) -> list[tuple[str, float]]:
    return [(detection.action.code, detection.start_s) for detection in result.detections]


def test_default_threshold_is_per_class() -> None:
    result = make_result(EXAMPLE, View())
    assert codes_and_starts(result) == [("B1", 1), ("B2", 2), ("A1", 2.5), ("B1", 4)]
    assert result.settings.min_score is None


def test_min_score_replaces_class_thresholds() -> None:
    assert len(make_result(EXAMPLE, View(min_score=0)).detections) == 6
    assert codes_and_starts(make_result(EXAMPLE, View(min_score=0.64))) == [("B1", 1), ("B2", 2), ("B2", 10)]


def test_top_k_and_labels_filter_detections() -> None:
    assert codes_and_starts(make_result(EXAMPLE, View(min_score=0, top_k=2))) == [("B1", 1), ("B2", 2)]
    assert codes_and_starts(make_result(EXAMPLE, View(min_score=0, labels=["A"]))) == [("A1", 2.5), ("A1", 15)]
    assert codes_and_starts(make_result(EXAMPLE, View(min_score=0, labels=["A", "B1"], top_k=3))) == [
        ("B1", 1),
        ("A1", 2.5),
        ("B1", 4),
    ]
    with pytest.raises(Problem, match="'Z9' is neither"):
        make_result(EXAMPLE, View(labels=["Z9"]))


NAMED_LABELS = Labels(
    bodies=BODIES,
    actions=[
        *LABELS.actions,
        ActionLabel(id=3, code="B3", name="turning, left or right", body=BODIES[1]),
        ActionLabel(id=4, code="B4", name="Gru\u0308ßen", body=BODIES[1]),
    ],
)


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ("B1", {1}),
        ("b1,a", {0, 1}),
        ("nodding", {1}),
        (" NODDING , shaking  Body,", {0, 1}),
        ("head", {1, 2, 3, 4}),
        ("turning, left or right", {3}),
        ("nodding,Turning,left or right,A1", {0, 1, 3}),
        ("GRÜSSEN", {4}),
    ],
)
def test_labels_match_codes_and_names_case_insensitively(given: str, ids: set[int]) -> None:
    labels = parse_parameters(View, {"labels": given}).labels
    assert labels is not None
    assert find_action_ids(NAMED_LABELS, labels) == ids


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("noding", "'noding' is neither an action nor a body part; near it are 'nodding'; GET /labels"),
        ("B1,turning", "'turning' is neither an action nor a body part"),
        ("Heads", "near it are 'Head'"),
        (",", "'' is neither"),
    ],
)
def test_unknown_label_error_lists_similar_labels(given: str, message: str) -> None:
    labels = parse_parameters(View, {"labels": given}).labels
    assert labels is not None
    with pytest.raises(Problem) as caught:
        find_action_ids(NAMED_LABELS, labels)
    assert caught.value.code == "invalid_parameter"
    assert message in caught.value.detail


def test_overlaps_are_mutual_and_exclude_touching() -> None:
    first, second, third, fourth = make_result(EXAMPLE, View()).detections
    assert first.overlaps == [second.id, third.id]
    assert second.overlaps == [first.id, third.id]
    assert third.overlaps == [first.id, second.id, fourth.id]
    assert fourth.overlaps == [third.id]  # only touches the second
    long, short, touching = make_result(make_proposals((0, 9, 1, 0), (1, 2, 1, 1), (2, 3, 1, 1)), View()).detections
    assert (short.overlaps, touching.overlaps) == ([long.id], [long.id])


def test_detection_ids_do_not_depend_on_view() -> None:
    few, all_ = make_result(EXAMPLE, View()), make_result(EXAMPLE, View(min_score=0))
    ids = {(detection.action.code, detection.start_s): detection.id for detection in all_.detections}
    assert all(ids[detection.action.code, detection.start_s] == detection.id for detection in few.detections)


def test_body_segments_merge_touching_actions() -> None:
    result = make_result(EXAMPLE, View(min_score=0))
    segments = [
        (segment.body.code, segment.start_s, segment.end_s, segment.score, len(segment.actions))
        for segment in result.body_segments
    ]
    assert segments == [("B", 1, 5, 0.9, 3), ("A", 2.5, 6, 0.55, 1), ("B", 10, 12, 0.65, 1), ("A", 15, 16, 0.4, 1)]


def test_summary_counts_overlapping_time_once() -> None:
    rows = make_proposals((0, 4, 0.9, 1), (2, 6, 0.9, 1), (5, 8, 0.9, 2), duration_s=30)
    summary = make_result(rows, View()).summary
    assert [(entry.code, entry.count, entry.total_s, entry.rate_per_min) for entry in summary.by_action] == [
        ("B1", 1, 6, 2),
        ("B2", 1, 3, 2),
    ]
    assert [(entry.code, entry.count, entry.total_s) for entry in summary.by_body] == [("B", 1, 8)]
    assert summary.concurrency.max == 2
    assert [(entry.count, entry.total_s) for entry in summary.concurrency.seconds] == [(0, 22), (1, 7), (2, 1)]
    assert summary.concurrency.mean == pytest.approx(9 / 30, abs=1e-3)


def test_no_proposals_give_an_empty_result() -> None:
    result = make_result(make_proposals(), View())
    assert result.detections == []
    assert result.summary.concurrency.max == 0
    assert [(entry.count, entry.total_s) for entry in result.summary.concurrency.seconds] == [(0, 20)]


def test_stored_proposals_round_trip() -> None:
    loaded = StoredProposals.from_bytes(EXAMPLE.to_bytes())
    assert make_result(loaded, View(min_score=0)) == make_result(EXAMPLE, View(min_score=0))


def test_time_range_limits_detections_and_summary() -> None:
    result = make_result(EXAMPLE, ResultView(min_score=0, from_s=3, to_s=5))
    assert codes_and_starts(result) == [("B2", 2), ("A1", 2.5), ("B1", 4)]  # detections that end at 3 are excluded
    assert (result.settings.from_s, result.settings.to_s) == (3, 5)
    assert [(entry.code, entry.count, entry.total_s, entry.rate_per_min) for entry in result.summary.by_action] == [
        ("A1", 1, 2, 30),
        ("B1", 1, 1, 30),
        ("B2", 1, 1, 30),
    ]
    assert [(entry.count, entry.total_s) for entry in result.summary.concurrency.seconds] == [(2, 2)]
    after = make_result(EXAMPLE, ResultView(min_score=0, from_s=500))
    assert after.detections == []
    assert after.summary.concurrency.mean == 0


def test_level_omits_other_level_but_not_summary() -> None:
    both, action, body = (
        make_result(EXAMPLE, ResultView.model_validate({"level": level})) for level in ("both", "action", "body")
    )
    assert (action.detections, action.body_segments) == (both.detections, [])
    assert (body.detections, body.body_segments) == ([], both.body_segments)
    assert action.summary == body.summary == both.summary


def test_pairs_count_and_sum_overlaps() -> None:
    rows = make_proposals((0, 4, 0.9, 1), (1, 2, 0.9, 2), (3, 6, 0.9, 2), (3.5, 5, 0.9, 0), (4.2, 4.5, 0.9, 1))
    pairs = make_result(rows, View()).summary.pairs
    assert [(entry.first.code, entry.second.code, entry.count, entry.total_s) for entry in pairs] == [
        ("B1", "B2", 3, 2.3),  # 1 to 2, 3 to 4 and 4.2 to 4.5
        ("A1", "B1", 2, 0.8),  # 3.5 to 4 and 4.2 to 4.5
        ("A1", "B2", 1, 1.5),
    ]


def test_view_defaults_are_job_options() -> None:
    context = EXAMPLE.context.model_copy(update={"settings": Options(min_score=0.2, labels=["B"])})
    proposals = StoredProposals(EXAMPLE.segments, EXAMPLE.scores, EXAMPLE.labels, context)
    view = with_defaults(proposals, parse_parameters(ResultView, {"labels": "A", "from_s": "2"}))
    assert view == ResultView(min_score=0.2, labels=["A"], from_s=2)
    export_view = with_defaults(proposals, parse_parameters(ExportView, {"format": "csv", "top_k": "1"}))
    assert export_view == ResultView(min_score=0.2, labels=["B"], top_k=1)


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (ResultView, {"from_s": "3", "to_s": "3"}, "to_s=3: it must be above from_s=3"),
        (ResultView, {"to_s": "inf"}, "to_s=inf"),
        (ResultView, {"from_s": "nan"}, "from_s=nan"),
        (ResultView, {"level": "legs"}, "level=legs"),
        (FramesView, {"level": "frames", "rate": "31"}, "rate=31"),
        (FramesView, {"rate": "nan"}, "rate=nan"),
        (FramesView, {"top_k": "3"}, "'top_k' is not known"),
    ],
)
def test_invalid_view_parameters_are_rejected(
    model: type[ResultView] | type[FramesView], given: dict[str, str], message: str
) -> None:
    with pytest.raises(Problem, match=message):
        parse_parameters(model, given)
    assert parse_parameters(FramesView, {"level": "frames", "rate": "2.5"}).rate == 2.5


def test_result_contains_reproduction() -> None:
    assert make_result(EXAMPLE, View()).reproduction == REPRODUCTION


def test_frame_scores_of_example() -> None:
    rows = make_proposals((0, 0.5, 0.3, 1), (0.2, 0.41, 0.9, 1), (0.4, 1, 0.0625, 0), duration_s=1)
    scores = make_frame_scores(rows, 5)
    assert scores.times_s == [0, 0.2, 0.4, 0.6, 0.8]
    assert scores.actions == ["A1", "B1", "B2"]
    assert scores.action_scores == [[0, 0.3, 0], [0, 0.9, 0], [0.0625, 0.9, 0], [0.0625, 0, 0], [0.0625, 0, 0]]
    assert scores.bodies == ["A", "B"]
    assert scores.body_scores == [[row[0], max(row[1:])] for row in scores.action_scores]


def test_frame_scores_as_npz_and_csv() -> None:
    track = compute_score_track(EXAMPLE, 2)
    with np.load(io.BytesIO(to_npz(track)), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["action_scores"], track.action_scores)
        assert list(arrays["bodies"]) == ["A", "B"]
        assert arrays["rate"] == 2
        assert arrays["times_s"][-1] == 19.5
    header, *lines = to_csv(track).splitlines()
    assert header == "frame,timestamp,A1,B1,B2,A,B"
    assert len(lines) == 40
    assert lines[4] == "5,2.000,0.0000,0.9000,0.8000,0.0000,0.9000"


def test_hidden_detections_are_summarised() -> None:
    rows = make_proposals(
        (1, 3, 0.9, 1), (2, 4, 0.65, 2), (5, 6, 0.3, 0), (5, 6, 0.59, 1), (9, 9.5, 0.02, 1), (9, 9.5, 0.019, 2)
    )
    hidden = make_result(rows, View()).hidden
    assert (hidden.count, hidden.from_score, hidden.cut_by_top_k) == (4, 0.02, 0)
    assert [(entry.action.code, entry.start_s, entry.score, entry.threshold) for entry in hidden.best] == [
        ("B2", 2, 0.65, 0.7),
        ("B1", 5, 0.59, 0.6),
        ("A1", 5, 0.3, 0.5),
    ]
    everything = make_result(rows, View(min_score=hidden.from_score))
    assert len(everything.detections) == 1 + hidden.count
    assert {entry.id for entry in hidden.best} < {detection.id for detection in everything.detections}
    assert everything.hidden.count == 0


def test_hidden_respects_labels_range_and_min_score() -> None:
    rows = make_proposals((1, 3, 0.9, 1), (2, 4, 0.65, 2), (5, 6, 0.3, 0), (5, 6, 0.59, 1), (9, 9.5, 0.4, 1))

    def hidden(**view: Any) -> list[tuple[str, float, float]]:
        summary = make_result(rows, ResultView.model_validate(view)).hidden
        assert summary.count == len(summary.best)
        return [(entry.action.code, entry.start_s, entry.threshold) for entry in summary.best]

    assert hidden(labels=["A"]) == [("A1", 5, 0.5)]
    assert hidden(from_s=4, labels=["B"]) == [("B1", 5, 0.6), ("B1", 9, 0.6)]
    assert hidden(to_s=5) == [("B2", 2, 0.7)]
    assert hidden(min_score=0.35) == [("A1", 5, 0.35)]
    assert hidden(min_score=0) == []


def test_top_k_reports_cut_detections() -> None:
    result = make_result(EXAMPLE, View(top_k=1))
    assert (len(result.detections), result.hidden.cut_by_top_k, result.hidden.count) == (1, 3, 2)
    assert make_result(EXAMPLE, View(top_k=9)).hidden.cut_by_top_k == 0


def test_proposals_of_long_action_merge_to_one_detection() -> None:
    """There is a proposal per window; they overlap by half, and the best are not the first."""
    rows = ((start, min(start + 12.8, 540), 0.6 + 0.01 * (start % 7), 1) for start in np.arange(0, 540, 6.4))
    result = make_result(make_proposals(*rows, (3, 4, 0.9, 2), duration_s=545), View())
    assert codes_and_starts(result) == [("B1", 0), ("B2", 3)]
    assert result.detections[0].end_s == 540
    assert [(entry.code, entry.count, entry.total_s) for entry in result.summary.by_action] == [
        ("B1", 1, 540),
        ("B2", 1, 1),
    ]
    assert result.summary.concurrency.max == 2
    assert [(entry.first.code, entry.second.code, entry.count) for entry in result.summary.pairs] == [("B1", "B2", 1)]
    assert result.detections[0].overlaps == [result.detections[1].id]
    assert result.hidden.count == 0


def test_terminal_prints_hidden_detections(capsys: pytest.CaptureFixture[str]) -> None:
    rows = make_proposals((1, 3, 0.9, 1), (2, 4, 0.65, 2), (5, 6, 0.3, 0))
    context = rows.context.model_copy(update={"job_id": None})
    without_job = StoredProposals(rows.segments, rows.scores, rows.labels, context)

    def printed(proposals: StoredProposals, **view: Any) -> str:
        print_hidden(make_result(proposals, View(**view)).model_dump(mode="json"))
        return capsys.readouterr().err

    assert printed(without_job) == (
        "Hidden: 2 detections with scores from 0.02 up to their thresholds. The best: shaking head (B2) 0.65 at "
        "2.0-4.0 s, shown from 0.70 on. To see them: --min-score 0.02\n"
    )
    assert "To see them: /jobs/j/result?min_score=0.02" in printed(rows)
    assert "Hidden: 1 detection with" in printed(without_job, min_score=0.4)
    assert printed(without_job, min_score=0.01) == ""
    assert printed(without_job, min_score=0.01, top_k=1) == "Left out by top_k=1: 2 detections.\n"
