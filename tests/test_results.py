"""From proposals to the result document, by hand-made examples and by properties."""

import io
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmad.terminal import print_hidden
from service.errors import Problem
from service.parameters import parse_parameters
from service.results import StoredProposals, find_action_ids, make_result, with_defaults
from service.schemas import (
    ActionLabel,
    Context,
    Detection,
    ExportView,
    FramesView,
    Label,
    Labels,
    Media,
    ModelUsed,
    Options,
    Reproduction,
    Result,
    ResultView,
    Stretch,
    View,
)
from service.scores import compute_score_track, make_frame_scores, to_csv, to_npz
from service.summary import merge

BODIES = [Label(id=0, code="A", name="Body"), Label(id=1, code="B", name="Head")]
LABELS = Labels(
    bodies=BODIES,
    actions=[
        ActionLabel(id=0, code="A1", name="shaking body", body=BODIES[0]),
        ActionLabel(id=1, code="B1", name="nodding", body=BODIES[1]),
        ActionLabel(id=2, code="B2", name="shaking head", body=BODIES[1]),
    ],
)
REPRODUCTION = Reproduction(
    mmad="0.1.0", python="3.11.9", packages={"av": "18.1.0", "numpy": "2.4.0", "openvino": "2026.4.0"},
    bundle_sha256="1" * 64, taxonomy_sha256="2" * 64, device="cpu", decode_fps=15, input_width=160, input_height=160,
    window_frames=192, overlap_frames=64, postprocessing={"nms": "soft", "soft_nms_sigma": 0.7}, calibrated=True,
)  # fmt: skip


def stored(*rows: tuple[float, float, float, int], duration_s: float = 20.0) -> StoredProposals:
    table = np.array(rows, np.float32).reshape(-1, 4)
    table = table[np.argsort(-table[:, 2], kind="stable")]
    media = Media(
        sha256="0" * 64, duration_s=duration_s, width=2, height=2, frames_decoded=9,
        average_fps=30, variable_frame_rate=False, rotation_deg=0,
    )  # fmt: skip
    model = ModelUsed(bundle="b", version="1", weights_sha256="0", engine="e", precision="fp32", trained_on=None)
    context = Context(
        job_id="j", media=media, model=model, settings=Options(region=None), partial=False, warnings=[],
        coverage=[Stretch(start_s=0, end_s=duration_s, status="analysed")], labels=LABELS, thresholds=[0.5, 0.6, 0.7],
        reproduction=REPRODUCTION,
    )  # fmt: skip
    return StoredProposals(table[:, :2], table[:, 2], table[:, 3].astype(np.int64), context)


EXAMPLE = stored(
    (1, 3, 0.9, 1), (2, 4, 0.8, 2), (2.5, 6, 0.55, 0), (10, 12, 0.65, 2), (4, 5, 0.61, 1), (15, 16, 0.4, 0)
)


def by_code(result: Result) -> list[tuple[str, float]]:
    return [(one.action.code, one.start_s) for one in result.detections]


def test_each_class_has_its_own_threshold() -> None:
    result = make_result(EXAMPLE, View())
    assert by_code(result) == [("B1", 1), ("B2", 2), ("A1", 2.5), ("B1", 4)]
    assert result.settings.min_score is None


def test_a_least_score_takes_the_place_of_thresholds_and_zero_gives_all() -> None:
    assert len(make_result(EXAMPLE, View(min_score=0)).detections) == 6
    assert by_code(make_result(EXAMPLE, View(min_score=0.64))) == [("B1", 1), ("B2", 2), ("B2", 10)]


def test_top_k_takes_the_best_and_labels_take_either_level() -> None:
    assert by_code(make_result(EXAMPLE, View(min_score=0, top_k=2))) == [("B1", 1), ("B2", 2)]
    assert by_code(make_result(EXAMPLE, View(min_score=0, labels=["A"]))) == [("A1", 2.5), ("A1", 15)]
    assert by_code(make_result(EXAMPLE, View(min_score=0, labels=["A", "B1"], top_k=3))) == [
        ("B1", 1),
        ("A1", 2.5),
        ("B1", 4),
    ]
    with pytest.raises(Problem, match="'Z9' is neither"):
        make_result(EXAMPLE, View(labels=["Z9"]))


LISTED = Labels(
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
def test_labels_are_codes_or_names_as_people_write_them(given: str, ids: set[int]) -> None:
    wanted = parse_parameters(View, {"labels": given}).labels
    assert wanted is not None
    assert find_action_ids(LISTED, wanted) == ids


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("noding", "'noding' is neither an action nor a body part; near it are 'nodding'; GET /labels"),
        ("B1,turning", "'turning' is neither an action nor a body part"),
        ("Heads", "near it are 'Head'"),
        (",", "'' is neither"),
    ],
)
def test_unknown_labels_are_told_with_those_near_them(given: str, said: str) -> None:
    wanted = parse_parameters(View, {"labels": given}).labels
    assert wanted is not None
    with pytest.raises(Problem) as refused:
        find_action_ids(LISTED, wanted)
    assert refused.value.code == "invalid_parameter"
    assert said in refused.value.detail


def test_overlaps_are_mutual_and_touching_is_none() -> None:
    first, second, third, fourth = make_result(EXAMPLE, View()).detections
    assert first.overlaps == [second.id, third.id]
    assert second.overlaps == [first.id, third.id]
    assert third.overlaps == [first.id, second.id, fourth.id]
    assert fourth.overlaps == [third.id]  # it touches the second
    long, short, touching = make_result(stored((0, 9, 1, 0), (1, 2, 1, 1), (2, 3, 1, 1)), View()).detections
    assert (short.overlaps, touching.overlaps) == ([long.id], [long.id])


def test_ids_are_the_same_in_every_view() -> None:
    few, all_ = make_result(EXAMPLE, View()), make_result(EXAMPLE, View(min_score=0))
    ids = {(one.action.code, one.start_s): one.id for one in all_.detections}
    assert all(ids[one.action.code, one.start_s] == one.id for one in few.detections)


def test_body_segments_merge_what_touches() -> None:
    result = make_result(EXAMPLE, View(min_score=0))
    found = [(one.body.code, one.start_s, one.end_s, one.score, len(one.actions)) for one in result.body_segments]
    assert found == [("B", 1, 5, 0.9, 3), ("A", 2.5, 6, 0.55, 1), ("B", 10, 12, 0.65, 1), ("A", 15, 16, 0.4, 1)]


def test_summary_counts_time_once() -> None:
    rows = stored((0, 4, 0.9, 1), (2, 6, 0.9, 1), (5, 8, 0.9, 2), duration_s=30)
    summary = make_result(rows, View()).summary
    assert [(one.code, one.count, one.total_s, one.rate_per_min) for one in summary.by_action] == [
        ("B1", 1, 6, 2),
        ("B2", 1, 3, 2),
    ]
    assert [(one.code, one.count, one.total_s) for one in summary.by_body] == [("B", 1, 8)]
    assert summary.concurrency.max == 2
    assert [(one.count, one.total_s) for one in summary.concurrency.seconds] == [(0, 22), (1, 7), (2, 1)]
    assert summary.concurrency.mean == pytest.approx(9 / 30, abs=1e-3)


def test_nothing_found_is_an_answer() -> None:
    result = make_result(stored(), View())
    assert result.detections == []
    assert result.summary.concurrency.max == 0
    assert [(one.count, one.total_s) for one in result.summary.concurrency.seconds] == [(0, 20)]


def test_proposals_survive_the_round_trip() -> None:
    again = StoredProposals.from_bytes(EXAMPLE.to_bytes())
    assert make_result(again, View(min_score=0)) == make_result(EXAMPLE, View(min_score=0))


def test_a_view_of_a_stretch_tells_of_that_stretch_only() -> None:
    result = make_result(EXAMPLE, ResultView(min_score=0, from_s=3, to_s=5))
    assert by_code(result) == [("B2", 2), ("A1", 2.5), ("B1", 4)]  # what ends at 3 does not overlap
    assert (result.settings.from_s, result.settings.to_s) == (3, 5)
    assert [(one.code, one.count, one.total_s, one.rate_per_min) for one in result.summary.by_action] == [
        ("A1", 1, 2, 30),
        ("B1", 1, 1, 30),
        ("B2", 1, 1, 30),
    ]
    assert [(one.count, one.total_s) for one in result.summary.concurrency.seconds] == [(2, 2)]
    after = make_result(EXAMPLE, ResultView(min_score=0, from_s=500))
    assert after.detections == []
    assert after.summary.concurrency.mean == 0


def test_a_level_leaves_the_other_out_and_the_summary_whole() -> None:
    both, action, body = (
        make_result(EXAMPLE, ResultView.model_validate({"level": level})) for level in ("both", "action", "body")
    )
    assert (action.detections, action.body_segments) == (both.detections, [])
    assert (body.detections, body.body_segments) == ([], both.body_segments)
    assert action.summary == body.summary == both.summary


def test_pairs_count_and_time_what_goes_on_together() -> None:
    rows = stored((0, 4, 0.9, 1), (1, 2, 0.9, 2), (3, 6, 0.9, 2), (3.5, 5, 0.9, 0), (4.2, 4.5, 0.9, 1))
    pairs = make_result(rows, View()).summary.pairs
    assert [(one.first.code, one.second.code, one.count, one.total_s) for one in pairs] == [
        ("B1", "B2", 3, 2.3),  # 1 to 2, 3 to 4 and 4.2 to 4.5
        ("A1", "B1", 2, 0.8),  # 3.5 to 4 and 4.2 to 4.5
        ("A1", "B2", 1, 1.5),
    ]


def test_what_is_left_open_is_as_the_job_was_asked_for() -> None:
    context = EXAMPLE.context.model_copy(update={"settings": Options(min_score=0.2, labels=["B"])})
    proposals = StoredProposals(EXAMPLE.segments, EXAMPLE.scores, EXAMPLE.labels, context)
    view = with_defaults(proposals, parse_parameters(ResultView, {"labels": "A", "from_s": "2"}))
    assert view == ResultView(min_score=0.2, labels=["A"], from_s=2)
    of_export = with_defaults(proposals, parse_parameters(ExportView, {"format": "csv", "top_k": "1"}))
    assert of_export == ResultView(min_score=0.2, labels=["B"], top_k=1)


@pytest.mark.parametrize(
    ("model", "given", "said"),
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
def test_views_refuse_what_makes_no_sense(
    model: type[ResultView] | type[FramesView], given: dict[str, str], said: str
) -> None:
    with pytest.raises(Problem, match=said):
        parse_parameters(model, given)
    assert parse_parameters(FramesView, {"level": "frames", "rate": "2.5"}).rate == 2.5


def test_a_run_can_be_repeated_by_what_the_result_says() -> None:
    assert make_result(EXAMPLE, View()).reproduction == REPRODUCTION


def test_scores_over_time_by_hand() -> None:
    rows = stored((0, 0.5, 0.3, 1), (0.2, 0.41, 0.9, 1), (0.4, 1, 0.0625, 0), duration_s=1)
    scores = make_frame_scores(rows, 5)
    assert scores.times_s == [0, 0.2, 0.4, 0.6, 0.8]
    assert scores.actions == ["A1", "B1", "B2"]
    assert scores.action_scores == [[0, 0.3, 0], [0, 0.9, 0], [0.0625, 0.9, 0], [0.0625, 0, 0], [0.0625, 0, 0]]
    assert scores.bodies == ["A", "B"]
    assert scores.body_scores == [[one[0], max(one[1:])] for one in scores.action_scores]


def test_scores_over_time_as_files() -> None:
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


def test_what_is_hidden_is_announced() -> None:
    rows = stored(
        (1, 3, 0.9, 1), (2, 4, 0.65, 2), (5, 6, 0.3, 0), (5, 6, 0.59, 1), (9, 9.5, 0.02, 1), (9, 9.5, 0.019, 2)
    )
    hidden = make_result(rows, View()).hidden
    assert (hidden.count, hidden.from_score, hidden.cut_by_top_k) == (4, 0.02, 0)
    assert [(one.action.code, one.start_s, one.score, one.threshold) for one in hidden.best] == [
        ("B2", 2, 0.65, 0.7),
        ("B1", 5, 0.59, 0.6),
        ("A1", 5, 0.3, 0.5),
    ]
    everything = make_result(rows, View(min_score=hidden.from_score))
    assert len(everything.detections) == 1 + hidden.count
    assert {one.id for one in hidden.best} < {one.id for one in everything.detections}
    assert everything.hidden.count == 0


def test_hidden_is_of_the_labels_the_part_and_the_score_that_are_asked_for() -> None:
    rows = stored((1, 3, 0.9, 1), (2, 4, 0.65, 2), (5, 6, 0.3, 0), (5, 6, 0.59, 1), (9, 9.5, 0.4, 1))

    def hidden(**view: Any) -> list[tuple[str, float, float]]:
        found = make_result(rows, ResultView.model_validate(view)).hidden
        assert found.count == len(found.best)
        return [(one.action.code, one.start_s, one.threshold) for one in found.best]

    assert hidden(labels=["A"]) == [("A1", 5, 0.5)]
    assert hidden(from_s=4, labels=["B"]) == [("B1", 5, 0.6), ("B1", 9, 0.6)]
    assert hidden(to_s=5) == [("B2", 2, 0.7)]
    assert hidden(min_score=0.35) == [("A1", 5, 0.35)]
    assert hidden(min_score=0) == []


def test_top_k_says_how_many_it_cuts() -> None:
    found = make_result(EXAMPLE, View(top_k=1))
    assert (len(found.detections), found.hidden.cut_by_top_k, found.hidden.count) == (1, 3, 2)
    assert make_result(EXAMPLE, View(top_k=9)).hidden.cut_by_top_k == 0


def test_an_action_of_nine_minutes_is_one_detection() -> None:
    """Its proposals, one a window, overlap by half; the better ones are not at its start."""
    rows = ((start, min(start + 12.8, 540), 0.6 + 0.01 * (start % 7), 1) for start in np.arange(0, 540, 6.4))
    result = make_result(stored(*rows, (3, 4, 0.9, 2), duration_s=545), View())
    assert by_code(result) == [("B1", 0), ("B2", 3)]
    assert result.detections[0].end_s == 540
    assert [(one.code, one.count, one.total_s) for one in result.summary.by_action] == [("B1", 1, 540), ("B2", 1, 1)]
    assert result.summary.concurrency.max == 2
    assert [(one.first.code, one.second.code, one.count) for one in result.summary.pairs] == [("B1", "B2", 1)]
    assert result.detections[0].overlaps == [result.detections[1].id]
    assert result.hidden.count == 0


# Times on a coarse grid touch and overlap; times off it are rounded.
row = st.tuples(
    st.one_of(st.integers(0, 24).map(lambda n: n / 2), st.floats(0, 12, width=32)),
    st.one_of(st.integers(0, 12).map(lambda n: n / 2), st.floats(0, 1, width=32)),
    st.floats(0, 1, width=32),
    st.integers(0, 2),
)
proposals_of = st.lists(row, max_size=25).map(
    lambda rows: stored(*((start, start + length, score, label) for start, length, score, label in rows))
)


def together(one: Detection, other: Detection) -> bool:
    return one.id != other.id and other.start_s < one.end_s and one.start_s < other.end_s


@given(proposals=proposals_of, least=st.floats(0, 1), top=st.integers(1, 30))
def test_views_hold_together(proposals: StoredProposals, least: float, top: int) -> None:
    result = make_result(proposals, View(min_score=least, top_k=top))
    uncut = make_result(proposals, View(min_score=least))
    shown = {one.id: one for one in result.detections}
    assert len(shown) == len(result.detections) == min(top, len(uncut.detections))
    assert result.hidden.cut_by_top_k == len(uncut.detections) - len(shown)
    all_counted = make_result(proposals, View(min_score=min(least, 0.02))).detections
    assert result.hidden.count == len(all_counted) - len(uncut.detections)
    for one in result.detections:
        assert one.end_s > one.start_s
        assert set(one.overlaps) == {other.id for other in result.detections if together(one, other)}
    members = [name for segment in result.body_segments for name in segment.actions]
    assert sorted(members) == sorted(shown)
    seconds = result.summary.concurrency.seconds
    assert sum(one.total_s for one in seconds) == pytest.approx(20, abs=0.02)


@given(proposals=proposals_of, bounds=st.tuples(st.floats(0, 1), st.floats(0, 1)), top=st.integers(1, 30))
def test_filters_take_away_and_never_rename(proposals: StoredProposals, bounds: tuple[float, float], top: int) -> None:
    low, high = sorted(bounds)
    everything = {one.id: one for one in make_result(proposals, View(min_score=0)).detections}

    def ids(view: ResultView) -> set[str]:
        found = make_result(proposals, view).detections
        for one in found:  # the same detection, but for what it overlaps in this view
            assert one.model_copy(update={"overlaps": []}) == everything[one.id].model_copy(update={"overlaps": []})
        return {one.id for one in found}

    few, many = ids(ResultView(min_score=high)), ids(ResultView(min_score=low))
    assert few <= many <= set(everything)
    assert ids(ResultView(min_score=low, labels=["B"])) == {one for one in many if everything[one].body.code == "B"}
    assert ids(ResultView(min_score=low, labels=["B1", "A"])) | ids(ResultView(min_score=low, labels=["B2"])) == many
    best = ids(ResultView(min_score=low, top_k=top))
    assert len(best) == min(top, len(many))
    assert max((everything[one].score for one in many - best), default=0) <= min(
        (everything[one].score for one in best), default=1
    )
    from_s, to_s = 20 * low, 20 * high + 0.1
    assert ids(ResultView(min_score=0, from_s=from_s, to_s=to_s)) == {
        one.id for one in everything.values() if one.end_s > from_s and one.start_s < to_s
    }


@given(proposals=proposals_of)
def test_body_segments_are_the_union_of_their_actions(proposals: StoredProposals) -> None:
    result = make_result(proposals, View(min_score=0))
    by_id = {one.id: one for one in result.detections}
    for body in ("A", "B"):
        mine = [one for one in result.body_segments if one.body.code == body]
        union = merge((one.start_s, one.end_s) for one in result.detections if one.body.code == body)
        assert [(one.start_s, one.end_s) for one in mine] == union
        for segment in mine:
            assert segment.score == max(by_id[name].score for name in segment.actions)
            assert {by_id[name].body.code for name in segment.actions} == {body}


@given(proposals=proposals_of, window=st.tuples(st.floats(0, 12), st.floats(0.1, 9)))
def test_pairs_are_those_of_brute_force(proposals: StoredProposals, window: tuple[float, float]) -> None:
    from_s, to_s = round(window[0], 2), round(window[0] + window[1], 2)
    result = make_result(proposals, ResultView(min_score=0, from_s=from_s, to_s=to_s))
    pairs = {(one.first.id, one.second.id): one for one in result.summary.pairs}
    ticks = np.arange(20_000) / 1000 + 0.0005  # the middle of every millisecond
    inside = (ticks > from_s) & (ticks < to_s)
    for first, second in itertools.combinations(range(3), 2):
        mine, others = ([one for one in result.detections if one.action.id == action] for action in (first, second))
        count = sum(together(one, other) for one in mine for other in others)
        assert (first, second) in pairs if count else (first, second) not in pairs
        if not count:
            continue
        going_on = [
            np.any([(one.start_s < ticks) & (ticks < one.end_s) for one in group], axis=0) for group in (mine, others)
        ]
        assert pairs[first, second].count == count
        assert pairs[first, second].total_s == pytest.approx(
            float((going_on[0] & going_on[1] & inside).sum()) / 1000, abs=0.012
        )
    counts = [one.count for one in result.summary.pairs]
    assert counts == sorted(counts, reverse=True)


@given(proposals=proposals_of, rate=st.floats(1, 30))
def test_scores_over_time_are_those_of_brute_force(proposals: StoredProposals, rate: float) -> None:
    scores = make_frame_scores(proposals, rate)
    assert scores.times_s[0] == 0
    last_s = compute_score_track(proposals, rate).times_s[-1]
    assert last_s < 20 <= last_s + 1 / rate + 1e-9
    times, rounded = proposals.round_times(), np.round(proposals.scores.astype(float), 4)
    part_of = np.array([action.body.id for action in LABELS.actions])
    for place in range(0, len(scores.times_s), 7):
        time_s = place / rate
        going_on = (times[:, 0] <= time_s) & (time_s < times[:, 1])
        for column in range(len(scores.actions)):
            best = rounded[going_on & (proposals.labels == column)].max(initial=0)
            assert scores.action_scores[place][column] == best
        for column in range(len(scores.bodies)):
            best = rounded[going_on & (part_of[proposals.labels] == column)].max(initial=0)
            assert scores.body_scores[place][column] == best


def test_the_command_says_what_is_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    rows = stored((1, 3, 0.9, 1), (2, 4, 0.65, 2), (5, 6, 0.3, 0))
    context = rows.context.model_copy(update={"job_id": None})
    here = StoredProposals(rows.segments, rows.scores, rows.labels, context)

    def told(proposals: StoredProposals, **view: Any) -> str:
        print_hidden(make_result(proposals, View(**view)).model_dump(mode="json"))
        return capsys.readouterr().err

    assert told(here) == (
        "Hidden: 2 detections with scores from 0.02 up to their thresholds. The best: shaking head (B2) 0.65 at "
        "2.0-4.0 s, shown from 0.70 on. To see them: --min-score 0.02\n"
    )
    assert "To see them: /jobs/j/result?min_score=0.02" in told(rows)
    assert "Hidden: 1 detection with" in told(here, min_score=0.4)
    assert told(here, min_score=0.01) == ""
    assert told(here, min_score=0.01, top_k=1) == "Left out by top_k=1: 2 detections.\n"
