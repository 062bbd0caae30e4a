"""Feature distillation: a backbone is trained to predict the features of a trained bundle at every step."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from model.bundle import Bundle, InputConfig
from model.network import Network
from training.keypoint_noise import features_from_keypoints
from training.run import TrainingError
from training.start import start_network

# Input settings that teacher and student must share, so that their steps coincide. Images are resized for the teacher;
# a pose backbone has no clips.
_SHARED_INPUT = ("fps", "window_frames", "clip_frames", "mean", "std")


class Teacher:
    """Frozen network of a bundle. It is not a module, so that it is in no checkpoint and gets no gradients."""

    def __init__(self, folder: Path, student_input: InputConfig) -> None:
        """Load a bundle; raise TrainingError if its input differs from the student's."""
        manifest = Bundle.load(folder).manifest
        clipless = manifest.architecture.backbone.kind == "pose"
        for name in (name for name in _SHARED_INPUT if not (clipless and name == "clip_frames")):
            teacher_value, student_value = getattr(manifest.input, name), getattr(student_input, name)
            if teacher_value != student_value:
                raise TrainingError(
                    f"teacher {folder} has input.{name} {teacher_value}, the recipe {student_value}: a teacher must "
                    f"see the same moments; set input.{name} to {teacher_value}"
                )
        self.width = manifest.architecture.backbone.embed_dim
        self._size = (manifest.input.height, manifest.input.width)
        self.finds_keypoints = manifest.architecture.finds_keypoints
        self._network = Network(manifest).eval().requires_grad_(False)
        start_network(self._network, folder)

    @torch.no_grad()
    def features(self, clips: Tensor, mask: Tensor, keypoints: Tensor | None = None) -> Tensor:
        """Return features (B, width, window) of clips, or of keypoints if given; see Network.features."""
        self._network.to(clips.device)
        if keypoints is not None:
            return features_from_keypoints(self._network, keypoints, mask)
        return self._network.features(_resize(clips, self._size), mask)


def _resize(clips: Tensor, size: tuple[int, int]) -> Tensor:
    if clips.shape[3:5] == size:
        return clips
    images = clips.flatten(0, 2).permute(0, 3, 1, 2).float()
    images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
    return images.permute(0, 2, 3, 1).reshape(*clips.shape[:3], *size, 3)


def feature_distance(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared error of features (B, width, window) over the valid steps of the mask (B, window).

    Targets are normalised to mean 0 and variance 1, since their means and scales would dominate the loss.
    """
    steps = target.transpose(1, 2)[mask]  # (steps, width)
    steps = F.batch_norm(steps, None, None, training=True)
    return F.mse_loss(predicted.transpose(1, 2)[mask], steps)
