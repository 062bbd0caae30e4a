"""One video's own process: takes all rights from itself, decodes, ends. Nothing of it reaches the next video.

It has four things from outside: the open video, a line to the worker, room for frames that the worker can read, and
what was loaded before it was forked.
"""

import errno
import io
import mmap
import os
import socket
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from model.errors import SandboxError, VideoError
from model.sandbox import ipc
from model.sandbox.confine import Confinement, confine
from model.sandbox.ipc import Order
from model.video import Limits, Video
from model.windows import Frame

# Exit statuses. There may be no memory left for words.
OUT_OF_MEMORY = 12
_FAULT = 1

_DETAIL_LETTERS, _FAULT_LETTERS = 500, 4000


class Given(NamedTuple):
    """What a cell keeps open, as numbers of files: the video, the line to the worker, the room for frames."""

    video: int
    line: int
    room: int


def live(given: Given, limits: Limits, parts: Confinement, parent: int) -> NoReturn:
    """What the process does after it was forked, from start to end."""
    status = _FAULT
    try:
        _leave_open(given)
        line = socket.socket(fileno=given.line)
        status = _live(line, given, limits, parts, parent)
    finally:
        os._exit(status)  # nothing of the process that it was forked from is tidied here


def _live(line: socket.socket, given: Given, limits: Limits, parts: Confinement, parent: int) -> int:
    """Returns the exit status."""
    try:
        try:
            confine(limits, parts, parent)
        except OSError as error:
            raise SandboxError(f"the decoder's process could not be confined ({error.strerror})") from error
        _decode(line, given, limits)
    except BaseException as error:
        if is_out_of_memory(error):
            return OUT_OF_MEMORY
        ipc.send(line, _last_words(error))
    # Until the worker has gone, for what it says at the same time would make it lose what it has not read yet.
    while ipc.receive(line) is not None:
        pass
    return 0


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out at the bottom of it. EAGAIN is what threads say that get no stack."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN):
            return True
        error = error.__cause__ or error.__context__
    return False


def _last_words(error: BaseException) -> ipc.Message:
    if isinstance(error, VideoError | SandboxError):
        return {"error": error.code, "detail": str(error)[:_DETAIL_LETTERS]}
    fault = "".join(traceback.format_exception(error))[-_FAULT_LETTERS:]
    return {"error": "decoder_crashed", "detail": "", "fault": fault}


def _leave_open(given: Given) -> None:
    """Close all else; standard input, output and error lead nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    for entry in list(Path("/proc/self/fd").iterdir()):
        if int(entry.name) > 2 and int(entry.name) not in given:
            with suppress(OSError):  # the one that listed the folder has gone
                os.close(int(entry.name))


def _decode(line: socket.socket, given: Given, limits: Limits) -> None:
    video = Video(io.FileIO(given.video, closefd=False), limits)
    ipc.send(line, {"declared_duration_s": video.declared_duration_s})
    message = ipc.receive(line)
    if message is None:
        return
    room = _Room(line, given.room, Order(**message))
    last: Frame | None = None
    for picture in room.order.take(video):
        what = {"again": True} if picture is last else room.put(picture)
        ipc.send(line, what | {"at": os.lseek(given.video, 0, os.SEEK_CUR)})
        last = picture
    if video.media is None:
        raise RuntimeError("the frames ended and nothing is known of them")
    ipc.send(line, {"media": asdict(video.media)})


class _Room:
    """The shared room for frames; a slot is filled again once the worker has copied what was in it."""

    def __init__(self, line: socket.socket, number: int, order: Order) -> None:
        self.order = order
        self._line = line
        self._bytes: NDArray[np.uint8] = np.frombuffer(
            mmap.mmap(number, order.slots * order.slot_bytes), np.uint8
        )
        self._free = list(range(order.slots))

    def put(self, picture: Frame) -> ipc.Message:
        """Waits for a free slot."""
        while not self._free:
            message = ipc.receive(self._line)
            if message is None:
                os._exit(0)  # the worker wants no more
            self._free.append(message["free"])
        slot = self._free.pop()
        start = slot * self.order.slot_bytes
        self._bytes[start : start + picture.size] = picture.reshape(-1)
        return {"slot": slot, "height": picture.shape[0], "width": picture.shape[1]}
