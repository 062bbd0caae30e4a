"""A bundle that is already trained, as what another backbone may learn from: its features, at every step."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from model.bundle import Bundle, InputConfig
from model.network import Network
from training.keypoint_noise import features_of
from training.run import TrainingError
from training.start import start_network

# What must be alike for both to be given the same moments; pictures of another size are scaled for the teacher, and one
# of kind pose has no clips.
_SEEN = ("fps", "window_frames", "clip_frames", "mean", "std")


class Teacher:
    """A frozen network, no part of what is trained: neither its weights nor its gradients are kept.

    Args:
        folder: of its bundle.
        seen: the pictures that the network to be taught is given.

    Raises:
        BundleError: a bundle that cannot be read.
        TrainingError: its input differs.

    Attributes:
        width: of its features. finds_joints: whether joints can be given to it in the place of pictures.
    """

    def __init__(self, folder: Path, seen: InputConfig) -> None:
        manifest = Bundle.load(folder).manifest
        clipless = manifest.architecture.backbone.kind == "pose"
        for name in (name for name in _SEEN if not (clipless and name == "clip_frames")):
            theirs, ours = getattr(manifest.input, name), getattr(seen, name)
            if theirs != ours:
                raise TrainingError(
                    f"teacher {folder} has input.{name} {theirs}, the recipe {ours}: a teacher must see the same "
                    f"moments; set input.{name} to {theirs}"
                )
        self.width = manifest.architecture.backbone.embed_dim
        self._size = (manifest.input.height, manifest.input.width)
        self.finds_joints = manifest.architecture.finds_joints
        self._network = Network(manifest).eval().requires_grad_(False)
        start_network(self._network, folder)

    @torch.no_grad()
    def features(self, clips: Tensor, mask: Tensor, joints: Tensor | None = None) -> Tensor:
        """(B, width, window): what the student is to tell, of clips or of joints; see Network.features."""
        self._network.to(clips.device)
        if joints is not None:
            return features_of(self._network, joints, mask)
        return self._network.features(_scaled(clips, self._size), mask)


def _scaled(clips: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, clips, frames, height, width, 3) uint8 -> the same with pictures of this height and width."""
    if clips.shape[3:5] == size:
        return clips
    pictures = clips.flatten(0, 2).permute(0, 3, 1, 2).float()
    pictures = F.interpolate(pictures, size=size, mode="bilinear", align_corners=False, antialias=True)
    return pictures.permute(0, 2, 3, 1).reshape(*clips.shape[:3], *size, 3)


def unlike(told: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the steps that show something, of features that each have variance 1 in the batch.

    Their means and scales would count for more than what tells one movement from another. It is 1 for who always tells
    the mean.

    Args:
        told, wanted: (B, width, window). mask: (B, window) bool.
    """
    steps = wanted.transpose(1, 2)[mask]  # (steps, width)
    steps = F.batch_norm(steps, None, None, training=True)
    return F.mse_loss(told.transpose(1, 2)[mask], steps)
