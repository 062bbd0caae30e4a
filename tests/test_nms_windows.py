"""Merging the proposals of overlapping windows."""

from hypothesis import given
from hypothesis import strategies as st

from model.nms import WindowOverlap, merge_windows
from model.segments import Proposals
from tests.test_nms import proposals

OVERLAP = WindowOverlap(8.0, 12.0)


def rows(merged: Proposals) -> list[tuple[float, float, float, int]]:
    return sorted(
        (*map(float, segment), round(float(score), 3), int(label))
        for segment, score, label in zip(merged.segments, merged.scores, merged.labels, strict=True)
    )


def test_action_in_both_windows_has_higher_score() -> None:
    merged = merge_windows(proposals((9, 11, 0.6, 1)), proposals((9.1, 11.2, 0.8, 1)), OVERLAP)
    assert len(merged) == 1
    assert merged.scores[0] == proposals((0, 1, 0.8, 1)).scores[0]
    assert merged.segments[0].tolist() == proposals((9.1, 11.2, 0.8, 1)).segments[0].tolist()


def test_action_cut_by_both_windows_is_joined() -> None:
    assert rows(merge_windows(proposals((3, 12, 0.9, 1)), proposals((8, 17, 0.7, 1)), OVERLAP)) == [(3, 17, 0.9, 1)]
    assert rows(merge_windows(proposals((3, 12, 0.7, 1)), proposals((8, 17, 0.9, 1)), OVERLAP)) == [(3, 17, 0.9, 1)]


def test_cut_boundary_is_taken_from_other_window() -> None:
    assert rows(merge_windows(proposals((10, 12, 0.9, 1)), proposals((10, 15, 0.5, 1)), OVERLAP)) == [(10, 15, 0.9, 1)]
    assert rows(merge_windows(proposals((5, 10, 0.5, 1)), proposals((8, 10, 0.9, 1)), OVERLAP)) == [(5, 10, 0.9, 1)]


def test_uncut_boundary_is_unchanged() -> None:
    assert rows(merge_windows(proposals((2, 12, 0.05, 1)), proposals((9, 14, 0.9, 1)), OVERLAP)) == [(9, 14, 0.9, 1)]
    assert rows(merge_windows(proposals((9, 11, 0.9, 1)), proposals((8.5, 20, 0.01, 1)), OVERLAP)) == [(9, 11, 0.9, 1)]


def test_best_longer_duplicate_gives_boundary() -> None:
    earlier = proposals((3, 12, 0.5, 1), (8.5, 12, 0.6, 1), (2, 12, 0.4, 1))
    assert rows(merge_windows(earlier, proposals((8, 17, 0.9, 1)), OVERLAP)) == [(3, 17, 0.9, 1)]


def test_action_that_barely_enters_overlap_appears_once() -> None:
    merged = merge_windows(proposals((11.5, 12, 0.5, 1)), proposals((11.75, 20, 0.9, 1)), OVERLAP)
    assert rows(merged) == [(11.75, 20, 0.9, 1)]
    merged = merge_windows(proposals((11.5, 12, 0.9, 1)), proposals((11.75, 20, 0.5, 1)), OVERLAP)
    assert rows(merged) == [(11.5, 20, 0.9, 1)]
    merged = merge_windows(proposals((2, 8.5, 0.9, 1)), proposals((8, 8.25, 0.5, 1)), OVERLAP)
    assert rows(merged) == [(2, 8.5, 0.9, 1)]


def test_all_duplicates_are_removed() -> None:
    later = proposals((9, 11, 0.5, 1), (9, 11.1, 0.4, 1), (8.9, 11, 0.3, 1))
    assert rows(merge_windows(proposals((9, 11, 0.9, 1)), later, OVERLAP)) == [(9, 11, 0.9, 1)]


def test_action_longer_than_windows_is_joined() -> None:
    merged = proposals((2, 12, 0.9, 1))
    merged = merge_windows(merged, proposals((8, 20, 0.8, 1)), WindowOverlap(8, 12))
    merged = merge_windows(merged, proposals((16, 23, 0.95, 1)), WindowOverlap(16, 20))
    assert rows(merged) == [(2, 23, 0.95, 1)]


def test_different_actions_and_times_are_not_merged() -> None:
    earlier = proposals((9, 11, 0.9, 1), (2, 5, 0.8, 2), (9, 9.5, 0.7, 3))
    later = proposals((9, 11, 0.6, 4), (14, 16, 0.5, 2), (11, 11.9, 0.4, 3))
    assert len(merge_windows(earlier, later, OVERLAP)) == 6


def test_proposals_of_one_window_do_not_suppress_each_other() -> None:
    duplicates = proposals((9, 11, 0.9, 1), (9, 11, 0.3, 1))
    assert len(merge_windows(duplicates, Proposals.empty(), OVERLAP)) == 2
    assert len(merge_windows(Proposals.empty(), duplicates, OVERLAP)) == 2


window_proposals = st.lists(
    st.tuples(st.floats(0, 20, width=32), st.floats(0.25, 10, width=32), st.floats(0, 1, width=32), st.integers(0, 2)),
    max_size=12,
)


@given(window_proposals, window_proposals)
def test_merging_changes_nothing_outside_overlap(first: list, second: list) -> None:
    earlier = proposals(*((start, start + length, score, label) for start, length, score, label in first)).clipped(
        0, 12
    )
    later = proposals(*((start, start + length, score, label) for start, length, score, label in second)).clipped(8, 99)
    merged = merge_windows(earlier, later, OVERLAP)
    assert len(merged) <= len(earlier) + len(later)
    everything = set(rows(earlier)) | set(rows(later))
    outside = [row for row in everything if row[1] <= 8 or row[0] >= 12]
    assert set(outside) <= set(rows(merged))
    for row in rows(merged):
        assert any(row[0] == other[0] for other in everything)
        assert any(row[1] == other[1] for other in everything)
