"""Frame timing: from the timestamps of packets to the slots of a fixed frame rate."""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import av

from model.packets import DecodedFrame

# A new recording begins if the presentation time falls by more than the first value and the decoding time falls too, or
# if the presentation time falls by more than the second value.
_RESTART_BACK_S = 0.5
_RESTART_FAR_BACK_S = 10
# In MPEG-TS, a new recording also begins after a gap longer than this.
_RESTART_AHEAD_S = 3600


class TimedFrame(NamedTuple):
    """A decoded frame with its presentation interval in ticks of the stream's time base."""

    frame: av.VideoFrame
    start: int
    end: int


class TimestampSelector:
    """Selects presentation or decoding times, as FFmpeg's tools do: the kind with fewer decreases so far.

    AVI has decoding times only, and in some files the presentation times do not increase.
    """

    def __init__(self) -> None:
        self._pts: int | None = None
        self._dts: int | None = None
        self._error_balance = 0  # errors of presentation times minus errors of decoding times

    def select(self, frame: av.VideoFrame) -> int | None:
        """Return the time of the next frame in ticks, if it has one."""
        pts, dts = frame.pts, frame.dts
        if pts is not None:
            self._error_balance += self._pts is not None and pts <= self._pts
        if dts is not None:
            self._error_balance -= self._dts is not None and dts <= self._dts
        self._pts, self._dts = (dts if pts is None else pts), (pts if dts is None else dts)
        return dts if pts is None or (dts is not None and self._error_balance > 0) else pts


class Clock:
    """Converts timestamps to ticks since the first frame, which never decrease.

    `time_base` is in seconds per tick; `step` is the duration in ticks of a frame that has none of its own. A
    `concatenated` container may hold several recordings in a row, each with its own clock.
    """

    def __init__(self, time_base: Fraction, step: int, concatenated: bool) -> None:
        self._time_base, self._step, self._concatenated = time_base, step, concatenated
        self._timestamps = TimestampSelector()
        self.origin: int | None = None  # presentation time in ticks that is time zero
        self._offset = 0  # timestamp of time zero on the clock of the current recording
        self.has_restarted = False
        self._restarts = self._start = self._end = 0

    def place(self, decoded: DecodedFrame, first: int | None) -> TimedFrame | None:
        """Return a frame with its times; None if later frames were placed before, which happens after damage.

        The `end` is an estimate. The video starts at `first`, the presentation time of the first packet, if that packet
        did not decode.
        """
        pts = self._timestamps.select(decoded.frame)
        if pts is not None and self.origin is None:
            # In a recording that was cut out of a stream, the first packets never decode: nothing is lost.
            # AVI's frames have decoding times only, which are those of later packets.
            is_lost = decoded.doubtful and not self._concatenated and decoded.frame.pts is not None
            self.origin = self._offset = min(pts, first) if is_lost and first is not None else pts
        start = self._end if pts is None else pts - self._offset
        if pts is not None and self._is_restart(start, decoded):
            self._offset, start = pts - self._end, self._end
            self.has_restarted, self._restarts = True, decoded.restarts
        elif decoded.doubtful and start < self._start:
            return None
        self._start = max(self._start, start)
        self._end = self._start + (decoded.frame.duration or self._step)
        return TimedFrame(decoded.frame, self._start, self._end)

    def since_start(self, pts: int | None) -> int | None:
        """Convert a presentation time to ticks since the first frame; None if there were several recordings."""
        return None if pts is None or self.has_restarted else pts - self._offset

    def _is_restart(self, start: int, decoded: DecodedFrame) -> bool:
        """Return whether a new recording begins."""
        ahead_s = (start - self._start) * self._time_base
        back_s = _RESTART_BACK_S if decoded.restarts > self._restarts else _RESTART_FAR_BACK_S
        if ahead_s < -back_s:
            return self._concatenated or not decoded.doubtful
        return self._concatenated and ahead_s > _RESTART_AHEAD_S


def resample(frames: Iterable[TimedFrame], rate: Fraction) -> Iterator[tuple[av.VideoFrame, int]]:
    """Resample frames to a fixed rate: yield each frame with the number of consecutive slots it fills.

    A frame's time is rounded to the nearest slot (halves up), and it fills the slots up to the next frame. If several
    frames fall into one slot, the last one is used. FFmpeg's fps filter does the same. `rate` is in slots per tick.
    """

    def slot(tick: int) -> int:
        return math.floor(tick * rate + Fraction(1, 2))

    last: TimedFrame | None = None
    filled = 0
    for timed in frames:
        if last is not None and slot(timed.start) > filled:
            yield last.frame, slot(timed.start) - filled
            filled = slot(timed.start)
        last = timed
    if last is not None and (slot(last.end) > filled or filled == 0):
        yield last.frame, max(1, slot(last.end) - filled)
