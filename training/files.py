"""Finding and reading users' files: hidden files, spellings of names, text encodings."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath, PureWindowsPath
from typing import NamedTuple

from model.source import VIDEO_ENDINGS

# What macOS, Windows, Synology and office programs leave beside files; names that begin with a dot are left out too.
_LEFT_BEHIND = {"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "@eadir"}
_NOT_UTF8 = re.compile(r"[\udc80-\udcff]")


class Name(NamedTuple):
    """A name that was found, and whether it differs from the written one in case."""

    name: str
    forgiven: bool


class Names:
    """Finds the names of videos as people write them.

    Names are one if their characters are, in whatever form of Unicode; if there is no such name, those that differ in
    upper and lower case alone are found too.
    """

    def __init__(self, names: Iterable[tuple[str, str]]) -> None:
        """Take names to find, each with what it stands for."""
        listed = list(names)
        self._levels = [(form, _grouped(listed, form)) for form in (str, composed, _lower)]

    def find(self, written: str) -> Name | None:
        """The meaning of a name, with or without folders; None if it is unknown or ambiguous."""
        for form, names in self._levels:
            for name in (written, PureWindowsPath(written).name):  # the latter takes slashes of both kinds
                found = names.get(form(name), set())
                if len(found) == 1:
                    return Name(next(iter(found)), form is _lower)
        return None


def find_files(folder: Path, endings: Iterable[str]) -> list[Path]:
    """Files with one of the endings (lower case), at any depth, in order; hidden and temporary ones are left out."""
    wanted = tuple(endings)
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in wanted and not is_hidden(path.relative_to(folder)) and path.is_file()
    )


def is_hidden(path: PurePath) -> bool:
    """Whether a file or a folder above it is hidden, a lock file, or left behind by an operating system."""
    return any(part.startswith((".", "~$")) or part.lower() in _LEFT_BEHIND for part in path.parts)


def without_ending(name: str) -> str:
    """A video's name without the ending of a video file; other dots stay."""
    stem, dot, ending = name.rpartition(".")
    return stem if stem and f"{dot}{ending.lower()}" in VIDEO_ENDINGS else name


def decode(content: bytes) -> str:
    """Text in UTF-8, in UTF-16 with its mark, or as Windows-1252, in which older spreadsheets save.

    Raises:
        UnicodeDecodeError: it is no text.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if b"\0" in content:
            raise
        return content.decode("cp1252")


def composed(name: str) -> str:
    """A name in one form of Unicode; bytes that are not UTF-8 are Windows-1252, as exports take them."""
    text = _NOT_UTF8.sub(
        lambda byte: bytes([ord(byte[0]) - 0xDC00]).decode("cp1252", "backslashreplace"), name
    )
    return unicodedata.normalize("NFC", text)


def _grouped(names: Iterable[tuple[str, str]], form: Callable[[str], str]) -> dict[str, set[str]]:
    groups: dict[str, set[str]] = {}
    for name, meaning in names:
        groups.setdefault(form(name), set()).add(meaning)
    return groups


def _lower(name: str) -> str:
    return composed(name).lower()
