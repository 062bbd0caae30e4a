"""Decode the network's points and offsets to proposals in seconds."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from model.arrays import Booleans, Floats, Integers
from model.bundle import Calibration, Manifest


@dataclass(frozen=True)
class Proposals:
    """Segments (n, 2) in seconds, scores (n,) in 0..1, and labels (n,), which are action ids."""

    segments: Floats
    scores: Floats
    labels: Integers

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.segments.shape != (count, 2) or self.labels.shape != (count,):
            raise ValueError(f"{count} scores do not fit segments {self.segments.shape}, labels {self.labels.shape}")

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Booleans | Integers | slice) -> "Proposals":
        return Proposals(self.segments[index], self.scores[index], self.labels[index])

    @classmethod
    def empty(cls) -> Self:
        """Return zero proposals."""
        return cls(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    @classmethod
    def join(cls, parts: "list[Proposals]") -> "Proposals":
        """Concatenate proposals in the given order."""
        columns = zip(*((part.segments, part.scores, part.labels) for part in (cls.empty(), *parts)), strict=True)
        return Proposals(*(np.concatenate(column) for column in columns))

    def by_score(self) -> "Proposals":
        """Sort by score, highest first; the sort is stable."""
        return self[np.argsort(-self.scores, kind="stable")]

    def clipped(self, start_s: float, end_s: float) -> "Proposals":
        """Clip segments to [start_s, end_s] and drop empty ones."""
        segments = np.clip(self.segments, np.float32(start_s), np.float32(end_s))
        return Proposals(segments, self.scores, self.labels)[segments[:, 1] > segments[:, 0]]


def calibrate(scores: Floats, calibration: Calibration | None) -> Floats:
    """Return calibrated scores, or the scores themselves without a calibration."""
    if calibration is None:
        return scores
    return np.interp(scores, calibration.scores, calibration.probabilities).astype(np.float32)


def point_grid(window_frames: int, strides: tuple[int, ...]) -> tuple[Integers, Integers]:
    """Return position and stride (points,) of every point, in steps of the window, finest level first."""
    positions = [np.arange(0, window_frames, stride) for stride in strides]
    return np.concatenate(positions), np.repeat(strides, [len(level) for level in positions])


def decode_points(logits: Floats, offsets: Floats, mask: Booleans, manifest: Manifest, start_frame: int) -> Proposals:
    """Decode the candidates of one window with the highest scores, before NMS; see RawPoints and Engine.run.

    The window's first frame is `start_frame` of the resampled video.
    """
    positions, strides = point_grid(manifest.input.window_frames, manifest.architecture.head.strides)
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    scores[~mask[positions]] = 0
    config = manifest.postprocessing
    flat = scores.ravel()
    above = np.flatnonzero(flat > config.candidate_score)
    best = above[np.argsort(-flat[above], kind="stable")[: config.candidates]]
    point, label = np.divmod(best, scores.shape[1])
    # Offsets are in strides of their level: scale before adding.
    steps = positions[point, None] + offsets[point] * strides[point, None] * np.array([-1, 1])
    segments = ((steps + start_frame) / manifest.input.fps).astype(np.float32)
    return Proposals(segments, flat[best], label)
