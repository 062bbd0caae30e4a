"""The room: intersection of rays with floor, walls and ceiling, and their procedural colours.

`room` is the parameter vector of a scene, `panels` an array of rectangles on the back wall; the constants below define
their layouts.
"""

import math

import numba as nb

from training.people.render.materials import noise, sine

# Layout of `room`: positions of the planes in metres, then colours and textures.
BACK, LEFT, RIGHT, CEILING = range(4)
FLOOR_COLOUR, WALL_COLOUR, SIDE_COLOUR, BOARD_COLOUR = 4, 7, 10, 13
BOARD_HEIGHT, FLOOR_KIND, FLOOR_SCALE, WALL_KIND, WALL_SCALE = range(16, 21)
STAIN, GRADIENT_X, GRADIENT_Z, FLOOR_GLOSS, SEED, BACKDROP = range(21, 27)
ROOM_SIZE = 28
# Layout of a row of `panels`: a rectangle on the back wall, its colour, kind and border.
PANEL_SIZE = 9  # x0, x1, z0, z1, red, green, blue, kind, rate

PLAIN, TILES, PLANKS, SPECKLES = range(4)  # floors
BRICKS, PAPER = 1, 2  # walls
FLAT, FRAMED, SLATS, BRIGHT, SHELVES = range(5)  # panels

FLOOR, WALL, LEFT_WALL, RIGHT_WALL, ROOF = range(5)


@nb.njit
def room_hit(room, x, y, z, rx, ry, rz):
    """Intersect a ray with the room: return the distance in ray lengths and the surface (FLOOR, WALL, ...)."""
    best, surface = 60.0, WALL
    if ry > 1e-6:
        best = min(best, (room[BACK] - y) / ry)
    if rz < -1e-6 and -z / rz < best:
        best, surface = -z / rz, FLOOR
    if rz > 1e-6 and (room[CEILING] - z) / rz < best:
        best, surface = (room[CEILING] - z) / rz, ROOF
    if rx < -1e-6 and (room[LEFT] - x) / rx < best:
        best, surface = (room[LEFT] - x) / rx, LEFT_WALL
    if rx > 1e-6 and (room[RIGHT] - x) / rx < best:
        best, surface = (room[RIGHT] - x) / rx, RIGHT_WALL
    return max(best, 0.05), surface


@nb.njit
def _floor(room, x, y):
    """Return the brightness of the floor's texture at a point, about 1."""
    kind, scale = room[FLOOR_KIND], room[FLOOR_SCALE]
    cloud = 1.0 + 0.5 * room[STAIN] * noise(2.1 * x, 2.7 * y, 1.3 * (x + y), room[SEED])
    cloud += 0.35 * room[STAIN] * noise(9.0 * x, 8.0 * y, 7.0 * (x - y), room[SEED] + 1.0)
    if kind == TILES:
        u, v = x * scale, y * scale
        seam = min(abs(u - round(u)), abs(v - round(v))) / scale
        return (
            cloud
            * (0.8 if seam < 0.005 else 1.0)
            * (1.0 + 0.04 * sine(12.9 * math.floor(u + 0.5) + 78.2 * math.floor(v + 0.5)))
        )
    if kind == PLANKS:
        row = math.floor(x * scale * 3)
        grain = 0.07 * noise(60.0 * x, 3.0 * y + row, 11.0 * x, row)
        seam = abs(x * scale * 3 - round(x * scale * 3)) / (3 * scale)
        return cloud * (1.0 + grain + 0.10 * sine(37.7 * row)) * (0.75 if seam < 0.004 else 1.0)
    if kind == SPECKLES:
        return cloud * (1.0 + 0.12 * noise(95.0 * x, 90.0 * y, 70.0 * (x + y), room[SEED]))
    return cloud


@nb.njit
def _wall(room, along, z):
    """Return the brightness of a wall's texture at a point, about 1."""
    cloud = 1.0 + 0.35 * room[STAIN] * noise(1.3 * along, 1.7 * z, along - z, room[SEED] + 2.0)
    cloud *= 1.0 + room[GRADIENT_X] * along + room[GRADIENT_Z] * (z - 1.0)
    kind, scale = room[WALL_KIND], room[WALL_SCALE]
    if kind == BRICKS:
        row = math.floor(z * scale * 2)
        u = along * scale + 0.5 * (row % 2)
        seam = min(abs(u - round(u)) / scale, abs(z * scale * 2 - round(z * scale * 2)) / (2 * scale))
        return cloud * (0.78 if seam < 0.006 else 1.0 + 0.08 * sine(12.3 * row + 45.6 * math.floor(u + 0.5)))
    if kind == PAPER:
        return cloud * (1.0 + 0.06 * sine(30.0 * scale * along) * sine(24.0 * scale * z))
    return cloud


@nb.njit
def _panel_colour(panels, x, z, red, green, blue):
    """Return the colour of the panel at a point of the back wall, else the wall's colour."""
    for place in range(panels.shape[0]):
        x0, x1, z0, z1 = panels[place, 0], panels[place, 1], panels[place, 2], panels[place, 3]
        if x0 < x < x1 and z0 < z < z1:
            tone, kind = 1.0, panels[place, 7]
            inside = min(min(x - x0, x1 - x), min(z - z0, z1 - z))
            if kind == FRAMED:
                tone = 0.35 if inside < 0.03 else 0.9 + 0.35 * noise(9.0 * x, 8.0 * z, 5.0 * x * z, panels[place, 8])
            elif kind == SLATS:
                tone = 0.85 + 0.2 * sine(panels[place, 8] * 14.0 * x)
            elif kind == BRIGHT:
                tone = 1.0 if inside > 0.04 else 0.45
            elif kind == SHELVES:
                shelf = (z - z0) % 0.33
                book = math.floor(x * 23.0 + 3.0 * math.floor((z - z0) / 0.33))
                tone = (
                    0.5
                    if shelf < 0.03
                    else 0.5 + 0.5 * abs(sine(91.7 * book)) * (shelf < 0.2 + 0.1 * sine(17.3 * book))
                )
            red, green, blue = panels[place, 4] * tone, panels[place, 5] * tone, panels[place, 6] * tone
    return red, green, blue


@nb.njit
def _sample_backdrop(backdrop, x, z):
    """Sample the backdrop, an image 4 metres wide on the back wall, bilinearly."""
    rows, columns = backdrop.shape[0], backdrop.shape[1]
    scale = columns / 4.0
    u = min(max((x + 2.0) * scale - 0.5, 0.0), columns - 1.001)
    v = min(max((rows / scale - z) * scale - 0.5, 0.0), rows - 1.001)
    left, top = int(u), int(v)
    right, low = u - left, v - top
    red, green, blue = 0.0, 0.0, 0.0
    for down in range(2):
        for across in range(2):
            share = (low if down else 1.0 - low) * (right if across else 1.0 - right)
            red += share * backdrop[top + down, left + across, 0]
            green += share * backdrop[top + down, left + across, 1]
            blue += share * backdrop[top + down, left + across, 2]
    return red, green, blue


@nb.njit
def room_colour(room, panels, backdrop, surface, x, y, z):
    """Return red, green, blue, the normal (three values) and gloss of a point of the room."""
    if surface == FLOOR:
        tone = _floor(room, x, y)
        # A polished floor reflects the wall more at grazing angles, towards the back.
        sheen = room[FLOOR_GLOSS] * min(max((y + 2.0) / (room[BACK] + 2.0), 0.0), 1.0) ** 2
        return (
            room[4] * tone + sheen * (room[7] - room[4]), room[5] * tone + sheen * (room[8] - room[5]),
            room[6] * tone + sheen * (room[9] - room[6]), 0.0, 0.0, 1.0, 0.04 * room[FLOOR_GLOSS],
        )  # fmt: skip
    if surface == ROOF:
        return 0.8, 0.8, 0.78, 0.0, 0.0, -1.0, 0.0
    board = z < room[BOARD_HEIGHT]
    if surface == WALL:
        tone = _wall(room, x, z)
        red, green, blue = room[7] * tone, room[8] * tone, room[9] * tone
        if room[BACKDROP] > 0.5:
            red, green, blue = _sample_backdrop(backdrop, x, z)
        elif board:
            red, green, blue = room[13], room[14], room[15]
        red, green, blue = _panel_colour(panels, x, z, red, green, blue)
        return red, green, blue, 0.0, -1.0, 0.0, 0.0
    tone = _wall(room, y, z)
    facing = 1.0 if surface == LEFT_WALL else -1.0
    if board:
        return room[13], room[14], room[15], facing, 0.0, 0.0, 0.0
    return room[10] * tone, room[11] * tone, room[12] * tone, facing, 0.0, 0.0, 0.0
