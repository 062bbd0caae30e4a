"""A thread-safe cache of one computed value."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class TtlCache(Generic[Value]):
    """Caches the result of `compute` for `ttl_s` seconds; concurrent callers share one computation."""

    def __init__(self, ttl_s: float, compute: Callable[[], Value]) -> None:
        self._ttl_s, self._compute = ttl_s, compute
        self._lock = threading.Lock()
        self._cached: tuple[float, Value] | None = None

    def get(self) -> Value:
        """Return a value at most `ttl_s` seconds old. An error of `compute` is raised and not cached."""
        with self._lock:
            if self._cached is None or time.monotonic() - self._cached[0] >= self._ttl_s:
                self._cached = (time.monotonic(), self._compute())
            return self._cached[1]
