"""Joints in every picture: a small network finds them, frame by frame, and readers see nothing else."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.architecture import FinderConfig

_SHARPNESS = 3.0  # of a heatmap's softmax


class Residual(nn.Module):
    """Two convolutions, with batch norm, and an identity path."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv_norm(inside, outside, 3, stride)
        self.conv2 = _conv_norm(outside, outside, 3)
        same = inside == outside and stride == 1
        self.skip = nn.Identity() if same else _conv_norm(inside, outside, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, height, width) -> (N, C', height / stride, width / stride)."""
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.skip(x))


class JointFinder(nn.Module):
    """A pyramid of convolutions to one heatmap a joint; the joint is the mean place under its softmax.

    After "Integral human pose regression" (ECCV 2018) and "Feature pyramid networks" (CVPR 2017).
    """

    def __init__(self, config: FinderConfig) -> None:
        super().__init__()
        self.config = config
        first, *widths = config.widths
        self.stem = _conv_norm(3, first, 5, 2)
        stages, inside = [], first
        for place, outside in enumerate(widths):
            blocks = [Residual(inside, outside, 2)] + ([Residual(outside, outside)] if place else [])
            stages.append(nn.Sequential(*blocks))
            inside = outside
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList([nn.Conv2d(width, config.fused, 1) for width in widths])
        self.fuse = _conv_norm(config.fused, config.fused, 3)
        self.heatmaps = nn.Conv2d(config.fused, config.joints, 1)
        self.seen = nn.Linear(inside, config.joints)

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 3, height, width) normalised -> (N, joints, 3): x and y of the picture, 0 to 1, and whether seen."""
        x, maps = F.relu(self.stem(pictures)), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        top = self.lateral[-1](maps[-1])
        for lateral, finer in zip(list(self.lateral)[-2::-1], maps[-2::-1], strict=True):
            top = lateral(finer) + F.interpolate(
                top, size=finer.shape[2:], mode="bilinear", align_corners=False
            )
        heat = _SHARPNESS * self.heatmaps(F.relu(self.fuse(F.relu(top))))  # (N, joints, rows, columns)
        share = heat.flatten(2).softmax(dim=-1).reshape(heat.shape)
        places = [
            _mean_place(share.sum(dim=2)),
            _mean_place(share.sum(dim=3)),
            self.seen(x.mean(dim=(2, 3))).sigmoid(),
        ]
        return torch.stack(places, dim=-1)


class JointReader(nn.Module, ABC):
    """A backbone that finds joints in every picture, and reads them alone."""

    finder: JointFinder

    def forward(self, clips: Tensor) -> Tensor:
        """Normalised pictures to features.

        Args:
            clips: (B, clips, 3, frames, height, width) float.

        Returns:
            (B, dim, clips * frames / tubelet), in time order.
        """
        return self.read(self.find(clips))

    def find(self, clips: Tensor) -> Tensor:
        """(B, clips, 3, frames, height, width) -> (B, clips * frames, joints, 3), see JointFinder."""
        pictures = clips.transpose(2, 3).flatten(0, 2)  # (B*clips*frames, 3, height, width)
        found = self.finder(pictures.contiguous(memory_format=torch.channels_last))
        return found.reshape(clips.shape[0], -1, *found.shape[1:])  # type: ignore[no-any-return]

    @abstractmethod
    def read(self, joints: Tensor) -> Tensor:
        """(B, steps, joints, 3) -> (B, dim, steps / tubelet)."""


def moves(joints: Tensor, config: FinderConfig, lags: tuple[int, ...]) -> Tensor:
    """How far joints went since so many frames before; the window's first frame stands for those before it.

    Args:
        joints: (B, steps, joints, 3). config: the factor of movements. lags: in frames.

    Returns:
        (B, steps, joints, lags, 2): x and y, about 1.
    """
    return torch.stack([config.moves / lag**0.5 * _moved(joints[..., :2], lag) for lag in lags], dim=-2)


def _mean_place(shares: Tensor) -> Tensor:
    """(N, joints, length) shares of each place -> (N, joints), 0 to 1."""
    length = shares.shape[-1]
    places = (torch.arange(length, device=shares.device, dtype=shares.dtype) + 0.5) / length
    return (shares * places).sum(dim=-1)


def _moved(places: Tensor, lag: int) -> Tensor:
    """(B, steps, joints, 2): since so many frames before; the window's first frame stands for those before it."""
    earlier = torch.cat([places[:, :1].expand(-1, lag, -1, -1), places], dim=1)[:, :-lag]
    return places - earlier


def _conv_norm(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside))
