"""Decoder interface of the detector: videos are decoded in this process, or in model.sandbox."""

from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from model.arrays import Frame
from model.transforms import Region
from model.video import Limits, Media, Video


class FrameSource(Protocol):
    """One pass over the frames of an open video; see model.video.Video."""

    @property
    def declared_duration_s(self) -> float | None: ...  # noqa: D102

    @property
    def media(self) -> Media | None: ...  # noqa: D102

    def frames(self, fps: float, width: int, height: int, region: Region = ...) -> Iterator[Frame]: ...  # noqa: D102

    def whole_frames(self, fps: float, longest: int) -> Iterator[Frame]: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


class OpenVideo(FrameSource, Protocol):
    """A frame source that reports its position in the file."""

    def tell(self) -> int:
        """Return the decoder's position in the file, in bytes."""


# Called repeatedly while waiting for a frame; an exception that it raises ends the wait.
WaitCallback = Callable[[], None]


class Decoder(Protocol):
    """Opens videos."""

    def open(self, file: BinaryIO, limits: Limits, on_wait: WaitCallback = ...) -> OpenVideo:
        """Open a video.

        Args:
            file: readable and seekable.
            limits: limits for the video and for the resources that decoding uses.
            on_wait: see WaitCallback; only decoders that run in another process call it.

        Raises:
            VideoError: a subclass, if the video cannot be decoded within the limits.
        """

    def describe(self) -> str:
        """Describe the isolation of the decoder in one line."""

    def close(self) -> None:
        """Stop the decoder's processes."""


class InProcessDecoder:
    """Decodes in this process, with all its privileges: for trusted videos."""

    def open(self, file: BinaryIO, limits: Limits, on_wait: WaitCallback = lambda: None) -> OpenVideo:
        """See Decoder."""
        return _Local(file, limits)

    def describe(self) -> str:
        """See Decoder."""
        return "off: videos are decoded in the worker's own process"

    def close(self) -> None:
        """Do nothing: there are no processes to stop."""


class _Local(Video):
    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        super().__init__(file, limits)
        self._file = file

    def tell(self) -> int:
        return self._file.tell()
