"""Egress guard: only public addresses, checked on connection; responses are limited in time and size."""

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path

import httpcore
import httpx
import pytest

from service.egress_guard import GuardedClient, PostResult, check, is_public
from service.errors import Problem
from tests.webhooks.receiver import Receiver, run_receiver

PUBLIC = "93.184.215.14"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.255.0.7:9000/",
        "http://10.1.2.3/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://100.64.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://168.63.129.16/",
        "http://0.0.0.0/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://[::1]/",
        "http://[::]/",
        "http://[fe80::1]/",
        "http://[fe80::1%25eth0]/",
        "http://[fc00::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://0x7f.0.0.1/",
        "http://127.1/",
        "http://localhost/",
        "http://localhost./",
        "http://LOCALHOST:8000/",
        "http://a.localhost/",
    ],
)
def test_private_callback_url_is_refused_unless_allowed(url: str) -> None:
    with pytest.raises(Problem, match="MMAD_WEBHOOK_ALLOW_PRIVATE") as caught:
        check(url, allow_private=False)
    assert caught.value.code == "callback_refused"
    check(url, allow_private=True)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/",
        "file:///etc/passwd",
        "example.org/hook",
        "https:///hook",
        "https://user:word@example.org/",
        "https://example.org@127.0.0.1/",
        "https://example.org\\@127.0.0.1/",
        "https://example.org/#part",
        "https://example.org:0/",
        "https://example.org:99999/",
        "https://[::1/",
        "https://exam\nple.org/",
        "https://example.org/ü",
        "https://example.org/" + "a" * 2000,
    ],
)
@pytest.mark.parametrize("allow_private", [False, True])
def test_invalid_callback_url_is_refused(url: str, allow_private: bool) -> None:
    with pytest.raises(Problem) as caught:
        check(url, allow_private=allow_private)
    assert caught.value.code == "callback_refused"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/hook?token=x",
        "http://example.org:8080",
        f"https://{PUBLIC}/",
        "https://[2606:4700::1111]/",
        "https://localhost.example.org/",
    ],
)
def test_public_callback_url_is_accepted(url: str) -> None:
    check(url, allow_private=False)


@pytest.mark.parametrize(
    "text",
    [
        "192.0.0.192",
        "192.88.99.1",
        "198.18.0.1",
        "203.0.113.1",
        "240.0.0.1",
        "239.1.1.1",
        "ff02::1",
        "ff0e::1",
        "fec0::1",
        "::127.0.0.1",
        "::ffff:0:7f00:1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "64:ff9b:1::808:808",
        "2002:a9fe:a9fe::",
        "2001::1",
        "2001:db8::1",
        "3fff::1",
        "fd00:ec2::254",
        "5f00::1",
        "100::1",
        "fe80::1%eth0",
    ],
)
def test_address_is_not_public(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
)
def test_address_is_public(text: str) -> None:
    assert is_public(ip_address(text))


class RecordingNetwork(httpcore.NetworkBackend):
    """Records the hosts of connections and connects to a local receiver, or fails."""

    def __init__(self, receiver: Receiver | None = None, unreachable: Iterable[str] = ()) -> None:
        self.hosts: list[str] = []
        self._receiver, self._silent = receiver, frozenset(unreachable)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        self.hosts.append(host)
        if self._receiver is None or host in self._silent:
            raise httpcore.ConnectError("unreachable")
        return httpcore.SyncBackend().connect_tcp("127.0.0.1", self._receiver.port, timeout)


def scripted_resolver(*results: list[str]) -> Callable[[str, int], list[str]]:
    remaining = iter(results)
    return lambda _host, _port: next(remaining)


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def test_dns_rebinding_to_private_address_is_refused(tls: ssl.SSLContext, receiver: Receiver) -> None:
    network = RecordingNetwork(receiver)
    sender = GuardedClient(tls, resolve=scripted_resolver([PUBLIC], ["127.0.0.1"]), network=network)
    assert sender.post("http://hooks.example.org/", {}, b"{}") == PostResult(204)
    assert network.hosts == [PUBLIC]  # the address that was checked, not the name
    assert receiver.deliveries[0][1]["Host"] == "hooks.example.org"
    assert sender.post("http://hooks.example.org/", {}, b"{}") == PostResult(error="address_refused")
    assert network.hosts == [PUBLIC]


@pytest.mark.parametrize("addresses", [["10.0.0.1"], [PUBLIC, "10.0.0.1"], ["::ffff:10.0.0.1"], ["fe80::1%eth0"]])
def test_name_with_any_private_address_is_refused(tls: ssl.SSLContext, addresses: list[str]) -> None:
    network = RecordingNetwork()
    sender = GuardedClient(tls, resolve=scripted_resolver(addresses), network=network)
    assert sender.post("https://hooks.example.org/", {}, b"{}") == PostResult(error="address_refused")
    assert network.hosts == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0177.0.0.1", "127.1", "0.0.0.0", "[::ffff:127.0.0.1]", "[::1]"]
)
def test_loopback_is_refused_in_every_notation_unless_allowed(
    tls: ssl.SSLContext, receiver: Receiver, host: str
) -> None:
    url = f"http://{host}:{receiver.port}/"
    assert GuardedClient(tls).post(url, {}, b"{}") == PostResult(error="address_refused")
    assert receiver.deliveries == []
    if host != "[::1]":  # the receiver listens on IPv4 only
        assert GuardedClient(tls, allow_private=True).post(url, {}, b"{}") == PostResult(204)
        assert receiver.deliveries[0][1]["Host"] == f"{host}:{receiver.port}"


def test_next_address_is_used_if_one_is_unreachable(tls: ssl.SSLContext, receiver: Receiver) -> None:
    network = RecordingNetwork(receiver, unreachable=["2606:4700::1111"])
    sender = GuardedClient(tls, resolve=scripted_resolver(["2606:4700::1111", PUBLIC]), network=network)
    assert sender.post("http://hooks.example.org/", {}, b"{}") == PostResult(204)
    assert network.hosts == ["2606:4700::1111", PUBLIC]


def test_unresolvable_name_reports_name_not_found(tls: ssl.SSLContext) -> None:
    def fail_to_resolve(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    for resolve in (fail_to_resolve, scripted_resolver([])):
        assert GuardedClient(tls, resolve=resolve).post("http://a.example.org/", {}, b"{}") == PostResult(
            error="name_not_found"
        )
    too_long = f"http://{'a' * 64}.example.org/"
    assert GuardedClient(tls).post(too_long, {}, b"{}") == PostResult(error="name_not_found")


def test_hanging_resolver_times_out(tls: ssl.SSLContext) -> None:
    released = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        released.wait(60)
        return [PUBLIC]

    sender = GuardedClient(tls, timeout_s=0.05, resolve=hang)
    assert sender.post("http://a.example.org/", {}, b"{}") == PostResult(error="timeout")
    released.set()


def drip(start: bytes, chunk: bytes, pause_s: float, disconnected: threading.Event) -> Callable[..., None]:
    """Return a handler that sends `chunk` over and over, until the client disconnects."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(start)
        try:
            while not disconnected.wait(pause_s):
                handler.wfile.write(chunk)
        except OSError:
            disconnected.set()

    return respond


def test_slow_response_header_times_out(tls: ssl.SSLContext, receiver: Receiver) -> None:
    disconnected = threading.Event()

    receiver.respond = drip(b"HTTP/1.1 200 OK\r\n", b"X-Slow: 1\r\n", 0.01, disconnected)
    sender = GuardedClient(tls, allow_private=True, timeout_s=0.3)
    assert sender.post(receiver.url, {}, b"{}") == PostResult(error="timeout")
    assert disconnected.wait(30)


@pytest.mark.parametrize("pause_s", [0.01, 0.0])
def test_status_is_returned_for_endless_body(tls: ssl.SSLContext, receiver: Receiver, pause_s: float) -> None:
    disconnected = threading.Event()

    receiver.respond = drip(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", pause_s, disconnected
    )
    sender = GuardedClient(tls, allow_private=True, timeout_s=0.3 if pause_s else 60)
    assert sender.post(receiver.url, {}, b"{}") == PostResult(200)
    assert disconnected.wait(30)


@pytest.mark.parametrize(
    ("response", "error"), [(b"SSH-2.0-OpenSSH\r\n\r\n", "protocol_error"), (b"", "protocol_error")]
)
def test_non_http_response_reports_protocol_error(
    tls: ssl.SSLContext, receiver: Receiver, response: bytes, error: str
) -> None:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(response)

    receiver.respond = respond
    assert GuardedClient(tls, allow_private=True).post(receiver.url, {}, b"{}") == PostResult(error=error)


@pytest.fixture
def tls_contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server context for hooks.example.org and a client context that trusts it."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    paths = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=hooks.example.org", "-addext", "subjectAltName=DNS:hooks.example.org"]
    subprocess.run([*command, "-keyout", str(paths[0]), "-out", str(paths[1])], check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(paths[1], paths[0])
    return server, ssl.create_default_context(cafile=str(paths[1]))


def test_certificate_is_verified_against_host_name(
    tls: ssl.SSLContext, tls_contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    server, client = tls_contexts
    sni_names: list[str] = []
    server.sni_callback = lambda _socket, name, _context: sni_names.append(name)
    with run_receiver(server) as receiver:
        receiver.server.handle_error = lambda *_: None  # type: ignore[method-assign]

        def post(context: ssl.SSLContext, url: str) -> PostResult:
            sender = GuardedClient(context, resolve=scripted_resolver([PUBLIC]), network=RecordingNetwork(receiver))
            return sender.post(url, {}, b"{}")

        assert post(client, "https://hooks.example.org/") == PostResult(204)
        assert sni_names == ["hooks.example.org"]
        assert post(client, "https://other.example.org/") == PostResult(error="tls_failed")
        assert post(tls, "https://hooks.example.org/") == PostResult(error="tls_failed")
        assert len(receiver.deliveries) == 1


def test_slow_tls_response_header_times_out(tls_contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = tls_contexts
    disconnected = threading.Event()

    with run_receiver(server) as receiver:
        receiver.respond = drip(b"HTTP/1.1 200 OK\r\n", b"X-Slow: 1\r\n", 0.01, disconnected)
        sender = GuardedClient(
            client, timeout_s=2, resolve=scripted_resolver([PUBLIC]), network=RecordingNetwork(receiver)
        )
        try:
            assert sender.post("https://hooks.example.org/", {}, b"{}") == PostResult(error="timeout")
            assert disconnected.wait(30)
        finally:
            disconnected.set()
        assert len(receiver.deliveries) == 1
