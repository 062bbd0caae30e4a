"""Parser of the Range header (RFC 9110, section 14), for a single range of bytes."""

import re

_RANGE = re.compile(r"bytes=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*")


def parse_range(header: str | None, length: int) -> range | None:
    """Return the range of bytes to send of a file of `length` bytes.

    The whole file if the header is absent, invalid or has several ranges; None if the range cannot be satisfied.
    """
    match = _RANGE.fullmatch(header or "")
    if not match or match[1] == match[2] == "":
        return range(length)
    if not match[1]:  # suffix range: the last n bytes
        count = min(int(match[2]), length)
        return range(length - count, length) if count else None
    first = int(match[1])
    last = min(int(match[2]), length - 1) if match[2] else length - 1
    if match[2] and int(match[2]) < first:  # invalid: ignored
        return range(length)
    return range(first, last + 1) if first < length else None
