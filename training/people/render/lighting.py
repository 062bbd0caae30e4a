"""Lighting of a surface point: key light with shadow map, ambient light with occlusion, and gloss."""

import math

import numba as nb

from training.people.render.raster import (
    AMBIENT,
    DEPTH_STEPS,
    FILL,
    FOCAL,
    NEAR,
    OCCLUSION,
    SOFTNESS,
    SUN,
    WARMTH,
    to_shadow,
)

_SHADOW_BIAS = 0.022  # metres
_FIRST_M, _FULL_M, _LAST_M = 0.012, 0.05, 0.30  # depth differences: occlusion starts, is full, ends

# Offsets of eight neighbours for ambient occlusion; every second one is closer (0.4 of the radius).
_AROUND_X = tuple(math.cos(0.3 + k * math.pi / 4) * (0.4 if k % 2 else 1.0) for k in range(8))
_AROUND_Y = tuple(math.sin(0.3 + k * math.pi / 4) * (0.4 if k % 2 else 1.0) for k in range(8))


@nb.njit(inline="always")
def is_far(box, x, y, radius):
    """Return whether a square around x, y lies outside a box (first and last column, first and last row)."""
    return x + radius < box[0] or x - radius > box[1] + 1 or y + radius < box[2] or y - radius > box[3] + 1


@nb.njit(inline="always")
def lit(shadow, box, light, x, y, z):
    """Return the share of the key light that reaches a point, 0 to 1, from 3 x 3 shadow map samples.

    Args:
        shadow: the shadow map.
        box: first and last column, first and last row of its non-empty part.
        light: the light vector.
        x, y, z: the point in the world.
    """
    size = shadow.shape[0]
    column, row, closeness = to_shadow(light, x, y, z)
    spread = light[SOFTNESS]
    if is_far(box, column, row, spread):
        return 1.0
    unshadowed = 0.0
    for down in range(-1, 2):
        for right in range(-1, 2):
            cx, cy = int(column + right * spread), int(row + down * spread)
            if 0 <= cx < size and 0 <= cy < size and shadow[cy, cx] > closeness + _SHADOW_BIAS:
                continue
            unshadowed += 1.0
    return unshadowed / 9.0


@nb.njit(inline="always")
def open_sky(keys, box, x, y, depth, radius):
    """Return the screen-space ambient occlusion factor of a sample: 1 unoccluded, towards 0 occluded.

    Args:
        keys: (rows, columns) depth keys of the frame.
        box: first and last column, first and last row of its non-empty part.
        x, y: the sample.
        depth: of the surface at the sample, metres.
        radius: of the neighbourhood, in samples.
    """
    if is_far(box, x, y, radius):
        return 1.0
    height, width = keys.shape
    # Compare in quantised closeness; only neighbours in range are converted to metres.
    low = int(DEPTH_STEPS / max(depth - _FIRST_M, NEAR))
    high = int(DEPTH_STEPS / max(depth - _LAST_M, NEAR))
    hidden = 0.0
    for step in range(8):
        cx, cy = int(x + radius * _AROUND_X[step]), int(y + radius * _AROUND_Y[step])
        if 0 <= cx < width and 0 <= cy < height:
            steps = keys[cy, cx] >> 32
            if low < steps < high:
                nearer = depth - DEPTH_STEPS / steps
                hidden += min(nearer / _FULL_M, 1.0) * (1.0 - nearer / _LAST_M)
    return 1.0 - hidden / 6.0


@nb.njit(inline="always")
def illuminate(keys, box, shadow, cast_box, camera, light, x, y, closeness, rx, ry, rz, nx, ny, nz, gloss):
    """Compute the light on a surface: factors for red, green and blue, and the specular term to add.

    Args:
        keys, box: depth keys of the frame and the box of their non-empty part.
        shadow, cast_box: the shadow map and the box of its non-empty part.
        camera, light: vectors, see raster.py.
        x, y: the sample.
        closeness: of the surface, 1 / depth.
        rx, ry, rz: the sample's ray.
        nx, ny, nz: the surface's normal.
        gloss: 0 to 1.
    """
    depth = 1.0 / closeness
    wx, wy, wz = camera[0] + rx * depth, camera[1] + ry * depth, camera[2] + rz * depth
    toward = nx * light[0] + ny * light[1] + nz * light[2]
    direct = 0.0
    if toward > 0.0 and light[SUN] > 0.0:
        direct = light[SUN] * toward * lit(shadow, cast_box, light, wx + 0.01 * nx, wy + 0.01 * ny, wz + 0.01 * nz)
    sky = open_sky(keys, box, x, y, depth, 0.16 * camera[FOCAL] * closeness)
    away = 1.0 / math.sqrt(rx * rx + ry * ry + rz * rz)
    facing = abs(nx * rx + ny * ry + nz * rz) * away
    indirect = (light[AMBIENT] * (0.72 + 0.28 * nz) + light[FILL] * facing) * (1.0 - light[OCCLUSION] * (1.0 - sky))
    shine = 0.0
    if gloss > 0.0:  # Blinn-Phong
        hx, hy, hz = light[0] - rx * away, light[1] - ry * away, light[2] - rz * away
        half = (nx * hx + ny * hy + nz * hz) / (math.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9)
        if half > 0.0:
            half = half * half * half
            half = half * half * half  # to the ninth power ...
            shine = gloss * half * half * (direct + 0.35 * light[AMBIENT])  # ... and the eighteenth
    warm = light[WARMTH] * direct
    return indirect + direct + warm, indirect + direct, indirect + direct - warm, shine
