"""The job record and its life: one table of allowed transitions, every change through it.

In the store: `jobs/<id>/job.json` and what belongs to the job beside it; `owners/<owner>/<id>`;
`pending/<owner>/<id>-<bytes of the video>` until it has ended; `kept/<owner>/<id>-<bytes>` where the video outlives the
job; `callbacks/<id>` until its message is delivered; `gone/<id>` for a while after all of that was removed.
"""

import re
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal

import structlog
from pydantic import ValidationError

from service.errors import Problem
from service.job_schemas import (
    ENDED,
    Change,
    JobError,
    JobOptions,
    Receipt,
    Removed,
    RetryReason,
    State,
    StoredFile,
)
from service.schemas import Document
from service.store import Store

log = structlog.get_logger()

#   queued -> running -> succeeded
#     ^  |      |   |---> failed
#     |  |      |   \---> canceled
#     |  \------|-------> canceled
#     \---------/            a worker that stopped handed it back, or one that died lost it
TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELED}),
    State.RUNNING: frozenset({State.QUEUED, State.SUCCEEDED, State.FAILED, State.CANCELED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELED: frozenset(),
}

# So often a job is tried; what a worker hands back when it is asked to stop does not count.
ATTEMPTS = 3
# Where a job is filed that was sent without a key.
NOBODY = "open"
_ID = re.compile(r"[0-9a-f]{32}")
_SHOWN: dict[str, StoredFile] = {
    "job.json": "record",
    "video": "video",
    "webhook.json": "webhook",
    "proposals.npz": "proposals",
    "result.json": "result",
}


class StaleAttemptError(Exception):
    """Another attempt, a cancellation or a deletion came first: the one that meets this must let go of the job."""


class Upload(Document):
    """The video as it came in."""

    bytes: int
    sha256: str
    name: str | None = None


class Record(Document):
    """job.json: what is known of a job for as long as it is kept. `owner` is the id of a key."""

    id: str
    state: State
    attempt: int = 0
    owner: str = NOBODY
    batch: str | None = None
    upload: Upload
    options: JobOptions
    retention_s: int = 7 * 24 * 3600
    changes: list[Change]
    error: JobError | None = None

    @property
    def name(self) -> str | None:
        """What its caller calls the video: as was asked for, or the file's own name."""
        return self.options.name or self.upload.name

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state in ENDED

    @property
    def faults(self) -> int:
        """How many attempts came to nothing."""
        return sum(change.why in (RetryReason.WORKER_LOST, RetryReason.FAULT) for change in self.changes)

    @property
    def expires_at(self) -> datetime | None:
        """When it may be removed; None while it has not ended."""
        return self.changes[-1].at + timedelta(seconds=self.retention_s) if self.ended else None


class Tombstone(Document):
    """What is left of a job that was removed."""

    owner: str
    why: Literal["deleted", "expired"]
    at: datetime


def new_job_id() -> str:
    """32 hex digits: the time in milliseconds, then chance. They sort by time and cannot be guessed."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


class Jobs:
    """The records of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def create(
        self,
        job_id: str,
        upload: Upload,
        options: JobOptions,
        *,
        retention_s: int,
        owner: str = NOBODY,
        batch: str | None = None,
    ) -> Record:
        """A new job; durable when this returns."""
        record = Record(
            id=job_id,
            state=State.QUEUED,
            owner=owner,
            batch=batch,
            upload=upload,
            options=options,
            retention_s=retention_s,
            changes=[_change_to(State.QUEUED)],
        )
        # Marks first: a mark without a record is swept away, a record without its mark would never be found.
        try:
            for mark in _marks(record):
                self.store.put(mark, b"")
            self.store.put(key(job_id, "job.json"), _dump(record))
        except BaseException:
            self.forget(record)  # marks without a record would count against the owner until they are swept
            raise
        return record

    def get(self, job_id: str, owner: str | None = None) -> Record:
        """A job's record.

        Args:
            job_id: as the caller gave it.
            owner: whose it must be; None: anybody's.

        Raises:
            Problem: job_not_found, also for another owner's; job_deleted, job_expired.
        """
        if _ID.fullmatch(job_id):
            record = self._stored(job_id)
            if record and owner in (None, record[1].owner):
                return record[1]
            tombstone = self._tombstone(job_id)
            if record is None and tombstone and owner in (None, tombstone.owner):
                how = "was deleted" if tombstone.why == "deleted" else "expired"
                raise Problem(
                    f"job_{tombstone.why}",
                    f"the job {how} at {tombstone.at:%Y-%m-%dT%H:%M:%SZ}; for a result send the video again",
                )
        raise Problem("job_not_found", f"no job has the id {job_id[:64]!r}; POST /detect makes one")

    def change(
        self, record: Record, state: State, error: JobError | None = None, why: RetryReason | None = None
    ) -> Record:
        """Bring a job into another state, durably. A job that has ended lets go of its video, unless it is kept.

        Raises:
            ValueError: the table does not allow it.
            StaleAttemptError: the stored job is no longer as `record` has it, or is no more.
        """
        if state not in TRANSITIONS[record.state]:
            raise ValueError(f"job {record.id} cannot go from {record.state} to {state}")
        changed = record.model_copy(
            update={
                "state": state,
                "attempt": record.attempt + (state is State.RUNNING),
                "changes": [*record.changes, _change_to(state, why)],
                "error": error,
            }
        )
        if not self.store.compare_and_swap(key(record.id, "job.json"), self.check(record), _dump(changed)):
            raise StaleAttemptError(f"job {record.id} was changed at the same moment")
        if changed.ended:
            try:
                self.tidy(changed)
            except OSError as error:  # the change is made; the sweeper tidies again
                log.warning("not_tidied", job_id=record.id, error=error.strerror)
        return changed

    def take_back(self, record: Record, why: RetryReason, code: str, detail: str) -> Record:
        """End an attempt that came to nothing: the job waits for another, or fails when it has had its attempts.

        Args:
            record: running.
            why: it ended.
            code, detail: what it fails of, if it does.

        Raises:
            StaleAttemptError: see change.
        """
        if why is not RetryReason.HANDED_BACK and record.faults + 1 >= ATTEMPTS:
            return self.change(record, State.FAILED, JobError(code=code, detail=detail))
        return self.change(record, State.QUEUED, why=why)

    def check(self, record: Record) -> bytes:
        """The stored bytes of a job; raises StaleAttemptError where it is no longer in this state and attempt."""
        found = self._stored(record.id)
        if found is None:
            raise StaleAttemptError(f"job {record.id} was removed")
        content, stored = found
        if (stored.state, stored.attempt) != (record.state, record.attempt):
            raise StaleAttemptError(
                f"job {record.id} is {stored.state} at attempt {stored.attempt}, "
                f"not {record.state} at attempt {record.attempt}"
            )
        return content

    def cancel(self, job_id: str, owner: str | None = None) -> Record:
        """End a job that has not ended: whoever runs it finds out, and cannot publish. A canceled job stays so.

        Raises:
            Problem: job_not_found, job_deleted, job_expired, job_already_ended.
        """
        while True:
            record = self.get(job_id, owner)
            if record.state is State.CANCELED:
                return record
            if record.ended:
                raise Problem("job_already_ended", f"the job has {record.state}: there is nothing to cancel")
            try:
                return self.change(record, State.CANCELED)
            except StaleAttemptError:  # it has moved on meanwhile: look again
                continue

    def remove(self, record: Record, why: Literal["deleted", "expired"]) -> Receipt:
        """Remove all that is kept of a job, and leave a note that it was there."""
        at = datetime.now(UTC)
        removed = [
            Removed(what=_what(entry.key), bytes=entry.bytes) for entry in self.store.entries(key(record.id))
        ]
        tombstone = Tombstone(owner=record.owner, why=why, at=at)
        try:
            self.store.put(f"gone/{record.id}", tombstone.model_dump_json().encode())
        except OSError as error:  # a full disk must not keep anybody from making room
            log.warning("removed_without_a_note", job_id=record.id, error=error.strerror)
        self.forget(record)
        return Receipt(id=record.id, at=at, removed=removed)

    def forget(self, record: Record) -> None:
        """Remove all that is kept of a job, as if it had never been."""
        # The record first: from here on no attempt can publish.
        self.store.delete(key(record.id, "job.json"))
        self.store.delete(key(record.id))
        for mark in _marks(record):
            self.store.delete(mark)

    def newest(self, owner: str, before: str | None = None) -> Iterator[Record]:
        """An owner's records, the newest first; those older than the id `before`."""
        for job_id in reversed(self.store.names(f"owners/{owner}")):
            if (before is None or job_id < before) and (record := self.read(job_id)):
                yield record

    def read(self, job_id: str) -> Record | None:
        """A record for those who look at many: None where there is none, or none that can be read."""
        try:
            found = self._stored(job_id)
        except (ValidationError, OSError) as error:  # one of many: the others must not suffer
            log.warning("record_unreadable", job_id=job_id, error=type(error).__name__)
            return None
        return found[1] if found else None

    def unfinished(self) -> list[str]:
        """The ids of all jobs that have not ended, the oldest first; some that have just ended may be among them."""
        marks = (
            name for owner in self.store.names("pending") for name in self.store.names(f"pending/{owner}")
        )
        return sorted(name.partition("-")[0] for name in marks)

    def pending(self, owner: str) -> dict[str, int]:
        """An owner's jobs that have not ended, with the sizes of their videos in bytes."""
        return self._sizes(f"pending/{owner}")

    def kept(self, owner: str) -> dict[str, int]:
        """An owner's jobs, ended or not, whose videos are kept, with their sizes in bytes."""
        return self._sizes(f"kept/{owner}")

    def tidy(self, record: Record) -> None:
        """Let go of what a job that has ended needs no more; does no harm when it is done again."""
        if not record.options.keep_video:
            self.store.delete(key(record.id, "video"))
        self.store.delete(_mark("pending", record))

    def _sizes(self, prefix: str) -> dict[str, int]:
        parts = [name.partition("-") for name in self.store.names(prefix)]
        return {job_id: int(size) for job_id, _, size in parts}

    def _stored(self, job_id: str) -> tuple[bytes, Record] | None:
        try:
            content = self.store.get(key(job_id, "job.json"))
        except KeyError:
            return None
        return content, Record.model_validate_json(content)

    def _tombstone(self, job_id: str) -> Tombstone | None:
        try:
            return Tombstone.model_validate_json(self.store.get(f"gone/{job_id}"))
        except KeyError:
            return None


def key(job_id: str, name: str = "") -> str:
    """Where the store keeps a file of a job; without a name, all of them."""
    return f"jobs/{job_id}/{name}".rstrip("/")


def published(record: Record, name: str) -> str:
    """Where an attempt keeps what it publishes: apart, so that one that was overtaken leaves the other's alone."""
    return key(record.id, f"{record.attempt}/{name}".rstrip("/"))


def _marks(record: Record) -> list[str]:
    """Names under which a job is found; what it was sent with says which."""
    marks = [f"owners/{record.owner}/{record.id}", _mark("pending", record)]
    if record.options.keep_video:
        marks.append(_mark("kept", record))
    if record.options.callback_url:
        marks.append(f"callbacks/{record.id}")
    return marks


def _mark(kind: str, record: Record) -> str:
    return f"{kind}/{record.owner}/{record.id}-{record.upload.bytes}"


def _change_to(state: State, why: RetryReason | None = None) -> Change:
    return Change(state=state, at=datetime.now(UTC), why=why)


def _dump(record: Record) -> bytes:
    return record.model_dump_json(indent=1).encode()


def _what(stored_key: str) -> StoredFile:
    name = stored_key.rsplit("/", 1)[1]
    return _SHOWN.get(name, "other")
