"""Meshes of furniture and props, each rigidly attached to one bone. Lengths in metres, colours linear light."""

from itertools import pairwise
from typing import Any

import numpy as np

from model.arrays import Array
from training.people.body import Part
from training.people.render.shot import Mesh

_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
_SIDES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))


class Shape:
    """Builds a mesh from simple pieces, which share no vertices, so that edges are shaded sharp."""

    def __init__(self) -> None:
        self._vertices: list[Array] = []
        self._faces: list[Array] = []
        self._colours: list[Array] = []
        self._count = 0

    def _add(self, vertices: Array, faces: Array, colour: Any) -> None:
        self._vertices.append(vertices)
        self._faces.append(faces + self._count)
        self._colours.append(np.broadcast_to(np.asarray(colour, float), vertices.shape))
        self._count += len(vertices)

    def block(self, centre: Any, half: Any, colour: Any, *, widen: float = 0.0, slant: Any = (0.0, 0.0)) -> None:
        """Add a box; its bottom is wider than its top by the factor 1 + `widen` and shifted sideways by `slant`."""
        unit = _CORNERS * np.asarray(half, float)
        low = (1 - _CORNERS[:, 2:]) / 2
        unit[:, :2] *= 1 + widen * low
        unit[:, :2] += low * np.asarray(slant, float)
        points = unit + np.asarray(centre, float)
        for side in _SIDES:
            self._add(points[list(side)], np.array([[0, 1, 2], [0, 2, 3]]), colour)

    def tube(self, start: Any, end: Any, radius: float, colour: Any, *, taper: float = 1.0, sides: int = 10) -> None:
        """Add a rod with closed ends; `taper` is the ratio of the end's radius to the start's."""
        start, end = np.asarray(start, float), np.asarray(end, float)
        along = (end - start) / np.linalg.norm(end - start)
        across = np.cross(along, (0, 0, 1) if abs(along[2]) < 0.9 else (1, 0, 0))
        across /= np.linalg.norm(across)
        angle = np.arange(sides) * 2 * np.pi / sides
        ring = np.cos(angle)[:, None] * across + np.sin(angle)[:, None] * np.cross(along, across)
        low, high = start + radius * ring, end + radius * taper * ring
        nxt = (np.arange(sides) + 1) % sides
        own = np.arange(sides)
        walls = np.concatenate([np.stack([own, nxt, nxt + sides], 1), np.stack([own, nxt + sides, own + sides], 1)])
        self._add(np.concatenate([low, high]), walls, colour)
        fan = np.stack([np.zeros(sides - 2, int), np.arange(1, sides - 1), np.arange(2, sides)], 1)
        self._add(low, fan[:, ::-1], colour)
        self._add(high, fan, colour)

    def ball(self, centre: Any, half: Any, colour: Any, rings: int = 8) -> None:
        """Add an ellipsoid with half axes `half`."""
        down, around = np.meshgrid(
            np.linspace(0, np.pi, rings + 1), np.linspace(0, 2 * np.pi, 2 * rings + 1), indexing="ij"
        )
        points = np.stack([np.sin(down) * np.cos(around), np.sin(down) * np.sin(around), np.cos(down)], -1)
        width = 2 * rings + 1
        place = np.arange(rings)[:, None] * width + np.arange(2 * rings)
        a, b, c, d = place, place + width, place + width + 1, place + 1
        faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
        self._add(points.reshape(-1, 3) * np.asarray(half, float) + np.asarray(centre, float), faces, colour)

    def mesh(self, bone: int) -> Mesh:
        """Return all pieces as one mesh that moves with a bone."""
        vertices = np.concatenate(self._vertices).astype(np.float32)
        weights = np.zeros((len(vertices), 4), np.float32)
        weights[:, 0] = 1
        bones = np.full((len(vertices), 4), bone, np.int32)
        faces = np.concatenate(self._faces).astype(np.int32)
        return Mesh(
            rest=vertices,
            template=vertices,
            colours=np.concatenate(self._colours).astype(np.float32),
            bones=bones,
            weights=weights,
            faces=faces,
            parts=np.full(len(faces), Part.PROP, np.int32),
            closed=0,
            moved=np.zeros(0, np.int32),
            expressions=np.zeros((0, 0, 3), np.float32),
        )


def make_seat(rng: np.random.Generator, height: float, colour: Array, second: Array) -> Shape:
    """Make a random stool or chair with the seat at a height in metres; the person on it faces -y."""
    shape = Shape()
    kind = rng.choice(("plastic", "legs", "round", "chair", "block"), p=(0.4, 0.2, 0.12, 0.2, 0.08))
    half = rng.uniform(0.145, 0.19)
    if kind == "plastic":
        _plastic_stool(shape, rng, height, half, colour)
    elif kind == "round":
        shape.tube((0, 0.02, height - 0.04), (0, 0.02, height), half * 1.05, colour, sides=18)
        shape.tube((0, 0.02, 0.03), (0, 0.02, height - 0.04), 0.025, second)
        for angle in np.arange(5) * 2 * np.pi / 5 + 0.3:
            foot = (0.25 * np.cos(angle), 0.02 + 0.25 * np.sin(angle), 0.03)
            shape.tube((0, 0.02, 0.07), foot, 0.018, second, sides=6)
    elif kind == "block":
        shape.block((0, 0.03, height / 2), (half * 1.15, half * 1.15, height / 2), colour)
    else:
        shape.block((0, 0.02, height - 0.015), (half, half, 0.015), colour)
        splay = rng.uniform(0, 0.25)
        for x in (-1, 1):
            for y in (-1, 1):
                leg = (x * half * 0.85, 0.02 + y * half * 0.85, height / 2 - 0.015)
                shape.block(leg, (0.016, 0.016, height / 2 - 0.015), second, slant=(x * splay * 0.15, y * splay * 0.15))
        if kind == "chair":
            _backrest(shape, rng, height, half, colour, second)
    return shape


def _plastic_stool(shape: Shape, rng: np.random.Generator, height: float, half: float, colour: Array) -> None:
    """Add a moulded stool: wide tapered legs joined by an arch under the seat and a lower bar."""
    shape.block((0, 0.02, height - 0.02), (half, half, 0.02), colour)
    spread, bar = rng.uniform(0.03, 0.06), rng.uniform(0.35, 0.5)
    for x in (-1, 1):
        for y in (-1, 1):
            leg = (x * half * 0.82, 0.02 + y * half * 0.82, height / 2 - 0.02)
            shape.block(leg, (0.034, 0.034, height / 2 - 0.02), colour * 0.95, slant=(x * spread, y * spread))
    for level, thick in ((height - 0.075, 0.04), (height * bar, 0.025)):
        out = half * 0.82 + spread * (1 - level / height)
        for sign in (-1, 1):
            shape.block((0, 0.02 + sign * out, level), (out, 0.014, thick), colour * 0.9)
            shape.block((sign * out, 0.02, level), (0.014, out, thick), colour * 0.85)


def _backrest(shape: Shape, rng: np.random.Generator, height: float, half: float, colour: Array, second: Array) -> None:
    top = height + rng.uniform(0.34, 0.5)
    behind = half + 0.02
    for x in (-1, 1):
        shape.block((x * half * 0.9, behind, (height + top) / 2), (0.016, 0.016, (top - height) / 2), second)
    if rng.random() < 0.5:
        shape.block((0, behind, top - 0.12), (half * 0.95, 0.014, 0.12), colour)
    else:
        for level in np.linspace(height + 0.12, top - 0.03, 3):
            shape.block((0, behind, level), (half * 0.9, 0.01, 0.025), second)


def make_toy(rng: np.random.Generator, kind: str, colour: Array) -> Shape:
    """Make a hand-held object at the origin: long axis along y (across the palm), flat side along z."""
    shape = Shape()
    if kind == "pen":
        shape.tube((0, -0.075, 0), (0, 0.065, 0), 0.006, colour, sides=6)
    elif kind == "phone":
        shape.block((0, 0, 0), (0.036, 0.075, 0.005), colour * 0.4)
        shape.block((0, 0, 0.0055), (0.033, 0.07, 0.0005), (0.08, 0.09, 0.11))
    elif kind == "cup":
        shape.tube((0, -0.05, 0), (0, 0.05, 0), 0.032, colour, taper=1.2, sides=12)
    elif kind == "paper":
        shape.block((0, 0, 0), (0.06, 0.085, 0.001), (0.8, 0.8, 0.78))
    else:
        shape.ball((0, 0, 0), (0.03, 0.03, 0.03), colour)
    return shape


TOYS = ("pen", "phone", "cup", "paper", "ball")


def make_glasses(rng: np.random.Generator, eyes: Array, ears: Array, colour: Array) -> Shape:
    """Make glasses around the eyes (2, 3) with temples to the ears (2, 3), in rest-pose coordinates."""
    shape = Shape()
    wide, high = rng.uniform(0.021, 0.026), rng.uniform(0.015, 0.022)
    front = min(eyes[0, 1], eyes[1, 1]) - 0.028
    for eye, ear in zip(eyes, ears, strict=True):
        centre = np.array([eye[0] * 1.05, front, eye[2] - 0.004])
        angle = np.linspace(0, 2 * np.pi, 11)
        ring = centre + np.stack([wide * np.cos(angle), 0 * angle, high * np.sin(angle)], 1)
        for start, end in pairwise(ring):
            shape.tube(start, end, 0.0024, colour, sides=4)
        outer = centre + np.array((np.sign(eye[0]) * wide, 0, 0.006))
        shape.tube(outer, (ear[0], ear[1] - 0.01, eye[2] + 0.004), 0.0026, colour, sides=4)
    shape.tube((-0.012, front, eyes[0, 2] + 0.002), (0.012, front, eyes[0, 2] + 0.002), 0.0028, colour, sides=4)
    return shape
