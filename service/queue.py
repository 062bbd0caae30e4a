"""The job queue, worker heartbeats, leases and live progress in Redis. No job is lost when Redis loses its data.

A delivery is an rq job with the id `<job id>-<random hex>`. rq only delivers: the job records in the store and
service.reconciler decide which job runs, how often it is retried and when it fails.
"""

import json
import secrets
import socket
import ssl
from statistics import median
from typing import NamedTuple
from urllib.parse import urlsplit

from redis import Redis, exceptions
from redis.backoff import ExponentialBackoff
from redis.retry import Retry as ConnectionRetry
from rq import Queue
from rq.serializers import JSONSerializer

from service.circuit_breaker import CircuitBreaker
from service.job_schemas import Stage
from service.metrics import Meter
from service.settings import Settings
from service.ttl_cache import TtlCache

QUEUE = "mmad"
# The only function that workers run. A string, because the API does not import workers.
DETECT = "workers.run.detect"
# A worker is considered dead when its last heartbeat is older than this; it sends four in that time.
LEASE_TTL_S = 12
HEARTBEAT_INTERVAL_S = 3.0
_WORKERS_KEY = "mmad:workers"
# rq's own results serve debugging only: the outcome of a job is in the store.
_RQ_RESULT_TTL_S = 60
_PROBE_KEY = "mmad:probe"
_PROGRESS_TTL_S = 300
_JOB_TIMES_KEY = "mmad:times"
# Run times of the most recent jobs, used to estimate the next one's.
_MAX_JOB_TIMES = 50
_THROUGHPUT_TTL_S = 1.0
_POSITIONS_TTL_S = 0.5
# Above this fraction the estimate uses the job's own progress instead of other jobs' run times.
_MIN_FRACTION_FOR_ESTIMATE = 0.1


class Progress(NamedTuple):
    """Progress of a running job: (None, 0) if unknown."""

    stage: Stage | None
    fraction: float


class QueueError(Exception):
    """The configured Redis cannot be used; the message says which setting to correct."""


def connect(settings: Settings, *, retries: int) -> Redis:
    """Create a client for the configured Redis; raises QueueError if MMAD_REDIS_URL is missing or malformed."""
    if settings.redis_url is None:
        raise QueueError("no Redis is configured: set MMAD_REDIS_URL, or use mmad serve")
    retry = ConnectionRetry(ExponentialBackoff(cap=2, base=0.1), retries)
    try:
        return Redis.from_url(settings.redis_url, retry=retry, socket_connect_timeout=3)
    except ValueError as error:
        # The library's message may contain part of the password.
        raise QueueError(
            "MMAD_REDIS_URL is not an address of Redis: write redis://USER:PASSWORD@HOST:PORT/NUMBER, rediss:// for "
            "TLS or unix://PATH, special characters of a password percent-encoded"
        ) from error


def check_redis(settings: Settings) -> str | None:
    """Check that the configured Redis accepts writes; return a transient error (unreachable, still loading), or None.

    Raises QueueError for an error that persists until the configuration is corrected.
    """
    url = settings.redis_url or ""
    connection = connect(settings, retries=0)
    try:
        with connection:
            connection.set(_PROBE_KEY, 1, ex=_RQ_RESULT_TTL_S)
    except exceptions.RedisError as error:
        if remedy := _describe_permanent_error(error):
            raise QueueError(f"Redis at {_format_address(url)} {remedy}") from error
        return f"Redis at {_format_address(url)} {_describe_transient_error(error, url)}"
    return None


def _describe_permanent_error(error: exceptions.RedisError) -> str | None:
    """Describe an error that persists until the configuration is corrected; None for a transient error."""
    causes = (error.__cause__, error.__context__)
    if isinstance(error, exceptions.AuthenticationError):
        form = "redis://USER:PASSWORD@HOST:PORT/NUMBER"
        return f"wants another user name or password than MMAD_REDIS_URL has: write {form}"
    if isinstance(error, exceptions.NoPermissionError):
        return f"gives the user of MMAD_REDIS_URL too few rights: allow it all commands ({error})"
    if isinstance(error, exceptions.ReadOnlyError):
        return "is a replica, which cannot be written: name its primary in MMAD_REDIS_URL"
    if isinstance(error, exceptions.MovedError):
        return "is part of a cluster: name a single Redis in MMAD_REDIS_URL"
    if "DB index" in str(error):
        return "has no database of the number at the end of MMAD_REDIS_URL: most have 0 to 15"
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "speaks no TLS that is trusted here: write redis:// in MMAD_REDIS_URL, or see to its certificate"
    if isinstance(error, exceptions.InvalidResponse):
        return "is not Redis: correct host and port of MMAD_REDIS_URL"
    return None


def _describe_transient_error(error: exceptions.RedisError, url: str) -> str:
    if any(isinstance(cause, socket.gaierror) for cause in (error.__cause__, error.__context__)):
        return "cannot be found: its name leads to no address"
    hint = ""
    if isinstance(error, exceptions.TimeoutError) and url.startswith("rediss:"):
        hint = "; if it speaks no TLS, write redis:// in MMAD_REDIS_URL"
    elif "closed by server" in str(error) and url.startswith("redis:"):
        hint = "; if it speaks TLS, write rediss:// in MMAD_REDIS_URL"
    return f"cannot be used now: {str(error).rstrip('.')}{hint}"


def _format_address(url: str) -> str:
    """Return host and port, or the socket path, of a Redis URL, without its password."""
    try:
        parts = urlsplit(url)
        return parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
    except ValueError:
        return "MMAD_REDIS_URL"


def make_queue(connection: Redis) -> Queue:
    """Create the rq queue; payloads are JSON, never pickled."""
    return Queue(QUEUE, connection=connection, serializer=JSONSerializer)


class Throughput(NamedTuple):
    """Median run time of recent jobs in seconds (None if there are none) and the number of live workers."""

    job_s: float | None
    workers: int

    def estimate_queued_s(self, position: int) -> float | None:
        """Estimate the seconds until a queued job ends, with `position` jobs before it."""
        if self.job_s is None or not self.workers:
            return None
        return self.job_s * (1 + position / self.workers)

    def estimate_running_s(self, fraction: float, elapsed_s: float) -> float | None:
        """Estimate the seconds until a running job ends."""
        if fraction > _MIN_FRACTION_FOR_ESTIMATE:
            return elapsed_s * (1 - fraction) / fraction
        return None if self.job_s is None else max(0.0, self.job_s - elapsed_s)


class JobQueue:
    """The Redis operations of API and workers. Without Redis, most do nothing or return a default.

    service.reconciler later enqueues the jobs that were accepted in the meantime.
    """

    def __init__(self, connection: Redis, job_timeout_s: int) -> None:
        self._connection = connection
        self._job_timeout_s = job_timeout_s
        self.meter = Meter(connection)
        self._breaker = CircuitBreaker("redis_away", "redis_back")
        call = self._breaker.call
        self._throughput = TtlCache(_THROUGHPUT_TTL_S, lambda: call(self._fetch_throughput, Throughput(None, 0)))
        self._positions: TtlCache[dict[str, int]] = TtlCache(_POSITIONS_TTL_S, lambda: call(self._fetch_positions, {}))

    def try_enqueue(self, job_id: str) -> None:
        """Enqueue a job; does nothing if Redis is unavailable."""
        self._breaker.call(lambda: self.enqueue(job_id), None)

    def enqueue(self, job_id: str, *, at_front: bool = False) -> None:
        """Enqueue a job at the end of the queue or at its front; raises RedisError."""
        make_queue(self._connection).enqueue_call(
            DETECT,
            args=(job_id,),
            job_id=f"{job_id}-{secrets.token_hex(4)}",
            timeout=self._job_timeout_s,
            at_front=at_front,
            result_ttl=_RQ_RESULT_TTL_S,
            failure_ttl=_RQ_RESULT_TTL_S,
        )

    def remove(self, job_id: str) -> None:
        """Remove a job from the queue, if it is queued; a worker that takes it nevertheless sees that it has ended."""

        def delete() -> None:
            queue = make_queue(self._connection)
            for delivery in queue.job_ids:
                if _parse_job_id(delivery) == job_id and (job := queue.fetch_job(delivery)):
                    job.delete()

        self._breaker.call(delete, None)

    def get_queued_ids(self) -> set[str]:
        """Return the ids of all queued jobs; raises RedisError, also if Redis is read-only."""
        self._connection.set(_PROBE_KEY, 1, ex=_RQ_RESULT_TTL_S)
        return set(self._fetch_positions())

    def is_leased(self, job_id: str, attempt: int) -> bool:
        """Whether a live worker holds the lease of this attempt; raises RedisError."""
        return bool(self._connection.exists(lease_key(job_id, attempt)))

    def get_progress(self, job_id: str) -> Progress:
        """Return the progress of a running job."""
        content = self._breaker.call(lambda: self._connection.get(_progress_key(job_id)), None)
        if content is None:
            return Progress(None, 0.0)
        stage, fraction = json.loads(content)
        return Progress(Stage(stage), fraction)

    def publish_progress(self, job_id: str, stage: Stage, fraction: float) -> None:
        """Publish the progress of a running job."""
        content = json.dumps([stage, round(fraction, 4)])
        self._breaker.call(lambda: self._connection.set(_progress_key(job_id), content, ex=_PROGRESS_TTL_S), None)

    def record_job_time(self, seconds: float) -> None:
        """Record a job's run time for later estimates."""
        pipeline = self._connection.pipeline()
        pipeline.lpush(_JOB_TIMES_KEY, f"{seconds:.3f}")
        pipeline.ltrim(_JOB_TIMES_KEY, 0, _MAX_JOB_TIMES - 1)
        self._breaker.call(pipeline.execute, [])

    def get_position(self, job_id: str) -> int | None:
        """Return the number of jobs before this one; None if it is not queued or Redis is unavailable."""
        return self._positions.get().get(job_id)

    def get_throughput(self) -> Throughput:
        """Return the throughput, at most 1 s old."""
        return self._throughput.get()

    def check(self) -> dict[str, str]:
        """Report the readiness of Redis and of at least one worker, by name."""
        try:
            alive = self._workers_alive() > 0
        except exceptions.RedisError:
            return {"redis": "cannot be reached", "workers": "not known"}
        return {"redis": "ok", "workers": "ok" if alive else "none is running"}

    def _fetch_positions(self) -> dict[str, int]:
        deliveries = make_queue(self._connection).job_ids
        return {_parse_job_id(delivery): position for position, delivery in enumerate(deliveries)}

    def _fetch_throughput(self) -> Throughput:
        times = [float(value) for value in self._connection.lrange(_JOB_TIMES_KEY, 0, -1)]
        return Throughput(median(times) if times else None, self._workers_alive())

    def _workers_alive(self) -> int:
        return self._connection.zcount(_WORKERS_KEY, _now(self._connection) - LEASE_TTL_S, "+inf")


def put_heartbeat(connection: Redis, worker: str, lease: str | None) -> None:
    """Record that a worker is alive, and renew the lease (see lease_key) of its attempt, if any, both for LEASE_TTL_S.

    Timestamps are from Redis's clock. Sent repeatedly, so both reappear after Redis has lost its data.
    """
    now = _now(connection)
    with connection.pipeline() as pipeline:
        pipeline.zadd(_WORKERS_KEY, {worker: now})
        pipeline.zremrangebyscore(_WORKERS_KEY, "-inf", now - LEASE_TTL_S)
        if lease:
            pipeline.set(lease, worker, ex=LEASE_TTL_S)
        pipeline.execute()


def delete_heartbeat(connection: Redis, worker: str) -> None:
    """Remove a worker that has stopped."""
    connection.zrem(_WORKERS_KEY, worker)


def lease_key(job_id: str, attempt: int) -> str:
    """Return the Redis key of an attempt's lease. Each attempt has its own, so a stale one does no harm."""
    return f"mmad:lease:{job_id}.{attempt}"


def _now(connection: Redis) -> float:
    seconds, microseconds = connection.time()
    return float(seconds) + float(microseconds) / 1e6


def _parse_job_id(delivery: str) -> str:
    return delivery.partition("-")[0]


def _progress_key(job_id: str) -> str:
    return f"mmad:stage:{job_id}"
