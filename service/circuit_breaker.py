"""Circuit breaker for Redis."""

import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from redis.exceptions import RedisError

log = structlog.get_logger()

T = TypeVar("T")

PAUSE_S = 2.0


class CircuitBreaker:
    """Calls functions that use Redis; after an error none is called for PAUSE_S, so that not every caller waits."""

    def __init__(self, failed_event: str, recovered_event: str) -> None:
        """The events are logged when Redis becomes unavailable and when it is available again."""
        self._failed_event, self._recovered_event = failed_event, recovered_event
        self._retry_at_s: float | None = None

    def call(self, function: Callable[[], T], default: T) -> T:
        """Call a function; return `default` if Redis is unavailable."""
        retry_at_s = self._retry_at_s  # other threads change it
        if retry_at_s is not None and time.monotonic() < retry_at_s:
            return default
        try:
            result = function()
        except RedisError as error:
            if retry_at_s is None:
                log.warning(self._failed_event, error=type(error).__name__)
            self._retry_at_s = time.monotonic() + PAUSE_S
            return default
        # A call that began before the latest failure does not end the pause.
        if retry_at_s is not None and retry_at_s == self._retry_at_s:
            self._retry_at_s = None
            log.info(self._recovered_event)
        return result
