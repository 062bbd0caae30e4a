"""Content-Encoding of uploads (RFC 9110, 8.4): gzip and deflate are undone piece by piece, others refused by name."""

import zlib
from collections.abc import Iterator

from service.errors import Problem

ACCEPTED = ("gzip", "deflate")
# Most bytes decompressed at a time: bounds memory for compression bombs.
_PIECE_BYTES = 256 * 1024
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 31, 15, -15


class Decoder:
    """Incremental decompressor of a request body."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._head = b""
        self._inflater = zlib.decompressobj(_GZIP_BITS) if encoding == "gzip" else None
        self._begun = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Decompress a chunk, in pieces of bounded size; raises Problem malformed_upload."""
        self._begun = self._begun or bool(chunk)
        try:
            while chunk:
                if self._inflater is not None and self._inflater.eof:
                    chunk = self._after(chunk)
                    continue
                inflater = self._of(chunk)
                if inflater is None:  # too few bytes to tell what they are
                    return
                chunk, self._head = self._head + chunk, b""
                while True:
                    piece = inflater.decompress(chunk, _PIECE_BYTES)
                    if piece:
                        yield piece
                    chunk = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
                    if inflater.eof or (not chunk and len(piece) < _PIECE_BYTES):
                        break
        except zlib.error as error:
            raise self._problem("is not that") from error

    def finish(self) -> None:
        """Check that the body was whole; raises Problem malformed_upload."""
        if self._begun and (self._inflater is None or not self._inflater.eof):
            raise self._problem("ends before its end")

    def _of(self, chunk: bytes) -> "zlib._Decompress | None":
        """The decompressor. `deflate` is zlib's format by the standard; some senders leave out its header."""
        if self._inflater is None:
            head = self._head + chunk
            if len(head) < 2:
                self._head = head
                return None
            is_zlib = head[0] & 15 == 8 and int.from_bytes(head[:2]) % 31 == 0
            self._inflater = zlib.decompressobj(_ZLIB_BITS if is_zlib else _RAW_BITS)
        return self._inflater

    def _after(self, unused: bytes) -> bytes:
        """What follows the end: another member of gzip's (RFC 1952, 2.2), or padding."""
        if self._encoding == "gzip" and unused.strip(b"\0"):
            self._inflater = zlib.decompressobj(_GZIP_BITS)
            return unused
        if unused.strip(b"\0"):
            raise self._problem("goes on after its end")
        return b""

    def _problem(self, how: str) -> Problem:
        return Problem(
            "malformed_upload",
            f"the body's Content-Encoding is {self._encoding}, and the body {how}: compress it anew, "
            "or send it as it is",
        )


def make_decoder(header: str) -> Decoder | None:
    """The decompressor for a Content-Encoding header; None if the body is not compressed.

    Raises:
        Problem: unsupported_content_encoding.
    """
    encodings = [one.strip().lower().removeprefix("x-") for one in header.split(",")]
    found = [one for one in encodings if one not in ("", "identity")]
    if not found:
        return None
    if len(found) == 1 and found[0] in ACCEPTED:
        return Decoder(found[0])
    raise Problem(
        "unsupported_content_encoding",
        f"Content-Encoding: {header[:64]!r} is not undone here; send the video as it is, "
        f"or with one of {' and '.join(ACCEPTED)}",
        {"Accept-Encoding": ", ".join(ACCEPTED)},
    )
