"""Decoding, held against FFmpeg's own frames."""

import io
import tracemalloc
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
from hypothesis import given
from hypothesis import strategies as st

from model import errors, packets
from model.corruption import CorruptionTracker, read_declared_end
from model.packets import DecodedFrame, PacketReader
from model.timing import Clock, TimedFrame, resample
from model.transforms import Box, Orientation, Region, crop_box
from model.video import Limits, Media, Video
from model.windows import windows
from tests import clips

FPS, WIDTH, HEIGHT = 15.0, 112, 96


def decode(
    path: Path, region: Region = Region(), limits: Limits = Limits(), fps: float = FPS
) -> tuple[np.ndarray, Media]:
    with path.open("rb") as file:
        video = Video(file, limits)
        frames = np.stack(list(video.frames(fps, WIDTH, HEIGHT, region)))
    assert video.media is not None
    return frames, video.media


def assert_like_ffmpeg(path: Path, frames: np.ndarray, fps: float = FPS, crop: str = "") -> None:
    expected = clips.frames_by_ffmpeg(path, fps, WIDTH, HEIGHT, crop)
    assert frames.shape == expected.shape
    # Two builds of FFmpeg may round differently in the last bit.
    assert np.abs(frames.astype(int) - expected).mean() < 0.05


@pytest.mark.parametrize("mirror", [(), ("-display_hflip",), ("-display_vflip",)], ids=["", "hflip", "vflip"])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotated_or_mirrored_clip_is_upright(tmp_path: Path, degrees: int, mirror: tuple[str, ...]) -> None:
    path = clips.rotated(tmp_path / "rotated.mp4", degrees, *mirror)
    frames, media = decode(path)
    assert_like_ffmpeg(path, frames)
    assert (media.width, media.height) == ((320, 180) if degrees % 180 == 0 else (180, 320))
    if not mirror:
        assert media.rotation_deg == degrees


def test_variable_rate_clip_keeps_its_times(tmp_path: Path) -> None:
    choose = ("-vf", "select='not(mod(n,3))+gt(n,50)'", "-fps_mode", "vfr")
    path = clips.pattern(tmp_path / "variable.mp4", extra=choose)
    frames, media = decode(path)
    assert_like_ffmpeg(path, frames)
    assert media.variable_frame_rate
    assert media.duration_s == pytest.approx(3.0, abs=0.04)
    assert media.frames_decoded == 56


@pytest.mark.parametrize("suffix", [".webm", ".avi", ".mkv"])
def test_odd_sized_clip_in_other_containers(tmp_path: Path, suffix: str) -> None:
    coder = "libvpx" if suffix == ".webm" else "mjpeg"
    path = clips.pattern(tmp_path / f"odd{suffix}", extra=("-vf", "scale=323:181", "-c:v", coder))
    frames, media = decode(path)
    assert_like_ffmpeg(path, frames)
    assert (media.width, media.height) == (323, 181)
    assert not media.variable_frame_rate


@pytest.mark.parametrize(("rate", "fps"), [("30000/1001", 15.0), ("29", 15.0), ("10", 15.0), ("60", 12.5)])
def test_resampled_as_ffmpeg_does(tmp_path: Path, rate: str, fps: float) -> None:
    path = clips.pattern(tmp_path / "rate.mp4", rate=rate)
    frames, media = decode(path, fps=fps)
    assert_like_ffmpeg(path, frames, fps)
    assert media.average_fps == pytest.approx(float(Fraction(rate)), rel=1e-3)


def test_region_is_cut_out_before_scaling(tmp_path: Path) -> None:
    path = clips.rotated(tmp_path / "region.mp4", 90)  # 180 x 320 upright
    frames, media = decode(path, Region(0.2, 0.5, 0.8, 0.5))
    # 144 x 160 pixels from (36, 160); of that the middle 144 x 123.4, in even numbers.
    assert_like_ffmpeg(path, frames, crop="144:122:36:178")
    assert media.analysed_fraction == pytest.approx(144 * 122 / (180 * 320))


def test_wide_pixels_are_squared(tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "wide.mp4", extra=("-vf", "setsar=2/1"))
    frames, _ = decode(path)
    # Shown 640 x 180; the middle 210 x 180 of that is 105 stored pixels wide.
    assert_like_ffmpeg(path, frames, crop="104:180:108:0")


@given(
    times=st.lists(st.integers(0, 50), min_size=1, max_size=30),
    rate=st.fractions(Fraction(1, 10), Fraction(3, 1), max_denominator=10),
)
def test_resampling_fills_every_slot_once(times: list[int], rate: Fraction) -> None:
    starts = np.cumsum([0, *times[1:]])
    frame = av.VideoFrame(16, 16)
    shown = [TimedFrame(frame, int(start), int(start) + 1) for start in starts]
    counts = [repeats for _, repeats in resample(shown, rate)]
    assert all(count > 0 for count in counts)
    end = int((starts[-1] + 1) * rate + Fraction(1, 2))
    assert sum(counts) == max(1, end, int(starts[-1] * rate + Fraction(1, 2)))


@given(
    width=st.integers(1, 5000), height=st.integers(1, 5000), turns=st.integers(0, 3),
    x=st.floats(0, 0.9), y=st.floats(0, 0.9), aspect=st.floats(0.2, 5),
)  # fmt: skip
def test_crop_lies_within_the_stored_picture(
    width: int, height: int, turns: int, x: float, y: float, aspect: float
) -> None:
    upright = (width, height) if turns % 2 == 0 else (height, width)
    box = crop_box(*upright, Region(x, y, (1 - x) / 2, (1 - y) / 2), aspect)
    box = Orientation(turns % 2 == 1, turns in (1, 2), turns in (2, 3)).to_stored(box, width, height)
    assert box.x >= 0
    assert box.y >= 0
    assert box.width >= 1
    assert box.height >= 1
    assert box.x + box.width <= width
    assert box.y + box.height <= height


def test_lay_down_turns_a_corner() -> None:
    # Where the upright picture's top left corner lies in a picture stored 8 wide and 4 high.
    def corner(*orientation: bool) -> tuple[int, int]:
        return Orientation(*orientation).to_stored(Box(0, 0, 1, 1), 8, 4)[:2]

    assert [corner(False, x, y) for x in (False, True) for y in (False, True)] == [(0, 0), (0, 3), (7, 0), (7, 3)]
    assert [corner(True, x, y) for x in (False, True) for y in (False, True)] == [(0, 0), (7, 0), (0, 3), (7, 3)]


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    peaks = []
    for seconds in (30, 300):
        path = clips.pattern(tmp_path / f"{seconds}.mp4", size="64x64", seconds=seconds, rate="15")
        tracemalloc.start()
        with path.open("rb") as file:
            frames = Video(file).frames(15, 64, 64)
            count = sum(1 for _ in windows(frames, 192, 64))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == -(-(seconds * 15 - 64) // 128)
    assert peaks[1] < 1.1 * peaks[0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello " * 1000,
        b"#EXTM3U\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile x.mp4\n",
        b"\0\0\0\x18ftypisom" + bytes(3000),
    ],
)
def test_what_is_no_video_is_refused(content: bytes) -> None:
    with pytest.raises(errors.NotAVideoError):
        Video(io.BytesIO(content))


def test_picture_named_mp4_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    clips.ffmpeg("-f", "lavfi", "-i", "testsrc2", "-frames:v", "1", str(path))
    with path.open("rb") as file, pytest.raises(errors.NotAVideoError, match="mp4"):
        Video(file)


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with clips.silence(tmp_path / "silence.mp4").open("rb") as file, pytest.raises(errors.NoVideoStreamError):
        Video(file)


def test_an_unknown_codec_is_told(tmp_path: Path) -> None:
    content = clips.pattern(tmp_path / "known.mp4", seconds=0.2).read_bytes()
    with pytest.raises(errors.UnsupportedCodecError, match="H.264"):
        Video(io.BytesIO(content.replace(b"avc1", b"zzz1")))


def test_tags_in_another_alphabet_are_no_matter(tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "titled.avi", seconds=0.5, extra=("-c:v", "mjpeg", "-metadata", "title=CAFEXX"))
    path.write_bytes(path.read_bytes().replace(b"CAFEXX", b"Caf\xe9 \xfc"))
    assert decode(path)[1].frames_decoded == 15


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    picture, song = tmp_path / "cover.png", tmp_path / "song.mp4"
    clips.ffmpeg("-f", "lavfi", "-i", "testsrc2", "-frames:v", "1", str(picture))
    sound = ("-f", "lavfi", "-i", "anullsrc=d=1", "-i", str(picture), "-map", "0", "-map", "1")
    clips.ffmpeg(*sound, "-c:a", "aac", "-c:v", "copy", "-disposition:v:0", "attached_pic", str(song))
    with song.open("rb") as file, pytest.raises(errors.NoVideoStreamError):
        Video(file)


def test_recordings_strung_together_are_seen_whole(tmp_path: Path) -> None:
    part = clips.pattern(tmp_path / "part.ts", seconds=3)
    whole = tmp_path / "whole.ts"
    whole.write_bytes(part.read_bytes() * 2)
    frames, media = decode(whole)
    assert media.duration_s == pytest.approx(6, abs=0.1)
    assert media.frames_decoded == 180
    assert len(frames) == pytest.approx(90, abs=1)
    alone, _ = decode(part)
    assert np.abs(frames[-30:].astype(int) - alone[-30:]).mean() < 0.05


def test_frames_without_times_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.pattern(tmp_path / "timed.mp4", seconds=2)
    known, _ = decode(path)

    taken = PacketReader.frames

    def timeless(self: PacketReader) -> Iterator[DecodedFrame]:
        for index, one in enumerate(taken(self)):
            one.frame.pts = one.frame.pts if index == 0 else None
            yield one

    monkeypatch.setattr(PacketReader, "frames", timeless)
    frames, media = decode(path)
    np.testing.assert_array_equal(frames, known)
    assert media.duration_s == pytest.approx(2, abs=0.01)


def test_a_picture_that_grows_midway_is_scaled_alike(tmp_path: Path) -> None:
    small = clips.pattern(tmp_path / "small.ts", size="160x90", seconds=1, extra=("-c:v", "mpeg2video"))
    large = clips.pattern(tmp_path / "large.ts", size="640x360", seconds=1, extra=("-c:v", "mpeg2video"))
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    frames, _ = decode(both)
    assert len(frames) == pytest.approx(30, abs=1)
    with pytest.raises((errors.PictureTooLargeError, errors.DamagedVideoError)):
        decode(both, limits=Limits(max_pixels=160 * 90))


def test_decoding_uses_all_cores(tmp_path: Path) -> None:
    with clips.pattern(tmp_path / "x.mp4", seconds=0.2).open("rb") as file:
        assert Video(file)._stream.thread_type.name == "AUTO"


def test_limits_name_value_and_setting(tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "long.mp4", seconds=4)
    with pytest.raises(errors.VideoTooLongError, match=r"4 s or more, the limit is 2 s \(MMAD_MAX_DURATION_S\)"):
        decode(path, limits=Limits(max_duration_s=2))
    with pytest.raises(errors.PictureTooLargeError, match=r"320 x 180 .* 1000 .*MMAD_MAX_PIXELS"):
        decode(path, limits=Limits(max_pixels=1000))


def test_length_is_measured_where_the_container_does_not_tell(tmp_path: Path) -> None:
    # A live-streamed Matroska has no duration in its header.
    path = tmp_path / "live.mkv"
    path.write_bytes(clips.ffmpeg("-f", "lavfi", "-i", "testsrc2=d=4", "-live", "1", "-f", "matroska", "-"))
    with path.open("rb") as file:
        assert Video(file).declared_duration_s is None
    with pytest.raises(errors.VideoTooLongError):
        decode(path, limits=Limits(max_duration_s=2))
    assert decode(path)[1].duration_s == pytest.approx(4, abs=0.05)


def test_damaged_video_is_told(tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "whole.mp4", extra=("-movflags", "faststart"))
    content = bytearray(path.read_bytes())
    middle = content.index(b"mdat") + 8
    content[middle:] = bytes(len(content) - middle)
    with pytest.raises(errors.DamagedVideoError):
        list(Video(io.BytesIO(bytes(content))).frames(15, 64, 64))


WHOLE = {
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
@pytest.mark.parametrize("name", WHOLE)
def test_nothing_is_damaged_where_nothing_is(tmp_path: Path, name: str, sound_s: float) -> None:
    path = tmp_path / name
    video = ("-f", "lavfi", "-i", "testsrc2=s=64x64:r=30:d=3")
    sound = ("-f", "lavfi", "-i", f"sine=d={sound_s}") if sound_s else ()
    clips.ffmpeg(*video, *sound, *WHOLE[name], "-pix_fmt", "yuv420p", str(path))
    _, media = decode(path)
    assert media.damaged == ()
    assert media.duration_s < 3.2


@pytest.mark.parametrize("start_s", ["0.4", "1.3"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_piece_that_was_cut_out_is_not_damaged(tmp_path: Path, suffix: str, start_s: str) -> None:
    """From within a group of pictures, which edit lists and players skip to."""
    whole, piece = clips.pattern(tmp_path / "whole.mp4", extra=("-g", "30")), tmp_path / f"piece{suffix}"
    clips.ffmpeg("-ss", start_s, "-i", str(whole), "-t", "1", "-c", "copy", str(piece))
    assert decode(piece)[1].damaged == ()
    if suffix == ".ts":
        piece.write_bytes(piece.read_bytes()[188 * 20 :])
        assert decode(piece)[1].damaged == ()


FORMS = {"mp4": ("-movflags", "faststart"), "mkv": (), "webm": ("-c:v", "libvpx"), "avi": ("-c:v", "mjpeg")}


@pytest.mark.parametrize("form", FORMS)
def test_of_a_video_that_is_cut_off_the_rest_is_damaged(tmp_path: Path, form: str) -> None:
    path = clips.pattern(tmp_path / f"whole.{form}", extra=FORMS[form])
    known, _ = decode(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    frames, media = decode(path)
    [(start_s, end_s)] = media.damaged
    assert 1 < start_s < 2.5
    assert end_s == media.duration_s == pytest.approx(3, abs=0.05)
    assert len(frames) == pytest.approx(15 * start_s, abs=1)
    assert np.abs(frames.astype(int) - known[: len(frames)]).mean() < 1


def test_what_lies_behind_damage_is_decoded_at_its_time(tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "noise.mp4", extra=("-movflags", "faststart", "-g", "15"))
    known, _ = decode(path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 6000] = bytes(6000)
    path.write_bytes(content)
    frames, media = decode(path)
    [(start_s, end_s)] = media.damaged
    assert 0.5 < start_s < end_s < 2.5
    assert len(frames) == len(known)
    assert media.duration_s == pytest.approx(3)
    behind = int(15 * end_s) + 8  # by then a key frame has come
    assert np.abs(frames[behind:].astype(int) - known[behind:]).mean() < 1


def test_a_lost_beginning_keeps_its_time(tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "first.mp4", extra=("-movflags", "faststart", "-g", "15"))
    known, _ = decode(path)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start : start + 12000] = bytes(12000)
    path.write_bytes(content)
    frames, media = decode(path)
    assert media.damaged[0][0] == 0
    assert media.duration_s == pytest.approx(3)
    assert np.abs(frames[-10:].astype(int) - known[-10:]).mean() < 1


class Odd:
    """A demuxer that gives an empty packet after each, and ends as PyAV's does where streams have appeared late."""

    def __init__(self, container: InputContainer) -> None:
        self.container = container

    def demux(self, stream: VideoStream) -> Iterator[av.Packet]:
        for packet in self.container.demux(stream):
            yield packet
            yield av.Packet()
        raise IndexError("list index out of range")


def test_empty_packets_and_late_streams_are_no_matter(tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "x.mp4", seconds=1)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        found = list(PacketReader(Odd(container), stream).frames())  # type: ignore[arg-type]
    assert len(found) == 30
    assert not any(one.doubtful for one in found)


def test_packets_without_end_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.pattern(tmp_path / "noise.mp4", extra=("-movflags", "faststart", "-g", "15", "-bf", "0"))
    content = bytearray(path.read_bytes())
    start = len(content) // 2
    content[start : start + 20_000] = bytes(20_000)
    path.write_bytes(content)
    assert decode(path)[1].damaged[0][1] < 2.9
    monkeypatch.setattr(packets, "_MAX_EMPTY_PACKETS", 5)
    assert decode(path)[1].damaged[0][1] == pytest.approx(3)


def shown(start: int, end: int) -> TimedFrame:
    return TimedFrame(av.VideoFrame(16, 16), start, end)


class Container(NamedTuple):
    name: str
    streams: int = 2
    ticks: int | None = 9_000_000
    encoder: str = "Lavf62.3.100"

    def told(self, **stream: object) -> float | None:
        known = {
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
        ends_s = read_declared_end(container, SimpleNamespace(**(known | stream)))  # type: ignore[arg-type]
        return None if ends_s is None else float(ends_s)


def test_where_a_container_says_that_its_video_ends() -> None:
    assert Container("mov,mp4").told(duration=4000) == 4.5
    assert Container("mpegts").told(duration=4000) is None
    assert Container("avi").told(duration=4000, frames=90, average_rate=Fraction(30)) == 3
    assert Container("avi").told(duration=4000) is None
    assert Container("matroska,webm").told(metadata={"DURATION": "01:00:02.500000000"}) == 3602.5
    assert Container("matroska,webm").told(metadata={"DURATION": "an hour"}) is None
    # Others write the length, which is the end where the video begins with the file.
    merged = Container("matroska,webm", encoder="libebml v1.4.5 + libmatroska v1.7.1")
    assert merged.told(metadata={"DURATION": "00:00:02.5"}) is None
    assert merged.told(metadata={"DURATION": "00:00:02.5"}, start_time=0) == 2.5
    assert Container("matroska,webm").told(duration=4000) is None  # an estimate
    assert Container("matroska,webm").told() is None  # that may be the sound
    assert Container("matroska,webm", streams=1).told() == 9
    assert Container("matroska,webm", streams=1, ticks=None).told() is None


def test_damage_close_together_is_one_stretch() -> None:
    damage = CorruptionTracker(Fraction(1, 10), 1)
    for start, doubtful in ((0, False), (3, True), (5, True), (12, True), (20, False), (40, True)):
        damage.add_frame(shown(start, start + 1), doubtful)
    assert damage.finish(41, None, False, 1000) == 41
    assert damage.intervals == ((0.1, 1.2), (2.1, 4.0))  # of the gap before 20 nobody knows anything bad


@pytest.mark.parametrize(
    ("declared", "reached", "doubtful", "cut_off", "end"),
    [
        (10, None, False, True, None),
        (11, None, False, True, 11),
        (17, None, False, True, 17),
        (12, None, True, False, 12),
        (12, 10, False, False, 11),  # the packet after the last frame was there
        (None, 14, True, False, 14),
        (2000, None, False, True, 1000),  # whatever is declared
        (-5, None, True, False, None),
    ],
)
def test_an_end_is_missing_by_what_there_is_to_show_it(
    declared: int | None, reached: int | None, doubtful: bool, cut_off: bool, end: int | None
) -> None:
    damage = frames_of_a_second()
    found = damage.finish(declared, reached, doubtful, 1000, lambda: cut_off)
    assert damage.intervals == (((1.0, end / 10),) if end else ())
    assert end is None or (found, damage.last_frame_end) == (end, 10)


@pytest.mark.parametrize(("declared", "end"), [(None, 10), (14, 14), (17, 17), (2000, 1000), (5, 10)])
def test_the_last_frame_stays_on_until_the_declared_end(declared: int | None, end: int) -> None:
    damage = frames_of_a_second()
    assert damage.finish(declared, 9, False, 1000, lambda: False) == damage.last_frame_end == end
    assert damage.intervals == ()


def frames_of_a_second() -> CorruptionTracker:
    damage = CorruptionTracker(Fraction(1, 10), 1)
    for start in range(10):
        damage.add_frame(shown(start, start + 1), False)
    return damage


def test_damage_is_listed_within_bounds() -> None:
    damage = CorruptionTracker(Fraction(1), 1)
    for start in range(0, 5000, 2):
        damage.add_frame(shown(start, start + 1), True)
    assert len(damage.intervals) == 1000
    assert damage.intervals[-1][1] == 4998


def at(pts: int | None, doubtful: bool = False) -> DecodedFrame:
    frame = av.VideoFrame(16, 16)
    frame.pts = pts
    return DecodedFrame(frame, doubtful)


def test_frames_that_come_too_late_are_not_shown() -> None:
    clock = Clock(Fraction(1, 10), 1, concatenated=False)
    placed = [clock.place(one, 100) for one in (at(100), at(108), at(103, True), at(109, True))]
    assert [one and one.start for one in placed] == [0, 8, None, 9]


def test_ffmpegs_threads_never_wait_for_the_interpreter() -> None:
    """With any level set they do, in order to log, and both may wait for each other for ever."""
    assert av.logging.get_level() is None


class Refusing(io.BytesIO):
    """As a file on disk does."""

    number = 0

    def seek(self, place: int, whence: int = 0) -> int:
        if self.number and place > 1000:
            raise OSError(self.number, "no such place")
        return super().seek(place, whence)


def test_a_place_that_no_file_has_is_a_fault_of_the_video(tmp_path: Path) -> None:
    file = Refusing(clips.pattern(tmp_path / "late.mp4").read_bytes())  # its index lies at the end
    file.number = 22
    with pytest.raises(errors.VideoError):
        list(Video(file).frames(15, 64, 64))
    file.number = 5
    file.seek(0)
    with pytest.raises(OSError, match="no such place"):
        Video(file)


def test_a_length_below_zero_is_none(tmp_path: Path) -> None:
    content = clips.pattern(tmp_path / "short.mkv", seconds=1).read_bytes()
    place = content.index(b"\x44\x89\x88") + 3
    below = content[:place] + np.array([-1000.0], ">f8").tobytes() + content[place + 8 :]
    assert Video(io.BytesIO(content)).declared_duration_s == pytest.approx(1)
    assert Video(io.BytesIO(below)).declared_duration_s is None


def test_streams_are_counted(tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "two.mp4", seconds=0.2, extra=("-map", "0:v", "-map", "0:v"))
    with pytest.raises(errors.TooManyStreamsError, match="2 streams or more, the limit is 1"):
        decode(path, limits=Limits(max_streams=1))


def test_a_picture_above_the_limit_is_named_where_ffmpeg_forgets_its_size(tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "large.mov", seconds=0.2, extra=("-c:v", "mjpeg"))
    with pytest.raises(errors.VideoError, match="MMAD_MAX_PIXELS"):
        decode(path, limits=Limits(max_pixels=1000))


_BT709 = "format=yuv420p,setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709"


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_looks_like_what_it_shows(tmp_path: Path, transfer: str) -> None:
    """The same picture as HDR, white at 203 nits (ITU-R BT.2408)."""
    ordinary = clips.pattern(tmp_path / "sdr.mkv", seconds=0.2, extra=("-vf", _BT709, "-c:v", "ffv1"))
    bright = tmp_path / "hdr.mkv"
    to_hdr = f"zscale=t=linear:npl=203,format=gbrpf32le,zscale=t={transfer}:m=2020_ncl:p=2020:r=tv:npl=203"
    tags = f"log-level=none:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    filters = f"{to_hdr},format=yuv420p10le"
    clips.ffmpeg("-i", str(ordinary), "-vf", filters, "-c:v", "libx265", "-x265-params", tags, str(bright))
    expected, found = decode(ordinary)[0].astype(int), decode(bright)[0].astype(int)
    assert np.abs(found - expected).mean() < 45  # as it is stored, 80
    assert np.percentile(found, 95) > 240
