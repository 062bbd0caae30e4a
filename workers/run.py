"""Runs one job: reads its video from the store, runs the detector and publishes the result."""

import errno
import signal
import time

import structlog
from redis import Redis
from rq.timeouts import JobTimeoutException
from structlog.contextvars import bound_contextvars

from model.detections import Detections
from model.detector import Detector
from model.errors import VideoError
from service.errors import Problem
from service.job_schemas import JobError, RetryReason, Stage, State
from service.jobs import ATTEMPTS, Jobs, Record, StaleAttemptError, attempt_key, job_key
from service.metrics import DECODED_FRAMES, JOBS_ENDED, RETRIES, STAGE_SECONDS, VIDEO_SECONDS
from service.queue import JobQueue, lease_key
from service.results import make_result
from service.settings import Settings
from service.store import FolderStore
from workers.heartbeat import Heartbeat
from workers.serialization import make_limits, make_region, make_stored_proposals

log = structlog.get_logger()

_PROGRESS_EVERY_S = 0.25
# How often a worker checks whether its job was canceled.
_CHECK_RECORD_EVERY_S = 0.5
_DISK_FULL_RETRY_S = 1.0
# After this many internal errors in a row the worker is likely the cause: a broken device, or no file descriptors or
# memory left.
_MAX_CONSECUTIVE_FAULTS = 3


class ShutdownError(Exception):
    """The worker was asked to stop and the grace period is over; the job is queued again."""


class WorkerContext:
    """The loaded model and the connections of a worker process; created once."""

    def __init__(self, detector: Detector, store: FolderStore, connection: Redis, settings: Settings) -> None:
        """`connection` must fail fast: progress and metrics are best-effort and never block a job."""
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

    def request_shutdown(self) -> None:
        """Start the grace period, after which the current job is queued again."""
        self._stop_at_s = time.monotonic() + self._stop_grace_s

    def terminate(self) -> None:
        """End this process by SIGTERM; its supervisor starts a new one."""
        signal.raise_signal(signal.SIGTERM)

    def run(self, job_id: str) -> None:
        """Make one attempt at a job unless it is running elsewhere; it then has ended or is queued again."""
        with bound_contextvars(job_id=job_id):
            try:
                record = self._begin(job_id)
                if record is not None:
                    with self.heartbeat.hold_lease(lease_key(job_id, record.attempt)):
                        self._attempt(record)
            except StaleAttemptError as error:
                log.warning("attempt_overtaken", reason=str(error))

    def _begin(self, job_id: str) -> Record | None:
        """Change the job to running and return its record; None if there is nothing to do."""
        try:
            record = self.jobs.get(job_id)
        except Problem:  # the job was deleted, or rejected after it was enqueued
            log.info("job_without_record")
            return None
        if record.ended:
            self.jobs.clean_up(record)  # the process that ended it may have been killed before this step
            return None
        if record.state is State.RUNNING:  # enqueued twice, or its worker died: the reconciler handles that
            log.info("job_has_a_worker")
            return None
        self.queue.publish_progress(job_id, Stage.DECODING, 0.0)  # overwrites an earlier attempt's progress
        return self.jobs.change(record, State.RUNNING)

    def _attempt(self, record: Record) -> None:
        start_s = time.monotonic()
        try:
            self._publish(record, self._detect(record))
        except (VideoError, Problem) as error:
            self._fail(record, error.code, str(error))
        except JobTimeoutException:
            detail = "the job took longer than the limit (MMAD_JOB_TIMEOUT_S); send a shorter video"
            self._fail(record, "job_timeout", detail)
        except StaleAttemptError:
            raise
        except ShutdownError:
            self._requeue(record, RetryReason.HANDED_BACK)
        except Exception:
            log.exception("attempt_failed", attempt=record.attempt)
            self._requeue(record, RetryReason.FAULT)
            self._faults += 1
            if self._faults >= _MAX_CONSECUTIVE_FAULTS:
                reason = f"{_MAX_CONSECUTIVE_FAULTS} attempts in a row failed: another process may do better"
                log.error("worker_ends", reason=reason)
                self.terminate()
        else:
            self._faults = 0
            seconds = time.monotonic() - start_s
            log.info("job_ended", state=State.SUCCEEDED, seconds=round(seconds, 3))
            self.meter.count(JOBS_ENDED, state=State.SUCCEEDED, code="")
            self.queue.record_job_time(seconds)

    def _requeue(self, record: Record, why: RetryReason) -> None:
        detail = f"the job failed {ATTEMPTS} times; the log has the reason under its id"
        changed = self.jobs.requeue(record, why, "internal_error", detail)
        if changed.ended:
            self._report_failure("internal_error")
            return
        log.info("job_queued_again", why=why)
        self.meter.count(RETRIES, why=why)
        if why is RetryReason.HANDED_BACK:  # after a fault the reconciler enqueues it with a delay
            self.queue.try_enqueue(record.id)

    def _detect(self, record: Record) -> Detections:
        region = make_region(record.options)
        published_s = checked_s = time.monotonic()

        def progress(stage: str, fraction: float) -> None:
            nonlocal published_s, checked_s
            now_s = time.monotonic()
            self._check_shutdown(now_s)
            if now_s - published_s >= _PROGRESS_EVERY_S:
                published_s = now_s
                self.queue.publish_progress(record.id, Stage(stage), fraction)
            if now_s - checked_s >= _CHECK_RECORD_EVERY_S:
                checked_s = now_s
                self.jobs.require_current(record)  # raises if it was canceled, deleted or taken by another attempt

        start_s = time.monotonic()
        try:
            file = self.store.open(job_key(record.id, "video"))
        except KeyError:
            self.jobs.require_current(record)  # raises if the job was removed
            raise
        with file:
            detections = self.detector.detect(file, region=region, limits=self.limits, progress=progress)
        self.meter.observe(STAGE_SECONDS, detections.decode_s, stage=Stage.DECODING)
        detect_s = time.monotonic() - start_s - detections.decode_s
        self.meter.observe(STAGE_SECONDS, detect_s, stage=Stage.DETECTING)
        self.meter.count(DECODED_FRAMES, detections.media.frames_decoded)
        self.meter.count(VIDEO_SECONDS, detections.media.duration_s)
        return detections

    def _publish(self, record: Record, detections: Detections) -> None:
        self.queue.publish_progress(record.id, Stage.PUBLISHING, 1.0)
        options = record.options.for_detector()
        stored = make_stored_proposals(
            detections, self.detector, options, job_id=record.id, video_sha256=record.upload.sha256
        )
        result = make_result(stored, options).model_dump_json().encode()
        files = {"proposals.npz": stored.to_bytes(), "result.json": result}
        start_s = time.monotonic()
        while not self._try_publish(record, files):
            self._check_shutdown(time.monotonic())
            time.sleep(_DISK_FULL_RETRY_S)
        self.meter.observe(STAGE_SECONDS, time.monotonic() - start_s, stage=Stage.PUBLISHING)

    def _try_publish(self, record: Record, files: dict[str, bytes]) -> bool:
        """Store the files and end the job; False if the disk is full, and then the caller retries."""
        try:
            self.jobs.require_current(record)
            for name, content in files.items():
                self.store.put(attempt_key(record, name), content)
            self.jobs.change(record, State.SUCCEEDED)
        except StaleAttemptError:
            stored = self.jobs.read(record.id)
            if stored is None or (stored.state, stored.attempt) != (State.SUCCEEDED, record.attempt):
                self.store.delete(attempt_key(record, ""))
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            log.warning("no_room_to_publish", next_try_s=_DISK_FULL_RETRY_S)
            return False
        return True

    def _fail(self, record: Record, code: str, detail: str) -> None:
        self._faults = 0  # an error of the video, not of the worker
        self.jobs.change(record, State.FAILED, JobError(code=code, detail=detail))
        self._report_failure(code)

    def _report_failure(self, code: str) -> None:
        log.info("job_ended", state=State.FAILED, code=code)
        self.meter.count(JOBS_ENDED, state=State.FAILED, code=code)

    def _check_shutdown(self, now_s: float) -> None:
        if self._stop_at_s is not None and now_s > self._stop_at_s:
            raise ShutdownError


_context: WorkerContext | None = None


def set_context(context: WorkerContext) -> None:
    """Set the process's context; call it once, before the first job."""
    global _context
    _context = context


def detect(job_id: str) -> None:
    """Run a job: the function that the queue calls, see service.queue.DETECT."""
    if _context is None:
        raise RuntimeError("no model is loaded: jobs run in mmad worker only")
    _context.run(job_id)
