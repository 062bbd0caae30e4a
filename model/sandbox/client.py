"""Client of a decode process: a video with the interface of model.video.Video that is decoded in the sandbox."""

import io
import math
import os
import select
import shutil
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, astuple
from pathlib import Path
from typing import BinaryIO

import numpy as np
import structlog

from model import errors
from model.arrays import Frame
from model.sandbox import decode_process, ipc
from model.sandbox.ipc import FrameRequest, IpcError, Message
from model.transforms import Region
from model.video import Limits, Media

log = structlog.get_logger()

# How long a killed process may take to end: the kernel may have gigabytes to free.
_END_TIMEOUT_S = 10.0
# How often the wait callback is called.
_WAIT_INTERVAL_S = 0.25

_ERRORS: list[type[errors.DetectorError]] = [*errors.VideoError.__subclasses__(), errors.SandboxError]
_ERRORS_BY_CODE = {error.code: error for error in _ERRORS}


class SandboxedVideo:
    """One pass over a video's frames; raises VideoError, DecoderKilledError, and SandboxError."""

    def __init__(
        self,
        control: socket.socket,
        kill_forkserver: Callable[[], None],
        file: BinaryIO,
        limits: Limits,
        on_wait: Callable[[], None],
    ) -> None:
        self._kill_forkserver, self._limits, self._on_wait = kill_forkserver, limits, on_wait
        self._position = 0
        self.media: Media | None = None
        with ExitStack() as stack:
            self._connection, connection_end = (stack.enter_context(end) for end in ipc.make_socket_pair())
            self._supervision, supervision_end = (stack.enter_context(end) for end in ipc.make_socket_pair())
            self._frame_buffer = stack.enter_context(os.fdopen(os.memfd_create("frames"), "r+b", buffering=0))
            video = stack.enter_context(_reopen(file))
            self._connection.settimeout(limits.max_stall_s)
            self._supervision.settimeout(_END_TIMEOUT_S)
            fds = [end.fileno() for end in (video, connection_end, self._frame_buffer, supervision_end)]
            try:
                ipc.send(control, asdict(limits), fds)
            except OSError as error:
                raise _make_killed_error() from error
            for end in (video, connection_end, supervision_end):
                end.close()
            stack.callback(self.close)
            with self._translating_errors():
                declared_s = self._receive().get("declared_duration_s")
                self.declared_duration_s = None if declared_s is None else ipc.check_number(declared_s)
            stack.pop_all()

    def frames(self, fps: float, width: int, height: int, region: Region | None = Region()) -> Iterator[Frame]:
        """See model.video.Video."""
        request = FrameRequest(fps, width, height, astuple(region) if region else None)
        max_frames = math.ceil((self._limits.max_duration_s + 2) * fps) + 2
        frame: Frame | None = None
        try:
            with self._translating_errors():
                os.ftruncate(self._frame_buffer.fileno(), request.slots * request.slot_bytes)
                self._send(asdict(request))
            for _ in range(max_frames + 1):
                with self._translating_errors():
                    frame = self._receive_frame(request, frame)
                if frame is None:
                    return
                yield frame
            raise _make_crash_error(f"more than {max_frames} frames")
        finally:
            self.close()

    def tell(self) -> int:
        """Return the decoder's position in the file at the last frame, in bytes."""
        return self._position

    def close(self) -> None:
        """Stop the decode process and wait for its end."""
        if self._supervision.fileno() >= 0:
            with self._connection, self._supervision, self._frame_buffer:
                self._end()

    def _receive_frame(self, request: FrameRequest, last: Frame | None) -> Frame | None:
        """Receive the next frame, which may repeat the last one; None at the end of the video."""
        message = self._receive()
        if "media" in message:
            self.media = self._check_media(ipc.parse_media(message["media"]))
            return None
        self._position = ipc.check_integer(message.get("at"), 0)
        if last is not None and "again" in message:
            return last
        slot = ipc.check_integer(message.get("slot"), 0, request.slots - 1)
        height = ipc.check_integer(message.get("height"), 1, request.height)
        width = ipc.check_integer(message.get("width"), 1, request.width)
        expected = (request.height, request.width) if request.region is not None else (height, width)
        if last is not None:
            expected = last.shape[:2]
        if (height, width) != expected:
            raise IpcError(f"a frame of {width} x {height}")
        frame = np.empty((height, width, 3), np.uint8)
        # Read instead of mapped: with a mapping, a decode process that truncates the file would crash the worker.
        if os.preadv(self._frame_buffer.fileno(), [frame.data], slot * request.slot_bytes) != frame.nbytes:
            raise IpcError("a frame that is not all there")
        self._send({"free": slot})
        return frame

    def _check_media(self, media: Media) -> Media:
        """Check that values are within the limits, and that damaged intervals are sorted and disjoint."""
        limits, max_s = self._limits, self._limits.max_duration_s + 2
        edges = [edge for interval in media.damaged for edge in interval]
        if (
            not 0 <= media.duration_s <= max_s
            or media.width * media.height > limits.max_pixels
            or media.frames_decoded > limits.max_fps * (max_s + 2)
            or not 0 <= media.analysed_fraction <= 1
            or edges != sorted(edges)
            or (edges and not (edges[0] >= 0 and edges[-1] <= media.duration_s + 1e-6))
        ):
            raise IpcError("a length, a size or a number of frames that cannot be")
        return media

    def _send(self, message: Message) -> None:
        # A process that has ended may have sent messages that explain why: they are received next.
        with suppress(BrokenPipeError, ConnectionResetError):
            ipc.send(self._connection, message)

    def _receive(self) -> Message:
        self._wait()
        message = ipc.receive(self._connection)
        if message is None:
            raise self._make_exit_error()
        if "error" in message:
            raise self._make_reported_error(message)
        return message

    def _wait(self) -> None:
        """Wait for a message, at most `max_stall_s`; raises TimeoutError, or what the wait callback raises."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        deadline = time.monotonic() + self._limits.max_stall_s
        while not poll.poll(min(_WAIT_INTERVAL_S, max(0.0, deadline - time.monotonic())) * 1000):
            if time.monotonic() >= deadline:
                raise TimeoutError
            self._on_wait()

    @contextmanager
    def _translating_errors(self) -> Iterator[None]:
        try:
            yield
        except IpcError as error:
            raise _make_crash_error(str(error)) from error
        except TimeoutError as error:
            if not self._end():  # the fork server does not respond either: it or the whole machine was suspended
                raise _make_killed_error() from error
            raise errors.DecoderTimeoutError(
                f"decoding brought no frame for {self._limits.max_stall_s:g} s, which is the limit "
                "(MMAD_DECODER_STALL_S); export the video anew, or raise the limit"
            ) from error

    def _end(self) -> Message | None:
        """End the decode process; return its exit status and CPU time, or None if it or the fork server had ended."""
        with suppress(OSError):
            self._supervision.shutdown(socket.SHUT_WR)
        try:
            return ipc.receive(self._supervision)
        except TimeoutError:
            self._kill_forkserver()
            return None

    def _make_exit_error(self) -> errors.DetectorError:
        """Make the error for a process that ended without a message, from its exit status."""
        result = self._end()  # does not change the exit status of a process that has begun to exit
        if result is None:
            return _make_killed_error()
        status = result["status"]
        # RLIMIT_CPU sends SIGXCPU first, then SIGKILL to a process that catches it.
        if status == -signal.SIGXCPU or (status == -signal.SIGKILL and result["cpu_s"] >= self._limits.max_cpu_s):
            return errors.DecoderTimeoutError(
                f"decoding took {self._limits.max_cpu_s:g} s of computing time, which is the limit "
                "(MMAD_DECODER_CPU_S); send the video in parts, or raise the limit"
            )
        if status == -signal.SIGKILL:
            return _make_killed_error()
        if status == decode_process.OUT_OF_MEMORY:
            return errors.DecoderMemoryError(
                f"decoding takes more than {self._limits.max_memory_bytes // 1024**2} MiB, which is the limit "
                "(MMAD_DECODER_MEMORY_BYTES); export the video anew or smaller, or raise the limit"
            )
        return _make_crash_error(signal.Signals(-status).name if status < 0 else f"exit status {status}")

    @staticmethod
    def _make_reported_error(message: Message) -> errors.DetectorError:
        """Make the error that the decode process reported."""
        if "fault" in message:
            log.warning("decoder_fault", fault=str(message["fault"])[-ipc.MAX_TRACEBACK_LENGTH :])
        code = ipc.clean_text(message["error"], ipc.MAX_DETAIL_LENGTH)
        error_class = _ERRORS_BY_CODE.get(code, errors.DecoderCrashedError)
        detail = ipc.clean_text(message.get("detail"), ipc.MAX_DETAIL_LENGTH)
        return error_class(detail) if detail else _make_crash_error("an unexpected error")


def _make_crash_error(reason: str) -> errors.DecoderCrashedError:
    return errors.DecoderCrashedError(f"the video made the decoder crash ({reason}); export it anew and send it again")


def _make_killed_error() -> errors.DecoderKilledError:
    return errors.DecoderKilledError("the decoder's process was ended from outside; the video can be tried again")


def _reopen(file: BinaryIO) -> BinaryIO:
    """Open a file again, read-only and with a position of its own; what is not a regular file is copied."""
    try:
        fd = file.fileno()
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return Path(f"/proc/self/fd/{fd}").open("rb", buffering=0)
    except (AttributeError, io.UnsupportedOperation):
        pass
    copy = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - the caller closes it
    file.seek(0)
    shutil.copyfileobj(file, copy)
    copy.seek(0)
    return copy
