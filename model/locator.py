"""The locator: a small network that finds people in frames (CenterNet, arXiv:1904.07850).

Its input are images (n, size, size, 3), letterboxed on black. Its outputs are scores (n, cells, cells) that a person's
centre is in the cell, and boxes (n, cells, cells, 4): left, top, right and bottom as fractions of the image.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from model.arrays import Floats, Images
from model.bundle import LOCATOR, Bundle, LocatorConfig
from model.errors import EngineError
from model.openvino_core import CONFIG, openvino_core
from model.transforms import Box, crop_and_scale

Graph = Callable[[Images], tuple[Floats, Floats]]

# Two boxes belong to one person if more than this fraction of the smaller one lies in the other.
_SAME_PERSON_FRACTION = 0.6


class Locator(Protocol):
    """Finds people."""

    def find(self, frames: Images) -> list[Floats]:
        """Find the boxes (people, 4) in each frame: left, top, right, bottom in pixels; highest score first."""


class GraphLocator:
    """Runs the locator network of a bundle."""

    def __init__(self, config: LocatorConfig, run: Graph) -> None:
        self._config, self._run = config, run

    def find(self, frames: Images) -> list[Floats]:
        """See Locator."""
        height, width = frames.shape[1:3]
        squares, area = letterbox(frames, self._config.size)
        scores, boxes = self._run(squares)
        corner, scale = (np.tile((area.x, area.y), 2), np.tile((width / area.width, height / area.height), 2))
        limits = np.array((width, height, width, height), np.float32)
        decoded = (
            decode_people(frame_scores, frame_boxes, self._config.threshold)
            for frame_scores, frame_boxes in zip(scores, boxes, strict=True)
        )
        return [
            np.clip((people * self._config.size - corner) * scale, 0, limits).astype(np.float32) for people in decoded
        ]


def letterbox(frames: Images, size: int) -> tuple[Images, Box]:
    """Scale frames to fit into black squares (n, size, size, 3); return the squares and the frames' area in them."""
    height, width = frames.shape[1:3]
    scale = size / max(width, height)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    area = Box((size - wide) // 2, (size - high) // 2, wide, high)
    squares = np.zeros((len(frames), size, size, 3), np.uint8)
    squares[:, area.y : area.y + high, area.x : area.x + wide] = crop_and_scale(
        frames, Box(0, 0, width, height), wide, high
    )
    return squares, area


def decode_people(scores: Floats, boxes: Floats, threshold: float) -> Floats:
    """Return the boxes (people, 4) at the local maxima of one image's scores, highest score first."""
    padded = np.pad(scores, 1, constant_values=-1)
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).max(axis=(2, 3))
    rows, columns = np.nonzero((scores >= threshold) & (scores == around))
    order = np.argsort(-scores[rows, columns], kind="stable")
    return drop_overlapping(boxes[rows[order], columns[order]], _SAME_PERSON_FRACTION)


def drop_overlapping(boxes: Floats, max_fraction: float) -> Floats:
    """Drop boxes, of (n, 4), best first, that overlap a better one by more than this fraction of the smaller box."""
    selected: list[Floats] = []
    for box in boxes:
        if all(_intersection(box, other) <= max_fraction * min(box_area(box), box_area(other)) for other in selected):
            selected.append(box)
    return np.array(selected, np.float32).reshape(-1, 4)


def iou(first: Floats, second: Floats) -> float:
    """Return the intersection over union of two boxes (4,)."""
    intersection = _intersection(first, second)
    union = box_area(first) + box_area(second) - intersection
    return intersection / union if union > 0 else 0.0


def _intersection(first: Floats, second: Floats) -> float:
    corners = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    return box_area(np.concatenate(corners))


def box_area(box: Floats) -> float:
    """Return the area of a box (4,)."""
    return float(np.prod(np.clip(box[2:] - box[:2], 0, None)))


def load_locator(bundle: Bundle) -> Locator | None:
    """Load the locator of a bundle, on the CPU, where it is fast enough; None if the bundle has none."""
    config = bundle.manifest.locator
    return GraphLocator(config, load_graph(bundle.folder / LOCATOR)) if config else None


def load_graph(path: Path) -> Graph:
    """Load a locator's ONNX graph into the first runtime that is installed; EngineError if there is none."""
    if find_spec("openvino"):
        return _openvino(path)
    if find_spec("onnxruntime"):
        return _onnxruntime(path)
    raise EngineError("the locator needs openvino or onnxruntime: install an extra of mmad: worker, onnx or gpu")


def _openvino(path: Path) -> Graph:
    compiled = openvino_core().compile_model(str(path), "CPU", CONFIG)

    def run(images: Images) -> tuple[Floats, Floats]:
        scores, boxes = compiled([images]).to_tuple()
        return np.array(scores), np.array(boxes)

    return run


def _onnxruntime(path: Path) -> Graph:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images: Images) -> tuple[Floats, Floats]:
        scores, boxes = session.run(None, {"pictures": images})
        return scores, boxes

    return run
