"""Evaluate the keypoints that a bundle's backbone finds: their error, mAP with given keypoints, and drawings on clips.

python -m training.keypoints --bundle BUNDLE --data FOLDER...      error per keypoint on held-out videos
python -m training.keypoints --bundle BUNDLE --data FOLDER... --read [--subset test] [--error .005]   mAP
python -m training.keypoints --bundle BUNDLE --clips FILE... --out sheet.png
"""

import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from model.arrays import Doubles, Images
from model.bundle import Bundle
from model.locator import load_locator
from model.network import Network
from model.pose_estimator import KeypointReader
from training.augment import resize_to_input
from training.dataset import DatasetError, load_dataset, read_frames, read_keypoints
from training.evaluation.validation import ValidationResult, evaluate_network
from training.framed import read_cropped_frames
from training.recipe import StageConfig, load_recipe
from training.run import start_network

DRAWN_FRAMES = 6  # per clip
_MEASURED_FRAMES = 64  # from the middle of each video
_BATCH_FRAMES = 32  # larger batches are slower on a CPU


class Finder:
    """Finds keypoints in frames with a bundle's backbone. Raises ValueError if the backbone finds no keypoints."""

    def __init__(self, folder: Path) -> None:
        self.bundle = Bundle.load(folder)
        self.network = Network(self.bundle.manifest).eval()
        start_network(self.network, folder)
        if not isinstance(self.network.backbone, KeypointReader):
            kind = self.bundle.manifest.architecture.backbone.kind
            raise ValueError(
                f"{folder} has a backbone of kind {kind}, which finds no keypoints: take one of kind pose, or with a "
                "stem of heatmaps"
            )
        self._backbone = self.network.backbone

    @torch.inference_mode()
    def find(self, frames: Images) -> Doubles:
        """Find keypoints (n, keypoints, 3) in frames (n, height, width, 3) of the network's input size."""
        parts = torch.split(torch.from_numpy(frames), _BATCH_FRAMES)
        keypoints = [self._backbone.find(self.network.normalise(part[None, None]))[0] for part in parts]
        return torch.cat(keypoints).double().numpy()


class Errors(NamedTuple):
    """Errors of each keypoint, (keypoints,), as fractions of a frame's side; NaN for those that are never visible.

    `away` is the mean distance from the true position. The others are standard deviations, on one axis, of those
    visible in all frames: of the error that is constant within a video, that is independent in every frame (`fresh`),
    and of the rest, which changes slowly (`drifting`).
    """

    away: Doubles
    lasting: Doubles
    drifting: Doubles
    fresh: Doubles


def measure(finder: Finder, folders: Sequence[Path]) -> tuple[list[str], Errors]:
    """Return the names of the keypoints, and their errors on held-out videos."""
    manifest = finder.bundle.manifest
    names: list[str] = []
    away, parts = [], []
    for sample in load_dataset(folders, manifest.taxonomy, "val", 0).with_frames().samples:
        frames = read_frames(sample, manifest.input, 1.0)
        keypoints = read_keypoints(sample, manifest.input.fps, len(frames))
        if keypoints is None:
            raise DatasetError(f"{sample.path} has no sidecar with keypoints: take videos of mmad synth")
        names = list(keypoints.names)
        count = min(_MEASURED_FRAMES, len(frames))
        chosen = (len(frames) - count) // 2 + np.arange(count)
        predicted = finder.find(resize_to_input(frames[chosen], manifest.input))
        errors = predicted[..., :2] - keypoints.places[chosen, :, :2]  # (frames, keypoints, 2)
        visible = keypoints.places[chosen, :, 2] > 0
        away.append(np.where(visible, np.linalg.norm(errors, axis=-1), np.nan))
        parts.append(np.where(visible.all(axis=0), _decompose(errors), np.nan))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # mean of no values, for a keypoint that is never visible
        lasting, drifting, fresh = np.sqrt(np.nanmean(parts, axis=0))
        return names, Errors(np.nanmean(np.concatenate(away), axis=0), lasting, drifting, fresh)


def _decompose(errors: Doubles) -> Doubles:
    """Return mean squares (3, keypoints) of the constant, drifting and independent errors (frames, keypoints, 2)."""
    lasting = np.square(errors.mean(axis=0)).mean(axis=-1)
    fresh = np.square(np.diff(errors, axis=0)).mean(axis=(0, 2)) / 2 if len(errors) > 1 else np.zeros_like(lasting)
    drifting = np.square(errors).mean(axis=(0, 2)) - lasting - fresh
    return np.stack([lasting, np.maximum(drifting, 0), fresh])


def read(finder: Finder, folders: Sequence[Path], subset: str, error: float) -> ValidationResult:
    """Evaluate the network on given keypoints, with noise as of StageConfig.keypoint_noise."""
    # No person detection, and scores of the network.
    manifest = finder.bundle.manifest.model_copy(update={"locator": None, "calibration": None})
    stage = StageConfig(given="keypoints", keypoint_noise=error, steps=1, batch=1)
    recipe = load_recipe("demo", []).model_copy(update={"input": manifest.input, "stages": (stage,)})
    dataset = load_dataset(folders, manifest.taxonomy, subset, 0)
    return evaluate_network(finder.network, manifest, dataset, recipe, "cpu", lambda done, count: None, "keypoints")


def draw(finder: Finder, clips: Sequence[Path], out: Path) -> None:
    """Draw the keypoints found in frames of each clip, cropped as in the detector; invisible keypoints are hollow."""
    from matplotlib.figure import Figure

    manifest, locator = finder.bundle.manifest, load_locator(finder.bundle)
    config, margin = manifest.input, manifest.locator.margin if manifest.locator else 1.0
    figure = Figure(figsize=(2.4 * DRAWN_FRAMES, 2.5 * len(clips)), layout="tight")
    for row, clip in enumerate(clips):
        frames = read_cropped_frames(clip, config, 1.0, locator, margin)
        for column, moment in enumerate(np.linspace(0, len(frames) - 1, DRAWN_FRAMES).astype(int)):
            axes = figure.add_subplot(len(clips), DRAWN_FRAMES, row * DRAWN_FRAMES + column + 1)
            axes.imshow(frames[moment])
            for x, y, visible in finder.find(frames[moment][None])[0]:
                position = (x * config.width - 0.5, y * config.height - 0.5)
                axes.plot(*position, "o", color="lime", markersize=4, fillstyle="full" if visible > 0.5 else "none")
            axes.set_title(f"{moment / config.fps:.1f} s", fontsize=8)
            axes.axis("off")
    figure.savefig(out, dpi=80)


def main() -> None:
    """Run the command."""
    parser = ArgumentParser(description="Where a bundle's backbone finds keypoints.")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", help="folders of mmad synth")
    parser.add_argument("--read", action="store_true", help="mAP where the sidecars' keypoints are given")
    parser.add_argument("--subset", default="val", help="that --read takes")
    parser.add_argument("--error", type=float, default=0.01, help="of the keypoints that --read gives")
    parser.add_argument("--clips", type=Path, nargs="+", help="videos to draw on")
    parser.add_argument("--out", type=Path, default=Path("keypoints.png"))
    options = parser.parse_args()
    finder = Finder(options.bundle)
    if options.data and options.read:
        result = read(finder, options.data, options.subset, options.error)
        action, body = result.action.average, result.body.average
        sys.stdout.write(
            f"{len(result.truth.videos)} videos, keypoints given: mAP action {100 * action:.1f}, "
            f"body {100 * body:.1f}, mean {50 * (action + body):.1f} %\n"
        )
    elif options.data:
        names, errors = measure(finder, options.data)
        rows = np.column_stack([*errors])
        rows = np.concatenate([rows, np.nanmean(rows, axis=0, keepdims=True)])
        lines = [
            f"{name:16}" + "".join(f"{100 * part:10.2f}" for part in parts)
            for name, parts in zip([*names, "mean"], rows, strict=True)
        ]
        head = "% of the picture" + "".join(f"{name:>10}" for name in Errors._fields)
        sys.stdout.write("\n".join([head, *lines]) + "\n")
    if options.clips:
        draw(finder, options.clips, options.out)


if __name__ == "__main__":
    main()
