"""Motions of hands at their targets, and their paths between targets."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from model.arrays import Doubles
from training.people.actions import HandAction
from training.people.arms import Arms, WristPose
from training.people.hand_targets import HAND_TARGETS
from training.people.rotations import invert, limit_rate, normalize, rotate, rotation_vector
from training.people.skeleton import LETTER, SIDES, Pose, Skeleton
from training.people.timing import Span, Style, cycle_track, hold_track, wander

_MAX_SPEED = 3.5  # metres per second, of a hand between targets
_METRES_PER_RADIAN = 0.35  # path length equivalent to a rotation of one radian


@dataclass
class HandMotion:
    """Movement of a hand relative to its target.

    Attributes:
        shift: (frames, 3) along the fingers, outward across them, out of the palm, metres.
        tilt: (frames, 3) rotations about the fingers, the axis across them, and the palm's normal, radians.
        curl: (frames, 5) of thumb to little finger.
    """

    shift: Doubles
    tilt: Doubles
    curl: Doubles


@dataclass(frozen=True)
class Visit:
    """A visit of a hand to a target.

    Attributes:
        target: key of HAND_TARGETS.
        share: (frames,) position on the path to the target, 0 start to 1 target.
        motion: movement at the target.
        on_top: this is the upper of two hands.
    """

    target: str
    share: Doubles
    motion: HandMotion
    on_top: bool = False


@dataclass(frozen=True)
class MotionContext:
    """Inputs of a motion function.

    Attributes:
        rng: random stream.
        times_s: (frames,).
        span: of the action.
        style: motion style.
        size, rate_hz: drawn from the action's ranges.
        side: of the hand.
    """

    rng: np.random.Generator
    times_s: Doubles
    span: Span
    style: Style
    size: float
    rate_hz: float
    side: str

    def cycles(self, *, rising: bool = False, faster: float = 1.0) -> Doubles:
        """Return (frames,) an oscillation of about unit amplitude during the action."""
        inner = Span(
            self.span.start_s + 0.15 * min(self.span.length_s, 1.5) * (not self.span.open_start),
            self.span.end_s - 0.15 * min(self.span.length_s, 1.5) * (not self.span.open_end),
            self.span.open_start,
            self.span.open_end,
        )
        rate = self.rate_hz * faster
        return cycle_track(self.rng, inner, self.style, rate, rising=rising).sample(self.times_s)

    def drift(self, every_s: float = 0.8) -> Doubles:
        """Return (frames,) slow noise of about unit amplitude."""
        return wander(self.rng, self.times_s, every_s)


def _still(context: MotionContext, motion: HandMotion) -> None:
    motion.shift[:, :2] += 0.004 * np.stack([context.drift(), context.drift()], 1)


def _rub(context: MotionContext, motion: HandMotion) -> None:
    motion.shift[:, 1] += context.size * context.cycles()
    motion.shift[:, 0] += 0.5 * context.size * context.cycles(faster=0.8)
    motion.tilt[:, 2] += 4.0 * context.size * context.cycles()


def _scratch(context: MotionContext, motion: HandMotion) -> None:
    beat = context.cycles(rising=True)
    motion.shift[:, 0] -= context.size * beat
    motion.curl[:, 1:] += (0.25 * beat)[:, None]
    motion.shift[:, :2] += 0.35 * context.size * np.stack([context.drift(1.2), context.drift(1.2)], 1)


def _stroke(context: MotionContext, motion: HandMotion) -> None:
    motion.shift[:, 0] += context.size * context.cycles()
    motion.shift[:, 1] += 0.25 * context.size * context.drift(1.0)


def _pat(context: MotionContext, motion: HandMotion) -> None:
    beat = context.cycles(rising=True)
    motion.shift[:, 2] -= context.size * beat
    motion.tilt[:, 1] -= 3.0 * context.size * beat


def _push(context: MotionContext, motion: HandMotion) -> None:
    motion.shift[:, 0] += context.size * context.cycles(rising=True)


def _tap(context: MotionContext, motion: HandMotion) -> None:
    motion.shift[:, 0] -= context.size * context.cycles(rising=True)
    motion.tilt[:, 1] += 0.15 * context.cycles()


def _wave(context: MotionContext, motion: HandMotion) -> None:
    beat = context.cycles()
    motion.tilt[:, 2] += context.size * beat
    motion.shift[:, 1] += 0.12 * context.size * beat
    motion.shift[:, 0] += 0.02 * context.drift()


def _illustrate(context: MotionContext, motion: HandMotion) -> None:
    for axis, part in enumerate((0.8, 1.0, 0.6)):
        motion.shift[:, axis] += (
            part * context.size * (0.6 * context.cycles(faster=context.rng.uniform(0.6, 1.3)) + 0.6 * context.drift())
        )
    motion.tilt[:, 0] += 0.5 * context.drift() + 0.3 * context.cycles()
    motion.tilt[:, 1] += 0.3 * context.cycles()
    motion.curl += 0.15 * context.drift()[:, None]


def _finger(context: MotionContext, motion: HandMotion) -> None:
    for finger in range(5):
        if context.rng.random() < 0.7:
            motion.curl[:, finger] += context.size * context.cycles(rising=True, faster=context.rng.uniform(0.7, 1.4))
    motion.tilt[:, 1] += 0.06 * context.drift()


def _fiddle(context: MotionContext, motion: HandMotion) -> None:
    motion.shift[:, 0] += context.size * context.cycles()
    motion.shift[:, 1] += 0.6 * context.size * context.cycles(faster=0.7)
    motion.tilt[:, 0] += 6.0 * context.size * context.cycles(faster=0.6)
    motion.curl += 0.12 * np.stack([context.cycles(faster=context.rng.uniform(0.7, 1.4)) for _ in range(5)], 1)


def _open(context: MotionContext, motion: HandMotion) -> None:
    motion.shift[:, 1] += context.size * context.cycles()
    motion.tilt[:, 0] += 0.12 * context.cycles()
    motion.shift[:, 2] += context.size * context.cycles(faster=0.7)


def _play(context: MotionContext, motion: HandMotion) -> None:
    motion.tilt[:, 0] += context.size * context.cycles()
    motion.tilt[:, 1] += 0.5 * context.size * context.cycles(faster=0.8)
    motion.curl += 0.2 * np.stack([context.cycles(faster=context.rng.uniform(0.8, 1.5)) for _ in range(5)], 1)
    motion.shift += 0.012 * np.stack([context.drift() for _ in range(3)], 1)


def _clench(context: MotionContext, motion: HandMotion) -> None:
    tight = hold_track(context.rng, context.span, context.style, 0.3).sample(context.times_s)
    loosening = context.size * context.cycles(rising=True)
    motion.curl[:] = (0.25 + (motion.curl - 0.25) * np.clip(tight, 0, 1)[:, None]) - loosening[:, None]


def _rub_palms(context: MotionContext, motion: HandMotion) -> None:
    """Move the hands in opposite phase: both use generators with the same seed, so their cycles are equal."""
    sign = SIDES[context.side]
    motion.shift[:, 0] += sign * context.size * context.cycles()
    motion.tilt[:, 0] += 0.2 * sign * context.cycles(faster=0.5)


MOTIONS: dict[str, Callable[[MotionContext, HandMotion], None]] = {
    "still": _still,
    "rub": _rub,
    "scratch": _scratch,
    "stroke": _stroke,
    "pat": _pat,
    "push": _push,
    "tap": _tap,
    "wave": _wave,
    "illustrate": _illustrate,
    "finger": _finger,
    "fiddle": _fiddle,
    "open": _open,
    "play": _play,
    "clench": _clench,
    "rub_palms": _rub_palms,
}


def make_rest_motion(rng: np.random.Generator, times_s: Doubles, ambient: float) -> HandMotion:
    """Make the motion of a resting hand: slow drift of hand and fingers."""
    frames = len(times_s)
    shift = 0.0025 * ambient * np.stack([wander(rng, times_s, 2.0) for _ in range(3)], 1)
    tilt = 0.02 * ambient * np.stack([wander(rng, times_s, 2.0) for _ in range(3)], 1)
    curl = (
        rng.uniform(0.1, 0.32)
        + rng.normal(0, 0.04, 5)
        + 0.02 * ambient * np.stack([wander(rng, times_s, 1.5) for _ in range(5)], 1)
    )
    return HandMotion(shift, tilt, curl.reshape(frames, 5))


def make_motion(hand: HandAction, context: MotionContext) -> HandMotion:
    """Make the motion of an action's hand at its target."""
    frames = len(context.times_s)
    curl = np.full((frames, 5), context.rng.uniform(*hand.curl)) + context.rng.normal(0, 0.05, 5)
    if hand.point:
        curl[:, 1] = context.rng.uniform(0.05, 0.2)
        curl[:, 0] *= 0.6
    motion = HandMotion(np.zeros((frames, 3)), np.zeros((frames, 3)), curl)
    MOTIONS[hand.motion](context, motion)
    np.clip(motion.curl, 0, 1, out=motion.curl)
    return motion


def move_arms(
    skeleton: Skeleton, pose: Pose, rest: dict[str, Visit], visits: dict[str, list[Visit]], fps: float = 15.0
) -> None:
    """Pose both arms: from their rest targets through all visits, in the given order.

    The upper hand is posed second. Visits to the other arm are applied last, when that arm is posed.
    """
    arms = Arms(skeleton, pose, fps)
    wrists = {}
    below, above = sorted(SIDES, key=lambda side: any(visit.on_top for visit in (rest[side], *visits[side])))
    for side in (below, above):
        wrist = _reach_target(arms, rest[side], side)
        for visit in visits[side]:
            if not HAND_TARGETS[visit.target].parent.endswith(".other"):
                wrist = _move_towards(arms, wrist, visit, side)
        wrists[side] = wrist
        arms.pose_arm(side, wrist, below if side == above else None)
    for side in SIDES:
        across = [visit for visit in visits[side] if HAND_TARGETS[visit.target].parent.endswith(".other")]
        for visit in across:
            wrists[side] = _move_towards(arms, wrists[side], visit, side)
        if across:
            arms.pose_arm(side, wrists[side])


def _reach_target(arms: Arms, visit: Visit, side: str) -> WristPose:
    motion = visit.motion
    return arms.reach(
        HAND_TARGETS[visit.target], side, motion.curl, on_top=visit.on_top, shift=motion.shift, tilt=motion.tilt
    )


def _move_towards(arms: Arms, wrist: WristPose, visit: Visit, side: str) -> WristPose:
    """Move a hand along its path to a target, an arc in front of the body, or past its side for targets behind."""
    there = _reach_target(arms, visit, side)
    way = np.linalg.norm(there.position - wrist.position, axis=1)
    share = _limit_speed(arms, side, wrist, there, np.clip(visit.share, -0.05, 1.0))
    bow = np.sin(np.pi * np.clip(share, 0, 1)) * np.minimum(0.28 * way, 0.12)
    chest = arms.pose.rotation("spine01")
    behind = rotate(invert(chest), there.position - arms.pose.position("spine01"))[:, 1:2]
    aside = np.clip(behind / 0.1 + 0.5, 0, 1)
    forward, outward = np.array([0.35 * SIDES[side], -0.9, 0.1]), np.array([1.6 * SIDES[side], -0.4, 0.0])
    moved = wrist.blend(there, share)
    moved.position = _swing_around_shoulder(arms, side, wrist.position, there.position, share)
    moved.position = moved.position + bow[:, None] * rotate(chest, forward + aside * (outward - forward))
    return moved


def _swing_around_shoulder(arms: Arms, side: str, start: Doubles, end: Doubles, share: Doubles) -> Doubles:
    """Interpolate between two positions (frames, 3) on an arc around the shoulder that bends forward."""
    shoulder = arms.pose.position(f"upperarm01.{LETTER[side]}")
    front = rotate(arms.pose.rotation("spine01"), np.array([0.5 * SIDES[side], -0.85, 0.0]))
    first, last = start - shoulder, end - shoulder
    cosine = (normalize(first) * normalize(last)).sum(-1)
    part = share[:, None]
    round_front = (0.35 * (1 - cosine) * np.sin(np.pi * np.clip(share, 0, 1)))[:, None]
    way = normalize(normalize(first) * (1 - part) + normalize(last) * part + round_front * front)
    far = np.linalg.norm(first, axis=1) * (1 - share) + np.linalg.norm(last, axis=1) * share
    return np.asarray(shoulder + far[:, None] * way)


def _limit_speed(arms: Arms, side: str, wrist: WristPose, there: WristPose, share: Doubles) -> Doubles:
    """Limit the rate of `share` (frames,) so that the hand does not exceed _MAX_SPEED."""
    steps = np.abs(np.diff(share))
    if not steps.any():
        return share
    shoulder = arms.pose.position(f"upperarm01.{LETTER[side]}")
    first, last = (np.linalg.norm(end.position - shoulder, axis=1) for end in (wrist, there))
    cosine = (normalize(wrist.position - shoulder) * normalize(there.position - shoulder)).sum(-1)
    arc = 0.5 * (first + last) * np.arccos(np.clip(cosine, -1, 1)) + np.abs(last - first)
    turn = np.linalg.norm(rotation_vector(invert(wrist.rotation) @ there.rotation), axis=1)
    way = float(np.average(np.hypot(arc, _METRES_PER_RADIAN * turn)[1:], weights=steps))
    return limit_rate(share, _MAX_SPEED * arms.frame_s / max(way, 0.15))


def is_shared_target(target: str) -> bool:
    """Return whether both hands meet at a target."""
    return "_joined" in target or target == "crossed"
