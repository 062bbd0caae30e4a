"""Proxies of the environment apply to other machines, not to connections to this machine."""

import asyncio
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from mmad.async_client import AsyncClient
from mmad.client import Client, ServiceError
from mmad.connection import is_this_machine
from tests.command import mmad_process
from tests.conftest import free_port, start_service

PROXY_VARIABLES = ("http_proxy", "ALL_PROXY", "HTTPS_PROXY")


class _LabelsHandler(BaseHTTPRequestHandler):
    """Responds to every GET with the same labels; used as a proxy, it receives the whole URL as path."""

    def do_GET(self) -> None:
        self.server.paths.append(self.path)  # type: ignore[attr-defined]
        content = b'{"bodies": [], "actions": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _LabelsHandler) as server:
        server.paths = []  # type: ignore[attr-defined]
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("name", PROXY_VARIABLES)
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "nonsense://x"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_service_on_this_machine_bypasses_proxies(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, name: str, proxy: str, host: str
) -> None:
    monkeypatch.setenv(name, proxy)
    url = f"http://{host}:{server.server_port}"
    with Client(url, retries=0) as client:
        client.labels()

    async def get_labels() -> None:
        async with AsyncClient(url, retries=0) as client:
            await client.labels()

    asyncio.run(get_labels())
    assert server.paths == ["/labels", "/labels"]  # type: ignore[attr-defined]


def test_service_on_another_machine_is_reached_through_the_proxy(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    with Client("http://mmad.example.org", retries=0) as client:
        client.labels()
    assert server.paths == ["http://mmad.example.org/labels"]  # type: ignore[attr-defined]
    monkeypatch.setenv("no_proxy", "mmad.example.org")
    with Client("http://mmad.example.org", retries=0) as client, pytest.raises(ServiceError):
        client.labels()
    assert len(server.paths) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("proxy", "message"),
    [("socks5://127.0.0.1:9", r"httpx\[socks\].*NO_PROXY"), ("nonsense://x", "not the address of a proxy")],
)
def test_unusable_proxy_raises_service_error(monkeypatch: pytest.MonkeyPatch, proxy: str, message: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ServiceError, match=message):
        Client("http://mmad.example.org")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True), ("LOCALHOST.", True), ("a.localhost", True), ("127.0.0.1", True), ("127.8.0.1", True),
        ("::1", True), ("[::1]", True), ("0.0.0.0", True), (socket.gethostname(), True), ("::ffff:127.0.0.1", True),
        ("example.org", False), ("192.0.2.1", False), ("2001:db8::1", False), ("localhost.example.org", False),
    ],
)  # fmt: skip
def test_is_this_machine(host: str, expected: bool) -> None:
    assert is_this_machine(host) == expected


def test_service_starts_with_proxy_variables_set(tmp_path: Path) -> None:
    proxies = {"http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9"}
    running = start_service(tmp_path / "data", tmp_path / "log", **proxies)
    try:
        completed = mmad_process("submit", "/dev/null", "--url", running.url, **proxies)
        assert "[empty_upload]" in completed.stderr
        log = running.log.read_text()
        assert "/readyz" not in log  # its own health checks are not logged
        assert "Traceback" not in log
    finally:
        running.stop()


def test_client_without_url_uses_mmad_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMAD_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with Client(retries=0) as client, pytest.raises(ServiceError, match="no service answers"):
        client.labels()
