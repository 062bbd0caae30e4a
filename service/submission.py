"""From videos in the store to queued jobs: one request makes its jobs once, however often it is sent."""

import hashlib
import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from service.admission import check_queue
from service.app_state import AppState
from service.auth import Caller
from service.duration import declared_s
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


# So long a request waits for another with the same key that is being taken; after longer its process has died.
_WAIT_S = 10.0
# The worker allows as much: declared durations are rounded and may leave out the last frame.
_DECLARED_SLACK_S = 1.0
_STALE_S = 60.0


class Claim(Document):
    """What an Idempotency-Key was used for; `queued` once its jobs are, so that they will not be taken back."""

    fingerprint: str
    jobs: list[str]
    at: datetime
    queued: bool = False

    def dump(self) -> bytes:
        """As it is stored."""
        return self.model_dump_json().encode()

    @property
    def under_way(self) -> bool:
        """Whether somebody may be making its jobs at this moment."""
        return not self.queued and (datetime.now(UTC) - self.at).total_seconds() < _STALE_S


@dataclass(frozen=True)
class Submitted:
    """The jobs of a request; `replayed` where they were made by an earlier one with the same key."""

    records: list[Record]
    replayed: bool = False


class Submission:
    """One request that sends videos: they wait under names of its own until they belong to jobs."""

    def __init__(self, app_state: AppState, caller: Caller, idempotency_key: str | None) -> None:
        self._app_state, self._caller, self._key = app_state, caller, idempotency_key
        self._name = uuid4().hex
        self._claim: Claim | None = None

    @property
    def may_replay(self) -> bool:
        """Whether its key was used before: then it may make no new jobs."""
        return self._stored_claim() is not None

    def video_key(self, index: int) -> str:
        """Where the request's video at this place waits."""
        return f"uploads/{self._name}/{index}"

    def options(self, values: dict[str, str]) -> JobOptions:
        """What the jobs are asked for; raises Problem for what does not fit."""
        options = parse_parameters(JobOptions, values)
        if options.callback_url:
            self._app_state.webhooks.check(options.callback_url)
        limit = self._app_state.settings.max_retention_s
        if options.retention_s is not None and options.retention_s > limit:
            raise Problem(
                "invalid_parameter",
                f"retention_s={options.retention_s}: the limit is {limit} (MMAD_MAX_RETENTION_S)",
            )
        return options

    def take(self, received: Received, query: dict[str, str]) -> Submitted:
        """Make the jobs and queue them, or find those that an earlier request made; waits for disk and Redis."""
        options = self.options({**query, **received.fields})
        if options.name is not None and len(received.uploads) > 1:
            raise Problem(
                "invalid_parameter",
                f"name={options.name[:64]}: the request holds {len(received.uploads)} videos, and name is for a single "
                "one; each file of a form brings its own name",
            )
        self._check_durations(len(received.uploads))
        if options.labels is not None:
            chosen_actions(self._app_state.model_card().labels, options.labels)
        ids = [new_job_id() for _ in received.uploads]
        if earlier := self._claim_key(Claim(
            fingerprint=_fingerprint(received.uploads, options), jobs=ids, at=datetime.now(UTC)
        )):  # fmt: skip
            return Submitted(earlier, replayed=True)
        try:
            records = self._make(ids, received.uploads, options)
        except BaseException:
            for job_id in ids:
                with suppress(Problem):
                    self._app_state.jobs.forget(self._app_state.jobs.get(job_id))
                self._app_state.store.delete(key(job_id))
            self._give_key_back()
            raise
        self._confirm()
        return Submitted(records)

    def _check_durations(self, count: int) -> None:
        """Refuse videos whose declared duration exceeds the limit; the worker checks the others."""
        limit_s = self._app_state.settings.max_duration_s
        for place in range(count):
            with self._app_state.store.open(self.video_key(place)) as file:
                found_s = declared_s(file)
            if found_s is not None and found_s > limit_s + _DECLARED_SLACK_S:
                raise Problem(
                    "video_too_long",
                    f"the video lasts {found_s:.0f} s, the limit is {limit_s:.0f} s (MMAD_MAX_DURATION_S); "
                    "send it in parts or raise the limit",
                )

    def close(self) -> None:
        """What waits and belongs to no job goes."""
        self._app_state.store.delete(f"uploads/{self._name}")

    def _make(self, ids: list[str], uploads: list[Upload], options: JobOptions) -> list[Record]:
        jobs, retention_s = self._app_state.jobs, options.retention_s
        sizes = [upload.bytes for upload in uploads]
        self._app_state.auth.admit(self._caller, jobs, sum(sizes), len(sizes))
        check_queue(len(jobs.unfinished()), len(sizes), self._app_state.settings.max_queued_jobs)
        for place, job_id in enumerate(ids):
            self._app_state.store.move(self.video_key(place), key(job_id, "video"))
        records = [
            jobs.create(
                job_id,
                upload,
                options,
                retention_s=self._app_state.settings.retention_s if retention_s is None else retention_s,
                owner=self._caller.owner,
                batch=ids[0] if len(ids) > 1 else None,
            )
            for job_id, upload in zip(ids, uploads, strict=True)
        ]
        for record in records:  # what Redis is away for is queued by the reconciler
            self._app_state.queue.try_enqueue(record.id)
        return records

    def _claim_key(self, mine: Claim) -> list[Record] | None:
        """Take the key for this request; the jobs of the one that had it before, if they are there.

        Raises:
            Problem: idempotency_conflict where it was used for another body; request_in_progress where its jobs are
                still being made.
        """
        if self._key is None:
            return None
        until = time.monotonic() + _WAIT_S
        while True:
            found = self._stored_claim()
            claim = Claim.model_validate_json(found) if found else None
            records = self._records_of(claim) if claim and not claim.under_way else None
            if claim and (records or claim.under_way) and claim.fingerprint != mine.fingerprint:
                raise self._conflict(claim)
            if records:
                return records
            if claim and claim.under_way:
                if time.monotonic() > until:
                    raise Problem(
                        "request_in_progress",
                        f"a request with the Idempotency-Key {self._key!r} is being taken; send it again in a moment",
                    )
                time.sleep(0.05)
            elif self._app_state.store.compare_and_swap(self._claim_place, found, mine.dump()):
                self._claim = mine
                return None

    def _records_of(self, claim: Claim) -> list[Record] | None:
        try:
            return [self._app_state.jobs.get(job_id, self._caller.owner) for job_id in claim.jobs]
        except Problem:  # deleted, expired or never made: the key is free
            return None

    def _conflict(self, claim: Claim) -> Problem:
        return Problem(
            "idempotency_conflict",
            f"the Idempotency-Key {self._key!r} was used at {claim.at:%Y-%m-%dT%H:%M:%SZ} "
            "for another video or other parameters; use a new key for a new request",
        )

    def _confirm(self) -> None:
        if self._claim:
            queued = self._claim.model_copy(update={"queued": True})
            self._app_state.store.compare_and_swap(self._claim_place, self._claim.dump(), queued.dump())

    def _give_key_back(self) -> None:
        if self._claim and self._stored_claim() == self._claim.dump():
            self._app_state.store.delete(self._claim_place)

    def _stored_claim(self) -> bytes | None:
        try:
            return self._app_state.store.get(self._claim_place) if self._key else None
        except KeyError:
            return None

    @property
    def _claim_place(self) -> str:
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
    """Of the videos and all parameters. The files' own names are left out: a renamed copy is the same."""
    # A request without `name` is the same as before there was that parameter.
    unset = {"name"} if options.name is None else None
    told = [[upload.sha256 for upload in uploads], options.model_dump(mode="json", exclude=unset)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
