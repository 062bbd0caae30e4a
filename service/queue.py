"""Redis: the queue of jobs, the leases and the live progress of running ones. Losing it loses no job.

A delivery is an rq job whose id is `<job id>-<chance>`. rq delivers and no more: which job runs, how often and when it
is given up is for the store's records and service.reconciler to say.
"""

import secrets
import socket
import ssl
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import structlog
from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    InvalidResponse,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry as ConnectionRetry
from rq import Queue
from rq.serializers import JSONSerializer

from service.job_schemas import Stage
from service.metrics import Meter
from service.settings import Settings
from service.ttl_cache import Lately

log = structlog.get_logger()

Answer = TypeVar("Answer")

QUEUE = "mmad"
# The one function a worker runs, named as text: the API does not import it.
DETECT = "workers.run.detect"
# A worker that is not heard of for so long is taken for dead; it is heard of four times in that.
LEASE_S = 12
BEAT_S = 3.0
_WORKERS = "mmad:workers"
# For those who look into Redis: whatever a delivery came to, the store knows more.
_TOLD_S = 60
_PROBE = "mmad:probe"
_PROGRESS_TTL_S = 300
_TIMES = "mmad:times"
# So many jobs tell how long the next will take.
_TIMES_KEPT = 50
_PACE_LASTS_S = 1.0
_POSITIONS_LAST_S = 0.5
_AWAY_S = 2.0
# From this fraction on a job's own progress says more than other jobs' times.
_TELLING = 0.1


class Progress(NamedTuple):
    """How far a running job is; nothing known is (None, 0)."""

    stage: Stage | None
    fraction: float


class QueueError(Exception):
    """The settings name no Redis that can be used; the text says what to set."""


def connect(settings: Settings, *, retries: int) -> Redis:
    """A client for the Redis of the settings; raises QueueError.

    Few retries for a request, many for a worker that can wait.
    """
    if settings.redis_url is None:
        raise QueueError("no Redis is configured: set MMAD_REDIS_URL, or use mmad serve")
    retry = ConnectionRetry(ExponentialBackoff(cap=2, base=0.1), retries)
    try:
        return Redis.from_url(settings.redis_url, retry=retry, socket_connect_timeout=3)
    except ValueError as error:
        # The library's own words may hold a piece of the password.
        raise QueueError(
            "MMAD_REDIS_URL is not an address of Redis: write redis://USER:PASSWORD@HOST:PORT/NUMBER, rediss:// for "
            "TLS or unix://PATH, special characters of a password percent-encoded"
        ) from error


def check_redis(settings: Settings) -> str | None:
    """Write to the Redis of the settings once, before anything depends on it.

    Returns:
        What is wrong and may pass by itself: it cannot be reached, is full or still loads. None where nothing is.

    Raises:
        QueueError: what is wrong stays wrong until somebody mends it.
    """
    url = settings.redis_url or ""
    connection = connect(settings, retries=0)
    try:
        with connection:
            connection.set(_PROBE, 1, ex=_TOLD_S)
    except RedisError as error:
        if remedy := _remedy(error):
            raise QueueError(f"Redis at {_where(url)} {remedy}") from error
        return f"Redis at {_where(url)} {_reason(error, url)}"
    return None


def _remedy(error: RedisError) -> str | None:
    """The sentence for an error that lasts until somebody mends it; None for a transient one."""
    causes = (error.__cause__, error.__context__)
    if isinstance(error, AuthenticationError):
        return "wants another user name or password than MMAD_REDIS_URL has: write redis://USER:PASSWORD@HOST:PORT/NUMBER"
    if isinstance(error, NoPermissionError):
        return f"gives the user of MMAD_REDIS_URL too few rights: allow it all commands ({error})"
    if isinstance(error, ReadOnlyError):
        return "is a replica, which cannot be written: name its primary in MMAD_REDIS_URL"
    if isinstance(error, MovedError):
        return "is part of a cluster: name a single Redis in MMAD_REDIS_URL"
    if "DB index" in str(error):
        return "has no database of the number at the end of MMAD_REDIS_URL: most have 0 to 15"
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return (
            "speaks no TLS that is trusted here: write redis:// in MMAD_REDIS_URL, or see to its certificate"
        )
    if isinstance(error, InvalidResponse):
        return "is not Redis: correct host and port of MMAD_REDIS_URL"
    return None


def _reason(error: RedisError, url: str) -> str:
    """The sentence for a transient error."""
    if any(isinstance(cause, socket.gaierror) for cause in (error.__cause__, error.__context__)):
        return "cannot be found: its name leads to no address"
    hint = ""
    if isinstance(error, RedisTimeoutError) and url.startswith("rediss:"):
        hint = "; if it speaks no TLS, write redis:// in MMAD_REDIS_URL"
    elif "closed by server" in str(error) and url.startswith("redis:"):
        hint = "; if it speaks TLS, write rediss:// in MMAD_REDIS_URL"
    return f"cannot be used now: {str(error).rstrip('.')}{hint}"


def _where(url: str) -> str:
    """Where an address leads, without the password that it may hold."""
    try:
        parts = urlsplit(url)
        return parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
    except ValueError:
        return "MMAD_REDIS_URL"


def make_queue(connection: Redis) -> Queue:
    """The one queue; jobs on it are JSON, never pickles."""
    return Queue(QUEUE, connection=connection, serializer=JSONSerializer)


class Pace(NamedTuple):
    """The median job's seconds, if one was measured, and how many workers there are."""

    job_s: float | None
    workers: int

    def queued_s(self, position: int) -> float | None:
        """Seconds to the end for a job with so many before it."""
        if self.job_s is None or not self.workers:
            return None
        return self.job_s * (1 + position / self.workers)

    def running_s(self, fraction: float, elapsed_s: float) -> float | None:
        """Seconds to the end for a job that has come so far in so long."""
        if fraction > _TELLING:
            return elapsed_s * (1 - fraction) / fraction
        return None if self.job_s is None else max(0.0, self.job_s - elapsed_s)


class JobQueue:
    """What API and workers ask of Redis, and tell it. While it is away they go without.

    What waits in the store is queued when it is back, see service.reconciler.
    """

    def __init__(self, connection: Redis, job_timeout_s: int) -> None:
        self._connection = connection
        self._job_timeout_s = job_timeout_s
        self.meter = Meter(connection)
        self._away_until = 0.0
        self._pace = Lately(_PACE_LASTS_S, lambda: self._ask(self._ask_pace, Pace(None, 0)))
        nowhere: dict[str, int] = {}
        self._positions = Lately(_POSITIONS_LAST_S, lambda: self._ask(self._ask_positions, nowhere))

    def try_enqueue(self, job_id: str) -> None:
        """Put a job on the queue, if Redis can be reached."""
        self._ask(lambda: self.deliver(job_id), None)

    def deliver(self, job_id: str, *, first: bool = False) -> None:
        """Put a job on the queue, behind all others or before them; raises RedisError."""
        make_queue(self._connection).enqueue_call(
            DETECT,
            args=(job_id,),
            job_id=f"{job_id}-{secrets.token_hex(4)}",
            timeout=self._job_timeout_s,
            at_front=first,
            result_ttl=_TOLD_S,
            failure_ttl=_TOLD_S,
        )

    def forget(self, job_id: str) -> None:
        """Take a job from the queue, if it waits there; a worker that gets it all the same finds it ended."""

        def remove() -> None:
            queue = make_queue(self._connection)
            for delivery in queue.job_ids:
                if _job_of(delivery) == job_id and (job := queue.fetch_job(delivery)):
                    job.delete()

        self._ask(remove, None)

    def waiting(self) -> set[str]:
        """The jobs on the queue; raises RedisError, also where Redis can be read and not be written."""
        self._connection.set(_PROBE, 1, ex=_TOLD_S)
        return set(self._ask_positions())

    def is_leased(self, job_id: str, attempt: int) -> bool:
        """Whether a worker was heard of lately that has this attempt; raises RedisError."""
        return bool(self._connection.exists(lease_key(job_id, attempt)))

    def progress(self, job_id: str) -> Progress:
        """How far a running job is."""
        nothing: dict[bytes | str, bytes | str] = {}
        raw = self._ask(lambda: self._connection.hgetall(_progress_key(job_id)), nothing)
        found = {_text(name): _text(value) for name, value in raw.items()}
        stage = found.get("stage")
        return Progress(Stage(stage) if stage else None, float(found.get("fraction", 0)))

    def publish_progress(self, job_id: str, stage: Stage, fraction: float) -> None:
        """How far a running job is, for those who ask."""
        name = _progress_key(job_id)

        def put() -> None:
            with self._connection.pipeline() as pipeline:
                pipeline.hset(name, mapping={"stage": stage.value, "fraction": f"{fraction:.4f}"})
                pipeline.expire(name, _PROGRESS_TTL_S)
                pipeline.execute()

        self._ask(put, None)

    def note_time(self, seconds: float) -> None:
        """Remember how long a job took, for the estimates of the next."""

        def put() -> None:
            with self._connection.pipeline() as pipeline:
                pipeline.lpush(_TIMES, f"{seconds:.3f}")
                pipeline.ltrim(_TIMES, 0, _TIMES_KEPT - 1)
                pipeline.execute()

        self._ask(put, None)

    def position(self, job_id: str) -> int | None:
        """How many jobs are before it; None if it is not in the queue, or Redis is away."""
        return self._positions.get().get(job_id)

    def pace(self) -> Pace:
        """How fast jobs went lately."""
        return self._pace.get()

    def check(self) -> dict[str, str]:
        """Readiness of Redis and of at least one worker."""
        try:
            alive = self._workers_alive() > 0
        except RedisError:
            return {"redis": "cannot be reached", "workers": "not known"}
        return {"redis": "ok", "workers": "ok" if alive else "none is running"}

    def _ask(self, question: Callable[[], Answer], otherwise: Answer) -> Answer:
        """An answer of Redis; `otherwise` while it is away: one caller in a while waits to find out, not each."""
        if time.monotonic() < self._away_until:
            return otherwise
        try:
            return question()
        except RedisError as error:
            self._away_until = time.monotonic() + _AWAY_S
            log.warning("redis_away", error=type(error).__name__, not_asked_for_s=_AWAY_S)
            return otherwise

    def _ask_positions(self) -> dict[str, int]:
        return {
            _job_of(delivery): place for place, delivery in enumerate(make_queue(self._connection).job_ids)
        }

    def _ask_pace(self) -> Pace:
        times = [float(value) for value in self._connection.lrange(_TIMES, 0, -1)]
        return Pace(median(times) if times else None, self._workers_alive())

    def _workers_alive(self) -> int:
        return self._connection.zcount(_WORKERS, _now(self._connection) - LEASE_S, "+inf")


def put_heartbeat(connection: Redis, worker: str, lease: str | None) -> None:
    """Tell that a worker lives, and holds a lease; good for LEASE_S. Comes back by itself when Redis has lost it.

    Args:
        connection: Redis, whose clock counts.
        worker: its name.
        lease: of the attempt it is at, see lease_key.
    """
    now = _now(connection)
    with connection.pipeline() as pipeline:
        pipeline.zadd(_WORKERS, {worker: now})
        pipeline.zremrangebyscore(_WORKERS, "-inf", now - LEASE_S)
        if lease:
            pipeline.set(lease, worker, ex=LEASE_S)
        pipeline.execute()


def put_death(connection: Redis, worker: str) -> None:
    """Tell that a worker takes no more jobs."""
    connection.zrem(_WORKERS, worker)


def lease_key(job_id: str, attempt: int) -> str:
    """Where an attempt's lease is. One of an attempt that was overtaken hinders nobody."""
    return f"mmad:lease:{job_id}.{attempt}"


def _now(connection: Redis) -> float:
    seconds, microseconds = connection.time()
    return float(seconds) + float(microseconds) / 1e6


def _job_of(delivery: str) -> str:
    return delivery.partition("-")[0]


def _progress_key(job_id: str) -> str:
    return f"mmad:progress:{job_id}"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
