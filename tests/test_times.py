"""Frame numbers and times compared with FFmpeg's in every container; see tests/timestamp_table.py."""

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from model.packets import DecodedFrame
from model.timing import Clock, TimestampSelector
from model.truncation import is_cut_off
from model.video import Limits, Video, measure_extent
from tests import timestamp_table
from tests.timestamp_table import CODECS, CONTAINERS, PATTERNS, Case, Container, Sound

CONSTANT = PATTERNS["constant"]
H264, H264_B = CODECS["H.264"], CODECS["H.264 B"]


# Tested for every codec and container; H.264, VP9 in WebM, and all codecs in a campaign are tested with all patterns.
SOME_PATTERNS = ["constant", "pause of 2.4 s", "jitter", "starts at 5 s"]


@pytest.mark.parametrize(
    ("container", "codec"), sorted({(case.container, case.codec) for case in timestamp_table.cases()})
)
def test_frame_times_equal_ffmpegs(container: str, codec: str, tmp_path: Path, campaign: bool) -> None:
    """Compare with ffprobe, or without it with the times that were written."""
    if container == "AVI" and not timestamp_table.has_ffprobe():
        pytest.skip("AVI has no presentation times, and there is no ffprobe to tell what FFmpeg makes of it")
    every = campaign or codec.startswith("H.264") or (container, codec) == ("WebM", "VP9")
    patterns = PATTERNS if every else SOME_PATTERNS
    rows = [timestamp_table.compare(Case(container, codec, pattern), tmp_path) for pattern in patterns]
    assert [(row.case.pattern, row.fault) for row in rows if row.fault] == []
    assert [(row.case.pattern, float(row.error)) for row in rows if row.error >= row.tick] == []
    assert all(row.frames > 10 for row in rows)


@pytest.mark.parametrize(
    "pattern", ["constant", "pause of 0.6 s", "pause of 2.4 s", "pause at the end", "jitter", "1 fps"]
)
@pytest.mark.parametrize("name", ["MP4", "MOV", "MKV"])
def test_video_ends_with_last_frame(name: str, pattern: str, tmp_path: Path) -> None:
    decoded = timestamp_table.read(timestamp_table.make(Case(name, "H.264", pattern), tmp_path))
    written = PATTERNS[pattern]
    last_ms = written[-1] - written[0]
    assert decoded.end == pytest.approx(decoded.media.duration_s)
    # The last frame's duration is not written: muxers take one frame, or the previous frame's duration.
    assert last_ms < 1000 * decoded.media.duration_s <= last_ms + max(40, written[-1] - written[-2])


# Edits (duration in ms, media time in frames or -1 for an empty edit, rate), and the resulting frames.
EDITS = {
    "cut at the end": ([(800, 0, 1)], [*range(20)]),
    "cut at the start": ([(1000, 12, 1)], [*range(12, 37)]),
    "empty edit first": ([(5000, -1, 1), (1600, 0, 1)], [*range(40)]),
    "two parts": ([(400, 0, 1), (400, 20, 1)], [*range(10), *range(20, 30)]),
    "two parts, later part first": ([(400, 20, 1), (400, 0, 1)], [*range(20, 30), *range(10)]),
    "twice": ([(800, 0, 1), (800, 0, 1)], [*range(20), *range(20)]),
    "longer than the media": ([(9000, 0, 1)], [*range(40)]),
}


@pytest.mark.parametrize("name", ["MP4", "MOV"])
@pytest.mark.parametrize("kind", EDITS)
def test_edit_lists_are_applied(kind: str, name: str, tmp_path: Path) -> None:
    path = timestamp_table.write(tmp_path / f"edited{CONTAINERS[name].suffix}", CONTAINERS[name], H264, CONSTANT)
    tick = timestamp_table.read(path).tick
    edits, numbers = EDITS[kind]
    frame = int(Fraction(timestamp_table.STEP_MS, 1000) / tick)
    decoded = timestamp_table.read(
        timestamp_table.edit(path, [(ms, at * frame if at > 0 else at, rate) for ms, at, rate in edits])
    )
    assert decoded.numbers == numbers
    assert decoded.times == [Fraction(timestamp_table.STEP_MS, 1000) * index for index in range(len(numbers))]
    assert not timestamp_table.has_ffprobe() or timestamp_table.probe(path) == decoded.times
    assert decoded.media.damaged == ()
    assert decoded.media.start_offset_s == (5 if kind == "empty edit first" else 0)


@pytest.mark.parametrize("codec", ["H.264 B", "MPEG-4 B", "HEVC B"])
def test_edit_lists_with_b_frames_give_ffmpegs_times(codec: str, tmp_path: Path) -> None:
    if not timestamp_table.has_ffprobe():
        pytest.skip("there is no ffprobe to compare with")
    for kind, edits in {"cut": [(800, 6144, 1)], "dwell": [(400, 0, 1), (2000, 5120, 0), (800, 5120, 1)]}.items():
        path = timestamp_table.write(tmp_path / f"{kind}.mov", CONTAINERS["MOV"], CODECS[codec], CONSTANT)
        decoded = timestamp_table.read(timestamp_table.edit(path, edits))
        assert decoded.times == timestamp_table.probe(path), kind
        assert decoded.media.damaged == ()


LATE = [*range(5000, 6000, 40)]
# Container, frame times in ms, audio, and the first frame's time in s in a player.
OFFSETS = {
    "MP4, picture late": ("MP4", LATE, Sound("aac", 0, 6), 5.0),
    "MOV, picture late": ("MOV", LATE, Sound("pcm_s16le", 0, 6), 5.0),
    "MKV, picture late": ("MKV", LATE, Sound("pcm_s16le", 0, 6), 5.0),
    "WebM, picture late": ("WebM", LATE, Sound("libopus", 0, 6), 5.0),
    "TS, picture late": ("TS", LATE, Sound("mp2", 0, 6), 5.0),
    "MP4, sound late": ("MP4", CONSTANT, Sound("aac", 1000), 0.0),
    "MKV, sound late": ("MKV", CONSTANT, Sound("pcm_s16le", 1000), 0.0),
    "TS, sound late": ("TS", CONSTANT, Sound("mp2", 1000), 0.0),
    "TS, both begin at 1.4 s": ("TS", CONSTANT, Sound("mp2"), 0.0),
    "MKV, both begin at 5 s": ("MKV", LATE, Sound("pcm_s16le", 5000), 0.0),
    "MP4, sound with priming": ("MP4", CONSTANT, Sound("aac"), 0.0),
    "AVI": ("AVI", CONSTANT, Sound("pcm_s16le"), 0.0),
    "fragmented MP4 from 5 s on": ("fragmented MP4", LATE, None, 0.0),
    "MP4 with nothing for 5 s": ("MP4", LATE, None, 5.0),
    "MKV from 5 s on": ("MKV", LATE, None, 0.0),
}


@pytest.mark.parametrize("kind", OFFSETS)
def test_start_offset_equals_players_first_frame_time(kind: str, tmp_path: Path) -> None:
    name, times_ms, sound, offset_s = OFFSETS[kind]
    codec = CODECS["VP9"] if name == "WebM" else H264_B
    path = timestamp_table.write(tmp_path / f"late{CONTAINERS[name].suffix}", CONTAINERS[name], codec, times_ms, sound)
    decoded = timestamp_table.read(path)
    # Audio encoders start some milliseconds before the first sample, and containers round.
    assert decoded.media.start_offset_s == pytest.approx(offset_s, abs=0.03)
    assert decoded.media.duration_s == pytest.approx(len(times_ms) * 0.04, abs=0.001)
    with path.open("rb") as file:
        assert tuple(measure_extent(file)) == pytest.approx((decoded.media.duration_s, decoded.media.start_offset_s))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.shared("cases/late-video")
def test_call_recording_has_start_offset(suffix: str, shared: Path) -> None:
    decoded = timestamp_table.read(shared / f"cases/late-video/late.{suffix}")
    assert decoded.media.start_offset_s == pytest.approx(5, abs=0.01)
    assert decoded.media.duration_s == pytest.approx(13.267, abs=0.001)


def test_undeclared_duration_is_measured_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = timestamp_table.write(tmp_path / "a.ts", CONTAINERS["TS"], H264_B, PATTERNS["pause of 30 s"])
    content = path.read_bytes()
    assert tuple(measure_extent(io.BytesIO(content * 2))) == pytest.approx((62.32, 0))  # two clocks need decoding
    monkeypatch.setattr(Video, "timed_frames", None)
    assert tuple(measure_extent(io.BytesIO(content))) == pytest.approx((31.16, 0))


def test_transport_stream_clock_wrap_preserves_frame_times(tmp_path: Path) -> None:
    wrap_ms = int(2**33 / 90) // 40 * 40
    path = timestamp_table.write(
        tmp_path / "wrap.ts", CONTAINERS["TS"], H264_B, [wrap_ms - 2000 + ms for ms in CONSTANT]
    )
    decoded = timestamp_table.read(path)
    assert decoded.numbers == [*range(40)]
    assert decoded.times == [Fraction(ms, 1000) for ms in CONSTANT]


def test_frame_times_of_two_hours_are_exact(tmp_path: Path) -> None:
    hours = [*range(0, 7_190_000, 119_840)]
    decoded = timestamp_table.read(
        timestamp_table.write(tmp_path / "long.mkv", CONTAINERS["MKV"], H264_B, hours), Limits(max_duration_s=7200)
    )
    assert decoded.times == [Fraction(ms, 1000) for ms in hours]


def declare_duration(path: Path, declared_ms: float) -> bytes:
    """Return a Matroska file with this duration in its header."""
    content = bytearray(path.read_bytes().replace(b"DURATION", b"XURATION"))
    position = content.index(b"\x44\x89\x88") + 3
    content[position : position + 8] = np.array([declared_ms], ">f8").tobytes()
    return bytes(content)


def as_recorded(content: bytes) -> bytes:
    """Return a Matroska file with unknown sizes and without cues, as browsers record it."""
    recorded = bytearray(content[: content.rindex(b"\x1c\x53\xbb\x6b")])
    for name in (b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"):
        position = recorded.find(name)
        while position >= 0:
            length = 9 - recorded[position + 4].bit_length()
            recorded[position + 4 : position + 4 + length] = ((1 << 7 * length + 1) - 1).to_bytes(length)
            position = recorded.find(name, position + 4)
    return bytes(recorded)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(("name", "codec"), [("WebM", "VP9"), ("MKV", "H.264 B"), ("MKV", "AV1")])
def test_still_picture_at_end_is_no_damage(name: str, codec: str, recorded: bool, tmp_path: Path) -> None:
    path = timestamp_table.write(tmp_path / "still", CONTAINERS[name], CODECS[codec], CONSTANT)
    content = declare_duration(path, 30_000)
    path.write_bytes(as_recorded(content) if recorded else content)
    decoded = timestamp_table.read(path)
    assert decoded.media.damaged == ()
    assert decoded.media.duration_s == decoded.end == 30
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    [(start_s, end_s)] = timestamp_table.read(path).media.damaged
    assert 0.2 < start_s < 1.5
    assert end_s == 30


@pytest.mark.shared("cases/still-tail-webm")
def test_browser_recording_of_still_screen_is_no_damage(shared: Path) -> None:
    decoded = timestamp_table.read(shared / "cases/still-tail-webm/still_tail.webm")
    assert (decoded.media.damaged, decoded.media.duration_s) == ((), 30)


TRUNCATED_CONTAINERS = {
    "MP4": Container(".mp4", "mp4", {"movflags": "faststart"}),
    "fragmented MP4": CONTAINERS["fragmented MP4"],
    "MKV": CONTAINERS["MKV"],
    "AVI": CONTAINERS["AVI"],
}
NAMES = {"MP4": "mov,mp4,m4a", "fragmented MP4": "mov,mp4,m4a", "MKV": "matroska,webm", "AVI": "avi"}


@pytest.mark.parametrize("container", TRUNCATED_CONTAINERS)
def test_truncated_file_is_recognised(container: str, tmp_path: Path) -> None:
    path = timestamp_table.write(tmp_path / "whole", TRUNCATED_CONTAINERS[container], CODECS["MPEG-4"], CONSTANT)
    content = path.read_bytes()
    assert not is_cut_off(io.BytesIO(content), NAMES[container])
    for size in (len(content) * 6 // 10, len(content) - 1):
        assert is_cut_off(io.BytesIO(content[:size]), NAMES[container])
    truncated = content[: len(content) * 6 // 10]
    if container != "MP4":  # MP4 is one element: damage shows in decoding
        assert is_cut_off(io.BytesIO(truncated + bytes(len(content) - len(truncated))), NAMES[container])
    if "fragmented" not in container:  # trailing padding is allowed
        for tail in (bytes(4096), b"\n", b"\0\0\0\x10\xa9xyz morning"):
            assert not is_cut_off(io.BytesIO(content + tail), NAMES[container])
    file = io.BytesIO(content)
    file.seek(7)
    is_cut_off(file, NAMES[container])
    assert file.tell() == 7
    assert not is_cut_off(io.BytesIO(truncated), "mpegts")


def decoded_frame(pts: int | None, dts: int | None = None, restarts: int = 0, doubtful: bool = False) -> DecodedFrame:
    frame = av.VideoFrame(16, 16)
    frame.pts, frame.dts = pts, dts
    return DecodedFrame(frame, doubtful, restarts)


def place_frames(clock: Clock, frames: Sequence[DecodedFrame]) -> list[int | None]:
    return [timed and timed.start for timed in (clock.place(frame, None) for frame in frames)]


def test_presentation_times_are_used_unless_they_repeat() -> None:
    def select(*pairs: tuple[int | None, int | None]) -> list[int | None]:
        stamps = TimestampSelector()
        return [stamps.select(decoded_frame(pts, dts).frame) for pts, dts in pairs]

    assert select((5, 3), (6, 4), (9, 5)) == [5, 6, 9]
    assert select((None, 3), (None, 4), (7, None), (None, None)) == [3, 4, 7, None]
    assert select((5, 3), (4, 4), (4, 5), (6, 6)) == [5, 4, 5, 6]
    assert select((5, 3), (6, 3), (7, 3)) == [5, 6, 7]


def test_long_frame_duration_does_not_delay_next_frame() -> None:
    """MP4 durations are in decoding order: after a pause they belong to another frame."""
    frames = [decoded_frame(0), decoded_frame(1), decoded_frame(31), decoded_frame(32)]
    frames[1].frame.duration, frames[2].frame.duration = 1, 30
    assert place_frames(Clock(Fraction(1, 10), 1, concatenated=False), frames) == [0, 1, 31, 32]


@pytest.mark.parametrize("concatenated", [False, True])
def test_clock_restarts_with_packets(concatenated: bool) -> None:
    restarted = [
        decoded_frame(100),
        decoded_frame(101),
        decoded_frame(0, restarts=1),
        decoded_frame(1, restarts=1),
        decoded_frame(50, restarts=1),
    ]
    clock = Clock(Fraction(1, 10), 1, concatenated)
    assert place_frames(clock, restarted) == [0, 1, 2, 3, 52]
    assert (clock.origin, clock.since_start(70)) == (100, None)
    unmarked = [decoded_frame(200), decoded_frame(201), decoded_frame(0), decoded_frame(1)]
    assert place_frames(Clock(Fraction(1, 10), 1, concatenated), unmarked) == [0, 1, 2, 3]
    # Frames in the wrong order.
    disorder = [decoded_frame(100), decoded_frame(110), decoded_frame(101), decoded_frame(111)]
    assert place_frames(Clock(Fraction(1, 10), 1, concatenated), disorder) == [0, 10, 10, 11]


def test_concatenated_recordings_follow_each_other() -> None:
    apart = [decoded_frame(0), decoded_frame(1), decoded_frame(50_000), decoded_frame(50_001)]
    assert place_frames(Clock(Fraction(1, 10), 1, concatenated=True), apart) == [0, 1, 2, 3]
    assert place_frames(Clock(Fraction(1, 10), 1, concatenated=False), apart) == [0, 1, 50_000, 50_001]
