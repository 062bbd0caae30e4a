"""What hands do where they are, and how they get from one place to the next."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.people.actions import Hand
from training.people.arms import Arms, Wrist
from training.people.hand_targets import PLACES
from training.people.rotations import apply, rotation_vector, steadied, transposed, unit
from training.people.skeleton import LETTER, SIDES, Pose, Skeleton
from training.people.timing import Floats, Span, Style, cycled, held, wander

_FASTEST = 3.5  # metres a second, of a hand on its way
_TURN_M = 0.35  # metres for which a radian of turning counts


@dataclass
class Motion:
    """Of a hand at its place.

    Attributes:
        shift: (frames, 3) along the fingers, outward across them, out of the palm, metres.
        tilt: (frames, 3) turns about the fingers, about the line across, about the palm's normal, radians.
        curl: (frames, 5) of thumb to little finger.
    """

    shift: Floats
    tilt: Floats
    curl: Floats


@dataclass(frozen=True)
class Visit:
    """A hand goes to a place and comes back.

    Attributes:
        place: of places.py.
        share: (frames,) 0 away, 1 there.
        motion: what it does there.
        on_top: it is the upper of two hands.
    """

    place: str
    share: Floats
    motion: Motion
    on_top: bool = False


@dataclass(frozen=True)
class Doing:
    """All that a motion is made from.

    Attributes:
        times_s: of the frames. span: of the action.
        size, rate_hz: drawn from the action's ranges.
        side: of the hand.
    """

    rng: np.random.Generator
    times_s: Floats
    span: Span
    style: Style
    size: float
    rate_hz: float
    side: str

    def cycles(self, *, rising: bool = False, faster: float = 1.0) -> Floats:
        """(frames,) to and fro while the action lasts, of about unit size."""
        inner = Span(
            self.span.start_s + 0.15 * min(self.span.length_s, 1.5) * (not self.span.open_start),
            self.span.end_s - 0.15 * min(self.span.length_s, 1.5) * (not self.span.open_end),
            self.span.open_start,
            self.span.open_end,
        )
        rate = self.rate_hz * faster
        return cycled(self.rng, inner, self.style, rate, rising=rising).at(self.times_s)

    def drift(self, every_s: float = 0.8) -> Floats:
        """(frames,) slow noise of about unit size."""
        return wander(self.rng, self.times_s, every_s)


def _still(doing: Doing, motion: Motion) -> None:
    motion.shift[:, :2] += 0.004 * np.stack([doing.drift(), doing.drift()], 1)


def _rub(doing: Doing, motion: Motion) -> None:
    motion.shift[:, 1] += doing.size * doing.cycles()
    motion.shift[:, 0] += 0.5 * doing.size * doing.cycles(faster=0.8)
    motion.tilt[:, 2] += 4.0 * doing.size * doing.cycles()


def _scratch(doing: Doing, motion: Motion) -> None:
    beat = doing.cycles(rising=True)
    motion.shift[:, 0] -= doing.size * beat
    motion.curl[:, 1:] += (0.25 * beat)[:, None]
    motion.shift[:, :2] += 0.35 * doing.size * np.stack([doing.drift(1.2), doing.drift(1.2)], 1)


def _stroke(doing: Doing, motion: Motion) -> None:
    motion.shift[:, 0] += doing.size * doing.cycles()
    motion.shift[:, 1] += 0.25 * doing.size * doing.drift(1.0)


def _pat(doing: Doing, motion: Motion) -> None:
    beat = doing.cycles(rising=True)
    motion.shift[:, 2] -= doing.size * beat
    motion.tilt[:, 1] -= 3.0 * doing.size * beat


def _push(doing: Doing, motion: Motion) -> None:
    motion.shift[:, 0] += doing.size * doing.cycles(rising=True)


def _tap(doing: Doing, motion: Motion) -> None:
    motion.shift[:, 0] -= doing.size * doing.cycles(rising=True)
    motion.tilt[:, 1] += 0.15 * doing.cycles()


def _wave(doing: Doing, motion: Motion) -> None:
    beat = doing.cycles()
    motion.tilt[:, 2] += doing.size * beat
    motion.shift[:, 1] += 0.12 * doing.size * beat
    motion.shift[:, 0] += 0.02 * doing.drift()


def _illustrate(doing: Doing, motion: Motion) -> None:
    for axis, part in enumerate((0.8, 1.0, 0.6)):
        motion.shift[:, axis] += (
            part * doing.size * (0.6 * doing.cycles(faster=doing.rng.uniform(0.6, 1.3)) + 0.6 * doing.drift())
        )
    motion.tilt[:, 0] += 0.5 * doing.drift() + 0.3 * doing.cycles()
    motion.tilt[:, 1] += 0.3 * doing.cycles()
    motion.curl += 0.15 * doing.drift()[:, None]


def _finger(doing: Doing, motion: Motion) -> None:
    for finger in range(5):
        if doing.rng.random() < 0.7:
            motion.curl[:, finger] += doing.size * doing.cycles(
                rising=True, faster=doing.rng.uniform(0.7, 1.4)
            )
    motion.tilt[:, 1] += 0.06 * doing.drift()


def _fiddle(doing: Doing, motion: Motion) -> None:
    motion.shift[:, 0] += doing.size * doing.cycles()
    motion.shift[:, 1] += 0.6 * doing.size * doing.cycles(faster=0.7)
    motion.tilt[:, 0] += 6.0 * doing.size * doing.cycles(faster=0.6)
    motion.curl += 0.12 * np.stack([doing.cycles(faster=doing.rng.uniform(0.7, 1.4)) for _ in range(5)], 1)


def _open(doing: Doing, motion: Motion) -> None:
    motion.shift[:, 1] += doing.size * doing.cycles()
    motion.tilt[:, 0] += 0.12 * doing.cycles()
    motion.shift[:, 2] += doing.size * doing.cycles(faster=0.7)


def _play(doing: Doing, motion: Motion) -> None:
    motion.tilt[:, 0] += doing.size * doing.cycles()
    motion.tilt[:, 1] += 0.5 * doing.size * doing.cycles(faster=0.8)
    motion.curl += 0.2 * np.stack([doing.cycles(faster=doing.rng.uniform(0.8, 1.5)) for _ in range(5)], 1)
    motion.shift += 0.012 * np.stack([doing.drift() for _ in range(3)], 1)


def _clench(doing: Doing, motion: Motion) -> None:
    tight = held(doing.rng, doing.span, doing.style, 0.3).at(doing.times_s)
    loosening = doing.size * doing.cycles(rising=True)
    motion.curl[:] = (0.25 + (motion.curl - 0.25) * np.clip(tight, 0, 1)[:, None]) - loosening[:, None]


def _rub_palms(doing: Doing, motion: Motion) -> None:
    """Both hands draw the same cycles (they share a generator), and run against each other."""
    sign = SIDES[doing.side]
    motion.shift[:, 0] += sign * doing.size * doing.cycles()
    motion.tilt[:, 0] += 0.2 * sign * doing.cycles(faster=0.5)


MOTIONS: dict[str, Callable[[Doing, Motion], None]] = {
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


def rest_motion(rng: np.random.Generator, times_s: Floats, idle: float) -> Motion:
    """Of a hand that does nothing: drift, and fingers that are never quite still."""
    frames = len(times_s)
    shift = 0.0025 * idle * np.stack([wander(rng, times_s, 2.0) for _ in range(3)], 1)
    tilt = 0.02 * idle * np.stack([wander(rng, times_s, 2.0) for _ in range(3)], 1)
    curl = (
        rng.uniform(0.1, 0.32)
        + rng.normal(0, 0.04, 5)
        + 0.02 * idle * np.stack([wander(rng, times_s, 1.5) for _ in range(5)], 1)
    )
    return Motion(shift, tilt, curl.reshape(frames, 5))


def make_motion(hand: Hand, doing: Doing) -> Motion:
    """What an action's hand does at its place."""
    frames = len(doing.times_s)
    curl = np.full((frames, 5), doing.rng.uniform(*hand.curl)) + doing.rng.normal(0, 0.05, 5)
    if hand.point:
        curl[:, 1] = doing.rng.uniform(0.05, 0.2)
        curl[:, 0] *= 0.6
    motion = Motion(np.zeros((frames, 3)), np.zeros((frames, 3)), curl)
    MOTIONS[hand.motion](doing, motion)
    np.clip(motion.curl, 0, 1, out=motion.curl)
    return motion


def move_arms(
    skeleton: Skeleton, pose: Pose, rest: dict[str, Visit], visits: dict[str, list[Visit]], fps: float = 15.0
) -> None:
    """Set both arms: from their places of rest through all visits, in the order given.

    The hand that lies on top comes second; visits to the other arm in a last round, when that arm is set.
    """
    arms = Arms(skeleton, pose, fps)
    wrists = {}
    below, above = sorted(SIDES, key=lambda side: any(visit.on_top for visit in (rest[side], *visits[side])))
    for side in (below, above):
        wrist = _arrive(arms, rest[side], side)
        for visit in visits[side]:
            if not PLACES[visit.place].on.endswith(".other"):
                wrist = _travel(arms, wrist, visit, side)
        wrists[side] = wrist
        arms.set(side, wrist, below if side == above else None)
    for side in SIDES:
        across = [visit for visit in visits[side] if PLACES[visit.place].on.endswith(".other")]
        for visit in across:
            wrists[side] = _travel(arms, wrists[side], visit, side)
        if across:
            arms.set(side, wrists[side])


def _arrive(arms: Arms, visit: Visit, side: str) -> Wrist:
    motion = visit.motion
    return arms.reach(
        PLACES[visit.place], side, motion.curl, on_top=visit.on_top, shift=motion.shift, tilt=motion.tilt
    )


def _travel(arms: Arms, wrist: Wrist, visit: Visit, side: str) -> Wrist:
    """Part of the way to a place, in a bow away from the body: forward, or past the side to what lies behind."""
    there = _arrive(arms, visit, side)
    way = np.linalg.norm(there.position - wrist.position, axis=1)
    share = _unhurried(arms, side, wrist, there, np.clip(visit.share, -0.05, 1.0))
    bow = np.sin(np.pi * np.clip(share, 0, 1)) * np.minimum(0.28 * way, 0.12)
    chest = arms.pose.rotation("spine01")
    behind = apply(transposed(chest), there.position - arms.pose.position("spine01"))[:, 1:2]
    aside = np.clip(behind / 0.1 + 0.5, 0, 1)
    forward, outward = np.array([0.35 * SIDES[side], -0.9, 0.1]), np.array([1.6 * SIDES[side], -0.4, 0.0])
    moved = wrist.blended(there, share)
    moved.position = _swung(arms, side, wrist.position, there.position, share)
    moved.position = moved.position + bow[:, None] * apply(chest, forward + aside * (outward - forward))
    return moved


def _swung(arms: Arms, side: str, start: Floats, end: Floats, share: Floats) -> Floats:
    """Part of the way between two positions (frames, 3), round the shoulder, and round its front."""
    shoulder = arms.pose.position(f"upperarm01.{LETTER[side]}")
    front = apply(arms.pose.rotation("spine01"), np.array([0.5 * SIDES[side], -0.85, 0.0]))
    first, last = start - shoulder, end - shoulder
    cosine = (unit(first) * unit(last)).sum(-1)
    part = share[:, None]
    round_front = (0.35 * (1 - cosine) * np.sin(np.pi * np.clip(share, 0, 1)))[:, None]
    way = unit(unit(first) * (1 - part) + unit(last) * part + round_front * front)
    far = np.linalg.norm(first, axis=1) * (1 - share) + np.linalg.norm(last, axis=1) * share
    return np.asarray(shoulder + far[:, None] * way)


def _unhurried(arms: Arms, side: str, wrist: Wrist, there: Wrist, share: Floats) -> Floats:
    """Share (frames,) of the way between two wrists, no faster than hands go and turn."""
    steps = np.abs(np.diff(share))
    if not steps.any():
        return share
    shoulder = arms.pose.position(f"upperarm01.{LETTER[side]}")
    first, last = (np.linalg.norm(end.position - shoulder, axis=1) for end in (wrist, there))
    cosine = (unit(wrist.position - shoulder) * unit(there.position - shoulder)).sum(-1)
    arc = 0.5 * (first + last) * np.arccos(np.clip(cosine, -1, 1)) + np.abs(last - first)
    turn = np.linalg.norm(rotation_vector(transposed(wrist.rotation) @ there.rotation), axis=1)
    way = float(np.average(np.hypot(arc, _TURN_M * turn)[1:], weights=steps))
    return steadied(share, _FASTEST * arms.frame_s / max(way, 0.15))


def sharing(place: str) -> bool:
    """Whether both hands meet at a place."""
    return "_joined" in place or place == "crossed"
