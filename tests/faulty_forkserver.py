"""A keeper whose cells go wrong where a video says so in its last bytes; tests start it in the place of model.sandbox.forkserver.

    python -m tests.faulty_forkserver [without_landlock] [without_seccomp] [root_only] CONTROL

All of it happens behind the confinement that a cell takes on by itself: nothing here could be done in production.
"""

import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyseccomp

from model.errors import DamagedVideoError
from model.sandbox import confine, decode_process, forkserver, ipc, sandbox
from model.sandbox.decode_process import Given
from model.sandbox.sandbox import Sandbox
from model.video import Limits

MARK = b"fault:"
_TRAILER_BYTES = 40
_decode = decode_process._decode


def faulty_sandbox(*without: str) -> Sandbox:
    """With cells that go wrong, and without parts of their confinement: as on machines that have none of them."""
    program = sandbox.PROGRAM
    sandbox.PROGRAM = ("-P", "-m", "tests.faulty_forkserver", *without)
    try:
        return Sandbox()
    finally:
        sandbox.PROGRAM = program


def marked_bytes(video: bytes, fault: str) -> bytes:
    """The video, whose cell will go wrong; to all others nothing is wrong with it."""
    assert fault in FAULTS
    return video + MARK + fault.encode()


def main() -> None:
    *without, control = sys.argv[1:]
    for name in without:
        _TAKEN_AWAY[name]()
    sys.argv = ["tests.faulty_forkserver", control]
    decode_process._decode = _decode_or_fail
    forkserver.main()


def _without_landlock() -> None:
    confine.landlock_version = lambda: 0


def _without_seccomp() -> None:
    sys.modules["pyseccomp"] = None  # type: ignore[assignment]


def _root_only() -> None:
    def refuse() -> None:
        raise OSError(22, "no such user here")

    confine.drop_privileges = refuse


_TAKEN_AWAY = {
    "without_landlock": _without_landlock,
    "without_seccomp": _without_seccomp,
    "root_only": _root_only,
}


def _decode_or_fail(line: socket.socket, given: Given, limits: Limits) -> None:
    os.lseek(given.video, -_TRAILER_BYTES, os.SEEK_END)
    _, mark, name = os.read(given.video, _TRAILER_BYTES).partition(MARK)
    os.lseek(given.video, 0, os.SEEK_SET)
    if mark:
        FAULTS[name.decode()](line)
    else:
        _decode(line, given, limits)


def _opened(line: socket.socket) -> ipc.Order:
    ipc.send(line, {"declared_duration_s": 1.0})
    message = ipc.receive(line)
    assert message is not None
    return ipc.Order(**message)


def _frame(line: socket.socket, **changes: Any) -> None:
    ipc.send(line, {"slot": 0, "height": 36, "width": 64, "at": 0} | changes)


def _after_a_frame(then: Callable[[], Any]) -> Callable[[socket.socket], None]:
    def fault(line: socket.socket) -> None:
        _opened(line)
        _frame(line)
        then()

    return fault


def _saying(**changes: Any) -> Callable[[socket.socket], None]:
    """A frame's message that is not as it should be, after one that is."""

    def fault(line: socket.socket) -> None:
        _opened(line)
        _frame(line)
        _frame(line, **changes)

    return fault


def _sending(content: bytes) -> Callable[[socket.socket], None]:
    def fault(line: socket.socket) -> None:
        line.send(content)

    return fault


def _ending(**changes: Any) -> Callable[[socket.socket], None]:
    """A last message that is not as it should be."""
    media = {
        "duration_s": 1.0, "width": 64, "height": 36, "frames_decoded": 1, "average_fps": 1.0,
        "variable_frame_rate": False, "rotation_deg": 0, "looked_at": 1.0, "damaged": [[0.5, 0.6]],
        "start_offset_s": 0.0,
    }  # fmt: skip

    def fault(line: socket.socket) -> None:
        _opened(line)
        _frame(line)
        ipc.send(
            line, {"media": {name: value for name, value in (media | changes).items() if value != "gone"}}
        )

    return fault


def _endless(line: socket.socket) -> None:
    _opened(line)
    _frame(line)
    while True:
        ipc.send(line, {"again": True, "at": 0})


def _repeating(line: socket.socket) -> None:
    _opened(line)
    ipc.send(line, {"again": True, "at": 0})


def _spin() -> None:
    while True:
        pass


def _catch_and_spin() -> None:
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    _spin()


def _deaf(line: socket.socket) -> None:
    """Closes the line and lives on."""
    line.close()
    time.sleep(1000)


def _native_memory() -> None:
    mmap.mmap(-1, 64 * 1024**3)


def _raise_hidden() -> None:
    """As FFmpeg's own errors come, wrapped by those who catch them."""
    try:
        raise MemoryError
    except MemoryError as error:
        raise DamagedVideoError("no memory") from error


def _raise_odd() -> None:
    raise KeyError("odd")


def _report(line: socket.socket) -> None:
    """What this process can still do, and what the kernel refused for another reason than that it may not."""
    found = {name: _outcome(attempt) for name, attempt in ATTEMPTS.items()}
    done = [name for name, outcome in found.items() if outcome == 0]
    reached = [name for name, outcome in found.items() if outcome not in (0, errno.EPERM, errno.ENOSYS)]
    raise DamagedVideoError(json.dumps({"tried": len(found), "done": done, "reached": reached[:6]}))


def _outcome(attempt: Callable[[], Any]) -> int | None:
    """The number of its error; 0 for none."""
    try:
        attempt()
    except OSError as error:
        return error.errno
    return 0


def _system(name: str, *arguments: int) -> int:
    result = int(libc.syscall(ctypes.c_long(NUMBERS[name]), *(ctypes.c_long(one) for one in arguments)))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def _call(name: str, *arguments: int) -> Callable[[], Any]:
    NUMBERS[name] = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    return partial(_system, name, *arguments)


def _exit_child(child: int) -> None:
    if child == 0:
        os._exit(0)


libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
NUMBERS = {"clone": pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, "clone")}
_HERE = str(Path(__file__))

ATTEMPTS: dict[str, Callable[[], Any]] = {
    "open": lambda: os.open(_HERE, os.O_RDONLY),
    "open to write": lambda: os.open("/tmp/mmad-sandbox", os.O_WRONLY | os.O_CREAT),
    "list": lambda: list(Path("/").iterdir()),
    "stat": lambda: Path("/").stat(),
    "make a folder": lambda: Path("/tmp/mmad-sandbox.d").mkdir(),
    "remove": lambda: Path("/tmp/mmad-sandbox").unlink(),
    "change folder": lambda: os.chdir("/"),
    "socket": lambda: socket.socket(socket.AF_INET),
    "tcp": lambda: socket.socket(socket.AF_INET).bind(("127.0.0.1", 0)),
    "unix socket": lambda: socket.socket(socket.AF_UNIX),
    "socketpair": lambda: socket.socketpair(),
    "fork": lambda: _exit_child(os.fork()),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(os.getpid(), 0),
    "executable memory": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "a file in memory": lambda: os.memfd_create("more"),
    "a pipe": lambda: os.pipe(),
    "limits": _call("prlimit64", 0, resource.RLIMIT_CORE, 0, 0),
    "be root": lambda: os.setuid(0),
    "write": lambda: os.write(1, b"x"),
    "a process by clone": lambda: _exit_child(_system("clone", signal.SIGCHLD, 0, 0, 0, 0)),
    "clone3": _call("clone3", 0, 0),
    "ptrace": _call("ptrace", 16, 0, 0, 0),
    "another's memory": _call("process_vm_readv", 1, 0, 0, 0, 0, 0),
    "pidfd_open": _call("pidfd_open", 1, 0),
    "unshare": _call("unshare", 0x10000000),
    "io_uring": _call("io_uring_setup", 1, 0),
    "bpf": _call("bpf", 0, 0, 0),
    "add_key": _call("add_key", 0, 0, 0, 0, 0),
    "openat2": _call("openat2", -100, 0, 0, 0),
    "another filter": _call("prctl", 22, 2, 0, 0, 0),
    "shared memory by key": _call("shmget", 0, 4096, 0o1600),
    "receive files": _call("recvmsg", 0, 0, 0),
    "grow a file": lambda: os.ftruncate(1, 10),
}

FAULTS: dict[str, Callable[[socket.socket], None]] = {
    "report": _report,
    "crash": lambda _: ctypes.string_at(0),
    "crash amid": _after_a_frame(lambda: ctypes.string_at(0)),
    "abort amid": _after_a_frame(os.abort),
    "exit amid": _after_a_frame(lambda: os._exit(3)),
    "odd": lambda _: _raise_odd(),
    "hang": lambda _: time.sleep(1000),
    "hang amid": _after_a_frame(lambda: time.sleep(1000)),
    "deaf": _deaf,
    "spin": lambda _: _spin(),
    "catch and spin": lambda _: _catch_and_spin(),
    "hog": lambda _: bytearray(64 * 1024**3),
    "hog natively": lambda _: _native_memory(),
    "hog amid": _after_a_frame(lambda: bytearray(64 * 1024**3)),
    "hidden": lambda _: _raise_hidden(),
    "no json": _sending(b"\xff\xfe{}"),
    "not an object": _sending(b"[1]"),
    "nested": _sending(b"[" * 100_000),
    "long": _sending(b'{"a": "' + b"x" * 150_000 + b'"}'),
    "no duration": _sending(b'{"declared_duration_s": NaN}'),
    "negative duration": _sending(b'{"declared_duration_s": -1}'),
    "unknown error": _sending(b'{"error": "internal_error", "detail": "words of its own"}'),
    "error without words": _sending(b'{"error": "damaged_video"}'),
    "control letters": _sending(
        b'{"error": "damaged_video", "detail": "a\\u001b[2J\\ud800b' + b"x" * 9000 + b'"}'
    ),
    "no slot": _saying(slot=None),
    "slot too high": _saying(slot=32),
    "slot below": _saying(slot=-1),
    "slot of truth": _saying(slot=True),
    "other size": _saying(width=63),
    "no size": _saying(height=0),
    "no place": _saying(at="there"),
    "repeat of nothing": _repeating,
    "endless": _endless,
    "media of another form": _ending(width="64"),
    "media without": _ending(width="gone"),
    "media with more": _ending(codec="h264"),
    "media of no number": _ending(average_fps=1e300),
    "media of truth": _ending(variable_frame_rate=1),
    "media of odd pairs": _ending(damaged=[[1, 2, 3]]),
    "media": _ending(),
}


if __name__ == "__main__":
    main()
