"""A video that another process decodes, as the worker sees it: the same as model.video.Video.

Whatever that process says is a stranger's word: numbers, sizes, counts and codes are checked before they are used.
"""

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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import structlog

from model.decoder import Waiting
from model.errors import (
    DecoderCrashedError,
    DecoderKilledError,
    DecoderMemoryError,
    DecoderTimeoutError,
    DetectorError,
    SandboxError,
    VideoError,
)
from model.sandbox import decode_process, ipc
from model.sandbox.ipc import IpcError, Message, Order
from model.transforms import Region
from model.video import Limits, Media
from model.windows import Frame

log = structlog.get_logger()

# A process that was killed is gone within this: the kernel frees gigabytes for a while.
_END_S = 10.0
# Whoever waits wants to know as often as this whether still to.
_PATIENCE_S = 0.25

_DETAIL_LETTERS, _FAULT_LETTERS = 500, 4000

_KINDS: tuple[type[DetectorError], ...] = (*VideoError.__subclasses__(), SandboxError)
_CODES = {kind.code: kind for kind in _KINDS}


class ForkServer(Protocol):
    """The process that forks the one that decodes; see model.sandbox."""

    control: socket.socket

    def kill(self) -> None:
        """For one that does not answer."""


class SandboxedVideo:
    """One pass over a video's frames. What goes wrong in its process is raised here, as if it had been here.

    Raises:
        VideoError: one of its kinds, DecoderCrashedError, DecoderTimeoutError and DecoderMemoryError among them.
        DecoderKilledError: the process was ended from outside.
        SandboxError: it could not be confined.
    """

    def __init__(
        self, forkserver: ForkServer, file: BinaryIO, limits: Limits, waiting: Waiting = lambda: None
    ) -> None:
        self._forkserver, self._limits, self._waiting = forkserver, limits, waiting
        self._at = 0
        self.media: Media | None = None
        self.declared_duration_s: float | None = None
        with ExitStack() as made:
            self._line, theirs = (made.enter_context(end) for end in ipc.pair())
            self._supervision, held = (made.enter_context(end) for end in ipc.pair())
            self._room = made.enter_context(_new_room())
            video = made.enter_context(_own_view(file))
            self._line.settimeout(limits.max_stall_s)
            self._supervision.settimeout(_END_S)
            given = [video.fileno(), theirs.fileno(), self._room.fileno(), held.fileno()]
            try:
                ipc.send(forkserver.control, asdict(limits), given)
            except OSError as error:
                raise _killed() from error
            for end in (video, theirs, held):
                end.close()
            made.callback(self.close)
            with self._judging():
                declared_s = self._receive().get("declared_duration_s")
                self.declared_duration_s = None if declared_s is None else ipc.finite(declared_s)
            made.pop_all()

    def frames(self, fps: float, width: int, height: int, region: Region = Region()) -> Iterator[Frame]:
        """See model.video.Video."""
        return self._take(Order(fps, width, height, (region.x, region.y, region.width, region.height)))

    def whole_frames(self, fps: float, longest: int) -> Iterator[Frame]:
        """See model.video.Video."""
        return self._take(Order(fps, longest, longest, None))

    def tell(self) -> int:
        """How many bytes into the file the decoder was at the last frame."""
        return self._at

    def close(self) -> None:
        """End the process, if it has not ended, and wait until it is gone."""
        if self._supervision.fileno() >= 0:
            with self._line, self._supervision, self._room:
                self._end()

    def _take(self, order: Order) -> Iterator[Frame]:
        most = math.ceil((self._limits.max_duration_s + 2) * order.fps) + 2
        picture: Frame | None = None
        try:
            with self._judging():
                os.ftruncate(self._room.fileno(), order.slots * order.slot_bytes)
                self._send(asdict(order))
            for _ in range(most + 1):
                with self._judging():
                    picture = self._next(order, picture)
                if picture is None:
                    return
                yield picture
            raise self._crashed(f"more than {most} frames")
        finally:
            self.close()

    def _next(self, order: Order, last: Frame | None) -> Frame | None:
        """The next frame, which may be the last one once more; None where the video has ended."""
        message = self._receive()
        if "media" in message:
            self.media = self._checked(ipc.media_of(message["media"]))
            return None
        self._at = ipc.whole(message.get("at"), 0)
        if last is not None and "again" in message:
            return last
        return self._copy(order, message, last)

    def _checked(self, media: Media) -> Media:
        """Within the limits that the process was given, with damage in order."""
        limits, most_s = self._limits, self._limits.max_duration_s + 2
        edges = [edge for stretch in media.damaged for edge in stretch]
        if (
            not 0 <= media.duration_s <= most_s
            or media.width * media.height > limits.max_pixels
            or media.frames_decoded > limits.max_fps * (most_s + 2)
            or not 0 <= media.looked_at <= 1
            or edges != sorted(edges)
            or (edges and not (edges[0] >= 0 and edges[-1] <= media.duration_s + 1e-6))
        ):
            raise IpcError("a length, a size or a number of frames that cannot be")
        return media

    def _copy(self, order: Order, message: Message, last: Frame | None) -> Frame:
        """A frame out of its slot, which is the process's again then."""
        slot = ipc.whole(message.get("slot"), 0, order.slots - 1)
        height = ipc.whole(message.get("height"), 1, order.height)
        width = ipc.whole(message.get("width"), 1, order.width)
        expected = (order.height, order.width) if order.region is not None else (height, width)
        if last is not None:
            expected = last.shape[:2]
        if (height, width) != expected:
            raise IpcError(f"a frame of {width} x {height}")
        picture = np.empty((height, width, 3), np.uint8)
        # Read and not mapped: nothing that is done to the file on the other side can hurt here.
        if os.preadv(self._room.fileno(), [picture.data], slot * order.slot_bytes) != picture.nbytes:
            raise IpcError("a frame that is not all there")
        self._send({"free": slot})
        return picture

    def _send(self, message: Message) -> None:
        # A process that has ended may have left messages: they tell more than this does.
        with suppress(BrokenPipeError, ConnectionResetError):
            ipc.send(self._line, message)

    def _receive(self) -> Message:
        self._wait()
        message = ipc.receive(self._line)
        if message is None:
            raise self._why_ended()
        if "error" in message:
            raise self._told(message)
        return message

    def _wait(self) -> None:
        """Until something comes, as long as a frame may take; raises TimeoutError, and what `waiting` raises."""
        coming = select.poll()
        coming.register(self._line, select.POLLIN)
        deadline = time.monotonic() + self._limits.max_stall_s
        while not coming.poll(min(_PATIENCE_S, max(0.0, deadline - time.monotonic())) * 1000):
            if time.monotonic() >= deadline:
                raise TimeoutError
            self._waiting()

    @contextmanager
    def _judging(self) -> Iterator[None]:
        """What goes wrong on the line, by whose fault it is."""
        try:
            yield
        except IpcError as error:
            raise self._crashed(str(error)) from error
        except TimeoutError as error:
            # A keeper that does not end it either is stopped, or the whole machine is.
            raise self._stalled() if self._end() else _killed() from error

    def _end(self) -> Message | None:
        """End the process. What the keeper says of it: None where the keeper ended too, or was asked before."""
        with suppress(OSError):
            self._supervision.shutdown(socket.SHUT_WR)
        try:
            return ipc.receive(self._supervision)
        except TimeoutError:
            self._forkserver.kill()
            return None

    def _why_ended(self) -> DetectorError:
        """An end without a word. One that has begun to end is not changed by being asked to."""
        told = self._end()
        if told is None:
            return _killed()
        status = told["status"]
        # The limit's first signal, or what comes after it for one who catches that.
        if status == -signal.SIGXCPU or (
            status == -signal.SIGKILL and told["cpu_s"] >= self._limits.max_cpu_s
        ):
            return self._out_of_time()
        if status == -signal.SIGKILL:
            return _killed()
        if status == decode_process.OUT_OF_MEMORY:
            return self._out_of_memory()
        return self._crashed(signal.Signals(-status).name if status < 0 else f"exit status {status}")

    def _told(self, message: Message) -> DetectorError:
        """The error that the process met."""
        if "fault" in message:
            log.warning("decoder_fault", fault=str(message["fault"])[-_FAULT_LETTERS:])
        kind = _CODES.get(ipc.text(message["error"], _DETAIL_LETTERS), DecoderCrashedError)
        detail = ipc.text(message.get("detail"), _DETAIL_LETTERS)
        return kind(detail) if detail else self._crashed("an unexpected error")

    def _crashed(self, how: str) -> DecoderCrashedError:
        return DecoderCrashedError(
            f"the video made the decoder crash ({how}); export it anew and send it again"
        )

    def _stalled(self) -> DecoderTimeoutError:
        return DecoderTimeoutError(
            f"decoding brought no frame for {self._limits.max_stall_s:g} s, which is the limit (MMAD_DECODER_STALL_S); "
            "export the video anew, or raise the limit"
        )

    def _out_of_time(self) -> DecoderTimeoutError:
        return DecoderTimeoutError(
            f"decoding took {self._limits.max_cpu_s:g} s of computing time, which is the limit "
            "(MMAD_DECODER_CPU_S); send the video in parts, or raise the limit"
        )

    def _out_of_memory(self) -> DecoderMemoryError:
        return DecoderMemoryError(
            f"decoding takes more than {self._limits.max_memory_bytes // 1024**2} MiB, which is the limit "
            "(MMAD_DECODER_MEMORY_BYTES); export the video anew or smaller, or raise the limit"
        )


def _killed() -> DecoderKilledError:
    return DecoderKilledError("the decoder's process was ended from outside; the video can be tried again")


def _new_room() -> BinaryIO:
    """Memory that has no name, so that nothing of it is left over."""
    return os.fdopen(os.memfd_create("frames"), "r+b", buffering=0)


def _own_view(file: BinaryIO) -> BinaryIO:
    """The same bytes, to be read only, with a place in them of its own."""
    try:
        number = file.fileno()
        if stat.S_ISREG(os.fstat(number).st_mode):
            return Path(f"/proc/self/fd/{number}").open("rb", buffering=0)
    except (AttributeError, io.UnsupportedOperation):
        pass
    copied = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - the caller closes it
    file.seek(0)
    shutil.copyfileobj(file, copied)
    copied.seek(0)
    return copied
