"""Video decoding for serving and training: from an open file to upright frames at a fixed rate.

Only the listed container formats are read, and only from the open file: names inside a container open no other file.
Frames are streamed, so memory does not grow with the length of the video. Intervals that do not decode are filled with
the frame before them and listed in `Media.damaged`.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import BinaryIO, NamedTuple

import av
from av.video.stream import VideoStream

from model.arrays import Frame
from model.corruption import CorruptionTracker, Intervals, read_declared_end
from model.errors import (
    DamagedVideoError,
    FrameRateTooHighError,
    NoVideoStreamError,
    PictureTooLargeError,
    TooManyStreamsError,
    UnsupportedCodecError,
    VideoTooLongError,
)
from model.packets import PacketReader, make_memory_error, to_fraction
from model.source import open_container
from model.timing import Clock, TimedFrame, resample
from model.transforms import Orientation, Region, Scaler, compute_full_frame_size
from model.truncation import is_cut_off

# FFmpeg's default, but limited: each thread holds a frame, and more 8K frames with 10 bits exceed the sandbox's memory.
_THREADS = min(8, (os.cpu_count() or 1) + 1)

# The maximum number of frames that H.264 and H.265 reorder.
_MAX_REORDERED_FRAMES = 16


@dataclass(frozen=True)
class Limits:
    """Limits for a video and for its decoding; error messages name the service's settings."""

    max_duration_s: float = 7200.0
    max_pixels: int = 8192 * 4320
    max_fps: float = 240.0
    max_streams: int = 64
    # Address space of the decode process; model/sandbox/confine.py lists what videos need.
    max_memory_bytes: int = 2560 * 1024**2
    max_cpu_s: float = 14400.0
    max_stall_s: float = 60.0


class Extent(NamedTuple):
    """Duration of a video, and the time at which a player shows its first frame; in seconds."""

    duration_s: float
    start_offset_s: float


# Limits are sent to the decode process as JSON, which has no infinity: 1e7 s are four months.
UNLIMITED = Limits(max_duration_s=1e7, max_pixels=2**30, max_cpu_s=1e7)


@dataclass(frozen=True)
class Media:
    """Properties of a decoded video. Width and height are those of the upright frame, in pixels."""

    duration_s: float
    width: int
    height: int
    frames_decoded: int
    average_fps: float
    variable_frame_rate: bool
    rotation_deg: int
    looked_at: float
    """The fraction of the frame's area inside the crop."""
    damaged: Intervals = ()
    """Intervals in seconds that could not be decoded, sorted, within `duration_s`."""
    start_offset_s: float = 0.0
    """The time at which a player shows the first frame: above 0 if the sound starts earlier."""


class Video:
    """One pass over a video's frames. `media` is None until all frames have been read."""

    def __init__(self, file: BinaryIO, limits: Limits = Limits()) -> None:
        self._file, self._limits = file, limits
        self._container = open_container(file, limits.max_pixels)
        try:
            self._stream = self._select_stream()
            self._check_declared()
        except BaseException:
            self._container.close()
            raise
        self.media: Media | None = None
        self._end = 0
        self._start_offset_s = 0.0
        self._damaged: Intervals = ()

    def close(self) -> None:
        """Free the decoder."""
        self._container.close()

    @property
    def declared_duration_s(self) -> float | None:
        """The duration according to the container, which may be wrong; None if it is unknown."""
        ticks = self._container.duration
        return ticks / av.time_base if ticks is not None and ticks > 0 else None

    def frames(self, fps: float, width: int, height: int, region: Region = Region()) -> Iterator[Frame]:
        """Yield upright frames (height, width, 3) uint8 RGB at a fixed rate, starting with the first frame.

        Raises:
            VideoTooLongError, PictureTooLargeError, DamagedVideoError.
        """
        return self._scaled(fps, lambda _frame, _aspect: Scaler(width, height, region))

    def whole_frames(self, fps: float, longest: int) -> Iterator[Frame]:
        """Yield whole frames, scaled down to at most `longest` pixels on the longer side; see frames."""
        return self._scaled(
            fps, lambda frame, aspect: Scaler(*compute_full_frame_size(frame, aspect, longest), Region())
        )

    def _scaled(self, fps: float, make: Callable[[av.VideoFrame, Fraction], Scaler]) -> Iterator[Frame]:
        """Yield frames at a fixed rate, scaled by the scaler that `make` returns for the first frame."""
        scaler: Scaler | None = None
        rate = Fraction(fps).limit_denominator(100_000) * self.time_base
        pixel_aspect = to_fraction(self._stream.sample_aspect_ratio) or Fraction(1)
        for frame, repeats in resample(self.timed_frames(), rate):
            scaler = scaler or make(frame, pixel_aspect)
            scaled = _scale(scaler, frame, pixel_aspect)
            for _ in range(repeats):
                yield scaled
        if self.media is not None and scaler is not None:
            self.media = replace(self.media, looked_at=scaler.looked_at)

    @property
    def time_base(self) -> Fraction:
        """Seconds per tick."""
        return to_fraction(self._stream.time_base) or Fraction(1, av.time_base)

    @property
    def _step(self) -> int:
        """Usual duration of a frame in ticks."""
        return max(1, round(1 / (self.time_base * (to_fraction(self._stream.average_rate) or 25))))

    def _make_clock(self) -> Clock:
        # An MPEG-TS file may be a concatenation of recordings, cut anywhere.
        concatenated = self._container.format.name == "mpegts"
        return Clock(self.time_base, self._step, concatenated)

    @property
    def _max_end(self) -> int:
        """Upper limit for the end of the video in ticks."""
        return int(self._limits.max_duration_s / self.time_base)

    def declared_extent(self) -> Extent | None:
        """Determine duration and start from the container's headers and the first frame; None if they are unknown.

        Raises:
            VideoError: a subclass.
        """
        packets, clock = PacketReader(self._container, self._stream), self._make_clock()
        for decoded in packets.frames():
            clock.place(decoded, packets.first)
            break
        else:
            raise self._make_no_frame_error()
        start = self._find_start(clock, packets)
        end = read_declared_end(self._container, self._stream)
        if end is None or end <= start:
            packets.skim()
            end = None if packets.restarts or packets.end is None else packets.end * self.time_base
        return None if end is None else Extent(float(end - start), self._find_start_offset(start))

    def timed_frames(self) -> Iterator[TimedFrame]:
        """Yield all frames as decoded, with times in ticks since the first frame, which never decrease.

        Raises:
            VideoTooLongError, PictureTooLargeError, DamagedVideoError, FrameRateTooHighError.
        """
        meter = _MediaMeter()
        yield from meter.measure(self._decode())
        self.media = replace(
            meter.make_media(self.time_base, self._end), damaged=self._damaged, start_offset_s=self._start_offset_s
        )

    def _decode(self) -> Iterator[TimedFrame]:
        packets, clock = PacketReader(self._container, self._stream), self._make_clock()
        corruption = CorruptionTracker(self.time_base, self._step)
        last: TimedFrame | None = None
        for count, decoded in enumerate(packets.frames()):
            self._check_size(decoded.frame.width, decoded.frame.height)
            timed = clock.place(decoded, packets.first)
            if timed is None:
                continue
            self._check_times(count, float(timed.end * self.time_base))
            corruption.add_frame(timed, decoded.doubtful)
            if last is not None:
                yield last._replace(end=timed.start)
            last = timed
        if last is None:
            raise self._make_no_frame_error()
        self._end = self._find_end(clock, packets, corruption)
        self._damaged = corruption.intervals
        self._start_offset_s = self._find_start_offset(self._find_start(clock, packets))
        yield last._replace(end=corruption.last_frame_end)

    def _find_end(self, clock: Clock, packets: PacketReader, corruption: CorruptionTracker) -> int:
        """Return the end of the video in ticks since the first frame."""
        declared = read_declared_end(self._container, self._stream)
        declared_end = None
        if declared is not None and clock.since_start(0) is not None:
            declared_end = round((declared - self._find_start(clock, packets)) / self.time_base)
        return corruption.finish(
            declared_end,
            clock.since_start(packets.last),
            packets.doubtful,
            self._max_end,
            lambda: is_cut_off(self._file, self._container.format.name),
        )

    def _find_start(self, clock: Clock, packets: PacketReader) -> Fraction:
        """Return the presentation time of the first frame in seconds."""
        ticks, first = clock.origin or 0, packets.first or 0
        # In AVI, `origin` is the decoding time of a later packet: the decoder holds frames back to reorder them.
        if self._container.format.name == "avi" and ticks - first <= _MAX_REORDERED_FRAMES:
            ticks = first
        return ticks * self.time_base

    def _find_start_offset(self, first: Fraction) -> float:
        """Return the time in seconds at which a player shows the frame with this presentation time.

        A player's clock starts with the earliest stream. For MP4 and MOV it starts at 0, where an edit list may delay
        the video; only fragmented recordings may start at any time.
        """
        starts_at_zero = self._container.format.name.startswith("mov") and self._stream.frames > 0
        start = 0 if starts_at_zero else max(0, self._container.start_time or 0)
        return round(max(0.0, float(first - Fraction(start, av.time_base))), 6)

    def _select_stream(self) -> VideoStream:
        for stream in self._container.streams.video:
            # The cover art of an audio file is a video stream with a single frame.
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
            raise _make_streams_error(len(self._container.streams), self._limits)
        self._check_size(self._stream.codec_context.width, self._stream.codec_context.height)
        declared = self.declared_duration_s
        if declared is not None and declared > self._limits.max_duration_s + 1:
            raise _make_duration_error(declared, self._limits)

    def _make_no_frame_error(self) -> DamagedVideoError:
        # FFmpeg sets a size above its limit to 0, as it does an unreadable one: the cause is unknown.
        may_be_too_large = not self._stream.codec_context.width
        hint = f", or it has more than {self._limits.max_pixels} pixels (MMAD_MAX_PIXELS)" if may_be_too_large else ""
        return DamagedVideoError(f"no frame of the video can be decoded{hint}; export it anew and send it again")

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.max_pixels:
            raise _make_pixels_error(width, height, self._limits)

    def _check_times(self, frames: int, end_s: float) -> None:
        if end_s > self._limits.max_duration_s + 1:
            raise _make_duration_error(end_s, self._limits)
        # One second of tolerance allows short bursts of frames.
        if frames > self._limits.max_fps * (end_s + 1):
            raise _make_fps_error(frames / end_s, self._limits)


def measure_extent(file: BinaryIO, limits: Limits = Limits()) -> Extent:
    """Return duration and start of a video. All frames are decoded only if the container does not declare them.

    Args:
        file: readable and seekable.
        limits: limits for the video.

    Raises:
        VideoError: a subclass.
    """
    with closing(Video(file, limits)) as video:
        if (declared := video.declared_extent()) is not None:
            return declared
    file.seek(0)
    with closing(Video(file, limits)) as video:
        for _ in video.timed_frames():
            pass
        media = video.media
    return Extent(media.duration_s, media.start_offset_s) if media else Extent(0.0, 0.0)


class _MediaMeter:
    """Measures the fields of `Media` on frames that pass through."""

    def __init__(self) -> None:
        self._count = self._last = 0
        self._gap_range: tuple[int, int] = (0, 0)
        self._size = (0, 0)
        self._rotation = 0

    def measure(self, frames: Iterable[TimedFrame]) -> Iterator[TimedFrame]:
        for timed in frames:
            if self._count:
                gap = timed.start - self._last
                low, high = self._gap_range
                self._gap_range = (gap, gap) if self._count == 1 else (min(low, gap), max(high, gap))
            else:
                frame = timed.frame
                self._size = Orientation.from_frame(frame).upright_size(frame.width, frame.height)
                self._rotation = frame.rotation
            self._count, self._last = self._count + 1, timed.start
            yield timed

    def make_media(self, time_base: Fraction, end: int) -> Media:
        low, high = self._gap_range
        span = self._last if self._count > 1 else end
        return Media(
            duration_s=float(end * time_base),
            width=self._size[0],
            height=self._size[1],
            frames_decoded=self._count,
            average_fps=float(max(1, self._count - 1) / (span * time_base)) if span else 0.0,
            # Timestamps are rounded: at 29 fps in milliseconds, gaps are 34 and 35 ticks.
            variable_frame_rate=high > 1.25 * low + 1,
            rotation_deg=self._rotation % 360,
            looked_at=1.0,
        )


def _scale(scaler: Scaler, frame: av.VideoFrame, pixel_aspect: Fraction) -> Frame:
    try:
        return scaler(frame, pixel_aspect)
    except MemoryError as error:
        raise make_memory_error() from error
    except av.FFmpegError as error:
        raise DamagedVideoError(f"a frame of the video cannot be scaled ({error.strerror})") from error


def _make_duration_error(duration_s: float, limits: Limits) -> VideoTooLongError:
    return VideoTooLongError(
        f"the video lasts {duration_s:.0f} s or more, the limit is {limits.max_duration_s:.0f} s "
        "(MMAD_MAX_DURATION_S); send it in parts or raise the limit"
    )


def _make_streams_error(streams: int, limits: Limits) -> TooManyStreamsError:
    return TooManyStreamsError(
        f"the file has {streams} streams or more, the limit is {limits.max_streams}; send one that has the video alone"
    )


def _make_fps_error(fps: float, limits: Limits) -> FrameRateTooHighError:
    return FrameRateTooHighError(
        f"the video has {fps:.0f} frames a second, the limit is {limits.max_fps:.0f} (MMAD_MAX_FPS); "
        "export it at a lower rate or raise the limit"
    )


def _make_pixels_error(width: int, height: int, limits: Limits) -> PictureTooLargeError:
    return PictureTooLargeError(
        f"the picture has {width} x {height} pixels, the limit is {limits.max_pixels} in all "
        "(MMAD_MAX_PIXELS); scale it down or raise the limit"
    )
