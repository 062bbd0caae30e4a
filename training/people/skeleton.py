"""Forward kinematics: from channels to the rotation and position of every bone in every frame.

Angles are in radians, lengths in metres; the first axis of arrays is frames. Channels are those of actions.py; missing
channels are zero.
"""

from collections.abc import Callable, Mapping

import numpy as np

from model.arrays import Array
from training.people.body import Anatomy
from training.people.hand_targets import HandTarget
from training.people.rotations import (
    X,
    Y,
    Z,
    axis_angle,
    make_basis,
    normalize,
    pitch_yaw_roll,
    rotate,
    slerp,
    two_bone_ik,
)
from training.people.surface import PosedSurface, Surface

SIDES = {"left": 1.0, "right": -1.0}
OTHER = {"left": "right", "right": "left"}
LETTER = {"left": "L", "right": "R"}
_SPINE = ("spine05", "spine04", "spine03", "spine02", "spine01")
_NECK = ("neck01", "neck02", "neck03", "head")


class Pose:
    """Rotations and positions of all bones, computed on demand from the root.

    A bone without a rotation of its own follows its parent.
    """

    def __init__(self, anatomy: Anatomy, heads: Array, root: Array, turn: Array) -> None:
        self._anatomy, self._heads = anatomy, heads
        self._local: dict[int, Array] = {}
        self._rotations: dict[int, Array] = {0: turn}
        self._positions: dict[int, Array] = {0: root}

    def set_local(self, bone: str, rotation: Array) -> None:
        """Set a bone's rotation relative to its parent."""
        self._local[self._anatomy.index[bone]] = rotation

    def set_world(self, bone: str, rotation: Array) -> None:
        """Set a bone's world rotation, relative to the rest pose."""
        self._rotations[self._anatomy.index[bone]] = rotation

    def reset_arm(self, letter: str) -> None:
        """Discard the rotations and positions of an arm."""
        for place, name in enumerate(self._anatomy.names):
            if name.endswith(f".{letter}") and name.startswith(
                ("upperarm", "lowerarm", "wrist", "finger", "metacarpal")
            ):
                self._rotations.pop(place, None)
                self._positions.pop(place, None)

    def rotation(self, bone: str | int) -> Array:
        """Return the world rotation (frames, 3, 3) of a bone."""
        place = self._anatomy.index[bone] if isinstance(bone, str) else bone
        if place not in self._rotations:
            own = self.rotation(int(self._anatomy.parents[place]))
            self._rotations[place] = own @ self._local[place] if place in self._local else own
        return self._rotations[place]

    def position(self, bone: str | int) -> Array:
        """Return the position (frames, 3) of a bone's head."""
        place = self._anatomy.index[bone] if isinstance(bone, str) else bone
        if place not in self._positions:
            parent = int(self._anatomy.parents[place])
            way = self._heads[place] - self._heads[parent]
            self._positions[place] = self.position(parent) + rotate(self.rotation(parent), way)
        return self._positions[place]

    def transform_point(self, bone: int, point: Array) -> Array:
        """Return the positions (frames, 3) of a rest-pose point (3,) that moves with a bone."""
        return self.position(bone) + rotate(self.rotation(bone), point - self._heads[bone])

    def transforms(self) -> Array:
        """Return the transforms (frames, bones, 3, 4) from the rest pose to the world."""
        count = len(self._anatomy.names)
        rotations = np.stack([self.rotation(bone) for bone in range(count)], 1)
        positions = np.stack([self.position(bone) for bone in range(count)], 1)
        shift = positions - rotate(rotations, self._heads)
        return np.concatenate([rotations, shift[..., None]], -1)


class Skeleton:
    """The skeleton of one person: proportions, seated poses and hand targets."""

    def __init__(self, anatomy: Anatomy, vertices: Array, heads: Array) -> None:
        """Args:
        anatomy: the body model.
        vertices: of the person in the rest pose, clothes included (hand targets lie on this surface).
        heads: of the bones in the rest pose.
        """  # fmt: skip
        self.anatomy, self.vertices, self.heads = anatomy, vertices, heads.astype(float)
        self.floor = float(vertices[:, 2].min())
        self.arm = self._length("upperarm01", "lowerarm01") + self._length("lowerarm01", "wrist")
        self.thigh = self._length("upperleg01", "lowerleg01")
        self.shank = self._length("lowerleg01", "foot")
        self.ankle = self.rest_head("foot.L")[2] - self.floor
        self.seat = self.ankle + 0.97 * self.shank + 0.02  # height of the hips when seated
        self._radii = {bone: self._thickness(bone) for bone in ("upperleg01.L", "lowerleg01.L")}
        self._surface = Surface(anatomy, vertices)
        self._vertex: dict[tuple[str, tuple[float, ...], str], int] = {}

    def rest_head(self, bone: str) -> Array:
        """Return a bone's head (3,) in the rest pose."""
        return np.asarray(self.heads[self.anatomy.index[bone]])

    def _length(self, first: str, second: str) -> float:
        return float(np.linalg.norm(self.rest_head(f"{first}.L") - self.rest_head(f"{second}.L")))

    def _thickness(self, bone: str) -> float:
        """Return the median distance of a limb's skin from its bone."""
        following = {"upperleg01.L": "lowerleg01.L", "lowerleg01.L": "foot.L"}[bone]
        start, end = self.rest_head(bone), self.rest_head(following)
        along = normalize(end - start)
        mine = self.vertices[self.anatomy.bones[:, 0] == self.anatomy.index[bone]] - start
        share = mine @ along / np.linalg.norm(end - start)
        mine = mine[(share > 0.2) & (share < 0.9)]
        away = np.linalg.norm(mine - (mine @ along)[:, None] * along, axis=1)
        return float(np.median(away)) if len(away) else 0.07

    # -- trunk, head and legs

    def sit(self, channels: Mapping[str, Array], frames: int, yaw: Array | float = 0.0) -> Pose:
        """Pose everything but the arms: seated at height `seat` at the origin of the world."""

        def channel(name: str) -> Array:
            return np.broadcast_to(np.asarray(channels.get(name, 0.0), float), (frames,))

        slump = channel("slump")
        # A low bow also bends the hips.
        bow = channel("torso_pitch")
        hips_bow = 0.45 * np.maximum(bow - 0.35, 0)
        turn = pitch_yaw_roll(-0.1 - 0.42 * slump + hips_bow, channel("pelvis_yaw") + yaw, channel("pelvis_roll"))
        # The root rotates about the centre of the hips, which rest on the seat.
        hips = 0.5 * (self.rest_head("upperleg01.L") + self.rest_head("upperleg01.R")) - self.heads[0]
        rise = channel("rise")
        middle = np.stack([channel("lean_x"), channel("lean_y") - 0.7 * rise, self.seat + rise], -1)
        pose = Pose(self.anatomy, self.heads, middle - rotate(turn, hips), turn)
        for bone in _SPINE:
            own = (bow - hips_bow + 0.06 + 1.1 * slump) / len(_SPINE)
            pose.set_local(
                bone, pitch_yaw_roll(own, channel("torso_yaw") / len(_SPINE), channel("torso_roll") / len(_SPINE))
            )
        for bone in _NECK:
            own = (_soft_limit(channel("head_pitch"), 0.95) - 0.55 * slump) / len(_NECK)
            yaw_share = _soft_limit(channel("head_yaw"), 1.3) / len(_NECK)
            pose.set_local(bone, pitch_yaw_roll(own, yaw_share, channel("head_roll") / len(_NECK)))
        for side, sign in SIDES.items():
            letter = LETTER[side]
            lift, forward = channel(f"lift.{side}"), channel(f"forward.{side}")
            pose.set_local(f"clavicle.{letter}", axis_angle(Y, -sign * 0.5 * lift) @ axis_angle(Z, -sign * forward))
            pose.set_local(f"shoulder01.{letter}", axis_angle(Y, -sign * 0.4 * lift))
        ways = {side: self._plan_leg(pose, channel, side) for side in SIDES}
        for side in SIDES:
            self._place_leg(pose, channel, side, ways)
        return pose

    def surface(self, pose: Pose) -> PosedSurface:
        """Return the collision surface of trunk, head and legs in a pose."""
        bones = self._surface.bones
        rotations = np.stack([pose.rotation(bone) for bone in bones], 1)
        positions = np.stack([pose.position(bone) for bone in bones], 1)
        return self._surface.pose(rotations, positions, self.heads[list(bones)])

    def _plan_leg(self, pose: Pose, channel: Callable[[str], Array], side: str) -> tuple[Array, Array, Array]:
        """Return ankle (foot flat), knee pole and foot yaw of a leg that is not crossed."""
        sign = SIDES[side]
        hip_x = abs(self.rest_head(f"upperleg01.{LETTER[side]}")[0])
        x = sign * (hip_x + 0.02 + channel(f"foot_out.{side}"))
        y = -0.96 * self.thigh + channel(f"foot_back.{side}")
        ankle = np.stack([x, np.broadcast_to(y, x.shape), np.full(x.shape, self.ankle)], -1)
        out = 0.12 + np.clip(channel(f"knee_out.{side}"), -0.2, 1.05)
        pole = np.stack([sign * np.sin(out), -np.cos(out), np.full(x.shape, 0.35)], -1)
        return ankle, pole, sign * (0.25 + channel(f"toe_out.{side}") + 0.3 * channel(f"knee_out.{side}"))

    def _place_leg(
        self, pose: Pose, channel: Callable[[str], Array], side: str, ways: dict[str, tuple[Array, Array, Array]]
    ) -> None:
        """Pose a leg: foot on the floor, ankles crossed, or crossed over the other leg."""
        letter, sign = LETTER[side], SIDES[side]
        ankle, pole, yaw = ways[side]
        hip = pose.position(f"upperleg01.{letter}")
        cross = np.clip(channel(f"cross.{side}"), 0, 1.05)
        over = np.clip(channel(f"ankle_cross.{side}"), 0, 1.1)
        under = np.clip(channel(f"ankle_cross.{OTHER[side]}"), 0, 1.1)
        # Crossed ankles: this foot in front and past the midline, the other one behind and slightly past it.
        middle = 0.5 * (ways["left"][0][:, 1] + ways["right"][0][:, 1])
        ankle = _shift_towards(ankle, -0.07 * sign, middle - 0.11, over)
        ankle = _shift_towards(ankle, -0.045 * sign, middle, under)
        ankle = ankle + (0.05 * np.sin(np.pi * np.clip(over, 0, 1)))[:, None] * Z
        pole = pole + 0.35 * np.clip(over + under, 0, 1)[:, None] * np.array([sign, 0, 0])
        heel = channel(f"heel.{side}") * (1 - np.clip(cross, 0, 1)) + 0.2 * over
        ankle, foot = self._foot(ankle, yaw - sign * 0.3 * np.clip(over + under, 0, 1), heel, letter)
        # Crossed legs: the knee above the other one, the shank hanging across it.
        knee_under, _ = two_bone_ik(
            pose.position(f"upperleg01.{LETTER[OTHER[side]]}"),
            ways[OTHER[side]][0],
            self.thigh,
            self.shank,
            ways[OTHER[side]][1],
        )
        thick = self._radii["upperleg01.L"]
        knee = knee_under + np.array([sign * 0.045, -0.015, 1.75 * thick])
        knee = hip + self.thigh * normalize(knee - hip)
        hang = normalize(np.array([-sign * 0.36, -0.42, -0.9]))
        crossed_ankle = knee + self.shank * hang
        part = np.clip(cross, 0, 1)[:, None]
        arc = np.sin(np.pi * part) * np.array([0.0, -0.12, 0.26])
        target = ankle * (1 - part) + crossed_ankle * part + arc
        pole = pole * (1 - part) + normalize(knee - 0.5 * (hip + crossed_ankle)) * part
        knee, target = two_bone_ik(hip, target, self.thigh, self.shank, pole)
        self._set_leg(pose, letter, hip, knee, target, foot, heel, yaw, part[:, 0])

    def _foot(self, ankle: Array, yaw: Array, heel: Array, letter: str) -> tuple[Array, Array]:
        """Return ankle and rotation of a foot raised about its ball, or about its heel for negative angles."""
        turn = axis_angle(Z, yaw)
        ball = self.rest_head(f"toe3-1.{letter}") - self.rest_head(f"foot.{letter}")
        rear = np.array([0.0, 0.045, -self.ankle])
        pivot = np.where((heel > 0)[:, None], ball * (1, 1, 0) + (0, 0, -self.ankle), rear)
        foot = turn @ axis_angle(X, heel)
        return ankle + rotate(turn, pivot) - rotate(foot, pivot), foot

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
        rest_thigh = self.rest_head(f"lowerleg01.{letter}") - self.rest_head(f"upperleg01.{letter}")
        rest_shank = self.rest_head(f"foot.{letter}") - self.rest_head(f"lowerleg01.{letter}")
        hinge = np.cross(knee - hip, ankle - knee)
        thigh = make_basis(knee - hip, hinge) @ make_basis(rest_thigh, X).T
        shank = make_basis(ankle - knee, hinge) @ make_basis(rest_shank, X).T
        for name, rotation in (
            ("upperleg01", thigh),
            ("upperleg02", thigh),
            ("lowerleg01", shank),
            ("lowerleg02", shank),
        ):
            pose.set_world(f"{name}.{letter}", rotation)
        hanging = shank @ axis_angle(X, np.full(len(hip), 0.35))
        foot = slerp(foot, hanging, crossed)
        pose.set_world(f"foot.{letter}", foot)
        toes = slerp(axis_angle(Z, yaw) @ axis_angle(X, np.minimum(heel, 0)), foot, crossed)
        for toe in range(1, 6):
            pose.set_world(f"toe{toe}-1.{letter}", toes)

    # -- hands

    def origin(self, pose: Pose, on: str) -> tuple[Array, Array]:
        """Return position and rotation of the parent of an in-air target: chest, seat or lap."""
        if on == "chest":
            return pose.position("spine01"), pose.rotation("spine01")
        if on == "seat":
            return pose.position(0), pose.rotation(0)
        corners = [pose.position(f"{bone}.{letter}") for bone in ("upperleg01", "lowerleg01") for letter in "LR"]
        forward = normalize((corners[2] + corners[3] - corners[0] - corners[1]) * (1, 1, 0))
        return np.mean(corners, axis=0), make_basis(np.cross(-forward, Z), np.broadcast_to(Z, forward.shape))

    def find_skin_point(self, target: HandTarget, side: str) -> tuple[int, Array]:
        """Return the bone and the rest-pose point of a target on the skin."""
        sign = SIDES[side]
        letter = LETTER[OTHER[side]] if target.parent.endswith(".other") else LETTER[side]
        key = (target.parent, target.point, side)
        if key not in self._vertex:
            outward = -sign if target.parent.endswith(".other") else sign
            x, y, z = target.point
            self._vertex[key] = self.anatomy.nearest((outward * x, y, z))
        vertex = self._vertex[key]
        name = {"chest": "spine01"}.get(target.parent, target.parent.split(".")[0])
        if "." in target.parent:
            name += f".{letter}"
        return self.anatomy.index[name], self.vertices[vertex].astype(float)

    def hand_axes(self, letter: str) -> tuple[Array, Array]:
        """Return the directions in which fingers point and the palm faces, in the rest pose."""
        fingers = normalize(self.rest_head(f"finger3-1.{letter}") - self.rest_head(f"wrist.{letter}"))
        across = self.rest_head(f"finger2-1.{letter}") - self.rest_head(f"finger5-1.{letter}")
        palm = normalize(np.cross(fingers, across))
        inward = np.array([-SIDES["left" if letter == "L" else "right"], 0, -1.0])
        return fingers, palm if palm @ inward > 0 else -palm


def _shift_towards(points: Array, x: float, y: Array, share: Array) -> Array:
    """Move points (frames, 3) horizontally towards x and y by a share of the distance."""
    aims = np.stack([np.full(len(points), x), y, points[:, 2]], -1)
    return np.asarray(points + share[:, None] * (aims - points))


def _soft_limit(angles: Array, most: float) -> Array:
    """Limit angles smoothly to the range of a joint; small angles are nearly unchanged."""
    return np.asarray(most * np.tanh((angles / most) + (angles / most) ** 3 / 3))
