"""File names of uploaded videos: parsed from requests, cleaned, and formatted for download headers."""

import re
import unicodedata
from urllib.parse import quote, unquote_to_bytes

MAX_CHARACTERS = 255
# Not file names; curl sends "-" for its standard input.
_NO_NAMES = frozenset({"", ".", "..", "-"})
# Of Unicode's categories: control characters, halves of pairs, ends of lines and paragraphs.
_REMOVED = frozenset({"Cc", "Cs", "Zl", "Zp"})
# Marks that change the writing direction: they make a name look like another.
_TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# RFC 8187: filename*=UTF-8'de'Zo%C3%AB.mp4
_EXTENDED = re.compile(rb"\"?(utf-8|iso-8859-1)'[^']*'([^\"]*)\"?", re.IGNORECASE)
_PARAMETER = re.compile(rb';\s*([\w*-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;"\s]*)')
# What browsers escape in the names of a form's files, and no more than that.
_FORM_ESCAPES = (("%22", '"'), ("%0D", ""), ("%0A", ""))


def clean_name(given: str) -> str | None:
    """A file's name in NFC, without folders, control characters and what is too long; None where nothing is left."""
    name = unicodedata.normalize("NFC", given).replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(
        one for one in name if unicodedata.category(one) not in _REMOVED and one not in _TURNING
    ).strip()
    if len(name) > MAX_CHARACTERS:
        stem, dot, suffix = name.rpartition(".")
        kept = dot + suffix if stem and len(suffix) < 16 else ""
        name = name[: MAX_CHARACTERS - len(kept)] + kept
    return None if name in _NO_NAMES else name


def disposition_name(header: bytes) -> str | None:
    """The name of a file in a header Content-Disposition; None where there is none.

    filename* goes before filename (RFC 6266, 4.3). Of filename both ways are read in which double quotes are escaped:
    with a backslash, and as %22 (RFC 7578, 4.2; WHATWG's HTML, 4.10.21.8).
    """
    # Of two parameters of one name the first counts.
    values = {name.lower(): value for name, value in reversed(_PARAMETER.findall(header))}
    if extended := _EXTENDED.fullmatch(values.get(b"filename*", b"")):
        try:
            return clean_name(unquote_to_bytes(extended[2]).decode(extended[1].decode()))
        except UnicodeDecodeError:
            pass
    raw = values.get(b"filename")
    if raw is None:
        return None
    if raw.startswith(b'"'):
        # A backslash before anything else is a folder's, of Windows.
        raw = re.sub(rb'\\(["\\])', rb"\1", raw[1:-1])
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        name = raw.decode("latin-1")
    for escape, meant in _FORM_ESCAPES:
        name = name.replace(escape, meant)
    return clean_name(name)


def attachment(name: str) -> str:
    """A header Content-Disposition for a download of this name (RFC 6266): ASCII, and the whole name beside it."""
    plain = re.sub(r"[^A-Za-z0-9 ._()+,=@~-]", "_", name)
    extended = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{extended}'
