"""Proxies of the environment serve other machines, and never stand between mmad and this one."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from mmad.async_client import AsyncClient
from mmad.client import Client, ServiceError
from mmad.connection import is_this_machine
from tests.conftest import free_port, start_service

NAMES = ("http_proxy", "ALL_PROXY", "HTTPS_PROXY")


class _Labels(BaseHTTPRequestHandler):
    """Answers every GET with the same labels; as a proxy it is asked for a whole address."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        content = b'{"bodies": [], "actions": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Labels) as made:
        made.asked = []  # type: ignore[attr-defined]
        Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "nonsense://x"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_proxy_stands_before_this_machine(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, name: str, proxy: str, host: str
) -> None:
    monkeypatch.setenv(name, proxy)
    url = f"http://{host}:{server.server_port}"
    with Client(url, retries=0) as client:
        client.labels()

    async def ask() -> None:
        async with AsyncClient(url, retries=0) as client:
            await client.labels()

    asyncio.run(ask())
    assert server.asked == ["/labels", "/labels"]  # type: ignore[attr-defined]


def test_other_machines_are_asked_through_the_proxy(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    with Client("http://mmad.example.org", retries=0) as client:
        client.labels()
    assert server.asked == ["http://mmad.example.org/labels"]  # type: ignore[attr-defined]
    monkeypatch.setenv("no_proxy", "mmad.example.org")
    with Client("http://mmad.example.org", retries=0) as client, pytest.raises(ServiceError):
        client.labels()
    assert len(server.asked) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("proxy", "words"),
    [("socks5://127.0.0.1:9", r"httpx\[socks\].*NO_PROXY"), ("nonsense://x", "not the address of a proxy")],
)
def test_a_proxy_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch, proxy: str, words: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ServiceError, match=words):
        Client("http://mmad.example.org")


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost", True), ("LOCALHOST.", True), ("a.localhost", True), ("127.0.0.1", True), ("127.8.0.1", True),
        ("::1", True), ("[::1]", True), ("0.0.0.0", True), (socket.gethostname(), True), ("::ffff:127.0.0.1", True),
        ("example.org", False), ("192.0.2.1", False), ("2001:db8::1", False), ("localhost.example.org", False),
    ],
)  # fmt: skip
def test_this_machine_is_known(host: str, here: bool) -> None:
    assert is_this_machine(host) == here


def test_a_service_starts_in_spite_of_proxies(tmp_path: Path) -> None:
    proxies = {"http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9"}
    running = start_service(tmp_path / "data", tmp_path / "log", **proxies)
    try:
        found = subprocess.run(
            [sys.executable, "-m", "mmad", "submit", "/dev/null", "--url", running.url],
            env=os.environ | proxies, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "[empty_upload]" in found.stderr
        log = running.log.read_text()
        assert "/readyz" not in log  # nor does it fill the log with its own questions
        assert "Traceback" not in log
    finally:
        running.stop()


def test_a_client_without_an_address_asks_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMAD_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with Client(retries=0) as client, pytest.raises(ServiceError, match="no service answers"):
        client.labels()
