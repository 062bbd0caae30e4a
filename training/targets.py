"""Assignment of ground truth segments to points, and targets of the points (ActionFormer, section 3.3)."""

from typing import NamedTuple

import torch
from torch import Tensor

# Centre sampling: points within this number of strides of a segment's centre are positive.
RADIUS = 1.5
# Segments whose lengths differ by less than this number of steps are assigned to the same points.
SIMILAR_STEPS = 1e-3
_FIRST_RANGE = 4
_UNBOUNDED = 10_000


class PointGrid(NamedTuple):
    """Points of a window, all (points,): position in steps, minimum and maximum regression distance, stride."""

    positions: Tensor
    least: Tensor
    most: Tensor
    strides: Tensor


class Targets(NamedTuple):
    """Targets of the points of one window.

    Attributes:
        classes: (points, actions), 1 for the assigned actions; several if their segments have similar lengths.
        offsets: (points, 2), distances to start and end in strides; undefined at negative points.
    """

    classes: Tensor
    offsets: Tensor


def make_grid(window_frames: int, strides: tuple[int, ...]) -> PointGrid:
    """Return all points of a window, finest level first.

    Level l regresses distances from 4 * 2^(l-1) to 4 * 2^l steps; the first level from 0, the last to infinity.
    """
    parts = []
    for level, stride in enumerate(strides):
        positions = torch.arange(0, window_frames, stride, dtype=torch.float32)
        least = 0 if level == 0 else _FIRST_RANGE * 2 ** (level - 1)
        most = _UNBOUNDED if level == len(strides) - 1 else _FIRST_RANGE * 2**level
        parts.append(torch.stack([positions, *(torch.full_like(positions, x) for x in (least, most, stride))]))
    return PointGrid(*torch.cat(parts, dim=1))


def assign(grid: PointGrid, segments: Tensor, labels: Tensor, actions: int) -> Targets:
    """Assign ground truth to the points of one window.

    A point is assigned the shortest segment that contains it, whose centre is within RADIUS strides, and whose farther
    boundary is within the range of its level; and all such segments of equal length.

    Args:
        grid: the window's points.
        segments: (n, 2) ground truth in steps of the window.
        labels: (n,) action ids.
        actions: number of actions.
    """
    points = len(grid.positions)
    if not len(segments):
        return Targets(segments.new_zeros(points, actions), segments.new_zeros(points, 2))
    position, stride = grid.positions[:, None], grid.strides[:, None]
    start, end = segments[:, 0], segments[:, 1]
    offsets = torch.stack([position - start, end - position], dim=-1)  # (points, n, 2)
    centre = (start + end) / 2
    near_start = torch.maximum(centre - RADIUS * stride, start)
    near_end = torch.minimum(centre + RADIUS * stride, end)
    inside = (position > near_start) & (position < near_end)
    farther = offsets.amax(dim=-1)
    in_range = (farther >= grid.least[:, None]) & (farther <= grid.most[:, None])
    lengths = (end - start).expand(points, -1).masked_fill(~(inside & in_range), torch.inf)
    shortest, index = lengths.min(dim=1)
    assigned = (lengths <= shortest[:, None] + SIMILAR_STEPS) & lengths.isfinite()
    one_hot = torch.nn.functional.one_hot(labels.long(), actions).to(segments.dtype)
    classes = (assigned.to(segments.dtype) @ one_hot).clamp(max=1)
    distances = offsets[torch.arange(points), index]
    return Targets(classes, distances / stride)
