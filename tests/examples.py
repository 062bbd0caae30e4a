"""Makes service/examples.json, the examples of the API's documentation, from real answers:

    python -m tests.examples

A service with the shipped bundle analyses examples/interview.mp4, and every error is provoked (tests/provoke.py). Long
lists are cut, nothing else is changed.
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
from tests.provoke import PROVOKED, Counter

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "service/examples.json"
INTERVIEW = ROOT / "examples/interview.mp4"
_SHOWN = 3
_LINES_SHOWN = 12


def main() -> None:
    """Capture and write."""
    os.environ["MMAD_BUNDLE"] = str(files("bundles") / "demo")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = Bundle.load(Path(os.environ["MMAD_BUNDLE"]))
        answers = _answers(folder / "service") | _not_ready(folder / "idle", bundle)
        problems = _problems(folder, bundle)
    document = {"answers": answers, "problems": problems}
    TARGET.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stderr.write(f"{TARGET}: {len(answers)} answers, {len(problems)} problems\n")


def _problems(folder: Path, bundle: Bundle) -> dict[str, Any]:
    found = {}
    with private_redis(folder / "redis") as server:
        for code, provoke in PROVOKED.items():
            place = folder / code
            place.mkdir()
            found[code] = provoke(Counter(place, bundle, server.url)).json()
    return found


def _not_ready(folder: Path, bundle: Bundle) -> dict[str, Any]:
    """A service without a worker."""
    folder.mkdir()
    with private_redis(folder / "redis") as server:
        answer = Counter(folder, bundle, server.url).http.get("/readyz")
    return {f"GET /readyz {answer.status_code}": {"no worker": answer.json()}}


def _answers(folder: Path) -> dict[str, Any]:
    """By operation and status, each with a name: what a service said."""
    folder.mkdir()
    receiver = HTTPServer(("127.0.0.1", 0), _Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    running = start_service(folder / "data", folder / "log", MMAD_WEBHOOK_ALLOW_PRIVATE="true")
    try:
        with httpx.Client(base_url=running.url, timeout=120) as http:
            return _Tour(http, f"http://127.0.0.1:{receiver.server_port}/hook").walk()
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


class _Tour:
    """One visit of every address."""

    def __init__(self, http: httpx.Client, callback_url: str) -> None:
        self._http, self._callback_url = http, callback_url
        self._found: dict[str, dict[str, Any]] = {}

    def walk(self) -> dict[str, Any]:
        video = INTERVIEW.read_bytes()
        sent = {"params": {"callback_url": self._callback_url, "tag": "interview-17", "keep_video": "true"}}
        job = self._note(
            "POST /detect", "job", content=video, headers={"idempotency-key": "interview-17"}, **sent
        )
        path = f"/jobs/{job['id']}"
        self._note("GET /jobs/{job_id}", "while it waits or runs", path)
        events = self._http.get(f"{path}/events").text
        self._found["GET /jobs/{job_id}/events 200"] = {"a job to its end": events}
        two = [("file", ("anna.mp4", video)), ("file", ("ben.mp4", video))]
        batch = self._note("POST /detect", "batch", files=two, params={"tag": "interview-18"})
        self._note("POST /jobs/{job_id}/cancel", "canceled", f"/jobs/{batch['jobs'][1]['id']}/cancel")
        self._note("POST /detect", "result, waited for", content=video, headers={"prefer": "wait=60"})
        self._note("GET /jobs/{job_id}", "succeeded", path)
        self._note("GET /jobs", "a page", "/jobs?limit=2")
        self._note("GET /jobs/{job_id}/result", "micro-actions", f"{path}/result?top_k=3")
        self._note("GET /jobs/{job_id}/result", "scores over time", f"{path}/result?level=frames&rate=1")
        for name in ("csv", "jsonl", "vtt", "eaf", "json"):
            self._note_file(name, f"{path}/export?format={name}&top_k=2")
        self._wait_for_message(path)
        self._note("GET /jobs/{job_id}/webhook", "delivered", f"{path}/webhook")
        self._note("POST /jobs/{job_id}/webhook/resend", "sent again", f"{path}/webhook/resend")
        self._note("GET /labels", "labels", "/labels")
        self._note("GET /model", "the model", "/model")
        self._note("GET /healthz", "up", "/healthz")
        self._note("GET /readyz", "ready", "/readyz")
        self._found["GET /metrics 200"] = {"after a few jobs": _head(self._http.get("/metrics").text)}
        self._note("DELETE /jobs/{job_id}", "receipt", path)
        return self._found

    def _note(self, operation: str, name: str, path: str = "/detect", **request: Any) -> Any:
        response = self._http.request(operation.split()[0], path, **request)
        response.raise_for_status()
        self._found.setdefault(f"{operation} {response.status_code}", {})[name] = _cut(response.json())
        return response.json()

    def _note_file(self, name: str, path: str) -> None:
        response = self._http.get(path).raise_for_status()
        kind = response.headers["content-type"]
        shown = response.json() if kind == "application/json" else response.text
        self._found.setdefault(f"GET /jobs/{{job_id}}/export 200 {kind}", {})[name] = shown

    def _wait_for_message(self, path: str) -> None:
        def delivered() -> bool:
            return bool(self._http.get(f"{path}/webhook").json()["state"] == "delivered")

        wait_for(delivered, seconds=30)


def _head(text: str) -> str:
    """The first lines: enough to see the form."""
    return "".join(text.splitlines(keepends=True)[:_LINES_SHOWN])


def _cut(value: Any) -> Any:
    """Lists to their first items, in the depth too."""
    if isinstance(value, dict):
        return {name: _cut(inner) for name, inner in value.items()}
    return [_cut(inner) for inner in value[:_SHOWN]] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
