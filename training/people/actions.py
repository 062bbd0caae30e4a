"""The 52 micro-actions as a table: what moves, by how much, what is held meanwhile, what must be in the picture.

Angles are in radians, lengths in metres, rates in cycles a second. A channel written with "±" takes the sign of the
event's side (left is positive); one that ends in "." belongs to a side and is meant for each side that takes part.
Adding an action to the data set's labels means adding an entry here.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

Range = tuple[float, float]
Sides = tuple[str, ...]  # ("left",), ("right",) or ("left", "right")


class Course(StrEnum):
    """How a movement runs through its time."""

    CYCLE = "cycle"  # to and fro, unevenly, and back
    HOLD = "hold"  # there, stays, and back
    STEP = "step"  # there, and stays for good


class Move(NamedTuple):
    """A channel's part in an action: its amplitude is drawn between low and high."""

    channel: str
    low: float
    high: float


class Hand(NamedTuple):
    """What a hand does.

    Attributes:
        places: where it goes, see places.py; one is chosen.
        motion: what it does there, see hands.py.
        curl: how far the fingers bend, 0 flat to 1 a fist.
        point: the index finger is straighter than the others.
        size: of the motion there, metres.
        rate_hz: of the motion there.
    """

    places: tuple[str, ...]
    motion: str = "still"
    curl: Range = (0.1, 0.3)
    point: bool = False
    size: Range = (0.005, 0.015)
    rate_hz: Range = (1.5, 3.5)


@dataclass(frozen=True)
class Action:
    """One micro-action.

    Attributes:
        code: of the label list.
        holds: what no other action may use meanwhile: head_pitch, head_yaw, head_roll, head_shake, torso; shoulder, hand and leg
            are held on each side that takes part; other_hand is the hand of the other side.
        shows: what must be in the picture for it to be seen: head, torso, hand, thigh, foot.
        moves: channels, of a movement of head, torso or legs.
        hand: of a movement of hands.
        course: how it runs.
        rate_hz: of a cycle.
        rising: a cycle moves to one side of rest only (a nod) instead of both (a shake).
        both: probability that both sides take part; sided and centred actions alike have a side.
        prop: what the hand holds or the person wears.
    """

    code: str
    holds: tuple[str, ...]
    shows: tuple[str, ...]
    moves: tuple[Move, ...] = ()
    hand: Hand | None = None
    course: Course = Course.HOLD
    rate_hz: Range = (1.0, 2.0)
    rising: bool = False
    both: float = 0.0
    prop: str | None = None


HEAD, TORSO, HAND, THIGH, FOOT = "head", "torso", "hand", "thigh", "foot"


def _head(code: str, holds: str, *moves: Move, course: Course = Course.HOLD, rate_hz: Range = (1.0, 2.0),
          rising: bool = False) -> Action:  # fmt: skip
    return Action(code, (holds,), (HEAD,), moves, course=course, rate_hz=rate_hz, rising=rising)


def _hand(code: str, shows: str, hand: Hand, *, both: float = 0.0, holds: tuple[str, ...] = ("hand",),
          moves: tuple[Move, ...] = (), prop: str | None = None, course: Course = Course.HOLD) -> Action:  # fmt: skip
    return Action(code, holds, (shows, HAND), moves, hand, course=course, both=both, prop=prop)


BOTH_HANDS = ("hand", "other_hand")

ACTIONS: tuple[Action, ...] = (
    # A: the body
    Action("A1", ("torso",), (TORSO,), (Move("±torso_roll", 0.08, 0.22), Move("±lean_x", 0.0, 0.04), Move("±torso_yaw", -0.06, 0.1)),
           course=Course.CYCLE, rate_hz=(0.4, 1.3)),
    Action("A2", ("torso", "head_yaw"), (TORSO,), (Move("±torso_yaw", 0.4, 0.75), Move("±pelvis_yaw", 0.15, 0.55), Move("±head_yaw", 0.05, 0.5))),
    Action("A3", ("torso",), (TORSO,), (Move("slump", -0.75, -0.4),), course=Course.STEP),
    Action("A4", ("shoulder",), (TORSO,), (Move("lift.", 0.3, 0.75), Move("forward.", -0.12, 0.15)), both=0.65),
    Action("A5", ("torso",), (TORSO, THIGH), (Move("rise", 0.1, 0.3), Move("torso_pitch", 0.45, 0.85), Move("head_pitch", -0.4, -0.1)), both=1.0),
    # B: the head
    _head("B1", "head_pitch", Move("head_pitch", 0.1, 0.34), course=Course.CYCLE, rate_hz=(1.0, 2.4), rising=True),
    _head("B2", "head_shake", Move("±head_yaw", 0.14, 0.5), course=Course.CYCLE, rate_hz=(0.9, 2.2)),
    _head("B3", "head_yaw", Move("±head_yaw", 0.35, 1.1), Move("head_pitch", -0.1, 0.12)),
    _head("B4", "head_roll", Move("±head_roll", 0.2, 0.5), Move("±head_yaw", -0.08, 0.08)),
    _head("B5", "head_pitch", Move("head_pitch", 0.32, 0.75)),
    _head("B6", "head_pitch", Move("head_pitch", -0.55, -0.25)),
    # C: upper limbs
    _hand("C1", HAND, Hand(("front", "front_wide", "front_high"), "illustrate", (0.1, 0.45), size=(0.05, 0.12), rate_hz=(0.5, 1.3)), both=0.6),
    _hand("C2", HAND, Hand(("lap", "knee", "front_low"), "finger", (0.1, 0.4), size=(0.25, 0.6), rate_hz=(1.0, 3.0)), both=0.35),
    _hand("C3", HAND, Hand(("lap_joined",), "fiddle", (0.25, 0.5), size=(0.008, 0.025), rate_hz=(0.7, 2.2)), both=1.0),
    _hand("C4", HAND, Hand(("out_forward", "out_sideways", "out_up"), curl=(0.02, 0.2)), both=0.45),
    _hand("C5", HAND, Hand(("wave_high", "wave_low"), "wave", (0.0, 0.15), size=(0.25, 0.6), rate_hz=(1.2, 2.8)), both=0.25),
    _hand("C6", HAND, Hand(("other_forearm", "other_upper_arm"), "scratch", (0.35, 0.6), size=(0.015, 0.04), rate_hz=(1.4, 3.4)), holds=BOTH_HANDS),
    _hand("C7", HAND, Hand(("open_palm", "open_palm_wide"), "open", (0.0, 0.2), size=(0.01, 0.03), rate_hz=(0.5, 1.2)), both=0.6),
    _hand("C8", HAND, Hand(("toy", "toy_low"), "play", (0.45, 0.7), size=(0.15, 0.5), rate_hz=(0.6, 2.0)), both=0.4, prop="toy"),
    _hand("C9", HAND, Hand(("palms_joined", "palms_joined_low"), curl=(0.02, 0.12)), both=1.0),
    _hand("C10", HAND, Hand(("out_forward", "out_sideways", "out_up"), curl=(0.02, 0.2)), both=0.3, course=Course.STEP),
    _hand("C11", TORSO, Hand(("self",), "tap", (0.5, 0.9), point=True, size=(0.01, 0.03), rate_hz=(0.8, 2.0)), both=0.1),
    _hand("C12", HAND, Hand(("fist_low", "fist_front"), "clench", (0.85, 1.0), size=(0.15, 0.5), rate_hz=(0.5, 1.2)), both=0.4),
    _hand("C13", HAND, Hand(("rub_joined",), "rub_palms", (0.05, 0.25), size=(0.025, 0.05), rate_hz=(1.2, 3.2)), both=1.0),
    # D: lower limbs
    Action("D1", ("leg",), (FOOT,), (Move("heel.", 0.35, 0.75),), both=0.5),
    Action("D2", ("leg",), (FOOT,), (Move("foot_back.", 0.12, 0.24), Move("heel.", 0.0, 0.25)), course=Course.STEP, both=0.4),
    Action("D3", ("leg",), (THIGH,), (Move("heel.", 0.1, 0.3), Move("knee_out.", 0.0, 0.25)), course=Course.CYCLE, rate_hz=(1.8, 6.0), rising=True, both=0.3),
    Action("D4", ("leg",), (FOOT,), (Move("foot_back.", -0.38, -0.16), Move("foot_out.", -0.02, 0.16), Move("heel.", -0.35, 0.0)), both=0.3),
    Action("D5", ("leg",), (THIGH,), (Move("knee_out.", -0.75, -0.45), Move("foot_out.", -0.07, -0.02)), course=Course.STEP, both=1.0),
    Action("D6", ("leg",), (THIGH,), (Move("knee_out.", 0.5, 0.9), Move("foot_out.", 0.02, 0.1)), course=Course.STEP, both=1.0),
    Action("D7", ("leg", "other_leg"), (THIGH,), (Move("cross.", 1.0, 1.0),)),
    Action("D8", ("leg", "other_leg"), (FOOT,), (Move("ankle_cross.", 0.8, 1.1),)),
    # E: hand and body
    _hand("E1", TORSO, Hand(("chest",), "scratch", (0.15, 0.4), size=(0.01, 0.03))),
    _hand("E2", TORSO, Hand(("neck", "neck_side"), "scratch", (0.2, 0.45), size=(0.008, 0.025)), moves=(Move("±head_roll", -0.2, 0.05), Move("head_pitch", -0.05, 0.15))),
    _hand("E3", TORSO, Hand(("back", "back_low"), "scratch", (0.1, 0.35), size=(0.01, 0.03)), moves=(Move("±torso_yaw", 0.05, 0.3), Move("torso_pitch", 0.05, 0.2), Move("forward.", -0.35, -0.15))),
    _hand("E4", TORSO, Hand(("hip",), curl=(0.1, 0.35)), both=0.7),
    _hand("E5", TORSO, Hand(("crossed",), curl=(0.25, 0.4)), both=1.0),
    _hand("E6", TORSO, Hand(("other_shoulder",), "scratch", (0.15, 0.4), size=(0.008, 0.025)), moves=(Move("forward.", 0.1, 0.3),)),
    # F: hand and head
    _hand("F1", HEAD, Hand(("nose",), "rub", (0.5, 0.85), point=True, size=(0.004, 0.012))),
    _hand("F2", HEAD, Hand(("cheek", "chin", "jaw"), "scratch", (0.2, 0.55), size=(0.006, 0.02))),
    _hand("F3", HEAD, Hand(("hair_side", "hair_top"), "stroke", (0.15, 0.45), size=(0.02, 0.06), rate_hz=(0.7, 1.8)), moves=(Move("±head_roll", -0.15, 0.1),)),
    _hand("F4", HEAD, Hand(("hindbrain",), "scratch", (0.2, 0.45), size=(0.008, 0.03)), moves=(Move("head_pitch", 0.0, 0.25),)),
    _hand("F5", HEAD, Hand(("glasses_bridge", "glasses_side"), "push", (0.4, 0.8), point=True, size=(0.006, 0.015), rate_hz=(0.8, 1.6)), prop="glasses"),
    _hand("F6", HEAD, Hand(("eye",), "rub", (0.45, 0.8), point=True, size=(0.008, 0.018)), both=0.25, moves=(Move("head_pitch", 0.05, 0.25),)),
    _hand("F7", HEAD, Hand(("forehead",), "scratch", (0.2, 0.5), size=(0.008, 0.03)), moves=(Move("head_pitch", 0.0, 0.2),)),
    _hand("F8", HEAD, Hand(("ear",), "rub", (0.35, 0.65), point=True, size=(0.005, 0.015))),
    _hand("F9", HEAD, Hand(("mouth",), "still", (0.1, 0.35))),
    _hand("F10", HEAD, Hand(("face",), "still", (0.02, 0.2)), both=0.85, moves=(Move("head_pitch", 0.1, 0.35), Move("torso_pitch", 0.0, 0.15))),
    # G: hand and leg
    _hand("G1", THIGH, Hand(("thigh", "knee_top"), "stroke", (0.05, 0.25), size=(0.03, 0.09), rate_hz=(0.4, 1.4)), both=0.4),
    _hand("G2", THIGH, Hand(("thigh", "knee_top"), "pat", (0.05, 0.2), size=(0.04, 0.1), rate_hz=(1.4, 3.2)), both=0.4),
    _hand("G3", FOOT, Hand(("shin", "calf"), "scratch", (0.3, 0.55), size=(0.015, 0.04)), holds=("hand", "torso"), moves=(Move("torso_pitch", 0.9, 1.2), Move("head_pitch", -0.2, 0.1), Move("forward.", 0.1, 0.25))),
    _hand("G4", FOOT, Hand(("foot",), "scratch", (0.3, 0.55), size=(0.01, 0.03)), holds=("hand", "torso"), moves=(Move("torso_pitch", 1.3, 1.5), Move("head_pitch", -0.4, -0.1), Move("forward.", 0.2, 0.35))),
)  # fmt: skip

BY_CODE: dict[str, Action] = {action.code: action for action in ACTIONS}

_SIDED = frozenset({"shoulder", "hand", "leg"})
_OTHER = {"left": "right", "right": "left"}


def held(action: Action, sides: Sides) -> frozenset[str]:
    """What an event of this action on these sides holds: head_pitch, torso, hand.left, leg.right ...

    What a hand does to body, head or a thing is done once at a time: such an action holds its own name.
    """
    resources = {action.code} if action.code[0] in "EF" or action.prop else set()
    for name in action.holds:
        if name in _SIDED:
            resources |= {f"{name}.{side}" for side in sides}
        elif name.startswith("other_"):
            resources |= {f"{name.removeprefix('other_')}.{_OTHER[side]}" for side in sides}
        else:
            resources.add(name)
    return frozenset(resources)
