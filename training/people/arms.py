"""Inverse kinematics of arms: from desired hand poses to bone rotations, without penetrating the body.

Angles in radians, lengths in metres; arrays run over frames first.
"""

from dataclasses import dataclass

import numpy as np

from model.arrays import Array
from training.people.hand_targets import Contact, HandTarget
from training.people.rotations import (
    axis_angle,
    invert,
    limit_rate,
    make_basis,
    normalize,
    rotate,
    rotation_between,
    slerp,
    slerp_one_way,
    two_bone_ik,
)
from training.people.skeleton import LETTER, SIDES, Pose, Skeleton
from training.people.surface import PosedSurface

ARM = 0.456  # metres from shoulder to wrist on the standard body; in-air targets scale with the arm's length
# Bend of a finger's joints in radians: coefficients of curl and of curl squared.
_BENDS = ((0.95, 0.6), (1.35, 0.4), (0.8, 0.4))
# Joint limits in radians: wrist flexion, wrist deviation, forearm rotation; beyond _HALF_TURN the rotation fades to 0.
_FLEXION, _DEVIATION, _TURN, _HALF_TURN = 1.2, 0.5, 1.75, 2.5
# Collision spheres of an arm: position on the forearm (0 elbow, 1 wrist) or, if negative, on the upper arm; radius.
_ALONG_ARM = ((-0.35, 0.045), (0.0, 0.045), (0.35, 0.042), (0.7, 0.034))
_FOREARM_RADIUS = 0.036
_SLACK = 0.035  # the hand moves along only if its forearm is pushed by more than this
_TIP, _LEVER = (-0.004, 0.2)  # minimum distance of a fingertip from the body; travel of the tip per unit of curl
_MIN_REACH = 0.15  # minimum distance of the wrist from the shoulder, for a standard arm
_ITERATIONS = 4  # of pushing hand and elbow out of the body
_CLOSE_SHARE = 0.65  # share by which the fingers' spread in the rest pose is reduced
_MAX_LAY_FLAT = 0.7  # maximum rotation of a hand to lie flat on the body
# The elbow's swivel is its angle about the line from shoulder to wrist. It is 0 along _HANGING (out and down) when the
# left arm points along _FORWARD; the smallest rotation of the chest's axes carries this reference to other directions.
_FORWARD, _HANGING = np.array([0.3, -0.9, 0.3]), np.array([1.0, 0.2, -0.9])
_SWIVEL_LIMITS = (-1.4, 1.75)  # inward and up, outward and up
_MIN_POLE_SHARE = 0.15  # a pole whose part perpendicular to that line is smaller does not define the swivel
# Collision corrections can jump between frames. Rate limits, per second:
_SWIVEL_RATE, _TURN_RATE, _BEND_RATE, _SHIFT_RATE = 9.0, 8.5, 9.0, 1.4  # radians; the last one in metres


@dataclass
class WristPose:
    """Desired pose of a hand.

    Attributes:
        position: (frames, 3) of the wrist.
        rotation: (frames, 3, 3) of the hand, relative to the rest pose.
        elbow: (frames, 3) direction of the elbow.
        curl: (frames, 5) of thumb to little finger, 0 to 1.
        contact: (frames, 3) rest-pose offset from the wrist to the contact point, which stays at the target if joint
            limits change the rotation.
    """

    position: Array
    rotation: Array
    elbow: Array
    curl: Array
    contact: Array

    def blend(self, other: "WristPose", share: Array) -> "WristPose":
        """Interpolate towards another pose; `share` (frames,) is 0 here and 1 at the other."""
        part = share[:, None]
        return WristPose(
            self.position * (1 - part) + other.position * part,
            slerp_one_way(self.rotation, other.rotation, share),
            self.elbow * (1 - part) + other.elbow * part,
            self.curl * (1 - part) + other.curl * part,
            self.contact * (1 - part) + other.contact * part,
        )


@dataclass
class ArmPose:
    """Joint positions (frames, 3) and rotations (frames, 3, 3) of an arm.

    `wrist_shift` (frames, 3) moves the wrist so that the forearm leaves the body.
    """

    shoulder: Array
    elbow: Array
    wrist: Array
    upper_rotation: Array
    lower_rotation: Array
    wrist_shift: Array


class Arms:
    """Poses both arms of a person whose trunk, head and legs are already posed."""

    def __init__(self, skeleton: Skeleton, pose: Pose, fps: float = 15.0) -> None:
        self.skeleton, self.pose, self.frame_s = skeleton, pose, 1 / fps
        self._body: PosedSurface = skeleton.surface(pose)
        # Elbows hang down and follow a bowing chest only by a quarter.
        self._upright = slerp(pose.rotation(0), pose.rotation("spine01"), np.full(len(pose.position(0)), 0.25))

    def reach(
        self, target: HandTarget, side: str, curl: Array, *, on_top: bool = False,
        shift: Array | None = None, tilt: Array | None = None,
    ) -> WristPose:  # fmt: skip
        """Compute the hand pose that reaches a target.

        Args:
            target: its parent must already be posed.
            side: of the hand.
            curl: (frames, 5).
            on_top: this is the upper of two hands at the target.
            shift: (frames, 3) offset along the fingers, across them (outward) and out of the palm, metres.
            tilt: (frames, 3) rotations about the fingers, the axis across them, and the palm's normal.
        """
        skeleton, pose, sign = self.skeleton, self.pose, SIDES[side]
        mirror = np.array([sign, 1, 1])
        fingers, palm = skeleton.hand_axes(LETTER[side])
        orientation = (
            make_basis(np.array(target.fingers) * mirror, np.array(target.palm) * mirror) @ make_basis(fingers, palm).T
        )
        second = np.array(target.second_offset) * mirror if on_top else np.zeros(3)
        if target.in_air:
            origin, turn = skeleton.origin(pose, target.parent)
            position = origin + rotate(turn, (np.array(target.point) * mirror + second) * skeleton.arm / ARM)
        else:
            bone, rest = skeleton.find_skin_point(target, side)
            # Forearms rotate a lot, so a hand on the other arm is oriented like the chest.
            turn = pose.rotation("spine01" if target.parent.endswith("arm01.other") else bone)
            position = pose.transform_point(bone, rest) + rotate(turn, second)
        rotation = turn @ orientation
        if target.contact is Contact.PALM and not target.in_air:
            rotation = self._lay_palm_flat(rotation, palm, position)
        across = np.cross(palm, fingers)
        across = across if across[0] * sign > 0 else -across
        if tilt is not None:
            # Under mirroring, rotations about axes in the mirror plane change their sign.
            for axis, angle in ((fingers, sign * tilt[:, 0]), (across, tilt[:, 1]), (palm, sign * tilt[:, 2])):
                rotation = rotation @ axis_angle(axis, angle)
        if shift is not None:
            axes = np.stack([fingers, across, palm])
            position = position + rotate(rotation, shift @ axes)
        contact = self._contact_offset(target.contact, LETTER[side], curl) + target.pad * palm
        elbow = rotate(self._upright, np.array(target.elbow) * mirror)
        return WristPose(position - rotate(rotation, contact), rotation, elbow, curl, contact)

    def _contact_offset(self, contact: Contact, letter: str, curl: Array) -> Array:
        """Return the rest-pose offset (frames, 3) from the wrist to the contact point, with curled fingers."""
        _, palm = self.skeleton.hand_axes(letter)
        if contact is Contact.WRIST:
            return np.zeros((len(curl), 3))
        if contact in (Contact.PALM, Contact.BACK):
            knuckle = self.skeleton.rest_head(f"finger3-1.{letter}") - self.skeleton.rest_head(f"wrist.{letter}")
            side = 0.02 if contact is Contact.PALM else -0.02
            return np.broadcast_to(0.75 * knuckle + side * palm, (len(curl), 3))
        if contact is Contact.TIP:
            return np.asarray(self._finger_joints(letter, 2, curl)[3] + 0.009 * palm)
        _, _, last, tip = self._finger_joints(letter, 3, curl)
        return np.asarray(0.4 * last + 0.6 * tip + 0.009 * palm)

    def _lay_palm_flat(self, rotation: Array, palm: Array, target: Array) -> Array:
        """Rotate a hand (frames, 3, 3) so that its palm lies flat on the body at the target (frames, 3)."""
        _, outward = self._body.signed_distance(target[:, None])
        normal = rotate(rotation, palm)
        axis = np.cross(normal, -outward[:, 0])
        angle = np.arctan2(np.linalg.norm(axis, axis=-1), -(normal * outward[:, 0]).sum(-1))
        return np.asarray(axis_angle(axis + 1e-9, np.clip(angle, 0, _MAX_LAY_FLAT)) @ rotation)

    def _finger_joints(self, letter: str, finger: int, curl: Array) -> list[Array]:
        """Return rest-pose offsets from the wrist to a curled finger's three joints and tip, each (frames, 3)."""
        rest_head = self.skeleton.rest_head
        fingers, palm = self.skeleton.hand_axes(letter)
        joints = [rest_head(f"finger{finger}-{joint}.{letter}") for joint in (1, 2, 3)]
        phalanges = [joints[1] - joints[0], joints[2] - joints[1], 1.1 * (joints[2] - joints[1])]
        axis, closed = np.cross(fingers, palm), self._close_spread(letter, finger)
        bend = np.zeros(len(curl))
        offsets = [np.broadcast_to(joints[0] - rest_head(f"wrist.{letter}"), (len(curl), 3))]
        for bone, (little, fist) in zip(phalanges, _BENDS, strict=True):
            bend = bend + curl[:, finger - 1] * (little + fist * curl[:, finger - 1])
            offsets.append(offsets[-1] + rotate(axis_angle(axis, bend) @ closed, bone))
        return offsets

    def pose_arm(self, side: str, wrist: WristPose, over: str | None = None) -> None:
        """Set the bone rotations of an arm for a hand pose, corrected for collisions, joint limits and rate limits.

        Args:
            side: of the arm.
            wrist: desired pose of the hand.
            over: side of an arm that is already posed and must not be penetrated.
        """
        pose, letter = self.pose, LETTER[side]
        pose.reset_arm(letter)
        rotation, pole, shift = wrist.rotation, wrist.elbow, np.zeros_like(wrist.position)
        parts = self._hand_parts(letter, wrist.curl)
        for _ in range(_ITERATIONS):
            held = rotate(wrist.rotation, wrist.contact) - rotate(rotation, wrist.contact)
            shift = shift + self.unfold(side, wrist.position + held + shift, _MIN_REACH)
            shift = shift + self._push_hand_out(wrist.position + held + shift, rotation, parts, over)
            target = wrist.position + limit_rate(held + shift, _SHIFT_RATE * self.frame_s)
            shift = target - wrist.position - held
            arm = self._solve_arm(letter, target, pole, over)
            shift = shift + arm.wrist_shift
            pole = arm.elbow - 0.5 * (arm.shoulder + arm.wrist)
            rotation = self._limit_wrist(letter, wrist.rotation, arm)
        for name, turn in (
            ("upperarm01", arm.upper_rotation),
            ("upperarm02", arm.upper_rotation),
            ("lowerarm01", arm.lower_rotation),
        ):
            pose.set_world(f"{name}.{letter}", turn)
        # The forearm's second half follows about half of the hand's twist, like radius and ulna.
        along = arm.wrist - arm.elbow
        turn, _ = _split_twist_swing(rotation @ invert(arm.lower_rotation), along)
        pose.set_world(f"lowerarm02.{letter}", axis_angle(along, 0.55 * turn) @ arm.lower_rotation)
        pose.set_world(f"wrist.{letter}", rotation)
        self._set_fingers(letter, rotation, self._straighten_fingers(letter, arm.wrist, rotation, wrist.curl))

    def unfold(self, side: str, position: Array, least: float) -> Array:
        """Return the shift (frames, 3) that moves a wrist `least` metres (on a standard arm) away from its shoulder."""
        outward = np.array([SIDES[side], -0.6, 0.0])
        away = position - self.pose.position(f"upperarm01.{LETTER[side]}")
        away = away + 0.06 * rotate(self.pose.rotation("spine01"), outward)
        distance = np.linalg.norm(away, axis=-1)
        missing = np.maximum(least * self.skeleton.arm / ARM - distance, 0)
        return np.asarray((missing / np.maximum(distance, 0.01))[:, None] * away)

    def _hand_parts(self, letter: str, curl: Array) -> tuple[Array, Array]:
        """Return the collision spheres of a hand: rest-pose offsets (frames, q, 3) from the wrist and radii (q,)."""
        index, middle, little = (self._finger_joints(letter, finger, curl) for finger in (2, 3, 5))
        points = [np.zeros_like(middle[0]), index[0], little[0], middle[1]]
        return np.stack(points, 1), np.array([0.022, 0.015, 0.014, 0.009])

    def _straighten_fingers(self, letter: str, position: Array, rotation: Array, curl: Array) -> Array:
        """Return the curl (frames, 5), reduced where fingertips would penetrate the body."""
        tips = np.stack([self._finger_joints(letter, finger, curl)[3] for finger in (2, 3, 4, 5)], 1)
        distance, _ = self._body.signed_distance(position[:, None] + (rotation[:, None] @ tips[..., None])[..., 0])
        depth = np.maximum(_TIP - distance, 0) * (distance > -0.06)
        conforming = curl.copy()
        conforming[:, 1:] = np.maximum(curl[:, 1:] - depth / _LEVER, np.minimum(curl[:, 1:], -0.1))
        return conforming

    def _push_hand_out(self, target: Array, rotation: Array, parts: tuple[Array, Array], over: str | None) -> Array:
        """Return the shift (frames, 3) that moves a hand out of the body."""
        offsets, radii = parts
        points = target[:, None] + (rotation[:, None] @ offsets[..., None])[..., 0]
        pushes = self._body.push_out(points, radii)
        if over is not None:
            pushes[:, :3] += self._push_out_of_arm(points[:, :3], radii[:3], over)
        # Weighted by depth.
        sizes = np.linalg.norm(pushes, axis=-1, keepdims=True) + 1e-9
        return np.asarray((pushes * sizes).sum(1) / sizes.sum(1))

    def _solve_arm(self, letter: str, target: Array, pole: Array, over: str | None) -> ArmPose:
        """Solve an arm with the wrist at a target and the elbow towards the pole, swivelled out of the body."""
        rest_head = self.skeleton.rest_head
        rest_upper = rest_head(f"lowerarm01.{letter}") - rest_head(f"upperarm01.{letter}")
        rest_lower = rest_head(f"wrist.{letter}") - rest_head(f"lowerarm01.{letter}")
        upper, lower = float(np.linalg.norm(rest_upper)), float(np.linalg.norm(rest_lower))
        shoulder = self.pose.position(f"upperarm01.{letter}")
        radii = np.array([radius for _, radius in _ALONG_ARM]) * self.skeleton.arm / ARM
        swivels = self._swivel_axes(letter, normalize(target - shoulder))
        elbow, hand = two_bone_ik(shoulder, target, upper, lower, self._limit_swivel(swivels, pole))
        ends = [(shoulder, 1 + share) if share < 0 else (hand, 1 - share) for share, _ in _ALONG_ARM]
        points = np.stack([end + part * (elbow - end) for end, part in ends], 1)
        pushes = self._body.push_out(points, radii)
        if over is not None:
            pushes += self._push_out_of_arm(points, 0.8 * radii, over)
        moved = sum(1.5 * part * pushes[:, place] for place, (_, part) in enumerate(ends))
        pole = self._limit_swivel(swivels, elbow + moved - 0.5 * (shoulder + hand))
        elbow, hand = two_bone_ik(shoulder, target, upper, lower, pole)
        hinge, hinge_rest = np.cross(elbow - shoulder, hand - elbow), np.cross(rest_upper, rest_lower)
        return ArmPose(
            shoulder, elbow, hand,
            make_basis(elbow - shoulder, hinge) @ make_basis(rest_upper, hinge_rest).T,
            make_basis(hand - elbow, hinge) @ make_basis(rest_lower, hinge_rest).T,
            pushes[:, -1] * (1 - _SLACK / np.maximum(np.linalg.norm(pushes[:, -1:], axis=-1), _SLACK)),
        )  # fmt: skip

    def _swivel_axes(self, letter: str, along: Array) -> Array:
        """Return the elbow directions (frames, 2, 3) at swivel 0 and at a quarter turn outward.

        Args:
            letter: side of the arm.
            along: (frames, 3) unit vectors from the shoulder to the wrist.
        """
        mirror = np.array([1.0 if letter == "L" else -1.0, 1, 1])
        chest = self.pose.rotation("spine01")
        ahead, hanging = make_basis(_FORWARD, np.cross(_FORWARD, _HANGING))[:, :2].T
        basis = np.stack([hanging, np.cross(ahead, hanging)])
        turn = rotation_between(ahead, rotate(invert(chest), along) * mirror)
        return np.asarray(np.swapaxes(chest @ (mirror[:, None] * (turn @ basis.T)), -1, -2))

    def _limit_swivel(self, swivels: Array, pole: Array) -> Array:
        """Return elbow directions (frames, 3) towards a pole, within the swivel's range and rate limit."""
        parts = (swivels @ pole[..., None])[..., 0]
        size = np.linalg.norm(pole, axis=-1) * _MIN_POLE_SHARE
        swivel = np.arctan2(parts[:, 1], parts[:, 0] + np.maximum(size - np.hypot(*parts.T), 0))
        swivel = limit_rate(np.clip(swivel, *_SWIVEL_LIMITS), _SWIVEL_RATE * self.frame_s)
        return np.asarray(np.cos(swivel)[:, None] * swivels[:, 0] + np.sin(swivel)[:, None] * swivels[:, 1])

    def _push_out_of_arm(self, points: Array, radii: Array, side: str) -> Array:
        """Return shifts (frames, q, 3) that move spheres out of an already posed forearm."""
        start, end = (self.pose.position(f"{bone}.{LETTER[side]}")[:, None] for bone in ("lowerarm01", "wrist"))
        way = end - start
        share = ((points - start) * way).sum(-1, keepdims=True) / (way * way).sum(-1, keepdims=True)
        away = points - (start + np.clip(share, 0, 1) * way)
        distance = np.linalg.norm(away, axis=-1, keepdims=True)
        return np.asarray(
            np.maximum(radii[:, None] + _FOREARM_RADIUS - distance, 0) * away / np.maximum(distance, 1e-6)
        )

    def _limit_wrist(self, letter: str, wanted: Array, arm: ArmPose) -> Array:
        """Clamp a hand's rotation to the joint limits and rate limits of forearm and wrist."""
        along = normalize(arm.wrist - arm.elbow)
        turn, bend = _split_twist_swing(wanted @ invert(arm.lower_rotation), along)
        # Near a half turn both directions are equal: fade the rotation to 0 to avoid jumps.
        turn = np.clip(turn, -_TURN, _TURN) * np.minimum((np.pi - np.abs(turn)) / (np.pi - _HALF_TURN), 1)
        forearm = axis_angle(along, turn) @ arm.lower_rotation
        fingers, palm = self.skeleton.hand_axes(letter)
        flexion = (bend * rotate(forearm, np.cross(fingers, palm))).sum(-1)
        deviation = (bend * rotate(forearm, palm)).sum(-1)
        excess = np.maximum(np.hypot(flexion / _FLEXION, deviation / _DEVIATION), 1)
        turn = limit_rate(turn, _TURN_RATE * self.frame_s)
        flexion, deviation = (
            limit_rate(angle / excess, _BEND_RATE * self.frame_s)[:, None] for angle in (flexion, deviation)
        )
        forearm = axis_angle(along, turn) @ arm.lower_rotation
        bend = flexion * rotate(forearm, np.cross(fingers, palm)) + deviation * rotate(forearm, palm)
        return np.asarray(axis_angle(bend + 1e-9, np.linalg.norm(bend, axis=-1)) @ forearm)

    def _set_fingers(self, letter: str, rotation: Array, curl: Array) -> None:
        fingers, palm = self.skeleton.hand_axes(letter)
        axis = np.cross(fingers, palm)
        for finger in range(2, 6):
            closed = self._close_spread(letter, finger)
            bend = np.zeros(len(curl))
            for joint, (little, fist) in enumerate(_BENDS, 1):
                bend = bend + curl[:, finger - 1] * (little + fist * curl[:, finger - 1])
                self.pose.set_world(f"finger{finger}-{joint}.{letter}", rotation @ axis_angle(axis, bend) @ closed)
        # The thumb moves in front of the palm, then bends over the fingers.
        rest_head = self.skeleton.rest_head
        over = rest_head(f"finger5-1.{letter}") - rest_head(f"finger2-1.{letter}")
        length = rest_head(f"finger1-3.{letter}") - rest_head(f"finger1-2.{letter}")
        round_palm = axis_angle(np.cross(-over, palm), 0.9 * curl[:, 0])
        for joint, most in ((1, 0.0), (2, 0.6), (3, 1.3)):
            bend = axis_angle(np.cross(length, over), most * curl[:, 0])
            self.pose.set_world(f"finger1-{joint}.{letter}", rotation @ round_palm @ bend)

    def _close_spread(self, letter: str, finger: int) -> Array:
        """Return the rotation that reduces the spread of a finger in the rest pose."""
        fingers, palm = self.skeleton.hand_axes(letter)
        bone = self.skeleton.rest_head(f"finger{finger}-2.{letter}") - self.skeleton.rest_head(
            f"finger{finger}-1.{letter}"
        )
        spread = np.arctan2(np.cross(fingers, bone) @ palm, fingers @ bone)
        return axis_angle(palm, -_CLOSE_SHARE * spread)


def _split_twist_swing(rotation: Array, axis: Array) -> tuple[Array, Array]:
    """Decompose rotations into a twist (frames,) about an axis and a swing (axis times angle, perpendicular)."""
    axis = normalize(axis)
    moved = rotate(rotation, axis)
    square = np.cross(axis, moved)
    sin = np.linalg.norm(square, axis=-1)
    bend = normalize(square) * np.arctan2(sin, (axis * moved).sum(-1))[:, None]
    turn = invert(axis_angle(square + 1e-9, np.linalg.norm(bend, axis=-1))) @ rotation
    skew = np.stack([turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]], -1)
    return np.arctan2((skew * axis).sum(-1) / 2, (np.trace(turn, axis1=-2, axis2=-1) - 1) / 2), bend
