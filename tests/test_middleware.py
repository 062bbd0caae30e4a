"""What is done with every request: its id, one line in the log, an answer that a page may read even where all fails."""

import re
from typing import Any

import pytest
import structlog
from starlette.testclient import TestClient

from service.admission import Admission
from service.app import build_app
from service.app_state import AppState
from tests.fake_service import VIDEO, assert_problem, make_model_card, stored_files

PAGE = "https://app.example.org"


@pytest.fixture
def broken(app_state: AppState, monkeypatch: pytest.MonkeyPatch) -> AppState:
    def fail(*_: Any) -> None:
        raise RuntimeError("a secret path")

    monkeypatch.setattr(app_state.jobs, "get", fail)
    return app_state


@pytest.mark.parametrize("given", ["a", "interview-17", "A.b_c-9" * 9, "x" * 64])
def test_a_request_may_bring_its_id(api: TestClient, given: str) -> None:
    response = api.get("/jobs/none", headers={"x-request-id": given})
    assert response.headers["x-request-id"] == response.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "two words", "a\tb", "ü", "a;b", "{}"])
def test_an_id_that_is_none_is_replaced(api: TestClient, given: str) -> None:
    response = api.get("/jobs/none", headers={"x-request-id": given.encode()})
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_every_answer_has_an_id_of_its_own(api: TestClient) -> None:
    paths = ("/healthz", "/jobs", "/jobs/none", "/nothing", "/docs", "/static-offline-docs/swagger-ui.css")
    ids = [api.get(path).headers["x-request-id"] for path in paths]
    assert len(set(ids)) == len(paths)


def test_pages_may_read_that_something_went_wrong(broken: AppState) -> None:
    broken.settings = broken.settings.model_copy(update={"cors_origins": [PAGE]})
    with TestClient(build_app(broken), "http://127.0.0.1", raise_server_exceptions=False) as api:
        response = api.get("/jobs/x", headers={"origin": PAGE, "x-request-id": "seen"})
        asked = {"origin": PAGE, "access-control-request-method": "GET"}
        preflight = api.options("/jobs/x", headers=asked | {"access-control-request-headers": "x-request-id"})
    assert_problem(response, "internal_error")
    assert response.headers["access-control-allow-origin"] == PAGE
    assert "X-Request-ID" in response.headers["access-control-expose-headers"]
    assert response.headers["x-request-id"] == response.json()["request_id"] == "seen"
    assert preflight.is_success


def test_a_line_tells_of_a_request_and_of_nothing_that_its_caller_chose(api: TestClient) -> None:
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        api.post("/detect?tag=secret-tag", files={"file": ("secret-name.mp4", VIDEO)}, headers={"x-request-id": "one"})
        api.get("/secret-address?secret=query", headers={"authorization": "Bearer secret-key"})
        api.request("SECRET", "/jobs")
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["route"], line["method"], line["status"]) for line in requests] == [
        ("/detect", "POST", 202), ("other", "GET", 404), ("/jobs", "other", 405),
    ]  # fmt: skip
    assert requests[0]["request_id"] == "one"
    assert requests[0]["bytes_in"] > len(VIDEO)
    assert requests[0]["seconds"] >= 0
    assert "secret" not in str(lines).lower()


def test_what_is_logged_meanwhile_has_the_requests_id(broken: AppState) -> None:
    app = build_app(broken)
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        TestClient(app, "http://127.0.0.1").get("/jobs/x", headers={"x-request-id": "one"})
        TestClient(app, "http://127.0.0.1").get("/healthz", headers={"x-request-id": "two"})
        TestClient(app, "http://127.0.0.1").get("/docs", headers={"x-request-id": "three"})
    assert [(line["event"], line["request_id"]) for line in lines] == [
        ("request_failed", "one"), ("request", "one"), ("request", "three"),
    ]  # fmt: skip


def test_a_full_disk_anywhere_is_told(api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "/a/secret/path")

    monkeypatch.setattr(app_state.jobs.store, "compare_and_swap", full)
    job_id = api.post("/detect", content=VIDEO).json()["id"]
    response = api.post(f"/jobs/{job_id}/cancel")
    assert_problem(response, "disk_full")
    assert "secret" not in response.text
    assert response.headers["retry-after"] == "60"


def test_another_fault_of_the_disk_is_a_fault(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(app_state.jobs, "get", broken)
    assert_problem(api.get("/jobs/x"), "internal_error")


def test_a_full_queue_takes_nothing_more_until_a_job_has_ended(api: TestClient, app_state: AppState) -> None:
    def look_anew() -> None:
        few = app_state.settings.model_copy(update={"max_queued_jobs": 2})
        app_state.admission = Admission(app_state.store, app_state.jobs, few)

    first = api.post("/detect", content=VIDEO, headers={"idempotency-key": "a"}).json()["id"]
    api.post("/detect", content=VIDEO)
    before = stored_files(app_state)
    look_anew()
    refused = api.post("/detect", content=VIDEO)
    assert "MMAD_MAX_QUEUED_JOBS" in assert_problem(refused, "queue_full")
    assert refused.headers["retry-after"] == "10"
    assert stored_files(app_state) == before
    replayed = api.post("/detect", content=VIDEO, headers={"idempotency-key": "a"})
    assert (replayed.status_code, replayed.json()["id"]) == (202, first)
    api.post(f"/jobs/{first}/cancel")
    look_anew()
    assert api.post("/detect", content=VIDEO).status_code == 202


def test_readiness_writes_to_the_disk_once_a_second(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[None] = []
    monkeypatch.setattr(app_state.store, "check", lambda: looks.append(None))
    for _ in range(20):
        api.get("/readyz")
    assert 1 <= len(looks) < 20


def test_readiness_tells_how_the_decoder_is_shut_in(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_state.queue, "check", lambda: {"redis": "ok", "workers": "ok"})
    app_state.store.put("model.json", make_model_card().model_dump_json().encode())
    assert "sandbox" not in api.get("/readyz").json()["checks"]
    for told, shown in (("full: Landlock 7", "full: Landlock 7"), ("partial: no Landlock", "partial: no Landlock")):
        app_state.store.put("sandbox", told.encode())
        response = api.get("/readyz")
        assert response.json()["checks"]["sandbox"] == shown
        assert response.status_code == 200
