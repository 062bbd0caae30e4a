"""What a backbone sees beside RGB: how grey differs from some frames before. Movement, without having to learn it."""

import torch
from torch import Tensor

from model.architecture import BackboneBase

# Grey differences of people who sit and move have a standard deviation of 0.04 to 0.10 at lag 1, of 0.09 to 0.24 at
# lag 4 (15 fps, normalised pictures): with 10 / sqrt(lag) all come near 1.
_GAIN = 10.0


def with_channels(clips: Tensor, config: BackboneBase) -> Tensor:
    """Add the channels that the configuration names.

    Args:
        clips: (B, clips, 3, frames, height, width) float, normalised; the clips of a row follow one another.
        config: inputs and lags.

    Returns:
        (B, clips, config.channels, frames, height, width): RGB first, then a channel for each lag.
    """
    if config.inputs == "rgb":
        return clips
    grey = clips.mean(dim=2)  # (B, clips, frames, height, width)
    steps = grey.flatten(1, 2)
    differences = [_difference(steps, lag).reshape(grey.shape) for lag in config.lags]
    return torch.cat([clips, torch.stack(differences, dim=2)], dim=2)


def _difference(grey: Tensor, lag: int) -> Tensor:
    # The window's first frame stands for those before it; all of the window is kept, then cut, so that the graph
    # fits windows shorter than the lag as well.
    earlier = torch.cat([grey[:, :1].expand(-1, lag, -1, -1), grey], dim=1)[:, :-lag]
    gain: float = _GAIN / lag**0.5
    return (grey - earlier) * gain
