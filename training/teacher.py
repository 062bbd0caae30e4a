"""A bundle that is already trained, as what another backbone may learn from: its features, at every step."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from model.bundle import Bundle, InputConfig
from model.network import Network
from training.run import TrainingError
from training.start import start_network

# What must be alike for both to be given the same pictures.
_SEEN = ("height", "width", "fps", "window_frames", "clip_frames", "mean", "std")


class Teacher:
    """A frozen network, no part of what is trained: neither its weights nor its gradients are kept.

    Args:
        folder: of its bundle.
        seen: the pictures that the network to be taught is given.

    Raises:
        BundleError: a bundle that cannot be read.
        TrainingError: its input differs.
    """

    def __init__(self, folder: Path, seen: InputConfig) -> None:
        manifest = Bundle.load(folder).manifest
        for name in _SEEN:
            theirs, ours = getattr(manifest.input, name), getattr(seen, name)
            if theirs != ours:
                raise TrainingError(
                    f"teacher {folder} has input.{name} {theirs}, the recipe {ours}: a teacher must see the same "
                    f"pictures; set input.{name} to {theirs}"
                )
        self.width = manifest.architecture.backbone.embed_dim
        self._network = Network(manifest).eval().requires_grad_(False)
        start_network(self._network, folder)

    @torch.no_grad()
    def features(self, clips: Tensor, mask: Tensor) -> Tensor:
        """(B, width, window): what the student is to tell; see Network.features."""
        self._network.to(clips.device)
        return self._network.features(clips, mask)


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
