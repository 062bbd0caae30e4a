"""Sandboxed decoder: same results as in-process decoding, and the sandbox modes."""

import io
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from model.bundle import Bundle
from model.detector import Detector
from model.errors import DecoderMemoryError, SandboxError, VideoError
from model.sandbox import sandbox
from model.sandbox.confine import Confinement
from model.sandbox.sandbox import Sandbox, make_decoder
from model.transforms import Region
from model.video import InProcessDecoder, Limits, Video
from tests import clips
from tests.conftest import descendants, wait_for
from tests.sandboxed_decoding import assert_next_video_decodes, forkserver_pid, read_frames, sample_bomb
from tests.test_detector import WhiteSpotter


@pytest.fixture(scope="module")
def working_sandbox() -> Iterator[Sandbox]:
    sandboxed = Sandbox()
    yield sandboxed
    sandboxed.close()


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.pattern(tmp_path_factory.mktemp("small") / "small.mp4", size="64x36", seconds=1)


VARIABLE = "setpts='N/(30*TB)+floor(N/10)*0.3/TB'"


@pytest.mark.parametrize("kind", ["plain", "rotated", "odd", "variable", "strange pixels", "h265", "vp9", "av1", "ts"])
def test_frames_equal_in_process_frames_bit_for_bit(working_sandbox: Sandbox, tmp_path: Path, kind: str) -> None:
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
    for request in ((15, 160, 120, Region(0, 0, 0.7, 0.9)), (12.5, 100, 100, None)):
        with path.open("rb") as plain_file, path.open("rb") as sandbox_file:
            expected = InProcessDecoder().open(plain_file, Limits())
            sandboxed = working_sandbox.open(sandbox_file, Limits())
            with closing(expected), closing(sandboxed):
                assert sandboxed.declared_duration_s == expected.declared_duration_s
                frames = list(expected.frames(*request))
                np.testing.assert_array_equal(list(sandboxed.frames(*request)), frames)
                assert len(frames) > 20
                assert sandboxed.media == expected.media is not None
                assert sandboxed.tell() == expected.tell() > 0


def test_8k_video_fits_default_limits(working_sandbox: Sandbox, tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "8k.mp4", size="7680x4320", seconds=0.2, extra=("-preset", "ultrafast", "-bf", "2"))
    with path.open("rb") as file, path.open("rb") as same:
        frames = read_frames(working_sandbox.open(file, Limits()), (160, 90))
        np.testing.assert_array_equal(frames, read_frames(InProcessDecoder().open(same, Limits()), (160, 90)))


def test_file_position_and_mode_are_left_unchanged(working_sandbox: Sandbox, small_clip: Path, tmp_path: Path) -> None:
    """Also for a file that is open for writing and unlinked, and for one in memory."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(small_clip.read_bytes())
    with path.open("r+b") as file, small_clip.open("rb") as plain:
        path.unlink()
        file.seek(17)
        frames = read_frames(working_sandbox.open(file, Limits()))
        assert file.tell() == 17
        np.testing.assert_array_equal(frames, read_frames(working_sandbox.open(plain, Limits())))
    np.testing.assert_array_equal(
        frames, read_frames(working_sandbox.open(io.BytesIO(small_clip.read_bytes()), Limits()))
    )


def test_errors_equal_in_process_errors(working_sandbox: Sandbox, small_clip: Path, tmp_path: Path) -> None:
    cases: list[tuple[Path, Limits]] = [
        (tmp_path / "text.mp4", Limits()),
        (clips.silence(tmp_path / "sound.mp4"), Limits()),
        (small_clip, Limits(max_pixels=1000)),
        (clips.pattern(tmp_path / "long.mp4", size="64x36", seconds=4), Limits(max_duration_s=1)),
        (clips.pattern(tmp_path / "fast.mp4", size="64x36", rate="200", seconds=2), Limits(max_fps=20)),
        (tmp_path / "codec.mp4", Limits()),
    ]
    cases[0][0].write_text("nothing to see " * 100)
    cases[-1][0].write_bytes(small_clip.read_bytes().replace(b"avc1", b"zzz1"))
    codes = set()
    for path, limits in cases:
        with path.open("rb") as plain_file, path.open("rb") as sandbox_file:
            with pytest.raises(VideoError) as expected:
                read_frames(InProcessDecoder().open(plain_file, limits))
            with pytest.raises(VideoError) as actual:
                read_frames(working_sandbox.open(sandbox_file, limits))
        assert (type(actual.value), str(actual.value)) == (type(expected.value), str(expected.value))
        codes.add(actual.value.code)
    assert len(codes) == len(cases)
    assert_next_video_decodes(working_sandbox, small_clip)


def test_container_declaring_80_million_samples_is_rejected(working_sandbox: Sandbox, small_clip: Path) -> None:
    with pytest.raises(VideoError):
        read_frames(working_sandbox.open(io.BytesIO(sample_bomb()), Limits(max_memory_bytes=1024**3)))
    assert_next_video_decodes(working_sandbox, small_clip)


def test_low_memory_limit_raises_memory_error(working_sandbox: Sandbox, tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "4k.mp4", size="3840x2160", seconds=0.2)
    with path.open("rb") as file, pytest.raises(VideoError) as error:
        read_frames(working_sandbox.open(file, Limits(max_memory_bytes=260 * 1024**2)))
    assert error.type is DecoderMemoryError


def test_two_videos_decode_concurrently(working_sandbox: Sandbox, small_clip: Path) -> None:
    with small_clip.open("rb") as first_file, small_clip.open("rb") as second_file, small_clip.open("rb") as same:
        first, second = working_sandbox.open(first_file, Limits()), working_sandbox.open(second_file, Limits())
        pairs = list(zip(first.frames(15, 64, 36), second.frames(15, 32, 18), strict=True))
        np.testing.assert_array_equal([pair[0] for pair in pairs], read_frames(InProcessDecoder().open(same, Limits())))
        first.close()
        second.close()


def test_slow_reader_blocks_decoder_and_loses_no_frame(working_sandbox: Sandbox, small_clip: Path) -> None:
    """The shared memory holds two of these frames; each is read once the decoder waits for space."""
    size = (2048, 1400)
    with (
        small_clip.open("rb") as file,
        small_clip.open("rb") as same,
        closing(working_sandbox.open(file, Limits())) as video,
    ):
        frames = video.frames(10, *size)
        received = [next(frames)]
        [pid] = descendants(forkserver_pid(working_sandbox))
        state = Path(f"/proc/{pid}/stat")
        with closing(InProcessDecoder().open(same, Limits())) as expected:
            for index, expected_frame in enumerate(expected.frames(10, *size)):
                if index < 7:  # after that the decoder may have finished
                    wait_for(lambda: state.read_text().rsplit(")", 1)[1].split()[0] == "S", seconds=10)
                np.testing.assert_array_equal(received[index], expected_frame)
                received += [frame for frame in [next(frames, None)] if frame is not None]
        assert len(received) == 10


def test_detections_equal_in_process_detections(working_sandbox: Sandbox, bundle: Bundle, tmp_path: Path) -> None:
    path = clips.white_between(tmp_path / "white.mp4", 10, 12, 30)
    detections = []
    for decoder in (InProcessDecoder(), working_sandbox):
        with path.open("rb") as file:
            detector = Detector(bundle, WhiteSpotter(bundle), decoder=decoder)
            detections.append(detector.detect(file, region=Region()))
    np.testing.assert_array_equal(detections[0].proposals.segments, detections[1].proposals.segments)
    assert detections[0].media == detections[1].media
    assert len(detections[1].proposals) == 1


def test_progress_without_declared_duration_reaches_the_end(
    working_sandbox: Sandbox, bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "recorded.mkv"
    path.write_bytes(clips.ffmpeg("-f", "lavfi", "-i", "testsrc2=d=8", "-live", "1", "-f", "matroska", "-"))
    fractions: list[float] = []
    detector = Detector(bundle, WhiteSpotter(bundle), decoder=working_sandbox)
    with path.open("rb") as file:
        detector.detect(file, region=Region(), progress=lambda _stage, fraction: fractions.append(fraction))
    assert fractions == sorted(fractions)
    assert fractions[1] < 0.5 < 0.9 < fractions[-1] <= 1


@pytest.mark.parametrize(
    ("without", "missing"),
    [("without_landlock", "Landlock"), ("without_seccomp", "pyseccomp"), ("root_only", "unprivileged")],
)
def test_partial_confinement_is_reported_and_refused_by_require(
    small_clip: Path, without: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "PROGRAM", ("-P", "-m", "tests.faulty_forkserver", without))
    with capture_logs() as logs, closing(make_decoder("auto")) as sandboxed:
        assert sandboxed.describe().startswith("partial: ")
        assert missing in sandboxed.describe()
        with small_clip.open("rb") as file:
            assert len(read_frames(sandboxed.open(file, Limits()))) == 15
    assert [entry["state"] for entry in logs] == [sandboxed.describe()]
    with pytest.raises(SandboxError, match=f"MMAD_SANDBOX=require.*{missing}"):
        make_decoder("require")


def test_description_reports_available_confinement(working_sandbox: Sandbox) -> None:
    """The machine that runs the test may lack some of it."""
    full = Confinement(landlock=4, seccomp=True, unprivileged=True)
    assert full.describe().startswith("full: Landlock 4")
    assert (working_sandbox.describe().startswith("full")) == (not working_sandbox.confinement.missing)


def test_sandbox_off_decodes_in_process_and_logs(small_clip: Path) -> None:
    with capture_logs() as logs:
        sandboxed = make_decoder("off")
    assert isinstance(sandboxed, InProcessDecoder)
    assert sandboxed.describe().startswith("off: ")
    assert [entry["event"] for entry in logs] == ["sandbox_not_full"]


def test_forkserver_start_failure_reports_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "PROGRAM", ("-c", "raise SystemExit(7)"))
    with pytest.raises(SandboxError, match=r"exit status 7.*MMAD_SANDBOX=off"):
        Sandbox()


def test_sandbox_requires_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert isinstance(make_decoder("auto"), InProcessDecoder)
    with pytest.raises(SandboxError, match="darwin"):
        make_decoder("require")


def test_in_process_decoder_opens_video(small_clip: Path) -> None:
    with small_clip.open("rb") as file, closing(InProcessDecoder().open(file, Limits())) as video:
        assert isinstance(video, Video)
        assert video.tell() > 0
