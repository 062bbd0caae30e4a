"""Finding and reading the files of users (names, text encodings, tables), and atomic writes."""

import csv
import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath, PureWindowsPath
from typing import NamedTuple
from uuid import uuid4

from model.source import VIDEO_ENDINGS
from training.instances import parse_float

# Files that macOS, Windows and Synology create; names that begin with a dot are ignored too.
_SYSTEM_FILES = {"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "@eadir"}
_NOT_UTF8 = re.compile(r"[\udc80-\udcff]")
_SEPARATORS = ",;\t"
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


class AnnotationError(Exception):
    """Raised for annotations that cannot be read or used; the message lists faults with file and location."""


class NameIndex:
    """Look up names of videos: exactly, then in normalised Unicode, then ignoring case, listed in `other_case`."""

    def __init__(self, names: Iterable[tuple[str, str]]) -> None:
        """Index pairs of a name and its value."""
        self._levels: list[tuple[Callable[[str], str], dict[str, set[str]]]] = [
            (form, defaultdict(set)) for form in (str, normalize_name, _lower)
        ]
        for name, value in names:
            for form, values in self._levels:
                values[form(name)].add(value)
        self.other_case: dict[str, str] = {}

    def find(self, *spellings: str) -> str | None:
        """Look up spellings of a name, with or without folders, until one is known and unambiguous."""
        for written in spellings:
            for form, names in self._levels:
                for name in (written, PureWindowsPath(written).name):  # the latter takes slashes of both kinds
                    values = names.get(form(name), set())
                    if len(values) == 1:
                        (value,) = values
                        if form is _lower:
                            self.other_case[spellings[0]] = value
                        return value
        return None


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder that replaces `path` on success, and is removed on an exception."""
    temporary = path.with_name(f".{uuid4().hex[:12]}{path.suffix}")  # short: file systems limit names
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def find_files(folder: Path, endings: Iterable[str]) -> list[Path]:
    """Return the sorted files with one of the endings (lower case), recursively; without hidden and temporary ones."""
    suffixes = tuple(endings)
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes and not is_hidden(path.relative_to(folder)) and path.is_file()
    )


def is_hidden(path: PurePath) -> bool:
    """Return whether a file or a folder above it is hidden, a lock file, or created by an operating system."""
    return any(part.startswith((".", "~$")) or part.lower() in _SYSTEM_FILES for part in path.parts)


def strip_video_ending(name: str) -> str:
    """Remove the ending of a video file from a name; other dots remain."""
    stem, dot, ending = name.rpartition(".")
    return stem if stem and f"{dot}{ending.lower()}" in VIDEO_ENDINGS else name


def decode(content: bytes) -> str:
    """Decode UTF-8, UTF-16 with a byte order mark, or Windows-1252. Raises UnicodeDecodeError if it is binary."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if b"\0" in content:
            raise
        return content.decode("cp1252")


def normalize_name(name: str) -> str:
    """Normalise a name to NFC; undecodable bytes are read as Windows-1252, as in the exports."""
    text = _NOT_UTF8.sub(lambda byte: bytes([ord(byte[0]) - 0xDC00]).decode("cp1252", "backslashreplace"), name)
    return unicodedata.normalize("NFC", text)


def _lower(name: str) -> str:
    return normalize_name(name).lower()


class TableRow(NamedTuple):
    """A row: its line number from 1, its values by column (empty if missing), and why these may be wrong, or None."""

    number: int
    values: Mapping[str, str]
    fault: str | None


@dataclass(frozen=True)
class Table:
    """A table: its columns' names in lower case, its other rows that are not empty, and whether 1,5 is a number."""

    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    decimal_comma: bool

    def parse_number(self, text: str) -> float:
        """Parse a number; NaN if the text is not one."""
        if self.decimal_comma and _DECIMAL_COMMA.fullmatch(text):
            text = text.replace(",", ".")
        return parse_float(text)


def read_table(text: str) -> Table:
    """Parse a table whose columns are separated by the most frequent of comma, semicolon and tab in its first row.

    A first line such as `sep=;`, as Excel writes it, sets the separator. Values are stripped; missing ones are empty.
    Raises csv.Error if a field is too long.
    """
    skipped, separator = _find_separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    rows = ((reader.line_num, [value.strip() for value in row]) for row in reader)
    filled = ((line, row) for line, row in rows if line > skipped and any(row))
    columns = tuple(name.lower() for name in next(filled, (0, []))[1])
    return Table(columns, tuple(_make_rows(filled, columns)), separator != ",")


def _find_separator(text: str) -> tuple[int, str]:
    """Return the number of lines before the table, and its separator."""
    for number, line in enumerate(io.StringIO(text, newline="")):
        if line.lower().startswith("sep=") and len(line.strip("\r\n")) == len("sep=;"):
            return number + 1, line[4]
        if line.strip(_SEPARATORS + ' \r\n"'):
            return number, max(_SEPARATORS, key=lambda mark: len(next(csv.reader([line], delimiter=mark))))
    return 0, ","


def _make_rows(rows: Iterator[tuple[int, list[str]]], columns: tuple[str, ...]) -> Iterator[TableRow]:
    for number, row in rows:
        fault = None
        if any(row[len(columns) :]):
            fault = (
                f"{len(row)} values for {len(columns)} columns: numbers are written with a point (1.5), "
                "and what contains a comma in quotes"
            )
        yield TableRow(number, dict.fromkeys(columns, "") | dict(zip(columns, row, strict=False)), fault)
