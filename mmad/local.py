"""Everything on one machine: a private Redis, the API and workers as child processes, started and stopped together."""

import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import httpx
import structlog
from pydantic import ValidationError

from mmad.children import Child, StartError, stop_all
from mmad.private_redis import START_TIMEOUT_S, private_redis
from service.job_schemas import Readiness
from service.keys import KeysError, check_open
from service.locks import lock
from service.queue import QueueError, check_redis
from service.settings import Settings
from service.store import MODEL_CARD, FolderStore, StoreError

log = structlog.get_logger()

# For what a worker has to do after its own grace (MMAD_STOP_GRACE_S), when it hands back the job at hand.
_HAND_BACK_S = 2.0
_LOOK_EVERY_S = 0.2
# When a worker has loaded its model, what is wrong otherwise keeps nobody from starting.
_OTHERS_S = 10.0


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
        try:
            _tidy(FolderStore(settings.store_dir))
            if settings.redis_url:
                own, trouble = None, check_redis(settings)
            else:
                own, trouble = stack.enter_context(private_redis(settings.data_dir / "redis")), None
        except (StoreError, QueueError) as error:
            raise StartError(str(error)) from error
        except OSError as error:
            raise _not_writable(settings.data_dir, error) from error
        if trouble:
            log.warning("redis_away", why=trouble)
        environment = {
            "MMAD_REDIS_URL": own.url if own else str(settings.redis_url),
            "MMAD_DATA_DIR": str(settings.data_dir),
            "MMAD_HOST": settings.host,
            "MMAD_PORT": str(settings.port),
            **({"MMAD_BUNDLE": str(settings.bundle)} if settings.bundle else {}),
        }
        children: list[Child] = []
        stack.callback(stop_all, children, settings.stop_grace_s + _HAND_BACK_S)
        children.append(Child("api", _mmad("api"), environment))
        children += [
            Child(f"worker-{number}", _mmad("worker"), environment) for number in range(1, workers + 1)
        ]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{host}:{settings.port}"
        _wait_until_ready(url, children, stopping)
        if not stopping.asked:
            announce(url)
        _supervise([*([own.child] if own else []), *children], stopping)
        log.info("stopping", grace_s=settings.stop_grace_s)


class _Stopping:
    """Remembers that a signal asked us to stop."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


def _tidy(store: FolderStore) -> None:
    """What the last run left: uploads that were broken off, and the word of a worker that is no more."""
    store.clear_incoming()
    store.delete(MODEL_CARD)


def _not_writable(folder: Path, error: OSError) -> StartError:
    return StartError(f"cannot write in {folder} ({error.strerror}): choose another with --data-dir")


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Two services on one data directory would write into each other's files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise _not_writable(folder, error) from error
    with file:
        try:
            locked = lock(file, wait=False)
        except (BlockingIOError, PermissionError) as error:
            raise StartError(
                f"another mmad serve uses {folder}: stop it, or give this one another --data-dir"
            ) from error
        except OSError as error:
            raise StartError(f"cannot lock {folder / 'lock'} ({error.strerror})") from error
        if not locked:
            log.warning(
                "data_dir_without_locks",
                folder=str(folder),
                remedy="start no second mmad serve on this folder",
            )
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


def _wait_until_ready(url: str, children: list[Child], stopping: _Stopping) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    loaded_s: float | None = None
    # No proxy of the environment stands between this machine and itself.
    with httpx.Client(timeout=5, trust_env=False) as http:
        while time.monotonic() < deadline and not stopping.asked:
            for child in children:
                if child.exit_code() is not None:
                    raise StartError(
                        f"{child.name} ended with status {child.exit_code()}; its words are above"
                    )
            answer = _readiness(http, url)
            if answer is not None and answer.ready:
                return
            if answer is not None:
                loaded_s = (loaded_s or time.monotonic()) if answer.checks["model"] == "ok" else None
                # A full disk, for example: the service recovers by itself when there is room.
                if loaded_s and time.monotonic() - loaded_s > _OTHERS_S:
                    log.warning("not_ready", **answer.checks)
                    return
            time.sleep(0.1)
    if not stopping.asked:
        raise StartError(
            f"the service was not ready within {START_TIMEOUT_S:.0f} s; GET {url}/readyz says why"
        )


def _readiness(http: httpx.Client, url: str) -> Readiness | None:
    """The checks of GET /readyz; None while the API does not answer."""
    try:
        return Readiness.model_validate_json(http.get(f"{url}/readyz").content)
    except (httpx.TransportError, ValidationError):
        return None


def _supervise(children: list[Child], stopping: _Stopping) -> None:
    """Until the signal: what ends is started again. Jobs outlast each of them, so nothing is a reason to give up."""
    while not stopping.asked:
        for child in children:
            child.keep_up()
        time.sleep(_LOOK_EVERY_S)


def _mmad(command: str) -> list[str]:
    return [sys.executable, "-m", "mmad", command]
