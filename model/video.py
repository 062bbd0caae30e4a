"""An open video file in, upright frames at a fixed rate out. Serving and training decode with this alone.

Only containers on a list are read, from a file that is already open, so that no name inside a file opens
another one. Frames stream: memory does not grow with the video's length. What does not decode is left out
and told in `Media.damaged`; the frame before it stays on.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import BinaryIO, NamedTuple

import av
from av.video.stream import VideoStream

from model.corruption import Damage, Stretches, declared_end
from model.errors import (
    DamagedVideoError,
    FrameRateTooHighError,
    NoVideoStreamError,
    PictureTooLargeError,
    TooManyStreamsError,
    UnsupportedCodecError,
    VideoTooLongError,
)
from model.packets import Packets, exact, out_of_memory
from model.source import open_container
from model.timing import Clock, Shown, resample
from model.transforms import Orientation, Region, Scaler, whole_size
from model.truncation import is_cut_off
from model.windows import Frame

# As FFmpeg counts, but no more: each thread holds a picture, and of 8K in 10 bits they would not fit into the sandbox.
_THREADS = min(8, (os.cpu_count() or 1) + 1)

# Frames, by the specifications of H.264 and H.265.
_MOST_REORDERED = 16


@dataclass(frozen=True)
class Limits:
    """What a video may be at most; the names in errors are the service's settings."""

    max_duration_s: float = 7200.0
    max_pixels: int = 8192 * 4320
    max_fps: float = 240.0
    max_streams: int = 64
    # Of the decoder's address space: model/sandbox/confine.py has the numbers.
    max_memory_bytes: int = 2560 * 1024**2
    max_cpu_s: float = 14400.0
    max_stall_s: float = 60.0


class Extent(NamedTuple):
    """How long a video is, and when a player that plays the file shows its first frame; in seconds."""

    duration_s: float
    start_offset_s: float


# Infinity is not valid JSON, which carries limits to the decoder's process: four months stand for it.
UNLIMITED = Limits(max_duration_s=1e7, max_pixels=2**30, max_cpu_s=1e7)


@dataclass(frozen=True)
class Media:
    """What was found in the file. Width and height are upright, in pixels; the rate is measured."""

    duration_s: float
    width: int
    height: int
    frames_decoded: int
    average_fps: float
    variable_frame_rate: bool
    rotation_deg: int
    looked_at: float
    """The fraction of the picture's area inside the crop."""
    damaged: Stretches = ()
    """Stretches in seconds that could not be decoded, in order, within `duration_s`."""
    start_offset_s: float = 0.0
    """When a player that plays the file shows the first frame: sound may start earlier than pictures."""


class Video:
    """One pass over a video's frames. `media` is known once they have all been taken."""

    def __init__(self, file: BinaryIO, limits: Limits = Limits()) -> None:
        self._file, self._limits = file, limits
        self._container = open_container(file, limits.max_pixels)
        try:
            self._stream = self._pick_stream()
            self._check_declared()
        except BaseException:
            self._container.close()
            raise
        self.media: Media | None = None
        self._end = 0
        self._start_offset_s = 0.0
        self._lost: Stretches = ()

    def close(self) -> None:
        """Free the decoder."""
        self._container.close()

    @property
    def declared_duration_s(self) -> float | None:
        """What the container says; None where it does not, and not to be relied on."""
        ticks = self._container.duration
        return ticks / av.time_base if ticks is not None and ticks > 0 else None

    def frames(self, fps: float, width: int, height: int, region: Region = Region()) -> Iterator[Frame]:
        """Frames (height, width, 3) uint8 RGB at a fixed rate, upright, the first at the first frame's time.

        Raises:
            VideoTooLongError, PictureTooLargeError, DamagedVideoError.
        """
        return self._scaled(fps, lambda _frame, _aspect: Scaler(width, height, region))

    def whole_frames(self, fps: float, longest: int) -> Iterator[Frame]:
        """As frames, but the whole picture, scaled down to `longest` pixels on its longer side and never up."""
        return self._scaled(fps, lambda frame, aspect: Scaler(*whole_size(frame, aspect, longest), Region()))

    def _scaled(self, fps: float, make: Callable[[av.VideoFrame, Fraction], Scaler]) -> Iterator[Frame]:
        """Frames at a fixed rate through the scaler that is made for the first."""
        scaler: Scaler | None = None
        rate = Fraction(fps).limit_denominator(100_000) * self.time_base
        pixel_aspect = exact(self._stream.sample_aspect_ratio) or Fraction(1)
        for frame, repeats in resample(self.shown(), rate):
            scaler = scaler or make(frame, pixel_aspect)
            picture = _decoding(scaler, frame, pixel_aspect)
            for _ in range(repeats):
                yield picture
        if self.media is not None and scaler is not None:
            self.media = replace(self.media, looked_at=scaler.looked_at)

    @property
    def time_base(self) -> Fraction:
        """Seconds a tick."""
        return exact(self._stream.time_base) or Fraction(1, av.time_base)

    @property
    def _step(self) -> int:
        """How long a frame is shown as a rule, in ticks."""
        return max(1, round(1 / (self.time_base * (exact(self._stream.average_rate) or 25))))

    def _new_clock(self) -> Clock:
        return Clock(self.time_base, self._step, self._strung)

    @property
    def _most(self) -> int:
        """Where a video ends at the latest, in ticks."""
        return int(self._limits.max_duration_s / self.time_base)

    @property
    def _strung(self) -> bool:
        """Whether the file may be recordings in a row, cut anywhere."""
        return self._container.format.name == "mpegts"

    def declared_extent(self) -> Extent | None:
        """Length and start by the container's headers and the first frame; None where they do not say.

        Raises:
            VideoError: one of its kinds.
        """
        packets, clock = Packets(self._container, self._stream), self._new_clock()
        for given in packets.frames():
            clock.place(given, packets.first)
            break
        else:
            raise self._no_frame()
        start = self._first(clock, packets)
        end = declared_end(self._container, self._stream)
        if end is None or end <= start:
            packets.skim()
            end = None if packets.restarts or packets.end is None else packets.end * self.time_base
        return None if end is None else Extent(float(end - start), self._start_offset(start))

    def shown(self) -> Iterator[Shown]:
        """All frames as they are, with times from the first frame's, never running backwards.

        Raises:
            VideoTooLongError, PictureTooLargeError, DamagedVideoError, FrameRateTooHighError.
        """
        counter = _Counter()
        yield from counter.watch(self._decode())
        self.media = replace(
            counter.media(self.time_base, self._end), damaged=self._lost, start_offset_s=self._start_offset_s
        )

    def _decode(self) -> Iterator[Shown]:
        packets, clock = Packets(self._container, self._stream), self._new_clock()
        damage = Damage(self.time_base, self._step)
        last: Shown | None = None
        for count, given in enumerate(packets.frames()):
            self._check_size(given.frame.width, given.frame.height)
            placed = clock.place(given, packets.first)
            if placed is None:
                continue
            self._check_times(count, float(placed.end * self.time_base))
            damage.see(placed, given.doubtful)
            if last is not None:
                yield last._replace(end=placed.start)
            last = placed
        if last is None:
            raise self._no_frame()
        self._end = self._finish(clock, packets, damage)
        self._lost = damage.stretches
        self._start_offset_s = self._start_offset(self._first(clock, packets))
        yield last._replace(end=damage.shown_until)

    def _finish(self, clock: Clock, packets: Packets, damage: Damage) -> int:
        """Where the video ends, in ticks from the first frame's time."""
        declared = declared_end(self._container, self._stream)
        due = None
        if declared is not None and clock.since_start(0) is not None:
            due = round((declared - self._first(clock, packets)) / self.time_base)
        return damage.finish(
            due,
            clock.since_start(packets.last),
            packets.doubtful,
            self._most,
            lambda: is_cut_off(self._file, self._container.format.name),
        )

    def _first(self, clock: Clock, packets: Packets) -> Fraction:
        """Presentation time of the first frame in seconds."""
        ticks, first = clock.origin or 0, packets.first or 0
        # In AVI it is the decoding time of a later packet, by as many as the decoder holds back to reorder frames.
        if self._container.format.name == "avi" and ticks - first <= _MOST_REORDERED:
            ticks = first
        return ticks * self.time_base

    def _start_offset(self, first: Fraction) -> float:
        """When a player shows the frame with this presentation time, in seconds.

        Clocks of players start with the earliest stream. Those of MP4 and MOV start at 0, where an edit list may have
        the picture come later; only recordings in fragments may begin with any time.
        """
        whole = self._container.format.name.startswith("mov") and self._stream.frames > 0
        start = 0 if whole else max(0, self._container.start_time or 0)
        return round(max(0.0, float(first - Fraction(start, av.time_base))), 6)

    def _pick_stream(self) -> VideoStream:
        for stream in self._container.streams.video:
            # Cover art of an audio file is a "video" of one picture.
            if not stream.disposition & av.stream.Disposition.attached_pic:
                if stream.codec_context is None:
                    raise UnsupportedCodecError(
                        "no decoder here reads this video's codec; send it as H.264, H.265, VP9 or AV1"
                    )
                stream.thread_type = "AUTO"
                stream.codec_context.thread_count = _THREADS
                stream.codec_context.options = {"max_pixels": str(self._limits.max_pixels)}
                return stream
        raise NoVideoStreamError("the file has no video stream; send a file that has pictures")

    def _check_declared(self) -> None:
        if len(self._container.streams) > self._limits.max_streams:
            raise _too_many_streams(len(self._container.streams), self._limits)
        self._check_size(self._stream.codec_context.width, self._stream.codec_context.height)
        declared = self.declared_duration_s
        if declared is not None and declared > self._limits.max_duration_s + 1:
            raise _too_long(declared, self._limits)

    def _no_frame(self) -> DamagedVideoError:
        # FFmpeg forgets a size above the limit, and says no more than that nothing decodes.
        forgotten = not self._stream.codec_context.width
        large = (
            f", or it has more than {self._limits.max_pixels} pixels (MMAD_MAX_PIXELS)" if forgotten else ""
        )
        return DamagedVideoError(
            f"no frame of the video can be decoded{large}; export it anew and send it again"
        )

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.max_pixels:
            raise _too_many_pixels(width, height, self._limits)

    def _check_times(self, frames: int, end_s: float) -> None:
        if end_s > self._limits.max_duration_s + 1:
            raise _too_long(end_s, self._limits)
        # A second's worth ahead: bursts are no rate.
        if frames > self._limits.max_fps * (end_s + 1):
            raise _too_fast(frames / end_s, self._limits)


def extent(file: BinaryIO, limits: Limits = Limits()) -> Extent:
    """Length and start of a video; no more than its first frame is decoded, unless the container says too little.

    Args:
        file: readable and seekable.
        limits: what the video may be at most.

    Raises:
        VideoError: one of its kinds.
    """
    with closing(Video(file, limits)) as video:
        if (told := video.declared_extent()) is not None:
            return told
    file.seek(0)
    with closing(Video(file, limits)) as video:
        for _ in video.shown():
            pass
        media = video.media
    return Extent(media.duration_s, media.start_offset_s) if media else Extent(0.0, 0.0)


class _Counter:
    """Watches frames go by and measures what `Media` tells."""

    def __init__(self) -> None:
        self._count = self._last = 0
        self._gaps: tuple[int, int] = (0, 0)
        self._size = (0, 0)
        self._rotation = 0

    def watch(self, shown: Iterable[Shown]) -> Iterator[Shown]:
        for item in shown:
            if self._count:
                gap = item.start - self._last
                low, high = self._gaps
                self._gaps = (gap, gap) if self._count == 1 else (min(low, gap), max(high, gap))
            else:
                self._size = Orientation.of(item.frame).upright(item.frame.width, item.frame.height)
                self._rotation = item.frame.rotation
            self._count, self._last = self._count + 1, item.start
            yield item

    def media(self, time_base: Fraction, end: int) -> Media:
        low, high = self._gaps
        span = self._last if self._count > 1 else end
        return Media(
            duration_s=float(end * time_base),
            width=self._size[0],
            height=self._size[1],
            frames_decoded=self._count,
            average_fps=float(max(1, self._count - 1) / (span * time_base)) if span else 0.0,
            # Time bases round: 29 fps in milliseconds has gaps of 34 and 35.
            variable_frame_rate=high > 1.25 * low + 1,
            rotation_deg=self._rotation % 360,
            looked_at=1.0,
        )


def _decoding(scaler: Scaler, frame: av.VideoFrame, pixel_aspect: Fraction) -> Frame:
    try:
        return scaler(frame, pixel_aspect)
    except MemoryError as error:
        raise out_of_memory() from error
    except av.FFmpegError as error:
        raise DamagedVideoError(f"a frame of the video cannot be scaled ({error.strerror})") from error


def _too_long(duration_s: float, limits: Limits) -> VideoTooLongError:
    return VideoTooLongError(
        f"the video lasts {duration_s:.0f} s or more, the limit is {limits.max_duration_s:.0f} s "
        "(MMAD_MAX_DURATION_S); send it in parts or raise the limit"
    )


def _too_many_streams(streams: int, limits: Limits) -> TooManyStreamsError:
    return TooManyStreamsError(
        f"the file has {streams} streams or more, the limit is {limits.max_streams}; "
        "send one that has the video alone"
    )


def _too_fast(fps: float, limits: Limits) -> FrameRateTooHighError:
    return FrameRateTooHighError(
        f"the video has {fps:.0f} frames a second, the limit is {limits.max_fps:.0f} (MMAD_MAX_FPS); "
        "export it at a lower rate or raise the limit"
    )


def _too_many_pixels(width: int, height: int, limits: Limits) -> PictureTooLargeError:
    return PictureTooLargeError(
        f"the picture has {width} x {height} pixels, the limit is {limits.max_pixels} in all "
        "(MMAD_MAX_PIXELS); scale it down or raise the limit"
    )
