"""When frames are shown: from the times that packets carry to the slots of a fixed rate."""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import av

from model.packets import Given

# A new recording begins where the presentation time falls by the first of these and the decoding time falls too, or
# where the presentation time falls by the second.
_CLOCK_BACK_S = 0.5
_CLOCK_FAR_BACK_S = 10
# In MPEG-TS, a gap longer than this is the start of another recording.
_CLOCK_AHEAD_S = 3600


class Shown(NamedTuple):
    """A decoded frame and when it is shown, in ticks of the stream's time base; `end` is when the next is due."""

    frame: av.VideoFrame
    start: int
    end: int


class Stamps:
    """Chooses between a frame's presentation time and the decoding time that it came with, as FFmpeg's tools do.

    AVI has decoding times alone, and some files have presentation times that do not grow: whichever of the two has
    failed to grow less often is believed.
    """

    def __init__(self) -> None:
        self._pts: int | None = None
        self._dts: int | None = None
        self._faults = 0  # of presentation times, less those of decoding times

    def of(self, frame: av.VideoFrame) -> int | None:
        """The time of the next frame in ticks; None where it has none."""
        pts, dts = frame.pts, frame.dts
        if pts is not None:
            self._faults += self._pts is not None and pts <= self._pts
        if dts is not None:
            self._faults -= self._dts is not None and dts <= self._dts
        self._pts, self._dts = (dts if pts is None else pts), (pts if dts is None else dts)
        return dts if pts is None or (dts is not None and self._faults > 0) else pts


class Clock:
    """Times from the first frame's, never running backwards.

    Args:
        time_base: seconds a tick.
        step: how long a frame is shown that does not say so itself, in ticks.
        strung: whether the container may be several recordings in a row, each with its own clock.

    Attributes:
        origin: presentation time in ticks of the moment from which times count; None before the first frame.
    """

    def __init__(self, time_base: Fraction, step: int, strung: bool) -> None:
        self._time_base, self._step, self._strung = time_base, step, strung
        self._stamps = Stamps()
        self.origin: int | None = None
        self._zero = 0  # of the present recording
        self._restarts = 0
        self._set_anew = False
        self._start = 0
        self._end = 0

    def place(self, given: Given, first: int | None) -> Shown | None:
        """When a frame is shown; None for one that comes when later ones were shown, as happens after damage.

        Its `end` is a guess: only the next frame's time tells for how long it is shown.

        Args:
            given: the frame.
            first: the presentation time of the first packet: where the video begins if that did not decode.
        """
        pts = self._stamps.of(given.frame)
        if pts is not None and self.origin is None:
            # Of a recording that was cut out of a stream the first packets never decode: nothing is lost.
            # Decoding times, which AVI's frames have instead, are those of later packets.
            lost = given.doubtful and not self._strung and given.frame.pts is not None
            self.origin = self._zero = min(pts, first) if lost and first is not None else pts
        start = self._end if pts is None else pts - self._zero
        if pts is not None and self._starts_anew(start, given):
            self._zero, start, self._set_anew = pts - self._end, self._end, True
            self._restarts = given.restarts
        elif given.doubtful and start < self._start:
            return None
        self._start = max(self._start, start)
        self._end = self._start + (given.frame.duration or self._step)
        return Shown(given.frame, self._start, self._end)

    def since_start(self, pts: int | None) -> int | None:
        """A presentation time as ticks from the first frame's; None where there were several clocks."""
        return None if pts is None or self._set_anew else pts - self._zero

    def _starts_anew(self, start: int, given: Given) -> bool:
        """Whether a new recording begins with this frame: its time, or its packet's decoding time, jumps back."""
        ahead_s = (start - self._start) * self._time_base
        back_s = _CLOCK_BACK_S if given.restarts > self._restarts else _CLOCK_FAR_BACK_S
        if ahead_s < -back_s:
            return self._strung or not given.doubtful
        return self._strung and ahead_s > _CLOCK_AHEAD_S


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
