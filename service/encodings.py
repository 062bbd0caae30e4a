"""Content-Encoding of uploads (RFC 9110, 8.4): gzip and deflate are decompressed incrementally, others refused."""

import zlib
from collections.abc import Iterator

from service.errors import Problem

ACCEPTED = ("gzip", "deflate")
# Decompressed bytes per step: bounds memory against compression bombs.
_PIECE_BYTES = 256 * 1024
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 31, 15, -15


class Decoder:
    """Incremental decompressor of a request body."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._head = b""
        self._inflater = zlib.decompressobj(_GZIP_BITS) if encoding == "gzip" else None
        self._has_data = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the decompressed bytes of a chunk in pieces of bounded size; raises Problem malformed_upload."""
        self._has_data = self._has_data or bool(chunk)
        try:
            while chunk:
                if self._inflater is not None and self._inflater.eof:
                    chunk = self._handle_trailing(chunk)
                    continue
                chunk, self._head = self._head + chunk, b""
                inflater = self._inflater = self._inflater or _make_deflater(chunk)
                if inflater is None:
                    self._head = chunk
                    return
                while True:
                    piece = inflater.decompress(chunk, _PIECE_BYTES)
                    if piece:
                        yield piece
                    chunk = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
                    if inflater.eof or (not chunk and len(piece) < _PIECE_BYTES):
                        break
        except zlib.error as error:
            raise self._make_problem("is not that") from error

    def finish(self) -> None:
        """Check that the body was complete; raises Problem malformed_upload."""
        if self._has_data and (self._inflater is None or not self._inflater.eof):
            raise self._make_problem("ends before its end")

    def _handle_trailing(self, unused: bytes) -> bytes:
        """Return the bytes after the end to decompress: another gzip member (RFC 1952, 2.2), or none after padding."""
        if self._encoding == "gzip" and unused.strip(b"\0"):
            self._inflater = zlib.decompressobj(_GZIP_BITS)
            return unused
        if unused.strip(b"\0"):
            raise self._make_problem("goes on after its end")
        return b""

    def _make_problem(self, how: str) -> Problem:
        return Problem(
            "malformed_upload",
            f"the body's Content-Encoding is {self._encoding}, and the body {how}: compress it anew, "
            "or send it as it is",
        )


def _make_deflater(head: bytes) -> "zlib._Decompress | None":
    """Make the decompressor for `deflate`; None if the format is not known yet.

    It means zlib's format (RFC 9110, 8.4.1.2), but some clients send raw deflate data without its header.
    """
    if len(head) < 2:
        return None
    is_zlib = head[0] & 15 == 8 and int.from_bytes(head[:2]) % 31 == 0
    return zlib.decompressobj(_ZLIB_BITS if is_zlib else _RAW_BITS)


def make_decoder(header: str) -> Decoder | None:
    """Make the decompressor for a Content-Encoding header, if any; raises Problem unsupported_content_encoding."""
    names = [name.strip().lower().removeprefix("x-") for name in header.split(",")]
    encodings = [name for name in names if name not in ("", "identity")]
    if not encodings:
        return None
    if len(encodings) == 1 and encodings[0] in ACCEPTED:
        return Decoder(encodings[0])
    raise Problem(
        "unsupported_content_encoding",
        f"Content-Encoding: {header[:64]!r} is not undone here; send the video as it is, "
        f"or with one of {' and '.join(ACCEPTED)}",
        {"Accept-Encoding": ", ".join(ACCEPTED)},
    )
