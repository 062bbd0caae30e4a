"""Where hands go, as a table: a point, how the hand lies there, which part of the hand meets it.

All is written for the left side: +x is outward, -y forward, +z up; the right side is its mirror image. Directions are
those of the body standing at rest; they turn with what the place belongs to.
"""

from enum import StrEnum
from typing import NamedTuple

Vector = tuple[float, float, float]


class Contact(StrEnum):
    """The part of the hand that meets the place."""

    TIP = "tip"  # of the index finger
    PADS = "pads"  # of the long fingers
    PALM = "palm"
    BACK = "back"  # of the hand
    WRIST = "wrist"  # the place is where the wrist goes, in the air


class Place(NamedTuple):
    """One place.

    Attributes:
        on: what it belongs to: head, chest, lap, or a bone: own ("upperleg01.own") or of the other side (".other").
        point: on the standard body; the nearest vertex of the skin is meant, unless `free`, where it is an offset
            from the origin of what it belongs to, for an arm of 0.46 m from shoulder to wrist.
        fingers, palm: where the fingers point, and where the palm looks.
        elbow: which way the elbow points, between how chest and hips stand.
        contact: what meets it.
        free: in the air.
        lean: pitch, yaw (to the own side) and roll of the trunk that go with it, radians.
        second: shift of the hand that lies on top, where both hands have this place.
        pad: distance kept from the surface, metres.
    """

    on: str
    point: Vector
    fingers: Vector
    palm: Vector
    elbow: Vector = (0.9, 0.25, -0.5)
    contact: Contact = Contact.PALM
    free: bool = False
    lean: Vector = (0.0, 0.0, 0.0)
    second: Vector = (0.0, 0.0, 0.0)
    pad: float = 0.004


TIP, PADS, PALM, BACK, WRIST = Contact

PLACES: dict[str, Place] = {
    # at rest
    "rest_thigh": Place("upperleg01.own", (0.13, -0.12, -0.20), (-0.25, -0.15, -1), (0, 1, 0), (0.35, 0.45, -0.75)),
    "rest_knee": Place("upperleg01.own", (0.15, -0.12, -0.31), (-0.15, -0.1, -1), (0, 1, 0), (0.35, 0.45, -0.75)),
    "rest_inside": Place("upperleg01.own", (0.09, -0.115, -0.215), (-0.55, -0.1, -0.85), (0.1, 1, 0.1), (0.35, 0.45, -0.75)),
    "rest_joined": Place("lap", (0.05, 0.02, 0.09), (-0.75, -0.6, -0.3), (-0.35, 0.35, -0.9), (0.45, 0.75, -0.5), WRIST, True, second=(0, -0.02, 0.03)),
    "rest_belly": Place("spine04", (0.02, -0.13, 0.165), (-0.97, -0.1, -0.25), (0, 1, 0), (0.45, 0.7, -0.6), PALM, second=(0, -0.03, 0.012)),
    "rest_seat": Place("seat", (0.235, -0.06, 0.02), (0.05, -0.45, -1), (-1, 0.1, 0), (0.25, 0.95, 0.0), WRIST, True),
    # in the air, offsets from the middle of the chest
    "front": Place("chest", (0.17, -0.33, -0.14), (-0.25, -0.9, 0.3), (-0.85, 0.1, -0.4), (0.45, 0.5, -0.75), WRIST, True),
    "front_wide": Place("chest", (0.30, -0.28, -0.10), (0.1, -0.95, 0.25), (-0.85, 0.0, 0.35), (0.5, 0.5, -0.7), WRIST, True),
    "front_high": Place("chest", (0.18, -0.30, 0.04), (-0.3, -0.5, 0.8), (-0.6, -0.6, 0.1), (0.8, 0.3, -0.7), WRIST, True),
    "front_low": Place("lap", (0.14, -0.02, 0.20), (-0.3, -0.9, 0.0), (-0.6, 0.1, -0.7), (0.4, 0.6, -0.6), WRIST, True),
    "out_forward": Place("chest", (0.20, -0.56, 0.06), (0.05, -1, 0.05), (-0.2, 0.1, -1), (0.6, 0.3, -0.8), WRIST, True, (0.12, 0.0, 0.0)),
    "out_sideways": Place("chest", (0.66, -0.14, 0.06), (1, -0.15, 0.05), (0.0, -0.3, -1), (0.2, 0.5, -0.8), WRIST, True, (0.0, 0.05, 0.06)),
    "out_up": Place("chest", (0.30, -0.10, 0.62), (0.1, 0.0, 1), (-0.4, -0.9, 0.0), (0.8, -0.2, -0.2), WRIST, True, (-0.08, 0.0, 0.0)),
    "wave_high": Place("chest", (0.30, -0.22, 0.20), (0.15, -0.2, 1), (0.0, -1, 0), (0.7, 0.3, -0.8), WRIST, True),
    "wave_low": Place("chest", (0.24, -0.34, -0.02), (0.05, -0.35, 0.9), (0.0, -1, -0.2), (0.8, 0.4, -0.6), WRIST, True),
    "open_palm": Place("chest", (0.24, -0.34, -0.14), (0.3, -0.9, 0.1), (-0.15, -0.1, 1), (0.05, 0.4, -0.95), WRIST, True),
    "open_palm_wide": Place("chest", (0.40, -0.26, -0.12), (0.7, -0.65, 0.1), (-0.15, -0.2, 1), (0.0, 0.4, -0.95), WRIST, True),
    "toy": Place("chest", (0.10, -0.27, -0.19), (-0.75, -0.6, 0.25), (-0.35, 0.5, 0.65), (0.35, 0.5, -0.8), WRIST, True, second=(-0.03, -0.01, 0.02)),
    "toy_low": Place("lap", (0.09, 0.02, 0.15), (-0.7, -0.65, 0.2), (-0.35, 0.5, 0.65), (0.35, 0.6, -0.7), WRIST, True, second=(-0.03, -0.01, 0.03)),
    "fist_low": Place("upperleg01.own", (0.13, -0.12, -0.22), (-0.2, -0.2, -1), (-0.75, 0.75, 0), (0.5, 0.45, -0.75), pad=0.02),
    "fist_front": Place("chest", (0.20, -0.32, -0.14), (-0.15, -0.9, 0.35), (-0.95, 0.1, 0.0), (0.8, 0.4, -0.6), WRIST, True),
    # both hands
    "lap_joined": Place("lap", (0.06, 0.04, 0.14), (-0.72, -0.65, 0.05), (-0.5, 0.45, -0.6), (0.4, 0.65, -0.6), WRIST, True, second=(0.0, 0.0, 0.03)),
    "palms_joined": Place("chest", (0.002, -0.36, -0.06), (0.0, -0.7, 0.7), (-1, 0, 0), (0.5, 0.5, -0.8), PALM, True, pad=0.0),
    "palms_joined_low": Place("lap", (0.002, -0.06, 0.19), (0.0, -0.97, 0.2), (-1, 0, 0), (0.4, 0.7, -0.7), PALM, True, pad=0.0),
    "rub_joined": Place("chest", (0.002, -0.37, -0.14), (0.0, -0.9, 0.35), (-1, 0.0, 0), (0.45, 0.6, -0.8), PALM, True, pad=0.0),
    "crossed": Place("chest", (-0.07, -0.175, -0.09), (-0.85, 0.5, 0.15), (0.4, 0.9, 0.0), (0.5, -0.1, -0.9), WRIST, True, second=(0.0, -0.05, 0.03)),
    # on the other arm
    "other_forearm": Place("lowerarm01.other", (0.367, -0.173, 0.363), (-0.93, 0.33, 0.16), (-0.28, 0.93, -0.25), (0.8, 0.2, -0.65), PADS),
    "other_upper_arm": Place("upperarm01.other", (0.235, -0.06, 0.43), (-0.8, 0.55, 0.2), (0.5, 0.85, -0.1), (0.4, -0.2, -0.9), PADS),
    # on the trunk
    "chest": Place("chest", (-0.03, -0.155, 0.40), (-0.85, 0.05, 0.5), (0.0, 1, 0.0), (0.9, -0.1, -0.6), PADS),
    "self": Place("chest", (-0.01, -0.15, 0.42), (-0.75, 0.6, 0.25), (0.6, 0.75, 0.1), (0.6, -0.1, -0.8), TIP, pad=0.006),
    "neck": Place("neck01", (0.045, -0.065, 0.575), (-0.55, 0.35, 0.75), (-0.75, 0.6, 0.0), (0.55, 0.0, -0.85), PADS),
    "neck_side": Place("neck01", (0.052, 0.02, 0.59), (-0.35, 0.88, 0.32), (-0.85, -0.35, -0.2), (0.35, -0.2, -0.9), PADS),
    "back": Place("spine04", (0.06, 0.09, 0.19), (-0.9, 0.0, -0.3), (0, 1, 0), (0.8, 0.7, -0.5), BACK, lean=(0.08, 0.1, 0.0)),
    "back_low": Place("spine05", (0.07, 0.09, 0.10), (-0.8, 0.0, -0.6), (0, 1, 0), (0.9, 0.7, -0.3), BACK, lean=(0.1, 0.1, 0.0)),
    "hip": Place("spine05", (0.165, -0.02, 0.13), (-0.25, -0.8, -0.5), (-1, 0.25, 0.0), (1.0, 0.35, 0.1)),
    "other_shoulder": Place("shoulder01.other", (0.15, -0.06, 0.565), (-0.75, 0.6, 0.2), (-0.1, 0.6, -0.85), (0.4, -0.4, -0.85), PADS),
    # on the head
    "nose": Place("head", (0.004, -0.165, 0.688), (-0.4, 0.35, 0.85), (-0.45, 0.75, -0.4), (0.4, 0.0, -1), TIP, pad=0.006),
    "cheek": Place("head", (0.052, -0.10, 0.675), (-0.25, 0.4, 0.9), (-0.85, 0.5, 0.0), (0.35, 0.0, -1), PADS),
    "chin": Place("head", (0.012, -0.135, 0.612), (-0.6, 0.3, 0.75), (-0.3, 0.85, 0.1), (0.3, 0.0, -1), PADS),
    "jaw": Place("head", (0.052, -0.075, 0.632), (-0.3, 0.45, 0.85), (-0.85, 0.5, 0.15), (0.35, 0.0, -1), PADS),
    "hair_side": Place("head", (0.082, -0.02, 0.80), (-0.15, 0.75, 0.6), (-0.95, 0.2, -0.1), (0.85, -0.45, -0.4), PALM),
    "hair_top": Place("head", (0.045, -0.055, 0.845), (-0.4, 0.85, 0.25), (-0.3, 0.1, -1), (0.9, -0.4, 0.0), PALM),
    "hindbrain": Place("head", (0.06, 0.06, 0.73), (-0.85, 0.2, 0.35), (-0.5, -0.85, 0.0), (0.95, -0.3, 0.35), PALM),
    "glasses_bridge": Place("head", (0.004, -0.155, 0.72), (-0.4, 0.4, 0.85), (-0.3, 0.85, -0.4), (0.4, 0.0, -1), TIP, pad=0.012),
    "glasses_side": Place("head", (0.06, -0.115, 0.728), (-0.35, 0.4, 0.85), (-0.75, 0.55, -0.2), (0.45, 0.0, -1), TIP, pad=0.012),
    "eye": Place("head", (0.033, -0.135, 0.728), (-0.4, 0.35, 0.85), (-0.2, 0.95, -0.25), (0.4, 0.0, -1), TIP, pad=0.006),
    "forehead": Place("head", (0.02, -0.145, 0.785), (-0.75, 0.3, 0.6), (-0.3, 0.95, -0.2), (0.8, -0.2, -0.7), PADS),
    "ear": Place("head", (0.078, -0.02, 0.72), (-0.3, 0.5, 0.85), (-0.9, 0.35, -0.1), (0.6, -0.1, -0.8), TIP, pad=0.006),
    "mouth": Place("head", (0.012, -0.148, 0.64), (-0.85, 0.2, 0.5), (-0.2, 0.95, 0.05), (0.6, 0.0, -1), PALM),
    "face": Place("head", (0.04, -0.13, 0.685), (-0.2, 0.2, 0.95), (-0.2, 1, -0.1), (0.75, -0.4, -0.7), PALM, second=(0.0, -0.008, 0.0)),
    # on the legs
    "lap": Place("upperleg01.own", (0.11, -0.12, -0.18), (-0.4, -0.1, -1), (0, 1, 0), (0.5, 0.45, -0.75)),
    "thigh": Place("upperleg01.own", (0.13, -0.12, -0.22), (-0.2, -0.1, -1), (0, 1, 0), (0.5, 0.45, -0.75)),
    "knee": Place("upperleg01.own", (0.15, -0.12, -0.31), (-0.15, -0.1, -1), (0, 1, 0), (0.45, 0.45, -0.75)),
    "knee_top": Place("upperleg01.own", (0.15, -0.115, -0.33), (-0.1, 0.1, -1), (0, 1, 0), (0.45, 0.45, -0.75), lean=(0.1, 0, 0)),
    "shin": Place("lowerleg01.own", (0.195, -0.05, -0.50), (-0.2, 0.1, -0.95), (-0.3, 1, 0), (0.7, 0.4, 0.2), PADS),
    "calf": Place("lowerleg01.own", (0.25, 0.02, -0.50), (0.0, 0.3, -0.95), (-1, 0.2, 0), (0.9, 0.3, 0.1), PADS),
    "foot": Place("foot.own", (0.21, -0.08, -0.77), (-0.1, -0.6, -0.8), (-0.1, 0.6, -0.8), (0.8, 0.3, 0.3), PADS),
}  # fmt: skip

AT_REST = ("rest_thigh", "rest_knee", "rest_inside", "rest_joined", "rest_belly", "rest_seat")
