"""Sample room, lighting and camera of a video."""

from dataclasses import dataclass

import numpy as np

from model.arrays import Array
from training.people.person import draw_colour, linear
from training.people.render import raster, room
from training.people.render.shot import SHADOW_SIZE
from training.people.rotations import normalize


@dataclass(frozen=True)
class Scene:
    """Light and room; array layouts are in raster.py and room.py."""

    light: Array
    room: Array
    panels: Array
    backdrop: Array


@dataclass(frozen=True)
class Framing:
    """Position of the camera, and of the person in the frame.

    Attributes:
        distance_m, height_m, aside_m: position of the camera relative to the seat; aside is to the person's left.
        person: height of the seated person as a share of the frame's height.
        x, y: position of the person's centre as a share of the frame.
        roll: of the camera, radians.
        cut: "" shows the whole person; "knees" or "chest" crops the person below.
        shake: of a hand-held camera, radians.
    """

    distance_m: float
    height_m: float
    aside_m: float
    person: float
    x: float
    y: float
    roll: float
    cut: str
    shake: float


def draw_framing(rng: np.random.Generator) -> Framing:
    """Draw a framing: mostly the whole person with margins, as in the real data set; sometimes cropped."""
    cut = str(rng.choice(("", "knees", "chest"), p=(0.84, 0.1, 0.06)))
    return Framing(
        distance_m=rng.uniform(2.2, 5.5),
        height_m=rng.uniform(0.75, 1.6),
        aside_m=rng.normal(0, 0.35),
        person=float(rng.choice((rng.uniform(0.42, 0.75), rng.uniform(0.75, 0.95)), p=(0.75, 0.25))),
        x=float(np.clip(rng.normal(0.5, 0.09), 0.28, 0.72)),
        y=float(np.clip(rng.normal(0.52, 0.05), 0.4, 0.62)),
        roll=rng.normal(0, 0.015),
        cut=cut,
        shake=float(rng.choice((0.0, rng.uniform(0.0003, 0.0025)), p=(0.75, 0.25))),
    )


def draw_scene(rng: np.random.Generator, pictures: list[Array]) -> Scene:
    """Draw a room and its lighting.

    Args:
        rng: random stream.
        pictures: (rows, columns, 3) uint8 images; in half of the scenes one of them is the back wall.
    """
    use_picture = len(pictures) > 0 and rng.random() < 0.5
    backdrop = np.zeros((2, 2, 3), np.float32)
    if use_picture:
        backdrop = linear(pictures[rng.integers(len(pictures))] / 255.0).astype(np.float32)
    walls = _draw_room(rng, pictured=use_picture)
    return Scene(
        light=_auto_expose(rng, _draw_light(rng), walls),
        room=walls,
        panels=_draw_panels(rng, busy=rng.random() < 0.4 and not use_picture),
        backdrop=backdrop,
    )


def _draw_room(rng: np.random.Generator, *, pictured: bool) -> Array:
    values = np.zeros(room.ROOM_SIZE, np.float32)
    values[room.BACK] = rng.choice((rng.uniform(0.3, 0.7), rng.uniform(0.7, 2.5)), p=(0.6, 0.4))
    values[room.LEFT], values[room.RIGHT] = -rng.uniform(1.6, 6.0), rng.uniform(1.6, 6.0)
    values[room.CEILING] = rng.uniform(2.4, 3.2)
    bright = rng.uniform(0.68, 0.93) if rng.random() < 0.75 else rng.uniform(0.4, 0.7)
    wall = bright + rng.normal(0, 0.014 if rng.random() < 0.8 else 0.06, 3)
    grey = rng.random() < 0.55
    floor = rng.uniform(0.4, 0.78) * np.array(
        [
            1.0,
            1.0 - rng.uniform(0, 0.02 if grey else 0.14),
            1.0 - rng.uniform(-0.02 if grey else 0.05, 0.03 if grey else 0.3),
        ]
    )
    values[room.WALL_COLOUR : room.WALL_COLOUR + 3] = linear(wall)
    values[room.SIDE_COLOUR : room.SIDE_COLOUR + 3] = linear(wall * rng.uniform(0.8, 1.05))
    values[room.FLOOR_COLOUR : room.FLOOR_COLOUR + 3] = linear(floor)
    board = (
        linear(wall * rng.uniform(0.5, 0.95)) if rng.random() < 0.6 else linear(rng.uniform(0.15, 0.85, 1).repeat(3))
    )
    values[room.BOARD_COLOUR : room.BOARD_COLOUR + 3] = board
    values[room.BOARD_HEIGHT] = rng.choice((0.0, rng.uniform(0.06, 0.14)), p=(0.25, 0.75))
    values[room.FLOOR_KIND] = rng.choice((room.PLAIN, room.TILES, room.PLANKS, room.SPECKLES), p=(0.4, 0.25, 0.2, 0.15))
    values[room.FLOOR_SCALE] = rng.uniform(1.2, 3.0)
    values[room.WALL_KIND] = rng.choice((room.PLAIN, room.BRICKS, room.PAPER), p=(0.86, 0.06, 0.08))
    values[room.WALL_SCALE] = rng.uniform(2.5, 6.0)
    values[room.STAIN] = rng.uniform(0.02, 0.16)
    values[room.GRADIENT_X], values[room.GRADIENT_Z] = rng.normal(0, 0.04), rng.normal(0.0, 0.06)
    values[room.FLOOR_GLOSS] = rng.uniform(0, 0.6)
    values[room.SEED] = rng.uniform(0, 6)
    values[room.BACKDROP] = float(pictured)
    return values


def _auto_expose(rng: np.random.Generator, light: Array, walls: Array) -> Array:
    """Scale the light like a camera's automatic exposure, towards a drawn brightness of the wall."""
    wall = float(walls[room.WALL_COLOUR : room.WALL_COLOUR + 3].mean())
    received = 0.72 * light[raster.AMBIENT] + 0.9 * light[raster.FILL] + 0.4 * light[raster.SUN]
    target = rng.uniform(0.4, 0.72) if rng.random() < 0.85 else rng.uniform(0.15, 0.4)
    scale = float(np.clip(target / (wall * received), 0.7, 2.2))
    light[[raster.AMBIENT, raster.FILL, raster.SUN, raster.WARMTH]] *= scale
    return light


def _draw_panels(rng: np.random.Generator, *, busy: bool) -> Array:
    """Draw doors, pictures, sockets and shelves on the back wall; few unless `busy`."""
    count = int(rng.integers(2, 6)) if busy else int(rng.choice((0, 1, 2), p=(0.55, 0.3, 0.15)))
    rows = np.zeros((max(count, 1), room.PANEL_SIZE), np.float32)
    for row in rows[:count]:
        kind = rng.choice(
            (room.FLAT, room.FRAMED, room.SLATS, room.BRIGHT, room.SHELVES), p=(0.35, 0.25, 0.12, 0.13, 0.15)
        )
        small = not busy and rng.random() < 0.7
        width, height = (rng.uniform(0.06, 0.14, 2)) if small else np.exp(rng.uniform(-1.2, 0.4, 2))
        left = rng.uniform(-2.2, 2.2 - width)
        low = rng.uniform(0.2, 0.5) if small else (0.0 if rng.random() < 0.3 else rng.uniform(0.2, 1.7))
        colour = draw_colour(rng) if rng.random() < 0.6 else linear(rng.uniform(0.5, 0.95) + rng.normal(0, 0.02, 3))
        row[:] = (left, left + width, low, low + height, *np.broadcast_to(colour, 3), kind, rng.uniform(1, 4))
        if kind == room.BRIGHT:
            row[4:7] = rng.uniform(0.9, 1.6)
    return rows


def _draw_light(rng: np.random.Generator) -> Array:
    """Draw a key light (with a shadow map around the person), ambient light from above, and fill from the camera."""
    values = np.zeros(raster.LIGHT_SIZE, np.float32)
    direction = normalize((rng.uniform(-0.9, 0.9), -rng.uniform(0.3, 1.0), rng.uniform(0.7, 1.8)))
    values[raster.DIRECTION : raster.DIRECTION + 3] = direction
    hard = rng.random() < 0.25
    values[raster.SUN] = rng.uniform(0.35, 0.7) if hard else rng.uniform(0.1, 0.35)
    values[raster.AMBIENT] = rng.uniform(0.35, 0.6) if hard else rng.uniform(0.5, 0.75)
    values[raster.FILL] = rng.uniform(0.03, 0.2)
    values[raster.SOFTNESS] = rng.uniform(0.8, 1.6) if hard else rng.uniform(1.5, 5.0)
    values[raster.WARMTH] = rng.normal(0, 0.05)
    values[raster.OCCLUSION] = rng.uniform(0.45, 0.8)
    right = normalize(np.cross((0, 0, 1), direction))
    down = -np.cross(direction, right)
    scale = SHADOW_SIZE / 2.8
    middle = np.array([0.0, -0.1, 0.75])
    for row, axis in enumerate((right * scale, down * scale, direction)):
        offset = SHADOW_SIZE / 2 if row < 2 else 10.0
        values[raster.TO_SHADOW + 4 * row : raster.TO_SHADOW + 4 * row + 4] = (*axis, offset - axis @ middle)
    return values


def aim_camera(framing: Framing, box_low: Array, box_high: Array, size: tuple[int, int], samples: int) -> Array:
    """Return the camera vector (raster.CAMERA_SIZE,) for a framing of a person.

    Args:
        framing: desired framing.
        box_low, box_high: (3,) corners of the person's bounding box.
        size: height and width of the frame in pixels.
        samples: samples per pixel, along each side.
    """
    height, width = size[0] * samples, size[1] * samples
    low, high = float(box_low[2]), float(box_high[2])
    if framing.cut == "knees":
        low = 0.34 * high
    elif framing.cut == "chest":
        low = 0.62 * high
    middle = np.array([0.5 * (box_low[0] + box_high[0]), 0.5 * (box_low[1] + box_high[1]), 0.5 * (low + high)])
    eye = np.array([framing.aside_m, -framing.distance_m, framing.height_m])
    # The camera is nearly level; the rest of the vertical offset is a shift of the principal point.
    forward = normalize(np.array([middle[0] - eye[0], middle[1] - eye[1], 0.35 * (middle[2] - eye[2])]))
    right = normalize(np.cross(forward, (0, 0, 1)))
    down = np.cross(forward, right)
    turn = np.array([[np.cos(framing.roll), np.sin(framing.roll)], [-np.sin(framing.roll), np.cos(framing.roll)]])
    right, down = turn @ np.stack([right, down])
    depth = float((middle - eye) @ forward)
    # A person wider than the frame is shown smaller.
    wide = float(box_high[0] - box_low[0])
    focal = min(framing.person * height / (high - low), 0.95 * width / wide) * depth
    if framing.cut:
        focal = 0.95 * height / (high - low) * depth
    at = np.array([right @ (middle - eye), down @ (middle - eye)]) * focal / depth
    x, y = (framing.x, framing.y) if not framing.cut else (framing.x, 0.52)
    camera = np.zeros(raster.CAMERA_SIZE, np.float32)
    camera[raster.EYE : raster.EYE + 3] = eye
    camera[raster.ROTATION : raster.ROTATION + 9] = np.concatenate([right, down, forward])
    camera[raster.FOCAL] = focal
    camera[raster.CENTRE_X], camera[raster.CENTRE_Y] = x * width - at[0], y * height - at[1]
    return camera
