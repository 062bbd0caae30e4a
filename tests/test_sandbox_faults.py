"""Sandboxed decoder: confinement, faults of decoder processes, and lost processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from structlog.testing import capture_logs

from model.errors import DecoderCrashedError, DecoderKilledError, DecoderMemoryError, DecoderTimeoutError, VideoError
from model.sandbox import client
from model.sandbox.client import SandboxedVideo
from model.sandbox.ipc import IpcError
from model.sandbox.sandbox import Sandbox
from model.video import Limits, Media
from tests import clips
from tests.conftest import descendants, wait_for
from tests.faulty_forkserver import ATTEMPTS, FAULTS, faulty_sandbox
from tests.sandboxed_decoding import (
    SHORT_STALL,
    assert_next_video_decodes,
    decode_faulty,
    faulty_video,
    forkserver_pid,
    read_frames,
)


@pytest.fixture(scope="module")
def failing_sandbox() -> Iterator[Sandbox]:
    """Sandbox whose decoder processes fail as a video's last bytes say; see tests/faulty_forkserver.py."""
    sandboxed = faulty_sandbox()
    yield sandboxed
    sandboxed.close()


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.pattern(tmp_path_factory.mktemp("small") / "small.mp4", size="64x36", seconds=1)


def test_decoder_process_is_denied_every_attempt(failing_sandbox: Sandbox, small_clip: Path) -> None:
    """The attempts run where a video's first byte would be read."""
    if failing_sandbox.confinement.missing:
        pytest.skip(failing_sandbox.describe())
    with pytest.raises(VideoError) as error:
        decode_faulty(failing_sandbox, small_clip, "report")
    assert json.loads(str(error.value)) == {"tried": len(ATTEMPTS), "done": [], "reached": []}
    assert_next_video_decodes(failing_sandbox, small_clip)


def test_landlock_alone_denies_files_and_network(small_clip: Path) -> None:
    with closing(faulty_sandbox("without_seccomp")) as sandboxed:
        if not sandboxed.confinement.landlock:
            pytest.skip(sandboxed.describe())
        with pytest.raises(VideoError) as error:
            decode_faulty(sandboxed, small_clip, "report")
        done = set(json.loads(str(error.value))["done"])
        assert "fork" in done  # an attempt that seccomp would deny
        assert not done & {"open", "open to write", "list", "make a folder", "exec"}
        assert "tcp" not in done or sandboxed.confinement.landlock < 4


def test_seccomp_alone_denies_every_attempt(small_clip: Path) -> None:
    with closing(faulty_sandbox("without_landlock")) as sandboxed:
        if not sandboxed.confinement.seccomp:
            pytest.skip(sandboxed.describe())
        with pytest.raises(VideoError) as error:
            decode_faulty(sandboxed, small_clip, "report")
        assert json.loads(str(error.value))["done"] == []


def test_decoder_process_has_limits_and_no_worker_state(small_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMAD_WEBHOOK_SECRET", "whsec_x")
    with closing(faulty_sandbox()) as sandboxed:
        limits = Limits(max_memory_bytes=1024**3, max_cpu_s=9.5)
        frames = sandboxed.open(faulty_video(small_clip, "hang after frame"), limits).frames(15, 64, 36)
        next(frames)
        [pid] = descendants(forkserver_pid(sandboxed))
        proc = Path(f"/proc/{pid}")
        limits_table = {line[:25].strip(): line[25:].split()[:2] for line in (proc / "limits").read_text().splitlines()}
        status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
        files = sorted(str(entry.readlink()) for entry in (proc / "fd").iterdir())
        assert limits_table["Max address space"] == [str(1024**3)] * 2
        assert limits_table["Max cpu time"] == ["10", "11"]
        assert limits_table["Max file size"] == limits_table["Max core file size"] == ["0", "0"]
        assert limits_table["Max open files"] == ["16", "16"]
        assert status["NoNewPrivs"] == "1"
        assert status["CapEff"] == status["CapPrm"] == "0" * 16
        assert "0" not in status["Uid"].split() + status["Gid"].split() + status["Groups"].split()
        assert status["Seccomp"] == "2" or not sandboxed.confinement.seccomp
        assert files[:3] == ["/dev/null"] * 3
        line, memory, video = sorted(files[3:], key=lambda name: ("socket" not in name, "memfd" not in name))
        assert line.startswith("socket:")
        assert memory.startswith("/memfd:")
        assert "deleted" in video  # the video from memory was copied to an unlinked file
        assert b"whsec_x" not in (proc / "environ").read_bytes()
        assert int((proc / "oom_score_adj").read_text()) == 800
        frames.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fault", "limits", "error", "message"),
    [
        ("crash", Limits(), DecoderCrashedError, "SIGSEGV"),
        ("crash after frame", Limits(), DecoderCrashedError, "SIGSEGV"),
        ("abort after frame", Limits(), DecoderCrashedError, "crash"),
        ("exit after frame", Limits(), DecoderCrashedError, "exit status 3"),
        ("hang", SHORT_STALL, DecoderTimeoutError, "no frame for 1 s.*MMAD_DECODER_STALL_S"),
        ("hang after frame", SHORT_STALL, DecoderTimeoutError, "MMAD_DECODER_STALL_S"),
        ("spin", Limits(max_cpu_s=1), DecoderTimeoutError, "1 s of computing time.*MMAD_DECODER_CPU_S"),
        ("ignore SIGXCPU and spin", Limits(max_cpu_s=1), DecoderTimeoutError, "MMAD_DECODER_CPU_S"),
        ("exhaust memory", Limits(), DecoderMemoryError, "2560 MiB.*MMAD_DECODER_MEMORY_BYTES"),
        ("exhaust memory natively", Limits(), DecoderMemoryError, "MMAD_DECODER_MEMORY_BYTES"),
        ("exhaust memory after frame", Limits(), DecoderMemoryError, "MMAD_DECODER_MEMORY_BYTES"),
        ("wrapped MemoryError", Limits(), DecoderMemoryError, "MMAD_DECODER_MEMORY_BYTES"),
        ("MemoryError, slow exit", Limits(), DecoderMemoryError, "MMAD_DECODER_MEMORY_BYTES"),
        ("close socket", Limits(), DecoderKilledError, "outside"),
    ],
)
def test_decoder_fault_raises_error_and_next_video_decodes(
    failing_sandbox: Sandbox, small_clip: Path, fault: str, limits: Limits, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        decode_faulty(failing_sandbox, small_clip, fault, limits)
    assert_next_video_decodes(failing_sandbox, small_clip)


def test_unexpected_exception_is_logged(failing_sandbox: Sandbox, small_clip: Path) -> None:
    with capture_logs() as logs, pytest.raises(DecoderCrashedError, match="unexpected"):
        decode_faulty(failing_sandbox, small_clip, "KeyError")
    [entry] = logs
    assert entry["event"] == "decoder_fault"
    assert "KeyError: 'odd'" in entry["fault"]


INVALID_MESSAGES = list(FAULTS)[list(FAULTS).index("no JSON") : -1]


@pytest.mark.parametrize("fault", [fault for fault in INVALID_MESSAGES if fault != "control characters"])
def test_invalid_decoder_message_is_rejected(failing_sandbox: Sandbox, small_clip: Path, fault: str) -> None:
    with pytest.raises((DecoderCrashedError, VideoError)) as error:
        decode_faulty(failing_sandbox, small_clip, fault, Limits(max_duration_s=5, max_stall_s=30))
    assert error.type is DecoderCrashedError or fault in ("unknown error", "error without detail")
    assert_next_video_decodes(failing_sandbox, small_clip)


def test_valid_decoder_messages_are_accepted(failing_sandbox: Sandbox, small_clip: Path) -> None:
    video = failing_sandbox.open(faulty_video(small_clip, "media"), Limits())
    [frame] = read_frames(video)
    assert frame.shape == (36, 64, 3)
    assert video.media is not None
    assert video.media.damaged == ((0.5, 0.6),)


def test_error_detail_is_sanitised_and_truncated(failing_sandbox: Sandbox, small_clip: Path) -> None:
    with pytest.raises(VideoError) as error:
        decode_faulty(failing_sandbox, small_clip, "control characters")
    assert str(error.value).startswith("a?[2J?bx")
    assert len(str(error.value)) == 500


def test_externally_killed_decoder_is_no_video_error(failing_sandbox: Sandbox, small_clip: Path) -> None:
    frames = failing_sandbox.open(faulty_video(small_clip, "hang after frame"), Limits()).frames(15, 64, 36)
    next(frames)
    [pid] = descendants(forkserver_pid(failing_sandbox))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(DecoderKilledError) as error:
        next(frames)
    assert not isinstance(error.value, VideoError)
    assert_next_video_decodes(failing_sandbox, small_clip)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP])
def test_lost_forkserver_is_restarted_and_its_decoders_end(
    small_clip: Path, signal_number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_END_TIMEOUT_S", 1.0)
    with closing(faulty_sandbox()) as sandboxed:
        frames = sandboxed.open(faulty_video(small_clip, "hang after frame"), SHORT_STALL).frames(15, 64, 36)
        next(frames)
        forkserver = forkserver_pid(sandboxed)
        [pid] = descendants(forkserver)
        os.kill(forkserver, signal_number)
        with pytest.raises(DecoderKilledError):
            next(frames)
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), seconds=10)
        with capture_logs() as logs:
            assert_next_video_decodes(sandboxed, small_clip)
        assert [entry["event"] for entry in logs] == ["decoder_started_again"]
        assert forkserver_pid(sandboxed) != forkserver


def test_killed_worker_leaves_no_process(small_clip: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from model.video import Limits\n"
        "from tests.conftest import descendants\n"
        "from tests.faulty_forkserver import faulty_sandbox\n"
        "from tests.sandboxed_decoding import faulty_video, forkserver_pid\n"
        "sandbox = faulty_sandbox()\n"
        "frames = sandbox.open(faulty_video(Path(sys.argv[1]), 'hang after frame'), Limits()).frames(15, 64, 36)\n"
        "next(frames)\n"
        "print(forkserver_pid(sandbox), *descendants(forkserver_pid(sandbox)), flush=True)\n"
        "next(frames)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(small_clip)], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        pids = [int(pid) for pid in worker.stdout.readline().split()]
        assert len(pids) == 2
        worker.kill()
    wait_for(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()], seconds=10)


class AlarmError(Exception):
    pass


def test_alarm_while_waiting_ends_decoder_process(failing_sandbox: Sandbox, small_clip: Path) -> None:
    """Job timeouts are alarms."""

    def raise_alarm(*_: object) -> NoReturn:
        raise AlarmError

    before = signal.signal(signal.SIGALRM, raise_alarm)
    try:
        for fault in ("hang", "hang after frame"):
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(AlarmError):
                decode_faulty(failing_sandbox, small_clip, fault)
            assert descendants(forkserver_pid(failing_sandbox)) == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert_next_video_decodes(failing_sandbox, small_clip)


def test_many_videos_leave_no_descriptors_or_processes(failing_sandbox: Sandbox, small_clip: Path) -> None:
    """Videos that are finished, abandoned before or during decoding, broken, or crash the decoder."""

    def count_resources() -> tuple[int, int, int]:
        forkserver = forkserver_pid(failing_sandbox)
        return (
            len(list(Path("/proc/self/fd").iterdir())),
            len(list(Path(f"/proc/{forkserver}/fd").iterdir())),
            len(descendants(forkserver)),
        )

    assert_next_video_decodes(failing_sandbox, small_clip)
    before = count_resources()
    for turn in range(30):
        with small_clip.open("rb") as file:
            video = failing_sandbox.open(file, Limits())
            frames = video.frames(15, 64, 36)
            if turn % 3:
                next(frames)
            if turn % 3 == 1:
                frames.close()  # type: ignore[attr-defined]
            elif turn % 3 == 2:
                video.close()
        with pytest.raises(VideoError):
            decode_faulty(
                failing_sandbox, small_clip, ("crash after frame", "no JSON", "wrapped MemoryError")[turn % 3]
            )
        video.close()
        wait_for(lambda: count_resources() == before, seconds=10)
    assert_next_video_decodes(failing_sandbox, small_clip)


@pytest.mark.parametrize(
    "change",
    [
        {"duration_s": 1e11}, {"duration_s": -1.0}, {"width": 2**40}, {"frames_decoded": 10**9}, {"analysed_fraction": 2.0},
        {"damaged": ((3.0, 4.0), (1.0, 2.0))}, {"damaged": ((-1.0, 2.0),)}, {"damaged": ((1.0, 99.0),)},
    ],
)  # fmt: skip
def test_media_values_out_of_bounds_are_rejected(change: dict[str, Any]) -> None:
    video = SandboxedVideo.__new__(SandboxedVideo)
    video._limits = Limits(max_duration_s=60)
    media = Media(5.0, 64, 48, 75, 15.0, False, 0, 1.0, ((1.0, 2.0), (3.0, 5.0)))
    assert video._check_media(media) == media
    with pytest.raises(IpcError):
        video._check_media(replace(media, **change))


@pytest.mark.parametrize("fault", ["hang", "hang after frame"])
def test_waiting_callback_exception_ends_decoder(small_clip: Path, fault: str) -> None:
    calls: list[int] = []

    def interrupt() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with closing(faulty_sandbox()) as sandboxed:
        with pytest.raises(KeyboardInterrupt):
            read_frames(sandboxed.open(faulty_video(small_clip, fault), Limits(max_stall_s=250), interrupt))
        wait_for(lambda: descendants(forkserver_pid(sandboxed)) == [], seconds=20)
    assert len(calls) == 2
