"""The faults. Each is injected immediately and undone if it would last."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import redis

from service.queue import LEASE_TTL_S
from tests.conftest import wait_for
from tests.faults.deployment import Deployment, find_processes


class Fault(NamedTuple):
    """Name, relative frequency and action of a fault."""

    name: str
    weight: int
    inject: Callable[[Deployment, random.Random], None]


def _kill(pids: list[int], chance: random.Random, signal_number: signal.Signals = signal.SIGKILL) -> None:
    if pids:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(chance.choice(pids), signal_number)


def _kill_api(deployment: Deployment, chance: random.Random) -> None:
    _kill(deployment.api(), chance)


def _kill_worker(deployment: Deployment, chance: random.Random) -> None:
    _kill(deployment.worker(), chance)


def _end_worker(deployment: Deployment, chance: random.Random) -> None:
    _kill(deployment.worker(), chance, signal.SIGTERM)


def _kill_decoder(deployment: Deployment, chance: random.Random) -> None:
    """Kill a decoder process if one starts within two seconds, otherwise a forkserver."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        busy = [pid for pid in deployment.decoder() if _parent(pid) in deployment.decoder()]
        if busy:
            _kill(busy, chance)
            return
    _kill(deployment.decoder(), chance)


def _kill_redis(deployment: Deployment, chance: random.Random) -> None:
    _kill(deployment.redis(), chance)


def _restart_redis(deployment: Deployment, chance: random.Random) -> None:
    _kill(deployment.redis(), chance, signal.SIGTERM)


def _pause(pids: list[int], seconds: float) -> None:
    stopped = []
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
    time.sleep(seconds)
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _pause_worker(deployment: Deployment, chance: random.Random) -> None:
    """Pause a worker longer than its lease, so that another worker has its job when it continues."""
    pids = deployment.worker()
    _pause([chance.choice(pids)] if pids else [], LEASE_TTL_S + 9)


def _pause_redis(deployment: Deployment, chance: random.Random) -> None:
    """Pause Redis: it accepts connections but does not respond."""
    _pause(deployment.redis(), chance.uniform(1, 8))


def _flush(deployment: Deployment, _chance: random.Random) -> None:
    with (
        suppress(redis.RedisError),
        redis.Redis(unix_socket_path=str(deployment.redis_folder / "redis.sock")) as client,
    ):
        client.flushall()


def _empty_redis(deployment: Deployment, chance: random.Random) -> None:
    """Kill Redis and delete its append-only file."""
    _kill_redis(deployment, chance)
    for path in deployment.redis_folder.iterdir():
        if path.name.startswith("appendonly"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _break_redis(deployment: Deployment, chance: random.Random) -> None:
    """Kill Redis and damage its append-only file, so that it cannot load it."""
    _kill_redis(deployment, chance)
    for path in deployment.redis_folder.rglob("*.aof"):
        if path.parent.name != "broken" and (size := path.stat().st_size) > 100:
            with path.open("r+b") as file:
                file.seek(size // 2)
                file.write(b"\0\r\nnot a command\r\n" * 3)


def _fill_disk(deployment: Deployment, chance: random.Random) -> None:
    """Fill the small file system of Redis for a few seconds."""
    filler = deployment.redis_folder / "filler"
    try:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))
        time.sleep(chance.uniform(2, 5))
    finally:
        filler.unlink()


def _kill_all(deployment: Deployment, _chance: random.Random) -> None:
    """Kill `mmad serve` and all its processes, as in a power failure, and start it again."""
    assert deployment.process is not None
    deployment.process.kill()
    deployment.process.wait()
    wait_for(lambda: not find_processes(deployment.folder), seconds=20)
    deployment.start()


KILL_WORKER = Fault("kill -9 worker", 30, _kill_worker)
FAULTS = (
    KILL_WORKER,
    Fault("kill -9 API", 30, _kill_api),
    Fault("kill -9 decoder", 30, _kill_decoder),
    Fault("kill -9 Redis", 25, _kill_redis),
    Fault("SIGTERM worker", 12, _end_worker),
    Fault("SIGTERM Redis", 10, _restart_redis),
    Fault("FLUSHALL", 15, _flush),
    Fault("SIGSTOP worker past its lease", 6, _pause_worker),
    Fault("SIGSTOP Redis", 6, _pause_redis),
    Fault("Redis folder emptied", 8, _empty_redis),
    Fault("Redis file damaged", 8, _break_redis),
    Fault("kill -9 mmad serve", 6, _kill_all),
)
# Only if the folder of Redis is a separate file system.
FULL_DISK = Fault("Redis disk full", 8, _fill_disk)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:  # it has ended
        return 0
