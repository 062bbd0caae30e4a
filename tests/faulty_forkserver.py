"""A forkserver whose decoder processes fail as the last bytes of a video say. Tests run it instead of
model.sandbox.forkserver:

    python -m tests.faulty_forkserver [without_landlock] [without_seccomp] [root_only] CONTROL

The faults run inside the confinement of the decoder process, as code injected by a hostile video would.
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
from model.sandbox.decode_process import DecodeFiles
from model.sandbox.sandbox import Sandbox
from model.video import Limits

MARK = b"fault:"
_TRAILER_BYTES = 40
_decode = decode_process._decode


def faulty_sandbox(*without: str) -> Sandbox:
    """Make a sandbox whose decoder processes fail on marked videos, without some parts of the confinement."""
    program = sandbox.PROGRAM
    sandbox.PROGRAM = ("-P", "-m", "tests.faulty_forkserver", *without)
    try:
        return Sandbox()
    finally:
        sandbox.PROGRAM = program


def marked_bytes(video: bytes, fault: str) -> bytes:
    """Mark a video with a fault; other decoders ignore the mark."""
    assert fault in FAULTS
    return video + MARK + fault.encode()


def main() -> None:
    *without, control = sys.argv[1:]
    for name in without:
        _REMOVALS[name]()
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


_REMOVALS = {"without_landlock": _without_landlock, "without_seccomp": _without_seccomp, "root_only": _root_only}


def _decode_or_fail(line: socket.socket, given: DecodeFiles, limits: Limits) -> None:
    os.lseek(given.video, -_TRAILER_BYTES, os.SEEK_END)
    _, mark, name = os.read(given.video, _TRAILER_BYTES).partition(MARK)
    os.lseek(given.video, 0, os.SEEK_SET)
    if mark:
        FAULTS[name.decode()](line)
    else:
        _decode(line, given, limits)


def _send_opened(line: socket.socket) -> ipc.FrameRequest:
    ipc.send(line, {"declared_duration_s": 1.0})
    message = ipc.receive(line)
    assert message is not None
    return ipc.FrameRequest(**message)


def _send_frame(line: socket.socket, **changes: Any) -> None:
    ipc.send(line, {"slot": 0, "height": 36, "width": 64, "at": 0} | changes)


def _after_frame(then: Callable[[], Any]) -> Callable[[socket.socket], None]:
    def fault(line: socket.socket) -> None:
        _send_opened(line)
        _send_frame(line)
        then()

    return fault


def _send_frame_with(**changes: Any) -> Callable[[socket.socket], None]:
    """Send a valid frame message, then one with changes."""

    def fault(line: socket.socket) -> None:
        _send_opened(line)
        _send_frame(line)
        _send_frame(line, **changes)

    return fault


def _send_bytes(content: bytes) -> Callable[[socket.socket], None]:
    def fault(line: socket.socket) -> None:
        line.send(content)

    return fault


def _send_media_with(**changes: Any) -> Callable[[socket.socket], None]:
    """Send a valid frame message, then a final message with changes."""
    media = {
        "duration_s": 1.0, "width": 64, "height": 36, "frames_decoded": 1, "average_fps": 1.0,
        "variable_frame_rate": False, "rotation_deg": 0, "analysed_fraction": 1.0, "damaged": [[0.5, 0.6]],
        "start_offset_s": 0.0,
    }  # fmt: skip

    def fault(line: socket.socket) -> None:
        _send_opened(line)
        _send_frame(line)
        ipc.send(line, {"media": {name: value for name, value in (media | changes).items() if value != "gone"}})

    return fault


def _repeat_forever(line: socket.socket) -> None:
    _send_opened(line)
    _send_frame(line)
    while True:
        ipc.send(line, {"again": True, "at": 0})


def _repeat_without_frame(line: socket.socket) -> None:
    _send_opened(line)
    ipc.send(line, {"again": True, "at": 0})


def _spin() -> None:
    while True:
        pass


def _ignore_sigxcpu_and_spin() -> None:
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    _spin()


def _close_socket(line: socket.socket) -> None:
    """Close the socket but do not exit."""
    line.close()
    time.sleep(1000)


def _exhaust_memory_natively() -> None:
    mmap.mmap(-1, 64 * 1024**3)


def _raise_wrapped_memory_error() -> None:
    """Raise a MemoryError wrapped in another error, as those of FFmpeg are."""
    try:
        raise MemoryError
    except MemoryError as error:
        raise DamagedVideoError("no memory") from error


def _raise_key_error() -> None:
    raise KeyError("odd")


def _report(line: socket.socket) -> None:
    """Report which attempts succeed, and which the kernel refuses for other reasons than missing permission."""
    outcomes = {name: _try(attempt) for name, attempt in ATTEMPTS.items()}
    done = [name for name, outcome in outcomes.items() if outcome == 0]
    reached = [name for name, outcome in outcomes.items() if outcome not in (0, errno.EPERM, errno.ENOSYS)]
    raise DamagedVideoError(json.dumps({"tried": len(outcomes), "done": done, "reached": reached[:6]}))


def _try(attempt: Callable[[], Any]) -> int | None:
    """Return the errno of an attempt, or 0."""
    try:
        attempt()
    except OSError as error:
        return error.errno
    return 0


def _syscall(name: str, *arguments: int) -> int:
    result = int(libc.syscall(ctypes.c_long(NUMBERS[name]), *(ctypes.c_long(one) for one in arguments)))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def _attempt_syscall(name: str, *arguments: int) -> Callable[[], Any]:
    NUMBERS[name] = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    return partial(_syscall, name, *arguments)


def _exit_slowly_after_memory_error() -> None:
    exit_now = os._exit

    def exit_slowly(status: int) -> None:
        time.sleep(0.3)
        exit_now(status)

    os._exit = exit_slowly  # type: ignore[assignment]
    raise MemoryError


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
    "make folder": lambda: Path("/tmp/mmad-sandbox.d").mkdir(),
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
    "memfd": lambda: os.memfd_create("more"),
    "pipe": lambda: os.pipe(),
    "limits": _attempt_syscall("prlimit64", 0, resource.RLIMIT_CORE, 0, 0),
    "become root": lambda: os.setuid(0),
    "write": lambda: os.write(1, b"x"),
    "clone": lambda: _exit_child(_syscall("clone", signal.SIGCHLD, 0, 0, 0, 0)),
    "clone3": _attempt_syscall("clone3", 0, 0),
    "ptrace": _attempt_syscall("ptrace", 16, 0, 0, 0),
    "read another process": _attempt_syscall("process_vm_readv", 1, 0, 0, 0, 0, 0),
    "pidfd_open": _attempt_syscall("pidfd_open", 1, 0),
    "unshare": _attempt_syscall("unshare", 0x10000000),
    "io_uring": _attempt_syscall("io_uring_setup", 1, 0),
    "bpf": _attempt_syscall("bpf", 0, 0, 0),
    "add_key": _attempt_syscall("add_key", 0, 0, 0, 0, 0),
    "openat2": _attempt_syscall("openat2", -100, 0, 0, 0),
    "seccomp filter": _attempt_syscall("prctl", 22, 2, 0, 0, 0),
    "shared memory by key": _attempt_syscall("shmget", 0, 4096, 0o1600),
    "receive descriptors": _attempt_syscall("recvmsg", 0, 0, 0),
    "grow file": lambda: os.ftruncate(1, 10),
}

FAULTS: dict[str, Callable[[socket.socket], None]] = {
    "report": _report,
    "crash": lambda _: ctypes.string_at(0),
    "crash after frame": _after_frame(lambda: ctypes.string_at(0)),
    "abort after frame": _after_frame(os.abort),
    "exit after frame": _after_frame(lambda: os._exit(3)),
    "KeyError": lambda _: _raise_key_error(),
    "hang": lambda _: time.sleep(1000),
    "hang after frame": _after_frame(lambda: time.sleep(1000)),
    "close socket": _close_socket,
    "spin": lambda _: _spin(),
    "ignore SIGXCPU and spin": lambda _: _ignore_sigxcpu_and_spin(),
    "exhaust memory": lambda _: bytearray(64 * 1024**3),
    "exhaust memory natively": lambda _: _exhaust_memory_natively(),
    "exhaust memory after frame": _after_frame(lambda: bytearray(64 * 1024**3)),
    "wrapped MemoryError": lambda _: _raise_wrapped_memory_error(),
    "MemoryError, slow exit": lambda _: _exit_slowly_after_memory_error(),
    "no JSON": _send_bytes(b"\xff\xfe{}"),
    "not an object": _send_bytes(b"[1]"),
    "nested": _send_bytes(b"[" * 100_000),
    "long": _send_bytes(b'{"a": "' + b"x" * 150_000 + b'"}'),
    "no duration": _send_bytes(b'{"declared_duration_s": NaN}'),
    "negative duration": _send_bytes(b'{"declared_duration_s": -1}'),
    "unknown error": _send_bytes(b'{"error": "internal_error", "detail": "words of its own"}'),
    "error without detail": _send_bytes(b'{"error": "damaged_video"}'),
    "control characters": _send_bytes(
        b'{"error": "damaged_video", "detail": "a\\u001b[2J\\ud800b' + b"x" * 9000 + b'"}'
    ),
    "no slot": _send_frame_with(slot=None),
    "slot too high": _send_frame_with(slot=32),
    "negative slot": _send_frame_with(slot=-1),
    "boolean slot": _send_frame_with(slot=True),
    "other size": _send_frame_with(width=63),
    "no size": _send_frame_with(height=0),
    "invalid position": _send_frame_with(at="there"),
    "repeat without frame": _repeat_without_frame,
    "endless repeats": _repeat_forever,
    "media with text width": _send_media_with(width="64"),
    "media without width": _send_media_with(width="gone"),
    "media with extra field": _send_media_with(codec="h264"),
    "media with huge fps": _send_media_with(average_fps=1e300),
    "media with integer flag": _send_media_with(variable_frame_rate=1),
    "media with triples": _send_media_with(damaged=[[1, 2, 3]]),
    "media": _send_media_with(),
}


if __name__ == "__main__":
    main()
