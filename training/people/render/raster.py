"""Rasterisation arithmetic: projection to the screen and the shadow map, coverage, and depth keys.

These are scalar functions that cpu.py calls in loops and cuda.py in threads, so that both renderers draw the same
picture. The same holds for vertices.py, lighting.py and pixels.py. A frame has SUPERSAMPLING x SUPERSAMPLING samples
per pixel; closeness is 1 / depth on the screen.
"""

import math

import numba as nb

# Layout of the vector `camera`: position, rows of the rotation (right, down, forward), focal length and principal
# point, both in samples.
EYE, ROTATION, FOCAL, CENTRE_X, CENTRE_Y = 0, 3, 12, 13, 14
CAMERA_SIZE = 16
# Layout of the vector `light`.
DIRECTION, AMBIENT, SUN, FILL, SOFTNESS, WARMTH = 0, 3, 4, 5, 6, 7
TO_SHADOW = 8  # twelve numbers: world to column, row and closeness of the shadow map
OCCLUSION = 20
LIGHT_SIZE = 24

NEAR = 0.2  # metres
DEPTH_STEPS = float(2**28)  # a closeness of 1 / NEAR still fits into 31 bits
_THIN = 1e-9  # square samples: a smaller area is a triangle seen edge-on


@nb.njit(inline="always")
def project(camera, x, y, z):
    """Project a world point to column, row (samples) and closeness (1 / depth; 0 behind the camera)."""
    dx, dy, dz = x - camera[0], y - camera[1], z - camera[2]
    depth = camera[9] * dx + camera[10] * dy + camera[11] * dz
    if depth < NEAR:
        return 0.0, 0.0, 0.0
    right = camera[3] * dx + camera[4] * dy + camera[5] * dz
    down = camera[6] * dx + camera[7] * dy + camera[8] * dz
    scale = camera[FOCAL] / depth
    return camera[CENTRE_X] + right * scale, camera[CENTRE_Y] + down * scale, 1.0 / depth


@nb.njit(inline="always")
def to_shadow(light, x, y, z):
    """Project a world point to column, row and closeness of the shadow map (orthographic, closeness in metres)."""
    return (
        light[8] * x + light[9] * y + light[10] * z + light[11],
        light[12] * x + light[13] * y + light[14] * z + light[15],
        light[16] * x + light[17] * y + light[18] * z + light[19],
    )


@nb.njit(inline="always")
def bounds(low, high, size):
    """Return the first and last sample in 0 to size - 1 whose centre lies in [low, high]."""
    first = max(math.ceil(low - 0.5), 0)
    last = min(math.floor(high - 0.5), size - 1)
    return first, last


@nb.njit(inline="always")
def doubled_area(points, a, b, c):
    """Return twice the signed area of a triangle on the screen; negative for front faces, as rows run downwards."""
    x0, y0 = points[a, 0], points[a, 1]
    return (points[b, 0] - x0) * (points[c, 1] - y0) - (points[c, 0] - x0) * (points[b, 1] - y0)


@nb.njit(inline="always")
def extent(points, a, b, c, height, width):
    """Return first and last column, first and last row of the samples in a triangle's bounding box."""
    left, right = bounds(
        min(points[a, 0], points[b, 0], points[c, 0]), max(points[a, 0], points[b, 0], points[c, 0]), width
    )
    top, bottom = bounds(
        min(points[a, 1], points[b, 1], points[c, 1]), max(points[a, 1], points[b, 1], points[c, 1]), height
    )
    return left, right, top, bottom


@nb.njit(inline="always")
def is_drawn(points, a, b, c, area, one_sided):
    """Return whether a triangle is in front of the camera, not degenerate, and (if one-sided) front-facing."""
    if (one_sided and area > -_THIN) or abs(area) < _THIN:
        return False
    return points[a, 2] > 0.0 and points[b, 2] > 0.0 and points[c, 2] > 0.0


@nb.njit(inline="always")
def shares_at(points, a, b, c, share, x, y):
    """Return the barycentric coordinates of a sample in a screen triangle; `share` is 1 / doubled_area."""
    x0, y0 = points[a, 0], points[a, 1]
    px, py = x + 0.5 - x0, y + 0.5 - y0
    second = (px * (points[c, 1] - y0) - (points[c, 0] - x0) * py) * share
    third = ((points[b, 0] - x0) * py - px * (points[b, 1] - y0)) * share
    return 1.0 - second - third, second, third


@nb.njit(inline="always")
def closeness_at(points, a, b, c, share, x, y):
    """Return the interpolated closeness of a triangle at a sample, -1 outside; `share` is 1 / doubled_area."""
    first, second, third = shares_at(points, a, b, c, share, x, y)
    if first < -1e-6 or second < -1e-6 or third < -1e-6:
        return -1.0
    return first * points[a, 2] + second * points[b, 2] + third * points[c, 2]


@nb.njit(inline="always")
def make_key(closeness, triangle):
    """Pack closeness and triangle index into one integer: nearer is greater, ties go to the later triangle."""
    return (int(closeness * DEPTH_STEPS) << 32) | (triangle + 1)


@nb.njit(inline="always")
def get_closeness(key):
    """Return the closeness stored in a key."""
    return float(key >> 32) / DEPTH_STEPS
