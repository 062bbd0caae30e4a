"""File names of uploaded videos: parsed from requests, cleaned, and formatted for download headers."""

import re
import unicodedata
from urllib.parse import quote, unquote_to_bytes

MAX_CHARACTERS = 255
# Not usable as file names; curl sends "-" for standard input.
_INVALID_NAMES = frozenset({"", ".", "..", "-"})
# Unicode categories: control characters, surrogates, line and paragraph separators.
_REMOVED = frozenset({"Cc", "Cs", "Zl", "Zp"})
# Bidirectional control characters, which can make a name look like another.
_BIDI_CONTROLS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# RFC 8187: filename*=UTF-8'de'Zo%C3%AB.mp4
_EXTENDED = re.compile(rb"\"?(utf-8|iso-8859-1)'[^']*'([^\"]*)\"?", re.IGNORECASE)
_PARAMETER = re.compile(rb';\s*([\w*-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;"\s]*)')
# The only characters that browsers escape in file names of forms.
_FORM_ESCAPES = (("%22", '"'), ("%0D", ""), ("%0A", ""))


def clean_name(given: str) -> str | None:
    """Return a file name in NFC, without folders and control characters, truncated; None if nothing remains."""
    name = unicodedata.normalize("NFC", given).replace("\\", "/").rsplit("/", 1)[-1]
    chars = (char for char in name if unicodedata.category(char) not in _REMOVED and char not in _BIDI_CONTROLS)
    name = "".join(chars).strip()
    if len(name) > MAX_CHARACTERS:
        stem, dot, suffix = name.rpartition(".")
        ending = dot + suffix if stem and len(suffix) < 16 else ""
        name = name[: MAX_CHARACTERS - len(ending)] + ending
    return None if name in _INVALID_NAMES else name


def parse_disposition_name(header: bytes) -> str | None:
    """Parse the file name in a Content-Disposition header; None if it has none.

    filename* takes precedence over filename (RFC 6266, 4.3). In filename, double quotes may be escaped with a backslash
    or as %22 (RFC 7578, 4.2; WHATWG's HTML, 4.10.21.8).
    """
    # Reversed, so that the first of two parameters with the same name is used.
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
        # Any other backslash separates folders of a Windows path.
        raw = re.sub(rb'\\(["\\])', rb"\1", raw[1:-1])
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        name = raw.decode("latin-1")
    for escape, char in _FORM_ESCAPES:
        name = name.replace(escape, char)
    return clean_name(name)


def format_attachment(name: str) -> str:
    """Format a Content-Disposition header for a download (RFC 6266): an ASCII name, and the full name as filename*."""
    plain = re.sub(r"[^A-Za-z0-9 ._()+,=@~-]", "_", name)
    extended = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{extended}'
