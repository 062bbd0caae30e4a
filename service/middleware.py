"""What is done with every request, whichever its route: a name, a line in the log, and an answer whatever happens."""

import re
import time
from typing import Protocol
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.origin_guard import HEALTH_PATHS
from service.prefix import path_below
from service.problems import CLOSE, name_request, no_room, problem_response

log = structlog.get_logger()

HEADER = "X-Request-ID"
# In a connection's state where there are more of them than the limit, which is its value; see service.server.
OVERLOADED = "overloaded"
# As nginx has it: the caller was gone before there was an answer.
GONE = 499
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER = "other"


class Note(Protocol):
    """Told of every request when it has been answered."""

    def __call__(self, route: str, method: str, status: int, seconds: float) -> None:
        """`route` is a template such as /jobs/{job_id}, or "other": there are few of them, whatever callers ask for."""


class Requests:
    """Names each request, binds its name to all that is logged meanwhile, and writes one line about it (none about
    /healthz and /readyz).

    The name is the caller's X-Request-ID if it is 1 to 64 of A-Z a-z 0-9 . _ - and otherwise a new one; the answer has
    it in X-Request-ID, problem documents in `request_id`. The line holds nothing that a caller chose but that name: no
    query, no file name, no key, no address. To be added before BehindProxy, which must be outermost.
    """

    def __init__(self, app: ASGIApp, note: Note) -> None:
        self._app, self._note = app, note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _given_id(scope) or uuid4().hex
        name_request(scope, request_id)
        began = time.monotonic()
        bytes_in, status = 0, GONE

        async def receive_counted() -> Message:
            nonlocal bytes_in
            message = await receive()
            bytes_in += len(message.get("body", b""))
            return message

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive_counted, send_named)
            finally:
                seconds = time.monotonic() - began
                route, method = _route(scope), _method(scope)
                self._note(route, method, status, seconds)
                # Supervisors ask for these every second or more often: metrics count them, the log leaves them out.
                if route not in HEALTH_PATHS:
                    log.info(
                        "request",
                        route=route,
                        method=method,
                        status=status,
                        seconds=round(seconds, 4),
                        bytes_in=bytes_in,
                    )


class Guard:
    """Refuses what no route shall see, and turns what no route caught into a problem document.

    It stands inside CORS, so that pages may read these answers too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        if refused := _overload(scope) or _two_lengths(scope):
            await problem_response(request, *refused, CLOSE)(scope, receive, send)
            return
        begun = False

        async def send_noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except Exception as error:
            answer = _fault(request, error)
            if (
                not begun
            ):  # otherwise the server closes the connection, and the caller sees that something is missing
                await answer(scope, receive, send)


def _fault(request: Request, error: Exception) -> ASGIApp:
    if problem := no_room(error):
        log.error("disk_full")
        return problem_response(request, problem.code, problem.detail)
    log.error("request_failed", exc_info=error)
    detail = "something went wrong here and was written to the log under this request_id; try again"
    return problem_response(request, "internal_error", detail)


def _overload(scope: Scope) -> tuple[str, str] | None:
    limit = scope.get("state", {}).get(OVERLOADED)
    if limit is None or path_below(scope) in HEALTH_PATHS:
        return None
    return (
        "overloaded",
        f"more than {limit} connections are open (MMAD_MAX_CONNECTIONS): close those that you do not need, "
        "and come again in a moment",
    )


def _two_lengths(scope: Scope) -> tuple[str, str] | None:
    """Whether two servers in a row may take this request for one and for two (RFC 9112, section 6.1)."""
    headers = Headers(scope=scope)
    if "transfer-encoding" not in headers:
        return None
    if "content-length" in headers:
        return "malformed_request", "the request has Content-Length and Transfer-Encoding: send one of them"
    if scope.get("http_version") == "1.0":
        return (
            "malformed_request",
            "HTTP/1.0 knows no Transfer-Encoding: send Content-Length, or use HTTP/1.1",
        )
    return None


def _given_id(scope: Scope) -> str | None:
    given = Headers(scope=scope).get(HEADER, "")
    return given if _ID.fullmatch(given) else None


def _route(scope: Scope) -> str:
    path: str = getattr(scope.get("route"), "path", _OTHER)
    return path


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in _METHODS else _OTHER
