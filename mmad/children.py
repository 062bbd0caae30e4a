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

    @property
    def pid(self) -> int:
        """Id of the running or last process."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return the exit status, or None while the process runs."""
        return self._process.poll()

    def restart_if_ended(self) -> None:
        """Restart the process if it has ended, after a pause that grows with early exits."""
        status = self.exit_code()
        if status is None:
            return
        now_s = time.monotonic()
        if self._ended_s is None:
            self._ended_s = now_s
            early = now_s - self._started_s < _EARLY_EXIT_S
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S) if early else _FIRST_PAUSE_S
            self._early_exits = self._early_exits + 1 if early else 0
            log.warning("process_ended", process=self.name, status=status, again_after_s=self._pause_s)
            if early and (status > 0 or self._early_exits % _EARLY_EXITS_TO_REPAIR == 0):
                self._try(lambda: self._repair(status))
        if now_s - self._ended_s >= self._pause_s:
            self._try(self.restart)

    def _try(self, action: Callable[[], object]) -> None:
        """Call `action`; if the operating system refuses, wait for the next pause and retry."""
        try:
            action()
        except (OSError, subprocess.SubprocessError) as error:
            log.error("process_not_mended", process=self.name, error=str(error))
            self._ended_s = time.monotonic()

    def restart(self) -> None:
        """Start the process again after it has ended."""
        self._start()
        log.info("process_restarted", process=self.name)

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self._process.poll() is None:
            self._process.terminate()

    def stop(self, grace_s: float) -> None:
        """Send SIGTERM, and SIGKILL after the grace period."""
        self.terminate()
        self.wait_or_kill(grace_s)

    def wait_or_kill(self, grace_s: float) -> None:
        """Wait for the process to end; send SIGKILL after the grace period."""
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            log.warning("killed", process=self.name, after_s=grace_s)
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        # A new session: Ctrl-C reaches only the parent, which stops the children in order.
        self._process = subprocess.Popen(
            self._command,
            env=os.environ | self._environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        self._started_s, self._ended_s = time.monotonic(), None


def stop_all(children: Sequence[Child], grace_s: float) -> None:
    """Stop all children.

    SIGTERM goes to all at once, so that no worker takes a job that another hands back, and only once: a second SIGTERM
    makes a worker abandon its job.
    """
    for child in children:
        child.terminate()
    deadline = time.monotonic() + grace_s
    for child in children:
        child.wait_or_kill(max(0.0, deadline - time.monotonic()))


def _die_with_parent() -> None:
    # SIGKILL and not SIGTERM: a worker would report its end to Redis, which has just been killed too.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
