"""Workers that are stopped, and jobs that are canceled while they run."""

import signal
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.exceptions import StopRequested

from model.bundle import Bundle
from model.detections import Detections
from model.detector import Detector
from model.engines import load_engine
from service.job_schemas import RetryReason, State
from service.jobs import Jobs, job_key
from service.queue import make_queue
from service.settings import Settings
from tests.conftest import descendants, wait_for
from tests.faulty_forkserver import faulty_sandbox, marked_bytes
from tests.jobs.job_examples import make_job
from tests.jobs.worker_context import NO_DETECTIONS, ScriptedDetector
from workers import run
from workers.heartbeat import ModelWorker
from workers.run import WorkerContext


def test_stopping_worker_requeues_job_without_failed_attempt(bundle: Bundle, jobs: Jobs, connection: Redis) -> None:

    class StopRequester(ScriptedDetector):
        def detect(self, file: Any, **options: Any) -> Detections:
            context.request_shutdown()
            return super().detect(file, **options)

    settings = Settings(stop_grace_s=0)
    record = make_job(jobs)
    for attempt in range(1, 6):
        context = WorkerContext(StopRequester(bundle, NO_DETECTIONS), jobs.store, connection, settings)
        context.run(record.id)
        waiting = jobs.get(record.id)
        assert (waiting.state, waiting.attempt, waiting.failed_attempts) == (State.QUEUED, attempt, 0)
        assert waiting.changes[-1].why is RetryReason.HANDED_BACK
    context = WorkerContext(StopRequester(bundle, NO_DETECTIONS), jobs.store, connection, Settings(stop_grace_s=60))
    context.run(record.id)
    assert jobs.get(record.id).state is State.SUCCEEDED


@pytest.mark.parametrize("end", ["cancel", "delete"])
@pytest.mark.parametrize("late", [False, True])
def test_canceled_or_deleted_job_is_abandoned(
    bundle: Bundle, jobs: Jobs, connection: Redis, monkeypatch: pytest.MonkeyPatch, end: str, late: bool
) -> None:
    """While it runs: at the next check of the record; after the last check: at publication."""
    monkeypatch.setattr(run, "_CHECK_RECORD_EVERY_S", 0)
    record = make_job(jobs)
    completed: list[bool] = []

    def stop() -> None:
        if end == "cancel":
            jobs.cancel(record.id)
        else:
            jobs.remove(jobs.get(record.id), "deleted")

    class InterruptedDetector(ScriptedDetector):
        def detect(self, file: Any, **options: Any) -> Detections:
            if not late:
                stop()
            options["progress"]("detecting", 0.5)
            completed.append(True)
            return NO_DETECTIONS

    if late:
        put = jobs.store.put

        def put_then_stop(name: str, content: bytes) -> None:
            put(name, content)
            if name.endswith("result.json"):
                stop()

        monkeypatch.setattr(jobs.store, "put", put_then_stop)
    WorkerContext(InterruptedDetector(bundle, NO_DETECTIONS), jobs.store, connection, Settings()).run(record.id)
    assert completed == ([True] if late else [])
    remaining = {entry.key for entry in jobs.store.entries(job_key(record.id))}
    assert remaining == ({job_key(record.id, "job.json")} if end == "cancel" else set())
    if end == "cancel":
        assert jobs.get(record.id).state is State.CANCELED


def test_idle_worker_stops_immediately(connection: Redis) -> None:
    """rq's state may be outdated while Redis is unavailable, so it must not matter."""
    stops: list[int] = []
    worker = ModelWorker(make_queue(connection), lambda: stops.append(1))
    worker._state = "busy"
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with pytest.raises(StopRequested):
            worker.request_stop(signal.SIGTERM, None)
        worker._performing = True
        worker.request_stop(signal.SIGTERM, None)  # the running job gets its grace period
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(number, handler)
    assert worker.stop_requested
    assert stops == [1, 1]


@pytest.mark.parametrize("end", ["stop", "cancel"])
def test_hanging_decoder_does_not_block_stop_or_cancel(
    bundle: Bundle, jobs: Jobs, connection: Redis, clip: Path, end: str
) -> None:
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
        assert len(descendants(sandbox._forkserver.process.pid)) == 0
