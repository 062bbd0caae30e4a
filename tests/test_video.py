"""Decoding compared with FFmpeg's own frames, and refused files."""

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
from model.packets import DecodedFrame, PacketReader
from model.timing import Clock, TimedFrame, resample
from model.transforms import Box, Orientation, Region, crop_box
from model.video import Limits, Video
from model.windows import windows
from tests import clips
from tests.decoding import FPS, HEIGHT, WIDTH, decode


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


def test_variable_rate_clip_has_ffmpegs_frames(tmp_path: Path) -> None:
    drop_frames = ("-vf", "select='not(mod(n,3))+gt(n,50)'", "-fps_mode", "vfr")
    path = clips.pattern(tmp_path / "variable.mp4", extra=drop_frames)
    frames, media = decode(path)
    assert_like_ffmpeg(path, frames)
    assert media.variable_frame_rate
    assert media.duration_s == pytest.approx(3.0, abs=0.04)
    assert media.frames_decoded == 56


@pytest.mark.parametrize("suffix", [".webm", ".avi", ".mkv"])
def test_odd_sized_clip_in_other_containers(tmp_path: Path, suffix: str) -> None:
    codec = "libvpx" if suffix == ".webm" else "mjpeg"
    path = clips.pattern(tmp_path / f"odd{suffix}", extra=("-vf", "scale=323:181", "-c:v", codec))
    frames, media = decode(path)
    assert_like_ffmpeg(path, frames)
    assert (media.width, media.height) == (323, 181)
    assert not media.variable_frame_rate


@pytest.mark.parametrize(("rate", "fps"), [("30000/1001", 15.0), ("29", 15.0), ("10", 15.0), ("60", 12.5)])
def test_resampling_equals_ffmpegs(tmp_path: Path, rate: str, fps: float) -> None:
    path = clips.pattern(tmp_path / "rate.mp4", rate=rate)
    frames, media = decode(path, fps=fps)
    assert_like_ffmpeg(path, frames, fps)
    assert media.average_fps == pytest.approx(float(Fraction(rate)), rel=1e-3)


def test_region_is_cropped_before_scaling(tmp_path: Path) -> None:
    path = clips.rotated(tmp_path / "region.mp4", 90)  # 180 x 320 upright
    frames, media = decode(path, Region(0.2, 0.5, 0.8, 0.5))
    # 144 x 160 pixels from (36, 160); of that the middle 144 x 123.4, in even numbers.
    assert_like_ffmpeg(path, frames, crop="144:122:36:178")
    assert media.analysed_fraction == pytest.approx(144 * 122 / (180 * 320))


def test_non_square_pixels_are_scaled_to_square(tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "wide.mp4", extra=("-vf", "setsar=2/1"))
    frames, _ = decode(path)
    # Displayed at 640 x 180; the middle 210 x 180 of that is 105 stored pixels wide.
    assert_like_ffmpeg(path, frames, crop="104:180:108:0")


@given(
    times=st.lists(st.integers(0, 50), min_size=1, max_size=30),
    rate=st.fractions(Fraction(1, 10), Fraction(3, 1), max_denominator=10),
)
def test_resampling_fills_every_slot_once(times: list[int], rate: Fraction) -> None:
    starts = np.cumsum([0, *times[1:]])
    frame = av.VideoFrame(16, 16)
    frames = [TimedFrame(frame, int(start), int(start) + 1) for start in starts]
    counts = [repeats for _, repeats in resample(frames, rate)]
    assert all(count > 0 for count in counts)
    end = int((starts[-1] + 1) * rate + Fraction(1, 2))
    assert sum(counts) == max(1, end, int(starts[-1] * rate + Fraction(1, 2)))


@given(
    width=st.integers(1, 5000), height=st.integers(1, 5000), turns=st.integers(0, 3),
    x=st.floats(0, 0.9), y=st.floats(0, 0.9), aspect=st.floats(0.2, 5),
)  # fmt: skip
def test_crop_lies_within_stored_picture(
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


def test_orientation_maps_corners_to_stored_picture() -> None:
    # Position of the upright picture's top left corner in a stored picture of 8 x 4 pixels.
    def stored_corner(*orientation: bool) -> tuple[int, int]:
        return Orientation(*orientation).to_stored(Box(0, 0, 1, 1), 8, 4)[:2]

    assert [stored_corner(False, x, y) for x in (False, True) for y in (False, True)] == [
        (0, 0),
        (0, 3),
        (7, 0),
        (7, 3),
    ]
    assert [stored_corner(True, x, y) for x in (False, True) for y in (False, True)] == [(0, 0), (7, 0), (0, 3), (7, 3)]


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
def test_file_that_is_no_video_is_refused(content: bytes) -> None:
    with pytest.raises(errors.NotAVideoError):
        Video(io.BytesIO(content))


def test_picture_named_mp4_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    clips.ffmpeg("-f", "lavfi", "-i", "testsrc2", "-frames:v", "1", str(path))
    with path.open("rb") as file, pytest.raises(errors.NotAVideoError, match="mp4"):
        Video(file)


def test_audio_only_file_is_refused(tmp_path: Path) -> None:
    with clips.silence(tmp_path / "silence.mp4").open("rb") as file, pytest.raises(errors.NoVideoStreamError):
        Video(file)


def test_unknown_codec_error_names_supported_codecs(tmp_path: Path) -> None:
    content = clips.pattern(tmp_path / "known.mp4", seconds=0.2).read_bytes()
    with pytest.raises(errors.UnsupportedCodecError, match="H.264"):
        Video(io.BytesIO(content.replace(b"avc1", b"zzz1")))


def test_non_utf8_metadata_is_ignored(tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "titled.avi", seconds=0.5, extra=("-c:v", "mjpeg", "-metadata", "title=CAFEXX"))
    path.write_bytes(path.read_bytes().replace(b"CAFEXX", b"Caf\xe9 \xfc"))
    assert decode(path)[1].frames_decoded == 15


def test_cover_art_is_no_video_stream(tmp_path: Path) -> None:
    picture, song = tmp_path / "cover.png", tmp_path / "song.mp4"
    clips.ffmpeg("-f", "lavfi", "-i", "testsrc2", "-frames:v", "1", str(picture))
    inputs = ("-f", "lavfi", "-i", "anullsrc=d=1", "-i", str(picture), "-map", "0", "-map", "1")
    clips.ffmpeg(*inputs, "-c:a", "aac", "-c:v", "copy", "-disposition:v:0", "attached_pic", str(song))
    with song.open("rb") as file, pytest.raises(errors.NoVideoStreamError):
        Video(file)


def test_concatenated_transport_streams_are_decoded_whole(tmp_path: Path) -> None:
    part = clips.pattern(tmp_path / "part.ts", seconds=3)
    whole = tmp_path / "whole.ts"
    whole.write_bytes(part.read_bytes() * 2)
    frames, media = decode(whole)
    assert media.duration_s == pytest.approx(6, abs=0.1)
    assert media.frames_decoded == 180
    assert len(frames) == pytest.approx(90, abs=1)
    alone, _ = decode(part)
    assert np.abs(frames[-30:].astype(int) - alone[-30:]).mean() < 0.05


def test_frames_without_pts_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.pattern(tmp_path / "timed.mp4", seconds=2)
    expected, _ = decode(path)

    original = PacketReader.frames

    def frames_without_pts(self: PacketReader) -> Iterator[DecodedFrame]:
        for index, decoded in enumerate(original(self)):
            decoded.frame.pts = decoded.frame.pts if index == 0 else None
            yield decoded

    monkeypatch.setattr(PacketReader, "frames", frames_without_pts)
    frames, media = decode(path)
    np.testing.assert_array_equal(frames, expected)
    assert media.duration_s == pytest.approx(2, abs=0.01)


def test_resolution_change_midway_is_scaled(tmp_path: Path) -> None:
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


def test_limit_errors_name_value_and_setting(tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "long.mp4", seconds=4)
    with pytest.raises(errors.VideoTooLongError, match=r"4 s or more, the limit is 2 s \(MMAD_MAX_DURATION_S\)"):
        decode(path, limits=Limits(max_duration_s=2))
    with pytest.raises(errors.PictureTooLargeError, match=r"320 x 180 .* 1000 .*MMAD_MAX_PIXELS"):
        decode(path, limits=Limits(max_pixels=1000))


def test_undeclared_duration_is_measured(tmp_path: Path) -> None:
    # A live-streamed Matroska has no duration in its header.
    path = tmp_path / "live.mkv"
    path.write_bytes(clips.ffmpeg("-f", "lavfi", "-i", "testsrc2=d=4", "-live", "1", "-f", "matroska", "-"))
    with path.open("rb") as file:
        assert Video(file).declared_duration_s is None
    with pytest.raises(errors.VideoTooLongError):
        decode(path, limits=Limits(max_duration_s=2))
    assert decode(path)[1].duration_s == pytest.approx(4, abs=0.05)


def decoded_frame(pts: int | None, doubtful: bool = False) -> DecodedFrame:
    frame = av.VideoFrame(16, 16)
    frame.pts = pts
    return DecodedFrame(frame, doubtful)


def test_late_frames_are_dropped() -> None:
    clock = Clock(Fraction(1, 10), 1, concatenated=False)
    timed = [
        clock.place(frame, 100)
        for frame in (decoded_frame(100), decoded_frame(108), decoded_frame(103, True), decoded_frame(109, True))
    ]
    assert [frame and frame.start for frame in timed] == [0, 8, None, 9]


def test_ffmpeg_logging_is_off() -> None:
    """With a log level set, FFmpeg's threads wait for the interpreter lock and may deadlock."""
    assert av.logging.get_level() is None


class FailingSeek(io.BytesIO):
    """A file whose seeks beyond 1000 bytes fail with `errno`."""

    errno = 0

    def seek(self, position: int, whence: int = 0) -> int:
        if self.errno and position > 1000:
            raise OSError(self.errno, "seek failed")
        return super().seek(position, whence)


def test_invalid_seek_is_video_error_but_io_error_is_not(tmp_path: Path) -> None:
    file = FailingSeek(clips.pattern(tmp_path / "late.mp4").read_bytes())  # the index is at the end
    file.errno = 22
    with pytest.raises(errors.VideoError):
        list(Video(file).frames(15, 64, 64))
    file.errno = 5
    file.seek(0)
    with pytest.raises(OSError, match="seek failed"):
        Video(file)


def test_negative_declared_duration_is_none(tmp_path: Path) -> None:
    content = clips.pattern(tmp_path / "short.mkv", seconds=1).read_bytes()
    position = content.index(b"\x44\x89\x88") + 3
    negative = content[:position] + np.array([-1000.0], ">f8").tobytes() + content[position + 8 :]
    assert Video(io.BytesIO(content)).declared_duration_s == pytest.approx(1)
    assert Video(io.BytesIO(negative)).declared_duration_s is None


def test_too_many_streams_are_refused(tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "two.mp4", seconds=0.2, extra=("-map", "0:v", "-map", "0:v"))
    with pytest.raises(errors.TooManyStreamsError, match="2 streams or more, the limit is 1"):
        decode(path, limits=Limits(max_streams=1))


def test_pixel_limit_applies_without_declared_size(tmp_path: Path) -> None:
    path = clips.pattern(tmp_path / "large.mov", seconds=0.2, extra=("-c:v", "mjpeg"))
    with pytest.raises(errors.VideoError, match="MMAD_MAX_PIXELS"):
        decode(path, limits=Limits(max_pixels=1000))


_BT709 = "format=yuv420p,setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709"


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_is_tone_mapped_to_sdr(tmp_path: Path, transfer: str) -> None:
    """Compare an SDR frame with the same frame in HDR, whose white is 203 nits (ITU-R BT.2408)."""
    sdr = clips.pattern(tmp_path / "sdr.mkv", seconds=0.2, extra=("-vf", _BT709, "-c:v", "ffv1"))
    hdr = tmp_path / "hdr.mkv"
    to_hdr = f"zscale=t=linear:npl=203,format=gbrpf32le,zscale=t={transfer}:m=2020_ncl:p=2020:r=tv:npl=203"
    tags = f"log-level=none:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    filters = f"{to_hdr},format=yuv420p10le"
    clips.ffmpeg("-i", str(sdr), "-vf", filters, "-c:v", "libx265", "-x265-params", tags, str(hdr))
    expected, actual = decode(sdr)[0].astype(int), decode(hdr)[0].astype(int)
    assert np.abs(actual - expected).mean() < 45  # 80 without tone mapping
    assert np.percentile(actual, 95) > 240
