"""Parser of server-sent events, and the event stream of a job across reconnections.

Follows the section "Server-sent events" of the WHATWG HTML standard: only CR, LF and CRLF end a line. The line decoder
of httpx also splits at U+2028 and similar characters, which JSON strings may contain.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from mmad.errors import EventsUnavailable, RetryDelays, ServiceError
from mmad.models import Job, parse

# The service sends a keepalive every 15 s: two of them are missing.
READ_TIMEOUT_S = 35.0
_RECONNECT_DELAY_S = 1.0
_BOM = b"\xef\xbb\xbf"
_LINE = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class Message:
    """One server-sent event."""

    type: str
    data: str
    id: str


@dataclass(frozen=True)
class Event:
    """A change of a job; `type` is "state" for a new state, "progress" for progress within a state."""

    type: str
    id: str
    job: Job


class Parser:
    """Incremental parser of one connection's stream."""

    def __init__(self, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.retry_s: float | None = None
        self._buffer = b""
        self._started = False
        self._type = ""
        self._data: list[str] = []
        self._id = last_event_id

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Parse a chunk and yield the messages that it completes."""
        self._buffer += chunk
        if not self._started:
            if len(self._buffer) < len(_BOM) and _BOM.startswith(self._buffer):
                return
            self._buffer, self._started = self._buffer.removeprefix(_BOM), True
        while (end := _LINE.search(self._buffer)) and not self._may_be_crlf(end):
            line, self._buffer = self._buffer[: end.start()], self._buffer[end.end() :]
            if line:
                self._process_line(line.decode("utf-8", "replace"))
            elif message := self._dispatch():
                yield message

    def _may_be_crlf(self, end: re.Match[bytes]) -> bool:
        """Return whether a CR is the last byte received, so that the LF of a CRLF may follow."""
        return end[0] == b"\r" and end.end() == len(self._buffer)

    def _process_line(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            self.retry_s = int(value) / 1000

    def _dispatch(self) -> Message | None:
        kind, data, self._type, self._data = self._type, self._data, "", []
        self.last_event_id = self._id
        return Message(kind or "message", "\n".join(data), self._id) if data else None


class EventStream:
    """The event stream of one job, resumed by later connections: request headers, events and reconnection delays."""

    def __init__(self, retries: int) -> None:
        self._delays = RetryDelays(retries)
        self._parser = Parser()
        self._delay_s = _RECONNECT_DELAY_S
        self.done = False

    @property
    def headers(self) -> dict[str, str]:
        """Request headers of the next connection."""
        # Decompression would buffer events.
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Cache-Control": "no-store"}
        if last := self._parser.last_event_id:
            headers["Last-Event-ID"] = last
        return headers

    def check_response(self, response: httpx.Response) -> None:
        """Start parsing a new connection; raises EventsUnavailable if it is not an event stream."""
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if response.status_code != 200 or kind != "text/event-stream":
            raise EventsUnavailable(
                "not_mmad", f"{response.url} answers {response.status_code} with {kind or 'nothing'}, no events"
            )
        self._parser = Parser(self._parser.last_event_id)
        self._delays.reset()

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Parse a chunk and yield its events. `done` is true after the event of a final state."""
        for message in self._parser.feed(chunk):
            if message.type not in ("state", "progress"):  # of a newer service
                continue
            job = parse(Job, message.data)
            self.done = self.done or job.ended
            yield Event(message.type, message.id, job)

    def delay_s(self, error: ServiceError | None = None) -> float:
        """Return seconds before the next connection; raises errors that are not retried, and EventsUnavailable."""
        if self._parser.retry_s is not None:
            self._delay_s = self._parser.retry_s
        if error is None:
            return self._delay_s
        if error.status in (405, 406, 501) or (error.status == 404 and error.code in ("not_found", "not_mmad")):
            raise EventsUnavailable(error.code, error.detail, error.status) from error
        return self._delays.delay_s(error)


def has_passed(until: float) -> bool:
    """Return whether a time of the monotonic clock has passed."""
    return time.monotonic() >= until
