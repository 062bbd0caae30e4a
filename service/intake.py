"""From videos in the store to queued jobs: one request makes its jobs once, however often it is sent."""

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from service.auth import Caller
from service.desk import Desk
from service.errors import Problem
from service.job_schemas import JobOptions
from service.jobs import Record, Upload, key, new_job_id
from service.parameters import parse_parameters
from service.results import chosen_actions
from service.schemas import Document
from service.uploads import Received

# What a caller may name a request; Replicate, Stripe and others take as many.
_MAX_KEY = 255
_PREFER_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:$|[,;])", re.IGNORECASE)
MAX_WAIT_S = 60


class Claim(Document):
    """What an Idempotency-Key was used for."""

    fingerprint: str
    jobs: list[str]
    at: datetime


@dataclass(frozen=True)
class Taken:
    """The jobs of a request; `replayed` where they were made by an earlier one with the same key."""

    records: list[Record]
    replayed: bool = False


class Intake:
    """One request that sends videos. The ids are given beforehand: the videos lie under them."""

    def __init__(self, desk: Desk, caller: Caller, idempotency_key: str | None) -> None:
        self._desk, self._caller, self._key = desk, caller, idempotency_key
        self._ids: list[str] = []

    @property
    def may_replay(self) -> bool:
        """Whether its key was used before: then it may make no new jobs."""
        return self._claimed() is not None

    def video_key(self, index: int) -> str:
        """Where the request's video at this place goes."""
        while len(self._ids) <= index:
            self._ids.append(new_job_id())
        return key(self._ids[index], "video")

    def options(self, values: dict[str, str]) -> JobOptions:
        """What the jobs are asked for; raises Problem for what does not fit."""
        options = parse_parameters(JobOptions, values)
        if options.callback_url:
            self._desk.webhooks.check(options.callback_url)
        limit = self._desk.settings.max_retention_s
        if options.retention_s is not None and options.retention_s > limit:
            raise Problem(
                "invalid_parameter",
                f"retention_s={options.retention_s}: the limit is {limit} (MMAD_MAX_RETENTION_S)",
            )
        return options

    def take(self, received: Received, query: dict[str, str]) -> Taken:
        """Make the jobs and queue them; waits for disk and Redis. Where it raises, `abandon` cleans up."""
        options = self.options({**query, **received.fields})
        if options.labels is not None:
            chosen_actions(self._desk.model_card().labels, options.labels)
        fingerprint = _fingerprint(received.uploads, options)
        if earlier := self._earlier(self._claimed(), fingerprint):
            self.abandon()
            return Taken(earlier, replayed=True)
        sizes = [upload.bytes for upload in received.uploads]
        self._desk.auth.admit(self._caller, self._desk.jobs, sum(sizes), len(sizes))
        records = self._create(received.uploads, options)
        if earlier := self._claim(fingerprint):
            self.abandon()
            return Taken(earlier, replayed=True)
        try:
            for record in records:
                self._desk.queue.enqueue(record.id)
        except BaseException:
            self._unclaim()
            raise
        return Taken(records)

    def abandon(self) -> None:
        """Nothing of this request stays."""
        for job_id in self._ids:
            with suppress(Problem):
                self._desk.jobs.forget(self._desk.jobs.get(job_id))
            self._desk.store.delete(key(job_id))

    def _create(self, uploads: list[Upload], options: JobOptions) -> list[Record]:
        retention_s = options.retention_s
        if retention_s is None:
            retention_s = self._desk.settings.retention_s
        batch = self._ids[0] if len(uploads) > 1 else None
        return [
            self._desk.jobs.create(
                job_id, upload, options, retention_s=retention_s, owner=self._caller.owner, batch=batch
            )
            for job_id, upload in zip(self._ids, uploads, strict=True)
        ]

    def _claim(self, fingerprint: str) -> list[Record] | None:
        """Take the key for this request's jobs; those of a request that was faster, if there is one."""
        if self._key is None:
            return None
        mine = Claim(fingerprint=fingerprint, jobs=self._ids, at=datetime.now(UTC)).model_dump_json().encode()
        while True:
            found = self._claimed()
            if earlier := self._earlier(found, fingerprint):
                return earlier
            if self._desk.store.swap(self._claim_key, found, mine):
                return None

    def _earlier(self, found: bytes | None, fingerprint: str) -> list[Record] | None:
        """The jobs of the request that took this key; None where nobody did, or they are gone and the key is free.

        Raises:
            Problem: idempotency_conflict where the key was used for another body.
        """
        if found is None:
            return None
        claim = Claim.model_validate_json(found)
        try:
            records = [self._desk.jobs.get(job_id, self._caller.owner) for job_id in claim.jobs]
        except Problem:  # deleted or expired
            return None
        if claim.fingerprint != fingerprint:
            raise Problem(
                "idempotency_conflict",
                f"the Idempotency-Key {self._key!r} was used at {claim.at:%Y-%m-%dT%H:%M:%SZ} "
                "for another video or other parameters; use a new key for a new request",
            )
        return records

    def _claimed(self) -> bytes | None:
        try:
            return self._desk.store.get(self._claim_key) if self._key else None
        except KeyError:
            return None

    def _unclaim(self) -> None:
        if self._key:
            self._desk.store.delete(self._claim_key)

    @property
    def _claim_key(self) -> str:
        digest = hashlib.sha256((self._key or "").encode()).hexdigest()
        return f"idempotency/{self._caller.owner}/{digest}"


def idempotency_key(value: str | None) -> str | None:
    """The header's value; raises Problem where it is empty or too long."""
    if value is not None and not 0 < len(value) <= _MAX_KEY:
        raise Problem(
            "invalid_parameter", f"Idempotency-Key has {len(value)} characters, 1 to {_MAX_KEY} are taken"
        )
    return value


def preferred_wait_s(value: str | None) -> int | None:
    """Seconds to wait for the result, from the header Prefer (RFC 7240); None where it asks for nothing of the kind."""
    found = _PREFER_WAIT.search(value or "")
    return min(int(found[1]), MAX_WAIT_S) if found else None


def _fingerprint(uploads: list[Upload], options: JobOptions) -> str:
    told = [[upload.sha256 for upload in uploads], options.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
