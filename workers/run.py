"""One job: take its video from the store, run the detector, publish the result."""

import errno
import signal
import time
from typing import BinaryIO

import structlog
from redis import Redis
from rq.timeouts import JobTimeoutException
from structlog.contextvars import bound_contextvars

from model.detections import Detections
from model.detector import Detector
from model.errors import VideoError
from service.errors import Problem
from service.job_schemas import JobError, RetryReason, Stage, State
from service.jobs import ATTEMPTS, Jobs, Record, StaleAttemptError, key, published
from service.metrics import (
    DECODED_FRAMES,
    JOBS_ENDED,
    RETRIES,
    STAGE_SECONDS,
    VIDEO_SECONDS,
)
from service.queue import JobQueue, lease_key
from service.results import make_result
from service.settings import Settings
from service.store import Store
from workers.heartbeat import Heartbeat
from workers.serialization import make_context, make_limits, make_region, store_proposals

log = structlog.get_logger()

_PROGRESS_EVERY_S = 0.25
# How soon a worker finds out that its job was canceled.
_LOOK_EVERY_S = 0.5
_ROOM_EVERY_S = 1.0
# So many faults in a row are the worker's and not the videos': a device in a bad state, no descriptors, no memory.
_SICK = 3


class HandBackError(Exception):
    """The worker was asked to stop, and its grace is over: the job is another's."""


class WorkerContext:
    """What a worker works with; made once, with the model loaded."""

    def __init__(self, detector: Detector, store: Store, connection: Redis, settings: Settings) -> None:
        """A connection that gives up soon: what is told to Redis alone helps callers, and must not hold up a job."""
        self.detector = detector
        self.store = store
        self.jobs = Jobs(store)
        self.queue = JobQueue(connection, settings.job_timeout_s)
        self.meter = self.queue.meter
        self.heartbeat = Heartbeat(connection)
        self.limits = make_limits(settings)
        self._stop_grace_s = settings.stop_grace_s
        self._stop_at_s: float | None = None
        self._faults = 0

    def stop_soon(self) -> None:
        """The job at hand has its grace to end in; then it is handed back."""
        self._stop_at_s = time.monotonic() + self._stop_grace_s

    def end_worker(self) -> None:
        """As whoever stops it does; whoever keeps it up starts it again."""
        signal.raise_signal(signal.SIGTERM)

    def run(self, job_id: str) -> None:
        """Make one attempt at a job, if nobody else does: it succeeds, fails, or waits for another."""
        with bound_contextvars(job_id=job_id):
            try:
                record = self._begin(job_id)
                if record is not None:
                    with self.heartbeat.holding(lease_key(job_id, record.attempt)):
                        self._attempt(record)
            except StaleAttemptError as error:
                log.warning("attempt_overtaken", reason=str(error))

    def _begin(self, job_id: str) -> Record | None:
        """The job's record, running; None where there is nothing to do."""
        try:
            record = self.jobs.get(job_id)
        except Problem:  # it was deleted, or refused after it was queued: the caller was told so
            log.info("job_without_record")
            return None
        if record.ended:
            self.jobs.tidy(record)  # whoever ended it may have been killed before that
            return None
        if (
            record.state is State.RUNNING
        ):  # delivered twice, or its worker died, which the reconciler finds out
            log.info("job_has_a_worker")
            return None
        self.queue.publish_progress(job_id, Stage.DECODING, 0.0)  # what an earlier attempt told is no more
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
        except StaleAttemptError:
            raise
        except HandBackError:
            self._take_back(record, RetryReason.HANDED_BACK)
        except Exception:
            log.exception("attempt_failed", attempt=record.attempt)
            self._take_back(record, RetryReason.FAULT)
            self._faults += 1
            if self._faults >= _SICK:
                log.error(
                    "worker_ends", reason=f"{_SICK} attempts in a row failed: another process may do better"
                )
                self.end_worker()
        else:
            self._faults = 0
            seconds = time.monotonic() - began
            log.info("job_ended", state=State.SUCCEEDED, seconds=round(seconds, 3))
            self.meter.count(JOBS_ENDED, state=State.SUCCEEDED, code="")
            self.queue.note_time(seconds)

    def _take_back(self, record: Record, why: RetryReason) -> None:
        detail = f"the job failed {ATTEMPTS} times; the log has the reason under its id"
        changed = self.jobs.take_back(record, why, "internal_error", detail)
        if changed.ended:
            self._tell_failure("internal_error")
            return
        log.info("job_queued_again", why=why)
        self.meter.count(RETRIES, why=why)
        if why is RetryReason.HANDED_BACK:  # after a fault the reconciler waits a while
            self.queue.try_enqueue(record.id)

    def _detect(self, record: Record) -> Detections:
        region = make_region(record.options)
        told = looked = time.monotonic()

        def progress(stage: str, fraction: float) -> None:
            nonlocal told, looked
            now = time.monotonic()
            self._stop_in_time(now)
            if now - told >= _PROGRESS_EVERY_S:
                told = now
                self.queue.publish_progress(record.id, Stage(stage), fraction)
            if now - looked >= _LOOK_EVERY_S:
                looked = now
                self.jobs.check(record)  # canceled, deleted or overtaken: no more work for it

        began = time.monotonic()
        with self._video(record) as file:
            found = self.detector.detect(file, region=region, limits=self.limits, progress=progress)
        self.meter.observe(STAGE_SECONDS, found.decode_s, stage=Stage.DECODING)
        self.meter.observe(STAGE_SECONDS, time.monotonic() - began - found.decode_s, stage=Stage.DETECTING)
        self.meter.count(DECODED_FRAMES, found.media.frames_decoded)
        self.meter.count(VIDEO_SECONDS, found.media.duration_s)
        return found

    def _video(self, record: Record) -> BinaryIO:
        try:
            return self.store.open(key(record.id, "video"))
        except KeyError:
            self.jobs.check(record)  # it went with the job
            raise

    def _publish(self, record: Record, found: Detections) -> None:
        self.queue.publish_progress(record.id, Stage.PUBLISHING, 1.0)
        options = record.options.for_detector()
        context = make_context(
            found, self.detector, options, job_id=record.id, video_sha256=record.upload.sha256
        )
        stored = store_proposals(found, context)
        files = {
            "proposals.npz": stored.to_bytes(),
            "result.json": make_result(stored, options).model_dump_json().encode(),
        }
        began = time.monotonic()
        while not self._put(record, files):
            self._stop_in_time(time.monotonic())
            time.sleep(_ROOM_EVERY_S)
        self.meter.observe(STAGE_SECONDS, time.monotonic() - began, stage=Stage.PUBLISHING)

    def _put(self, record: Record, files: dict[str, bytes]) -> bool:
        """Whether there was room: the work is done, and worth waiting for that."""
        try:
            self.jobs.check(record)
            for name, content in files.items():
                self.store.put(published(record, name), content)
            self.jobs.change(record, State.SUCCEEDED)
        except StaleAttemptError:
            stored = self.jobs.read(record.id)
            if stored is None or (stored.state, stored.attempt) != (State.SUCCEEDED, record.attempt):
                self.store.delete(published(record, ""))
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            log.warning("no_room_to_publish", next_try_s=_ROOM_EVERY_S)
            return False
        return True

    def _fail(self, record: Record, code: str, detail: str) -> None:
        self._faults = 0  # the worker could tell what is wrong: it is well
        self.jobs.change(record, State.FAILED, JobError(code=code, detail=detail))
        self._tell_failure(code)

    def _tell_failure(self, code: str) -> None:
        log.info("job_ended", state=State.FAILED, code=code)
        self.meter.count(JOBS_ENDED, state=State.FAILED, code=code)

    def _stop_in_time(self, now_s: float) -> None:
        if self._stop_at_s is not None and now_s > self._stop_at_s:
            raise HandBackError


_context: WorkerContext | None = None


def set_context(context: WorkerContext) -> None:
    """Called once, before the first job."""
    global _context
    _context = context


def detect(job_id: str) -> None:
    """What the queue names; see service.queue.DETECT."""
    if _context is None:
        raise RuntimeError("no model is loaded: jobs run in mmad worker only")
    _context.run(job_id)
