"""Procedural materials: the colour of a point of skin, hair or clothes from its position on the standard body.

`dress` is a vector with one person's appearance; the constants below define its layout. Colours are linear light.
"""

import math

import numba as nb
import numpy as np

from training.people.render import compiled  # noqa: F401  (sets numba's cache folder)

# Colours, three numbers each.
SKIN, LIPS, HAIR, SHIRT, SHIRT_SECOND, TROUSERS, TROUSERS_SECOND, SHOES, SOLES, SOCKS, COVER, WATCH = range(0, 36, 3)
# Where garments end: sleeves by arm (0 shoulder, 1 wrist), the others by height on the standard body, metres.
SLEEVE, HEM, LEG, COLLAR, COLLAR_SLOPE, SHOE_TOP, SOCK_TOP = range(36, 43)
PATTERN, PATTERN_RATE, LEG_PATTERN, LEG_RATE = range(43, 47)  # see _patterned
PRINT, PRINT_X, PRINT_Z, PRINT_WIDTH, PRINT_HEIGHT, PRINT_SEED = range(47, 53)
FOLDS, FOLD_SEED = 53, 54
HAIRLINE, BEARD, COVERED, WATCH_SIDE, IRIS, ZIP = range(55, 61)
DRESS_SIZE = 64

NONE, STRIPES, HOOPS, CHECKS, BLOTCHES = range(5)

_SHOULDER = (0.168, -0.015, 0.525)
_ARM = (0.263, -0.161, -0.280)  # shoulder to wrist
_ARM_SQUARED = 0.1735


@nb.njit(inline="always")
def sine(x):
    """Approximate the sine to 6e-8: twice as fast as the library's and identical on every machine."""
    t = x * 0.15915494309189535
    t -= math.floor(t + 0.5)
    if t > 0.25:
        t = 0.5 - t
    if t < -0.25:
        t = -0.5 - t
    u = t * t
    series = 42.058693944897684 - u * 15.094642576822989
    series = 81.60524927607504 + u * (-76.70585975306136 + u * series)
    return t * (6.283185307179586 + u * (-41.34170224039976 + u * series))


@nb.njit(inline="always")
def arm_coordinate(x, y, z):
    """Return the position along the arm: 0 at the shoulder, 1 at the wrist, negative on the trunk."""
    x = abs(x)
    if x < 0.172 or z < 0.19:
        return -1.0
    return ((x - _SHOULDER[0]) * _ARM[0] + (y - _SHOULDER[1]) * _ARM[1] + (z - _SHOULDER[2]) * _ARM[2]) / _ARM_SQUARED


@nb.njit(inline="always")
def noise(x, y, z, seed):
    """Return smooth noise in -1 to 1: the sum of three waves with incommensurable frequencies."""
    return (
        sine(x * 1.0 + 1.7 * sine(y * 0.83 + seed) + seed)
        + sine(y * 1.13 + 1.5 * sine(z * 0.91 + 2.0 * seed) + 2.3)
        + sine(z * 0.97 + 1.6 * sine(x * 1.07 - seed) + 4.1)
    ) / 3.0


@nb.njit(cache=True)
def arm_coordinates(points):
    """Return arm_coordinate of points (n, 3) as (n,)."""
    return np.array([arm_coordinate(point[0], point[1], point[2]) for point in points])


@nb.njit(cache=True)
def creases(points, seed):
    """Return relative heights (n,) of cloth folds at points (n, 3): broad folds across the body, and finer ones."""
    heights = np.empty(len(points))
    for place in range(len(points)):
        x, y, z = points[place]
        heights[place] = (
            noise(13.0 * x + 9.0 * z, 11.0 * y, 26.0 * z - 8.0 * x, seed)
            + 0.6 * noise(37.0 * x - 13.0 * z, 31.0 * y + 9.0 * x, 39.0 * z, seed + 3.0)
            + 0.35 * noise(81.0 * x, 73.0 * y - 21.0 * z, 77.0 * z + 35.0 * x, seed + 5.0)
        )
    return heights


@nb.njit
def _pattern_share(kind, rate, across, along, seed):
    """Return the share of the second colour, 0 to 1, at a point of a garment (metres)."""
    if kind == STRIPES:
        return 1.0 if sine(rate * across + seed) > 0.35 else 0.0
    if kind == HOOPS:
        return 1.0 if sine(rate * along + seed) > 0.2 else 0.0
    if kind == CHECKS:
        return 0.5 * (sine(rate * across + seed) > 0.4) + 0.5 * (sine(rate * along) > 0.4)
    if kind == BLOTCHES:
        return 1.0 if noise(rate * across, rate * along, 0.4 * rate * (across - along), seed) > 0.25 else 0.0
    return 0.0


@nb.njit
def _is_printed(dress, x, z):
    """Return whether a point of the chest lies in the print of the shirt."""
    u = (x - dress[PRINT_X]) / dress[PRINT_WIDTH]
    v = (z - dress[PRINT_Z]) / dress[PRINT_HEIGHT]
    if abs(u) > 1.0 or abs(v) > 1.0:
        return False
    seed = dress[PRINT_SEED]
    if dress[PRINT] == 1:  # an irregular blot
        return u * u + v * v < 0.55 + 0.4 * noise(3.1 * u, 3.7 * v, 2.0 * u * v, seed)
    if dress[PRINT] == 2:  # text-like lines
        line = sine(9.0 * v + seed)
        return line > 0.2 and sine(31.0 * u + 9.0 * sine(7.0 * u + seed + round(3 * v))) > -0.35
    return sine(14.0 * u + seed) * sine(11.0 * v - seed) > 0.1  # a figure of many pieces


@nb.njit
def _head(x, y, z, dress):
    """Return colour and gloss of a point of head, neck or hand: skin, hair, lips, brows, a cloth mask."""
    side = abs(x)
    red, green, blue = dress[SKIN], dress[SKIN + 1], dress[SKIN + 2]
    if z < 0.60 or side > 0.13:
        if side > 0.4:  # knuckles and palms differ a little
            tone = 1.0 + 0.06 * noise(160.0 * x, 150.0 * y, 140.0 * z, 1.0)
            return red * tone, green * tone, blue * tone, 0.05
        return red, green, blue, 0.05
    # The hairline: high in front, down behind the ears to the nape.
    back = min(max((y + 0.075) / 0.085, 0.0), 1.0)
    line = dress[HAIRLINE] - 0.135 * back * back + 0.008 * sine(43.0 * abs(x) + 2.4) - 0.12 * max(side - 0.05, 0.0)
    ear = side > 0.073 and -0.035 < y < 0.02 and z < 0.765
    if z > line and not ear:
        tone = 0.85 + 0.3 * sine(210.0 * x + 3.0 * sine(60.0 * z)) * sine(130.0 * y + 40.0 * z)
        return dress[HAIR] * tone, dress[HAIR + 1] * tone, dress[HAIR + 2] * tone, 0.16
    if dress[COVERED] > 0.5 and y < -0.055 and 0.615 < z < 0.705:
        return dress[COVER], dress[COVER + 1], dress[COVER + 2], 0.0
    if y < -0.10 and abs(z - 0.7525 + 0.2 * (side - 0.03) * (side - 0.03) / 0.03) < 0.0055 and 0.012 < side < 0.052:
        return (
            0.35 * red + 0.4 * dress[HAIR],
            0.35 * green + 0.4 * dress[HAIR + 1],
            0.35 * blue + 0.4 * dress[HAIR + 2],
            0.0,
        )
    if y < -0.125 and side < 0.026 and abs(z - 0.6565) < 0.009 - 0.2 * side:
        return dress[LIPS], dress[LIPS + 1], dress[LIPS + 2], 0.2
    if y < -0.03 and z < 0.69 - 0.25 * max(0.06 - side, 0.0) and z > 0.6:
        share = dress[BEARD] * (0.8 + 0.2 * sine(300.0 * x) * sine(280.0 * z))
        red += share * (dress[HAIR] - red)
        green += share * (dress[HAIR + 1] - green)
        blue += share * (dress[HAIR + 2] - blue)
    flush = 0.08 * math.exp(-((side - 0.045) ** 2 + (z - 0.685) ** 2) / 0.0006)
    return red, green * (1.0 - flush), blue * (1.0 - flush), 0.10


@nb.njit
def _garment(x, y, z, dress):
    """Return the garment at a point of the tights: 0 skin, 1 shirt, 2 trousers, 3 shoe, 4 sock, 5 sole, 6 watch."""
    arm = arm_coordinate(x, y, z)
    if arm >= 0.0:
        if arm < dress[SLEEVE]:
            return 1
        return 6 if 0.93 < arm < 0.99 and x * dress[WATCH_SIDE] > 0.0 else 0
    if z > dress[HEM] + 0.006 * sine(25.0 * x + dress[FOLD_SEED]):
        deep = dress[COLLAR_SLOPE] if y < 0.0 else 0.25
        return 0 if z > dress[COLLAR] + deep * abs(x) and abs(x) < 0.1 else 1
    if z < dress[SHOE_TOP] + 0.12 * max(y - 0.02, 0.0):
        return 5 if z < -0.828 else 3
    if z > dress[LEG]:
        return 2
    return 4 if z < dress[SOCK_TOP] else 0


@nb.njit
def material(part, x, y, z, red, green, blue, dress):
    """Return red, green, blue and gloss of a surface point.

    Args:
        part: body.Part of the triangle.
        x, y, z: the point on the standard body, metres.
        red, green, blue: colour used for props.
        dress: the person's appearance vector.
    """
    if part == 0:
        return _head(x, y, z, dress)
    if part == 1:
        kind = _garment(x, y, z, dress)
        if kind == 1:
            share = _pattern_share(dress[PATTERN], dress[PATTERN_RATE], x, z, dress[FOLD_SEED])
            if dress[PRINT] > 0 and y < 0.0 and _is_printed(dress, x, z):
                share = 1.0
            if dress[ZIP] > 0.5 and y < 0.0 and abs(x) < 0.007 and z < 0.56:
                share = 0.6
            edge = 0.82 if abs(z - dress[HEM]) < 0.012 or 0.0 < dress[SLEEVE] - arm_coordinate(x, y, z) < 0.03 else 1.0
            return (
                edge * (dress[SHIRT] + share * (dress[SHIRT_SECOND] - dress[SHIRT])),
                edge * (dress[SHIRT + 1] + share * (dress[SHIRT_SECOND + 1] - dress[SHIRT + 1])),
                edge * (dress[SHIRT + 2] + share * (dress[SHIRT_SECOND + 2] - dress[SHIRT + 2])),
                0.0,
            )  # fmt: skip
        if kind == 2:
            share = _pattern_share(dress[LEG_PATTERN], dress[LEG_RATE], x, z, 0.7)
            return (
                dress[TROUSERS] + share * (dress[TROUSERS_SECOND] - dress[TROUSERS]),
                dress[TROUSERS + 1] + share * (dress[TROUSERS_SECOND + 1] - dress[TROUSERS + 1]),
                dress[TROUSERS + 2] + share * (dress[TROUSERS_SECOND + 2] - dress[TROUSERS + 2]),
                0.0,
            )  # fmt: skip
        place = (SKIN, SHIRT, TROUSERS, SHOES, SOCKS, SOLES, WATCH)[kind]
        return dress[place], dress[place + 1], dress[place + 2], 0.15 if kind in (3, 6) else 0.05
    if part == 2:
        across = abs(x) - 0.031
        apart = across * across + (z - 0.728) * (z - 0.728)
        if y > -0.11 or apart > 0.000036:
            return 0.62, 0.58, 0.56, 0.3
        tone = 0.02 if apart < 0.000006 else dress[IRIS]
        return tone, 0.8 * tone, 0.7 * tone, 0.4
    if part == 3:
        tone = 0.8 + 0.35 * sine(260.0 * x + 30.0 * z) * sine(190.0 * y)
        return dress[HAIR] * tone, dress[HAIR + 1] * tone, dress[HAIR + 2] * tone, 0.2
    return red, green, blue, 0.12
