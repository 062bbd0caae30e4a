"""Objectives of training stages: losses of points, of keypoints, and dense losses of actions and features per step."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.bundle import Bundle, InputConfig, Manifest
from model.network import Network
from training.augment import Example
from training.keypoint_noise import add_keypoint_noise, features_from_keypoints, get_keypoint_reader, keypoint_loss
from training.losses import DetectionLoss, Targets, assign, make_grid, make_point_mask
from training.recipe import StageConfig
from training.run import TrainingError, start_network

# Input settings that teacher and student must share. Images are resized for the teacher; a pose backbone has no clips.
_SHARED_INPUT = ("fps", "window_frames", "clip_frames", "mean", "std")
_POSITIVE_WEIGHT = 3.0  # most actions are absent at most steps
_MOTION_WEIGHT = 4.0  # factor of keypoint motion about the mean position, relative to the position


class Batch(NamedTuple):
    """A batch of windows on one device.

    Attributes:
        clips: (B, clips, frames, height, width, 3) uint8.
        mask: (B, window) bool, valid steps.
        classes, offsets: (B, points, actions) and (B, points, 2), targets of points.
        dense: (B, window, actions), 1 during actions.
        keypoints: (B, window, j, 3), position and visibility; j is 0 if they are unknown.
    """

    clips: Tensor
    mask: Tensor
    classes: Tensor
    offsets: Tensor
    dense: Tensor
    keypoints: Tensor


def collate(examples: Sequence[Example], manifest: Manifest) -> Batch:
    """Pad windows to the longest of the batch, and assign targets."""
    config = manifest.input
    actions, window = len(manifest.taxonomy.actions), config.window_frames
    grid = make_grid(window, manifest.architecture.head.strides)
    longest = max(len(example.frames) for example in examples)
    count = -(-longest // config.clip_frames)
    clips, masks, targets, dense = [], [], [], []
    for example in examples:
        frames = torch.from_numpy(example.frames)
        missing = count * config.clip_frames - len(frames)
        padded = torch.cat([frames, frames[-1:].expand(missing, *frames.shape[1:])])
        clips.append(padded.reshape(count, config.clip_frames, *frames.shape[1:]))
        masks.append(torch.arange(window) < len(frames))
        segments, labels = torch.from_numpy(example.segments).float(), torch.from_numpy(example.labels)
        targets.append(assign(grid, segments, labels, actions))
        dense.append(_rasterise(segments, labels, window, actions))
    return Batch(
        torch.stack(clips), torch.stack(masks), torch.stack([target.classes for target in targets]),
        torch.stack([target.offsets for target in targets]), torch.stack(dense), _stack_keypoints(examples, window),
    )  # fmt: skip


def _rasterise(segments: Tensor, labels: Tensor, window: int, actions: int) -> Tensor:
    """Return (window, actions): 1 at steps of which at least half lies in the action."""
    active = torch.zeros(window, actions)
    for (start, end), label in zip(segments.tolist(), labels.tolist(), strict=True):
        active[round(start) : max(round(end), round(start) + 1), label] = 1
    return active


def _stack_keypoints(examples: Sequence[Example], window: int) -> Tensor:
    """Stack keypoints to (B, window, j, 3), zeros (invisible) for videos without keypoints."""
    known = [example.keypoints for example in examples if example.keypoints is not None]
    count = known[0].shape[1] if known else 0
    keypoints = torch.zeros(len(examples), window, count, 3)
    for index, example in enumerate(examples):
        if example.keypoints is not None:
            keypoints[index, : len(example.keypoints)] = torch.from_numpy(example.keypoints).float()
    return keypoints


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
    """Return the mean squared error of features (B, width, window) in the mask from the normalised target."""
    steps = target.transpose(1, 2)[mask]  # (steps, width)
    steps = F.batch_norm(steps, None, None, training=True)
    return F.mse_loss(predicted.transpose(1, 2)[mask], steps)


class TrainingModule(nn.Module):
    """A network with the layers and losses that only training needs."""

    def __init__(
        self, network: Network, manifest: Manifest, keypoints: int, *, half: bool = False,
        teacher: Teacher | None = None,
    ) -> None:  # fmt: skip
        """Add layers for `keypoints` keypoints in the sidecars. `half` computes the backbone in bfloat16."""
        super().__init__()
        self.network, self._half = network, half
        self._strides = manifest.architecture.head.strides
        dim = manifest.architecture.backbone.embed_dim
        self.temporal = nn.Sequential(nn.Conv1d(dim, dim, 5, padding=2, groups=dim), nn.Conv1d(dim, dim, 1), nn.GELU())
        self.dense = nn.Conv1d(dim, len(manifest.taxonomy.actions), 1)
        nn.init.constant_(self.dense.bias, -3.0)  # type: ignore[arg-type]
        self.keypoints = nn.Conv1d(dim, 2 * keypoints, 1) if keypoints else None
        self._teacher = teacher
        self.distillation = nn.Conv1d(dim, teacher.width, 1) if teacher is not None else None
        self.loss = DetectionLoss(make_grid(manifest.input.window_frames, manifest.architecture.head.strides))

    def forward(self, batch: Batch, stage: StageConfig) -> dict[str, Tensor]:
        """Return the losses by name, and under "loss" their sum, which is minimised."""
        if stage.objective == "keypoints":
            return self._keypoints_loss(batch)
        keypoints = None if stage.given == "pictures" else make_noisy_keypoints(batch, stage.keypoint_noise)
        features = self._features(batch, keypoints)
        losses: dict[str, Tensor] = {}
        if stage.objective == "detection":
            points = self.network.detector(features.float(), batch.mask)
            valid = make_point_mask(batch.mask, self._strides)
            detection = self.loss(points, valid, Targets(batch.classes, batch.offsets))
            losses |= {"classes": detection.classes, "boundaries": detection.boundaries}
        weight = 1.0 if stage.objective == "dense" else stage.dense
        if weight:
            losses |= self._dense_losses(features.float(), batch, weight, stage)
            if self.distillation is not None and self._teacher is not None and stage.distillation:
                target = self._teacher.features(batch.clips, batch.mask, keypoints)
                distance = feature_distance(self.distillation(features.float()), target, batch.mask)
                losses["teacher"] = weight * stage.distillation * distance
        return losses | {"loss": torch.stack(list(losses.values())).sum()}

    def _features(self, batch: Batch, keypoints: Tensor | None) -> Tensor:
        with torch.autocast(batch.clips.device.type, torch.bfloat16, enabled=self._half):
            if keypoints is None:
                return self.network.features(batch.clips, batch.mask)
            return features_from_keypoints(self.network, keypoints, batch.mask)

    def _keypoints_loss(self, batch: Batch) -> dict[str, Tensor]:
        with torch.autocast(batch.clips.device.type, torch.bfloat16, enabled=self._half):
            predicted = get_keypoint_reader(self.network).find(self.network.normalise(batch.clips))
        steps = predicted.shape[1]
        loss = keypoint_loss(predicted.float(), batch.keypoints[:, :steps], batch.mask[:, :steps])
        return {"keypoints": loss, "loss": loss}

    def _dense_losses(self, features: Tensor, batch: Batch, weight: float, stage: StageConfig) -> dict[str, Tensor]:
        temporal = features + self.temporal(features)
        logits = self.dense(temporal).transpose(1, 2)[batch.mask]  # (steps, actions)
        positive = logits.new_full((logits.shape[-1],), _POSITIVE_WEIGHT)
        losses = {
            "dense": weight * F.binary_cross_entropy_with_logits(logits, batch.dense[batch.mask], pos_weight=positive)
        }
        if self.keypoints is not None and stage.keypoints and batch.keypoints.shape[2]:
            positions = self.keypoints(features).transpose(1, 2).unflatten(-1, (-1, 2))  # (B, window, j, 2)
            losses["keypoints"] = weight * stage.keypoints * _position_loss(positions, batch)
        return losses


def _position_loss(positions: Tensor, batch: Batch) -> Tensor:
    """Return the loss of predicted positions (B, window, j, 2), and of their motion about the mean, a few pixels."""
    visible = batch.keypoints[..., 2:] * batch.mask[..., None, None]
    target = batch.keypoints[..., :2]
    count = visible.sum(1, keepdim=True).clamp(min=1)
    motion, target_motion = (x - (x * visible).sum(1, keepdim=True) / count for x in (positions, target))
    position_loss = F.smooth_l1_loss(positions, target, reduction="none", beta=0.05)
    motion_loss = F.smooth_l1_loss(_MOTION_WEIGHT * motion, _MOTION_WEIGHT * target_motion, reduction="none", beta=0.05)
    return ((position_loss + motion_loss) * visible).sum() / visible.sum().clamp(min=1)


def make_noisy_keypoints(batch: Batch, error: float) -> Tensor:
    """Return the keypoints of all clips with simulated noise, (B, steps, j, 3)."""
    steps = batch.clips.shape[1] * batch.clips.shape[2]
    return add_keypoint_noise(batch.keypoints[:, :steps], batch.mask[:, :steps], error)
