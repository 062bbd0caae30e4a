"""An answer that is good for a while."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Lately(Generic[Answer]):
    """Keeps the answer to a question, so that many callers in many threads ask once."""

    def __init__(self, lasts_s: float, ask: Callable[[], Answer]) -> None:
        self._lasts_s, self._ask = lasts_s, ask
        self._lock = threading.Lock()
        self._kept: tuple[float, Answer] | None = None

    def get(self) -> Answer:
        """The answer, not older than `lasts_s`; raises what the question raises, and asks again next time."""
        with self._lock:
            if self._kept is None or time.monotonic() - self._kept[0] >= self._lasts_s:
                self._kept = (time.monotonic(), self._ask())
            return self._kept[1]
