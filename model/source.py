"""Open a container with FFmpeg, restricted to one open file and the supported formats."""

import errno
from contextlib import suppress
from typing import Any, BinaryIO, cast

import av
import av.logging
import av.subtitles.codeccontext  # PyAV imports it at the first subtitle stream, when the sandbox forbids opening files
from av.container import Flags, InputContainer

from model.errors import NotAVideoError, NoVideoStreamError
from model.packets import make_memory_error

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts"

# PyAV 18 raises an error for metadata that is not UTF-8 unless it may replace characters; PyAV 19 always replaces them.
_TAGS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}

# File name extensions of these containers, in lower case.
VIDEO_ENDINGS = (".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts")

# FFmpeg's own limit. For a MOV with more tracks it reports a lack of memory, so a lower limit is checked after opening.
_MAX_STREAMS = 1000

# FFmpeg's log is off: with any other level its threads wait for the interpreter lock to log a message, which deadlocks
# while the interpreter waits for these threads to end.
av.logging.set_level(None)


def open_container(file: BinaryIO, max_pixels: int) -> InputContainer:
    """Open the container in a readable and seekable file; references to other files are not followed.

    Raises NotAVideoError, NoVideoStreamError, DecoderMemoryError.
    """
    options = {
        "format_whitelist": CONTAINERS,
        "protocol_whitelist": "none",
        "max_pixels": str(max_pixels),
        "max_streams": str(_MAX_STREAMS),
    }
    try:
        container: InputContainer = av.open(_Readable(file), mode="r", options=options, **_TAGS)
    except MemoryError as error:
        raise make_memory_error() from error
    except (av.FFmpegError, ValueError) as error:
        raise NotAVideoError(
            f"the file is no video that can be read; send one of {CONTAINERS.replace(',', ', ')}"
        ) from error
    # PyAV sets genpts, unlike FFmpeg's tools: the times that it generates for AVI with B-frames are wrong.
    container.flags &= ~cast(int, Flags.gen_pts.value)
    if not container.streams:
        with suppress(av.FFmpegError):
            container.close()
        raise NoVideoStreamError("the file has no video stream; send a file that has pictures")
    return container


class _Readable:
    """The part of a file's interface that FFmpeg needs, without its name."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read = file.read
        self.tell = file.tell

    def seek(self, offset: int, whence: int) -> int:
        """Seek; return -EINVAL for an invalid offset, as a broken index may name one, so that FFmpeg handles it."""
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            return -errno.EINVAL
