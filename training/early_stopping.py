"""When to stop: the loss of detections on videos that are held out, and the weights that had the lowest.

The loss and not mAP, since ten videos hold one or two instances of most actions that they have: the average precision
of such an action is almost all or nothing, and its mean jumps with single detections. The loss is a mean over every
point of every video. It costs one pass through the network, and no post-processing.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.bundle import Manifest
from model.head import Points
from model.network import Network
from model.windows import windows
from training.augment import Example
from training.dataset import Corpus, Item
from training.keypoint_noise import features_of
from training.losses import DetectionLoss
from training.objectives import Batch, collate, found_joints
from training.recipe import Recipe
from training.targets import Targets, make_grid
from training.validate import given_joints, plain_pictures

_SHORTEST_STEPS = 2.0  # less of an action in a window than this is no example of it
_PART = 0.5  # nor is less than this share of it: its other part is in another window


class HeldOut:
    """Videos as a detector sees them: nothing is drawn or changed, so that only the weights make a difference."""

    def __init__(self, manifest: Manifest, corpus: Corpus, recipe: Recipe, device: torch.device) -> None:
        """The recipe's validate_videos says how many of the videos are taken, as for the report."""
        self._manifest, self._recipe, self._device = manifest, recipe, device
        count = min(recipe.validate_videos or len(corpus.items), len(corpus.items))
        places = np.unique(np.linspace(0, len(corpus.items) - 1, count).astype(int))
        self._items = [corpus.items[place] for place in places]
        grid = make_grid(manifest.input.window_frames, manifest.architecture.head.strides)
        self._network = Network(manifest).eval().to(device)
        self._criterion = DetectionLoss(grid).eval().to(device)

    @torch.inference_mode()
    def loss(self, weights: dict[str, Tensor]) -> float:
        """Of all videos together: focal and DIoU losses, over the number of points that learn an action."""
        self._network.load_state_dict(weights)
        total, learning = 0.0, 0
        strides = self._manifest.architecture.head.strides
        for place, item in enumerate(self._items):
            for example in _examples(item, self._recipe, place):
                batch = Batch(*(part.to(self._device) for part in collate([example], self._manifest)))
                valid = torch.cat([batch.mask[:, ::stride] for stride in strides], 1)
                targets = Targets(batch.classes, batch.offsets)
                found = self._criterion(self._points(batch), valid, targets)
                count = int(((batch.classes.sum(dim=-1) > 0) & valid).sum())
                total += float(found.total) * max(count, 1)  # as a sum again
                learning += count
        return total / max(learning, 1)

    def _points(self, batch: Batch) -> Points:
        """Of pictures, or of joints where the example has these."""
        if not batch.joints.shape[2]:
            return self._network(batch.clips, batch.mask)  # type: ignore[no-any-return]
        features = features_of(self._network, found_joints(batch, 0.0), batch.mask)
        return self._network.detector(features, batch.mask)  # type: ignore[no-any-return]


def _examples(item: Item, recipe: Recipe, place: int) -> Iterator[Example]:
    """Every window of a video; of its joints, where it has nothing else."""
    seen = recipe.input
    shown: Any = plain_pictures(item, recipe) if item.pictured else given_joints(item, recipe, place)
    for window in windows(shown, seen.window_frames, seen.overlap_frames):
        segments, kept = _inside(item.segments * seen.fps, window.start_frame, window.end_frame)
        if item.pictured:
            yield Example(window.frames, segments, item.labels[kept], None)
        else:
            black = np.zeros((len(window.frames), 1, 1, 3), np.uint8)
            yield Example(black, segments, item.labels[kept], window.frames[:, 0].astype(float))


def _inside(
    segments: NDArray[np.float64], start: int, end: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Segments (frames of the video) in steps of a window, cut to it; and which of all these are."""
    cut = np.clip(segments, start, end - 1)
    length, whole = (one[:, 1] - one[:, 0] for one in (cut, segments))
    kept = (length >= _SHORTEST_STEPS) & (length >= _PART * np.minimum(whole, end - start))
    return cut[kept] - start, kept


@dataclass(frozen=True)
class Best:
    """The lowest loss of a stage so far.

    Attributes:
        loss: measured after `step` steps, with `weights`.
        missed: measurements since.
    """

    loss: float = math.inf
    step: int = 0
    missed: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def after(self, loss: float, step: int, weights: dict[str, Tensor]) -> "Best":
        """With one more measurement."""
        if loss < self.loss:
            return Best(loss, step, 0, {name: value.clone() for name, value in weights.items()})
        return replace(self, missed=self.missed + 1)
