"""Reads the duration that a video's container declares in its headers, without decoding.

Ambiguous headers are ignored, so that no video is rejected that the decoder would accept.
Sources: ISO/IEC 14496-12 (8.2.2 mvhd, 8.8.2 mehd), RFC 9559 (Matroska), Microsoft's AVI RIFF file reference.
"""

import math
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

# Bounds the work on malicious files; real ones declare their duration early.
_MAX_READS = 10_000
_MAX_INFO_BYTES = 64 * 1024

_EBML, _SEGMENT, _INFO, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1549A966, 0x1F43B675
_TIMESTAMP_SCALE, _DURATION = 0x2AD7B1, 0x4489
_DEFAULT_TIMESTAMP_SCALE_NS = 1_000_000


class _Part(NamedTuple):
    """A box, element or chunk: its type, and the start and end of its content in the file."""

    kind: bytes | int
    start: int
    end: int


class _Reader:
    """Reads from a file, a limited number of times; beyond the limit or outside of the file, reads return b""."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self._left = _MAX_READS

    def read(self, start: int, count: int) -> bytes:
        """Read at most `count` bytes from offset `start`."""
        self._left -= 1
        if self._left < 0 or not 0 <= start < self.size:
            return b""
        self._file.seek(start)
        return self._file.read(count)


def read_declared_duration_s(file: BinaryIO) -> float | None:
    """Return the duration in seconds that an MP4, MOV, Matroska, WebM or AVI file declares.

    None if it declares none (as MPEG-TS) or cannot be parsed; the file may be malformed.
    """
    reader = _Reader(file)
    head = reader.read(0, 12)
    if head[:4] == b"\x1aE\xdf\xa3":
        duration_s = _read_matroska(reader)
    elif head[:4] == b"RIFF" and head[8:] == b"AVI ":
        duration_s = _read_avi(reader)
    else:
        duration_s = _read_mp4(reader)
    return duration_s if duration_s is not None and 0 < duration_s < math.inf else None


def _read_mp4(reader: _Reader) -> float | None:
    """Read the duration from mvhd, or from mehd if that is 0, as in fragmented files."""
    movie = next((box for box in _iter_boxes(reader, 0, reader.size) if box.kind == b"moov"), None)
    timescale, duration = 0, None  # ticks per second, ticks
    for box in _iter_boxes(reader, movie.start, movie.end) if movie else ():
        if box.kind == b"mvhd":
            header = reader.read(box.start, 32)
            at = 20 if header[:1] == b"\1" else 12
            timescale, duration = int.from_bytes(header[at : at + 4]), _parse_versioned(header, at + 4)
        elif box.kind == b"mvex" and not duration:
            for inner in _iter_boxes(reader, box.start, box.end):
                if inner.kind == b"mehd":
                    duration = _parse_versioned(reader.read(inner.start, 12), 4)
    return duration / timescale if duration and timescale else None


def _parse_versioned(content: bytes, at: int) -> int | None:
    """Parse an integer of 8 bytes in version 1 of a box, or 4 in version 0; None if truncated or all ones (unknown)."""
    width = 8 if content[:1] == b"\1" else 4
    number = content[at : at + width]
    return None if len(number) < width or number == b"\xff" * width else int.from_bytes(number)


def _iter_boxes(reader: _Reader, start: int, end: int) -> Iterator[_Part]:
    while True:
        head = reader.read(start, 16)
        if start + 8 > end or len(head) < 8:
            return
        length, header = int.from_bytes(head[:4]), 8
        if length == 1:  # a 64-bit length follows
            length, header = int.from_bytes(head[8:16]), 16
        elif length == 0:  # to the end
            length = end - start
        if length < header:
            return
        yield _Part(head[4:8], start + header, min(start + length, end))
        start += length


def _read_matroska(reader: _Reader) -> float | None:
    for outer in _iter_elements(reader, 0, reader.size):
        if outer.kind != _SEGMENT:
            continue
        for inner in _iter_elements(reader, outer.start, outer.end):
            if inner.kind == _INFO:
                return _read_info(reader, inner)
            if inner.kind == _CLUSTER and inner.end == outer.end:  # unknown length: the last element
                return None
    return None


def _read_info(reader: _Reader, info: _Part) -> float | None:
    scale_ns, duration = _DEFAULT_TIMESTAMP_SCALE_NS, None
    for element in _iter_elements(reader, info.start, min(info.end, info.start + _MAX_INFO_BYTES)):
        content = reader.read(element.start, min(element.end - element.start, 8))
        if element.kind == _TIMESTAMP_SCALE:
            scale_ns = int.from_bytes(content)
        elif element.kind == _DURATION and len(content) in (4, 8):
            (duration,) = struct.unpack(">f" if len(content) == 4 else ">d", content)
    return None if duration is None else duration * scale_ns / 1e9


def _iter_elements(reader: _Reader, start: int, end: int) -> Iterator[_Part]:
    while True:
        head = reader.read(start, 12)
        kind = _parse_vint(head, 4, keep_marker=True)
        if start >= end or kind is None:
            return
        length = _parse_vint(head[kind[1] :], 8)
        if length is None:
            return
        first = start + kind[1] + length[1]
        unknown = length[0] == (1 << (7 * length[1])) - 1
        last = end if unknown else first + length[0]
        yield _Part(kind[0], first, min(last, end))
        start = last


def _parse_vint(content: bytes, max_width: int, *, keep_marker: bool = False) -> tuple[int, int] | None:
    """Parse a variable-size integer; return value and width in bytes (RFC 8794, 4), or None if it is invalid."""
    width = 9 - content[0].bit_length() if content else 0
    if not 0 < width <= max_width or len(content) < width:
        return None
    number = int.from_bytes(content[:width])
    return (number if keep_marker else number & ((1 << (7 * width)) - 1)), width


def _read_avi(reader: _Reader) -> float | None:
    """Read the duration from the first video stream's header: the file's header counts the first RIFF chunk only."""
    headers = next((chunk for chunk in _iter_chunks(reader, 12, reader.size) if chunk.kind == b"LISThdrl"), None)
    for stream in _iter_chunks(reader, headers.start, headers.end) if headers else ():
        for chunk in _iter_chunks(reader, stream.start, stream.end) if stream.kind == b"LISTstrl" else ():
            content = reader.read(chunk.start, 36)
            if chunk.kind == b"strh" and content[:4] == b"vids" and len(content) == 36:
                scale, rate, _start, length = struct.unpack("<4I", content[20:36])
                if scale and rate:
                    return float(length * scale / rate)
    return None


def _iter_chunks(reader: _Reader, start: int, end: int) -> Iterator[_Part]:
    while True:
        head = reader.read(start, 12)
        if start + 8 > end or len(head) < 8:
            return
        length = int.from_bytes(head[4:8], "little")
        is_list = head[:4] == b"LIST"  # its kind includes the type that follows
        kind, content = (head[:4] + head[8:], start + 12) if is_list else (head[:4], start + 8)
        yield _Part(kind, content, min(start + 8 + length, end))
        start += 8 + length + length % 2  # padded to an even length
