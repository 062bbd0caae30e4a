"""Which stretches of a video could not be decoded.

frames    |--|--|--|x.......|--|--|--|--|..........   x: an error, or a frame that the decoder calls corrupt
damaged             |-------|           |---------|   the last one up to where the video was declared to end

A gap without an error is the recorder's: variable frame rates have them. So is one at the end, unless the file was
cut off: the last frame stays on.
"""

import re
from collections.abc import Callable
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from model.packets import exact
from model.timing import Shown

Stretches = tuple[tuple[float, float], ...]

# Less than this between two stretches is no video worth the name: they become one. So do too many to list.
_ISLAND_S = 0.5
_MOST_STRETCHES = 1000


def declared_end(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """The presentation time in seconds at which a container says that its video ends; None where it does not.

    What it says of the whole file counts only where there is nothing else in it, as sound may go on for longer.
    """
    name, time_base, rate = container.format.name, exact(stream.time_base), exact(stream.average_rate)
    if name.startswith("mov"):
        if stream.duration is None or time_base is None:
            return None
        return ((stream.start_time or 0) + stream.duration) * time_base
    if name == "avi":  # without an index FFmpeg estimates the duration, but not this number
        return stream.frames / rate if rate else None
    if not name.startswith("matroska"):  # the rest are estimates, as what FFmpeg gives for Matroska's streams
        return None
    if "DURATION" in stream.metadata:
        # FFmpeg's tag is the time of the end, other writers' the length.
        is_end = container.metadata.get("ENCODER", "").startswith("Lavf") or not stream.start_time
        return _of_clock_face(stream.metadata["DURATION"]) if is_end else None
    if len(container.streams) == 1 and container.duration is not None:
        return Fraction(container.duration, av.time_base)
    return None


def _of_clock_face(text: str) -> Fraction | None:
    """Seconds of "00:01:02.5"; None for anything else."""
    found = re.fullmatch(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d{1,9})?)", text, re.ASCII)
    if found is None:
        return None
    hours, minutes, seconds = found.groups()
    return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)


class Damage:
    """Watches frames go by; times are ticks from the first frame's.

    Args:
        time_base: seconds a tick.
        step: how long a frame is usually shown, in ticks.
    """

    def __init__(self, time_base: Fraction, step: int) -> None:
        self._time_base, self._step = time_base, step
        self._stretches: list[tuple[int, int]] = []
        self._start = self._end = 0

    def see(self, shown: Shown, doubtful: bool) -> None:
        """The next frame, with a guess of its end, and whether something before it did not decode."""
        if doubtful and shown.start - self._end > self._step / 2:
            self._add(self._end, shown.start)
        if shown.frame.is_corrupt:
            self._add(shown.start, shown.end)
        self._start, self._end = shown.start, shown.end

    def finish(
        self,
        declared: int | None,
        reached: int | None,
        doubtful: bool,
        most: int,
        is_cut_off: Callable[[], bool] = lambda: False,
    ) -> int:
        """The video's end, in ticks: what is missing before it was lost, unless its last frame stays on until then.

        Args:
            declared: where the container says that it ends.
            reached: the presentation time of the last packet.
            doubtful: whether something before the end did not decode, or could not be read.
            most: where it ends at the latest, whatever the container says.
            is_cut_off: whether the file ends before its container does; asked where that makes a difference.
        """
        declared = min(most, declared or 0)
        margin = self._step / 2
        if doubtful or (declared - self._end > margin and is_cut_off()):
            due = max(declared, min(most, reached or 0))
        elif reached is not None and reached >= self._end:
            due = min(most, reached + self._step)
        else:
            self._end = declared if declared > self._start else self._end
            return self._end
        if due - self._end > margin:
            self._add(self._end, due)
            return due
        return self._end

    @property
    def shown_until(self) -> int:
        """Until when the last frame is shown, in ticks; what comes after it was lost."""
        return self._end

    @property
    def stretches(self) -> Stretches:
        """In seconds, in order, and apart from each other."""
        return tuple(
            (float(start * self._time_base), float(end * self._time_base)) for start, end in self._stretches
        )

    def _add(self, start: int, end: int) -> None:
        last = self._stretches[-1][1] if self._stretches else None
        near = last is not None and (start - last) * self._time_base < _ISLAND_S
        if near or len(self._stretches) == _MOST_STRETCHES:
            start, until = self._stretches.pop()
            end = max(end, until)
        self._stretches.append((start, end))
