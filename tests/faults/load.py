"""Callers that upload, poll, cancel and delete, retry after faults, and record accepted jobs."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tests import clips

# How long a caller retries with the same idempotency key.
_RETRY_S = 120.0
_MAX_UNFINISHED = 8


@dataclass
class AcceptedJob:
    """A job that the service accepted."""

    clip: str
    sent_s: float
    canceled: bool = False
    deleted: bool = False


@dataclass
class Ledger:
    """Accepted jobs by id, and violations that callers observed."""

    accepted: dict[str, AcceptedJob] = field(default_factory=dict)
    doubled: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    kills: list[datetime] = field(default_factory=list)
    """Times at which workers were killed."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, ids: set[str], clip: str) -> None:
        """Record the job ids that the attempts of one request returned."""
        with self.lock:
            if len(ids) > 1:
                self.doubled.append(" and ".join(sorted(ids)))
            for job_id in ids:
                self.accepted[job_id] = AcceptedJob(clip, time.monotonic())


def make_clips(folder: Path) -> dict[str, Path]:
    """Write videos of one to twenty seconds; returns their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for seconds, size in ((1, "160x120"), (2, "176x144"), (6, "320x240"), (20, "480x360")):
        name = f"{size}-{seconds}s"
        paths[name] = clips.pattern(folder / f"{name}.mp4", size=size, seconds=seconds)
    return paths


class Caller(threading.Thread):
    """Thread that uploads videos and polls their jobs until `stop` is set."""

    def __init__(self, url: str, videos: dict[str, Path], ledger: Ledger, seed: int, stop: threading.Event) -> None:
        super().__init__(name=f"caller-{seed}", daemon=True)
        self._url, self._ledger, self._stopped = url, ledger, stop
        self._videos = {name: path.read_bytes() for name, path in videos.items()}
        self._random = random.Random(seed)
        self._unfinished: list[str] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with httpx.Client(base_url=self._url, timeout=10) as http:
                while not self._stopped.is_set():
                    self._turn(http)
        except BaseException as error:
            self.failure = error

    def _turn(self, http: httpx.Client) -> None:
        if len(self._unfinished) < _MAX_UNFINISHED:
            self._send(http)
        for job_id in list(self._unfinished):
            job = request_until_answered(lambda job_id=job_id: http.get(f"/jobs/{job_id}"), _RETRY_S)
            if job is None or job.status_code != 200 or job.json()["state"] not in ("queued", "running"):
                self._unfinished.remove(job_id)  # checked at the end, see verdict.py
        if self._unfinished:
            self._maybe_end(http, self._random.choice(self._unfinished))
        time.sleep(self._random.uniform(0.0, 0.2))

    def _send(self, http: httpx.Client) -> None:
        name = self._random.choice(list(self._videos))
        key, ids = {"idempotency-key": uuid4().hex}, set[str]()

        def post() -> httpx.Response:
            # Streamed in chunks, so that faults also interrupt uploads.
            content, chunks = self._videos[name], self._random.choice((1, 4))
            size = -(-len(content) // chunks)
            response = http.post(
                "/detect", content=(content[at : at + size] for at in range(0, len(content), size)), headers=key
            )
            if response.status_code == 202:
                ids.add(response.json()["id"])
            return response

        response = request_until_answered(post, _RETRY_S)
        if response is not None and response.status_code not in (202, 429):
            self._ledger.refused.append(f"{response.status_code} {response.text[:200]}")
        self._ledger.note(ids, name)
        self._unfinished += ids

    def _maybe_end(self, http: httpx.Client, job_id: str) -> None:
        chance, accepted_job = self._random.random(), self._ledger.accepted[job_id]
        if chance < 0.01:
            accepted_job.canceled = True
            request_until_answered(lambda: http.post(f"/jobs/{job_id}/cancel"), _RETRY_S)
        elif chance < 0.02:
            accepted_job.deleted = True
            request_until_answered(lambda: http.delete(f"/jobs/{job_id}"), _RETRY_S)


def request_until_answered(send: Callable[[], httpx.Response], timeout_s: float) -> httpx.Response | None:
    """Repeat a request until its response is not caused by a fault; returns None after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            response = send()
        except httpx.HTTPError:
            pass
        else:
            if response.status_code < 500 and response.status_code != 409:
                return response
            if response.status_code == 409 and response.json().get("code") != "request_in_progress":
                return response
        time.sleep(0.1)
    return None


def get_expected_results(url: str, videos: dict[str, Path]) -> dict[str, Any]:
    """Return the result of each video without faults."""
    with httpx.Client(base_url=url, timeout=60) as http:
        results = {}
        for name, path in videos.items():
            response = http.post("/detect", content=path.read_bytes(), headers={"prefer": "wait=60"})
            assert response.status_code == 200, response.text
            results[name] = without_job_id(response.json())
        return results


def without_job_id(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without its job id."""
    return {name: value for name, value in result.items() if name != "job_id"}
