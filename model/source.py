"""A file that is already open, as the one thing that FFmpeg may read."""

import errno
from contextlib import suppress
from typing import Any, BinaryIO, cast

import av
import av.logging
import av.subtitles.codeccontext  # PyAV's own import comes with the first subtitles: too late in a sandbox
from av.container import Flags, InputContainer

from model.errors import NotAVideoError, NoVideoStreamError
from model.packets import out_of_memory

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts"

# Tags in other alphabets than UTF-8 are common, and nothing here reads them. PyAV 18 raises unless it is told to
# replace them; PyAV 19 always takes them and has no such argument.
_TAGS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}

# What names of such videos end in, in lower case.
VIDEO_ENDINGS = (".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts")

# FFmpeg's own limit. It calls a MOV with more tracks out of memory, so ours is looked at once the file is open.
_MOST_STREAMS = 1000

# FFmpeg's findings on broken files are dropped. With any other level its threads wait for the interpreter, to
# hand their findings over, while the interpreter may be waiting for those threads to end: for ever.
av.logging.set_level(None)


def open_container(file: BinaryIO, max_pixels: int) -> InputContainer:
    """The container in a file, readable and seekable; what names it holds opens nothing.

    Raises:
        NotAVideoError, NoVideoStreamError, DecoderMemoryError.
    """
    options = {
        "format_whitelist": CONTAINERS,
        "protocol_whitelist": "none",
        "max_pixels": str(max_pixels),
        "max_streams": str(_MOST_STREAMS),
    }
    try:
        container: InputContainer = av.open(_Readable(file), mode="r", options=options, **_TAGS)
    except MemoryError as error:
        raise out_of_memory() from error
    except (av.FFmpegError, ValueError) as error:
        raise NotAVideoError(
            f"the file is no video that can be read; send one of {CONTAINERS.replace(',', ', ')}"
        ) from error
    # PyAV sets genpts, FFmpeg's tools do not: the times that it generates for AVI with B-frames are wrong.
    container.flags &= ~cast(int, Flags.gen_pts.value)
    if not container.streams:
        with suppress(av.FFmpegError):
            container.close()
        raise NoVideoStreamError("the file has no video stream; send a file that has pictures")
    return container


class _Readable:
    """No more of a file than FFmpeg needs; its name is not among that."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read = file.read
        self.tell = file.tell

    def seek(self, place: int, whence: int) -> int:
        """A place that no file can have, which a broken index names, is FFmpeg's to judge, and no fault of the file."""
        try:
            return self._file.seek(place, whence)
        except ValueError:
            return -errno.EINVAL
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return -errno.EINVAL
