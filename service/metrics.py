"""Counters and histograms in Redis: workers on any machine add to them, and every API process reads the same sums.

service.metrics_endpoint renders them. When Redis loses its data the sums start at 0 again, which Prometheus' rate() and
increase() handle.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

log = structlog.get_logger()

KEY = "mmad:metrics"

JOBS_ENDED = "mmad_jobs_ended"
STAGE_SECONDS = "mmad_stage_seconds"
DECODED_FRAMES = "mmad_decoded_frames"
VIDEO_SECONDS = "mmad_video_seconds"
RETRIES = "mmad_retries"
LEASES_LOST = "mmad_leases_lost"

# A worker or a request never waits longer than this for a count.
_PATIENCE_S = 1.0
# After Redis did not answer, nothing is counted for so long.
_AWAY_S = 2.0
_SUM = "sum"
_AMOUNT = "amount"
_BEYOND = "+Inf"


@dataclass(frozen=True)
class Family:
    """A metric: its help, its labels in their order, and if it is a histogram, its buckets' upper bounds in seconds."""

    text: str
    labels: tuple[str, ...] = ()
    buckets_s: tuple[float, ...] = ()


FAMILIES = {
    JOBS_ENDED: Family(
        "Jobs that ended, by final state, and by error code where they failed.", ("state", "code")
    ),
    STAGE_SECONDS: Family(
        "Seconds that attempts spent in a stage.",
        ("stage",),
        (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0),
    ),
    DECODED_FRAMES: Family("Frames decoded."),
    VIDEO_SECONDS: Family("Seconds of video analysed."),
    RETRIES: Family("Attempts that had to be made again, by the reason.", ("why",)),
    LEASES_LOST: Family("Attempts whose worker was not heard of any more."),
}


class Histogram(NamedTuple):
    """Observations by the upper bounds of their buckets, not summed up, and their sum in seconds."""

    counts: dict[str, float]
    sum_s: float


# By metric, then by the values of its labels.
Counts = dict[str, dict[tuple[str, ...], float]]
Histograms = dict[str, dict[tuple[str, ...], Histogram]]


class Meter:
    """Counts into Redis. While Redis is away counts are dropped: none is worth a wait, and none raises."""

    def __init__(self, connection: Redis) -> None:
        """Args:
        connection: where Redis is; its retries, which may be many, are not taken over.
        """
        pool = connection.connection_pool
        impatient = {"retry": Retry(NoBackoff(), 0), "socket_timeout": _PATIENCE_S}
        own = ConnectionPool(pool.connection_class, **{**pool.connection_kwargs, **impatient})
        self._redis = Redis(connection_pool=own)
        self._away_until = 0.0

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter.

        Args:
            name: one of FAMILIES that has no buckets.
            amount: what is added, 0 or more.
            labels: a value for each label of the metric; code is "" for jobs that did not fail.
        """
        self._add({_field(name, labels, _AMOUNT): amount})

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Note how long something took, in a metric of FAMILIES that has buckets."""
        bound = next((str(bound) for bound in FAMILIES[name].buckets_s if seconds <= bound), _BEYOND)
        self._add({_field(name, labels, bound): 1.0, _field(name, labels, _SUM): seconds})

    def read(self) -> tuple[Counts, Histograms] | None:
        """All sums since Redis began; None while it is away."""
        stored = self.ask(lambda redis: redis.hgetall(KEY))
        return None if stored is None else _sums(stored)

    def ask(self, question: Callable[["Redis"], Any]) -> Any:
        """An answer of Redis, within a second; None while it is away."""
        if time.monotonic() < self._away_until:
            return None
        try:
            return question(self._redis)
        except RedisError as error:
            self._away_until = time.monotonic() + _AWAY_S
            log.warning("not_counted", error=type(error).__name__)
            return None

    def close(self) -> None:
        """Let go of the connections."""
        self._redis.connection_pool.disconnect()

    def _add(self, amounts: Mapping[str, float]) -> None:
        def add(redis: Redis) -> None:
            with redis.pipeline() as pipeline:
                for field, amount in amounts.items():
                    pipeline.hincrbyfloat(KEY, field, amount)
                pipeline.execute()

        self.ask(add)


def bounds(name: str) -> list[str]:
    """The upper bounds of a histogram's buckets, as Prometheus writes them."""
    return [*(str(bound) for bound in FAMILIES[name].buckets_s), _BEYOND]


def _field(name: str, labels: Mapping[str, str], part: str) -> str:
    """A field of the hash; raises KeyError where a label is missing or unknown."""
    family = FAMILIES[name]
    if unknown := set(labels) - set(family.labels):
        raise KeyError(f"{name} has no label {sorted(unknown)}")
    return json.dumps([name, [str(labels[label]) for label in family.labels], part])


def _sums(stored: Mapping[bytes | str, bytes | str]) -> tuple[Counts, Histograms]:
    counts: Counts = {name: {} for name, family in FAMILIES.items() if not family.buckets_s}
    parts: dict[str, dict[tuple[str, ...], dict[str, float]]] = {
        name: {} for name, family in FAMILIES.items() if family.buckets_s
    }
    for field, value in stored.items():
        # What another version counts and this one does not know.
        with suppress(ValueError, TypeError, KeyError):
            name, labels, part = json.loads(field)
            if len(labels) != len(FAMILIES[name].labels):
                continue
            if name in counts:
                counts[name][tuple(labels)] = float(value)
            else:
                parts[name].setdefault(tuple(labels), {})[part] = float(value)
    histograms = {
        name: {
            labels: Histogram({bound: part.get(bound, 0.0) for bound in bounds(name)}, part.get(_SUM, 0.0))
            for labels, part in by_labels.items()
        }
        for name, by_labels in parts.items()
    }
    return counts, histograms
