"""The store owns the jobs: whatever becomes of Redis and of workers, each reaches its end."""

import threading
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from service import reconciler as module
from service.job_schemas import JobOptions, RetryReason, State
from service.jobs import Jobs, Record, Upload, job_key, new_job_id
from service.metrics import JOBS_ENDED, LEASES_LOST, RETRIES
from service.queue import JobQueue, lease_key, put_heartbeat
from service.reconciler import Reconciler
from service.store import FolderStore
from tests.conftest import wait_for


class Clock:
    """Seconds as a test wants them."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(FolderStore(tmp_path / "store"))


@pytest.fixture
def queue(connection: Redis) -> JobQueue:
    return JobQueue(connection, 60)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reconciler(jobs: Jobs, queue: JobQueue, clock: Clock) -> Reconciler:
    return Reconciler(jobs, queue, clock)


def make_job(jobs: Jobs, owner: str = "open") -> Record:
    job_id = new_job_id()
    jobs.store.put(job_key(job_id, "video"), b"bytes")
    return jobs.create(job_id, Upload(bytes=5, sha256="ab"), JobOptions(), retention_s=60, owner=owner)


def order(connection: Redis) -> list[str]:
    """The jobs on the queue, the next first."""
    return [name.decode().partition("-")[0] for name in connection.lrange("rq:queue:mmad", 0, -1)]


def pass_by(reconciler: Reconciler, clock: Clock, seconds: float, times: int = 1) -> None:
    """Reconcile after so many seconds, so often."""
    for _ in range(times):
        clock.now_s += seconds
        reconciler.reconcile()


def test_what_redis_lost_is_queued_again_oldest_first(
    jobs: Jobs, queue: JobQueue, reconciler: Reconciler, clock: Clock, connection: Redis
) -> None:
    records = [make_job(jobs, owner) for owner in ("zoe", "anna", "open")]
    for record in records:
        queue.enqueue(record.id)
    pass_by(reconciler, clock, 60, times=2)
    assert connection.llen("rq:queue:mmad") == 3  # they are there: nothing to do
    connection.flushall()
    pass_by(reconciler, clock, 1)
    assert queue.get_queued_ids() == set()  # perhaps a worker has just taken them
    pass_by(reconciler, clock, 6)
    assert order(connection) == [record.id for record in records]
    pass_by(reconciler, clock, 6, times=3)
    assert connection.llen("rq:queue:mmad") == 3
    assert queue.meter.read()[RETRIES] == {("redelivered",): {"amount": 3}}  # type: ignore[index]


def test_a_job_without_a_worker_is_taken_back_and_fails_at_last(
    jobs: Jobs, queue: JobQueue, reconciler: Reconciler, clock: Clock, connection: Redis
) -> None:
    record = make_job(jobs)
    for attempt in (1, 2, 3):
        record = jobs.change(jobs.get(record.id), State.RUNNING)
        pass_by(reconciler, clock, 1)
        assert jobs.get(record.id).state is State.RUNNING
        pass_by(reconciler, clock, 6)
        found = jobs.get(record.id)
        assert (found.attempt, found.state) == (attempt, State.FAILED if attempt == 3 else State.QUEUED)
        assert queue.get_queued_ids() == (set() if attempt == 3 else {record.id})
        connection.delete("rq:queue:mmad")  # a worker takes it
    assert found.error is not None
    assert found.error.code == "worker_lost"
    assert [change.why for change in found.changes if change.why] == [RetryReason.WORKER_LOST] * 2
    assert jobs.store.names(job_key(record.id)) == ["job.json"]
    assert jobs.list_unfinished() == []
    sums = queue.meter.read()
    assert sums is not None
    assert (sums[LEASES_LOST], sums[RETRIES]) == ({(): {"amount": 3}}, {("worker_lost",): {"amount": 2}})
    assert sums[JOBS_ENDED] == {("failed", "worker_lost"): {"amount": 1}}


def test_a_living_worker_keeps_its_job(
    jobs: Jobs, queue: JobQueue, reconciler: Reconciler, clock: Clock, connection: Redis
) -> None:
    record = jobs.change(make_job(jobs), State.RUNNING)
    put_heartbeat(connection, "worker", lease_key(record.id, 1))
    pass_by(reconciler, clock, 100, times=3)
    assert jobs.get(record.id) == record
    connection.flushall()  # the lease is gone until the worker's next beat
    pass_by(reconciler, clock, 1)
    put_heartbeat(connection, "worker", lease_key(record.id, 1))
    pass_by(reconciler, clock, 5)
    connection.flushall()  # once more: the time begins anew
    pass_by(reconciler, clock, 1)
    assert jobs.get(record.id) == record
    pass_by(reconciler, clock, 7)
    assert jobs.get(record.id).state is State.QUEUED


def test_the_lease_of_an_earlier_attempt_counts_for_nothing(
    jobs: Jobs, reconciler: Reconciler, clock: Clock, connection: Redis
) -> None:
    """A worker that was stopped, taken for dead and goes on keeps telling of the attempt that it lost."""
    first = jobs.change(make_job(jobs), State.RUNNING)
    second = jobs.change(jobs.requeue(first, RetryReason.WORKER_LOST, "x", "x"), State.RUNNING)
    put_heartbeat(connection, "worker", lease_key(first.id, first.attempt))
    pass_by(reconciler, clock, 7, times=2)
    assert jobs.get(second.id).state is State.QUEUED


def test_nothing_is_held_against_a_job_while_redis_is_away(
    jobs: Jobs, queue: JobQueue, reconciler: Reconciler, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases run out meanwhile; also where Redis can be read and not be written, as with a full disk."""
    record = jobs.change(make_job(jobs), State.RUNNING)
    pass_by(reconciler, clock, 1)

    def full(*_args: object, **_options: object) -> None:
        raise ResponseError("MISCONF Errors writing to the AOF file")

    monkeypatch.setattr(queue._connection, "set", full)
    clock.now_s += 100
    with pytest.raises(RedisError):
        reconciler.reconcile()
    monkeypatch.undo()
    pass_by(reconciler, clock, 1)
    assert jobs.get(record.id).state is State.RUNNING  # its worker has until the next passes to be heard of
    pass_by(reconciler, clock, 6)
    assert jobs.get(record.id).state is State.QUEUED


def test_a_poisonous_job_goes_behind_the_others(
    jobs: Jobs, queue: JobQueue, reconciler: Reconciler, clock: Clock, connection: Redis
) -> None:
    """But for the first time: its worker may have died of anything, and it had waited."""
    poison, other = jobs.change(make_job(jobs), State.RUNNING), make_job(jobs)
    queue.enqueue(other.id)
    pass_by(reconciler, clock, 7, times=2)
    assert order(connection) == [poison.id, other.id]
    queue.remove(poison.id)
    jobs.change(jobs.get(poison.id), State.RUNNING)
    pass_by(reconciler, clock, 7, times=2)
    assert order(connection) == [other.id, poison.id]


def test_what_failed_is_tried_again_after_a_while(
    jobs: Jobs, queue: JobQueue, reconciler: Reconciler, clock: Clock
) -> None:
    record = jobs.requeue(jobs.change(make_job(jobs), State.RUNNING), RetryReason.FAULT, "x", "x")
    pass_by(reconciler, clock, 1)
    pass_by(reconciler, clock, 20)
    assert queue.get_queued_ids() == set()
    pass_by(reconciler, clock, 1)
    assert queue.get_queued_ids() == {record.id}


def test_one_job_s_trouble_is_not_all_jobs(
    jobs: Jobs, queue: JobQueue, reconciler: Reconciler, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that may not be read, and one that cannot be written."""
    unread, unwritten, waiting = make_job(jobs), jobs.change(make_job(jobs), State.RUNNING), make_job(jobs)
    get, swap = jobs.store.get, jobs.store.compare_and_swap

    def refusing_get(name: str) -> bytes:
        if unread.id in name:
            raise PermissionError(13, "Permission denied")
        return get(name)

    def refusing_swap(name: str, *contents: bytes) -> bool:
        if unwritten.id in name:
            raise OSError(28, "No space left on device")
        return swap(name, *contents)

    monkeypatch.setattr(jobs.store, "get", refusing_get)
    monkeypatch.setattr(jobs.store, "compare_and_swap", refusing_swap)
    pass_by(reconciler, clock, 7, times=2)
    assert queue.get_queued_ids() == {waiting.id}
    monkeypatch.undo()
    pass_by(reconciler, clock, 7, times=2)
    assert queue.get_queued_ids() == {waiting.id, unread.id, unwritten.id}


def test_what_has_ended_or_cannot_be_read_is_passed_over(
    jobs: Jobs, queue: JobQueue, reconciler: Reconciler, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, ended, waiting = make_job(jobs), make_job(jobs), make_job(jobs)
    jobs.store.put(job_key(broken.id, "job.json"), b"{")
    monkeypatch.setattr(jobs, "clean_up", lambda _record: None)  # killed before that: its mark stays for a while
    jobs.change(ended, State.CANCELED)
    pass_by(reconciler, clock, 7, times=2)
    assert queue.get_queued_ids() == {waiting.id}


def test_a_job_whose_worker_was_alive_after_all(
    jobs: Jobs, queue: JobQueue, reconciler: Reconciler, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It publishes in the moment in which the job is taken from it."""
    record = jobs.change(make_job(jobs), State.RUNNING)
    pass_by(reconciler, clock, 1)
    requeue = jobs.requeue

    def late(found: Record, *arguments: object) -> Record:
        jobs.change(record, State.SUCCEEDED)
        return requeue(found, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "requeue", late)
    pass_by(reconciler, clock, 7)
    assert jobs.get(record.id).state is State.SUCCEEDED
    assert queue.get_queued_ids() == set()


def test_it_goes_on_after_a_pass_that_failed(jobs: Jobs, queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL_S", 0.01)
    monkeypatch.setattr(module, "_GRACE_S", 0.0)
    waiting, calls = queue.get_queued_ids, []

    def failing() -> set[str]:
        calls.append(1)
        if len(calls) < 3:
            raise RedisError if len(calls) == 1 else OSError
        return waiting()

    monkeypatch.setattr(queue, "get_queued_ids", failing)
    record, stop = make_job(jobs), threading.Event()
    thread = threading.Thread(target=Reconciler(jobs, queue).run, args=(stop,))
    thread.start()
    wait_for(lambda: waiting() == {record.id}, seconds=20)
    stop.set()
    thread.join()
