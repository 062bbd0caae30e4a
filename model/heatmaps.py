"""VideoMAE on heatmaps of joints: what is found in pictures is drawn on the patch grid for the transformer."""

import torch
from torch import Tensor

from model.architecture import AdapterConfig, BackboneConfig
from model.backbone import Backbone
from model.pose_estimator import JointFinder, JointReader, moves

_SPREAD = 0.6  # standard deviation of a joint, in places of the grid


class HeatmapBackbone(JointReader, Backbone):
    """Joints as volumes of heatmaps, after PoseConv3D (CVPR 2022); blocks and adapters are those of the transformer."""

    def __init__(
        self, config: BackboneConfig, adapter: AdapterConfig, clip_frames: int, height: int, width: int
    ) -> None:
        super().__init__(config, adapter, clip_frames, height, width)
        assert config.finder is not None
        self.finder = JointFinder(config.finder)
        self.finder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def read(self, joints: Tensor) -> Tensor:
        """(B, steps, joints, 3) -> (B, dim, steps / tubelet)."""
        frames = self.time * self.config.tubelet_size
        maps = self._draw(joints)  # (B, steps, channels, height, width)
        clips = maps.reshape(-1, frames, *maps.shape[2:]).transpose(1, 2)
        return self.encode(self.patch_embed(clips), joints.shape[1] // frames)

    def _draw(self, joints: Tensor) -> Tensor:
        """(B, steps, channels, height, width): a bump where each joint is seen, then as high as each move."""
        finder = self.finder.config
        across, down = (
            _bumps(joints[..., axis], places) for axis, places in enumerate((self.width, self.height))
        )
        bumps = (down * joints[..., 2:])[..., None] * across[
            ..., None, :
        ]  # (B, steps, joints, height, width)
        moved = moves(joints, finder, self.config.lags).flatten(3)  # (B, steps, joints, 2 * lags)
        heights = torch.cat([torch.ones_like(moved[..., :1]), moved], dim=-1)
        return (heights[..., None, None] * bumps[..., None, :, :]).flatten(2, 3)


def _bumps(places: Tensor, count: int) -> Tensor:
    """(...), 0 to 1 -> (..., count): how near each is to the middles of so many equal parts."""
    middles = torch.arange(count, device=places.device, dtype=places.dtype) + 0.5
    return torch.exp(-0.5 * ((places[..., None] * count - middles) / _SPREAD) ** 2)
