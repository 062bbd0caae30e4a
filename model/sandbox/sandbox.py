"""Decoding in processes that hold nothing worth taking, with nothing to take it with: the worker's side.

worker --control--> keeper (keeper.py): warm, once a worker
worker <--line--->  cell   (cell.py):   forked by the keeper for each video; frames lie in memory that both see
worker <--leash-->  keeper: closing it ends the cell, and how the cell ended comes back over it
"""

import os
import socket
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import BinaryIO, Literal

import structlog

from model.decoder import Decoder, InProcess, Waiting
from model.errors import SandboxError
from model.sandbox import ipc
from model.sandbox.client import SandboxedVideo
from model.sandbox.confine import Confinement
from model.video import Limits

log = structlog.get_logger()

Mode = Literal["auto", "require", "off"]

# What python runs as the keeper; the number of its control line comes after it.
PROGRAM = ("-P", "-m", "model.sandbox.forkserver")
_START_S = 60.0
_END_S = 10.0


def make_decoder(mode: Mode) -> Decoder:
    """What the setting MMAD_SANDBOX asks for; a sandbox that is not full, or not there, is told of in the log.

    Raises:
        SandboxError: it is required and cannot be had in full, or its process does not start.
    """
    if mode == "require" and sys.platform != "linux":
        raise SandboxError(f"there is no sandbox on {sys.platform}, only on Linux (MMAD_SANDBOX=require)")
    made = InProcess() if mode == "off" or sys.platform != "linux" else Sandbox(required=mode == "require")
    if not made.describe().startswith("full"):
        log.warning("sandbox_not_full", state=made.describe(), setting=mode)
    return made


class Sandbox:
    """Opens videos in processes of their own. Several may be open at a time, from several threads."""

    def __init__(self, required: bool = False) -> None:
        """Starts the keeper, which takes about half a second; with `required`, one that confines in full or none.

        Raises:
            SandboxError: see make_decoder.
        """
        self._required = required
        self._lock = threading.Lock()
        self._forkserver = self._start()

    @property
    def confinement(self) -> Confinement:
        """What is taken from the processes that decode."""
        return self._forkserver.confinement

    def describe(self) -> str:
        """See Decoder."""
        return self.confinement.describe()

    def open(self, file: BinaryIO, limits: Limits, waiting: Waiting = lambda: None) -> SandboxedVideo:
        """See Decoder; a keeper that has ended is started again.

        Raises:
            DecoderKilledError: the process was ended from outside.
        """
        with self._lock:
            if not self._forkserver.alive:
                log.warning("decoder_started_again")
                self._forkserver.end()
                self._forkserver = self._start()
            forkserver = self._forkserver
        return SandboxedVideo(forkserver, file, limits, waiting)

    def close(self) -> None:
        """End the keeper, and with it what it decodes."""
        self._forkserver.end()

    def _start(self) -> "_Keeper":
        forkserver = _Keeper()
        missing = forkserver.confinement.missing
        if self._required and missing:
            forkserver.end()
            raise SandboxError(
                f"videos cannot be decoded as MMAD_SANDBOX=require asks: there is no {'; and no '.join(missing)}"
            )
        return forkserver


class _Keeper:
    """The warm process and the line to it. It is ended with this object, at the latest with this process."""

    def __init__(self) -> None:
        self.control, theirs = ipc.pair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *PROGRAM, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_environment(),
                start_new_session=True,  # the terminal's Ctrl-C is for the worker
            )
        self.end = weakref.finalize(self, _end, self._process, self.control)
        self.control.settimeout(_START_S)
        try:
            message = ipc.receive(self.control)
        except (OSError, ipc.IpcError):
            message = None
        if message is None:
            self.end()
            raise SandboxError(
                f"the decoder's process did not start (exit status {self._process.returncode}); standard error has the "
                "reason; MMAD_SANDBOX=off decodes without it"
            )
        self.confinement = Confinement(**message)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """For one that does not answer; its children die with it."""
        self._process.kill()
        self._process.wait()


def _end(process: "subprocess.Popen[bytes]", control: socket.socket) -> None:
    control.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment() -> dict[str, str]:
    """What is needed to find this code, and nothing else of ours: there are addresses and secrets in it."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PATH") if name in os.environ}
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    # NumPy's threads would make forking unsafe; an arena for each thread would use up the address space.
    tuned = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    return kept | tuned | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
