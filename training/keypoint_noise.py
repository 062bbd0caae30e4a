"""Joints instead of pictures: what a pose backbone reads, with errors like those of joints that are found in pictures.

The temporal part of such a backbone, and the head, learn from them without any picture being read.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.network import Network
from model.pose_estimator import JointReader

# As training/joints.py measures the shipped finder: drifting and fresh against lasting errors, and how uneven they are.
_SLOW = 8  # steps from one slow error to the next
_DRIFT, _FRESH = 0.8, 0.25  # against the error that lasts
_EASE, _UNEVEN = 0.6, 0.7  # median, and sd of the logarithm, of how much worse than others a joint is found
_HIDDEN = 3.0  # how much worse joints are found that are not seen
_UNSEEN = 0.1  # weight of places of joints that are not seen: at the border if they are outside
_SEEN_WEIGHT = 0.1  # of being told seen or not, against places
_NEAR = 0.02  # of the picture: smaller errors count by their square


def as_found(joints: Tensor, mask: Tensor, error: float) -> Tensor:
    """Joints as a network would find them.

    Args:
        joints: (B, steps, j, 3): x, y, 0 to 1, and whether seen.
        mask: (B, steps) bool; behind a video's end its last frame is repeated.
        error: standard deviation, in sides of the picture, of the error that lasts the whole window; another drifts,
            a third is new in every frame. In each window some joints are found better than others.

    Returns:
        (B, steps, j, 3).
    """
    last = (mask.sum(dim=1, keepdim=True) - 1).clamp(min=0)
    steps = torch.arange(joints.shape[1], device=joints.device)[None].minimum(last)  # (B, steps)
    held = joints.gather(1, steps[..., None, None].expand(-1, -1, *joints.shape[2:]))
    places, seen = held[..., :2], held[..., 2:]
    batch, count, number = places.shape[:3]
    constant = torch.randn(batch, 1, number, 2, device=joints.device)
    knots = torch.randn(batch, number * 2, -(-count // _SLOW) + 1, device=joints.device)
    drift = F.interpolate(knots, size=count, mode="linear", align_corners=True).transpose(1, 2)
    fresh = _FRESH * torch.randn(places.shape, device=joints.device)
    uneven = _EASE * torch.exp(_UNEVEN * torch.randn(batch, 1, number, 1, device=joints.device))
    errors = constant + _DRIFT * drift.reshape(places.shape) + fresh
    errors = errors * uneven * error * (1 + (_HIDDEN - 1) * (1 - seen))
    return torch.cat([(places + errors).clamp(0, 1), seen], dim=-1)


def reader_of(network: Network) -> JointReader:
    """The backbone, as one that finds joints and reads them: recipes see to it."""
    assert isinstance(network.backbone, JointReader)
    return network.backbone


def features_of(network: Network, joints: Tensor, mask: Tensor) -> Tensor:
    """Joints (B, steps, j, 3) in the place of pictures -> (B, dim, window), see Network.features."""
    return network.on_steps(reader_of(network).read(joints), joints.shape[1], mask)


def misfound(found: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """How far joints are from where they are, those not seen counting less, and whether they are told to be seen.

    Args:
        found, wanted: (B, steps, j, 3). mask: (B, steps) bool.
    """
    weight = (_UNSEEN + (1 - _UNSEEN) * wanted[..., 2]) * mask[..., None]
    places = wanted[..., :2].clamp(0, 1)
    away = F.smooth_l1_loss(found[..., :2], places, reduction="none", beta=_NEAR).sum(dim=-1)
    told = F.binary_cross_entropy(found[..., 2][mask], wanted[..., 2][mask])
    return 10 * (away * weight).sum() / weight.sum().clamp(min=1) + _SEEN_WEIGHT * told
