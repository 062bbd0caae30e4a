"""Cut a training window from a video and augment it; all random numbers come from the given generator."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from model.arrays import Booleans, Doubles, Images, Integers
from model.bundle import InputConfig
from training import pixels
from training.dataset import Keypoints
from training.people.actions import BY_CODE
from training.people.film import MIN_VISIBLE_SHARE, PARTS
from training.recipe import AugmentConfig
from training.tables import standard_labels

_MIN_STEPS = 2.0  # shorter parts of an action in a window are ignored
_MIN_SHARE = 0.3  # as are smaller shares of it
_CLOSE_UP_SIDE = (0.35, 0.85)  # side of a close-up relative to the frame: from head and shoulders to head and knees
# Margin above the head, relative to the close-up; negative, since detectors crop the head in narrow frames.
_MARGIN_ABOVE = (-0.08, 0.2)
_HORIZONTAL_SIGMA = 0.08
# Ranges of exponent and factor of all colour values; maximum relative change of each channel; probabilities of grey and
# of blur; maximum standard deviation of noise, relative to white.
_GAMMA, _GAIN, _TINT, _GREY, _BLUR, _NOISE = (0.7, 1.4), (0.8, 1.2), 0.08, 0.1, 0.2, 0.02


@dataclass(frozen=True)
class Example:
    """One window: frames (n, height, width, 3), at most a window's; segments (m, 2) in its steps; labels (m,).

    Keypoints (n, j, 3) are x and y as fractions of the frame, and visibility; None if unknown.
    """

    frames: Images
    segments: Doubles
    labels: Integers
    keypoints: Doubles | None


def make_example(
    rng: np.random.Generator,
    frames: Images,
    segments_s: Doubles,
    labels: Integers,
    keypoints: Keypoints | None,
    config: InputConfig,
    augment: AugmentConfig,
    window: int = 0,
    *,
    scattered: bool = False,
) -> Example:
    """Cut a window from a video and augment it.

    `frames` (n, rows, columns, 3) are the whole video at the network's frame rate. `window` is the maximum number of
    frames, 0 for the network's; in shorter windows small parts of actions count too. `scattered` samples single frames
    from the whole video instead; the example has no segments.
    """
    window = window or config.window_frames
    if scattered:
        chosen = np.sort(rng.choice(len(frames), min(window, len(frames)), replace=False))
        segments, labels = np.zeros((0, 2)), np.zeros(0, np.int64)
    else:
        positions = _sample_frame_positions(rng, len(frames), window, augment)
        min_share = _MIN_SHARE if window == config.window_frames else 0.0
        segments, remaining = _cut_segments(positions, segments_s * config.fps, min_share)
        labels = labels[remaining]
        chosen = np.clip(np.round(positions).astype(int), 0, len(frames) - 1)
    points = None if keypoints is None else keypoints.places[chosen]
    images, points = _crop(rng, frames[chosen], points, config, augment)
    if rng.random() < augment.flip:
        images = images[:, :, ::-1]
        if keypoints is not None and points is not None:  # swap left and right keypoints
            points = np.concatenate([1 - points[..., :1], points[..., 1:]], -1)[:, keypoints.mirrored]
    if augment.colour:
        images = _colour(rng, images)
    if points is not None and keypoints is not None and keypoints.names:
        visible = find_visible_actions(points, keypoints.names, segments, labels)
        segments, labels = segments[visible], labels[visible]
    return Example(images, segments, labels, points)


def resize_to_input(frames: Images, config: InputConfig) -> Images:
    """Resize frames to the network's input size without augmentation."""
    return _crop_and_resize(frames, 0.0, 0.0, 1.0, config)


def _sample_frame_positions(rng: np.random.Generator, count: int, window: int, augment: AugmentConfig) -> Doubles:
    """Sample the positions (n,) in the video of a window's frames; increasing, except for a frozen end."""
    speed = rng.uniform(*augment.speed)
    length = float(count)
    if rng.random() < augment.truncate:
        length *= rng.uniform(0.5, 1.0)
    length = min(length, window * speed)
    start = rng.uniform(0, count - length)
    positions = start + speed * np.arange(max(int(length / speed), 1))
    if rng.random() < augment.freeze and len(positions) < window:
        repeats = rng.integers(1, min(window - len(positions), 16) + 1)
        positions = np.concatenate([positions, np.full(repeats, positions[-1])])
    return np.asarray(positions[:window], float)


def _cut_segments(positions: Doubles, segments: Doubles, min_share: float) -> tuple[Doubles, Integers]:
    """Clip segments in frames of the video to steps of the window; return those that remain, and their indices."""
    steps = np.arange(len(positions))
    rising = np.concatenate([[True], np.diff(positions) > 0])
    last = float(steps[rising][-1])
    inside = np.interp(segments, positions[rising], steps[rising])
    inside[segments[:, 1] >= positions[rising][-1], 1] = last
    length = inside[:, 1] - inside[:, 0]
    speed = (positions[rising][-1] - positions[0]) / max(last, 1.0)
    whole = (segments[:, 1] - segments[:, 0]) / max(speed, 1e-6)
    remaining = np.flatnonzero((length >= _MIN_STEPS) & (length >= min_share * np.minimum(whole, 48)))
    return inside[remaining], remaining


def _crop(
    rng: np.random.Generator, images: Images, points: Doubles | None, config: InputConfig, augment: AugmentConfig
) -> tuple[Images, Doubles | None]:
    """Crop the same random part of all frames and resize it to the network's input size."""
    if points is not None and augment.close and rng.random() < augment.close:
        x, y, scale = draw_close_up(rng, points)
    else:
        scale = rng.uniform(*augment.scale)
        x, y = rng.uniform(0, 1 - scale, 2)
    images = _crop_and_resize(images, x, y, scale, config)
    if points is not None:
        position = (points[..., :2] - (x, y)) / scale
        visible = points[..., 2:] * ((position >= 0) & (position < 1)).all(axis=-1, keepdims=True)
        points = np.concatenate([position, visible], -1)
    return images, points


def _crop_and_resize(images: Images, x: float, y: float, scale: float, config: InputConfig) -> Images:
    """Crop `scale` of each side from (x, y), all as fractions of the frame, and resize it bilinearly."""
    rows, columns = images.shape[1:3]
    if (x, y, scale) == (0, 0, 1) and (rows, columns) == (config.height, config.width):
        return images
    down = np.clip((y + scale * (np.arange(config.height) + 0.5) / config.height) * rows - 0.5, 0, rows - 1)
    across = np.clip((x + scale * (np.arange(config.width) + 0.5) / config.width) * columns - 0.5, 0, columns - 1)
    resized = np.empty((len(images), config.height, config.width, 3), np.uint8)
    pixels.resample(np.ascontiguousarray(images), down, across, resized)
    return resized


def _colour(rng: np.random.Generator, images: Images) -> Images:
    values = np.arange(256) / 255.0
    curve = values ** rng.uniform(*_GAMMA) * rng.uniform(*_GAIN)
    tints = 1 + rng.uniform(-_TINT, _TINT, 3)
    tables = np.clip(curve[:, None] * tints * 255, 0, 255).astype(np.uint8)
    coloured: Images = np.empty(images.shape, np.uint8)
    pixels.colour(images, np.ascontiguousarray(tables.T), rng.random() < _GREY, coloured)
    images = coloured
    if rng.random() < _BLUR:
        sums = images.astype(np.uint16)
        sums[:, 1:-1] = (sums[:, :-2] + 2 * sums[:, 1:-1] + sums[:, 2:]) // 4
        sums[:, :, 1:-1] = (sums[:, :, :-2] + 2 * sums[:, :, 1:-1] + sums[:, :, 2:]) // 4
        images = np.asarray(sums, np.uint8)
    noise_level = rng.uniform(0, _NOISE) * 255
    if noise_level >= 1:  # shifted copies of one noise image are cheaper than new noise for each frame
        count, rows, columns, _ = images.shape
        noise = rng.normal(0, noise_level, (2 * rows, 2 * columns)).astype(np.int16)
        pixels.add_noise(images, noise, rng.integers(0, (rows, columns), (count, 2)))
    return images


def draw_close_up(rng: np.random.Generator, points: Doubles) -> tuple[float, float, float]:
    """Sample a close-up around the head of keypoints (n, j, 3): left, top and side, as fractions of the frame."""
    side = float(np.exp(rng.uniform(*np.log(_CLOSE_UP_SIDE))))
    medians = np.median(points[..., :2], axis=0)
    highest = medians[medians[:, 1].argmin()]
    left = highest[0] + rng.normal(0, _HORIZONTAL_SIGMA) * side - side / 2
    top = highest[1] - rng.uniform(*_MARGIN_ABOVE) * side
    return (*np.clip((left, top), 0, 1 - side).tolist(), side)


def find_visible_actions(points: Doubles, names: tuple[str, ...], segments: Doubles, labels: Integers) -> Booleans:
    """Return which actions (m,) of a window with keypoints (n, j, 3) are visible for long enough to be labelled."""
    is_visible = np.ones(len(labels), bool)
    for index, ((start, end), label) in enumerate(zip(segments, labels, strict=True)):
        first = min(int(start), len(points) - 1)
        visible = points[first : max(int(np.ceil(end)), first + 1), :, 2] > 0
        part_visible = [
            np.any(
                [visible[:, [names.index(name) for name in keypoints]].all(axis=1) for keypoints in alternatives],
                axis=0,
            )
            for alternatives in _get_needed_keypoints(int(label))
        ]
        is_visible[index] = np.all(part_visible, axis=0).mean() >= MIN_VISIBLE_SHARE
    return is_visible


@cache
def _get_needed_keypoints(label: int) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Return for each body part that an action needs its alternative sets of keypoints: one, or one per side."""
    code = standard_labels().actions[label].code
    return tuple(
        tuple(keypoints for name, keypoints in PARTS.items() if name.split(".")[0] == part)
        for part in BY_CODE[code].visible_parts
    )
