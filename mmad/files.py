"""Files that appear whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOENT
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


@contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file that replaces `path` on success; on an exception `path` stays unchanged.

    Links are followed. A path that is not a regular file, such as a pipe or /dev/null, is written to directly.

    Raises:
        OSError: the file cannot be written; names `path`.
    """
    if path.exists() and not path.is_file():
        with path.open("ab") as file:
            yield file
        return
    target = path.resolve()
    temporary = target.with_name(f".mmad-{uuid4().hex[:12]}")  # short: file systems limit names
    try:
        if not target.parent.is_dir():
            raise FileNotFoundError(ENOENT, f"there is no folder {target.parent}")
        with temporary.open("xb") as file:
            yield file
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o777)
        temporary.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise OSError if replace_file could not write this file."""
    with suppress(_Unchanged), replace_file(path):
        raise _Unchanged


class _Unchanged(Exception):  # noqa: N818
    """Ends replace_file without replacing the file."""
