"""Removes what has had its time: expired jobs, forgotten files, old keys of requests."""

import threading
from datetime import UTC, datetime

import structlog

from service.jobs import Jobs
from service.store import Store

log = structlog.get_logger()

# A job's video is there before its record: younger folders without a record are uploads under way.
_ORPHAN_S = 3600.0
_REMEMBER_KEYS_S = 24 * 3600.0
_REMEMBER_GONE_S = 30 * 24 * 3600.0


class Sweeper:
    """Any number of them may sweep one store."""

    def __init__(self, store: Store, jobs: Jobs, every_s: float) -> None:
        self._store, self._jobs, self._every_s = store, jobs, every_s

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
        for record in self._jobs.newest():
            if record.expires_at is not None and record.expires_at <= now:
                receipt = self._jobs.remove(record, "expired")
                expired += 1
                log.info("job_expired", job_id=record.id, removed=sum(one.bytes for one in receipt.removed))
        self._remove_orphans(now.timestamp())
        self._remove_old("gone", _REMEMBER_GONE_S, now.timestamp())
        for owner in self._store.names("idempotency"):
            self._remove_old(f"idempotency/{owner}", _REMEMBER_KEYS_S, now.timestamp())
        return expired

    def _remove_orphans(self, now: float) -> None:
        for job_id in self._store.names("jobs"):
            if "job.json" not in self._store.names(f"jobs/{job_id}"):
                self._remove_if_older(f"jobs/{job_id}", _ORPHAN_S, now)
        for kind in ("pending", "kept"):
            for owner in self._store.names(kind):
                for job_id in self._store.names(f"{kind}/{owner}"):
                    if not self._store.names(f"jobs/{job_id}"):
                        self._remove_if_older(f"{kind}/{owner}/{job_id}", _ORPHAN_S, now)
        self._remove_old("incoming", _ORPHAN_S, now)

    def _remove_old(self, prefix: str, age_s: float, now: float) -> None:
        for name in self._store.names(prefix):
            self._remove_if_older(f"{prefix}/{name}", age_s, now)

    def _remove_if_older(self, key: str, age_s: float, now: float) -> None:
        try:
            old = self._store.age_s(key, now) > age_s
        except KeyError:  # somebody else removed it
            return
        if old:
            self._store.delete(key)
            log.info("swept", kind=key.split("/")[0], age_s=round(age_s))
