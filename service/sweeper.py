"""Removes expired jobs, orphaned files, and old idempotency keys and tombstones."""

import threading
from datetime import UTC, datetime

import structlog

from service.job_schemas import State
from service.jobs import Jobs, Record, job_key
from service.store import FolderStore

log = structlog.get_logger()

_IDEMPOTENCY_KEY_TTL_S = 24 * 3600.0
_TOMBSTONE_TTL_S = 30 * 24 * 3600.0


class Sweeper:
    """Removes expired data; several sweepers may run on one store."""

    def __init__(self, store: FolderStore, jobs: Jobs, every_s: float, orphan_s: float) -> None:
        """Files without a job are removed after `orphan_s`: younger ones may belong to a request in progress."""
        self._store, self._jobs, self._every_s, self._orphan_s = store, jobs, every_s, orphan_s

    def run(self, stop: threading.Event) -> None:
        """Sweep until `stop` is set; errors are logged."""
        while not stop.is_set():
            try:
                self.sweep(datetime.now(UTC))
            except Exception:
                log.exception("sweep_failed")
            stop.wait(self._every_s)

    def sweep(self, now: datetime) -> int:
        """Run one pass; return the number of expired jobs."""
        expired = 0
        for job_id in self._store.names("jobs"):
            try:
                if record := self._jobs.read(job_id):
                    expired += self._sweep_job(record, now)
            except OSError:
                log.exception("job_not_swept", job_id=job_id)
        self._clean_up_ended()
        self._remove_orphans(now.timestamp())
        for prefix in ("incoming", "uploads"):
            self._remove_old(prefix, self._orphan_s, now.timestamp())
        self._remove_old("gone", _TOMBSTONE_TTL_S, now.timestamp())
        for owner in self._store.names("idempotency"):
            self._remove_old(f"idempotency/{owner}", _IDEMPOTENCY_KEY_TTL_S, now.timestamp())
        return expired

    def _sweep_job(self, record: Record, now: datetime) -> bool:
        """Remove an expired job, or else the files of its stale attempts; return whether the job has expired."""
        if record.expires_at is None:
            return False
        if record.expires_at <= now:
            receipt = self._jobs.remove(record, "expired")
            log.info("job_expired", job_id=record.id, removed_bytes=sum(file.bytes for file in receipt.removed))
            return True
        published = str(record.attempt) if record.state is State.SUCCEEDED else None
        for name in self._store.names(job_key(record.id)):
            if name.isdecimal() and name != published:  # files of an attempt whose worker was killed
                self._store.delete(job_key(record.id, name))
        return False

    def _clean_up_ended(self) -> None:
        """Clean up jobs that have ended, but whose process was killed before the clean-up."""
        for job_id in self._jobs.list_unfinished():
            record = self._jobs.read(job_id)
            if record and record.ended:
                self._jobs.clean_up(record)
                log.info("tidied", job_id=job_id)

    def _remove_orphans(self, now: float) -> None:
        """Remove files and index keys without a record: creation or removal of the job was interrupted."""
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
        except KeyError:  # another process removed it
            return
        if old:
            self._store.delete(stored)
            log.info("swept", kind=stored.split("/")[0], age_s=round(age_s))
