"""An open video file in, upright frames at a fixed rate out. Serving and training decode with this alone.

Only containers on a list are read, from a file that is already open, so that no name inside a file opens
another one. Frames stream: memory does not grow with the video's length. What does not decode is left out
and told in `Media.damaged`; the frame before it stays on.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import av
from av.video.stream import VideoStream

from model.damage import Damage, Stretches, declared_end
from model.errors import (
    DamagedVideoError,
    FrameRateTooHighError,
    NoVideoStreamError,
    PictureTooLargeError,
    TooManyStreamsError,
    UnsupportedCodecError,
    VideoTooLongError,
)
from model.packets import Packets, out_of_memory
from model.picture import Orientation, Region, Scaler, whole_size
from model.source import open_container
from model.timing import Clock, Shown, resample
from model.windows import Frame

# As FFmpeg counts, but no more: each thread holds a picture, and of 8K in 10 bits they would not fit into the sandbox.
_THREADS = min(8, (os.cpu_count() or 1) + 1)


@dataclass(frozen=True)
class Limits:
    """What a video may be at most; the names in errors are the service's settings."""

    max_duration_s: float = 600.0
    max_pixels: int = 8192 * 4320
    max_fps: float = 240.0
    max_streams: int = 64
    # Of the decoder's address space: model/sandbox/confine.py has the numbers.
    max_memory_bytes: int = 2560 * 1024**2
    max_cpu_s: float = 3600.0
    max_stall_s: float = 60.0


# Four months are no limit; infinity is no JSON, in which limits reach the decoder's process.
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


class Video:
    """One pass over a video's frames. `media` is known once they have all been taken."""

    def __init__(self, file: BinaryIO, limits: Limits = Limits()) -> None:
        self._limits = limits
        self._container = open_container(file, limits.max_pixels)
        try:
            self._stream = self._pick_stream()
            self._check_declared()
        except BaseException:
            self._container.close()
            raise
        self.media: Media | None = None
        self._end = 0
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
        counter = _Counter()
        rate = Fraction(fps).limit_denominator(100_000) * self._time_base
        pixel_aspect = self._stream.sample_aspect_ratio or Fraction(1)
        for frame, repeats in resample(counter.watch(self._decode()), rate):
            scaler = scaler or make(frame, pixel_aspect)
            picture = _decoding(scaler, frame, pixel_aspect)
            for _ in range(repeats):
                yield picture
        self.media = counter.media(
            self._time_base, self._end, scaler.looked_at if scaler else 1.0, self._lost
        )

    @property
    def _time_base(self) -> Fraction:
        return self._stream.time_base or Fraction(1, av.time_base)

    @property
    def _most(self) -> int:
        """Where a video ends at the latest, in ticks."""
        return int(self._limits.max_duration_s / self._time_base)

    @property
    def _strung(self) -> bool:
        """Whether the file may be recordings in a row, cut anywhere."""
        return self._container.format.name == "mpegts"

    def _decode(self) -> Iterator[Shown]:
        """Frames with times from the first frame's, never running backwards."""
        step = max(1, round(1 / (self._time_base * (self._stream.average_rate or 25))))
        packets = Packets(self._container, self._stream)
        clock = Clock(self._time_base, step, self._strung)
        damage = Damage(self._time_base, step)
        shown: Shown | None = None
        for count, given in enumerate(packets.frames()):
            self._check_size(given.frame.width, given.frame.height)
            placed = clock.place(given, packets.first)
            if placed is None:
                continue
            shown = placed
            self._check_times(count, float(shown.end * self._time_base))
            damage.see(shown, given.doubtful)
            yield shown
        if shown is None:
            raise self._no_frame()
        declared = declared_end(self._container, self._stream)
        due = None if declared is None else round(declared / self._time_base)
        reached = clock.since_start(packets.last)
        self._end = damage.finish(clock.since_start(due), reached, packets.doubtful, self._most)
        self._lost = damage.stretches

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

    def media(self, time_base: Fraction, end: int, looked_at: float, lost: Stretches) -> Media:
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
            looked_at=looked_at,
            damaged=lost,
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
