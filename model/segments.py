"""From points and offsets to proposals in seconds. No other file makes seconds out of steps."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from model.bundle import Calibration, Manifest

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Proposals:
    """Segments (n, 2) in seconds, scores (n,) in 0..1, labels (n,): action ids."""

    segments: Floats
    scores: Floats
    labels: Integers

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.segments.shape != (count, 2) or self.labels.shape != (count,):
            raise ValueError(
                f"{count} scores do not fit segments {self.segments.shape}, labels {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Booleans | Integers | slice) -> "Proposals":
        return Proposals(self.segments[index], self.scores[index], self.labels[index])

    @classmethod
    def empty(cls) -> Self:
        """No proposals."""
        return cls(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    @classmethod
    def join(cls, parts: "list[Proposals]") -> "Proposals":
        """All of the parts, in their order."""
        if not parts:
            return cls.empty()
        return Proposals(
            np.concatenate([part.segments for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )

    def by_score(self) -> "Proposals":
        """Best first; equal scores keep their order."""
        return self[np.argsort(-self.scores, kind="stable")]

    def clipped(self, start_s: float, end_s: float) -> "Proposals":
        """Cut to [start_s, end_s]; what has no length left is dropped."""
        segments = np.clip(self.segments, np.float32(start_s), np.float32(end_s))
        return Proposals(segments, self.scores, self.labels)[segments[:, 1] > segments[:, 0]]


def calibrate(scores: Floats, calibration: Calibration | None) -> Floats:
    """Scores as the bundle calibrates them; as they are without."""
    if calibration is None:
        return scores
    return np.interp(scores, calibration.scores, calibration.probabilities).astype(np.float32)


def to_seconds(frame: int, manifest: Manifest) -> float:
    """When a frame of the resampled video is shown, from the first frame."""
    return frame / manifest.input.fps


def point_grid(window_frames: int, strides: tuple[int, ...]) -> tuple[Integers, Integers]:
    """Position and stride, in steps of the window, of every point, finest level first: two (points,)."""
    positions = [np.arange(0, window_frames, stride) for stride in strides]
    return np.concatenate(positions), np.repeat(strides, [len(level) for level in positions])


def decode_points(
    logits: Floats, offsets: Floats, mask: Booleans, manifest: Manifest, start_frame: int
) -> Proposals:
    """The best candidates of one window, not yet suppressed.

    Args:
        logits: (points, actions), before the sigmoid.
        offsets: (points, 2), distance to start and end in strides of the point's level.
        mask: (window_frames,), True for steps that hold a frame.
        manifest: of the bundle: rate, strides and limits.
        start_frame: the window's first frame, counted from the video's first at the bundle's rate.
    """
    positions, strides = point_grid(manifest.input.window_frames, manifest.architecture.head.strides)
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    scores[~mask[positions]] = 0
    config = manifest.postprocessing
    point, label = _best(scores, config.candidate_score, config.candidates)
    # Offsets are in strides of their level: scale before adding.
    sides = offsets[point] * strides[point, None] * np.array([-1, 1])
    steps = positions[point, None] + sides
    segments = ((steps + start_frame) / manifest.input.fps).astype(np.float32)
    return Proposals(segments, scores[point, label].astype(np.float32), label)


def _best(scores: Floats, threshold: float, count: int) -> tuple[Integers, Integers]:
    """Rows and columns of the `count` highest scores above the threshold, best first."""
    flat = scores.ravel()
    above = np.flatnonzero(flat > threshold)
    order = above[np.argsort(-flat[above], kind="stable")[:count]]
    row, column = np.divmod(order, scores.shape[1])
    return row, column
