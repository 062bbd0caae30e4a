"""Adapters: small trainable layers after each frozen block of the backbone.

Tokens are (B*clips, time*height*width, dim). Temporal convolutions reach across the clips of a window.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.architecture import AdapterConfig


@dataclass(frozen=True)
class Grid:
    """The layout of tokens: clips per window, and time, height and width of one clip in tokens."""

    clips: int
    time: int
    height: int
    width: int

    def convolve_temporal(self, conv: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Convolve over the clips of a window, at each spatial position; keeps the shape of x."""
        steps, positions, channels = self.clips * self.time, self.height * self.width, x.shape[-1]
        x = x.reshape(-1, steps, positions, channels).permute(0, 2, 3, 1)  # (B, positions, C, steps)
        x = conv(x.reshape(-1, channels, steps)).reshape(-1, positions, channels, steps)
        return x.permute(0, 3, 1, 2).reshape(-1, self.time * positions, channels)

    def convolve_spatial(self, conv: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Convolve over space, at each time step; keeps the shape of x."""
        maps = conv(x.reshape(-1, self.height, self.width, x.shape[-1]).permute(0, 3, 1, 2))  # (B*clips*t, C, h, w)
        return maps.permute(0, 2, 3, 1).reshape(-1, self.time * self.height * self.width, x.shape[-1])


class StandardAdapter(nn.Module):
    """The standard adapter, x + gamma * up(GELU(down(x))), without convolutions."""

    def __init__(self, dim: int, config: AdapterConfig) -> None:
        super().__init__()
        hidden = int(dim * config.ratio)
        self.down_proj = nn.Linear(dim, hidden)
        self.up_proj = nn.Linear(hidden, dim)
        self.gamma = nn.Parameter(torch.ones(1))
        _start_as_identity(self.down_proj, self.up_proj)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return x + self.gamma * self.up_proj(F.gelu(self.down_proj(x)))  # type: ignore[no-any-return]


class TemporalInformativeAdapter(nn.Module):
    """TIA (AdaTAD, CVPR 2024): a temporal depth-wise and a point-wise convolution inside the bottleneck."""

    def __init__(self, dim: int, config: AdapterConfig) -> None:
        super().__init__()
        hidden = int(dim * config.ratio)
        self.down_proj = nn.Linear(dim, hidden)
        self.dwconv = _temporal_depthwise(hidden, config.temporal_kernel)
        self.conv = nn.Conv1d(hidden, hidden, 1)
        self.up_proj = nn.Linear(hidden, dim)
        self.gamma = nn.Parameter(torch.ones(1))
        _start_as_identity(self.down_proj, self.up_proj)
        _initialise(self.conv, hidden)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        h = F.gelu(self.down_proj(x))
        h = h + grid.convolve_temporal(lambda steps: self.conv(self.dwconv(steps)), h)
        return x + self.gamma * self.up_proj(h)  # type: ignore[no-any-return]


class DualPathAdapter(nn.Module):
    """DSTA (MMAD, ICCV 2025): parallel spatial and temporal paths.

    h = GELU(down(x)), s = SDWConv2d(h) + h, t = TDWConv1d(h) + h, out = x + alpha * up([beta * s ; gamma * t])
    """

    def __init__(self, dim: int, config: AdapterConfig) -> None:
        super().__init__()
        hidden, kernel = int(dim * config.ratio), config.spatial_kernel
        self.down_proj = nn.Linear(dim, hidden)
        self.spatial_dwconv = nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden)
        self.temporal_dwconv = _temporal_depthwise(hidden, config.temporal_kernel)
        self.up_proj = nn.Linear(2 * hidden, dim)
        self.alpha, self.beta, self.gamma = (nn.Parameter(torch.ones(1)) for _ in range(3))
        _start_as_identity(self.down_proj, self.up_proj)
        _initialise(self.spatial_dwconv, kernel**2)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        h = F.gelu(self.down_proj(x))
        spatial = h + grid.convolve_spatial(self.spatial_dwconv, h)
        temporal = h + grid.convolve_temporal(self.temporal_dwconv, h)
        joined = torch.cat([self.beta * spatial, self.gamma * temporal], dim=-1)
        return x + self.alpha * self.up_proj(joined)  # type: ignore[no-any-return]


class TwoDownAdapter(nn.Module):
    """A variant of DSTA with one down-projection per path and convolutions without biases (docs/architecture.md).

    a = GELU(down_s(x)), s = PWConv2d(SDWConv2d(a)) + a, b = GELU(down_t(x)), t = TDWConv1d(b) + b,
    out = x + alpha * up([beta * s ; gamma * t])
    """

    def __init__(self, dim: int, config: AdapterConfig) -> None:
        super().__init__()
        hidden, kernel = int(dim * config.ratio), config.spatial_kernel
        self.spatial_down_proj = nn.Linear(dim, hidden)
        self.temporal_down_proj = nn.Linear(dim, hidden)
        self.spatial_dwconv = nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden, bias=False)
        self.spatial_conv = nn.Conv2d(hidden, hidden, 1, bias=False)
        self.temporal_dwconv = _temporal_depthwise(hidden, config.temporal_kernel, bias=False)
        self.up_proj = nn.Linear(2 * hidden, dim)
        self.alpha, self.beta, self.gamma = (nn.Parameter(torch.ones(1)) for _ in range(3))
        _start_as_identity(self.spatial_down_proj, self.up_proj)
        _start_as_identity(self.temporal_down_proj, self.up_proj)
        _initialise(self.spatial_dwconv, kernel**2)
        _initialise(self.spatial_conv, hidden)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        a, b = F.gelu(self.spatial_down_proj(x)), F.gelu(self.temporal_down_proj(x))
        spatial = a + grid.convolve_spatial(lambda maps: self.spatial_conv(self.spatial_dwconv(maps)), a)
        temporal = b + grid.convolve_temporal(self.temporal_dwconv, b)
        joined = torch.cat([self.beta * spatial, self.gamma * temporal], dim=-1)
        return x + self.alpha * self.up_proj(joined)  # type: ignore[no-any-return]


ADAPTERS: dict[str, type[nn.Module]] = {
    "standard": StandardAdapter,
    "tia": TemporalInformativeAdapter,
    "dsta": DualPathAdapter,
    "dsta_two_down": TwoDownAdapter,
}


def _temporal_depthwise(channels: int, kernel: int, *, bias: bool = True) -> nn.Conv1d:
    conv = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=bias)
    _initialise(conv, kernel)
    return conv


def _initialise(conv: nn.Conv1d | nn.Conv2d, inputs: int) -> None:
    nn.init.normal_(conv.weight, std=(2 / inputs) ** 0.5)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def _start_as_identity(down: nn.Linear, up: nn.Linear) -> None:
    # With a zero up-projection, an untrained adapter does not change the pretrained features.
    nn.init.trunc_normal_(down.weight, std=0.02)
    nn.init.zeros_(down.bias)
    nn.init.zeros_(up.weight)
    nn.init.zeros_(up.bias)
