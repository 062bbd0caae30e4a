"""Stills of synthetic people, of empty rooms and of several people in one room: what the locator learns from."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.people.body import Anatomy, Part, load_anatomy
from training.people.camera.effects import develop, draw_look, mask_faces, occlude
from training.people.film import (
    VALIDATION_EVERY,
    VIDEOS_PER_PERSON,
    Film,
    Recipe,
    generator,
    make_film,
    person_of,
)
from training.people.render import cpu, raster
from training.people.render.shot import SUPERSAMPLING, Mesh, Shot
from training.people.scene import draw_scene

Array = NDArray[Any]

LONGEST = 144  # side of a still, in pixels
STILLS_PER_VIDEO = 4
_ASPECTS = (9 / 16, 3 / 4, 5 / 6, 1.0, 4 / 3, 16 / 9)
_PEOPLE = (0, 1, 2, 3)
MOST = _PEOPLE[-1]
_HOW_OFTEN = (0.28, 0.46, 0.21, 0.05)
_MOST_COVERED = 0.3  # of a person's box by another's
_FPS = 0.7  # of the films: neighbouring stills differ
_STILLS = 500  # a purpose of film.generator that no film draws from


@dataclass(frozen=True)
class Still:
    """A picture (height, width, 3) uint8 and the boxes of its people: (n, 4) left, top, right, bottom in pixels."""

    picture: Array
    boxes: Array


@dataclass(frozen=True)
class Stills:
    """Many stills as arrays, each in the middle of a black square.

    Attributes:
        pictures: (n, LONGEST, LONGEST, 3) uint8.
        places: (n, 4) where in its square each picture lies: left, top, right, bottom in pixels.
        boxes: (n, MOST, 4) of people, in pixels of the square; NaN beyond the last.
    """

    pictures: Array
    places: Array
    boxes: Array

    def __len__(self) -> int:
        return len(self.pictures)

    def still(self, index: int) -> Still:
        """One of them, as it was."""
        left, top, right, bottom = self.places[index].astype(int)
        boxes = self.boxes[index][~np.isnan(self.boxes[index, :, 0])]
        return Still(self.pictures[index, top:bottom, left:right], boxes - np.tile((left, top), 2))


@dataclass(frozen=True)
class _Actor:
    """Somebody at one moment, seen by a camera: the shot has one frame."""

    shot: Shot
    box: Array
    head: Array


def video_numbers(count: int, *, held_out: bool) -> list[int]:
    """Numbers of as many videos of people to train with, or of held-out ones; every one shows somebody else."""
    people = (
        number
        for number in range(2 * VALIDATION_EVERY * count + VALIDATION_EVERY)
        if (number % VALIDATION_EVERY == VALIDATION_EVERY - 1) is held_out
    )
    return [person * VIDEOS_PER_PERSON for _, person in zip(range(count), people, strict=False)]


def gather(stills: Iterable[Still]) -> Stills:
    """Stills as arrays."""
    pictures, places, boxes = [], [], []
    for still in stills:
        height, width = still.picture.shape[:2]
        left, top = (LONGEST - width) // 2, (LONGEST - height) // 2
        square = np.zeros((LONGEST, LONGEST, 3), np.uint8)
        square[top : top + height, left : left + width] = still.picture
        listed = np.full((MOST, 4), np.nan, np.float32)
        listed[: len(still.boxes)] = still.boxes + np.tile((left, top), 2)
        pictures.append(square)
        places.append((left, top, left + width, top + height))
        boxes.append(listed)
    return Stills(np.stack(pictures), np.array(places, np.float32), np.stack(boxes))


def make_stills(
    seed: int, number: int, people: int | None = None, anatomy: Anatomy | None = None
) -> Iterator[Still]:
    """Stills of one video: every one in another room, with another camera, spoilt in another way.

    Args:
        seed, number: as of a data set's video; the same give the same stills.
        people: how many each still shows; drawn without.
        anatomy: the body cache.
    """
    anatomy = anatomy or load_anatomy()
    rng = generator(seed, number, _STILLS)
    width, height = _size(float(rng.choice(_ASPECTS)))
    recipe = Recipe(seed=seed, fps=_FPS, height=height, width=width)
    film = make_film(recipe, number, anatomy)
    for frame in rng.choice(len(film.shot), min(STILLS_PER_VIDEO, len(film.shot)), replace=False):
        count = int(rng.choice(_PEOPLE, p=_HOW_OFTEN)) if people is None else people
        others = [_stranger(recipe, number, anatomy, rng) for _ in range(count - 1)]
        yield _make_still(rng, film, int(frame), others, count, len(anatomy.names))


def _size(aspect: float) -> tuple[int, int]:
    """Width and height in even numbers, the longer one LONGEST."""
    wide, high = min(1.0, aspect), min(1.0, 1 / aspect)
    return round(LONGEST * wide / 2) * 2, round(LONGEST * high / 2) * 2


def _stranger(recipe: Recipe, number: int, anatomy: Anatomy, rng: np.random.Generator) -> Film:
    """A film of somebody else of the same subset."""
    away = VALIDATION_EVERY * int(rng.integers(1, 400))
    return make_film(recipe, (person_of(number) + away) * VIDEOS_PER_PERSON, anatomy)


def _make_still(
    rng: np.random.Generator, film: Film, frame: int, others: list[Film], count: int, bones: int
) -> Still:
    scene = draw_scene(rng, [])
    actors = [_place(rng, film, frame)]
    for other in others:
        actor = _place_beside(rng, other, actors)
        if actor is not None:
            actors.append(actor)
    shots = [
        replace(one.shot, light=scene.light, room=scene.room, panels=scene.panels, backdrop=scene.backdrop)
        for one in actors
    ]
    if not count:
        shots, actors = [_emptied(rng, shots[0], bones)], []
    picture, covered = _render(shots[0])
    picture = _cluttered(rng, picture, covered)
    for shot in shots[1:]:
        person, cover = _render(replace(shot, mesh=_kept(shot.mesh, _holder(shot.mesh) <= bones)))
        picture = _pasted(picture, person, cover)
        covered = np.maximum(covered, cover)
    look = draw_look(rng)
    frames, _ = occlude(picture[None], look, rng)
    frames = develop(frames, look, rng)
    for actor in actors:
        frames = mask_faces(frames, actor.head[None], look, rng)
    return Still(frames[0], np.array([_clipped(one.box, picture.shape) for one in actors]).reshape(-1, 4))


def _place(rng: np.random.Generator, film: Film, frame: int) -> _Actor:
    """One frame of a film by a camera that shows the person large or small, whole or from the knees or chest up."""
    box = film.person_box[frame]
    wide, high = box[2:] - box[:2]
    width, height = film.shot.width, film.shot.height
    if rng.random() < 0.2:
        scale = min(rng.uniform(1.1, 2.2) * height / high, 1.2 * width / wide)
    else:
        scale = min(np.exp(rng.uniform(np.log(0.25), np.log(1.05))) * height / high, 0.95 * width / wide)
    x = _somewhere(rng, scale * wide, width)
    y = _somewhere(rng, scale * high, height)
    if scale * high > height:  # cut below rather than above
        y = rng.uniform(-0.02, 0.2) * height + scale * high / 2
    return _moved(film, frame, scale, x, y)


def _somewhere(rng: np.random.Generator, length: float, picture: int) -> float:
    """The middle of something in a picture; a tenth of it may lie outside."""
    low, high = 0.4 * length, picture - 0.4 * length
    return rng.uniform(low, high) if low < high else picture / 2


def _moved(film: Film, frame: int, scale: float, x: float, y: float) -> _Actor:
    """A frame scaled so that the person's middle comes to (x, y)."""
    middle = 0.5 * (film.person_box[frame, :2] + film.person_box[frame, 2:])
    to = np.array([x, y])
    camera = film.shot.cameras[frame].copy()
    camera[raster.FOCAL] *= scale
    places = [raster.CENTRE_X, raster.CENTRE_Y]
    camera[places] = ((camera[places] / SUPERSAMPLING - middle) * scale + to) * SUPERSAMPLING
    shot = replace(
        film.shot,
        transforms=film.shot.transforms[frame : frame + 1],
        expressions=film.shot.expressions[frame : frame + 1],
        cameras=camera[None],
    )
    box, head = (
        ((boxes[frame].reshape(2, 2) - middle) * scale + to).ravel()
        for boxes in (film.person_box, film.head_box)
    )
    return _Actor(shot, box, head)


def _place_beside(rng: np.random.Generator, film: Film, actors: list[_Actor]) -> _Actor | None:
    """Somebody else where there is room beside those already there; None where there is none."""
    shape = (film.shot.height, film.shot.width)
    taken = np.array([_clipped(one.box, shape) for one in actors])
    for _ in range(12):
        actor = _place(rng, film, int(rng.integers(len(film.shot))))
        box = _clipped(actor.box, shape)
        corners = np.maximum(taken[:, :2], box[:2]), np.minimum(taken[:, 2:], box[2:])
        shared = np.prod(np.clip(corners[1] - corners[0], 0, None), axis=1)
        smaller = np.minimum(_areas(taken), _areas(box[None]))
        if (shared <= _MOST_COVERED * smaller).all():
            return actor
    return None


def _clipped(box: Array, shape: tuple[int, ...]) -> Array:
    height, width = shape[:2]
    return np.clip(box, 0, (width, height, width, height)).astype(np.float32)


def _areas(boxes: Array) -> Array:
    return np.asarray(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))


def _holder(mesh: Mesh) -> Array:
    """(triangles,) the bone that carries each: those above the body's are furniture's and passers'."""
    return np.asarray(mesh.bones[mesh.faces[:, 0], 0])


def _kept(mesh: Mesh, kept: Array) -> Mesh:
    """Some of a mesh's triangles."""
    return replace(
        mesh, faces=mesh.faces[kept], parts=mesh.parts[kept], closed=int(kept[: mesh.closed].sum())
    )


def _emptied(rng: np.random.Generator, shot: Shot, bones: int) -> Shot:
    """The room when the person has gone; sometimes the seat too."""
    mesh = shot.mesh
    stays = (_holder(mesh) >= bones) & (mesh.parts == Part.THING) & (rng.random() < 0.75)
    return replace(shot, mesh=_kept(mesh, stays))


def _render(shot: Shot) -> tuple[Array, Array]:
    """Of a shot of one frame: the picture, and (height, width) how much of each pixel is not the room."""
    picture = next(cpu.render(shot))
    mesh = shot.mesh
    world, points = np.zeros_like(mesh.rest), np.zeros_like(mesh.rest)
    keys = np.zeros((shot.height * SUPERSAMPLING, shot.width * SUPERSAMPLING), np.int64)
    cpu.deform(mesh.rest, mesh.bones, mesh.weights, shot.transforms[0], world)
    cpu.see(world, shot.cameras[0], points)
    cpu.rasterise(points, mesh.faces, mesh.closed, keys)
    samples = (keys != 0).reshape(shot.height, SUPERSAMPLING, shot.width, SUPERSAMPLING)
    return picture, samples.mean(axis=(1, 3), dtype=np.float32)


def _pasted(picture: Array, front: Array, cover: Array) -> Array:
    mixed = picture + (front.astype(np.float32) - picture) * cover[..., None]
    return np.asarray(np.rint(mixed), np.uint8)


def _cluttered(rng: np.random.Generator, picture: Array, covered: Array) -> Array:
    """Coloured shapes on wall and floor that are nobody."""
    if rng.random() < 0.5:
        return picture
    height, width = picture.shape[:2]
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(1, 6)):
        colour = tuple(int(value) for value in rng.integers(15, 240, 3))
        size = np.exp(rng.uniform(np.log(0.04), np.log(0.5), 2)) * (width, height)
        corner = rng.uniform(-0.1, 1, 2) * (width, height)
        place = (*corner, *(corner + size))
        draw = (pen.ellipse, pen.rectangle, pen.rounded_rectangle)[rng.integers(3)]
        draw(place, fill=colour)
    left, right = rng.uniform(0.8, 1.1, 2)
    shaded = np.asarray(canvas, np.float32) * np.linspace(left, right, width)[:, None]
    return _pasted(np.clip(shaded, 0, 255), picture, covered)
