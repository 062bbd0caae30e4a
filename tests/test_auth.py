"""Authentication, rate limits, limits per key and CORS, with a small application and a real Redis."""

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
    """Make an application wired like the service, with a route per kind of response."""
    app = FastAPI()
    app.state.app_state = SimpleNamespace(auth=Auth(settings, connection))
    app.add_middleware(RequestLog, on_response=lambda *_: None)
    add_cors(app, settings)

    @app.get("/caller")
    def show_caller(caller: Annotated[Caller, Depends(get_caller)]) -> dict[str, Any]:
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
    """Return the logged events, except for requests."""
    return [line["event"] for line in lines if line["event"] != "request"]


@pytest.fixture
def client(settings: Settings, connection: Redis) -> Iterator[TestClient]:
    with TestClient(make_app(settings, connection)) as client:
        yield client


def new_key(settings: Settings, **limits: int) -> tuple[str, dict[str, str]]:
    """Create a key; returns its id and its request header."""
    assert settings.api_keys_file
    entry, key = keys.create(settings.api_keys_file, "alice", OwnLimits(**limits))
    return entry.id, {"Authorization": f"Bearer {key}"}


def parameters(field: str) -> dict[str, int]:
    """Parse `"requests";a=1;b=2`."""
    name, *rest = field.split(";")
    assert name == '"requests"'
    return {part.split("=")[0]: int(part.split("=")[1]) for part in rest}


def test_key_identifies_caller(client: TestClient, settings: Settings) -> None:
    (alice, alice_header), (bob, bob_header) = new_key(settings), new_key(settings)
    assert client.get("/caller", headers=alice_header).json() == {"owner": alice}
    assert client.get("/caller", headers=bob_header).json() == {"owner": bob}
    lower_case = {"authorization": alice_header["Authorization"].replace("Bearer", "bearer")}
    assert client.get("/caller", headers=lower_case).json() == {"owner": alice}


@pytest.mark.parametrize("authorization", [None, "Basic YTpi", "Bearer", "Bearer ", "mmad_0123abcd_x"])
def test_request_without_key_is_refused(client: TestClient, authorization: str | None) -> None:
    refused = client.get("/caller", headers={"Authorization": authorization} if authorization else {})
    assert (refused.status_code, refused.json()["code"]) == (401, "key_missing")
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="mmad"'
    assert "RateLimit" not in refused.headers


def test_wrong_or_revoked_key_is_refused(client: TestClient, settings: Settings) -> None:
    key_id, header = new_key(settings)
    presented = header["Authorization"]
    for wrong in (presented[:-1] + ("a" if presented[-1] != "a" else "b"), "Bearer x", "Bearer mmad_é"):
        refused = client.get("/caller", headers={"Authorization": wrong.encode("latin-1")})
        assert (refused.status_code, refused.json()["code"]) == (401, "key_unknown")
        assert refused.headers["WWW-Authenticate"] == 'Bearer realm="mmad", error="invalid_token"'
        assert presented[30:40] not in refused.text
    assert client.get("/caller", headers=header).status_code == 200
    assert settings.api_keys_file
    keys.revoke(settings.api_keys_file, key_id)
    refused = client.get("/caller", headers=header)
    assert (refused.status_code, refused.json()["code"]) == (401, "key_unknown")


def test_healthz_needs_no_key(client: TestClient) -> None:
    response = client.get("/healthz")
    assert response.status_code == 200
    assert "RateLimit-Policy" not in response.headers


def test_without_keys_file_callers_are_anonymous_and_unlimited(tmp_path: Path, connection: Redis) -> None:
    with TestClient(make_app(Settings(data_dir=tmp_path, requests_per_minute=1), connection)) as client:
        for header in ({}, {"Authorization": "Bearer whatever"}):
            response = client.get("/caller", headers=header)
            assert response.json() == {"owner": ANONYMOUS_OWNER}
            assert "RateLimit-Policy" not in response.headers
    assert connection.keys() == []


def test_rate_limit_headers_count_down_to_429(client: TestClient, settings: Settings, jobs: Jobs) -> None:
    client.app.state.jobs = jobs  # type: ignore[attr-defined]
    _, header = new_key(settings)
    for path, status, remaining in (("/caller", 200, 2), ("/stream", 200, 1), ("/jobs/x", 404, 0)):
        response = client.get(path, headers=header)
        assert response.status_code == status
        assert parameters(response.headers["RateLimit-Policy"]) == {"q": 3, "w": 60}
        rate_limit = parameters(response.headers["RateLimit"])
        assert rate_limit["r"] == remaining
        assert 55 <= rate_limit["t"] <= 60
    refused = client.get("/caller", headers=header)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert "MMAD_REQUESTS_PER_MINUTE" in refused.json()["detail"]
    assert parameters(refused.headers["RateLimit-Policy"]) == {"q": 3, "w": 60}
    rate_limit = parameters(refused.headers["RateLimit"])
    assert rate_limit == {"r": 0, "t": int(refused.headers["Retry-After"])}


def test_request_succeeds_after_retry_after(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, header = new_key(settings)
    start_s, real_time = time.time(), time.time
    later_s = 0.0
    monkeypatch.setattr(time, "time", lambda: real_time() + later_s)
    for later_s in (0.0, 20.0, 20.0):  # noqa: B007 - the clock reads it
        assert client.get("/caller", headers=header).status_code == 200
    wait_s = int(client.get("/caller", headers=header).headers["Retry-After"])
    assert 35 <= wait_s <= 40
    later_s = 20.0 + wait_s - 2
    assert client.get("/caller", headers=header).status_code == 429
    later_s = 20.0 + wait_s
    response = client.get("/caller", headers=header)
    assert response.status_code == 200
    assert parameters(response.headers["RateLimit"])["r"] == 0  # one request has left the window, two have not
    assert real_time() - start_s < 30, "the machine was too slow for this test to mean anything"


def test_rate_limit_is_per_key_and_shared_by_processes(redis_url: str, connection: Redis, settings: Settings) -> None:
    (_, alice), (_, bob), (_, fast) = (new_key(settings), new_key(settings), new_key(settings, requests_per_minute=4))
    with (
        Redis.from_url(redis_url) as other_connection,
        TestClient(make_app(settings, connection)) as first,
        TestClient(make_app(settings, other_connection)) as second,
    ):
        assert [api.get("/caller", headers=alice).status_code for api in (first, second, first)] == [200] * 3
        assert [api.get("/caller", headers=alice).status_code for api in (first, second)] == [429] * 2
        assert second.get("/caller", headers=bob).status_code == 200
        assert [second.get("/caller", headers=fast).status_code for _ in range(5)] == [200] * 4 + [429]


@pytest.fixture
def unavailable_redis(settings: Settings) -> Iterator[tuple[Path, TestClient]]:
    """The folder of a Redis that does not run, and a client of an application that uses it."""
    with (
        tempfile.TemporaryDirectory(prefix="mmad-") as folder,
        Redis.from_url(f"unix://{folder}/redis.sock") as connection,
        TestClient(make_app(settings, connection)) as client,
    ):
        yield Path(folder), client


def test_requests_pass_while_redis_is_unavailable(
    unavailable_redis: tuple[Path, TestClient], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "PAUSE_S", 0.0)
    folder, client = unavailable_redis
    key_id, header = new_key(settings)
    with capture_logs() as lines:
        for _ in range(5):
            response = client.get("/caller", headers=header)
            assert response.json() == {"owner": key_id}
            assert parameters(response.headers["RateLimit-Policy"])["q"] == 3
            assert "RateLimit" not in response.headers
        assert events(lines) == ["requests_not_limited"]
        with private_redis(folder):
            assert parameters(client.get("/caller", headers=header).headers["RateLimit"])["r"] == 2
            assert events(lines)[1:] == ["requests_limited_again"]
        assert client.get("/caller", headers=header).status_code == 200
        assert events(lines)[2:] == ["requests_not_limited"]


def test_circuit_breaker_pauses_rate_limits(
    unavailable_redis: tuple[Path, TestClient], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "PAUSE_S", 1000.0)
    folder, client = unavailable_redis
    _, header = new_key(settings)
    client.get("/caller", headers=header)
    with private_redis(folder):
        assert "RateLimit" not in client.get("/caller", headers=header).headers
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 2000)
        assert "RateLimit" in client.get("/caller", headers=header).headers
        monkeypatch.undo()  # stopping Redis uses the clock


def test_log_and_redis_do_not_contain_keys(
    client: TestClient, settings: Settings, connection: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    key_id, header = new_key(settings)
    secret = header["Authorization"].rpartition(key_id)[2][1:]
    assert settings.api_keys_file
    with capture_logs() as lines:
        for _ in range(4):
            client.get("/caller", headers=header)
        keys.revoke(settings.api_keys_file, key_id)
        client.get("/caller", headers=header)
        Auth(settings, connection)
        settings.api_keys_file.write_text(header["Authorization"])
        client.get("/caller", headers=header)
    assert events(lines) == ["no_keys", "keys_unreadable"]
    assert secret not in str(lines) + caplog.text
    stored = b"".join(name + b"".join(connection.lrange(name, 0, -1)) for name in connection.scan_iter())
    assert key_id.encode() in stored
    assert secret.encode() not in stored


def test_unreadable_keys_file_refuses_all_requests(client: TestClient, settings: Settings) -> None:
    _, header = new_key(settings)
    assert client.get("/caller", headers=header).status_code == 200
    assert settings.api_keys_file
    content = settings.api_keys_file.read_bytes()
    settings.api_keys_file.write_text("{")
    with capture_logs() as lines:
        for _ in range(3):
            response = client.get("/caller", headers=header)
            assert (response.status_code, response.json()["code"]) == (500, "internal_error")
            assert "keys.json" not in response.text
    assert events(lines) == ["keys_unreadable"]
    assert "keys.json" in lines[0]["why"]
    settings.api_keys_file.write_bytes(content)
    assert client.get("/caller", headers=header).status_code == 200


def test_invalid_keys_file_fails_at_start(settings: Settings, connection: Redis) -> None:
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


def make_job(jobs: Jobs, size: int, *, keep: bool = False, owner: str = ALICE.owner) -> Record:
    job_id, upload = new_job_id(), Upload(bytes=size, sha256="0" * 64)
    jobs.store.put(job_key(job_id, "video"), bytes(size))
    return jobs.create(job_id, upload, JobOptions(keep_video=keep), retention_s=60, owner=owner)


def check_limits(auth: Auth, jobs: Jobs, upload_bytes: int, count: int, caller: Caller = ALICE) -> Problem | None:
    try:
        auth.check_limits(caller, jobs, upload_bytes, count)
    except Problem as problem:
        return problem
    return None


def test_unfinished_jobs_per_key_are_limited(auth: Auth, jobs: Jobs) -> None:
    first, _ = make_job(jobs, 1), make_job(jobs, 1)
    for _ in range(4):  # neither ended jobs nor those of other keys count
        jobs.cancel(make_job(jobs, 1, keep=True).id)
        make_job(jobs, 1, owner="00000000")
    assert check_limits(auth, jobs, 1, 1) is None
    problem = check_limits(auth, jobs, 1, 2)
    assert problem is not None
    assert problem.code == "too_many_jobs"
    for word in ("2 unfinished jobs", "2 more", "limit is 3", "MMAD_MAX_JOBS_PER_KEY", "cancel"):
        assert word in problem.detail
    assert check_limits(auth, jobs, 1, 2, BOB) is None
    assert check_limits(auth, jobs, 10**9, 10**9, Caller(ANONYMOUS_OWNER, None)) is None
    jobs.cancel(first.id)
    assert check_limits(auth, jobs, 1, 2) is None


def test_stored_bytes_per_key_are_limited(auth: Auth, jobs: Jobs) -> None:
    retained, _ = make_job(jobs, 400, keep=True), make_job(jobs, 200)
    make_job(jobs, 900, owner=BOB.owner)
    assert check_limits(auth, jobs, 400, 1) is None
    problem = check_limits(auth, jobs, 401, 1)
    assert problem is not None
    assert problem.code == "storage_full"
    for word in ("600 bytes", "401 more", "limit is 1000", "MMAD_MAX_STORED_BYTES_PER_KEY", "delete"):
        assert word in problem.detail
    ended = jobs.cancel(retained.id)
    assert check_limits(auth, jobs, 401, 1) is not None  # ended, but its video is retained
    jobs.remove(ended, "deleted")
    assert check_limits(auth, jobs, 800, 1) is None
    jobs.cancel(make_job(jobs, 800, keep=True).id)
    assert check_limits(auth, jobs, 0, 1) is None  # at the limit, upload of unknown length
    assert check_limits(auth, jobs, 1, 1) is not None


def test_job_of_other_key_reports_not_found(client: TestClient, settings: Settings, jobs: Jobs) -> None:
    (alice, alice_header), (_, bob_header) = new_key(settings), new_key(settings)
    record = make_job(jobs, 1, owner=alice)
    client.app.state.jobs = jobs  # type: ignore[attr-defined]
    assert client.get(f"/jobs/{record.id}", headers=alice_header).json() == {"id": record.id}
    refused = client.get(f"/jobs/{record.id}", headers=bob_header)
    assert (refused.status_code, refused.json()["code"]) == (404, "job_not_found")
    assert refused.json()["detail"] == client.get(f"/jobs/{'0' * 32}", headers=bob_header).json()["detail"].replace(
        "0" * 32, record.id
    )


def test_request_above_limits_has_no_retry_after(auth: Auth, jobs: Jobs) -> None:
    assert check_limits(auth, jobs, 1000, 3) is None
    many, large = check_limits(auth, jobs, 0, 4), check_limits(auth, jobs, 1001, 1)
    assert many is not None
    assert large is not None
    assert (many.code, large.code) == ("too_many_files", "upload_too_large")
    assert CATALOGUE[many.code].retry_after_s is CATALOGUE[large.code].retry_after_s is None


def test_own_limits_of_key_override_settings(auth: Auth, settings: Settings) -> None:
    _, own = new_key(settings, max_jobs=5, requests_per_minute=70)
    _, default = new_key(settings)
    assert auth.authenticate(own["Authorization"][7:]).limits == Limits(70, 5, settings.max_stored_bytes_per_key)
    assert auth.authenticate(default["Authorization"][7:]).limits == Limits(
        3, settings.max_jobs_per_key, settings.max_stored_bytes_per_key
    )


PREFLIGHT = {
    "Origin": "https://app.example.org",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,prefer,last-event-id",
}


def test_cors_allows_configured_origins(tmp_path: Path, connection: Redis) -> None:
    settings = Settings(
        data_dir=tmp_path, api_keys_file=tmp_path / "keys.json", cors_origins=["https://app.example.org"]
    )
    _, header = new_key(settings)
    with TestClient(make_app(settings, connection)) as client:
        preflight = client.options("/caller", headers=PREFLIGHT)  # browsers send no key
        assert preflight.status_code == 200
        assert preflight.headers["Access-Control-Allow-Origin"] == "https://app.example.org"
        assert {"GET", "POST", "DELETE"} <= set(preflight.headers["Access-Control-Allow-Methods"].split(", "))
        response = client.get("/caller", headers=header | {"Origin": "https://app.example.org"})
        assert response.headers["Access-Control-Allow-Origin"] == "https://app.example.org"
        exposed = set(response.headers["Access-Control-Expose-Headers"].split(", "))
        assert {"Location", "Retry-After", "RateLimit", "RateLimit-Policy", "Idempotency-Replayed"} <= exposed
        refused = client.get("/caller", headers={"Origin": "https://app.example.org"})
        assert refused.status_code == 401
        assert refused.headers["Access-Control-Allow-Origin"] == "https://app.example.org"
        assert client.options("/caller", headers=PREFLIGHT | {"Origin": "https://evil.example"}).status_code == 400
        other = client.get("/caller", headers=header | {"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in other.headers


def test_cors_is_off_by_default(client: TestClient) -> None:
    assert client.options("/caller", headers=PREFLIGHT).status_code == 405
    assert "Access-Control-Allow-Origin" not in client.get("/healthz", headers=PREFLIGHT).headers


def test_openapi_declares_bearer_authentication(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["paths"]["/caller"]["get"]["security"] == [{"key": []}]
    assert "security" not in document["paths"]["/healthz"]["get"]
