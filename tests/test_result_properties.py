"""Properties of results for random proposals, and comparisons with brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.results import StoredProposals, make_result
from service.schemas import Detection, ResultView, View
from service.scores import compute_score_track, make_frame_scores
from service.summary import merge
from tests.result_examples import LABELS, random_proposals


def overlap(first: Detection, second: Detection) -> bool:
    return first.id != second.id and second.start_s < first.end_s and first.start_s < second.end_s


@given(proposals=random_proposals, min_score=st.floats(0, 1), top_k=st.integers(1, 30))
def test_detections_overlaps_and_summary_are_consistent(
    proposals: StoredProposals, min_score: float, top_k: int
) -> None:
    result = make_result(proposals, View(min_score=min_score, top_k=top_k))
    uncut = make_result(proposals, View(min_score=min_score))
    shown = {detection.id: detection for detection in result.detections}
    assert len(shown) == len(result.detections) == min(top_k, len(uncut.detections))
    assert result.hidden.cut_by_top_k == len(uncut.detections) - len(shown)
    all_counted = make_result(proposals, View(min_score=min(min_score, 0.02))).detections
    assert result.hidden.count == len(all_counted) - len(uncut.detections)
    for detection in result.detections:
        assert detection.end_s > detection.start_s
        assert set(detection.overlaps) == {other.id for other in result.detections if overlap(detection, other)}
    members = [name for segment in result.body_segments for name in segment.actions]
    assert sorted(members) == sorted(shown)
    seconds = result.summary.concurrency.seconds
    assert sum(entry.total_s for entry in seconds) == pytest.approx(20, abs=0.02)


@given(proposals=random_proposals, bounds=st.tuples(st.floats(0, 1), st.floats(0, 1)), top_k=st.integers(1, 30))
def test_filters_select_subsets_without_changing_ids(
    proposals: StoredProposals, bounds: tuple[float, float], top_k: int
) -> None:
    low, high = sorted(bounds)
    everything = {detection.id: detection for detection in make_result(proposals, View(min_score=0)).detections}

    def ids(view: ResultView) -> set[str]:
        selected = make_result(proposals, view).detections
        for detection in selected:  # equal except for the overlaps within this view
            assert detection.model_copy(update={"overlaps": []}) == everything[detection.id].model_copy(
                update={"overlaps": []}
            )
        return {detection.id for detection in selected}

    few, many = ids(ResultView(min_score=high)), ids(ResultView(min_score=low))
    assert few <= many <= set(everything)
    assert ids(ResultView(min_score=low, labels=["B"])) == {name for name in many if everything[name].body.code == "B"}
    assert ids(ResultView(min_score=low, labels=["B1", "A"])) | ids(ResultView(min_score=low, labels=["B2"])) == many
    best = ids(ResultView(min_score=low, top_k=top_k))
    assert len(best) == min(top_k, len(many))
    assert max((everything[name].score for name in many - best), default=0) <= min(
        (everything[name].score for name in best), default=1
    )
    from_s, to_s = 20 * low, 20 * high + 0.1
    assert ids(ResultView(min_score=0, from_s=from_s, to_s=to_s)) == {
        detection.id for detection in everything.values() if detection.end_s > from_s and detection.start_s < to_s
    }


@given(proposals=random_proposals)
def test_body_segments_are_union_of_actions(proposals: StoredProposals) -> None:
    result = make_result(proposals, View(min_score=0))
    by_id = {detection.id: detection for detection in result.detections}
    for body in ("A", "B"):
        own = [segment for segment in result.body_segments if segment.body.code == body]
        union = merge(
            (detection.start_s, detection.end_s) for detection in result.detections if detection.body.code == body
        )
        assert [(segment.start_s, segment.end_s) for segment in own] == union
        for segment in own:
            assert segment.score == max(by_id[name].score for name in segment.actions)
            assert {by_id[name].body.code for name in segment.actions} == {body}


@given(proposals=random_proposals, window=st.tuples(st.floats(0, 12), st.floats(0.1, 9)))
def test_pairs_match_brute_force(proposals: StoredProposals, window: tuple[float, float]) -> None:
    from_s, to_s = round(window[0], 2), round(window[0] + window[1], 2)
    result = make_result(proposals, ResultView(min_score=0, from_s=from_s, to_s=to_s))
    pairs = {(pair.first.id, pair.second.id): pair for pair in result.summary.pairs}
    ticks = np.arange(20_000) / 1000 + 0.0005  # the middle of every millisecond
    inside = (ticks > from_s) & (ticks < to_s)
    for first, second in itertools.combinations(range(3), 2):
        own, others = (
            [detection for detection in result.detections if detection.action.id == action]
            for action in (first, second)
        )
        count = sum(overlap(detection, other) for detection in own for other in others)
        assert (first, second) in pairs if count else (first, second) not in pairs
        if not count:
            continue
        active = [
            np.any([(detection.start_s < ticks) & (ticks < detection.end_s) for detection in group], axis=0)
            for group in (own, others)
        ]
        assert pairs[first, second].count == count
        assert pairs[first, second].total_s == pytest.approx(
            float((active[0] & active[1] & inside).sum()) / 1000, abs=0.012
        )
    counts = [pair.count for pair in result.summary.pairs]
    assert counts == sorted(counts, reverse=True)


@given(proposals=random_proposals, rate=st.floats(1, 30))
def test_frame_scores_match_brute_force(proposals: StoredProposals, rate: float) -> None:
    scores = make_frame_scores(proposals, rate)
    assert scores.times_s[0] == 0
    last_s = compute_score_track(proposals, rate).times_s[-1]
    assert last_s < 20 <= last_s + 1 / rate + 1e-9
    times, rounded = proposals.round_times(), np.round(proposals.scores.astype(float), 4)
    part_of = np.array([action.body.id for action in LABELS.actions])
    for index in range(0, len(scores.times_s), 7):
        time_s = index / rate
        active = (times[:, 0] <= time_s) & (time_s < times[:, 1])
        for column in range(len(scores.actions)):
            best = rounded[active & (proposals.labels == column)].max(initial=0)
            assert scores.action_scores[index][column] == best
        for column in range(len(scores.bodies)):
            best = rounded[active & (part_of[proposals.labels] == column)].max(initial=0)
            assert scores.body_scores[index][column] == best
