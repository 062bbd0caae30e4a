"""Random time courses of human movements: irregular ramps and cycles, pauses, overshoot, drift.

A track is a list of keys (time in seconds, value), interpolated with a skewed minimum-jerk profile. Regular sines and
identical ramps would be artefacts that a network could learn instead of the actions.
"""

from dataclasses import dataclass

import numpy as np

from model.arrays import Doubles

_GRID_S = 0.004
VISIBLE = 0.1  # share of a movement's amplitude at which it becomes visible: labels start and end there


@dataclass(frozen=True)
class Style:
    """A motion style.

    Attributes:
        pace: duration of ramps relative to the average.
        uneven: spread of the logarithm of cycle lengths and amplitudes.
        pauses: probability of a pause after half a cycle, or of a halt in a ramp.
        overshoot: maximum overshoot, as a share of the amplitude.
        idle: size of unlabelled motion: sway, and drift of resting hands.
        aborted: aborted movements and small shifts per minute.
    """

    pace: float
    uneven: float
    pauses: float
    overshoot: float
    ambient: float
    aborted: float


STYLES = {
    "calm": Style(pace=1.25, uneven=0.22, pauses=0.06, overshoot=0.03, ambient=0.7, aborted=4.0),
    "brisk": Style(pace=0.75, uneven=0.2, pauses=0.05, overshoot=0.1, ambient=1.0, aborted=6.0),
    "hesitant": Style(pace=1.15, uneven=0.38, pauses=0.22, overshoot=0.05, ambient=0.9, aborted=9.0),
    "restless": Style(pace=0.9, uneven=0.32, pauses=0.1, overshoot=0.08, ambient=1.6, aborted=10.0),
    "abrupt": Style(pace=0.82, uneven=0.28, pauses=0.15, overshoot=0.14, ambient=1.2, aborted=8.0),
    "languid": Style(pace=1.4, uneven=0.3, pauses=0.1, overshoot=0.02, ambient=0.85, aborted=5.0),
}
TEST_STYLES = ("abrupt", "languid")  # used in the test subset only
TRAINING_STYLES = tuple(name for name in STYLES if name not in TEST_STYLES)


def ease(share: Doubles, skew: float = 1.0) -> Doubles:
    """Ease from 0 to 1 with a minimum-jerk profile; a skew above 1 starts slowly, below 1 fast."""
    share = np.clip(share, 0, 1) ** skew
    return np.asarray(share**3 * (share * (6 * share - 15) + 10))


@dataclass(frozen=True)
class Span:
    """Visible time span of an action; with `open_start` or `open_end` it continues outside the video."""

    start_s: float
    end_s: float
    open_start: bool = False
    open_end: bool = False

    @property
    def length_s(self) -> float:
        """Duration in seconds."""
        return self.end_s - self.start_s


class Track:
    """A value over time, interpolated between keys."""

    def __init__(self, start_s: float, value: float = 0.0) -> None:
        self._keys: list[tuple[float, float, float]] = [(start_s, value, 1.0)]

    @property
    def end_s(self) -> float:
        """Time of the last key."""
        return self._keys[-1][0]

    @property
    def value(self) -> float:
        """Value of the last key."""
        return self._keys[-1][1]

    def add_key(self, value: float, after_s: float, skew: float = 1.0) -> None:
        """Append a key `after_s` seconds after the last one."""
        self._keys.append((self.end_s + max(after_s, 1e-3), value, skew))

    def sample(self, times_s: Doubles) -> Doubles:
        """Return the values at times (n,); constant before the first and after the last key."""
        moments = np.array([key[0] for key in self._keys])
        values = np.array([key[1] for key in self._keys])
        if len(moments) == 1:
            return np.full(len(times_s), values[0])
        segment = np.clip(np.searchsorted(moments, times_s, side="right") - 1, 0, len(moments) - 2)
        share = (times_s - moments[segment]) / (moments[segment + 1] - moments[segment])
        eased = np.empty(len(times_s))
        for key in np.unique(segment):
            chosen = segment == key
            eased[chosen] = ease(share[chosen], self._keys[key + 1][2])
        return np.asarray(values[segment] + (values[segment + 1] - values[segment]) * eased)

    def visible_span(self) -> tuple[float, float]:
        """Return when the value first differs from its start, and last from its end, by at least VISIBLE."""
        times = np.arange(self._keys[0][0], self.end_s + _GRID_S, _GRID_S)
        values = self.sample(times)
        return (
            float(times[np.argmax(np.abs(values - self._keys[0][1]) >= VISIBLE)]),
            float(times[len(times) - 1 - np.argmax(np.abs(values[::-1] - self.value) >= VISIBLE)]),
        )

    def fit(self, span: Span) -> "Track":
        """Return the movement shifted and scaled in time so that it is visible exactly during the span.

        An open end is not aligned: there the movement continues outside the video.
        """
        first, last = self.visible_span()
        scale, origin = 1.0, first if not span.open_start else last
        if not span.open_start and not span.open_end:
            scale = span.length_s / max(last - first, _GRID_S)
        goal = span.start_s if not span.open_start else span.end_s
        if span.open_start and span.open_end:
            origin = goal
        moved = Track(goal + scale * (self._keys[0][0] - origin), self._keys[0][1])
        moved._keys += [(goal + scale * (time - origin), value, skew) for time, value, skew in self._keys[1:]]
        return moved


def _skew(rng: np.random.Generator, style: Style) -> float:
    return float(np.exp(rng.normal(0, 0.15 + 0.5 * style.uneven)))


def _ramp_lengths(rng: np.random.Generator, span: Span, typical_s: float, style: Style) -> tuple[float, float]:
    """Draw the durations of the ramps there and back; they are shortened to fit a short action."""
    there, back = typical_s * style.pace * np.exp(rng.normal(0, 0.3, 2)) * (1.0, rng.uniform(0.9, 1.5))
    available_s = span.length_s / 0.92
    scale = min(1.0, available_s / (there + back) * 1.15)
    return max(float(there) * scale, 0.12), max(float(back) * scale, 0.12)


def hold_track(rng: np.random.Generator, span: Span, style: Style, typical_s: float = 0.5) -> Track:
    """Make a track that rises from 0 to about 1, holds with some drift, and returns to 0."""
    first_s, last_s = _ramp_lengths(rng, span, typical_s, style)
    skew_in, skew_out = _skew(rng, style), _skew(rng, style)
    start = span.start_s - (first_s + rng.uniform(0.0, 0.6) if span.open_start else 0.1 * first_s)
    end = span.end_s + (last_s + rng.uniform(0.2, 0.8) if span.open_end else 0.1 * last_s)
    track = Track(start)
    peak = rng.uniform(0.92, 1.0)
    if first_s > 0.5 and rng.random() < style.pauses:  # a halt on the way
        halt = rng.uniform(0.35, 0.7)
        track.add_key(halt, 0.45 * first_s, skew_in)
        track.add_key(halt + 0.03, 0.15 * first_s)
        track.add_key(peak, 0.4 * first_s)
    else:
        over = peak + rng.uniform(0, style.overshoot)
        track.add_key(over, first_s, skew_in)
        if end - last_s - track.end_s > 0.25:
            track.add_key(peak, 0.2)
    while end - last_s - track.end_s > 1.2:  # drift during the hold
        track.add_key(float(np.clip(peak + rng.normal(0, 0.05), 0.8, 1.08)), rng.uniform(0.4, 1.2))
    if end - last_s > track.end_s + 0.05:
        track.add_key(float(np.clip(peak + rng.normal(0, 0.03), 0.85, 1.05)), end - last_s - track.end_s)
    _return(track, end, skew_out, rng, style)
    return track.fit(span)


def _return(track: Track, end_s: float, skew: float, rng: np.random.Generator, style: Style) -> None:
    """Append the return to 0, sometimes with overshoot."""
    track.add_key(0.0, end_s - track.end_s, skew)
    if rng.random() < 0.6:
        track.add_key(-rng.uniform(0, style.overshoot), rng.uniform(0.12, 0.25))
        track.add_key(0.0, rng.uniform(0.2, 0.4))


def step_track(rng: np.random.Generator, span: Span, style: Style) -> Track:
    """Make a track that moves from 0 to 1 within the span and stays there."""
    whole = span.length_s + (0.3 if span.open_start or span.open_end else 0.0)
    skew = _skew(rng, style)
    track = Track(span.start_s - (0.4 * whole if span.open_start else 0.0))
    end = track.end_s + whole
    if whole > 2.2 or (whole > 0.9 and rng.random() < 0.3 + style.pauses):  # in two parts
        part = rng.uniform(0.35, 0.75)
        track.add_key(part, whole * rng.uniform(0.25, 0.45), skew)
        track.add_key(part + rng.uniform(-0.04, 0.03), whole * rng.uniform(0.1, 0.25))
    track.add_key(1.0, end - track.end_s, skew)
    return track.fit(span)


def cycle_track(rng: np.random.Generator, span: Span, style: Style, rate_hz: float, *, rising: bool = False) -> Track:
    """Make a track that oscillates irregularly between about -1 and 1, or between 0 and 1 if rising."""
    half_s = 0.5 / rate_hz
    start = span.start_s - half_s * (rng.uniform(0.5, 2.5) if span.open_start else 0.2)
    end = span.end_s + (rng.uniform(0.3, 1.0) if span.open_end else 0.0)
    track = Track(start)
    sign, drift = 1.0, 1.0
    while True:
        length = half_s * float(np.exp(rng.normal(0, style.uneven))) * drift
        drift = float(np.clip(drift * np.exp(rng.normal(0, 0.3 * style.uneven)), 0.7, 1.4))
        if track.end_s + length + half_s > end and len(track._keys) > 1:
            break
        size = float(np.clip(rng.normal(0.85, 0.6 * style.uneven), 0.3, 1.15))
        low = float(np.clip(abs(rng.normal(0, 0.5 * style.uneven)), 0, 0.4))
        track.add_key(sign * size if not rising else (size if sign > 0 else low), length, _skew(rng, style))
        sign = -sign
        left = end - track.end_s
        if left > 3 * half_s and rng.random() < style.pauses:  # a pause
            track.add_key(track.value * 0.6, min(rng.uniform(0.15, 0.6), left - 2 * half_s))
    track.add_key(0.0, max(end - track.end_s, 0.6 * half_s), _skew(rng, style))
    if rng.random() < 0.5:
        track.add_key(-0.5 * rng.uniform(0, style.overshoot) * (1 if rising else sign), half_s * 0.6)
        track.add_key(0.0, half_s)
    return track.fit(span)


def wander(rng: np.random.Generator, times_s: Doubles, every_s: float) -> Doubles:
    """Return smooth noise of about unit amplitude with new random values about every `every_s` seconds."""
    track = Track(times_s[0] - rng.uniform(0, every_s), rng.normal())
    while track.end_s < times_s[-1]:
        track.add_key(rng.normal(), every_s * rng.uniform(0.5, 1.6), float(np.exp(rng.normal(0, 0.2))))
    return track.sample(times_s)
