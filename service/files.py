"""Locks on open files, and durable writes."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

# Errors of file systems without locks. Descriptor and flags are valid, so EBADF and EINVAL come from the file system as
# well: NFS emulates flock and requires a descriptor that is open for writing.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF})


def lock(file: IO[Any] | int, *, wait: bool = True) -> bool:
    """Lock an open file or descriptor for this process until it is closed; False if the file system has no locks.

    Raises BlockingIOError or PermissionError if another process holds the lock and `wait` is false.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


@contextmanager
def open_replacement(path: Path, temporary: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a new file for writing that atomically replaces `path` on exit, durably; it is removed on an exception."""
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def rename(source: Path, target: Path) -> None:
    """Rename a file durably; missing folders are created."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
