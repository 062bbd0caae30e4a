"""Faces hidden as data sets' authors do it: by a leaning rectangle that follows the head, filled in one of four ways.

The real clips' way, "blocks": a mosaic of cells about as large as the face, fixed in the picture while the rectangle
moves over it; a cell's colour is that of one pixel, so it jumps between skin, hair and wall as the head moves.
"""

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from training.people.camera.looks import Look, Mask
from training.people.render import compiled  # noqa: F401  (where compiled code is kept)

Frames = NDArray[np.uint8]
Floats = NDArray[np.float32]

# Cells have their colours from tables this many cells wide and high; cells further apart share an entry.
_CELLS = 8
# The longest that a mask goes off at once.
_OFF_FRAMES = 3


def mask_faces(frames: Frames, head_boxes: NDArray[Any], look: Look, rng: np.random.Generator) -> Frames:
    """Hide the face as the look says; without a mask in the look the same frames come back.

    Args:
        frames: (frames, height, width, 3) as the camera gave them; not changed.
        head_boxes: (frames, 4) left, top, right, bottom in pixels; may lie outside the picture. Where a box is not
            finite or has no area there is no mask.
    """
    mask = look.mask
    if mask is None:
        return frames
    places, on = _follow(mask, np.asarray(head_boxes, np.float64), rng)
    out = frames.copy()
    if mask.kind == "blur":
        _paint_blur(out, frames, places, on, mask.cell)
        return out
    pitch = mask.cell * float(np.median(places[on, 2])) * 2 / mask.width if on.any() else 1.0
    phase = rng.uniform(0, pitch, 2)
    origins = places[:, :2] - places[:, 2:4]
    if mask.anchored:
        origins[:] = phase
    _paint_cells(out, frames, places, on, max(1.0, pitch), origins, *_cells(mask, len(frames), rng))
    return out


def _follow(mask: Mask, boxes: NDArray[Any], rng: np.random.Generator) -> tuple[Floats, NDArray[np.bool_]]:
    """Where the mask is in each frame: (frames, 5) centre x, y, half width, half height, lean; and whether it is."""
    count = len(boxes)
    frames = np.arange(count)
    known = np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    earlier = np.maximum(0, frames - frames % mask.hold_frames - mask.lag_frames)
    seen = np.where(known[earlier, None], boxes[earlier], boxes)
    seen[~known] = 0
    wide, high = seen[:, 2] - seen[:, 0], seen[:, 3] - seen[:, 1]
    shake = wander(count, 6, rng, (4,))
    size = 1 + 1.5 * mask.jitter * shake[:, 2:]
    places = np.stack(
        [
            (seen[:, 0] + seen[:, 2]) / 2 + (mask.x + mask.jitter * shake[:, 0]) * wide,
            (seen[:, 1] + seen[:, 3]) / 2 + mask.y * high + mask.jitter * shake[:, 1] * wide,
            mask.width * wide / 2 * size[:, 0],
            mask.height * high / 2 * size[:, 1],
            np.clip(mask.tilt * wander(count, 12, rng), -0.35, 0.35),
        ],
        axis=1,
    )
    on = known & (places[:, 2:4] > 0).all(1)
    starts = np.flatnonzero(rng.random(count) < mask.off)
    for start, length in zip(starts, rng.integers(1, _OFF_FRAMES + 1, len(starts)), strict=True):
        on[start : start + length] = False
    return places.astype(np.float32), on


def wander(count: int, memory_frames: float, rng: np.random.Generator, shape: tuple[int, ...] = ()) -> Floats:
    """(count, *shape) noise of standard deviation 1 that forgets itself in about memory_frames frames."""
    keep = math.exp(-1 / memory_frames)
    steps = rng.standard_normal((count, *shape), np.float32)
    steps[1:] *= np.float32(math.sqrt(1 - keep * keep))
    for index in range(1, count):
        steps[index] += np.float32(keep) * steps[index - 1]
    return steps


def _cells(mask: Mask, count: int, rng: np.random.Generator) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Of each cell: its brightness as a factor, where from its middle its colour is from, in cells, whether it is."""
    table = (count, _CELLS, _CELLS)
    if mask.kind == "bar":
        return np.zeros(table, np.float32), np.zeros((*table, 2), np.float32), np.ones(table, bool)
    gains = np.exp(mask.flicker * wander(count, 4, rng, table[1:]))
    # A draw holds until the next: the last frame at which the cell changed.
    changed = np.where(rng.random(table) < mask.change, np.arange(count)[:, None, None], 0)
    since = np.maximum.accumulate(changed, axis=0)
    aims = np.take_along_axis(rng.normal(0, mask.astray, (*table, 2)), since[..., None], axis=0)
    kept = np.take_along_axis(rng.random(table) >= mask.missing, since, axis=0)
    return gains, aims.astype(np.float32), kept


@njit(cache=True, nogil=True)
def _cover(x: float, y: float, place: Floats, ellipse: bool) -> float:
    """How much of the pixel whose middle is x, y lies inside a place: 0 to 1, in between at its edge."""
    cos, sin = math.cos(place[4]), math.sin(place[4])
    u = abs((x - place[0]) * cos + (y - place[1]) * sin)
    v = abs((y - place[1]) * cos - (x - place[0]) * sin)
    if ellipse:
        radius = math.sqrt((u / place[2]) ** 2 + (v / place[3]) ** 2)
        inside = (1 - radius) * min(place[2], place[3])
    else:
        inside = min(place[2] - u, place[3] - v)
    return float(min(1.0, max(0.0, inside + 0.5)))


@njit(cache=True, nogil=True)
def _extent(place: Floats, height: int, width: int) -> tuple[int, int, int, int]:
    """The pixels that a place can touch: left, top, right, bottom, inside the picture."""
    reach = math.sqrt(place[2] ** 2 + place[3] ** 2) + 1
    return (
        int(min(max(place[0] - reach, 0.0), width)),
        int(min(max(place[1] - reach, 0.0), height)),
        int(min(max(place[0] + reach + 1, 0.0), width)),
        int(min(max(place[1] + reach + 1, 0.0), height)),
    )


@njit(cache=True, nogil=True)
def _paint_cells(
    out: Frames,
    frames: Frames,
    places: Floats,
    on: NDArray[np.bool_],
    pitch: float,
    origins: Floats,
    gains: Floats,
    aims: Floats,
    kept: NDArray[np.bool_],
) -> None:
    """Flat cells `pitch` pixels wide from each frame's origin, each of the colour of one pixel of the frame."""
    count, height, width, _ = frames.shape
    for index in range(count):
        if not on[index]:
            continue
        left, top, right, bottom = _extent(places[index], height, width)
        for y in range(top, bottom):
            row = math.floor((y + 0.5 - origins[index, 1]) / pitch)
            for x in range(left, right):
                cover = _cover(x + 0.5, y + 0.5, places[index], False)
                column = math.floor((x + 0.5 - origins[index, 0]) / pitch)
                i, j = row % _CELLS, column % _CELLS
                if cover == 0 or not kept[index, i, j]:
                    continue
                from_x = origins[index, 0] + (column + 0.5 + aims[index, i, j, 0]) * pitch
                from_y = origins[index, 1] + (row + 0.5 + aims[index, i, j, 1]) * pitch
                pixel = frames[
                    index, min(max(int(from_y), 0), height - 1), min(max(int(from_x), 0), width - 1)
                ]
                for c in range(3):
                    colour = min(255.0, pixel[c] * gains[index, i, j])
                    out[index, y, x, c] = round(frames[index, y, x, c] * (1 - cover) + colour * cover)


def _paint_blur(out: Frames, frames: Frames, places: Floats, on: NDArray[np.bool_], cell: float) -> None:
    """An ellipse in which the picture is blurred over `cell` of its width."""
    height, width = frames.shape[1:3]
    for index in np.flatnonzero(on):
        left, top, right, bottom = _extent(places[index], height, width)
        if left >= right or top >= bottom:
            continue
        # Wider than the picture is no other blur, and takes forever.
        size = round(min(max(3.0, 4 * cell * float(places[index, 2])), 2 * max(height, width)))
        crop = frames[index, top:bottom, left:right].astype(np.float32)
        # Two boxes in a row have no visible corners, and take the same time at any width.
        for _ in range(2):
            crop = uniform_filter(crop, (size, size, 0), mode="nearest")
        _blend_place(out[index, top:bottom, left:right], crop, places[index], left, top)


@njit(cache=True, nogil=True)
def _blend_place(out: Frames, front: Floats, place: Floats, left: int, top: int) -> None:
    """Put the front into the ellipse of a place; both pictures start at left, top."""
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            cover = _cover(x + left + 0.5, y + top + 0.5, place, True)
            for c in range(3):
                out[y, x, c] = round(out[y, x, c] * (1 - cover) + front[y, x, c] * cover)
