"""Where a bundle's backbone finds joints: how far from where they are, and drawn on any clip.

python -m training.joints --bundle BUNDLE --data FOLDER...      error on held-out videos, joint by joint
python -m training.joints --bundle BUNDLE --clips FILE... --out sheet.png
"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle import Bundle
from model.finder import JointReader
from model.locator import load_locator
from model.network import Network
from model.picture import Region
from model.video import Limits, Video
from training.augment import plain_example
from training.corpus import CorpusError, Frames, load_corpus, read_frames, read_joints
from training.framed import around_person
from training.start import start_network

Floats = NDArray[np.float64]

SHOWN = 6  # frames of a clip
_EACH = 8  # frames of a video that are measured
_NO_LIMITS = Limits(max_duration_s=36_000, max_pixels=2**30)


class Finder:
    """A bundle's backbone, as far as joints go; ValueError where it finds none."""

    def __init__(self, folder: Path) -> None:
        self.bundle = Bundle.load(folder)
        self._network = Network(self.bundle.manifest).eval()
        start_network(self._network, folder)
        if not isinstance(self._network.backbone, JointReader):
            kind = self.bundle.manifest.architecture.backbone.kind
            raise ValueError(
                f"{folder} has a backbone of kind {kind}, which finds no joints: take one of kind pose, or with a "
                "stem of heatmaps"
            )
        self._backbone = self._network.backbone

    @torch.inference_mode()
    def find(self, frames: Frames) -> Floats:
        """(n, height, width, 3) of the network's size -> (n, joints, 3), see JointFinder."""
        clips = torch.from_numpy(frames)[None, None]
        return self._backbone.find(self._network.normalised(clips))[0].double().numpy()


def measure(finder: Finder, folders: Sequence[Path]) -> tuple[list[str], Floats]:
    """Names of joints, and how far each is from where it is, in sides of the picture; NaN if never seen."""
    manifest = finder.bundle.manifest
    names: list[str] = []
    total = count = np.zeros(())
    for item in load_corpus(folders, manifest.taxonomy, "val", 0).with_pictures().items:
        frames = read_frames(item, manifest.input, 1.0)
        joints = read_joints(item, manifest.input.fps, len(frames))
        if joints is None or item.sidecar is None:
            raise CorpusError(f"{item.path} has no sidecar with joints: take videos of mmad synth")
        names = np.load(item.sidecar)["joint_names"].tolist()
        chosen = np.linspace(0, len(frames) - 1, min(_EACH, len(frames))).astype(int)
        found = finder.find(plain_example(frames[chosen], manifest.input))
        away = np.linalg.norm(found[..., :2] - joints.places[chosen, :, :2], axis=-1)
        seen = joints.places[chosen, :, 2] > 0
        total = total + (away * seen).sum(axis=0)
        count = count + seen.sum(axis=0)
    return names, np.divide(total, count, out=np.full(len(names), np.nan), where=count > 0)


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
    parser.add_argument("--clips", type=Path, nargs="+", help="videos to draw on")
    parser.add_argument("--out", type=Path, default=Path("joints.png"))
    options = parser.parse_args()
    finder = Finder(options.bundle)
    if options.data:
        names, errors = measure(finder, options.data)
        lines = [f"{name:16} {100 * error:5.2f}" for name, error in zip(names, errors, strict=True)]
        sys.stdout.write(
            "\n".join([*lines, f"{'mean':16} {100 * np.nanmean(errors):5.2f} % of the picture"]) + "\n"
        )
    if options.clips:
        draw(finder, options.clips, options.out)


if __name__ == "__main__":
    main()
