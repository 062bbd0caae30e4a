"""A person's joints: from channels and hand plans to where every bone is in every frame.

Angles in radians, lengths in metres; arrays run over frames first. Channels are those of actions.py; what is not
given is zero.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.people.body import Anatomy
from training.people.hand_targets import Place
from training.people.rotations import (
    X,
    Y,
    Z,
    about,
    apply,
    between,
    frame,
    turned,
    two_bones,
    unit,
)
from training.people.surface import Posed, Surface

Array = NDArray[Any]
SIDES = {"left": 1.0, "right": -1.0}
OTHER = {"left": "right", "right": "left"}
LETTER = {"left": "L", "right": "R"}
_SPINE = ("spine05", "spine04", "spine03", "spine02", "spine01")
_NECK = ("neck01", "neck02", "neck03", "head")


class Pose:
    """Rotations and positions of all bones while they are worked out, parents first.

    A bone without a rotation of its own follows its parent.
    """

    def __init__(self, anatomy: Anatomy, heads: Array, root: Array, turn: Array) -> None:
        self._anatomy, self._heads = anatomy, heads
        self._local: dict[int, Array] = {}
        self._rotations: dict[int, Array] = {0: turn}
        self._positions: dict[int, Array] = {0: root}

    def bend(self, bone: str, rotation: Array) -> None:
        """Turn a bone against its parent."""
        self._local[self._anatomy.index[bone]] = rotation

    def put(self, bone: str, rotation: Array) -> None:
        """Turn a bone against its rest in the world."""
        self._rotations[self._anatomy.index[bone]] = rotation

    def forget_arm(self, letter: str) -> None:
        """An arm is to be set anew."""
        for place, name in enumerate(self._anatomy.names):
            if name.endswith(f".{letter}") and name.startswith(
                ("upperarm", "lowerarm", "wrist", "finger", "metacarpal")
            ):
                self._rotations.pop(place, None)
                self._positions.pop(place, None)

    def rotation(self, bone: str | int) -> Array:
        """(frames, 3, 3)."""
        place = self._anatomy.index[bone] if isinstance(bone, str) else bone
        if place not in self._rotations:
            own = self.rotation(int(self._anatomy.parents[place]))
            self._rotations[place] = own @ self._local[place] if place in self._local else own
        return self._rotations[place]

    def position(self, bone: str | int) -> Array:
        """(frames, 3) of the bone's head."""
        place = self._anatomy.index[bone] if isinstance(bone, str) else bone
        if place not in self._positions:
            parent = int(self._anatomy.parents[place])
            way = self._heads[place] - self._heads[parent]
            self._positions[place] = self.position(parent) + apply(self.rotation(parent), way)
        return self._positions[place]

    def carried(self, bone: int, point: Array) -> Array:
        """Where a point of the rest body (3,) goes with a bone."""
        return self.position(bone) + apply(self.rotation(bone), point - self._heads[bone])

    def transforms(self) -> Array:
        """(frames, bones, 3, 4): rest to world."""
        count = len(self._anatomy.names)
        rotations = np.stack([self.rotation(bone) for bone in range(count)], 1)
        positions = np.stack([self.position(bone) for bone in range(count)], 1)
        shift = positions - apply(rotations, self._heads)
        return np.concatenate([rotations, shift[..., None]], -1)


class Skeleton:
    """One person's joints and reaches."""

    def __init__(self, anatomy: Anatomy, vertices: Array, heads: Array) -> None:
        """Args:
        anatomy: what people share.
        vertices, heads: the person at rest, clothes included (places lie on their surface).
        """  # fmt: skip
        self.anatomy, self.vertices, self.heads = anatomy, vertices, heads.astype(float)
        self.floor = float(vertices[:, 2].min())
        self.arm = self._length("upperarm01", "lowerarm01") + self._length("lowerarm01", "wrist")
        self.thigh = self._length("upperleg01", "lowerleg01")
        self.shank = self._length("lowerleg01", "foot")
        self.ankle = self.head_of("foot.L")[2] - self.floor
        self.seat = self.ankle + 0.97 * self.shank + 0.02  # height of the hips when seated
        self._radii = {bone: self._thickness(bone) for bone in ("upperleg01.L", "lowerleg01.L")}
        self._surface = Surface(anatomy, vertices)
        self._vertex: dict[tuple[str, tuple[float, ...], str], int] = {}

    def head_of(self, bone: str) -> Array:
        """A bone's head at rest (3,)."""
        return np.asarray(self.heads[self.anatomy.index[bone]])

    def _length(self, first: str, second: str) -> float:
        return float(np.linalg.norm(self.head_of(f"{first}.L") - self.head_of(f"{second}.L")))

    def _thickness(self, bone: str) -> float:
        """Typical distance of a limb's skin from its bone."""
        following = {"upperleg01.L": "lowerleg01.L", "lowerleg01.L": "foot.L"}[bone]
        start, end = self.head_of(bone), self.head_of(following)
        along = unit(end - start)
        mine = self.vertices[self.anatomy.bones[:, 0] == self.anatomy.index[bone]] - start
        share = mine @ along / np.linalg.norm(end - start)
        mine = mine[(share > 0.2) & (share < 0.9)]
        away = np.linalg.norm(mine - (mine @ along)[:, None] * along, axis=1)
        return float(np.median(away)) if len(away) else 0.07

    # -- trunk, head and legs

    def sit(self, channels: Mapping[str, Array], frames: int, yaw: Array | float = 0.0) -> Pose:
        """Everything but the arms: seated on a seat at height `seat`, in the middle of the world."""

        def channel(name: str) -> Array:
            return np.broadcast_to(np.asarray(channels.get(name, 0.0), float), (frames,))

        slump = channel("slump")
        # Who bows low does so from the hips too.
        bow = channel("torso_pitch")
        hips_bow = 0.45 * np.maximum(bow - 0.35, 0)
        turn = turned(-0.1 - 0.42 * slump + hips_bow, channel("pelvis_yaw") + yaw, channel("pelvis_roll"))
        # The root turns about the middle of the hips, which rest on the seat.
        hips = 0.5 * (self.head_of("upperleg01.L") + self.head_of("upperleg01.R")) - self.heads[0]
        rise = channel("rise")
        middle = np.stack([channel("lean_x"), channel("lean_y") - 0.7 * rise, self.seat + rise], -1)
        pose = Pose(self.anatomy, self.heads, middle - apply(turn, hips), turn)
        for bone in _SPINE:
            own = (bow - hips_bow + 0.06 + 1.1 * slump) / len(_SPINE)
            pose.bend(
                bone, turned(own, channel("torso_yaw") / len(_SPINE), channel("torso_roll") / len(_SPINE))
            )
        for bone in _NECK:
            own = (_limited(channel("head_pitch"), 0.95) - 0.55 * slump) / len(_NECK)
            yaw_share = _limited(channel("head_yaw"), 1.3) / len(_NECK)
            pose.bend(bone, turned(own, yaw_share, channel("head_roll") / len(_NECK)))
        for side, sign in SIDES.items():
            letter = LETTER[side]
            lift, forward = channel(f"lift.{side}"), channel(f"forward.{side}")
            pose.bend(f"clavicle.{letter}", about(Y, -sign * 0.5 * lift) @ about(Z, -sign * forward))
            pose.bend(f"shoulder01.{letter}", about(Y, -sign * 0.4 * lift))
        ways = {side: self._leg(pose, channel, side) for side in SIDES}
        for side in SIDES:
            self._place_leg(pose, channel, side, ways)
        return pose

    def surface(self, pose: Pose) -> Posed:
        """Skin and clothes of trunk, head and legs in this pose."""
        bones = self._surface.bones
        rotations = np.stack([pose.rotation(bone) for bone in bones], 1)
        positions = np.stack([pose.position(bone) for bone in bones], 1)
        return self._surface.posed(rotations, positions, self.heads[list(bones)])

    def _leg(self, pose: Pose, channel: Callable[[str], Array], side: str) -> tuple[Array, Array, Array]:
        """Flat foot's ankle, knee pole and foot yaw of a leg that is not crossed."""
        sign = SIDES[side]
        hip_x = abs(self.head_of(f"upperleg01.{LETTER[side]}")[0])
        x = sign * (hip_x + 0.02 + channel(f"foot_out.{side}"))
        y = -0.96 * self.thigh + channel(f"foot_back.{side}")
        ankle = np.stack([x, np.broadcast_to(y, x.shape), np.full(x.shape, self.ankle)], -1)
        out = 0.12 + np.clip(channel(f"knee_out.{side}"), -0.2, 1.05)
        pole = np.stack([sign * np.sin(out), -np.cos(out), np.full(x.shape, 0.35)], -1)
        return ankle, pole, sign * (0.25 + channel(f"toe_out.{side}") + 0.3 * channel(f"knee_out.{side}"))

    def _place_leg(
        self,
        pose: Pose,
        channel: Callable[[str], Array],
        side: str,
        ways: dict[str, tuple[Array, Array, Array]],
    ) -> None:
        """Feet on the floor, or one leg over the other."""
        letter, sign = LETTER[side], SIDES[side]
        ankle, pole, yaw = ways[side]
        hip = pose.position(f"upperleg01.{letter}")
        cross = np.clip(channel(f"cross.{side}"), 0, 1.05)
        over = np.clip(channel(f"ankle_cross.{side}"), 0, 1.1)
        under = np.clip(channel(f"ankle_cross.{OTHER[side]}"), 0, 1.1)
        # Ankles crossed: this foot beyond the middle and in front, the other one a little over it and behind.
        middle = 0.5 * (ways["left"][0][:, 1] + ways["right"][0][:, 1])
        ankle = _towards(ankle, -0.07 * sign, middle - 0.11, over)
        ankle = _towards(ankle, -0.045 * sign, middle, under)
        ankle = ankle + (0.05 * np.sin(np.pi * np.clip(over, 0, 1)))[:, None] * Z
        pole = pole + 0.35 * np.clip(over + under, 0, 1)[:, None] * np.array([sign, 0, 0])
        heel = channel(f"heel.{side}") * (1 - np.clip(cross, 0, 1)) + 0.2 * over
        ankle, foot = self._foot(ankle, yaw - sign * 0.3 * np.clip(over + under, 0, 1), heel, letter)
        # Crossed: the knee above the other one, the shank hanging across.
        knee_under, _ = two_bones(
            pose.position(f"upperleg01.{LETTER[OTHER[side]]}"),
            ways[OTHER[side]][0],
            self.thigh,
            self.shank,
            ways[OTHER[side]][1],
        )
        thick = self._radii["upperleg01.L"]
        knee = knee_under + np.array([sign * 0.045, -0.015, 1.75 * thick])
        knee = hip + self.thigh * unit(knee - hip)
        hang = unit(np.array([-sign * 0.36, -0.42, -0.9]))
        crossed_ankle = knee + self.shank * hang
        part = np.clip(cross, 0, 1)[:, None]
        arc = np.sin(np.pi * part) * np.array([0.0, -0.12, 0.26])
        target = ankle * (1 - part) + crossed_ankle * part + arc
        pole = pole * (1 - part) + unit(knee - 0.5 * (hip + crossed_ankle)) * part
        knee, target = two_bones(hip, target, self.thigh, self.shank, pole)
        self._set_leg(pose, letter, hip, knee, target, foot, heel, yaw, part[:, 0])

    def _foot(self, ankle: Array, yaw: Array, heel: Array, letter: str) -> tuple[Array, Array]:
        """Ankle and rotation of a foot whose ball (or heel, for negative angles) stays on the floor."""
        turn = about(Z, yaw)
        ball = self.head_of(f"toe3-1.{letter}") - self.head_of(f"foot.{letter}")
        rear = np.array([0.0, 0.045, -self.ankle])
        pivot = np.where((heel > 0)[:, None], ball * (1, 1, 0) + (0, 0, -self.ankle), rear)
        foot = turn @ about(X, heel)
        return ankle + apply(turn, pivot) - apply(foot, pivot), foot

    def _set_leg(
        self,
        pose: Pose,
        letter: str,
        hip: Array,
        knee: Array,
        ankle: Array,
        foot: Array,
        heel: Array,
        yaw: Array,
        crossed: Array,
    ) -> None:
        rest_thigh = self.head_of(f"lowerleg01.{letter}") - self.head_of(f"upperleg01.{letter}")
        rest_shank = self.head_of(f"foot.{letter}") - self.head_of(f"lowerleg01.{letter}")
        hinge = np.cross(knee - hip, ankle - knee)
        thigh = frame(knee - hip, hinge) @ frame(rest_thigh, X).T
        shank = frame(ankle - knee, hinge) @ frame(rest_shank, X).T
        for name, rotation in (
            ("upperleg01", thigh),
            ("upperleg02", thigh),
            ("lowerleg01", shank),
            ("lowerleg02", shank),
        ):
            pose.put(f"{name}.{letter}", rotation)
        hanging = shank @ about(X, np.full(len(hip), 0.35))
        foot = between(foot, hanging, crossed)
        pose.put(f"foot.{letter}", foot)
        toes = between(about(Z, yaw) @ about(X, np.minimum(heel, 0)), foot, crossed)
        for toe in range(1, 6):
            pose.put(f"toe{toe}-1.{letter}", toes)

    # -- hands

    def origin(self, pose: Pose, on: str) -> tuple[Array, Array]:
        """Position and rotation of what a place in the air belongs to."""
        if on == "chest":
            return pose.position("spine01"), pose.rotation("spine01")
        if on == "seat":
            return pose.position(0), pose.rotation(0)
        corners = [
            pose.position(f"{bone}.{letter}") for bone in ("upperleg01", "lowerleg01") for letter in "LR"
        ]
        forward = unit((corners[2] + corners[3] - corners[0] - corners[1]) * (1, 1, 0))
        return np.mean(corners, axis=0), frame(np.cross(-forward, Z), np.broadcast_to(Z, forward.shape))

    def on_skin(self, place: Place, side: str) -> tuple[int, Array]:
        """Bone and rest point of a place on the skin."""
        sign = SIDES[side]
        letter = LETTER[OTHER[side]] if place.on.endswith(".other") else LETTER[side]
        key = (place.on, place.point, side)
        if key not in self._vertex:
            outward = -sign if place.on.endswith(".other") else sign
            x, y, z = place.point
            self._vertex[key] = self.anatomy.nearest((outward * x, y, z))
        vertex = self._vertex[key]
        name = {"chest": "spine01"}.get(place.on, place.on.split(".")[0])
        if "." in place.on:
            name += f".{letter}"
        return self.anatomy.index[name], self.vertices[vertex].astype(float)

    def hand_axes(self, letter: str) -> tuple[Array, Array]:
        """Where fingers point and the palm looks, at rest."""
        fingers = unit(self.head_of(f"finger3-1.{letter}") - self.head_of(f"wrist.{letter}"))
        across = self.head_of(f"finger2-1.{letter}") - self.head_of(f"finger5-1.{letter}")
        palm = unit(np.cross(fingers, across))
        inward = np.array([-SIDES["left" if letter == "L" else "right"], 0, -1.0])
        return fingers, palm if palm @ inward > 0 else -palm


def _towards(points: Array, x: float, y: Array, share: Array) -> Array:
    """Points (frames, 3) moved level by a share of the way to x and y."""
    aims = np.stack([np.full(len(points), x), y, points[:, 2]], -1)
    return np.asarray(points + share[:, None] * (aims - points))


def _limited(angles: Array, most: float) -> Array:
    """Angles that come near a joint's limit without passing it; small ones stay as they are."""
    return np.asarray(most * np.tanh((angles / most) + (angles / most) ** 3 / 3))
