"""Redis: the queue of jobs, and the live progress of running ones. Losing it loses no record."""

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError
from redis.retry import Retry as ConnectionRetry
from rq import Queue, Retry
from rq.serializers import JSONSerializer

from service.errors import Problem
from service.schemas import Stage
from service.settings import Settings

QUEUE = "mmad"
# The one function a worker runs, named as text: the API does not import it.
DETECT = "workers.run.detect"
ATTEMPTS = 3
_PROGRESS_TTL_S = 3600


def connect(settings: Settings, *, retries: int) -> Redis:
    """A client for the Redis of the settings. Few retries for a request, many for a worker that can wait."""
    if settings.redis_url is None:
        raise Problem("queue_unavailable", "no Redis is configured: set MMAD_REDIS_URL, or use mmad serve")
    retry = ConnectionRetry(ExponentialBackoff(cap=2, base=0.1), retries)
    try:
        return Redis.from_url(settings.redis_url, retry=retry, socket_connect_timeout=3)
    except ValueError as error:
        raise Problem("queue_unavailable", f"MMAD_REDIS_URL does not fit: {error}") from error


def make_queue(connection: Redis) -> Queue:
    """The one queue; jobs on it are JSON, never pickles."""
    return Queue(QUEUE, connection=connection, serializer=JSONSerializer)


class JobQueue:
    """What the API asks of Redis."""

    def __init__(self, connection: Redis, job_timeout_s: int) -> None:
        self._connection = connection
        self._job_timeout_s = job_timeout_s

    def enqueue(self, job_id: str) -> None:
        """Put a job on the queue; raises Problem queue_unavailable."""
        try:
            make_queue(self._connection).enqueue_call(
                DETECT,
                args=(job_id,),
                job_id=job_id,
                timeout=self._job_timeout_s,
                result_ttl=60,
                retry=Retry(max=ATTEMPTS),  # one more: the last finds the attempts used up, and says so
            )
        except RedisError as error:
            raise Problem(
                "queue_unavailable", "the queue cannot be reached now; send the video again later"
            ) from error

    def progress(self, job_id: str) -> tuple[Stage | None, float]:
        """Stage and fraction 0..1 of a running job; nothing known is (None, 0)."""
        try:
            raw = self._connection.hgetall(_progress_key(job_id))
        except RedisError:
            return None, 0.0
        found = {_text(name): _text(value) for name, value in raw.items()}
        stage = found.get("stage")
        return (Stage(stage) if stage else None), float(found.get("fraction", 0))

    def check(self) -> dict[str, str]:
        """Readiness of Redis and of at least one worker. A dead worker's key expires; its name in rq's set stays."""
        try:
            names = self._connection.smembers(f"rq:workers:{QUEUE}")
            alive = any(self._connection.exists(name) for name in names)
        except RedisError:
            return {"redis": "cannot be reached", "workers": "not known"}
        return {"redis": "ok", "workers": "ok" if alive else "none is running"}


def put_progress(connection: Redis, job_id: str, stage: Stage, fraction: float) -> None:
    """Tell how far a running job is."""
    key = _progress_key(job_id)
    with connection.pipeline() as pipeline:
        pipeline.hset(key, mapping={"stage": stage.value, "fraction": f"{fraction:.4f}"})
        pipeline.expire(key, _PROGRESS_TTL_S)
        pipeline.execute()


def _progress_key(job_id: str) -> str:
    return f"mmad:progress:{job_id}"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
