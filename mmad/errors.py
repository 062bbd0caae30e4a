"""What can go wrong between a client and the service, and which of it passes if one tries again."""

import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from mmad.models import AnswerError, Job

# Too many requests, and what a proxy or a service that is starting says.
_PASSING = frozenset({429, 502, 503, 504})
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 20.0
# A service that wants a longer pause is told of instead of waited for.
_MOST_PATIENCE_S = 120.0


class ServiceError(Exception):
    """The service refused, a job did not succeed, or nobody answered.

    Attributes:
        code: the service's stable code, or `unreachable`, `not_mmad`.
        detail: a sentence for people.
        status: the HTTP status; None where none came.
        retry_after_s: how long the service asks to wait.
    """

    def __init__(
        self, code: str, detail: str, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(f"{detail} [{code}]")
        self.code = code
        self.detail = detail
        self.status = status
        self.retry_after_s = retry_after_s


class NotFound(ServiceError):  # noqa: N818 - named as HTTP does
    """There is no such job, or no longer (job_deleted, job_expired), or it has not what was asked for."""


class Unreachable(ServiceError):  # noqa: N818 - as above
    """Nobody answers there, or the connection broke off."""


class EventsUnavailable(ServiceError):  # noqa: N818 - as above
    """Something answers, but with no stream of events."""


class JobFailed(ServiceError):  # noqa: N818 - what became of the job
    """The job ended with an error, whose code and detail these are. `job` has the rest."""

    def __init__(self, job: Job) -> None:
        code, detail = (job.error.code, job.error.detail) if job.error else ("unknown", "no reason is given")
        super().__init__(code, detail)
        self.job = job


class JobCanceled(ServiceError):  # noqa: N818 - what became of the job
    """The job was canceled: there will be no result."""


class Tries:
    """Counts the tries of one request, and says when the next may be."""

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._made = 0

    def begin_anew(self) -> None:
        """The service answered as it should: what follows is another trouble."""
        self._made = 0

    def delay_s(self, error: ServiceError) -> float:
        """Seconds to wait before the next try; raises the error where there is to be none.

        Doubles with every try. A random part keeps callers that failed together from coming back together.
        """
        passing = isinstance(error, Unreachable) or error.status in _PASSING
        asked_s = error.retry_after_s or 0.0
        if not passing or self._made >= self._retries or asked_s > _MOST_PATIENCE_S:
            raise error
        own_s = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2**self._made)
        self._made += 1
        # At least as long as was asked for; of the own delay, at least half.
        return asked_s + random.uniform(0, own_s / 2) if asked_s else random.uniform(own_s / 2, own_s)


@contextmanager
def told_apart(url: httpx.URL) -> Iterator[None]:
    """What the transport raises, as ServiceError; without a password that the address may hold."""
    url = url.copy_with(userinfo=b"")
    try:
        yield
    except (httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
        raise ServiceError("unreachable", f"{url} cannot be asked: {error}") from error
    except httpx.RequestError as error:
        reason = str(error) or type(error).__name__
        raise Unreachable(
            "unreachable", f"no service answers at {url}: start one with mmad serve ({reason})"
        ) from error
    except (AnswerError, json.JSONDecodeError) as error:
        raise ServiceError("not_mmad", f"{url} answers otherwise than mmad: {error}") from error


def error_of(response: httpx.Response) -> ServiceError:
    """What a response that is no success says; its body has been read."""
    try:
        problem: Any = response.json()
    except ValueError:
        problem = None
    if isinstance(problem, dict) and "code" in problem:
        code, detail = str(problem["code"]), str(problem.get("detail") or problem.get("title") or "")
    else:
        code, detail = "not_mmad", f"{response.url} answers {response.status_code} without a problem document"
    kind = ServiceError
    if code == "job_canceled":
        kind = JobCanceled
    elif response.status_code in (404, 410):
        kind = NotFound
    return kind(code, detail, response.status_code, _retry_after_s(response.headers.get("Retry-After")))


def _retry_after_s(value: str | None) -> float | None:
    """RFC 9110 section 10.2.3: seconds, or a date."""
    if value is None:
        return None
    if value.isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when - datetime.now(UTC)).total_seconds()) if when.tzinfo else None


class Watch:
    """A job that is waited for: when to give up, and what its end means."""

    def __init__(self, job_id: str, timeout_s: float) -> None:
        self._job_id, self._timeout_s = job_id, timeout_s
        self.deadline = time.monotonic() + timeout_s
        self._delay_s = 0.1

    def succeeded(self, job: Job) -> bool:
        """Whether the result is there; raises JobFailed or JobCanceled where there will be none."""
        if job.state == "failed":
            raise JobFailed(job)
        if job.state == "canceled":
            raise JobCanceled("job_canceled", f"job {job.id} was canceled")
        return job.state == "succeeded"

    def delay_s(self, job: Job) -> float:
        """Seconds to the next look, more each time; raises TimeoutError when the time is over."""
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(
                f"job {self._job_id} is still {job.state} after {self._timeout_s:g} s; it goes on, ask again later"
            )
        self._delay_s = min(1.0, self._delay_s * 1.5)
        return min(self._delay_s, left_s)
