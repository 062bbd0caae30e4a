"""Removes what has had its time: expired jobs, forgotten files, old keys of requests."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import structlog

from service.job_schemas import State
from service.jobs import Jobs, Record, key
from service.store import Store

log = structlog.get_logger()

_REMEMBER_KEYS_S = 24 * 3600.0
_REMEMBER_GONE_S = 30 * 24 * 3600.0


class Sweeper:
    """Any number of them may sweep one store."""

    def __init__(self, store: Store, jobs: Jobs, every_s: float, orphan_s: float) -> None:
        """What belongs to no job is a request's that is being taken, or an orphan when it is older than `orphan_s`."""
        self._store, self._jobs, self._every_s, self._orphan_s = store, jobs, every_s, orphan_s

    def run(self, stop: threading.Event) -> None:
        """Sweep until told to stop; a pass that fails is logged, and the next one comes."""
        while not stop.is_set():
            try:
                self.sweep(datetime.now(UTC))
            except Exception:
                log.exception("sweep_failed")
            stop.wait(self._every_s)

    def sweep(self, now: datetime) -> int:
        """One pass; returns how many jobs expired."""
        expired = 0
        for record in self._records():
            try:
                expired += self._look_at(record, now)
            except OSError:
                log.exception("job_not_swept", job_id=record.id)
        self._tidy_again()
        self._remove_orphans(now.timestamp())
        for prefix in ("incoming", "uploads"):
            self._remove_old(prefix, self._orphan_s, now.timestamp())
        self._remove_old("gone", _REMEMBER_GONE_S, now.timestamp())
        for owner in self._store.names("idempotency"):
            self._remove_old(f"idempotency/{owner}", _REMEMBER_KEYS_S, now.timestamp())
        return expired

    def _records(self) -> Iterator[Record]:
        for job_id in self._store.names("jobs"):
            if record := self._jobs.read(job_id):
                yield record

    def _look_at(self, record: Record, now: datetime) -> bool:
        """Whether the job has expired, and is no more."""
        if record.expires_at is None:
            return False
        if record.expires_at <= now:
            receipt = self._jobs.remove(record, "expired")
            log.info("job_expired", job_id=record.id, removed_bytes=sum(one.bytes for one in receipt.removed))
            return True
        good = str(record.attempt) if record.state is State.SUCCEEDED else None
        for name in self._store.names(key(record.id)):
            if name.isdecimal() and name != good:  # what an attempt left that was overtaken and killed
                self._store.delete(key(record.id, name))
        return False

    def _tidy_again(self) -> None:
        """Jobs that have ended but for the last step: whoever ended them was killed before it."""
        for owner in self._store.names("pending"):
            for job_id in self._jobs.pending(owner):
                record = self._jobs.read(job_id)
                if record and record.ended:
                    self._jobs.tidy(record)
                    log.info("tidied", job_id=job_id)

    def _remove_orphans(self, now: float) -> None:
        """What belongs to a job that has no record: its making was cut off, or its removal."""
        for job_id in self._store.names("jobs"):
            if "job.json" not in self._store.names(f"jobs/{job_id}"):
                self._remove_if_older(f"jobs/{job_id}", self._orphan_s, now)
        for kind in ("owners", "pending", "kept"):
            for owner in self._store.names(kind):
                for name in self._store.names(f"{kind}/{owner}"):
                    if not self._store.names(f"jobs/{name.partition('-')[0]}"):
                        self._remove_if_older(f"{kind}/{owner}/{name}", self._orphan_s, now)

    def _remove_old(self, prefix: str, age_s: float, now: float) -> None:
        for name in self._store.names(prefix):
            self._remove_if_older(f"{prefix}/{name}", age_s, now)

    def _remove_if_older(self, stored: str, age_s: float, now: float) -> None:
        try:
            old = self._store.age_s(stored, now) > age_s
        except KeyError:  # somebody else removed it
            return
        if old:
            self._store.delete(stored)
            log.info("swept", kind=stored.split("/")[0], age_s=round(age_s))
