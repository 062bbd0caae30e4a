"""Close-ups of people who were filmed in full, and the actions that remain visible in them."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from training.people.actions import BY_CODE
from training.people.film import MIN_VISIBLE_SHARE, PARTS
from training.tables import standard_labels

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_SIDE = (0.35, 0.85)  # side of a close-up relative to the frame: from head and shoulders to head and knees
# Margin above the head, relative to the close-up; negative, since detectors crop the head in narrow frames.
_MARGIN_ABOVE = (-0.08, 0.2)
_HORIZONTAL_SIGMA = 0.08


def draw_close_up(rng: np.random.Generator, points: Floats) -> tuple[float, float, float]:
    """Sample a close-up around the head, similar to a detector's crop of a person who is close to the camera.

    Args:
        rng: source of random numbers.
        points: (n, j, 3), see Keypoints.

    Returns:
        Left, top and side of a square inside the frame, as fractions of the frame.
    """
    side = float(np.exp(rng.uniform(*np.log(_SIDE))))
    medians = np.median(points[..., :2], axis=0)
    highest = medians[medians[:, 1].argmin()]
    left = highest[0] + rng.normal(0, _HORIZONTAL_SIGMA) * side - side / 2
    top = highest[1] - rng.uniform(*_MARGIN_ABOVE) * side
    return (*np.clip((left, top), 0, 1 - side).tolist(), side)


def find_visible_actions(
    points: Floats, names: tuple[str, ...], segments: Floats, labels: Integers
) -> NDArray[np.bool_]:
    """Return which actions are visible for long enough to be labelled, (m,), by the criterion of `mmad synth`.

    Args:
        points: (n, j, 3) of a window, see Keypoints.
        names: of the keypoints.
        segments: (m, 2) in steps of the window.
        labels: (m,) action ids of MMA-52.
    """
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
    """Return for each body part that an action needs the alternative sets of keypoints: one, or one per side."""
    code = standard_labels().actions[label].code
    return tuple(
        tuple(keypoints for name, keypoints in PARTS.items() if name.split(".")[0] == part)
        for part in BY_CODE[code].visible_parts
    )
