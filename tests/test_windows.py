"""Windows of frames, and their clips and masks."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.windows import Window, windows


def numbered_frames(count: int) -> list[np.ndarray]:
    return [np.full((1, 1, 3), index % 256, np.uint8) for index in range(count)]


@given(count=st.integers(1, 300), length=st.integers(2, 60), overlap=st.integers(0, 59))
def test_windows_cover_every_frame_and_overlap(count: int, length: int, overlap: int) -> None:
    overlap = min(overlap, length - 1)
    result = list(windows(iter(numbered_frames(count)), length, overlap))
    assert result[0].start_frame == 0
    assert result[-1].end_frame == count
    for window in result:
        expected = [index % 256 for index in range(window.start_frame, window.end_frame)]
        assert window.frames[:, 0, 0, 0].tolist() == expected
        assert len(expected) == min(length, count)
    for before, after in pairwise(result):
        assert before.start_frame < after.start_frame <= before.end_frame - overlap


def test_no_frames_give_no_window() -> None:
    assert list(windows(iter([]), 4, 2)) == []


def test_last_clip_repeats_the_last_frame() -> None:
    window = next(windows(iter(numbered_frames(5)), 8, 0))
    assert window.clips(4)[:, :, 0, 0, 0].tolist() == [[0, 1, 2, 3], [4, 4, 4, 4]]
    assert window.mask(8).tolist() == [True] * 5 + [False] * 3


def test_window_checks_shape() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4, 4\)"):
        Window(0, np.zeros((3, 4, 4), np.uint8))
