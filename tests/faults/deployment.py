"""The tested service: `mmad serve` as a process, the ids of its child processes, and its folders."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.conftest import children, descendants, free_port

# Short intervals, so that a campaign covers abandoned uploads and the sweeping of orphans.
SETTINGS = {
    "MMAD_SWEEP_EVERY_S": "2",
    "MMAD_UPLOAD_TIMEOUT_S": "15",
    "MMAD_MIN_FREE_BYTES": "0",
    "MMAD_LOG_FORMAT": "json",
    "MMAD_REQUESTS_PER_MINUTE": "1000000",
}
_READY_S = 90.0
_REDIS_BYTES = 64 * 1024 * 1024


@dataclass
class Deployment:
    """One service with its own data folder."""

    folder: Path
    bundle: Path
    workers: int = 2
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """URL of the API."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def redis_folder(self) -> Path:
        """Folder of the private Redis."""
        return self.folder / "data/redis"

    @property
    def store(self) -> Path:
        """Folder of the store."""
        return self.folder / "data/store"

    @property
    def log(self) -> Path:
        """Log file of all processes."""
        return self.folder / "log"

    def start(self) -> None:
        """Start `mmad serve` and wait until it is ready."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MMAD_", "REDIS_"))}
        command = [
            sys.executable, "-m", "mmad", "serve", "--port", str(self.port), "--data-dir", str(self.folder / "data"),
            "--workers", str(self.workers), "--bundle", str(self.bundle),
        ]  # fmt: skip
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=clean | SETTINGS)
        if self.wait_until_ready(time.monotonic()) is None:
            raise RuntimeError(f"the service does not start; {self.log} says why")

    def wait_until_ready(self, since_s: float) -> float | None:
        """Wait until the service is ready; returns the seconds since `since_s`, or None after a timeout."""
        while time.monotonic() - since_s < _READY_S:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/readyz", timeout=5).is_success:
                    return time.monotonic() - since_s
            time.sleep(0.05)
        return None

    def stop(self) -> int:
        """Stop the service as Ctrl-C does; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def api(self) -> list[int]:
        """Return the process ids of the API."""
        return [child for child in self._children() if b"\0api\0" in _command(child)]

    def worker(self) -> list[int]:
        """Return the process ids of the workers."""
        return [child for child in self._children() if b"\0worker\0" in _command(child)]

    def decoder(self) -> list[int]:
        """Return the process ids of all forkservers and decoder processes."""
        return [child for worker in self.worker() for child in descendants(worker)]

    def forkservers(self) -> list[int]:
        """Return the process ids of the forkservers, which fork a decoder process for each video."""
        return [child for worker in self.worker() for child in children(worker)]

    def redis(self) -> list[int]:
        """Return the process ids of the private Redis."""
        return [child for child in self._children() if _name(child).startswith("redis")]

    def _children(self) -> list[int]:
        return descendants(self.process.pid) if self.process else []


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small tmpfs at a folder; yields whether mounting is permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_REDIS_BYTES}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def find_processes(folder: Path) -> list[int]:
    """Return the process ids of all processes started for a folder, including orphans."""
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            ours = str(folder / "data").encode() in (path / "environ").read_bytes() + _command(int(path.name))
            if ours and int(path.name) != os.getpid() and not _is_dead(int(path.name)):
                pids.append(int(path.name))
    return pids


def _is_dead(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""
