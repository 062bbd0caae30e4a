"""Detections from proposals: of one action no two overlap, and what several windows see is one."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.merging import merge_proposals

PART_S = 4.0
THRESHOLDS = np.array([0.5, 0.5], np.float32)

Row = tuple[float, float, float, int]


def merged(*rows: Row) -> list[Row]:
    """Start, end, score and action of the detections, in order of time."""
    table = np.array(rows, float).reshape(-1, 4)
    table = table[np.argsort(-table[:, 2], kind="stable")]
    scores, labels = table[:, 2].astype(np.float32), table[:, 3].astype(np.int64)
    index, times = merge_proposals(table[:, :2], scores, labels, THRESHOLDS, PART_S)
    assert (np.diff(index) > 0).all()  # best first
    return sorted((*times[place].tolist(), table[best, 2], labels[best]) for place, best in enumerate(index))


def test_what_is_found_again_is_left_out() -> None:
    assert merged((1, 3, 0.9, 0), (1.2, 3.4, 0.8, 0), (2.9, 4, 0.7, 0)) == [(1, 3, 0.9, 0)]
    assert merged((1, 3, 0.9, 0), (3, 4, 0.7, 0)) == [(1, 3, 0.9, 0), (3, 4, 0.7, 0)]  # touching is no overlap
    assert merged((1, 3, 0.9, 0), (2, 4, 0.8, 1)) == [(1, 3, 0.9, 0), (2, 4, 0.8, 1)]


def test_two_short_ones_stay_two_under_a_long_one() -> None:
    nods = [(1, 2, 0.8, 0), (3, 4, 0.7, 0)]
    assert merged(*nods, (0.5, 4.5, 0.6, 0)) == nods
    assert merged((1, 2, 0.8, 0), (6, 7, 0.7, 0), (0, 9, 0.6, 0)) == [(1, 2, 0.8, 0), (6, 7, 0.7, 0)]
    assert merged((0, 9, 0.9, 0), (1, 2, 0.8, 0), (6, 7, 0.7, 0)) == [(0, 9, 0.9, 0)]


def test_a_short_one_at_the_end_of_a_long_one_does_not_lengthen_it() -> None:
    assert merged((0, 9, 0.9, 0), (8, 11, 0.8, 0)) == [(0, 9, 0.9, 0)]
    assert merged((8, 11, 0.9, 0), (0, 9, 0.8, 0)) == [(8, 11, 0.9, 0)]


@pytest.mark.parametrize("scores", [(0.9, 0.8, 0.7), (0.7, 0.9, 0.8), (0.9, 0.7, 0.8), (0.3, 0.2, 0.25)])
def test_parts_that_windows_see_of_one_action_are_joined(scores: tuple[float, float, float]) -> None:
    rows = zip((0, 8, 14), (10, 16, 23), scores, (0, 0, 0), strict=True)
    assert merged(*rows) == [(0, 23, max(scores), 0)]


def test_a_chain_takes_in_what_lies_within_it() -> None:
    """The short one stands between two long ones, before the one that joins both is seen."""
    assert merged((0, 10, 0.9, 0), (11, 12, 0.85, 0), (13, 23, 0.8, 0), (9, 14, 0.7, 0)) == [(0, 23, 0.9, 0)]


def test_a_weak_one_does_not_make_one_of_two_strong_ones() -> None:
    strong = [(0, 6, 0.9, 0), (12, 18, 0.85, 0)]
    assert merged(*strong, (5.5, 12.5, 0.31, 0)) == strong
    assert merged(*strong, (5.5, 12.5, 0.43, 0)) == [(0, 18, 0.9, 0)]


def test_weak_ones_do_not_lengthen_strong_ones() -> None:
    assert merged((0, 10, 0.9, 0), (5, 16, 0.44, 0)) == [(0, 10, 0.9, 0)]
    assert merged((0, 10, 0.9, 0), (5, 16, 0.46, 0)) == [(0, 16, 0.9, 0)]  # half as good
    assert merged((0, 10, 1.0, 0), (5, 16, 0.5, 0)) == [(0, 16, 1.0, 0)]
    # Shown by default, though less than half as good.
    table = np.array([(0, 10), (5, 16)], float)
    found = merge_proposals(
        table, np.array([0.9, 0.35], np.float32), np.zeros(2, int), np.array([0.3], np.float32), PART_S
    )
    assert found[1].tolist() == [[0, 16]]


def test_nothing_is_merged_of_nothing() -> None:
    assert merged() == []


row = st.tuples(st.integers(0, 60), st.integers(1, 40), st.floats(0, 1, width=32), st.integers(0, 1)).map(
    lambda one: (one[0] / 2, (one[0] + one[1]) / 2, one[2], one[3])
)


@given(st.lists(row, max_size=40))
def test_detections_are_apart_and_every_proposal_belongs_to_one(rows: list[Row]) -> None:
    found = merged(*rows)
    for label in (0, 1):
        mine = [one for one in found if one[3] == label]
        assert all(one[1] <= other[0] for one, other in pairwise(mine))
        bounds = {bound for one in rows if one[3] == label for bound in one[:2]}
        assert {bound for one in mine for bound in one[:2]} <= bounds
        for start, end, score, _ in (one for one in rows if one[3] == label):
            assert any(one[0] < end and start < one[1] and one[2] >= np.float32(score) for one in mine)
