"""The circuit breaker pauses calls to Redis after an error."""

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from service import circuit_breaker
from service.circuit_breaker import PAUSE_S, CircuitBreaker


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the clock; returns its time, which a test may change."""
    time_s = [0.0]
    monkeypatch.setattr(circuit_breaker.time, "monotonic", lambda: time_s[0])
    return time_s


def fail() -> int:
    raise RedisConnectionError("away")


def test_calls_pause_after_an_error_and_resume(now: list[float]) -> None:
    breaker = CircuitBreaker("failed", "recovered")
    with capture_logs() as logs:
        assert breaker.call(fail, 0) == 0
        assert breaker.call(lambda: 1, 0) == 0
        now[0] += PAUSE_S
        assert breaker.call(fail, 0) == 0
        now[0] += PAUSE_S
        assert [breaker.call(lambda: 1, 0) for _ in range(2)] == [1, 1]
    assert [entry["event"] for entry in logs] == ["failed", "recovered"]


def test_success_of_an_earlier_call_does_not_end_the_pause(now: list[float]) -> None:
    breaker = CircuitBreaker("failed", "recovered")

    def succeed_while_another_call_fails() -> int:
        breaker.call(fail, 0)
        return 1

    assert breaker.call(succeed_while_another_call_fails, 0) == 1
    assert breaker.call(lambda: 1, 0) == 0
