"""Worker side of the decoder sandbox: each video is decoded in a forked, unprivileged process.

worker --control socket-------> fork server (forkserver.py): one per worker; forks a decode process for each video
worker <--message socket------> decode process (decode_process.py): requests and events; frames in shared memory
worker <--supervision socket--> fork server: closing it kills the decode process; its exit status is returned over it
"""

import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

import structlog

from model.errors import SandboxError
from model.sandbox import ipc
from model.sandbox.client import SandboxedVideo
from model.sandbox.confine import Confinement
from model.video import InProcessDecoder, Limits

log = structlog.get_logger()

Mode = Literal["auto", "require", "off"]

# Python's arguments to run the fork server, followed by the file descriptor of its control socket.
PROGRAM = ("-P", "-m", "model.sandbox.forkserver")
_START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 10.0


def make_decoder(mode: Mode) -> "InProcessDecoder | Sandbox":
    """Make the decoder for the setting MMAD_SANDBOX; log a warning if the sandbox is off or incomplete.

    Raises SandboxError if the fork server does not start, or the sandbox is required but incomplete.
    """
    if mode == "require" and sys.platform != "linux":
        raise SandboxError(f"there is no sandbox on {sys.platform}, only on Linux (MMAD_SANDBOX=require)")
    in_process = mode == "off" or sys.platform != "linux"
    decoder = InProcessDecoder() if in_process else Sandbox(required=mode == "require")
    if not decoder.describe().startswith("full"):
        log.warning("sandbox_not_full", state=decoder.describe(), setting=mode)
    return decoder


class Sandbox:
    """Opens each video in a process of its own. Thread-safe; several videos may be open at a time."""

    def __init__(self, required: bool = False) -> None:
        """Raise SandboxError if the fork server does not start, or lacks a part of a required confinement."""
        self._required = required
        self._lock = threading.Lock()
        self._forkserver = self._start()

    @property
    def confinement(self) -> Confinement:  # noqa: D102
        return self._forkserver.confinement

    def describe(self) -> str:
        """See InProcessDecoder."""
        return self.confinement.describe()

    def open(self, file: BinaryIO, limits: Limits, on_wait: Callable[[], None] = lambda: None) -> SandboxedVideo:
        """See InProcessDecoder. The fork server is restarted if it has ended."""
        with self._lock:
            if self._forkserver.process.poll() is not None:
                log.warning("decoder_started_again")
                self._forkserver.end()
                self._forkserver = self._start()
            forkserver = self._forkserver
        return SandboxedVideo(forkserver.control, forkserver.kill, file, limits, on_wait)

    def close(self) -> None:
        """Stop the fork server and all decode processes."""
        self._forkserver.end()

    def _start(self) -> "_ForkServerProcess":
        forkserver = _ForkServerProcess()
        missing = forkserver.confinement.missing
        if self._required and missing:
            forkserver.end()
            raise SandboxError(
                f"videos cannot be decoded as MMAD_SANDBOX=require asks: there is no {'; and no '.join(missing)}"
            )
        return forkserver


class _ForkServerProcess:
    """The fork server's process and control socket; it is stopped when this object is freed or the worker ends."""

    def __init__(self) -> None:
        self.control, remote_end = ipc.make_socket_pair()
        with remote_end:
            self.process = subprocess.Popen(
                [sys.executable, *PROGRAM, str(remote_end.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[remote_end.fileno()],
                env=_make_environment(),
                start_new_session=True,  # Ctrl-C in the terminal must reach the worker only
            )
        self.end = weakref.finalize(self, _end, self.process, self.control)
        self.control.settimeout(_START_TIMEOUT_S)
        try:
            message = ipc.receive(self.control)
        except (OSError, ipc.IpcError):
            message = None
        if message is None:
            self.end()
            raise SandboxError(
                f"the decoder's process did not start (exit status {self.process.returncode}); standard error has the "
                "reason; MMAD_SANDBOX=off decodes without it"
            )
        self.confinement = Confinement(**message)

    def kill(self) -> None:
        """Kill an unresponsive fork server; the kernel kills its decode processes with it."""
        self.process.kill()
        self.process.wait()


def _end(process: "subprocess.Popen[bytes]", control: socket.socket) -> None:
    control.close()
    try:
        process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _make_environment() -> dict[str, str]:
    """Return only the variables that the fork server needs: the worker's environment holds addresses and secrets."""
    inherited = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PATH") if name in os.environ}
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    # NumPy's threads would make forking unsafe; one malloc arena per thread would use up the address space.
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    return inherited | threads | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
