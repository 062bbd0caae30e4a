"""Where a bundle's backbone finds joints: how far from where they are, what it reads of given ones, and drawn on clips.

python -m training.joints --bundle BUNDLE --data FOLDER...      error on held-out videos, joint by joint
python -m training.joints --bundle BUNDLE --data FOLDER... --read [--subset test] [--error .005]   mAP, joints given
python -m training.joints --bundle BUNDLE --clips FILE... --out sheet.png
"""

import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle import Bundle
from model.locator import load_locator
from model.network import Network
from model.pose_estimator import JointReader
from model.transforms import Region
from model.video import Limits, Video
from training.augment import plain_example
from training.dataset import CorpusError, Frames, load_corpus, read_frames, read_joints
from training.framed import around_person
from training.recipe import StageConfig, load_recipe
from training.start import start_network
from training.validate import Measured
from training.validate import measure as evaluate_network

Floats = NDArray[np.float64]

SHOWN = 6  # frames of a clip
_EACH = 64  # frames from the middle of a video that are measured
_AT_ONCE = 32  # frames; more are slower on a processor
_NO_LIMITS = Limits(max_duration_s=36_000, max_pixels=2**30)


class Finder:
    """A bundle's backbone, as far as joints go; ValueError where it finds none."""

    def __init__(self, folder: Path) -> None:
        self.bundle = Bundle.load(folder)
        self.network = Network(self.bundle.manifest).eval()
        start_network(self.network, folder)
        if not isinstance(self.network.backbone, JointReader):
            kind = self.bundle.manifest.architecture.backbone.kind
            raise ValueError(
                f"{folder} has a backbone of kind {kind}, which finds no joints: take one of kind pose, or with a "
                "stem of heatmaps"
            )
        self._backbone = self.network.backbone

    @torch.inference_mode()
    def find(self, frames: Frames) -> Floats:
        """(n, height, width, 3) of the network's size -> (n, joints, 3), see JointFinder."""
        parts = torch.split(torch.from_numpy(frames), _AT_ONCE)
        found = [self._backbone.find(self.network.normalised(part[None, None]))[0] for part in parts]
        return torch.cat(found).double().numpy()


class Errors(NamedTuple):
    """Of each joint (joints,), in sides of the picture; NaN if never seen.

    Attributes:
        away: mean distance from where it is.
        lasting, drifting, fresh: standard deviations, on one axis, of what is the same in all of a video, of what is
            new in every frame, and of the rest; of joints that are seen all the time.
    """

    away: Floats
    lasting: Floats
    drifting: Floats
    fresh: Floats


def measure(finder: Finder, folders: Sequence[Path]) -> tuple[list[str], Errors]:
    """Names of joints, and how they are missed on held-out videos."""
    manifest = finder.bundle.manifest
    names: list[str] = []
    away, parts = [], []
    for item in load_corpus(folders, manifest.taxonomy, "val", 0).with_pictures().items:
        frames = read_frames(item, manifest.input, 1.0)
        joints = read_joints(item, manifest.input.fps, len(frames))
        if joints is None or item.sidecar is None:
            raise CorpusError(f"{item.path} has no sidecar with joints: take videos of mmad synth")
        names = np.load(item.sidecar)["joint_names"].tolist()
        count = min(_EACH, len(frames))
        chosen = (len(frames) - count) // 2 + np.arange(count)
        found = finder.find(plain_example(frames[chosen], manifest.input))
        errors = found[..., :2] - joints.places[chosen, :, :2]  # (frames, joints, 2)
        seen = joints.places[chosen, :, 2] > 0
        away.append(np.where(seen, np.linalg.norm(errors, axis=-1), np.nan))
        parts.append(np.where(seen.all(axis=0), _squares(errors), np.nan))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a joint that is never seen
        lasting, drifting, fresh = np.sqrt(np.nanmean(parts, axis=0))
        return names, Errors(np.nanmean(np.concatenate(away), axis=0), lasting, drifting, fresh)


def _squares(errors: Floats) -> Floats:
    """(frames, joints, 2) -> (3, joints): squares of what lasts, of what drifts and of what is new in every frame."""
    lasting = np.square(errors.mean(axis=0)).mean(axis=-1)
    fresh = (
        np.square(np.diff(errors, axis=0)).mean(axis=(0, 2)) / 2
        if len(errors) > 1
        else np.zeros_like(lasting)
    )
    drifting = np.square(errors).mean(axis=(0, 2)) - lasting - fresh
    return np.stack([lasting, np.maximum(drifting, 0), fresh])


def read(finder: Finder, folders: Sequence[Path], subset: str, error: float) -> Measured:
    """What the network is worth where joints are given, with errors as StageConfig.joint_error says."""
    bare = {"locator": None, "calibration": None}  # nobody is looked for, scores are the network's own
    manifest = finder.bundle.manifest.model_copy(update=bare)
    stage = StageConfig(given="joints", joint_error=error, steps=1, batch=1)
    recipe = load_recipe("demo", []).model_copy(
        update={"input": manifest.input, "validate_videos": 0, "stages": (stage,)}
    )
    corpus = load_corpus(folders, manifest.taxonomy, subset, 0)
    return evaluate_network(
        finder.network, manifest, corpus, recipe, "cpu", lambda done, count: None, "joints"
    )


def draw(finder: Finder, clips: Sequence[Path], out: Path) -> None:
    """Frames of each clip, cut around the person as the detector does, with the joints found; hidden are hollow."""
    from matplotlib.figure import Figure

    manifest, locator = finder.bundle.manifest, load_locator(finder.bundle)
    seen = manifest.input
    figure = Figure(figsize=(2.4 * SHOWN, 2.5 * len(clips)), layout="tight")
    for row, clip in enumerate(clips):
        with clip.open("rb") as file:
            region = Region()
            if locator is not None and manifest.locator is not None:
                with closing(Video(file, _NO_LIMITS)) as video:
                    region = around_person(video, locator, seen.width / seen.height, manifest.locator.margin)
            file.seek(0)
            with closing(Video(file, _NO_LIMITS)) as video:
                frames = np.stack(list(video.frames(seen.fps, seen.width, seen.height, region)))
        for column, moment in enumerate(np.linspace(0, len(frames) - 1, SHOWN).astype(int)):
            axes = figure.add_subplot(len(clips), SHOWN, row * SHOWN + column + 1)
            axes.imshow(frames[moment])
            for x, y, told in finder.find(frames[moment][None])[0]:
                place = (x * seen.width - 0.5, y * seen.height - 0.5)
                axes.plot(*place, "o", color="lime", markersize=4, fillstyle="full" if told > 0.5 else "none")
            axes.set_title(f"{moment / seen.fps:.1f} s", fontsize=8)
            axes.axis("off")
    figure.savefig(out, dpi=80)


def main() -> None:
    """Measure, draw, or both."""
    parser = ArgumentParser(description="Where a bundle's backbone finds joints.")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", help="folders of mmad synth")
    parser.add_argument("--read", action="store_true", help="mAP where the sidecars' joints are given")
    parser.add_argument("--subset", default="val", help="that --read takes")
    parser.add_argument("--error", type=float, default=0.01, help="of the joints that --read gives")
    parser.add_argument("--clips", type=Path, nargs="+", help="videos to draw on")
    parser.add_argument("--out", type=Path, default=Path("joints.png"))
    options = parser.parse_args()
    finder = Finder(options.bundle)
    if options.data and options.read:
        found = read(finder, options.data, options.subset, options.error)
        action, body = found.action.average, found.body.average
        parts = zip(finder.bundle.manifest.taxonomy.bodies, found.body.precision.mean(axis=0), strict=True)
        sys.stdout.write(
            f"{len(found.truth.videos)} videos, joints given: mAP action {100 * action:.1f}, body {100 * body:.1f}, "
            f"mean {50 * (action + body):.1f} %; {', '.join(f'{one.name} {100 * ap:.1f}' for one, ap in parts)}\n"
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
