"""Arms: from where a hand should be to the bones of shoulder, elbow, wrist and fingers, clear of the body.

Angles in radians, lengths in metres; arrays run over frames first.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.people.hand_targets import Contact, Place
from training.people.rotations import (
    about,
    apply,
    between,
    frame,
    onto,
    passing,
    steadied,
    transposed,
    two_bones,
    unit,
)
from training.people.skeleton import LETTER, SIDES, Pose, Skeleton
from training.people.surface import Posed

Array = NDArray[Any]

ARM = 0.456  # shoulder to wrist of the standard body: places in the air are meant for it
# How far the joints of a finger bend: at a small curl, and what a fist adds.
_BENDS = ((0.95, 0.6), (1.35, 0.4), (0.8, 0.4))
# How far a wrist bends, at most, palmwards or back, and towards thumb or little finger; how far a forearm turns.
_FLEXION, _DEVIATION, _TURN, _HALF_TURN = 1.2, 0.5, 1.75, 2.5
# What is kept out of the body: where on the forearm (0 elbow, 1 wrist) or, negative, on the upper arm; and its radius.
_ALONG_ARM = ((-0.35, 0.045), (0.0, 0.045), (0.35, 0.042), (0.7, 0.034))
_FOREARM = 0.036
_SUNK = 0.035  # by which a forearm must be moved before its hand gives way too
_TIP, _LEVER = -0.004, 0.2  # how near to the body a finger's end comes; how far it moves with a curl of one
_FOLDED = 0.15  # how near the wrist of a standard arm comes to its shoulder
_ROUNDS = 4  # of moving hand and elbow out of the body
_CLOSED = 0.65  # by which share fingers are less spread than at rest
_LAID = 0.7  # how far a hand turns, at most, to lie flat
# The elbow's swivel about the line from shoulder to wrist counts from where it hangs, out and down, when the left
# arm points forward along _AHEAD; it carries over to other lines by the smallest turn of the chest's axes.
_AHEAD, _HANGING = np.array([0.3, -0.9, 0.3]), np.array([1.0, 0.2, -0.9])
_SWIVELS = (-1.4, 1.75)  # inward and up, outward and up
_VAGUE = 0.15  # part of a direction square to that line below which it says little about the swivel
# What the body's shape asks for may jump; joints do not. At most, a second:
_SWIVEL_RATE, _TURN_RATE, _BEND_RATE, _SHIFT_RATE = 9.0, 8.5, 9.0, 1.4  # radians, and metres


@dataclass
class Wrist:
    """Where a hand should be.

    Attributes:
        position: (frames, 3) of the wrist.
        rotation: (frames, 3, 3) of the hand against its rest.
        elbow: (frames, 3) direction of the elbow.
        curl: (frames, 5) of thumb to little finger, 0 to 1.
        contact: (frames, 3) from the wrist, at rest, to what meets the place; it stays there if the hand must turn.
    """

    position: Array
    rotation: Array
    elbow: Array
    curl: Array
    contact: Array

    def blended(self, other: "Wrist", share: Array) -> "Wrist":
        """`share` (frames,) of the way to another."""
        part = share[:, None]
        return Wrist(
            self.position * (1 - part) + other.position * part,
            passing(self.rotation, other.rotation, share),
            self.elbow * (1 - part) + other.elbow * part,
            self.curl * (1 - part) + other.curl * part,
            self.contact * (1 - part) + other.contact * part,
        )


@dataclass
class Bones:
    """An arm's joints and turns, (frames, 3) and (frames, 3, 3), and the shift of the wrist its forearm asks for."""

    shoulder: Array
    elbow: Array
    wrist: Array
    above: Array
    below: Array
    away: Array


class Arms:
    """Both arms of a person in one pose; trunk, head and legs stand already."""

    def __init__(self, skeleton: Skeleton, pose: Pose, fps: float = 15.0) -> None:
        self.skeleton, self.pose, self.frame_s = skeleton, pose, 1 / fps
        self._body: Posed = skeleton.surface(pose)
        # Elbows hang down: when the chest bows they hardly follow.
        self._upright = between(
            pose.rotation(0), pose.rotation("spine01"), np.full(len(pose.position(0)), 0.25)
        )

    def reach(
        self, place: Place, side: str, curl: Array, *, on_top: bool = False,
        shift: Array | None = None, tilt: Array | None = None,
    ) -> Wrist:  # fmt: skip
        """What a hand does to be at a place.

        Args:
            place: of the table; what it belongs to must be posed.
            side: of the hand.
            curl: (frames, 5).
            on_top: it is the second of two hands at this place.
            shift: (frames, 3) against the place, along the fingers, across them (outward) and out of the palm, metres.
            tilt: (frames, 3) turns of the hand about the fingers, the line across them, and the palm's normal.
        """
        skeleton, pose, sign = self.skeleton, self.pose, SIDES[side]
        mirror = np.array([sign, 1, 1])
        fingers, palm = skeleton.hand_axes(LETTER[side])
        lying = (
            frame(np.array(place.fingers) * mirror, np.array(place.palm) * mirror) @ frame(fingers, palm).T
        )
        second = np.array(place.second) * mirror if on_top else np.zeros(3)
        if place.free:
            origin, turn = skeleton.origin(pose, place.on)
            target = origin + apply(turn, (np.array(place.point) * mirror + second) * skeleton.arm / ARM)
        else:
            bone, rest = skeleton.on_skin(place, side)
            # Forearms turn so much that a hand on the other arm lies as the chest stands.
            turn = pose.rotation("spine01" if place.on.endswith("arm01.other") else bone)
            target = pose.carried(bone, rest) + apply(turn, second)
        rotation = turn @ lying
        if place.contact is Contact.PALM and not place.free:
            rotation = self._laid(rotation, palm, target)
        across = np.cross(palm, fingers)
        across = across if across[0] * sign > 0 else -across
        if tilt is not None:
            # Mirror images turn the other way about what lies in the mirror's plane.
            for axis, angle in (
                (fingers, sign * tilt[:, 0]),
                (across, tilt[:, 1]),
                (palm, sign * tilt[:, 2]),
            ):
                rotation = rotation @ about(axis, angle)
        if shift is not None:
            ways = np.stack([fingers, across, palm])
            target = target + apply(rotation, shift @ ways)
        contact = self._contact(place.contact, LETTER[side], curl) + place.pad * palm
        elbow = apply(self._upright, np.array(place.elbow) * mirror)
        return Wrist(target - apply(rotation, contact), rotation, elbow, curl, contact)

    def _contact(self, contact: Contact, letter: str, curl: Array) -> Array:
        """The part of the hand that meets a place, from the wrist, at rest but for the fingers' curl: (frames, 3)."""
        _, palm = self.skeleton.hand_axes(letter)
        if contact is Contact.WRIST:
            return np.zeros((len(curl), 3))
        if contact in (Contact.PALM, Contact.BACK):
            knuckle = self.skeleton.head_of(f"finger3-1.{letter}") - self.skeleton.head_of(f"wrist.{letter}")
            side = 0.02 if contact is Contact.PALM else -0.02
            return np.broadcast_to(0.75 * knuckle + side * palm, (len(curl), 3))
        if contact is Contact.TIP:
            return np.asarray(self._finger(letter, 2, curl)[3] + 0.009 * palm)
        _, _, last, tip = self._finger(letter, 3, curl)
        return np.asarray(0.4 * last + 0.6 * tip + 0.009 * palm)

    def _laid(self, rotation: Array, palm: Array, target: Array) -> Array:
        """A hand's rotation (frames, 3, 3) with its palm on the body as it bulges at the target (frames, 3)."""
        _, outward = self._body.outward(target[:, None])
        now = apply(rotation, palm)
        axis = np.cross(now, -outward[:, 0])
        angle = np.arctan2(np.linalg.norm(axis, axis=-1), -(now * outward[:, 0]).sum(-1))
        return np.asarray(about(axis + 1e-9, np.clip(angle, 0, _LAID)) @ rotation)

    def _finger(self, letter: str, finger: int, curl: Array) -> list[Array]:
        """Joints of a finger and its tip from the wrist, at rest but for the curl: 4 of (frames, 3)."""
        head_of = self.skeleton.head_of
        fingers, palm = self.skeleton.hand_axes(letter)
        joints = [head_of(f"finger{finger}-{joint}.{letter}") for joint in (1, 2, 3)]
        bones = [joints[1] - joints[0], joints[2] - joints[1], 1.1 * (joints[2] - joints[1])]
        axis, closed = np.cross(fingers, palm), self._closed(letter, finger)
        bend = np.zeros(len(curl))
        found = [np.broadcast_to(joints[0] - head_of(f"wrist.{letter}"), (len(curl), 3))]
        for bone, (little, fist) in zip(bones, _BENDS, strict=True):
            bend = bend + curl[:, finger - 1] * (little + fist * curl[:, finger - 1])
            found.append(found[-1] + apply(about(axis, bend) @ closed, bone))
        return found

    def set(self, side: str, wrist: Wrist, over: str | None = None) -> None:
        """Turn the bones of an arm so that its hand is where it should be, if the body allows.

        Args:
            side: of the arm.
            wrist: what is wanted.
            over: the side of an arm that stands already and is not to be run through.
        """
        pose, letter = self.pose, LETTER[side]
        pose.forget_arm(letter)
        rotation, pole, shift = wrist.rotation, wrist.elbow, np.zeros_like(wrist.position)
        parts = self._hand_parts(letter, wrist.curl)
        for _ in range(_ROUNDS):
            held = apply(wrist.rotation, wrist.contact) - apply(rotation, wrist.contact)
            shift = shift + self.unfold(side, wrist.position + held + shift, _FOLDED)
            shift = shift + self._clear(wrist.position + held + shift, rotation, parts, over)
            target = wrist.position + steadied(held + shift, _SHIFT_RATE * self.frame_s)
            shift = target - wrist.position - held
            bones = self._bent(letter, target, pole, over)
            shift = shift + bones.away
            pole = bones.elbow - 0.5 * (bones.shoulder + bones.wrist)
            rotation = self._allowed(letter, wrist.rotation, bones)
        for name, turn in (
            ("upperarm01", bones.above),
            ("upperarm02", bones.above),
            ("lowerarm01", bones.below),
        ):
            pose.put(f"{name}.{letter}", turn)
        # The forearm's second half shares the turn of the hand, as radius and ulna do.
        along = bones.wrist - bones.elbow
        turn, _ = _split(rotation @ transposed(bones.below), along)
        pose.put(f"lowerarm02.{letter}", about(along, 0.55 * turn) @ bones.below)
        pose.put(f"wrist.{letter}", rotation)
        self._set_fingers(letter, rotation, self._conforming(letter, bones.wrist, rotation, wrist.curl))

    def unfold(self, side: str, position: Array, least: float) -> Array:
        """Shift (frames, 3) of a wrist that brings it as far from its shoulder as `least` (of a standard arm)."""
        outward = np.array([SIDES[side], -0.6, 0.0])
        away = position - self.pose.position(f"upperarm01.{LETTER[side]}")
        away = away + 0.06 * apply(self.pose.rotation("spine01"), outward)
        distance = np.linalg.norm(away, axis=-1)
        missing = np.maximum(least * self.skeleton.arm / ARM - distance, 0)
        return np.asarray((missing / np.maximum(distance, 0.01))[:, None] * away)

    def _hand_parts(self, letter: str, curl: Array) -> tuple[Array, Array]:
        """Points (frames, q, 3) of a hand from its wrist, at rest but for the curl, and their radii (q,)."""
        index, middle, little = (self._finger(letter, finger, curl) for finger in (2, 3, 5))
        points = [np.zeros_like(middle[0]), index[0], little[0], middle[1]]
        return np.stack(points, 1), np.array([0.022, 0.015, 0.014, 0.009])

    def _conforming(self, letter: str, position: Array, rotation: Array, curl: Array) -> Array:
        """Curl (frames, 5) of fingers that straighten where they would dig into the body."""
        tips = np.stack([self._finger(letter, finger, curl)[3] for finger in (2, 3, 4, 5)], 1)
        distance, _ = self._body.outward(position[:, None] + (rotation[:, None] @ tips[..., None])[..., 0])
        depth = np.maximum(_TIP - distance, 0) * (distance > -0.06)
        conforming = curl.copy()
        conforming[:, 1:] = np.maximum(curl[:, 1:] - depth / _LEVER, np.minimum(curl[:, 1:], -0.1))
        return conforming

    def _clear(self, target: Array, rotation: Array, parts: tuple[Array, Array], over: str | None) -> Array:
        """Shift (frames, 3) of a hand that brings all of it out of the body."""
        offsets, radii = parts
        points = target[:, None] + (rotation[:, None] @ offsets[..., None])[..., 0]
        pushes = self._body.push(points, radii)
        if over is not None:
            pushes[:, :3] += self._out_of_arm(points[:, :3], radii[:3], over)
        # The deepest part counts most.
        sizes = np.linalg.norm(pushes, axis=-1, keepdims=True) + 1e-9
        return np.asarray((pushes * sizes).sum(1) / sizes.sum(1))

    def _bent(self, letter: str, target: Array, pole: Array, over: str | None) -> Bones:
        """An arm whose wrist is at a target, its elbow towards the pole and turned out of the body."""
        head_of = self.skeleton.head_of
        rest_upper = head_of(f"lowerarm01.{letter}") - head_of(f"upperarm01.{letter}")
        rest_lower = head_of(f"wrist.{letter}") - head_of(f"lowerarm01.{letter}")
        upper, lower = float(np.linalg.norm(rest_upper)), float(np.linalg.norm(rest_lower))
        shoulder = self.pose.position(f"upperarm01.{letter}")
        radii = np.array([radius for _, radius in _ALONG_ARM]) * self.skeleton.arm / ARM
        swivels = self._swivels(letter, unit(target - shoulder))
        elbow, hand = two_bones(shoulder, target, upper, lower, self._turned_out(swivels, pole))
        ends = [(shoulder, 1 + share) if share < 0 else (hand, 1 - share) for share, _ in _ALONG_ARM]
        points = np.stack([end + part * (elbow - end) for end, part in ends], 1)
        pushes = self._body.push(points, radii)
        if over is not None:
            pushes += self._out_of_arm(points, 0.8 * radii, over)
        moved = sum(1.5 * part * pushes[:, place] for place, (_, part) in enumerate(ends))
        pole = self._turned_out(swivels, elbow + moved - 0.5 * (shoulder + hand))
        elbow, hand = two_bones(shoulder, target, upper, lower, pole)
        hinge, hinge_rest = np.cross(elbow - shoulder, hand - elbow), np.cross(rest_upper, rest_lower)
        return Bones(
            shoulder, elbow, hand,
            frame(elbow - shoulder, hinge) @ frame(rest_upper, hinge_rest).T,
            frame(hand - elbow, hinge) @ frame(rest_lower, hinge_rest).T,
            pushes[:, -1] * (1 - _SUNK / np.maximum(np.linalg.norm(pushes[:, -1:], axis=-1), _SUNK)),
        )  # fmt: skip

    def _swivels(self, letter: str, along: Array) -> Array:
        """Where a swivel of zero and one of a quarter turn outward have the elbow: (frames, 2, 3).

        Args:
            letter: of the arm.
            along: (frames, 3) from the shoulder to the wrist.
        """
        mirror = np.array([1.0 if letter == "L" else -1.0, 1, 1])
        chest = self.pose.rotation("spine01")
        ahead, hanging = frame(_AHEAD, np.cross(_AHEAD, _HANGING))[:, :2].T
        basis = np.stack([hanging, np.cross(ahead, hanging)])
        turn = onto(ahead, apply(transposed(chest), along) * mirror)
        return np.asarray(np.swapaxes(chest @ (mirror[:, None] * (turn @ basis.T)), -1, -2))

    def _turned_out(self, swivels: Array, pole: Array) -> Array:
        """Direction (frames, 3) of an elbow that swivels towards a pole as far and as fast as arms do."""
        parts = (swivels @ pole[..., None])[..., 0]
        size = np.linalg.norm(pole, axis=-1) * _VAGUE
        swivel = np.arctan2(parts[:, 1], parts[:, 0] + np.maximum(size - np.hypot(*parts.T), 0))
        swivel = steadied(np.clip(swivel, *_SWIVELS), _SWIVEL_RATE * self.frame_s)
        return np.asarray(np.cos(swivel)[:, None] * swivels[:, 0] + np.sin(swivel)[:, None] * swivels[:, 1])

    def _out_of_arm(self, points: Array, radii: Array, side: str) -> Array:
        """Shift (frames, q, 3) that brings balls out of a forearm that stands already."""
        start, end = (
            self.pose.position(f"{bone}.{LETTER[side]}")[:, None] for bone in ("lowerarm01", "wrist")
        )
        way = end - start
        share = ((points - start) * way).sum(-1, keepdims=True) / (way * way).sum(-1, keepdims=True)
        away = points - (start + np.clip(share, 0, 1) * way)
        distance = np.linalg.norm(away, axis=-1, keepdims=True)
        return np.asarray(
            np.maximum(radii[:, None] + _FOREARM - distance, 0) * away / np.maximum(distance, 1e-6)
        )

    def _allowed(self, letter: str, wanted: Array, bones: Bones) -> Array:
        """The rotation nearest to a wanted one that forearm and wrist can do."""
        along = unit(bones.wrist - bones.elbow)
        turn, bend = _split(wanted @ transposed(bones.below), along)
        # Towards a half turn, either way is as good: none at all, so that nothing jumps.
        turn = np.clip(turn, -_TURN, _TURN) * np.minimum((np.pi - np.abs(turn)) / (np.pi - _HALF_TURN), 1)
        forearm = about(along, turn) @ bones.below
        fingers, palm = self.skeleton.hand_axes(letter)
        flexion = (bend * apply(forearm, np.cross(fingers, palm))).sum(-1)
        deviation = (bend * apply(forearm, palm)).sum(-1)
        excess = np.maximum(np.hypot(flexion / _FLEXION, deviation / _DEVIATION), 1)
        turn = steadied(turn, _TURN_RATE * self.frame_s)
        flexion, deviation = (
            steadied(angle / excess, _BEND_RATE * self.frame_s)[:, None] for angle in (flexion, deviation)
        )
        forearm = about(along, turn) @ bones.below
        bend = flexion * apply(forearm, np.cross(fingers, palm)) + deviation * apply(forearm, palm)
        return np.asarray(about(bend + 1e-9, np.linalg.norm(bend, axis=-1)) @ forearm)

    def _set_fingers(self, letter: str, rotation: Array, curl: Array) -> None:
        fingers, palm = self.skeleton.hand_axes(letter)
        axis = np.cross(fingers, palm)
        for finger in range(2, 6):
            closed = self._closed(letter, finger)
            bend = np.zeros(len(curl))
            for joint, (little, fist) in enumerate(_BENDS, 1):
                bend = bend + curl[:, finger - 1] * (little + fist * curl[:, finger - 1])
                self.pose.put(f"finger{finger}-{joint}.{letter}", rotation @ about(axis, bend) @ closed)
        # The thumb comes round in front of the palm, then bends over the fingers.
        head_of = self.skeleton.head_of
        over = head_of(f"finger5-1.{letter}") - head_of(f"finger2-1.{letter}")
        length = head_of(f"finger1-3.{letter}") - head_of(f"finger1-2.{letter}")
        round_palm = about(np.cross(-over, palm), 0.9 * curl[:, 0])
        for joint, most in ((1, 0.0), (2, 0.6), (3, 1.3)):
            bend = about(np.cross(length, over), most * curl[:, 0])
            self.pose.put(f"finger1-{joint}.{letter}", rotation @ round_palm @ bend)

    def _closed(self, letter: str, finger: int) -> Array:
        """Rotation that brings a finger, spread at rest, nearer to the middle one."""
        fingers, palm = self.skeleton.hand_axes(letter)
        bone = self.skeleton.head_of(f"finger{finger}-2.{letter}") - self.skeleton.head_of(
            f"finger{finger}-1.{letter}"
        )
        spread = np.arctan2(np.cross(fingers, bone) @ palm, fingers @ bone)
        return about(palm, -_CLOSED * spread)


def _split(rotation: Array, axis: Array) -> tuple[Array, Array]:
    """A turn about an axis (frames,), and the bend (axis times angle, square to it) that follows it."""
    axis = unit(axis)
    moved = apply(rotation, axis)
    square = np.cross(axis, moved)
    sin = np.linalg.norm(square, axis=-1)
    bend = unit(square) * np.arctan2(sin, (axis * moved).sum(-1))[:, None]
    turn = transposed(about(square + 1e-9, np.linalg.norm(bend, axis=-1))) @ rotation
    skew = np.stack(
        [turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]], -1
    )
    return np.arctan2((skew * axis).sum(-1) / 2, (np.trace(turn, axis1=-2, axis2=-1) - 1) / 2), bend
