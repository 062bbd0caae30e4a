"""Where messages may go: public addresses only, checked when it connects; answers bounded in time and size."""

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path

import httpcore
import httpx
import pytest

from service.egress_guard import GuardedClient, PostResult, check, is_public
from service.errors import Problem
from tests.webhook_receiver import Receiver, run_receiver

PUBLIC = "93.184.215.14"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with run_receiver() as made:
        yield made


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
def test_private_addresses_are_refused_at_once_unless_allowed(url: str) -> None:
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
def test_what_no_message_can_be_sent_to_is_refused(url: str, allow_private: bool) -> None:
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
def test_public_addresses_and_names_pass(url: str) -> None:
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
def test_addresses_that_are_not_public(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
)
def test_addresses_that_are_public(text: str) -> None:
    assert is_public(ip_address(text))


class Detour(httpcore.NetworkBackend):
    """Notes where connections would go, and brings them to a receiver of this machine, or nowhere."""

    def __init__(self, receiver: Receiver | None = None, silent: Iterable[str] = ()) -> None:
        self.went_to: list[str] = []
        self._receiver, self._silent = receiver, frozenset(silent)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        self.went_to.append(host)
        if self._receiver is None or host in self._silent:
            raise httpcore.ConnectError("nobody there")
        return httpcore.SyncBackend().connect_tcp("127.0.0.1", self._receiver.port, timeout)


def resolving(*answers: list[str]) -> Callable[[str, int], list[str]]:
    laid_down = iter(answers)
    return lambda _host, _port: next(laid_down)


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def test_a_name_that_is_bound_anew_never_leads_inside(tls: ssl.SSLContext, receiver: Receiver) -> None:
    detour = Detour(receiver)
    sender = GuardedClient(tls, resolve=resolving([PUBLIC], ["127.0.0.1"]), network=detour)
    assert sender.post("http://hooks.example.org/", {}, b"{}") == PostResult(204)
    assert detour.went_to == [PUBLIC]  # the address that was checked, not the name
    assert receiver.deliveries[0][1]["Host"] == "hooks.example.org"
    assert sender.post("http://hooks.example.org/", {}, b"{}") == PostResult(error="address_refused")
    assert detour.went_to == [PUBLIC]


@pytest.mark.parametrize("found", [["10.0.0.1"], [PUBLIC, "10.0.0.1"], ["::ffff:10.0.0.1"], ["fe80::1%eth0"]])
def test_one_private_address_is_enough_to_refuse_a_name(tls: ssl.SSLContext, found: list[str]) -> None:
    detour = Detour()
    sender = GuardedClient(tls, resolve=resolving(found), network=detour)
    assert sender.post("https://hooks.example.org/", {}, b"{}") == PostResult(error="address_refused")
    assert detour.went_to == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0177.0.0.1", "127.1", "0.0.0.0", "[::ffff:127.0.0.1]", "[::1]"]
)
def test_no_form_of_this_machine_is_connected_to_unless_allowed(
    tls: ssl.SSLContext, receiver: Receiver, host: str
) -> None:
    url = f"http://{host}:{receiver.port}/"
    assert GuardedClient(tls).post(url, {}, b"{}") == PostResult(error="address_refused")
    assert receiver.deliveries == []
    if host != "[::1]":  # the receiver listens on IPv4 only
        assert GuardedClient(tls, allow_private=True).post(url, {}, b"{}") == PostResult(204)
        assert receiver.deliveries[0][1]["Host"] == f"{host}:{receiver.port}"


def test_the_next_address_is_taken_where_one_is_silent(tls: ssl.SSLContext, receiver: Receiver) -> None:
    detour = Detour(receiver, silent=["2606:4700::1111"])
    sender = GuardedClient(tls, resolve=resolving(["2606:4700::1111", PUBLIC]), network=detour)
    assert sender.post("http://hooks.example.org/", {}, b"{}") == PostResult(204)
    assert detour.went_to == ["2606:4700::1111", PUBLIC]


def test_names_that_lead_nowhere(tls: ssl.SSLContext) -> None:
    def nowhere(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    for resolve in (nowhere, resolving([])):
        assert GuardedClient(tls, resolve=resolve).post("http://a.example.org/", {}, b"{}") == PostResult(
            error="name_not_found"
        )
    too_long = f"http://{'a' * 64}.example.org/"
    assert GuardedClient(tls).post(too_long, {}, b"{}") == PostResult(error="name_not_found")


def test_a_resolver_that_does_not_answer_is_bounded(tls: ssl.SSLContext) -> None:
    answered = threading.Event()

    def hangs(host: str, port: int) -> list[str]:
        answered.wait(60)
        return [PUBLIC]

    sender = GuardedClient(tls, timeout_s=0.05, resolve=hangs)
    assert sender.post("http://a.example.org/", {}, b"{}") == PostResult(error="timeout")
    answered.set()


def test_an_answer_that_drips_is_bounded(tls: ssl.SSLContext, receiver: Receiver) -> None:
    gone = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        try:
            while True:  # as long as somebody listens
                handler.wfile.write(b"X-Slow: 1\r\n")
                gone.wait(0.01)
        except OSError:
            gone.set()

    receiver.respond = drip
    sender = GuardedClient(tls, allow_private=True, timeout_s=0.3)
    assert sender.post(receiver.url, {}, b"{}") == PostResult(error="timeout")
    assert gone.wait(30)


@pytest.mark.parametrize("pause_s", [0.01, 0.0])
def test_the_status_counts_however_long_the_body(tls: ssl.SSLContext, receiver: Receiver, pause_s: float) -> None:
    gone = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                handler.wfile.write(b"1\r\nx\r\n")
                gone.wait(pause_s)
        except OSError:
            gone.set()

    receiver.respond = drip
    sender = GuardedClient(tls, allow_private=True, timeout_s=0.3 if pause_s else 60)
    assert sender.post(receiver.url, {}, b"{}") == PostResult(200)
    assert gone.wait(30)


@pytest.mark.parametrize(("answer", "error"), [(b"SSH-2.0-OpenSSH\r\n\r\n", "protocol_error"), (b"", "protocol_error")])
def test_what_is_no_http_has_a_word(tls: ssl.SSLContext, receiver: Receiver, answer: bytes, error: str) -> None:
    def say(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(answer)

    receiver.respond = say
    assert GuardedClient(tls, allow_private=True).post(receiver.url, {}, b"{}") == PostResult(error=error)


@pytest.fixture
def certified(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context for hooks.example.org, and a client's that trusts it."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    paths = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=hooks.example.org", "-addext", "subjectAltName=DNS:hooks.example.org"]
    subprocess.run([*command, "-keyout", str(paths[0]), "-out", str(paths[1])], check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(paths[1], paths[0])
    return server, ssl.create_default_context(cafile=str(paths[1]))


def test_certificates_are_verified_against_the_name(
    tls: ssl.SSLContext, certified: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    server, client = certified
    named: list[str] = []
    server.sni_callback = lambda _socket, name, _context: named.append(name)
    with run_receiver(server) as receiver:
        receiver.server.handle_error = lambda *_: None  # type: ignore[method-assign]

        def post(context: ssl.SSLContext, url: str) -> PostResult:
            sender = GuardedClient(context, resolve=resolving([PUBLIC]), network=Detour(receiver))
            return sender.post(url, {}, b"{}")

        assert post(client, "https://hooks.example.org/") == PostResult(204)
        assert named == ["hooks.example.org"]
        assert post(client, "https://other.example.org/") == PostResult(error="tls_failed")
        assert post(tls, "https://hooks.example.org/") == PostResult(error="tls_failed")
        assert len(receiver.deliveries) == 1


def test_an_answer_that_drips_is_bounded_under_tls_too(certified: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = certified
    gone = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        try:
            while not gone.wait(0.01):
                handler.wfile.write(b"X-Slow: 1\r\n")
        except OSError:
            gone.set()

    with run_receiver(server) as receiver:
        receiver.respond = drip
        sender = GuardedClient(client, timeout_s=2, resolve=resolving([PUBLIC]), network=Detour(receiver))
        try:
            assert sender.post("https://hooks.example.org/", {}, b"{}") == PostResult(error="timeout")
            assert gone.wait(30)
        finally:
            gone.set()
        assert len(receiver.deliveries) == 1
