"""Rotations and inverse kinematics, vectorised over frames: vectors are (..., 3), rotations (..., 3, 3)."""

import numpy as np
from numpy.typing import ArrayLike

from model.arrays import Array

X, Y, Z = np.eye(3)


def normalize(vectors: ArrayLike) -> Array:
    """Scale vectors to length one."""
    values = np.asarray(vectors, float)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-9))


def rotate(rotation: Array, vector: ArrayLike) -> Array:
    """Rotate vectors."""
    return np.asarray((rotation @ np.asarray(vector, float)[..., None])[..., 0])


def axis_angle(axis: ArrayLike, angle: ArrayLike) -> Array:
    """Return rotations (..., 3, 3) by angles in radians about one common axis or one axis each (Rodrigues)."""
    angle = np.asarray(angle, float)
    x, y, z = np.moveaxis(np.broadcast_to(normalize(axis), (*angle.shape, 3)), -1, 0)
    cos, sin = np.cos(angle), np.sin(angle)
    rest = 1 - cos
    rows = (
        (cos + x * x * rest, x * y * rest - z * sin, x * z * rest + y * sin),
        (y * x * rest + z * sin, cos + y * y * rest, y * z * rest - x * sin),
        (z * x * rest - y * sin, z * y * rest + x * sin, cos + z * z * rest),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2)


def pitch_yaw_roll(pitch: ArrayLike, yaw: ArrayLike, roll: ArrayLike) -> Array:
    """Return Rz(yaw) Rx(pitch) Ry(roll): positive is to the left (yaw), forward (pitch), tilted left (roll)."""
    return np.asarray(axis_angle(Z, yaw) @ axis_angle(X, pitch) @ axis_angle(Y, roll))


def make_basis(forward: ArrayLike, normal: ArrayLike) -> Array:
    """Return rotations with first axis `forward` and third axis `normal`, orthogonalised (Gram-Schmidt)."""
    first = normalize(forward)
    normal = np.asarray(normal, float)
    third = normalize(normal - (normal * first).sum(-1, keepdims=True) * first)
    return np.stack([first, np.cross(third, first), third], -1)


def invert(rotation: Array) -> Array:
    """Invert rotations."""
    return np.swapaxes(rotation, -1, -2)


def rotation_vector(rotation: Array) -> Array:
    """Return axis times angle; stable for angles below pi."""
    skew = np.stack(
        [rotation[..., 2, 1] - rotation[..., 1, 2], rotation[..., 0, 2] - rotation[..., 2, 0],
         rotation[..., 1, 0] - rotation[..., 0, 1]], -1,
    )  # fmt: skip
    sin = np.linalg.norm(skew, axis=-1) / 2
    cos = (np.trace(rotation, axis1=-2, axis2=-1) - 1) / 2
    return np.asarray(normalize(skew) * np.arctan2(sin, cos)[..., None])


def rotation_between(first: Array, second: Array) -> Array:
    """Return the smallest rotation (..., 3, 3) from one unit vector to another; undefined for opposite vectors."""
    axis, cos = np.cross(first, second), np.sum(first * second, axis=-1)
    zero = np.zeros_like(cos)
    x, y, z = np.moveaxis(axis, -1, 0)
    rows = ((zero, -z, y), (z, zero, -x), (-y, x, zero))
    skew = np.stack([np.stack(row, -1) for row in rows], -2)
    return np.asarray(np.eye(3) + skew + skew @ skew / np.maximum(1 + cos, 1e-3)[..., None, None])


def slerp(first: Array, second: Array, share: Array) -> Array:
    """Interpolate between rotations along the shortest path; `share` is 0 at the first and 1 at the second.

    If they are about half a turn apart, the direction of rotation may flip between frames: see `slerp_one_way`.
    """
    first, second = np.broadcast_arrays(first, second)
    return _part_way(first, rotation_vector(invert(first) @ second), share)


def slerp_one_way(first: Array, second: Array, share: Array) -> Array:
    """Interpolate like `slerp`, but rotate in the same direction in all frames (first axis).

    The direction is the shorter one, averaged over frames with weights share * (1 - share).
    """
    first, second = np.broadcast_arrays(first, second)
    vector = rotation_vector(invert(first) @ second)
    angle = np.linalg.norm(vector, axis=-1)
    flips = ((vector[1:] * vector[:-1]).sum(-1) < 0) & (angle[1:] + angle[:-1] > np.pi)
    other_way = np.concatenate([[False], np.cumsum(flips) % 2 == 1])
    passage = share * (1 - share)
    if (passage * np.where(other_way, np.pi - angle, angle - np.pi)).sum() > 0:
        other_way = ~other_way
    return _part_way(
        first, np.where(other_way[:, None], (angle - 2 * np.pi)[:, None] * normalize(vector), vector), share
    )


def _part_way(first: Array, vector: Array, share: Array) -> Array:
    """Rotate on from `first` by a share of a rotation vector."""
    angle = np.linalg.norm(vector, axis=-1)
    axis = np.where(angle[..., None] > 1e-7, vector, X)
    return np.asarray(first @ axis_angle(axis, angle * share))


def two_bone_ik(start: Array, target: Array, upper: float, lower: float, pole: Array) -> tuple[Array, Array]:
    """Solve the inverse kinematics of two bones; return the positions (..., 3) of the middle joint and the end.

    Args:
        start, target: (..., 3) positions of the first joint and desired positions of the end.
        upper, lower: lengths of the bones; the end stops short of targets that are out of reach.
        pole: (..., 3) direction in which the middle joint bends.
    """
    way = target - start
    distance = np.linalg.norm(way, axis=-1, keepdims=True)
    along = way / np.maximum(distance, 1e-9)
    distance = np.clip(distance, abs(upper - lower) + 0.02, (upper + lower) * 0.997)
    base = (upper**2 - lower**2 + distance**2) / (2 * distance)
    height = np.sqrt(np.maximum(upper**2 - base**2, 1e-8))
    aside = normalize(pole - (pole * along).sum(-1, keepdims=True) * along)
    return start + base * along + height * aside, start + distance * along


def limit_rate(values: Array, max_step: float) -> Array:
    """Limit the change of values (frames, ...) to `max_step` per frame; slower values are unchanged.

    Returns the mean of the largest rate-limited curve below the values and the smallest one above. Jumps become ramps,
    centred on the jump, of about half the maximum rate.
    """
    slope = (max_step * np.arange(len(values))).reshape(-1, *(1,) * (values.ndim - 1))

    def lowest(curve: Array) -> Array:
        forth = np.minimum.accumulate(curve - slope) + slope
        return np.asarray(np.minimum.accumulate((forth + slope)[::-1])[::-1] - slope)

    return np.asarray(0.5 * (lowest(values) - lowest(-values)))
