"""What a person does all the time and nobody labels: breathing, sway, gaze, blinking, talking, small beginnings."""

import numpy as np

from training.people.timing import Floats, Span, Style, Track, held, stepped, wander

Channels = dict[str, Floats]


def add(channels: Channels, name: str, values: Floats) -> None:
    """Channels are sums."""
    channels[name] = channels.get(name, 0.0) + values


def breathe(rng: np.random.Generator, times_s: Floats, channels: Channels, size: float) -> None:
    """About a breath every four seconds, in faster than out, no two alike."""
    rate = rng.uniform(0.2, 0.34)
    track = Track(times_s[0] - rng.uniform(0, 1 / rate))
    while track.end_s < times_s[-1]:
        length = np.exp(rng.normal(0, 0.15)) / rate
        track.to(rng.uniform(0.7, 1.2), 0.4 * length, 0.9)
        track.to(rng.uniform(0, 0.15), 0.6 * length, 0.8)
    breath = size * track.at(times_s)
    for side in ("left", "right"):
        add(channels, f"lift.{side}", 0.045 * breath)
        add(channels, f"forward.{side}", -0.02 * breath)
    add(channels, "torso_pitch", -0.014 * breath)


def sway(rng: np.random.Generator, times_s: Floats, channels: Channels, size: float) -> None:
    """Nobody sits or holds the head quite still."""
    spreads = {
        "torso_pitch": (0.012, 3.0), "torso_roll": (0.01, 3.5), "torso_yaw": (0.014, 3.0), "lean_x": (0.003, 4.0),
        "head_pitch": (0.022, 1.6), "head_yaw": (0.03, 1.8), "head_roll": (0.014, 2.2),
        "knee_out.left": (0.014, 3.0), "knee_out.right": (0.014, 3.0),
    }  # fmt: skip
    for name, (spread, every_s) in spreads.items():
        add(channels, name, size * spread * wander(rng, times_s, every_s))
    for name, spread, every_s in (
        ("head_pitch", 0.006, 0.4),
        ("head_yaw", 0.007, 0.4),
        ("torso_roll", 0.003, 0.6),
    ):
        add(channels, name, size * spread * wander(rng, times_s, every_s))


def sit_somehow(rng: np.random.Generator, channels: Channels, frames: int) -> None:
    """A posture for the whole video; some look like the end of an action, which is no action."""
    constant = {
        "slump": rng.beta(1.5, 3.0) * 0.8,
        "torso_yaw": rng.normal(0, 0.06), "torso_roll": rng.normal(0, 0.03), "torso_pitch": rng.normal(0.02, 0.05),
        "head_pitch": rng.normal(0.04, 0.08), "head_yaw": rng.normal(0, 0.1), "head_roll": rng.normal(0, 0.04),
        "lift.left": rng.normal(0, 0.04), "lift.right": rng.normal(0, 0.04),
    }  # fmt: skip
    both_out, both_back = rng.normal(0.08, 0.1), rng.normal(0.0, 0.05)
    # As the beginnings of steps ask for them (see performance): they must tell nothing of what follows.
    if rng.random() < 0.16:
        both_out = draw_apart(rng)
    if rng.random() < 0.22:
        constant["slump"] = draw_slump(rng)
    if rng.random() < 0.2:
        both_back = draw_forward(rng)
    for side in ("left", "right"):
        constant[f"knee_out.{side}"] = both_out + rng.normal(0, 0.05)
        constant[f"foot_out.{side}"] = 0.2 * both_out + rng.normal(0, 0.02)
        constant[f"foot_back.{side}"] = both_back + rng.normal(0, 0.04)
        constant[f"toe_out.{side}"] = rng.normal(0, 0.12)
        if rng.random() < 0.05:  # on tiptoe all along
            constant[f"heel.{side}"] = rng.uniform(0.3, 0.6)
    if rng.random() < 0.12:  # looks aside, or down, all along
        constant["head_yaw"] += rng.choice((-1, 1)) * rng.uniform(0.25, 0.8)
    if rng.random() < 0.08:
        constant["head_pitch"] += rng.uniform(0.2, 0.45)
    if rng.random() < 0.06:
        constant["head_roll"] += rng.choice((-1, 1)) * rng.uniform(0.12, 0.3)
    for name, value in constant.items():
        add(channels, name, np.full(frames, value))


def draw_apart(rng: np.random.Generator) -> float:
    """Knees that can be closed, radians."""
    return float(rng.uniform(0.5, 0.85))


def draw_slump(rng: np.random.Generator) -> float:
    """A back that can be straightened, 0 straight to 1 bent."""
    return float(rng.uniform(0.55, 0.85))


def draw_forward(rng: np.random.Generator) -> float:
    """Feet that can be drawn back, metres."""
    return float(rng.uniform(-0.14, -0.05))


def begin_things(
    rng: np.random.Generator,
    times_s: Floats,
    channels: Channels,
    style: Style,
    busy: list[tuple[str, float, float]],
) -> None:
    """Small shifts and glances below what anyone would label, where nothing labelled is going on.

    Args:
        busy: resource, start and end in seconds of all that is labelled.
    """
    length = times_s[-1] - times_s[0]
    for _ in range(rng.poisson(style.aborted * length / 60)):
        start = rng.uniform(times_s[0] - 0.3, times_s[-1] - 0.3)
        span = Span(start, start + rng.uniform(0.5, 2.5))
        track = stepped(rng, span, style) if rng.random() < 0.6 else held(rng, span, style)
        side = str(rng.choice(("left", "right")))
        moves: tuple[tuple[str, str, float], ...] = (
            ("torso", "lean_x", 0.015), ("torso", "torso_roll", 0.03), ("torso", "torso_yaw", 0.05),
            ("torso", "slump", 0.08), ("head_yaw", "head_yaw", 0.09), ("head_pitch", "head_pitch", 0.05),
            ("head_roll", "head_roll", 0.04), (f"leg.{side}", f"foot_back.{side}", 0.03),
            (f"leg.{side}", f"knee_out.{side}", 0.07),
        )  # fmt: skip
        resource, channel, spread = moves[rng.integers(len(moves))]
        if all(
            name != resource or end < span.start_s - 0.2 or begin > span.end_s + 0.2
            for name, begin, end in busy
        ):
            add(channels, channel, rng.normal(0, spread) * track.at(times_s))


def make_faces(rng: np.random.Generator, times_s: Floats, channels: Channels) -> Floats:
    """Strengths (frames, 4) of blink, jaw, smile and brows; talking bobs the head."""
    faces = np.zeros((len(times_s), 4))
    moment = times_s[0] + rng.exponential(3.0)
    while moment < times_s[-1]:
        track = Track(moment)
        track.to(1.0, 0.08)
        track.to(1.0, rng.uniform(0.02, 0.08))
        track.to(0.0, 0.14)
        faces[:, 0] += track.at(times_s)
        moment += 0.4 + rng.exponential(3.0)
    if rng.random() < 0.5:
        _talk(rng, times_s, faces, channels)
    faces[:, 2] = np.clip(rng.normal(0.05, 0.15) + 0.15 * wander(rng, times_s, 2.0), 0, 0.8)
    faces[:, 3] = np.clip(0.3 * wander(rng, times_s, 1.5), 0, 0.8)
    return np.clip(faces, 0, 1)


def _talk(rng: np.random.Generator, times_s: Floats, faces: Floats, channels: Channels) -> None:
    start = rng.uniform(times_s[0] - 2.0, times_s[-1])
    while start < times_s[-1]:
        end = start + rng.uniform(0.8, 4.0)
        speaking = (times_s > start) & (times_s < end)
        syllable = np.clip(0.5 + 0.5 * wander(rng, times_s, 0.16), 0, 1.2)
        faces[:, 1] += 0.5 * speaking * syllable
        for name, size in (("head_pitch", 0.012), ("head_yaw", 0.008)):
            add(channels, name, speaking * size * rng.uniform(0.3, 1.5) * wander(rng, times_s, 0.3))
        start = end + rng.exponential(2.0)
