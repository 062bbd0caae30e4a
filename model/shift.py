"""A small convolutional backbone: residual stages on each tubelet, which see its neighbours by a temporal shift."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.architecture import ShiftConfig
from model.inputs import with_channels


def shift(x: Tensor, batch: int, channels: int) -> Tensor:
    """Temporal shift (TSM, ICCV 2019) along a window; zeros come in at its ends.

    Args:
        x: (B*steps, C, height, width).
        batch: B; windows do not see each other.
        channels: so many first ones come from the step after, so many next ones from the step before.
    """
    steps = x.reshape(batch, -1, *x.shape[1:])  # (B, steps, C, height, width)
    after, before, rest = steps.tensor_split((channels, 2 * channels), dim=2)
    end = (0,) * 6
    shifted = [F.pad(after[:, 1:], (*end, 0, 1)), F.pad(before[:, :-1], (*end, 1, 0)), rest]
    return torch.cat(shifted, dim=2).flatten(0, 1)


class ShiftBlock(nn.Module):
    """A residual block whose first convolution sees shifted channels; the identity path sees none."""

    def __init__(self, inside: int, outside: int, stride: int, fraction: float) -> None:
        super().__init__()
        self.shifted = int(inside * fraction)
        self.conv1 = _conv_norm_relu(inside, outside, kernel=3, stride=stride)
        self.conv2 = _conv_norm(outside, outside, kernel=3)
        same = inside == outside and stride == 1
        self.skip = nn.Identity() if same else _conv_norm(inside, outside, kernel=1, stride=stride)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """(B*steps, C, height, width) -> (B*steps, C', height / stride, width / stride)."""
        update = self.conv2(self.conv1(shift(x, batch, self.shifted)))
        return F.relu(update + self.skip(x))


class AttentionPool(nn.Module):
    """Some learned attentions over the places: a mean would drown head and feet, which are a few of them."""

    def __init__(self, channels: int, config: ShiftConfig) -> None:
        super().__init__()
        side = config.position_grid
        self.positions = nn.Parameter(torch.empty(1, channels, side, side))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.score = nn.Linear(channels, config.queries, bias=False)  # a softmax over places takes none
        self.value = nn.Linear(channels, config.query_width)
        self.out = nn.Linear(config.queries * config.query_width, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, height, width) -> (N, dim)."""
        positions = F.interpolate(self.positions, size=x.shape[2:], mode="bilinear", align_corners=False)
        places = (x + positions).flatten(2).transpose(1, 2)  # (N, places, C)
        weights = self.score(places).softmax(dim=1)  # (N, places, queries)
        pooled = weights.transpose(1, 2) @ self.value(places)  # (N, queries, query_width)
        return self.out(pooled.flatten(1))  # type: ignore[no-any-return]


class TemporalBlock(nn.Module):
    """What a place cannot tell by itself: a dilated depth-wise convolution in time and a small MLP, residual."""

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.conv = nn.Conv1d(dim, dim, 3, padding=dilation, dilation=dilation, groups=dim)
        self.fc1 = nn.Linear(dim, 2 * dim)
        self.fc2 = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, steps, dim) -> the same shape."""
        update = self.conv(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.fc2(F.gelu(self.fc1(update)))  # type: ignore[no-any-return]


class ShiftBackbone(nn.Module):
    """In the place of the transformer: the same clips in, the same features out. All steps of a window are one."""

    def __init__(self, config: ShiftConfig) -> None:
        super().__init__()
        self.config = config
        first, *stages = config.widths
        self.stem = _conv_norm_relu(config.channels * config.tubelet_size, first, kernel=5, stride=2)
        blocks: list[ShiftBlock] = []
        inside = first
        for outside, count in zip(stages, config.blocks, strict=True):
            for index in range(count):
                blocks.append(ShiftBlock(inside, outside, 1 if index else 2, config.shift_fraction))
                inside = outside
        self.blocks = nn.ModuleList(blocks)
        self.pool = AttentionPool(inside, config)
        self.temporal = nn.Sequential(*(TemporalBlock(config.embed_dim, step) for step in config.dilations))
        self.norm = nn.LayerNorm(config.embed_dim)
        # Convolutions on processors are faster so, by up to a sixth.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, clips: Tensor) -> Tensor:
        """Normalised pictures to features.

        Args:
            clips: (B, clips, 3, frames, height, width) float.

        Returns:
            (B, dim, clips * frames / tubelet), in time order.
        """
        batch = clips.shape[0]
        x = with_channels(clips, self.config).flatten(0, 1)  # (B*clips, channels, frames, height, width)
        x = self.stem(self._tubelets(x))
        for block in self.blocks:
            x = block(x, batch)
        features = self.pool(x)  # (B*steps, dim)
        features = self.temporal(features.reshape(batch, -1, features.shape[-1]))
        return self.norm(features).transpose(1, 2)  # type: ignore[no-any-return]

    def _tubelets(self, x: Tensor) -> Tensor:
        """(N, channels, frames, height, width) -> (N*frames/tubelet, channels*tubelet, height, width)."""
        number, channels, frames, height, width = x.shape
        size = self.config.tubelet_size
        x = x.reshape(number, channels, frames // size, size, height, width).transpose(1, 2)
        return x.reshape(-1, channels * size, height, width)


def _conv_norm_relu(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*_conv_norm(inside, outside, kernel, stride), nn.ReLU())


def _conv_norm(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution without bias, then batch norm: tubelets of ten or more people share a batch."""
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outside))
