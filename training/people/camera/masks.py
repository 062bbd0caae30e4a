"""Face masks as used for anonymised data sets: a tilted rectangle that follows the head, filled in one of four ways.

The real clips use "blocks": a mosaic with blocks about as large as the face, fixed in the frame while the rectangle
moves over it. A block has the colour of one pixel, so it jumps between skin, hair and wall as the head moves.
"""

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from model.arrays import Floats, Images
from training.people.camera.looks import Effects, Mask
from training.people.render import compiled  # noqa: F401  (sets numba's cache folder)

# Random block parameters repeat with this period in rows and columns.
_BLOCKS = 8
# Maximum duration for which a mask disappears.
_OFF_FRAMES = 3


def mask_faces(frames: Images, head_boxes: NDArray[Any], effects: Effects, rng: np.random.Generator) -> Images:
    """Mask the face; without a mask in `effects` the input is returned.

    Args:
        frames: (frames, height, width, 3) after camera effects; not modified.
        head_boxes: (frames, 4) left, top, right, bottom in pixels; may lie outside the frame. Frames whose box is not
            finite or empty get no mask.
        effects: parameters of the video.
        rng: random stream.
    """
    mask = effects.mask
    if mask is None:
        return frames
    rects, active = _track_head(mask, np.asarray(head_boxes, np.float64), rng)
    out = frames.copy()
    if mask.kind == "blur":
        _paint_blur(out, frames, rects, active, mask.cell)
        return out
    pitch = mask.cell * float(np.median(rects[active, 2])) * 2 / mask.width if active.any() else 1.0
    phase = rng.uniform(0, pitch, 2)
    origins = rects[:, :2] - rects[:, 2:4]
    if mask.anchored:
        origins[:] = phase
    _paint_blocks(out, frames, rects, active, max(1.0, pitch), origins, *_draw_blocks(mask, len(frames), rng))
    return out


def _track_head(mask: Mask, boxes: NDArray[Any], rng: np.random.Generator) -> tuple[Floats, NDArray[np.bool_]]:
    """Return mask rectangles (frames, 5): centre x, y, half width, half height, tilt; and (frames,) bool active."""
    count = len(boxes)
    frames = np.arange(count)
    known = np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    earlier = np.maximum(0, frames - frames % mask.hold_frames - mask.lag_frames)
    delayed = np.where(known[earlier, None], boxes[earlier], boxes)
    delayed[~known] = 0
    wide, high = delayed[:, 2] - delayed[:, 0], delayed[:, 3] - delayed[:, 1]
    shake = wander(count, 6, rng, (4,))
    size = 1 + 1.5 * mask.jitter * shake[:, 2:]
    rects = np.stack(
        [
            (delayed[:, 0] + delayed[:, 2]) / 2 + (mask.x + mask.jitter * shake[:, 0]) * wide,
            (delayed[:, 1] + delayed[:, 3]) / 2 + mask.y * high + mask.jitter * shake[:, 1] * wide,
            mask.width * wide / 2 * size[:, 0],
            mask.height * high / 2 * size[:, 1],
            np.clip(mask.tilt * wander(count, 12, rng), -0.35, 0.35),
        ],
        axis=1,
    )
    active = known & (rects[:, 2:4] > 0).all(1)
    starts = np.flatnonzero(rng.random(count) < mask.off)
    for start, length in zip(starts, rng.integers(1, _OFF_FRAMES + 1, len(starts)), strict=True):
        active[start : start + length] = False
    return rects.astype(np.float32), active


def wander(count: int, memory_frames: float, rng: np.random.Generator, shape: tuple[int, ...] = ()) -> Floats:
    """Return first-order autoregressive noise (count, *shape): unit variance, time constant `memory_frames`."""
    decay = math.exp(-1 / memory_frames)
    steps = rng.standard_normal((count, *shape), np.float32)
    steps[1:] *= np.float32(math.sqrt(1 - decay * decay))
    for index in range(1, count):
        steps[index] += np.float32(decay) * steps[index - 1]
    return steps


def _draw_blocks(mask: Mask, count: int, rng: np.random.Generator) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Draw block parameters: brightness factors, offsets of the sampled pixel in blocks, and presence."""
    table = (count, _BLOCKS, _BLOCKS)
    if mask.kind == "bar":
        return np.zeros(table, np.float32), np.zeros((*table, 2), np.float32), np.ones(table, bool)
    gains = np.exp(mask.flicker * wander(count, 4, rng, table[1:]))
    # Index of the last frame at which the block changed; its parameters are held until the next change.
    changed = np.where(rng.random(table) < mask.change, np.arange(count)[:, None, None], 0)
    since = np.maximum.accumulate(changed, axis=0)
    offsets = np.take_along_axis(rng.normal(0, mask.astray, (*table, 2)), since[..., None], axis=0)
    present = np.take_along_axis(rng.random(table) >= mask.missing, since, axis=0)
    return gains, offsets.astype(np.float32), present


@njit(cache=True, nogil=True)
def _cover(x: float, y: float, rect: Floats, ellipse: bool) -> float:
    """Return the coverage, 0 to 1, of the pixel with centre x, y by a tilted rectangle or its inscribed ellipse."""
    cos, sin = math.cos(rect[4]), math.sin(rect[4])
    u = abs((x - rect[0]) * cos + (y - rect[1]) * sin)
    v = abs((y - rect[1]) * cos - (x - rect[0]) * sin)
    if ellipse:
        radius = math.sqrt((u / rect[2]) ** 2 + (v / rect[3]) ** 2)
        inside = (1 - radius) * min(rect[2], rect[3])
    else:
        inside = min(rect[2] - u, rect[3] - v)
    return float(min(1.0, max(0.0, inside + 0.5)))


@njit(cache=True, nogil=True)
def _extent(rect: Floats, height: int, width: int) -> tuple[int, int, int, int]:
    """Return the pixels that a tilted rectangle can touch: left, top, right, bottom, clipped to the frame."""
    reach = math.sqrt(rect[2] ** 2 + rect[3] ** 2) + 1
    return (
        int(min(max(rect[0] - reach, 0.0), width)),
        int(min(max(rect[1] - reach, 0.0), height)),
        int(min(max(rect[0] + reach + 1, 0.0), width)),
        int(min(max(rect[1] + reach + 1, 0.0), height)),
    )


@njit(cache=True, nogil=True)
def _paint_blocks(
    out: Images,
    frames: Images,
    rects: Floats,
    active: NDArray[np.bool_],
    pitch: float,
    origins: Floats,
    gains: Floats,
    offsets: Floats,
    present: NDArray[np.bool_],
) -> None:
    """Paint flat blocks `pitch` pixels wide on a grid from each frame's origin, coloured like one of its pixels."""
    count, height, width, _ = frames.shape
    for index in range(count):
        if not active[index]:
            continue
        left, top, right, bottom = _extent(rects[index], height, width)
        for y in range(top, bottom):
            row = math.floor((y + 0.5 - origins[index, 1]) / pitch)
            for x in range(left, right):
                cover = _cover(x + 0.5, y + 0.5, rects[index], False)
                column = math.floor((x + 0.5 - origins[index, 0]) / pitch)
                i, j = row % _BLOCKS, column % _BLOCKS
                if cover == 0 or not present[index, i, j]:
                    continue
                from_x = origins[index, 0] + (column + 0.5 + offsets[index, i, j, 0]) * pitch
                from_y = origins[index, 1] + (row + 0.5 + offsets[index, i, j, 1]) * pitch
                pixel = frames[index, min(max(int(from_y), 0), height - 1), min(max(int(from_x), 0), width - 1)]
                for c in range(3):
                    colour = min(255.0, pixel[c] * gains[index, i, j])
                    out[index, y, x, c] = round(frames[index, y, x, c] * (1 - cover) + colour * cover)


def _paint_blur(out: Images, frames: Images, rects: Floats, active: NDArray[np.bool_], cell: float) -> None:
    """Blur the frames inside an ellipse, over a width of `cell` as a share of the mask's."""
    height, width = frames.shape[1:3]
    for index in np.flatnonzero(active):
        left, top, right, bottom = _extent(rects[index], height, width)
        if left >= right or top >= bottom:
            continue
        # Limited to twice the frame: wider filters look the same and are slow.
        size = round(min(max(3.0, 4 * cell * float(rects[index, 2])), 2 * max(height, width)))
        crop = frames[index, top:bottom, left:right].astype(np.float32)
        # Two box filters approximate a smooth kernel at a cost independent of the width.
        for _ in range(2):
            crop = uniform_filter(crop, (size, size, 0), mode="nearest")
        _blend_ellipse(out[index, top:bottom, left:right], crop, rects[index], left, top)


@njit(cache=True, nogil=True)
def _blend_ellipse(out: Images, front: Floats, rect: Floats, left: int, top: int) -> None:
    """Blend `front` into the ellipse of a rectangle; both images start at left, top."""
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            cover = _cover(x + left + 0.5, y + top + 0.5, rect, True)
            for c in range(3):
                out[y, x, c] = round(out[y, x, c] * (1 - cover) + front[y, x, c] * cover)
