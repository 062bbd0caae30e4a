"""Run `mmad api` as a process, for tests with raw sockets."""

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


class RawResponse(NamedTuple):
    """A response received on a socket; status 0 if the connection was closed without one."""

    status: int
    headers: str
    body: str


@dataclass
class Api:
    """A running API process."""

    process: "subprocess.Popen[bytes]"
    port: int
    store: FolderStore
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self, receive_buffer_bytes: int | None = None) -> socket.socket:
        """Open a connection, optionally with a small receive buffer."""
        connection = socket.socket()
        if receive_buffer_bytes:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def exchange(self, request: bytes) -> RawResponse:
        """Send bytes and read until the API closes the connection."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_response(connection)

    def stored(self) -> list[str]:
        """Return the keys of all files in the store, except locks."""
        return [entry.key for entry in self.store.entries("") if not entry.key.startswith("locks/")]

    def descriptors(self) -> int:
        """Return the number of open file descriptors of the process."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def sockets(self) -> int:
        """Return the number of open sockets of the process."""
        folder = Path(f"/proc/{self.process.pid}/fd")
        return sum(os.readlink(link).startswith("socket:") for link in folder.iterdir() if link.is_symlink())


def read_response(connection: socket.socket) -> RawResponse:
    """Read until the other side closes or resets the connection."""
    chunks = []
    try:
        while chunk := connection.recv(65536):
            chunks.append(chunk)
    except ConnectionError:
        pass
    head, _, body = b"".join(chunks).decode("latin-1").partition("\r\n\r\n")
    words = head.split()
    return RawResponse(int(words[1]) if len(words) > 1 else 0, head.lower(), body)


@contextmanager
def running_api(folder: Path, **settings: Any) -> Iterator[Api]:
    """Run the API with a private Redis and no worker. `settings` are passed as MMAD_<NAME>."""
    folder.mkdir(exist_ok=True)
    port, log = free_port(), folder / "api.log"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MMAD_", "REDIS_"))}
    variables = {f"MMAD_{name.upper()}": str(value) for name, value in settings.items()}
    with private_redis(folder / "redis") as server, log.open("wb") as file:
        environment = inherited | {
            "MMAD_REDIS_URL": server.url, "MMAD_DATA_DIR": str(folder / "data"), "MMAD_PORT": str(port),
        } | variables  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "mmad", "api"], stdout=file, stderr=file, env=environment)
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
