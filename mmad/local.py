"""`mmad serve`: runs Redis, the API and workers as child processes of one supervisor."""

import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import structlog
from pydantic import ValidationError

from mmad.children import Child, StartError, stop_all
from mmad.private_redis import START_TIMEOUT_S, private_redis
from service.files import lock
from service.job_schemas import Readiness
from service.keys import check_exposure
from service.queue import check_redis
from service.settings import Settings
from service.store import MODEL_CARD, FolderStore

log = structlog.get_logger()

# Time for a worker to hand back its job after its own grace period (MMAD_STOP_GRACE_S).
_HAND_BACK_S = 2.0
_SUPERVISE_EVERY_S = 0.2
# How long other failing checks may delay the start after a worker has loaded the model.
_OTHER_CHECKS_S = 10.0


def serve(settings: Settings, workers: int, announce: Callable[[str], None]) -> None:
    """Run the service until SIGINT or SIGTERM, then stop every child process.

    `announce` is called with the URL when the service is ready to analyse videos.

    Raises:
        StartError: a part did not start, or the data directory cannot be written.
        KeysError: the service would accept other machines without keys.
        StoreError, QueueError: the store or the configured Redis cannot be used.
    """
    check_exposure(settings)
    stop_signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: stop_signals.append(received))
    with ExitStack() as stack:
        own = None
        try:
            stack.enter_context(_lock(settings.data_dir))
            _check_port(settings.host, settings.port)
            store = FolderStore(settings.store_dir)
            store.clear_incoming()  # interrupted uploads of an earlier run
            store.delete(MODEL_CARD)  # of its workers
            if not settings.redis_url:
                own = stack.enter_context(private_redis(settings.data_dir / "redis"))
            elif problem := check_redis(settings):
                log.warning("redis_away", why=problem)
        except OSError as error:
            raise StartError(
                f"cannot write in {settings.data_dir} ({error.strerror}): choose another with --data-dir"
            ) from error
        environment = {
            "MMAD_REDIS_URL": own.url if own else str(settings.redis_url),
            "MMAD_DATA_DIR": str(settings.data_dir),
            "MMAD_HOST": settings.host,
            "MMAD_PORT": str(settings.port),
            **({"MMAD_BUNDLE": str(settings.bundle)} if settings.bundle else {}),
        }
        children: list[Child] = []
        stack.callback(stop_all, children, settings.stop_grace_s + _HAND_BACK_S)
        for name in ("api", *(f"worker-{number}" for number in range(1, workers + 1))):
            children.append(Child(name, [sys.executable, "-m", "mmad", name.partition("-")[0]], environment))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{host}:{settings.port}"
        _wait_until_ready(url, children, stop_signals)
        if not stop_signals:
            announce(url)
        supervised = [*([own.child] if own else []), *children]
        while not stop_signals:  # never gives up, as jobs survive any restart
            for child in supervised:
                child.restart_if_ended()
            time.sleep(_SUPERVISE_EVERY_S)
        log.info("stopping", grace_s=settings.stop_grace_s)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Lock the data directory, so that no second service writes to its files."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
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
                "data_dir_without_locks", folder=str(folder), remedy="start no second mmad serve on this folder"
            )
        yield


def _check_port(host: str, port: int) -> None:
    """Raise StartError if another process listens on the port, which would answer the readiness check."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        problem = f"cannot listen on {host} port {port} ({error.strerror}): choose another with --port"
        raise StartError(problem) from error


def _wait_until_ready(url: str, children: list[Child], stop_signals: list[int]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    loaded_s: float | None = None
    # trust_env=False: no proxy for the own machine.
    with httpx.Client(timeout=5, trust_env=False) as http:
        while time.monotonic() < deadline and not stop_signals:
            for child in children:
                if (status := child.process.poll()) is not None:
                    raise StartError(f"{child.name} ended with status {status}; its words are above")
            with suppress(httpx.TransportError, ValidationError):  # the API does not answer yet
                readiness = Readiness.model_validate_json(http.get(f"{url}/readyz").content)
                if readiness.ready:
                    return
                loaded_s = (loaded_s or time.monotonic()) if readiness.checks["model"] == "ok" else None
                # The service recovers by itself, for example from a full disk.
                if loaded_s and time.monotonic() - loaded_s > _OTHER_CHECKS_S:
                    log.warning("not_ready", **readiness.checks)
                    return
            time.sleep(0.1)
    if not stop_signals:
        raise StartError(f"the service was not ready within {START_TIMEOUT_S:.0f} s; GET {url}/readyz says why")
