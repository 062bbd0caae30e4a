"""The job record and its life: one table of allowed transitions, every change through it."""

import re
import secrets
import time
from datetime import UTC, datetime

from service.errors import Problem
from service.schemas import Change, Document, JobError, Options, State
from service.store import Store

#   queued -> running -> succeeded
#     ^         |  \---> failed
#     \---------/            a worker that stopped or died hands the job back
TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING}),
    State.RUNNING: frozenset({State.QUEUED, State.SUCCEEDED, State.FAILED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
}

_ID = re.compile(r"[0-9a-f]{32}")


class OvertakenError(Exception):
    """Another attempt has taken the job over: the one that meets this must let go of it."""


class Upload(Document):
    """The video as it came in."""

    bytes: int
    sha256: str


class Record(Document):
    """job.json: what is known of a job for as long as it is kept."""

    id: str
    state: State
    attempt: int = 0
    upload: Upload
    options: Options
    changes: list[Change]
    error: JobError | None = None


def new_job_id() -> str:
    """32 hex digits: the time in milliseconds, then chance. They sort by time and cannot be guessed."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


class Jobs:
    """The records of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def create(self, job_id: str, upload: Upload, options: Options) -> Record:
        """A new job; durable when this returns."""
        record = Record(
            id=job_id, state=State.QUEUED, upload=upload, options=options, changes=[_change_to(State.QUEUED)]
        )
        self._save(record)
        return record

    def get(self, job_id: str) -> Record:
        """A job's record; raises Problem job_not_found."""
        try:
            if not _ID.fullmatch(job_id):
                raise KeyError(job_id)
            return Record.model_validate_json(self.store.get(key(job_id, "job.json")))
        except KeyError as error:
            raise Problem(
                "job_not_found", f"no job has the id {job_id[:64]!r}; POST /detect makes one"
            ) from error

    def change(self, record: Record, state: State, error: JobError | None = None) -> Record:
        """Bring a job into another state, durably.

        Raises:
            ValueError: the table does not allow it.
            OvertakenError: the stored job is no longer as `record` has it.
        """
        if state not in TRANSITIONS[record.state]:
            raise ValueError(f"job {record.id} cannot go from {record.state} to {state}")
        self.check(record)
        changed = record.model_copy(
            update={
                "state": state,
                "attempt": record.attempt + (state is State.RUNNING),
                "changes": [*record.changes, _change_to(state)],
                "error": error,
            }
        )
        self._save(changed)
        return changed

    def check(self, record: Record) -> None:
        """Raise OvertakenError where the stored job is no longer in this state and attempt."""
        stored = self.get(record.id)
        if (stored.state, stored.attempt) != (record.state, record.attempt):
            raise OvertakenError(
                f"job {record.id} is {stored.state} at attempt {stored.attempt}, "
                f"not {record.state} at attempt {record.attempt}"
            )

    def _save(self, record: Record) -> None:
        self.store.put(key(record.id, "job.json"), record.model_dump_json(indent=1).encode())


def key(job_id: str, name: str = "") -> str:
    """Where the store keeps a file of a job; without a name, all of them."""
    return f"jobs/{job_id}/{name}".rstrip("/")


def _change_to(state: State) -> Change:
    return Change(state=state, at=datetime.now(UTC))
