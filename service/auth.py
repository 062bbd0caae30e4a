"""Who calls, and how much they may: keys, requests a minute, jobs at a time, bytes stored."""

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
from service.jobs import NOBODY, Jobs
from service.keys import Key, KeyRing, KeysError, file_in_force
from service.settings import Settings

log = structlog.get_logger()

_WINDOW_S = 60
# Without this pause, every request would wait for a Redis that cannot be reached.
_REDIS_PAUSE_S = 5.0
# RFC 6750, section 3: a challenge has a parameter, and an error only where a key was presented.
_CHALLENGE = 'Bearer realm="mmad"'
_STATE = "rate_limit_headers"

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
    """What a key may: its own limits, those of the settings where it has none."""

    requests_per_minute: int
    max_jobs: int
    max_stored_bytes: int


@dataclass(frozen=True)
class Caller:
    """Whose a request is: the id of a key, or NOBODY, without limits, where the service is open."""

    owner: str
    limits: Limits | None


@dataclass(frozen=True)
class Allowance:
    """How a key stands with its requests after one more. `remaining` is None where Redis cannot tell."""

    allowed: bool
    limit: int
    remaining: int | None
    reset_s: int

    def headers(self) -> dict[str, str]:
        """RateLimit-Policy and RateLimit, as draft-ietf-httpapi-ratelimit-headers-11 has them."""
        headers = {"RateLimit-Policy": f'"requests";q={self.limit};w={_WINDOW_S}'}
        if self.remaining is not None:
            headers["RateLimit"] = f'"requests";r={self.remaining};t={self.reset_s}'
        return headers


class Auth:
    """Knows callers by their keys and holds them to their limits; one in each API process."""

    def __init__(self, settings: Settings, connection: Redis) -> None:
        """Keys are on where the settings name their file, or the address is not loopback.

        Args:
            settings: host, file of keys and limits.
            connection: Redis, where all API processes count together.

        Raises:
            KeysError: the file of keys cannot be read.
        """
        path = file_in_force(settings)
        self._ring = KeyRing(path) if path else None
        self._settings = settings
        self._rate = RequestRate(connection)
        self._told: str | None = None
        if self._ring and not self._ring.has_any():
            log.warning(
                "no_keys", file=str(path), remedy="mmad keys create NAME makes one, without a restart"
            )

    def identify(self, presented: str | None) -> Caller:
        """Whose key this is.

        Raises:
            Problem: key_missing, key_unknown; internal_error where the keys cannot be read.
        """
        if self._ring is None:
            return Caller(NOBODY, None)
        if presented is None:
            detail = "send the header Authorization: Bearer mmad_...; the service's operator gives out keys"
            raise Problem("key_missing", detail, {"WWW-Authenticate": _CHALLENGE})
        key = self._find(self._ring, presented)
        if key is None:
            raise Problem(
                "key_unknown",
                "the key is not one of this service's, or was revoked: ask its operator for another",
                {"WWW-Authenticate": f'{_CHALLENGE}, error="invalid_token"'},
            )
        return Caller(key.id, self._limits(key))

    def count(self, caller: Caller) -> Allowance | None:
        """Count a request of a caller; None where callers have no limits."""
        return self._rate.count(caller.owner, caller.limits.requests_per_minute) if caller.limits else None

    def admit(self, caller: Caller, jobs: Jobs, coming_bytes: int, count: int) -> None:
        """Whether a caller may send so many videos more; to be asked before the bytes come, and again after.

        Requests that come at the same moment do not see each other: together they may go over a limit.

        Args:
            caller: who sends them.
            jobs: all jobs; those of the caller count.
            coming_bytes: of all videos together; 0 where that is not known yet.
            count: how many.

        Raises:
            Problem: too_many_jobs, storage_full; too_many_files, upload_too_large where no waiting would help.
        """
        if caller.limits is None:
            return
        pending = jobs.pending(caller.owner)
        _check_jobs(len(pending), count, caller.limits.max_jobs)
        # The video of a job that has not ended is pending, and kept too where it shall outlive the job.
        stored = sum({**jobs.kept(caller.owner), **pending}.values())
        _check_bytes(stored, coming_bytes, caller.limits.max_stored_bytes)

    def _find(self, ring: KeyRing, presented: str) -> Key | None:
        try:
            key = ring.find(presented)
        except KeysError as error:
            if self._told != str(error):
                self._told = str(error)
                log.error("keys_unreadable", why=self._told)
            detail = "the service cannot read its keys now; its log says why"
            raise Problem("internal_error", detail) from error
        self._told = None
        return key

    def _limits(self, key: Key) -> Limits:
        own, general = key.limits, self._settings
        return Limits(
            requests_per_minute=own.requests_per_minute or general.requests_per_minute,
            max_jobs=own.max_jobs or general.max_jobs_per_key,
            max_stored_bytes=own.max_stored_bytes or general.max_stored_bytes_per_key,
        )


class RequestRate:
    """Counts requests of the last minute in Redis. While Redis is away, every request is let through."""

    def __init__(self, connection: Redis) -> None:
        # The connection's own pool: its unix socket, its timeouts, its retries.
        storage = RedisStorage("redis://", connection.connection_pool, key_prefix="mmad:requests")
        # Exact, where a window that starts anew each minute lets twice the limit pass at its edge.
        self._window = MovingWindowRateLimiter(storage)
        self._away_until: float | None = None

    def count(self, owner: str, limit: int) -> Allowance:
        """Count one request, unless the limit is reached; `reset_s` is when the next place is free."""
        if self._away_until is not None and time.monotonic() < self._away_until:
            return Allowance(True, limit, None, 0)
        rate = RateLimitItemPerMinute(limit)
        try:
            allowed = self._window.hit(rate, owner)
            reset_at, remaining = self._window.get_window_stats(rate, owner)
        except RedisError as error:
            if self._away_until is None:
                log.warning("requests_not_limited", why=f"Redis cannot be reached: {type(error).__name__}")
            self._away_until = time.monotonic() + _REDIS_PAUSE_S
            return Allowance(True, limit, None, 0)
        if self._away_until is not None:
            log.info("requests_limited_again")
            self._away_until = None
        return Allowance(allowed, limit, remaining, max(1, math.ceil(reset_at - time.time())))


_bearer = HTTPBearer(
    scheme_name="key",
    bearerFormat="mmad_<id>_<secret>",
    description="Where the service asks for keys; its operator makes them with mmad keys create.",
    auto_error=False,
)


def get_caller(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Caller:
    """The dependency of all routes that are not open: who calls. Counts the request.

    Raises:
        Problem: key_missing, key_unknown, rate_limited.
    """
    auth: Auth = request.app.state.app_state.auth
    caller = auth.identify(credentials.credentials if credentials else None)
    allowance = auth.count(caller)
    if allowance is not None:
        setattr(request.state, _STATE, allowance.headers())
        if not allowance.allowed:
            raise Problem(
                "rate_limited",
                f"the key has made {allowance.limit} requests in {_WINDOW_S} s, which is its limit "
                f"(MMAD_REQUESTS_PER_MINUTE, unless it has its own); come again in {allowance.reset_s} s",
                {"Retry-After": str(allowance.reset_s)},
            )
    return caller


class RateLimitHeaders:
    """Puts RateLimit and RateLimit-Policy on every answer to a key: results, files, streams and problems alike."""

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
                MutableHeaders(scope=message).update(state.get(_STATE, {}))
            await send(message)

        await self._app(scope, receive, send_with_headers)


def add_cors(app: FastAPI, settings: Settings) -> None:
    """Let pages of the origins of the settings call; none where there are none. To be added after all that
    refuses or fails: it answers a browser's question before it sends a key, and lets pages read every answer."""
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=ALLOWED_METHODS,
            allow_headers=ALLOWED_HEADERS,
            expose_headers=EXPOSED_HEADERS,
        )


def _check_jobs(unfinished: int, coming: int, limit: int) -> None:
    setting = "(MMAD_MAX_JOBS_PER_KEY, unless the key has its own)"
    if coming > limit:
        raise Problem(
            "too_many_files",
            f"the request holds {coming} videos, the key may have {limit} unfinished jobs {setting}: send fewer",
        )
    if unfinished + coming > limit:
        raise Problem(
            "too_many_jobs",
            f"the key has {unfinished} unfinished jobs and sends {coming} more, the limit is {limit} {setting}: "
            "wait until some have ended, or cancel some",
        )


def _check_bytes(stored: int, coming: int, limit: int) -> None:
    setting = "(MMAD_MAX_STORED_BYTES_PER_KEY, unless the key has its own)"
    if coming > limit:
        raise Problem(
            "upload_too_large",
            f"the request holds {coming} bytes, the key may store {limit} {setting}: send a smaller video",
        )
    if stored + coming > limit:
        raise Problem(
            "storage_full",
            f"the key's videos take {stored} bytes and {coming} more come, the limit is {limit} {setting}: "
            "wait until jobs have ended, or delete jobs whose videos are kept",
        )
