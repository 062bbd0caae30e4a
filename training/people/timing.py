"""How people's movements run through time: uneven ramps, uneven cycles, pauses, overshoot, drift.

A track is a list of keys (time in seconds, value); between two keys it runs as one reach of the hand does, slow, fast,
slow, with its fastest point off the middle. Regular sines and equal ramps are what a network would learn instead of
the action.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_GRID_S = 0.004
VISIBLE = 0.1  # share of its way at which a movement starts to be seen: there labels begin and end


@dataclass(frozen=True)
class Style:
    """A way of moving.

    Attributes:
        pace: how long ramps last, against the average.
        uneven: spread of the lengths and sizes of cycles (of their logarithm).
        pauses: probability of a pause after half a cycle, or of a halt in a ramp.
        overshoot: how far a movement runs over its aim, as a share.
        idle: size of what nobody labels: breathing, sway, drift.
        aborted: unlabelled beginnings and shifts a minute.
    """

    pace: float
    uneven: float
    pauses: float
    overshoot: float
    idle: float
    aborted: float


STYLES = {
    "calm": Style(pace=1.25, uneven=0.22, pauses=0.06, overshoot=0.03, idle=0.7, aborted=4.0),
    "brisk": Style(pace=0.75, uneven=0.2, pauses=0.05, overshoot=0.1, idle=1.0, aborted=6.0),
    "hesitant": Style(pace=1.15, uneven=0.38, pauses=0.22, overshoot=0.05, idle=0.9, aborted=9.0),
    "restless": Style(pace=0.9, uneven=0.32, pauses=0.1, overshoot=0.08, idle=1.6, aborted=10.0),
    "abrupt": Style(pace=0.82, uneven=0.28, pauses=0.15, overshoot=0.14, idle=1.2, aborted=8.0),
    "languid": Style(pace=1.4, uneven=0.3, pauses=0.1, overshoot=0.02, idle=0.85, aborted=5.0),
}
TEST_STYLES = ("abrupt", "languid")  # never trained on, never selected by
TRAINING_STYLES = tuple(name for name in STYLES if name not in TEST_STYLES)


def ease(share: Floats, skew: float = 1.0) -> Floats:
    """0 to 1 with no jerk at either end; skew above 1 is slow at first, below 1 fast at first."""
    share = np.clip(share, 0, 1) ** skew
    return np.asarray(share**3 * (share * (6 * share - 15) + 10))


@dataclass(frozen=True)
class Span:
    """When an action is seen; `open_start` and `open_end` tell that it goes on beyond what is filmed."""

    start_s: float
    end_s: float
    open_start: bool = False
    open_end: bool = False

    @property
    def length_s(self) -> float:
        """Of what is seen."""
        return self.end_s - self.start_s


class Track:
    """A value over time, made of keys in order."""

    def __init__(self, start_s: float, value: float = 0.0) -> None:
        self._keys: list[tuple[float, float, float]] = [(start_s, value, 1.0)]

    @property
    def end_s(self) -> float:
        """Time of the last key."""
        return self._keys[-1][0]

    @property
    def value(self) -> float:
        """The last key's."""
        return self._keys[-1][1]

    def to(self, value: float, after_s: float, skew: float = 1.0) -> None:
        """Add a key so many seconds after the last one."""
        self._keys.append((self.end_s + max(after_s, 1e-3), value, skew))

    def at(self, times_s: Floats) -> Floats:
        """Values at times; before the first and after the last key it stays."""
        moments = np.array([key[0] for key in self._keys])
        values = np.array([key[1] for key in self._keys])
        if len(moments) == 1:
            return np.full(len(times_s), values[0])
        place = np.clip(np.searchsorted(moments, times_s, side="right") - 1, 0, len(moments) - 2)
        share = (times_s - moments[place]) / (moments[place + 1] - moments[place])
        eased = np.empty(len(times_s))
        for key in np.unique(place):
            chosen = place == key
            eased[chosen] = ease(share[chosen], self._keys[key + 1][2])
        return np.asarray(values[place] + (values[place + 1] - values[place]) * eased)

    def seen(self) -> tuple[float, float]:
        """When the value first departs from its start, and last differs from its end, by more than VISIBLE."""
        times = np.arange(self._keys[0][0], self.end_s + _GRID_S, _GRID_S)
        values = self.at(times)
        return (
            float(times[np.argmax(np.abs(values - self._keys[0][1]) >= VISIBLE)]),
            float(times[len(times) - 1 - np.argmax(np.abs(values[::-1] - self.value) >= VISIBLE)]),
        )

    def fitted(self, span: Span) -> "Track":
        """The same movement, seen exactly while the span lasts: later or earlier, slower or faster.

        An open end is not fitted: there the movement only has to go on beyond what is filmed.
        """
        first, last = self.seen()
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


def _ramp_lengths(
    rng: np.random.Generator, span: Span, typical_s: float, style: Style
) -> tuple[float, float]:
    """Of the way there and of the way back; those of a short action fill it."""
    there, back = typical_s * style.pace * np.exp(rng.normal(0, 0.3, 2)) * (1.0, rng.uniform(0.9, 1.5))
    room = span.length_s / 0.92
    scale = min(1.0, room / (there + back) * 1.15)
    return max(float(there) * scale, 0.12), max(float(back) * scale, 0.12)


def held(rng: np.random.Generator, span: Span, style: Style, typical_s: float = 0.5) -> Track:
    """There, stays with some drift, and back: 0, about 1, 0."""
    first_s, last_s = _ramp_lengths(rng, span, typical_s, style)
    skew_in, skew_out = _skew(rng, style), _skew(rng, style)
    start = span.start_s - (first_s + rng.uniform(0.0, 0.6) if span.open_start else 0.1 * first_s)
    end = span.end_s + (last_s + rng.uniform(0.2, 0.8) if span.open_end else 0.1 * last_s)
    track = Track(start)
    peak = rng.uniform(0.92, 1.0)
    if first_s > 0.5 and rng.random() < style.pauses:  # a halt on the way
        halt = rng.uniform(0.35, 0.7)
        track.to(halt, 0.45 * first_s, skew_in)
        track.to(halt + 0.03, 0.15 * first_s)
        track.to(peak, 0.4 * first_s)
    else:
        over = peak + rng.uniform(0, style.overshoot)
        track.to(over, first_s, skew_in)
        if end - last_s - track.end_s > 0.25:
            track.to(peak, 0.2)
    while end - last_s - track.end_s > 1.2:  # drift while it stays
        track.to(float(np.clip(peak + rng.normal(0, 0.05), 0.8, 1.08)), rng.uniform(0.4, 1.2))
    if end - last_s > track.end_s + 0.05:
        track.to(float(np.clip(peak + rng.normal(0, 0.03), 0.85, 1.05)), end - last_s - track.end_s)
    _return(track, end, skew_out, rng, style)
    return track.fitted(span)


def _return(track: Track, end_s: float, skew: float, rng: np.random.Generator, style: Style) -> None:
    """Back to rest, and a little over it."""
    track.to(0.0, end_s - track.end_s, skew)
    if rng.random() < 0.6:
        track.to(-rng.uniform(0, style.overshoot), rng.uniform(0.12, 0.25))
        track.to(0.0, rng.uniform(0.2, 0.4))


def stepped(rng: np.random.Generator, span: Span, style: Style) -> Track:
    """There within the span, and stays: 0, then 1 for good."""
    whole = span.length_s + (0.3 if span.open_start or span.open_end else 0.0)
    skew = _skew(rng, style)
    track = Track(span.start_s - (0.4 * whole if span.open_start else 0.0))
    end = track.end_s + whole
    if whole > 2.2 or (whole > 0.9 and rng.random() < 0.3 + style.pauses):  # in two goes
        part = rng.uniform(0.35, 0.75)
        track.to(part, whole * rng.uniform(0.25, 0.45), skew)
        track.to(part + rng.uniform(-0.04, 0.03), whole * rng.uniform(0.1, 0.25))
    track.to(1.0, end - track.end_s, skew)
    return track.fitted(span)


def cycled(
    rng: np.random.Generator, span: Span, style: Style, rate_hz: float, *, rising: bool = False
) -> Track:
    """To and fro between about -1 and 1, or 0 and 1 if rising; no two cycles alike, and some never finished."""
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
        track.to(sign * size if not rising else (size if sign > 0 else low), length, _skew(rng, style))
        sign = -sign
        left = end - track.end_s
        if left > 3 * half_s and rng.random() < style.pauses:  # interrupted, then taken up again
            track.to(track.value * 0.6, min(rng.uniform(0.15, 0.6), left - 2 * half_s))
    track.to(0.0, max(end - track.end_s, 0.6 * half_s), _skew(rng, style))
    if rng.random() < 0.5:
        track.to(-0.5 * rng.uniform(0, style.overshoot) * (1 if rising else sign), half_s * 0.6)
        track.to(0.0, half_s)
    return track.fitted(span)


def wander(rng: np.random.Generator, times_s: Floats, every_s: float) -> Floats:
    """Smooth noise of about unit size that changes its mind every so often, unevenly."""
    track = Track(times_s[0] - rng.uniform(0, every_s), rng.normal())
    while track.end_s < times_s[-1]:
        track.to(rng.normal(), every_s * rng.uniform(0.5, 1.6), float(np.exp(rng.normal(0, 0.2))))
    return track.at(times_s)
