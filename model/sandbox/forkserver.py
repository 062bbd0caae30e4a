"""The fork server: forks a decode process for each video, with FFmpeg already loaded and initialised.

Its argument is the file descriptor of the control socket. It has a single thread, so that forking is safe.
"""

import gc
import os
import selectors
import signal
import socket
import sys
import time
from contextlib import closing, suppress
from dataclasses import asdict
from fractions import Fraction
from functools import partial
from io import BytesIO
from pathlib import Path

import av
import numpy as np

from model.sandbox import decode_process, ipc
from model.sandbox.confine import Confinement, probe
from model.video import Limits, Video

# When memory is short, the kernel kills the fork server and its children before the worker's other processes.
_OOM_SCORE = "800"
# A thread that has ended may stay listed for a moment.
_THREADS_END_TIMEOUT_S = 10.0


def main() -> None:
    """Warm up, probe the confinement, report it to the worker, and serve."""
    # A worker that is being stopped finishes its job first, and needs the decoder for that.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    warm_up()
    confinement = probe()
    control = socket.socket(fileno=int(sys.argv[1]))
    try:
        ipc.send(control, asdict(confinement))
    except BrokenPipeError:  # the worker has ended
        return
    ForkServer(control, confinement).serve()


def warm_up() -> None:
    """Decode a short video, so that decode processes need not open any library, and wait until its threads end."""
    _decode_once()
    gc.collect()  # decoders end their threads when they are freed
    gc.freeze()  # a collection in a child would copy all pages that it shares with this process
    deadline = time.monotonic() + _THREADS_END_TIMEOUT_S
    while (threads := len(list(Path("/proc/self/task").iterdir()))) > 1:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{threads} threads are left after decoding: with more than one, forking is not safe")
        time.sleep(0.001)


def _decode_once() -> None:
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(15))
        stream.width = stream.height = 64
        for shade in range(0, 200, 20):
            frame = np.full((64, 64, 3), shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    for region in ((0.0, 0.0, 1.0, 1.0), None):
        buffer.seek(0)
        with closing(Video(buffer)) as video:
            for _ in ipc.FrameRequest(15.0, 32, 32, region).take(video):
                pass


class ForkServer:
    """Forks decode processes and waits for their end, or for the worker to close their supervision socket."""

    def __init__(self, control: socket.socket, confinement: Confinement) -> None:
        self._control, self._confinement = control, confinement
        self._selector = selectors.PollSelector()
        self._selector.register(control, selectors.EVENT_READ)

    def serve(self) -> None:
        """Serve until the worker closes the control socket; the kernel then kills remaining decode processes."""
        while True:
            # One event at a time: handling it may close a descriptor whose number is then used again.
            key, _ = self._selector.select()[0]
            if key.fileobj is not self._control:
                key.data()
            elif not self._accept():
                return

    def _accept(self) -> bool:
        """Fork a decode process for the next video; return False if the control socket is closed."""
        received = ipc.receive_with_fds(self._control, 4)
        if received is None:
            return False
        message, (*fds, supervision_fd) = received
        supervision = socket.socket(fileno=supervision_fd)
        limits = Limits(**message)
        forkserver = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # too many processes
            supervision.close()  # without a message: the worker takes the process for killed
        else:
            if pid == 0:
                files = decode_process.DecodeFiles(*fds)
                decode_process.run_decode_process(files, limits, self._confinement, forkserver)
            pidfd = os.pidfd_open(pid)
            self._selector.register(pidfd, selectors.EVENT_READ, partial(self._reap, pid, pidfd, supervision))
            self._selector.register(supervision, selectors.EVENT_READ, partial(self._kill, pidfd, supervision))
        for fd in fds:
            os.close(fd)
        return True

    def _kill(self, pidfd: int, supervision: socket.socket) -> None:
        """Kill a decode process whose supervision socket the worker has closed."""
        self._selector.unregister(supervision)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def _reap(self, pid: int, pidfd: int, supervision: socket.socket) -> None:
        """Send the exit status and CPU time of a process that has ended to the worker."""
        _, status, usage = os.wait4(pid, 0)
        self._selector.unregister(pidfd)
        with suppress(KeyError):  # it was killed
            self._selector.unregister(supervision)
        os.close(pidfd)
        result = {"status": os.waitstatus_to_exitcode(status), "cpu_s": usage.ru_utime + usage.ru_stime}
        with supervision, suppress(OSError):
            ipc.send(supervision, result)


if __name__ == "__main__":
    main()
