"""Faults: what can befall the service, each done at once and undone where it would last."""

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

from service.queue import LEASE_S
from tests.conftest import wait_for
from tests.faults.ground import Ground, processes_of


class Kind(NamedTuple):
    """A fault's name, how often it comes beside others, and what it does."""

    name: str
    weight: int
    do: Callable[[Ground, random.Random], None]


def _kill(pids: list[int], chance: random.Random, how: signal.Signals = signal.SIGKILL) -> None:
    if pids:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(chance.choice(pids), how)


def _kill_api(ground: Ground, chance: random.Random) -> None:
    _kill(ground.api(), chance)


def _kill_worker(ground: Ground, chance: random.Random) -> None:
    _kill(ground.worker(), chance)


def _end_worker(ground: Ground, chance: random.Random) -> None:
    _kill(ground.worker(), chance, signal.SIGTERM)


def _kill_decoder(ground: Ground, chance: random.Random) -> None:
    """While one decodes, if that is soon: the process it was made from otherwise."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        busy = [pid for pid in ground.decoder() if _parent(pid) in ground.decoder()]
        if busy:
            _kill(busy, chance)
            return
    _kill(ground.decoder(), chance)


def _kill_redis(ground: Ground, chance: random.Random) -> None:
    _kill(ground.redis(), chance)


def _restart_redis(ground: Ground, chance: random.Random) -> None:
    _kill(ground.redis(), chance, signal.SIGTERM)


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


def _pause_worker(ground: Ground, chance: random.Random) -> None:
    """For longer than its lease: another has its job when it goes on."""
    pids = ground.worker()
    _pause([chance.choice(pids)] if pids else [], LEASE_S + 9)


def _pause_redis(ground: Ground, chance: random.Random) -> None:
    """It listens and does not answer."""
    _pause(ground.redis(), chance.uniform(1, 8))


def _flush(ground: Ground, _chance: random.Random) -> None:
    with (
        suppress(redis.RedisError),
        redis.Redis(unix_socket_path=str(ground.redis_folder / "redis.sock")) as client,
    ):
        client.flushall()


def _empty_redis(ground: Ground, chance: random.Random) -> None:
    """All that it had on disk is gone when it comes back."""
    _kill_redis(ground, chance)
    for path in ground.redis_folder.iterdir():
        if path.name.startswith("appendonly"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _break_redis(ground: Ground, chance: random.Random) -> None:
    """What it had on disk is damaged in the middle: it will not start with that."""
    _kill_redis(ground, chance)
    for path in ground.redis_folder.rglob("*.aof"):
        if path.parent.name != "broken" and (size := path.stat().st_size) > 100:
            with path.open("r+b") as file:
                file.seek(size // 2)
                file.write(b"\0\r\nnot a command\r\n" * 3)


def _fill_disk(ground: Ground, chance: random.Random) -> None:
    """Redis cannot write for a while; its folder is a small disk of its own."""
    filler = ground.redis_folder / "filler"
    try:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))
        time.sleep(chance.uniform(2, 5))
    finally:
        filler.unlink()


def _kill_all(ground: Ground, _chance: random.Random) -> None:
    """As when the machine loses power: `mmad serve` and all it started; then somebody starts it again."""
    assert ground.process is not None
    ground.process.kill()
    ground.process.wait()
    wait_for(lambda: not processes_of(ground.folder), seconds=20)
    ground.start()


KILL_WORKER = Kind("kill -9 worker", 30, _kill_worker)
KINDS = (
    KILL_WORKER,
    Kind("kill -9 API", 30, _kill_api),
    Kind("kill -9 decoder", 30, _kill_decoder),
    Kind("kill -9 Redis", 25, _kill_redis),
    Kind("SIGTERM worker", 12, _end_worker),
    Kind("SIGTERM Redis", 10, _restart_redis),
    Kind("FLUSHALL", 15, _flush),
    Kind("SIGSTOP worker past its lease", 6, _pause_worker),
    Kind("SIGSTOP Redis", 6, _pause_redis),
    Kind("Redis folder emptied", 8, _empty_redis),
    Kind("Redis file damaged", 8, _break_redis),
    Kind("kill -9 mmad serve", 6, _kill_all),
)
# Only where its folder is a disk of its own.
FULL_DISK = Kind("Redis disk full", 8, _fill_disk)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:  # it has ended
        return 0
