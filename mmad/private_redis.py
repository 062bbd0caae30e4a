"""A Redis of our own, for those who have none."""

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

from mmad.children import Child, StartError
from mmad.redis_server import find_redis_server

log = structlog.get_logger()

START_TIMEOUT_S = 60.0
_STOP_GRACE_S = 10.0
# Linux refuses longer paths of unix sockets.
_MAX_SOCKET_PATH = 100
# Where Redis keeps what it has; 7 and later have a folder.
_APPENDED = ("appendonly.aof", "appendonlydir")


class PrivateRedis(NamedTuple):
    """Where it listens, and its process."""

    url: str
    child: Child


@contextmanager
def private_redis(folder: Path) -> Iterator[PrivateRedis]:
    """A Redis on a unix socket, its append-only file in `folder`; raises StartError.

    The file is synced each second and not at each write: then a full disk makes writes fail and not the server, and
    what a crash of the machine takes of the last second the store brings back.
    """
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
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "logfile": str(folder / "redis.log"),
        }
        flags = [word for name, value in options.items() for word in (f"--{name}", value)]
        child = Child("redis", [find_redis_server(folder), *flags], {}, lambda _status: set_aside(folder))
        try:
            _wait_for(child, path, folder)
            yield PrivateRedis(f"unix://{path}", child)
        finally:
            child.stop(_STOP_GRACE_S)


def set_aside(folder: Path) -> bool:
    """Take what Redis cannot read out of its way, and say whether there was anything: the store has all jobs."""
    found = [folder / name for name in _APPENDED if (folder / name).exists()]
    if not found:
        return False
    broken = folder / "broken"
    shutil.rmtree(broken, ignore_errors=True)  # one of them is enough to look into
    broken.mkdir()
    for path in found:
        path.rename(broken / path.name)
    log.error("redis_begins_anew", kept=str(broken), reason="it did not start with what it had appended")
    return True


@contextmanager
def _socket_path(folder: Path) -> Iterator[Path]:
    path = folder / "redis.sock"
    # Redis' own list of clients, which rq reads, is split at spaces.
    if len(str(path)) <= _MAX_SOCKET_PATH and re.fullmatch(r"[\w./-]+", str(path), re.ASCII):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="mmad-") as short:
        yield Path(short) / "redis.sock"


def _wait_for(child: Child, path: Path, folder: Path) -> None:
    words = folder / "redis.log"
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if status := child.exit_code():
            if not set_aside(folder):
                raise StartError(f"the private Redis ended at once with status {status}; {words} says why")
            child.restart()
        try:
            with redis.Redis(unix_socket_path=str(path)) as client:
                client.ping()
            return
        except redis.RedisError:  # not there yet, or reading its file
            time.sleep(0.02)
    raise StartError(f"the private Redis did not answer within {START_TIMEOUT_S:.0f} s; {words} says why")
