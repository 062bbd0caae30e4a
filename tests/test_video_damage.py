"""Damaged and truncated videos: which times are reported as damaged."""

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import av
import numpy as np
import pytest
from av.container import InputContainer
from av.video.stream import VideoStream

from model import errors, packets
from model.corruption import CorruptionTracker, read_declared_end
from model.packets import PacketReader
from model.timing import TimedFrame
from model.video import Video
from tests import clips
from tests.decoding import decode


def test_zeroed_media_data_raises_damaged_video_error(tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "whole.mp4", extra=("-movflags", "faststart"))
    content = bytearray(path.read_bytes())
    middle = content.index(b"mdat") + 8
    content[middle:] = bytes(len(content) - middle)
    with pytest.raises(errors.DamagedVideoError):
        list(Video(io.BytesIO(bytes(content))).frames(15, 64, 64))


INTACT = {
    "plain.mp4": (), "b-frames.mov": ("-bf", "3", "-g", "12"), "plain.mkv": (), "plain.ts": (), "mjpeg.avi": ("-c:v", "mjpeg"),
    "packed.avi": ("-c:v", "mpeg4", "-bf", "2"), "vp8.webm": ("-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "16"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-cpu-used", "8"), "h265.mp4": ("-c:v", "libx265", "-x265-params", "log-level=none"),
    "fragments.mp4": ("-movflags", "frag_keyframe+empty_moov", "-g", "15"), "late.mp4": ("-output_ts_offset", "3"),
    "variable.mkv": ("-vf", "select='lt(n,10)+not(mod(n,40))'", "-fps_mode", "vfr"),
    "variable.avi": ("-vf", "select='lt(n,10)+not(mod(n,40))'", "-fps_mode", "vfr", "-c:v", "mpeg4"),
    "variable.mp4": ("-vf", "select='lt(n,10)+not(mod(n,40))'", "-fps_mode", "vfr"),
    "live.mkv": ("-live", "1"), "interlaced.ts": ("-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-vf", "interlace"),
}  # fmt: skip


@pytest.mark.parametrize("sound_s", [0, 1, 6])
@pytest.mark.parametrize("name", INTACT)
def test_intact_video_has_no_damage(tmp_path: Path, name: str, sound_s: float) -> None:
    path = tmp_path / name
    video = ("-f", "lavfi", "-i", "testsrc2=s=64x64:r=30:d=3")
    sound = ("-f", "lavfi", "-i", f"sine=d={sound_s}") if sound_s else ()
    clips.ffmpeg(*video, *sound, *INTACT[name], "-pix_fmt", "yuv420p", str(path))
    _, media = decode(path)
    assert media.damaged == ()
    assert media.duration_s < 3.2


@pytest.mark.parametrize("start_s", ["0.4", "1.3"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_stream_copied_segment_has_no_damage(tmp_path: Path, suffix: str, start_s: str) -> None:
    """The segment starts within a group of pictures."""
    whole, segment = clips.pattern(tmp_path / "whole.mp4", extra=("-g", "30")), tmp_path / f"segment{suffix}"
    clips.ffmpeg("-ss", start_s, "-i", str(whole), "-t", "1", "-c", "copy", str(segment))
    assert decode(segment)[1].damaged == ()
    if suffix == ".ts":
        segment.write_bytes(segment.read_bytes()[188 * 20 :])
        assert decode(segment)[1].damaged == ()


TRUNCATABLE = {"mp4": ("-movflags", "faststart"), "mkv": (), "webm": ("-c:v", "libvpx"), "avi": ("-c:v", "mjpeg")}


@pytest.mark.parametrize("container", TRUNCATABLE)
def test_truncated_video_reports_missing_end_as_damaged(tmp_path: Path, container: str) -> None:
    path = clips.pattern(tmp_path / f"whole.{container}", extra=TRUNCATABLE[container])
    intact, _ = decode(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    frames, media = decode(path)
    [(start_s, end_s)] = media.damaged
    assert 1 < start_s < 2.5
    assert end_s == media.duration_s == pytest.approx(3, abs=0.05)
    assert len(frames) == pytest.approx(15 * start_s, abs=1)
    assert np.abs(frames.astype(int) - intact[: len(frames)]).mean() < 1


def test_frames_after_damage_have_correct_times(tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "noise.mp4", extra=("-movflags", "faststart", "-g", "15"))
    intact, _ = decode(path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 6000] = bytes(6000)
    path.write_bytes(content)
    frames, media = decode(path)
    [(start_s, end_s)] = media.damaged
    assert 0.5 < start_s < end_s < 2.5
    assert len(frames) == len(intact)
    assert media.duration_s == pytest.approx(3)
    after = int(15 * end_s) + 8  # after the next key frame
    assert np.abs(frames[after:].astype(int) - intact[after:]).mean() < 1


def test_damaged_beginning_does_not_shift_later_frames(tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "first.mp4", extra=("-movflags", "faststart", "-g", "15"))
    intact, _ = decode(path)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start : start + 12000] = bytes(12000)
    path.write_bytes(content)
    frames, media = decode(path)
    assert media.damaged[0][0] == 0
    assert media.duration_s == pytest.approx(3)
    assert np.abs(frames[-10:].astype(int) - intact[-10:]).mean() < 1


class DemuxerWithEmptyPackets:
    """A demuxer that yields an empty packet after each and ends in PyAV's IndexError for streams that appear late."""

    def __init__(self, container: InputContainer) -> None:
        self.container = container

    def demux(self, stream: VideoStream) -> Iterator[av.Packet]:
        for packet in self.container.demux(stream):
            yield packet
            yield av.Packet()
        raise IndexError("list index out of range")


def test_empty_packets_and_late_streams_are_ignored(tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "x.mp4", seconds=1)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(PacketReader(DemuxerWithEmptyPackets(container), stream).frames())  # type: ignore[arg-type]
    assert len(frames) == 30
    assert not any(frame.doubtful for frame in frames)


def test_too_many_empty_packets_end_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.pattern(tmp_path / "noise.mp4", extra=("-movflags", "faststart", "-g", "15", "-bf", "0"))
    content = bytearray(path.read_bytes())
    start = len(content) // 2
    content[start : start + 20_000] = bytes(20_000)
    path.write_bytes(content)
    assert decode(path)[1].damaged[0][1] < 2.9
    monkeypatch.setattr(packets, "_MAX_EMPTY_PACKETS", 5)
    assert decode(path)[1].damaged[0][1] == pytest.approx(3)


def timed_frame(start: int, end: int) -> TimedFrame:
    return TimedFrame(av.VideoFrame(16, 16), start, end)


class FakeContainer(NamedTuple):
    name: str
    streams: int = 2
    ticks: int | None = 9_000_000
    encoder: str = "Lavf62.3.100"

    def declared_end_s(self, **stream: object) -> float | None:
        defaults = {
            "start_time": 500,
            "time_base": Fraction(1, 1000),
            "duration": None,
            "frames": 0,
            "average_rate": None,
            "metadata": {},
        }
        container = SimpleNamespace(
            format=SimpleNamespace(name=self.name), streams=[0] * self.streams, duration=self.ticks,
            metadata={"ENCODER": self.encoder},
        )  # fmt: skip
        ends_s = read_declared_end(container, SimpleNamespace(**(defaults | stream)))  # type: ignore[arg-type]
        return None if ends_s is None else float(ends_s)


def test_declared_end_depends_on_container() -> None:
    assert FakeContainer("mov,mp4").declared_end_s(duration=4000) == 4.5
    assert FakeContainer("mpegts").declared_end_s(duration=4000) is None
    assert FakeContainer("avi").declared_end_s(duration=4000, frames=90, average_rate=Fraction(30)) == 3
    assert FakeContainer("avi").declared_end_s(duration=4000) is None
    assert FakeContainer("matroska,webm").declared_end_s(metadata={"DURATION": "01:00:02.500000000"}) == 3602.5
    assert FakeContainer("matroska,webm").declared_end_s(metadata={"DURATION": "an hour"}) is None
    # Other muxers write the duration, which is the end only if the video starts at 0.
    mkvmerge = FakeContainer("matroska,webm", encoder="libebml v1.4.5 + libmatroska v1.7.1")
    assert mkvmerge.declared_end_s(metadata={"DURATION": "00:00:02.5"}) is None
    assert mkvmerge.declared_end_s(metadata={"DURATION": "00:00:02.5"}, start_time=0) == 2.5
    assert FakeContainer("matroska,webm").declared_end_s(duration=4000) is None  # an estimate
    assert FakeContainer("matroska,webm").declared_end_s() is None  # the audio may be longer
    assert FakeContainer("matroska,webm", streams=1).declared_end_s() == 9
    assert FakeContainer("matroska,webm", streams=1, ticks=None).declared_end_s() is None


def test_nearby_damage_is_one_interval() -> None:
    damage = CorruptionTracker(Fraction(1, 10), 1)
    for index, doubtful in ((0, False), (3, True), (5, True), (12, True), (20, False), (40, True)):
        damage.add_frame(timed_frame(index, index + 1), doubtful)
    assert damage.finish(41, None, False, 1000) == 41
    assert damage.intervals == ((0.1, 1.2), (2.1, 4.0))  # a gap before frame 20 alone is no damage


@pytest.mark.parametrize(
    ("declared", "reached", "doubtful", "cut_off", "end"),
    [
        (10, None, False, True, None),
        (11, None, False, True, 11),
        (17, None, False, True, 17),
        (12, None, True, False, 12),
        (12, 10, False, False, 11),  # the packet after the last frame exists
        (None, 14, True, False, 14),
        (2000, None, False, True, 1000),  # limited whatever is declared
        (-5, None, True, False, None),
    ],
)
def test_missing_end_needs_evidence(
    declared: int | None, reached: int | None, doubtful: bool, cut_off: bool, end: int | None
) -> None:
    damage = track_ten_frames()
    reached_end = damage.finish(declared, reached, doubtful, 1000, lambda: cut_off)
    assert damage.intervals == (((1.0, end / 10),) if end else ())
    assert end is None or (reached_end, damage.last_frame_end) == (end, 10)


@pytest.mark.parametrize(("declared", "end"), [(None, 10), (14, 14), (17, 17), (2000, 1000), (5, 10)])
def test_last_frame_lasts_until_declared_end(declared: int | None, end: int) -> None:
    damage = track_ten_frames()
    assert damage.finish(declared, 9, False, 1000, lambda: False) == damage.last_frame_end == end
    assert damage.intervals == ()


def track_ten_frames() -> CorruptionTracker:
    damage = CorruptionTracker(Fraction(1, 10), 1)
    for start in range(10):
        damage.add_frame(timed_frame(start, start + 1), False)
    return damage


def test_damage_intervals_are_limited_to_1000() -> None:
    damage = CorruptionTracker(Fraction(1), 1)
    for start in range(0, 5000, 2):
        damage.add_frame(timed_frame(start, start + 1), True)
    assert len(damage.intervals) == 1000
    assert damage.intervals[-1][1] == 4998
