"""The rq worker, which runs jobs in its own process without forking, and the thread that sends its heartbeats."""

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

from service.queue import DETECT, HEARTBEAT_INTERVAL_S, LEASE_TTL_S, delete_heartbeat, put_heartbeat

log = structlog.get_logger()


class Heartbeat:
    """Thread that keeps the worker's heartbeat and the lease of its attempt alive, also while native code runs."""

    def __init__(self, connection: Redis) -> None:
        """`connection` should fail fast: the next heartbeat is sent anyway."""
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
            delete_heartbeat(self._connection, self._name)

    @contextmanager
    def hold_lease(self, lease: str) -> Iterator[None]:
        """Hold an attempt's lease within the context; it expires some seconds after its end."""
        self._lease = lease
        self._send()
        try:
            yield
        finally:
            self._lease = None

    def _run(self) -> None:
        self._send()
        while not self._ended.wait(HEARTBEAT_INTERVAL_S):
            self._send()

    def _send(self) -> None:
        try:
            put_heartbeat(self._connection, self._name, self._lease)
        except RedisError as error:
            log.warning("beat_missed", error=type(error).__name__)


class ModelWorker(SimpleWorker):
    """Runs jobs in its own process, one at a time. service.reconciler handles lost jobs instead of rq."""

    max_connection_wait_time = 2.0  # seconds; rq's default retries an unavailable Redis once a minute

    def __init__(self, queue: Queue, on_stop: Callable[[], None] = lambda: None) -> None:
        """`on_stop` is called when the process receives SIGINT or SIGTERM for the first time."""
        # rq blocks for new jobs for at most `worker_ttl` - 15 s, then checks whether to stop.
        super().__init__(
            [queue], connection=queue.connection, serializer=queue.serializer, worker_ttl=LEASE_TTL_S + 8,
            maintenance_interval=60,
        )  # fmt: skip
        self._on_stop = on_stop
        self._performing = self.stop_requested = False

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Return the seconds until rq considers a delivery abandoned: always more than the job's timeout."""
        return int(job.timeout or 0) + LEASE_TTL_S

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Handle the first signal: take no further job. Unlike rq's handler, it does not wait for Redis."""
        self._shutdown_requested_date = now()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.request_force_stop)
        self.stop_requested = self._stop_requested = True
        self._on_stop()
        if not self._performing:  # rq's own state may be outdated while Redis is unavailable
            raise StopRequested

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Run a job; refuse any function other than DETECT."""
        if job.func_name != DETECT:
            # Anyone with write access to Redis can enqueue any function.
            log.error("job_refused", job_id=job.id, reason="not a function of this worker")
            self.handle_job_failure(job, queue, exc_string="refused", execution=execution)
            return False
        self._performing = True
        try:
            return bool(super().perform_job(job, queue, execution))
        finally:
            self._performing = False
