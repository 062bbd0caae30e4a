"""A path before that of every link: behind reverse proxies that take it off and those that do not. And HEAD."""

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


def served(app_state: AppState, root_path: str = "", client: tuple[str, int] = PROXY, **headers: str) -> TestClient:
    app_state.settings = app_state.settings.model_copy(update={"root_path": root_path})
    app_state.root_path = root_path
    app = build_app(app_state)
    return TestClient(app, "http://127.0.0.1", client=client, headers=headers, follow_redirects=False)


@pytest.mark.parametrize("below", ["", "/lab/mmad"], ids=["taken off", "left on"])
@pytest.mark.parametrize("how", ["setting", "header"])
def test_everything_that_leads_somewhere_is_under_the_prefix(app_state: AppState, below: str, how: str) -> None:
    api = (
        served(app_state, "/lab/mmad")
        if how == "setting"
        else served(app_state, **{"X-Forwarded-Prefix": "/lab/mmad/"})
    )
    app_state.store.put("model.json", make_model_card().model_dump_json().encode())
    sent = api.post(f"{below}/detect", content=VIDEO)
    job_id = sent.json()["id"]
    assert sent.headers["location"] == sent.json()["links"]["self"] == f"/lab/mmad/jobs/{job_id}"
    batch = api.post(f"{below}/detect", files=[("file", VIDEO), ("file", VIDEO)])
    assert batch.headers["location"] == batch.json()["links"]["jobs"]
    assert batch.headers["location"].startswith("/lab/mmad/jobs?batch=")
    assert batch.json()["jobs"][1]["links"]["events"].startswith("/lab/mmad/jobs/")
    links = api.get(f"{below}/jobs/{job_id}").json()["links"].values()
    assert all(link.startswith(f"/lab/mmad/jobs/{job_id}") for link in links)
    assert api.get(f"{below}/jobs?limit=1").json()["jobs"][0]["links"]["self"].startswith("/lab/mmad/jobs/")
    assert f"/lab/mmad/jobs/{job_id} " in api.get(f"{below}/jobs/{job_id}/result").json()["detail"]
    api.post(f"{below}/jobs/{job_id}/cancel")
    assert f'"self":"/lab/mmad/jobs/{job_id}"' in api.get(f"{below}/jobs/{job_id}/events").text
    assert api.get(f"{below}/").headers["location"] == "/lab/mmad/docs"
    page = api.get(f"{below}/docs").text
    asked = [one for one in re.findall(r"(?:href|src|url)[=:] ?[\"'](/[^\"']*)", page) if "oauth" not in one]
    assert len(asked) >= 3
    for address in asked:
        assert address.startswith("/lab/mmad/")
        assert api.get(below + address.removeprefix("/lab/mmad")).status_code == 200
    assert api.get(f"{below}/openapi.json").json()["servers"] == [{"url": "/lab/mmad"}]
    assert api.put(f"{below}/jobs/x").headers["allow"] == "DELETE, GET, HEAD"
    assert api.get(f"{below}/labels").status_code == 200
    assert api.get(f"{below}/readyz", headers={"host": "elsewhere"}).json()["checks"]["model"] == "ok"


def test_a_bare_prefix_is_the_index(app_state: AppState) -> None:
    assert served(app_state, "/mmad").get("/mmad").headers["location"] == "/mmad/docs"
    assert served(app_state, "/mmad").get("/mmadness").status_code == 404


def test_the_document_is_the_same_for_the_next_request(app_state: AppState) -> None:
    api = served(app_state)
    assert api.get("/openapi.json", headers={"X-Forwarded-Prefix": "/a"}).json()["servers"]
    assert "servers" not in api.get("/openapi.json").json()
    assert app_state.links("x").self == "/jobs/x"


@pytest.mark.parametrize(
    ("given", "prefix"),
    [
        ("/mmad", "/mmad"), ("/mmad/", "/mmad"), ("/a/b.c_d~e-1", "/a/b.c_d~e-1"), ("/a, /b", "/a/b"), ("/", ""),
        ("", ""), ("mmad", "/set"), ("//evil.example", "/set"), ("https://evil.example", "/set"), ("/a/../b", "/set"),
        ("/./a", "/set"), ("/a//b", "/set"), ("/a b", "/set"), ("/a?b", "/set"), ("/a#b", "/set"), ("/a%2fb", "/set"),
        ("/\"><script>", "/set"), ("/" + "a" * 300, "/set"), ("/a\\b", "/set"), ("/é", "/set"), ("/a,//b", "/set"),
    ],
)  # fmt: skip
def test_only_a_plain_path_is_taken(app_state: AppState, given: str, prefix: str) -> None:
    headers = {"X-Forwarded-Prefix": given.encode("latin-1")}
    answer = served(app_state, "/set").get("/", headers=headers)  # type: ignore[arg-type]
    assert answer.headers["location"] == f"{prefix}/docs"


def test_headers_of_strangers_are_not_believed(app_state: AppState) -> None:
    stranger = served(app_state, client=("192.0.2.7", 5000), **{"X-Forwarded-Prefix": "/evil"})
    assert stranger.get("/").headers["location"] == "/docs"
    app_state.settings = app_state.settings.model_copy(update={"forwarded_allow_ips": "192.0.2.0/24"})
    known = TestClient(build_app(app_state), "http://127.0.0.1", client=("192.0.2.7", 5000), follow_redirects=False)
    assert known.get("/", headers={"X-Forwarded-Prefix": "/mmad"}).headers["location"] == "/mmad/docs"
    forged = {"X-Forwarded-Prefix": "/mmad", "X-Forwarded-For": "192.0.2.9"}
    assert served(app_state, client=PROXY).get("/", headers=forged).headers["location"] == "/docs"


def test_a_setting_that_is_no_path_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMAD_ROOT_PATH", "/mmad/")
    assert Settings().root_path == "/mmad"
    monkeypatch.setenv("MMAD_ROOT_PATH", "https://lab.example.org/mmad")
    with pytest.raises(ValidationError, match="a path such as /mmad"):
        Settings()


def test_messages_have_links_under_the_setting(app_state: AppState) -> None:
    settings = app_state.settings.model_copy(update={"root_path": "/mmad"})
    anew = AppState(settings, app_state.store, app_state.queue, app_state.auth)
    job_id = make_finished_job(anew, callback_url="https://example.org/hook")
    message = anew.webhooks._make_message(anew.jobs.get(job_id))
    assert message.data.links.result == f"/mmad/jobs/{job_id}/result"


class _Proxy(BaseHTTPRequestHandler):
    """As nginx with `location /lab/ { proxy_pass http://mmad/; }`."""

    def do_GET(self) -> None:
        length = int(self.headers.get("content-length", 0))
        body = self.rfile.read(length) if length else None
        url = self.server.behind + self.path.removeprefix("/lab")  # type: ignore[attr-defined]
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        request = Request(url, body, headers | {"X-Forwarded-Prefix": "/lab"}, method=self.command)
        with build_opener(ProxyHandler({})).open(request) as answer:
            content = answer.read()
            self.send_response(answer.status)
            for name in ("location", "content-type"):
                if value := answer.headers[name]:
                    self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


def test_through_a_proxy(tmp_path: Path) -> None:
    with running_api(tmp_path) as api, ThreadingHTTPServer(("127.0.0.1", 0), _Proxy) as proxy:
        proxy.behind = api.url  # type: ignore[attr-defined]
        Thread(target=proxy.serve_forever, daemon=True).start()
        outside = f"http://127.0.0.1:{proxy.server_port}"
        with Client(f"{outside}/lab") as client:
            accepted = client.submit(VIDEO)
            assert client.job(accepted.id).state == "queued"
        with httpx.Client(base_url=outside) as http:  # links as a browser follows them
            assert http.get(accepted.links.self).json()["id"] == accepted.id
        (tmp_path / "video.mp4").write_bytes(VIDEO)
        command = [sys.executable, "-m", "mmad", "submit", str(tmp_path / "video.mp4"), "--url", f"{outside}/lab/"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout.split()
        assert httpx.get(shown[1]).json()["id"] == shown[0]
        proxy.shutdown()


def test_head_is_get_without_the_body(app_state: AppState) -> None:
    api = served(app_state)
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
        if path == "/metrics":  # it tells of the requests before
            changing.add("content-length")
        same = [{name: one.headers[name] for name in one.headers if name not in changing} for one in (got, head)]
        if path == "/jobs/none" or path == "/nowhere" or path.endswith("/webhook"):
            assert head.headers["content-type"] == "application/problem+json"
        assert same[0] == same[1], path
        if got.status_code == 200 and path != "/metrics":
            assert int(head.headers["content-length"]) == len(got.content)
    ranged = api.head(f"/jobs/{job_id}/video", headers={"range": "bytes=0-9"})
    whole = api.get(f"/jobs/{job_id}/video").headers["content-length"]
    assert (ranged.status_code, ranged.headers["content-length"]) == (200, whole)  # ranges are for GET alone
    assert api.head("/detect").status_code == 405
    streamed = api.head(f"/jobs/{job_id}/events")
    assert (streamed.status_code, streamed.content) == (200, b"")
    assert streamed.headers["content-type"].startswith("text/event-stream")


def test_head_closes_the_video(app_state: AppState, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = make_finished_job(app_state, keep_video=True)
    real, files = app_state.store.open, []

    def opened(key: str) -> Any:
        file = real(key)
        files.append(file)
        return file

    monkeypatch.setattr(app_state.store, "open", opened)
    app = build_app(app_state)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, client=PROXY)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            return await http.head(f"/jobs/{job_id}/video")

    answer = asyncio.run(ask())
    assert answer.headers["content-length"] == str(len(VIDEO))
    assert [file.closed for file in files if file.name.endswith("video")] == [True]


def test_head_over_a_connection_that_stays(tmp_path: Path) -> None:
    with running_api(tmp_path) as api, httpx.Client(base_url=api.url) as http:
        for _ in range(3):
            head, got = http.head("/openapi.json"), http.get("/openapi.json")
            assert head.headers["content-length"] == got.headers["content-length"] == str(len(got.content))
        http.head("/jobs")
        wait_for(lambda: re.search(r"method=HEAD .*route=/jobs ", api.log.read_text()), seconds=10)
