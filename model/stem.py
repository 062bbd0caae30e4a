"""Stems: patch embeddings of frames (VideoMAE), or of heatmaps of keypoints, for the transformer."""

from collections.abc import Callable

from torch import nn

from model.architecture import BackboneConfig

_HEATMAP_STD = 0.2  # of initial weights; large, since few keypoints are near any position of the grid


def _make_linear_stem(config: BackboneConfig) -> nn.Conv3d:
    kernel = (config.tubelet_size, config.patch_size, config.patch_size)
    return nn.Conv3d(3, config.embed_dim, kernel, stride=kernel)


def _make_heatmap_stem(config: BackboneConfig) -> nn.Conv3d:
    """Make a linear map of the heatmaps of each grid position over a tubelet."""
    assert config.finder is not None
    kernel = (config.tubelet_size, 1, 1)
    channels = config.finder.keypoints * (1 + 2 * len(config.lags))
    embed = nn.Conv3d(channels, config.embed_dim, kernel, stride=kernel)
    nn.init.normal_(embed.weight, std=_HEATMAP_STD)
    return embed


STEMS: dict[str, Callable[[BackboneConfig], nn.Module]] = {"linear": _make_linear_stem, "heatmaps": _make_heatmap_stem}
