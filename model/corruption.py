"""Find the intervals of a video that did not decode.

frames    |--|--|--|x.......|--|--|--|--|..........   x: an error, or a frame that the decoder marks as corrupt
damaged             |-------|           |---------|   the last interval extends to the declared end of the video

A gap without an error is not damage: videos with a variable frame rate have gaps. Nor is a gap at the end, unless the
file is truncated: the last frame remains visible.
"""

import re
from collections.abc import Callable
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from model.packets import to_fraction
from model.timing import TimedFrame

Intervals = tuple[tuple[float, float], ...]

# Intervals that are closer than this are joined; so are further ones beyond the maximum number.
_MIN_DISTANCE_S = 0.5
_MAX_INTERVALS = 1000


def read_declared_end(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Return the presentation time in seconds at which the video ends according to its container, if that is known."""
    name, time_base, rate = container.format.name, to_fraction(stream.time_base), to_fraction(stream.average_rate)
    if name.startswith("mov"):
        if stream.duration is None or time_base is None:
            return None
        return ((stream.start_time or 0) + stream.duration) * time_base
    if name == "avi":  # without an index FFmpeg estimates the duration, but not the number of frames
        return stream.frames / rate if rate else None
    if not name.startswith("matroska"):  # FFmpeg estimates the durations of other formats
        return None
    if "DURATION" in stream.metadata:
        # The tag that FFmpeg writes is the end time, that of other muxers the length.
        is_end = container.metadata.get("ENCODER", "").startswith("Lavf") or not stream.start_time
        return _parse_duration(stream.metadata["DURATION"]) if is_end else None
    if len(container.streams) == 1 and container.duration is not None:  # sound may be longer than the video
        return Fraction(container.duration, av.time_base)
    return None


def _parse_duration(text: str) -> Fraction | None:
    match = re.fullmatch(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d{1,9})?)", text, re.ASCII)
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)


class CorruptionTracker:
    """Collects damaged intervals from decoded frames; times are in ticks since the first frame.

    `time_base` is in seconds per tick; `step` is the usual duration of a frame in ticks.
    """

    def __init__(self, time_base: Fraction, step: int) -> None:
        self._time_base, self._step = time_base, step
        self._intervals: list[tuple[int, int]] = []
        self._start = 0
        self.last_frame_end = 0  # the video after it was lost

    def add_frame(self, timed: TimedFrame, doubtful: bool) -> None:
        """Add the next frame, with its estimated end; for `doubtful` see DecodedFrame."""
        if doubtful and timed.start - self.last_frame_end > self._step / 2:
            self._add(self.last_frame_end, timed.start)
        if timed.frame.is_corrupt:
            self._add(timed.start, timed.end)
        self._start, self.last_frame_end = timed.start, timed.end

    def finish(
        self,
        declared_end: int | None,
        last_packet: int | None,
        doubtful: bool,
        max_end: int,
        is_cut_off: Callable[[], bool] = lambda: False,
    ) -> int:
        """Return the end of the video, and add the damaged interval before it, if any.

        The end is doubtful if packets shortly before it did not decode, or could not be read. `is_cut_off` is slow and
        only called if the result depends on it.
        """
        declared_end = min(max_end, declared_end or 0)
        margin = self._step / 2
        if doubtful or (declared_end - self.last_frame_end > margin and is_cut_off()):
            end = max(declared_end, min(max_end, last_packet or 0))
        elif last_packet is not None and last_packet >= self.last_frame_end:
            end = min(max_end, last_packet + self._step)
        else:
            self.last_frame_end = declared_end if declared_end > self._start else self.last_frame_end
            return self.last_frame_end
        if end - self.last_frame_end > margin:
            self._add(self.last_frame_end, end)
            return end
        return self.last_frame_end

    @property
    def intervals(self) -> Intervals:
        """The damaged intervals in seconds, sorted and disjoint."""
        return tuple((float(start * self._time_base), float(end * self._time_base)) for start, end in self._intervals)

    def _add(self, start: int, end: int) -> None:
        last_end = self._intervals[-1][1] if self._intervals else None
        is_near = last_end is not None and (start - last_end) * self._time_base < _MIN_DISTANCE_S
        if is_near or len(self._intervals) == _MAX_INTERVALS:
            start, last_end = self._intervals.pop()
            end = max(end, last_end)
        self._intervals.append((start, end))
