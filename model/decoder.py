"""What the detector takes frames from: a video that is decoded in this process, or in model.sandbox."""

from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from model.transforms import Region
from model.video import Limits, Media, Video
from model.windows import Frame


class Pictures(Protocol):
    """One pass over an open video's frames, as model.video.Video describes it."""

    @property
    def declared_duration_s(self) -> float | None: ...  # noqa: D102

    @property
    def media(self) -> Media | None: ...  # noqa: D102

    def frames(self, fps: float, width: int, height: int, region: Region = ...) -> Iterator[Frame]: ...  # noqa: D102

    def whole_frames(self, fps: float, longest: int) -> Iterator[Frame]: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


class Opened(Pictures, Protocol):
    """Pictures that tell how far they have come."""

    def tell(self) -> int:
        """How many bytes into the file the decoder is."""


# Called now and then while nothing comes; what it raises ends the wait.
Waiting = Callable[[], None]


class Decoder(Protocol):
    """Opens videos."""

    def open(self, file: BinaryIO, limits: Limits, waiting: Waiting = ...) -> Opened:
        """A video that is decoded within limits.

        Args:
            file: readable and seekable.
            limits: what the video may be, and take, at most.
            waiting: see Waiting; called by decoders that leave the caller free meanwhile.

        Raises:
            VideoError: one of its kinds, for what is wrong with the video.
        """

    def describe(self) -> str:
        """One line for people: how far decoding is kept apart from everything else here."""

    def close(self) -> None:
        """End what was started for it."""


class InProcess:
    """Decodes here, with all rights of this process: for videos that are trusted."""

    def open(self, file: BinaryIO, limits: Limits, waiting: Waiting = lambda: None) -> Opened:
        """See Decoder."""
        return _Local(file, limits)

    def describe(self) -> str:
        """See Decoder."""
        return "off: videos are decoded in the worker's own process"

    def close(self) -> None:
        """Nothing was started."""


class _Local(Video):
    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        super().__init__(file, limits)
        self._file = file

    def tell(self) -> int:
        return self._file.tell()
