"""Train and evaluate the locator: `python -m training.locate --out FILE`, `python -m training.locate --measure FILE`.

It is one ONNX file; training/locator.onnx is shipped with mmad. Bundles include it by `framing: person` in a recipe, or
by `mmad export --locator FILE`.
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import torch

from model.bundle import LocatorConfig
from model.export import read_locator
from model.locator import GraphLocator, Locator, box_area, iou, load_graph
from training.locate_network import SIZE, save, train
from training.locate_stills import Stills, make_stills, stack_stills, video_numbers
from training.people.body import load_anatomy

VIDEOS, EPOCHS, SEED = 1300, 18, 1000
_HELD_OUT_SEED, _HELD_OUT_VIDEOS = 2000, 60
_FOUND_IOU = 0.5
# Mean of the margins of `mmad synth --crop person` (1.04 to 1.3).
MARGIN = 1.17
THRESHOLD = 0.4


def load(path: Path) -> Locator:
    """Load a locator from its file."""
    return GraphLocator(read_locator(path), load_graph(path))


def render(seed: int, videos: int, *, held_out: bool, people: int | None = None) -> Stills:
    """Render stills of the people of `videos` videos."""
    anatomy = load_anatomy()
    numbers = video_numbers(videos, held_out=held_out)
    return stack_stills(still for number in numbers for still in make_stills(seed, number, people, anatomy))


def measure(locator: Locator, stills: Stills, people: int) -> dict[str, float]:
    """Evaluate a locator on the stills that show `people` people.

    Returns the number of stills, the shares with no, one and several detections, and with people the share whose
    largest person is detected with an IoU of at least 0.5, and its mean IoU.
    """
    counts, ious = [], []
    for still in map(stills.still, range(len(stills))):
        if len(still.boxes) != people:  # another person did not fit into the still
            continue
        detections = locator.find(still.picture[None])[0]
        counts.append(len(detections))
        if people:
            largest = max(still.boxes, key=box_area)
            ious.append(max((iou(box, largest) for box in detections), default=0.0))
    detected = np.array(counts)
    result = {
        "stills": float(len(counts)),
        "nobody": float((detected == 0).mean()),
        "one": float((detected == 1).mean()),
        "several": float((detected > 1).mean()),
    }
    if people:
        result |= {"found": float((np.array(ious) >= _FOUND_IOU).mean()), "mean_iou": float(np.mean(ious))}
    return result


def report(path: Path, videos: int) -> str:
    """Return a table of the results on held-out stills of 0, 1 and 2 people."""
    locator = load(path)
    names = ("stills", "nobody", "one", "several", "found", "mean_iou")
    lines = ["people  " + "".join(f"{name:>12}" for name in names)]
    for people in (0, 1, 2):
        results = measure(locator, render(_HELD_OUT_SEED, videos, held_out=True, people=people), people)
        lines.append(f"{people:<8}" + "".join(f"{results.get(name, float('nan')):>12.3f}" for name in names))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train a locator, or evaluate one."""
    parser = ArgumentParser(description="Make or measure the locator.")
    parser.add_argument("--out", type=Path, help="file to make")
    parser.add_argument("--measure", type=Path, help="file to measure on held-out people")
    parser.add_argument("--videos", type=int, help="how many people's videos, four stills each")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    if (options.out is None) == (options.measure is None):
        parser.error("give --out FILE or --measure FILE")
    if options.measure is not None:
        sys.stdout.write(report(options.measure, options.videos or _HELD_OUT_VIDEOS))
        return
    torch.set_num_threads(1)
    stills = render(options.seed, options.videos or VIDEOS, held_out=False)
    network = train(stills, options.epochs, options.seed, lambda line: sys.stderr.write(line + "\n"))
    save(network, LocatorConfig(size=SIZE, threshold=THRESHOLD, margin=MARGIN), options.out)


if __name__ == "__main__":
    main()
