"""Who calls and how much they may, over a small application and a real Redis."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from redis import Redis
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from mmad.private_redis import private_redis
from service import circuit_breaker, keys
from service.auth import Auth, Caller, Limits, add_cors, get_caller
from service.errors import CATALOGUE, Problem
from service.job_schemas import JobOptions
from service.jobs import ANONYMOUS_OWNER, Jobs, Record, Upload, job_key, new_job_id
from service.keys import KeysError, OwnLimits
from service.middleware import RequestLog
from service.settings import Settings
from service.store import FolderStore


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, api_keys_file=tmp_path / "keys.json", requests_per_minute=3)


def make_app(settings: Settings, connection: Redis) -> FastAPI:
    """As the service wires it, with routes that answer in each of the ways a route can."""
    app = FastAPI()
    app.state.app_state = SimpleNamespace(auth=Auth(settings, connection))
    app.add_middleware(RequestLog, on_response=lambda *_: None)
    add_cors(app, settings)

    @app.get("/who")
    def who(caller: Annotated[Caller, Depends(get_caller)]) -> dict[str, Any]:
        return {"owner": caller.owner}

    @app.get("/stream")
    async def stream(_caller: Annotated[Caller, Depends(get_caller)]) -> StreamingResponse:
        return StreamingResponse(iter([b"a", b"b"]))

    @app.get("/jobs/{job_id}")
    def job(job_id: str, request: Request, caller: Annotated[Caller, Depends(get_caller)]) -> dict[str, str]:
        jobs: Jobs = request.app.state.jobs
        return {"id": jobs.get(job_id, caller.owner).id}

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.exception_handler(Problem)
    def on_problem(_request: Request, problem: Problem) -> JSONResponse:
        body = {"code": problem.code, "detail": problem.detail}
        general = (
            {"Retry-After": str(CATALOGUE[problem.code].retry_after_s)} if CATALOGUE[problem.code].retry_after_s else {}
        )
        return JSONResponse(body, CATALOGUE[problem.code].status, general | problem.headers)

    return app


def events(lines: list[Any]) -> list[str]:
    """The events of a log but for the line of each request."""
    return [line["event"] for line in lines if line["event"] != "request"]


@pytest.fixture
def client(settings: Settings, connection: Redis) -> Iterator[TestClient]:
    with TestClient(make_app(settings, connection)) as client:
        yield client


def new_key(settings: Settings, **limits: int) -> tuple[str, dict[str, str]]:
    """The id of a new key, and the header that presents it."""
    assert settings.api_keys_file
    made, key = keys.create(settings.api_keys_file, "alice", OwnLimits(**limits))
    return made.id, {"Authorization": f"Bearer {key}"}


def parameters(field: str) -> dict[str, int]:
    """Of `"requests";a=1;b=2`."""
    name, *rest = field.split(";")
    assert name == '"requests"'
    return {one.split("=")[0]: int(one.split("=")[1]) for one in rest}


def test_callers_are_known_by_their_keys(client: TestClient, settings: Settings) -> None:
    (alice, alice_header), (bob, bob_header) = new_key(settings), new_key(settings)
    assert client.get("/who", headers=alice_header).json() == {"owner": alice}
    assert client.get("/who", headers=bob_header).json() == {"owner": bob}
    lower = {"authorization": alice_header["Authorization"].replace("Bearer", "bearer")}
    assert client.get("/who", headers=lower).json() == {"owner": alice}


@pytest.mark.parametrize("sent", [None, "Basic YTpi", "Bearer", "Bearer ", "mmad_0123abcd_x"])
def test_without_a_key_nobody_comes_in(client: TestClient, sent: str | None) -> None:
    refused = client.get("/who", headers={"Authorization": sent} if sent else {})
    assert (refused.status_code, refused.json()["code"]) == (401, "key_missing")
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="mmad"'
    assert "RateLimit" not in refused.headers


def test_a_wrong_or_revoked_key_is_refused(client: TestClient, settings: Settings) -> None:
    key_id, header = new_key(settings)
    presented = header["Authorization"]
    for wrong in (presented[:-1] + ("a" if presented[-1] != "a" else "b"), "Bearer x", "Bearer mmad_é"):
        refused = client.get("/who", headers={"Authorization": wrong.encode("latin-1")})
        assert (refused.status_code, refused.json()["code"]) == (401, "key_unknown")
        assert refused.headers["WWW-Authenticate"] == 'Bearer realm="mmad", error="invalid_token"'
        assert presented[30:40] not in refused.text
    assert client.get("/who", headers=header).status_code == 200
    assert settings.api_keys_file
    keys.revoke(settings.api_keys_file, key_id)
    refused = client.get("/who", headers=header)
    assert (refused.status_code, refused.json()["code"]) == (401, "key_unknown")


def test_open_routes_stay_open(client: TestClient) -> None:
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert "RateLimit-Policy" not in answer.headers


def test_on_loopback_everybody_is_nobody_without_limits(tmp_path: Path, connection: Redis) -> None:
    with TestClient(make_app(Settings(data_dir=tmp_path, requests_per_minute=1), connection)) as client:
        for header in ({}, {"Authorization": "Bearer whatever"}):
            answer = client.get("/who", headers=header)
            assert answer.json() == {"owner": ANONYMOUS_OWNER}
            assert "RateLimit-Policy" not in answer.headers
    assert connection.keys() == []


def test_every_keyed_answer_says_what_is_left(client: TestClient, settings: Settings, jobs: Jobs) -> None:
    client.app.state.jobs = jobs  # type: ignore[attr-defined]
    _, header = new_key(settings)
    for path, status, remaining in (("/who", 200, 2), ("/stream", 200, 1), ("/jobs/x", 404, 0)):
        answer = client.get(path, headers=header)
        assert answer.status_code == status
        assert parameters(answer.headers["RateLimit-Policy"]) == {"q": 3, "w": 60}
        left = parameters(answer.headers["RateLimit"])
        assert left["r"] == remaining
        assert 55 <= left["t"] <= 60
    refused = client.get("/who", headers=header)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert "MMAD_REQUESTS_PER_MINUTE" in refused.json()["detail"]
    assert parameters(refused.headers["RateLimit-Policy"]) == {"q": 3, "w": 60}
    left = parameters(refused.headers["RateLimit"])
    assert left == {"r": 0, "t": int(refused.headers["Retry-After"])}


def test_after_retry_after_it_goes_on(client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    _, header = new_key(settings)
    start_s, real = time.time(), time.time
    later_s = 0.0
    monkeypatch.setattr(time, "time", lambda: real() + later_s)
    for later_s in (0.0, 20.0, 20.0):  # noqa: B007 - the clock reads it
        assert client.get("/who", headers=header).status_code == 200
    wait_s = int(client.get("/who", headers=header).headers["Retry-After"])
    assert 35 <= wait_s <= 40
    later_s = 20.0 + wait_s - 2
    assert client.get("/who", headers=header).status_code == 429
    later_s = 20.0 + wait_s
    answer = client.get("/who", headers=header)
    assert answer.status_code == 200
    assert parameters(answer.headers["RateLimit"])["r"] == 0  # one place was free, the other two not yet
    assert real() - start_s < 30, "the machine was too slow for this test to mean anything"


def test_each_key_has_its_own_rate_and_all_processes_count_together(
    redis_url: str, connection: Redis, settings: Settings
) -> None:
    (_, alice), (_, bob), (_, quick) = (new_key(settings), new_key(settings), new_key(settings, requests_per_minute=4))
    with (
        Redis.from_url(redis_url) as second,
        TestClient(make_app(settings, connection)) as one,
        TestClient(make_app(settings, second)) as other,
    ):
        assert [api.get("/who", headers=alice).status_code for api in (one, other, one)] == [200] * 3
        assert [api.get("/who", headers=alice).status_code for api in (one, other)] == [429] * 2
        assert other.get("/who", headers=bob).status_code == 200
        assert [other.get("/who", headers=quick).status_code for _ in range(5)] == [200] * 4 + [429]


@pytest.fixture
def away(settings: Settings) -> Iterator[tuple[Path, TestClient]]:
    """Where a Redis would listen if it ran, and an application that counts there."""
    with (
        tempfile.TemporaryDirectory(prefix="mmad-") as folder,
        Redis.from_url(f"unix://{folder}/redis.sock") as connection,
        TestClient(make_app(settings, connection)) as client,
    ):
        yield Path(folder), client


def test_while_redis_is_away_requests_pass_and_one_line_says_so(
    away: tuple[Path, TestClient], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "PAUSE_S", 0.0)
    folder, client = away
    key_id, header = new_key(settings)
    with capture_logs() as lines:
        for _ in range(5):
            answer = client.get("/who", headers=header)
            assert answer.json() == {"owner": key_id}
            assert parameters(answer.headers["RateLimit-Policy"])["q"] == 3
            assert "RateLimit" not in answer.headers
        assert events(lines) == ["requests_not_limited"]
        with private_redis(folder):
            assert parameters(client.get("/who", headers=header).headers["RateLimit"])["r"] == 2
            assert events(lines)[1:] == ["requests_limited_again"]
        assert client.get("/who", headers=header).status_code == 200
        assert events(lines)[2:] == ["requests_not_limited"]


def test_a_redis_that_is_away_is_left_alone_for_a_while(
    away: tuple[Path, TestClient], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "PAUSE_S", 1000.0)
    folder, client = away
    _, header = new_key(settings)
    client.get("/who", headers=header)
    with private_redis(folder):
        assert "RateLimit" not in client.get("/who", headers=header).headers
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 2000)
        assert "RateLimit" in client.get("/who", headers=header).headers
        monkeypatch.undo()  # stopping Redis looks at the clock


def test_no_line_of_the_log_holds_a_key(
    client: TestClient, settings: Settings, connection: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    key_id, header = new_key(settings)
    secret = header["Authorization"].rpartition(key_id)[2][1:]
    assert settings.api_keys_file
    with capture_logs() as lines:
        for _ in range(4):
            client.get("/who", headers=header)
        keys.revoke(settings.api_keys_file, key_id)
        client.get("/who", headers=header)
        Auth(settings, connection)
        settings.api_keys_file.write_text(header["Authorization"])
        client.get("/who", headers=header)
    assert events(lines) == ["no_keys", "keys_unreadable"]
    assert secret not in str(lines) + caplog.text
    stored = b"".join(name + b"".join(connection.lrange(name, 0, -1)) for name in connection.scan_iter())
    assert key_id.encode() in stored
    assert secret.encode() not in stored


def test_keys_that_cannot_be_read_let_nobody_in(client: TestClient, settings: Settings) -> None:
    _, header = new_key(settings)
    assert client.get("/who", headers=header).status_code == 200
    assert settings.api_keys_file
    whole = settings.api_keys_file.read_bytes()
    settings.api_keys_file.write_text("{")
    with capture_logs() as lines:
        for _ in range(3):
            answer = client.get("/who", headers=header)
            assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
            assert "keys.json" not in answer.text
    assert events(lines) == ["keys_unreadable"]
    assert "keys.json" in lines[0]["why"]
    settings.api_keys_file.write_bytes(whole)
    assert client.get("/who", headers=header).status_code == 200


def test_a_broken_file_is_told_at_the_start(settings: Settings, connection: Redis) -> None:
    assert settings.api_keys_file
    settings.api_keys_file.write_text("[]")
    with pytest.raises(KeysError, match="is no file of keys"):
        Auth(settings, connection)


ALICE = Caller("0123abcd", Limits(requests_per_minute=9, max_jobs=3, max_stored_bytes=1000))
BOB = Caller("fedc9876", ALICE.limits)


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(FolderStore(tmp_path / "store"))


@pytest.fixture
def auth(settings: Settings, connection: Redis) -> Auth:
    return Auth(settings, connection)


def send(jobs: Jobs, size: int, *, keep: bool = False, owner: str = ALICE.owner) -> Record:
    job_id, upload = new_job_id(), Upload(bytes=size, sha256="0" * 64)
    jobs.store.put(job_key(job_id, "video"), bytes(size))
    return jobs.create(job_id, upload, JobOptions(keep_video=keep), retention_s=60, owner=owner)


def refusal(auth: Auth, jobs: Jobs, coming_bytes: int, count: int, caller: Caller = ALICE) -> Problem | None:
    try:
        auth.check_limits(caller, jobs, coming_bytes, count)
    except Problem as problem:
        return problem
    return None


def test_unfinished_jobs_are_limited(auth: Auth, jobs: Jobs) -> None:
    first, _ = send(jobs, 1), send(jobs, 1)
    for _ in range(4):  # what has ended does not count, nor what another sends
        jobs.cancel(send(jobs, 1, keep=True).id)
        send(jobs, 1, owner="00000000")
    assert refusal(auth, jobs, 1, 1) is None
    problem = refusal(auth, jobs, 1, 2)
    assert problem is not None
    assert problem.code == "too_many_jobs"
    for word in ("2 unfinished jobs", "2 more", "limit is 3", "MMAD_MAX_JOBS_PER_KEY", "cancel"):
        assert word in problem.detail
    assert refusal(auth, jobs, 1, 2, BOB) is None
    assert refusal(auth, jobs, 10**9, 10**9, Caller(ANONYMOUS_OWNER, None)) is None
    jobs.cancel(first.id)
    assert refusal(auth, jobs, 1, 2) is None


def test_stored_bytes_are_limited_and_each_video_counts_once(auth: Auth, jobs: Jobs) -> None:
    kept, _ = send(jobs, 400, keep=True), send(jobs, 200)
    send(jobs, 900, owner=BOB.owner)
    assert refusal(auth, jobs, 400, 1) is None
    problem = refusal(auth, jobs, 401, 1)
    assert problem is not None
    assert problem.code == "storage_full"
    for word in ("600 bytes", "401 more", "limit is 1000", "MMAD_MAX_STORED_BYTES_PER_KEY", "delete"):
        assert word in problem.detail
    ended = jobs.cancel(kept.id)
    assert refusal(auth, jobs, 401, 1) is not None  # it has ended, and is kept
    jobs.remove(ended, "deleted")
    assert refusal(auth, jobs, 800, 1) is None
    jobs.cancel(send(jobs, 800, keep=True).id)
    assert refusal(auth, jobs, 0, 1) is None  # full to the brim, and no length known yet
    assert refusal(auth, jobs, 1, 1) is not None


def test_a_job_belongs_to_its_key(client: TestClient, settings: Settings, jobs: Jobs) -> None:
    (alice, alice_header), (_, bob_header) = new_key(settings), new_key(settings)
    record = send(jobs, 1, owner=alice)
    client.app.state.jobs = jobs  # type: ignore[attr-defined]
    assert client.get(f"/jobs/{record.id}", headers=alice_header).json() == {"id": record.id}
    refused = client.get(f"/jobs/{record.id}", headers=bob_header)
    assert (refused.status_code, refused.json()["code"]) == (404, "job_not_found")
    assert refused.json()["detail"] == client.get(f"/jobs/{'0' * 32}", headers=bob_header).json()["detail"].replace(
        "0" * 32, record.id
    )


def test_what_could_never_fit_is_not_told_to_come_again(auth: Auth, jobs: Jobs) -> None:
    assert refusal(auth, jobs, 1000, 3) is None
    many, large = refusal(auth, jobs, 0, 4), refusal(auth, jobs, 1001, 1)
    assert many is not None
    assert large is not None
    assert (many.code, large.code) == ("too_many_files", "upload_too_large")
    assert CATALOGUE[many.code].retry_after_s is CATALOGUE[large.code].retry_after_s is None


def test_a_key_may_have_its_own_limits(auth: Auth, settings: Settings) -> None:
    _, own = new_key(settings, max_jobs=5, requests_per_minute=70)
    _, none = new_key(settings)
    assert auth.authenticate(own["Authorization"][7:]).limits == Limits(70, 5, settings.max_stored_bytes_per_key)
    assert auth.authenticate(none["Authorization"][7:]).limits == Limits(
        3, settings.max_jobs_per_key, settings.max_stored_bytes_per_key
    )


PREFLIGHT = {
    "Origin": "https://app.example.org",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,prefer,last-event-id",
}


def test_pages_of_named_origins_may_call(tmp_path: Path, connection: Redis) -> None:
    settings = Settings(
        data_dir=tmp_path, api_keys_file=tmp_path / "keys.json", cors_origins=["https://app.example.org"]
    )
    _, header = new_key(settings)
    with TestClient(make_app(settings, connection)) as client:
        asked = client.options("/who", headers=PREFLIGHT)  # without a key: browsers send none here
        assert asked.status_code == 200
        assert asked.headers["Access-Control-Allow-Origin"] == "https://app.example.org"
        assert {"GET", "POST", "DELETE"} <= set(asked.headers["Access-Control-Allow-Methods"].split(", "))
        answer = client.get("/who", headers=header | {"Origin": "https://app.example.org"})
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example.org"
        shown = set(answer.headers["Access-Control-Expose-Headers"].split(", "))
        assert {"Location", "Retry-After", "RateLimit", "RateLimit-Policy", "Idempotency-Replayed"} <= shown
        refused = client.get("/who", headers={"Origin": "https://app.example.org"})
        assert refused.status_code == 401
        assert refused.headers["Access-Control-Allow-Origin"] == "https://app.example.org"  # the page can read it
        assert client.options("/who", headers=PREFLIGHT | {"Origin": "https://evil.example"}).status_code == 400
        other = client.get("/who", headers=header | {"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in other.headers


def test_without_the_setting_no_page_may(client: TestClient) -> None:
    assert client.options("/who", headers=PREFLIGHT).status_code == 405
    assert "Access-Control-Allow-Origin" not in client.get("/healthz", headers=PREFLIGHT).headers


def test_the_description_names_the_header(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["paths"]["/who"]["get"]["security"] == [{"key": []}]
    assert "security" not in document["paths"]["/healthz"]["get"]
