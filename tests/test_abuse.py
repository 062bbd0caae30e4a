"""Slow, broken and malicious clients on raw sockets: each gets an error or is disconnected in time, and leaves neither
files nor descriptors."""

import json
import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.errors import CATALOGUE
from tests.api_process import Api, RawResponse, read_response, running_api
from tests.conftest import wait_for
from tests.fake_service import VIDEO

TIMEOUTS = {"upload_stall_s": 0.6, "upload_timeout_s": 2, "header_timeout_s": 1}
POST_DETECT = b"POST /detect HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CHUNKED_FORM = POST_DETECT + b"Content-Type: multipart/form-data; boundary=e\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def api_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("api"), max_connections=20, **TIMEOUTS) as api:
        yield api


@pytest.fixture
def api(api_process: Api) -> Iterator[Api]:
    """Check after the test that the API runs and has no additional files or descriptors."""
    httpx.get(f"{api_process.url}/readyz")  # opens what stays open
    before, stored = api_process.descriptors(), {*api_process.stored(), "probe"}
    yield api_process
    assert api_process.process.poll() is None
    wait_for(lambda: api_process.descriptors() <= before, seconds=20)
    assert set(api_process.stored()) <= stored
    assert "Traceback" not in api_process.log.read_text()
    assert httpx.get(f"{api_process.url}/healthz").json() == {"status": "ok"}


def assert_refused(response: RawResponse, code: str) -> str:
    """Check for a problem document with this code and a closed connection; returns its detail."""
    document = json.loads(response.body)
    assert (document["code"], response.status) == (code, CATALOGUE[code].status)
    assert "application/problem+json" in response.headers
    assert "connection: close" in response.headers
    return str(document["detail"])


def drip(caller: socket.socket, chunk: bytes, seconds: float = 20) -> RawResponse:
    """Send a chunk every 0.1 s until there is a response or the connection is closed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if select.select([caller], [], [], 0.1)[0]:
            return read_response(caller)
        try:
            caller.sendall(chunk)
        except ConnectionError:
            return read_response(caller)
    raise AssertionError("the connection stays open")


def test_stalled_body_is_refused(api: Api) -> None:
    response = api.exchange(POST_DETECT + b"Content-Length: 900000\r\n\r\n" + VIDEO)
    assert "MMAD_UPLOAD_STALL_S" in assert_refused(response, "upload_too_slow")


def test_slow_body_is_refused(api: Api) -> None:
    with api.connect() as caller:
        caller.sendall(POST_DETECT + b"Content-Length: 900000\r\n\r\n" + VIDEO)
        response = drip(caller, b"x")
    assert "MMAD_UPLOAD_TIMEOUT_S" in assert_refused(response, "upload_too_slow")


def test_stalled_file_in_form_is_refused(api: Api) -> None:
    part = b'--e\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n' + VIDEO
    response = api.exchange(CHUNKED_FORM + f"{len(part):x}\r\n".encode() + part + b"\r\n")
    assert_refused(response, "upload_too_slow")


def test_incomplete_header_is_refused(api: Api) -> None:
    assert "MMAD_HEADER_TIMEOUT_S" in assert_refused(api.exchange(b"GET /healthz HTTP/1.1\r\nHo"), "upload_too_slow")
    with api.connect() as caller:
        caller.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        assert_refused(drip(caller, b"X-A: b\r\n"), "upload_too_slow")


def test_silent_connection_is_closed(api: Api) -> None:
    assert api.exchange(b"") == RawResponse(0, "", "")


def test_header_timeout_applies_to_second_request(api: Api) -> None:
    with api.connect() as caller:
        caller.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert caller.recv(65536).startswith(b"HTTP/1.1 200")
        caller.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert_refused(read_response(caller), "upload_too_slow")


def test_endless_body_after_response_is_cut_off(api: Api) -> None:
    """The first bytes are no video, so the response is immediate; uvicorn alone would read the rest."""
    with api.connect() as caller:
        caller.sendall(POST_DETECT + b"Content-Length: 900000\r\n\r\n" + b"text" * 200)
        received = b""
        while not received.endswith(b"}"):
            received += caller.recv(65536)
        assert b" 415 " in received
        assert drip(caller, b"x").status == 0


def test_oversized_header_is_refused(api: Api) -> None:
    flood = b"".join(f"X-{number}: {'y' * 500}\r\n".encode() for number in range(2000))
    assert_refused(api.exchange(b"GET /healthz HTTP/1.1\r\n" + flood), "malformed_request")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (b'--e\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n1\r\n' * 5000, "more than"),
        (b"--e\r\n" + b"X-A: b\r\n" * 5000, "cannot be told apart"),
        (b"--e\r\nX-A: " + b"b" * 100_000, "cannot be told apart"),
        (b'--e\r\nContent-Disposition: form-data; name="' + b"b" * 100_000, "cannot be told apart"),
    ],
)
def test_oversized_form_parts_are_refused(api: Api, part: bytes, message: str) -> None:
    response = api.exchange(CHUNKED_FORM + f"{len(part):x}\r\n".encode() + part + b"\r\n0\r\n\r\n")
    assert (response.status, json.loads(response.body)["code"]) == (400, "malformed_upload")
    assert message in json.loads(response.body)["detail"]


CLOSE = b"Connection: close\r\n"
MALFORMED_REQUESTS = [
    ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n", 400),
    ("negative", POST_DETECT + b"Content-Length: -5\r\n\r\n" + VIDEO, 400),
    ("signed", POST_DETECT + b"Content-Length: +3024\r\n\r\n" + VIDEO, 400),
    ("in words", POST_DETECT + b"Content-Length: many\r\n\r\n" + VIDEO, 400),
    ("hexadecimal", POST_DETECT + b"Content-Length: 0x10\r\n\r\n" + VIDEO, 400),
    ("empty", POST_DETECT + b"Content-Length:\r\n\r\n" + VIDEO, 400),
    ("with many digits", POST_DETECT + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n" + VIDEO, 400),
    ("larger than the limit", POST_DETECT + b"Content-Length: 99999999999\r\n\r\n" + VIDEO, 413),
    ("doubled", POST_DETECT + b"Content-Length: 3024\r\nContent-Length: 5\r\n\r\n" + VIDEO, 400),
    ("two in one", POST_DETECT + b"Content-Length: 3024, 5\r\n\r\n" + VIDEO, 400),
    ("missing", POST_DETECT + CLOSE + b"\r\n", 400),
    ("with chunks", POST_DETECT + b"Content-Length: 3024\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("chunks in HTTP/1.0", POST_DETECT.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("chunked twice", POST_DETECT + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("another coding", POST_DETECT + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    ("a chunk of words", POST_DETECT + b"Transfer-Encoding: chunked\r\n\r\nmany\r\n" + VIDEO, 400),
    ("a negative chunk", POST_DETECT + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n" + VIDEO, 400),
    ("a chunk of 2^80", POST_DETECT + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 21 + b"\r\n" + VIDEO, 400),
    ("a chunk longer than it says", POST_DETECT + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n", 400),
    ("no host", b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    ("two hosts", b"GET /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: x\r\n\r\n", 400),
    ("a space before the colon", POST_DETECT + b"Content-Length : 5\r\n\r\nabcde", 400),
    ("a folded line", POST_DETECT + b" X: y\r\nContent-Length: 5\r\n\r\nabcde", 403),  # it belongs to Host
    ("NUL in a header", POST_DETECT + b"X: a\0b\r\nContent-Length: 5\r\n\r\nabcde", 400),
    ("an upgrade", b"GET /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n", 200),
    ("HTTP/1.0", b"GET /healthz HTTP/1.0\r\n\r\n", 200),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sent", "status"), [case[1:] for case in MALFORMED_REQUESTS], ids=[case[0] for case in MALFORMED_REQUESTS]
)
def test_malformed_request_is_refused(api: Api, sent: bytes, status: int) -> None:
    response = api.exchange(sent)
    assert response.status == status
    if status == 400:
        assert "application/problem+json" in response.headers
        assert json.loads(response.body)["code"] in ("malformed_request", "empty_upload")


def test_smuggled_request_is_not_processed(api: Api) -> None:
    """A proxy that uses Content-Length takes the second request for the body of the first."""
    hidden = b"GET /model HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    response = api.exchange(POST_DETECT + b"Content-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden)
    assert_refused(response, "malformed_request")
    assert response.headers.count("http/1.1 ") == 1
    assert "http/1.1" not in response.body.lower()


@pytest.mark.parametrize("reset", [False, True])
def test_aborted_upload_leaves_no_files(api: Api, reset: bool) -> None:
    """The connection is closed or reset."""
    for head in (b"Content-Length: 9000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n"):
        with api.connect() as caller:
            caller.sendall(POST_DETECT + head + VIDEO)
            wait_for(lambda: any(key.startswith("incoming/") for key in api.stored()), seconds=10)
            if reset:
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_for(lambda: not any(key.startswith("incoming/") for key in api.stored()), seconds=10)
    assert httpx.get(f"{api.url}/jobs").json()["jobs"] == []


def test_short_body_creates_no_job(api: Api) -> None:
    with api.connect() as caller:
        caller.sendall(POST_DETECT + b"Content-Length: 3025\r\n\r\n" + VIDEO)
        caller.shutdown(socket.SHUT_WR)
        assert read_response(caller).status in (0, 408)
    assert httpx.get(f"{api.url}/jobs").json()["jobs"] == []


def test_connections_above_limit_are_refused(api: Api) -> None:
    with httpx.Client(base_url=api.url) as early:
        early.get("/jobs")
        before = api.sockets()
        idle = [api.connect() for _ in range(30)]
        try:
            wait_for(lambda: api.sockets() >= before + 30, seconds=10)
            response = api.exchange(b"GET /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert "more than 20 connections" in assert_refused(response, "overloaded")
            assert "retry-after: 2" in response.headers
            assert "x-request-id" in response.headers
            assert api.exchange(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").status == 200
            assert early.get("/jobs").status_code == 200  # existing connections are served
        finally:
            for caller in idle:
                caller.close()
    wait_for(lambda: httpx.get(f"{api.url}/jobs").status_code == 200, seconds=10)


def test_connection_flood_is_cut_off(api: Api) -> None:
    before = api.sockets()
    flood = [api.connect() for _ in range(200)]
    try:
        assert flood[-1].recv(1) == b""
        assert api.sockets() <= before + 20 + 50
    except ConnectionError:  # also cut off
        assert api.sockets() <= before + 20 + 50
    finally:
        for caller in flood:
            caller.close()


def test_client_that_does_not_read_is_disconnected(tmp_path: Path) -> None:
    big = VIDEO + bytes(16_000_000)
    with running_api(tmp_path, **TIMEOUTS) as api:
        sent = httpx.post(f"{api.url}/detect?keep_video=true", content=big).json()
        before = api.descriptors()
        with api.connect(receive_buffer_bytes=4096) as caller:
            caller.sendall(f"GET /jobs/{sent['id']}/video HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            wait_for(lambda: api.descriptors() > before, seconds=10)
            wait_for(lambda: api.descriptors() <= before, seconds=20)
        assert httpx.get(f"{api.url}/jobs/{sent['id']}/video").content == big
        assert api.process.poll() is None
