"""Decoding in this process; model.sandbox has the alternative."""

from collections.abc import Callable
from typing import BinaryIO

from model.video import Limits, Video

# Called repeatedly while waiting for a frame; an exception that it raises ends the wait.
WaitCallback = Callable[[], None]


class InProcessDecoder:
    """Decodes in this process, with all its privileges: for trusted videos."""

    def open(self, file: BinaryIO, limits: Limits, on_wait: WaitCallback = lambda: None) -> Video:
        """Open a readable and seekable file; raises VideoError. `on_wait` is not called, as nothing is waited for."""
        return Video(file, limits)

    def describe(self) -> str:
        """Describe the isolation of the decoder in one line."""
        return "off: videos are decoded in the worker's own process"

    def close(self) -> None:
        """Do nothing: there are no processes to stop."""
