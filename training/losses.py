"""What the detector is trained with: sigmoid focal loss on classes, DIoU on boundaries."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.head import Points
from training.targets import PointGrid, Targets


class Losses(NamedTuple):
    """Both parts, weighted; their sum is what is minimised."""

    classes: Tensor
    boundaries: Tensor

    @property
    def total(self) -> Tensor:
        """The sum."""
        return self.classes + self.boundaries


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Element by element: cross entropy that fades where the answer is right already (Lin et al., equation 5)."""
    probability = logits.sigmoid()
    right = probability * targets + (1 - probability) * (1 - targets)
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return weight * (1 - right) ** gamma * entropy


def diou_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """(n, 2) segments in any unit -> (n,): 1 - tIoU + (distance of middles / length of both)^2.

    Zheng et al., AAAI 2020, equation 7.
    """
    shared = torch.minimum(predicted[:, 1], truth[:, 1]) - torch.maximum(predicted[:, 0], truth[:, 0])
    shared = shared.clamp(min=0)
    union = (predicted[:, 1] - predicted[:, 0]) + (truth[:, 1] - truth[:, 0]) - shared
    span = torch.maximum(predicted[:, 1], truth[:, 1]) - torch.minimum(predicted[:, 0], truth[:, 0])
    apart = (predicted.sum(dim=1) - truth.sum(dim=1)) / 2
    tiny = torch.finfo(predicted.dtype).tiny
    return 1 - shared / union.clamp(min=tiny) + (apart / span.clamp(min=tiny)) ** 2


class DetectionLoss(nn.Module):
    """Both losses, divided by the number of points that learn an action.

    In training the divisor is a moving average, so that a batch with few actions does not shout
    (ActionFormer, section 3.3); in evaluation it is the batch's own number.

    Args:
        grid: the points of a window.
        normalizer: where the moving average starts.
        momentum: how much of it stays with each batch.
        label_smoothing: moved from the right class to all.
        boundary_weight: of the boundary loss; 0 weighs it like the class loss.
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
        """Losses of a batch.

        Args:
            points: of the network, (B, points, ...).
            valid: (B, points) bool, True for points on a frame of the video.
            targets: classes (B, points, actions) and offsets (B, points, 2).
        """
        learning = (targets.classes.sum(dim=-1) > 0) & valid
        count = max(int(learning.sum()), 1)
        if self.training:
            self.normalizer.mul_(self.momentum).add_((1 - self.momentum) * count)
        divisor = self.normalizer.clone() if self.training else torch.tensor(float(count))
        smooth = self.label_smoothing
        classes = targets.classes * (1 - smooth) + smooth / (targets.classes.shape[-1] + 1)
        on_classes = sigmoid_focal_loss(points.logits[valid], classes[valid]).sum() / divisor
        predicted, truth = (
            self._segments(offsets)[learning] for offsets in (points.offsets, targets.offsets)
        )
        on_boundaries = diou_loss(predicted, truth).sum() / divisor
        weight = self.boundary_weight or float(on_classes.detach() / on_boundaries.detach().clamp(min=0.01))
        return Losses(on_classes, on_boundaries * weight)

    def _segments(self, offsets: Tensor) -> Tensor:
        """(B, points, 2) in strides -> the same in steps of the window."""
        sides = offsets * self.strides * offsets.new_tensor([-1.0, 1.0])
        return self.positions + sides
