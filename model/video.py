"""An open video file in, upright frames at a fixed rate out. Serving and training decode with this alone.

Only containers on a list are read, from a file that is already open, so that no name inside a file opens
another one. Frames stream: memory does not grow with the video's length.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, NamedTuple

import av
import av.logging
from av.container import InputContainer
from av.video.stream import VideoStream

from model.errors import (
    DamagedVideoError,
    FrameRateTooHighError,
    NotAVideoError,
    NoVideoStreamError,
    PictureTooLargeError,
    UnsupportedCodecError,
    VideoTooLongError,
)
from model.picture import Orientation, Region, Scaler, whole_size
from model.windows import Frame

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts"

# Frames a little out of order are the codec's; more than this, and the recorder's clock was set anew.
_CLOCK_BACK_S = 0.5
_CLOCK_AHEAD_S = 2

# FFmpeg writes its findings on broken files to standard error; errors reach the caller as exceptions.
av.logging.set_level(av.logging.PANIC)


@dataclass(frozen=True)
class Limits:
    """What a video may be at most; the names in errors are the service's settings."""

    max_duration_s: float = 600.0
    max_pixels: int = 8192 * 4320
    max_fps: float = 240.0


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


class Shown(NamedTuple):
    """A decoded frame and when it is shown, in ticks of the stream's time base; `end` is when the next is due."""

    frame: av.VideoFrame
    start: int
    end: int


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


class Video:
    """One pass over a video's frames. `media` is known once they have all been taken."""

    def __init__(self, file: BinaryIO, limits: Limits = Limits()) -> None:
        self._limits = limits
        self._container = _open(file, limits)
        try:
            self._stream = self._pick_stream()
            self._check_declared()
        except BaseException:
            self._container.close()
            raise
        self.media: Media | None = None

    def close(self) -> None:
        """Free the decoder."""
        self._container.close()

    @property
    def declared_duration_s(self) -> float | None:
        """What the container says; None where it does not, and not to be relied on."""
        if self._container.duration is None:
            return None
        return self._container.duration / av.time_base

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
        self.media = counter.media(self._time_base, scaler.looked_at if scaler else 1.0)

    @property
    def _time_base(self) -> Fraction:
        return self._stream.time_base or Fraction(1, av.time_base)

    def _decode(self) -> Iterator[Shown]:
        """Frames with times from the first frame's, never running backwards."""
        origin: int | None = None
        start = end = 0
        step = max(1, round(1 / (self._time_base * (self._stream.average_rate or 25))))
        for count, frame in enumerate(self._raw_frames()):
            if frame.width * frame.height > self._limits.max_pixels:
                raise _too_many_pixels(frame.width, frame.height, self._limits)
            if frame.pts is None:
                start = end
            elif origin is None or self._jumps((frame.pts - origin - end) * self._time_base):
                origin, start = frame.pts - end, end
            else:
                start = max(start, frame.pts - origin)
            end = start + (frame.duration or step)
            if end * self._time_base > self._limits.max_duration_s + 1:
                raise _too_long(float(end * self._time_base), self._limits)
            # A second's worth ahead: bursts are no rate.
            if count > self._limits.max_fps * (float(end * self._time_base) + 1):
                raise _too_fast(count / float(end * self._time_base), self._limits)
            yield Shown(frame, start, end)
        if not end:
            raise DamagedVideoError("no frame of the video can be decoded; export it anew and send it again")

    def _jumps(self, gap_s: Fraction) -> bool:
        """Whether the clock was set anew: far backwards, or far ahead where recordings are strung together."""
        strung = self._container.format.name == "mpegts"
        return gap_s < -_CLOCK_BACK_S or (strung and gap_s > _CLOCK_AHEAD_S)

    def _raw_frames(self) -> Iterator[av.VideoFrame]:
        try:
            yield from self._container.decode(self._stream)
        except av.FFmpegError as error:
            raise DamagedVideoError(
                f"the video is damaged: decoding stopped ({error.strerror}); export it anew and send it again"
            ) from error

    def _pick_stream(self) -> VideoStream:
        for stream in self._container.streams.video:
            # Cover art of an audio file is a "video" of one picture.
            if not stream.disposition & av.stream.Disposition.attached_pic:
                if stream.codec_context is None:
                    raise UnsupportedCodecError(
                        "no decoder here reads this video's codec; send it as H.264, H.265, VP9 or AV1"
                    )
                stream.thread_type = "AUTO"
                stream.codec_context.options = {"max_pixels": str(self._limits.max_pixels)}
                return stream
        raise NoVideoStreamError("the file has no video stream; send a file that has pictures")

    def _check_declared(self) -> None:
        width, height = self._stream.codec_context.width, self._stream.codec_context.height
        if width * height > self._limits.max_pixels:
            raise _too_many_pixels(width, height, self._limits)
        declared = self.declared_duration_s
        if declared is not None and declared > self._limits.max_duration_s + 1:
            raise _too_long(declared, self._limits)


class _Counter:
    """Watches frames go by and measures what `Media` tells."""

    def __init__(self) -> None:
        self._count = self._last = self._end = 0
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
            self._count, self._last, self._end = self._count + 1, item.start, item.end
            yield item

    def media(self, time_base: Fraction, looked_at: float) -> Media:
        low, high = self._gaps
        span = self._last if self._count > 1 else self._end
        return Media(
            duration_s=float(self._end * time_base),
            width=self._size[0],
            height=self._size[1],
            frames_decoded=self._count,
            average_fps=float(max(1, self._count - 1) / (span * time_base)) if span else 0.0,
            # Time bases round: 29 fps in milliseconds has gaps of 34 and 35.
            variable_frame_rate=high > 1.25 * low + 1,
            rotation_deg=self._rotation % 360,
            looked_at=looked_at,
        )


def _decoding(scaler: Scaler, frame: av.VideoFrame, pixel_aspect: Fraction) -> Frame:
    try:
        return scaler(frame, pixel_aspect)
    except av.FFmpegError as error:
        raise DamagedVideoError(f"a frame of the video cannot be scaled ({error.strerror})") from error


def _open(file: BinaryIO, limits: Limits) -> InputContainer:
    options = {
        "format_whitelist": CONTAINERS,
        "protocol_whitelist": "none",
        "max_pixels": str(limits.max_pixels),
    }
    try:
        # Tags in other alphabets than UTF-8 are common, and nothing here reads them.
        container = av.open(file, mode="r", options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise NotAVideoError(
            f"the file is no video that can be read; send one of {CONTAINERS.replace(',', ', ')}"
        ) from error
    if not container.streams:
        with suppress(av.FFmpegError):
            container.close()
        raise NoVideoStreamError("the file has no video stream; send a file that has pictures")
    return container


def _too_long(duration_s: float, limits: Limits) -> VideoTooLongError:
    return VideoTooLongError(
        f"the video lasts {duration_s:.0f} s or more, the limit is {limits.max_duration_s:.0f} s "
        "(MMAD_MAX_DURATION_S); send it in parts or raise the limit"
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
