"""The private Redis server of `mmad serve`."""

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from mmad.children import Child, StartError
from mmad.redis_server import find_redis_server

log = structlog.get_logger()

START_TIMEOUT_S = 60.0
_STOP_GRACE_S = 10.0
# Linux limits the length of unix socket paths.
_MAX_SOCKET_PATH = 100
# The append-only file; a folder since Redis 7.
_AOF_NAMES = ("appendonly.aof", "appendonlydir")


class PrivateRedis(NamedTuple):
    """URL and process of a Redis server."""

    url: str
    child: Child


@contextmanager
def private_redis(folder: Path) -> Iterator[PrivateRedis]:
    """Run a Redis server on a unix socket with its append-only file in `folder`; raises StartError.

    The file is synced every second, not at every write: with a full disk, writes fail but the server continues. Writes
    that a crash of the machine loses are restored from the store.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with _socket_path(folder) as path:
        path.unlink(missing_ok=True)
        command = [
            find_redis_server(folder), "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700",
            "--dir", str(folder), "--logfile", str(folder / "redis.log"), "--daemonize", "no", "--save", "",
            "--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction",
        ]  # fmt: skip
        child = Child("redis", command, {}, lambda _status: move_data_aside(folder))
        try:
            _wait_until_ready(child, path, folder)
            yield PrivateRedis(f"unix://{path}", child)
        finally:
            child.stop(_STOP_GRACE_S)


def move_data_aside(folder: Path) -> bool:
    """Move an unreadable append-only file to `broken/`; returns False if there is none. The store has all jobs."""
    damaged = [folder / name for name in _AOF_NAMES if (folder / name).exists()]
    if not damaged:
        return False
    broken = folder / "broken"
    shutil.rmtree(broken, ignore_errors=True)  # only the latest is needed for a diagnosis
    broken.mkdir()
    for path in damaged:
        path.rename(broken / path.name)
    log.error("redis_begins_anew", kept=str(broken), reason="it did not start with what it had appended")
    return True


@contextmanager
def _socket_path(folder: Path) -> Iterator[Path]:
    path = folder / "redis.sock"
    # rq splits the output of CLIENT LIST, which has the path, at spaces.
    if len(str(path)) <= _MAX_SOCKET_PATH and re.fullmatch(r"[\w./-]+", str(path), re.ASCII):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="mmad-") as short:
        yield Path(short) / "redis.sock"


def _wait_until_ready(child: Child, path: Path, folder: Path) -> None:
    log_file = folder / "redis.log"
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if status := child.exit_code():
            if not move_data_aside(folder):
                raise StartError(f"the private Redis ended at once with status {status}; {log_file} says why")
            child.restart()
        try:
            with redis.Redis(unix_socket_path=str(path), retry=Retry(NoBackoff(), 0)) as client:
                client.ping()
            return
        except redis.RedisError:  # not listening yet, or loading its file
            time.sleep(0.02)
    raise StartError(f"the private Redis did not answer within {START_TIMEOUT_S:.0f} s; {log_file} says why")
