"""The network that is trained and exported: from clips to points, without losses or post-processing."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.architecture import PoseConfig
from model.backbone import Backbone
from model.bundle import Manifest
from model.head import ActionFormer, Points
from model.heatmaps import HeatmapBackbone
from model.pose import PoseBackbone


class Network(nn.Module):
    """A backbone with adapters, followed by ActionFormer. Each row of a batch is one window; a step is one frame.

    Clips are (B, clips, frames, height, width, 3) uint8 RGB, at most one window; the mask is (B, window_frames) bool,
    True for steps that have a frame of the video.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        config, parts = manifest.input, manifest.architecture
        self.window_frames = config.window_frames
        self.clip_frames = config.clip_frames
        self.backbone: Backbone | PoseBackbone
        if isinstance(parts.backbone, PoseConfig):
            self.backbone = PoseBackbone(parts.backbone)
        else:
            make = HeatmapBackbone if parts.backbone.stem == "heatmaps" else Backbone
            size = config.clip_frames, config.height, config.width
            self.backbone = make(parts.backbone, parts.adapter, *size)
        self.detector = ActionFormer(parts.head, parts.backbone.embed_dim, len(manifest.taxonomy.actions))
        self.register_buffer("mean", torch.tensor(config.mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(config.std) * 255, persistent=False)

    def forward(self, clips: Tensor, mask: Tensor) -> Points:
        """Predict the points of a batch."""
        return self.detector(self.features(clips, mask), mask)  # type: ignore[no-any-return]

    def features(self, clips: Tensor, mask: Tensor) -> Tensor:
        """Compute the input of the head: (B, dim, window_frames), zero where the mask is False."""
        features = self.backbone(self.normalise(clips))  # (B, dim, clips * tubelets)
        return self.interpolate_to_steps(features, clips.shape[1] * self.clip_frames, mask)

    def interpolate_to_steps(self, features: Tensor, steps: int, mask: Tensor) -> Tensor:
        """Interpolate features (B, dim, any length) to `steps`, pad them to a window and apply the mask."""
        features = F.interpolate(features, size=steps, mode="linear", align_corners=False)
        # With a computed length of the padding, the graph would be exported for one number of clips only.
        padding = features.new_zeros(features.shape[0], features.shape[1], self.window_frames)
        features = torch.cat([features, padding], dim=2)[:, :, : self.window_frames]
        return features * mask[:, None]

    def normalise(self, clips: Tensor) -> Tensor:
        """Normalise clips to (B, clips, 3, frames, height, width) float."""
        return ((clips.float() - self.mean) / self.std).permute(0, 1, 5, 2, 3, 4)
