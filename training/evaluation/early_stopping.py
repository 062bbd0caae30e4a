"""Early stopping: the detection loss on held-out videos, and the weights with the lowest loss.

The criterion is not mAP, because ten held-out videos have only one or two instances of most actions: mAP changes
abruptly with single detections. The loss is a mean over all points of all videos, and takes one forward pass.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from model.arrays import Booleans, Doubles
from model.bundle import Manifest
from model.network import Network
from model.windows import windows
from training.augment import Example
from training.dataset import Sample, VideoDataset, spread
from training.evaluation.validation import KeypointNetwork, read_inputs
from training.losses import DetectionLoss, Targets, make_grid, make_point_mask
from training.objectives import Batch, collate
from training.recipe import Recipe

_MIN_STEPS = 2.0  # shorter parts of an action in a window are ignored
_MIN_SHARE = 0.5  # as are smaller shares of it: the rest is in another window


class ValidationLoss:
    """Detection loss on held-out videos, without augmentation or sampling, so that it depends on the weights only."""

    def __init__(self, manifest: Manifest, dataset: VideoDataset, recipe: Recipe, device: torch.device) -> None:
        """Select `recipe.validate_videos` of the videos at equal intervals, as for the report; 0 selects all."""
        self._manifest, self._recipe, self._device = manifest, recipe, device
        indices = spread(len(dataset.samples), recipe.validate_videos)
        self._samples = [dataset.samples[index] for index in indices]
        grid = make_grid(manifest.input.window_frames, manifest.architecture.head.strides)
        self._network = Network(manifest).eval().to(device)
        self._keypoint_network = KeypointNetwork(self._network)
        self._criterion = DetectionLoss(grid).eval().to(device)

    @torch.inference_mode()
    def loss(self, weights: dict[str, Tensor]) -> float:
        """Return the sum of focal and DIoU losses over all videos, divided by the number of positive points."""
        self._network.load_state_dict(weights)
        total, positives = 0.0, 0
        strides = self._manifest.architecture.head.strides
        for index, sample in enumerate(self._samples):
            network = self._network if sample.has_frames else self._keypoint_network
            for example in _iterate_windows(sample, self._recipe, index):
                batch = Batch(*(part.to(self._device) for part in collate([example], self._manifest)))
                valid = make_point_mask(batch.mask, strides)
                targets = Targets(batch.classes, batch.offsets)
                losses = self._criterion(network(batch.clips, batch.mask), valid, targets)
                count = int(((batch.classes.sum(dim=-1) > 0) & valid).sum())
                total += float(losses.total) * max(count, 1)  # the criterion divides by the count
                positives += count
        return total / max(positives, 1)


def _iterate_windows(sample: Sample, recipe: Recipe, index: int) -> Iterator[Example]:
    """Yield every window of a video as an example; its frames are keypoints if the sample has no pictures."""
    config = recipe.input
    inputs = read_inputs(sample, recipe, index, "pictures" if sample.has_frames else "keypoints")
    for window in windows(inputs, config.window_frames, config.overlap_frames):
        segments, inside = _clip_to_window(sample.segments * config.fps, window.start_frame, window.end_frame)
        yield Example(window.frames, segments, sample.labels[inside], None)


def _clip_to_window(segments: Doubles, start: int, end: int) -> tuple[Doubles, Booleans]:
    """Clip segments in frames of the video to a window; return them in steps of the window, and which remain."""
    clipped = np.clip(segments, start, end - 1)
    length, whole = (one[:, 1] - one[:, 0] for one in (clipped, segments))
    inside = (length >= _MIN_STEPS) & (length >= _MIN_SHARE * np.minimum(whole, end - start))
    return clipped[inside] - start, inside


@dataclass(frozen=True)
class BestWeights:
    """Weights with the lowest held-out loss of a stage so far, of step `step`; `missed` counts later measurements."""

    loss: float = math.inf
    step: int = 0
    missed: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def update(self, loss: float, step: int, weights: dict[str, Tensor]) -> "BestWeights":
        """Return the best weights after one more measurement."""
        if loss < self.loss:
            return BestWeights(loss, step, 0, {name: value.clone() for name, value in weights.items()})
        return replace(self, missed=self.missed + 1)
