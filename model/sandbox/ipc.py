"""Messages between a worker and the processes that decode for it: JSON objects of bounded length, one a packet.

Nothing is unpickled, and no value is taken on trust: the other side may have been taken over by a video.
"""

import json
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

from model.decoder import Pictures
from model.transforms import Region
from model.video import Media
from model.windows import Frame

# One packet. The kernel's smallest usual buffer of a socket (208 KiB) holds it.
MESSAGE_BYTES = 128 * 1024

# How many frames may lie ready while the worker is busy with others.
_MOST_SLOTS = 32
_SHARED_BYTES = 16 * 1024**2

Message = dict[str, Any]


class IpcError(Exception):
    """What came is no message of ours."""


@dataclass(frozen=True)
class Order:
    """Which frames a worker wants, and the room that it shares for them: `slots` of `slot_bytes` each.

    Without a region it is the whole picture, `width` (the same as `height`) pixels on its longer side at most.
    """

    fps: float
    width: int
    height: int
    region: Sequence[float] | None

    @property
    def slot_bytes(self) -> int:
        """Of the largest frame there can be."""
        return self.width * self.height * 3

    @property
    def slots(self) -> int:
        """Two at least: one is filled while another is copied."""
        return max(2, min(_MOST_SLOTS, _SHARED_BYTES // self.slot_bytes))

    def take(self, video: Pictures) -> Iterator[Frame]:
        """The frames ordered."""
        if self.region is None:
            return video.whole_frames(self.fps, self.width)
        return video.frames(self.fps, self.width, self.height, Region(*self.region))


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a line that keeps packets apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(line: socket.socket, message: Message, files: Sequence[int] = ()) -> None:
    """One message, with open files that the other side gets copies of.

    Raises:
        IpcError: the message is too long.
        OSError: the other side has gone.
    """
    content = json.dumps(message, allow_nan=False).encode()
    if len(content) > MESSAGE_BYTES:
        raise IpcError(f"a message of {len(content)} bytes, the limit is {MESSAGE_BYTES}")
    if files:
        socket.send_fds(line, [content], files)
    else:
        line.send(content)


def receive(line: socket.socket) -> Message | None:
    """The next message; None where the other side has gone.

    Raises:
        IpcError: it is none, or too long.
        TimeoutError: after the line's own timeout.
    """
    try:
        content = line.recv(MESSAGE_BYTES + 1)
    except ConnectionResetError:
        return None
    return _parse(content) if content else None


def receive_with_files(line: socket.socket, count: int) -> tuple[Message, list[int]] | None:
    """As receive, for messages that bring exactly `count` open files."""
    content, files, _, _ = socket.recv_fds(line, MESSAGE_BYTES + 1, count)
    if not content:
        return None
    if len(files) != count:
        for number in files:
            os.close(number)
        raise IpcError(f"{len(files)} files came, {count} were to")
    return _parse(content), files


def whole(value: object, least: int, most: int = 2**53) -> int:
    """A whole number within bounds (inclusive).

    Raises:
        IpcError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise IpcError(f"no whole number from {least} to {most}")
    return value


def finite(value: object) -> float:
    """A number from zero on; larger than any time or rate there can be is none.

    Raises:
        IpcError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise IpcError("no number from zero on")
    return float(value)


def text(value: object, letters: int) -> str:
    """At most so many letters, and none that a terminal or a JSON document would stumble over."""
    if not isinstance(value, str):
        raise IpcError("no text")
    return "".join(letter if letter.isprintable() else "?" for letter in value[:letters])


def media_of(values: object) -> Media:
    """What dataclasses.asdict made of a Media, and JSON of that.

    Raises:
        IpcError: a field is missing, unknown or of another type.
    """
    if not isinstance(values, dict) or set(values) != {field.name for field in fields(Media)}:
        raise IpcError("not the fields of Media")
    return Media(**{field.name: _typed(values[field.name], field.type) for field in fields(Media)})


def _typed(value: object, kind: object) -> Any:
    if kind is float:
        return finite(value)
    if kind is int:
        return whole(value, 0)
    if kind is bool:
        if not isinstance(value, bool):
            raise IpcError("neither true nor false")
        return value
    if not isinstance(value, list) or not all(isinstance(one, list) and len(one) == 2 for one in value):
        raise IpcError("no list of pairs")
    return tuple((finite(start), finite(end)) for start, end in value)


def _parse(content: bytes) -> Message:
    if len(content) > MESSAGE_BYTES:
        raise IpcError(f"a message of more than {MESSAGE_BYTES} bytes")
    try:
        message = json.loads(content.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise IpcError("a packet that is no JSON") from error
    if not isinstance(message, dict):
        raise IpcError("a message that is no object")
    return message


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
