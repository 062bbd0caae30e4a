"""Writes service/examples.json, the examples of the API documentation, from real responses:

    python -m tests.api_examples

A service with the shipped bundle analyses examples/interview.mp4, and every error is provoked
(tests/provoked_errors.py). Long lists are truncated; nothing else is changed.
"""

import json
import os
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx

from mmad.private_redis import private_redis
from model.bundle import Bundle
from tests.conftest import start_service, wait_for
from tests.provoked_errors import PROVOKERS, InProcessService

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "service/examples.json"
INTERVIEW = ROOT / "examples/interview.mp4"
_MAX_ITEMS = 3
_MAX_LINES = 12


def main() -> None:
    """Capture all responses and write the file."""
    os.environ["MMAD_BUNDLE"] = str(files("bundles") / "demo")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = Bundle.load(Path(os.environ["MMAD_BUNDLE"]))
        answers = _collect_responses(folder / "service") | _collect_not_ready(folder / "idle", bundle)
        problems = _collect_problems(folder, bundle)
    document = {"answers": answers, "problems": problems}
    TARGET.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stderr.write(f"{TARGET}: {len(answers)} answers, {len(problems)} problems\n")


def _collect_problems(folder: Path, bundle: Bundle) -> dict[str, Any]:
    problems = {}
    with private_redis(folder / "redis") as server:
        for code, provoke in PROVOKERS.items():
            target = folder / code
            target.mkdir()
            problems[code] = provoke(InProcessService(target, bundle, server.url)).json()
    return problems


def _collect_not_ready(folder: Path, bundle: Bundle) -> dict[str, Any]:
    """Return the response of GET /readyz of a service without a worker."""
    folder.mkdir()
    with private_redis(folder / "redis") as server:
        response = InProcessService(folder, bundle, server.url).http.get("/readyz")
    return {f"GET /readyz {response.status_code}": {"no worker": response.json()}}


def _collect_responses(folder: Path) -> dict[str, Any]:
    """Return named responses of a service by operation and status."""
    folder.mkdir()
    receiver = HTTPServer(("127.0.0.1", 0), _Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    running = start_service(folder / "data", folder / "log", MMAD_WEBHOOK_ALLOW_PRIVATE="true")
    try:
        with httpx.Client(base_url=running.url, timeout=120) as http:
            return _Recorder(http, f"http://127.0.0.1:{receiver.server_port}/hook").record_all()
    finally:
        running.stop()
        receiver.shutdown()


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class _Recorder:
    """Calls every operation of a service and records the responses."""

    def __init__(self, http: httpx.Client, callback_url: str) -> None:
        self._http, self._callback_url = http, callback_url
        self._recorded: dict[str, dict[str, Any]] = {}

    def record_all(self) -> dict[str, Any]:
        video = INTERVIEW.read_bytes()
        sent = {"params": {"callback_url": self._callback_url, "tag": "interview-17", "keep_video": "true"}}
        job = self._record("POST /detect", "job", content=video, headers={"idempotency-key": "interview-17"}, **sent)
        path = f"/jobs/{job['id']}"
        self._record("GET /jobs/{job_id}", "while it waits or runs", path)
        events = self._http.get(f"{path}/events").text
        self._recorded["GET /jobs/{job_id}/events 200"] = {"a job to its end": events}
        two = [("file", ("anna.mp4", video)), ("file", ("ben.mp4", video))]
        batch = self._record("POST /detect", "batch", files=two, params={"tag": "interview-18"})
        self._record("POST /jobs/{job_id}/cancel", "canceled", f"/jobs/{batch['jobs'][1]['id']}/cancel")
        self._record("POST /detect", "result, waited for", content=video, headers={"prefer": "wait=60"})
        self._record("GET /jobs/{job_id}", "succeeded", path)
        self._record("GET /jobs", "a page", "/jobs?limit=2")
        self._record("GET /jobs/{job_id}/result", "micro-actions", f"{path}/result?top_k=3")
        self._record("GET /jobs/{job_id}/result", "scores over time", f"{path}/result?level=frames&rate=1")
        for name in ("csv", "jsonl", "vtt", "eaf", "json"):
            self._record_file(name, f"{path}/export?format={name}&top_k=2")
        self._wait_for_delivery(path)
        self._record("GET /jobs/{job_id}/webhook", "delivered", f"{path}/webhook")
        self._record("POST /jobs/{job_id}/webhook/resend", "sent again", f"{path}/webhook/resend")
        self._record("GET /labels", "labels", "/labels")
        self._record("GET /model", "the model", "/model")
        self._record("GET /healthz", "up", "/healthz")
        self._record("GET /readyz", "ready", "/readyz")
        self._recorded["GET /metrics 200"] = {"after a few jobs": _first_lines(self._http.get("/metrics").text)}
        self._record("DELETE /jobs/{job_id}", "receipt", path)
        return self._recorded

    def _record(self, operation: str, name: str, path: str = "/detect", **request: Any) -> Any:
        response = self._http.request(operation.split()[0], path, **request)
        response.raise_for_status()
        self._recorded.setdefault(f"{operation} {response.status_code}", {})[name] = _truncate(response.json())
        return response.json()

    def _record_file(self, name: str, path: str) -> None:
        response = self._http.get(path).raise_for_status()
        kind = response.headers["content-type"]
        shown = response.json() if kind == "application/json" else response.text
        self._recorded.setdefault(f"GET /jobs/{{job_id}}/export 200 {kind}", {})[name] = shown

    def _wait_for_delivery(self, path: str) -> None:
        def delivered() -> bool:
            return bool(self._http.get(f"{path}/webhook").json()["state"] == "delivered")

        wait_for(delivered, seconds=30)


def _first_lines(text: str) -> str:
    """Return the first lines of a text."""
    return "".join(text.splitlines(keepends=True)[:_MAX_LINES])


def _truncate(value: Any) -> Any:
    """Truncate all lists in a JSON value to their first items."""
    if isinstance(value, dict):
        return {name: _truncate(inner) for name, inner in value.items()}
    return [_truncate(inner) for inner in value[:_MAX_ITEMS]] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
