"""The pose estimator: a small network that finds keypoints in every frame, and the base class of KeypointReaders."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.architecture import FinderConfig

_SHARPNESS = 3.0  # of a heatmap's softmax


class Residual(nn.Module):
    """A residual block: two convolutions with batch norm."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv_norm(inside, outside, 3, stride)
        self.conv2 = _conv_norm(outside, outside, 3)
        same = inside == outside and stride == 1
        self.skip = nn.Identity() if same else _conv_norm(inside, outside, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (N, inside, height, width)."""
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.skip(x))


class PoseEstimator(nn.Module):
    """A feature pyramid with one heatmap per keypoint; a keypoint's position is the mean under the heatmap's softmax.

    After "Integral human pose regression" (ECCV 2018) and "Feature pyramid networks" (CVPR 2017).
    """

    def __init__(self, config: FinderConfig) -> None:
        super().__init__()
        self.config = config
        first, *widths = config.widths
        self.stem = _conv_norm(3, first, 5, 2)
        stages, inside = [], first
        for stage, outside in enumerate(widths):
            blocks = [Residual(inside, outside, 2)] + ([Residual(outside, outside)] if stage else [])
            stages.append(nn.Sequential(*blocks))
            inside = outside
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList([nn.Conv2d(width, config.fused, 1) for width in widths])
        self.fuse = _conv_norm(config.fused, config.fused, 3)
        self.heatmaps = nn.Conv2d(config.fused, config.keypoints, 1)
        self.seen = nn.Linear(inside, config.keypoints)

    def forward(self, images: Tensor) -> Tensor:
        """Find keypoints (N, keypoints, 3), x, y (0 to 1), visibility, in normalised images (N, 3, height, width)."""
        x, maps = F.relu(self.stem(images)), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        top = self.lateral[-1](maps[-1])
        for lateral, finer in zip(list(self.lateral)[-2::-1], maps[-2::-1], strict=True):
            top = lateral(finer) + F.interpolate(top, size=finer.shape[2:], mode="bilinear", align_corners=False)
        heatmaps = _SHARPNESS * self.heatmaps(F.relu(self.fuse(F.relu(top))))  # (N, keypoints, rows, columns)
        probabilities = heatmaps.flatten(2).softmax(dim=-1).reshape(heatmaps.shape)
        outputs = [
            _mean_position(probabilities.sum(dim=2)),
            _mean_position(probabilities.sum(dim=3)),
            self.seen(x.mean(dim=(2, 3))).sigmoid(),
        ]
        return torch.stack(outputs, dim=-1)


class KeypointReader(nn.Module, ABC):
    """Base class of backbones that find keypoints in every frame and use only the keypoints."""

    finder: PoseEstimator

    def forward(self, clips: Tensor) -> Tensor:
        """Compute features (B, dim, clips * frames / tubelet) from clips (B, clips, 3, frames, height, width)."""
        return self.read(self.find(clips))

    def find(self, clips: Tensor) -> Tensor:
        """Find keypoints (B, clips * frames, keypoints, 3) in clips (B, clips, 3, frames, height, width)."""
        images = clips.transpose(2, 3).flatten(0, 2)  # (B*clips*frames, 3, height, width)
        keypoints = self.finder(images.contiguous(memory_format=torch.channels_last))
        return keypoints.reshape(clips.shape[0], -1, *keypoints.shape[1:])  # type: ignore[no-any-return]

    @abstractmethod
    def read(self, keypoints: Tensor) -> Tensor:
        """Compute features (B, dim, steps / tubelet) from keypoints (B, steps, keypoints, 3)."""


def compute_displacements(keypoints: Tensor, config: FinderConfig, lags: tuple[int, ...]) -> Tensor:
    """Compute scaled displacements (B, steps, keypoints, lags, 2) since `lags` frames earlier or the first frame."""
    scaled = [config.moves / lag**0.5 * _subtract_earlier(keypoints[..., :2], lag) for lag in lags]
    return torch.stack(scaled, dim=-2)


def _mean_position(probabilities: Tensor) -> Tensor:
    """Return mean positions (N, keypoints), 0 to 1, under probabilities (N, keypoints, length)."""
    length = probabilities.shape[-1]
    positions = torch.arange(length, device=probabilities.device, dtype=probabilities.dtype)
    return (probabilities * ((positions + 0.5) / length)).sum(dim=-1)


def _subtract_earlier(positions: Tensor, lag: int) -> Tensor:
    earlier = torch.cat([positions[:, :1].expand(-1, lag, -1, -1), positions], dim=1)[:, :-lag]
    return positions - earlier


def _conv_norm(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside))
