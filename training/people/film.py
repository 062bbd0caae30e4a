"""Build one synthetic video from a seed and a number: a renderable shot, its labels, boxes and keypoints."""

from dataclasses import dataclass, field, replace

import numpy as np

from model.arrays import Array, Doubles
from training.people.actions import BY_CODE
from training.people.body import Anatomy, Part
from training.people.camera.effects import Effects, draw_effects, occlude
from training.people.hands import move_arms
from training.people.options import Crop, Mix, Subset
from training.people.performance import Performance, perform
from training.people.person import Person, draw_colour, draw_person, draw_seat_colour, make_mesh
from training.people.props import TOYS, Shape, make_glasses, make_seat, make_toy
from training.people.render import raster
from training.people.render.cpu import deform
from training.people.render.shot import SUPERSAMPLING, Mesh, Shot, join
from training.people.rotations import axis_angle, rotate
from training.people.scene import Framing, aim_camera, draw_framing, draw_scene
from training.people.schedules.schedule import Event, Schedule, sample_schedule
from training.people.skeleton import Pose, Skeleton
from training.people.timing import STYLES, TRAINING_STYLES, wander

VIDEOS_PER_PERSON = 5
VALIDATION_EVERY = 4  # every fourth person belongs to the validation subset
_EYE, _EAR = (0.031, -0.135, 0.728), (0.078, -0.02, 0.72)  # left side, metres on the standard body
PASSER_PROBABILITY = 0.07  # share of videos in which someone or something passes behind the person

# Keypoints stored in sidecars: name, bone it moves with, point on the standard body (None: the bone's head).
KEYPOINTS: tuple[tuple[str, str, tuple[float, float, float] | None], ...] = (
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
KEYPOINT_NAMES = tuple(name for name, _, _ in KEYPOINTS)
# A body part is visible if all of these keypoints are.
PARTS: dict[str, tuple[str, ...]] = {
    "head": ("nose", "crown", "neck"),
    "torso": ("chest", "shoulder.left", "shoulder.right"),
    **{f"hand.{side}": (f"knuckle.{side}",) for side in ("left", "right")},
    **{f"thigh.{side}": (f"knee.{side}",) for side in ("left", "right")},
    **{f"foot.{side}": (f"ankle.{side}", f"toe.{side}") for side in ("left", "right")},
}
MIN_VISIBLE_SHARE = 0.5  # an action is labelled if it is visible for at least this share of its duration


@dataclass(frozen=True)
class Recipe:
    """Settings shared by all videos of a data set.

    Attributes:
        seed: random seed of the data set.
        fps: frames per second.
        height, width: of a frame, pixels.
        mix: how often each action occurs.
        styles: names of the motion styles to sample from, see timing.STYLES.
        crop: region of the camera's view that the frames show.
        test: generate the test subset instead of the training and validation subsets.
        pictures: (rows, columns, 3) uint8 images for back walls.
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
    """A video before rendering.

    Attributes:
        number: index of the video in its data set.
        person: number of the person.
        subset: the subset that the person belongs to.
        style: name of the motion style.
        fps: frames per second.
        schedule: all events, visible or not.
        shown: events that are visible.
        hidden: events that are not.
        shot: what to render.
        effects: parameters of the camera effects, the face mask and the occluder.
        keypoints: (frames, KEYPOINTS, 2) pixels.
        keypoint_visible: (frames, KEYPOINTS) whether a keypoint is inside the frame and not behind an occluder.
            Occlusion by the person's own body is ignored.
        person_box, head_box: (frames, 4) left, top, right, bottom in pixels; may extend beyond the frame.
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
    effects: Effects
    keypoints: Array
    keypoint_visible: Array
    person_box: Array
    head_box: Array

    def compute_part_visibility(self) -> Array:
        """Return (frames, PARTS) bool: which body parts are visible."""
        return np.stack(
            [
                self.keypoint_visible[:, [KEYPOINT_NAMES.index(name) for name in names]].all(1)
                for names in PARTS.values()
            ],
            1,
        )


def generator(seed: int, number: int, purpose: int) -> np.random.Generator:
    """Return an independent random stream for one purpose of one video."""
    return np.random.default_rng(np.random.SeedSequence((seed, number, purpose)))


SCHEDULE, PERFORMANCE, SCENE, FRAMING, EFFECT_PARAMETERS, EFFECTS, PERSON, FURNITURE = range(8)


def get_person(number: int) -> int:
    """Return the number of a video's person; VIDEOS_PER_PERSON consecutive videos share one."""
    return number // VIDEOS_PER_PERSON


def get_subset(recipe: Recipe, person: int) -> Subset:
    """Return the subset of a person: always test if `recipe.test`, else training or validation."""
    if recipe.test:
        return Subset.TEST
    return Subset.VAL if person % VALIDATION_EVERY == VALIDATION_EVERY - 1 else Subset.TRAIN


def make_film(
    recipe: Recipe, number: int, anatomy: Anatomy, schedule: Schedule | None = None, framing: Framing | None = None
) -> Film:
    """Build a video of a data set; the result depends only on the arguments.

    Args:
        recipe: settings of the data set.
        number: index of the video, from 0.
        anatomy: the body model.
        schedule, framing: used instead of sampled ones.
    """

    def draw(purpose: int) -> np.random.Generator:
        return generator(recipe.seed, number, purpose)

    schedule = schedule or sample_schedule(draw(SCHEDULE), recipe.mix)
    rng = draw(PERFORMANCE)
    style = str(rng.choice(sorted(recipe.styles)))
    frames = max(round(schedule.duration_s * recipe.fps), 1)
    performance = perform(rng, schedule, np.arange(frames) / recipe.fps, STYLES[style])
    identity = get_person(number)
    person = draw_person(generator(recipe.seed, identity, PERSON), anatomy, get_subset(recipe, identity))
    mesh, vertices, heads = make_mesh(person, anatomy)
    skeleton = Skeleton(anatomy, vertices, heads)
    props_rng = draw(FURNITURE)
    yaw = float(props_rng.normal(0, 0.22))
    pose = skeleton.sit(performance.channels, frames, yaw)
    move_arms(skeleton, pose, performance.rest, performance.visits, recipe.fps)
    whole, transforms = _add_props(props_rng, performance, skeleton, mesh, pose, person, yaw)
    scene = draw_scene(draw(SCENE), list(recipe.pictures))
    effects = draw_effects(draw(EFFECT_PARAMETERS))
    shot = Shot(
        whole, transforms, performance.expressions.astype(np.float32),
        np.zeros((frames, raster.CAMERA_SIZE), np.float32),
        scene.light, person.dress, scene.room, scene.panels, scene.backdrop, recipe.height, recipe.width,
    )  # fmt: skip
    return _assemble_film(
        recipe,
        number,
        style,
        schedule,
        shot,
        effects,
        pose,
        skeleton,
        framing or draw_framing(draw(FRAMING)),
        draw(FRAMING + 100),
    )


def _add_props(
    rng: np.random.Generator,
    performance: Performance,
    skeleton: Skeleton,
    mesh: Mesh,
    pose: Pose,
    person: Person,
    yaw: float,
) -> tuple[Mesh, Array]:
    """Return person, seat and props as one mesh, and the transforms (frames, bones, 3, 4) of all bones."""
    anatomy = skeleton.anatomy
    frames = len(performance.times_s)
    bones = len(anatomy.names)
    posed = pose.transforms()
    under = _find_seat_height(mesh, posed, anatomy)
    meshes = [mesh, make_seat(rng, under, draw_seat_colour(rng), draw_colour(rng)).mesh(bones)]
    still = np.concatenate([axis_angle((0, 0, 1), np.full(frames, yaw)), np.zeros((frames, 3, 1))], -1)
    rigid = [still]
    for holder in performance.holders:
        letter = "L" if holder == "left" else "R"
        toy = make_toy(rng, str(rng.choice(TOYS)), draw_colour(rng)).mesh(anatomy.index[f"wrist.{letter}"])
        meshes.append(_place_in_hand(toy, skeleton, letter))
    if "glasses" in performance.props or person.glasses:
        eyes, ears = (
            np.array([skeleton.vertices[anatomy.nearest((side * x, y, z))] for side in (1, -1)], float)
            for x, y, z in (_EYE, _EAR)
        )
        shape = make_glasses(rng, eyes, ears, draw_colour(rng) * 0.5)
        meshes.append(shape.mesh(anatomy.index["head"]))
    if rng.random() < PASSER_PROBABILITY:
        passer, way = _make_passer(rng, performance.times_s, bones + 1)
        meshes.append(passer)
        rigid.append(way)
    transforms = np.concatenate([posed, *(one[:, None] for one in rigid)], 1)
    return join(meshes), transforms.astype(np.float32)


def _find_seat_height(mesh: Mesh, transforms: Array, anatomy: Anatomy) -> float:
    """Return the height of the seat in metres; the body sinks in slightly."""
    x, y, z = anatomy.template.T
    own = np.flatnonzero((np.abs(x) < 0.16) & (y > -0.06) & (z > -0.12) & (z < 0.1))
    own = own[mesh.weights[own, 0] > 0]
    middle = transforms[len(transforms) // 2].astype(np.float32)
    world = np.zeros((len(own), 3), np.float32)
    deform(mesh.rest[own], mesh.bones[own], mesh.weights[own], middle, world)
    return float(np.quantile(world[:, 2], 0.03)) + 0.012


def _place_in_hand(toy: Mesh, skeleton: Skeleton, letter: str) -> Mesh:
    """Move a prop from the origin into the palm of the hand in the rest pose."""
    fingers, palm = skeleton.hand_axes(letter)
    wrist, knuckle = skeleton.rest_head(f"wrist.{letter}"), skeleton.rest_head(f"finger3-1.{letter}")
    axes = np.stack([fingers, np.cross(palm, fingers), palm], -1)
    centre = wrist + 1.05 * (knuckle - wrist) + 0.035 * palm
    return replace(toy, rest=(toy.rest @ axes.T + centre).astype(np.float32))


def _make_passer(rng: np.random.Generator, times_s: Doubles, bone: int) -> tuple[Mesh, Array]:
    """Return a simple figure that crosses the room behind the person, and its transforms (frames, 3, 4)."""
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


def _assemble_film(
    recipe: Recipe, number: int, style: str, schedule: Schedule, shot: Shot, effects: Effects, pose: Pose,
    skeleton: Skeleton, framing: Framing, rng: np.random.Generator,
) -> Film:  # fmt: skip
    """Aim the camera, project boxes and keypoints, and split the events into visible and hidden ones."""
    frames = len(shot)
    points = _compute_keypoints(pose, skeleton)
    outline, head = _sample_outline(shot, skeleton.anatomy)
    low, high = outline.min(axis=(0, 1)), outline.max(axis=(0, 1))
    middle = np.median(outline, axis=0)
    camera = aim_camera(
        framing,
        np.array([middle[:, 0].min(), low[1], 0.0]),
        np.array([middle[:, 0].max(), high[1], middle[:, 2].max()]),
        (recipe.height, recipe.width),
        SUPERSAMPLING,
    )
    cameras = np.tile(camera, (frames, 1))
    times_s = np.arange(frames) / recipe.fps
    for index in (raster.CENTRE_X, raster.CENTRE_Y):
        cameras[:, index] += (
            camera[raster.FOCAL] * framing.shake * (wander(rng, times_s, 0.9) + 0.4 * wander(rng, times_s, 0.2))
        )
    person_box = _bounding_boxes(_project(cameras, outline))
    head_box = _bounding_boxes(_project(cameras, head))
    if recipe.crop is not Crop.NONE:
        cameras = _crop_cameras(rng, cameras, person_box if recipe.crop is Crop.PERSON else head_box, recipe)
        person_box, head_box = (_bounding_boxes(_project(cameras, outline)), _bounding_boxes(_project(cameras, head)))
    keypoints = _project(cameras, points)
    covered = occlude(
        np.zeros((1, recipe.height, recipe.width, 3), np.uint8), effects, generator(recipe.seed, number, EFFECTS)
    )[1]
    keypoint_visible = _is_keypoint_visible(keypoints, covered)
    film = Film(
        number, get_person(number), get_subset(recipe, get_person(number)), style, recipe.fps, schedule, (), (),
        replace(shot, cameras=cameras), effects, keypoints, keypoint_visible, person_box, head_box,
    )  # fmt: skip
    shown = tuple(event for event in schedule.events if _is_event_visible(film, event))
    return replace(film, shown=shown, hidden=tuple(event for event in schedule.events if event not in shown))


def _is_event_visible(film: Film, event: Event) -> bool:
    """Return whether the body parts of an event are visible for MIN_VISIBLE_SHARE of its duration."""
    first, last = (
        min(int(event.start_s * film.fps), len(film.shot) - 1),
        max(int(np.ceil(event.end_s * film.fps)), int(event.start_s * film.fps) + 1),
    )
    visible = film.compute_part_visibility()[first:last]
    names = list(PARTS)
    needed = []
    for part in BY_CODE[event.code].visible_parts:
        if part in names:
            needed.append(visible[:, names.index(part)])
        else:  # a paired part: one of the event's sides is enough
            needed.append(np.any([visible[:, names.index(f"{part}.{side}")] for side in event.sides], axis=0))
    return bool(np.all(needed, axis=0).mean() >= MIN_VISIBLE_SHARE)


def _compute_keypoints(pose: Pose, skeleton: Skeleton) -> Array:
    """Return world positions (frames, KEYPOINTS, 3)."""
    anatomy = skeleton.anatomy
    return np.stack(
        [
            pose.position(bone) if point is None
            else pose.transform_point(anatomy.index[bone], skeleton.vertices[anatomy.nearest(point)].astype(float))
            for _, bone, point in KEYPOINTS
        ], 1,
    )  # fmt: skip


def _sample_outline(shot: Shot, anatomy: Anatomy) -> tuple[Array, Array]:
    """Return every ninth vertex of the person (frames, n, 3), and those of them on the head and hair."""
    mesh = shot.mesh
    own = np.unique(mesh.faces[mesh.parts != Part.PROP])[::9]
    result = np.zeros((len(shot), len(own), 3), np.float32)
    for frame in range(len(shot)):
        deform(mesh.rest[own], mesh.bones[own], mesh.weights[own], shot.transforms[frame], result[frame])
    template = anatomy.template[own]
    head = (template[:, 2] > 0.60) & (np.abs(template[:, 0]) < 0.13)
    return result, result[:, head]


def _project(cameras: Array, points: Array) -> Array:
    """Project world points (frames, n, 3) to pixels (frames, n, 2)."""
    rotation = cameras[:, raster.ROTATION : raster.ROTATION + 9].reshape(-1, 3, 3).astype(float)
    keypoint_visible = rotate(rotation[:, None], points - cameras[:, None, :3])
    depth = np.maximum(keypoint_visible[..., 2], 0.2)
    scale = cameras[:, None, raster.FOCAL] / depth
    x = cameras[:, None, raster.CENTRE_X] + scale * keypoint_visible[..., 0]
    y = cameras[:, None, raster.CENTRE_Y] + scale * keypoint_visible[..., 1]
    return np.stack([x, y], -1) / SUPERSAMPLING


def _bounding_boxes(points: Array) -> Array:
    return np.concatenate([points.min(axis=1), points.max(axis=1)], 1)


def _is_keypoint_visible(keypoints: Array, covered: Array) -> Array:
    """Return which keypoints are inside the frame and not behind an occluder."""
    height, width = covered.shape
    x, y = np.floor(keypoints[..., 0]).astype(int), np.floor(keypoints[..., 1]).astype(int)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    hidden = covered[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    return np.asarray(inside & ~hidden)


def _crop_cameras(rng: np.random.Generator, cameras: Array, boxes: Array, recipe: Recipe) -> Array:
    """Return cameras that show one fixed crop of the view, with the aspect ratio of the frame.

    A person crop covers the person in all frames. A head crop is centred on the head's median position and scaled by
    its median size: a bowing head may leave the frame, so that the crop's scale does not reveal the action.
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
    for index, centre, middle in ((raster.CENTRE_X, x, recipe.width / 2), (raster.CENTRE_Y, y, recipe.height / 2)):
        cropped[:, index] = ((cameras[:, index] / SUPERSAMPLING - centre) * scale + middle) * SUPERSAMPLING
    return cropped
