"""A worker's bench with a detector that does as it is told, and the lease on a real Redis."""

import errno
import os
import signal
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from rq.exceptions import StopRequested
from rq.timeouts import JobTimeoutException

from mmad.private_redis import private_redis
from model.bundle import Bundle
from model.detections import CoverageInterval, Detections
from model.detector import Detector
from model.engines import load_engine
from model.errors import NoVideoStreamError
from model.segments import Proposals
from model.transforms import Region
from model.video import Limits, Media
from service.job_schemas import JobOptions, RetryReason, Stage, State
from service.jobs import Jobs, Record, Upload, attempt_key, job_key, new_job_id
from service.metrics import DECODED_FRAMES, JOBS_ENDED, STAGE_SECONDS, VIDEO_SECONDS
from service.queue import DETECT, LEASE_TTL_S, JobQueue, connect, lease_key, make_queue
from service.schemas import Region as RegionDocument
from service.settings import Settings
from service.store import FolderStore
from tests.conftest import descendants, wait_for
from tests.faulty_forkserver import faulty_sandbox, marked_bytes
from workers import heartbeat, run
from workers.heartbeat import Heartbeat, ModelWorker
from workers.run import WorkerContext

MEDIA = Media(2.0, 640, 480, 60, 30.0, False, 0, 1.0)


class Obedient(Detector):
    """Gives what it was told to give, or raises it."""

    def __init__(self, bundle: Bundle, answer: Detections | BaseException) -> None:
        from tests.test_detector import WhiteSpotter

        super().__init__(bundle, WhiteSpotter(bundle))
        self.answer = answer
        self.asked: list[Any] = []

    def detect(self, file: Any, **options: Any) -> Detections:
        self.asked.append((file.read(), options))
        options["progress"]("detecting", 0.5)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


FOUND = Detections(Proposals.empty(), MEDIA, (CoverageInterval(0, 2, "analysed"),))


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(FolderStore(tmp_path / "store"))


def make_context(
    bundle: Bundle, jobs: Jobs, connection: Redis, answer: Detections | BaseException
) -> tuple[WorkerContext, Obedient]:
    detector = Obedient(bundle, answer)
    return WorkerContext(detector, jobs.store, connection, Settings(max_duration_s=99, max_pixels=1234)), detector


def make_job(jobs: Jobs, **options: Any) -> Record:
    job_id = new_job_id()
    jobs.store.put(job_key(job_id, "video"), b"bytes")
    return jobs.create(job_id, Upload(bytes=5, sha256="ab"), JobOptions(**options), retention_s=60)


def test_a_job_is_published_and_its_video_removed(bundle: Bundle, jobs: Jobs, connection: Redis) -> None:
    context, detector = make_context(bundle, jobs, connection, FOUND)
    record = make_job(jobs, region=RegionDocument(x=0, y=0, width=0.5, height=1))
    context.run(record.id)
    assert jobs.get(record.id).state is State.SUCCEEDED
    content, options = detector.asked[0]
    assert content == b"bytes"
    assert options["region"] == Region(0, 0, 0.5, 1)
    assert options["limits"] == Limits(max_duration_s=99, max_pixels=1234)
    assert b'"sha256":"ab"' in jobs.store.get(attempt_key(jobs.get(record.id), "result.json"))
    with pytest.raises(KeyError):
        jobs.store.get(job_key(record.id, "video"))
    assert JobQueue(connection, 1).get_progress(record.id) == (Stage.PUBLISHING, 1.0)
    context.run(record.id)  # delivered twice: nothing happens
    assert len(detector.asked) == 1


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (NoVideoStreamError("only sound"), "no_video_stream", "only sound"),
        (JobTimeoutException(), "job_timeout", "MMAD_JOB_TIMEOUT_S"),
    ],
)
def test_what_is_wrong_with_the_video_ends_the_job(
    bundle: Bundle, jobs: Jobs, connection: Redis, error: Exception, code: str, words: str
) -> None:
    context, _ = make_context(bundle, jobs, connection, error)
    record = make_job(jobs)
    context.run(record.id)
    ended = jobs.get(record.id)
    assert ended.state is State.FAILED
    assert ended.error is not None
    assert ended.error.code == code
    assert words in ended.error.detail
    with pytest.raises(KeyError):
        jobs.store.get(job_key(record.id, "video"))


def test_what_it_does_is_counted(bundle: Bundle, jobs: Jobs, connection: Redis, clip: Path) -> None:
    answer = clip.read_bytes()
    context = WorkerContext(Detector(bundle, load_engine(bundle, "openvino", "cpu", clip.parent / "cache")), jobs.store, connection, Settings())  # fmt: skip
    good, bad = make_job(jobs), make_job(jobs)
    jobs.store.put(job_key(good.id, "video"), answer)
    for record in (good, bad):
        context.run(record.id)
    sums = context.meter.read()
    assert sums is not None
    assert sums[JOBS_ENDED] == {("succeeded", ""): {"amount": 1}, ("failed", "not_a_video"): {"amount": 1}}
    assert sums[DECODED_FRAMES] == {(): {"amount": 150}}
    assert sums[VIDEO_SECONDS][()]["amount"] == pytest.approx(5, abs=0.1)
    seconds = {stage: parts.pop("sum") for (stage,), parts in sums[STAGE_SECONDS].items()}
    assert all(one > 0 for one in seconds.values())
    assert {stage: sum(parts.values()) for (stage,), parts in sums[STAGE_SECONDS].items()} == {
        "decoding": 1, "detecting": 1, "publishing": 1,
    }  # fmt: skip


def test_a_fault_of_ours_has_three_attempts(
    bundle: Bundle, jobs: Jobs, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, detector = make_context(bundle, jobs, connection, RuntimeError("a secret"))
    monkeypatch.setattr(context, "terminate", lambda: None)
    record = make_job(jobs)
    for attempt in (1, 2):
        context.run(record.id)
        waiting = jobs.get(record.id)
        assert (waiting.state, waiting.attempt, waiting.changes[-1].why) == (State.QUEUED, attempt, RetryReason.FAULT)
        assert context.queue.get_queued_ids() == set()  # the reconciler queues it, and not at once
    context.run(record.id)
    ended = jobs.get(record.id)
    assert ended.state is State.FAILED
    assert ended.error is not None
    assert ended.error.code == "internal_error"
    assert "secret" not in ended.error.detail
    assert len(detector.asked) == 3
    assert jobs.store.names(job_key(record.id)) == ["job.json"]


def test_a_worker_that_cannot_do_anything_ends(
    bundle: Bundle, jobs: Jobs, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with it would fail all jobs; one that succeeds, or is a video's fault, begins the count anew."""
    ended: list[int] = []
    context, detector = make_context(bundle, jobs, connection, RuntimeError())
    monkeypatch.setattr(context, "terminate", lambda: ended.append(1))
    for answer, so_far in (
        (RuntimeError(), 0),
        (RuntimeError(), 0),
        (FOUND, 0),
        (RuntimeError(), 0),
        (NoVideoStreamError("x"), 0),
        (RuntimeError(), 0),
        (RuntimeError(), 0),
    ):
        detector.answer = answer
        context.run(make_job(jobs).id)
        assert len(ended) == so_far
    context.run(make_job(jobs).id)
    assert ended == [1]


def test_a_result_is_not_thrown_away_when_tidying_fails(
    bundle: Bundle, jobs: Jobs, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, _ = make_context(bundle, jobs, connection, FOUND)
    record, refused = make_job(jobs), []

    def full(_prefix: str) -> None:
        refused.append(1)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(jobs.store, "delete", full)
    context.run(record.id)
    monkeypatch.undo()
    ended = jobs.get(record.id)
    assert (ended.state, len(refused)) == (State.SUCCEEDED, 1)
    assert jobs.store.get(attempt_key(ended, "result.json"))


def test_a_worker_that_shall_stop_hands_the_job_back(bundle: Bundle, jobs: Jobs, connection: Redis) -> None:
    """That is nobody's fault: however often it happens, the job has its attempts."""

    class Asked(Obedient):
        def detect(self, file: Any, **options: Any) -> Detections:
            context.request_shutdown()
            return super().detect(file, **options)

    settings = Settings(stop_grace_s=0)
    record = make_job(jobs)
    for attempt in range(1, 6):
        context = WorkerContext(Asked(bundle, FOUND), jobs.store, connection, settings)
        context.run(record.id)
        waiting = jobs.get(record.id)
        assert (waiting.state, waiting.attempt, waiting.failed_attempts) == (State.QUEUED, attempt, 0)
        assert waiting.changes[-1].why is RetryReason.HANDED_BACK
    context = WorkerContext(Asked(bundle, FOUND), jobs.store, connection, Settings(stop_grace_s=60))
    context.run(record.id)
    assert jobs.get(record.id).state is State.SUCCEEDED


def test_a_job_that_another_has_is_let_alone(bundle: Bundle, jobs: Jobs, connection: Redis) -> None:
    context, detector = make_context(bundle, jobs, connection, FOUND)
    running = jobs.change(make_job(jobs), State.RUNNING)
    context.run(running.id)
    assert detector.asked == []
    assert jobs.get(running.id) == running


def test_a_full_disk_is_waited_for(
    bundle: Bundle, jobs: Jobs, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work is done; it is published when there is room again."""
    monkeypatch.setattr(run, "_DISK_FULL_RETRY_S", 0.01)
    context, detector = make_context(bundle, jobs, connection, FOUND)
    record = make_job(jobs)
    put, refused = jobs.store.put, []

    def full(name: str, content: bytes) -> None:
        if name.endswith("result.json") and len(refused) < 3:
            refused.append(name)
            raise OSError(errno.ENOSPC, "No space left on device")
        put(name, content)

    monkeypatch.setattr(jobs.store, "put", full)
    context.run(record.id)
    ended = jobs.get(record.id)
    assert (ended.state, ended.attempt, len(refused), len(detector.asked)) == (State.SUCCEEDED, 1, 3, 1)


@pytest.mark.parametrize("ending", [None, RuntimeError(), JobTimeoutException(), NoVideoStreamError("x")])
@pytest.mark.parametrize("done", [False, True])
def test_an_attempt_that_was_overtaken_changes_nothing(
    bundle: Bundle, jobs: Jobs, connection: Redis, ending: Exception | None, done: bool
) -> None:
    record = make_job(jobs)

    class Slow(Obedient):
        def detect(self, file: Any, **options: Any) -> Detections:
            current = jobs.get(record.id)  # meanwhile another worker took the job for abandoned
            current = jobs.change(jobs.change(current, State.QUEUED), State.RUNNING)
            if done:
                jobs.change(current, State.SUCCEEDED)
            if ending:
                raise ending
            return FOUND

    WorkerContext(Slow(bundle, FOUND), jobs.store, connection, Settings()).run(record.id)
    after = jobs.get(record.id)
    assert after.state is (State.SUCCEEDED if done else State.RUNNING)
    assert after.attempt == 2
    assert not [
        one for one in jobs.store.entries(job_key(record.id)) if one.key.endswith(("result.json", "proposals.npz"))
    ]


@pytest.mark.parametrize("end", ["cancel", "delete"])
@pytest.mark.parametrize("late", [False, True])
def test_a_worker_lets_go_of_a_job_that_is_not_wanted(
    bundle: Bundle, jobs: Jobs, connection: Redis, monkeypatch: pytest.MonkeyPatch, end: str, late: bool
) -> None:
    """In mid-work it stops at its next look; after its last look it cannot publish."""
    monkeypatch.setattr(run, "_CHECK_RECORD_EVERY_S", 0)
    record = make_job(jobs)
    went_on: list[bool] = []

    def stop() -> None:
        if end == "cancel":
            jobs.cancel(record.id)
        else:
            jobs.remove(jobs.get(record.id), "deleted")

    class Busy(Obedient):
        def detect(self, file: Any, **options: Any) -> Detections:
            if not late:
                stop()
            options["progress"]("detecting", 0.5)
            went_on.append(True)
            return FOUND

    if late:
        put = jobs.store.put

        def putting(name: str, content: bytes) -> None:
            put(name, content)
            if name.endswith("result.json"):
                stop()

        monkeypatch.setattr(jobs.store, "put", putting)
    WorkerContext(Busy(bundle, FOUND), jobs.store, connection, Settings()).run(record.id)
    assert went_on == ([True] if late else [])
    left = {one.key for one in jobs.store.entries(job_key(record.id))}
    assert left == ({job_key(record.id, "job.json")} if end == "cancel" else set())
    if end == "cancel":
        assert jobs.get(record.id).state is State.CANCELED


def test_an_attempt_s_progress_begins_at_its_beginning(bundle: Bundle, jobs: Jobs, connection: Redis) -> None:
    record, queue = make_job(jobs), JobQueue(connection, 60)
    queue.publish_progress(record.id, Stage.DETECTING, 0.8)  # the attempt before this one died there
    seen: list[Any] = []

    class Looking(Obedient):
        def detect(self, file: Any, **options: Any) -> Detections:
            seen.append(queue.get_progress(record.id))
            return FOUND

    WorkerContext(Looking(bundle, FOUND), jobs.store, connection, Settings()).run(record.id)
    assert seen == [(Stage.DECODING, 0.0)]


def test_a_job_that_was_ended_and_not_tidied_is_tidied(
    bundle: Bundle, jobs: Jobs, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, detector = make_context(bundle, jobs, connection, FOUND)
    record = make_job(jobs)
    monkeypatch.setattr(context.jobs, "clean_up", lambda _record: None)  # killed before that
    context.run(record.id)
    monkeypatch.undo()
    assert "video" in jobs.store.names(job_key(record.id))
    context.run(record.id)  # rq delivers again what was not acknowledged
    assert "video" not in jobs.store.names(job_key(record.id))
    assert jobs.get_pending_bytes("open") == {}
    assert len(detector.asked) == 1


def test_redis_away_is_asked_once_in_a_while(
    connection: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = JobQueue(connect(Settings(redis_url=f"unix://{tmp_path}/nothing"), retries=0), 60)
    asked: list[str] = []

    def away(name: str) -> Any:
        asked.append(name)
        raise RedisConnectionError("away")

    monkeypatch.setattr(queue._connection, "get", away)
    for _ in range(5):
        assert queue.get_progress("x") == (None, 0.0)
    assert (queue.get_position("x"), queue.get_throughput()) == (None, (None, 0))
    assert len(asked) == 1
    queue._breaker._retry_at_s = 0.0
    queue.get_progress("x")
    assert len(asked) == 2


def test_times_of_jobs_make_estimates(bundle: Bundle, jobs: Jobs, connection: Redis) -> None:
    queue = JobQueue(connection, 60)
    assert queue.get_throughput() == (None, 0)
    assert queue.get_throughput().estimate_queued_s(3) is None
    context, _ = make_context(bundle, jobs, connection, FOUND)
    context.run(make_job(jobs).id)
    assert connection.llen("mmad:times") == 1
    connection.delete("mmad:times", "mmad:workers")
    for seconds in (1, 8, 2):
        queue.record_job_time(seconds)
    with Heartbeat(connection):
        wait_for(lambda: JobQueue(connection, 60).get_throughput().workers, seconds=10)
        pace = JobQueue(connection, 60).get_throughput()
    assert pace == (2.0, 1)
    assert (pace.estimate_queued_s(0), pace.estimate_queued_s(3)) == (2.0, 8.0)
    assert pace.estimate_running_s(0.01, 0.5) == 1.5
    assert pace.estimate_running_s(0.01, 5) == 0
    assert pace.estimate_running_s(0.25, 5) == 15
    for _ in range(60):
        queue.record_job_time(1)
    assert connection.llen("mmad:times") == 50


def test_a_place_in_the_queue_is_told_and_left(jobs: Jobs, connection: Redis) -> None:
    queue = JobQueue(connection, 60)
    first, second = make_job(jobs), make_job(jobs)
    for record in (first, second):
        queue.enqueue(record.id)
    assert (queue.get_position(first.id), queue.get_position(second.id), queue.get_position("x")) == (0, 1, None)
    queue.remove(first.id)
    again = JobQueue(connection, 60)
    assert (again.get_position(first.id), again.get_position(second.id)) == (None, 0)
    assert not list(connection.scan_iter(f"rq:job:{first.id}*"))


def test_the_queue_carries_json_and_a_worker_runs_it(
    bundle: Bundle, jobs: Jobs, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, _ = make_context(bundle, jobs, connection, FOUND)
    monkeypatch.setattr(run, "_context", context)
    record = make_job(jobs)
    JobQueue(connection, 60).enqueue(record.id)
    (delivery,) = connection.scan_iter(f"rq:job:{record.id}*")
    raw = connection.hgetall(delivery)
    import json
    import zlib

    assert json.loads(zlib.decompress(raw[b"data"]))[0] == DETECT
    assert int(raw[b"timeout"]) == 60
    ModelWorker(make_queue(connection)).work(burst=True, logging_level="ERROR")
    assert jobs.get(record.id).state is State.SUCCEEDED


def test_a_worker_keeps_its_lease_while_native_code_runs(
    bundle: Bundle, jobs: Jobs, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when Redis is emptied meanwhile."""
    monkeypatch.setattr(heartbeat, "HEARTBEAT_INTERVAL_S", 0.05)
    record, queue = make_job(jobs), JobQueue(connection, 60)
    left_s: list[int] = []

    class Slow(Obedient):
        def detect(self, file: Any, **options: Any) -> Detections:
            assert queue.is_leased(record.id, 1)
            connection.flushall()
            wait_for(lambda: queue.is_leased(record.id, 1), seconds=10)
            assert queue.check()["workers"] == "ok"
            left_s.append(connection.ttl(lease_key(record.id, 1)))
            return FOUND

    context = WorkerContext(Slow(bundle, FOUND), jobs.store, connection, Settings())
    monkeypatch.setattr(run, "_context", context)
    queue.enqueue(record.id)
    with context.heartbeat:
        ModelWorker(make_queue(connection)).work(burst=True, logging_level="ERROR")
    assert jobs.get(record.id).state is State.SUCCEEDED
    assert 0 < left_s[0] <= LEASE_TTL_S
    assert not [thread for thread in threading.enumerate() if thread.name == "pulse"]
    assert queue.check()["workers"] == "none is running"


def test_the_private_redis_loses_nothing_when_killed(tmp_path: Path) -> None:
    for turn in range(2):
        with private_redis(tmp_path / "redis") as server, connect(Settings(redis_url=server.url), retries=0) as client:
            assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.get("kept") == (b"yes" if turn else None)
            client.set("kept", "yes")
            os.kill(int(client.info()["process_id"]), signal.SIGKILL)


def test_no_other_function_is_run(connection: Redis, tmp_path: Path) -> None:
    queue = make_queue(connection)
    job = queue.enqueue("os.mkdir", str(tmp_path / "made"))
    ModelWorker(queue).work(burst=True, logging_level="CRITICAL")
    assert not (tmp_path / "made").exists()
    assert job.get_status() == "failed"


def test_a_worker_is_seen_by_readiness(connection: Redis) -> None:
    queue = JobQueue(connection, 60)
    assert queue.check() == {"redis": "ok", "workers": "none is running"}
    connection.zadd("mmad:workers", {"killed": time.time() - LEASE_TTL_S - 1, "alive": time.time() - 1})
    assert queue.check()["workers"] == "ok"
    connection.zrem("mmad:workers", "alive")
    assert queue.check()["workers"] == "none is running"


def test_a_redis_that_is_away_is_gone_without(tmp_path: Path) -> None:
    queue = JobQueue(connect(Settings(redis_url=f"unix://{tmp_path}/nothing"), retries=0), 60)
    queue.try_enqueue(new_job_id())
    with pytest.raises(RedisConnectionError):
        queue.get_queued_ids()
    assert queue.get_progress("x") == (None, 0.0)
    assert queue.check()["redis"] == "cannot be reached"


def test_progress_that_cannot_be_told_stops_no_job(bundle: Bundle, jobs: Jobs, tmp_path: Path) -> None:
    nowhere = connect(Settings(redis_url=f"unix://{tmp_path}/nothing"), retries=0)
    context, _ = make_context(bundle, jobs, nowhere, FOUND)
    record = make_job(jobs)
    context.run(record.id)
    assert jobs.get(record.id).state is State.SUCCEEDED


def test_a_job_whose_record_is_gone_is_passed_over(bundle: Bundle, jobs: Jobs, connection: Redis) -> None:
    context, detector = make_context(bundle, jobs, connection, FOUND)
    context.run(new_job_id())
    assert detector.asked == []


def test_jobs_run_in_workers_only() -> None:
    with pytest.raises(RuntimeError, match="mmad worker only"):
        run.detect("x")


def test_a_worker_without_a_job_stops_at_once(connection: Redis) -> None:
    """Whatever rq believes of it: while Redis is away that is old, and a new loop would take the signal's handler."""
    told: list[int] = []
    worker = ModelWorker(make_queue(connection), lambda: told.append(1))
    worker._state = "busy"
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with pytest.raises(StopRequested):
            worker.request_stop(signal.SIGTERM, None)
        worker._performing = True
        worker.request_stop(signal.SIGTERM, None)  # the job at hand has its grace
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(number, handler)
    assert worker.stop_requested
    assert told == [1, 1]


@pytest.mark.parametrize("end", ["stop", "cancel"])
def test_a_decoder_that_says_nothing_holds_up_neither_stop_nor_cancel(
    bundle: Bundle, jobs: Jobs, connection: Redis, clip: Path, end: str
) -> None:
    """It has a minute to bring a frame; whoever wants to stop has not."""
    with closing(faulty_sandbox()) as sandbox:
        detector = Detector(bundle, load_engine(bundle, "openvino", "cpu", clip.parent / "cache"), decoder=sandbox)
        context = WorkerContext(detector, jobs.store, connection, Settings(stop_grace_s=0, decoder_stall_s=250))
        record = make_job(jobs)
        jobs.store.put(job_key(record.id, "video"), marked_bytes(clip.read_bytes(), "hang"))
        thread = threading.Thread(target=context.run, args=(record.id,))
        thread.start()
        wait_for(lambda: jobs.get(record.id).state is State.RUNNING, seconds=20)
        if end == "stop":
            context.request_shutdown()
        else:
            jobs.cancel(record.id)
        thread.join(60)
        assert not thread.is_alive()
        ended = jobs.get(record.id)
        if end == "stop":
            assert (ended.state, ended.changes[-1].why) == (State.QUEUED, RetryReason.HANDED_BACK)
        else:
            assert ended.state is State.CANCELED
        assert len(descendants(sandbox._forkserver._process.pid)) == 0
