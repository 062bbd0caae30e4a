"""VideoMAE on heatmaps: keypoints found in every frame are drawn on the patch grid as the transformer's input."""

import torch
from torch import Tensor, nn

from model.architecture import AdapterConfig, BackboneConfig
from model.backbone import Backbone
from model.pose_estimator import KeypointReader, PoseEstimator, compute_displacements

_KEYPOINT_STD = 0.6  # standard deviation of a keypoint's Gaussian, in positions of the grid
_WEIGHT_STD = 0.2  # of the stem's initial weights; large, since few keypoints are near any position of the grid


class HeatmapBackbone(KeypointReader, Backbone):
    """The transformer with heatmap volumes of keypoints as input, after PoseConv3D (CVPR 2022)."""

    def __init__(
        self, config: BackboneConfig, adapter: AdapterConfig, clip_frames: int, height: int, width: int
    ) -> None:
        super().__init__(config, adapter, clip_frames, height, width)
        assert config.finder is not None
        self.finder = PoseEstimator(config.finder)
        self.finder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _make_stem(self) -> nn.Conv3d:
        """Make a linear map of the heatmaps of each grid position over a tubelet."""
        assert self.config.finder is not None
        kernel = (self.config.tubelet_size, 1, 1)
        channels = self.config.finder.keypoints * (1 + 2 * len(self.config.lags))
        stem = nn.Conv3d(channels, self.config.embed_dim, kernel, stride=kernel)
        nn.init.normal_(stem.weight, std=_WEIGHT_STD)
        return stem

    def read(self, keypoints: Tensor) -> Tensor:
        """Compute features (B, dim, steps / tubelet) from keypoints (B, steps, keypoints, 3)."""
        frames = self.time * self.config.tubelet_size
        maps = self._draw_heatmaps(keypoints)  # (B, steps, channels, height, width)
        clips = maps.reshape(-1, frames, *maps.shape[2:]).transpose(1, 2)
        return self.encode(self.patch_embed(clips), keypoints.shape[1] // frames)

    def _draw_heatmaps(self, keypoints: Tensor) -> Tensor:
        """Draw Gaussians (B, steps, channels, height, width): for each keypoint its visibility and displacements."""
        in_x, in_y = (
            _draw_gaussians(keypoints[..., axis], size) for axis, size in enumerate((self.width, self.height))
        )
        in_y = in_y * keypoints[..., 2:]
        gaussians = in_y[..., None] * in_x[..., None, :]  # (B, steps, keypoints, height, width)
        displacements = compute_displacements(keypoints, self.finder.config, self.config.lags)
        displacements = displacements.flatten(3)  # (B, steps, keypoints, 2 * lags)
        heights = torch.cat([torch.ones_like(displacements[..., :1]), displacements], dim=-1)
        return (heights[..., None, None] * gaussians[..., None, :, :]).flatten(2, 3)


def _draw_gaussians(positions: Tensor, size: int) -> Tensor:
    """Return 1-D Gaussians (..., size) around positions (...), which range from 0 to 1."""
    centres = torch.arange(size, device=positions.device, dtype=positions.dtype) + 0.5
    return torch.exp(-0.5 * ((positions[..., None] * size - centres) / _KEYPOINT_STD) ** 2)
