"""Unlabelled motion that is always present: breathing, sway, posture, blinking, talking, aborted movements."""

import numpy as np

from model.arrays import Doubles
from training.people.timing import Span, Style, Track, hold_track, step_track, wander

Channels = dict[str, Doubles]


def add(channels: Channels, name: str, values: Doubles) -> None:
    """Add values (frames,) to a channel."""
    channels[name] = channels.get(name, 0.0) + values


def add_breathing(rng: np.random.Generator, times_s: Doubles, channels: Channels, size: float) -> None:
    """Add breathing: a breath every three to five seconds, in faster than out, with random variation."""
    rate = rng.uniform(0.2, 0.34)
    track = Track(times_s[0] - rng.uniform(0, 1 / rate))
    while track.end_s < times_s[-1]:
        length = np.exp(rng.normal(0, 0.15)) / rate
        track.add_key(rng.uniform(0.7, 1.2), 0.4 * length, 0.9)
        track.add_key(rng.uniform(0, 0.15), 0.6 * length, 0.8)
    breath = size * track.sample(times_s)
    for side in ("left", "right"):
        add(channels, f"lift.{side}", 0.045 * breath)
        add(channels, f"forward.{side}", -0.02 * breath)
    add(channels, "torso_pitch", -0.014 * breath)


def add_sway(rng: np.random.Generator, times_s: Doubles, channels: Channels, size: float) -> None:
    """Add slow random sway of trunk, head and knees."""
    spreads = {
        "torso_pitch": (0.012, 3.0), "torso_roll": (0.01, 3.5), "torso_yaw": (0.014, 3.0), "lean_x": (0.003, 4.0),
        "head_pitch": (0.022, 1.6), "head_yaw": (0.03, 1.8), "head_roll": (0.014, 2.2),
        "knee_out.left": (0.014, 3.0), "knee_out.right": (0.014, 3.0),
    }  # fmt: skip
    for name, (spread, every_s) in spreads.items():
        add(channels, name, size * spread * wander(rng, times_s, every_s))
    for name, spread, every_s in (("head_pitch", 0.006, 0.4), ("head_yaw", 0.007, 0.4), ("torso_roll", 0.003, 0.6)):
        add(channels, name, size * spread * wander(rng, times_s, every_s))


def add_posture(rng: np.random.Generator, channels: Channels, frames: int) -> None:
    """Add a constant posture; some resemble the end of an action, as negatives for the detector."""
    constant = {
        "slump": rng.beta(1.5, 3.0) * 0.8,
        "torso_yaw": rng.normal(0, 0.06), "torso_roll": rng.normal(0, 0.03), "torso_pitch": rng.normal(0.02, 0.05),
        "head_pitch": rng.normal(0.04, 0.08), "head_yaw": rng.normal(0, 0.1), "head_roll": rng.normal(0, 0.04),
        "lift.left": rng.normal(0, 0.04), "lift.right": rng.normal(0, 0.04),
    }  # fmt: skip
    both_out, both_back = rng.normal(0.08, 0.1), rng.normal(0.0, 0.05)
    # Postures that some actions need at their start (see performance.py) also occur without these actions, so that a
    # posture does not reveal what follows.
    if rng.random() < 0.16:
        both_out = draw_open_knees(rng)
    if rng.random() < 0.22:
        constant["slump"] = draw_bent_back(rng)
    if rng.random() < 0.2:
        both_back = draw_forward_feet(rng)
    for side in ("left", "right"):
        constant[f"knee_out.{side}"] = both_out + rng.normal(0, 0.05)
        constant[f"foot_out.{side}"] = 0.2 * both_out + rng.normal(0, 0.02)
        constant[f"foot_back.{side}"] = both_back + rng.normal(0, 0.04)
        constant[f"toe_out.{side}"] = rng.normal(0, 0.12)
        if rng.random() < 0.05:  # on tiptoe for the whole video
            constant[f"heel.{side}"] = rng.uniform(0.3, 0.6)
    if rng.random() < 0.12:  # head turned or bowed for the whole video
        constant["head_yaw"] += rng.choice((-1, 1)) * rng.uniform(0.25, 0.8)
    if rng.random() < 0.08:
        constant["head_pitch"] += rng.uniform(0.2, 0.45)
    if rng.random() < 0.06:
        constant["head_roll"] += rng.choice((-1, 1)) * rng.uniform(0.12, 0.3)
    for name, value in constant.items():
        add(channels, name, np.full(frames, value))


def draw_open_knees(rng: np.random.Generator) -> float:
    """Draw a knee angle, in radians, from which the legs can be closed."""
    return float(rng.uniform(0.5, 0.85))


def draw_bent_back(rng: np.random.Generator) -> float:
    """Draw a slump (0 straight to 1 bent) from which the back can be straightened."""
    return float(rng.uniform(0.55, 0.85))


def draw_forward_feet(rng: np.random.Generator) -> float:
    """Draw a foot position, in metres, from which the feet can be drawn back."""
    return float(rng.uniform(-0.14, -0.05))


def add_aborted_moves(
    rng: np.random.Generator, times_s: Doubles, channels: Channels, style: Style, busy: list[tuple[str, float, float]]
) -> None:
    """Add shifts and glances too small to label, at times when no event uses the same resource.

    Args:
        rng: random stream.
        times_s: (frames,).
        channels: changed in place.
        style: sets the rate of these movements.
        busy: resource, start and end in seconds of all events.
    """
    length = times_s[-1] - times_s[0]
    for _ in range(rng.poisson(style.aborted * length / 60)):
        start = rng.uniform(times_s[0] - 0.3, times_s[-1] - 0.3)
        span = Span(start, start + rng.uniform(0.5, 2.5))
        track = step_track(rng, span, style) if rng.random() < 0.6 else hold_track(rng, span, style)
        side = str(rng.choice(("left", "right")))
        moves: tuple[tuple[str, str, float], ...] = (
            ("torso", "lean_x", 0.015), ("torso", "torso_roll", 0.03), ("torso", "torso_yaw", 0.05),
            ("torso", "slump", 0.08), ("head_yaw", "head_yaw", 0.09), ("head_pitch", "head_pitch", 0.05),
            ("head_roll", "head_roll", 0.04), (f"leg.{side}", f"foot_back.{side}", 0.03),
            (f"leg.{side}", f"knee_out.{side}", 0.07),
        )  # fmt: skip
        resource, channel, spread = moves[rng.integers(len(moves))]
        if all(name != resource or end < span.start_s - 0.2 or begin > span.end_s + 0.2 for name, begin, end in busy):
            add(channels, channel, rng.normal(0, spread) * track.sample(times_s))


def make_expressions(rng: np.random.Generator, times_s: Doubles, channels: Channels) -> Doubles:
    """Return strengths (frames, 4) of blink, jaw, smile and brows; talking also adds small head movements."""
    expressions = np.zeros((len(times_s), 4))
    moment = times_s[0] + rng.exponential(3.0)
    while moment < times_s[-1]:
        track = Track(moment)
        track.add_key(1.0, 0.08)
        track.add_key(1.0, rng.uniform(0.02, 0.08))
        track.add_key(0.0, 0.14)
        expressions[:, 0] += track.sample(times_s)
        moment += 0.4 + rng.exponential(3.0)
    if rng.random() < 0.5:
        _talk(rng, times_s, expressions, channels)
    expressions[:, 2] = np.clip(rng.normal(0.05, 0.15) + 0.15 * wander(rng, times_s, 2.0), 0, 0.8)
    expressions[:, 3] = np.clip(0.3 * wander(rng, times_s, 1.5), 0, 0.8)
    return np.clip(expressions, 0, 1)


def _talk(rng: np.random.Generator, times_s: Doubles, expressions: Doubles, channels: Channels) -> None:
    start = rng.uniform(times_s[0] - 2.0, times_s[-1])
    while start < times_s[-1]:
        end = start + rng.uniform(0.8, 4.0)
        speaking = (times_s > start) & (times_s < end)
        syllable = np.clip(0.5 + 0.5 * wander(rng, times_s, 0.16), 0, 1.2)
        expressions[:, 1] += 0.5 * speaking * syllable
        for name, size in (("head_pitch", 0.012), ("head_yaw", 0.008)):
            add(channels, name, speaking * size * rng.uniform(0.3, 1.5) * wander(rng, times_s, 0.3))
        start = end + rng.exponential(2.0)
