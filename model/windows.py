"""Split the frames of a video into windows, and windows into clips.

frames   0 1 2 3 4 5 6 7 8 9 ...
windows  |-------|                  window_frames = 4, overlap_frames = 2
             |-------|
                 |-------|          the last window is moved back to end with the video
clips    |---|---|                  clip_frames each; the last frame is repeated to fill the last clip
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from model.arrays import Booleans, Frame, Images


@dataclass(frozen=True)
class Window:
    """Consecutive frames (n, height, width, 3) uint8 from `start_frame` on; n is at most the window's length."""

    start_frame: int
    frames: Images

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[-1] != 3 or not len(self.frames):
            raise ValueError(f"a window is (frames, height, width, 3) with a frame or more, not {self.frames.shape}")

    @property
    def end_frame(self) -> int:
        """Index of the last frame plus one."""
        return self.start_frame + len(self.frames)

    def clips(self, clip_frames: int) -> Images:
        """Return clips (clips, clip_frames, height, width, 3); the last frame is repeated to fill the last clip."""
        missing = -len(self.frames) % clip_frames
        padded = np.concatenate([self.frames, np.repeat(self.frames[-1:], missing, axis=0)])
        return padded.reshape(-1, clip_frames, *padded.shape[1:])

    def mask(self, window_frames: int) -> Booleans:
        """Return a mask (window_frames,) bool, True for steps that have a frame."""
        return np.arange(window_frames) < len(self.frames)


def windows(frames: Iterable[Frame], window_frames: int, overlap_frames: int) -> Iterator[Window]:
    """Split a stream of frames into overlapping windows; see split_frames."""
    for start_frame, window in split_frames(frames, window_frames, overlap_frames):
        yield Window(start_frame, np.stack(window))


def split_frames(frames: Iterable[Frame], window_frames: int, overlap_frames: int) -> Iterator[tuple[int, list[Frame]]]:
    """Yield the index of the first frame and the frames of each window.

    Only a video that is shorter than a window yields a short window.
    """
    latest: deque[Frame] = deque(maxlen=window_frames)
    next_end, last_end, total = window_frames, 0, 0
    for frame in frames:
        latest.append(frame)
        total += 1
        if total == next_end:
            yield total - window_frames, list(latest)
            last_end, next_end = total, total + window_frames - overlap_frames
    if total > last_end:
        yield total - len(latest), list(latest)
