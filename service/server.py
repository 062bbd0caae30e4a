"""uvicorn, made patient with callers and no more than that: bounds on time and number that it does not have itself.

uvicorn waits for ever for a header that does not end, for a body after its answer was given, and for a caller that does
not read; and any number of connections may do so (uvicorn 0.54, protocols/http/h11_impl.py).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
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
# Connections above the limit that are told so; those beyond are closed without a word.
_TOLD = 50


@dataclass(frozen=True)
class Limits:
    """What one connection may take, in seconds, and how many of them there may be."""

    header_s: float
    stall_s: float
    connections: int


def serve(app: ASGIApp, settings: Settings) -> None:
    """Answer at the settings' address until SIGINT or SIGTERM."""
    limits = Limits(settings.header_timeout_s, settings.upload_stall_s, settings.max_connections)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        http=type("LimitedProtocol", (PatientProtocol,), {"limits": limits}),
        ws="none",
        log_config=None,  # mmad.logs has said how
        log_level="warning",
        access_log=False,  # service.middleware writes it
        proxy_headers=False,  # service.prefix reads them
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_S,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
    )


class PatientProtocol(H11Protocol):
    """A connection with a deadline for whatever it is that its caller has to do next."""

    limits: Limits

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """asyncio's. From here on the caller has to send a header."""
        super().connection_made(transport)
        excess = len(self.connections) - self.limits.connections
        if excess > _TOLD:
            transport.abort()
            return
        if excess > 0:
            self.app_state = {**self.app_state, OVERLOADED: self.limits.connections}
        self._within(self.limits.header_s, self._give_up)

    def data_received(self, data: bytes) -> None:
        """asyncio's. The header is whole when a request is under way; its body is service.uploads' matter."""
        super().data_received(data)
        if self._is_busy and not self.flow.write_paused:
            self._no_deadline()

    def on_response_complete(self) -> None:
        """uvicorn's. The caller has to read the answer, and to send what is left of its body and the next header."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_reading()
        elif not self._is_busy:
            self._within(self.limits.header_s, self._give_up)

    def pause_writing(self) -> None:
        """asyncio's. The caller has to read."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """asyncio's. It has."""
        super().resume_writing()
        if self._is_busy:
            self._no_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's."""
        self._no_deadline()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's, for what is no HTTP; as a problem document."""
        self._answer("malformed_request", f"{msg.rstrip('.')}: see RFC 9112 for what one looks like")

    @property
    def _is_busy(self) -> bool:
        """Whether a request is under way."""
        return self.cycle is not None and not self.cycle.response_complete

    def _give_up(self) -> None:
        if self.conn.trailing_data[0] and self.conn.our_state is h11.IDLE:
            limit = f"{self.limits.header_s:g} s (MMAD_HEADER_TIMEOUT_S)"
            self._answer(
                "upload_too_slow", f"the request's header did not come within {limit}; send it at once"
            )
        else:
            self._close()

    def _answer(self, code: str, detail: str) -> None:
        """Tell of a problem where there is no application to do it, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            if self.cycle is not None:  # it must not answer too
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            body = problem_document(code, detail).model_dump_json(exclude_none=True).encode()
            headers = [
                ("content-type", MEDIA_TYPE),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            for event in (
                h11.Response(status_code=CATALOGUE[code].status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self._close()

    def _close(self) -> None:
        self.transport.close()
        self._expect_reading()

    def _expect_reading(self) -> None:
        """A caller that reads nothing for too long is cut off; one that reads slowly is not."""
        unread = self.transport.get_write_buffer_size()

        def look_again() -> None:
            if 0 < self.transport.get_write_buffer_size() < unread:
                self._expect_reading()
            else:
                self.transport.abort()

        self._within(self.limits.stall_s, look_again)

    def _within(self, seconds: float, otherwise: Callable[[], None]) -> None:
        """The one deadline: a new one takes the last one's place."""
        self._no_deadline()
        self._deadline = self.loop.call_later(seconds, otherwise)

    def _no_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
