"""A schedule performed: what every channel and both hands do over time."""

from dataclasses import dataclass

import numpy as np

from training.people import ambient_motion
from training.people.actions import BY_CODE, Action, Course
from training.people.actions import held as resources_of
from training.people.ambient_motion import Channels, add
from training.people.hand_targets import AT_REST, PLACES
from training.people.hands import Doing, Visit, make_motion, rest_motion, sharing
from training.people.schedules.schedule import Event, Schedule
from training.people.skeleton import OTHER, SIDES
from training.people.timing import Floats, Span, Style, Track, cycled, held, stepped

# What moves along with a channel: which, by which share, how much later.
FOLLOWERS = {
    "head_pitch": (("torso_pitch", 0.07, 0.06), ("lift.left", -0.03, 0.08), ("lift.right", -0.03, 0.08)),
    "head_yaw": (("torso_yaw", 0.12, 0.07), ("head_roll", 0.05, 0.0)),
    "head_roll": (("torso_roll", 0.1, 0.05), ("head_yaw", 0.08, 0.0)),
    "torso_yaw": (("head_yaw", -0.25, 0.1),),
    "torso_roll": (("head_roll", -0.35, 0.05),),
    "torso_pitch": (("head_pitch", -0.2, 0.05),),
}
_HEAD_PLACES = ("head", "neck01")
_BOWING = ("G3", "G4")
_EMPTY_HANDED = frozenset({"C3", "C9", "C12", "C13", "F10"})  # what nobody does with something in hand
_HOLDING = 0.3  # share of the others who hold something
_ON_LEGS = ("G1", "G2")
_JOINED_REST = ("rest_joined", "rest_belly")
_SLOW = {"cross": 0.9, "ankle_cross": 0.8, "rise": 0.9}  # seconds that a ramp of these takes


@dataclass(frozen=True)
class Performance:
    """A person's movements.

    Attributes:
        times_s: (frames,).
        channels: name -> (frames,).
        rest, visits: of each side's hand.
        faces: (frames, 4) strengths of the expressions.
        holders: sides of the hands that hold something all along.
        props: what must be there because an action needs it.
    """

    times_s: Floats
    channels: Channels
    rest: dict[str, Visit]
    visits: dict[str, list[Visit]]
    faces: Floats
    holders: tuple[str, ...]
    props: frozenset[str]


def perform(rng: np.random.Generator, schedule: Schedule, times_s: Floats, style: Style) -> Performance:
    """Everything a person does in a video."""
    stage = _Stage(rng, schedule, times_s, style)
    stage.sit()
    for event in schedule.events:
        stage.act(event)
    stage.abort_reaches()
    return stage.finish()


class _Stage:
    """Gathers the channels and visits of one performance."""

    def __init__(self, rng: np.random.Generator, schedule: Schedule, times_s: Floats, style: Style) -> None:
        self.rng, self.schedule, self.times_s, self.style = rng, schedule, times_s, style
        self.channels: Channels = {}
        self.visits: dict[str, list[tuple[float, Visit]]] = {side: [] for side in SIDES}
        self.busy = [
            (resource, event.start_s, event.end_s)
            for event in schedule.events
            for resource in resources_of(BY_CODE[event.code], event.sides)
        ]
        self._stepped: dict[tuple[str, str], int] = {}  # action and channel: how often

    def sit(self) -> None:
        """Posture, places of rest, and life."""
        frames = len(self.times_s)
        ambient_motion.sit_somehow(self.rng, self.channels, frames)
        for event in self.schedule.events:  # whose heel goes up does not sit on tiptoe before
            for side in event.sides if event.code in ("D1", "D3") else ():
                self.channels.pop(f"heel.{side}", None)
        self._make_room()
        ambient_motion.breathe(self.rng, self.times_s, self.channels, self.rng.uniform(0.6, 1.4))
        ambient_motion.sway(
            self.rng, self.times_s, self.channels, self.style.idle * float(np.exp(self.rng.normal(0, 0.4)))
        )
        ambient_motion.begin_things(self.rng, self.times_s, self.channels, self.style, self.busy)
        self.faces = ambient_motion.make_faces(self.rng, self.times_s, self.channels)
        chosen = str(self.rng.choice(AT_REST, p=self._rest_odds()))
        places = dict.fromkeys(SIDES, chosen)
        if chosen not in _JOINED_REST and self.rng.random() < 0.3:
            places["left"] = str(self.rng.choice(("rest_thigh", "rest_knee", "rest_inside", "rest_seat")))
        top = str(self.rng.choice(tuple(SIDES)))
        self.rest = {
            side: Visit(
                places[side],
                np.ones(frames),
                rest_motion(self.rng, self.times_s, self.style.idle),
                side == top,
            )
            for side in SIDES
        }
        self.holders = self._holders()

    def _holders(self) -> tuple[str, ...]:
        """Hands with something in them, all along; most do nothing with it."""
        codes = {event.code for event in self.schedule.events}
        playing = {
            side
            for event in self.schedule.events
            if BY_CODE[event.code].prop == "toy"
            for side in event.sides[:1]
        }
        if not playing and not codes & _EMPTY_HANDED and self.rng.random() < _HOLDING:
            playing = {str(self.rng.choice(tuple(SIDES)))}
        return tuple(sorted(playing))

    def _rest_odds(self) -> Floats:
        """Of each place of AT_REST; hands that will come to lie on a leg start elsewhere more often."""
        odds = np.array((0.22, 0.16, 0.14, 0.2, 0.16, 0.12))
        if any(event.code in _ON_LEGS for event in self.schedule.events):
            odds *= (0.7, 0.7, 1.0, 1.2, 1.2, 1.2)
        return np.asarray(odds / odds.sum())

    def _make_room(self) -> None:
        """A posture from which the first steps of the schedule can be made; others sit like that by chance."""
        first = {event.code: event for event in reversed(self.schedule.events)}
        if "A3" in first and self.channels["slump"][0] < 0.5:
            self.channels["slump"][:] = ambient_motion.draw_slump(self.rng)
        closes = "D5" in first and ("D6" not in first or first["D5"].start_s < first["D6"].start_s)
        apart, forward = ambient_motion.draw_apart(self.rng), ambient_motion.draw_forward(self.rng)
        for side in SIDES:
            knee, foot = self.channels[f"knee_out.{side}"], self.channels[f"foot_back.{side}"]
            if closes and knee[0] < 0.45:
                knee[:] = apart + self.rng.normal(0, 0.05)
            if "D6" in first and not closes and knee[0] > 0.35:
                knee[:] = self.rng.normal(0.08, 0.08)
            if "D2" in first and foot[0] > -0.04:
                foot[:] = forward

    def act(self, event: Event) -> None:
        """One event."""
        action = BY_CODE[event.code]
        span = self._span(event)
        if action.hand is not None:
            self._reach(action, event, span)
        if action.moves and action.course is Course.STEP and action.hand is None:
            self._step(action, event, span)
        elif action.moves:
            self._move(action, event, span)

    def _span(self, event: Event) -> Span:
        end = self.schedule.duration_s
        return Span(event.start_s, event.end_s, event.start_s <= 0, event.end_s >= end - 1e-6)

    def _amounts(self, action: Action, event: Event) -> dict[str, float]:
        """Channel -> amplitude of this event."""
        sign = SIDES[event.sides[0]]
        amounts: dict[str, float] = {}
        effort = self.rng.uniform(0, 1)  # who moves one channel far moves the others far
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

    def _move(self, action: Action, event: Event, span: Span) -> None:
        """There and back, once or many times."""
        rate = self.rng.uniform(*action.rate_hz)
        shared: Track | None = None
        for name, amount in self._amounts(action, event).items():
            if shared is None or name.split(".")[0] in _SLOW or self.rng.random() < 0.25:
                shared = self._track(action, span, name, rate)
            self._add_with_followers(name, amount * shared.at(self.times_s))

    def _track(self, action: Action, span: Span, name: str, rate_hz: float) -> Track:
        if action.course is Course.CYCLE:
            return cycled(self.rng, span, self.style, rate_hz, rising=action.rising)
        if action.code in _BOWING:
            return held(self.rng, span, self.style, self.rng.uniform(0.9, 1.3))
        typical = _SLOW.get(name.split(".")[0], self.rng.uniform(0.35, 0.65))
        return held(self.rng, span, self.style, typical)

    def _add_with_followers(self, name: str, values: Floats) -> None:
        add(self.channels, name, values)
        for follower, share, later_s in FOLLOWERS.get(name, ()):
            part = share * self.rng.uniform(0.3, 1.6)
            add(self.channels, follower, part * np.interp(self.times_s - later_s, self.times_s, values))

    def _step(self, action: Action, event: Event, span: Span) -> None:
        """There for good."""
        amounts = self._amounts(action, event)
        for name in amounts:  # who has gone there already has less of the way left
            amounts[name] *= 0.4 ** self._stepped.get((event.code, name), 0)
            self._stepped[event.code, name] = self._stepped.get((event.code, name), 0) + 1
        track = stepped(self.rng, span, self.style).at(self.times_s)
        for name, amount in amounts.items():
            self._add_with_followers(name, amount * track)

    def _reach(self, action: Action, event: Event, span: Span) -> None:
        """Hands to a place and back."""
        assert action.hand is not None
        if event.code == "C10" and self._continues(event):
            return  # the arm that was stretched comes back: see _share
        place = str(self.rng.choice(action.hand.places))
        sides = (
            tuple(SIDES) if sharing(place) or (place == "toy_low" and len(event.sides) == 2) else event.sides
        )
        share = self._share(event, span)
        size, rate = self.rng.uniform(*action.hand.size), self.rng.uniform(*action.hand.rate_hz)
        seed = int(self.rng.integers(2**32))
        top = str(self.rng.choice(tuple(SIDES)))
        for side in sides:
            # Hands that meet share their cycles; others have their own.
            rng = np.random.default_rng(seed) if sharing(place) else self.rng
            doing = Doing(rng, self.times_s, span, self.style, size, rate, side)
            late = 0.0 if sharing(place) else self.rng.uniform(0, 0.06)
            own = np.interp(self.times_s - late, self.times_s, share)
            self.visits[side].append(
                (event.start_s, Visit(place, own, make_motion(action.hand, doing), side == top))
            )
        self._lean(place, event.sides[0], len(sides) == 2, share)
        if event.code in _BOWING and len(sides) == 1:
            self._support(OTHER[event.sides[0]], event, share)

    def _support(self, side: str, event: Event, share: Floats) -> None:
        """Who bows far leans on the knee with the other hand, if that is free."""
        taken = (
            name == f"hand.{side}" and start < event.end_s + 0.5 and end > event.start_s - 0.5
            for name, start, end in self.busy
        )  # fmt: skip
        if not any(taken):
            motion = rest_motion(self.rng, self.times_s, self.style.idle)
            self.visits[side].append((event.start_s, Visit("rest_knee", share, motion)))

    def _continues(self, event: Event) -> bool:
        return any(
            other.code == "C4" and other.sides == event.sides and abs(other.end_s - event.start_s) < 1e-6
            for other in self.schedule.events
        )

    def _share(self, event: Event, span: Span) -> Floats:
        """How far a hand is at its place; a stretched arm that is drawn back later stays until then."""
        if event.code == "C10":
            return 1 - stepped(self.rng, span, self.style).at(self.times_s)
        after = next(
            (other for other in self.schedule.events
             if event.code == "C4" and other.code == "C10" and other.sides == event.sides
             and abs(other.start_s - event.end_s) < 1e-6), None,
        )  # fmt: skip
        typical = self.rng.uniform(0.7, 1.2) if event.code in ("C4", *_BOWING) else self.rng.uniform(0.4, 0.8)
        if after is None:
            return held(self.rng, span, self.style, typical).at(self.times_s)
        typical = min(typical, 0.6 * span.length_s / self.style.pace)  # it is stretched before it comes back
        there = held(
            self.rng,
            Span(span.start_s, self.schedule.duration_s + 2, span.open_start, True),
            self.style,
            typical,
        )
        back = stepped(self.rng, self._span(after), self.style)
        return there.at(self.times_s) * (1 - back.at(self.times_s))

    def _lean(self, place: str, side: str, both: bool, share: Floats) -> None:
        """The trunk goes along with a reach, and the head comes to meet the hand."""
        sign = 0.0 if both else SIDES[side]
        pitch, yaw, roll = PLACES[place].lean
        size = self.rng.uniform(0.5, 1.3)
        add(self.channels, "torso_pitch", size * (pitch + self.rng.uniform(0, 0.04)) * share)
        add(self.channels, "torso_yaw", sign * size * (yaw - self.rng.uniform(0, 0.05)) * share)
        add(self.channels, "torso_roll", sign * size * (roll + self.rng.uniform(-0.02, 0.03)) * share)
        if PLACES[place].on in _HEAD_PLACES:
            add(self.channels, "head_pitch", size * self.rng.uniform(0.0, 0.1) * share)
            add(self.channels, "head_roll", sign * size * self.rng.uniform(-0.02, 0.08) * share)
            for each in SIDES if both else (side,):
                add(self.channels, f"lift.{each}", size * self.rng.uniform(0.05, 0.2) * share)

    def abort_reaches(self) -> None:
        """Hands that set out for somewhere and turn back."""
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
            place = str(
                self.rng.choice(
                    ("cheek", "chest", "front_low", "front", "other_forearm", "rest_thigh", "rest_belly")
                )
            )
            most = self.rng.uniform(0.08, 0.3)
            share = most * np.clip(held(self.rng, span, self.style, 0.45).at(self.times_s), 0, 1)
            motion = rest_motion(self.rng, self.times_s, self.style.idle)
            self.visits[side].append((span.start_s, Visit(place, share, motion)))

    def finish(self) -> Performance:
        """Everything gathered, in order of time."""
        props = frozenset(
            prop for event in self.schedule.events if (prop := BY_CODE[event.code].prop) is not None
        )
        visits = {
            side: [visit for _, visit in sorted(found, key=lambda entry: entry[0])]
            for side, found in self.visits.items()
        }
        return Performance(self.times_s, self.channels, self.rest, visits, self.faces, self.holders, props)
