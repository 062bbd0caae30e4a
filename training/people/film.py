"""One synthetic video: from a seed and a number to a shot that can be rendered, its labels and where everything is."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.people.actions import BY_CODE
from training.people.body import Anatomy, Part
from training.people.camera.effects import Look, draw_look, occlude
from training.people.hands import move_arms
from training.people.options import Crop, Mix, Subset
from training.people.performance import Performance, perform
from training.people.person import Person, draw_colour, draw_person, draw_seat_colour, make_mesh
from training.people.props import TOYS, Shape, make_glasses, make_seat, make_toy
from training.people.render import raster
from training.people.render.cpu import deform
from training.people.render.shot import SUPERSAMPLING, Mesh, Shot, join
from training.people.rotations import about, apply
from training.people.scene import Framing, aim, draw_framing, draw_scene
from training.people.schedules.schedule import Event, Schedule, sample_schedule
from training.people.skeleton import Pose, Skeleton
from training.people.timing import STYLES, TRAINING_STYLES, Floats, wander

Array = NDArray[Any]

VIDEOS_PER_PERSON = 5
VALIDATION_EVERY = 4  # every fourth person is held out
_EYE, _EAR = (0.031, -0.135, 0.728), (0.078, -0.02, 0.72)  # the left ones, on the standard body
PASSING = 0.07  # share of the videos in which something passes behind

# Points that sidecars follow: name, bone that carries it, place on the standard body (None: the bone's head).
JOINTS: tuple[tuple[str, str, tuple[float, float, float] | None], ...] = (
    ("nose", "head", (0.0, -0.165, 0.69)),
    ("eye.left", "head", _EYE),
    ("eye.right", "head", (-_EYE[0], *_EYE[1:])),
    ("ear.left", "head", _EAR),
    ("ear.right", "head", (-_EAR[0], *_EAR[1:])),
    ("crown", "head", (0.0, 0.0, 0.855)),
    ("neck", "neck01", None),
    ("chest", "spine02", None),
    ("pelvis", "root", None),
    *(
        (f"{name}.{side}", f"{bone}.{letter}", None)
        for side, letter in (("left", "L"), ("right", "R"))
        for name, bone in (
            ("shoulder", "upperarm01"), ("elbow", "lowerarm01"), ("wrist", "wrist"), ("knuckle", "finger3-1"),
            ("hip", "upperleg01"), ("knee", "lowerleg01"), ("ankle", "foot"), ("toe", "toe3-1"),
        )
    ),
)  # fmt: skip
JOINT_NAMES = tuple(name for name, _, _ in JOINTS)
# What must be seen of a part for it to be visible.
PARTS: dict[str, tuple[str, ...]] = {
    "head": ("nose", "crown", "neck"),
    "torso": ("chest", "shoulder.left", "shoulder.right"),
    **{f"hand.{side}": (f"knuckle.{side}",) for side in ("left", "right")},
    **{f"thigh.{side}": (f"knee.{side}",) for side in ("left", "right")},
    **{f"foot.{side}": (f"ankle.{side}", f"toe.{side}") for side in ("left", "right")},
}
SEEN = 0.5  # share of its time for which an action must be in the picture to be labelled


@dataclass(frozen=True)
class Recipe:
    """What all videos of a set have in common.

    Attributes:
        seed: of the whole set. fps: frames a second. height, width: in pixels.
        mix: how often each action occurs.
        styles: names of the motion styles.
        crop: what is shown, at the same size.
        test: people of the test alone, instead of those to train and to select with.
        pictures: (rows, columns, 3) uint8 for back walls.
    """

    seed: int = 0
    fps: float = 15.0
    height: int = 160
    width: int = 160
    mix: Mix = Mix.REAL
    styles: tuple[str, ...] = TRAINING_STYLES
    crop: Crop = Crop.NONE
    test: bool = False
    pictures: tuple[Array, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Film:
    """A video before it is rendered.

    Attributes:
        number: of the video in its set. person: of its identity. subset: where that person belongs.
        style: of its motion.
        schedule: all that the person does. shown: events that can be seen. hidden: the others.
        shot: what to render. look: what the camera and the authors make of it.
        joints: (frames, JOINTS, 2) pixels. seen: (frames, JOINTS) whether it is in the picture and not behind an
            occluder (it may be behind the person).
        person_box, head_box: (frames, 4) left, top, right, bottom in pixels; they may reach out of the picture.
    """

    number: int
    person: int
    subset: Subset
    style: str
    fps: float
    schedule: Schedule
    shown: tuple[Event, ...]
    hidden: tuple[Event, ...]
    shot: Shot
    look: Look
    joints: Array
    seen: Array
    person_box: Array
    head_box: Array

    def parts_seen(self) -> Array:
        """(frames, PARTS): which parts of the body are in the picture."""
        return np.stack(
            [self.seen[:, [JOINT_NAMES.index(name) for name in names]].all(1) for names in PARTS.values()], 1
        )


def generator(seed: int, number: int, purpose: int) -> np.random.Generator:
    """One stream of numbers for each purpose of each video, whatever else is drawn."""
    return np.random.default_rng(np.random.SeedSequence((seed, number, purpose)))


SCHEDULE, PERFORMANCE, SCENE, FRAMING, LOOK, EFFECTS, PERSON, FURNITURE = range(8)


def person_of(number: int) -> int:
    """Whose video it is: the same person in neighbouring videos."""
    return number // VIDEOS_PER_PERSON


def subset_of(recipe: Recipe, person: int) -> Subset:
    """Where somebody's videos belong: training, validation, or everybody to the test."""
    if recipe.test:
        return Subset.TEST
    return Subset.VAL if person % VALIDATION_EVERY == VALIDATION_EVERY - 1 else Subset.TRAIN


def make_film(
    recipe: Recipe,
    number: int,
    anatomy: Anatomy,
    schedule: Schedule | None = None,
    framing: Framing | None = None,
) -> Film:
    """The video of a set that has this number; the same recipe and number give the same film.

    Args:
        recipe: of the set. number: from 0.
        anatomy: the body cache.
        schedule, framing: given ones instead of drawn ones.
    """

    def draw(purpose: int) -> np.random.Generator:
        return generator(recipe.seed, number, purpose)

    schedule = schedule or sample_schedule(draw(SCHEDULE), recipe.mix)
    rng = draw(PERFORMANCE)
    style = str(rng.choice(sorted(recipe.styles)))
    frames = max(round(schedule.duration_s * recipe.fps), 1)
    acted = perform(rng, schedule, np.arange(frames) / recipe.fps, STYLES[style])
    identity = person_of(number)
    person = draw_person(generator(recipe.seed, identity, PERSON), anatomy, subset_of(recipe, identity))
    mesh, vertices, heads = make_mesh(person, anatomy)
    skeleton = Skeleton(anatomy, vertices, heads)
    things = draw(FURNITURE)
    yaw = float(things.normal(0, 0.22))
    pose = skeleton.sit(acted.channels, frames, yaw)
    move_arms(skeleton, pose, acted.rest, acted.visits, recipe.fps)
    whole, transforms = _furnish(things, acted, skeleton, mesh, pose, person, yaw)
    scene = draw_scene(draw(SCENE), list(recipe.pictures))
    look = draw_look(draw(LOOK))
    shot = Shot(
        whole, transforms, acted.faces.astype(np.float32), np.zeros((frames, raster.CAMERA_SIZE), np.float32),
        scene.light, person.dress, scene.room, scene.panels, scene.backdrop, recipe.height, recipe.width,
    )  # fmt: skip
    return _film(
        recipe,
        number,
        style,
        schedule,
        shot,
        look,
        pose,
        skeleton,
        framing or draw_framing(draw(FRAMING)),
        draw(FRAMING + 100),
    )


def _furnish(
    rng: np.random.Generator,
    acted: Performance,
    skeleton: Skeleton,
    mesh: Mesh,
    pose: Pose,
    person: Person,
    yaw: float,
) -> tuple[Mesh, Array]:
    """Person, seat and props as one mesh, and the transforms of all bones."""
    anatomy = skeleton.anatomy
    frames = len(acted.times_s)
    bones = len(anatomy.names)
    posed = pose.transforms()
    under = _seat_height(mesh, posed, anatomy)
    meshes = [mesh, make_seat(rng, under, draw_seat_colour(rng), draw_colour(rng)).mesh(bones)]
    still = np.concatenate([about((0, 0, 1), np.full(frames, yaw)), np.zeros((frames, 3, 1))], -1)
    rigid = [still]
    for holder in acted.holders:
        letter = "L" if holder == "left" else "R"
        toy = make_toy(rng, str(rng.choice(TOYS)), draw_colour(rng)).mesh(anatomy.index[f"wrist.{letter}"])
        meshes.append(_in_hand(toy, skeleton, letter))
    if "glasses" in acted.props or person.glasses:
        eyes, ears = (
            np.array([skeleton.vertices[anatomy.nearest((side * x, y, z))] for side in (1, -1)], float)
            for x, y, z in (_EYE, _EAR)
        )
        shape = make_glasses(rng, eyes, ears, draw_colour(rng) * 0.5)
        meshes.append(shape.mesh(anatomy.index["head"]))
    if rng.random() < PASSING:
        passer, way = _passer(rng, acted.times_s, bones + 1)
        meshes.append(passer)
        rigid.append(way)
    transforms = np.concatenate([posed, *(one[:, None] for one in rigid)], 1)
    return join(meshes), transforms.astype(np.float32)


def _seat_height(mesh: Mesh, transforms: Array, anatomy: Anatomy) -> float:
    """Where a person's seat is, metres: flesh gives way a little."""
    x, y, z = anatomy.template.T
    own = np.flatnonzero((np.abs(x) < 0.16) & (y > -0.06) & (z > -0.12) & (z < 0.1))
    own = own[mesh.weights[own, 0] > 0]
    middle = transforms[len(transforms) // 2].astype(np.float32)
    world = np.zeros((len(own), 3), np.float32)
    deform(mesh.rest[own], mesh.bones[own], mesh.weights[own], middle, world)
    return float(np.quantile(world[:, 2], 0.03)) + 0.012


def _in_hand(toy: Mesh, skeleton: Skeleton, letter: str) -> Mesh:
    """A prop moved into the palm of the hand at rest."""
    fingers, palm = skeleton.hand_axes(letter)
    wrist, knuckle = skeleton.head_of(f"wrist.{letter}"), skeleton.head_of(f"finger3-1.{letter}")
    axes = np.stack([fingers, np.cross(palm, fingers), palm], -1)
    centre = wrist + 1.05 * (knuckle - wrist) + 0.035 * palm
    return replace(toy, rest=(toy.rest @ axes.T + centre).astype(np.float32))


def _passer(rng: np.random.Generator, times_s: Floats, bone: int) -> tuple[Mesh, Array]:
    """Somebody or something that crosses the room behind."""
    shape = Shape()
    depth, tall = rng.uniform(0.35, 0.9), rng.uniform(0.5, 1.75)
    shape.ball((0, 0, 0.55 * tall), (rng.uniform(0.12, 0.25), 0.14, 0.45 * tall), draw_colour(rng))
    if tall > 1.3:
        shape.ball((0, 0, tall - 0.05), (0.09, 0.1, 0.13), draw_colour(rng))
    speed = rng.choice((-1, 1)) * rng.uniform(0.2, 1.1)
    moment = rng.uniform(times_s[0], times_s[-1])
    way = np.tile(np.eye(3, 4), (len(times_s), 1, 1))
    way[:, 0, 3] = speed * (times_s - moment)
    way[:, 1, 3] = depth
    way[:, 2, 3] = 0.02 * wander(rng, times_s, 0.5)
    return shape.mesh(bone), way


def _film(
    recipe: Recipe, number: int, style: str, schedule: Schedule, shot: Shot, look: Look, pose: Pose,
    skeleton: Skeleton, framing: Framing, rng: np.random.Generator,
) -> Film:  # fmt: skip
    """Aim the camera, see what is in the picture, and label what can be seen."""
    frames = len(shot)
    points = _joints(pose, skeleton)
    outline, head = _outline(shot, skeleton.anatomy)
    low, high = outline.min(axis=(0, 1)), outline.max(axis=(0, 1))
    middle = np.median(outline, axis=0)
    camera = aim(
        framing,
        np.array([middle[:, 0].min(), low[1], 0.0]),
        np.array([middle[:, 0].max(), high[1], middle[:, 2].max()]),
        (recipe.height, recipe.width),
        SUPERSAMPLING,
    )
    cameras = np.tile(camera, (frames, 1))
    times_s = np.arange(frames) / recipe.fps
    for place in (raster.CENTRE_X, raster.CENTRE_Y):
        cameras[:, place] += (
            camera[raster.FOCAL]
            * framing.shake
            * (wander(rng, times_s, 0.9) + 0.4 * wander(rng, times_s, 0.2))
        )
    person_box = _box(_project(cameras, outline))
    head_box = _box(_project(cameras, head))
    if recipe.crop is not Crop.NONE:
        cameras = _cropped(rng, cameras, person_box if recipe.crop is Crop.PERSON else head_box, recipe)
        person_box, head_box = _box(_project(cameras, outline)), _box(_project(cameras, head))
    joints = _project(cameras, points)
    covered = occlude(
        np.zeros((1, recipe.height, recipe.width, 3), np.uint8), look, generator(recipe.seed, number, EFFECTS)
    )[1]
    seen = _seen(joints, covered)
    film = Film(
        number, person_of(number), subset_of(recipe, person_of(number)), style, recipe.fps, schedule, (), (),
        replace(shot, cameras=cameras), look, joints, seen, person_box, head_box,
    )  # fmt: skip
    shown = tuple(event for event in schedule.events if _is_shown(film, event))
    return replace(film, shown=shown, hidden=tuple(event for event in schedule.events if event not in shown))


def _is_shown(film: Film, event: Event) -> bool:
    """Whether what an event needs is in the picture for enough of its time."""
    first, last = (
        min(int(event.start_s * film.fps), len(film.shot) - 1),
        max(int(np.ceil(event.end_s * film.fps)), int(event.start_s * film.fps) + 1),
    )
    visible = film.parts_seen()[first:last]
    names = list(PARTS)
    needed = []
    for part in BY_CODE[event.code].shows:
        if part in names:
            needed.append(visible[:, names.index(part)])
        else:  # of a side: one that takes part is enough
            needed.append(np.any([visible[:, names.index(f"{part}.{side}")] for side in event.sides], axis=0))
    return bool(np.all(needed, axis=0).mean() >= SEEN)


def _joints(pose: Pose, skeleton: Skeleton) -> Array:
    """(frames, JOINTS, 3) in the world."""
    anatomy = skeleton.anatomy
    return np.stack(
        [
            pose.position(bone) if place is None
            else pose.carried(anatomy.index[bone], skeleton.vertices[anatomy.nearest(place)].astype(float))
            for _, bone, place in JOINTS
        ], 1,
    )  # fmt: skip


def _outline(shot: Shot, anatomy: Anatomy) -> tuple[Array, Array]:
    """Some vertices of the person (frames, n, 3), and those of the head with its hair."""
    mesh = shot.mesh
    own = np.unique(mesh.faces[mesh.parts != Part.THING])[::9]
    result = np.zeros((len(shot), len(own), 3), np.float32)
    for frame in range(len(shot)):
        deform(mesh.rest[own], mesh.bones[own], mesh.weights[own], shot.transforms[frame], result[frame])
    place = anatomy.template[own]
    head = (place[:, 2] > 0.60) & (np.abs(place[:, 0]) < 0.13)
    return result, result[:, head]


def _project(cameras: Array, points: Array) -> Array:
    """World (frames, n, 3) to pixels (frames, n, 2)."""
    rotation = cameras[:, raster.ROTATION : raster.ROTATION + 9].reshape(-1, 3, 3).astype(float)
    seen = apply(rotation[:, None], points - cameras[:, None, :3])
    depth = np.maximum(seen[..., 2], 0.2)
    scale = cameras[:, None, raster.FOCAL] / depth
    x = cameras[:, None, raster.CENTRE_X] + scale * seen[..., 0]
    y = cameras[:, None, raster.CENTRE_Y] + scale * seen[..., 1]
    return np.stack([x, y], -1) / SUPERSAMPLING


def _box(points: Array) -> Array:
    return np.concatenate([points.min(axis=1), points.max(axis=1)], 1)


def _seen(joints: Array, covered: Array) -> Array:
    """Which joints are in the picture and not behind an occluder."""
    height, width = covered.shape
    x, y = np.floor(joints[..., 0]).astype(int), np.floor(joints[..., 1]).astype(int)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    hidden = covered[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    return np.asarray(inside & ~hidden)


def _cropped(rng: np.random.Generator, cameras: Array, boxes: Array, recipe: Recipe) -> Array:
    """Cameras that show one part of the picture over the whole video, as wide as the picture's shape.

    Of the person: all of it. Of the head: around where it mostly is, in proportion to its own size; whoever bows
    leaves the picture, so that its scale tells nothing of what happens in the video.
    """
    aspect = recipe.width / recipe.height
    if recipe.crop is Crop.HEAD:
        box, around = np.median(boxes, axis=0), rng.uniform(1.7, 2.6)
    else:
        box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
        around = rng.uniform(1.04, 1.3)
    width, height = box[2:] - box[:2]
    height = around * max(height, width / aspect)
    x, y = 0.5 * (box[:2] + box[2:]) + rng.normal(0, 0.03, 2) * height
    scale = recipe.height / height
    cropped = cameras.copy()
    cropped[:, raster.FOCAL] *= scale
    for place, centre, middle in (
        (raster.CENTRE_X, x, recipe.width / 2),
        (raster.CENTRE_Y, y, recipe.height / 2),
    ):
        cropped[:, place] = ((cameras[:, place] / SUPERSAMPLING - centre) * scale + middle) * SUPERSAMPLING
    return cropped
