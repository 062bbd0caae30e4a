"""Sinusoidal position encodings for patches and steps."""

import torch
from torch import Tensor


def sinusoid_table(positions: int, dim: int) -> Tensor:
    """Return (positions, dim): sines in even, cosines in odd channels (Attention Is All You Need, section 3.5)."""
    position = torch.arange(positions, dtype=torch.float64)[:, None]
    pair = torch.arange(dim, dtype=torch.float64)[None] // 2
    angle = position / 10000 ** (2 * pair / dim)
    angle[:, 0::2] = angle[:, 0::2].sin()
    angle[:, 1::2] = angle[:, 1::2].cos()
    return angle.float()
