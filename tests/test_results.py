"""From proposals to the result document, by hand-made examples and by properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Problem
from service.results import Context, StoredProposals, make_result
from service.schemas import ActionLabel, Label, Labels, Media, ModelUsed, Options, Result, Stretch, View

BODIES = [Label(id=0, code="A", name="Body"), Label(id=1, code="B", name="Head")]
LABELS = Labels(
    bodies=BODIES,
    actions=[
        ActionLabel(id=0, code="A1", name="shaking body", body=BODIES[0]),
        ActionLabel(id=1, code="B1", name="nodding", body=BODIES[1]),
        ActionLabel(id=2, code="B2", name="shaking head", body=BODIES[1]),
    ],
)


def stored(*rows: tuple[float, float, float, int], duration_s: float = 20.0) -> StoredProposals:
    table = np.array(rows, np.float32).reshape(-1, 4)
    table = table[np.argsort(-table[:, 2], kind="stable")]
    media = Media(
        sha256="0" * 64, duration_s=duration_s, width=2, height=2, frames_decoded=9,
        average_fps=30, variable_frame_rate=False, rotation_deg=0,
    )  # fmt: skip
    model = ModelUsed(
        bundle="b", version="1", weights_sha256="0", engine="e", precision="fp32", trained_on=None
    )
    context = Context(
        job_id="j", media=media, model=model, settings=Options(region=None), partial=False, warnings=[],
        coverage=[Stretch(start_s=0, end_s=duration_s, status="analysed")], labels=LABELS, thresholds=[0.5, 0.6, 0.7],
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


def test_overlaps_are_mutual_and_touching_is_none() -> None:
    first, second, third, fourth = make_result(EXAMPLE, View()).detections
    assert first.overlaps == [second.id, third.id]
    assert second.overlaps == [first.id, third.id]
    assert third.overlaps == [first.id, second.id, fourth.id]
    assert fourth.overlaps == [third.id]  # it touches the second


def test_ids_are_the_same_in_every_view() -> None:
    few, all_ = make_result(EXAMPLE, View()), make_result(EXAMPLE, View(min_score=0))
    ids = {(one.action.code, one.start_s): one.id for one in all_.detections}
    assert all(ids[one.action.code, one.start_s] == one.id for one in few.detections)


def test_body_segments_merge_what_touches() -> None:
    result = make_result(EXAMPLE, View(min_score=0))
    found = [
        (one.body.code, one.start_s, one.end_s, one.score, len(one.actions)) for one in result.body_segments
    ]
    assert found == [
        ("B", 1, 5, 0.9, 3),
        ("A", 2.5, 6, 0.55, 1),
        ("B", 10, 12, 0.65, 1),
        ("A", 15, 16, 0.4, 1),
    ]


def test_summary_counts_time_once() -> None:
    rows = stored((0, 4, 0.9, 1), (2, 6, 0.9, 1), (5, 8, 0.9, 2), duration_s=30)
    summary = make_result(rows, View()).summary
    assert [(one.code, one.count, one.total_s, one.rate_per_min) for one in summary.by_action] == [
        ("B1", 2, 6, 4),
        ("B2", 1, 3, 2),
    ]
    assert [(one.code, one.count, one.total_s) for one in summary.by_body] == [("B", 1, 8)]
    assert summary.concurrency.max == 2
    assert [(one.count, one.total_s) for one in summary.concurrency.seconds] == [(0, 22), (1, 5), (2, 3)]
    assert summary.concurrency.mean == pytest.approx(11 / 30, abs=1e-3)


def test_nothing_found_is_an_answer() -> None:
    result = make_result(stored(), View())
    assert result.detections == []
    assert result.summary.concurrency.max == 0
    assert [(one.count, one.total_s) for one in result.summary.concurrency.seconds] == [(0, 20)]


def test_proposals_survive_the_round_trip() -> None:
    again = StoredProposals.from_bytes(EXAMPLE.to_bytes())
    assert make_result(again, View(min_score=0)) == make_result(EXAMPLE, View(min_score=0))


row = st.tuples(
    st.floats(0, 19, width=32), st.floats(0.0, 1, width=32), st.floats(0, 1, width=32), st.integers(0, 2)
)


@given(rows=st.lists(row, max_size=25), least=st.floats(0, 1), top=st.integers(1, 30))
def test_views_hold_together(rows: list[tuple[float, float, float, int]], least: float, top: int) -> None:
    proposals = stored(*((start, start + length, score, label) for start, length, score, label in rows))
    result = make_result(proposals, View(min_score=least, top_k=top))
    shown = {one.id: one for one in result.detections}
    assert (
        len(shown) == len(result.detections) == min(top, int((proposals.scores >= np.float32(least)).sum()))
    )
    for one in result.detections:
        assert one.end_s > one.start_s
        expected = {
            o.id
            for o in result.detections
            if o.id != one.id and o.start_s < one.end_s and one.start_s < o.end_s
        }
        assert set(one.overlaps) == expected
    members = [name for segment in result.body_segments for name in segment.actions]
    assert sorted(members) == sorted(shown)
    seconds = result.summary.concurrency.seconds
    assert sum(one.total_s for one in seconds) == pytest.approx(20, abs=0.02)
