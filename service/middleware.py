"""Middleware for every request: a request id, a log line, problem documents for unhandled errors, HEAD, and proxies."""

import errno
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from uuid import uuid4

import structlog
from anyio import CancelScope
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.problems import CLOSE, problem_response
from service.settings import clean_prefix

log = structlog.get_logger()

# They reveal nothing about jobs, and health checks often cannot choose their Host header.
HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
HEADER = "X-Request-ID"
# Key in the ASGI state of connections above the limit; its value is the limit. Set by service.server.
OVERLOADED = "overloaded"
# nginx's status for a client that disconnected before the response.
CLIENT_CLOSED_REQUEST = 499
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER = "other"


# Called after each request with route, method, status and seconds. The route is a path template such as /jobs/{job_id},
# or "other": its number of values is bounded.
OnResponse = Callable[[str, str, int, float], None]


class HttpMiddleware(ABC):
    """Base of ASGI middleware; passes on what is not HTTP."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        app = self._handle if scope["type"] == "http" else self._app
        await app(scope, receive, send)

    @abstractmethod
    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an HTTP request."""


class RequestLog(HttpMiddleware):
    """Assigns an id to each request, logs one line about it (none for /healthz and /readyz), and sends common headers.

    The id is the caller's X-Request-ID if that is 1 to 64 characters of A-Z a-z 0-9 . _ - and otherwise a new one. It
    is in the logging context, in X-Request-ID of the response, and in `request_id` of problem documents. Apart from the
    id, the line contains nothing chosen by the caller: no query, file name, key or address. Inner applications may set
    `response_headers` in the request's state.
    """

    def __init__(self, app: ASGIApp, on_response: OnResponse) -> None:
        super().__init__(app)
        self._on_response = on_response

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller_id = Headers(scope=scope).get(HEADER, "")
        request_id = caller_id if _ID.fullmatch(caller_id) else uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        started_s = time.monotonic()
        bytes_in, status = 0, CLIENT_CLOSED_REQUEST

        async def receive_and_count() -> Message:
            nonlocal bytes_in
            message = await receive()
            bytes_in += len(message.get("body", b""))
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update({HEADER: request_id, **state.get("response_headers", {})})
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive_and_count, send_with_headers)
            finally:
                seconds = time.monotonic() - started_s
                route = getattr(scope.get("route"), "path", _OTHER)
                method = scope["method"] if scope["method"] in _METHODS else _OTHER
                self._on_response(route, method, status, seconds)
                # Health checks are frequent: count them in the metrics, but keep them out of the log.
                if route not in HEALTH_PATHS:
                    fields = {"route": route, "method": method, "status": status, "seconds": round(seconds, 4)}
                    log.info("request", **fields, bytes_in=bytes_in)


class ProblemMiddleware(HttpMiddleware):
    """Refuses overload and malformed requests, and turns unhandled exceptions into problem documents."""

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        if refusal := _find_refusal(scope):
            await problem_response(request, *refusal, CLOSE)(scope, receive, send)
            return
        response_started = False

        async def send_and_note(message: Message) -> None:
            nonlocal response_started
            response_started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            response = _make_error_response(request, error)
            # After its start a response cannot be replaced: the server closes the connection, so the caller notices.
            if not response_started:
                await response(scope, receive, send)


class HeadMiddleware(HttpMiddleware):
    """HEAD for every GET route (RFC 9110, 9.3.2): runs it as GET, sends status and headers, and cancels the rest."""

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        # Range is defined for GET only (RFC 9110, 14.2).
        headers = [pair for pair in scope["headers"] if pair[0] != b"range"]
        as_get = {**scope, "method": "GET", "headers": headers}
        with CancelScope() as handler_scope:

            async def send_headers(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await send(message)
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    handler_scope.cancel()

            try:
                await self._app(as_get, receive, send_headers)
            finally:
                scope["route"] = as_get.get("route")  # read by RequestLog


class ForwardedPrefix(HttpMiddleware):
    """Sets `root_path` of each request, and `scheme` and `client` from X-Forwarded-Proto and X-Forwarded-For.

    Headers are read from addresses and networks in `trusted` only (comma-separated, "*" for all); `root_path` is the
    prefix of other requests. Add this middleware last, so that it sees the peer's real address.
    """

    def __init__(self, app: ASGIApp, root_path: str, trusted: str) -> None:
        proxies = ProxyHeadersMiddleware(app, trusted)  # type: ignore[arg-type]
        super().__init__(proxies)  # type: ignore[arg-type]
        self._trusted, self._root_path = proxies.trusted_hosts, root_path

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        read = self._read_prefix(scope)
        prefix = self._root_path if read is None else read
        path = scope["path"] if scope["path"] != prefix else f"{prefix}/"
        # ASGI has the prefix in `root_path` and at the beginning of `path`.
        path = path if path.startswith(f"{prefix}/") else prefix + path
        await self._app({**scope, "path": path, "root_path": prefix}, receive, send)

    def _read_prefix(self, scope: Scope) -> str | None:
        """Return the prefix in the header; None without a usable one. Chained proxies append their parts in order."""
        client = scope.get("client")
        values = Headers(scope=scope).getlist("x-forwarded-prefix")
        if not values or not client or client[0] not in self._trusted:
            return None
        try:
            return clean_prefix("".join(clean_prefix(part) for value in values for part in value.split(",")))
        except ValueError:
            return None


def path_without_prefix(scope: Scope) -> str:
    """Return the request's path relative to its proxy's prefix, as routes define it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _make_error_response(request: Request, error: Exception) -> ASGIApp:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        log.error("disk_full")
        detail = "the service's disk is full; nothing of the request was kept: send it again later"
        return problem_response(request, "disk_full", detail)
    log.error("request_failed", exc_info=error)
    detail = "something went wrong here and was written to the log under this request_id; try again"
    return problem_response(request, "internal_error", detail)


def _find_refusal(scope: Scope) -> tuple[str, str] | None:
    """Return the problem of a connection above the limit, or of a request whose length is ambiguous.

    Such a request may smuggle another one past a proxy (RFC 9112, 6.1).
    """
    limit = scope.get("state", {}).get(OVERLOADED)
    if limit is not None and path_without_prefix(scope) not in HEALTH_PATHS:
        return (
            "overloaded",
            f"more than {limit} connections are open (MMAD_MAX_CONNECTIONS): close those that you do not need, "
            "and come again in a moment",
        )
    headers = Headers(scope=scope)
    if "transfer-encoding" in headers and "content-length" in headers:
        return "malformed_request", "the request has Content-Length and Transfer-Encoding: send one of them"
    if "transfer-encoding" in headers and scope.get("http_version") == "1.0":
        return "malformed_request", "HTTP/1.0 knows no Transfer-Encoding: send Content-Length, or use HTTP/1.1"
    return None
