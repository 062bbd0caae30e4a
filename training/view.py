"""What of a person is in view: close-ups of people who were filmed whole, and which actions they still show."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from training.people.actions import BY_CODE
from training.people.film import MIN_VISIBLE_SHARE, PARTS
from training.tables import standard_labels

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_SIDE = (0.35, 0.85)  # of the square of a close-up, of the picture's: head and shoulders, to the knees
# Room above the head, of that square: detectors cut a part of it off where a picture is narrow.
_ABOVE = (-0.08, 0.2)
_ASIDE = 0.08


def draw_close_up(rng: np.random.Generator, points: Floats) -> tuple[float, float, float]:
    """A square around head and neck, as detectors cut whoever is nearer to the camera than the picture is high.

    Args:
        points: (n, j, 3), see Joints.

    Returns:
        Left, top and side, as shares of the picture; the square lies inside of it.
    """
    side = float(np.exp(rng.uniform(*np.log(_SIDE))))
    middle = np.median(points[..., :2], axis=0)
    highest = middle[middle[:, 1].argmin()]
    left = highest[0] + rng.normal(0, _ASIDE) * side - side / 2
    top = highest[1] - rng.uniform(*_ABOVE) * side
    return (*np.clip((left, top), 0, 1 - side).tolist(), side)


def find_visible_actions(
    points: Floats, names: tuple[str, ...], segments: Floats, labels: Integers
) -> NDArray[np.bool_]:
    """(m,) whether what each action needs is in the picture for long enough, as `mmad synth` labels.

    Args:
        points: (n, j, 3) of a window, see Joints. names: of the joints.
        segments: (m, 2) in steps of the window. labels: (m,) of the standard list.
    """
    shown = np.ones(len(labels), bool)
    for place, ((start, end), label) in enumerate(zip(segments, labels, strict=True)):
        first = min(int(start), len(points) - 1)
        seen = points[first : max(int(np.ceil(end)), first + 1), :, 2] > 0
        every = [
            np.any([seen[:, [names.index(name) for name in one]].all(axis=1) for one in either], axis=0)
            for either in _needs(int(label))
        ]
        shown[place] = np.all(every, axis=0).mean() >= MIN_VISIBLE_SHARE
    return shown


@cache
def _needs(label: int) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Of each part that an action shows: joints of it, or of either side."""
    code = standard_labels().actions[label].code
    return tuple(
        tuple(joints for name, joints in PARTS.items() if name.split(".")[0] == part)
        for part in BY_CODE[code].visible_parts
    )
