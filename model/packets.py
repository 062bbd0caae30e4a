"""Packets to frames, come what may: what does not decode is left out, and the frames after it are doubtful.

A decoder's error ends nothing, since the next packet may decode again; a demuxer's error ends the video.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple, Protocol

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from model.errors import DecoderMemoryError, EncryptedVideoError

# So many packets in a row that bring no frame end a video: some minutes, which edit lists and still
# screen recordings may well have, and no endless supply of empty packets.
_MOST_FRUITLESS = 10_000

# An error is told before the frames that were being decoded beside it: threads and reordering hold back no more.
_DOUBT_FRAMES = 32


# Decoding times grow from packet to packet. Where they fall by more than this, another recording begins.
_RESTART_S = Fraction(1, 2)


class Given(NamedTuple):
    """A decoded frame; `doubtful` if it is corrupt or packets shortly before it did not decode.

    `restarts` counts how often decoding times have started anew among the packets read until then.
    """

    frame: av.VideoFrame
    doubtful: bool
    restarts: int = 0


class Packets:
    """One pass over the packets of a video stream.

    Attributes:
        first, last: presentation times of the first packet and of the one that is shown last, in ticks; decoding times
            where there are no others.
        end: when the packet that is shown longest ends, as far as packets say; in ticks.
        restarts: how often decoding times have started anew.
        doubtful: whether packets did not decode shortly before now.
        broken: whether reading ended with an error.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        self._restart = (exact(stream.time_base) or Fraction(1, av.time_base)) ** -1 * _RESTART_S
        self._doubt = self.restarts = 0
        self._dts: int | None = None
        self.broken = False
        self.first: int | None = None
        self.last: int | None = None
        self.end: int | None = None

    @property
    def doubtful(self) -> bool:
        """See above."""
        return self._doubt > 0

    def frames(self) -> Iterator[Given]:
        """Frames in the order in which they are shown, as far as what is left of the video allows.

        Raises:
            EncryptedVideoError, DecoderMemoryError.
        """
        fruitless = 0
        for packet in self._packets():
            fruitless += 1
            for frame in self._decode(packet):
                fruitless = 0
                if frame.is_corrupt:
                    self._doubt = _DOUBT_FRAMES
                yield Given(frame, self.doubtful, self.restarts)
                self._doubt = max(0, self._doubt - 1)
            if fruitless > _MOST_FRUITLESS:
                self._doubt = _DOUBT_FRAMES
                return

    def skim(self) -> None:
        """Read what is left without decoding it."""
        for _ in self._packets():
            pass

    def _packets(self) -> Iterator["Packet[VideoStream] | None"]:
        """Packets to decode, and at the end None, upon which the decoder gives what it has held back."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except MemoryError as error:
                raise out_of_memory() from error
            except av.FFmpegError:
                self._doubt, self.broken = _DOUBT_FRAMES, True
                packet = None
            except IndexError:  # PyAV's, at the end, where streams have appeared since the file was opened
                packet = None
            if packet is None:
                break
            self._look_at(packet)
            yield packet
        yield None

    def _look_at(self, packet: "Packet[VideoStream]") -> None:
        if packet.has_sidedata("encryption_info"):
            raise EncryptedVideoError(
                "the video is encrypted, and there are no keys here; send it without copy protection"
            )
        if packet.is_corrupt:
            self._doubt = _DOUBT_FRAMES
        dts = packet.pts if packet.dts is None else packet.dts
        shown = dts if packet.pts is None else packet.pts
        if shown is not None and not packet.is_discard:
            self.first = shown if self.first is None else self.first
            self.last = shown if self.last is None else max(self.last, shown)
            self.end = max(self.end or self.last, shown + (packet.duration or 0))
        if dts is not None:
            self.restarts += self._dts is not None and dts < self._dts - self._restart
            self._dts = dts

    def _decode(self, packet: "Packet[VideoStream] | None") -> list[av.VideoFrame]:
        if packet is not None and not packet.size:
            return []  # AVI has such packets where nothing moves; a decoder would take one for the end
        try:
            return self._stream.decode(packet)
        except MemoryError as error:
            raise out_of_memory() from error
        except av.FFmpegError:
            self._doubt = _DOUBT_FRAMES
            return []


class Ratio(Protocol):
    """A rational number as PyAV gives it: a Fraction, or from PyAV 19 on an AVRational, whose products are rounded."""

    @property
    def numerator(self) -> int: ...  # noqa: D102

    @property
    def denominator(self) -> int: ...  # noqa: D102


def exact(ratio: Ratio | None) -> Fraction | None:
    """A rational number of PyAV's as a fraction; None where FFmpeg does not know it (None, 0/1, 1/0)."""
    return Fraction(ratio.numerator, ratio.denominator) if ratio else None


def out_of_memory() -> DecoderMemoryError:
    """The error for what FFmpeg has no memory for."""
    return DecoderMemoryError("decoding the video takes more memory than there is; send it in a smaller size")
