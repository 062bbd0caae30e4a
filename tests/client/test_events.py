"""Event streams and waiting for results with both clients."""

import json
from collections.abc import Iterator
from itertools import pairwise

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmad.async_client import AsyncClient
from mmad.client import Event, EventsUnavailable, JobCanceled, JobFailed, NotFound, Unreachable
from mmad.models import Job
from mmad.sse import EventStream
from tests.client.scripted_service import (
    ACCEPTED,
    RESULT,
    Chunks,
    MakeClient,
    ScriptedServer,
    job_document,
    json_response,
    problem_response,
    sse_event,
    stream_response,
)

LINES = json.dumps(job_document(tag="a\u2028b\x85c"), ensure_ascii=False, indent=1).split("\n")
STREAM = (
    f": hello\n\nid: 1.0\nevent:state\ndata:{json.dumps(job_document('queued', 0))}\n\n"
    "id: 2.5\r\nevent: progress\r\n" + "".join(f"data: {line}\r\n" for line in LINES) + "\r\n"
    "event: news\rdata: {\rretry: 250\rretry: x\rother: y\r\r"
    f"id: bad\0id\nevent: progress\ndata: {json.dumps(job_document(progress=1))}\n\n"
    "event: empty\n\n"
    "id: 9.9\ndata: cut off"
).encode()  # fmt: skip


def parse_events(stream: EventStream, *chunks: bytes) -> Iterator[Event]:
    """Parse the events of one connection."""
    headers = {"Content-Type": "text/event-stream"}
    for message in stream.open(httpx.Response(200, stream=Chunks(chunks), headers=headers)).iter_sse():
        yield from stream.parse(message)


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_event_parsing_does_not_depend_on_chunk_bounds(cuts: list[int]) -> None:
    connection = EventStream("j1", 0, float("inf"))
    edges = [0, *sorted(cuts), len(STREAM)]
    events = list(parse_events(connection, *(STREAM[start:end] for start, end in pairwise(edges) if start < end)))
    assert [(event.type, event.id, event.job.progress) for event in events] == [
        ("state", "1.0", 0), ("progress", "2.5", 0.5), ("progress", "2.5", 1),
    ]  # fmt: skip
    assert events[1].job.tag == "a\u2028b\x85c"
    assert connection.delay_s() == 0.25
    assert connection.call.headers["Last-Event-ID"] == "2.5"


def test_event_is_yielded_when_complete() -> None:
    connection = EventStream("j1", 0, float("inf"))
    events = parse_events(connection, sse_event(1, job_document())[:-1], b"\n", httpx.ReadError("cut"))  # type: ignore[arg-type]
    assert next(events).id == "1.0"
    with pytest.raises(httpx.ReadError):
        next(events)


def test_event_id_persists_and_invalid_retry_is_ignored() -> None:
    connection = EventStream("j1", 0, float("inf"))
    assert len(list(parse_events(connection, sse_event(1, job_document()), b"retry: -5\n\n"))) == 1
    assert connection.delay_s() == 0
    [later] = parse_events(connection, f"event: progress\ndata: {json.dumps(job_document())}\n\n".encode())
    assert later.id == connection.call.headers["Last-Event-ID"] == "1.0"


def test_lost_stream_resumes_from_last_event_id(make_client: MakeClient, delays_s: list[float]) -> None:
    server = ScriptedServer(
        stream_response(b": hello\n\n", sse_event(1, job_document("queued", 0), "state"), httpx.ReadError("cut")),  # type: ignore[arg-type]
        httpx.ConnectError("away"),
        problem_response("queue_unavailable", 503),
        stream_response(
            b"retry: 3000\n\n",
            sse_event(2, job_document()),
            b"event: news\ndata: 1\n\n",
            sse_event(3, job_document(tag="a\u2028b"))[:20],
        ),
        stream_response(
            sse_event(3, job_document(progress=0.7)),
            sse_event(4, job_document("succeeded", 1), "state"),
            sse_event(5, job_document()),
        ),
    )
    events: list[Event] = list(make_client(server).events("j1"))
    assert [(event.type, event.job.state, event.id) for event in events] == [
        ("state", "queued", "1.0"), ("progress", "running", "2.0"), ("progress", "running", "3.0"),
        ("state", "succeeded", "4.0"),
    ]  # fmt: skip
    assert [request.headers.get("Last-Event-ID") for request in server.requests] == [None, "1.0", "1.0", "1.0", "2.0"]
    assert server.requests[0].headers["Accept"] == "text/event-stream"
    assert delays_s[3] == 3
    assert delays_s[0] <= 0.5 < delays_s[2]


def test_successful_connection_resets_retry_count(make_client: MakeClient) -> None:
    broken = [stream_response(httpx.ReadError("cut")) for _ in range(9)]  # type: ignore[arg-type]
    server = ScriptedServer(*broken, stream_response(sse_event(1, job_document("succeeded"), "state")))
    assert len(list(make_client(server).events("j1"))) == 1
    server = ScriptedServer(*[httpx.ConnectError("away")] * 4)
    with pytest.raises(Unreachable):
        list(make_client(server).events("j1"))


def test_events_of_deleted_job_raise_not_found(make_client: MakeClient) -> None:
    server = ScriptedServer(stream_response(sse_event(1, job_document())), problem_response("job_deleted", 410))
    with pytest.raises(NotFound, match="job_deleted"):
        list(make_client(server).events("j1"))


def test_wait_reports_progress_and_returns_result(make_client: MakeClient) -> None:
    server = ScriptedServer(
        stream_response(sse_event(1, job_document()), sse_event(2, job_document("succeeded", 1), "state")),
        json_response(RESULT),
    )
    updates: list[Job] = []
    result = make_client(server).wait("j1", updates.append)
    assert [job.progress for job in updates] == [0.5, 1]
    assert server.paths == ["/jobs/j1/events", "/jobs/j1/result"]
    assert result.document == RESULT
    assert result.reproduction.postprocessing["sigma"] == 0.5


@pytest.mark.parametrize(
    "unavailable",
    [
        problem_response("not_found", 404),
        httpx.Response(404, text="<html>"),
        problem_response("method_not_allowed", 405),
        httpx.Response(204),
        stream_response(b"<html>", kind="text/html"),
    ],
)
def test_wait_polls_if_events_are_unavailable(
    make_client: MakeClient, unavailable: httpx.Response, delays_s: list[float]
) -> None:
    server = ScriptedServer(
        unavailable,
        json_response(job_document()),
        json_response(job_document()),
        json_response(job_document("succeeded", 1)),
        json_response(RESULT),
    )
    assert make_client(server).wait("j1").job_id == "j1"
    assert server.paths[1:] == ["/jobs/j1", "/jobs/j1", "/jobs/j1", "/jobs/j1/result"]
    assert 0 < delays_s[0] < delays_s[1] <= 1
    server = ScriptedServer(unavailable)
    with pytest.raises(EventsUnavailable):
        list(make_client(server).events("j1"))


def test_wait_raises_exception_for_job_state(make_client: MakeClient) -> None:
    failed = job_document("failed", error={"code": "video_too_long", "detail": "912 s"})
    with pytest.raises(JobFailed, match="912 s .video_too_long.") as caught:
        make_client(ScriptedServer(stream_response(sse_event(1, failed, "state")))).wait("j1")
    assert caught.value.job.id == "j1"
    assert caught.value.code == "video_too_long"
    with pytest.raises(JobCanceled):
        make_client(ScriptedServer(stream_response(sse_event(1, job_document("canceled"), "state")))).wait("j1")
    with pytest.raises(NotFound):
        make_client(ScriptedServer(problem_response("job_not_found", 404))).wait("j1")


def test_wait_times_out(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake clock advances by a second per call."""
    now = iter(range(1000))
    for module in ("errors", "sse"):
        monkeypatch.setattr(f"mmad.{module}.time.monotonic", lambda: float(next(now)))
    server = ScriptedServer(*[json_response(job_document()) for _ in range(10)])
    with pytest.raises(TimeoutError, match="j1 is still running after 5 s"):
        make_client(server).wait("j1", timeout_s=5)
    assert set(server.paths) == {"/jobs/j1"}  # less time than the keep-alive interval
    assert 3 <= len(server.requests) <= 5
    # A longer timeout: events first, polling at the end.
    server = ScriptedServer(
        stream_response(*[b": keep-alive\n\n"] * 40), *[json_response(job_document()) for _ in range(40)]
    )
    with pytest.raises(TimeoutError):
        make_client(server).wait("j1", timeout_s=60)
    assert server.paths[:2] == ["/jobs/j1/events", "/jobs/j1"]


def test_async_progress_callback_is_awaited() -> None:
    updates: list[Job] = []

    async def on_progress(job: Job) -> None:
        await anyio.lowlevel.checkpoint()
        updates.append(job)

    server = ScriptedServer(
        json_response(ACCEPTED, 202),
        stream_response(sse_event(1, job_document("succeeded", 1), "state")),
        json_response(RESULT),
    )

    async def run() -> None:
        async with AsyncClient("http://mmad.test", transport=httpx.MockTransport(server)) as client:
            await client.detect(b"video", on_progress=on_progress, tag="x")

    anyio.run(run)
    assert [job.state for job in updates] == ["succeeded"]
    assert server.requests[0].url.params["tag"] == "x"
