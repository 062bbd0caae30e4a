"""Targets of points (ActionFormer, section 3.3) and losses: sigmoid focal loss of classes, DIoU loss of boundaries."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.head import Points

# Centre sampling: points within this number of strides of a segment's centre are positive.
RADIUS = 1.5
# Segments whose lengths differ by less than this number of steps are assigned to the same points.
SIMILAR_STEPS = 1e-3
_FIRST_RANGE = 4
_UNBOUNDED = 10_000
_FOCAL_ALPHA, _FOCAL_GAMMA = 0.25, 2.0
_INITIAL_NORMALIZER, _MOMENTUM = 100.0, 0.9


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


class Losses(NamedTuple):
    """Class and boundary losses; their sum is minimised."""

    classes: Tensor
    boundaries: Tensor

    @property
    def total(self) -> Tensor:
        """Sum of both losses."""
        return self.classes + self.boundaries


def make_grid(window_frames: int, strides: tuple[int, ...]) -> PointGrid:
    """Return the points of a window, finest level first; level l regresses 4 * 2^(l-1) to 4 * 2^l steps."""
    parts = []
    for level, stride in enumerate(strides):
        positions = torch.arange(0, window_frames, stride, dtype=torch.float32)
        least = 0 if level == 0 else _FIRST_RANGE * 2 ** (level - 1)
        most = _UNBOUNDED if level == len(strides) - 1 else _FIRST_RANGE * 2**level
        parts.append(torch.stack([positions, *(torch.full_like(positions, x) for x in (least, most, stride))]))
    return PointGrid(*torch.cat(parts, dim=1))


def assign(grid: PointGrid, segments: Tensor, labels: Tensor, actions: int) -> Targets:
    """Assign segments (n, 2) in steps and labels (n,) to the points of one window.

    A point is assigned the shortest segment that contains it, whose centre is within RADIUS strides, and whose farther
    boundary is within the range of its level; and all such segments of equal length.
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
    one_hot = F.one_hot(labels.long(), actions).to(segments.dtype)
    classes = (assigned.to(segments.dtype) @ one_hot).clamp(max=1)
    return Targets(classes, offsets[torch.arange(points), index] / stride)


def make_point_mask(mask: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Return (B, points): which points lie on a frame of the video. `mask` (B, window) says the same of steps."""
    return torch.cat([mask[:, ::stride] for stride in strides], dim=1)


def sigmoid_focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the element-wise focal loss (Lin et al., equation 5)."""
    probability = logits.sigmoid()
    correct = probability * targets + (1 - probability) * (1 - targets)
    weight = _FOCAL_ALPHA * targets + (1 - _FOCAL_ALPHA) * (1 - targets)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return weight * (1 - correct) ** _FOCAL_GAMMA * entropy


def diou_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return 1 - tIoU + (distance of centres / hull)^2 of segments (n, 2) (Zheng et al., AAAI 2020, equation 7)."""
    shared = torch.minimum(predicted[:, 1], truth[:, 1]) - torch.maximum(predicted[:, 0], truth[:, 0])
    shared = shared.clamp(min=0)
    union = (predicted[:, 1] - predicted[:, 0]) + (truth[:, 1] - truth[:, 0]) - shared
    span = torch.maximum(predicted[:, 1], truth[:, 1]) - torch.minimum(predicted[:, 0], truth[:, 0])
    distance = (predicted.sum(dim=1) - truth.sum(dim=1)) / 2
    tiny = torch.finfo(predicted.dtype).tiny
    return 1 - shared / union.clamp(min=tiny) + (distance / span.clamp(min=tiny)) ** 2


class DetectionLoss(nn.Module):
    """Losses divided by the number of positive points, in training by its moving average (ActionFormer, 3.3)."""

    normalizer: Tensor
    strides: Tensor
    positions: Tensor

    def __init__(self, grid: PointGrid) -> None:
        super().__init__()
        self.register_buffer("normalizer", torch.tensor(_INITIAL_NORMALIZER))
        self.register_buffer("strides", grid.strides[:, None], persistent=False)
        self.register_buffer("positions", grid.positions[:, None], persistent=False)

    def forward(self, points: Points, valid: Tensor, targets: Targets) -> Losses:
        """Compute the losses of a batch of points; `valid` (B, points) is True for points on a frame of the video."""
        positive = (targets.classes.sum(dim=-1) > 0) & valid
        count = max(int(positive.sum()), 1)
        if self.training:
            self.normalizer.mul_(_MOMENTUM).add_((1 - _MOMENTUM) * count)
        divisor = self.normalizer.clone() if self.training else torch.tensor(float(count))
        class_loss = sigmoid_focal_loss(points.logits[valid], targets.classes[valid]).sum() / divisor
        predicted, truth = (self._segments(offsets)[positive] for offsets in (points.offsets, targets.offsets))
        return Losses(class_loss, diou_loss(predicted, truth).sum() / divisor)

    def _segments(self, offsets: Tensor) -> Tensor:
        """Convert offsets (B, points, 2) in strides to segments in steps of the window."""
        return self.positions + offsets * self.strides * offsets.new_tensor([-1.0, 1.0])
