"""Merging proposals into detections that do not overlap per action."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.merging import merge_proposals

JOIN_S = 4.0
THRESHOLDS = np.array([0.5, 0.5], np.float32)

Row = tuple[float, float, float, int]


def merged(*rows: Row) -> list[Row]:
    """Return (start, end, score, action) of the detections in order of time."""
    table = np.array(rows, float).reshape(-1, 4)
    table = table[np.argsort(-table[:, 2], kind="stable")]
    scores, labels = table[:, 2].astype(np.float32), table[:, 3].astype(np.int64)
    index, times = merge_proposals(table[:, :2], scores, labels, THRESHOLDS, JOIN_S)
    assert (np.diff(index) > 0).all()  # best first
    return sorted((*times[rank].tolist(), table[best, 2], labels[best]) for rank, best in enumerate(index))


def test_overlapping_proposals_of_same_action_are_suppressed() -> None:
    assert merged((1, 3, 0.9, 0), (1.2, 3.4, 0.8, 0), (2.9, 4, 0.7, 0)) == [(1, 3, 0.9, 0)]
    assert merged((1, 3, 0.9, 0), (3, 4, 0.7, 0)) == [(1, 3, 0.9, 0), (3, 4, 0.7, 0)]  # touching is no overlap
    assert merged((1, 3, 0.9, 0), (2, 4, 0.8, 1)) == [(1, 3, 0.9, 0), (2, 4, 0.8, 1)]


def test_long_weak_proposal_does_not_merge_short_detections() -> None:
    nods = [(1, 2, 0.8, 0), (3, 4, 0.7, 0)]
    assert merged(*nods, (0.5, 4.5, 0.6, 0)) == nods
    assert merged((1, 2, 0.8, 0), (6, 7, 0.7, 0), (0, 9, 0.6, 0)) == [(1, 2, 0.8, 0), (6, 7, 0.7, 0)]
    assert merged((0, 9, 0.9, 0), (1, 2, 0.8, 0), (6, 7, 0.7, 0)) == [(0, 9, 0.9, 0)]


def test_short_proposal_at_the_end_does_not_extend_detection() -> None:
    assert merged((0, 9, 0.9, 0), (8, 11, 0.8, 0)) == [(0, 9, 0.9, 0)]
    assert merged((8, 11, 0.9, 0), (0, 9, 0.8, 0)) == [(8, 11, 0.9, 0)]


@pytest.mark.parametrize("scores", [(0.9, 0.8, 0.7), (0.7, 0.9, 0.8), (0.9, 0.7, 0.8), (0.3, 0.2, 0.25)])
def test_parts_of_long_action_are_joined(scores: tuple[float, float, float]) -> None:
    rows = zip((0, 8, 14), (10, 16, 23), scores, (0, 0, 0), strict=True)
    assert merged(*rows) == [(0, 23, max(scores), 0)]


def test_joined_detection_absorbs_contained_proposals() -> None:
    """A short proposal lies between two long ones that a weaker one joins."""
    assert merged((0, 10, 0.9, 0), (11, 12, 0.85, 0), (13, 23, 0.8, 0), (9, 14, 0.7, 0)) == [(0, 23, 0.9, 0)]


def test_weak_proposal_does_not_join_strong_detections() -> None:
    strong = [(0, 6, 0.9, 0), (12, 18, 0.85, 0)]
    assert merged(*strong, (5.5, 12.5, 0.31, 0)) == strong
    assert merged(*strong, (5.5, 12.5, 0.43, 0)) == [(0, 18, 0.9, 0)]


def test_weak_proposal_does_not_extend_strong_detection() -> None:
    assert merged((0, 10, 0.9, 0), (5, 16, 0.44, 0)) == [(0, 10, 0.9, 0)]
    assert merged((0, 10, 0.9, 0), (5, 16, 0.46, 0)) == [(0, 16, 0.9, 0)]  # half the score
    assert merged((0, 10, 1.0, 0), (5, 16, 0.5, 0)) == [(0, 16, 1.0, 0)]
    # Above its threshold, though less than half the score.
    table = np.array([(0, 10), (5, 16)], float)
    _, times = merge_proposals(
        table, np.array([0.9, 0.35], np.float32), np.zeros(2, int), np.array([0.3], np.float32), JOIN_S
    )
    assert times.tolist() == [[0, 16]]


def test_no_proposals_give_no_detections() -> None:
    assert merged() == []


random_row = st.tuples(st.integers(0, 60), st.integers(1, 40), st.floats(0, 1, width=32), st.integers(0, 1)).map(
    lambda row: (row[0] / 2, (row[0] + row[1]) / 2, row[2], row[3])
)


@given(st.lists(random_row, max_size=40))
def test_detections_do_not_overlap_and_cover_all_proposals(rows: list[Row]) -> None:
    detections = merged(*rows)
    for label in (0, 1):
        own = [detection for detection in detections if detection[3] == label]
        assert all(first[1] <= second[0] for first, second in pairwise(own))
        bounds = {bound for row in rows if row[3] == label for bound in row[:2]}
        assert {bound for detection in own for bound in detection[:2]} <= bounds
        for start, end, score, _ in (row for row in rows if row[3] == label):
            assert any(first < end and start < last and best >= np.float32(score) for first, last, best, _ in own)
