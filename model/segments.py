"""Decode the network's points and offsets to proposals in seconds. Only this module converts steps to seconds."""

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
        if not parts:
            return cls.empty()
        return Proposals(
            np.concatenate([part.segments for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )

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


def to_seconds(frame: int, manifest: Manifest) -> float:
    """Return the time of a frame of the resampled video, in seconds since the first frame."""
    return frame / manifest.input.fps


def point_grid(window_frames: int, strides: tuple[int, ...]) -> tuple[Integers, Integers]:
    """Return position and stride (points,) of every point, in steps of the window, finest level first."""
    positions = [np.arange(0, window_frames, stride) for stride in strides]
    return np.concatenate(positions), np.repeat(strides, [len(level) for level in positions])


def decode_points(logits: Floats, offsets: Floats, mask: Booleans, manifest: Manifest, start_frame: int) -> Proposals:
    """Decode the candidates of one window with the highest scores, before NMS.

    Args:
        logits: (points, actions), before the sigmoid.
        offsets: (points, 2), distance to start and end in strides of the point's level.
        mask: (window_frames,), True for steps that have a frame.
        manifest: the bundle's manifest, for frame rate, strides, and limits of candidates.
        start_frame: index of the window's first frame in the resampled video.
    """
    positions, strides = point_grid(manifest.input.window_frames, manifest.architecture.head.strides)
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    scores[~mask[positions]] = 0
    config = manifest.postprocessing
    point, label = _find_best(scores, config.candidate_score, config.candidates)
    # Offsets are in strides of their level: scale before adding.
    distances = offsets[point] * strides[point, None] * np.array([-1, 1])
    steps = positions[point, None] + distances
    segments = ((steps + start_frame) / manifest.input.fps).astype(np.float32)
    return Proposals(segments, scores[point, label].astype(np.float32), label)


def _find_best(scores: Floats, threshold: float, count: int) -> tuple[Integers, Integers]:
    """Return rows and columns of the `count` highest scores above the threshold, highest first."""
    flat = scores.ravel()
    above = np.flatnonzero(flat > threshold)
    order = above[np.argsort(-flat[above], kind="stable")[:count]]
    row, column = np.divmod(order, scores.shape[1])
    return row, column
