"""The network: tensors in, tensors out, and the only thing that is exported."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.architecture import PoseConfig, ShiftConfig
from model.backbone import Backbone
from model.bundle import Manifest
from model.head import ActionFormer, Points
from model.heatmaps import HeatmapBackbone
from model.pose import PoseBackbone
from model.shift import ShiftBackbone


class Network(nn.Module):
    """Backbone with adapters, then ActionFormer, over one window a row.

    A step is one frame. Clips may be fewer than the window holds: a short video costs only its own length,
    and the steps beyond are zeros that the mask excludes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        config, parts = manifest.input, manifest.architecture
        self.window_frames = config.window_frames
        self.clip_frames = config.clip_frames
        self.backbone = make_backbone(manifest)
        self.detector = ActionFormer(parts.head, parts.backbone.embed_dim, len(manifest.taxonomy.actions))
        self.register_buffer("mean", torch.tensor(config.mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(config.std) * 255, persistent=False)

    def forward(self, clips: Tensor, mask: Tensor) -> Points:
        """Pictures to points; takes what `features` takes."""
        return self.detector(self.features(clips, mask), mask)  # type: ignore[no-any-return]

    def features(self, clips: Tensor, mask: Tensor) -> Tensor:
        """What the head is given.

        Args:
            clips: (B, clips, frames, height, width, 3) uint8 RGB, at most a window of them.
            mask: (B, window_frames) bool, True for the steps that hold a frame of the video.

        Returns:
            (B, dim, window_frames), zero where the mask is False.
        """
        features = self.backbone(self.normalised(clips))  # (B, dim, clips * tubelets)
        return self.on_steps(features, clips.shape[1] * self.clip_frames, mask)

    def on_steps(self, features: Tensor, steps: int, mask: Tensor) -> Tensor:
        """(B, dim, any) that last so many steps -> (B, dim, window_frames), zero where the mask is False."""
        features = F.interpolate(features, size=steps, mode="linear", align_corners=False)
        # Zeros for a whole window are appended and cut: a length of its own would tie the graph to one clip count.
        rest = features.new_zeros(features.shape[0], features.shape[1], self.window_frames)
        features = torch.cat([features, rest], dim=2)[:, :, : self.window_frames]
        return features * mask[:, None]

    def normalised(self, clips: Tensor) -> Tensor:
        """(B, clips, frames, height, width, 3) uint8 -> (B, clips, 3, frames, height, width), what a backbone takes."""
        return ((clips.float() - self.mean) / self.std).permute(0, 1, 5, 2, 3, 4)


def make_backbone(manifest: Manifest) -> Backbone | ShiftBackbone | PoseBackbone:
    """The backbone of the kind that the architecture names."""
    config, seen = manifest.architecture.backbone, manifest.input
    if isinstance(config, ShiftConfig):
        return ShiftBackbone(config)
    if isinstance(config, PoseConfig):
        return PoseBackbone(config)
    kind = HeatmapBackbone if config.stem == "heatmaps" else Backbone
    return kind(config, manifest.architecture.adapter, seen.clip_frames, seen.height, seen.width)
