"""An rq worker that holds a model: it never forks, and is heard of while a job is inside native code."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from uuid import uuid4

import structlog
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.utils import now

from service.queue import BEAT_S, DETECT, LEASE_S, put_death, put_heartbeat

log = structlog.get_logger()


class Heartbeat:
    """Tells Redis in a thread of its own that this process lives, and which attempt it is at."""

    def __init__(self, connection: Redis) -> None:
        """A connection that gives up soon: the next beat comes in any case."""
        self._connection = connection
        self._name = uuid4().hex
        self._lease: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(RedisError):
            put_death(self._connection, self._name)

    @contextmanager
    def holding(self, lease: str) -> Iterator[None]:
        """While an attempt runs; its lease ends by itself soon after."""
        self._lease = lease
        self._beat()
        try:
            yield
        finally:
            self._lease = None

    def _run(self) -> None:
        while not self._ended.is_set():
            self._beat()
            self._ended.wait(BEAT_S)

    def _beat(self) -> None:
        try:
            put_heartbeat(self._connection, self._name, self._lease)
        except RedisError as error:
            log.warning("beat_missed", error=type(error).__name__)


class ModelWorker(SimpleWorker):
    """Runs jobs in its own process, one at a time. What rq does for lost jobs is left to service.reconciler."""

    max_connection_wait_time = 2.0  # seconds; rq itself would look for a Redis that is away once a minute

    def __init__(self, queue: Queue, stopping: Callable[[], None] = lambda: None) -> None:
        """`stopping` is called when the process is asked to stop."""
        super().__init__(
            [queue],
            connection=queue.connection,
            serializer=queue.serializer,
            # It waits for jobs at most 15 s less at a time, then sees whether it shall stop.
            worker_ttl=LEASE_S + 8,
            maintenance_interval=60,
        )
        self._stopping = stopping
        self._performing = self.asked_to_stop = False

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Seconds until rq takes a delivery for abandoned and forgets it: never before the job is over."""
        return int(job.timeout or 0) + LEASE_S

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """A first signal: no further job. rq's own would tell Redis, and wait for it in the signal's handler."""
        self._shutdown_requested_date = now()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.request_force_stop)
        self.asked_to_stop = self._stop_requested = True
        self._stopping()
        if not self._performing:  # rq's own word for that may be old while Redis is away
            raise StopRequested

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Run a job, if it is the one kind that is allowed here."""
        if job.func_name != DETECT:
            # Whoever can write to Redis can name any function.
            log.error("job_refused", job_id=job.id, reason="not a function of this worker")
            self.handle_job_failure(job, queue, exc_string="refused", execution=execution)
            return False
        self._performing = True
        try:
            return bool(super().perform_job(job, queue, execution))
        finally:
            self._performing = False
