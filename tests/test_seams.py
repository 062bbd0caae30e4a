"""Proposals of overlapping windows: each action once."""

from hypothesis import given
from hypothesis import strategies as st

from model.seams import Seam, join_at_seam
from model.segments import Proposals
from tests.test_nms import proposals

SEAM = Seam(8.0, 12.0)


def rows(found: Proposals) -> list[tuple[float, float, float, int]]:
    return sorted(
        (*map(float, segment), round(float(score), 3), int(label))
        for segment, score, label in zip(found.segments, found.scores, found.labels, strict=True)
    )


def test_seen_whole_by_both_is_found_once_with_the_better_score() -> None:
    found = join_at_seam(proposals((9, 11, 0.6, 1)), proposals((9.1, 11.2, 0.8, 1)), SEAM)
    assert len(found) == 1
    assert found.scores[0] == proposals((0, 1, 0.8, 1)).scores[0]
    assert found.segments[0].tolist() == proposals((9.1, 11.2, 0.8, 1)).segments[0].tolist()


def test_cut_by_both_windows_is_joined() -> None:
    assert rows(join_at_seam(proposals((3, 12, 0.9, 1)), proposals((8, 17, 0.7, 1)), SEAM)) == [
        (3, 17, 0.9, 1)
    ]
    assert rows(join_at_seam(proposals((3, 12, 0.7, 1)), proposals((8, 17, 0.9, 1)), SEAM)) == [
        (3, 17, 0.9, 1)
    ]


def test_cut_by_one_window_takes_the_end_from_the_other() -> None:
    assert rows(join_at_seam(proposals((10, 12, 0.9, 1)), proposals((10, 15, 0.5, 1)), SEAM)) == [
        (10, 15, 0.9, 1)
    ]
    assert rows(join_at_seam(proposals((5, 10, 0.5, 1)), proposals((8, 10, 0.9, 1)), SEAM)) == [
        (5, 10, 0.9, 1)
    ]


def test_a_weak_twin_does_not_move_a_boundary_that_was_seen() -> None:
    assert rows(join_at_seam(proposals((2, 12, 0.05, 1)), proposals((9, 14, 0.9, 1)), SEAM)) == [
        (9, 14, 0.9, 1)
    ]
    assert rows(join_at_seam(proposals((9, 11, 0.9, 1)), proposals((8.5, 20, 0.01, 1)), SEAM)) == [
        (9, 11, 0.9, 1)
    ]


def test_the_best_twin_that_goes_on_gives_the_boundary() -> None:
    earlier = proposals((3, 12, 0.5, 1), (8.5, 12, 0.6, 1), (2, 12, 0.4, 1))
    assert rows(join_at_seam(earlier, proposals((8, 17, 0.9, 1)), SEAM)) == [(3, 17, 0.9, 1)]


def test_an_action_that_only_just_enters_the_seam_is_found_once() -> None:
    found = join_at_seam(proposals((11.5, 12, 0.5, 1)), proposals((11.75, 20, 0.9, 1)), SEAM)
    assert rows(found) == [(11.75, 20, 0.9, 1)]
    found = join_at_seam(proposals((11.5, 12, 0.9, 1)), proposals((11.75, 20, 0.5, 1)), SEAM)
    assert rows(found) == [(11.5, 20, 0.9, 1)]
    found = join_at_seam(proposals((2, 8.5, 0.9, 1)), proposals((8, 8.25, 0.5, 1)), SEAM)
    assert rows(found) == [(2, 8.5, 0.9, 1)]


def test_all_twins_go() -> None:
    later = proposals((9, 11, 0.5, 1), (9, 11.1, 0.4, 1), (8.9, 11, 0.3, 1))
    assert rows(join_at_seam(proposals((9, 11, 0.9, 1)), later, SEAM)) == [(9, 11, 0.9, 1)]


def test_an_action_longer_than_windows_is_joined_over_many() -> None:
    found = proposals((2, 12, 0.9, 1))
    found = join_at_seam(found, proposals((8, 20, 0.8, 1)), Seam(8, 12))
    found = join_at_seam(found, proposals((16, 23, 0.95, 1)), Seam(16, 20))
    assert rows(found) == [(2, 23, 0.95, 1)]


def test_different_actions_and_different_places_stay_apart() -> None:
    earlier = proposals((9, 11, 0.9, 1), (2, 5, 0.8, 2), (9, 9.5, 0.7, 3))
    later = proposals((9, 11, 0.6, 4), (14, 16, 0.5, 2), (11, 11.9, 0.4, 3))
    assert len(join_at_seam(earlier, later, SEAM)) == 6


def test_one_window_does_not_suppress_itself() -> None:
    twins = proposals((9, 11, 0.9, 1), (9, 11, 0.3, 1))
    assert len(join_at_seam(twins, Proposals.empty(), SEAM)) == 2
    assert len(join_at_seam(Proposals.empty(), twins, SEAM)) == 2


seen = st.lists(
    st.tuples(
        st.floats(0, 20, width=32),
        st.floats(0.25, 10, width=32),
        st.floats(0, 1, width=32),
        st.integers(0, 2),
    ),
    max_size=12,
)


@given(seen, seen)
def test_joining_adds_nothing_and_keeps_what_lies_outside_the_seam(first: list, second: list) -> None:
    earlier = proposals(
        *((start, start + length, score, label) for start, length, score, label in first)
    ).clipped(0, 12)
    later = proposals(
        *((start, start + length, score, label) for start, length, score, label in second)
    ).clipped(8, 99)
    found = join_at_seam(earlier, later, SEAM)
    assert len(found) <= len(earlier) + len(later)
    everything = set(rows(earlier)) | set(rows(later))
    outside = [row for row in everything if row[1] <= 8 or row[0] >= 12]
    assert set(outside) <= set(rows(found))
    for row in rows(found):
        assert any(row[0] == other[0] for other in everything)
        assert any(row[1] == other[1] for other in everything)
