"""Callers that are slow, broken or of bad will, on raw sockets to a real process: each is told or cut off in time, and
leaves neither a file nor a descriptor."""

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

PATIENCE = {"upload_stall_s": 0.6, "upload_timeout_s": 2, "header_timeout_s": 1}
POST = b"POST /detect HTTP/1.1\r\nHost: 127.0.0.1\r\n"
EDGE = POST + b"Content-Type: multipart/form-data; boundary=e\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("api"), max_connections=20, **PATIENCE) as api:
        yield api


@pytest.fixture
def api(started: Api) -> Iterator[Api]:
    """Afterwards it lives, keeps nothing, and has as many descriptors as before."""
    httpx.get(f"{started.url}/readyz")  # all that is opened once is open
    before, kept = started.descriptors(), {*started.stored(), "probe"}
    yield started
    assert started.process.poll() is None
    wait_for(lambda: started.descriptors() <= before, seconds=20)
    assert set(started.stored()) <= kept
    assert "Traceback" not in started.log.read_text()
    assert httpx.get(f"{started.url}/healthz").json() == {"status": "ok"}


def assert_told(answer: RawResponse, code: str) -> str:
    """A problem document that this code has, and a closed connection."""
    document = json.loads(answer.body)
    assert (document["code"], answer.status) == (code, CATALOGUE[code].status)
    assert "application/problem+json" in answer.headers
    assert "connection: close" in answer.headers
    return str(document["detail"])


def drip(caller: socket.socket, piece: bytes, seconds: float = 20) -> RawResponse:
    """Send a piece now and then, until an answer comes or the connection is closed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if select.select([caller], [], [], 0.1)[0]:
            return read_response(caller)
        try:
            caller.sendall(piece)
        except ConnectionError:
            return read_response(caller)
    raise AssertionError("the connection was kept open")


def test_a_body_that_stalls_is_refused(api: Api) -> None:
    answer = api.exchange(POST + b"Content-Length: 900000\r\n\r\n" + VIDEO)
    assert "MMAD_UPLOAD_STALL_S" in assert_told(answer, "upload_too_slow")


def test_a_body_that_takes_too_long_is_refused(api: Api) -> None:
    with api.connect() as caller:
        caller.sendall(POST + b"Content-Length: 900000\r\n\r\n" + VIDEO)
        answer = drip(caller, b"x")
    assert "MMAD_UPLOAD_TIMEOUT_S" in assert_told(answer, "upload_too_slow")


def test_a_form_that_stalls_amid_a_file_is_refused(api: Api) -> None:
    part = b'--e\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n' + VIDEO
    answer = api.exchange(EDGE + f"{len(part):x}\r\n".encode() + part + b"\r\n")
    assert_told(answer, "upload_too_slow")


def test_a_header_that_does_not_end_is_refused(api: Api) -> None:
    assert "MMAD_HEADER_TIMEOUT_S" in assert_told(api.exchange(b"GET /healthz HTTP/1.1\r\nHo"), "upload_too_slow")
    with api.connect() as caller:
        caller.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        assert_told(drip(caller, b"X-A: b\r\n"), "upload_too_slow")


def test_a_connection_that_says_nothing_is_closed(api: Api) -> None:
    assert api.exchange(b"") == RawResponse(0, "", "")


def test_a_second_header_on_a_connection_has_its_time_too(api: Api) -> None:
    with api.connect() as caller:
        caller.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert caller.recv(65536).startswith(b"HTTP/1.1 200")
        caller.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert_told(read_response(caller), "upload_too_slow")


def test_a_body_may_not_go_on_for_ever_after_its_answer(api: Api) -> None:
    """The answer is given at the first bytes, which are no video's; uvicorn alone would read the rest for ever."""
    with api.connect() as caller:
        caller.sendall(POST + b"Content-Length: 900000\r\n\r\n" + b"text" * 200)
        answered = b""
        while not answered.endswith(b"}"):
            answered += caller.recv(65536)
        assert b" 415 " in answered
        assert drip(caller, b"x").status == 0


def test_an_endless_header_is_refused(api: Api) -> None:
    flood = b"".join(f"X-{number}: {'y' * 500}\r\n".encode() for number in range(2000))
    assert_told(api.exchange(b"GET /healthz HTTP/1.1\r\n" + flood), "malformed_request")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (b'--e\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n1\r\n' * 5000, "more than"),
        (b"--e\r\n" + b"X-A: b\r\n" * 5000, "cannot be told apart"),
        (b"--e\r\nX-A: " + b"b" * 100_000, "cannot be told apart"),
        (b'--e\r\nContent-Disposition: form-data; name="' + b"b" * 100_000, "cannot be told apart"),
    ],
)
def test_a_flood_of_parts_is_refused(api: Api, part: bytes, words: str) -> None:
    answer = api.exchange(EDGE + f"{len(part):x}\r\n".encode() + part + b"\r\n0\r\n\r\n")
    assert (answer.status, json.loads(answer.body)["code"]) == (400, "malformed_upload")
    assert words in json.loads(answer.body)["detail"]


CLOSE = b"Connection: close\r\n"
NONSENSE = [
    ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n", 400),
    ("negative", POST + b"Content-Length: -5\r\n\r\n" + VIDEO, 400),
    ("signed", POST + b"Content-Length: +3024\r\n\r\n" + VIDEO, 400),
    ("in words", POST + b"Content-Length: many\r\n\r\n" + VIDEO, 400),
    ("hexadecimal", POST + b"Content-Length: 0x10\r\n\r\n" + VIDEO, 400),
    ("empty", POST + b"Content-Length:\r\n\r\n" + VIDEO, 400),
    ("with many digits", POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n" + VIDEO, 400),
    ("larger than the limit", POST + b"Content-Length: 99999999999\r\n\r\n" + VIDEO, 413),
    ("doubled", POST + b"Content-Length: 3024\r\nContent-Length: 5\r\n\r\n" + VIDEO, 400),
    ("two in one", POST + b"Content-Length: 3024, 5\r\n\r\n" + VIDEO, 400),
    ("missing", POST + CLOSE + b"\r\n", 400),
    ("with chunks", POST + b"Content-Length: 3024\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("chunks in HTTP/1.0", POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("chunked twice", POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("another coding", POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    ("a chunk of words", POST + b"Transfer-Encoding: chunked\r\n\r\nmany\r\n" + VIDEO, 400),
    ("a negative chunk", POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n" + VIDEO, 400),
    ("a chunk of 2^80", POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 21 + b"\r\n" + VIDEO, 400),
    ("a chunk longer than it says", POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n", 400),
    ("no host", b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    ("two hosts", b"GET /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: x\r\n\r\n", 400),
    ("a space before the colon", POST + b"Content-Length : 5\r\n\r\nabcde", 400),
    ("a folded line", POST + b" X: y\r\nContent-Length: 5\r\n\r\nabcde", 403),  # it belongs to Host
    ("NUL in a header", POST + b"X: a\0b\r\nContent-Length: 5\r\n\r\nabcde", 400),
    ("an upgrade", b"GET /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n", 200),
    ("HTTP/1.0", b"GET /healthz HTTP/1.0\r\n\r\n", 200),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "status"), [case[1:] for case in NONSENSE], ids=[case[0] for case in NONSENSE])
def test_a_request_of_nonsense_is_refused(api: Api, sent: bytes, status: int) -> None:
    answer = api.exchange(sent)
    assert answer.status == status
    if status == 400:
        assert "application/problem+json" in answer.headers
        assert json.loads(answer.body)["code"] in ("malformed_request", "empty_upload")


def test_what_follows_a_refused_request_is_none_of_its_own(api: Api) -> None:
    """Request smuggling: a proxy that counts by Content-Length takes the second request for the first one's body."""
    hidden = b"GET /model HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    answer = api.exchange(POST + b"Content-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden)
    assert_told(answer, "malformed_request")
    assert answer.headers.count("http/1.1 ") == 1
    assert "http/1.1" not in answer.body.lower()


@pytest.mark.parametrize("rudely", [False, True])
def test_an_upload_that_is_broken_off_leaves_nothing(api: Api, rudely: bool) -> None:
    """Closed, and reset."""
    for head in (b"Content-Length: 9000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n"):
        with api.connect() as caller:
            caller.sendall(POST + head + VIDEO)
            wait_for(lambda: any(key.startswith("incoming/") for key in api.stored()), seconds=10)
            if rudely:
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_for(lambda: not any(key.startswith("incoming/") for key in api.stored()), seconds=10)


def test_fewer_bytes_than_declared_make_no_job(api: Api) -> None:
    with api.connect() as caller:
        caller.sendall(POST + b"Content-Length: 3025\r\n\r\n" + VIDEO)
        caller.shutdown(socket.SHUT_WR)
        assert read_response(caller).status in (0, 408)
    assert httpx.get(f"{api.url}/jobs").json()["jobs"] == []


def test_more_connections_than_the_limit_are_told_so(api: Api) -> None:
    with httpx.Client(base_url=api.url) as early:
        early.get("/jobs")
        before = api.sockets()
        idle = [api.connect() for _ in range(30)]
        try:
            wait_for(lambda: api.sockets() >= before + 30, seconds=10)
            answer = api.exchange(b"GET /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert "more than 20 connections" in assert_told(answer, "overloaded")
            assert "retry-after: 2" in answer.headers
            assert "x-request-id" in answer.headers
            assert api.exchange(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").status == 200
            assert early.get("/jobs").status_code == 200  # who was there first is served
        finally:
            for caller in idle:
                caller.close()
    wait_for(lambda: httpx.get(f"{api.url}/jobs").status_code == 200, seconds=10)


def test_a_flood_of_connections_is_cut_off(api: Api) -> None:
    before = api.sockets()
    flood = [api.connect() for _ in range(200)]
    try:
        assert flood[-1].recv(1) == b""
        assert api.sockets() <= before + 20 + 50
    except ConnectionError:  # cut off so
        assert api.sockets() <= before + 20 + 50
    finally:
        for caller in flood:
            caller.close()


def test_a_caller_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    big = VIDEO + bytes(16_000_000)
    with running_api(tmp_path, **PATIENCE) as api:
        sent = httpx.post(f"{api.url}/detect?keep_video=true", content=big).json()
        before = api.descriptors()
        with api.connect(receive_buffer_bytes=4096) as caller:
            caller.sendall(f"GET /jobs/{sent['id']}/video HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            wait_for(lambda: api.descriptors() > before, seconds=10)
            wait_for(lambda: api.descriptors() <= before, seconds=20)
        assert httpx.get(f"{api.url}/jobs/{sent['id']}/video").content == big
        assert api.process.poll() is None
