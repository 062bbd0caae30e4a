"""ActionFormer (ECCV 2022): from the features of a window to class logits and boundary offsets of points.

Sequences are (B, channels, steps); masks are (B, steps) bool, True for steps with a frame of the video. A layer with a
stride gets the mask of its output. Module names are those of OpenTAD, so that published weights load by name.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.architecture import HeadConfig
from model.sinusoids import sinusoid_table


class Points(NamedTuple):
    """Raw predictions for a batch of windows; levels are concatenated, finest first."""

    logits: Tensor  # (B, points, actions), before the sigmoid
    offsets: Tensor  # (B, points, 2), distance to start and to end, in strides of the point's level


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, channels, steps)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.transpose(1, 2)).transpose(1, 2)


class MaskedConv(nn.Module):
    """A convolution whose outputs are zero outside the mask, followed by norm and ReLU if `norm` is set."""

    def __init__(
        self, inner: int, outer: int, kernel: int, *, stride: int = 1, groups: int = 1, norm: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = ChannelNorm(outer, eps=1e-6) if norm else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.conv(x) * mask[:, None]
        return x if self.norm is None else F.relu(self.norm(x)) * mask[:, None]


class ConvAttention(nn.Module):
    """Self-attention over steps; depth-wise convolutions before q, k and v downsample by `stride`."""

    def __init__(self, channels: int, heads: int, stride: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        for name in ("query", "key", "value"):
            self.add_module(
                f"{name}_conv", MaskedConv(channels, channels, 3, stride=stride, groups=channels, norm=False)
            )
            self.add_module(f"{name}_norm", ChannelNorm(channels))
            self.add_module(name, nn.Conv1d(channels, channels, 1))
        self.proj = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (self._project(name, x, mask) for name in ("query", "key", "value"))
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self._make_attention_mask(mask))
        return self.proj(x.transpose(2, 3).flatten(1, 2)) * mask[:, None]  # type: ignore[no-any-return]

    def _make_attention_mask(self, mask: Tensor) -> Tensor:
        """Return which steps each step attends to: (B, 1, steps or 1, steps)."""
        # A row without any True would give NaN weights, so with local attention each step attends to itself, also after
        # the end of the video.
        if self.window <= 1:
            return mask[:, None, None, :]
        step = torch.arange(mask.shape[1], device=mask.device)
        distance = (step[:, None] - step).abs()
        return (mask[:, None, None, :] & (distance <= self.window // 2)) | (distance == 0)

    def _project(self, name: str, x: Tensor, mask: Tensor) -> Tensor:
        convolved = self.get_submodule(f"{name}_norm")(self.get_submodule(f"{name}_conv")(x, mask))
        split: Tensor = self.get_submodule(name)(convolved).unflatten(1, (self.heads, -1))
        return split.transpose(2, 3)  # (B, heads, steps, channels / heads)


class ResidualScale(nn.Module):
    """ActionFormer's drop path: a learned scale per channel; during training, residual paths are dropped at random."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.scale = nn.Parameter(torch.full((1, channels, 1), 1e-4))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale
        if not self.training:
            return x
        return x * (torch.rand(x.shape[0], 1, 1, device=x.device) >= self.dropout) / (1 - self.dropout)


class PyramidBlock(nn.Module):
    """A pre-norm transformer block; with stride 2, the skip path is max-pooled."""

    def __init__(self, config: HeadConfig, stride: int, level: int) -> None:
        super().__init__()
        channels = config.channels
        self.stride = stride
        self.ln1 = ChannelNorm(channels)
        self.attn = ConvAttention(channels, config.heads, stride, config.get_attention_window(level))
        self.ln2 = ChannelNorm(channels)
        # Published weights have a dropout without parameters at index 2.
        self.mlp = nn.Sequential(
            nn.Conv1d(channels, 4 * channels, 1), nn.GELU(), nn.Identity(), nn.Conv1d(4 * channels, channels, 1)
        )
        self.drop_path_attn, self.drop_path_mlp = (
            ResidualScale(channels, config.path_dropout) if config.path_dropout > 0 else nn.Identity() for _ in range(2)
        )

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        mask = mask[:, :: self.stride]
        skip = F.max_pool1d(x, 3, self.stride, 1) if self.stride > 1 else x
        x = skip * mask[:, None] + self.drop_path_attn(self.attn(self.ln1(x), mask))
        x = x + self.drop_path_mlp(self.mlp(self.ln2(x)) * mask[:, None])
        return x, mask


class Projection(nn.Module):
    """Embedding convolutions, a transformer stem, and a branch whose blocks each halve the number of steps."""

    def __init__(self, config: HeadConfig, features: int) -> None:
        super().__init__()
        widths = [features] + [config.channels] * config.embed_convs
        self.embed = nn.ModuleList([MaskedConv(inner, config.channels, config.kernel_size) for inner in widths[:-1]])
        self.stem = nn.ModuleList([PyramidBlock(config, 1, 0) for _ in range(config.stem_blocks)])
        self.branch = nn.ModuleList([PyramidBlock(config, 2, level + 1) for level in range(config.branch_blocks)])
        for module in self.modules():
            if isinstance(module, nn.Conv1d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        self.positions: Tensor | None
        table = sinusoid_table(config.position_steps, config.channels).T[None] / config.channels**0.5
        self.register_buffer("positions", table if config.position_steps else None, persistent=False)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Compute the levels and their masks."""
        for conv in self.embed:
            x = conv(x, mask)
        if self.positions is not None:
            x = x + _resize(self.positions, x.shape[2]) * mask[:, None]
        for block in self.stem:
            x, mask = block(x, mask)
        levels, masks = [x], [mask]
        for block in self.branch:
            x, mask = block(x, mask)
            levels.append(x)
            masks.append(mask)
        return levels, masks


class Neck(nn.Module):
    """A norm for each level, without connections between levels (ActionFormer's identity pyramid)."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.fpn_norms = nn.ModuleList([ChannelNorm(config.channels, eps=1e-6) for _ in config.strides])

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        return [norm(level) for norm, level in zip(self.fpn_norms, levels, strict=True)]


class PointHead(nn.Module):
    """Convolutional towers for classification and regression, shared by all levels."""

    def __init__(self, config: HeadConfig, actions: int) -> None:
        super().__init__()
        channels = config.channels
        self.cls_convs, self.reg_convs = (
            nn.ModuleList([MaskedConv(channels, channels, 3) for _ in range(config.head_convs)]) for _ in range(2)
        )
        self.cls_head = nn.Conv1d(channels, actions, 3, padding=1)
        self.reg_head = nn.Conv1d(channels, 2, 3, padding=1)
        self.scale = nn.ModuleList([nn.ParameterDict({"scale": torch.ones(())}) for _ in config.strides])
        # Few points belong to an action: a bias at the prior probability keeps the initial focal loss small.
        prior = config.prior_probability
        nn.init.constant_(self.cls_head.bias, -math.log((1 - prior) / prior))  # type: ignore[arg-type]
        nn.init.zeros_(self.reg_head.bias)  # type: ignore[arg-type]

    def forward(self, levels: list[Tensor], masks: list[Tensor]) -> Points:
        logits, offsets = [], []
        for scale, level, mask in zip(self.scale, levels, masks, strict=True):
            actions, boundaries = level, level
            for conv in self.cls_convs:
                actions = conv(actions, mask)
            for conv in self.reg_convs:
                boundaries = conv(boundaries, mask)
            logits.append(self.cls_head(actions))
            offsets.append(F.relu(self.reg_head(boundaries) * scale.get_parameter("scale")))
        return Points(torch.cat(logits, dim=-1).transpose(1, 2), torch.cat(offsets, dim=-1).transpose(1, 2))


class ActionFormer(nn.Module):
    """Projection, neck and head (ActionFormer, ECCV 2022): from the features of a window to points."""

    def __init__(self, config: HeadConfig, features: int, actions: int) -> None:
        super().__init__()
        self.projection = Projection(config, features)
        self.neck = Neck(config)
        self.rpn_head = PointHead(config, actions)

    def forward(self, features: Tensor, mask: Tensor) -> Points:
        levels, masks = self.projection(features, mask)
        return self.rpn_head(self.neck(levels), masks)  # type: ignore[no-any-return]


def _resize(positions: Tensor, steps: int) -> Tensor:
    """Return (1, channels, steps): truncated, or interpolated if the table has fewer steps."""
    if steps <= positions.shape[2]:
        return positions[:, :, :steps]
    return F.interpolate(positions, size=steps, mode="linear", align_corners=False)
