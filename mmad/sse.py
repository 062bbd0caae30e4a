"""A stream of server-sent events, from bytes to events, through as many connections as it takes.

After the section "Server-sent events" of the WHATWG HTML standard. httpx and other readers of lines also break them at
U+2028 and its like, which JSON may hold; here only CR, LF and CRLF end a line.
"""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from mmad.errors import EventsUnavailable, ServiceError, Tries
from mmad.models import Job

# The service says something every 15 s: after twice as long nobody is there.
SILENCE_S = 35.0
_DELAY_S = 1.0
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
    """A moment of a job: `state` where it came into another state, `progress` where it moved on in it."""

    type: str
    id: str
    job: Job


class Parser:
    """Takes a stream piece by piece and gives the events that are complete. One for each connection."""

    def __init__(self, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.retry_s: float | None = None
        self._held = b""
        self._begun = False
        self._type = ""
        self._data: list[str] = []
        self._id = last_event_id

    def feed(self, piece: bytes) -> Iterator[Message]:
        """The events that end in this piece."""
        self._held += piece
        if not self._begun:
            if len(self._held) < len(_BOM) and _BOM.startswith(self._held):
                return
            self._held, self._begun = self._held.removeprefix(_BOM), True
        while (end := _LINE.search(self._held)) and not self._may_go_on(end):
            line, self._held = self._held[: end.start()], self._held[end.end() :]
            if line:
                self._take(line.decode("utf-8", "replace"))
            elif message := self._dispatch():
                yield message

    def _may_go_on(self, end: re.Match[bytes]) -> bool:
        """A CR is the last byte that came: an LF that belongs to it may follow."""
        return end[0] == b"\r" and end.end() == len(self._held)

    def _take(self, line: str) -> None:
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


class Listener:
    """Follows one job through its event stream: what to ask with, what came, when to come back."""

    def __init__(self, retries: int) -> None:
        self._tries = Tries(retries)
        self._parser = Parser()
        self._delay_s = _DELAY_S
        self.done = False

    @property
    def headers(self) -> dict[str, str]:
        """Of the next connection."""
        # Compressed pieces would be held back by what decompresses them.
        asked = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Cache-Control": "no-store"}
        if last := self._parser.last_event_id:
            asked["Last-Event-ID"] = last
        return asked

    def opened(self, response: httpx.Response) -> None:
        """A connection is there; raises EventsUnavailable if it brings something else than events."""
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if response.status_code != 200 or kind != "text/event-stream":
            raise EventsUnavailable(
                "not_mmad",
                f"{response.url} answers {response.status_code} with {kind or 'nothing'}, no events",
            )
        self._parser = Parser(self._parser.last_event_id)
        self._tries.begin_anew()

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events in a piece; `done` is true after that of the final state."""
        for message in self._parser.feed(piece):
            if message.type not in ("state", "progress"):  # a newer service says more
                continue
            job = Job.from_json(json.loads(message.data))
            self.done = self.done or job.ended
            yield Event(message.type, message.id, job)

    def delay_s(self, error: ServiceError | None = None) -> float:
        """Seconds before the next connection; raises the error where it does not pass."""
        if self._parser.retry_s is not None:
            self._delay_s = self._parser.retry_s
        if error is None:
            return self._delay_s
        if error.status in (405, 406, 501) or (
            error.status == 404 and error.code in ("not_found", "not_mmad")
        ):
            raise EventsUnavailable(error.code, error.detail, error.status) from error
        return self._tries.delay_s(error)


def is_late(until: float) -> bool:
    """Whether a moment of the monotonic clock has passed."""
    return time.monotonic() >= until
