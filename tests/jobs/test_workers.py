"""Workers run jobs: results, failures, retries and cleanup."""

import errno
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.timeouts import JobTimeoutException

from model.bundle import Bundle
from model.detections import Detections
from model.detector import Detector
from model.engines import load_engine
from model.errors import NoVideoStreamError
from model.transforms import Region
from model.video import Limits
from service.job_schemas import RetryReason, Stage, State
from service.jobs import Jobs, attempt_key, job_key, new_job_id
from service.metrics import DECODED_FRAMES, JOBS_ENDED, STAGE_SECONDS, VIDEO_SECONDS
from service.queue import JobQueue, connect
from service.schemas import Region as RegionDocument
from service.settings import Settings
from tests.jobs.job_examples import make_job
from tests.jobs.worker_context import NO_DETECTIONS, ScriptedDetector, make_context
from workers import run
from workers.run import WorkerContext


def test_result_is_published_and_video_removed(bundle: Bundle, jobs: Jobs, connection: Redis) -> None:
    context, detector = make_context(bundle, jobs, connection, NO_DETECTIONS)
    record = make_job(jobs, region=RegionDocument(x=0, y=0, width=0.5, height=1))
    context.run(record.id)
    assert jobs.get(record.id).state is State.SUCCEEDED
    content, options = detector.calls[0]
    assert content == b"bytes"
    assert options["region"] == Region(0, 0, 0.5, 1)
    assert options["limits"] == Limits(max_duration_s=99, max_pixels=1234)
    assert b'"sha256":"ab"' in jobs.store.get(attempt_key(jobs.get(record.id), "result.json"))
    with pytest.raises(KeyError):
        jobs.store.get(job_key(record.id, "video"))
    assert JobQueue(connection, 1).get_progress(record.id) == (Stage.PUBLISHING, 1.0)
    context.run(record.id)  # a second delivery does nothing
    assert len(detector.calls) == 1


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (NoVideoStreamError("only sound"), "no_video_stream", "only sound"),
        (JobTimeoutException(), "job_timeout", "MMAD_JOB_TIMEOUT_S"),
    ],
)
def test_video_error_fails_the_job(
    bundle: Bundle, jobs: Jobs, connection: Redis, error: Exception, code: str, message: str
) -> None:
    context, _ = make_context(bundle, jobs, connection, error)
    record = make_job(jobs)
    context.run(record.id)
    ended = jobs.get(record.id)
    assert ended.state is State.FAILED
    assert ended.error is not None
    assert ended.error.code == code
    assert message in ended.error.detail
    with pytest.raises(KeyError):
        jobs.store.get(job_key(record.id, "video"))


def test_worker_updates_metrics(bundle: Bundle, jobs: Jobs, connection: Redis, clip: Path) -> None:
    video = clip.read_bytes()
    context = WorkerContext(Detector(bundle, load_engine(bundle, "openvino", "cpu", clip.parent / "cache")), jobs.store, connection, Settings())  # fmt: skip
    good, bad = make_job(jobs), make_job(jobs)
    jobs.store.put(job_key(good.id, "video"), video)
    for record in (good, bad):
        context.run(record.id)
    sums = context.meter.read()
    assert sums is not None
    assert sums[JOBS_ENDED] == {("succeeded", ""): {"amount": 1}, ("failed", "not_a_video"): {"amount": 1}}
    assert sums[DECODED_FRAMES] == {(): {"amount": 150}}
    assert sums[VIDEO_SECONDS][()]["amount"] == pytest.approx(5, abs=0.1)
    seconds = {stage: parts.pop("sum") for (stage,), parts in sums[STAGE_SECONDS].items()}
    assert all(total_s > 0 for total_s in seconds.values())
    assert {stage: sum(parts.values()) for (stage,), parts in sums[STAGE_SECONDS].items()} == {
        "decoding": 1, "detecting": 1, "publishing": 1,
    }  # fmt: skip


def test_internal_error_is_retried_up_to_three_attempts(
    bundle: Bundle, jobs: Jobs, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, detector = make_context(bundle, jobs, connection, RuntimeError("a secret"))
    monkeypatch.setattr(context, "terminate", lambda: None)
    record = make_job(jobs)
    for attempt in (1, 2):
        context.run(record.id)
        waiting = jobs.get(record.id)
        assert (waiting.state, waiting.attempt, waiting.changes[-1].why) == (State.QUEUED, attempt, RetryReason.FAULT)
        assert context.queue.get_queued_ids() == set()  # the reconciler queues it later
    context.run(record.id)
    ended = jobs.get(record.id)
    assert ended.state is State.FAILED
    assert ended.error is not None
    assert ended.error.code == "internal_error"
    assert "secret" not in ended.error.detail
    assert len(detector.calls) == 3
    assert jobs.store.names(job_key(record.id)) == ["job.json"]


def test_worker_terminates_after_three_internal_errors_in_a_row(
    bundle: Bundle, jobs: Jobs, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A success or an error of the video resets the count."""
    terminated: list[int] = []
    context, detector = make_context(bundle, jobs, connection, RuntimeError())
    monkeypatch.setattr(context, "terminate", lambda: terminated.append(1))
    for outcome, terminations in (
        (RuntimeError(), 0),
        (RuntimeError(), 0),
        (NO_DETECTIONS, 0),
        (RuntimeError(), 0),
        (NoVideoStreamError("x"), 0),
        (RuntimeError(), 0),
        (RuntimeError(), 0),
    ):
        detector.outcome = outcome
        context.run(make_job(jobs).id)
        assert len(terminated) == terminations
    context.run(make_job(jobs).id)
    assert terminated == [1]


def test_result_is_published_if_cleanup_fails(
    bundle: Bundle, jobs: Jobs, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, _ = make_context(bundle, jobs, connection, NO_DETECTIONS)
    record, refused = make_job(jobs), []

    def raise_disk_full(_prefix: str) -> None:
        refused.append(1)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(jobs.store, "delete", raise_disk_full)
    context.run(record.id)
    monkeypatch.undo()
    ended = jobs.get(record.id)
    assert (ended.state, len(refused)) == (State.SUCCEEDED, 1)
    assert jobs.store.get(attempt_key(ended, "result.json"))


def test_running_job_of_other_worker_is_ignored(bundle: Bundle, jobs: Jobs, connection: Redis) -> None:
    context, detector = make_context(bundle, jobs, connection, NO_DETECTIONS)
    running = jobs.change(make_job(jobs), State.RUNNING)
    context.run(running.id)
    assert detector.calls == []
    assert jobs.get(running.id) == running


def test_full_disk_delays_publication(
    bundle: Bundle, jobs: Jobs, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_DISK_FULL_RETRY_S", 0.01)
    context, detector = make_context(bundle, jobs, connection, NO_DETECTIONS)
    record = make_job(jobs)
    put, refused = jobs.store.put, []

    def raise_disk_full(name: str, content: bytes) -> None:
        if name.endswith("result.json") and len(refused) < 3:
            refused.append(name)
            raise OSError(errno.ENOSPC, "No space left on device")
        put(name, content)

    monkeypatch.setattr(jobs.store, "put", raise_disk_full)
    context.run(record.id)
    ended = jobs.get(record.id)
    assert (ended.state, ended.attempt, len(refused), len(detector.calls)) == (State.SUCCEEDED, 1, 3, 1)


@pytest.mark.parametrize("error", [None, RuntimeError(), JobTimeoutException(), NoVideoStreamError("x")])
@pytest.mark.parametrize("succeeded", [False, True])
def test_stale_attempt_changes_nothing(
    bundle: Bundle, jobs: Jobs, connection: Redis, error: Exception | None, succeeded: bool
) -> None:
    record = make_job(jobs)

    class StaleDetector(ScriptedDetector):
        def detect(self, file: Any, **options: Any) -> Detections:
            current = jobs.get(record.id)  # another worker has started a new attempt
            current = jobs.change(jobs.change(current, State.QUEUED), State.RUNNING)
            if succeeded:
                jobs.change(current, State.SUCCEEDED)
            if error:
                raise error
            return NO_DETECTIONS

    WorkerContext(StaleDetector(bundle, NO_DETECTIONS), jobs.store, connection, Settings()).run(record.id)
    after = jobs.get(record.id)
    assert after.state is (State.SUCCEEDED if succeeded else State.RUNNING)
    assert after.attempt == 2
    assert not [
        entry
        for entry in jobs.store.entries(job_key(record.id))
        if entry.key.endswith(("result.json", "proposals.npz"))
    ]


def test_new_attempt_resets_progress(bundle: Bundle, jobs: Jobs, connection: Redis) -> None:
    record, queue = make_job(jobs), JobQueue(connection, 60)
    queue.publish_progress(record.id, Stage.DETECTING, 0.8)  # of a previous attempt
    progress: list[Any] = []

    class ProgressReader(ScriptedDetector):
        def detect(self, file: Any, **options: Any) -> Detections:
            progress.append(queue.get_progress(record.id))
            return NO_DETECTIONS

    WorkerContext(ProgressReader(bundle, NO_DETECTIONS), jobs.store, connection, Settings()).run(record.id)
    assert progress == [(Stage.DECODING, 0.0)]


def test_redelivered_ended_job_is_cleaned_up(
    bundle: Bundle, jobs: Jobs, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, detector = make_context(bundle, jobs, connection, NO_DETECTIONS)
    record = make_job(jobs)
    monkeypatch.setattr(context.jobs, "clean_up", lambda _record: None)  # as if killed before cleanup
    context.run(record.id)
    monkeypatch.undo()
    assert "video" in jobs.store.names(job_key(record.id))
    context.run(record.id)  # rq redelivers unacknowledged jobs
    assert "video" not in jobs.store.names(job_key(record.id))
    assert jobs.get_pending_bytes("open") == {}
    assert len(detector.calls) == 1


def test_job_succeeds_without_redis(bundle: Bundle, jobs: Jobs, tmp_path: Path) -> None:
    connection = connect(Settings(redis_url=f"unix://{tmp_path}/nothing"), retries=0)
    context, _ = make_context(bundle, jobs, connection, NO_DETECTIONS)
    record = make_job(jobs)
    context.run(record.id)
    assert jobs.get(record.id).state is State.SUCCEEDED


def test_job_without_record_is_ignored(bundle: Bundle, jobs: Jobs, connection: Redis) -> None:
    context, detector = make_context(bundle, jobs, connection, NO_DETECTIONS)
    context.run(new_job_id())
    assert detector.calls == []


def test_detect_requires_worker_context() -> None:
    with pytest.raises(RuntimeError, match="mmad worker only"):
        run.detect("x")
