"""Brings every accepted job to its end, whatever becomes of Redis and of workers: the store says which jobs there are.

A job that waits must be on the queue, one that runs must have a living worker. Where that is not so for a while, the
job is queued again; after its last attempt it fails. Any number of reconcilers may look after one store: changes go
through store.compare_and_swap, and a job that was queued twice runs once.
"""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import structlog
from redis.exceptions import RedisError

from service.job_schemas import RetryReason, State
from service.jobs import ATTEMPTS, Jobs, Record, StaleAttemptError
from service.metrics import JOBS_ENDED, LEASES_LOST, RETRIES
from service.queue import BEAT_S, LEASE_S, JobQueue

log = structlog.get_logger()

EVERY_S = 2.0
# Two beats of a worker: after Redis was emptied leases come back by themselves, and a job that was just taken
# from the queue is said to run by then.
_GRACE_S = 2 * BEAT_S
# What failed is not tried again at once: whatever was wrong with its worker may pass. Longer each time.
_AFTER_FAULT_S = 15.0


class _Astray(NamedTuple):
    """A job that nobody seems to have: in which state, at which attempt, and since when."""

    state: State
    attempt: int
    since_s: float


class Reconciler:
    """Compares the store with Redis."""

    def __init__(self, jobs: Jobs, queue: JobQueue, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds that only grow."""
        self._jobs, self._queue, self._clock = jobs, queue, clock
        self._astray: dict[str, _Astray] = {}

    def run(self, stop: threading.Event) -> None:
        """Reconcile until told to stop; a pass that fails is logged, and the next one comes."""
        while not stop.is_set():
            try:
                self.reconcile()
            except RedisError as error:
                log.warning("not_reconciled", reason=f"Redis cannot be used: {type(error).__name__}")
            except Exception:
                log.exception("not_reconciled")
            stop.wait(EVERY_S)

    def reconcile(self) -> None:
        """One pass; raises RedisError where Redis cannot tell, and then nothing is held against any job."""
        seen, self._astray = self._astray, {}
        astray: dict[str, _Astray] = {}
        waiting = self._queue.waiting()
        for job_id in self._jobs.unfinished():
            record = None if job_id in waiting else self._jobs.read(job_id)
            if record is None or record.ended or self._is_held(record):
                continue
            now_s = self._clock()
            found = seen.get(job_id)
            if found is None or (found.state, found.attempt) != (record.state, record.attempt):
                found = _Astray(record.state, record.attempt, now_s)
            if now_s - found.since_s >= _patience_s(record):
                try:
                    self._bring_back(record)
                except OSError:  # of its record; the others must not suffer
                    log.exception("job_not_brought_back", job_id=job_id)
            else:
                astray[job_id] = found
        self._astray = astray

    def _is_held(self, record: Record) -> bool:
        return record.state is State.RUNNING and self._queue.is_leased(record.id, record.attempt)

    def _bring_back(self, record: Record) -> None:
        if record.state is State.RUNNING:
            record = self._take_back(record)
        elif record.changes[-1].why is None:  # otherwise its worker has told of that
            self._queue.meter.count(RETRIES, why="redelivered")
            log.info("job_queued_again", job_id=record.id)
        if record.state is State.QUEUED:
            # It had its turn, and a worker may die of anything. If one dies of it again, it goes behind the others.
            first = record.changes[-1].why is RetryReason.WORKER_LOST and record.faults == 1
            self._queue.deliver(record.id, first=first)

    def _take_back(self, record: Record) -> Record:
        detail = (
            f"the worker that had the job ended in the midst of it, {ATTEMPTS} times; "
            "send another video, or ask whoever runs the service: the log has the job's id"
        )
        try:
            changed = self._jobs.take_back(record, RetryReason.WORKER_LOST, "worker_lost", detail)
        except StaleAttemptError:  # its worker was alive after all, or another reconciler came first
            return record
        self._queue.meter.count(LEASES_LOST)
        log.warning(
            "lease_lost", job_id=record.id, attempt=record.attempt, state=changed.state, after_s=LEASE_S
        )
        if changed.ended:
            self._queue.meter.count(JOBS_ENDED, state=changed.state, code="worker_lost")
        else:
            self._queue.meter.count(RETRIES, why=RetryReason.WORKER_LOST)
        return changed


def _patience_s(record: Record) -> float:
    """How long a job may seem to be nobody's."""
    failed_now = record.state is State.QUEUED and record.changes[-1].why is RetryReason.FAULT
    return _GRACE_S + (_AFTER_FAULT_S * record.faults if failed_now else 0.0)
