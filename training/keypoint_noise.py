"""Ground truth keypoints with simulated noise, as input of a pose backbone, which needs no decoding of videos."""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.network import Network
from model.pose_estimator import KeypointReader

# Noise parameters are those of the shipped finder, as measured by training/keypoints.py.
_DRIFT_STEPS = 8  # steps between the knots of the drifting error
_DRIFT, _FRESH = 0.8, 0.25  # standard deviations of the drifting and independent errors, relative to the constant one
_SCALE_MEDIAN, _SCALE_SIGMA = 0.6, 0.7  # log-normal factor of the error of each keypoint
_INVISIBLE_FACTOR = 3.0  # factor of the error of invisible keypoints
_INVISIBLE_WEIGHT = 0.1  # loss weight of positions of invisible keypoints (clamped to the border if outside)
_VISIBILITY_WEIGHT = 0.1  # loss weight of visibility, relative to positions
_BETA = 0.02  # of the smooth L1 loss, as a fraction of the frame


def add_keypoint_noise(keypoints: Tensor, mask: Tensor, error: float) -> Tensor:
    """Add noise that resembles the errors of a pose estimator to keypoints (B, steps, j, 3): x, y, visibility.

    `error` is the standard deviation of its constant part, as a fraction of the frame's side. Outside of the mask
    (B, steps) the last frame is repeated.
    """
    last = (mask.sum(dim=1, keepdim=True) - 1).clamp(min=0)
    steps = torch.arange(keypoints.shape[1], device=keypoints.device)[None].minimum(last)  # (B, steps)
    repeated = keypoints.gather(1, steps[..., None, None].expand(-1, -1, *keypoints.shape[2:]))
    positions, visible = repeated[..., :2], repeated[..., 2:]
    batch, count, number = positions.shape[:3]
    constant = torch.randn(batch, 1, number, 2, device=keypoints.device)
    knots = torch.randn(batch, number * 2, -(-count // _DRIFT_STEPS) + 1, device=keypoints.device)
    drift = F.interpolate(knots, size=count, mode="linear", align_corners=True).transpose(1, 2)
    fresh = _FRESH * torch.randn(positions.shape, device=keypoints.device)
    factor = _SCALE_MEDIAN * torch.exp(_SCALE_SIGMA * torch.randn(batch, 1, number, 1, device=keypoints.device))
    errors = constant + _DRIFT * drift.reshape(positions.shape) + fresh
    errors = errors * factor * error * (1 + (_INVISIBLE_FACTOR - 1) * (1 - visible))
    return torch.cat([(positions + errors).clamp(0, 1), visible], dim=-1)


def get_keypoint_reader(network: Network) -> KeypointReader:
    """Return the backbone, which must be a KeypointReader; `Recipe` validates that."""
    assert isinstance(network.backbone, KeypointReader)
    return network.backbone


def features_from_keypoints(network: Network, keypoints: Tensor, mask: Tensor) -> Tensor:
    """Compute features (B, dim, window) from keypoints (B, steps, j, 3) instead of frames, see Network.features."""
    return network.interpolate_to_steps(get_keypoint_reader(network).read(keypoints), keypoints.shape[1], mask)


def keypoint_loss(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the smooth L1 loss of positions plus the cross entropy of visibility; keypoints are (B, steps, j, 3)."""
    weight = (_INVISIBLE_WEIGHT + (1 - _INVISIBLE_WEIGHT) * target[..., 2]) * mask[..., None]
    positions = target[..., :2].clamp(0, 1)
    distance = F.smooth_l1_loss(predicted[..., :2], positions, reduction="none", beta=_BETA).sum(dim=-1)
    visibility = F.binary_cross_entropy(predicted[..., 2][mask], target[..., 2][mask])
    return 10 * (distance * weight).sum() / weight.sum().clamp(min=1) + _VISIBILITY_WEIGHT * visibility
