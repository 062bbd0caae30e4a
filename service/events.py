"""A job as it moves on, for those who would rather be told than ask."""

import re
from collections.abc import AsyncIterator
from typing import NamedTuple

import anyio
from anyio import to_thread

from service.app_state import AppState
from service.errors import Problem
from service.job_schemas import ENDED, Job

# The store has the truth and is asked this often; a local file, or one small object.
_LOOK_EVERY_S = 0.25
_ID = re.compile(r"(\d{1,9})\.(\d{1,4})")


class Mark(NamedTuple):
    """How far a job's story was told: so many changes of state, and this progress in thousandths."""

    changes: int
    permille: int

    def __str__(self) -> str:
        return f"{self.changes}.{self.permille}"


def mark_of(job: Job) -> Mark:
    """The place of a job's present moment in its story."""
    return Mark(len(job.changes), int(job.progress * 1000))


def parse_mark(last_event_id: str | None) -> Mark:
    """Where a caller stopped listening; the beginning, if it says nothing that is an id of ours."""
    found = _ID.fullmatch(last_event_id or "")
    return Mark(int(found[1]), int(found[2])) if found else Mark(0, 0)


async def follow(app_state: AppState, job_id: str, owner: str, after: Mark) -> AsyncIterator[Job]:
    """The job now and at each later moment, in order, until it has ended or is removed."""
    while True:
        try:
            job = await to_thread.run_sync(_look, app_state, job_id, owner, limiter=app_state.polling_limiter)
        except Problem:  # removed while somebody listened: there is nothing more to tell
            return
        if mark_of(job) > after:
            after = mark_of(job)
            yield job
        if job.state in ENDED:
            return
        await anyio.sleep(_LOOK_EVERY_S)


async def ended_within(app_state: AppState, job_id: str, seconds: float) -> bool:
    """Wait for a job's end, at most so long; a job that is removed has ended too."""
    with anyio.move_on_after(seconds):
        while True:
            record = await to_thread.run_sync(app_state.jobs.read, job_id, limiter=app_state.polling_limiter)
            if record is None or record.ended:
                return True
            await anyio.sleep(_LOOK_EVERY_S)
    return False


def _look(app_state: AppState, job_id: str, owner: str) -> Job:
    return app_state.describe(app_state.jobs.get(job_id, owner))
