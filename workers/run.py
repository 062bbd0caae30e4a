"""One job: take its video from the store, run the detector, publish the result."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import structlog
from redis import Redis
from redis.exceptions import RedisError
from rq.timeouts import JobTimeoutException

from model.detections import Detections
from model.detector import Detector
from model.errors import VideoError
from model.video import Limits
from service.errors import Problem
from service.job_schemas import JobError, Stage, State
from service.jobs import Jobs, OvertakenError, Record, key, published
from service.queue import ATTEMPTS, put_progress, put_time
from service.results import make_result
from service.settings import Settings
from service.store import Store
from workers.documents import make_context, make_region, store_proposals

log = structlog.get_logger()

_PROGRESS_EVERY_S = 0.25
# How soon a worker finds out that its job was canceled.
_LOOK_EVERY_S = 0.5


class Bench:
    """What a worker works with; made once, with the model loaded."""

    def __init__(self, detector: Detector, store: Store, connection: Redis, settings: Settings) -> None:
        self.detector = detector
        self.store = store
        self.jobs = Jobs(store)
        self.connection = connection
        self.limits = Limits(settings.max_duration_s, settings.max_pixels, settings.max_fps)

    def run(self, job_id: str) -> None:
        """Bring a job to its end. What is wrong with the video ends it; a fault here is raised, for another attempt."""
        began = time.monotonic()
        try:
            record = self._begin(job_id)
            if record is not None:
                self._attempt(record)
        except OvertakenError as error:
            log.warning("attempt_overtaken", job_id=job_id, reason=str(error))
        else:
            log.info("job_ended", job_id=job_id, seconds=round(time.monotonic() - began, 3))

    def _begin(self, job_id: str) -> Record | None:
        """The job's record, running; None where there is nothing to do."""
        try:
            record = self.jobs.get(job_id)
        except Problem:  # refused after it was queued: the caller was told so
            log.warning("job_without_record", job_id=job_id)
            return None
        if record.ended:
            self.jobs.tidy(record)  # whoever ended it may have been killed before that
            return None
        if record.state is State.RUNNING:  # its worker ended amid the attempt
            if record.attempt >= ATTEMPTS:
                self._give_up(record)
                return None
            record = self.jobs.change(record, State.QUEUED)
        with self._courtesy(job_id):  # what an earlier attempt told is no more
            put_progress(self.connection, job_id, Stage.DECODING, 0.0)
        return self.jobs.change(record, State.RUNNING)

    def _attempt(self, record: Record) -> None:
        began = time.monotonic()
        try:
            self._publish(record, self._detect(record))
        except (VideoError, Problem) as error:
            self._fail(record, error.code, str(error))
        except JobTimeoutException:
            limit = "the job took longer than the limit (MMAD_JOB_TIMEOUT_S); send a shorter video"
            self._fail(record, "job_timeout", limit)
        except OvertakenError:
            raise
        except Exception:
            if record.attempt < ATTEMPTS:
                self.jobs.change(record, State.QUEUED)
                raise
            log.exception("job_given_up", job_id=record.id)
            self._give_up(record)
        else:
            with self._courtesy(record.id):
                put_time(self.connection, time.monotonic() - began)

    def _give_up(self, record: Record) -> None:
        detail = f"the job failed {ATTEMPTS} times; the log has the reason under its id"
        self._fail(record, "internal_error", detail)

    def _detect(self, record: Record) -> Detections:
        region = make_region(record.options)
        told = looked = time.monotonic()

        def progress(stage: str, fraction: float) -> None:
            nonlocal told, looked
            now = time.monotonic()
            if now - told >= _PROGRESS_EVERY_S:
                told = now
                with self._courtesy(record.id):
                    put_progress(self.connection, record.id, Stage(stage), fraction)
            if now - looked >= _LOOK_EVERY_S:
                looked = now
                self.jobs.check(record)  # canceled, deleted or overtaken: no more work for it

        with self._video(record) as file:
            return self.detector.detect(file, region=region, limits=self.limits, progress=progress)

    def _video(self, record: Record) -> BinaryIO:
        try:
            return self.store.open(key(record.id, "video"))
        except KeyError:
            self.jobs.check(record)  # it went with the job
            raise

    def _publish(self, record: Record, found: Detections) -> None:
        with self._courtesy(record.id):
            put_progress(self.connection, record.id, Stage.PUBLISHING, 1.0)
        options = record.options.for_detector()
        context = make_context(
            found, self.detector, options, job_id=record.id, video_sha256=record.upload.sha256
        )
        stored = store_proposals(found, context)
        result = make_result(stored, options)
        self.jobs.check(record)
        try:
            self.store.put(published(record, "proposals.npz"), stored.to_bytes())
            self.store.put(published(record, "result.json"), result.model_dump_json().encode())
            self.jobs.change(record, State.SUCCEEDED)
        except OvertakenError:
            self.store.delete(published(record, ""))
            raise

    def _fail(self, record: Record, code: str, detail: str) -> None:
        log.info("job_failed", job_id=record.id, code=code)
        self.jobs.change(record, State.FAILED, JobError(code=code, detail=detail))

    @contextmanager
    def _courtesy(self, job_id: str) -> Iterator[None]:
        """What is told to Redis alone helps callers; without it the job goes on."""
        try:
            yield
        except RedisError as error:
            log.warning("not_told", job_id=job_id, error=type(error).__name__)


_bench: Bench | None = None


def set_bench(bench: Bench) -> None:
    """Called once, before the first job."""
    global _bench
    _bench = bench


def detect(job_id: str) -> None:
    """What the queue names; see service.queue.DETECT."""
    if _bench is None:
        raise RuntimeError("no model is loaded: jobs run in mmad worker only")
    _bench.run(job_id)
