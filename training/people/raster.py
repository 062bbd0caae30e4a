"""The arithmetic of a picture: which triangle a sample sees, and what colour it has there.

Scalar functions only, compiled once for the processor (cpu.py loops over them) and once for a CUDA card (cuda.py
starts a thread for each), so that both draw the same picture. Colours are linear light, 0 to 1.
"""

import math

import numba as nb

from training.people.materials import material
from training.people.room import room_colour, room_hit

# Layout of the vector `camera`: position, rows of the rotation (right, down, forward), focal length and centre in samples.
EYE, ROTATION, FOCAL, CENTRE_X, CENTRE_Y = 0, 3, 12, 13, 14
CAMERA_SIZE = 16
# Layout of the vector `light`.
DIRECTION, AMBIENT, SUN, FILL, SOFTNESS, WARMTH = 0, 3, 4, 5, 6, 7
TO_SHADOW = 8  # twelve numbers: world to column, row and closeness of the shadow map
OCCLUSION = 20
LIGHT_SIZE = 24

_NEAR = 0.2  # metres
_DEPTH_STEPS = float(2**28)  # a closeness of 1 / _NEAR still fits into 31 bits
_SHADOW_BIAS = 0.022  # metres
_PI = math.pi


@nb.njit(inline="always")
def project(camera, x, y, z):
    """World to column, row (samples) and closeness (1 / depth); closeness 0 behind the camera."""
    dx, dy, dz = x - camera[0], y - camera[1], z - camera[2]
    depth = camera[9] * dx + camera[10] * dy + camera[11] * dz
    if depth < _NEAR:
        return 0.0, 0.0, 0.0
    right = camera[3] * dx + camera[4] * dy + camera[5] * dz
    down = camera[6] * dx + camera[7] * dy + camera[8] * dz
    scale = camera[FOCAL] / depth
    return camera[CENTRE_X] + right * scale, camera[CENTRE_Y] + down * scale, 1.0 / depth


@nb.njit(inline="always")
def to_shadow(light, x, y, z):
    """World to column, row and closeness of the shadow map (orthographic; closeness in metres)."""
    return (
        light[8] * x + light[9] * y + light[10] * z + light[11],
        light[12] * x + light[13] * y + light[14] * z + light[15],
        light[16] * x + light[17] * y + light[18] * z + light[19],
    )


@nb.njit(inline="always")
def bounds(low, high, size):
    """First and last sample whose centre lies in [low, high], within 0 to size - 1."""
    first = max(int(math.ceil(low - 0.5)), 0)
    last = min(int(math.floor(high - 0.5)), size - 1)
    return first, last


@nb.njit(inline="always")
def doubled_area(points, a, b, c):
    """Of a triangle on the screen; negative if seen from its front (rows run downwards)."""
    x0, y0 = points[a, 0], points[a, 1]
    return (points[b, 0] - x0) * (points[c, 1] - y0) - (points[c, 0] - x0) * (points[b, 1] - y0)


@nb.njit(inline="always")
def closeness_at(points, a, b, c, area, x, y):
    """Interpolated closeness of a triangle at a sample, -1 outside."""
    x0, y0 = points[a, 0], points[a, 1]
    px, py = x + 0.5 - x0, y + 0.5 - y0
    second = (px * (points[c, 1] - y0) - (points[c, 0] - x0) * py) / area
    third = ((points[b, 0] - x0) * py - px * (points[b, 1] - y0)) / area
    first = 1.0 - second - third
    if first < -1e-6 or second < -1e-6 or third < -1e-6:
        return -1.0
    return first * points[a, 2] + second * points[b, 2] + third * points[c, 2]


@nb.njit(inline="always")
def key_of(closeness, triangle):
    """One integer that is greater the nearer; equal distances go to the later triangle."""
    return (int(closeness * _DEPTH_STEPS) << 32) | (triangle + 1)


@nb.njit(inline="always")
def closeness_of(key):
    """The closeness in a key."""
    return float(key >> 32) / _DEPTH_STEPS


@nb.njit
def lit(shadow, light, x, y, z):
    """How much of the key light reaches a point, 0 to 1: a soft look-up of 3 x 3 samples."""
    size = shadow.shape[0]
    column, row, closeness = to_shadow(light, x, y, z)
    spread = light[SOFTNESS]
    seen = 0.0
    for down in range(-1, 2):
        for right in range(-1, 2):
            cx, cy = int(column + right * spread), int(row + down * spread)
            if 0 <= cx < size and 0 <= cy < size and shadow[cy, cx] > closeness + _SHADOW_BIAS:
                continue
            seen += 1.0
    return seen / 9.0


# Eight directions, every second one reaching half as far, for the look around of open_sky.
_AROUND_X = tuple(math.cos(0.3 + k * _PI / 4) * (0.4 if k % 2 else 1.0) for k in range(8))
_AROUND_Y = tuple(math.sin(0.3 + k * _PI / 4) * (0.4 if k % 2 else 1.0) for k in range(8))


@nb.njit
def open_sky(keys, x, y, closeness, radius):
    """How little stands close in front of a sample, 0 to 1: ambient occlusion on the screen.

    Args:
        keys: (rows, columns) of the picture.
        x, y: the sample.
        closeness: of what it sees, 1 / metres.
        radius: of the neighbourhood, in samples.
    """
    height, width = keys.shape
    depth = 1.0 / closeness
    hidden = 0.0
    for step in range(8):
        cx, cy = int(x + radius * _AROUND_X[step]), int(y + radius * _AROUND_Y[step])
        if 0 <= cx < width and 0 <= cy < height:
            key = keys[cy, cx]
            if key > 0:
                nearer = depth - 1.0 / closeness_of(key)
                if 0.012 < nearer < 0.30:
                    hidden += min(nearer / 0.05, 1.0) * (1.0 - nearer / 0.30)
    return 1.0 - hidden / 6.0


@nb.njit
def ray_of(camera, x, y):
    """The ray through a place of the screen; its length is such that depth is its parameter."""
    u, v = (x - camera[CENTRE_X]) / camera[FOCAL], (y - camera[CENTRE_Y]) / camera[FOCAL]
    return (
        camera[9] + u * camera[3] + v * camera[6],
        camera[10] + u * camera[4] + v * camera[7],
        camera[11] + u * camera[5] + v * camera[8],
    )


@nb.njit
def illuminate(keys, shadow, camera, light, x, y, closeness, rx, ry, rz, nx, ny, nz, gloss):
    """Light on a surface: what multiplies its red, green and blue, and what its gloss adds.

    Args:
        keys, shadow: of the picture and of the shadow map.
        x, y: the sample; closeness, rx, ry, rz: where on its ray the surface is.
        nx, ny, nz: the surface's normal.
        gloss: 0 to 1.
    """
    wx, wy, wz = camera[0] + rx / closeness, camera[1] + ry / closeness, camera[2] + rz / closeness
    toward = nx * light[0] + ny * light[1] + nz * light[2]
    direct = 0.0
    if toward > 0.0 and light[SUN] > 0.0:
        direct = light[SUN] * toward * lit(shadow, light, wx + 0.01 * nx, wy + 0.01 * ny, wz + 0.01 * nz)
    sky = open_sky(keys, x, y, closeness, 0.16 * camera[FOCAL] * closeness)
    length = math.sqrt(rx * rx + ry * ry + rz * rz)
    facing = abs(nx * rx + ny * ry + nz * rz) / length
    indirect = (light[AMBIENT] * (0.72 + 0.28 * nz) + light[FILL] * facing) * (1.0 - light[OCCLUSION] * (1.0 - sky))
    shine = 0.0
    if gloss > 0.0:  # Blinn-Phong
        hx, hy, hz = light[0] - rx / length, light[1] - ry / length, light[2] - rz / length
        half = (nx * hx + ny * hy + nz * hz) / (math.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9)
        if half > 0.0:
            half = half * half * half
            half = half * half * half  # to the ninth power ...
            shine = gloss * half * half * (direct + 0.35 * light[AMBIENT])  # ... and the eighteenth
    warm = light[WARMTH] * direct
    return indirect + direct + warm, indirect + direct, indirect + direct - warm, shine


@nb.njit
def room_sample(camera, room, panels, backdrop, x, y):
    """Colour (three), normal (three), gloss and closeness of the room at a place of the screen."""
    rx, ry, rz = ray_of(camera, x, y)
    depth, surface = room_hit(room, camera[0], camera[1], camera[2], rx, ry, rz)
    red, green, blue, nx, ny, nz, gloss = room_colour(
        room, panels, backdrop, surface, camera[0] + rx * depth, camera[1] + ry * depth, camera[2] + rz * depth
    )
    return red, green, blue, nx, ny, nz, gloss, 1.0 / depth


@nb.njit
def room_pixel(camera, room, panels, backdrop, row, column, side):
    """Of a whole pixel: colour averaged over its samples; normal, gloss and closeness of its middle."""
    red, green, blue = 0.0, 0.0, 0.0
    for sample in range(side * side):
        x, y = column * side + sample % side + 0.5, row * side + sample // side + 0.5
        r, g, b, _, _, _, _, _ = room_sample(camera, room, panels, backdrop, x, y)
        red, green, blue = red + r, green + g, blue + b
    _, _, _, nx, ny, nz, gloss, closeness = room_sample(
        camera, room, panels, backdrop, (column + 0.5) * side, (row + 0.5) * side
    )
    share = 1.0 / (side * side)
    return red * share, green * share, blue * share, nx, ny, nz, gloss, closeness


@nb.njit
def shade(x, y, keys, points, normals, template, colours, faces, parts, shadow, camera, light, dress, room, panels, backdrop):
    """Linear red, green, blue of one sample."""
    key = keys[y, x]
    rx, ry, rz = ray_of(camera, x + 0.5, y + 0.5)
    if key > 0:
        triangle = (key & 0xFFFFFFFF) - 1
        a, b, c = faces[triangle, 0], faces[triangle, 1], faces[triangle, 2]
        area = doubled_area(points, a, b, c)
        x0, y0 = points[a, 0], points[a, 1]
        sx, sy = x + 0.5 - x0, y + 0.5 - y0
        second = (sx * (points[c, 1] - y0) - (points[c, 0] - x0) * sy) / area
        third = ((points[b, 0] - x0) * sy - sx * (points[b, 1] - y0)) / area
        first = 1.0 - second - third
        closeness = first * points[a, 2] + second * points[b, 2] + third * points[c, 2]
        # Perspective: what is linear in space is linear on the screen once divided by depth.
        first, second, third = first * points[a, 2] / closeness, second * points[b, 2] / closeness, third * points[c, 2] / closeness
        nx = first * normals[a, 0] + second * normals[b, 0] + third * normals[c, 0]
        ny = first * normals[a, 1] + second * normals[b, 1] + third * normals[c, 1]
        nz = first * normals[a, 2] + second * normals[b, 2] + third * normals[c, 2]
        tx = first * template[a, 0] + second * template[b, 0] + third * template[c, 0]
        ty = first * template[a, 1] + second * template[b, 1] + third * template[c, 1]
        tz = first * template[a, 2] + second * template[b, 2] + third * template[c, 2]
        size = 1.0 / (math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9)
        if nx * rx + ny * ry + nz * rz > 0.0:
            size = -size
        nx, ny, nz = nx * size, ny * size, nz * size
        red, green, blue, gloss = material(parts[triangle], tx, ty, tz, colours[a, 0], colours[a, 1], colours[a, 2], dress)
    else:
        red, green, blue, nx, ny, nz, gloss, closeness = room_sample(camera, room, panels, backdrop, x + 0.5, y + 0.5)
    reds, greens, blues, shine = illuminate(keys, shadow, camera, light, x, y, closeness, rx, ry, rz, nx, ny, nz, gloss)
    return red * reds + shine, green * greens + shine, blue * blues + shine


@nb.njit(inline="always")
def encode(value):
    """Linear light to an 8-bit value: a film's soft shoulder, then the display's gamma."""
    value = max(value, 0.0)
    value = value / (1.0 + 0.18 * value * value)
    return min(255.0, 255.0 * value ** (1 / 2.2) + 0.5)
