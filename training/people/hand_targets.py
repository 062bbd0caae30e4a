"""The table of hand targets: a point, the orientation of the hand there, and the part of the hand that touches it.

Targets are given for the left side: +x is outward, -y forward, +z up; those of the right side are mirrored. Directions
refer to the rest pose (standing) and rotate with the target's parent.
"""

from enum import StrEnum
from typing import NamedTuple

Vector = tuple[float, float, float]


class Contact(StrEnum):
    """The part of the hand that touches the target."""

    TIP = "tip"  # fingertip of the index finger
    PADS = "pads"  # pads of the long fingers
    PALM = "palm"
    BACK = "back"  # back of the hand
    WRIST = "wrist"  # no contact: the wrist goes to the target, in the air


class HandTarget(NamedTuple):
    """A target position and orientation of a hand.

    Attributes:
        parent: what the target moves with: chest, lap, seat, or a bone; the suffix ".own" or ".other" selects the bone
            on the hand's own or on the other side.
        point: on the standard body; the nearest skin vertex is used. If `in_air`: offset from the parent's origin, for
            an arm of arms.ARM metres from shoulder to wrist.
        fingers, palm: directions in which the fingers point and the palm faces.
        elbow: direction in which the elbow points, in a frame between those of chest and hips.
        contact: part of the hand that touches the target.
        in_air: the target is not on the skin.
        lean: pitch, yaw (towards the hand's side) and roll of the trunk during the reach, radians.
        second_offset: offset of the upper hand if both hands have this target.
        pad: distance from the surface, metres.
    """

    parent: str
    point: Vector
    fingers: Vector
    palm: Vector
    elbow: Vector = (0.9, 0.25, -0.5)
    contact: Contact = Contact.PALM
    in_air: bool = False
    lean: Vector = (0.0, 0.0, 0.0)
    second_offset: Vector = (0.0, 0.0, 0.0)
    pad: float = 0.004


TIP, PADS, PALM, BACK, WRIST = Contact

HAND_TARGETS: dict[str, HandTarget] = {
    # at rest
    "rest_thigh": HandTarget("upperleg01.own", (0.13, -0.12, -0.20), (-0.25, -0.15, -1), (0, 1, 0), (0.35, 0.45, -0.75)),
    "rest_knee": HandTarget("upperleg01.own", (0.15, -0.12, -0.31), (-0.15, -0.1, -1), (0, 1, 0), (0.35, 0.45, -0.75)),
    "rest_inside": HandTarget("upperleg01.own", (0.09, -0.115, -0.215), (-0.55, -0.1, -0.85), (0.1, 1, 0.1), (0.35, 0.45, -0.75)),
    "rest_joined": HandTarget("lap", (0.05, 0.02, 0.09), (-0.75, -0.6, -0.3), (-0.35, 0.35, -0.9), (0.45, 0.75, -0.5), WRIST, True, second_offset=(0, -0.02, 0.03)),
    "rest_belly": HandTarget("spine04", (0.02, -0.13, 0.165), (-0.97, -0.1, -0.25), (0, 1, 0), (0.45, 0.7, -0.6), PALM, second_offset=(0, -0.03, 0.012)),
    "rest_seat": HandTarget("seat", (0.235, -0.06, 0.02), (0.05, -0.45, -1), (-1, 0.1, 0), (0.25, 0.95, 0.0), WRIST, True),
    # in the air, offsets from the middle of the chest
    "front": HandTarget("chest", (0.17, -0.33, -0.14), (-0.25, -0.9, 0.3), (-0.85, 0.1, -0.4), (0.45, 0.5, -0.75), WRIST, True),
    "front_wide": HandTarget("chest", (0.30, -0.28, -0.10), (0.1, -0.95, 0.25), (-0.85, 0.0, 0.35), (0.5, 0.5, -0.7), WRIST, True),
    "front_high": HandTarget("chest", (0.18, -0.30, 0.04), (-0.3, -0.5, 0.8), (-0.6, -0.6, 0.1), (0.8, 0.3, -0.7), WRIST, True),
    "front_low": HandTarget("lap", (0.14, -0.02, 0.20), (-0.3, -0.9, 0.0), (-0.6, 0.1, -0.7), (0.4, 0.6, -0.6), WRIST, True),
    "out_forward": HandTarget("chest", (0.20, -0.56, 0.06), (0.05, -1, 0.05), (-0.2, 0.1, -1), (0.6, 0.3, -0.8), WRIST, True, (0.12, 0.0, 0.0)),
    "out_sideways": HandTarget("chest", (0.66, -0.14, 0.06), (1, -0.15, 0.05), (0.0, -0.3, -1), (0.2, 0.5, -0.8), WRIST, True, (0.0, 0.05, 0.06)),
    "out_up": HandTarget("chest", (0.30, -0.10, 0.62), (0.1, 0.0, 1), (-0.4, -0.9, 0.0), (0.8, -0.2, -0.2), WRIST, True, (-0.08, 0.0, 0.0)),
    "wave_high": HandTarget("chest", (0.30, -0.22, 0.20), (0.15, -0.2, 1), (0.0, -1, 0), (0.7, 0.3, -0.8), WRIST, True),
    "wave_low": HandTarget("chest", (0.24, -0.34, -0.02), (0.05, -0.35, 0.9), (0.0, -1, -0.2), (0.8, 0.4, -0.6), WRIST, True),
    "open_palm": HandTarget("chest", (0.24, -0.34, -0.14), (0.3, -0.9, 0.1), (-0.15, -0.1, 1), (0.05, 0.4, -0.95), WRIST, True),
    "open_palm_wide": HandTarget("chest", (0.40, -0.26, -0.12), (0.7, -0.65, 0.1), (-0.15, -0.2, 1), (0.0, 0.4, -0.95), WRIST, True),
    "toy": HandTarget("chest", (0.10, -0.27, -0.19), (-0.75, -0.6, 0.25), (-0.35, 0.5, 0.65), (0.35, 0.5, -0.8), WRIST, True, second_offset=(-0.03, -0.01, 0.02)),
    "toy_low": HandTarget("lap", (0.09, 0.02, 0.15), (-0.7, -0.65, 0.2), (-0.35, 0.5, 0.65), (0.35, 0.6, -0.7), WRIST, True, second_offset=(-0.03, -0.01, 0.03)),
    "fist_low": HandTarget("upperleg01.own", (0.13, -0.12, -0.22), (-0.2, -0.2, -1), (-0.75, 0.75, 0), (0.5, 0.45, -0.75), pad=0.02),
    "fist_front": HandTarget("chest", (0.20, -0.32, -0.14), (-0.15, -0.9, 0.35), (-0.95, 0.1, 0.0), (0.8, 0.4, -0.6), WRIST, True),
    # both hands
    "lap_joined": HandTarget("lap", (0.06, 0.04, 0.14), (-0.72, -0.65, 0.05), (-0.5, 0.45, -0.6), (0.4, 0.65, -0.6), WRIST, True, second_offset=(0.0, 0.0, 0.03)),
    "palms_joined": HandTarget("chest", (0.002, -0.36, -0.06), (0.0, -0.7, 0.7), (-1, 0, 0), (0.5, 0.5, -0.8), PALM, True, pad=0.0),
    "palms_joined_low": HandTarget("lap", (0.002, -0.06, 0.19), (0.0, -0.97, 0.2), (-1, 0, 0), (0.4, 0.7, -0.7), PALM, True, pad=0.0),
    "rub_joined": HandTarget("chest", (0.002, -0.37, -0.14), (0.0, -0.9, 0.35), (-1, 0.0, 0), (0.45, 0.6, -0.8), PALM, True, pad=0.0),
    "crossed": HandTarget("chest", (-0.07, -0.175, -0.09), (-0.85, 0.5, 0.15), (0.4, 0.9, 0.0), (0.5, -0.1, -0.9), WRIST, True, second_offset=(0.0, -0.05, 0.03)),
    # on the other arm
    "other_forearm": HandTarget("lowerarm01.other", (0.367, -0.173, 0.363), (-0.93, 0.33, 0.16), (-0.28, 0.93, -0.25), (0.8, 0.2, -0.65), PADS),
    "other_upper_arm": HandTarget("upperarm01.other", (0.235, -0.06, 0.43), (-0.8, 0.55, 0.2), (0.5, 0.85, -0.1), (0.4, -0.2, -0.9), PADS),
    # on the trunk
    "chest": HandTarget("chest", (-0.03, -0.155, 0.40), (-0.85, 0.05, 0.5), (0.0, 1, 0.0), (0.9, -0.1, -0.6), PADS),
    "self": HandTarget("chest", (-0.01, -0.15, 0.42), (-0.75, 0.6, 0.25), (0.6, 0.75, 0.1), (0.6, -0.1, -0.8), TIP, pad=0.006),
    "neck": HandTarget("neck01", (0.045, -0.065, 0.575), (-0.55, 0.35, 0.75), (-0.75, 0.6, 0.0), (0.55, 0.0, -0.85), PADS),
    "neck_side": HandTarget("neck01", (0.052, 0.02, 0.59), (-0.35, 0.88, 0.32), (-0.85, -0.35, -0.2), (0.35, -0.2, -0.9), PADS),
    "back": HandTarget("spine04", (0.06, 0.09, 0.19), (-0.9, 0.0, -0.3), (0, 1, 0), (0.8, 0.7, -0.5), BACK, lean=(0.08, 0.1, 0.0)),
    "back_low": HandTarget("spine05", (0.07, 0.09, 0.10), (-0.8, 0.0, -0.6), (0, 1, 0), (0.9, 0.7, -0.3), BACK, lean=(0.1, 0.1, 0.0)),
    "hip": HandTarget("spine05", (0.165, -0.02, 0.13), (-0.25, -0.8, -0.5), (-1, 0.25, 0.0), (1.0, 0.35, 0.1)),
    "other_shoulder": HandTarget("shoulder01.other", (0.15, -0.06, 0.565), (-0.75, 0.6, 0.2), (-0.1, 0.6, -0.85), (0.4, -0.4, -0.85), PADS),
    # on the head
    "nose": HandTarget("head", (0.004, -0.165, 0.688), (-0.4, 0.35, 0.85), (-0.45, 0.75, -0.4), (0.4, 0.0, -1), TIP, pad=0.006),
    "cheek": HandTarget("head", (0.052, -0.10, 0.675), (-0.25, 0.4, 0.9), (-0.85, 0.5, 0.0), (0.35, 0.0, -1), PADS),
    "chin": HandTarget("head", (0.012, -0.135, 0.612), (-0.6, 0.3, 0.75), (-0.3, 0.85, 0.1), (0.3, 0.0, -1), PADS),
    "jaw": HandTarget("head", (0.052, -0.075, 0.632), (-0.3, 0.45, 0.85), (-0.85, 0.5, 0.15), (0.35, 0.0, -1), PADS),
    "hair_side": HandTarget("head", (0.082, -0.02, 0.80), (-0.15, 0.75, 0.6), (-0.95, 0.2, -0.1), (0.85, -0.45, -0.4), PALM),
    "hair_top": HandTarget("head", (0.045, -0.055, 0.845), (-0.4, 0.85, 0.25), (-0.3, 0.1, -1), (0.9, -0.4, 0.0), PALM),
    "hindbrain": HandTarget("head", (0.06, 0.06, 0.73), (-0.85, 0.2, 0.35), (-0.5, -0.85, 0.0), (0.95, -0.3, 0.35), PALM),
    "glasses_bridge": HandTarget("head", (0.004, -0.155, 0.72), (-0.4, 0.4, 0.85), (-0.3, 0.85, -0.4), (0.4, 0.0, -1), TIP, pad=0.012),
    "glasses_side": HandTarget("head", (0.06, -0.115, 0.728), (-0.35, 0.4, 0.85), (-0.75, 0.55, -0.2), (0.45, 0.0, -1), TIP, pad=0.012),
    "eye": HandTarget("head", (0.033, -0.135, 0.728), (-0.4, 0.35, 0.85), (-0.2, 0.95, -0.25), (0.4, 0.0, -1), TIP, pad=0.006),
    "forehead": HandTarget("head", (0.02, -0.145, 0.785), (-0.75, 0.3, 0.6), (-0.3, 0.95, -0.2), (0.8, -0.2, -0.7), PADS),
    "ear": HandTarget("head", (0.078, -0.02, 0.72), (-0.3, 0.5, 0.85), (-0.9, 0.35, -0.1), (0.6, -0.1, -0.8), TIP, pad=0.006),
    "mouth": HandTarget("head", (0.012, -0.148, 0.64), (-0.85, 0.2, 0.5), (-0.2, 0.95, 0.05), (0.6, 0.0, -1), PALM),
    "face": HandTarget("head", (0.04, -0.13, 0.685), (-0.2, 0.2, 0.95), (-0.2, 1, -0.1), (0.75, -0.4, -0.7), PALM, second_offset=(0.0, -0.008, 0.0)),
    # on the legs
    "lap": HandTarget("upperleg01.own", (0.11, -0.12, -0.18), (-0.4, -0.1, -1), (0, 1, 0), (0.5, 0.45, -0.75)),
    "thigh": HandTarget("upperleg01.own", (0.13, -0.12, -0.22), (-0.2, -0.1, -1), (0, 1, 0), (0.5, 0.45, -0.75)),
    "knee": HandTarget("upperleg01.own", (0.15, -0.12, -0.31), (-0.15, -0.1, -1), (0, 1, 0), (0.45, 0.45, -0.75)),
    "knee_top": HandTarget("upperleg01.own", (0.15, -0.115, -0.33), (-0.1, 0.1, -1), (0, 1, 0), (0.45, 0.45, -0.75), lean=(0.1, 0, 0)),
    "shin": HandTarget("lowerleg01.own", (0.195, -0.05, -0.50), (-0.2, 0.1, -0.95), (-0.3, 1, 0), (0.7, 0.4, 0.2), PADS),
    "calf": HandTarget("lowerleg01.own", (0.25, 0.02, -0.50), (0.0, 0.3, -0.95), (-1, 0.2, 0), (0.9, 0.3, 0.1), PADS),
    "foot": HandTarget("foot.own", (0.21, -0.08, -0.77), (-0.1, -0.6, -0.8), (-0.1, 0.6, -0.8), (0.8, 0.3, 0.3), PADS),
}  # fmt: skip

REST_TARGETS = ("rest_thigh", "rest_knee", "rest_inside", "rest_joined", "rest_belly", "rest_seat")
