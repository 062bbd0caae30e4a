"""Whether a file is all there: a container is elements in a row, each with its length in front.

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
    """How many bytes an element has, None where that is left open, and to go on so many bytes after its start."""

    length: int | None
    step: int


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
    size, place, needed = file.seek(0, os.SEEK_END), 0, 0
    for _ in range(_MOST_ELEMENTS):
        if place >= size:
            break
        file.seek(place)
        element = parse(file.read(_HEADER_BYTES))
        if element is None:
            return True
        needed = max(needed, place + (element.length or 0))
        place += element.step
    return needed > size


def _box(header: bytes) -> Element | None:
    """ISO/IEC 14496-12, 4.2: 32 bits of length and four letters; 64 bits of length after them where the first are 1."""
    length, name = int.from_bytes(header[:4]), header[4:8]
    if length == 1:
        length = int.from_bytes(header[8:16])
    if len(name) < 4 or not name.isalnum():
        return None
    if length == 0:  # up to the end of the file
        return Element(None, 2**63)
    return Element(length, length) if length >= 8 else None


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
        return Element(None, content)
    return Element(content + length, content if header[:name_bytes] in _ENTERED else content + length)


def _riff(header: bytes) -> Element | None:
    """Microsoft's RIFF: four letters, 32 bits of length, and for a list four letters of its kind; even lengths."""
    length, kind = int.from_bytes(header[4:8], "little"), header[8:12]
    if len(header) < 8 or not header[:4].strip().isalnum():
        return None
    padded = 8 + length + length % 2
    if kind not in (b"AVI ", b"AVIX", b"movi"):
        return Element(padded, padded)
    return Element(None if length in _OPEN_RIFF else padded, 12)


_PARSERS = {"mp4": _box, "matroska": _ebml, "avi": _riff}
