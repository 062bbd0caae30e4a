"""Takes all rights from this process that decoding does not need: for good, and before it reads a byte of a video.

Limits (setrlimit), no new privileges, an unprivileged user where it is root, Landlock (no file by name, no TCP, no
signals outwards) and seccomp (a list of system calls; all others fail). What is open already stays usable.

Address space that decoding took here, MiB (VmPeak, MALLOC_ARENA_MAX=2, tests/clips.py's picture, of which 198 are
Python, NumPy and FFmpeg themselves), with 3, 8 and 16 decoding threads:

    3840x2160  H.264 8 bit   556   638   883        7680x4320  H.264 8 bit   1266  1707  2215
    3840x2160  H.265 8 bit   600   718   920        7680x4320  H.265 8 bit   1272  1561  2094
    3840x2160  AV1           566   620   690        7680x4320  H.265 10 bit  1984  2368  3092

An MP4 of 539 bytes that declares 80 million samples takes 3155, of which 2852 are resident. The default limit of 2560
lets the honest ones through, up to 8 threads for 10 bit, and gives the other one 48 resident.
"""

import ctypes
import errno
import math
import mmap
import os
import resource
import signal
import socket
from collections.abc import Callable
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
# How many of the rights over files each version of Landlock knows, from EXECUTE on: all are taken.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP_RIGHTS, _TCP_SINCE = 0b11, 4
_SCOPES, _SCOPES_SINCE = 0b11, 6  # abstract unix sockets, signals

_CLONE_THREAD = 0x00010000
_PROT_EXEC = mmap.PROT_EXEC

# What Python and FFmpeg use on files that are open, on memory and for threads. Nothing here takes a path, makes a
# socket or a process, or reaches another process.
_CALLS = """
    read pread64 lseek fstat close sendto recvfrom
    brk munmap mremap madvise
    futex set_robust_list rseq sched_yield sched_getaffinity gettid getpid exit exit_group restart_syscall
    rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack
    clock_gettime clock_nanosleep nanosleep gettimeofday time getrandom
"""


@dataclass(frozen=True)
class Confinement:
    """What this machine lets a process take from itself, tried out and not only asked for."""

    landlock: int
    """The kernel's version of Landlock; 0 where there is none."""
    seccomp: bool
    unprivileged: bool
    """Whether decoding runs as a user without privileges."""

    @property
    def missing(self) -> tuple[str, ...]:
        """What is not there, each with its remedy."""
        told = []
        if not self.landlock:
            told.append("Landlock (Linux 5.13 or later, started with landlock among lsm=)")
        if not self.seccomp:
            told.append("seccomp (pip install pyseccomp, and libseccomp.so.2 of the package libseccomp2)")
        if not self.unprivileged:
            told.append(
                f"an unprivileged user (run as another than root, or where user {_NOBODY} can be taken)"
            )
        return tuple(told)

    def describe(self) -> str:
        """One line for people."""
        if self.missing:
            return f"partial: without {'; without '.join(self.missing)}"
        return f"full: Landlock {self.landlock}, seccomp, no privileges, limits of memory and time"


def confine(limits: Limits, parts: Confinement, parent: int) -> None:
    """Take all rights away, by what was found to work here, and be killed when the parent process ends.

    Raises:
        OSError: a part that worked when it was tried does not work now; the caller must not go on.
    """
    _limit(limits)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if parts.unprivileged:
        drop_privileges()
    _die_with(parent)  # a change of user undoes it
    if parts.landlock:
        forbid_files(parts.landlock)
    if parts.seccomp:
        forbid_calls()


def _die_with(parent: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        os.kill(os.getpid(), signal.SIGKILL)


def probe() -> Confinement:
    """Find out in a process of its own what works here."""
    prepare()
    child = os.fork()
    if child == 0:
        found = 0
        try:
            found = _try_all()
        finally:
            os._exit(found)
    _, status = os.waitpid(child, 0)
    found = max(0, os.waitstatus_to_exitcode(status))
    return Confinement(landlock_version() if found & 1 else 0, bool(found & 2), bool(found & 4))


def prepare() -> None:
    """Load what taking rights away needs, while files can be opened."""
    _libc()
    try:
        _filter()
    except (ImportError, RuntimeError, OSError):  # not installed, no libseccomp, or one too old
        _filter.cache_clear()


def _try_all() -> int:
    """1: files cannot be opened for Landlock, 2: nor sockets made for seccomp, 4: and this is not root."""
    found = 0
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    try:
        drop_privileges()
        found |= 4
    except OSError:
        pass
    try:
        forbid_files(landlock_version())
        found |= _fails(errno.EACCES, lambda: os.close(os.open("/", os.O_RDONLY)))
    except OSError:
        pass
    try:
        forbid_calls()
        # Landlock would say EACCES.
        opening = _fails(errno.EPERM, lambda: os.close(os.open("/", os.O_RDONLY)))
        found |= 2 * (opening and _fails(errno.EPERM, lambda: socket.socket().close()))
    except (ImportError, RuntimeError, OSError):
        pass
    return found


def _fails(number: int, call: Callable[[], None]) -> bool:
    try:
        call()
    except OSError as error:
        return error.errno == number
    return False


def _limit(limits: Limits) -> None:
    cpu_s = max(1, math.ceil(limits.max_cpu_s))
    for what, most in (
        (resource.RLIMIT_AS, limits.max_memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    if os.geteuid() == 0:  # becomes nobody soon: all of that user's threads count, here and elsewhere
        resource.setrlimit(resource.RLIMIT_NPROC, (_THREADS, _THREADS))
    # SIGXCPU first; whoever catches that is killed a second later.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))


def drop_privileges() -> None:
    """Become nobody, if this is root."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


def landlock_version() -> int:
    """Of the kernel; 0 where Landlock is not there or not switched on."""
    version = _libc().syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    return max(0, int(version))


def forbid_files(version: int) -> None:
    """By Landlock: every right it knows is handled, and no rule gives one back.

    Raises:
        OSError: the kernel refuses.
    """
    rights = _FILE_RIGHTS.get(version, max(_FILE_RIGHTS.values()))
    ruleset = _Ruleset(
        (1 << rights) - 1,
        _TCP_RIGHTS if version >= _TCP_SINCE else 0,
        _SCOPES if version >= _SCOPES_SINCE else 0,
    )
    # A kernel that knows fewer fields takes the longer structure, as the rest of it is zeros.
    number = _syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(ruleset), ctypes.sizeof(ruleset), 0)
    try:
        _syscall(_LANDLOCK_RESTRICT_SELF, number, 0)
    finally:
        os.close(number)


def forbid_calls() -> None:
    """By seccomp: from here on every system call that is not listed fails with EPERM.

    Raises:
        ImportError: pyseccomp is not installed.
        RuntimeError: libseccomp is not.
        OSError: the kernel refuses.
    """
    _filter().load()


@cache
def _filter() -> "pyseccomp.SyscallFilter":
    import fcntl

    import pyseccomp as sc

    made = sc.SyscallFilter(sc.ERRNO(errno.EPERM))
    for name in _CALLS.split():
        number = sc.resolve_syscall(sc.Arch.NATIVE, name)
        if number != -1:  # one that this architecture, or an older libseccomp, does not know
            made.add_rule(sc.ALLOW, number)
    for name in ("mmap", "mprotect"):
        made.add_rule(sc.ALLOW, name, sc.Arg(2, sc.MASKED_EQ, _PROT_EXEC, 0))
    made.add_rule(sc.ALLOW, "clone", sc.Arg(0, sc.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD))
    # Its arguments lie in memory, where a filter cannot look: the C library then takes clone.
    made.add_rule(sc.ERRNO(errno.ENOSYS), "clone3")
    # Python's mmap keeps a copy of the number of its file.
    made.add_rule(sc.ALLOW, "fcntl", sc.Arg(1, sc.EQ, fcntl.F_DUPFD_CLOEXEC))
    return made


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _syscall(number: int, *arguments: object) -> int:
    result = int(_libc().syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _prctl(option: int, value: int) -> None:
    unused = ctypes.c_ulong(0)
    if _libc().prctl(option, ctypes.c_ulong(value), unused, unused, unused) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
