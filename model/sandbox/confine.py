"""Confinement of a decode process: it permanently gives up all privileges that decoding does not need.

Resource limits (setrlimit), no new privileges, an unprivileged user if it runs as root, Landlock (no opening of files,
no TCP, no signals to other processes) and seccomp (system calls that are not listed fail). Open files stay usable.

The default limit of address space, 2560 MiB, admits 8K videos of H.265 with 10 bits, decoded by 8 threads (2368 MiB),
and rejects an MP4 of 539 bytes that declares 80 million samples (3155 MiB).
"""

import ctypes
import errno
import math
import mmap
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from model.video import Limits

if TYPE_CHECKING:
    import pyseccomp

_NOBODY = 65534
_OPEN_FILES = 16
_THREADS = 512

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38

# linux/landlock.h; both numbers are the same on every architecture.
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
# Number of file access rights, from EXECUTE on, in each version of Landlock: all are handled, none is granted.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP_RIGHTS, _TCP_SINCE = 0b11, 4
_SCOPES, _SCOPES_SINCE = 0b11, 6  # abstract unix sockets, signals

_CLONE_THREAD = 0x00010000

# System calls that Python and FFmpeg need for open files, memory and threads. None of them takes a path, creates a
# socket or a process, or affects another process.
_CALLS = """
    read pread64 lseek fstat close sendto recvfrom
    brk munmap mremap madvise
    futex set_robust_list rseq sched_yield sched_getaffinity gettid getpid exit exit_group restart_syscall
    rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack
    clock_gettime clock_nanosleep nanosleep gettimeofday time getrandom
"""


@dataclass(frozen=True)
class Confinement:
    """The parts of the confinement that work on this machine, as tested by probe."""

    landlock: int  # the kernel's version of Landlock; 0 if it is unavailable
    seccomp: bool
    unprivileged: bool  # whether the decode process runs as an unprivileged user

    @property
    def missing(self) -> list[str]:
        """The parts that do not work, each with its remedy."""
        parts = {
            "Landlock (Linux 5.13 or later, started with landlock among lsm=)": self.landlock,
            "seccomp (pip install pyseccomp, and libseccomp.so.2 of the package libseccomp2)": self.seccomp,
            f"an unprivileged user (run as another than root, or where user {_NOBODY} can be taken)": self.unprivileged,
        }
        return [part for part, works in parts.items() if not works]

    def describe(self) -> str:
        """Describe the confinement in one line."""
        if self.missing:
            return f"partial: without {'; without '.join(self.missing)}"
        return f"full: Landlock {self.landlock}, seccomp, no privileges, limits of memory and time"


def confine(limits: Limits, confinement: Confinement, parent: int) -> None:
    """Confine this process with the parts that work, and have the kernel kill it when its parent process ends.

    Raises OSError if a part fails that worked in probe.
    """
    _set_limits(limits)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if confinement.unprivileged:
        drop_privileges()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which resets it
    if os.getppid() != parent:  # the parent had already ended
        os.kill(os.getpid(), signal.SIGKILL)
    if confinement.landlock:
        forbid_files(confinement.landlock)
    if confinement.seccomp:
        _filter().load()


def probe() -> Confinement:
    """Test in a child process which parts of the confinement work on this machine."""
    # Load libraries while files can still be opened.
    _libc()
    with suppress(ImportError, RuntimeError, OSError):  # not installed, no libseccomp, or one too old
        _filter()
    child = os.fork()
    if child == 0:
        try:
            working = _try_all()
        except BaseException:
            working = 0
        os._exit(working)
    working = max(0, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return Confinement(landlock_version() if working & 1 else 0, bool(working & 2), bool(working & 4))


def _try_all() -> int:
    """Return the sum of: 1 if Landlock prevents opening files, 2 if seccomp prevents sockets, 4 if not root."""
    working = 0
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    with suppress(OSError):
        drop_privileges()
        working |= 4
    with suppress(OSError):
        forbid_files(landlock_version())
        working |= _fails(errno.EACCES, lambda: os.open("/", os.O_RDONLY))
    with suppress(ImportError, RuntimeError, OSError):
        _filter().load()
        # Landlock would say EACCES.
        opening = _fails(errno.EPERM, lambda: os.open("/", os.O_RDONLY))
        working |= 2 * (opening and _fails(errno.EPERM, socket.socket))
    return working


def _fails(number: int, call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError as error:
        return error.errno == number
    return False


def _set_limits(limits: Limits) -> None:
    cpu_s = max(1, math.ceil(limits.max_cpu_s))
    maxima = {
        resource.RLIMIT_AS: limits.max_memory_bytes,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    if os.geteuid() == 0:  # it will change to nobody; the limit counts all threads of that user on this machine
        maxima[resource.RLIMIT_NPROC] = _THREADS
    for resource_type, maximum in maxima.items():
        resource.setrlimit(resource_type, (maximum, maximum))
    # SIGXCPU at the soft limit; a process that catches it is killed a second later.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))


def drop_privileges() -> None:
    """Change the user and group to nobody if this process runs as root."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def landlock_version() -> int:
    """Return the kernel's Landlock version; 0 if Landlock is unavailable or disabled."""
    return max(0, int(_libc().syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)))


def forbid_files(version: int) -> None:
    """Forbid all that Landlock handles: opening files, TCP, and signals to other processes; raises OSError."""
    rights = _FILE_RIGHTS.get(version, max(_FILE_RIGHTS.values()))
    ruleset = struct.pack(
        "3Q", (1 << rights) - 1, _TCP_RIGHTS if version >= _TCP_SINCE else 0, _SCOPES if version >= _SCOPES_SINCE else 0
    )
    # Older kernels accept the longer structure as long as the fields that they do not know are zero.
    descriptor = _check(_libc().syscall(_LANDLOCK_CREATE_RULESET, ruleset, len(ruleset), 0))
    try:
        _check(_libc().syscall(_LANDLOCK_RESTRICT_SELF, descriptor, 0))
    finally:
        os.close(descriptor)


@cache
def _filter() -> "pyseccomp.SyscallFilter":
    """Make the filter that lets every system call that is not listed fail with EPERM.

    Raises ImportError without pyseccomp, RuntimeError or OSError without a recent libseccomp.
    """
    import fcntl

    import pyseccomp as sc

    syscall_filter = sc.SyscallFilter(sc.ERRNO(errno.EPERM))
    for name in _CALLS.split():
        number = sc.resolve_syscall(sc.Arch.NATIVE, name)
        if number != -1:  # -1: unknown on this architecture or to this version of libseccomp
            syscall_filter.add_rule(sc.ALLOW, number)
    for name in ("mmap", "mprotect"):
        syscall_filter.add_rule(sc.ALLOW, name, sc.Arg(2, sc.MASKED_EQ, mmap.PROT_EXEC, 0))
    syscall_filter.add_rule(sc.ALLOW, "clone", sc.Arg(0, sc.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD))
    # A filter cannot read clone3's arguments, which are in memory; on ENOSYS the C library falls back to clone.
    syscall_filter.add_rule(sc.ERRNO(errno.ENOSYS), "clone3")
    # Python's mmap duplicates the file descriptor.
    syscall_filter.add_rule(sc.ALLOW, "fcntl", sc.Arg(1, sc.EQ, fcntl.F_DUPFD_CLOEXEC))
    return syscall_filter


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _prctl(option: int, value: int) -> None:
    _check(_libc().prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))))
