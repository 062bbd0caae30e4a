"""Processes of ours, kept running for as long as we are."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import structlog

log = structlog.get_logger()

# What ends sooner than this after its start will probably end again.
_SOON_S = 10.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0
# So many times in a row, and it is no accident, even where a signal ended it.
_EARLY_ENDS = 5
_PR_SET_PDEATHSIG = 1


class StartError(Exception):
    """A part could not be started; the text says which, and what to do."""


class Child:
    """A process of ours. It dies with us, even if we are killed."""

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: dict[str, str],
        repair: Callable[[int], object] = lambda _status: None,
    ) -> None:
        """Start it.

        Args:
            name: for the log.
            command: program and arguments.
            environment: beside our own.
            repair: told the exit status before it is started again after it ended by itself soon after its start.
        """
        self.name, self._command, self._environment, self._repair = name, command, environment, repair
        self._pause_s, self._early_ends = _FIRST_PAUSE_S, 0
        self._process, self._started_s, self._ended_s = self._start()

    @property
    def pid(self) -> int:
        """Of the process that runs now, or ran last."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def keep_up(self) -> None:
        """Start it again if it has ended, after a pause that grows while it ends soon after each start."""
        status = self.exit_code()
        if status is None:
            return
        now_s = time.monotonic()
        if self._ended_s is None:
            self._ended_s = now_s
            soon = now_s - self._started_s < _SOON_S
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S) if soon else _FIRST_PAUSE_S
            self._early_ends = self._early_ends + 1 if soon else 0
            log.warning("process_ended", process=self.name, status=status, again_after_s=self._pause_s)
            if soon and (status > 0 or self._early_ends % _EARLY_ENDS == 0):
                self._try_to(lambda: self._repair(status))
        if now_s - self._ended_s >= self._pause_s:
            self._try_to(self.restart)

    def _try_to(self, act: Callable[[], object]) -> None:
        """What the machine refuses now it may grant after the next pause."""
        try:
            act()
        except (OSError, subprocess.SubprocessError) as error:
            log.error("process_not_mended", process=self.name, error=str(error))
            self._ended_s = time.monotonic()

    def restart(self) -> None:
        """Start it again after it has ended."""
        self._process, self._started_s, self._ended_s = self._start()
        log.info("process_restarted", process=self.name)

    def ask_to_end(self) -> None:
        """Send SIGTERM."""
        if self._process.poll() is None:
            self._process.terminate()

    def stop(self, grace_s: float) -> None:
        """Ask it to end; kill it when the grace is over."""
        self.ask_to_end()
        self.wait_or_kill(grace_s)

    def wait_or_kill(self, grace_s: float) -> None:
        """Wait for its end; kill it when the grace is over."""
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            log.warning("killed", process=self.name, after_s=grace_s)
            self._process.kill()
            self._process.wait()

    def _start(self) -> tuple["subprocess.Popen[bytes]", float, float | None]:
        """The process, when it was started, and when it ended."""
        # A session of its own: Ctrl-C reaches us alone, and we stop the children in order.
        process = subprocess.Popen(
            self._command,
            env=os.environ | self._environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        return process, time.monotonic(), None


def stop_all(children: Sequence[Child], grace_s: float) -> None:
    """Ask all at once, so that no worker takes a job that another lets go; and once: asked twice, it drops its job."""
    for child in children:
        child.ask_to_end()
    deadline = time.monotonic() + grace_s
    for child in children:
        child.wait_or_kill(max(0.0, deadline - time.monotonic()))


def _die_with_parent() -> None:
    # At once: a worker that is asked to end tells Redis, and would wait for one that has just died too.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
