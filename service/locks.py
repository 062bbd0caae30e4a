"""Locks on open files, and what to do on a file system that has none (some network and FUSE file systems)."""

import errno
import fcntl
from typing import Protocol

# flock is given an open descriptor and known flags, so EBADF and EINVAL are the file system's answers too: NFS, which
# emulates it, wants a descriptor for writing.
_NO_LOCKS = frozenset(
    {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF}
)


class HasDescriptor(Protocol):
    """An open file."""

    def fileno(self) -> int:
        """Its descriptor."""


def lock(file: HasDescriptor | int, *, wait: bool = True) -> bool:
    """Lock an open file for this process until it is closed.

    Args:
        file: open, or its descriptor.
        wait: until another process that has the lock lets it go.

    Returns:
        False where the file system has no locks, and nothing is locked.

    Raises:
        BlockingIOError, PermissionError: another process has it, without `wait`.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True
