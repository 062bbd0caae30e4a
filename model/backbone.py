"""VideoMAE's vision transformer with an adapter after every block: one feature vector per tubelet of a clip.

Tokens are (B*clips, time*height*width, dim).
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.adapters import ADAPTERS, Grid
from model.architecture import AdapterConfig, BackboneConfig
from model.sinusoids import sinusoid_table


def position_table(config: BackboneConfig, time: int, height: int, width: int) -> Tensor:
    """Return position encodings (time*height*width, dim), resized bicubically from the pretrained square grid."""
    side = config.position_grid
    table = sinusoid_table(time * side * side, config.embed_dim)
    if (height, width) == (side, side):
        return table
    maps = table.reshape(time, side, side, config.embed_dim).permute(0, 3, 1, 2)
    maps = F.interpolate(maps, size=(height, width), mode="bicubic", align_corners=False)
    return maps.permute(0, 2, 3, 1).reshape(-1, config.embed_dim)


class Attention(nn.Module):
    """Multi-head self-attention within a clip; q and v have biases, k has none, as in VideoMAE's weights."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to tokens (B, tokens, dim)."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias)
        q, k, v = (part.reshape(*part.shape[:2], self.heads, -1).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        x = F.scaled_dot_product_attention(q, k, v)  # (B, heads, tokens, dim / heads)
        return self.proj(x.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm attention and MLP, then the adapter."""

    def __init__(self, config: BackboneConfig, adapter: AdapterConfig) -> None:
        super().__init__()
        dim, hidden = config.embed_dim, int(config.embed_dim * config.mlp_ratio)
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.attn = Attention(dim, config.heads)
        self.norm2 = nn.LayerNorm(dim, eps=config.norm_eps)
        layers: dict[str, nn.Module] = {"fc1": nn.Linear(dim, hidden), "gelu": nn.GELU(), "fc2": nn.Linear(hidden, dim)}
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.adapter = ADAPTERS[adapter.kind](dim, adapter) if adapter.kind != "none" else None

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x if self.adapter is None else self.adapter(x, grid)


class Backbone(nn.Module):
    """The vision transformer, applied to each clip separately; only adapters connect the clips of a window."""

    positions: Tensor

    def __init__(
        self, config: BackboneConfig, adapter: AdapterConfig, clip_frames: int, height: int, width: int
    ) -> None:
        super().__init__()
        self.config = config
        self.time = clip_frames // config.tubelet_size
        self.height, self.width = height // config.patch_size, width // config.patch_size
        self.patch_embed = self._make_stem()
        self.blocks = nn.ModuleList([Block(config, adapter) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps) if config.final_norm else nn.Identity()
        table = position_table(config, self.time, self.height, self.width)
        self.register_buffer("positions", table, persistent=False)
        for name, layer in self.named_modules():  # as in VideoMAE; adapters initialise themselves
            if isinstance(layer, nn.Linear) and ".adapter." not in name:
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def _make_stem(self) -> nn.Conv3d:
        kernel = (self.config.tubelet_size, self.config.patch_size, self.config.patch_size)
        return nn.Conv3d(3, self.config.embed_dim, kernel, stride=kernel)

    def forward(self, clips: Tensor) -> Tensor:
        """Compute features (B, dim, clips * time) from normalised clips (B, clips, 3, frames, height, width)."""
        return self.encode(self.patch_embed(clips.flatten(0, 1)), clips.shape[1])

    def encode(self, patches: Tensor, clips: int) -> Tensor:
        """Compute features (B, dim, clips * time) from patches (B*clips, dim, time, height, width)."""
        grid = Grid(clips, self.time, self.height, self.width)
        x = patches.flatten(2).transpose(1, 2) + self.positions  # (B*clips, tokens, dim)
        for block in self.blocks:
            x = block(x, grid)
        maps: Tensor = self.norm(x).reshape(-1, clips * self.time, self.height * self.width, self.config.embed_dim)
        return maps.mean(dim=2).transpose(1, 2)
