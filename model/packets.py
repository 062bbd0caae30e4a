"""Decode packets to frames: what does not decode is skipped, and the next frames are doubtful.

An error of the demuxer ends the video.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from model.errors import DecoderMemoryError, EncryptedVideoError

# The video ends after this many consecutive packets without a frame: some minutes, as edit lists and still screen
# recordings may have.
_MAX_EMPTY_PACKETS = 10_000

# The number of doubtful frames after an error: more than the decoder holds back because of threads and reordering.
_DOUBTFUL_FRAMES = 32

# Decoding times increase from packet to packet. If they fall by more than this, another recording begins.
_RESTART_S = Fraction(1, 2)


class DecodedFrame(NamedTuple):
    """A decoded frame; it is doubtful if it is corrupt, or packets shortly before it did not decode."""

    frame: av.VideoFrame
    doubtful: bool
    restarts: int = 0  # how often decoding times had fallen back in the packets read so far


class PacketReader:
    """One pass over the packets of a video stream.

    `first` and `last` are presentation times in ticks, or decoding times if there are none; `end` is the latest end of
    a packet.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        self._restart = (to_fraction(stream.time_base) or Fraction(1, av.time_base)) ** -1 * _RESTART_S
        self.doubtful_frames = 0  # how many further frames are doubtful
        self.restarts = 0  # how often decoding times have fallen back
        self._dts: int | None = None
        self.first: int | None = None
        self.last: int | None = None
        self.end: int | None = None

    def frames(self) -> Iterator[DecodedFrame]:
        """Yield frames in presentation order; raises EncryptedVideoError and DecoderMemoryError."""
        empty_packets = 0
        for packet in self._packets():
            empty_packets += 1
            for frame in self._decode(packet):
                empty_packets = 0
                if frame.is_corrupt:
                    self.doubtful_frames = _DOUBTFUL_FRAMES
                yield DecodedFrame(frame, self.doubtful_frames > 0, self.restarts)
                self.doubtful_frames = max(0, self.doubtful_frames - 1)
            if empty_packets > _MAX_EMPTY_PACKETS:
                self.doubtful_frames = _DOUBTFUL_FRAMES
                return

    def skim(self) -> None:
        """Read the remaining packets without decoding them."""
        for _ in self._packets():
            pass

    def _packets(self) -> Iterator["Packet[VideoStream] | None"]:
        """Yield the packets to decode, then None, which flushes the decoder."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except MemoryError as error:
                raise make_memory_error() from error
            except av.FFmpegError:
                self.doubtful_frames = _DOUBTFUL_FRAMES
                packet = None
            except IndexError:  # PyAV raises it at the end if streams have appeared since the file was opened
                packet = None
            if packet is not None:
                self._track(packet)
            yield packet
            if packet is None:
                return

    def _track(self, packet: "Packet[VideoStream]") -> None:
        if packet.has_sidedata("encryption_info"):
            raise EncryptedVideoError(
                "the video is encrypted, and there are no keys here; send it without copy protection"
            )
        if packet.is_corrupt:
            self.doubtful_frames = _DOUBTFUL_FRAMES
        dts = packet.pts if packet.dts is None else packet.dts
        pts = dts if packet.pts is None else packet.pts
        if pts is not None and not packet.is_discard:
            self.first = pts if self.first is None else self.first
            self.last = pts if self.last is None else max(self.last, pts)
            self.end = max(self.end or self.last, pts + (packet.duration or 0))
        if dts is not None:
            self.restarts += self._dts is not None and dts < self._dts - self._restart
            self._dts = dts

    def _decode(self, packet: "Packet[VideoStream] | None") -> list[av.VideoFrame]:
        if packet is not None and not packet.size:
            return []  # AVI repeats a frame with an empty packet, which a decoder would take for the end of the stream
        try:
            return self._stream.decode(packet)
        except MemoryError as error:
            raise make_memory_error() from error
        except av.FFmpegError:
            self.doubtful_frames = _DOUBTFUL_FRAMES
            return []


def to_fraction(ratio: Any) -> Fraction | None:
    """Convert PyAV's rational number, from PyAV 19 on an AVRational; None if it is unknown (None, 0/1, 1/0)."""
    return Fraction(ratio.numerator, ratio.denominator) if ratio else None


def make_memory_error() -> DecoderMemoryError:
    """Make the error for a failed memory allocation in FFmpeg."""
    return DecoderMemoryError("decoding the video takes more memory than there is; send it in a smaller size")
