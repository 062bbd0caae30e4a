"""Detect truncated MP4, Matroska and AVI files by the lengths of their elements.

Only element headers are read. A live recording does not set the length of outer elements; then the elements inside
them are checked.
"""

import os
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

# Stop after this many elements; some hours of video have fewer.
_MAX_ELEMENTS = 2_000_000
_HEADER_BYTES = 16

_MATROSKA_PARENTS = (b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75")  # segment and cluster
_RIFF_UNKNOWN_LENGTHS = (0, 2**32 - 1)  # placeholders that a recorder writes before it knows the length


class _Element(NamedTuple):
    length: int | None  # in bytes; None if it is unknown
    step: int  # bytes to the next header
    is_open: bool = False  # whether the number of such elements is not declared, as of fragments


def is_cut_off(file: BinaryIO, container: str) -> bool:
    """Return whether a file ends inside an element, or contains bytes that are no element; False for other formats.

    `container` is FFmpeg's name of the format. The position in the file is restored.
    """
    parse = next((parse for name, parse in _PARSERS.items() if name in container), None)
    if parse is None:
        return False
    position = file.tell()
    try:
        return _ends_inside_element(file, parse)
    finally:
        file.seek(position)


def _ends_inside_element(file: BinaryIO, parse: Callable[[bytes], _Element | None]) -> bool:
    size, position, expected_size, is_open = file.seek(0, os.SEEK_END), 0, 0, False
    for _ in range(_MAX_ELEMENTS):
        if position >= size:
            break
        file.seek(position)
        element = parse(file.read(_HEADER_BYTES))
        if element is None:  # after the last element: padding, or data that some recorders append
            return position < expected_size or is_open
        expected_size = max(expected_size, position + (element.length or 0))
        is_open = is_open or element.is_open
        position += element.step
    return expected_size > size


def _parse_mp4_box(header: bytes) -> _Element | None:
    # ISO/IEC 14496-12, 4.2: a 32-bit length and a four-letter type.
    length, name = int.from_bytes(header[:4]), header[4:8]
    if length == 1:  # a 64-bit length follows the type
        length = int.from_bytes(header[8:16])
    if len(name) < 4 or min(name) < 0x20:
        return None
    if length == 0:  # up to the end of the file
        return _Element(None, 2**63)
    return _Element(length, length, name == b"moof") if length >= 8 else None


def _parse_ebml_element(header: bytes) -> _Element | None:
    """Parse an EBML element header (RFC 8794, section 4): an identifier and a length of variable size."""
    # The number of leading zero bits is the number of further bytes.
    id_bytes = 9 - header[0].bit_length()
    if id_bytes > 4 or len(header) <= id_bytes:
        return None
    header_bytes = id_bytes + 9 - header[id_bytes].bit_length()
    all_ones = (1 << 7 * (header_bytes - id_bytes)) - 1
    length = int.from_bytes(header[id_bytes:header_bytes]) & all_ones
    if header_bytes - id_bytes > 8 or len(header) < header_bytes:
        return None
    if length == all_ones:  # unknown
        return _Element(None, header_bytes, True)
    is_parent = header[:id_bytes] in _MATROSKA_PARENTS
    return _Element(header_bytes + length, header_bytes if is_parent else header_bytes + length)


def _parse_riff_chunk(header: bytes) -> _Element | None:
    """Parse a RIFF chunk header (Microsoft): a four-letter identifier, a 32-bit length, and the type of a list."""
    length, kind = int.from_bytes(header[4:8], "little"), header[8:12]
    if len(header) < 8 or not header[:4].strip().isalnum():
        return None
    if kind not in (b"AVI ", b"AVIX", b"movi"):
        return _Element(8 + length, 8 + length + length % 2)  # padded to an even length
    is_open = length in _RIFF_UNKNOWN_LENGTHS
    return _Element(None if is_open else 8 + length, 12, is_open)


_PARSERS = {"mp4": _parse_mp4_box, "matroska": _parse_ebml_element, "avi": _parse_riff_chunk}
