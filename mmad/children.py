"""Child processes that are restarted when they end and that end with their parent."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import structlog

log = structlog.get_logger()

# A process that ends sooner after its start counts as an early exit.
_EARLY_EXIT_S = 10.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0
# Early exits in a row after which `repair` is called even if a signal ended the process.
_EARLY_EXITS_TO_REPAIR = 5
_PR_SET_PDEATHSIG = 1


class StartError(Exception):
    """A part of the service could not be started; the message says which, and the remedy."""


class Child:
    """A child process with `environment` in addition to this process's. On Linux it is killed when its parent dies.

    `repair` is called with the exit status before a restart, if the process failed soon after its start.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: dict[str, str],
        repair: Callable[[int], object] = lambda _status: None,
    ) -> None:
        self.name, self._command, self._environment, self._repair = name, command, environment, repair
        self._pause_s, self._early_exits = _FIRST_PAUSE_S, 0
        self._ended_s: float | None = None
        self._start()

    def restart_if_ended(self) -> None:
        """Restart the process if it has ended, after a pause that grows with early exits."""
        status = self.process.poll()
        if status is None:
            return
        now_s = time.monotonic()
        try:
            if self._ended_s is None:
                self._ended_s = now_s
                early = now_s - self._started_s < _EARLY_EXIT_S
                self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S) if early else _FIRST_PAUSE_S
                self._early_exits = self._early_exits + 1 if early else 0
                log.warning("process_ended", process=self.name, status=status, again_after_s=self._pause_s)
                if early and (status > 0 or self._early_exits % _EARLY_EXITS_TO_REPAIR == 0):
                    self._repair(status)
            if now_s - self._ended_s >= self._pause_s:
                self.restart()
        except (OSError, subprocess.SubprocessError) as error:
            log.error("process_not_mended", process=self.name, error=str(error))
            self._ended_s = time.monotonic()  # retried after the pause

    def restart(self) -> None:
        """Start the process again after it has ended."""
        self._start()
        log.info("process_restarted", process=self.name)

    def _start(self) -> None:
        # A new session: Ctrl-C reaches only the parent, which stops the children in order.
        self.process = subprocess.Popen(
            self._command,
            env=os.environ | self._environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        self._started_s, self._ended_s = time.monotonic(), None


def stop_all(children: Sequence[Child], grace_s: float) -> None:
    """Send SIGTERM to all children, and SIGKILL to those that run after the grace period.

    SIGTERM goes to all at once, so that no worker takes a job that another hands back, and only once: a second SIGTERM
    makes a worker abandon its job.
    """
    for child in children:
        child.process.terminate()
    deadline = time.monotonic() + grace_s
    for child in children:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("killed", process=child.name, after_s=grace_s)
            child.process.kill()
            child.process.wait()


def _die_with_parent() -> None:
    # SIGKILL and not SIGTERM: a worker would report its end to Redis, which has just been killed too.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
