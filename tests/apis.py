"""`mmad api` in a process of its own, as raw sockets meet it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from mmad.private_redis import private_redis
from service.store import FolderStore
from tests.conftest import free_port, wait_for


class Answer(NamedTuple):
    """What came back on a socket until it was closed; status 0 where nothing did."""

    status: int
    headers: str
    body: str


@dataclass
class Api:
    """A running process."""

    process: "subprocess.Popen[bytes]"
    port: int
    store: FolderStore
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self, receive_bytes: int | None = None) -> socket.socket:
        """A connection; with a small buffer for what comes back, if that is given."""
        made = socket.socket()
        if receive_bytes:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        made.settimeout(30)
        made.connect(("127.0.0.1", self.port))
        return made

    def ask(self, sent: bytes) -> Answer:
        """Send bytes, and read until the other side closes."""
        with self.connect() as caller:
            caller.sendall(sent)
            return read(caller)

    def stored(self) -> list[str]:
        """All files of the store but its locks."""
        return [entry.key for entry in self.store.entries("") if not entry.key.startswith("locks/")]

    def descriptors(self) -> int:
        """Of the process, open now."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def sockets(self) -> int:
        """Open sockets of the process."""
        folder = Path(f"/proc/{self.process.pid}/fd")
        return sum(os.readlink(link).startswith("socket:") for link in folder.iterdir() if link.is_symlink())


def read(caller: socket.socket) -> Answer:
    """All that comes until the other side closes, or cuts off."""
    pieces = []
    try:
        while piece := caller.recv(65536):
            pieces.append(piece)
    except ConnectionError:
        pass
    head, _, body = b"".join(pieces).decode("latin-1").partition("\r\n\r\n")
    words = head.split()
    return Answer(int(words[1]) if len(words) > 1 else 0, head.lower(), body)


@contextmanager
def running_api(folder: Path, **settings: Any) -> Iterator[Api]:
    """With a Redis of its own and no worker; settings by their names, as MMAD_<NAME>."""
    folder.mkdir(exist_ok=True)
    port, log = free_port(), folder / "api.log"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MMAD_", "REDIS_"))}
    told = {f"MMAD_{name.upper()}": str(value) for name, value in settings.items()}
    with private_redis(folder / "redis") as server, log.open("wb") as file:
        environment = clean | {
            "MMAD_REDIS_URL": server.url, "MMAD_DATA_DIR": str(folder / "data"), "MMAD_PORT": str(port),
        } | told  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "mmad", "api"], stdout=file, stderr=file, env=environment
        )
        try:
            wait_for(lambda: process.poll() is not None or _answers(port), seconds=60)
            assert process.poll() is None, log.read_text()
            yield Api(process, port, FolderStore(Path(environment["MMAD_DATA_DIR"]) / "store"), log)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).is_success
    except httpx.TransportError:
        return False
