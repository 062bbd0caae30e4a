"""An rq worker that holds a model: it never forks, and stays alive in Redis while a job is inside native code."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.executions import Execution
from rq.job import Job

from service.queue import DETECT

log = structlog.get_logger()

HEARTBEAT_TTL_S = 20
HEARTBEAT_EVERY_S = 5


class ModelWorker(SimpleWorker):
    """Runs jobs in its own process, one at a time, while a thread keeps its lease.

    rq's own SimpleWorker keeps a job until its timeout has passed: a dead worker's job would wait an hour.
    """

    def __init__(self, queue: Queue) -> None:
        super().__init__(
            [queue],
            connection=queue.connection,
            serializer=queue.serializer,
            worker_ttl=HEARTBEAT_TTL_S,
            maintenance_interval=HEARTBEAT_EVERY_S,
        )

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Seconds until others may take the job for abandoned."""
        return HEARTBEAT_TTL_S

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Run a job, if it is the one kind that is allowed here."""
        if job.func_name != DETECT:
            # Whoever can write to Redis can name any function.
            log.error("job_refused", job_id=job.id, reason="not a function of this worker")
            self.handle_job_failure(job, queue, exc_string="refused", execution=execution)
            return False
        with self._heartbeats(job, execution):
            return bool(super().perform_job(job, queue, execution))

    @contextmanager
    def _heartbeats(self, job: Job, execution: Execution) -> Iterator[None]:
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT_EVERY_S):
                try:
                    self.maintain_heartbeats(job, execution)
                except RedisError as error:
                    log.warning("heartbeat_missed", job_id=job.id, error=type(error).__name__)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
