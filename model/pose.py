"""The pose backbone: temporal blocks on the keypoints found in every frame."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.architecture import PoseConfig
from model.pose_estimator import KeypointReader, PoseEstimator, compute_displacements

_POSITION_FACTOR = 4.0  # gives positions of synthetic people a standard deviation of 0.74


class TemporalBlock(nn.Module):
    """A residual block: a dilated depth-wise convolution over time, then a small MLP."""

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.conv = nn.Conv1d(dim, dim, 3, padding=dilation, dilation=dilation, groups=dim)
        self.fc1 = nn.Linear(dim, 2 * dim)
        self.fc2 = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (B, steps, dim)."""
        update = self.conv(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.fc2(F.gelu(self.fc1(update)))  # type: ignore[no-any-return]


class PoseBackbone(KeypointReader):
    """A backbone with the same interface as the transformer; all steps of a window form one sequence."""

    def __init__(self, config: PoseConfig) -> None:
        super().__init__()
        self.config = config
        self.finder = PoseEstimator(config)
        self.embed = nn.Linear(config.keypoints * (3 + 2 * len(config.lags)), config.embed_dim)
        self.temporal = nn.Sequential(*(TemporalBlock(config.embed_dim, step) for step in config.dilations))
        self.norm = nn.LayerNorm(config.embed_dim)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def read(self, keypoints: Tensor) -> Tensor:
        """Compute features (B, dim, steps) from keypoints (B, steps, keypoints, 3)."""
        positions = _POSITION_FACTOR * (keypoints[..., :2] - 0.5)
        displacements = compute_displacements(keypoints, self.config, self.config.lags)
        displacements = displacements.movedim(3, 2)  # (B, steps, lags, keypoints, 2)
        inputs = torch.cat([positions.flatten(2), keypoints[..., 2], displacements.flatten(2)], dim=-1)
        features = self.temporal(self.embed(inputs))
        return self.norm(features).transpose(1, 2)  # type: ignore[no-any-return]
