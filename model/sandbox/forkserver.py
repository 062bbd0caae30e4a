"""Forks a process for each video out of one that is warm: FFmpeg is loaded and has decoded once, no model is.

Started by model.sandbox with the number of its control line, over which videos come. It has one thread, without which
forking were not safe, and never looks into a video itself. It ends when the worker closes the line or ends.
"""

import gc
import os
import select
import signal
import socket
import sys
import time
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np

from model.sandbox import decode_process, ipc
from model.sandbox.confine import Confinement, probe
from model.video import Limits, Video

# Among all of a worker's processes, this and its children are what the kernel ends first when memory is short.
_OOM_SCORE = "800"
# One that has ended may still be listed for a moment.
_THREADS_END_S = 10.0


def main() -> None:
    """Get warm, try out what this machine can take away, say so, serve."""
    # Whoever stops the worker lets it finish its job: it needs its decoder for that.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    warm_up()
    parts = probe()
    control = socket.socket(fileno=int(sys.argv[1]))
    try:
        ipc.send(control, asdict(parts))
    except BrokenPipeError:  # the worker has ended meanwhile
        return
    ForkServer(control, parts).serve()


def warm_up() -> None:
    """Decode once all the way, so that nothing has to be opened later, and see that no thread stays."""
    _decode_once()
    gc.collect()  # decoders end their threads when they are freed
    gc.freeze()  # what is here is every child's: looking through it would only make copies of it
    deadline = time.monotonic() + _THREADS_END_S
    while (threads := len(list(Path("/proc/self/task").iterdir()))) > 1:
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{threads} threads are left after decoding: with more than one, forking is not safe"
            )
        time.sleep(0.001)


def _decode_once() -> None:
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(15))
        stream.width = stream.height = 64
        for shade in range(0, 200, 20):
            picture = np.full((64, 64, 3), shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    for region in ((0.0, 0.0, 1.0, 1.0), None):
        buffer.seek(0)
        with closing(Video(buffer)) as video:
            for _ in ipc.Order(15.0, 32, 32, region).take(video):
                pass


@dataclass
class _Child:
    """The leash leads to the worker: closing its end kills the child, and the child's end is told over it."""

    pid: int
    handle: int
    supervision: socket.socket


class ForkServer:
    """The children that are there, each watched by its process handle, and by its leash."""

    def __init__(self, control: socket.socket, parts: Confinement) -> None:
        self._control, self._parts = control, parts
        self._handles: dict[int, _Child] = {}
        self._supervisions: dict[int, _Child] = {}
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def serve(self) -> None:
        """Until the worker has gone; its children go too, as they are made to."""
        while True:
            # One at a time: handling one may make the number of another belong to something new.
            number, _ = self._poll.poll()[0]
            if number == self._control.fileno():
                if not self._take_in():
                    return
            elif number in self._handles:
                self._bury(self._handles[number])
            else:
                self._kill(self._supervisions[number])

    def _take_in(self) -> bool:
        """The next video; whether there was one."""
        came = ipc.receive_with_files(self._control, 4)
        if came is None:
            return False
        message, (video, line, room, supervision) = came
        held = socket.socket(fileno=supervision)
        limits = Limits(**message)
        forkserver = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # no room for a process: an end of the leash without a word tells the worker
            held.close()
        else:
            if pid == 0:
                decode_process.live(decode_process.Given(video, line, room), limits, self._parts, forkserver)
            self._watch(_Child(pid, os.pidfd_open(pid), held))
        for number in (video, line, room):
            os.close(number)
        return True

    def _watch(self, child: _Child) -> None:
        self._handles[child.handle] = self._supervisions[child.supervision.fileno()] = child
        self._poll.register(child.handle, select.POLLIN)
        self._poll.register(child.supervision, select.POLLIN)

    def _kill(self, child: _Child) -> None:
        """The worker has no more use for it."""
        self._poll.unregister(child.supervision)
        signal.pidfd_send_signal(child.handle, signal.SIGKILL)

    def _bury(self, child: _Child) -> None:
        """Tell the worker how it ended, if it still listens."""
        _, status, used = os.wait4(child.pid, 0)
        del self._handles[child.handle], self._supervisions[child.supervision.fileno()]
        self._poll.unregister(child.handle)
        with suppress(KeyError):
            self._poll.unregister(child.supervision)
        os.close(child.handle)
        with child.supervision, suppress(OSError):
            ipc.send(
                child.supervision,
                {"status": os.waitstatus_to_exitcode(status), "cpu_s": used.ru_utime + used.ru_stime},
            )


if __name__ == "__main__":
    main()
