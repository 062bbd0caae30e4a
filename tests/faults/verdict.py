"""What is true in the end: every promise kept once, every result right, nothing left over."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import redis

from service.job_schemas import ENDED, RetryReason, State
from service.queue import LEASE_S
from tests.faults.ground import Ground
from tests.faults.load import Ledger, Promise, comparable, persist

_ASK_S = 60.0


@dataclass
class Verdict:
    """Jobs by what became of them, and all that should not be, each in words."""

    ends: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    again_s: list[float] = field(default_factory=list)
    """Of jobs whose worker was killed: from the kill until another worker had them."""

    @property
    def good(self) -> bool:
        """Whether all was as promised."""
        return not (self.lost or self.doubled or self.wrong or self.left_over)


def wait_for_ends(ground: Ground, patience_s: float) -> None:
    """Until no accepted job is queued or running, or patience ends; the verdict tells which are still."""
    deadline = time.monotonic() + patience_s
    pending = ground.store / "pending"
    while time.monotonic() < deadline and any(any(owner.iterdir()) for owner in _folders(pending)):
        time.sleep(0.2)


def judge(ground: Ground, ledger: Ledger, answers: dict[str, Any]) -> Verdict:
    """Ask for every accepted job, while the service runs.

    Args:
        ground: the service.
        ledger: what it promised.
        answers: of each video the undisturbed one, see load.undisturbed.
    """
    verdict = Verdict(doubled=list(ledger.doubled), wrong=list(ledger.refused))
    with httpx.Client(base_url=ground.url, timeout=20) as http:
        for job_id, promise in ledger.accepted.items():
            end = _end_of(http, job_id, promise, answers, verdict)
            verdict.ends[end] += 1
    known = set(ledger.accepted)
    for folder in _folders(ground.store / "jobs"):
        record = folder / "job.json"
        if not record.exists():
            verdict.left_over.append(f"a folder without a record: {folder.name}")
        elif folder.name in known:
            _look_at(folder, verdict)
            verdict.again_s += _again_s(json.loads(record.read_text())["changes"], ledger.kills)
    return verdict


def _again_s(changes: list[dict[str, Any]], kills: list[datetime]) -> Iterator[float]:
    """For each attempt that lost its worker and was followed by another, how long that took since the last kill in it."""
    for running, lost, again in zip(changes, changes[1:], changes[2:], strict=False):
        if lost.get("why") == RetryReason.WORKER_LOST:
            began, taken, until = (datetime.fromisoformat(one["at"]) for one in (running, lost, again))
            amid = [kill for kill in kills if began <= kill <= taken]
            if amid and again["state"] == State.RUNNING:
                yield (until - max(amid)).total_seconds()


def _end_of(
    http: httpx.Client, job_id: str, promise: Promise, answers: dict[str, Any], verdict: Verdict
) -> str:
    response = persist(lambda: http.get(f"/jobs/{job_id}"), _ASK_S)
    if response is None:
        verdict.lost.append(f"{job_id}: no answer")
        return "no answer"
    if response.status_code == 410 and promise.deleted:
        return "deleted"
    if response.status_code != 200:
        verdict.lost.append(f"{job_id}: {response.status_code} {response.text[:100]}")
        return "lost"
    job = response.json()
    state = State(job["state"])
    if state not in ENDED:
        verdict.lost.append(f"{job_id}: still {state}")
    elif state is State.SUCCEEDED:
        result = persist(lambda: http.get(f"/jobs/{job_id}/result"), _ASK_S)
        if result is None or comparable(result.json()) != answers[promise.clip]:
            verdict.wrong.append(f"{job_id}: its result is another than undisturbed")
    elif state is State.CANCELED and not promise.canceled:
        verdict.wrong.append(f"{job_id}: canceled, and nobody asked for it")
    return f"failed: {job['error']['code']}" if state is State.FAILED else str(state)


def _look_at(folder: Path, verdict: Verdict) -> None:
    """The record on disk, and what lies beside it."""
    record = json.loads((folder / "job.json").read_text())
    ends = [change["state"] for change in record["changes"] if State(change["state"]) in ENDED]
    times = [datetime.fromisoformat(change["at"]) for change in record["changes"]]
    verdict.slowest_s = max(verdict.slowest_s, (times[-1] - times[0]).total_seconds())
    if len(ends) != 1:
        verdict.doubled.append(f"{folder.name}: {len(ends)} final states")
    beside = {path.name for path in folder.iterdir()} - {"job.json"}
    published = {str(record["attempt"])} if record["state"] == State.SUCCEEDED else set()
    if beside != published:
        verdict.left_over.append(f"{folder.name} ({record['state']}): {sorted(beside)} beside its record")


def look_for_leftovers(ground: Ground, verdict: Verdict, patience_s: float) -> None:
    """Files and leases that should go by themselves, for as long as that may take; while the service runs."""
    deadline = time.monotonic() + patience_s
    while (found := list(_leftovers(ground))) and time.monotonic() < deadline:
        time.sleep(0.2)
    verdict.left_over += found


def _leftovers(ground: Ground) -> Iterator[str]:
    for name in ("incoming", "uploads"):
        yield from (f"{name}/{path.name}" for path in _folders_and_files(ground.store / name))
    for name in ("pending", "kept"):
        for owner in _folders(ground.store / name):
            yield from (f"{name}/{owner.name}/{path.name}" for path in _folders_and_files(owner))
    for folder in _folders(ground.store / "jobs"):
        if not (folder / "job.json").exists():
            yield f"jobs/{folder.name} without a record"
        else:
            found = Verdict()
            _look_at(folder, found)
            yield from found.left_over
    try:
        with redis.Redis(unix_socket_path=str(ground.redis_folder / "redis.sock")) as client:
            yield from (f"Redis: {name.decode()}" for name in client.scan_iter("mmad:lease:*"))
            if waiting := client.llen("rq:queue:mmad"):
                yield f"Redis: {waiting} jobs on the queue"
    except redis.RedisError as error:
        yield f"Redis: {error}"


# Leases of killed workers end by themselves, uploads that an API left behind are swept (MMAD_UPLOAD_TIMEOUT_S and a minute).
LEFTOVERS_S = LEASE_S + 120.0


def _folders(path: Path) -> list[Path]:
    return [one for one in _folders_and_files(path) if one.is_dir()]


def _folders_and_files(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.exists() else []
