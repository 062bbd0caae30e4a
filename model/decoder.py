"""Decoder interface of the detector: videos are decoded in this process, or in model.sandbox."""

from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from model.arrays import Frame
from model.transforms import Region
from model.video import Limits, Media, Video

# Called repeatedly while waiting for a frame; an exception that it raises ends the wait.
WaitCallback = Callable[[], None]


class OpenVideo(Protocol):
    """One pass over the frames of an open video; see model.video.Video."""

    media: Media | None

    @property
    def declared_duration_s(self) -> float | None: ...  # noqa: D102

    def frames(  # noqa: D102
        self, fps: float, width: int, height: int, region: Region | None = ...
    ) -> Iterator[Frame]: ...

    def tell(self) -> int: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


class Decoder(Protocol):
    """Opens videos."""

    def open(self, file: BinaryIO, limits: Limits, on_wait: WaitCallback = ...) -> OpenVideo:
        """Open a readable and seekable file; raises VideoError. Only decoders in another process call `on_wait`."""

    def describe(self) -> str:
        """Describe the isolation of the decoder in one line."""

    def close(self) -> None:
        """Stop the decoder's processes."""


class InProcessDecoder:
    """Decodes in this process, with all its privileges: for trusted videos."""

    def open(self, file: BinaryIO, limits: Limits, on_wait: WaitCallback = lambda: None) -> OpenVideo:
        """See Decoder."""
        return Video(file, limits)

    def describe(self) -> str:
        """See Decoder."""
        return "off: videos are decoded in the worker's own process"

    def close(self) -> None:
        """Do nothing: there are no processes to stop."""
