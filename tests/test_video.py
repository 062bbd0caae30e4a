"""Decoding, held against FFmpeg's own frames."""

import io
import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import errors
from model.packets import Given, Packets
from model.picture import Box, Orientation, Region, crop_box
from model.timing import Shown, resample
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
    assert media.looked_at == pytest.approx(144 * 122 / (180 * 320))


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
    shown = [Shown(frame, int(start), int(start) + 1) for start in starts]
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
    box = Orientation(turns % 2 == 1, turns in (1, 2), turns in (2, 3)).lay_down(box, width, height)
    assert box.x >= 0
    assert box.y >= 0
    assert box.width >= 1
    assert box.height >= 1
    assert box.x + box.width <= width
    assert box.y + box.height <= height


def test_lay_down_turns_a_corner() -> None:
    # Where the upright picture's top left corner lies in a picture stored 8 wide and 4 high.
    def corner(*orientation: bool) -> tuple[int, int]:
        return Orientation(*orientation).lay_down(Box(0, 0, 1, 1), 8, 4)[:2]

    assert [corner(False, x, y) for x in (False, True) for y in (False, True)] == [
        (0, 0),
        (0, 3),
        (7, 0),
        (7, 3),
    ]
    assert [corner(True, x, y) for x in (False, True) for y in (False, True)] == [
        (0, 0),
        (7, 0),
        (0, 3),
        (7, 3),
    ]


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
    path = clips.pattern(
        tmp_path / "titled.avi", seconds=0.5, extra=("-c:v", "mjpeg", "-metadata", "title=CAFEXX")
    )
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

    taken = Packets.frames

    def timeless(self: Packets) -> Iterator[Given]:
        for index, given in enumerate(taken(self)):
            given.frame.pts = given.frame.pts if index == 0 else None
            yield given

    monkeypatch.setattr(Packets, "frames", timeless)
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
    with pytest.raises(
        errors.VideoTooLongError, match=r"4 s or more, the limit is 2 s \(MMAD_MAX_DURATION_S\)"
    ):
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
