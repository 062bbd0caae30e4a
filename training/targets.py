"""Which points a ground truth segment is learned at, and what is learned there (ActionFormer, section 3.3)."""

from typing import NamedTuple

import torch
from torch import Tensor

# Centre sampling: points this many strides from a segment's middle learn it.
RADIUS = 1.5
# Segments whose lengths differ by less than this many steps are learned together.
SIMILAR_STEPS = 1e-3
_FIRST_RANGE = 4
_ENDLESS = 10_000


class PointGrid(NamedTuple):
    """Of every point, all (points,): position in steps, least and most distance that it regresses, stride."""

    positions: Tensor
    least: Tensor
    most: Tensor
    strides: Tensor


class Targets(NamedTuple):
    """What the points of one window should say.

    Attributes:
        classes: (points, actions), 1 for each action learned at a point; several at once where they are similar.
        offsets: (points, 2), to start and end in strides; meaningless where no class is 1.
    """

    classes: Tensor
    offsets: Tensor


def make_grid(window_frames: int, strides: tuple[int, ...]) -> PointGrid:
    """All points of a window, finest level first.

    Level l regresses from 4 * 2^(l-1) to 4 * 2^l steps, the first from 0, the last without end.
    """
    parts = []
    for level, stride in enumerate(strides):
        positions = torch.arange(0, window_frames, stride, dtype=torch.float32)
        least = 0 if level == 0 else _FIRST_RANGE * 2 ** (level - 1)
        most = _ENDLESS if level == len(strides) - 1 else _FIRST_RANGE * 2**level
        parts.append(
            torch.stack([positions, *(torch.full_like(positions, x) for x in (least, most, stride))])
        )
    return PointGrid(*torch.cat(parts, dim=1))


def assign(grid: PointGrid, segments: Tensor, labels: Tensor, actions: int) -> Targets:
    """Targets of one window.

    A point learns the shortest segment that it lies in, near whose middle it is, and whose farther boundary is
    within its level's range; others as short as that are learned with it.

    Args:
        grid: the window's points.
        segments: (n, 2) ground truth in steps of the window.
        labels: (n,) action ids.
        actions: how many there are.
    """
    points = len(grid.positions)
    if not len(segments):
        return Targets(segments.new_zeros(points, actions), segments.new_zeros(points, 2))
    position, stride = grid.positions[:, None], grid.strides[:, None]
    start, end = segments[:, 0], segments[:, 1]
    offsets = torch.stack([position - start, end - position], dim=-1)  # (points, n, 2)
    middle = (start + end) / 2
    near_start = torch.maximum(middle - RADIUS * stride, start)
    near_end = torch.minimum(middle + RADIUS * stride, end)
    inside = (position > near_start) & (position < near_end)
    farther = offsets.amax(dim=-1)
    in_range = (farther >= grid.least[:, None]) & (farther <= grid.most[:, None])
    lengths = (end - start).expand(points, -1).masked_fill(~(inside & in_range), torch.inf)
    shortest, which = lengths.min(dim=1)
    learned = (lengths <= shortest[:, None] + SIMILAR_STEPS) & lengths.isfinite()
    one_hot = torch.nn.functional.one_hot(labels.long(), actions).to(segments.dtype)
    classes = (learned.to(segments.dtype) @ one_hot).clamp(max=1)
    chosen = offsets[torch.arange(points), which]
    return Targets(classes, chosen / stride)
