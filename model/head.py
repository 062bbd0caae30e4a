"""ActionFormer's detection head: class logits and boundary offsets for every point of the pyramid levels."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.architecture import HeadConfig
from model.pyramid import MaskedConv, Neck, Projection


class Points(NamedTuple):
    """Raw predictions for a batch of windows; levels are concatenated, finest first."""

    logits: Tensor  # (B, points, actions), before the sigmoid
    offsets: Tensor  # (B, points, 2), distance to start and to end, in strides of the point's level


class Scale(nn.Module):
    """A learned factor for the offsets of one level."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Scale a tensor of any shape."""
        return x * self.scale


class PointHead(nn.Module):
    """Convolutional towers for classification and regression, shared by all levels."""

    def __init__(self, config: HeadConfig, actions: int) -> None:
        super().__init__()
        channels = config.channels
        self.cls_convs, self.reg_convs = (
            nn.ModuleList([MaskedConv(channels, channels, 3) for _ in range(config.head_convs)]) for _ in range(2)
        )
        self.cls_head = nn.Conv1d(channels, actions, 3, padding=1)
        self.reg_head = nn.Conv1d(channels, 2, 3, padding=1)
        self.scale = nn.ModuleList([Scale() for _ in config.strides])
        # Few points belong to an action: a bias at the prior probability keeps the initial focal loss small.
        prior = config.prior_probability
        nn.init.constant_(self.cls_head.bias, -math.log((1 - prior) / prior))  # type: ignore[arg-type]
        nn.init.zeros_(self.reg_head.bias)  # type: ignore[arg-type]

    def forward(self, levels: list[Tensor], masks: list[Tensor]) -> Points:
        """Predict the points of all levels, each (B, channels, steps) with a mask (B, steps)."""
        logits, offsets = [], []
        for scale, level, mask in zip(self.scale, levels, masks, strict=True):
            actions, boundaries = level, level
            for conv in self.cls_convs:
                actions = conv(actions, mask)
            for conv in self.reg_convs:
                boundaries = conv(boundaries, mask)
            logits.append(self.cls_head(actions))
            offsets.append(F.relu(scale(self.reg_head(boundaries))))
        return Points(torch.cat(logits, dim=-1).transpose(1, 2), torch.cat(offsets, dim=-1).transpose(1, 2))


class ActionFormer(nn.Module):
    """Projection, neck and head (ActionFormer, ECCV 2022): from the features of a window to points."""

    def __init__(self, config: HeadConfig, features: int, actions: int) -> None:
        super().__init__()
        self.projection = Projection(config, features)
        self.neck = Neck(config)
        self.rpn_head = PointHead(config, actions)

    def forward(self, features: Tensor, mask: Tensor) -> Points:
        """Predict points from features (B, features, steps) and mask (B, steps) bool."""
        levels, masks = self.projection(features, mask)
        return self.rpn_head(self.neck(levels), masks)  # type: ignore[no-any-return]
