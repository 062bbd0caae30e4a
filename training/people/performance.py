"""Turn a schedule into the time courses of all channels and the visits of both hands."""

from dataclasses import dataclass

import numpy as np

from model.arrays import Doubles
from training.people import ambient_motion
from training.people.actions import BY_CODE, Action, MotionProfile, get_resources
from training.people.ambient_motion import Channels, add
from training.people.hand_targets import HAND_TARGETS, REST_TARGETS
from training.people.hands import MotionContext, Visit, is_shared_target, make_motion, make_rest_motion
from training.people.schedules.schedule import Event, Schedule
from training.people.skeleton import OTHER, SIDES
from training.people.timing import Span, Style, Track, cycle_track, hold_track, step_track

# Channels that follow a channel: name, share of its amplitude, delay in seconds.
FOLLOWERS = {
    "head_pitch": (("torso_pitch", 0.07, 0.06), ("lift.left", -0.03, 0.08), ("lift.right", -0.03, 0.08)),
    "head_yaw": (("torso_yaw", 0.12, 0.07), ("head_roll", 0.05, 0.0)),
    "head_roll": (("torso_roll", 0.1, 0.05), ("head_yaw", 0.08, 0.0)),
    "torso_yaw": (("head_yaw", -0.25, 0.1),),
    "torso_roll": (("head_roll", -0.35, 0.05),),
    "torso_pitch": (("head_pitch", -0.2, 0.05),),
}
_HEAD_BONES = ("head", "neck01")
_BOWING = ("G3", "G4")
_EMPTY_HANDS_ONLY = frozenset({"C3", "C9", "C12", "C13", "F10"})  # actions never performed with an object in the hand
_HOLDING_PROBABILITY = 0.3  # of holding an object, in videos without these actions
_ON_LEGS = ("G1", "G2")
_JOINED_REST = ("rest_joined", "rest_belly")
_SLOW = {"cross": 0.9, "ankle_cross": 0.8, "rise": 0.9}  # typical ramp durations, seconds


@dataclass(frozen=True)
class Performance:
    """A person's movements.

    Attributes:
        times_s: (frames,).
        channels: name -> (frames,).
        rest: the rest target of each side's hand, as a visit.
        visits: visits of each side's hand, by start.
        expressions: (frames, 4) strengths of blink, jaw, smile and brows.
        holders: sides of the hands that hold an object during the whole video.
        props: props that the actions need.
    """

    times_s: Doubles
    channels: Channels
    rest: dict[str, Visit]
    visits: dict[str, list[Visit]]
    expressions: Doubles
    holders: tuple[str, ...]
    props: frozenset[str]


def perform(rng: np.random.Generator, schedule: Schedule, times_s: Doubles, style: Style) -> Performance:
    """Sample all movements of a person in a video."""
    builder = _PerformanceBuilder(rng, schedule, times_s, style)
    builder.set_posture()
    for event in schedule.events:
        builder.add_event(event)
    builder.add_aborted_reaches()
    return builder.build()


class _PerformanceBuilder:
    """Accumulates the channels and visits of one performance."""

    def __init__(self, rng: np.random.Generator, schedule: Schedule, times_s: Doubles, style: Style) -> None:
        self.rng, self.schedule, self.times_s, self.style = rng, schedule, times_s, style
        self.channels: Channels = {}
        self.visits: dict[str, list[tuple[float, Visit]]] = {side: [] for side in SIDES}
        self.busy = [
            (resource, event.start_s, event.end_s)
            for event in schedule.events
            for resource in get_resources(BY_CODE[event.code], event.sides)
        ]
        self._stepped: dict[tuple[str, str], int] = {}  # action and channel -> number of steps so far

    def set_posture(self) -> None:
        """Draw the posture, ambient motion, rest targets and held objects."""
        frames = len(self.times_s)
        ambient_motion.add_posture(self.rng, self.channels, frames)
        for event in self.schedule.events:  # a heel that will rise must not be raised before
            for side in event.sides if event.code in ("D1", "D3") else ():
                self.channels.pop(f"heel.{side}", None)
        self._prepare_posture()
        ambient_motion.add_breathing(self.rng, self.times_s, self.channels, self.rng.uniform(0.6, 1.4))
        ambient_motion.add_sway(
            self.rng, self.times_s, self.channels, self.style.ambient * float(np.exp(self.rng.normal(0, 0.4)))
        )
        ambient_motion.add_aborted_moves(self.rng, self.times_s, self.channels, self.style, self.busy)
        self.expressions = ambient_motion.make_expressions(self.rng, self.times_s, self.channels)
        chosen = str(self.rng.choice(REST_TARGETS, p=self._rest_odds()))
        targets = dict.fromkeys(SIDES, chosen)
        if chosen not in _JOINED_REST and self.rng.random() < 0.3:
            targets["left"] = str(self.rng.choice(("rest_thigh", "rest_knee", "rest_inside", "rest_seat")))
        top = str(self.rng.choice(tuple(SIDES)))
        self.rest = {
            side: Visit(
                targets[side],
                np.ones(frames),
                make_rest_motion(self.rng, self.times_s, self.style.ambient),
                side == top,
            )
            for side in SIDES
        }
        self.holders = self._draw_holding_sides()

    def _draw_holding_sides(self) -> tuple[str, ...]:
        """Draw the sides of hands that hold an object during the whole video, used by an action or not."""
        codes = {event.code for event in self.schedule.events}
        playing = {
            side for event in self.schedule.events if BY_CODE[event.code].prop == "toy" for side in event.sides[:1]
        }
        if not playing and not codes & _EMPTY_HANDS_ONLY and self.rng.random() < _HOLDING_PROBABILITY:
            playing = {str(self.rng.choice(tuple(SIDES)))}
        return tuple(sorted(playing))

    def _rest_odds(self) -> Doubles:
        """Return the odds of REST_TARGETS; hands that will touch a leg start elsewhere more often."""
        odds = np.array((0.22, 0.16, 0.14, 0.2, 0.16, 0.12))
        if any(event.code in _ON_LEGS for event in self.schedule.events):
            odds *= (0.7, 0.7, 1.0, 1.2, 1.2, 1.2)
        return np.asarray(odds / odds.sum())

    def _prepare_posture(self) -> None:
        """Adapt the posture so that the first steps of the schedule are possible."""
        first = {event.code: event for event in reversed(self.schedule.events)}
        if "A3" in first and self.channels["slump"][0] < 0.5:
            self.channels["slump"][:] = ambient_motion.draw_bent_back(self.rng)
        closes = "D5" in first and ("D6" not in first or first["D5"].start_s < first["D6"].start_s)
        apart, forward = ambient_motion.draw_open_knees(self.rng), ambient_motion.draw_forward_feet(self.rng)
        for side in SIDES:
            knee, foot = self.channels[f"knee_out.{side}"], self.channels[f"foot_back.{side}"]
            if closes and knee[0] < 0.45:
                knee[:] = apart + self.rng.normal(0, 0.05)
            if "D6" in first and not closes and knee[0] > 0.35:
                knee[:] = self.rng.normal(0.08, 0.08)
            if "D2" in first and foot[0] > -0.04:
                foot[:] = forward

    def add_event(self, event: Event) -> None:
        """Add the movements of an event."""
        action = BY_CODE[event.code]
        span = self._span(event)
        if action.hand is not None:
            self._add_reach(action, event, span)
        if action.moves and action.profile is MotionProfile.STEP and action.hand is None:
            self._add_step(action, event, span)
        elif action.moves:
            self._add_move(action, event, span)

    def _span(self, event: Event) -> Span:
        end = self.schedule.duration_s
        return Span(event.start_s, event.end_s, event.start_s <= 0, event.end_s >= end - 1e-6)

    def _amounts(self, action: Action, event: Event) -> dict[str, float]:
        """Draw the amplitude of each channel of an event."""
        sign = SIDES[event.sides[0]]
        amounts: dict[str, float] = {}
        effort = self.rng.uniform(0, 1)  # correlates the amplitudes of the channels
        hurry = min(1.0, (event.end_s - event.start_s) / 1.6) if event.code in (*_BOWING, "A5") else 1.0
        for move in action.moves:
            share = float(np.clip(effort + self.rng.normal(0, 0.15), 0, 1))
            value = hurry * (move.low + share * (move.high - move.low))
            if move.channel.endswith("."):
                for side in event.sides:
                    amounts[move.channel + side] = value * self.rng.uniform(0.85, 1.1)
            elif move.channel.startswith("±"):
                amounts[move.channel[1:]] = sign * value
            else:
                amounts[move.channel] = value
        return amounts

    def _add_move(self, action: Action, event: Event, span: Span) -> None:
        """Add a movement that returns to rest, once or in cycles."""
        rate = self.rng.uniform(*action.rate_hz)
        shared: Track | None = None
        for name, amount in self._amounts(action, event).items():
            if shared is None or name.split(".")[0] in _SLOW or self.rng.random() < 0.25:
                shared = self._track(action, span, name, rate)
            self._add_with_followers(name, amount * shared.sample(self.times_s))

    def _track(self, action: Action, span: Span, name: str, rate_hz: float) -> Track:
        if action.profile is MotionProfile.CYCLE:
            return cycle_track(self.rng, span, self.style, rate_hz, rising=action.rising)
        if action.code in _BOWING:
            return hold_track(self.rng, span, self.style, self.rng.uniform(0.9, 1.3))
        typical = _SLOW.get(name.split(".")[0], self.rng.uniform(0.35, 0.65))
        return hold_track(self.rng, span, self.style, typical)

    def _add_with_followers(self, name: str, values: Doubles) -> None:
        add(self.channels, name, values)
        for follower, share, later_s in FOLLOWERS.get(name, ()):
            part = share * self.rng.uniform(0.3, 1.6)
            add(self.channels, follower, part * np.interp(self.times_s - later_s, self.times_s, values))

    def _add_step(self, action: Action, event: Event, span: Span) -> None:
        """Add a movement that stays at its end."""
        amounts = self._amounts(action, event)
        for name in amounts:  # repeated steps become smaller
            amounts[name] *= 0.4 ** self._stepped.get((event.code, name), 0)
            self._stepped[event.code, name] = self._stepped.get((event.code, name), 0) + 1
        track = step_track(self.rng, span, self.style).sample(self.times_s)
        for name, amount in amounts.items():
            self._add_with_followers(name, amount * track)

    def _add_reach(self, action: Action, event: Event, span: Span) -> None:
        """Add the visits of the hands to a target, and the lean of the trunk."""
        assert action.hand is not None
        if event.code == "C10" and self._follows_stretch(event):
            return  # the stretched arm returns: see _reach_share
        target = str(self.rng.choice(action.hand.targets))
        sides = (
            tuple(SIDES) if is_shared_target(target) or (target == "toy_low" and len(event.sides) == 2) else event.sides
        )
        share = self._reach_share(event, span)
        size, rate = self.rng.uniform(*action.hand.size), self.rng.uniform(*action.hand.rate_hz)
        seed = int(self.rng.integers(2**32))
        top = str(self.rng.choice(tuple(SIDES)))
        for side in sides:
            # Hands that meet have the same cycles; others have independent ones.
            rng = np.random.default_rng(seed) if is_shared_target(target) else self.rng
            context = MotionContext(rng, self.times_s, span, self.style, size, rate, side)
            late = 0.0 if is_shared_target(target) else self.rng.uniform(0, 0.06)
            own = np.interp(self.times_s - late, self.times_s, share)
            self.visits[side].append(
                (event.start_s, Visit(target, own, make_motion(action.hand, context), side == top))
            )
        self._lean_towards(target, event.sides[0], len(sides) == 2, share)
        if event.code in _BOWING and len(sides) == 1:
            self._support_on_knee(OTHER[event.sides[0]], event, share)

    def _support_on_knee(self, side: str, event: Event, share: Doubles) -> None:
        """Support a deep bow with the other hand on its knee, if that hand is free."""
        conflicts = (
            name == f"hand.{side}" and start < event.end_s + 0.5 and end > event.start_s - 0.5
            for name, start, end in self.busy
        )  # fmt: skip
        if not any(conflicts):
            motion = make_rest_motion(self.rng, self.times_s, self.style.ambient)
            self.visits[side].append((event.start_s, Visit("rest_knee", share, motion)))

    def _follows_stretch(self, event: Event) -> bool:
        return any(
            other.code == "C4" and other.sides == event.sides and abs(other.end_s - event.start_s) < 1e-6
            for other in self.schedule.events
        )

    def _reach_share(self, event: Event, span: Span) -> Doubles:
        """Return a hand's share of the way to its target; an arm retracted later stays stretched until then."""
        if event.code == "C10":
            return 1 - step_track(self.rng, span, self.style).sample(self.times_s)
        after = next(
            (other for other in self.schedule.events
             if event.code == "C4" and other.code == "C10" and other.sides == event.sides
             and abs(other.start_s - event.end_s) < 1e-6), None,
        )  # fmt: skip
        typical = self.rng.uniform(0.7, 1.2) if event.code in ("C4", *_BOWING) else self.rng.uniform(0.4, 0.8)
        if after is None:
            return hold_track(self.rng, span, self.style, typical).sample(self.times_s)
        typical = min(typical, 0.6 * span.length_s / self.style.pace)  # the arm must be stretched before it returns
        there = hold_track(
            self.rng, Span(span.start_s, self.schedule.duration_s + 2, span.open_start, True), self.style, typical
        )
        back = step_track(self.rng, self._span(after), self.style)
        return there.sample(self.times_s) * (1 - back.sample(self.times_s))

    def _lean_towards(self, target: str, side: str, both: bool, share: Doubles) -> None:
        """Lean the trunk with a reach, and move the head towards a hand that touches it."""
        sign = 0.0 if both else SIDES[side]
        pitch, yaw, roll = HAND_TARGETS[target].lean
        size = self.rng.uniform(0.5, 1.3)
        add(self.channels, "torso_pitch", size * (pitch + self.rng.uniform(0, 0.04)) * share)
        add(self.channels, "torso_yaw", sign * size * (yaw - self.rng.uniform(0, 0.05)) * share)
        add(self.channels, "torso_roll", sign * size * (roll + self.rng.uniform(-0.02, 0.03)) * share)
        if HAND_TARGETS[target].parent in _HEAD_BONES:
            add(self.channels, "head_pitch", size * self.rng.uniform(0.0, 0.1) * share)
            add(self.channels, "head_roll", sign * size * self.rng.uniform(-0.02, 0.08) * share)
            for each in SIDES if both else (side,):
                add(self.channels, f"lift.{each}", size * self.rng.uniform(0.05, 0.2) * share)

    def add_aborted_reaches(self) -> None:
        """Add reaches that stop early and return."""
        length = self.schedule.duration_s
        for _ in range(self.rng.poisson(0.6 * self.style.aborted * length / 60)):
            side = str(self.rng.choice(tuple(SIDES)))
            start = self.rng.uniform(-0.3, length - 0.5)
            span = Span(start, start + self.rng.uniform(0.6, 1.8))
            free = all(
                name not in (f"hand.{side}",) or end < span.start_s - 0.6 or begin > span.end_s + 0.6
                for name, begin, end in self.busy
            )
            if not free:
                continue
            target = str(
                self.rng.choice(("cheek", "chest", "front_low", "front", "other_forearm", "rest_thigh", "rest_belly"))
            )
            most = self.rng.uniform(0.08, 0.3)
            share = most * np.clip(hold_track(self.rng, span, self.style, 0.45).sample(self.times_s), 0, 1)
            motion = make_rest_motion(self.rng, self.times_s, self.style.ambient)
            self.visits[side].append((span.start_s, Visit(target, share, motion)))

    def build(self) -> Performance:
        """Return the performance, with visits sorted by start."""
        props = frozenset(prop for event in self.schedule.events if (prop := BY_CODE[event.code].prop) is not None)
        visits = {
            side: [visit for _, visit in sorted(entries, key=lambda entry: entry[0])]
            for side, entries in self.visits.items()
        }
        return Performance(self.times_s, self.channels, self.rest, visits, self.expressions, self.holders, props)
