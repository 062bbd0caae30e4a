"""Rotations and joints, over all frames at once: arrays end in (3,) for vectors and (3, 3) for rotations."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

X, Y, Z = np.eye(3)


def unit(vectors: ArrayLike) -> Array:
    """Vectors at length one."""
    values = np.asarray(vectors, float)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-9))


def apply(rotation: Array, vector: ArrayLike) -> Array:
    """Rotate vectors."""
    return np.asarray((rotation @ np.asarray(vector, float)[..., None])[..., 0])


def about(axis: ArrayLike, angle: ArrayLike) -> Array:
    """Rotations (..., 3, 3) by angles in radians about an axis, or one axis each (Rodrigues)."""
    angle = np.asarray(angle, float)
    x, y, z = np.moveaxis(np.broadcast_to(unit(axis), (*angle.shape, 3)), -1, 0)
    cos, sin = np.cos(angle), np.sin(angle)
    rest = 1 - cos
    rows = (
        (cos + x * x * rest, x * y * rest - z * sin, x * z * rest + y * sin),
        (y * x * rest + z * sin, cos + y * y * rest, y * z * rest - x * sin),
        (z * x * rest - y * sin, z * y * rest + x * sin, cos + z * z * rest),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2)


def turned(pitch: ArrayLike, yaw: ArrayLike, roll: ArrayLike) -> Array:
    """Forward bow about x, then a tilt towards the left about y, then a turn to the left about z."""
    return np.asarray(about(Z, yaw) @ about(X, pitch) @ about(Y, roll))


def frame(forward: ArrayLike, normal: ArrayLike) -> Array:
    """Rotation whose first axis is `forward` and whose third is `normal` made square to it."""
    first = unit(forward)
    normal = np.asarray(normal, float)
    third = unit(normal - (normal * first).sum(-1, keepdims=True) * first)
    return np.stack([first, np.cross(third, first), third], -1)


def transposed(rotation: Array) -> Array:
    """The inverse of rotations."""
    return np.swapaxes(rotation, -1, -2)


def rotation_vector(rotation: Array) -> Array:
    """Axis times angle; well-behaved up to a half turn."""
    skew = np.stack(
        [rotation[..., 2, 1] - rotation[..., 1, 2], rotation[..., 0, 2] - rotation[..., 2, 0],
         rotation[..., 1, 0] - rotation[..., 0, 1]], -1,
    )  # fmt: skip
    sin = np.linalg.norm(skew, axis=-1) / 2
    cos = (np.trace(rotation, axis1=-2, axis2=-1) - 1) / 2
    return np.asarray(unit(skew) * np.arctan2(sin, cos)[..., None])


def onto(first: Array, second: Array) -> Array:
    """The smallest rotation (..., 3, 3) from one unit vector to another; not from one to its opposite."""
    axis, cos = np.cross(first, second), np.sum(first * second, axis=-1)
    zero = np.zeros_like(cos)
    x, y, z = np.moveaxis(axis, -1, 0)
    rows = ((zero, -z, y), (z, zero, -x), (-y, x, zero))
    skew = np.stack([np.stack(row, -1) for row in rows], -2)
    return np.asarray(np.eye(3) + skew + skew @ skew / np.maximum(1 + cos, 1e-3)[..., None, None])


def between(first: Array, second: Array, share: Array) -> Array:
    """The rotation at `share` (0 first, 1 second) of the way, along the shortest turn.

    Where that is about half a turn, the way round may change from frame to frame: see `passing`.
    """
    first, second = np.broadcast_arrays(first, second)
    return _part_way(first, rotation_vector(transposed(first) @ second), share)


def passing(first: Array, second: Array, share: Array) -> Array:
    """As `between`, frames first, but always the same way round: the shorter one where most of the passage is."""
    first, second = np.broadcast_arrays(first, second)
    vector = rotation_vector(transposed(first) @ second)
    angle = np.linalg.norm(vector, axis=-1)
    flips = ((vector[1:] * vector[:-1]).sum(-1) < 0) & (angle[1:] + angle[:-1] > np.pi)
    other_way = np.concatenate([[False], np.cumsum(flips) % 2 == 1])
    passage = share * (1 - share)
    if (passage * np.where(other_way, np.pi - angle, angle - np.pi)).sum() > 0:
        other_way = ~other_way
    return _part_way(
        first, np.where(other_way[:, None], (angle - 2 * np.pi)[:, None] * unit(vector), vector), share
    )


def _part_way(first: Array, vector: Array, share: Array) -> Array:
    angle = np.linalg.norm(vector, axis=-1)
    axis = np.where(angle[..., None] > 1e-7, vector, X)
    return np.asarray(first @ about(axis, angle * share))


def two_bones(start: Array, target: Array, upper: float, lower: float, pole: Array) -> tuple[Array, Array]:
    """Where the middle joint and the end of two bones lie when the end reaches for a target.

    Args:
        start, target: (..., 3) the first joint and where the end should be.
        upper, lower: lengths of the bones; beyond reach the end stops short.
        pole: (..., 3) direction towards which the middle joint points.
    """
    way = target - start
    distance = np.linalg.norm(way, axis=-1, keepdims=True)
    along = way / np.maximum(distance, 1e-9)
    distance = np.clip(distance, abs(upper - lower) + 0.02, (upper + lower) * 0.997)
    base = (upper**2 - lower**2 + distance**2) / (2 * distance)
    height = np.sqrt(np.maximum(upper**2 - base**2, 1e-8))
    aside = unit(pole - (pole * along).sum(-1, keepdims=True) * along)
    return start + base * along + height * aside, start + distance * along


def steadied(values: Array, most: float) -> Array:
    """Values (frames, ...) that change by at most `most` a frame; those that do already stay as they are.

    Jumps become ramps that begin before and end after them, at about half that rate: the mean of the highest curve
    below and the lowest curve above that change no faster.
    """
    slope = (most * np.arange(len(values))).reshape(-1, *(1,) * (values.ndim - 1))

    def lowest(curve: Array) -> Array:
        forth = np.minimum.accumulate(curve - slope) + slope
        return np.asarray(np.minimum.accumulate((forth + slope)[::-1])[::-1] - slope)

    return np.asarray(0.5 * (lowest(values) - lowest(-values)))
