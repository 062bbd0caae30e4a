"""Checks after a campaign: every accepted job ended once with the right result, and nothing is left over."""

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
from service.queue import LEASE_TTL_S
from tests.faults.deployment import Deployment
from tests.faults.load import AcceptedJob, Ledger, request_until_answered, without_job_id

_RETRY_S = 60.0


@dataclass
class Verdict:
    """Number of jobs by final state, and messages for all violations."""

    ends: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    retry_delays_s: list[float] = field(default_factory=list)
    """Seconds from the kill of a worker until another worker ran its job."""

    @property
    def good(self) -> bool:
        """Whether there are no violations."""
        return not (self.lost or self.doubled or self.wrong or self.left_over)


def wait_for_jobs(deployment: Deployment, timeout_s: float) -> None:
    """Wait until no job is queued or running, at most `timeout_s`; check_jobs reports the others."""
    deadline = time.monotonic() + timeout_s
    pending = deployment.store / "pending"
    while time.monotonic() < deadline and any(any(owner.iterdir()) for owner in _folders(pending)):
        time.sleep(0.2)


def check_jobs(deployment: Deployment, ledger: Ledger, expected: dict[str, Any]) -> Verdict:
    """Check every accepted job; the service must be running.

    Args:
        deployment: the service.
        ledger: the accepted jobs.
        expected: expected result of each video, see load.get_expected_results.
    """
    verdict = Verdict(doubled=list(ledger.doubled), wrong=list(ledger.refused))
    with httpx.Client(base_url=deployment.url, timeout=20) as http:
        for job_id, accepted_job in ledger.accepted.items():
            end = _check_outcome(http, job_id, accepted_job, expected, verdict)
            verdict.ends[end] += 1
    accepted = set(ledger.accepted)
    for folder in _folders(deployment.store / "jobs"):
        record = folder / "job.json"
        if not record.exists():
            verdict.left_over.append(f"a folder without a record: {folder.name}")
        elif folder.name in accepted:
            _check_record(folder, verdict)
            verdict.retry_delays_s += _compute_retry_delays(json.loads(record.read_text())["changes"], ledger.kills)
    return verdict


def _compute_retry_delays(changes: list[dict[str, Any]], kills: list[datetime]) -> Iterator[float]:
    """Yield seconds from the last kill during a lost attempt until the next attempt started."""
    for running, lost, retried in zip(changes, changes[1:], changes[2:], strict=False):
        if lost.get("why") == RetryReason.WORKER_LOST:
            started, requeued, restarted = (datetime.fromisoformat(change["at"]) for change in (running, lost, retried))
            during = [kill for kill in kills if started <= kill <= requeued]
            if during and retried["state"] == State.RUNNING:
                yield (restarted - max(during)).total_seconds()


def _check_outcome(
    http: httpx.Client, job_id: str, accepted_job: AcceptedJob, expected: dict[str, Any], verdict: Verdict
) -> str:
    response = request_until_answered(lambda: http.get(f"/jobs/{job_id}"), _RETRY_S)
    if response is None:
        verdict.lost.append(f"{job_id}: no response")
        return "no response"
    if response.status_code == 410 and accepted_job.deleted:
        return "deleted"
    if response.status_code != 200:
        verdict.lost.append(f"{job_id}: {response.status_code} {response.text[:100]}")
        return "lost"
    job = response.json()
    state = State(job["state"])
    if state not in ENDED:
        verdict.lost.append(f"{job_id}: still {state}")
    elif state is State.SUCCEEDED:
        result = request_until_answered(lambda: http.get(f"/jobs/{job_id}/result"), _RETRY_S)
        if result is None or without_job_id(result.json()) != expected[accepted_job.clip]:
            verdict.wrong.append(f"{job_id}: its result differs from that without faults")
    elif state is State.CANCELED and not accepted_job.canceled:
        verdict.wrong.append(f"{job_id}: canceled without a request")
    return f"failed: {job['error']['code']}" if state is State.FAILED else str(state)


def _check_record(folder: Path, verdict: Verdict) -> None:
    """Check a job's record on disk and the files next to it."""
    record = json.loads((folder / "job.json").read_text())
    ends = [change["state"] for change in record["changes"] if State(change["state"]) in ENDED]
    times = [datetime.fromisoformat(change["at"]) for change in record["changes"]]
    verdict.slowest_s = max(verdict.slowest_s, (times[-1] - times[0]).total_seconds())
    if len(ends) != 1:
        verdict.doubled.append(f"{folder.name}: {len(ends)} final states")
    others = {path.name for path in folder.iterdir()} - {"job.json"}
    published = {str(record["attempt"])} if record["state"] == State.SUCCEEDED else set()
    if others != published:
        verdict.left_over.append(f"{folder.name} ({record['state']}): {sorted(others)} beside its record")


def find_leftovers(deployment: Deployment, verdict: Verdict, timeout_s: float) -> None:
    """Report files and leases that do not disappear within `timeout_s`; the service must be running."""
    deadline = time.monotonic() + timeout_s
    while (leftovers := list(_leftovers(deployment))) and time.monotonic() < deadline:
        time.sleep(0.2)
    verdict.left_over += leftovers


def _leftovers(deployment: Deployment) -> Iterator[str]:
    for name in ("incoming", "uploads"):
        yield from (f"{name}/{path.name}" for path in _folders_and_files(deployment.store / name))
    for name in ("pending", "kept"):
        for owner in _folders(deployment.store / name):
            yield from (f"{name}/{owner.name}/{path.name}" for path in _folders_and_files(owner))
    for folder in _folders(deployment.store / "jobs"):
        if not (folder / "job.json").exists():
            yield f"jobs/{folder.name} without a record"
        else:
            verdict = Verdict()
            _check_record(folder, verdict)
            yield from verdict.left_over
    try:
        with redis.Redis(unix_socket_path=str(deployment.redis_folder / "redis.sock")) as client:
            yield from (f"Redis: {name.decode()}" for name in client.scan_iter("mmad:lease:*"))
            if waiting := client.llen("rq:queue:mmad"):
                yield f"Redis: {waiting} jobs on the queue"
    except redis.RedisError as error:
        yield f"Redis: {error}"


# Leases of killed workers expire, and abandoned uploads are swept after MMAD_UPLOAD_TIMEOUT_S and a minute.
LEFTOVERS_S = LEASE_TTL_S + 120.0


def _folders(path: Path) -> list[Path]:
    return [child for child in _folders_and_files(path) if child.is_dir()]


def _folders_and_files(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.exists() else []
