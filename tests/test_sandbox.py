"""The sandboxed decoder: the same frames, and nothing that a video does reaches further than its own process."""

import io
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from structlog.testing import capture_logs

from model.bundle import Bundle
from model.detector import Detector
from model.errors import (
    DecoderCrashedError,
    DecoderKilledError,
    DecoderMemoryError,
    DecoderTimeoutError,
    SandboxError,
    VideoError,
)
from model.sandbox import client, sandbox
from model.sandbox.client import SandboxedVideo
from model.sandbox.confine import Confinement
from model.sandbox.ipc import IpcError
from model.sandbox.sandbox import Sandbox, make_decoder
from model.transforms import Region
from model.video import InProcessDecoder, Limits, Media, Video
from tests import clips
from tests.conftest import descendants, wait_for
from tests.faulty_forkserver import ATTEMPTS, FAULTS, faulty_sandbox, marked_bytes
from tests.test_detector import WhiteSpotter

# As long as a test waits for something that does not come on purpose.
SHORT = Limits(max_stall_s=1)


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    made = Sandbox()
    yield made
    made.close()


@pytest.fixture(scope="module")
def faulty() -> Iterator[Sandbox]:
    """Its cells do what a video says in its last bytes; see tests/cells.py."""
    made = faulty_sandbox()
    yield made
    made.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.pattern(tmp_path_factory.mktemp("small") / "small.mp4", size="64x36", seconds=1)


def taken(video: Video | SandboxedVideo, size: tuple[int, int] = (64, 36)) -> list[np.ndarray]:
    with closing(video):
        return list(video.frames(15, *size))


def fail(made: Sandbox, small: Path, fault: str, limits: Limits = Limits()) -> NoReturn:
    """Decode a video that makes its decoder go wrong; it raises."""
    taken(made.open(marked(small, fault), limits))
    pytest.fail(f"{fault} raised nothing")


def marked(small: Path, fault: str) -> io.BytesIO:
    return io.BytesIO(marked_bytes(small.read_bytes(), fault))


def forkserver_of(made: Sandbox) -> int:
    return made._forkserver._process.pid


def assert_well(made: Sandbox, small: Path) -> None:
    """The next video's frames are right, and no process of one before is there."""
    with small.open("rb") as file, small.open("rb") as same:
        np.testing.assert_array_equal(taken(made.open(file, Limits())), taken(InProcessDecoder().open(same, Limits())))
    assert descendants(forkserver_of(made)) == []


VARIABLE = "setpts='N/(30*TB)+floor(N/10)*0.3/TB'"


@pytest.mark.parametrize("kind", ["plain", "rotated", "odd", "variable", "strange pixels", "h265", "vp9", "av1", "ts"])
def test_frames_are_the_same_bit_for_bit(box: Sandbox, tmp_path: Path, kind: str) -> None:
    extra: dict[str, tuple[str, ...]] = {
        "h265": ("-c:v", "libx265", "-x265-params", "log-level=none"),
        "vp9": ("-c:v", "libvpx-vp9"),
        "av1": ("-c:v", "libaom-av1", "-cpu-used", "8"),
        "variable": ("-vf", VARIABLE, "-fps_mode", "vfr"),
        "strange pixels": ("-vf", "setsar=4/3"),
    }
    suffix = {"vp9": "webm", "ts": "ts", "av1": "mkv"}.get(kind, "mp4")
    if kind == "rotated":
        path = clips.rotated(tmp_path / "clip.mp4", 90)
    else:
        size = "131x97" if kind == "odd" else "320x180"
        encoder = ("-c:v", "mpeg4") if kind == "odd" else ()
        path = clips.pattern(tmp_path / f"clip.{suffix}", size=size, seconds=2, extra=encoder + extra.get(kind, ()))
    for arguments in ((15, 160, 120, Region(0, 0, 0.7, 0.9)), (12.5, 100, 100, None)):
        with path.open("rb") as here, path.open("rb") as there:
            expected = InProcessDecoder().open(here, Limits())
            found = box.open(there, Limits())
            with closing(expected), closing(found):
                assert found.declared_duration_s == expected.declared_duration_s
                frames = list(expected.frames(*arguments))
                np.testing.assert_array_equal(list(found.frames(*arguments)), frames)
                assert len(frames) > 20
                assert found.media == expected.media is not None
                assert found.tell() == expected.tell() > 0


def test_a_large_honest_video_fits_the_default_limits(box: Sandbox, tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "8k.mp4", size="7680x4320", seconds=0.2, extra=("-preset", "ultrafast", "-bf", "2"))
    with path.open("rb") as file, path.open("rb") as same:
        frames = taken(box.open(file, Limits()), (160, 90))
        np.testing.assert_array_equal(frames, taken(InProcessDecoder().open(same, Limits()), (160, 90)))


def test_where_the_file_stands_and_what_it_may_do_is_the_callers(box: Sandbox, small: Path, tmp_path: Path) -> None:
    """Also a file that is open for writing, or that has no name any more."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(small.read_bytes())
    with path.open("r+b") as file, small.open("rb") as plain:
        path.unlink()
        file.seek(17)
        found = taken(box.open(file, Limits()))
        assert file.tell() == 17
        np.testing.assert_array_equal(found, taken(box.open(plain, Limits())))
    np.testing.assert_array_equal(found, taken(box.open(io.BytesIO(small.read_bytes()), Limits())))


def test_errors_come_as_if_they_had_been_here(box: Sandbox, small: Path, tmp_path: Path) -> None:
    bad: list[tuple[Path, Limits]] = [
        (tmp_path / "text.mp4", Limits()),
        (clips.silence(tmp_path / "sound.mp4"), Limits()),
        (small, Limits(max_pixels=1000)),
        (clips.pattern(tmp_path / "long.mp4", size="64x36", seconds=4), Limits(max_duration_s=1)),
        (clips.pattern(tmp_path / "fast.mp4", size="64x36", rate="200", seconds=2), Limits(max_fps=20)),
        (tmp_path / "codec.mp4", Limits()),
    ]
    bad[0][0].write_text("nothing to see " * 100)
    bad[-1][0].write_bytes(small.read_bytes().replace(b"avc1", b"zzz1"))
    codes = set()
    for path, limits in bad:
        with path.open("rb") as here, path.open("rb") as there:
            with pytest.raises(VideoError) as expected:
                taken(InProcessDecoder().open(here, limits))
            with pytest.raises(VideoError) as found:
                taken(box.open(there, limits))
        assert (type(found.value), str(found.value)) == (type(expected.value), str(expected.value))
        codes.add(found.value.code)
    assert len(codes) == len(bad)
    assert_well(box, small)


def test_a_cell_can_do_nothing_but_decode(faulty: Sandbox, small: Path) -> None:
    """Each of these is tried where a video's first byte would be read."""
    if faulty.confinement.missing:
        pytest.skip(faulty.describe())
    with pytest.raises(VideoError) as told:
        fail(faulty, small, "report")
    assert json.loads(str(told.value)) == {"tried": len(ATTEMPTS), "done": [], "reached": []}
    assert_well(faulty, small)


def test_landlock_alone_keeps_files_and_network_away(small: Path) -> None:
    with closing(faulty_sandbox("without_seccomp")) as made:
        if not made.confinement.landlock:
            pytest.skip(made.describe())
        with pytest.raises(VideoError) as told:
            fail(made, small, "report")
        done = set(json.loads(str(told.value))["done"])
        assert "fork" in done  # the attempts are real ones
        assert not done & {"open", "open to write", "list", "make a folder", "exec"}
        assert "tcp" not in done or made.confinement.landlock < 4


def test_seccomp_alone_keeps_everything_away(small: Path) -> None:
    with closing(faulty_sandbox("without_landlock")) as made:
        if not made.confinement.seccomp:
            pytest.skip(made.describe())
        with pytest.raises(VideoError) as told:
            fail(made, small, "report")
        assert json.loads(str(told.value))["done"] == []


def test_a_cell_has_limits_and_nothing_of_the_worker(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel tells it."""
    monkeypatch.setenv("MMAD_WEBHOOK_SECRET", "whsec_x")
    with closing(faulty_sandbox()) as made:
        limits = Limits(max_memory_bytes=1024**3, max_cpu_s=9.5)
        frames = made.open(marked(small, "hang amid"), limits).frames(15, 64, 36)
        next(frames)
        [decoder] = descendants(forkserver_of(made))
        place = Path(f"/proc/{decoder}")
        told = {line[:25].strip(): line[25:].split()[:2] for line in (place / "limits").read_text().splitlines()}
        status = dict(line.split(":\t", 1) for line in (place / "status").read_text().splitlines() if ":\t" in line)
        files = sorted(str(entry.readlink()) for entry in (place / "fd").iterdir())
        assert told["Max address space"] == [str(1024**3)] * 2
        assert told["Max cpu time"] == ["10", "11"]
        assert told["Max file size"] == told["Max core file size"] == ["0", "0"]
        assert told["Max open files"] == ["16", "16"]
        assert status["NoNewPrivs"] == "1"
        assert status["CapEff"] == status["CapPrm"] == "0" * 16
        assert "0" not in status["Uid"].split() + status["Gid"].split() + status["Groups"].split()
        assert status["Seccomp"] == "2" or not made.confinement.seccomp
        assert files[:3] == ["/dev/null"] * 3
        line, memory, video = sorted(files[3:], key=lambda name: ("socket" not in name, "memfd" not in name))
        assert line.startswith("socket:")
        assert memory.startswith("/memfd:")
        assert "deleted" in video  # the copy that was made for want of a file
        assert b"whsec_x" not in (place / "environ").read_bytes()
        assert int((place / "oom_score_adj").read_text()) == 800
        frames.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fault", "limits", "error", "words"),
    [
        ("crash", Limits(), DecoderCrashedError, "SIGSEGV"),
        ("crash amid", Limits(), DecoderCrashedError, "SIGSEGV"),
        ("abort amid", Limits(), DecoderCrashedError, "crash"),
        ("exit amid", Limits(), DecoderCrashedError, "exit status 3"),
        ("hang", SHORT, DecoderTimeoutError, "no frame for 1 s.*MMAD_DECODER_STALL_S"),
        ("hang amid", SHORT, DecoderTimeoutError, "MMAD_DECODER_STALL_S"),
        ("spin", Limits(max_cpu_s=1), DecoderTimeoutError, "1 s of computing time.*MMAD_DECODER_CPU_S"),
        ("catch and spin", Limits(max_cpu_s=1), DecoderTimeoutError, "MMAD_DECODER_CPU_S"),
        ("hog", Limits(), DecoderMemoryError, "2560 MiB.*MMAD_DECODER_MEMORY_BYTES"),
        ("hog natively", Limits(), DecoderMemoryError, "MMAD_DECODER_MEMORY_BYTES"),
        ("hog amid", Limits(), DecoderMemoryError, "MMAD_DECODER_MEMORY_BYTES"),
        ("hidden", Limits(), DecoderMemoryError, "MMAD_DECODER_MEMORY_BYTES"),
        ("deaf", Limits(), DecoderKilledError, "outside"),
    ],
)
def test_a_fault_of_the_decoder_is_one_error_and_the_next_video_is_right(
    faulty: Sandbox, small: Path, fault: str, limits: Limits, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        fail(faulty, small, fault, limits)
    assert_well(faulty, small)


def test_what_nobody_thought_of_is_told_in_the_log(faulty: Sandbox, small: Path) -> None:
    with capture_logs() as logs, pytest.raises(DecoderCrashedError, match="unexpected"):
        fail(faulty, small, "odd")
    [entry] = logs
    assert entry["event"] == "decoder_fault"
    assert "KeyError: 'odd'" in entry["fault"]


LIES = list(FAULTS)[list(FAULTS).index("no json") : -1]


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie != "control letters"])
def test_no_word_of_a_cell_is_taken_on_trust(faulty: Sandbox, small: Path, lie: str) -> None:
    with pytest.raises((DecoderCrashedError, VideoError)) as told:
        fail(faulty, small, lie, Limits(max_duration_s=5, max_stall_s=30))
    assert told.type is DecoderCrashedError or lie in ("unknown error", "error without words")
    assert_well(faulty, small)


def test_a_frame_and_an_end_that_are_as_they_should_be_are_taken(faulty: Sandbox, small: Path) -> None:
    """What the lies differ from."""
    video = faulty.open(marked(small, "media"), Limits())
    [frame] = taken(video)
    assert frame.shape == (36, 64, 3)
    assert video.media is not None
    assert video.media.damaged == ((0.5, 0.6),)


def test_words_for_people_hold_nothing_else(faulty: Sandbox, small: Path) -> None:
    with pytest.raises(VideoError) as told:
        fail(faulty, small, "control letters")
    assert str(told.value).startswith("a?[2J?bx")
    assert len(str(told.value)) == 500


def test_a_container_that_declares_80_million_samples(box: Sandbox, small: Path) -> None:
    with pytest.raises(VideoError):
        taken(box.open(io.BytesIO(sample_bomb()), Limits(max_memory_bytes=1024**3)))
    assert_well(box, small)


def test_memory_that_is_too_little_is_told(box: Sandbox, tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "4k.mp4", size="3840x2160", seconds=0.2)
    with path.open("rb") as file, pytest.raises(VideoError) as told:
        taken(box.open(file, Limits(max_memory_bytes=260 * 1024**2)))
    assert told.type is DecoderMemoryError


def sample_bomb(samples: int = 80_000_000) -> bytes:
    """An MP4 of some 500 bytes whose index would take gigabytes."""

    def box(kind: bytes, *parts: bytes) -> bytes:
        content = b"".join(parts)
        return struct.pack(">I4s", 8 + len(content), kind) + content

    full = bytes(4)
    matrix = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    rate = struct.pack(">II", 1000, 1000)
    movie = box(b"mvhd", full, bytes(8), rate, struct.pack(">IH", 0x10000, 256), bytes(10), matrix, bytes(24), full)
    track = box(
        b"tkhd", b"\0\0\0\3", bytes(8), struct.pack(">III", 1, 0, 1000), bytes(16), matrix, struct.pack(">II", 64 << 16, 64 << 16)
    )  # fmt: skip
    entry = box(b"mp4v", bytes(6), struct.pack(">H", 1), bytes(16), struct.pack(">HH", 64, 64), bytes(50))
    table = box(
        b"stbl",
        box(b"stsd", full, struct.pack(">I", 1), entry),
        box(b"stts", full, struct.pack(">III", 1, samples, 1)),
        box(b"stsc", full, struct.pack(">IIII", 1, 1, samples, 1)),
        box(b"stsz", full, struct.pack(">II", 1, samples)),
        box(b"stco", full, struct.pack(">II", 1, 600)),
    )
    media = box(
        b"mdia",
        box(b"mdhd", full, bytes(8), rate, struct.pack(">HH", 0x55C4, 0)),
        box(b"hdlr", full, bytes(4), b"vide", bytes(13)),
        box(b"minf", box(b"vmhd", full, bytes(8)), table),
    )
    return box(b"ftyp", b"isom", full, b"isom") + box(b"moov", movie, box(b"trak", track, media))


def test_a_cell_killed_from_outside_is_no_fault_of_the_video(faulty: Sandbox, small: Path) -> None:
    frames = faulty.open(marked(small, "hang amid"), Limits()).frames(15, 64, 36)
    next(frames)
    [decoder] = descendants(forkserver_of(faulty))
    os.kill(decoder, signal.SIGKILL)
    with pytest.raises(DecoderKilledError) as told:
        next(frames)
    assert not isinstance(told.value, VideoError)
    assert_well(faulty, small)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_keeper_that_is_gone_takes_its_cells_along_and_is_started_again(
    small: Path, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_END_TIMEOUT_S", 1.0)
    with closing(faulty_sandbox()) as made:
        frames = made.open(marked(small, "hang amid"), SHORT).frames(15, 64, 36)
        next(frames)
        forkserver = forkserver_of(made)
        [decoder] = descendants(forkserver)
        os.kill(forkserver, how)
        with pytest.raises(DecoderKilledError):
            next(frames)
        wait_for(lambda: not Path(f"/proc/{decoder}").exists(), seconds=10)
        with capture_logs() as logs:
            assert_well(made, small)
        assert [entry["event"] for entry in logs] == ["decoder_started_again"]
        assert forkserver_of(made) != forkserver


def test_a_worker_that_is_killed_leaves_no_process(small: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from tests.test_sandbox import *\n"
        "made = faulty_sandbox()\n"
        "frames = made.open(marked(Path(sys.argv[1]), 'hang amid'), Limits()).frames(15, 64, 36)\n"
        "next(frames)\n"
        "print(forkserver_of(made), *descendants(forkserver_of(made)), flush=True)\n"
        "next(frames)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(small)], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        pids = [int(pid) for pid in worker.stdout.readline().split()]
        assert len(pids) == 2
        worker.kill()
    wait_for(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()], seconds=10)


class AlarmError(Exception):
    pass


def test_an_alarm_amid_waiting_ends_the_cell(faulty: Sandbox, small: Path) -> None:
    """As a job's timeout comes."""

    def ring(*_: object) -> NoReturn:
        raise AlarmError

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for fault in ("hang", "hang amid"):
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(AlarmError):
                fail(faulty, small, fault)
            assert descendants(forkserver_of(faulty)) == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert_well(faulty, small)


def test_nothing_is_left_over_after_many_videos(faulty: Sandbox, small: Path) -> None:
    """Finished, abandoned before and amid the frames, broken, crashed."""

    def left() -> tuple[int, int, int]:
        forkserver = forkserver_of(faulty)
        return (
            len(list(Path("/proc/self/fd").iterdir())),
            len(list(Path(f"/proc/{forkserver}/fd").iterdir())),
            len(descendants(forkserver)),
        )

    assert_well(faulty, small)
    before = left()
    for turn in range(30):
        with small.open("rb") as file:
            video = faulty.open(file, Limits())
            frames = video.frames(15, 64, 36)
            if turn % 3:
                next(frames)
            if turn % 3 == 1:
                frames.close()  # type: ignore[attr-defined]
            elif turn % 3 == 2:
                video.close()
        with pytest.raises(VideoError):
            fail(faulty, small, ("crash amid", "no json", "hidden")[turn % 3])
        video.close()
        wait_for(lambda: left() == before, seconds=10)
    assert_well(faulty, small)


def test_two_videos_at_a_time(box: Sandbox, small: Path) -> None:
    with small.open("rb") as one, small.open("rb") as other, small.open("rb") as same:
        first, second = box.open(one, Limits()), box.open(other, Limits())
        pairs = list(zip(first.frames(15, 64, 36), second.frames(15, 32, 18), strict=True))
        np.testing.assert_array_equal([pair[0] for pair in pairs], taken(InProcessDecoder().open(same, Limits())))
        first.close()
        second.close()


def test_a_slow_worker_holds_its_cell_up_and_loses_nothing(box: Sandbox, small: Path) -> None:
    """Frames so large that there is room for two; each is taken once the decoder waits for room."""
    size = (2048, 1400)
    with small.open("rb") as file, small.open("rb") as same, closing(box.open(file, Limits())) as video:
        frames = video.frames(10, *size)
        found = [next(frames)]
        [decoder] = descendants(forkserver_of(box))
        state = Path(f"/proc/{decoder}/stat")
        with closing(InProcessDecoder().open(same, Limits())) as expected:
            for place, frame in enumerate(expected.frames(10, *size)):
                if place < 7:  # later there may be no more to wait for
                    wait_for(lambda: state.read_text().rsplit(")", 1)[1].split()[0] == "S", seconds=10)
                np.testing.assert_array_equal(found[place], frame)
                found += [one for one in [next(frames, None)] if one is not None]
        assert len(found) == 10


def test_the_detector_finds_the_same(box: Sandbox, bundle: Bundle, tmp_path: Path) -> None:
    path = clips.white_between(tmp_path / "white.mp4", 10, 12, 30)
    found = []
    for decoder in (InProcessDecoder(), box):
        with path.open("rb") as file:
            detector = Detector(bundle, WhiteSpotter(bundle), decoder=decoder)
            found.append(detector.detect(file, region=Region()))
    np.testing.assert_array_equal(found[0].proposals.segments, found[1].proposals.segments)
    assert found[0].media == found[1].media
    assert len(found[1].proposals) == 1


def test_progress_of_a_video_of_no_declared_length(box: Sandbox, bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "recorded.mkv"
    path.write_bytes(clips.ffmpeg("-f", "lavfi", "-i", "testsrc2=d=8", "-live", "1", "-f", "matroska", "-"))
    told: list[float] = []
    detector = Detector(bundle, WhiteSpotter(bundle), decoder=box)
    with path.open("rb") as file:
        detector.detect(file, region=Region(), progress=lambda _stage, fraction: told.append(fraction))
    assert told == sorted(told)
    assert told[1] < 0.5 < 0.9 < told[-1] <= 1


@pytest.mark.parametrize(
    ("without", "words"),
    [("without_landlock", "Landlock"), ("without_seccomp", "pyseccomp"), ("root_only", "unprivileged")],
)
def test_what_is_missing_is_told_and_require_refuses(
    small: Path, without: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "PROGRAM", ("-P", "-m", "tests.faulty_forkserver", without))
    with capture_logs() as logs, closing(make_decoder("auto")) as made:
        assert made.describe().startswith("partial: ")
        assert words in made.describe()
        with small.open("rb") as file:
            assert len(taken(made.open(file, Limits()))) == 15
    assert [entry["state"] for entry in logs] == [made.describe()]
    with pytest.raises(SandboxError, match=f"MMAD_SANDBOX=require.*{words}"):
        make_decoder("require")


def test_the_state_is_what_was_tried(box: Sandbox) -> None:
    """In full only where all of it works; this machine may have less."""
    full = Confinement(landlock=4, seccomp=True, unprivileged=True)
    assert full.describe().startswith("full: Landlock 4")
    assert (box.describe().startswith("full")) == (not box.confinement.missing)


def test_off_decodes_here_and_says_so(small: Path) -> None:
    with capture_logs() as logs:
        made = make_decoder("off")
    assert isinstance(made, InProcessDecoder)
    assert made.describe().startswith("off: ")
    assert [entry["event"] for entry in logs] == ["sandbox_not_full"]


def test_a_keeper_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "PROGRAM", ("-c", "raise SystemExit(7)"))
    with pytest.raises(SandboxError, match=r"exit status 7.*MMAD_SANDBOX=off"):
        Sandbox()


def test_another_system_has_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert isinstance(make_decoder("auto"), InProcessDecoder)
    with pytest.raises(SandboxError, match="darwin"):
        make_decoder("require")


def test_reading_alone_is_what_the_detector_asks_for(small: Path) -> None:
    with small.open("rb") as file, closing(InProcessDecoder().open(file, Limits())) as video:
        assert isinstance(video, Video)
        assert video.tell() > 0


@pytest.mark.parametrize(
    "lie",
    [
        {"duration_s": 1e11}, {"duration_s": -1.0}, {"width": 2**40}, {"frames_decoded": 10**9}, {"analysed_fraction": 2.0},
        {"damaged": ((3.0, 4.0), (1.0, 2.0))}, {"damaged": ((-1.0, 2.0),)}, {"damaged": ((1.0, 99.0),)},
    ],
)  # fmt: skip
def test_what_a_process_says_of_a_video_is_bounded(lie: dict[str, Any]) -> None:
    video = SandboxedVideo.__new__(SandboxedVideo)
    video._limits = Limits(max_duration_s=60)
    media = Media(5.0, 64, 48, 75, 15.0, False, 0, 1.0, ((1.0, 2.0), (3.0, 5.0)))
    assert video._check_media(media) == media
    with pytest.raises(IpcError):
        video._check_media(replace(media, **lie))


@pytest.mark.parametrize("fault", ["hang", "hang amid"])
def test_whoever_waits_may_stop_waiting(small: Path, fault: str) -> None:
    """Long before the time that a frame has."""
    calls: list[int] = []

    def waiting() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with closing(faulty_sandbox()) as made:
        with pytest.raises(KeyboardInterrupt):
            taken(made.open(marked(small, fault), Limits(max_stall_s=250), waiting))
        wait_for(lambda: descendants(forkserver_of(made)) == [], seconds=20)
    assert len(calls) == 2
