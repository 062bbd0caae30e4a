"""Render stills with no, one or several synthetic people, to train the locator on."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from model.arrays import Array
from training.people.body import Anatomy, Part, load_anatomy
from training.people.camera.effects import develop, draw_effects, mask_faces, occlude
from training.people.film import VALIDATION_EVERY, VIDEOS_PER_PERSON, Film, Recipe, generator, get_person, make_film
from training.people.render import cpu, raster
from training.people.render.shot import SUPERSAMPLING, Mesh, Shot
from training.people.scene import draw_scene

LONGEST = 144  # side of a still, in pixels
STILLS_PER_VIDEO = 4
_ASPECTS = (9 / 16, 3 / 4, 5 / 6, 1.0, 4 / 3, 16 / 9)
_PEOPLE = (0, 1, 2, 3)
MAX_PEOPLE = _PEOPLE[-1]
_PROBABILITIES = (0.28, 0.46, 0.21, 0.05)
_MAX_COVERED = 0.3  # share of a person's box that another box may cover
_FPS = 0.7  # of the films; low, so that stills of one film differ
_STILLS = 500  # purpose for film.generator that films do not use


@dataclass(frozen=True)
class Still:
    """An image (height, width, 3) uint8 and the boxes of its people (n, 4): left, top, right, bottom in pixels."""

    picture: Array
    boxes: Array


@dataclass(frozen=True)
class Stills:
    """Stills as arrays, each centred in a black square, pictures (n, LONGEST, LONGEST, 3).

    `places` (n, 4) are the corners of each image in its square, `boxes` (n, MAX_PEOPLE, 4) those of people, NaN for
    absent ones; in pixels: left, top, right, bottom.
    """

    pictures: Array
    places: Array
    boxes: Array

    def __len__(self) -> int:
        return len(self.pictures)

    def still(self, index: int) -> Still:
        """Return one still without the padding."""
        left, top, right, bottom = self.places[index].astype(int)
        boxes = self.boxes[index][~np.isnan(self.boxes[index, :, 0])]
        return Still(self.pictures[index, top:bottom, left:right], boxes - np.tile((left, top), 2))


@dataclass(frozen=True)
class _Actor:
    shot: Shot
    box: Array
    head: Array


def video_numbers(count: int, *, held_out: bool) -> list[int]:
    """Return the numbers of `count` training or held-out videos, all of different people."""
    people = (
        number
        for number in range(2 * VALIDATION_EVERY * count + VALIDATION_EVERY)
        if (number % VALIDATION_EVERY == VALIDATION_EVERY - 1) is held_out
    )
    return [person * VIDEOS_PER_PERSON for _, person in zip(range(count), people, strict=False)]


def stack_stills(stills: Iterable[Still]) -> Stills:
    """Stack stills to arrays."""
    pictures, places, boxes = [], [], []
    for still in stills:
        height, width = still.picture.shape[:2]
        left, top = (LONGEST - width) // 2, (LONGEST - height) // 2
        square = np.zeros((LONGEST, LONGEST, 3), np.uint8)
        square[top : top + height, left : left + width] = still.picture
        listed = np.full((MAX_PEOPLE, 4), np.nan, np.float32)
        listed[: len(still.boxes)] = still.boxes + np.tile((left, top), 2)
        pictures.append(square)
        places.append((left, top, left + width, top + height))
        boxes.append(listed)
    return Stills(np.stack(pictures), np.array(places, np.float32), np.stack(boxes))


def make_stills(seed: int, number: int, people: int | None = None, anatomy: Anatomy | None = None) -> Iterator[Still]:
    """Render stills of one video, each with its own room, camera and effects, and `people` people (random if None)."""
    anatomy = anatomy or load_anatomy()
    rng = generator(seed, number, _STILLS)
    width, height = _size(float(rng.choice(_ASPECTS)))
    recipe = Recipe(seed=seed, fps=_FPS, height=height, width=width)
    film = make_film(recipe, number, anatomy)
    for frame in rng.choice(len(film.shot), min(STILLS_PER_VIDEO, len(film.shot)), replace=False):
        count = int(rng.choice(_PEOPLE, p=_PROBABILITIES)) if people is None else people
        others = [_make_other_film(recipe, number, anatomy, rng) for _ in range(count - 1)]
        yield _make_still(rng, film, int(frame), others, count, len(anatomy.names))


def _size(aspect: float) -> tuple[int, int]:
    wide, high = min(1.0, aspect), min(1.0, 1 / aspect)
    return round(LONGEST * wide / 2) * 2, round(LONGEST * high / 2) * 2


def _make_other_film(recipe: Recipe, number: int, anatomy: Anatomy, rng: np.random.Generator) -> Film:
    away = VALIDATION_EVERY * int(rng.integers(1, 400))
    return make_film(recipe, (get_person(number) + away) * VIDEOS_PER_PERSON, anatomy)


def _make_still(rng: np.random.Generator, film: Film, frame: int, others: list[Film], count: int, bones: int) -> Still:
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
        shots, actors = [_remove_person(rng, shots[0], bones)], []
    picture, covered = _render(shots[0])
    picture = _add_clutter(rng, picture, covered)
    for shot in shots[1:]:
        person, cover = _render(replace(shot, mesh=_select_triangles(shot.mesh, _get_bones(shot.mesh) <= bones)))
        picture = _blend(picture, person, cover)
        covered = np.maximum(covered, cover)
    effects = draw_effects(rng)
    frames, _ = occlude(picture[None], effects, rng)
    frames = develop(frames, effects, rng)
    for actor in actors:
        frames = mask_faces(frames, actor.head[None], effects, rng)
    return Still(frames[0], np.array([_clip(one.box, picture.shape) for one in actors]).reshape(-1, 4))


def _place(rng: np.random.Generator, film: Film, frame: int) -> _Actor:
    """Place the person of one frame at a random size and position; the lower part may be cut off."""
    box = film.person_box[frame]
    wide, high = box[2:] - box[:2]
    width, height = film.shot.width, film.shot.height
    if rng.random() < 0.2:
        scale = min(rng.uniform(1.1, 2.2) * height / high, 1.2 * width / wide)
    else:
        scale = min(np.exp(rng.uniform(np.log(0.25), np.log(1.05))) * height / high, 0.95 * width / wide)
    x = _sample_centre(rng, scale * wide, width)
    y = _sample_centre(rng, scale * high, height)
    if scale * high > height:  # too tall: cut off the lower part
        y = rng.uniform(-0.02, 0.2) * height + scale * high / 2
    return _move(film, frame, scale, x, y)


def _sample_centre(rng: np.random.Generator, length: float, picture: int) -> float:
    """Sample the centre of an interval of this length in an image; a tenth of it may lie outside."""
    low, high = 0.4 * length, picture - 0.4 * length
    return rng.uniform(low, high) if low < high else picture / 2


def _move(film: Film, frame: int, scale: float, x: float, y: float) -> _Actor:
    """Scale and shift a frame so that the centre of the person is at (x, y)."""
    middle = 0.5 * (film.person_box[frame, :2] + film.person_box[frame, 2:])
    to = np.array([x, y])
    camera = film.shot.cameras[frame].copy()
    camera[raster.FOCAL] *= scale
    centre = [raster.CENTRE_X, raster.CENTRE_Y]
    camera[centre] = ((camera[centre] / SUPERSAMPLING - middle) * scale + to) * SUPERSAMPLING
    shot = replace(
        film.shot,
        transforms=film.shot.transforms[frame : frame + 1],
        expressions=film.shot.expressions[frame : frame + 1],
        cameras=camera[None],
    )
    box, head = (
        ((boxes[frame].reshape(2, 2) - middle) * scale + to).ravel() for boxes in (film.person_box, film.head_box)
    )
    return _Actor(shot, box, head)


def _place_beside(rng: np.random.Generator, film: Film, actors: list[_Actor]) -> _Actor | None:
    """Place another person where the others remain visible; None if no position is found in 12 tries."""
    shape = (film.shot.height, film.shot.width)
    occupied = np.array([_clip(one.box, shape) for one in actors])
    for _ in range(12):
        actor = _place(rng, film, int(rng.integers(len(film.shot))))
        box = _clip(actor.box, shape)
        corners = np.maximum(occupied[:, :2], box[:2]), np.minimum(occupied[:, 2:], box[2:])
        shared = np.prod(np.clip(corners[1] - corners[0], 0, None), axis=1)
        smaller = np.minimum(_areas(occupied), _areas(box[None]))
        if (shared <= _MAX_COVERED * smaller).all():
            return actor
    return None


def _clip(box: Array, shape: tuple[int, ...]) -> Array:
    height, width = shape[:2]
    return np.clip(box, 0, (width, height, width, height)).astype(np.float32)


def _areas(boxes: Array) -> Array:
    return np.asarray(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))


def _get_bones(mesh: Mesh) -> Array:
    """Return the bone of each triangle, (triangles,); furniture and passers-by have higher bones than the body."""
    return np.asarray(mesh.bones[mesh.faces[:, 0], 0])


def _select_triangles(mesh: Mesh, selected: Array) -> Mesh:
    return replace(
        mesh, faces=mesh.faces[selected], parts=mesh.parts[selected], closed=int(selected[: mesh.closed].sum())
    )


def _remove_person(rng: np.random.Generator, shot: Shot, bones: int) -> Shot:
    mesh = shot.mesh
    stays = (_get_bones(mesh) >= bones) & (mesh.parts == Part.PROP) & (rng.random() < 0.75)
    return replace(shot, mesh=_select_triangles(mesh, stays))


def _render(shot: Shot) -> tuple[Array, Array]:
    """Render a shot of one frame; return the image, and the coverage of each pixel by meshes (height, width)."""
    picture = next(cpu.render(shot))
    mesh = shot.mesh
    world, points = np.zeros_like(mesh.rest), np.zeros_like(mesh.rest)
    keys = np.zeros((shot.height * SUPERSAMPLING, shot.width * SUPERSAMPLING), np.int64)
    cpu.deform(mesh.rest, mesh.bones, mesh.weights, shot.transforms[0], world)
    cpu.see(world, shot.cameras[0], points)
    cpu.rasterise(points, mesh.faces, mesh.closed, keys)
    samples = (keys != 0).reshape(shot.height, SUPERSAMPLING, shot.width, SUPERSAMPLING)
    return picture, samples.mean(axis=(1, 3), dtype=np.float32)


def _blend(picture: Array, front: Array, cover: Array) -> Array:
    mixed = picture + (front.astype(np.float32) - picture) * cover[..., None]
    return np.asarray(np.rint(mixed), np.uint8)


def _add_clutter(rng: np.random.Generator, picture: Array, covered: Array) -> Array:
    if rng.random() < 0.5:
        return picture
    height, width = picture.shape[:2]
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(1, 6)):
        colour = tuple(int(value) for value in rng.integers(15, 240, 3))
        size = np.exp(rng.uniform(np.log(0.04), np.log(0.5), 2)) * (width, height)
        corner = rng.uniform(-0.1, 1, 2) * (width, height)
        box = (*corner, *(corner + size))
        draw = (pen.ellipse, pen.rectangle, pen.rounded_rectangle)[rng.integers(3)]
        draw(box, fill=colour)
    left, right = rng.uniform(0.8, 1.1, 2)
    shaded = np.asarray(canvas, np.float32) * np.linspace(left, right, width)[:, None]
    return _blend(np.clip(shaded, 0, 255), picture, covered)
