"""The header Range (RFC 9110, section 14): one range of bytes."""

import re

_RANGE = re.compile(r"bytes=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*")


def parse_range(header: str | None, length: int) -> range | None:
    """The bytes to send, of a file of `length` bytes: all of them where the header is absent or none that is taken
    here; None where it asks for bytes beyond the end.
    """
    found = _RANGE.fullmatch(header or "")
    if not found or found[1] == found[2] == "":
        return range(length)
    if not found[1]:  # the last so many
        count = min(int(found[2]), length)
        return range(length - count, length) if count else None
    first = int(found[1])
    last = min(int(found[2]), length - 1) if found[2] else length - 1
    if found[2] and int(found[2]) < first:  # not a range: as if it were not there
        return range(length)
    return range(first, last + 1) if first < length else None
