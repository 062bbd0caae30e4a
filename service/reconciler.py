"""Compares the job records with Redis and repairs differences, so that every accepted job ends.

A queued job must be in the Redis queue, and a running job must have a lease. If that is not so for some seconds, the
job is queued again, or fails after its last attempt. Several reconcilers may run on one store: record changes go
through store.compare_and_swap, and a job that was enqueued twice runs once.
"""

import threading
import time
from collections.abc import Callable

import structlog
from redis.exceptions import RedisError

from service.job_schemas import RetryReason, State
from service.jobs import ATTEMPTS, Jobs, Record, StaleAttemptError
from service.metrics import JOBS_ENDED, LEASES_LOST, RETRIES
from service.queue import HEARTBEAT_INTERVAL_S, LEASE_TTL_S, JobQueue

log = structlog.get_logger()

INTERVAL_S = 2.0
# Two heartbeats: in that time workers renew the leases that Redis has lost, and a job that was just taken from the
# queue changes to running.
_GRACE_S = 2 * HEARTBEAT_INTERVAL_S
# Linear backoff after an internal error, whose cause may be transient.
_FAULT_BACKOFF_S = 15.0


class Reconciler:
    """Queues lost jobs again."""

    def __init__(self, jobs: Jobs, queue: JobQueue, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns monotonic seconds."""
        self._jobs, self._queue, self._clock = jobs, queue, clock
        # When each job, in a state and attempt, was first seen neither in the queue nor leased.
        self._lost: dict[tuple[str, State, int], float] = {}

    def run(self, stop: threading.Event) -> None:
        """Reconcile every 2 s until `stop` is set; errors are logged."""
        while not stop.is_set():
            try:
                self.reconcile()
            except RedisError as error:
                log.warning("not_reconciled", reason=f"Redis cannot be used: {type(error).__name__}")
            except Exception:
                log.exception("not_reconciled")
            stop.wait(INTERVAL_S)

    def reconcile(self) -> None:
        """Run one pass; raises RedisError if Redis is unavailable, and then all observations start anew."""
        previous, self._lost = self._lost, {}
        lost: dict[tuple[str, State, int], float] = {}
        queued = self._queue.get_queued_ids()
        for job_id in self._jobs.list_unfinished():
            record = None if job_id in queued else self._jobs.read(job_id)
            if record is None or record.ended:
                continue
            if record.state is State.RUNNING and self._queue.is_leased(record.id, record.attempt):
                continue
            now_s = self._clock()
            key = (job_id, record.state, record.attempt)
            since_s = previous.get(key, now_s)
            if now_s - since_s >= _compute_grace_s(record):
                try:
                    self._recover(record)
                except OSError:  # an error of one record must not block the others
                    log.exception("job_not_brought_back", job_id=job_id)
            else:
                lost[key] = since_s
        self._lost = lost

    def _recover(self, record: Record) -> None:
        if record.state is State.RUNNING:
            record = self._requeue(record)
        elif record.changes[-1].why is None:  # otherwise its worker has logged and counted the retry
            self._queue.meter.count(RETRIES, why="redelivered")
            log.info("job_queued_again", job_id=record.id)
        if record.state is State.QUEUED:
            # After its first lost worker a job goes to the front, where it was. After a second loss the job itself may
            # be the cause: it goes to the end, so that it does not block others.
            at_front = record.changes[-1].why is RetryReason.WORKER_LOST and record.failed_attempts == 1
            self._queue.enqueue(record.id, at_front=at_front)

    def _requeue(self, record: Record) -> Record:
        detail = (
            f"the worker that had the job ended in the midst of it, {ATTEMPTS} times; "
            "send another video, or ask whoever runs the service: the log has the job's id"
        )
        try:
            changed = self._jobs.requeue(record, RetryReason.WORKER_LOST, "worker_lost", detail)
        except StaleAttemptError:  # its worker is alive, or another reconciler was faster
            return record
        self._queue.meter.count(LEASES_LOST)
        log.warning("lease_lost", job_id=record.id, attempt=record.attempt, state=changed.state, after_s=LEASE_TTL_S)
        if changed.ended:
            self._queue.meter.count(JOBS_ENDED, state=changed.state, code="worker_lost")
        else:
            self._queue.meter.count(RETRIES, why=RetryReason.WORKER_LOST)
        return changed


def _compute_grace_s(record: Record) -> float:
    """Return for how many seconds a job must be lost before it is recovered."""
    after_fault = record.state is State.QUEUED and record.changes[-1].why is RetryReason.FAULT
    return _GRACE_S + (_FAULT_BACKOFF_S * record.failed_attempts if after_fault else 0.0)
