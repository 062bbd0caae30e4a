"""Middleware: request ids, request log, CORS of errors, full disk and readiness."""

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


@pytest.mark.parametrize("request_id", ["a", "interview-17", "A.b_c-9" * 9, "x" * 64])
def test_valid_request_id_is_used(api: TestClient, request_id: str) -> None:
    response = api.get("/jobs/none", headers={"x-request-id": request_id})
    assert response.headers["x-request-id"] == response.json()["request_id"] == request_id


@pytest.mark.parametrize("request_id", ["", "x" * 65, "two words", "a\tb", "ü", "a;b", "{}"])
def test_invalid_request_id_is_replaced(api: TestClient, request_id: str) -> None:
    response = api.get("/jobs/none", headers={"x-request-id": request_id.encode()})
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_every_response_has_unique_request_id(api: TestClient) -> None:
    paths = ("/healthz", "/jobs", "/jobs/none", "/nothing", "/docs", "/static-offline-docs/swagger-ui.css")
    ids = [api.get(path).headers["x-request-id"] for path in paths]
    assert len(set(ids)) == len(paths)


def test_internal_error_has_cors_headers(broken: AppState) -> None:
    broken.settings = broken.settings.model_copy(update={"cors_origins": [PAGE]})
    with TestClient(build_app(broken), "http://127.0.0.1", raise_server_exceptions=False) as api:
        response = api.get("/jobs/x", headers={"origin": PAGE, "x-request-id": "seen"})
        headers = {"origin": PAGE, "access-control-request-method": "GET"}
        preflight = api.options("/jobs/x", headers=headers | {"access-control-request-headers": "x-request-id"})
    assert_problem(response, "internal_error")
    assert response.headers["access-control-allow-origin"] == PAGE
    assert "X-Request-ID" in response.headers["access-control-expose-headers"]
    assert response.headers["x-request-id"] == response.json()["request_id"] == "seen"
    assert preflight.is_success


def test_request_log_has_no_content_chosen_by_caller(api: TestClient) -> None:
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


def test_log_lines_of_request_have_its_id(broken: AppState) -> None:
    app = build_app(broken)
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        TestClient(app, "http://127.0.0.1").get("/jobs/x", headers={"x-request-id": "one"})
        TestClient(app, "http://127.0.0.1").get("/healthz", headers={"x-request-id": "two"})
        TestClient(app, "http://127.0.0.1").get("/docs", headers={"x-request-id": "three"})
    assert [(line["event"], line["request_id"]) for line in lines] == [
        ("request_failed", "one"), ("request", "one"), ("request", "three"),
    ]  # fmt: skip


def test_full_disk_returns_disk_full(api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_disk_full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "/a/secret/path")

    monkeypatch.setattr(app_state.jobs.store, "compare_and_swap", raise_disk_full)
    job_id = api.post("/detect", content=VIDEO).json()["id"]
    response = api.post(f"/jobs/{job_id}/cancel")
    assert_problem(response, "disk_full")
    assert "secret" not in response.text
    assert response.headers["retry-after"] == "60"


def test_other_disk_error_returns_internal_error(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(app_state.jobs, "get", broken)
    assert_problem(api.get("/jobs/x"), "internal_error")


def test_full_queue_refuses_uploads_until_a_job_ends(api: TestClient, app_state: AppState) -> None:
    def renew_admission() -> None:
        settings = app_state.settings.model_copy(update={"max_queued_jobs": 2})
        app_state.admission = Admission(app_state.store, app_state.jobs, settings)

    first = api.post("/detect", content=VIDEO, headers={"idempotency-key": "a"}).json()["id"]
    api.post("/detect", content=VIDEO)
    before = stored_files(app_state)
    renew_admission()
    refused = api.post("/detect", content=VIDEO)
    assert "MMAD_MAX_QUEUED_JOBS" in assert_problem(refused, "queue_full")
    assert refused.headers["retry-after"] == "10"
    assert stored_files(app_state) == before
    replayed = api.post("/detect", content=VIDEO, headers={"idempotency-key": "a"})
    assert (replayed.status_code, replayed.json()["id"]) == (202, first)
    api.post(f"/jobs/{first}/cancel")
    renew_admission()
    assert api.post("/detect", content=VIDEO).status_code == 202


def test_readiness_caches_store_check(api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[None] = []
    monkeypatch.setattr(app_state.store, "check", lambda: checks.append(None))
    for _ in range(20):
        api.get("/readyz")
    assert 1 <= len(checks) < 20


def test_readiness_reports_sandbox(api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_state.queue, "check", lambda: {"redis": "ok", "workers": "ok"})
    app_state.store.put("model.json", make_model_card().model_dump_json().encode())
    assert "sandbox" not in api.get("/readyz").json()["checks"]
    for sandbox in ("full: Landlock 7", "partial: no Landlock"):
        app_state.store.put("sandbox", sandbox.encode())
        response = api.get("/readyz")
        assert response.json()["checks"]["sandbox"] == sandbox
        assert response.status_code == 200
