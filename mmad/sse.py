"""The event stream of a job (server-sent events) across reconnections."""

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from httpx_sse import EventSource, ServerSentEvent

from mmad.endpoints import Call, job_path
from mmad.errors import EventsUnavailable, RetryDelays, ServiceError
from mmad.models import Job, parse

# The service sends a keepalive every 15 s: two of them are missing.
READ_TIMEOUT_S = 35.0
_RECONNECT_DELAY_S = 1.0


@dataclass(frozen=True)
class Event:
    """A change of a job; `type` is "state" for a new state, "progress" for progress within a state."""

    type: str
    id: str
    job: Job


class EventStream:
    """The event stream of one job, resumed by later connections.

    `retries` is the maximum number of failed connections in a row; it stops at `until`, a time of the monotonic clock.
    """

    def __init__(self, job_id: str, retries: int, until: float) -> None:
        self._job_id, self._until = job_id, until
        self._delays = RetryDelays(retries)
        self._delay_s = _RECONNECT_DELAY_S
        self._last_id = ""
        self._has_ended = False

    @property
    def done(self) -> bool:
        """True after the event of a final state, and after the deadline."""
        return self._has_ended or time.monotonic() >= self._until

    @property
    def call(self) -> Call:
        """The request of the next connection."""
        # Decompression would buffer events.
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Cache-Control": "no-store"}
        if self._last_id:
            headers["Last-Event-ID"] = self._last_id
        return Call("GET", job_path(self._job_id, "events"), headers=headers, read_timeout_s=READ_TIMEOUT_S)

    def open(self, response: httpx.Response) -> EventSource:
        """Return the messages of a new connection; raises EventsUnavailable if it is not an event stream."""
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if response.status_code != 200 or kind != "text/event-stream":
            raise EventsUnavailable(
                "not_mmad", f"{response.url} answers {response.status_code} with {kind or 'nothing'}, no events"
            )
        self._delays.reset()
        response.stream = _EndingBody(response.stream, self)
        return EventSource(response)

    def parse(self, message: ServerSentEvent) -> Iterator[Event]:
        """Yield the event of a message, unless it is a keepalive or of a newer service."""
        self._last_id = message.id or self._last_id
        if message.retry is not None:
            self._delay_s = max(0, message.retry) / 1000
        if message.event in ("state", "progress"):
            job = parse(Job, message.data)
            self._has_ended = job.ended
            yield Event(message.event, self._last_id, job)

    def delay_s(self, error: ServiceError | None = None) -> float:
        """Return seconds before the next connection; raises errors that are not retried, and EventsUnavailable."""
        if error is None:
            return self._delay_s
        if error.status in (405, 406, 501) or (error.status == 404 and error.code in ("not_found", "not_mmad")):
            raise EventsUnavailable(error.code, error.detail, error.status) from error
        return self._delays.delay_s(error)


class _EndingBody(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A response body that ends when the stream is done, also between events: keepalives may go on for hours."""

    def __init__(self, body: Any, stream: EventStream) -> None:
        self._body, self._stream = body, stream

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._body:
            yield chunk
            if self._stream.done:
                return

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._body:
            yield chunk
            if self._stream.done:
                return

    def close(self) -> None:
        self._body.close()

    async def aclose(self) -> None:
        await self._body.aclose()
