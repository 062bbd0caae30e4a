"""From a video to one training window, changed at random; every number is drawn from the generator given."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.bundle import InputConfig
from training import pixels
from training.dataset import Joints
from training.recipe import AugmentConfig
from training.view import close_up, in_view

Frames = NDArray[np.uint8]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_SHORTEST_STEPS = 2.0  # less of an action than this is no example of it
_PART = 0.3  # nor is less than this share of it
_SWAY = 1.5  # pixels, at most


@dataclass(frozen=True)
class Example:
    """One window with what happens in it.

    Attributes:
        frames: (n, height, width, 3) uint8, at most a window.
        segments: (m, 2) in steps of the window. labels: (m,).
        joints: (n, j, 3): x and y of the picture, 0 to 1, and whether it is seen; None where not known.
    """

    frames: Frames
    segments: Floats
    labels: Integers
    joints: Floats | None


def make_example(
    rng: np.random.Generator,
    frames: Frames,
    segments_s: Floats,
    labels: Integers,
    joints: Joints | None,
    config: InputConfig,
    augment: AugmentConfig,
    window: int = 0,
    *,
    scattered: bool = False,
) -> Example:
    """Cut and change a window.

    Args:
        rng: what is drawn from.
        frames: (n, rows, columns, 3) uint8 of the whole video at the network's rate.
        segments_s, labels: what happens in it, seconds.
        joints: of the video's frames, or None.
        config, augment: what the network looks at, and what may be changed.
        window: frames at most; 0 for as many as the network takes. Shorter ones keep also small parts of actions.
        scattered: take single frames from all over the video, with no action in them.
    """
    window = window or config.window_frames
    if scattered:
        chosen = np.sort(rng.choice(len(frames), min(window, len(frames)), replace=False))
        points = None if joints is None else joints.places[chosen]
        pictures, points = _changed(rng, frames[chosen], points, joints, config, augment)
        return Example(pictures, np.zeros((0, 2)), np.zeros(0, np.int64), points)
    if augment.still and rng.random() < augment.still:
        moment = _quiet_moment(rng, len(frames), segments_s * config.fps)
        if moment is not None:
            return _still(rng, moment, frames, joints, config, augment, window)
    moments = _moments(rng, len(frames), window, augment)
    part = _PART if window == config.window_frames else 0.0
    segments, kept = _segments(moments, segments_s * config.fps, part)
    pictures = frames[np.clip(np.round(moments).astype(int), 0, len(frames) - 1)]
    points = (
        None if joints is None else joints.places[np.clip(np.round(moments).astype(int), 0, len(frames) - 1)]
    )
    pictures, points = _changed(rng, pictures, points, joints, config, augment)
    labels = labels[kept]
    if points is not None and joints is not None and joints.names:
        shown = in_view(points, joints.names, segments, labels)
        segments, labels = segments[shown], labels[shown]
    return Example(pictures, segments, labels, points)


def _changed(
    rng: np.random.Generator,
    pictures: Frames,
    points: Floats | None,
    joints: Joints | None,
    config: InputConfig,
    augment: AugmentConfig,
) -> tuple[Frames, Floats | None]:
    """Cut, mirrored and coloured, all frames alike."""
    pictures, points = _crop(rng, pictures, points, config, augment)
    if rng.random() < augment.flip:
        pictures = pictures[:, :, ::-1]
        if joints is not None and points is not None:  # what was left looks right
            points = np.concatenate([1 - points[..., :1], points[..., 1:]], -1)[:, joints.mirrored]
    return _colour(rng, pictures, augment), points


def _quiet_moment(rng: np.random.Generator, count: int, segments: Floats) -> int | None:
    """A frame in which nothing happens; None where something always does."""
    times = np.arange(count)[:, None]
    busy = ((times >= segments[:, 0]) & (times <= segments[:, 1])).any(axis=1)
    quiet = np.flatnonzero(~busy)
    return int(rng.choice(quiet)) if len(quiet) else None


def _still(
    rng: np.random.Generator,
    moment: int,
    frames: Frames,
    joints: Joints | None,
    config: InputConfig,
    augment: AugmentConfig,
    window: int,
) -> Example:
    """One frame for a whole window, and nothing to be found in it.

    The picture sways as before a camera that is not quite fixed: differences that are exactly zero would give stills
    away, and no real video has them.
    """
    rows, columns = frames.shape[1:3]
    ways = _sway(rng, window)
    still = np.pad(frames[moment], ((2, 2), (2, 2), (0, 0)), mode="edge").astype(np.float32)
    pictures = np.stack([_shifted(still, way, rows, columns) for way in ways])
    points = None
    if joints is not None:
        place = joints.places[moment]
        points = np.repeat(place[None], window, axis=0)
        points[..., :2] -= (ways[:, ::-1] / (rows, columns)[::-1])[:, None]
    pictures, points = _changed(rng, pictures, points, joints, config, augment)
    return Example(pictures, np.zeros((0, 2)), np.zeros(0, np.int64), points)


def _sway(rng: np.random.Generator, count: int) -> Floats:
    """(count, 2): rows and columns, within _SWAY pixels, in a few slow waves."""
    times = np.arange(count)[:, None]
    ways = sum(
        np.sin(times * rng.uniform(0.02, 0.6) + rng.uniform(0, 2 * np.pi, (1, 2))) * rng.uniform(0, 1, (1, 2))
        for _ in range(3)
    )
    return np.asarray(rng.uniform(0, _SWAY) * ways / 3, float)


def _shifted(still: NDArray[np.float32], way: Floats, rows: int, columns: int) -> Frames:
    """What a camera sees that has turned by a part of a pixel, of a picture with a border of two."""
    (down, across), (y, x) = np.floor(way).astype(int) + 2, way - np.floor(way)
    mixed = still[down : down + rows] * (1 - y) + still[down + 1 : down + rows + 1] * y
    mixed = mixed[:, across : across + columns] * (1 - x) + mixed[:, across + 1 : across + columns + 1] * x
    return np.asarray(np.rint(mixed), np.uint8)


def plain_example(frames: Frames, config: InputConfig) -> Frames:
    """The window a detector would see: the middle of the pictures at the network's size."""
    return _resized(frames, 0.0, 0.0, 1.0, config)


def _moments(rng: np.random.Generator, count: int, window: int, augment: AugmentConfig) -> Floats:
    """(n,) which frame of the video each frame of the window shows; increasing, but for a frozen end."""
    speed = rng.uniform(*augment.speed)
    length = float(count)
    if rng.random() < augment.truncate:
        length *= rng.uniform(0.5, 1.0)
    length = min(length, window * speed)
    start = rng.uniform(0, count - length)
    moments = start + speed * np.arange(max(int(length / speed), 1))
    if rng.random() < augment.freeze and len(moments) < window:
        still = rng.integers(1, min(window - len(moments), 16) + 1)
        moments = np.concatenate([moments, np.full(still, moments[-1])])
    return np.asarray(moments[:window], float)


def _segments(moments: Floats, segments: Floats, part: float) -> tuple[Floats, Integers]:
    """Segments (frames of the video) in steps of the window, cut to it, and which are left: this part of them."""
    steps = np.arange(len(moments))
    rising = np.concatenate([[True], np.diff(moments) > 0])
    last = float(steps[rising][-1])
    inside = np.interp(segments, moments[rising], steps[rising]) if len(segments) else segments
    ends_later = segments[:, 1] >= moments[rising][-1] if len(segments) else np.zeros(0, bool)
    inside[ends_later, 1] = last
    length = inside[:, 1] - inside[:, 0]
    speed = (moments[rising][-1] - moments[0]) / max(last, 1.0)
    whole = (segments[:, 1] - segments[:, 0]) / max(speed, 1e-6)
    kept = np.flatnonzero((length >= _SHORTEST_STEPS) & (length >= part * np.minimum(whole, 48)))
    return inside[kept], kept


def _crop(
    rng: np.random.Generator,
    pictures: Frames,
    points: Floats | None,
    config: InputConfig,
    augment: AugmentConfig,
) -> tuple[Frames, Floats | None]:
    """One random part for the whole window, at the network's size."""
    if points is not None and augment.close and rng.random() < augment.close:
        x, y, scale = close_up(rng, points)
    else:
        scale = rng.uniform(*augment.scale)
        x, y = rng.uniform(0, 1 - scale, 2)
    pictures = _resized(pictures, x, y, scale, config)
    if points is not None:
        place = (points[..., :2] - (x, y)) / scale
        seen = points[..., 2:] * ((place >= 0) & (place < 1)).all(axis=-1, keepdims=True)
        points = np.concatenate([place, seen], -1)
    return pictures, points


def _resized(pictures: Frames, x: float, y: float, scale: float, config: InputConfig) -> Frames:
    """The part from (x, y), `scale` of each side, bilinear: all as shares of the picture."""
    rows, columns = pictures.shape[1:3]
    if (x, y, scale) == (0, 0, 1) and (rows, columns) == (config.height, config.width):
        return pictures
    down = np.clip((y + scale * (np.arange(config.height) + 0.5) / config.height) * rows - 0.5, 0, rows - 1)
    across = np.clip(
        (x + scale * (np.arange(config.width) + 0.5) / config.width) * columns - 0.5, 0, columns - 1
    )
    resized = np.empty((len(pictures), config.height, config.width, 3), np.uint8)
    pixels.resample(np.ascontiguousarray(pictures), down, across, resized)
    return resized


def _colour(rng: np.random.Generator, pictures: Frames, augment: AugmentConfig) -> Frames:
    """Exponent, factors and channels by one table of 256 values each; then blur and grain."""
    values = np.arange(256) / 255.0
    curve = values ** rng.uniform(*augment.gamma) * rng.uniform(*augment.gain)
    tints = 1 + rng.uniform(-augment.tint, augment.tint, 3)
    tables = np.clip(curve[:, None] * tints * 255, 0, 255).astype(np.uint8)
    coloured: Frames = np.empty(pictures.shape, np.uint8)
    pixels.colour(pictures, np.ascontiguousarray(tables.T), rng.random() < augment.grey, coloured)
    pictures = coloured
    if rng.random() < augment.blur:
        wide = pictures.astype(np.uint16)
        wide[:, 1:-1] = (wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]) // 4
        wide[:, :, 1:-1] = (wide[:, :, :-2] + 2 * wide[:, :, 1:-1] + wide[:, :, 2:]) // 4
        pictures = np.asarray(wide, np.uint8)
    grain = rng.uniform(0, augment.noise) * 255
    if grain >= 1:  # one sheet of noise, moved about, is as good to look at as fresh noise, and cheap
        count, rows, columns, _ = pictures.shape
        sheet = rng.normal(0, grain, (2 * rows, 2 * columns)).astype(np.int16)
        pixels.add_sheet(pictures, sheet, rng.integers(0, (rows, columns), (count, 2)))
    return pictures
