"""Losses of the detector: sigmoid focal loss of classes, DIoU loss of boundaries."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.head import Points
from training.targets import PointGrid, Targets


class Losses(NamedTuple):
    """Weighted class and boundary losses."""

    classes: Tensor
    boundaries: Tensor

    @property
    def total(self) -> Tensor:
        """Sum of both losses, which is minimised."""
        return self.classes + self.boundaries


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the element-wise focal loss (Lin et al., equation 5)."""
    probability = logits.sigmoid()
    correct = probability * targets + (1 - probability) * (1 - targets)
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return weight * (1 - correct) ** gamma * entropy


def diou_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return 1 - tIoU + (distance of centres / length of the hull)^2, (n,), of segments (n, 2) in any unit.

    Zheng et al., AAAI 2020, equation 7.
    """
    shared = torch.minimum(predicted[:, 1], truth[:, 1]) - torch.maximum(predicted[:, 0], truth[:, 0])
    shared = shared.clamp(min=0)
    union = (predicted[:, 1] - predicted[:, 0]) + (truth[:, 1] - truth[:, 0]) - shared
    span = torch.maximum(predicted[:, 1], truth[:, 1]) - torch.minimum(predicted[:, 0], truth[:, 0])
    distance = (predicted.sum(dim=1) - truth.sum(dim=1)) / 2
    tiny = torch.finfo(predicted.dtype).tiny
    return 1 - shared / union.clamp(min=tiny) + (distance / span.clamp(min=tiny)) ** 2


class DetectionLoss(nn.Module):
    """Class and boundary losses, divided by the number of positive points.

    In training the divisor is a moving average, so that batches with few actions do not get a large weight
    (ActionFormer, section 3.3). In evaluation it is the number of the batch.

    Args:
        grid: the points of a window.
        normalizer: initial value of the moving average.
        momentum: of the moving average.
        label_smoothing: probability that is moved from the true class to all classes.
        boundary_weight: weight of the boundary loss; 0 scales it to the class loss.
    """

    normalizer: Tensor
    strides: Tensor
    positions: Tensor

    def __init__(
        self,
        grid: PointGrid,
        *,
        normalizer: float = 100.0,
        momentum: float = 0.9,
        label_smoothing: float = 0.0,
        boundary_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.momentum, self.label_smoothing, self.boundary_weight = momentum, label_smoothing, boundary_weight
        self.register_buffer("normalizer", torch.tensor(normalizer))
        self.register_buffer("strides", grid.strides[:, None], persistent=False)
        self.register_buffer("positions", grid.positions[:, None], persistent=False)

    def forward(self, points: Points, valid: Tensor, targets: Targets) -> Losses:
        """Compute the losses of a batch.

        Args:
            points: output of the network, (B, points, ...).
            valid: (B, points) bool, True for points on a frame of the video.
            targets: classes (B, points, actions) and offsets (B, points, 2).
        """
        positive = (targets.classes.sum(dim=-1) > 0) & valid
        count = max(int(positive.sum()), 1)
        if self.training:
            self.normalizer.mul_(self.momentum).add_((1 - self.momentum) * count)
        divisor = self.normalizer.clone() if self.training else torch.tensor(float(count))
        smooth = self.label_smoothing
        classes = targets.classes * (1 - smooth) + smooth / (targets.classes.shape[-1] + 1)
        class_loss = sigmoid_focal_loss(points.logits[valid], classes[valid]).sum() / divisor
        predicted, truth = (self._segments(offsets)[positive] for offsets in (points.offsets, targets.offsets))
        boundary_loss = diou_loss(predicted, truth).sum() / divisor
        weight = self.boundary_weight or float(class_loss.detach() / boundary_loss.detach().clamp(min=0.01))
        return Losses(class_loss, boundary_loss * weight)

    def _segments(self, offsets: Tensor) -> Tensor:
        """Convert offsets (B, points, 2) in strides to segments in steps of the window."""
        sides = offsets * self.strides * offsets.new_tensor([-1.0, 1.0])
        return self.positions + sides
