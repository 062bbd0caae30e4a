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
from redis.exceptions import RedisError
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Problem
from service.jobs import ANONYMOUS_OWNER, Jobs
from service.keys import Key, KeyRing, KeysError, active_keys_file
from service.settings import Settings

log = structlog.get_logger()

_WINDOW_S = 60
# Pause after a failed Redis command, so that not every request waits for an unreachable Redis.
_REDIS_PAUSE_S = 5.0
# RFC 6750, section 3: a challenge has a parameter, and `error` only if a key was presented.
_CHALLENGE = 'Bearer realm="mmad"'
_HEADERS_KEY = "rate_limit_headers"

ALLOWED_METHODS = ["GET", "HEAD", "POST", "DELETE"]
ALLOWED_HEADERS = [
    "Authorization",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Type",
    "Idempotency-Key",
    "Prefer",
    "Last-Event-ID",
    "X-Request-ID",
]
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
    """The owner of a request: the id of a key, or ANONYMOUS_OWNER without limits if no keys are required."""

    owner: str
    limits: Limits | None


@dataclass(frozen=True)
class RateLimitStatus:
    """Request quota of a key after a request. `remaining` is None while Redis is unreachable."""

    allowed: bool
    limit: int
    remaining: int | None
    reset_s: int

    def headers(self) -> dict[str, str]:
        """Return the headers RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-11)."""
        headers = {"RateLimit-Policy": f'"requests";q={self.limit};w={_WINDOW_S}'}
        if self.remaining is not None:
            headers["RateLimit"] = f'"requests";r={self.remaining};t={self.reset_s}'
        return headers


class Auth:
    """Authenticates callers by their keys and enforces their limits; one instance per API process."""

    def __init__(self, settings: Settings, connection: Redis) -> None:
        """Keys are required if the settings name a key file or the address is not loopback.

        Args:
            settings: host, key file and limits.
            connection: Redis, which counts the requests of all API processes.

        Raises:
            KeysError: the key file cannot be read.
        """
        path = active_keys_file(settings)
        self._ring = KeyRing(path) if path else None
        self._settings = settings
        self._rate = RequestRate(connection)
        self._logged_error: str | None = None
        if self._ring and not self._ring.has_valid_key():
            log.warning("no_keys", file=str(path), remedy="mmad keys create NAME makes one, without a restart")

    def authenticate(self, presented: str | None) -> Caller:
        """Return the caller that a key belongs to.

        Raises:
            Problem: key_missing, key_unknown; internal_error if the keys cannot be read.
        """
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

    def count(self, caller: Caller) -> RateLimitStatus | None:
        """Count a request of a caller; return None if the caller has no limits."""
        return self._rate.count(caller.owner, caller.limits.requests_per_minute) if caller.limits else None

    def check_limits(self, caller: Caller, jobs: Jobs, upload_bytes: int, count: int) -> None:
        """Check that a caller may send `count` more videos; called before the body is read and again afterwards.

        Concurrent requests are not counted against each other: together they may exceed a limit.

        Args:
            caller: the sender.
            jobs: all jobs; those of the caller count.
            upload_bytes: total size of the videos; 0 if not known yet.
            count: number of videos.

        Raises:
            Problem: too_many_jobs, storage_full; too_many_files or upload_too_large if waiting would not help.
        """
        if caller.limits is None:
            return
        pending = jobs.get_pending_bytes(caller.owner)
        _check_jobs(len(pending), count, caller.limits.max_jobs)
        # Count a video once that is both pending and to be stored beyond the end of its job.
        stored = sum({**jobs.get_retained_bytes(caller.owner), **pending}.values())
        _check_bytes(stored, upload_bytes, caller.limits.max_stored_bytes)

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
            requests_per_minute=own.requests_per_minute or defaults.requests_per_minute,
            max_jobs=own.max_jobs or defaults.max_jobs_per_key,
            max_stored_bytes=own.max_stored_bytes or defaults.max_stored_bytes_per_key,
        )


class RequestRate:
    """Counts the requests of the last minute in Redis. While Redis is unreachable, every request is allowed."""

    def __init__(self, connection: Redis) -> None:
        # Use the connection's own pool, with its unix socket, timeouts and retries.
        storage = RedisStorage("redis://", connection.connection_pool, key_prefix="mmad:requests")
        # A moving window is exact; a fixed window would allow twice the limit around its boundary.
        self._window = MovingWindowRateLimiter(storage)
        self._retry_at: float | None = None

    def count(self, owner: str, limit: int) -> RateLimitStatus:
        """Count one request unless the limit is reached; `reset_s` is the time until the next is allowed."""
        if self._retry_at is not None and time.monotonic() < self._retry_at:
            return RateLimitStatus(True, limit, None, 0)
        rate = RateLimitItemPerMinute(limit)
        try:
            allowed = self._window.hit(rate, owner)
            reset_at, remaining = self._window.get_window_stats(rate, owner)
        except RedisError as error:
            if self._retry_at is None:
                log.warning("requests_not_limited", why=f"Redis cannot be reached: {type(error).__name__}")
            self._retry_at = time.monotonic() + _REDIS_PAUSE_S
            return RateLimitStatus(True, limit, None, 0)
        if self._retry_at is not None:
            log.info("requests_limited_again")
            self._retry_at = None
        return RateLimitStatus(allowed, limit, remaining, max(1, math.ceil(reset_at - time.time())))


_bearer = HTTPBearer(
    scheme_name="key",
    bearerFormat="mmad_<id>_<secret>",
    description="Where the service asks for keys; its operator makes them with mmad keys create.",
    auto_error=False,
)


def get_caller(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Caller:
    """FastAPI dependency of all routes that require a key: authenticate the caller and count the request.

    Raises:
        Problem: key_missing, key_unknown, rate_limited.
    """
    auth: Auth = request.app.state.app_state.auth
    caller = auth.authenticate(credentials.credentials if credentials else None)
    status = auth.count(caller)
    if status is not None:
        setattr(request.state, _HEADERS_KEY, status.headers())
        if not status.allowed:
            raise Problem(
                "rate_limited",
                f"the key has made {status.limit} requests in {_WINDOW_S} s, which is its limit "
                f"(MMAD_REQUESTS_PER_MINUTE, unless it has its own); come again in {status.reset_s} s",
                {"Retry-After": str(status.reset_s)},
            )
    return caller


class RateLimitHeaders:
    """Middleware that adds RateLimit and RateLimit-Policy to all responses to a key, problems included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(state.get(_HEADERS_KEY, {}))
            await send(message)

        await self._app(scope, receive, send_with_headers)


def add_cors(app: FastAPI, settings: Settings) -> None:
    """Add CORS for the origins in the settings, if there are any.

    Add it after all middleware that refuses requests: it answers preflights, which carry no key, and lets pages read
    every response.
    """
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=ALLOWED_METHODS,
            allow_headers=ALLOWED_HEADERS,
            expose_headers=EXPOSED_HEADERS,
        )


def _check_jobs(unfinished: int, new: int, limit: int) -> None:
    setting = "(MMAD_MAX_JOBS_PER_KEY, unless the key has its own)"
    if new > limit:
        raise Problem(
            "too_many_files",
            f"the request holds {new} videos, the key may have {limit} unfinished jobs {setting}: send fewer",
        )
    if unfinished + new > limit:
        raise Problem(
            "too_many_jobs",
            f"the key has {unfinished} unfinished jobs and sends {new} more, the limit is {limit} {setting}: "
            "wait until some have ended, or cancel some",
        )


def _check_bytes(stored: int, new: int, limit: int) -> None:
    setting = "(MMAD_MAX_STORED_BYTES_PER_KEY, unless the key has its own)"
    if new > limit:
        raise Problem(
            "upload_too_large",
            f"the request holds {new} bytes, the key may store {limit} {setting}: send a smaller video",
        )
    if stored + new > limit:
        raise Problem(
            "storage_full",
            f"the key's videos take {stored} bytes and {new} more come, the limit is {limit} {setting}: "
            "wait until jobs have ended, or delete jobs whose videos are kept",
        )
