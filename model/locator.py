"""Where people are in a picture: a small graph that comes with a bundle, and what its answers mean.

The graph sees pictures (n, size, size, 3) uint8, each letterboxed on black, and answers on a coarse grid:
scores (n, cells, cells) of a person's middle lying there, and boxes (n, cells, cells, 4), the left, top, right and
bottom of that person as fractions of the square. A person is a local maximum of the scores (as in CenterNet,
arXiv:1904.07850).
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.bundle import LOCATOR, Bundle, LocatorConfig
from model.errors import EngineError
from model.openvino_core import CONFIG, openvino_core
from model.transforms import Box, cut

Floats = NDArray[np.float32]
Pictures = NDArray[np.uint8]
Graph = Callable[[Pictures], tuple[Floats, Floats]]

# Two boxes of which the smaller one lies in the other for more than this are one person, or somebody's upper half.
_SAME_SHARE = 0.6


class Locator(Protocol):
    """Finds people."""

    def find(self, frames: Pictures) -> list[Floats]:
        """Of each of the frames (n, height, width, 3) the boxes of its people, surest first.

        Boxes are (people, 4): left, top, right, bottom in pixels.
        """


class GraphLocator:
    """The locator of a bundle."""

    def __init__(self, config: LocatorConfig, run: Graph) -> None:
        self._config = config
        self._run = run

    def find(self, frames: Pictures) -> list[Floats]:
        """See Locator."""
        height, width = frames.shape[1:3]
        squares, place = letterbox(frames, self._config.size)
        scores, boxes = self._run(squares)
        corner, scale = (
            np.tile((place.x, place.y), 2),
            np.tile((width / place.width, height / place.height), 2),
        )
        limits = np.array((width, height, width, height), np.float32)
        return [
            np.clip((found * self._config.size - corner) * scale, 0, limits).astype(np.float32)
            for found in (
                people(one, sides, self._config.threshold) for one, sides in zip(scores, boxes, strict=True)
            )
        ]


def letterbox(frames: Pictures, size: int) -> tuple[Pictures, Box]:
    """Frames scaled to fit into the middle of black squares: (n, size, size, 3), and where they lie there."""
    height, width = frames.shape[1:3]
    scale = size / max(width, height)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    place = Box((size - wide) // 2, (size - high) // 2, wide, high)
    squares = np.zeros((len(frames), size, size, 3), np.uint8)
    squares[:, place.y : place.y + high, place.x : place.x + wide] = cut(
        frames, Box(0, 0, width, height), wide, high
    )
    return squares, place


def people(scores: Floats, boxes: Floats, threshold: float) -> Floats:
    """The boxes (people, 4), surest first, at the local maxima of one picture's scores.

    Args:
        scores: (cells, cells). boxes: (cells, cells, 4).
        threshold: least score.
    """
    padded = np.pad(scores, 1, constant_values=-1)
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).max(axis=(2, 3))
    rows, columns = np.nonzero((scores >= threshold) & (scores == around))
    order = np.argsort(-scores[rows, columns], kind="stable")
    return apart(boxes[rows[order], columns[order]], _SAME_SHARE)


def apart(boxes: Floats, share: float) -> Floats:
    """Boxes (n, 4), best first, without those that overlap a better one by more than a share of the smaller box."""
    kept: list[Floats] = []
    for box in boxes:
        if all(_shared(box, other) <= share * min(area(box), area(other)) for other in kept):
            kept.append(box)
    return np.array(kept, np.float32).reshape(-1, 4)


def iou(one: Floats, other: Floats) -> float:
    """Shared area over joint area of two boxes (4,)."""
    shared = _shared(one, other)
    joint = area(one) + area(other) - shared
    return shared / joint if joint > 0 else 0.0


def _shared(one: Floats, other: Floats) -> float:
    corners = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    return area(np.concatenate(corners))


def area(box: Floats) -> float:
    """Of a box (4,)."""
    return float(np.prod(np.clip(box[2:] - box[:2], 0, None)))


def load_locator(bundle: Bundle) -> Locator | None:
    """The locator of a bundle, None where it has none; on the CPU, where it is fast enough.

    Raises:
        EngineError: nothing is installed that runs it.
    """
    config = bundle.manifest.locator
    return GraphLocator(config, load_graph(bundle.folder / LOCATOR)) if config else None


def load_graph(path: Path) -> Graph:
    """A locator's graph in the first runtime that is installed."""
    if find_spec("openvino"):
        return _openvino(path)
    if find_spec("onnxruntime"):
        return _onnxruntime(path)
    raise EngineError(
        "the locator needs openvino or onnxruntime: install an extra of mmad: worker, onnx or gpu"
    )


def _openvino(path: Path) -> Graph:
    compiled = openvino_core().compile_model(str(path), "CPU", CONFIG)

    def run(pictures: Pictures) -> tuple[Floats, Floats]:
        scores, boxes = compiled([pictures]).to_tuple()
        return np.array(scores), np.array(boxes)

    return run


def _onnxruntime(path: Path) -> Graph:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(pictures: Pictures) -> tuple[Floats, Floats]:
        scores, boxes = session.run(None, {"pictures": pictures})
        return scores, boxes

    return run
