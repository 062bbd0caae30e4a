"""Messages between the worker, the fork server and decode processes: one bounded JSON object per packet.

A malicious video may have taken over a decode process, so every value that it sends is checked.
"""

import json
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from model.arrays import Frame
from model.transforms import Region
from model.video import Media, Video

MAX_DETAIL_LENGTH, MAX_TRACEBACK_LENGTH = 500, 4000  # of reported errors, in characters

# One packet; fits into the kernel's default socket buffer of 208 KiB.
MESSAGE_BYTES = 128 * 1024

# How many frames are decoded ahead of the worker.
_MAX_SLOTS = 32
_MAX_SHARED_BYTES = 16 * 1024**2

Message = dict[str, Any]


class IpcError(Exception):
    """A message is malformed, too long, or has invalid values."""


@dataclass(frozen=True)
class FrameRequest:
    """The arguments of Video.frames, and the layout of the shared frame buffer: `slots` times `slot_bytes`."""

    fps: float
    width: int
    height: int
    region: Sequence[float] | None

    @property
    def slot_bytes(self) -> int:
        """Size of the largest possible frame."""
        return self.width * self.height * 3

    @property
    def slots(self) -> int:
        """Number of slots, at least two: one is written while another is read."""
        return max(2, min(_MAX_SLOTS, _MAX_SHARED_BYTES // self.slot_bytes))

    def take(self, video: Video) -> Iterator[Frame]:
        """Yield the requested frames of a video."""
        return video.frames(self.fps, self.width, self.height, Region(*self.region) if self.region else None)


def make_socket_pair() -> tuple[socket.socket, socket.socket]:
    """Make two connected sockets that preserve message boundaries."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(connection: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one message, with file descriptors that are duplicated into the receiver; OSError if it has closed."""
    content = json.dumps(message, allow_nan=False).encode()
    if len(content) > MESSAGE_BYTES:
        raise IpcError(f"a message of {len(content)} bytes, the limit is {MESSAGE_BYTES}")
    if fds:
        socket.send_fds(connection, [content], fds)
    else:
        connection.send(content)


def receive(connection: socket.socket) -> Message | None:
    """Receive one message; None if the connection is closed. Raises IpcError, or TimeoutError of the socket."""
    try:
        content = connection.recv(MESSAGE_BYTES + 1)
    except ConnectionResetError:
        return None
    return _parse(content) if content else None


def receive_with_fds(connection: socket.socket, count: int) -> tuple[Message, list[int]] | None:
    """Receive one message that carries exactly `count` file descriptors; see receive."""
    content, fds, _, _ = socket.recv_fds(connection, MESSAGE_BYTES + 1, count)
    if not content:
        return None
    if len(fds) != count:
        raise IpcError(f"{len(fds)} file descriptors instead of {count}")
    return _parse(content), fds


def check_integer(value: object, minimum: int, maximum: int = 2**53) -> int:
    """Return `value` if it is an integer within these bounds (inclusive); raises IpcError."""
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise IpcError(f"no whole number from {minimum} to {maximum}")
    return value


def check_number(value: object) -> float:
    """Return `value` as a float if it is a number from 0 to 1e12, above every valid time and rate; raises IpcError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise IpcError("no number from zero on")
    return float(value)


def clean_text(value: object, max_length: int) -> str:
    """Truncate a string and replace its unprintable characters, which may break terminals and JSON documents."""
    if not isinstance(value, str):
        raise IpcError("no text")
    return "".join(character if character.isprintable() else "?" for character in value[:max_length])


def parse_media(values: object) -> Media:
    """Restore a Media from dataclasses.asdict; raises IpcError if a field is missing, unknown or of another type."""
    if not isinstance(values, dict) or set(values) != {field.name for field in fields(Media)}:
        raise IpcError("not the fields of Media")
    return Media(**{field.name: _parse_field(values[field.name], field.type) for field in fields(Media)})


def _parse_field(value: object, kind: object) -> Any:
    if kind is float:
        return check_number(value)
    if kind is int:
        return check_integer(value, 0)
    if kind is bool:
        if not isinstance(value, bool):
            raise IpcError("neither true nor false")
        return value
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise IpcError("no list of pairs")
    return tuple((check_number(start), check_number(end)) for start, end in value)


def _parse(content: bytes) -> Message:
    if len(content) > MESSAGE_BYTES:
        raise IpcError(f"a message of more than {MESSAGE_BYTES} bytes")
    try:
        message = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise IpcError("a packet that is no JSON") from error
    if not isinstance(message, dict):
        raise IpcError("a message that is no object")
    return message
