"""Detects MP4, Matroska and AVI files that were cut off, by the lengths of their elements.

Only lengths are read. A live recording leaves the outer ones open; then the elements within are looked at.
"""

import os
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

# More elements are not looked at; some hours of video have fewer.
_MOST_ELEMENTS = 2_000_000
_HEADER_BYTES = 16

_ENTERED = (b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75")  # Matroska's segment and clusters
_OPEN_RIFF = (0, 2**32 - 1)  # lengths that a recorder writes before it knows them


class Element(NamedTuple):
    """An element.

    Attributes:
        length: its size in bytes; None where it is left open.
        step: bytes to the next header.
        is_open: whether no element says how many of its kind there are, as of fragments and what is in open elements.
    """

    length: int | None
    step: int
    is_open: bool = False


def is_cut_off(file: BinaryIO, container: str) -> bool:
    """Whether a file ends within one of its elements, or holds bytes that are none.

    Args:
        file: readable and seekable; its position stays as it is.
        container: FFmpeg's name of the format; of others than MP4, Matroska and AVI nothing is known: False.
    """
    parse = next((parse for name, parse in _PARSERS.items() if name in container), None)
    if parse is None:
        return False
    before = file.tell()
    try:
        return _walk(file, parse)
    finally:
        file.seek(before)


def _walk(file: BinaryIO, parse: Callable[[bytes], Element | None]) -> bool:
    size, place, needed, is_open = file.seek(0, os.SEEK_END), 0, 0, False
    for _ in range(_MOST_ELEMENTS):
        if place >= size:
            break
        file.seek(place)
        element = parse(file.read(_HEADER_BYTES))
        if element is None:  # behind the last element it is padding, or what some recorders append
            return place < needed or is_open
        needed, is_open = max(needed, place + (element.length or 0)), is_open or element.is_open
        place += element.step
    return needed > size


def _box(header: bytes) -> Element | None:
    """ISO/IEC 14496-12, 4.2: 32 bits of length and four letters; 64 bits of length after them where the first are 1."""
    length, name = int.from_bytes(header[:4]), header[4:8]
    if length == 1:
        length = int.from_bytes(header[8:16])
    if len(name) < 4 or min(name) < 0x20:
        return None
    if length == 0:  # up to the end of the file
        return Element(None, 2**63)
    return Element(length, length, name == b"moof") if length >= 8 else None


def _ebml(header: bytes) -> Element | None:
    """RFC 8794, 4: leading zero bits say how many bytes identifier and length take; a length of ones is open."""
    name_bytes = 9 - header[0].bit_length()
    if name_bytes > 4 or len(header) <= name_bytes:
        return None
    content = name_bytes + 9 - header[name_bytes].bit_length()
    ones = (1 << 7 * (content - name_bytes)) - 1
    length = int.from_bytes(header[name_bytes:content]) & ones
    if content - name_bytes > 8 or len(header) < content:
        return None
    if length == ones:
        return Element(None, content, True)
    return Element(content + length, content if header[:name_bytes] in _ENTERED else content + length)


def _riff(header: bytes) -> Element | None:
    """Microsoft's RIFF: four letters, 32 bits of length, and for a list four letters of its kind; even lengths."""
    length, kind = int.from_bytes(header[4:8], "little"), header[8:12]
    if len(header) < 8 or not header[:4].strip().isalnum():
        return None
    if kind not in (b"AVI ", b"AVIX", b"movi"):
        return Element(8 + length, 8 + length + length % 2)
    is_open = length in _OPEN_RIFF
    return Element(None if is_open else 8 + length, 12, is_open)


_PARSERS = {"mp4": _box, "matroska": _ebml, "avi": _riff}
