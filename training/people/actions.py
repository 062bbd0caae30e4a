"""The table of the 52 micro-actions: what moves and by how much, exclusive resources, parts that must be visible.

Angles are in radians, lengths in metres, rates in cycles per second. A channel that starts with "±" is multiplied by
the sign of the event's side (left is positive). A channel that ends in "." exists once per side and is applied to each
side of the event. An action added to the data set's labels needs an entry here.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

Range = tuple[float, float]
Sides = tuple[str, ...]  # ("left",), ("right",) or ("left", "right")


class MotionProfile(StrEnum):
    """Time course of a movement."""

    CYCLE = "cycle"  # oscillate, irregularly, then return to rest
    HOLD = "hold"  # move, hold, return
    STEP = "step"  # move and stay


class Move(NamedTuple):
    """A channel of an action, and the range from which its amplitude is drawn."""

    channel: str
    low: float
    high: float


class HandAction(NamedTuple):
    """The movement of a hand in an action.

    Attributes:
        targets: keys of HAND_TARGETS; one is drawn.
        motion: key of hands.MOTIONS, performed at the target.
        curl: range of the fingers' bend, 0 flat to 1 a fist.
        point: the index finger is straighter than the others.
        size: range of the motion's amplitude, metres (radians or curl for some motions).
        rate_hz: range of the motion's rate.
    """

    targets: tuple[str, ...]
    motion: str = "still"
    curl: Range = (0.1, 0.3)
    point: bool = False
    size: Range = (0.005, 0.015)
    rate_hz: Range = (1.5, 3.5)


@dataclass(frozen=True)
class Action:
    """One micro-action.

    Attributes:
        code: in the label list.
        resources: exclusive resources, which no concurrent action may use: head_pitch, head_yaw, head_roll, head_shake,
            torso; shoulder, hand and leg, once per side of the event; other_hand and other_leg of the opposite side.
        visible_parts: what must be visible for the action to be labelled: head, torso, hand, thigh, foot.
        moves: channels moved of head, torso or legs.
        hand: movement of the hands, if any.
        profile: time course of the moves.
        rate_hz: range of a cycle's rate.
        rising: cycles stay on one side of rest (a nod) instead of crossing it (a shake).
        both: probability that both sides take part. Every event has a side, even if the action is symmetric.
        prop: what the hand holds or the person wears.
    """

    code: str
    resources: tuple[str, ...]
    visible_parts: tuple[str, ...]
    moves: tuple[Move, ...] = ()
    hand: HandAction | None = None
    profile: MotionProfile = MotionProfile.HOLD
    rate_hz: Range = (1.0, 2.0)
    rising: bool = False
    both: float = 0.0
    prop: str | None = None


HEAD, TORSO, HAND, THIGH, FOOT = "head", "torso", "hand", "thigh", "foot"


def _head_action(code: str, resources: str, *moves: Move, profile: MotionProfile = MotionProfile.HOLD, rate_hz: Range = (1.0, 2.0),
          rising: bool = False) -> Action:  # fmt: skip
    return Action(code, (resources,), (HEAD,), moves, profile=profile, rate_hz=rate_hz, rising=rising)


def _hand_action(code: str, visible_parts: str, hand: HandAction, *, both: float = 0.0, resources: tuple[str, ...] = ("hand",),
          moves: tuple[Move, ...] = (), prop: str | None = None, profile: MotionProfile = MotionProfile.HOLD) -> Action:  # fmt: skip
    return Action(code, resources, (visible_parts, HAND), moves, hand, profile=profile, both=both, prop=prop)


BOTH_HANDS = ("hand", "other_hand")

ACTIONS: tuple[Action, ...] = (
    # A: the body
    Action("A1", ("torso",), (TORSO,), (Move("±torso_roll", 0.08, 0.22), Move("±lean_x", 0.0, 0.04), Move("±torso_yaw", -0.06, 0.1)),
           profile=MotionProfile.CYCLE, rate_hz=(0.4, 1.3)),
    Action("A2", ("torso", "head_yaw"), (TORSO,), (Move("±torso_yaw", 0.4, 0.75), Move("±pelvis_yaw", 0.15, 0.55), Move("±head_yaw", 0.05, 0.5))),
    Action("A3", ("torso",), (TORSO,), (Move("slump", -0.75, -0.4),), profile=MotionProfile.STEP),
    Action("A4", ("shoulder",), (TORSO,), (Move("lift.", 0.3, 0.75), Move("forward.", -0.12, 0.15)), both=0.65),
    Action("A5", ("torso",), (TORSO, THIGH), (Move("rise", 0.1, 0.3), Move("torso_pitch", 0.45, 0.85), Move("head_pitch", -0.4, -0.1)), both=1.0),
    # B: the head
    _head_action("B1", "head_pitch", Move("head_pitch", 0.1, 0.34), profile=MotionProfile.CYCLE, rate_hz=(1.0, 2.4), rising=True),
    _head_action("B2", "head_shake", Move("±head_yaw", 0.14, 0.5), profile=MotionProfile.CYCLE, rate_hz=(0.9, 2.2)),
    _head_action("B3", "head_yaw", Move("±head_yaw", 0.35, 1.1), Move("head_pitch", -0.1, 0.12)),
    _head_action("B4", "head_roll", Move("±head_roll", 0.2, 0.5), Move("±head_yaw", -0.08, 0.08)),
    _head_action("B5", "head_pitch", Move("head_pitch", 0.32, 0.75)),
    _head_action("B6", "head_pitch", Move("head_pitch", -0.55, -0.25)),
    # C: upper limbs
    _hand_action("C1", HAND, HandAction(("front", "front_wide", "front_high"), "illustrate", (0.1, 0.45), size=(0.05, 0.12), rate_hz=(0.5, 1.3)), both=0.6),
    _hand_action("C2", HAND, HandAction(("lap", "knee", "front_low"), "finger", (0.1, 0.4), size=(0.25, 0.6), rate_hz=(1.0, 3.0)), both=0.35),
    _hand_action("C3", HAND, HandAction(("lap_joined",), "fiddle", (0.25, 0.5), size=(0.008, 0.025), rate_hz=(0.7, 2.2)), both=1.0),
    _hand_action("C4", HAND, HandAction(("out_forward", "out_sideways", "out_up"), curl=(0.02, 0.2)), both=0.45),
    _hand_action("C5", HAND, HandAction(("wave_high", "wave_low"), "wave", (0.0, 0.15), size=(0.25, 0.6), rate_hz=(1.2, 2.8)), both=0.25),
    _hand_action("C6", HAND, HandAction(("other_forearm", "other_upper_arm"), "scratch", (0.35, 0.6), size=(0.015, 0.04), rate_hz=(1.4, 3.4)), resources=BOTH_HANDS),
    _hand_action("C7", HAND, HandAction(("open_palm", "open_palm_wide"), "open", (0.0, 0.2), size=(0.01, 0.03), rate_hz=(0.5, 1.2)), both=0.6),
    _hand_action("C8", HAND, HandAction(("toy", "toy_low"), "play", (0.45, 0.7), size=(0.15, 0.5), rate_hz=(0.6, 2.0)), both=0.4, prop="toy"),
    _hand_action("C9", HAND, HandAction(("palms_joined", "palms_joined_low"), curl=(0.02, 0.12)), both=1.0),
    _hand_action("C10", HAND, HandAction(("out_forward", "out_sideways", "out_up"), curl=(0.02, 0.2)), both=0.3, profile=MotionProfile.STEP),
    _hand_action("C11", TORSO, HandAction(("self",), "tap", (0.5, 0.9), point=True, size=(0.01, 0.03), rate_hz=(0.8, 2.0)), both=0.1),
    _hand_action("C12", HAND, HandAction(("fist_low", "fist_front"), "clench", (0.85, 1.0), size=(0.15, 0.5), rate_hz=(0.5, 1.2)), both=0.4),
    _hand_action("C13", HAND, HandAction(("rub_joined",), "rub_palms", (0.05, 0.25), size=(0.025, 0.05), rate_hz=(1.2, 3.2)), both=1.0),
    # D: lower limbs
    Action("D1", ("leg",), (FOOT,), (Move("heel.", 0.35, 0.75),), both=0.5),
    Action("D2", ("leg",), (FOOT,), (Move("foot_back.", 0.12, 0.24), Move("heel.", 0.0, 0.25)), profile=MotionProfile.STEP, both=0.4),
    Action("D3", ("leg",), (THIGH,), (Move("heel.", 0.1, 0.3), Move("knee_out.", 0.0, 0.25)), profile=MotionProfile.CYCLE, rate_hz=(1.8, 6.0), rising=True, both=0.3),
    Action("D4", ("leg",), (FOOT,), (Move("foot_back.", -0.38, -0.16), Move("foot_out.", -0.02, 0.16), Move("heel.", -0.35, 0.0)), both=0.3),
    Action("D5", ("leg",), (THIGH,), (Move("knee_out.", -0.75, -0.45), Move("foot_out.", -0.07, -0.02)), profile=MotionProfile.STEP, both=1.0),
    Action("D6", ("leg",), (THIGH,), (Move("knee_out.", 0.5, 0.9), Move("foot_out.", 0.02, 0.1)), profile=MotionProfile.STEP, both=1.0),
    Action("D7", ("leg", "other_leg"), (THIGH,), (Move("cross.", 1.0, 1.0),)),
    Action("D8", ("leg", "other_leg"), (FOOT,), (Move("ankle_cross.", 0.8, 1.1),)),
    # E: hand and body
    _hand_action("E1", TORSO, HandAction(("chest",), "scratch", (0.15, 0.4), size=(0.01, 0.03))),
    _hand_action("E2", TORSO, HandAction(("neck", "neck_side"), "scratch", (0.2, 0.45), size=(0.008, 0.025)), moves=(Move("±head_roll", -0.2, 0.05), Move("head_pitch", -0.05, 0.15))),
    _hand_action("E3", TORSO, HandAction(("back", "back_low"), "scratch", (0.1, 0.35), size=(0.01, 0.03)), moves=(Move("±torso_yaw", 0.05, 0.3), Move("torso_pitch", 0.05, 0.2), Move("forward.", -0.35, -0.15))),
    _hand_action("E4", TORSO, HandAction(("hip",), curl=(0.1, 0.35)), both=0.7),
    _hand_action("E5", TORSO, HandAction(("crossed",), curl=(0.25, 0.4)), both=1.0),
    _hand_action("E6", TORSO, HandAction(("other_shoulder",), "scratch", (0.15, 0.4), size=(0.008, 0.025)), moves=(Move("forward.", 0.1, 0.3),)),
    # F: hand and head
    _hand_action("F1", HEAD, HandAction(("nose",), "rub", (0.5, 0.85), point=True, size=(0.004, 0.012))),
    _hand_action("F2", HEAD, HandAction(("cheek", "chin", "jaw"), "scratch", (0.2, 0.55), size=(0.006, 0.02))),
    _hand_action("F3", HEAD, HandAction(("hair_side", "hair_top"), "stroke", (0.15, 0.45), size=(0.02, 0.06), rate_hz=(0.7, 1.8)), moves=(Move("±head_roll", -0.15, 0.1),)),
    _hand_action("F4", HEAD, HandAction(("hindbrain",), "scratch", (0.2, 0.45), size=(0.008, 0.03)), moves=(Move("head_pitch", 0.0, 0.25),)),
    _hand_action("F5", HEAD, HandAction(("glasses_bridge", "glasses_side"), "push", (0.4, 0.8), point=True, size=(0.006, 0.015), rate_hz=(0.8, 1.6)), prop="glasses"),
    _hand_action("F6", HEAD, HandAction(("eye",), "rub", (0.45, 0.8), point=True, size=(0.008, 0.018)), both=0.25, moves=(Move("head_pitch", 0.05, 0.25),)),
    _hand_action("F7", HEAD, HandAction(("forehead",), "scratch", (0.2, 0.5), size=(0.008, 0.03)), moves=(Move("head_pitch", 0.0, 0.2),)),
    _hand_action("F8", HEAD, HandAction(("ear",), "rub", (0.35, 0.65), point=True, size=(0.005, 0.015))),
    _hand_action("F9", HEAD, HandAction(("mouth",), "still", (0.1, 0.35))),
    _hand_action("F10", HEAD, HandAction(("face",), "still", (0.02, 0.2)), both=0.85, moves=(Move("head_pitch", 0.1, 0.35), Move("torso_pitch", 0.0, 0.15))),
    # G: hand and leg
    _hand_action("G1", THIGH, HandAction(("thigh", "knee_top"), "stroke", (0.05, 0.25), size=(0.03, 0.09), rate_hz=(0.4, 1.4)), both=0.4),
    _hand_action("G2", THIGH, HandAction(("thigh", "knee_top"), "pat", (0.05, 0.2), size=(0.04, 0.1), rate_hz=(1.4, 3.2)), both=0.4),
    _hand_action("G3", FOOT, HandAction(("shin", "calf"), "scratch", (0.3, 0.55), size=(0.015, 0.04)), resources=("hand", "torso"), moves=(Move("torso_pitch", 0.9, 1.2), Move("head_pitch", -0.2, 0.1), Move("forward.", 0.1, 0.25))),
    _hand_action("G4", FOOT, HandAction(("foot",), "scratch", (0.3, 0.55), size=(0.01, 0.03)), resources=("hand", "torso"), moves=(Move("torso_pitch", 1.3, 1.5), Move("head_pitch", -0.4, -0.1), Move("forward.", 0.2, 0.35))),
)  # fmt: skip

BY_CODE: dict[str, Action] = {action.code: action for action in ACTIONS}

_SIDED = frozenset({"shoulder", "hand", "leg"})
_OTHER = {"left": "right", "right": "left"}


def get_resources(action: Action, sides: Sides) -> frozenset[str]:
    """Return the exclusive resources of an event: head_pitch, torso, hand.left, leg.right ...

    Actions of a hand on the body, the head or a prop also hold a resource of their own code: they never overlap
    themselves.
    """
    resources = {action.code} if action.code[0] in "EF" or action.prop else set()
    for name in action.resources:
        if name in _SIDED:
            resources |= {f"{name}.{side}" for side in sides}
        elif name.startswith("other_"):
            resources |= {f"{name.removeprefix('other_')}.{_OTHER[side]}" for side in sides}
        else:
            resources.add(name)
    return frozenset(resources)
