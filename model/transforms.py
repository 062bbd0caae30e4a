"""Transform a decoded frame to the network's input: orient it upright, crop and scale it."""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import compress
from typing import NamedTuple, cast

import av
import av.filter
import numpy as np
from typing_extensions import Buffer

from model.arrays import Floats, Frame, Images

# The transfer functions of HDR, PQ and HLG (ITU-T H.273, 8.2), and the conversion to SDR, which clips highlights.
_HDR = (16, 18)
_TO_SDR = "out_transfer=bt709:out_primaries=bt709"

Filter = tuple[str, str | None]  # name and arguments


@dataclass(frozen=True)
class Region:
    """The part of the upright frame to analyse, as fractions of its width and height."""

    x: float = 0.0
    y: float = 0.0
    width: float = 1.0
    height: float = 1.0

    def __post_init__(self) -> None:
        inside = self.x >= 0 and self.y >= 0 and self.x + self.width <= 1 and self.y + self.height <= 1
        if not inside or self.width <= 0 or self.height <= 0:
            raise ValueError(
                f"region {self.x},{self.y},{self.width},{self.height} does not lie within 0,0,1,1 (x,y,width,height)"
            )


class Box(NamedTuple):
    """A crop in pixels."""

    x: int
    y: int
    width: int
    height: int


def crop_box(width: int, height: int, region: Region, aspect: float) -> Box:
    """Return the largest centred box with this aspect ratio (width / height, in pixels) inside a region of a frame."""
    wide, high = region.width * width, region.height * height
    box_width, box_height = _even(min(wide, high * aspect)), _even(min(high, wide / aspect))
    x = region.x * width + max(0, wide - box_width) / 2
    y = region.y * height + max(0, high - box_height) / 2
    return Box(_even(x, least=0), _even(y, least=0), box_width, box_height)


def crop_around(person: Floats, width: int, height: int, aspect: float, margin: float) -> Box:
    """Return the box with this aspect ratio (width / height) around a person, shifted into the frame.

    The person is (4,) left, top, right, bottom in pixels; `margin` is a factor on the person's size.
    """
    left, top, right, bottom = (float(edge) for edge in person)
    high = min(margin * max(bottom - top, (right - left) / aspect), height, width / aspect)
    box_width, box_height = max(1, round(high * aspect)), max(1, round(high))
    x = min(max(0, round((left + right - box_width) / 2)), width - box_width)
    y = min(max(0, round((top + bottom - box_height) / 2)), height - box_height)
    return Box(x, y, box_width, box_height)


def fit_whole_frame(frame: av.VideoFrame, pixel_aspect: Fraction, max_width: int, max_height: int) -> tuple[int, int]:
    """Return the upright width and height in square pixels, scaled down to fit into a size."""
    orientation = Orientation.from_frame(frame)
    width, height = orientation.upright_size(frame.width, frame.height)
    wide = width * float(1 / pixel_aspect if orientation.swapped else pixel_aspect)
    scale = min(1.0, max_width / wide, max_height / height)
    return max(2, _even(scale * wide)), max(2, _even(scale * height))


def crop_and_scale(frames: Sequence[Frame] | Frame, box: Box, width: int, height: int) -> Images:
    """Crop a box out of n frames (rows, columns, 3) uint8 RGB and scale it by area: (n, height, width, 3)."""
    # Without these flags, colours are subsampled during conversion.
    scale = f"{width}:{height}:flags=area+accurate_rnd+full_chroma_inp+full_chroma_int"
    graph = _make_graph(box.width, box.height, av.VideoFormat("rgb24"), [("scale", scale)])
    scaled = np.empty((len(frames), height, width, 3), np.uint8)
    for index, frame in enumerate(frames):
        crop = np.ascontiguousarray(frame[box.y : box.y + box.height, box.x : box.x + box.width])
        scaled[index] = _filter_frame(graph, av.VideoFrame.from_ndarray(crop, format="rgb24"))
    return scaled


def _make_graph(width: int, height: int, pixel_format: av.VideoFormat, filters: list[Filter]) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=pixel_format, time_base=Fraction(1, 1000))
    nodes = [graph.add(*each) for each in [*filters, ("format", "rgb24"), ("buffersink", None)]]
    graph.link_nodes(source, *nodes).configure()
    return graph


def _filter_frame(graph: av.filter.Graph, frame: av.VideoFrame) -> Frame:
    graph.vpush(frame)
    filtered = graph.vpull()
    assert isinstance(filtered, av.VideoFrame)
    return np.asarray(filtered.to_ndarray(), np.uint8)


def _even(value: float, least: int = 1) -> int:
    # Chroma has half the resolution: a crop at odd pixels would shift it against luma.
    return max(least, math.floor(value / 2) * 2)


class Orientation(NamedTuple):
    """The operations that make a stored frame upright: swap axes, then mirror left-right, then upside down."""

    swapped: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @classmethod
    def from_frame(cls, frame: av.VideoFrame) -> "Orientation":
        """Read the display matrix that phones write; without one the frame is upright."""
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return cls()
        # Fixed-point numbers in row-major order: x' = a x + c y, y' = b x + d y (ISO/IEC 14496-12, 6.2.2).
        a, b, _, c, d, *_ = struct.unpack("=9i", memoryview(cast(Buffer, matrix)))
        if abs(b) > abs(a):
            return cls(True, c < 0, b < 0)
        return cls(False, a < 0, d < 0)

    @property
    def filters(self) -> list[Filter]:
        """FFmpeg's filters for these operations."""
        filters: list[Filter] = [("transpose", "cclock_flip"), ("hflip", None), ("vflip", None)]
        return list(compress(filters, self))

    def upright_size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of the upright frame, given those of the stored frame."""
        return (height, width) if self.swapped else (width, height)

    def to_stored(self, box: Box, width: int, height: int) -> Box:
        """Map a box of the upright frame to the stored frame of size (width, height)."""
        across, down = self.upright_size(width, height)
        x = across - box.x - box.width if self.mirror_x else box.x
        y = down - box.y - box.height if self.mirror_y else box.y
        return Box(y, x, box.height, box.width) if self.swapped else Box(x, y, box.width, box.height)


class Scaler:
    """Crops and scales by area in one filter graph, which is rebuilt if the format of frames changes."""

    def __init__(self, width: int, height: int, region: Region) -> None:
        self._width, self._height, self._region = width, height, region
        self._format: tuple[object, ...] = ()
        self._graph: av.filter.Graph | None = None
        self.analysed_fraction = 1.0

    def __call__(self, frame: av.VideoFrame, pixel_aspect: Fraction) -> Frame:
        """Return a decoded frame as upright (height, width, 3) uint8 RGB."""
        orientation = Orientation.from_frame(frame)
        frame_format = (frame.width, frame.height, frame.format.name, frame.color_trc, orientation, pixel_aspect)
        if self._graph is None or frame_format != self._format:
            self._graph, self._format = self._adapt(frame, orientation, pixel_aspect), frame_format
        frame.pts = None
        return _filter_frame(self._graph, frame)

    def _adapt(self, frame: av.VideoFrame, orientation: Orientation, pixel_aspect: Fraction) -> av.filter.Graph:
        width, height = orientation.upright_size(frame.width, frame.height)
        stretch = pixel_aspect if orientation.swapped else 1 / pixel_aspect
        box = crop_box(width, height, self._region, self._width / self._height * float(stretch))
        self.analysed_fraction = box.width * box.height / (width * height)
        box = orientation.to_stored(box, frame.width, frame.height)
        filters: list[Filter] = [
            ("crop", f"{box.width}:{box.height}:{box.x}:{box.y}:exact=1"),
            *orientation.filters,  # before scaling: chroma is interpolated differently in x and y
            ("scale", f"{self._width}:{self._height}:flags=area"),
        ]
        if frame.color_trc in _HDR:
            filters.append(("scale", _TO_SDR))
        return _make_graph(frame.width, frame.height, frame.format, filters)
