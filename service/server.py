"""uvicorn with limits against slow clients: deadlines for every connection and a maximum number of connections.

uvicorn itself waits without limit for an incomplete header, for the rest of a body after the response, and for a client
that does not read, on any number of connections (uvicorn 0.54, protocols/http/h11_impl.py).
"""

import asyncio
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.errors import CATALOGUE
from service.middleware import OVERLOADED
from service.problems import MEDIA_TYPE, problem_document
from service.settings import Settings

_SHUTDOWN_S = 5
_MAX_HEADER_BYTES = 16 * 1024
# Connections above the limit that are answered with 503; those beyond are closed without a response.
_MAX_REFUSED = 50


def serve(app: ASGIApp, settings: Settings) -> None:
    """Serve the application at the settings' address until SIGINT or SIGTERM."""
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        http=type("LimitedProtocol", (_DeadlineProtocol,), {"settings": settings}),
        ws="none",
        log_config=None,  # configured in mmad.logs
        log_level="warning",
        access_log=False,  # written by service.middleware
        proxy_headers=False,  # handled by service.middleware
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_S,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
    )


class _DeadlineProtocol(H11Protocol):
    """HTTP/1.1 connection with a deadline for the client's next step: sending a header or reading a response."""

    settings: Settings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        excess = len(self.connections) - self.settings.max_connections
        if excess > _MAX_REFUSED:
            transport.abort()
            return
        if excess > 0:
            self.app_state = {**self.app_state, OVERLOADED: self.settings.max_connections}
        self._set_deadline(self.settings.header_timeout_s, self._on_header_timeout)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_busy and not self.flow.write_paused:  # the header is complete; service.uploads limits the body
            self._clear_deadline()

    def on_response_complete(self) -> None:
        # The client has to read the response, then send the rest of its body and the next header.
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_reading()
        elif not self._is_busy:
            self._set_deadline(self.settings.header_timeout_s, self._on_header_timeout)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._is_busy:
            self._clear_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._send_problem("malformed_request", f"{msg.rstrip('.')}: see RFC 9112 for what one looks like")

    @property
    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _on_header_timeout(self) -> None:
        if self.conn.trailing_data[0] and self.conn.our_state is h11.IDLE:
            limit = f"{self.settings.header_timeout_s:g} s (MMAD_HEADER_TIMEOUT_S)"
            self._send_problem("upload_too_slow", f"the request's header did not come within {limit}; send it at once")
        else:
            self._close()

    def _send_problem(self, code: str, detail: str) -> None:
        """Send a problem document without the application, and close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            if self.cycle is not None:  # the application must not respond too
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            body = problem_document(code, detail).model_dump_json(exclude_none=True).encode()
            headers = [("content-type", MEDIA_TYPE), ("content-length", str(len(body))), ("connection", "close")]
            response = h11.Response(status_code=CATALOGUE[code].status, headers=headers)
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self._close()

    def _close(self) -> None:
        self.transport.close()
        self._expect_reading()

    def _expect_reading(self) -> None:
        """Abort the connection if the client reads nothing for `stall_s`; slow reading is allowed."""
        unread = self.transport.get_write_buffer_size()

        def check_progress() -> None:
            if 0 < self.transport.get_write_buffer_size() < unread:
                self._expect_reading()
            else:
                self.transport.abort()

        self._set_deadline(self.settings.upload_stall_s, check_progress)

    def _set_deadline(self, seconds: float, on_timeout: Callable[[], None]) -> None:
        """Call `on_timeout` in `seconds`, in place of the previous deadline."""
        self._clear_deadline()
        self._deadline = self.loop.call_later(seconds, on_timeout)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
