"""From pictures to the tokens of a transformer: VideoMAE's linear map, convolutions, or a map of joints."""

from collections.abc import Callable
from itertools import pairwise
from math import gcd

from torch import Tensor, nn

from model.architecture import BackboneConfig

_SPARSE = 0.2  # weights of heatmaps: at any place there are few joints


class ConvolutionalStem(nn.Module):
    """Strided 3 x 3 convolutions down to the patch grid, frame by frame, then a linear map of each tubelet.

    After "Early convolutions help transformers see better" (NeurIPS 2021), with group norm: the statistics of a batch
    of one or two windows, whose frames resemble each other, are not those of evaluation.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        halvings = config.patch_size.bit_length() - 1
        widths = [config.channels, *(config.embed_dim >> step for step in reversed(range(halvings)))]
        self.convs = nn.Sequential(*(conv_norm_relu(*pair, kernel=3, stride=2) for pair in pairwise(widths)))
        kernel = (config.tubelet_size, 1, 1)
        self.merge = nn.Conv3d(config.embed_dim, config.embed_dim, kernel, stride=kernel)

    def forward(self, clips: Tensor) -> Tensor:
        """(N, channels, frames, height, width) -> (N, dim, time, height / patch, width / patch)."""
        number, _, frames = clips.shape[:3]
        x = self.convs(clips.transpose(1, 2).flatten(0, 1))  # (N*frames, dim, height / patch, width / patch)
        return self.merge(x.reshape(number, frames, *x.shape[1:]).transpose(1, 2))  # type: ignore[no-any-return]


def conv_norm_relu(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps or divides the picture's sides, group norm, ReLU."""
    return nn.Sequential(*conv_norm(inside, outside, kernel, stride), nn.ReLU())


def conv_norm(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution without bias, then group norm in eight groups, or as many as divide the channels."""
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.GroupNorm(gcd(8, outside), outside))


def _linear_stem(config: BackboneConfig) -> nn.Conv3d:
    kernel = (config.tubelet_size, config.patch_size, config.patch_size)
    return nn.Conv3d(config.channels, config.embed_dim, kernel, stride=kernel)


def _heatmap_stem(config: BackboneConfig) -> nn.Conv3d:
    """A linear map of every place's joints, over a tubelet."""
    assert config.finder is not None
    kernel = (config.tubelet_size, 1, 1)
    channels = config.finder.joints * (1 + 2 * len(config.lags))
    embed = nn.Conv3d(channels, config.embed_dim, kernel, stride=kernel)
    nn.init.normal_(embed.weight, std=_SPARSE)
    return embed


STEMS: dict[str, Callable[[BackboneConfig], nn.Module]] = {
    "linear": _linear_stem,
    "convolutions": ConvolutionalStem,
    "heatmaps": _heatmap_stem,
}
