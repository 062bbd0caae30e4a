"""Streams request bodies into the store: limits, hashes and checks the bytes without holding a file in memory."""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, BinaryIO, NamedTuple

import anyio
from anyio import to_thread
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from service.encodings import make_decoder
from service.errors import Problem
from service.jobs import Upload
from service.names import parse_disposition_name
from service.problems import CLOSE
from service.settings import Settings

OpenFile = Callable[[int], AbstractContextManager[BinaryIO]]

FILE_FIELD = "file"
_WRITE_BYTES = 1024 * 1024
_SNIFF_BYTES = 400
_MAX_FIELD_BYTES = 64 * 1024
_MAX_PARTS = 32
# Allowance for multipart headers and other fields when a body's size is compared with the limit.
_MULTIPART_OVERHEAD_BYTES = 1024 * 1024


class Received(NamedTuple):
    """The stored files in order, and the form's other fields."""

    uploads: list[Upload]
    fields: dict[str, str]


async def receive(
    request: Request,
    settings: Settings,
    open_file: OpenFile,
    check_fields: Callable[[dict[str, str]], object],
    check_disk: Callable[[], object],
) -> Received:
    """Stream a request's body into the store. The files are durable on return; on an error, some may be left there.

    The body is a multipart form with one or more fields `file`, or a video's bytes with any other content type.

    `open_file` opens a file by its index in the request. `check_fields` is called with the form's fields before the
    first file is read, and `check_disk` before each write. Raises Problem: those of the checks, upload_too_large,
    upload_too_slow, too_many_files, empty_upload, malformed_upload, unsupported_content_encoding, not_a_video.
    """
    max_bytes = settings.max_upload_bytes
    _check_size(get_declared_bytes(request), max_bytes, _MULTIPART_OVERHEAD_BYTES)
    decoder = make_decoder(", ".join(request.headers.getlist("content-encoding")))
    content_type, parameters = parse_options_header(request.headers.get("content-type", ""))
    is_form = content_type == b"multipart/form-data"
    form = _FormParser(parameters.get(b"boundary"), settings.max_batch_files) if is_form else None
    async with AsyncExitStack() as stack:
        writer = _Writer(stack, open_file, max_bytes, check_disk)
        count = received = 0
        async for sent in _read_body(request, settings):
            received += len(sent)  # compressed bytes may decompress to nothing
            _check_size(received, max_bytes, _MULTIPART_OVERHEAD_BYTES)
            for chunk in decoder.feed(sent) if decoder else [sent]:
                count += len(chunk)
                # Count bytes outside of files too: a compressed form may be of any size.
                _check_size(count, max_bytes, _MULTIPART_OVERHEAD_BYTES)
                for index, piece in form.feed(chunk) if form else [(0, chunk)]:
                    if form and not writer.started:
                        check_fields(form.fields)
                    await writer.write(index, piece)
        if decoder:
            decoder.finish()
        if form:
            form.finish()
        uploads = await writer.finish()
    disposition = request.headers.get("content-disposition", "")
    names = form.names if form else [parse_disposition_name(disposition.encode("latin-1"))]
    named = [upload.model_copy(update={"name": name}) for upload, name in zip(uploads, names, strict=True)]
    return Received(named, form.fields if form else {})


async def _read_body(request: Request, settings: Settings) -> AsyncIterator[bytes]:
    """Yield the body's chunks; raises Problem upload_too_slow, after which the connection must be closed."""
    deadline_s = anyio.current_time() + settings.upload_timeout_s
    stream = request.stream()
    while True:
        left_s = deadline_s - anyio.current_time()
        with anyio.move_on_after(min(settings.upload_stall_s, left_s)) as waiting:
            chunk = await anext(stream, None)
        if waiting.cancelled_caught or left_s <= 0:  # buffered chunks are read without waiting
            how = f"was not over after {settings.upload_timeout_s:g} s (MMAD_UPLOAD_TIMEOUT_S)"
            if left_s > settings.upload_stall_s:
                how = f"brought nothing for {settings.upload_stall_s:g} s (MMAD_UPLOAD_STALL_S)"
            raise Problem("upload_too_slow", f"the upload {how}; send it again over a better connection", CLOSE)
        if chunk is None:
            return
        yield chunk


def looks_like_video(head: bytes) -> bool:
    """Return whether the first bytes are of a supported container: MP4, MOV, Matroska, WebM, AVI or MPEG-TS."""
    return (
        head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
        or head[:4] == b"\x1aE\xdf\xa3"
        or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
        or (head[:1] == b"G" and head[188:189] in (b"G", b""))
        or (head[4:5] == b"G" and head[196:197] in (b"G", b""))
    )


class _Writer:
    """Writes the files of a request one after the other, 1 MiB at a time, as each write switches to a thread."""

    def __init__(
        self, stack: AsyncExitStack, open_file: OpenFile, max_bytes: int, check_disk: Callable[[], object]
    ) -> None:
        self._stack, self._open_file, self._max_bytes = stack, open_file, max_bytes
        self._check_disk = check_disk
        self._file: BinaryIO | None = None
        self._done: list[Upload] = []
        self._total = 0

    @property
    def started(self) -> bool:
        """Whether the first file has started."""
        return self._file is not None

    async def write(self, index: int, data: bytes) -> None:
        """Write bytes of the file at this index. Files arrive in order."""
        if index > len(self._done) or self._file is None:
            await self._finish_file()  # at most one file is open at a time
            self._file = await self._stack.enter_async_context(_enter_in_thread(self._open_file(index)))
            self._hash, self._buffer = hashlib.sha256(), bytearray()
            self._count, self._sniffed = 0, False
        self._total += len(data)
        _check_size(self._total, self._max_bytes)
        self._buffer += data
        self._count += len(data)
        if not self._sniffed and len(self._buffer) >= _SNIFF_BYTES:
            self._sniff()
        if len(self._buffer) >= _WRITE_BYTES:
            await self._flush(self._file)

    async def finish(self) -> list[Upload]:
        """Close the last file and return all; raises Problem empty_upload if there are none."""
        if self._file is None:
            raise _make_empty_problem()
        await self._finish_file()
        return self._done

    async def _finish_file(self) -> None:
        if self._file is None:
            return
        if not self._count:
            raise _make_empty_problem()
        if not self._sniffed:
            self._sniff()
        await self._flush(self._file)
        self._done.append(Upload(bytes=self._count, sha256=self._hash.hexdigest()))
        await self._stack.aclose()

    def _sniff(self) -> None:
        self._sniffed = True
        if not looks_like_video(bytes(self._buffer[:_SNIFF_BYTES])):
            detail = "the bytes are of no video that can be read: send MP4, MOV, Matroska, WebM, AVI or MPEG-TS"
            raise Problem("not_a_video", detail)

    async def _flush(self, file: BinaryIO) -> None:
        data, self._buffer = self._buffer, bytearray()

        def write() -> None:
            self._check_disk()
            self._hash.update(data)
            file.write(data)

        await to_thread.run_sync(write)


class _FormParser:
    """Incremental multipart parser: returns the bytes of files and collects the other fields."""

    def __init__(self, boundary: bytes | None, max_files: int) -> None:
        if not boundary:
            raise _make_malformed_problem("the content type multipart/form-data names no boundary")
        self.fields: dict[str, str] = {}
        self.names: list[str | None] = []  # file names
        self._pieces: list[tuple[int, bytes]] = []
        self._max_files = max_files
        self._parts = 0
        self._ended = False
        self._name = ""
        self._file_name: str | None = None
        self._header, self._value, self._field = bytearray(), bytearray(), bytearray()
        callbacks: dict[str, Any] = {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._part_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        except FormParserError as error:
            raise _make_malformed_problem("the form's boundary is not one") from error

    def feed(self, chunk: bytes) -> list[tuple[int, bytes]]:
        """Return a chunk's file bytes as (file index, bytes); raises Problem malformed_upload or too_many_files."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _make_malformed_problem("the form's parts cannot be told apart") from error
        pieces, self._pieces = self._pieces, []
        return pieces

    def finish(self) -> None:
        """Check that the form was complete; raises Problem malformed_upload."""
        if not self._ended:
            raise _make_malformed_problem("the form ends before its closing boundary")
        if not self.names:
            raise _make_malformed_problem(f"the form has no field {FILE_FIELD!r}")

    def _begin_part(self) -> None:
        self._name, self._file_name = "", None
        self._field.clear()

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
            self._file_name = parse_disposition_name(bytes(self._value))
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS + self._max_files:
            raise _make_malformed_problem(f"the form has more than {_MAX_PARTS + self._max_files} parts")
        if not self._name:
            raise _make_malformed_problem("a part of the form has no name")
        if self._name == FILE_FIELD:
            if len(self.names) == self._max_files:
                raise Problem(
                    "too_many_files",
                    f"the request holds more than {self._max_files} videos (MMAD_MAX_BATCH_FILES); "
                    "send them in several requests",
                )
            self._pieces.append((len(self.names), b""))  # so that an empty file is reported too
            self.names.append(self._file_name)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE_FIELD:
            self._pieces.append((len(self.names) - 1, data[start:end]))
            return
        self._field += data[start:end]
        if len(self._field) > _MAX_FIELD_BYTES:
            raise _make_malformed_problem(f"the field {self._name[:64]!r} is longer than {_MAX_FIELD_BYTES} bytes")

    def _end_part(self) -> None:
        if self._name != FILE_FIELD:
            self.fields[self._name] = self._field.decode("utf-8", "replace")

    def _end(self) -> None:
        self._ended = True


def _check_size(size_bytes: int, limit: int, allowance: int = 0) -> None:
    if size_bytes > limit + allowance:
        raise Problem(
            "upload_too_large",
            f"the upload has {size_bytes} bytes or more, the limit is {limit} (MMAD_MAX_UPLOAD_BYTES); "
            "send a shorter or smaller video",
        )


def get_declared_bytes(request: Request) -> int:
    """Return the value of Content-Length; 0 without a valid one."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else 0


def _make_empty_problem() -> Problem:
    detail = f"the upload holds no bytes: send a video as the form field {FILE_FIELD!r} or as the body"
    return Problem("empty_upload", detail)


def _make_malformed_problem(what: str) -> Problem:
    detail = f"{what}: send a multipart form with the field {FILE_FIELD!r}, or the bytes as body"
    return Problem("malformed_upload", detail)


@asynccontextmanager
async def _enter_in_thread(writing: AbstractContextManager[BinaryIO]) -> AsyncIterator[BinaryIO]:
    """Enter and exit the context manager in a thread, as opening, syncing and renaming block on the disk."""
    file = await to_thread.run_sync(writing.__enter__)
    try:
        yield file
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(writing.__exit__, type(error), error, error.__traceback__)
        raise
    await to_thread.run_sync(writing.__exit__, None, None, None)
