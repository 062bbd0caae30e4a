"""Callers who upload, poll, cancel and delete, whatever happens, and remember what they were promised."""

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

# A caller sends again with the same key for so long.
_PATIENCE_S = 120.0
_MOST_UNFINISHED = 8


@dataclass
class Promise:
    """A job that was accepted."""

    clip: str
    sent_s: float
    canceled: bool = False
    deleted: bool = False


@dataclass
class Ledger:
    """What callers were promised, by job id; and what should never be."""

    accepted: dict[str, Promise] = field(default_factory=dict)
    doubled: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    kills: list[datetime] = field(default_factory=list)
    """When workers were killed."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, ids: set[str], clip: str) -> None:
        """The ids that one request was answered with, over all of its tries."""
        with self.lock:
            if len(ids) > 1:
                self.doubled.append(" and ".join(sorted(ids)))
            for job_id in ids:
                self.accepted[job_id] = Promise(clip, time.monotonic())


def make_clips(folder: Path) -> dict[str, Path]:
    """A few videos, some of which keep a worker busy for a while."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for seconds, size in ((1, "160x120"), (2, "176x144"), (6, "320x240"), (20, "480x360")):
        name = f"{size}-{seconds}s"
        made[name] = clips.pattern(folder / f"{name}.mp4", size=size, seconds=seconds)
    return made


class Caller(threading.Thread):
    """Sends one video after the other until told to stop; then it goes when all of its answers have come."""

    def __init__(
        self, url: str, videos: dict[str, Path], ledger: Ledger, seed: int, stop: threading.Event
    ) -> None:
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
        if len(self._unfinished) < _MOST_UNFINISHED:
            self._send(http)
        for job_id in list(self._unfinished):
            job = persist(lambda job_id=job_id: http.get(f"/jobs/{job_id}"), _PATIENCE_S)
            if job is None or job.status_code != 200 or job.json()["state"] not in ("queued", "running"):
                self._unfinished.remove(job_id)  # the verdict looks at it in the end
        if self._unfinished:
            self._perhaps_end(http, self._random.choice(self._unfinished))
        time.sleep(self._random.uniform(0.0, 0.2))

    def _send(self, http: httpx.Client) -> None:
        name = self._random.choice(list(self._videos))
        key, ids = {"idempotency-key": uuid4().hex}, set[str]()

        def post() -> httpx.Response:
            # Streamed in pieces, so that faults hit uploads in their midst too.
            content, pieces = self._videos[name], self._random.choice((1, 4))
            size = -(-len(content) // pieces)
            response = http.post(
                "/detect",
                content=(content[at : at + size] for at in range(0, len(content), size)),
                headers=key,
            )
            if response.status_code == 202:
                ids.add(response.json()["id"])
            return response

        response = persist(post, _PATIENCE_S)
        if response is not None and response.status_code not in (202, 429):
            self._ledger.refused.append(f"{response.status_code} {response.text[:200]}")
        self._ledger.note(ids, name)
        self._unfinished += ids

    def _perhaps_end(self, http: httpx.Client, job_id: str) -> None:
        chance, promise = self._random.random(), self._ledger.accepted[job_id]
        if chance < 0.01:
            promise.canceled = True
            persist(lambda: http.post(f"/jobs/{job_id}/cancel"), _PATIENCE_S)
        elif chance < 0.02:
            promise.deleted = True
            persist(lambda: http.delete(f"/jobs/{job_id}"), _PATIENCE_S)


def persist(ask: Callable[[], httpx.Response], patience_s: float) -> httpx.Response | None:
    """An answer that is not of a fault, however often it has to be asked for; None where patience ends."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            response = ask()
        except httpx.HTTPError:
            pass
        else:
            if response.status_code < 500 and response.status_code != 409:
                return response
            if response.status_code == 409 and response.json().get("code") != "request_in_progress":
                return response
        time.sleep(0.1)
    return None


def undisturbed(url: str, videos: dict[str, Path]) -> dict[str, Any]:
    """What each video is answered with while nothing happens."""
    with httpx.Client(base_url=url, timeout=60) as http:
        answers = {}
        for name, path in videos.items():
            response = http.post("/detect", content=path.read_bytes(), headers={"prefer": "wait=60"})
            assert response.status_code == 200, response.text
            answers[name] = comparable(response.json())
        return answers


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what names its job."""
    return {name: value for name, value in result.items() if name != "job_id"}
