"""Video decoding: from an open file to a stream of upright frames at a fixed rate.

Intervals that do not decode are filled with the frame before them and listed in `Media.damaged`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import BinaryIO

import av
from av.video.stream import VideoStream

from model import errors
from model.arrays import Frame
from model.corruption import CorruptionTracker, Intervals, read_declared_end
from model.packets import PacketReader, make_memory_error, to_fraction
from model.source import open_container
from model.timing import Clock, TimedFrame, resample
from model.transforms import Orientation, Region, Scaler, fit_whole_frame
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
    max_memory_bytes: int = 2560 * 1024**2  # address space of the decode process, see model.sandbox.confine
    max_cpu_s: float = 14400.0
    max_stall_s: float = 60.0


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
    analysed_fraction: float  # fraction of the frame's area inside the crop
    damaged: Intervals = ()  # intervals in seconds that could not be decoded, sorted, within `duration_s`
    start_offset_s: float = 0.0  # when a player shows the first frame: above 0 if the sound starts earlier


class Video:
    """One pass over a video's frames. `media` is None until all frames have been read. Methods raise VideoError."""

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
        self.time_base = to_fraction(self._stream.time_base) or Fraction(1, av.time_base)  # seconds per tick
        # The usual duration of a frame in ticks.
        self._step = max(1, round(1 / (self.time_base * (to_fraction(self._stream.average_rate) or 25))))
        self.close = self._container.close

    def tell(self) -> int:
        """Return the decoder's position in the file, in bytes."""
        return self._file.tell()

    @property
    def declared_duration_s(self) -> float | None:
        """The duration according to the container, which may be wrong; None if it is unknown."""
        ticks = self._container.duration
        return ticks / av.time_base if ticks is not None and ticks > 0 else None

    def frames(self, fps: float, width: int, height: int, region: Region | None = Region()) -> Iterator[Frame]:
        """Yield upright frames (height, width, 3) uint8 RGB at a fixed rate, starting with the first frame.

        They show the middle of a region, or without one whole frames, scaled down to fit into the size.
        """
        scaler: Scaler | None = None
        rate = Fraction(fps).limit_denominator(100_000) * self.time_base
        pixel_aspect = to_fraction(self._stream.sample_aspect_ratio) or Fraction(1)
        for frame, repeats in resample(self.timed_frames(), rate):
            if scaler is None:
                size = (width, height) if region else fit_whole_frame(frame, pixel_aspect, width, height)
                scaler = Scaler(*size, region or Region())
            try:
                scaled = scaler(frame, pixel_aspect)
            except MemoryError as error:
                raise make_memory_error() from error
            except av.FFmpegError as error:
                raise errors.DamagedVideoError(f"a frame of the video cannot be scaled ({error.strerror})") from error
            for _ in range(repeats):
                yield scaled
        if self.media is not None and scaler is not None:
            self.media = replace(self.media, analysed_fraction=scaler.analysed_fraction)

    def _start_decoding(self) -> tuple[PacketReader, Clock]:
        # An MPEG-TS file may be a concatenation of recordings, cut anywhere.
        concatenated = self._container.format.name == "mpegts"
        return PacketReader(self._container, self._stream), Clock(self.time_base, self._step, concatenated)

    def declared_extent(self) -> tuple[float, float] | None:
        """Return what measure_extent does, from headers and the first frame only; None if they do not suffice."""
        packets, clock = self._start_decoding()
        decoded = next(packets.frames(), None)
        if decoded is None:
            raise self._make_no_frame_error()
        clock.place(decoded, packets.first)
        start = self._find_start(clock, packets)
        end = read_declared_end(self._container, self._stream)
        if end is None or end <= start:
            packets.skim()
            end = None if packets.restarts or packets.end is None else packets.end * self.time_base
        return None if end is None else (float(end - start), self._find_start_offset(start))

    def timed_frames(self) -> Iterator[TimedFrame]:
        """Yield all frames as decoded; times never decrease."""
        packets, clock = self._start_decoding()
        corruption, meter = CorruptionTracker(self.time_base, self._step), _MediaMeter()
        last: TimedFrame | None = None
        for count, decoded in enumerate(packets.frames()):
            self._check_size(decoded.frame.width, decoded.frame.height)
            timed = clock.place(decoded, packets.first)
            if timed is None:
                continue
            end_s = float(timed.end * self.time_base)
            self._check_duration(end_s)
            self._check_rate(count, end_s)
            corruption.add_frame(timed, decoded.doubtful)
            meter.add(timed)
            if last is not None:
                yield last._replace(end=timed.start)
            last = timed
        if last is None:
            raise self._make_no_frame_error()
        start, declared_end = self._find_start(clock, packets), read_declared_end(self._container, self._stream)
        end = corruption.finish(
            None if declared_end is None or clock.has_restarted else round((declared_end - start) / self.time_base),
            clock.since_start(packets.last),
            packets.doubtful_frames > 0,
            int(self._limits.max_duration_s / self.time_base),
            lambda: is_cut_off(self._file, self._container.format.name),
        )
        yield last._replace(end=corruption.last_frame_end)
        self.media = meter.make_media(self.time_base, end, corruption.intervals, self._find_start_offset(start))

    def _find_start(self, clock: Clock, packets: PacketReader) -> Fraction:
        """Return the presentation time of the first frame in seconds."""
        ticks, first = clock.origin or 0, packets.first or 0
        # In AVI, `origin` is the decoding time of a later packet: the decoder holds frames back to reorder them.
        if self._container.format.name == "avi" and ticks - first <= _MAX_REORDERED_FRAMES:
            ticks = first
        return ticks * self.time_base

    def _find_start_offset(self, first: Fraction) -> float:
        """Return the time in seconds at which a player shows the frame with this presentation time."""
        # A player's clock starts with the earliest stream. For MP4 and MOV it starts at 0, where an edit list may delay
        # the video; only fragmented recordings may start at any time.
        starts_at_zero = self._container.format.name.startswith("mov") and self._stream.frames > 0
        start = 0 if starts_at_zero else max(0, self._container.start_time or 0)
        return round(max(0.0, float(first - Fraction(start, av.time_base))), 6)

    def _select_stream(self) -> VideoStream:
        for stream in self._container.streams.video:
            # The cover art of an audio file is a video stream with a single frame.
            if not stream.disposition & av.stream.Disposition.attached_pic:
                if stream.codec_context is None:
                    raise errors.UnsupportedCodecError(
                        "no decoder here reads this video's codec; send it as H.264, H.265, VP9 or AV1"
                    )
                stream.thread_type = "AUTO"
                stream.codec_context.thread_count = _THREADS
                stream.codec_context.options = {"max_pixels": str(self._limits.max_pixels)}
                return stream
        raise errors.NoVideoStreamError("the file has no video stream; send a file that has pictures")

    def _check_declared(self) -> None:
        streams, max_streams = len(self._container.streams), self._limits.max_streams
        if streams > max_streams:
            raise errors.TooManyStreamsError(
                f"the file has {streams} streams or more, the limit is {max_streams}; send one that has the video alone"
            )
        self._check_size(self._stream.codec_context.width, self._stream.codec_context.height)
        self._check_duration(self.declared_duration_s or 0.0)

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.max_pixels:
            raise errors.PictureTooLargeError(
                f"the picture has {width} x {height} pixels, the limit is {self._limits.max_pixels} in all "
                "(MMAD_MAX_PIXELS); scale it down or raise the limit"
            )

    def _check_duration(self, duration_s: float) -> None:
        if duration_s > self._limits.max_duration_s + 1:
            raise errors.VideoTooLongError(
                f"the video lasts {duration_s:.0f} s or more, the limit is {self._limits.max_duration_s:.0f} s "
                "(MMAD_MAX_DURATION_S); send it in parts or raise the limit"
            )

    def _check_rate(self, frames: int, end_s: float) -> None:
        # One second of tolerance allows short bursts of frames.
        if frames > self._limits.max_fps * (end_s + 1):
            raise errors.FrameRateTooHighError(
                f"the video has {frames / end_s:.0f} frames a second, the limit is {self._limits.max_fps:.0f} "
                "(MMAD_MAX_FPS); export it at a lower rate or raise the limit"
            )

    def _make_no_frame_error(self) -> errors.DamagedVideoError:
        # FFmpeg sets a size above its limit to 0, as it does an unreadable one: the cause is unknown.
        too_large = f", or it has more than {self._limits.max_pixels} pixels (MMAD_MAX_PIXELS)"
        hint = "" if self._stream.codec_context.width else too_large
        return errors.DamagedVideoError(f"no frame of the video can be decoded{hint}; export it anew and send it again")


class InProcessDecoder:
    """Decodes in this process, with all its privileges: for trusted videos. Sandbox is the alternative."""

    def open(self, file: BinaryIO, limits: Limits, on_wait: Callable[[], None] = lambda: None) -> Video:
        """Open a readable and seekable file; raises VideoError. The sandbox calls `on_wait` while it waits."""
        return Video(file, limits)

    def describe(self) -> str:
        """Describe the isolation of the decoder in one line."""
        return "off: videos are decoded in the worker's own process"

    def close(self) -> None:
        """Stop the decoder's processes, of which there are none here."""


def measure_extent(file: BinaryIO, limits: Limits = Limits()) -> tuple[float, float]:
    """Return the duration of a video and the time at which a player shows its first frame, in seconds.

    All frames are decoded only if the container does not declare them.
    """
    with closing(Video(file, limits)) as video:
        if (declared := video.declared_extent()) is not None:
            return declared
    file.seek(0)
    with closing(Video(file, limits)) as video:
        for _ in video.timed_frames():
            pass
        assert video.media is not None
        return video.media.duration_s, video.media.start_offset_s


class _MediaMeter:
    """Measures frames, in presentation order."""

    def __init__(self) -> None:
        self._count = self._last = self._min_gap = self._max_gap = self._rotation = 0
        self._size = (0, 0)

    def add(self, timed: TimedFrame) -> None:
        if not self._count:
            frame = timed.frame
            self._size = Orientation.from_frame(frame).upright_size(frame.width, frame.height)
            self._rotation = frame.rotation
        else:
            gap = timed.start - self._last
            self._min_gap = gap if self._count == 1 else min(self._min_gap, gap)
            self._max_gap = max(self._max_gap, gap)
        self._count, self._last = self._count + 1, timed.start

    def make_media(self, time_base: Fraction, end: int, damaged: Intervals, start_offset_s: float) -> Media:
        span = self._last if self._count > 1 else end
        return Media(
            duration_s=float(end * time_base),
            width=self._size[0],
            height=self._size[1],
            frames_decoded=self._count,
            average_fps=float(max(1, self._count - 1) / (span * time_base)) if span else 0.0,
            # Timestamps are rounded: at 29 fps in milliseconds, gaps are 34 and 35 ticks.
            variable_frame_rate=self._max_gap > 1.25 * self._min_gap + 1,
            rotation_deg=self._rotation % 360,
            analysed_fraction=1.0,
            damaged=damaged,
            start_offset_s=start_offset_s,
        )
