"""Both clients, sync and async, against a service that says what a test wants, and against the live one."""

import inspect
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mmad import models
from mmad.async_client import AsyncClient
from mmad.client import Client, Event, EventsUnavailable, JobCanceled, JobFailed, NotFound, ServiceError, Unreachable
from mmad.endpoints import ExportFilters, JobFilters, ResultFilters, SubmitOptions
from mmad.errors import RetryDelays
from mmad.models import AnswerError, Job, Json, parse
from mmad.sse import EventStream
from service import job_schemas, listing, schemas
from tests import clips
from tests.conftest import Service

Handler = Callable[[httpx.Request], httpx.Response]
LINKS = {name: f"/jobs/j1/{name}" for name in ("self", "result", "export", "events", "cancel")}
NOW = "2026-01-02T03:04:05Z"


def job(state: str = "running", progress: float = 0.5, **more: Any) -> Json:
    return {
        "id": "j1", "state": state, "stage": None, "progress": progress, "attempt": 1,
        "changes": [{"state": "queued", "at": NOW}], "links": LINKS, **more,
    }  # fmt: skip


def answer(document: Json, status: int = 200, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=document, headers=headers)


def problem(code: str, status: int, **headers: str) -> httpx.Response:
    return answer({"code": code, "detail": f"the detail of {code}", "status": status}, status, **headers)


def stream(*pieces: bytes, kind: str = "text/event-stream; charset=utf-8") -> httpx.Response:
    """Pieces as they come from the network; an exception among them is the connection's end."""
    return httpx.Response(200, stream=Pieces(pieces), headers={"Content-Type": kind})


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __init__(self, pieces: tuple[bytes | Exception, ...]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def __aiter__(self) -> Any:
        for piece in self:
            yield piece


def event(number: int, document: Json, kind: str = "progress") -> bytes:
    return f"id: {number}.0\nevent: {kind}\ndata: {json.dumps(document)}\n\n".encode()


def afresh(response: httpx.Response) -> httpx.Response:
    """The same answer once more: one that was read or closed cannot be given again."""
    if isinstance(response.stream, Pieces):
        return httpx.Response(response.status_code, headers=response.headers, stream=response.stream)
    return httpx.Response(response.status_code, headers=response.headers, content=response.content)


class Script:
    """A service that answers with what is next in a list, and keeps what it was asked."""

    def __init__(self, *steps: httpx.Response | Exception) -> None:
        self.steps = list(steps)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return afresh(step)

    @property
    def paths(self) -> list[str]:
        return [request.url.path for request in self.asked]


class Awaited:
    """The async client with the methods of the other, so that one test is for both."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            async def run() -> Any:
                found = getattr(self._client, name)(*arguments, **named)
                return [one async for one in found] if hasattr(found, "__aiter__") else await found

            return anyio.run(run)

        return call


Make = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """A client of either kind for a handler."""
    made: list[Client] = []

    def sync(handler: Handler, **options: Any) -> Client:
        made.append(Client("http://mmad.test", transport=httpx.MockTransport(handler), **options))
        return made[-1]

    def asynchronous(handler: Handler, **options: Any) -> Awaited:
        transport = httpx.MockTransport(handler)
        return Awaited(AsyncClient("http://mmad.test", transport=transport, **options))

    yield sync if request.param == "sync" else asynchronous
    for client in made:
        client.close()


@pytest.fixture(autouse=True)
def slept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody waits here but in tests of the live service: the seconds are written down."""
    seconds: list[float] = []
    if "service" in request.fixturenames:
        return seconds

    async def sleep(delay_s: float) -> None:
        seconds.append(delay_s)

    monkeypatch.setattr("mmad.client.time.sleep", seconds.append)
    monkeypatch.setattr("mmad.async_client.anyio.sleep", sleep)
    return seconds


# The answers


def test_a_document_is_read_and_kept() -> None:
    document = job("failed", error={"code": "job_timeout", "detail": "too long"}, expires_at=NOW, tag="a", news=[1])
    read = parse(Job, json.dumps(document))
    assert read.error == models.JobError(code="job_timeout", detail="too long")
    assert read.expires_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (read.tag, read.batch, read.queue_position) == ("a", None, None)
    assert read.links.self == "/jobs/j1/self"
    assert read.ended
    assert read.document["news"] == [1]
    assert read.changes[0].document == {"state": "queued", "at": NOW}
    assert type(parse(Job, json.dumps(job(progress=1))).progress) is float


def test_values_of_a_newer_service_are_accepted() -> None:
    changes = [{"state": "paused", "at": NOW, "why": "maintenance"}]
    read = parse(Job, json.dumps(job("paused", stage="resting", changes=changes)))
    assert (read.state, read.stage, read.changes[0].why, read.ended) == ("paused", "resting", "maintenance", False)
    with pytest.raises(ValidationError):  # the service itself knows all states
        Job.model_validate(job("paused"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": None}, "Job.id"),
        ({"attempt": "1"}, "Job.attempt: Input should be a valid integer"),
        ({"attempt": True}, "Job.attempt"),
        ({"progress": "half"}, "Job.progress"),
        ({"changes": [{"state": "queued", "at": "noon"}]}, "Job.changes.0.at"),
        ({"changes": {}}, "Job.changes"),
        ({"links": [1]}, "Job.links: Input should be an object"),
    ],
)
def test_what_does_not_fit_is_named(change: Json, words: str) -> None:
    with pytest.raises(AnswerError, match=words):
        parse(Job, json.dumps(job(**change)))
    missing = {name: value for name, value in job().items() if name not in change}
    with pytest.raises(AnswerError):
        parse(Job, json.dumps(missing))


# Requests


def test_requests_are_as_the_service_takes_them(make: Make) -> None:
    accepted = {"id": "j1", "state": "queued", "links": LINKS}
    script = Script(answer(accepted, 202), answer(job()), answer(accepted, 202))
    client = make(script, api_key="mmad_secret")
    sent = client.submit(
        b"video", min_score=0, labels=["B1", "F"], region=(0.25, 0, 0.5, 1), keep_video=False,
        callback_url="https://x.test/?a=1&b", retention_s=60, tag="día", top_k=None, idempotency_key="mine",
    )  # fmt: skip
    assert (sent.id, sent.state, sent.links.result) == ("j1", "queued", "/jobs/j1/result")
    first = script.asked[0]
    assert first.method == "POST"
    assert dict(first.url.params) == {
        "min_score": "0", "labels": "B1,F", "region": "0.25,0,0.5,1", "keep_video": "false",
        "callback_url": "https://x.test/?a=1&b", "retention_s": "60", "tag": "día",
    }  # fmt: skip
    assert first.headers["Idempotency-Key"] == "mine"
    assert first.headers["Authorization"] == "Bearer mmad_secret"
    assert b'name="file"\r\n' in first.content  # bytes have no name
    client.job("../model")
    assert script.asked[1].url.raw_path == b"/jobs/..%2Fmodel"
    client.submit(b"video")
    assert len(script.asked[2].headers["Idempotency-Key"]) == 36


def test_jobs_are_followed_from_page_to_page(make: Make) -> None:
    script = Script(
        answer({"jobs": [job(), job()], "next": "c1"}),
        answer({"jobs": [], "next": "c2"}),
        answer({"jobs": [job("failed")], "next": None}),
    )
    zone = datetime(2026, 1, 1, tzinfo=UTC)
    found = list(make(script).jobs(state="failed", since=zone, until=datetime(2026, 1, 2), tag=None))
    assert [one.state for one in found] == ["running", "running", "failed"]
    first, second, third = (dict(request.url.params) for request in script.asked)
    assert datetime.fromisoformat(first.pop("until")) == datetime(2026, 1, 2).astimezone()
    assert first == {"state": "failed", "since": "2026-01-01T00:00:00+00:00", "limit": "100"}
    assert (second["cursor"], third["cursor"], second["state"]) == ("c1", "c2", "failed")


def test_pages_are_asked_for_as_they_are_taken() -> None:
    script = Script(answer({"jobs": [job()], "next": "c1"}))
    with Client("http://mmad.test", transport=httpx.MockTransport(script)) as client:
        next(client.jobs())
    assert len(script.asked) == 1


def test_a_batch_has_two_videos_or_more(make: Make, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"one")
    accepted = {"id": "j1", "state": "queued", "links": LINKS}
    script = Script(answer({"batch": "b", "jobs": [accepted, accepted], "links": {"jobs": "/jobs?batch=b"}}, 202))
    batch = make(script).submit_many([tmp_path / "one", b"two"], tag="x")
    assert (batch.batch, len(batch.jobs)) == ("b", 2)
    assert script.asked[0].content.count(b'name="file"') == 2
    assert script.asked[0].content.index(b"one") < script.asked[0].content.index(b"two")
    with pytest.raises(ValueError, match="use submit for one"):
        make(script).submit_many([b"one"])


def test_the_environment_says_where_and_who(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMAD_URL", "http://elsewhere.test/below/")
    monkeypatch.setenv("MMAD_API_KEY", "mmad_env")
    script = Script(answer(job()))
    with Client(transport=httpx.MockTransport(script)) as client:
        client.job("j1")
    assert str(script.asked[0].url) == "http://elsewhere.test/below/jobs/j1"
    assert script.asked[0].headers["Authorization"] == "Bearer mmad_env"
    with (
        Client(
            "http://me:hidden@x.test", transport=httpx.MockTransport(Script(httpx.ConnectError("no"))), retries=0
        ) as client,
        pytest.raises(Unreachable) as caught,
    ):
        client.job("j1")
    assert "hidden" not in str(caught.value)
    with pytest.raises(ServiceError, match="is no address"):
        Client("http://x:y")


@pytest.mark.parametrize(
    ("options", "model", "others"),
    [
        (SubmitOptions, job_schemas.JobOptions, {"idempotency_key"}),
        (ResultFilters, schemas.ResultView, set()),
        (ExportFilters, schemas.ExportView, {"format"}),
        (JobFilters, listing.JobQuery, {"cursor", "limit"}),
    ],
)
def test_parameters_are_those_of_the_service(options: type, model: Any, others: set[str]) -> None:
    assert options.__annotations__.keys() ^ model.model_fields.keys() == others


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        public = {name: member for name, member in vars(kind).items() if name[0] != "_"}
        return {name: list(inspect.signature(member).parameters) for name, member in public.items()}

    assert methods(Client) == methods(AsyncClient)
    constructors = [inspect.signature(kind.__init__).parameters for kind in (Client, AsyncClient)]
    assert list(constructors[0]) == list(constructors[1])
    assert [one.default for one in constructors[0].values()] == [one.default for one in constructors[1].values()]


# Retries


def upload(request: httpx.Request) -> bytes:
    """The video in an upload."""
    return request.content.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]


@pytest.mark.parametrize("kind", ["path", "bytes", "file"])
def test_an_upload_is_sent_again_whole_under_the_same_key(make: Make, tmp_path: Path, kind: str) -> None:
    content = os.urandom(200_000)
    path = tmp_path / "its name.mp4"
    path.write_bytes(content)
    script = Script(
        httpx.WriteError("gone"),
        problem("queue_unavailable", 503, **{"Retry-After": "5"}),
        answer({"id": "j1", "state": "queued", "links": LINKS}, 202),
    )
    with path.open("rb") as file:
        file.seek(77)
        assert make(script).submit({"path": path, "bytes": content, "file": file}[kind]).id == "j1"
    assert [upload(request) == content for request in script.asked] == [True] * 3
    assert len({request.headers["Idempotency-Key"] for request in script.asked}) == 1
    named = [b'filename="its name.mp4"' in request.content for request in script.asked]
    assert named == [kind != "bytes"] * 3


class Pipe(io.RawIOBase):
    """Can be read once; with a descriptor, as a real pipe has."""

    def __init__(self, content: bytes) -> None:
        self._inner = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._inner.read(size)

    def fileno(self) -> int:
        return 0


def test_a_pipe_is_sent_once(make: Make) -> None:
    accepted = {"id": "j1", "state": "queued", "links": LINKS}
    script = Script(answer(accepted, 202), httpx.ReadError("gone"))
    client = make(script)
    client.submit(Pipe(b"from a pipe"))
    assert upload(script.asked[0]) == b"from a pipe"
    assert script.asked[0].headers["Transfer-Encoding"] == "chunked"
    with pytest.raises(Unreachable, match="gone"):
        client.submit(Pipe(b"from a pipe"))
    assert len(script.asked) == 2


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut off"),
        problem("rate_limited", 429),
        httpx.Response(502, text="<html>"),
        problem("no_worker_yet", 503),
        httpx.Response(504),
    ],
)
def test_what_passes_is_tried_again(make: Make, trouble: Any, slept: list[float]) -> None:
    script = Script(trouble, trouble, answer(job()))
    assert make(script).job("j1").state == "running"
    assert len(script.asked) == 3
    assert 0.25 <= slept[0] <= 0.5 <= slept[1] <= 1
    script = Script(*[trouble] * 4)
    with pytest.raises(ServiceError):
        make(script).job("j1")
    assert len(script.asked) == 4
    script = Script(trouble)
    with pytest.raises(ServiceError):
        make(script, retries=0).job("j1")


@pytest.mark.parametrize(
    "trouble",
    [
        problem("internal_error", 500),
        problem("key_unknown", 401),
        problem("job_not_finished", 409, **{"Retry-After": "1"}),
        httpx.UnsupportedProtocol("no scheme"),
        problem("rate_limited", 429, **{"Retry-After": "3600"}),
        httpx.Response(200, text="hello"),
        answer({"something": "else"}),
    ],
)
def test_what_does_not_pass_is_told_at_once(make: Make, trouble: Any, slept: list[float]) -> None:
    script = Script(trouble)
    with pytest.raises(ServiceError):
        make(script).job("j1")
    assert len(script.asked) == 1
    assert slept == []


def test_what_might_be_done_twice_is_sent_once(make: Make) -> None:
    script = Script(httpx.ReadError("gone"))
    with pytest.raises(Unreachable):
        make(script).resend_webhook("j1")
    assert len(script.asked) == 1


def test_delays_are_at_least_those_asked_for(make: Make, slept: list[float]) -> None:
    date = (datetime.now(UTC) + timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    troubles = [problem("rate_limited", 429, **{"Retry-After": value}) for value in ("7", date, "soon")]
    make(Script(*troubles, answer(job()))).job("j1")
    assert 7 <= slept[0] <= 7.5
    assert 80 <= slept[1] <= 91
    assert 1 <= slept[2] <= 2  # not understood: its own


def test_delays_grow_to_a_limit_and_start_anew() -> None:
    tries = RetryDelays(100)
    trouble = Unreachable("unreachable", "nobody")
    delays = [tries.delay_s(trouble) for _ in range(30)]
    assert all(half <= delay <= 2 * half for delay, half in zip(delays, (0.25, 0.5, 1, 2, 4, 8), strict=False))
    assert max(delays) <= 20
    tries.reset()
    assert tries.delay_s(trouble) <= 0.5
    assert len(set(delays[10:])) > 1


def test_errors_say_what_they_are(make: Make) -> None:
    kinds = {
        ("job_not_found", 404): NotFound,
        ("job_expired", 410): NotFound,
        ("job_canceled", 409): JobCanceled,
        ("upload_too_large", 413): ServiceError,
    }
    for (code, status), kind in kinds.items():
        with pytest.raises(ServiceError, match=f"the detail of {code} .{code}.") as caught:
            make(Script(problem(code, status, **{"Retry-After": "9"}))).job("j1")
        assert type(caught.value) is kind
        assert (caught.value.code, caught.value.status, caught.value.retry_after_s) == (code, status, 9)
    with pytest.raises(ServiceError, match="without a problem document") as caught:
        make(Script(httpx.Response(500, text="<html>"))).job("j1")
    assert caught.value.code == "not_mmad"
    with pytest.raises(ServiceError, match=r"Job.id: Field required") as caught:
        make(Script(answer({}))).job("j1")
    assert caught.value.code == "not_mmad"


# Events


LINES = json.dumps(job(tag="a\u2028b\x85c"), ensure_ascii=False, indent=1).split("\n")
STREAM = (
    f": hello\n\nid: 1.0\nevent:state\ndata:{json.dumps(job('queued', 0))}\n\n"
    "id: 2.5\r\nevent: progress\r\n" + "".join(f"data: {line}\r\n" for line in LINES) + "\r\n"
    "event: news\rdata: {\rretry: 250\rretry: x\rother: y\r\r"
    f"id: bad\0id\nevent: progress\ndata: {json.dumps(job(progress=1))}\n\n"
    "event: empty\n\n"
    "id: 9.9\ndata: cut off"
).encode()  # fmt: skip


def read(stream: EventStream, *pieces: bytes) -> Iterator[Event]:
    """The events of one connection."""
    headers = {"Content-Type": "text/event-stream"}
    for message in stream.open(httpx.Response(200, stream=Pieces(pieces), headers=headers)).iter_sse():
        yield from stream.parse(message)


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    connection = EventStream("j1", 0, float("inf"))
    edges = [0, *sorted(cuts), len(STREAM)]
    found = list(read(connection, *(STREAM[start:end] for start, end in pairwise(edges) if start < end)))
    assert [(one.type, one.id, one.job.progress) for one in found] == [
        ("state", "1.0", 0), ("progress", "2.5", 0.5), ("progress", "2.5", 1),
    ]  # fmt: skip
    assert found[1].job.tag == "a\u2028b\x85c"
    assert connection.delay_s() == 0.25
    assert connection.call.headers["Last-Event-ID"] == "2.5"


def test_an_event_comes_as_soon_as_it_is_whole() -> None:
    connection = EventStream("j1", 0, float("inf"))
    found = read(connection, event(1, job())[:-1], b"\n", httpx.ReadError("cut"))  # type: ignore[arg-type]
    assert next(found).id == "1.0"
    with pytest.raises(httpx.ReadError):
        next(found)


def test_ids_outlast_a_connection_and_wrong_delays_are_none() -> None:
    connection = EventStream("j1", 0, float("inf"))
    assert len(list(read(connection, event(1, job()), b"retry: -5\n\n"))) == 1
    assert connection.delay_s() == 0
    [later] = read(connection, f"event: progress\ndata: {json.dumps(job())}\n\n".encode())
    assert later.id == connection.call.headers["Last-Event-ID"] == "1.0"


def test_a_lost_stream_is_taken_up_where_it_broke_off(make: Make, slept: list[float]) -> None:
    script = Script(
        stream(b": hello\n\n", event(1, job("queued", 0), "state"), httpx.ReadError("cut")),  # type: ignore[arg-type]
        httpx.ConnectError("away"),
        problem("queue_unavailable", 503),
        stream(b"retry: 3000\n\n", event(2, job()), b"event: news\ndata: 1\n\n", event(3, job(tag="a\u2028b"))[:20]),
        stream(event(3, job(progress=0.7)), event(4, job("succeeded", 1), "state"), event(5, job())),
    )
    found: list[Event] = list(make(script).events("j1"))
    assert [(one.type, one.job.state, one.id) for one in found] == [
        ("state", "queued", "1.0"), ("progress", "running", "2.0"), ("progress", "running", "3.0"),
        ("state", "succeeded", "4.0"),
    ]  # fmt: skip
    assert [request.headers.get("Last-Event-ID") for request in script.asked] == [None, "1.0", "1.0", "1.0", "2.0"]
    assert script.asked[0].headers["Accept"] == "text/event-stream"
    assert slept[3] == 3
    assert slept[0] <= 0.5 < slept[2]


def test_tries_are_counted_from_the_last_connection_that_held(make: Make) -> None:
    broken = [stream(httpx.ReadError("cut")) for _ in range(9)]  # type: ignore[arg-type]
    script = Script(*broken, stream(event(1, job("succeeded"), "state")))
    assert len(list(make(script).events("j1"))) == 1
    script = Script(*[httpx.ConnectError("away")] * 4)
    with pytest.raises(Unreachable):
        list(make(script).events("j1"))


def test_a_removed_job_has_no_more_events(make: Make) -> None:
    script = Script(stream(event(1, job())), problem("job_deleted", 410))
    with pytest.raises(NotFound, match="job_deleted"):
        list(make(script).events("j1"))


RESULT = {
    "schema_version": 1, "job_id": "j1", "coverage": [], "partial": False, "detections": [], "body_segments": [],
    "warnings": [],
    "media": {"sha256": "00", "duration_s": 1, "width": 1, "height": 1, "frames_decoded": 1, "average_fps": 1,
              "variable_frame_rate": False, "rotation_deg": 0},
    "model": {"bundle": "b", "version": "1", "weights_sha256": "00", "engine": "e", "precision": "fp32",
              "trained_on": None},
    "settings": {"level": "both"},
    "summary": {"by_action": [], "by_body": [], "pairs": [],
                "concurrency": {"max": 0, "mean": 0.0, "seconds": []}},
    "hidden": {"count": 0, "from_score": 0.02, "best": [], "cut_by_top_k": 0},
    "reproduction": {"mmad": "1", "python": "3", "packages": {"av": "1"}, "bundle_sha256": "00",
                     "taxonomy_sha256": "00", "device": "cpu", "decode_fps": 15.0, "input_width": 1,
                     "input_height": 1, "window_frames": 1, "overlap_frames": 0,
                     "postprocessing": {"kind": "soft-nms", "sigma": 0.5, "top": 200, "voting": True},
                     "calibrated": True, "random_numbers": False},
}  # fmt: skip


def test_waiting_listens_and_takes_the_result(make: Make) -> None:
    script = Script(stream(event(1, job()), event(2, job("succeeded", 1), "state")), answer(RESULT))
    seen: list[Job] = []
    result = make(script).wait("j1", seen.append)
    assert [one.progress for one in seen] == [0.5, 1]
    assert script.paths == ["/jobs/j1/events", "/jobs/j1/result"]
    assert result.document == RESULT
    assert result.reproduction.postprocessing["sigma"] == 0.5


@pytest.mark.parametrize(
    "nothing",
    [
        problem("not_found", 404),
        httpx.Response(404, text="<html>"),
        problem("method_not_allowed", 405),
        httpx.Response(204),
        stream(b"<html>", kind="text/html"),
    ],
)
def test_waiting_polls_where_there_are_no_events(make: Make, nothing: httpx.Response, slept: list[float]) -> None:
    script = Script(nothing, answer(job()), answer(job()), answer(job("succeeded", 1)), answer(RESULT))
    assert make(script).wait("j1").job_id == "j1"
    assert script.paths[1:] == ["/jobs/j1", "/jobs/j1", "/jobs/j1", "/jobs/j1/result"]
    assert 0 < slept[0] < slept[1] <= 1
    script = Script(nothing)
    with pytest.raises(EventsUnavailable):
        list(make(script).events("j1"))


def test_waiting_tells_how_it_ended(make: Make) -> None:
    failed = job("failed", error={"code": "video_too_long", "detail": "912 s"})
    with pytest.raises(JobFailed, match="912 s .video_too_long.") as caught:
        make(Script(stream(event(1, failed, "state")))).wait("j1")
    assert caught.value.job.id == "j1"
    assert caught.value.code == "video_too_long"
    with pytest.raises(JobCanceled):
        make(Script(stream(event(1, job("canceled"), "state")))).wait("j1")
    with pytest.raises(NotFound):
        make(Script(problem("job_not_found", 404))).wait("j1")


def test_waiting_has_an_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves on with every look at it."""
    now = iter(range(1000))
    for module in ("errors", "sse"):
        monkeypatch.setattr(f"mmad.{module}.time.monotonic", lambda: float(next(now)))
    script = Script(*[answer(job()) for _ in range(10)])
    with pytest.raises(TimeoutError, match="j1 is still running after 5 s"):
        make(script).wait("j1", timeout_s=5)
    assert set(script.paths) == {"/jobs/j1"}  # less time than a stream may be silent
    assert 3 <= len(script.asked) <= 5
    # With more time it listens first, and asks when little is left.
    script = Script(stream(*[b": keep-alive\n\n"] * 40), *[answer(job()) for _ in range(40)])
    with pytest.raises(TimeoutError):
        make(script).wait("j1", timeout_s=60)
    assert script.paths[:2] == ["/jobs/j1/events", "/jobs/j1"]


def test_progress_may_be_awaited() -> None:
    seen: list[Job] = []

    async def on_progress(job: Job) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(job)

    script = Script(
        answer({"id": "j1", "state": "queued", "links": LINKS}, 202),
        stream(event(1, job("succeeded", 1), "state")),
        answer(RESULT),
    )

    async def run() -> None:
        async with AsyncClient("http://mmad.test", transport=httpx.MockTransport(script)) as client:
            await client.detect(b"video", on_progress=on_progress, tag="x")

    anyio.run(run)
    assert [one.state for one in seen] == ["succeeded"]
    assert script.asked[0].url.params["tag"] == "x"


# Files


def test_an_export_is_there_when_it_is_whole(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("before")
    script = Script(stream(b"a,", httpx.ReadError("cut"), kind="text/csv"), stream(b"a,", b"b\n", kind="text/csv"))  # type: ignore[arg-type]
    assert make(script).export("j1", "csv", path, from_s=1.5, labels="B", rate=None) == path
    assert path.read_bytes() == b"a,b\n"
    assert dict(script.asked[0].url.params) == {"format": "csv", "from_s": "1.5", "labels": "B"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_does_not_come_whole_changes_nothing(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_text("before")
    script = Script(*[stream(b"half", httpx.ReadError("cut")) for _ in range(4)])  # type: ignore[arg-type]
    with pytest.raises(Unreachable):
        make(script).video("j1", path)
    with pytest.raises(NotFound, match="video_not_kept"):
        make(Script(problem("video_not_kept", 404))).video("j1", path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="there is no folder"):
        make(Script(stream(b"x"))).video("j1", tmp_path / "no/such.mp4")


def test_the_client_needs_httpx_and_pydantic_only() -> None:
    heavy = ["numpy", "torch", "fastapi", "starlette", "av", "redis", "typer", "model"]
    script = f"import sys, mmad.client, mmad.async_client; print([name for name in {heavy} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# The live service


@pytest.fixture(scope="module")
def ended(service: Service, clip: Path) -> models.Result:
    with Client(service.url) as client:
        return client.detect(clip, keep_video=True, tag="test_client", retention_s=3600)


def test_live_documents_are_read_whole(service: Service, ended: models.Result) -> None:
    """What the client reads, written as JSON again, is what the service wrote."""
    job_id = str(ended.job_id)
    with Client(service.url) as client:
        found = [
            ended, client.job(job_id), client.result(job_id, min_score=0, level="action", top_k=3),
            client.frames(job_id, rate=2), client.labels(), client.model(),
        ]  # fmt: skip
        assert len(client.result(job_id, min_score=0, top_k=3).detections) == 3
        assert client.frames(job_id, rate=2).times_s[:3] == [0, 0.5, 1]
    for one in found:
        assert one.document
        assert type(one).model_validate(one.document) == one  # strictly, as the service reads its own documents


def test_live_events_end_with_the_job(service: Service, clip: Path) -> None:
    with Client(service.url) as client:
        accepted = client.submit(clip)
        events = list(client.events(accepted.id))
        assert [one.job.ended for one in events] == [False] * (len(events) - 1) + [True]
        assert events[-1].type == "state"
        assert events[-1].job.state == "succeeded"
        again = list(client.events(accepted.id))
        assert [one.job.state for one in again] == ["succeeded"]
        with pytest.raises(NotFound):
            list(client.events("0" * 32))


def test_live_keys_make_one_job(service: Service, clip: Path) -> None:
    with Client(service.url) as client:
        first, second = (client.submit(clip, idempotency_key="once") for _ in range(2))
        assert first.id == second.id
        assert client.submit(clip).id != first.id
        with pytest.raises(ServiceError, match="idempotency_conflict"):
            client.submit(clip, idempotency_key="once", tag="another")


def test_live_files(service: Service, ended: models.Result, clip: Path, tmp_path: Path) -> None:
    job_id = str(ended.job_id)
    with Client(service.url) as client:
        rows = client.export(job_id, "csv", tmp_path / "a.csv", min_score=0, top_k=7).read_text().splitlines()
        assert len(rows) == 8
        assert client.video(job_id, tmp_path / "v.mp4").read_bytes() == clip.read_bytes()
        with pytest.raises(ServiceError, match="invalid_parameter"):
            client.export(job_id, "papyrus", tmp_path / "b")
        with pytest.raises(NotFound, match="no_callback"):
            client.webhook(job_id)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "v.mp4"]


def test_live_jobs_of_a_batch_are_found_canceled_and_deleted(service: Service, tmp_path: Path) -> None:
    small = clips.pattern(tmp_path / "small.mp4", size="160x120", seconds=3)
    with Client(service.url) as client:
        batch = client.submit_many([small, small, small], tag="several")
        ids = {one.id for one in batch.jobs}
        assert {one.id for one in client.jobs(batch=batch.batch)} == ids
        assert {one.tag for one in client.jobs(batch=batch.batch)} == {"several"}
        last = batch.jobs[-1].id
        assert client.cancel(last).state == "canceled"
        with pytest.raises(JobCanceled):
            client.wait(last)
        for job_id in ids - {last}:
            client.wait(job_id)
        receipt = client.delete(last)
        assert receipt.id == last
        assert "record" in {one.what for one in receipt.removed}
        with pytest.raises(NotFound, match="job_deleted"):
            client.job(last)


def test_live_async(service: Service, clip: Path, ended: models.Result, tmp_path: Path) -> None:
    async def run() -> list[Any]:
        async with AsyncClient(service.url) as client:
            results: list[Any] = [None, None]

            async def ask(place: int) -> None:
                with clip.open("rb") as file:
                    results[place] = await client.detect(file, tag=f"async {place}")

            async with anyio.create_task_group() as group:
                for place in range(2):
                    group.start_soon(ask, place)
            assert [one.tag async for one in client.jobs(tag="async 1")] == ["async 1"]
            await client.export(str(results[0].job_id), "vtt", tmp_path / "a.vtt")
            return results

    for result in anyio.run(run):
        assert result.detections == ended.detections
    assert (tmp_path / "a.vtt").read_text().startswith("WEBVTT")


def test_live_submit_writes_what_is_asked_for(service: Service, clip: Path, tmp_path: Path) -> None:
    environment = os.environ | {"MMAD_URL": service.url}
    command = [sys.executable, "-m", "mmad", "submit", str(clip)]
    run = partial(subprocess.run, capture_output=True, text=True, check=False, env=environment)
    table = run([*command, "--wait", "--format", "csv"])
    assert table.returncode == 0
    written = run([*command, "--wait", "--format", "csv", "--out", str(tmp_path / "a.csv")])
    assert written.stdout == ""
    assert len((tmp_path / "a.csv").read_text().splitlines()) == len(table.stdout.splitlines()) > 1
    run([*command, "--wait", "--out", str(tmp_path / "a.json")])
    schemas.Result.model_validate_json((tmp_path / "a.json").read_bytes())
    for usage in (["--format", "csv"], ["--out", "x"], ["--wait", "--json", "--format", "csv"], ["--format", "x"]):
        assert run([*command, *usage]).returncode == 2, usage
    numbers = run([*command, "--wait", "--format", "frames-npz"])
    assert numbers.returncode == 2
    assert "--out" in numbers.stderr
