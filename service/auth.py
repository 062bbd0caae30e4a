"""API key authentication and limits per key: requests per minute, unfinished jobs and stored bytes."""

import math
import time
from dataclasses import dataclass
from typing import Annotated

import structlog
from fastapi import FastAPI, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter
from redis import Redis
from starlette.middleware.cors import CORSMiddleware

from service.circuit_breaker import CircuitBreaker
from service.errors import Problem
from service.jobs import ANONYMOUS_OWNER, Jobs
from service.keys import Key, KeyRing, KeysError, active_keys_file
from service.settings import Settings

log = structlog.get_logger()

_WINDOW_S = 60
# RFC 6750, section 3: a challenge has a parameter, and `error` only if a key was presented.
_CHALLENGE = 'Bearer realm="mmad"'

ALLOWED_METHODS = ["GET", "HEAD", "POST", "DELETE"]
ALLOWED_HEADERS = [
    "Authorization", "Content-Disposition", "Content-Encoding", "Content-Type", "Idempotency-Key", "Prefer",
    "Last-Event-ID", "X-Request-ID",
]  # fmt: skip
EXPOSED_HEADERS = [
    "Location", "Retry-After", "RateLimit", "RateLimit-Policy", "Idempotency-Replayed",
    "Preference-Applied", "Content-Disposition", "X-Request-ID",
]  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """Effective limits of a key: its own, or those of the settings."""

    requests_per_minute: int
    max_jobs: int
    max_stored_bytes: int


@dataclass(frozen=True)
class Caller:
    """The sender of a request: the id of its key, or ANONYMOUS_OWNER, without limits, if no keys are required."""

    owner: str
    limits: Limits | None


class Auth:
    """Authenticates callers by their keys and enforces their limits; one instance per API process."""

    def __init__(self, settings: Settings, connection: Redis) -> None:
        """Load the key file; raises KeysError. Requests are counted in Redis, for all API processes together."""
        path = active_keys_file(settings)
        self._ring = KeyRing(path) if path else None
        self._settings = settings
        # Use the connection's own pool, with its unix socket, timeouts and retries.
        storage = RedisStorage("redis://", connection.connection_pool, key_prefix="mmad:requests")
        # A moving window is exact; a fixed window would allow twice the limit around its boundary.
        self._window = MovingWindowRateLimiter(storage)
        self._breaker = CircuitBreaker("requests_not_limited", "requests_limited_again")
        self._logged_error: str | None = None
        if self._ring and not self._ring.has_valid_key():
            log.warning("no_keys", file=str(path), remedy="mmad keys create NAME makes one, without a restart")

    def authenticate(self, presented: str | None) -> Caller:
        """Return a key's owner. Raises Problem key_missing, key_unknown, or internal_error if no keys can be read."""
        if self._ring is None:
            return Caller(ANONYMOUS_OWNER, None)
        if presented is None:
            detail = "send the header Authorization: Bearer mmad_...; the service's operator gives out keys"
            raise Problem("key_missing", detail, {"WWW-Authenticate": _CHALLENGE})
        key = self._find_key(self._ring, presented)
        if key is None:
            raise Problem(
                "key_unknown",
                "the key is not one of this service's, or was revoked: ask its operator for another",
                {"WWW-Authenticate": f'{_CHALLENGE}, error="invalid_token"'},
            )
        return Caller(key.id, self._get_limits(key))

    def count(self, caller: Caller) -> dict[str, str]:
        """Count a request and return the headers RateLimit and RateLimit-Policy; raises Problem rate_limited.

        Headers as in draft-ietf-httpapi-ratelimit-headers-11. While Redis is unreachable, every request is allowed.
        """
        if caller.limits is None:
            return {}
        limit = caller.limits.requests_per_minute
        rate = RateLimitItemPerMinute(limit)
        headers = {"RateLimit-Policy": f'"requests";q={limit};w={_WINDOW_S}'}

        def hit() -> tuple[bool, float, int]:
            allowed = self._window.hit(rate, caller.owner)
            reset_at, remaining = self._window.get_window_stats(rate, caller.owner)
            return allowed, reset_at, remaining

        counted: tuple[bool, float, int] | None = self._breaker.call(hit, None)
        if counted is None:
            return headers
        allowed, reset_at, remaining = counted
        reset_s = max(1, math.ceil(reset_at - time.time()))
        headers["RateLimit"] = f'"requests";r={remaining};t={reset_s}'
        if not allowed:
            raise Problem(
                "rate_limited",
                f"the key has made {limit} requests in {_WINDOW_S} s, which is its limit "
                f"(MMAD_REQUESTS_PER_MINUTE, unless it has its own); come again in {reset_s} s",
                {"Retry-After": str(reset_s), **headers},
            )
        return headers

    def check_limits(self, caller: Caller, jobs: Jobs, upload_bytes: int, count: int) -> None:
        """Check that a caller may send `count` more videos of `upload_bytes` in total (0 if not known yet).

        Concurrent requests are not counted against each other: together they may exceed a limit. Raises Problem
        too_many_jobs or storage_full, or too_many_files or upload_too_large if waiting would not help.
        """
        if caller.limits is None:
            return
        pending = jobs.get_pending_bytes(caller.owner)
        limit, setting = caller.limits.max_jobs, "(MMAD_MAX_JOBS_PER_KEY, unless the key has its own)"
        if count > limit:
            raise Problem(
                "too_many_files",
                f"the request holds {count} videos, the key may have {limit} unfinished jobs {setting}: send fewer",
            )
        if len(pending) + count > limit:
            raise Problem(
                "too_many_jobs",
                f"the key has {len(pending)} unfinished jobs and sends {count} more, the limit is {limit} {setting}: "
                "wait until some have ended, or cancel some",
            )
        # Count a video once that is both pending and to be stored beyond the end of its job.
        stored = sum({**jobs.get_retained_bytes(caller.owner), **pending}.values())
        limit, setting = caller.limits.max_stored_bytes, "(MMAD_MAX_STORED_BYTES_PER_KEY, unless the key has its own)"
        if upload_bytes > limit:
            raise Problem(
                "upload_too_large",
                f"the request holds {upload_bytes} bytes, the key may store {limit} {setting}: send a smaller video",
            )
        if stored + upload_bytes > limit:
            raise Problem(
                "storage_full",
                f"the key's videos take {stored} bytes and {upload_bytes} more come, the limit is {limit} {setting}: "
                "wait until jobs have ended, or delete jobs whose videos are kept",
            )

    def _find_key(self, ring: KeyRing, presented: str) -> Key | None:
        try:
            key = ring.find(presented)
        except KeysError as error:
            if self._logged_error != str(error):  # log each error once
                self._logged_error = str(error)
                log.error("keys_unreadable", why=self._logged_error)
            detail = "the service cannot read its keys now; its log says why"
            raise Problem("internal_error", detail) from error
        self._logged_error = None
        return key

    def _get_limits(self, key: Key) -> Limits:
        own, defaults = key.limits, self._settings
        return Limits(
            own.requests_per_minute or defaults.requests_per_minute,
            own.max_jobs or defaults.max_jobs_per_key,
            own.max_stored_bytes or defaults.max_stored_bytes_per_key,
        )


_bearer = HTTPBearer(
    scheme_name="key",
    bearerFormat="mmad_<id>_<secret>",
    description="Where the service asks for keys; its operator makes them with mmad keys create.",
    auto_error=False,
)


def get_caller(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Caller:
    """Authenticate a caller and count the request; raises Problem key_missing, key_unknown or rate_limited."""
    auth: Auth = request.app.state.app_state.auth
    caller = auth.authenticate(credentials.credentials if credentials else None)
    request.state.response_headers = auth.count(caller)  # sent by RequestLog
    return caller


def add_cors(app: FastAPI, settings: Settings) -> None:
    """Add CORS outside of all that refuses requests: it answers preflights, and lets pages read every response."""
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=ALLOWED_METHODS,
            allow_headers=ALLOWED_HEADERS,
            expose_headers=EXPOSED_HEADERS,
        )
