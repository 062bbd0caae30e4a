"""Reconciler: jobs reach their end although Redis or workers fail."""

import threading

import pytest
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from service import reconciler as module
from service.job_schemas import RetryReason, State
from service.jobs import Jobs, Record, job_key
from service.metrics import JOBS_ENDED, LEASES_LOST, RETRIES
from service.queue import JobQueue, lease_key, put_heartbeat
from service.reconciler import Reconciler
from tests.conftest import wait_for
from tests.jobs.job_examples import make_job


class Clock:
    """Clock set by the test."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def queue(connection: Redis) -> JobQueue:
    return JobQueue(connection, 60)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reconciler(jobs: Jobs, queue: JobQueue, clock: Clock) -> Reconciler:
    return Reconciler(jobs, queue, clock)


def queued_ids(connection: Redis) -> list[str]:
    """Return the queued job ids, the next first."""
    return [name.decode().partition("-")[0] for name in connection.lrange("rq:queue:mmad", 0, -1)]


def reconcile_after(reconciler: Reconciler, clock: Clock, seconds: float, times: int = 1) -> None:
    """Advance the clock and reconcile, `times` times."""
    for _ in range(times):
        clock.now_s += seconds
        reconciler.reconcile()


def test_lost_jobs_are_requeued_oldest_first(
    jobs: Jobs, queue: JobQueue, reconciler: Reconciler, clock: Clock, connection: Redis
) -> None:
    records = [make_job(jobs, owner) for owner in ("zoe", "anna", "open")]
    for record in records:
        queue.enqueue(record.id)
    reconcile_after(reconciler, clock, 60, times=2)
    assert connection.llen("rq:queue:mmad") == 3  # all are queued: nothing to do
    connection.flushall()
    reconcile_after(reconciler, clock, 1)
    assert queue.get_queued_ids() == set()  # a worker may just have taken them
    reconcile_after(reconciler, clock, 6)
    assert queued_ids(connection) == [record.id for record in records]
    reconcile_after(reconciler, clock, 6, times=3)
    assert connection.llen("rq:queue:mmad") == 3
    assert queue.meter.read()[RETRIES] == {("redelivered",): {"amount": 3}}  # type: ignore[index]


def test_expired_lease_requeues_job_and_third_time_fails_it(
    jobs: Jobs, queue: JobQueue, reconciler: Reconciler, clock: Clock, connection: Redis
) -> None:
    record = make_job(jobs)
    for attempt in (1, 2, 3):
        record = jobs.change(jobs.get(record.id), State.RUNNING)
        reconcile_after(reconciler, clock, 1)
        assert jobs.get(record.id).state is State.RUNNING
        reconcile_after(reconciler, clock, 6)
        current = jobs.get(record.id)
        assert (current.attempt, current.state) == (attempt, State.FAILED if attempt == 3 else State.QUEUED)
        assert queue.get_queued_ids() == (set() if attempt == 3 else {record.id})
        connection.delete("rq:queue:mmad")  # a worker takes it
    assert current.error is not None
    assert current.error.code == "worker_lost"
    assert [change.why for change in current.changes if change.why] == [RetryReason.WORKER_LOST] * 2
    assert jobs.store.names(job_key(record.id)) == ["job.json"]
    assert jobs.list_unfinished() == []
    sums = queue.meter.read()
    assert sums is not None
    assert (sums[LEASES_LOST], sums[RETRIES]) == ({(): {"amount": 3}}, {("worker_lost",): {"amount": 2}})
    assert sums[JOBS_ENDED] == {("failed", "worker_lost"): {"amount": 1}}


def test_lease_protects_running_job(
    jobs: Jobs, queue: JobQueue, reconciler: Reconciler, clock: Clock, connection: Redis
) -> None:
    record = jobs.change(make_job(jobs), State.RUNNING)
    put_heartbeat(connection, "worker", lease_key(record.id, 1))
    reconcile_after(reconciler, clock, 100, times=3)
    assert jobs.get(record.id) == record
    connection.flushall()  # no lease until the worker's next heartbeat
    reconcile_after(reconciler, clock, 1)
    put_heartbeat(connection, "worker", lease_key(record.id, 1))
    reconcile_after(reconciler, clock, 5)
    connection.flushall()  # the grace period starts again
    reconcile_after(reconciler, clock, 1)
    assert jobs.get(record.id) == record
    reconcile_after(reconciler, clock, 7)
    assert jobs.get(record.id).state is State.QUEUED


def test_lease_of_earlier_attempt_is_ignored(
    jobs: Jobs, reconciler: Reconciler, clock: Clock, connection: Redis
) -> None:
    """A suspended worker may resume and renew the lease of an attempt that it has lost."""
    first = jobs.change(make_job(jobs), State.RUNNING)
    second = jobs.change(jobs.requeue(first, RetryReason.WORKER_LOST, "x", "x"), State.RUNNING)
    put_heartbeat(connection, "worker", lease_key(first.id, first.attempt))
    reconcile_after(reconciler, clock, 7, times=2)
    assert jobs.get(second.id).state is State.QUEUED


def test_unavailable_redis_does_not_expire_leases(
    jobs: Jobs, queue: JobQueue, reconciler: Reconciler, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if Redis can be read but not written, as with a full disk."""
    record = jobs.change(make_job(jobs), State.RUNNING)
    reconcile_after(reconciler, clock, 1)

    def refuse_write(*_args: object, **_options: object) -> None:
        raise ResponseError("MISCONF Errors writing to the AOF file")

    monkeypatch.setattr(queue._connection, "set", refuse_write)
    clock.now_s += 100
    with pytest.raises(RedisError):
        reconciler.reconcile()
    monkeypatch.undo()
    reconcile_after(reconciler, clock, 1)
    assert jobs.get(record.id).state is State.RUNNING  # the grace period has started again
    reconcile_after(reconciler, clock, 6)
    assert jobs.get(record.id).state is State.QUEUED


def test_job_that_loses_workers_repeatedly_is_queued_last(
    jobs: Jobs, queue: JobQueue, reconciler: Reconciler, clock: Clock, connection: Redis
) -> None:
    """The first time it is queued first."""
    poison, other = jobs.change(make_job(jobs), State.RUNNING), make_job(jobs)
    queue.enqueue(other.id)
    reconcile_after(reconciler, clock, 7, times=2)
    assert queued_ids(connection) == [poison.id, other.id]
    queue.remove(poison.id)
    jobs.change(jobs.get(poison.id), State.RUNNING)
    reconcile_after(reconciler, clock, 7, times=2)
    assert queued_ids(connection) == [other.id, poison.id]


def test_failed_attempt_is_requeued_after_delay(
    jobs: Jobs, queue: JobQueue, reconciler: Reconciler, clock: Clock
) -> None:
    record = jobs.requeue(jobs.change(make_job(jobs), State.RUNNING), RetryReason.FAULT, "x", "x")
    reconcile_after(reconciler, clock, 1)
    reconcile_after(reconciler, clock, 20)
    assert queue.get_queued_ids() == set()
    reconcile_after(reconciler, clock, 1)
    assert queue.get_queued_ids() == {record.id}


def test_storage_error_of_one_job_does_not_affect_others(
    jobs: Jobs, queue: JobQueue, reconciler: Reconciler, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One record cannot be read, another cannot be written."""
    unreadable, unwritable, waiting = make_job(jobs), jobs.change(make_job(jobs), State.RUNNING), make_job(jobs)
    get, swap = jobs.store.get, jobs.store.compare_and_swap

    def get_or_raise(name: str) -> bytes:
        if unreadable.id in name:
            raise PermissionError(13, "Permission denied")
        return get(name)

    def swap_or_raise(name: str, *contents: bytes) -> bool:
        if unwritable.id in name:
            raise OSError(28, "No space left on device")
        return swap(name, *contents)

    monkeypatch.setattr(jobs.store, "get", get_or_raise)
    monkeypatch.setattr(jobs.store, "compare_and_swap", swap_or_raise)
    reconcile_after(reconciler, clock, 7, times=2)
    assert queue.get_queued_ids() == {waiting.id}
    monkeypatch.undo()
    reconcile_after(reconciler, clock, 7, times=2)
    assert queue.get_queued_ids() == {waiting.id, unreadable.id, unwritable.id}


def test_ended_and_unreadable_jobs_are_skipped(
    jobs: Jobs, queue: JobQueue, reconciler: Reconciler, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, ended, waiting = make_job(jobs), make_job(jobs), make_job(jobs)
    jobs.store.put(job_key(broken.id, "job.json"), b"{")
    monkeypatch.setattr(jobs, "clean_up", lambda _record: None)  # as if killed before cleanup
    jobs.change(ended, State.CANCELED)
    reconcile_after(reconciler, clock, 7, times=2)
    assert queue.get_queued_ids() == {waiting.id}


def test_worker_that_publishes_during_requeue_wins(
    jobs: Jobs, queue: JobQueue, reconciler: Reconciler, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = jobs.change(make_job(jobs), State.RUNNING)
    reconcile_after(reconciler, clock, 1)
    requeue = jobs.requeue

    def requeue_late(current: Record, *arguments: object) -> Record:
        jobs.change(record, State.SUCCEEDED)
        return requeue(current, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "requeue", requeue_late)
    reconcile_after(reconciler, clock, 7)
    assert jobs.get(record.id).state is State.SUCCEEDED
    assert queue.get_queued_ids() == set()


def test_loop_continues_after_failed_pass(jobs: Jobs, queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL_S", 0.01)
    monkeypatch.setattr(module, "_GRACE_S", 0.0)
    get_queued_ids, calls = queue.get_queued_ids, []

    def failing() -> set[str]:
        calls.append(1)
        if len(calls) < 3:
            raise RedisError if len(calls) == 1 else OSError
        return get_queued_ids()

    monkeypatch.setattr(queue, "get_queued_ids", failing)
    record, stop = make_job(jobs), threading.Event()
    thread = threading.Thread(target=Reconciler(jobs, queue).run, args=(stop,))
    thread.start()
    wait_for(lambda: get_queued_ids() == {record.id}, seconds=20)
    stop.set()
    thread.join()
    assert len(calls) >= 3
