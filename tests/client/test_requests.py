"""Requests, retries and errors of both clients."""

import inspect
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from mmad import models
from mmad.async_client import AsyncClient
from mmad.client import Client, JobCanceled, NotFound, ServiceError, Unreachable
from mmad.endpoints import ExportFilters, JobFilters, ResultFilters, SubmitOptions
from mmad.errors import RetryDelays
from mmad.models import AnswerError, Job, Json, parse
from service import job_schemas, listing, schemas
from tests.client.scripted_service import (
    ACCEPTED,
    NOW,
    MakeClient,
    ScriptedServer,
    job_document,
    json_response,
    problem_response,
    stream_response,
)


def test_job_document_is_parsed_with_unknown_fields() -> None:
    document = job_document(
        "failed", error={"code": "job_timeout", "detail": "too long"}, expires_at=NOW, tag="a", news=[1]
    )
    parsed = parse(Job, json.dumps(document))
    assert parsed.error == models.JobError(code="job_timeout", detail="too long")
    assert parsed.expires_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (parsed.tag, parsed.batch, parsed.queue_position) == ("a", None, None)
    assert parsed.links.self == "/jobs/j1/self"
    assert parsed.ended
    assert parsed.document["news"] == [1]
    assert parsed.changes[0].document == {"state": "queued", "at": NOW}
    assert type(parse(Job, json.dumps(job_document(progress=1))).progress) is float


def test_unknown_enum_values_are_accepted() -> None:
    changes = [{"state": "paused", "at": NOW, "why": "maintenance"}]
    parsed = parse(Job, json.dumps(job_document("paused", stage="resting", changes=changes)))
    assert (parsed.state, parsed.stage, parsed.changes[0].why, parsed.ended) == (
        "paused",
        "resting",
        "maintenance",
        False,
    )
    with pytest.raises(ValidationError):  # the service itself knows all states
        Job.model_validate(job_document("paused"))


@pytest.mark.parametrize(
    ("change", "message"),
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
def test_invalid_or_missing_field_is_named(change: Json, message: str) -> None:
    with pytest.raises(AnswerError, match=message):
        parse(Job, json.dumps(job_document(**change)))
    missing = {name: value for name, value in job_document().items() if name not in change}
    with pytest.raises(AnswerError):
        parse(Job, json.dumps(missing))


def test_submit_encodes_parameters_headers_and_path(make_client: MakeClient) -> None:
    server = ScriptedServer(json_response(ACCEPTED, 202), json_response(job_document()), json_response(ACCEPTED, 202))
    client = make_client(server, api_key="mmad_secret")
    sent = client.submit(
        b"video", min_score=0, labels=["B1", "F"], region=(0.25, 0, 0.5, 1), keep_video=False,
        callback_url="https://x.test/?a=1&b", retention_s=60, tag="día", top_k=None, idempotency_key="mine",
    )  # fmt: skip
    assert (sent.id, sent.state, sent.links.result) == ("j1", "queued", "/jobs/j1/result")
    request = server.requests[0]
    assert request.method == "POST"
    assert dict(request.url.params) == {
        "min_score": "0", "labels": "B1,F", "region": "0.25,0,0.5,1", "keep_video": "false",
        "callback_url": "https://x.test/?a=1&b", "retention_s": "60", "tag": "día",
    }  # fmt: skip
    assert request.headers["Idempotency-Key"] == "mine"
    assert request.headers["Authorization"] == "Bearer mmad_secret"
    assert b'name="file"\r\n' in request.content  # bytes have no name
    client.job("../model")
    assert server.requests[1].url.raw_path == b"/jobs/..%2Fmodel"
    client.submit(b"video")
    assert len(server.requests[2].headers["Idempotency-Key"]) == 36


def test_jobs_follows_next_cursor(make_client: MakeClient) -> None:
    server = ScriptedServer(
        json_response({"jobs": [job_document(), job_document()], "next": "c1"}),
        json_response({"jobs": [], "next": "c2"}),
        json_response({"jobs": [job_document("failed")], "next": None}),
    )
    since = datetime(2026, 1, 1, tzinfo=UTC)
    jobs = list(make_client(server).jobs(state="failed", since=since, until=datetime(2026, 1, 2), tag=None))
    assert [job.state for job in jobs] == ["running", "running", "failed"]
    first, second, third = (dict(request.url.params) for request in server.requests)
    assert datetime.fromisoformat(first.pop("until")) == datetime(2026, 1, 2).astimezone()
    assert first == {"state": "failed", "since": "2026-01-01T00:00:00+00:00", "limit": "100"}
    assert (second["cursor"], third["cursor"], second["state"]) == ("c1", "c2", "failed")


def test_jobs_requests_pages_lazily() -> None:
    server = ScriptedServer(json_response({"jobs": [job_document()], "next": "c1"}))
    with Client("http://mmad.test", transport=httpx.MockTransport(server)) as client:
        next(client.jobs())
    assert len(server.requests) == 1


def test_submit_many_sends_files_in_order_and_rejects_one(make_client: MakeClient, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"one")
    server = ScriptedServer(
        json_response({"batch": "b", "jobs": [ACCEPTED, ACCEPTED], "links": {"jobs": "/jobs?batch=b"}}, 202)
    )
    batch = make_client(server).submit_many([tmp_path / "one", b"two"], tag="x")
    assert (batch.batch, len(batch.jobs)) == ("b", 2)
    assert server.requests[0].content.count(b'name="file"') == 2
    assert server.requests[0].content.index(b"one") < server.requests[0].content.index(b"two")
    with pytest.raises(ValueError, match="use submit for one"):
        make_client(server).submit_many([b"one"])


def test_url_and_api_key_come_from_environment(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMAD_URL", "http://elsewhere.test/below/")
    monkeypatch.setenv("MMAD_API_KEY", "mmad_env")
    server = ScriptedServer(json_response(job_document()))
    with Client(transport=httpx.MockTransport(server)) as client:
        client.job("j1")
    assert str(server.requests[0].url) == "http://elsewhere.test/below/jobs/j1"
    assert server.requests[0].headers["Authorization"] == "Bearer mmad_env"
    with (
        Client(
            "http://me:hidden@x.test",
            transport=httpx.MockTransport(ScriptedServer(httpx.ConnectError("no"))),
            retries=0,
        ) as client,
        pytest.raises(Unreachable) as caught,
    ):
        client.job("j1")
    assert "hidden" not in str(caught.value)
    with pytest.raises(ServiceError, match="is no address"):
        Client("http://x:y")


@pytest.mark.parametrize(
    ("options", "model", "differences"),
    [
        (SubmitOptions, job_schemas.JobOptions, {"idempotency_key"}),
        (ResultFilters, schemas.ResultView, set()),
        (ExportFilters, schemas.ExportView, {"format"}),
        (JobFilters, listing.JobQuery, {"cursor", "limit"}),
    ],
)
def test_client_parameters_match_service_models(options: type, model: Any, differences: set[str]) -> None:
    assert options.__annotations__.keys() ^ model.model_fields.keys() == differences


def test_sync_and_async_clients_have_same_signatures() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        public = {name: member for name, member in vars(kind).items() if name[0] != "_"}
        return {name: list(inspect.signature(member).parameters) for name, member in public.items()}

    assert methods(Client) == methods(AsyncClient)
    constructors = [inspect.signature(kind.__init__).parameters for kind in (Client, AsyncClient)]
    assert list(constructors[0]) == list(constructors[1])
    assert [parameter.default for parameter in constructors[0].values()] == [
        parameter.default for parameter in constructors[1].values()
    ]


def uploaded_video(request: httpx.Request) -> bytes:
    return request.content.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]


@pytest.mark.parametrize("kind", ["path", "bytes", "file"])
def test_retried_upload_resends_video_with_same_key(make_client: MakeClient, tmp_path: Path, kind: str) -> None:
    content = os.urandom(200_000)
    path = tmp_path / "its name.mp4"
    path.write_bytes(content)
    server = ScriptedServer(
        httpx.WriteError("gone"),
        problem_response("queue_unavailable", 503, **{"Retry-After": "5"}),
        json_response(ACCEPTED, 202),
    )
    with path.open("rb") as file:
        file.seek(77)
        assert make_client(server).submit({"path": path, "bytes": content, "file": file}[kind]).id == "j1"
    assert [uploaded_video(request) == content for request in server.requests] == [True] * 3
    assert len({request.headers["Idempotency-Key"] for request in server.requests}) == 1
    has_name = [b'filename="its name.mp4"' in request.content for request in server.requests]
    assert has_name == [kind != "bytes"] * 3


class Pipe(io.RawIOBase):
    """Unseekable file with a descriptor, like a pipe."""

    def __init__(self, content: bytes) -> None:
        self._inner = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._inner.read(size)

    def fileno(self) -> int:
        return 0


def test_pipe_upload_is_not_retried(make_client: MakeClient) -> None:
    server = ScriptedServer(json_response(ACCEPTED, 202), httpx.ReadError("gone"))
    client = make_client(server)
    client.submit(Pipe(b"from a pipe"))
    assert uploaded_video(server.requests[0]) == b"from a pipe"
    assert server.requests[0].headers["Transfer-Encoding"] == "chunked"
    with pytest.raises(Unreachable, match="gone"):
        client.submit(Pipe(b"from a pipe"))
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut off"),
        problem_response("rate_limited", 429),
        httpx.Response(502, text="<html>"),
        problem_response("no_worker_yet", 503),
        httpx.Response(504),
    ],
)
def test_transient_failures_are_retried(make_client: MakeClient, failure: Any, delays_s: list[float]) -> None:
    server = ScriptedServer(failure, failure, json_response(job_document()))
    assert make_client(server).job("j1").state == "running"
    assert len(server.requests) == 3
    assert 0.25 <= delays_s[0] <= 0.5 <= delays_s[1] <= 1
    server = ScriptedServer(*[failure] * 4)
    with pytest.raises(ServiceError):
        make_client(server).job("j1")
    assert len(server.requests) == 4
    server = ScriptedServer(failure)
    with pytest.raises(ServiceError):
        make_client(server, retries=0).job("j1")


@pytest.mark.parametrize(
    "failure",
    [
        problem_response("internal_error", 500),
        problem_response("key_unknown", 401),
        problem_response("job_not_finished", 409, **{"Retry-After": "1"}),
        httpx.UnsupportedProtocol("no scheme"),
        problem_response("rate_limited", 429, **{"Retry-After": "3600"}),
        httpx.Response(200, text="hello"),
        json_response({"something": "else"}),
    ],
)
def test_permanent_failures_are_not_retried(make_client: MakeClient, failure: Any, delays_s: list[float]) -> None:
    server = ScriptedServer(failure)
    with pytest.raises(ServiceError):
        make_client(server).job("j1")
    assert len(server.requests) == 1
    assert delays_s == []


def test_resend_webhook_is_not_retried(make_client: MakeClient) -> None:
    server = ScriptedServer(httpx.ReadError("gone"))
    with pytest.raises(Unreachable):
        make_client(server).resend_webhook("j1")
    assert len(server.requests) == 1


def test_retry_after_is_minimum_delay(make_client: MakeClient, delays_s: list[float]) -> None:
    date = (datetime.now(UTC) + timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    failures = [problem_response("rate_limited", 429, **{"Retry-After": value}) for value in ("7", date, "soon")]
    make_client(ScriptedServer(*failures, json_response(job_document()))).job("j1")
    assert 7 <= delays_s[0] <= 7.5
    assert 80 <= delays_s[1] <= 91
    assert 1 <= delays_s[2] <= 2  # invalid Retry-After: default back-off


def test_retry_delays_double_to_limit_and_reset() -> None:
    delays = RetryDelays(100)
    failure = Unreachable("unreachable", "nobody")
    drawn_s = [delays.delay_s(failure) for _ in range(30)]
    assert all(
        least_s <= delay_s <= 2 * least_s for delay_s, least_s in zip(drawn_s, (0.25, 0.5, 1, 2, 4, 8), strict=False)
    )
    assert max(drawn_s) <= 20
    delays.reset()
    assert delays.delay_s(failure) <= 0.5
    assert len(set(drawn_s[10:])) > 1


def test_problem_codes_map_to_exceptions(make_client: MakeClient) -> None:
    exceptions = {
        ("job_not_found", 404): NotFound,
        ("job_expired", 410): NotFound,
        ("job_canceled", 409): JobCanceled,
        ("upload_too_large", 413): ServiceError,
    }
    for (code, status), exception in exceptions.items():
        with pytest.raises(ServiceError, match=f"the detail of {code} .{code}.") as caught:
            make_client(ScriptedServer(problem_response(code, status, **{"Retry-After": "9"}))).job("j1")
        assert type(caught.value) is exception
        assert (caught.value.code, caught.value.status, caught.value.retry_after_s) == (code, status, 9)
    with pytest.raises(ServiceError, match="without a problem document") as caught:
        make_client(ScriptedServer(httpx.Response(500, text="<html>"))).job("j1")
    assert caught.value.code == "not_mmad"
    with pytest.raises(ServiceError, match=r"Job.id: Field required") as caught:
        make_client(ScriptedServer(json_response({}))).job("j1")
    assert caught.value.code == "not_mmad"


def test_retried_export_replaces_file_when_complete(make_client: MakeClient, tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("before")
    server = ScriptedServer(
        stream_response(b"a,", httpx.ReadError("cut"), kind="text/csv"), stream_response(b"a,", b"b\n", kind="text/csv")
    )  # type: ignore[arg-type]
    assert make_client(server).export("j1", "csv", path, from_s=1.5, labels="B", rate=None) == path
    assert path.read_bytes() == b"a,b\n"
    assert dict(server.requests[0].url.params) == {"format": "csv", "from_s": "1.5", "labels": "B"}
    assert list(tmp_path.iterdir()) == [path]


def test_failed_download_leaves_existing_file_unchanged(make_client: MakeClient, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_text("before")
    server = ScriptedServer(*[stream_response(b"half", httpx.ReadError("cut")) for _ in range(4)])  # type: ignore[arg-type]
    with pytest.raises(Unreachable):
        make_client(server).video("j1", path)
    with pytest.raises(NotFound, match="video_not_kept"):
        make_client(ScriptedServer(problem_response("video_not_kept", 404))).video("j1", path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="there is no folder"):
        make_client(ScriptedServer(stream_response(b"x"))).video("j1", tmp_path / "no/such.mp4")


def test_client_imports_no_heavy_packages() -> None:
    heavy = ["numpy", "torch", "fastapi", "starlette", "av", "redis", "typer", "model"]
    code = f"import sys, mmad.client, mmad.async_client; print([name for name in {heavy} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
