"""Errors of the clients, retry delays and the waiting for a job."""

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

# Too many requests, and the statuses of proxies and of a service that is starting.
_RETRIED_STATUSES = frozenset({429, 502, 503, 504})
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 20.0
# A Retry-After above this raises the error instead.
_LONGEST_RETRY_AFTER_S = 120.0


class ServiceError(Exception):
    """The service refused a request or could not be reached, or a job did not succeed.

    `code` is the service's stable code, or `unreachable`, `not_mmad`; `detail` is a sentence for people; `status` is
    the HTTP status, None without a response; `retry_after_s` is the value of Retry-After in seconds.
    """

    def __init__(self, code: str, detail: str, status: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(f"{detail} [{code}]")
        self.code = code
        self.detail = detail
        self.status = status
        self.retry_after_s = retry_after_s


class NotFound(ServiceError):  # noqa: N818 - named as HTTP does
    """The job does not exist, no longer exists (job_deleted, job_expired), or lacks the requested resource."""


class Unreachable(ServiceError):  # noqa: N818 - as above
    """The service cannot be reached, or the connection failed."""


class EventsUnavailable(ServiceError):  # noqa: N818 - as above
    """The server responds, but has no event stream."""


class JobFailed(ServiceError):  # noqa: N818 - as above
    """The job failed, with its error's code and detail. `job` is the whole job."""

    def __init__(self, job: Job) -> None:
        code, detail = (job.error.code, job.error.detail) if job.error else ("unknown", "no reason is given")
        super().__init__(code, detail)
        self.job = job


class JobCanceled(ServiceError):  # noqa: N818 - as above
    """The job was canceled and has no result."""


class RetryDelays:
    """Computes the delays between the attempts of one request."""

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._attempts = 0

    def reset(self) -> None:
        """Start counting anew, after a success."""
        self._attempts = 0

    def delay_s(self, error: ServiceError) -> float:
        """Return seconds to wait before the next attempt; raises `error` if there is no further attempt.

        Exponential backoff with jitter, so that clients that failed together do not retry together.
        """
        retryable = isinstance(error, Unreachable) or error.status in _RETRIED_STATUSES
        retry_after_s = error.retry_after_s or 0.0
        if not retryable or self._attempts >= self._retries or retry_after_s > _LONGEST_RETRY_AFTER_S:
            raise error
        backoff_s = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2**self._attempts)
        self._attempts += 1
        # Never shorter than Retry-After, or half the backoff.
        if retry_after_s:
            return retry_after_s + random.uniform(0, backoff_s / 2)
        return random.uniform(backoff_s / 2, backoff_s)


@contextmanager
def translate_errors(url: httpx.URL) -> Iterator[None]:
    """Translate errors of httpx and of parsing into ServiceError, without the password of the URL."""
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


def parse_error(response: httpx.Response) -> ServiceError:
    """Make a ServiceError from an unsuccessful response whose body has been read."""
    try:
        problem: Any = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "code" not in problem:
        detail = f"{response.url} answers {response.status_code} without a problem document"
        problem = {"code": "not_mmad", "detail": detail}
    code, detail = str(problem["code"]), str(problem.get("detail") or problem.get("title") or "")
    kind = NotFound if response.status_code in (404, 410) else ServiceError
    if code == "job_canceled":
        kind = JobCanceled
    return kind(code, detail, response.status_code, _parse_retry_after(response.headers.get("Retry-After")))


def _parse_retry_after(value: str | None) -> float | None:
    """Parse Retry-After (RFC 9110 section 10.2.3): seconds or a date."""
    if value is None:
        return None
    if value.isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when - datetime.now(UTC)).total_seconds()) if when.tzinfo else None


class PollSchedule:
    """Decides when to poll a job again and when to stop waiting."""

    def __init__(self, job_id: str, timeout_s: float) -> None:
        self._job_id, self._timeout_s = job_id, timeout_s
        self.deadline = time.monotonic() + timeout_s
        self._delay_s = 0.1

    def succeeded(self, job: Job) -> bool:
        """Return whether the job has succeeded; raises JobFailed or JobCanceled."""
        if job.state == "failed":
            raise JobFailed(job)
        if job.state == "canceled":
            raise JobCanceled("job_canceled", f"job {job.id} was canceled")
        return job.state == "succeeded"

    def delay_s(self, job: Job) -> float:
        """Return seconds until the next poll, increasing each time; raises TimeoutError after the deadline."""
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(
                f"job {self._job_id} is still {job.state} after {self._timeout_s:g} s; it goes on, ask again later"
            )
        self._delay_s = min(1.0, self._delay_s * 1.5)
        return min(self._delay_s, left_s)
