"""Creates and queues the jobs of an upload request, once per Idempotency-Key."""

import hashlib
import json
import re
import time
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from typing import BinaryIO, NamedTuple
from uuid import uuid4

from service.admission import check_queue
from service.app_state import AppState
from service.auth import Caller
from service.duration import read_declared_duration_s
from service.errors import Problem
from service.job_schemas import JobOptions
from service.jobs import Record, Upload, job_key, new_job_id
from service.parameters import parse_parameters
from service.results import find_action_ids
from service.schemas import Document
from service.uploads import Received

# Maximum length of an Idempotency-Key; the same as Stripe's and Replicate's.
_MAX_KEY_CHARACTERS = 255
_PREFER_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:$|[,;])", re.IGNORECASE)
MAX_WAIT_S = 60


# A request waits this long for a concurrent request with the same key.
_WAIT_S = 10.0
# Same tolerance as the worker's: declared durations are rounded and may omit the last frame.
_DECLARED_SLACK_S = 1.0
# A claim whose jobs are not queued after this long is abandoned: its process has died.
_STALE_S = 60.0


class Claim(Document):
    """Stored record of an Idempotency-Key. `queued` is set when the jobs are queued and will not be rolled back."""

    fingerprint: str
    jobs: list[str]
    at: datetime
    queued: bool = False

    def to_bytes(self) -> bytes:
        """Serialize the claim."""
        return self.model_dump_json().encode()

    @property
    def in_progress(self) -> bool:
        """Whether a request may be creating the jobs at this moment."""
        return not self.queued and (datetime.now(UTC) - self.at).total_seconds() < _STALE_S


class Submitted(NamedTuple):
    """The jobs of a request; `replayed` if an earlier request with the same key created them."""

    records: list[Record]
    replayed: bool = False


class Submission:
    """One upload request. Its videos are stored under temporary names until they are moved to jobs."""

    def __init__(self, app_state: AppState, caller: Caller, idempotency_key: str | None) -> None:
        self._app_state, self._caller, self._key = app_state, caller, idempotency_key
        self._name = uuid4().hex
        self._claim: Claim | None = None

    @property
    def may_replay(self) -> bool:
        """Whether the Idempotency-Key was used before, so that this request may create no jobs."""
        return self._load_claim() is not None

    def open_video(self, index: int) -> AbstractContextManager[BinaryIO]:
        """Open the request's video at this index for writing."""
        return self._app_state.store.open_writer(self._video_key(index))

    def _video_key(self, index: int) -> str:
        return f"uploads/{self._name}/{index}"

    def options(self, values: dict[str, str]) -> JobOptions:
        """Parse and check the parameters of the jobs; raises Problem for invalid ones."""
        options = parse_parameters(JobOptions, values)
        if options.callback_url:
            self._app_state.webhooks.check(options.callback_url)
        limit = self._app_state.settings.max_retention_s
        if options.retention_s is not None and options.retention_s > limit:
            detail = f"retention_s={options.retention_s}: the limit is {limit} (MMAD_MAX_RETENTION_S)"
            raise Problem("invalid_parameter", detail)
        return options

    def submit(self, received: Received, query: dict[str, str]) -> Submitted:
        """Create and queue the jobs, or return those of an earlier request with this key. Blocks on disk and Redis."""
        options = self.options({**query, **received.fields})
        if options.name is not None and len(received.uploads) > 1:
            raise Problem(
                "invalid_parameter",
                f"name={options.name[:64]}: the request holds {len(received.uploads)} videos, and name is for a single "
                "one; each file of a form brings its own name",
            )
        self._check_durations(len(received.uploads))
        if options.labels is not None:
            find_action_ids(self._app_state.model_card().labels, options.labels)
        ids = [new_job_id() for _ in received.uploads]
        claim = Claim(fingerprint=_fingerprint(received.uploads, options), jobs=ids, at=datetime.now(UTC))
        if earlier := self._acquire_key(claim):
            return Submitted(earlier, replayed=True)
        try:
            records = self._create_jobs(ids, received.uploads, options)
        except BaseException:
            for job_id in ids:
                with suppress(Problem):
                    self._app_state.jobs.purge(self._app_state.jobs.get(job_id))
                self._app_state.store.delete(job_key(job_id))
            if self._claim and self._load_claim() == self._claim.to_bytes():
                self._app_state.store.delete(self._claim_store_key)
            raise
        if self._claim:
            queued = self._claim.model_copy(update={"queued": True})
            self._app_state.store.compare_and_swap(self._claim_store_key, self._claim.to_bytes(), queued.to_bytes())
        return Submitted(records)

    def _check_durations(self, count: int) -> None:
        """Refuse videos whose declared duration exceeds the limit; the worker checks the others."""
        limit_s = self._app_state.settings.max_duration_s
        for index in range(count):
            with self._app_state.store.open(self._video_key(index)) as file:
                duration_s = read_declared_duration_s(file)
            if duration_s is not None and duration_s > limit_s + _DECLARED_SLACK_S:
                raise Problem(
                    "video_too_long",
                    f"the video lasts {duration_s:.0f} s, the limit is {limit_s:.0f} s (MMAD_MAX_DURATION_S); "
                    "send it in parts or raise the limit",
                )

    def close(self) -> None:
        """Delete the stored videos that were not moved to jobs."""
        self._app_state.store.delete(f"uploads/{self._name}")

    def _create_jobs(self, ids: list[str], uploads: list[Upload], options: JobOptions) -> list[Record]:
        jobs, settings = self._app_state.jobs, self._app_state.settings
        retention_s = settings.retention_s if options.retention_s is None else options.retention_s
        batch = ids[0] if len(ids) > 1 else None
        self._app_state.auth.check_limits(self._caller, jobs, sum(upload.bytes for upload in uploads), len(uploads))
        check_queue(len(jobs.list_unfinished()), len(uploads), settings.max_queued_jobs)
        for index, job_id in enumerate(ids):
            self._app_state.store.move(self._video_key(index), job_key(job_id, "video"))
        records = [
            jobs.create(job_id, upload, options, retention_s=retention_s, owner=self._caller.owner, batch=batch)
            for job_id, upload in zip(ids, uploads, strict=True)
        ]
        for record in records:  # if Redis is unreachable, the reconciler queues the job later
            self._app_state.queue.try_enqueue(record.id)
        return records

    def _acquire_key(self, new_claim: Claim) -> list[Record] | None:
        """Claim the Idempotency-Key, or return the existing jobs of an earlier request with it.

        Raises Problem idempotency_conflict if that had another body or other parameters, and request_in_progress if it
        is still creating its jobs.
        """
        if self._key is None:
            return None
        until = time.monotonic() + _WAIT_S
        while True:
            content = self._load_claim()
            claim = Claim.model_validate_json(content) if content else None
            records = self._load_records(claim) if claim and not claim.in_progress else None
            if claim and (records or claim.in_progress) and claim.fingerprint != new_claim.fingerprint:
                raise Problem(
                    "idempotency_conflict",
                    f"the Idempotency-Key {self._key!r} was used at {claim.at:%Y-%m-%dT%H:%M:%SZ} "
                    "for another video or other parameters; use a new key for a new request",
                )
            if records:
                return records
            if claim and claim.in_progress:
                if time.monotonic() > until:
                    raise Problem(
                        "request_in_progress",
                        f"a request with the Idempotency-Key {self._key!r} is being taken; send it again in a moment",
                    )
                time.sleep(0.05)
            elif self._app_state.store.compare_and_swap(self._claim_store_key, content, new_claim.to_bytes()):
                self._claim = new_claim
                return None

    def _load_records(self, claim: Claim) -> list[Record] | None:
        try:
            return [self._app_state.jobs.get(job_id, self._caller.owner) for job_id in claim.jobs]
        except Problem:  # the jobs were deleted, expired or never created, so the key can be reused
            return None

    def _load_claim(self) -> bytes | None:
        return self._app_state.store.find(self._claim_store_key) if self._key else None

    @property
    def _claim_store_key(self) -> str:
        digest = hashlib.sha256((self._key or "").encode()).hexdigest()
        return f"idempotency/{self._caller.owner}/{digest}"


def parse_idempotency_key(value: str | None) -> str | None:
    """Return the header's value; raises Problem invalid_parameter if it is empty or too long."""
    if value is not None and not 0 < len(value) <= _MAX_KEY_CHARACTERS:
        detail = f"Idempotency-Key has {len(value)} characters, 1 to {_MAX_KEY_CHARACTERS} are taken"
        raise Problem("invalid_parameter", detail)
    return value


def parse_preferred_wait(value: str | None) -> int | None:
    """Parse the seconds to wait for the result from the header Prefer (RFC 7240); None without a `wait` preference."""
    match = _PREFER_WAIT.search(value or "")
    return min(int(match[1]), MAX_WAIT_S) if match else None


def _fingerprint(uploads: list[Upload], options: JobOptions) -> str:
    """Hash the videos and all parameters, but not the files' own names: a renamed copy is the same request."""
    # Without `name`, keep the fingerprint of versions that did not have this parameter.
    unset = {"name"} if options.name is None else None
    content = [[upload.sha256 for upload in uploads], options.model_dump(mode="json", exclude=unset)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
