"""Actions from how joints move: temporal blocks read what was found in every frame."""

import torch
from torch import Tensor, nn

from model.architecture import PoseConfig
from model.pose_estimator import JointFinder, JointReader, moves
from model.shift import TemporalBlock

# Set by hand: on synthetic people the sd is then .74 of places, and .08 and .13 of moves at lags 1 and 4 times 20.
_PLACES = 4.0


class PoseBackbone(JointReader):
    """In the place of the transformer: the same clips in, the same features out. All steps of a window are one."""

    def __init__(self, config: PoseConfig) -> None:
        super().__init__()
        self.config = config
        self.finder = JointFinder(config)
        self.embed = nn.Linear(config.joints * (3 + 2 * len(config.lags)), config.embed_dim)
        self.temporal = nn.Sequential(*(TemporalBlock(config.embed_dim, step) for step in config.dilations))
        self.norm = nn.LayerNorm(config.embed_dim)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def read(self, joints: Tensor) -> Tensor:
        """(B, steps, joints, 3) -> (B, dim, steps)."""
        places = _PLACES * (joints[..., :2] - 0.5)
        moved = moves(joints, self.config, self.config.lags).movedim(3, 2)  # (B, steps, lags, joints, 2)
        parts = torch.cat([places.flatten(2), joints[..., 2], moved.flatten(2)], dim=-1)
        features = self.temporal(self.embed(parts))
        return self.norm(features).transpose(1, 2)  # type: ignore[no-any-return]
