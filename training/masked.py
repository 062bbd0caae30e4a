"""Masked autoencoding, as VideoMAE is pretrained: most of a clip is hidden, and what was there is to be told."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.adapters import Grid
from model.architecture import AdapterConfig, BackboneConfig
from model.backbone import Backbone, Block
from model.inputs import with_channels
from model.sinusoids import sinusoid_table

HIDDEN = 0.75  # share of the places that are hidden, the same in all of a clip: tubes
_DECODER_BLOCKS = 1
_EPS = 1e-6


class Decoder(nn.Module):
    """From the tokens that were seen to the pixels of those that were not (VideoMAE, NeurIPS 2022).

    Half as wide as the backbone and one block deep: it is thrown away.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        narrow = config.model_copy(update={"embed_dim": config.embed_dim // 2, "depth": _DECODER_BLOCKS})
        dim = narrow.embed_dim
        self.embed = nn.Linear(config.embed_dim, dim)
        self.hidden = nn.Parameter(torch.zeros(1, 1, dim))
        nn.init.normal_(self.hidden, std=0.02)
        self.blocks = nn.ModuleList(
            [Block(narrow, AdapterConfig(kind="none")) for _ in range(_DECODER_BLOCKS)]
        )
        self.norm = nn.LayerNorm(dim)
        self.pixels = nn.Linear(dim, 3 * config.tubelet_size * config.patch_size**2)

    def forward(self, seen: Tensor, order: Tensor, grid: Grid) -> Tensor:
        """What every token showed.

        Args:
            seen: (N, visible, dim) tokens. order: (N, tokens) their places, the visible ones first.
            grid: of a clip.

        Returns:
            (N, tokens, pixels of a token), in the order of places.
        """
        number, tokens = order.shape
        visible = self.embed(seen)
        rest = self.hidden.expand(number, tokens - visible.shape[1], -1)
        places = order[..., None].expand(-1, -1, visible.shape[-1])
        x = torch.zeros(number, tokens, visible.shape[-1], device=seen.device, dtype=visible.dtype)
        x = x.scatter(1, places, torch.cat([visible, rest.to(visible.dtype)], 1))
        x = x + sinusoid_table(tokens, x.shape[-1]).to(x)
        for block in self.blocks:
            x = block(x, grid)
        return self.pixels(self.norm(x))  # type: ignore[no-any-return]


def masked_loss(backbone: Backbone, decoder: Decoder, clips: Tensor, hidden: float = HIDDEN) -> Tensor:
    """Mean squared error of hidden pixels, each token's brought to mean 0 and variance 1.

    Args:
        backbone: without adapters; what it hides is hidden before its stem, whose convolutions see neighbours.
        decoder: of the same configuration.
        clips: (B, clips, 3, frames, height, width) normalised.
        hidden: share of the places.
    """
    config = backbone.config
    grid = Grid(1, backbone.time, backbone.height, backbone.width)
    pictures = with_channels(clips, config).flatten(0, 1)  # (N, channels, frames, height, width)
    order, kept = _tubes(len(pictures), grid, hidden, clips.device)
    covered = torch.ones(order.shape, device=clips.device).scatter(1, order[:, :kept], 0.0)
    x = backbone.patch_embed(pictures * (1 - _spread(covered, grid, config)))
    x = x.flatten(2).transpose(1, 2) + backbone.positions
    x = x.gather(1, order[:, :kept, None].expand(-1, -1, x.shape[-1]))
    for block in backbone.blocks:
        x = block(x, grid)
    told = decoder(backbone.norm(x), order, grid)
    wanted = _cubes(clips.flatten(0, 1), config)
    wanted = (wanted - wanted.mean(-1, keepdim=True)) / (wanted.var(-1, keepdim=True) + _EPS).sqrt()
    wrong = F.mse_loss(told, wanted, reduction="none").mean(-1)
    return (wrong * covered).sum() / covered.sum()


def _tubes(number: int, grid: Grid, hidden: float, device: torch.device) -> tuple[Tensor, int]:
    """(N, tokens) order of places with the visible ones first, and how many these are; drawn from torch's seed."""
    places = grid.height * grid.width
    seen = max(round(places * (1 - hidden)), 1)
    order = torch.rand(number, places, device=device).argsort(1)
    steps = torch.arange(grid.time, device=device)[None, :, None] * places
    visible = (steps + order[:, None, :seen]).flatten(1)
    rest = (steps + order[:, None, seen:]).flatten(1)
    return torch.cat([visible, rest], 1), seen * grid.time


def _spread(covered: Tensor, grid: Grid, config: BackboneConfig) -> Tensor:
    """(N, tokens) -> (N, 1, frames, height, width)."""
    maps = covered.reshape(-1, 1, grid.time, grid.height, grid.width)
    for axis, size in ((2, config.tubelet_size), (3, config.patch_size), (4, config.patch_size)):
        maps = maps.repeat_interleave(size, axis)
    return maps


def _cubes(pictures: Tensor, config: BackboneConfig) -> Tensor:
    """(N, 3, frames, height, width) -> (N, tokens, pixels of a token)."""
    number, colours, frames, height, width = pictures.shape
    time, side = config.tubelet_size, config.patch_size
    split = pictures.reshape(number, colours, frames // time, time, height // side, side, width // side, side)
    return split.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(number, -1, time * side * side * colours)
