"""Shading of a pixel, from the room or the triangles that its samples see. Colours are linear light."""

import math

import numba as nb

from training.people.render.lighting import illuminate
from training.people.render.materials import material
from training.people.render.raster import CENTRE_X, CENTRE_Y, FOCAL, doubled_area, shares_at
from training.people.render.room import room_colour, room_hit
from training.people.render.shot import SUPERSAMPLING

_SIDE = SUPERSAMPLING
_SHARE = 1.0 / (SUPERSAMPLING * SUPERSAMPLING)
_ALIKE = 0.03  # relative colour difference up to which two room samples represent the pixel
_BRIGHTEST = 2.0  # linear light above which the tone curve would decrease


@nb.njit(inline="always")
def sees_room(keys, row, column):
    """Return whether all samples of a pixel see the room."""
    keys_or = 0
    for sample in range(_SIDE * _SIDE):
        keys_or |= keys[row * _SIDE + sample // _SIDE, column * _SIDE + sample % _SIDE]
    return keys_or == 0


@nb.njit(inline="always")
def get_ray(camera, x, y):
    """Return the ray through a screen position, scaled so that its parameter is depth."""
    size = 1.0 / camera[FOCAL]
    u, v = (x - camera[CENTRE_X]) * size, (y - camera[CENTRE_Y]) * size
    return (
        camera[9] + u * camera[3] + v * camera[6],
        camera[10] + u * camera[4] + v * camera[7],
        camera[11] + u * camera[5] + v * camera[8],
    )


@nb.njit
def room_sample(camera, room, panels, backdrop, x, y):
    """Return colour (three), normal (three), gloss and closeness of the room at a screen position."""
    rx, ry, rz = get_ray(camera, x, y)
    depth, surface = room_hit(room, camera[0], camera[1], camera[2], rx, ry, rz)
    red, green, blue, nx, ny, nz, gloss = room_colour(
        room, panels, backdrop, surface, camera[0] + rx * depth, camera[1] + ry * depth, camera[2] + rz * depth
    )
    return red, green, blue, nx, ny, nz, gloss, 1.0 / depth


@nb.njit
def room_pixel(camera, room, panels, backdrop, row, column):
    """Return the mean colour of a pixel's room samples, and normal, gloss and closeness.

    Two samples on the diagonal are enough where they agree; else all samples are averaged.
    """
    x, y = column * _SIDE + 0.5, row * _SIDE + 0.5
    red, green, blue, nx, ny, nz, gloss, closeness = room_sample(camera, room, panels, backdrop, x, y)
    r, g, b, _, to, up, _, c = room_sample(camera, room, panels, backdrop, x + _SIDE - 1, y + _SIDE - 1)
    apart = abs(r - red) + abs(g - green) + abs(b - blue)
    if to == ny and up == nz and apart < _ALIKE * (red + green + blue):
        # The closeness of a plane is linear on the screen.
        return 0.5 * (red + r), 0.5 * (green + g), 0.5 * (blue + b), nx, ny, nz, gloss, 0.5 * (closeness + c)
    red, green, blue = red + r, green + g, blue + b
    for sample in range(1, _SIDE * _SIDE - 1):
        r, g, b, _, _, _, _, _ = room_sample(camera, room, panels, backdrop, x + sample % _SIDE, y + sample // _SIDE)
        red, green, blue = red + r, green + g, blue + b
    return red * _SHARE, green * _SHARE, blue * _SHARE, nx, ny, nz, gloss, closeness


@nb.njit(inline="always")
def paint_room(seen, keys, box, shadow, cast_box, camera, light, row, column):
    """Return red, green, blue of a pixel that sees only the room; `seen` is the result of room_pixel."""
    red, green, blue, nx, ny, nz, gloss, closeness = seen
    rx, ry, rz = get_ray(camera, (column + 0.5) * _SIDE, (row + 0.5) * _SIDE)
    reds, greens, blues, shine = illuminate(
        keys,
        box,
        shadow,
        cast_box,
        camera,
        light,
        column * _SIDE,
        row * _SIDE,
        closeness,
        rx,
        ry,
        rz,
        nx,
        ny,
        nz,
        gloss,
    )
    return red * reds + shine, green * greens + shine, blue * blues + shine


@nb.njit(inline="always")
def mesh_sample(triangle, x, y, rx, ry, rz, points, normals, template, colours, faces, parts, dress):
    """Return colour (three), normal towards the camera (three), gloss and closeness of a triangle at a sample."""
    a, b, c = faces[triangle, 0], faces[triangle, 1], faces[triangle, 2]
    first, second, third = shares_at(points, a, b, c, 1.0 / doubled_area(points, a, b, c), x, y)
    # Perspective-correct interpolation: attributes divided by depth are linear on the screen.
    first, second, third = first * points[a, 2], second * points[b, 2], third * points[c, 2]
    closeness = first + second + third
    depth = 1.0 / closeness
    first, second, third = first * depth, second * depth, third * depth
    nx = first * normals[a, 0] + second * normals[b, 0] + third * normals[c, 0]
    ny = first * normals[a, 1] + second * normals[b, 1] + third * normals[c, 1]
    nz = first * normals[a, 2] + second * normals[b, 2] + third * normals[c, 2]
    tx = first * template[a, 0] + second * template[b, 0] + third * template[c, 0]
    ty = first * template[a, 1] + second * template[b, 1] + third * template[c, 1]
    tz = first * template[a, 2] + second * template[b, 2] + third * template[c, 2]
    size = 1.0 / (math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9)
    if nx * rx + ny * ry + nz * rz > 0.0:
        size = -size
    red, green, blue, gloss = material(parts[triangle], tx, ty, tz, colours[a, 0], colours[a, 1], colours[a, 2], dress)
    return red, green, blue, nx * size, ny * size, nz * size, gloss, closeness


@nb.njit(inline="always")
def paint_samples(
    keys, box, shadow, cast_box, points, normals, template, colours, faces, parts,
    camera, light, dress, room, panels, backdrop, row, column,
):  # fmt: skip
    """Return red, green, blue of a pixel with at least one sample on a triangle."""
    red, green, blue = 0.0, 0.0, 0.0
    for sample in range(_SIDE * _SIDE):
        x, y = column * _SIDE + sample % _SIDE, row * _SIDE + sample // _SIDE
        rx, ry, rz = get_ray(camera, x + 0.5, y + 0.5)
        key = keys[y, x]
        if key > 0:
            triangle = (key & 0xFFFFFFFF) - 1
            r, g, b, nx, ny, nz, gloss, closeness = mesh_sample(
                triangle, x, y, rx, ry, rz, points, normals, template, colours, faces, parts, dress
            )
        else:
            r, g, b, nx, ny, nz, gloss, closeness = room_sample(camera, room, panels, backdrop, x + 0.5, y + 0.5)
        reds, greens, blues, shine = illuminate(
            keys, box, shadow, cast_box, camera, light, x, y, closeness, rx, ry, rz, nx, ny, nz, gloss
        )
        red, green, blue = red + r * reds + shine, green + g * greens + shine, blue + b * blues + shine
    return red * _SHARE, green * _SHARE, blue * _SHARE


@nb.njit(inline="always")
def encode(value):
    """Convert linear light to an 8-bit value: soft highlight roll-off, then display gamma."""
    value = min(max(value, 0.0), _BRIGHTEST)
    value = value / (1.0 + 0.18 * value * value)
    return min(255.0, 255.0 * value ** (1 / 2.2) + 0.5)
