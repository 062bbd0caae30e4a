"""Job records and their life cycle: a state machine with one table of allowed transitions.

Keys in the store:
    `jobs/<id>/job.json`: the record; the job's other files are beside it.
    `owners/<owner>/<id>`: index of an owner's jobs.
    `pending/<owner>/<id>-<bytes of the video>`: index of the jobs that have not ended.
    `kept/<owner>/<id>-<bytes of the video>`: index of the jobs with `keep_video`.
    `callbacks/<id>`: until the webhook is delivered.
    `gone/<id>`: tombstone of a removed job, for a limited time.
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
from service.job_schemas import ENDED, Change, JobError, JobOptions, Receipt, Removed, RetryReason, State, StoredFile
from service.schemas import Document
from service.store import FolderStore

log = structlog.get_logger()

#   queued -> running -> succeeded
#     ^  |      |   |---> failed
#     |  |      |   \---> canceled
#     |  \------|-------> canceled
#     \---------/            requeued after a failed attempt, a lost worker or a worker's shutdown
TRANSITIONS: dict[State, frozenset[State]] = {state: frozenset() for state in ENDED} | {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELED}),
    State.RUNNING: frozenset({State.QUEUED, *ENDED}),
}

# Maximum number of attempts; attempts that a worker's shutdown ended do not count.
ATTEMPTS = 3
# Owner of the jobs that were submitted without an API key.
ANONYMOUS_OWNER = "open"
_JOB_ID = re.compile(r"[0-9a-f]{32}")
_STORED_FILES: dict[str, StoredFile] = {
    "job.json": "record",
    "video": "video",
    "webhook.json": "webhook",
    "proposals.npz": "proposals",
    "result.json": "result",
}


class StaleAttemptError(Exception):
    """The job was changed by another attempt, canceled or deleted: the caller must stop working on it."""


class Upload(Document):
    """The uploaded video."""

    bytes: int
    sha256: str
    name: str | None = None


class Record(Document):
    """The content of job.json. `owner` is the id of an API key, or ANONYMOUS_OWNER."""

    id: str
    state: State
    attempt: int = 0
    owner: str = ANONYMOUS_OWNER
    batch: str | None = None
    upload: Upload
    options: JobOptions
    retention_s: int = 7 * 24 * 3600
    changes: list[Change]
    error: JobError | None = None

    @property
    def name(self) -> str | None:
        """The video's name: the one in the options, or else the uploaded file's."""
        return self.options.name or self.upload.name

    @property
    def ended(self) -> bool:
        """True if the state is final: succeeded, failed or canceled."""
        return self.state in ENDED

    @property
    def failed_attempts(self) -> int:
        """Number of attempts that ended with a fault or a lost worker."""
        return sum(change.why in (RetryReason.WORKER_LOST, RetryReason.FAULT) for change in self.changes)

    @property
    def expires_at(self) -> datetime | None:
        """When the job expires; None until it has ended."""
        return self.changes[-1].at + timedelta(seconds=self.retention_s) if self.ended else None


class Tombstone(Document):
    """What the store holds of a removed job."""

    owner: str
    why: Literal["deleted", "expired"]
    at: datetime


def new_job_id() -> str:
    """Return 32 hex digits: the time in milliseconds, then 80 random bits. Ids sort by time and cannot be guessed."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


class Jobs:
    """The job records in a store."""

    def __init__(self, store: FolderStore) -> None:
        self.store = store

    def create(
        self,
        job_id: str,
        upload: Upload,
        options: JobOptions,
        *,
        retention_s: int,
        owner: str = ANONYMOUS_OWNER,
        batch: str | None = None,
    ) -> Record:
        """Create a queued job; it is durable when this returns."""
        record = Record(
            id=job_id,
            state=State.QUEUED,
            owner=owner,
            batch=batch,
            upload=upload,
            options=options,
            retention_s=retention_s,
            changes=[Change(state=State.QUEUED, at=datetime.now(UTC))],
        )
        # Index keys first: the sweeper removes one without a record, but a record without its keys is never found.
        try:
            for index_key in _list_index_keys(record):
                self.store.put(index_key, b"")
            self.store.put(job_key(job_id, "job.json"), _dump(record))
        except BaseException:
            # Index keys without a record would count against the owner's limits until they are swept.
            self.purge(record)
            raise
        return record

    def get(self, job_id: str, owner: str | None = None) -> Record:
        """Return a job's record, for any text as id; raises Problem job_not_found, job_deleted or job_expired.

        A job of another owner is not found, unless `owner` is None.
        """
        if _JOB_ID.fullmatch(job_id):
            if loaded := self._load(job_id):
                record = loaded[1]
                if owner in (None, record.owner):
                    return record
            else:
                self._check_removed(job_id, owner)
        raise Problem("job_not_found", f"no job has the id {job_id[:64]!r}; POST /detect makes one")

    def change(
        self, record: Record, state: State, error: JobError | None = None, why: RetryReason | None = None
    ) -> Record:
        """Move a job to another state, durably. When it ends, its video is deleted unless `keep_video` is set.

        Raises StaleAttemptError if the stored job has another state or attempt than `record`, or was removed, and
        ValueError if TRANSITIONS does not allow the change.
        """
        if state not in TRANSITIONS[record.state]:
            raise ValueError(f"job {record.id} cannot go from {record.state} to {state}")
        attempt = record.attempt + (state is State.RUNNING)
        changes = [*record.changes, Change(state=state, at=datetime.now(UTC), why=why)]
        changed = record.model_copy(update={"state": state, "attempt": attempt, "changes": changes, "error": error})
        current = self.require_current(record)
        if not self.store.compare_and_swap(job_key(record.id, "job.json"), current, _dump(changed)):
            raise StaleAttemptError(f"job {record.id} was changed at the same moment")
        if changed.ended:
            try:
                self.clean_up(changed)
            except OSError as error:  # the change is stored; the sweeper repeats the clean-up
                log.warning("not_tidied", job_id=record.id, error=error.strerror)
        return changed

    def requeue(self, record: Record, why: RetryReason, code: str, detail: str) -> Record:
        """Queue a job again after an attempt, or fail it if that was its last; raises as `change`."""
        if why is not RetryReason.HANDED_BACK and record.failed_attempts + 1 >= ATTEMPTS:
            return self.change(record, State.FAILED, JobError(code=code, detail=detail))
        return self.change(record, State.QUEUED, why=why)

    def require_current(self, record: Record) -> bytes:
        """Return the stored bytes of job.json; raises StaleAttemptError if its state or attempt has changed."""
        loaded = self._load(record.id)
        if loaded is None:
            raise StaleAttemptError(f"job {record.id} was removed")
        content, stored = loaded
        if (stored.state, stored.attempt) != (record.state, record.attempt):
            raise StaleAttemptError(
                f"job {record.id} is {stored.state} at attempt {stored.attempt}, "
                f"not {record.state} at attempt {record.attempt}"
            )
        return content

    def cancel(self, job_id: str, owner: str | None = None) -> Record:
        """Cancel a job; its worker notices and stops. Idempotent; raises as `get`, and Problem job_already_ended."""
        while True:
            record = self.get(job_id, owner)
            if record.state is State.CANCELED:
                return record
            if record.ended:
                raise Problem("job_already_ended", f"the job has {record.state}: there is nothing to cancel")
            try:
                return self.change(record, State.CANCELED)
            except StaleAttemptError:  # its state has changed in the meantime: read it again
                continue

    def remove(self, record: Record, why: Literal["deleted", "expired"]) -> Receipt:
        """Remove all data of a job and leave a tombstone."""
        at = datetime.now(UTC)
        removed = [
            Removed(what=_STORED_FILES.get(entry.key.rsplit("/", 1)[1], "other"), bytes=entry.bytes)
            for entry in self.store.entries(job_key(record.id))
        ]
        tombstone = Tombstone(owner=record.owner, why=why, at=at)
        try:
            self.store.put(f"gone/{record.id}", tombstone.model_dump_json().encode())
        except OSError as error:  # removing a job must work on a full disk
            log.warning("removed_without_a_note", job_id=record.id, error=error.strerror)
        self.purge(record)
        return Receipt(id=record.id, at=at, removed=removed)

    def purge(self, record: Record) -> None:
        """Remove all data of a job without a tombstone."""
        # The record first: without it no attempt can publish.
        self.store.delete(job_key(record.id, "job.json"))
        self.store.delete(job_key(record.id))
        for index_key in _list_index_keys(record):
            self.store.delete(index_key)

    def iter_newest(self, owner: str, before: str | None = None) -> Iterator[Record]:
        """Yield an owner's records, newest first, starting after the id `before`."""
        for job_id in reversed(self.store.names(f"owners/{owner}")):
            if (before is None or job_id < before) and (record := self.read(job_id)):
                yield record

    def read(self, job_id: str) -> Record | None:
        """Return a record, or None if it is missing or unreadable: for loops over many jobs."""
        try:
            loaded = self._load(job_id)
        except (ValidationError, OSError) as error:  # one unreadable record must not block the others
            log.warning("record_unreadable", job_id=job_id, error=type(error).__name__)
            return None
        return loaded[1] if loaded else None

    def list_unfinished(self) -> list[str]:
        """Return the ids of all jobs that have not ended, oldest first; may include some that have just ended."""
        index_keys = (name for owner in self.store.names("pending") for name in self.store.names(f"pending/{owner}"))
        return sorted(name.partition("-")[0] for name in index_keys)

    def get_pending_bytes(self, owner: str) -> dict[str, int]:
        """Return the size of the video in bytes for each of an owner's jobs that have not ended."""
        return self._read_sizes(f"pending/{owner}")

    def get_retained_bytes(self, owner: str) -> dict[str, int]:
        """Return the size of the video in bytes for each of an owner's jobs with `keep_video`, ended or not."""
        return self._read_sizes(f"kept/{owner}")

    def clean_up(self, record: Record) -> None:
        """Delete what a job no longer needs once it has ended; idempotent."""
        if not record.options.keep_video:
            self.store.delete(job_key(record.id, "video"))
        self.store.delete(_make_index_key("pending", record))

    def _read_sizes(self, prefix: str) -> dict[str, int]:
        parts = [name.partition("-") for name in self.store.names(prefix)]
        return {job_id: int(size) for job_id, _, size in parts}

    def _load(self, job_id: str) -> tuple[bytes, Record] | None:
        content = self.store.find(job_key(job_id, "job.json"))
        return None if content is None else (content, Record.model_validate_json(content))

    def _check_removed(self, job_id: str, owner: str | None) -> None:
        """Raise Problem job_deleted or job_expired if there is a tombstone of the owner's job."""
        content = self.store.find(f"gone/{job_id}")
        tombstone = Tombstone.model_validate_json(content) if content else None
        if tombstone and owner in (None, tombstone.owner):
            how = "was deleted" if tombstone.why == "deleted" else "expired"
            raise Problem(
                f"job_{tombstone.why}",
                f"the job {how} at {tombstone.at:%Y-%m-%dT%H:%M:%SZ}; for a result send the video again",
            )


def job_key(job_id: str, name: str = "") -> str:
    """Return the store key of a job's file; without a name, the prefix of all its files."""
    return f"jobs/{job_id}/{name}".rstrip("/")


def attempt_key(record: Record, name: str) -> str:
    """Return the store key of a file that an attempt publishes; attempts are separate, so a stale one does no harm."""
    return job_key(record.id, f"{record.attempt}/{name}".rstrip("/"))


def _list_index_keys(record: Record) -> list[str]:
    """Return the index keys of a job; its options determine which it has."""
    index_keys = [f"owners/{record.owner}/{record.id}", _make_index_key("pending", record)]
    if record.options.keep_video:
        index_keys.append(_make_index_key("kept", record))
    if record.options.callback_url:
        index_keys.append(f"callbacks/{record.id}")
    return index_keys


def _make_index_key(kind: str, record: Record) -> str:
    return f"{kind}/{record.owner}/{record.id}-{record.upload.bytes}"


def _dump(record: Record) -> bytes:
    return record.model_dump_json(indent=1).encode()
