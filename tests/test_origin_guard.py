"""Protection of a service without keys against DNS rebinding and cross-origin requests."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pydantic import ValidationError
from starlette.testclient import TestClient

from service import keys
from service.app import build_app
from service.app_state import AppState
from service.auth import Auth
from service.jobs import JobOptions, Upload, new_job_id
from service.keys import OwnLimits
from service.origin_guard import allowed_hosts
from service.queue import connect
from service.settings import Settings
from tests.conftest import Service
from tests.fake_service import VIDEO, assert_problem, stored_files

BASE_URL = "http://127.0.0.1:8000"


@contextmanager
def make_client(app_state: AppState, base_url: str = BASE_URL, **changed: Any) -> Iterator[TestClient]:
    """Make a client of an app with changed settings."""
    app_state.settings = app_state.settings.model_copy(update=changed)
    with TestClient(build_app(app_state), base_url, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(app_state: AppState) -> Iterator[TestClient]:
    with make_client(app_state) as client:
        yield client


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "localhost:8000", "LocalHost", "[::1]", "[::1]:8000", "127.0.0.1:"]
)
def test_loopback_hosts_are_accepted(client: TestClient, host: str) -> None:
    assert client.get("/jobs", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example", "rebound.example:8000", "localhost.rebound.example", "127.0.0.1.rebound.example",
        "xlocalhost", "192.168.1.2:8000", "0.0.0.0:8000", "[::2]:8000", "::1", "", "127.0.0.1:8000:1", "*",
        "rebound.example/healthz?", "rebound.example@127.0.0.1", "127.0.0.1@rebound.example", "[",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/jobs", "/docs", "/", "/openapi.json", "/nothing/here"])
def test_other_hosts_are_refused(client: TestClient, host: str, path: str) -> None:
    response = client.get(path, headers={"host": host}, follow_redirects=False)
    detail = assert_problem(response, "host_refused")
    for word in (repr(host or "none"), "localhost", "MMAD_ALLOWED_HOSTS", "MMAD_API_KEYS_FILE"):
        assert word in detail


def test_two_host_headers_are_refused(client: TestClient) -> None:
    for hosts in (("127.0.0.1", "rebound.example"), ("rebound.example", "127.0.0.1")):
        response = client.get("/jobs", headers=[("host", host) for host in hosts])
        assert_problem(response, "host_refused")


def test_long_host_is_shortened_in_the_error(client: TestClient) -> None:
    response = client.get("/jobs", headers={"host": "x" * 5000})
    assert len(assert_problem(response, "host_refused")) < 600


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_checks_accept_any_host(client: TestClient, path: str) -> None:
    response = client.get(path, headers={"host": "10.1.2.3:8000"})
    assert response.status_code == {"/healthz": 200, "/readyz": 503}[path]
    assert "code" not in response.json()
    assert_problem(client.get(path + "/", headers={"host": "10.1.2.3:8000"}), "host_refused")


def test_allowed_hosts_setting_replaces_the_default_hosts(app_state: AppState) -> None:
    with make_client(app_state, allowed_hosts=["Api", "[2001:db8::1]"]) as client:
        for host in ("api:8000", "API", "[2001:DB8::1]:8000", BASE_URL[7:]):
            assert client.get("/jobs", headers={"host": host}).status_code == 200, host
        assert_problem(client.get("/jobs", headers={"host": "localhost"}), "host_refused")
    with make_client(app_state, allowed_hosts=["*"]) as client:
        assert client.get("/jobs", headers={"host": "rebound.example"}).status_code == 200
        assert client.post("/detect", content=VIDEO, headers={"host": "["}).status_code == 202
        response = client.post("/detect", content=VIDEO, headers={"host": "[", "origin": "http://["})
        assert_problem(response, "origin_refused")


@pytest.mark.parametrize(
    ("host", "added"),
    [
        ("127.0.0.1", ["127.0.0.1"]), ("192.168.1.2", ["192.168.1.2"]), ("lab.example.org", ["lab.example.org"]),
        ("::1", ["[::1]"]), ("fd00::7", ["[fd00::7]"]), ("0.0.0.0", []), ("::", []), ("", []),
    ],
)  # fmt: skip
def test_listen_address_is_an_allowed_host(host: str, added: list[str]) -> None:
    assert allowed_hosts(Settings(host=host, allowed_hosts=["a"])) == ["a", *added]


@pytest.mark.parametrize("host", ["localhost:8000", "http://localhost", "::1", "", "a b", "*.example.org", "a,b"])
def test_invalid_allowed_hosts_setting_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMAD_ALLOWED_HOSTS", json.dumps(["localhost", "[::1]", "*", "a-b.example"]))
    assert len(Settings().allowed_hosts) == 4
    monkeypatch.setenv("MMAD_ALLOWED_HOSTS", json.dumps([host]))
    with pytest.raises(ValidationError, match="allowed_hosts"):
        Settings()


def queued_job(app_state: AppState) -> str:
    job_id = new_job_id()
    app_state.jobs.create(job_id, Upload(bytes=1, sha256="0"), JobOptions(), retention_s=60)
    return job_id


FOREIGN_ORIGINS = [
    "https://page.example", "null", "", "http://127.0.0.1", "http://127.0.0.1:8001", "https://127.0.0.1:8000",
    "http://localhost:8000", "http://127.0.0.1:8000.page.example", "http://127.0.0.1:8000/", "*",
]  # fmt: skip


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_foreign_origin_cannot_change_anything(client: TestClient, app_state: AppState, origin: str) -> None:
    job_id = queued_job(app_state)
    before = stored_files(app_state)
    headers = {"origin": origin}
    response = client.post("/detect", files={"file": ("x.mp4", VIDEO)}, headers=headers)
    detail = assert_problem(response, "origin_refused")
    for word in (repr(origin), BASE_URL, "MMAD_CORS_ORIGINS"):
        assert word in detail
    for method, path in (
        ("POST", f"/jobs/{job_id}/cancel"),
        ("DELETE", f"/jobs/{job_id}"),
        ("POST", f"/jobs/{job_id}/webhook/resend"),
        ("PUT", "/jobs"),
    ):
        assert_problem(client.request(method, path, headers=headers), "origin_refused")
    assert stored_files(app_state) == before
    assert app_state.jobs.get(job_id).state == "queued"


def test_foreign_origin_gets_no_cors_headers(client: TestClient) -> None:
    response = client.get("/jobs", headers={"origin": "https://page.example"})
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers
    assert client.head("/jobs", headers={"origin": "https://page.example"}).status_code == 200


def test_same_origin_and_missing_origin_are_accepted(client: TestClient) -> None:
    assert client.post("/detect", content=VIDEO).status_code == 202  # as curl sends it
    assert client.post("/detect", content=VIDEO, headers={"origin": BASE_URL}).status_code == 202
    for host, origin in (("localhost:8000", "http://localhost:8000"), ("[::1]:80", "http://[::1]")):
        response = client.post("/detect", content=VIDEO, headers={"host": host, "origin": origin})
        assert response.status_code == 202, host
    two_origins = [("origin", BASE_URL), ("origin", "https://page.example")]
    assert_problem(client.post("/detect", content=VIDEO, headers=two_origins), "origin_refused")


def test_same_origin_behind_tls_is_accepted(app_state: AppState) -> None:
    with make_client(app_state, "https://lab.example.org", allowed_hosts=["lab.example.org"]) as client:
        for origin in ("https://lab.example.org", None):
            headers = {"origin": origin} if origin else {}
            assert client.post("/detect", content=VIDEO, headers=headers).status_code == 202
        for origin in ("http://lab.example.org", "https://lab.example.org:80"):
            assert_problem(client.post("/detect", headers={"origin": origin}), "origin_refused")


def test_configured_cors_origins_are_accepted_after_preflight(app_state: AppState) -> None:
    page = {"origin": "https://app.example.org"}
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "prefer"}
    with make_client(app_state, cors_origins=[page["origin"]]) as client:
        response = client.options("/detect", headers=page | preflight)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == page["origin"]
        sent = client.post("/detect", content=VIDEO, headers=page)
        assert (sent.status_code, sent.headers["access-control-allow-origin"]) == (202, page["origin"])
        refused = client.get("/jobs", headers=page | {"host": "rebound.example"})
        assert_problem(refused, "host_refused")
        assert refused.headers["access-control-allow-origin"] == page["origin"]  # the page can read the error
        assert client.options("/detect", headers={"origin": "https://page.example"} | preflight).status_code == 400
        other = client.post("/detect", content=VIDEO, headers={"origin": "https://page.example"})
        assert_problem(other, "origin_refused")
    with make_client(app_state, cors_origins=["*"]) as client:
        for origin in ("https://page.example", "null"):
            assert client.post("/detect", content=VIDEO, headers={"origin": origin}).status_code == 202


def test_api_keys_replace_host_and_origin_checks(app_state: AppState, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    _, key = keys.create(path, "alice", OwnLimits())
    keyed = app_state.settings.model_copy(update={"api_keys_file": path})
    app_state.auth = Auth(keyed, connect(keyed, retries=0))
    headers = {"host": "mmad.example.org", "origin": "https://page.example"}
    with make_client(app_state, api_keys_file=path) as client:
        assert_problem(client.post("/detect", content=VIDEO, headers=headers), "key_missing")
        sent = client.post("/detect", content=VIDEO, headers=headers | {"authorization": f"Bearer {key}"})
        assert sent.status_code == 202


def test_open_service_on_all_addresses_checks_the_host(app_state: AppState) -> None:
    with make_client(app_state, host="0.0.0.0", allow_open=True) as client:
        assert client.get("/jobs").status_code == 200
        assert_problem(client.get("/jobs", headers={"host": "0.0.0.0:8000"}), "host_refused")
        assert_problem(client.get("/jobs", headers={"host": "rebound.example"}), "host_refused")


def test_compose_file_allows_the_api_host(app_state: AppState) -> None:
    compose = yaml.safe_load((Path(__file__).parents[1] / "docker-compose.yml").read_text())
    hosts = json.loads(compose["services"]["api"]["environment"]["MMAD_ALLOWED_HOSTS"])
    assert hosts == [*Settings.model_fields["allowed_hosts"].default, "api"]


def test_openapi_documents_refused_hosts_and_origins(api_description: dict[str, Any]) -> None:
    for path, operations in api_description["paths"].items():
        for method, operation in operations.items():
            described = operation["responses"].get("403", {"description": ""})["description"]
            assert ("`host_refused`" in described) == (path not in ("/healthz", "/readyz")), (method, path)
            assert ("`origin_refused`" in described) == (method != "get"), (method, path)


def test_running_service_refuses_foreign_hosts_and_origins(service: Service) -> None:
    port = service.url.rsplit(":", 1)[1]
    with httpx.Client(base_url=service.url) as http:
        assert http.get("/jobs", headers={"host": f"localhost:{port}"}).status_code == 200
        assert_problem(http.get("/jobs", headers={"host": f"rebound.example:{port}"}), "host_refused")
        response = http.post("/detect", content=VIDEO, headers={"origin": "https://page.example"})
        assert_problem(response, "origin_refused")
