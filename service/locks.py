"""Locks on open files; some network and FUSE file systems do not support them."""

import errno
import fcntl
from typing import Protocol

# Descriptor and flags are valid, so EBADF and EINVAL come from the file system as well: NFS emulates flock and requires
# a descriptor that is open for writing.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF})


class HasDescriptor(Protocol):
    """An open file."""

    def fileno(self) -> int:
        """Return the file descriptor."""


def lock(file: HasDescriptor | int, *, wait: bool = True) -> bool:
    """Lock an open file for this process until it is closed.

    Args:
        file: open, or its descriptor.
        wait: whether to wait until another process releases the lock.

    Returns:
        False if the file system does not support locks; then nothing is locked.

    Raises:
        BlockingIOError, PermissionError: another process holds the lock and `wait` is false.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True
