"""Job updates for server-sent events, and waiting for the end of a job."""

import re
from collections.abc import AsyncIterator
from typing import NamedTuple

import anyio
from anyio import to_thread

from service.app_state import AppState
from service.errors import Problem
from service.job_schemas import ENDED, Job

# Polling the store is cheap: each poll reads one small file.
_POLL_INTERVAL_S = 0.25
_ID = re.compile(r"(\d{1,9})\.(\d{1,4})")


class EventId(NamedTuple):
    """Id of an event: the number of state changes so far, and the progress in thousandths. Ids of a job increase."""

    changes: int
    permille: int

    def __str__(self) -> str:
        return f"{self.changes}.{self.permille}"


def make_event_id(job: Job) -> EventId:
    """Return the event id of a job's current state."""
    return EventId(len(job.changes), int(job.progress * 1000))


def parse_event_id(last_event_id: str | None) -> EventId:
    """Parse the header Last-Event-ID; a missing or malformed id is the beginning."""
    match = _ID.fullmatch(last_event_id or "")
    return EventId(int(match[1]), int(match[2])) if match else EventId(0, 0)


async def follow_job(app_state: AppState, job_id: str, owner: str, after: EventId) -> AsyncIterator[Job]:
    """Yield the job after each change later than `after`, until it ends or is removed."""

    def load() -> Job:
        return app_state.describe(app_state.jobs.get(job_id, owner))

    while True:
        try:
            job = await to_thread.run_sync(load, limiter=app_state.polling_limiter)
        except Problem:  # the job was removed
            return
        if make_event_id(job) > after:
            after = make_event_id(job)
            yield job
        if job.state in ENDED:
            return
        await anyio.sleep(_POLL_INTERVAL_S)


async def wait_until_ended(app_state: AppState, job_id: str, seconds: float) -> bool:
    """Wait at most `seconds` for a job's end and return whether it ended; a removed job counts as ended."""
    with anyio.move_on_after(seconds):
        while True:
            record = await to_thread.run_sync(app_state.jobs.read, job_id, limiter=app_state.polling_limiter)
            if record is None or record.ended:
                return True
            await anyio.sleep(_POLL_INTERVAL_S)
    return False
