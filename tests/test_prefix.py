"""Path prefixes of reverse proxies, and HEAD requests."""

import asyncio
import os
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import httpx
import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from mmad.client import Client
from service.app import build_app
from service.app_state import AppState
from service.settings import Settings
from tests.api_process import running_api
from tests.conftest import wait_for
from tests.fake_service import VIDEO, make_finished_job, make_model_card

PROXY = ("127.0.0.1", 5000)


def make_client(
    app_state: AppState, root_path: str = "", client: tuple[str, int] = PROXY, **headers: str
) -> TestClient:
    app_state.settings = app_state.settings.model_copy(update={"root_path": root_path})
    app_state.root_path = root_path
    app = build_app(app_state)
    return TestClient(app, "http://127.0.0.1", client=client, headers=headers, follow_redirects=False)


@pytest.mark.parametrize("path_prefix", ["", "/lab/mmad"], ids=["stripped", "preserved"])
@pytest.mark.parametrize("source", ["setting", "header"])
def test_all_links_start_with_the_prefix(app_state: AppState, path_prefix: str, source: str) -> None:
    api = (
        make_client(app_state, "/lab/mmad")
        if source == "setting"
        else make_client(app_state, **{"X-Forwarded-Prefix": "/lab/mmad/"})
    )
    app_state.store.put("model.json", make_model_card().model_dump_json().encode())
    sent = api.post(f"{path_prefix}/detect", content=VIDEO)
    job_id = sent.json()["id"]
    assert sent.headers["location"] == sent.json()["links"]["self"] == f"/lab/mmad/jobs/{job_id}"
    batch = api.post(f"{path_prefix}/detect", files=[("file", VIDEO), ("file", VIDEO)])
    assert batch.headers["location"] == batch.json()["links"]["jobs"]
    assert batch.headers["location"].startswith("/lab/mmad/jobs?batch=")
    assert batch.json()["jobs"][1]["links"]["events"].startswith("/lab/mmad/jobs/")
    links = api.get(f"{path_prefix}/jobs/{job_id}").json()["links"].values()
    assert all(link.startswith(f"/lab/mmad/jobs/{job_id}") for link in links)
    assert api.get(f"{path_prefix}/jobs?limit=1").json()["jobs"][0]["links"]["self"].startswith("/lab/mmad/jobs/")
    assert f"/lab/mmad/jobs/{job_id} " in api.get(f"{path_prefix}/jobs/{job_id}/result").json()["detail"]
    api.post(f"{path_prefix}/jobs/{job_id}/cancel")
    assert f'"self":"/lab/mmad/jobs/{job_id}"' in api.get(f"{path_prefix}/jobs/{job_id}/events").text
    assert api.get(f"{path_prefix}/").headers["location"] == "/lab/mmad/docs"
    page = api.get(f"{path_prefix}/docs").text
    addresses = [
        address for address in re.findall(r"(?:href|src|url)[=:] ?[\"'](/[^\"']*)", page) if "oauth" not in address
    ]
    assert len(addresses) >= 3
    for address in addresses:
        assert address.startswith("/lab/mmad/")
        assert api.get(path_prefix + address.removeprefix("/lab/mmad")).status_code == 200
    assert api.get(f"{path_prefix}/openapi.json").json()["servers"] == [{"url": "/lab/mmad"}]
    assert api.put(f"{path_prefix}/jobs/x").headers["allow"] == "DELETE, GET, HEAD"
    assert api.get(f"{path_prefix}/labels").status_code == 200
    assert api.get(f"{path_prefix}/readyz", headers={"host": "elsewhere"}).json()["checks"]["model"] == "ok"


def test_prefix_without_slash_redirects_to_docs(app_state: AppState) -> None:
    assert make_client(app_state, "/mmad").get("/mmad").headers["location"] == "/mmad/docs"
    assert make_client(app_state, "/mmad").get("/mmadness").status_code == 404


def test_prefix_header_affects_one_request_only(app_state: AppState) -> None:
    api = make_client(app_state)
    assert api.get("/openapi.json", headers={"X-Forwarded-Prefix": "/a"}).json()["servers"]
    assert "servers" not in api.get("/openapi.json").json()
    assert app_state.links("x").self == "/jobs/x"


@pytest.mark.parametrize(
    ("header", "prefix"),
    [
        ("/mmad", "/mmad"), ("/mmad/", "/mmad"), ("/a/b.c_d~e-1", "/a/b.c_d~e-1"), ("/a, /b", "/a/b"), ("/", ""),
        ("", ""), ("mmad", "/set"), ("//evil.example", "/set"), ("https://evil.example", "/set"), ("/a/../b", "/set"),
        ("/./a", "/set"), ("/a//b", "/set"), ("/a b", "/set"), ("/a?b", "/set"), ("/a#b", "/set"), ("/a%2fb", "/set"),
        ("/\"><script>", "/set"), ("/" + "a" * 300, "/set"), ("/a\\b", "/set"), ("/é", "/set"), ("/a,//b", "/set"),
    ],
)  # fmt: skip
def test_invalid_prefix_header_is_ignored(app_state: AppState, header: str, prefix: str) -> None:
    headers = {"X-Forwarded-Prefix": header.encode("latin-1")}
    response = make_client(app_state, "/set").get("/", headers=headers)  # type: ignore[arg-type]
    assert response.headers["location"] == f"{prefix}/docs"


def test_forwarded_headers_need_trusted_proxy(app_state: AppState) -> None:
    untrusted = make_client(app_state, client=("192.0.2.7", 5000), **{"X-Forwarded-Prefix": "/evil"})
    assert untrusted.get("/").headers["location"] == "/docs"
    app_state.settings = app_state.settings.model_copy(update={"forwarded_allow_ips": "192.0.2.0/24"})
    trusted = TestClient(build_app(app_state), "http://127.0.0.1", client=("192.0.2.7", 5000), follow_redirects=False)
    assert trusted.get("/", headers={"X-Forwarded-Prefix": "/mmad"}).headers["location"] == "/mmad/docs"
    forged = {"X-Forwarded-Prefix": "/mmad", "X-Forwarded-For": "192.0.2.9"}
    assert make_client(app_state, client=PROXY).get("/", headers=forged).headers["location"] == "/docs"


def test_root_path_setting_is_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMAD_ROOT_PATH", "/mmad/")
    assert Settings().root_path == "/mmad"
    monkeypatch.setenv("MMAD_ROOT_PATH", "https://lab.example.org/mmad")
    with pytest.raises(ValidationError, match="a path such as /mmad"):
        Settings()


def test_webhook_links_start_with_root_path(app_state: AppState) -> None:
    settings = app_state.settings.model_copy(update={"root_path": "/mmad"})
    prefixed = AppState(settings, app_state.store, app_state.queue, app_state.auth)
    job_id = make_finished_job(prefixed, callback_url="https://example.org/hook")
    message = prefixed.webhooks._make_message(prefixed.jobs.get(job_id))
    assert message.data.links.result == f"/mmad/jobs/{job_id}/result"


class _Proxy(BaseHTTPRequestHandler):
    """Like nginx with `location /lab/ { proxy_pass http://mmad/; }`."""

    def do_GET(self) -> None:
        length = int(self.headers.get("content-length", 0))
        body = self.rfile.read(length) if length else None
        url = self.server.upstream + self.path.removeprefix("/lab")  # type: ignore[attr-defined]
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        request = Request(url, body, headers | {"X-Forwarded-Prefix": "/lab"}, method=self.command)
        with build_opener(ProxyHandler({})).open(request) as response:
            content = response.read()
            self.send_response(response.status)
            for name in ("location", "content-type"):
                if value := response.headers[name]:
                    self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


def test_client_and_command_work_through_proxy(tmp_path: Path) -> None:
    with running_api(tmp_path) as api, ThreadingHTTPServer(("127.0.0.1", 0), _Proxy) as proxy:
        proxy.upstream = api.url  # type: ignore[attr-defined]
        Thread(target=proxy.serve_forever, daemon=True).start()
        proxy_url = f"http://127.0.0.1:{proxy.server_port}"
        with Client(f"{proxy_url}/lab") as client:
            accepted = client.submit(VIDEO)
            assert client.job(accepted.id).state == "queued"
        with httpx.Client(base_url=proxy_url) as http:  # like a browser that follows links
            assert http.get(accepted.links.self).json()["id"] == accepted.id
        (tmp_path / "video.mp4").write_bytes(VIDEO)
        command = [sys.executable, "-m", "mmad", "submit", str(tmp_path / "video.mp4"), "--url", f"{proxy_url}/lab/"]
        words = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout.split()
        assert httpx.get(words[1]).json()["id"] == words[0]
        proxy.shutdown()


def test_head_equals_get_without_body(app_state: AppState) -> None:
    api = make_client(app_state)
    app_state.store.put("model.json", make_model_card().model_dump_json().encode())
    job_id = make_finished_job(app_state, keep_video=True)
    paths = [
        "/", "/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css", "/healthz", "/readyz", "/labels",
        "/model", "/jobs", f"/jobs/{job_id}", f"/jobs/{job_id}/result", f"/jobs/{job_id}/export?format=csv",
        f"/jobs/{job_id}/video", "/metrics", "/jobs/none", "/nowhere", f"/jobs/{job_id}/webhook",
    ]  # fmt: skip
    for path in paths:
        got, head = api.get(path), api.head(path)
        assert head.status_code == got.status_code, path
        assert head.content == b""
        changing = {"date", "x-request-id", "etag", "last-modified"}
        if path == "/metrics":  # changes with each request
            changing.add("content-length")
        headers = [
            {name: response.headers[name] for name in response.headers if name not in changing}
            for response in (got, head)
        ]
        if path == "/jobs/none" or path == "/nowhere" or path.endswith("/webhook"):
            assert head.headers["content-type"] == "application/problem+json"
        assert headers[0] == headers[1], path
        if got.status_code == 200 and path != "/metrics":
            assert int(head.headers["content-length"]) == len(got.content)
    ranged = api.head(f"/jobs/{job_id}/video", headers={"range": "bytes=0-9"})
    whole = api.get(f"/jobs/{job_id}/video").headers["content-length"]
    assert (ranged.status_code, ranged.headers["content-length"]) == (200, whole)  # ranges are for GET alone
    assert api.head("/detect").status_code == 405
    streamed = api.head(f"/jobs/{job_id}/events")
    assert (streamed.status_code, streamed.content) == (200, b"")
    assert streamed.headers["content-type"].startswith("text/event-stream")


def test_head_closes_video_file(app_state: AppState, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = make_finished_job(app_state, keep_video=True)
    open_file, files = app_state.store.open, []

    def recording_open(key: str) -> Any:
        file = open_file(key)
        files.append(file)
        return file

    monkeypatch.setattr(app_state.store, "open", recording_open)
    app = build_app(app_state)

    async def request_head() -> httpx.Response:
        transport = httpx.ASGITransport(app, client=PROXY)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            return await http.head(f"/jobs/{job_id}/video")

    response = asyncio.run(request_head())
    assert response.headers["content-length"] == str(len(VIDEO))
    assert [file.closed for file in files if file.name.endswith("video")] == [True]


def test_head_over_persistent_connection(tmp_path: Path) -> None:
    with running_api(tmp_path) as api, httpx.Client(base_url=api.url) as http:
        for _ in range(3):
            head, got = http.head("/openapi.json"), http.get("/openapi.json")
            assert head.headers["content-length"] == got.headers["content-length"] == str(len(got.content))
        http.head("/jobs")
        wait_for(lambda: re.search(r"method=HEAD .*route=/jobs ", api.log.read_text()), seconds=10)
