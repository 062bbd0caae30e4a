"""Counters and histograms in Redis, incremented by workers on any machine and read by every API process.

service.metrics_endpoint renders them. When Redis loses its data the sums start at 0 again, which Prometheus' rate() and
increase() handle.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.circuit_breaker import CircuitBreaker

KEY = "mmad:metrics"

JOBS_ENDED = "mmad_jobs_ended"
STAGE_SECONDS = "mmad_stage_seconds"
DECODED_FRAMES = "mmad_decoded_frames"
VIDEO_SECONDS = "mmad_video_seconds"
RETRIES = "mmad_retries"
LEASES_LOST = "mmad_leases_lost"

# Metrics must never delay a worker or a request for longer.
_TIMEOUT_S = 1.0
SUM = "sum"
AMOUNT = "amount"


class Family(NamedTuple):
    """A metric: help text, ordered label names, and for a histogram the upper bounds of its buckets."""

    description: str
    labels: tuple[str, ...] = ()
    buckets: tuple[str, ...] = ()  # seconds, as Prometheus writes them


FAMILIES = {
    JOBS_ENDED: Family("Jobs that ended, by final state, and by error code where they failed.", ("state", "code")),
    DECODED_FRAMES: Family("Frames decoded."),
    VIDEO_SECONDS: Family("Seconds of video analysed."),
    RETRIES: Family("Attempts that had to be made again, by the reason.", ("why",)),
    LEASES_LOST: Family("Attempts whose worker was not heard of any more."),
    STAGE_SECONDS: Family(
        "Seconds that attempts spent in a stage.",
        ("stage",),
        ("0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "60.0", "300.0", "1800.0", "+Inf"),
    ),
}


# By metric name, label values and part: "amount" of a counter, "sum" and non-cumulative bucket bounds of a histogram.
Sums = dict[str, dict[tuple[str, ...], dict[str, float]]]


class Meter:
    """Adds to metrics in Redis. Best effort: while Redis is unreachable, counts are dropped and nothing raises."""

    def __init__(self, connection: Redis) -> None:
        """Connect with a separate pool that fails fast, to the address of `connection`."""
        pool = connection.connection_pool
        fail_fast = {"retry": Retry(NoBackoff(), 0), "socket_timeout": _TIMEOUT_S}
        own_pool = ConnectionPool(pool.connection_class, **{**pool.connection_kwargs, **fail_fast})
        self._redis = Redis(connection_pool=own_pool)
        self._breaker = CircuitBreaker("not_counted", "counted_again")

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter in FAMILIES, which determines the labels; `code` is "" for jobs that did not fail."""
        self._add(name, labels, {AMOUNT: amount})

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Add a duration to a histogram in FAMILIES."""
        bound = next(bound for bound in FAMILIES[name].buckets if seconds <= float(bound))
        self._add(name, labels, {bound: 1.0, SUM: seconds})

    def read(self) -> Sums | None:
        """Return all sums; None while Redis is unreachable."""
        fields = self.try_query(lambda redis: redis.hgetall(KEY))
        return None if fields is None else _parse_sums(fields)

    def try_query(self, query: Callable[[Redis], Any]) -> Any:
        """Run a Redis query; return None if Redis is unreachable or takes longer than a second."""
        return self._breaker.call(lambda: query(self._redis), None)

    def close(self) -> None:
        """Close the connections."""
        self._redis.connection_pool.disconnect()

    def _add(self, name: str, labels: Mapping[str, str], parts: Mapping[str, float]) -> None:
        """Add to the parts of a metric; raises KeyError for a missing or unknown label."""
        expected = FAMILIES[name].labels
        if unknown := set(labels) - set(expected):
            raise KeyError(f"{name} has no label {sorted(unknown)}")
        values = [str(labels[label]) for label in expected]
        pipeline = self._redis.pipeline()
        for part, amount in parts.items():
            pipeline.hincrbyfloat(KEY, json.dumps([name, values, part]), amount)
        self._breaker.call(pipeline.execute, [])


def _parse_sums(fields: Mapping[bytes | str, bytes | str]) -> Sums:
    sums: Sums = {name: {} for name in FAMILIES}
    for field, value in fields.items():
        # Skip metrics written by another version.
        with suppress(ValueError, TypeError, KeyError):
            name, labels, part = json.loads(field)
            if len(labels) == len(FAMILIES[name].labels):
                sums[name].setdefault(tuple(labels), {})[part] = float(value)
    return sums
