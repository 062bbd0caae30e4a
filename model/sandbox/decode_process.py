"""The decode process of one video: it gives up its privileges, decodes the video, and exits."""

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

from model.arrays import Frame
from model.errors import SandboxError, VideoError
from model.sandbox import ipc
from model.sandbox.confine import Confinement, confine
from model.sandbox.ipc import FrameRequest
from model.video import Limits, Video

# An exit status: there may be no memory left to send a message.
OUT_OF_MEMORY = 12


class DecodeFiles(NamedTuple):
    """The file descriptors of a decode process; it closes all others."""

    video: int
    connection: int  # to the worker
    frame_buffer: int  # shared with the worker


def run_decode_process(files: DecodeFiles, limits: Limits, confinement: Confinement, parent: int) -> NoReturn:
    """Run a forked decode process until it exits; `parent` is the process ID of the fork server."""
    status = 1
    try:
        _close_other_files(files)
        # Open until the process exits: when it closes, the worker kills a process that is still running.
        connection = socket.socket(fileno=files.connection)
        status = _run(connection, files, limits, confinement, parent)
    finally:
        os._exit(status)  # skip the fork server's exit handlers


def _run(connection: socket.socket, files: DecodeFiles, limits: Limits, confinement: Confinement, parent: int) -> int:
    """Return the exit status."""
    try:
        try:
            confine(limits, confinement, parent)
        except OSError as error:
            raise SandboxError(f"the decoder's process could not be confined ({error.strerror})") from error
        _decode(connection, files, limits)
    except BaseException as error:
        if is_out_of_memory(error):
            return OUT_OF_MEMORY
        ipc.send(connection, _describe_error(error))
    # Read until the worker closes: exiting with unread messages would reset the connection, and the worker would lose
    # those that it has not read yet.
    while ipc.receive(connection) is not None:
        pass
    return 0


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error or one of its causes is a lack of memory; EAGAIN if a thread's stack is not allocated."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN):
            return True
        error = error.__cause__ or error.__context__
    return False


def _describe_error(error: BaseException) -> ipc.Message:
    if isinstance(error, VideoError | SandboxError):
        return {"error": error.code, "detail": str(error)[: ipc.MAX_DETAIL_LENGTH]}
    text = "".join(traceback.format_exception(error))[-ipc.MAX_TRACEBACK_LENGTH :]
    return {"error": "decoder_crashed", "detail": "", "fault": text}


def _close_other_files(files: DecodeFiles) -> None:
    """Close all file descriptors but `files`; redirect standard input, output and error to /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    for entry in list(Path("/proc/self/fd").iterdir()):
        if int(entry.name) > 2 and int(entry.name) not in files:
            with suppress(OSError):  # the descriptor that listed the folder is closed already
                os.close(int(entry.name))


def _decode(connection: socket.socket, files: DecodeFiles, limits: Limits) -> None:
    video = Video(io.FileIO(files.video, closefd=False), limits)
    ipc.send(connection, {"declared_duration_s": video.declared_duration_s})
    message = ipc.receive(connection)
    if message is None:
        return
    request = FrameRequest(**message)
    shared = np.frombuffer(mmap.mmap(files.frame_buffer, request.slots * request.slot_bytes), np.uint8)
    free_slots = list(range(request.slots))
    last: Frame | None = None
    for frame in request.take(video):
        event: ipc.Message = {"again": True}
        if frame is not last:
            if not free_slots:  # the worker frees a slot once it has copied the frame
                message = ipc.receive(connection)
                if message is None:  # the worker has closed the video
                    return
                free_slots.append(message["free"])
            slot = free_slots.pop()
            start = slot * request.slot_bytes
            shared[start : start + frame.size] = frame.reshape(-1)
            event = {"slot": slot, "height": frame.shape[0], "width": frame.shape[1]}
        ipc.send(connection, event | {"at": os.lseek(files.video, 0, os.SEEK_CUR)})
        last = frame
    assert video.media is not None
    ipc.send(connection, {"media": asdict(video.media)})
