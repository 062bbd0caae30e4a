"""When frames are shown: from the times that packets carry to the slots of a fixed rate."""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import av

from model.packets import Given

# Frames a little out of order are the codec's; more than this, and the recorder's clock was set anew.
_CLOCK_BACK_S = 0.5
_CLOCK_AHEAD_S = 2


class Shown(NamedTuple):
    """A decoded frame and when it is shown, in ticks of the stream's time base; `end` is when the next is due."""

    frame: av.VideoFrame
    start: int
    end: int


class Clock:
    """Times from the first frame's, never running backwards.

    Args:
        time_base: seconds a tick.
        step: how long a frame is shown that does not say so itself, in ticks.
        strung: whether the container may be several recordings in a row, each with its own clock.
    """

    def __init__(self, time_base: Fraction, step: int, strung: bool) -> None:
        self._time_base, self._step, self._strung = time_base, step, strung
        self._origin: int | None = None
        self._set_anew = False
        self._start = 0
        self._end = 0

    def place(self, given: Given, first: int | None) -> Shown | None:
        """When a frame is shown; None for one that comes when later ones were shown, as happens after damage.

        Args:
            given: the frame.
            first: the presentation time of the first packet: where the video begins if that did not decode.
        """
        pts = given.frame.pts
        if pts is not None and self._origin is None:
            # Of a recording that was cut out of a stream the first packets never decode: nothing is lost.
            lost = given.doubtful and not self._strung
            self._origin = min(pts, first) if lost and first is not None else pts
        start = self._end if pts is None else pts - (self._origin or 0)
        if given.doubtful and self._is_late(start):
            return None
        if self._was_set_anew(start) and pts is not None:
            self._origin, start, self._set_anew = pts - self._end, self._end, True
        self._start = max(self._start, start)
        self._end = self._start + (given.frame.duration or self._step)
        return Shown(given.frame, self._start, self._end)

    def since_start(self, pts: int | None) -> int | None:
        """A presentation time as ticks from the first frame's; None where there were several clocks."""
        return None if pts is None or self._set_anew else pts - (self._origin or 0)

    def _ahead_s(self, start: int) -> float:
        return float((start - self._end) * self._time_base)

    def _is_late(self, start: int) -> bool:
        return start < self._start and not (self._strung and self._was_set_anew(start))

    def _was_set_anew(self, start: int) -> bool:
        """Far backwards, or far ahead where recordings are strung together."""
        ahead_s = self._ahead_s(start)
        return ahead_s < -_CLOCK_BACK_S or (self._strung and ahead_s > _CLOCK_AHEAD_S)


def resample(shown: Iterable[Shown], rate: Fraction) -> Iterator[tuple[av.VideoFrame, int]]:
    """Which frame is shown at each of 0, 1/rate, 2/rate ..., and how many times in a row.

    A frame's time is rounded to the nearest slot (halves up) and it fills the slots up to the next frame's;
    of several in one slot the last counts. That is what FFmpeg's fps filter does.

    Args:
        shown: frames in order, times from the first frame.
        rate: slots per tick: frames a second times the time base.
    """

    def slot(tick: int) -> int:
        return math.floor(tick * rate + Fraction(1, 2))

    held: Shown | None = None
    filled = 0
    for item in shown:
        if held is not None and slot(item.start) > filled:
            yield held.frame, slot(item.start) - filled
            filled = slot(item.start)
        held = item
    if held is not None and (slot(held.end) > filled or filled == 0):
        yield held.frame, max(1, slot(held.end) - filled)
