"""Effects applied to rendered frames: occluders, camera effects, face masks.

    effects = draw_effects(rng)
    rendered frames -> occlude -> develop -> mask_faces -> encoder (footage.py)

Frames are (frames, height, width, 3) uint8 RGB and are never changed in place; an effect that is absent returns its
input. Results depend only on the effects, the frames and the state of the generator.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d, zoom

from model.arrays import Floats, Images
from training.people.camera.looks import Camera, Effects, Occluder, draw_effects
from training.people.camera.masks import mask_faces, wander
from training.people.render import compiled  # noqa: F401  (sets numba's cache folder)

__all__ = ["Effects", "develop", "draw_effects", "mask_faces", "occlude"]


# Width of a sample of colour noise in pixels: colour noise of sensors is coarser than brightness noise.
_COLOUR_PIXELS = 3


def occlude(frames: Images, effects: Effects, rng: np.random.Generator) -> tuple[Images, NDArray[np.bool_]]:
    """Draw the occluder, if any, at the same position in all frames.

    Returns:
        The frames, and (height, width) bool: pixels covered by the occluder by more than half.
    """
    height, width = frames.shape[1:3]
    occluder = effects.occluder
    if occluder is None:
        return frames, np.zeros((height, width), bool)
    cover = _occluder_cover(occluder, height, width, rng)
    shade = 1 + 0.25 * _clouds(height, width, rng)
    front = shade[..., None] * np.array((occluder.red, occluder.green, occluder.blue), np.float32)
    out = frames.copy()
    _blend(out, np.clip(front, 0, 255), cover)
    return out, cover > 0.5


def develop(frames: Images, effects: Effects, rng: np.random.Generator) -> Images:
    """Simulate lens, sensor and in-camera processing: softness, vignetting, stray light, tones, noise."""
    camera = effects.camera
    count, height, width = frames.shape[:3]
    light, veil = _light(camera, height, width, rng)
    bands = _bands(camera, count, height, rng)
    tones = _tones(camera, count, rng)
    softening = _softening(camera, height, width)
    coarse = (height // _COLOUR_PIXELS + 2, width // _COLOUR_PIXELS + 2, 2)
    out = np.empty_like(frames)
    for index, frame in enumerate(frames):
        soft = frame if softening is None else _soften(frame, softening)
        grain = rng.standard_normal((height, width), np.float32) * np.float32(camera.grain)
        colour = rng.standard_normal(coarse, np.float32) * np.float32(camera.colour_grain)
        _expose(out[index], soft, tones[index], light * bands[index], veil, camera.saturation, grain, colour)
    return out


def _occluder_cover(occluder: Occluder, height: int, width: int, rng: np.random.Generator) -> Floats:
    """Return (height, width) the opacity of the occluder, 0 to 1."""
    short = min(height, width)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    # Distances from the edge where it enters, in units of the shorter side.
    across = (x if occluder.side < 0 else width - x) / short
    up = (height - y) / short
    reach = occluder.reach
    if occluder.shape == "table":
        slope = rng.uniform(0, 0.12)
        shape = up < reach * height / short - slope * across
    elif occluder.shape == "shoulder":
        top = rng.uniform(0.4, 0.9)
        shape = (across / reach) ** 2 + (up / top) ** 2 < 1
        shape |= (across / (0.55 * reach)) ** 2 + ((up - top - 0.1) / 0.16) ** 2 < 1
    else:
        shape = _leaves(across, up, reach, rng)
    sigma = max(0.4, occluder.blur * short)
    return np.asarray(np.clip(gaussian_filter(shape.astype(np.float32), sigma, mode="nearest"), 0, 1))


def _leaves(across: Floats, up: Floats, reach: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return a mask of twelve leaves that fan out from a point at the edge."""
    shape = np.zeros(across.shape, bool)
    root = rng.uniform(0, 0.5)
    for angle, length in zip(rng.uniform(-0.9, 1.4, 12), rng.uniform(0.5, 1, 12) * reach, strict=True):
        cos, sin = math.cos(angle), math.sin(angle)
        along = across * cos + (up - root) * sin - length / 2
        aside = (up - root) * cos - across * sin
        shape |= (along / (length / 2)) ** 2 + (aside / (0.13 * length)) ** 2 < 1
    return shape


def _clouds(height: int, width: int, rng: np.random.Generator) -> Floats:
    """Return (height, width) smooth noise of about -1 to 1, a few patches wide."""
    patches = np.clip(rng.standard_normal((5, 5), np.float32), -2, 2) / 2
    return np.asarray(zoom(patches, (height / 5, width / 5), order=1, grid_mode=True, mode="nearest"))


@njit(cache=True, nogil=True)
def _blend(out: Images, front: Floats, cover: Floats) -> None:
    for index in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                if cover[y, x] > 0:
                    for c in range(3):
                        behind = np.float32(out[index, y, x, c])
                        out[index, y, x, c] = round(behind + (front[y, x, c] - behind) * cover[y, x])


def _light(camera: Camera, height: int, width: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return (height, width) each: the lens's transmission (vignetting), and stray light in grey levels."""
    y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height - 0.5
    x = (np.arange(width, dtype=np.float32)[None] + 0.5) / width - 0.5
    light = 1 - np.float32(camera.vignette) * (2 * (x * x + y * y)) ** 1.5
    angle = rng.uniform(0, 2 * math.pi)
    towards = (x * math.cos(angle) + y * math.sin(angle) + 0.7) / 1.4
    veil = 255 * camera.veil * np.clip(towards, 0, 1) ** 2
    return np.asarray(light, np.float32), np.asarray(veil, np.float32)


def _bands(camera: Camera, count: int, height: int, rng: np.random.Generator) -> Floats:
    """Return (frames, height, 1) factors: flicker of lamps under a rolling shutter."""
    rows = np.arange(height)[None, :, None] / height
    cycles = camera.bands_wave * rows + camera.bands_speed * np.arange(count)[:, None, None] + rng.random()
    return (1 + camera.bands * np.sin(2 * math.pi * cycles)).astype(np.float32)


def _tones(camera: Camera, count: int, rng: np.random.Generator) -> Floats:
    """Return lookup tables (frames, 3, 256) in grey levels: exposure, white balance, contrast, black level."""
    drift = camera.drift * wander(count, 40, rng)
    balance = np.log([camera.red, 1.0, camera.blue])
    gain = camera.gain * np.exp(drift[:, None] + balance)
    tone = gain[..., None] * np.linspace(0, 1, 256, dtype=np.float32)
    # Roll off highlights: hard clipping would turn bright walls into flat white.
    tone = np.where(tone > 0.8, 0.8 + 0.2 * np.tanh((tone - 0.8) / 0.2), tone)
    tone += camera.contrast * (tone * tone * (3 - 2 * tone) - tone)
    return np.asarray(255 * (camera.black + (1 - camera.black) * tone), np.float32)


class _Softening(NamedTuple):
    """Filters along rows and columns, each as first indices (pixels,) and weights (pixels, taps)."""

    rows: tuple[NDArray[np.int64], Floats]
    columns: tuple[NDArray[np.int64], Floats]
    wide_rows: tuple[NDArray[np.int64], Floats]
    wide_columns: tuple[NDArray[np.int64], Floats]
    halo: float


def _softening(camera: Camera, height: int, width: int) -> _Softening | None:
    """Return the filters for blur, resampling and sharpening, or None if their effect is invisible."""
    sigma = camera.blur * min(height, width)
    if sigma < 0.2 and camera.shrink < 1.05 and camera.halo == 0:
        return None
    radius = max(0.8, 0.006 * min(height, width))
    rows, columns = (_mix(size, sigma, camera.shrink) for size in (height, width))
    return _Softening(rows, columns, _mix(height, radius, 1), _mix(width, radius, 1), camera.halo)


def _mix(size: int, sigma: float, shrink: float) -> tuple[NDArray[np.int64], Floats]:
    """Combine blur, downscaling and upscaling along one axis into one sparse filter."""
    matrix = np.eye(size)
    if sigma >= 0.2:
        matrix = gaussian_filter1d(matrix, sigma, axis=0, mode="nearest")
    small = max(2, round(size / shrink))
    if small < size:
        matrix = _scaling(size, small) @ _scaling(small, size) @ matrix
    used = matrix > 1e-3
    first = used.argmax(1)
    taps = int((size - used[:, ::-1].argmax(1) - first).max())
    first = np.minimum(first, size - taps)
    weights = np.take_along_axis(matrix, first[:, None] + np.arange(taps), axis=1)
    return first, (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _scaling(out: int, size: int) -> NDArray[np.float64]:
    """Return the (out, size) matrix of linear resampling; the tent is as wide as the coarser of the two grids."""
    place = (np.arange(out)[:, None] + 0.5) * size / out - 0.5
    matrix = np.clip(1 - np.abs(place - np.arange(size)) / max(1, size / out), 0, None)
    return np.asarray(matrix / matrix.sum(1, keepdims=True))


def _soften(frame: Images, how: _Softening) -> Images:
    soft = _mix_picture(frame.astype(np.float32), *how.rows, *how.columns)
    if how.halo > 0:
        soft += np.float32(how.halo) * (soft - _mix_picture(soft, *how.wide_rows, *how.wide_columns))
    return np.asarray(np.clip(soft + np.float32(0.5), 0, 255), np.uint8)


@njit(cache=True, nogil=True)
def _mix_picture(
    frame: Floats, rows: NDArray[np.int64], row_weights: Floats, columns: NDArray[np.int64], weights: Floats
) -> Floats:
    """Filter a frame, first along columns, then along rows."""
    height, width, _ = frame.shape
    flat = frame.reshape(height, width * 3)
    out = np.empty_like(frame)
    line = np.empty(width * 3, np.float32)
    for y in range(height):
        line[:] = 0
        for tap in range(row_weights.shape[1]):
            line += row_weights[y, tap] * flat[rows[y] + tap]
        for x in range(width):
            red = green = blue = np.float32(0)
            for tap in range(weights.shape[1]):
                weight, at = weights[x, tap], 3 * (columns[x] + tap)
                red += weight * line[at]
                green += weight * line[at + 1]
                blue += weight * line[at + 2]
            out[y, x, 0], out[y, x, 1], out[y, x, 2] = red, green, blue
    return out


@njit(cache=True, nogil=True)
def _expose(
    out: Images,
    frame: Images,
    tones: Floats,
    light: Floats,
    veil: Floats,
    saturation: float,
    grain: Floats,
    colour: Floats,
) -> None:
    """Apply tones, light, saturation and noise to one frame."""
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            red = tones[0, frame[y, x, 0]] * light[y, x] + veil[y, x]
            green = tones[1, frame[y, x, 1]] * light[y, x] + veil[y, x]
            blue = tones[2, frame[y, x, 2]] * light[y, x] + veil[y, x]
            grey = np.float32(0.2126) * red + np.float32(0.7152) * green + np.float32(0.0722) * blue
            # Noise is stronger in shadows, which the tone curve amplifies most.
            noise = 1.2 - np.float32(0.7 / 255) * min(max(grey, 0), 255)
            base = grey + noise * grain[y, x]
            warm, cold = _between(colour, y, x)
            warm, cold = noise * warm, noise * cold
            _store(out, y, x, 0, base + saturation * (red - grey) + warm)
            _store(out, y, x, 1, base + saturation * (green - grey) - 0.4 * (warm + cold))
            _store(out, y, x, 2, base + saturation * (blue - grey) + cold)


@njit(cache=True, nogil=True)
def _between(colour: Floats, y: int, x: int) -> tuple[float, float]:
    """Interpolate the coarse colour noise bilinearly at a pixel."""
    i, j = y // _COLOUR_PIXELS, x // _COLOUR_PIXELS
    v = np.float32(y % _COLOUR_PIXELS) / np.float32(_COLOUR_PIXELS)
    u = np.float32(x % _COLOUR_PIXELS) / np.float32(_COLOUR_PIXELS)
    a, b, c, d = (1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v
    warm = a * colour[i, j, 0] + b * colour[i, j + 1, 0] + c * colour[i + 1, j, 0] + d * colour[i + 1, j + 1, 0]
    cold = a * colour[i, j, 1] + b * colour[i, j + 1, 1] + c * colour[i + 1, j, 1] + d * colour[i + 1, j + 1, 1]
    return warm, cold


@njit(cache=True, nogil=True)
def _store(out: Images, y: int, x: int, channel: int, value: float) -> None:
    out[y, x, channel] = int(min(max(value + 0.5, 0.0), 255.0))
