"""What each stage minimises: detections of points, or every action at every step with joints beside."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.backbone import Backbone
from model.bundle import Manifest
from model.network import Network
from training.augment import Example
from training.distillation import Teacher, unlike
from training.keypoint_noise import as_found, features_of, misfound, reader_of
from training.losses import DetectionLoss
from training.masked import Decoder, masked_loss
from training.recipe import StageConfig
from training.targets import Targets, assign, make_grid

_POSITIVE_WEIGHT = 3.0  # actions are rare at any one step
_MOVES = 4.0  # how much a joint's way about its mean place counts against the place itself


class Batch(NamedTuple):
    """Windows on one device.

    Attributes:
        clips: (B, clips, frames, height, width, 3) uint8. mask: (B, window) bool.
        classes: (B, points, actions), offsets: (B, points, 2): targets of points.
        dense: (B, window, actions) 1 where an action goes on.
        joints: (B, window, j, 3): place and whether seen; j is 0 where nothing is known.
    """

    clips: Tensor
    mask: Tensor
    classes: Tensor
    offsets: Tensor
    dense: Tensor
    joints: Tensor


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
        dense.append(_on_steps(segments, labels, window, actions))
    return Batch(
        torch.stack(clips), torch.stack(masks), torch.stack([target.classes for target in targets]),
        torch.stack([target.offsets for target in targets]), torch.stack(dense), _joints(examples, window),
    )  # fmt: skip


def _on_steps(segments: Tensor, labels: Tensor, window: int, actions: int) -> Tensor:
    """(window, actions): 1 on steps of which at least half lies in the action."""
    on = torch.zeros(window, actions)
    for (start, end), label in zip(segments.tolist(), labels.tolist(), strict=True):
        on[round(start) : max(round(end), round(start) + 1), label] = 1
    return on


def _joints(examples: Sequence[Example], window: int) -> Tensor:
    """(B, window, j, 3), zeros (unseen) where a video has none."""
    known = [example.joints for example in examples if example.joints is not None]
    count = known[0].shape[1] if known else 0
    joints = torch.zeros(len(examples), window, count, 3)
    for place, example in enumerate(examples):
        if example.joints is not None:
            joints[place, : len(example.joints)] = torch.from_numpy(example.joints).float()
    return joints


class Trainee(nn.Module):
    """A network with what only training needs: dense and joint outputs, and the loss of its stage.

    The state of losses (a moving average) and of the dense outputs is part of its checkpoints.
    """

    def __init__(
        self, network: Network, manifest: Manifest, joints: int, *, half: bool = False, masked: bool = False,
        teacher: Teacher | None = None,
    ) -> None:  # fmt: skip
        """Args:
        network: to train. manifest: of it.
        joints: how many the sidecars have.
        half: compute the backbone in bfloat16; the head and all losses stay in float32.
        masked: whether a stage hides parts of the clips.
        teacher: of stages that imitate.
        """  # fmt: skip
        super().__init__()
        self.network, self._half = network, half
        self._strides = manifest.architecture.head.strides
        dim = manifest.architecture.backbone.embed_dim
        actions = len(manifest.taxonomy.actions)
        self.temporal = nn.Sequential(
            nn.Conv1d(dim, dim, 5, padding=2, groups=dim), nn.Conv1d(dim, dim, 1), nn.GELU()
        )
        self.dense = nn.Conv1d(dim, actions, 1)
        nn.init.constant_(self.dense.bias, -3.0)  # type: ignore[arg-type]
        self.joints = nn.Conv1d(dim, 2 * joints, 1) if joints else None
        self.decoder = Decoder(_transformer(network).config) if masked else None
        self._teacher = teacher
        self.imitate = nn.Conv1d(dim, teacher.width, 1) if teacher is not None else None
        self.loss = DetectionLoss(make_grid(manifest.input.window_frames, manifest.architecture.head.strides))

    def forward(self, batch: Batch, stage: StageConfig) -> dict[str, Tensor]:
        """Losses by name; their sum under "loss" is what is minimised."""
        if stage.objective == "masked":
            loss = self._masked_loss(batch)
            return {"masked": loss, "loss": loss}
        if stage.objective == "joints":
            return self._joints_loss(batch)
        joints = None if stage.given == "pictures" else found_joints(batch, stage.joint_error)
        features = self._features(batch, joints)
        losses: dict[str, Tensor] = {}
        if stage.objective == "detection":
            points = self.network.detector(features.float(), batch.mask)
            found = self.loss(
                points, _valid(batch.mask, self._strides), Targets(batch.classes, batch.offsets)
            )
            losses |= {"classes": found.classes, "boundaries": found.boundaries}
        weight = 1.0 if stage.objective == "dense" else stage.dense
        if weight:
            losses |= self._dense_losses(features.float(), batch, weight, stage)
            if self.imitate is not None and self._teacher is not None and stage.imitate:
                wanted = self._teacher.features(batch.clips, batch.mask, joints)
                away = unlike(self.imitate(features.float()), wanted, batch.mask)
                losses["teacher"] = weight * stage.imitate * away
        return losses | {"loss": torch.stack(list(losses.values())).sum()}

    def _features(self, batch: Batch, joints: Tensor | None) -> Tensor:
        """(B, dim, window), of pictures or of joints in their place."""
        with torch.autocast(batch.clips.device.type, torch.bfloat16, enabled=self._half):
            if joints is None:
                return self.network.features(batch.clips, batch.mask)
            return features_of(self.network, joints, batch.mask)

    def _joints_loss(self, batch: Batch) -> dict[str, Tensor]:
        with torch.autocast(batch.clips.device.type, torch.bfloat16, enabled=self._half):
            found = reader_of(self.network).find(self.network.normalised(batch.clips))
        steps = found.shape[1]
        loss = misfound(found.float(), batch.joints[:, :steps], batch.mask[:, :steps])
        return {"joints": loss, "loss": loss}

    def _masked_loss(self, batch: Batch) -> Tensor:
        network, decoder = self.network, self.decoder
        assert decoder is not None
        with torch.autocast(batch.clips.device.type, torch.bfloat16, enabled=self._half):
            return masked_loss(_transformer(network), decoder, network.normalised(batch.clips))

    def _dense_losses(
        self, features: Tensor, batch: Batch, weight: float, stage: StageConfig
    ) -> dict[str, Tensor]:
        seen = features + self.temporal(features)
        logits = self.dense(seen).transpose(1, 2)[batch.mask]  # (steps, actions)
        positive = logits.new_full((logits.shape[-1],), _POSITIVE_WEIGHT)
        losses = {
            "dense": weight
            * F.binary_cross_entropy_with_logits(logits, batch.dense[batch.mask], pos_weight=positive)
        }
        if self.joints is not None and stage.joints and batch.joints.shape[2]:
            places = self.joints(features).transpose(1, 2).unflatten(-1, (-1, 2))  # (B, window, j, 2)
            losses["joints"] = weight * stage.joints * _misplaced(places, batch)
        return losses


def _misplaced(places: Tensor, batch: Batch) -> Tensor:
    """How far joints are from where they are, and from how they move about their mean place, which is a few pixels.

    Args:
        places: (B, window, j, 2) told. batch: with its joints.
    """
    seen = batch.joints[..., 2:] * batch.mask[..., None, None]
    wanted = batch.joints[..., :2]
    count = seen.sum(1, keepdim=True).clamp(min=1)
    moves, wanted_moves = (x - (x * seen).sum(1, keepdim=True) / count for x in (places, wanted))
    away = F.smooth_l1_loss(places, wanted, reduction="none", beta=0.05)
    astray = F.smooth_l1_loss(_MOVES * moves, _MOVES * wanted_moves, reduction="none", beta=0.05)
    return ((away + astray) * seen).sum() / seen.sum().clamp(min=1)


def _transformer(network: Network) -> Backbone:
    """The backbone, as one that parts can be hidden from: recipes see to it."""
    assert isinstance(network.backbone, Backbone)
    return network.backbone


def found_joints(batch: Batch, error: float) -> Tensor:
    """(B, steps, j, 3) of all clips, as if they were found in pictures."""
    steps = batch.clips.shape[1] * batch.clips.shape[2]
    return as_found(batch.joints[:, :steps], batch.mask[:, :steps], error)


def _valid(mask: Tensor, strides: Sequence[int]) -> Tensor:
    """(B, points): the points that lie on a frame of the video, finest level first."""
    return torch.cat([mask[:, ::stride] for stride in strides], dim=1)
