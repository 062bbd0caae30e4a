"""Frames to windows to clips: integers only, no pictures are looked at.

frames   0 1 2 3 4 5 6 7 8 9 ...
windows  |-------|                  window_frames = 4, overlap_frames = 2
             |-------|
                 |-------|          the last one is moved back to end with the video
clips    |---|---|                  of clip_frames; the last frame is repeated to fill the last clip
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class Window:
    """Frames (n, height, width, 3) uint8 from `start_frame` on, n at most the window's length."""

    start_frame: int
    frames: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[-1] != 3 or not len(self.frames):
            raise ValueError(
                f"a window is (frames, height, width, 3) with a frame or more, not {self.frames.shape}"
            )

    @property
    def end_frame(self) -> int:
        """One past the last frame."""
        return self.start_frame + len(self.frames)

    def clips(self, clip_frames: int) -> NDArray[np.uint8]:
        """(clips, clip_frames, height, width, 3); the last frame is repeated until the last clip is full."""
        missing = -len(self.frames) % clip_frames
        padded = np.concatenate([self.frames, np.repeat(self.frames[-1:], missing, axis=0)])
        return padded.reshape(-1, clip_frames, *padded.shape[1:])

    def mask(self, window_frames: int) -> NDArray[np.bool_]:
        """(window_frames,) bool, True where there is a frame."""
        return np.arange(window_frames) < len(self.frames)


def windows(frames: Iterable[Frame], window_frames: int, overlap_frames: int) -> Iterator[Window]:
    """Cut a stream of frames into overlapping windows; see runs."""
    for start_frame, held in runs(frames, window_frames, overlap_frames):
        yield Window(start_frame, np.stack(held))


def runs(
    frames: Iterable[Frame], window_frames: int, overlap_frames: int
) -> Iterator[tuple[int, list[Frame]]]:
    """Windows as the number of their first frame and the frames themselves; one window of them is held in memory.

    A video shorter than a window makes one short window; a longer one only full windows, the last of which
    overlaps the one before by as much as is needed to end with the video.
    """
    held: deque[Frame] = deque(maxlen=window_frames)
    next_end, last_end, total = window_frames, 0, 0
    for frame in frames:
        held.append(frame)
        total += 1
        if total == next_end:
            yield total - window_frames, list(held)
            last_end, next_end = total, total + window_frames - overlap_frames
    if total > last_end:
        yield total - len(held), list(held)
