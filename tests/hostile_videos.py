"""Hostile and unusual files, each with the expected outcome.

    python -m tests.hostile_videos

makes all files, analyses each as a worker does, and prints a table.
"""

import io
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import NamedTuple

import structlog

from model.bundle import Bundle
from model.detector import Detector
from model.engines import load_engine
from model.errors import VideoError
from model.transforms import Region
from model.video import Limits
from tests.clips import ffmpeg, silence
from tests.measuring_forkserver import MeasuredSandbox, measured_sandbox

SUCCEEDED, PARTIAL = "succeeded", "partial"

_KEY = ("-encryption_key", "76a6c65c5ea762046bd749a2e632ccbb", "-encryption_kid", "a7e61c373e219033c21091fa607bf3b8")  # fmt: skip
_TO_PQ = (
    "format=yuv420p,setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709,"
    "zscale=t=linear:npl=203,format=gbrpf32le,zscale=t=smpte2084:m=2020_ncl:p=2020:r=tv:npl=203,format=yuv420p10le"
)

_H264 = ("-c:v", "libx264")

Make = Callable[[Path], bytes]


class Case(NamedTuple):
    """A file and its expected outcome: an error code, `succeeded` or `partial`."""

    name: str
    make: Make
    expected: str


class Outcome(NamedTuple):
    case: Case
    size_bytes: int
    actual: str
    seconds: float
    peak_mib: int
    damaged: tuple[tuple[float, float], ...]


def encode(name: str, *options: str, source: str = "testsrc2=s=64x64:r=15:d=2", audio: str = "") -> Make:
    """Encode FFmpeg's test pattern with these options to a file of this name, once."""

    @cache
    def run_ffmpeg() -> bytes:
        inputs = ["-f", "lavfi", "-i", source, *(["-f", "lavfi", "-i", audio] if audio else [])]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            ffmpeg(*inputs, *options, str(path))
            return path.read_bytes()

    return lambda _folder: run_ffmpeg()


def encode_420(name: str, *options: str, **more: str) -> Make:
    """Like encode, with pixel format yuv420p."""
    return encode(name, *options, "-pix_fmt", "yuv420p", **more)


def truncate(make: Make, share: float) -> Make:
    def cut_off(folder: Path) -> bytes:
        content = make(folder)
        return content[: int(share * len(content))]

    return cut_off


def add_noise(make: Make, start: float, end: float) -> Make:
    """Replace the bytes between two fractions of the file by noise."""

    def scramble(folder: Path) -> bytes:
        content = bytearray(make(folder))
        first, last = int(start * len(content)), int(end * len(content))
        content[first:last] = Random(7).randbytes(last - first)
        return bytes(content)

    return scramble


def replace_bytes(make: Make, old: bytes, new: bytes) -> Make:
    def replace(folder: Path) -> bytes:
        content = make(folder)
        assert old in content
        return content.replace(old, new)

    return replace


def concatenate(*parts: Make) -> Make:
    return lambda folder: b"".join(make(folder) for make in parts)


def encode_text(content: str) -> Make:
    return lambda _: content.encode()


def encode_image(codec: str) -> Make:
    """Make a single image without a container."""
    return lambda _: ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64", "-frames:v", "1", "-c:v", codec, "-f", "image2pipe", "-")  # fmt: skip


def _cover_art(folder: Path) -> bytes:
    picture, song = folder / "cover.png", folder / "song.mp4"
    picture.write_bytes(encode_image("png")(folder))
    inputs = ("-f", "lavfi", "-i", "anullsrc=d=1", "-i", str(picture), "-map", "0", "-map", "1")
    ffmpeg(*inputs, "-c:a", "aac", "-c:v", "copy", "-disposition:v:0", "attached_pic", str(song))
    return song.read_bytes()


def _subtitles(folder: Path) -> bytes:
    lines = folder / "lines.srt"
    lines.write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    ffmpeg("-i", str(lines), str(folder / "lines.mkv"))
    return (folder / "lines.mkv").read_bytes()


def _all_stream_types(folder: Path) -> bytes:
    """Make a video with audio, subtitles and a font attachment."""
    _subtitles(folder)
    (folder / "font.ttf").write_bytes(bytes(100))
    lines = ("-i", str(folder / "lines.srt"), "-attach", str(folder / "font.ttf"))
    return encode_420("all.mkv", *lines, "-metadata:s:t", "mimetype=font/ttf", audio="sine=d=2")(folder)


def _no_frames(folder: Path) -> bytes:
    """Make the header of a fragmented file without fragments."""
    content = encode_420("header.mp4", "-movflags", "frag_keyframe+empty_moov")(folder)
    return content[: content.index(b"moof") - 4]


def _zeroed(folder: Path) -> bytes:
    """Make a file with a valid index and zeros instead of frames."""
    content = _VALID(folder)
    start = content.index(b"mdat") + 4
    return content[:start] + bytes(len(content) - start)


def _sample_bomb(_: Path) -> bytes:
    from tests.sandboxed_decoding import sample_bomb

    return sample_bomb()


def _nested(_: Path) -> bytes:
    """Make boxes nested 4,000 deep."""
    content = b""
    for _ in range(4000):
        content = (len(content) + 8).to_bytes(4, "big") + b"moov" + content
    return b"\0\0\0\x18ftypisom\0\0\0\0isomiso2" + content


def _wrong_size(folder: Path) -> bytes:
    """Make a container that declares 64 x 64 with frames of 16000 x 16000."""
    content = bytearray(_HUGE(folder))
    size = (16000).to_bytes(2, "big") * 2
    entry = content.rindex(size)  # moov comes after the frames
    content[entry : entry + 4] = (64).to_bytes(2, "big") * 2
    return bytes(content)


def _rotated(folder: Path) -> bytes:
    """Make a recording whose display orientation changes by 90 degrees."""
    turn = ("-bsf:v", "h264_metadata=display_orientation=insert:rotate=90")
    wide = "testsrc2=s=96x64:r=15:d=2"
    return encode_420("upright.ts", *_H264, source=wide)(folder) + encode_420("turned.ts", *_H264, *turn, source=wide)(
        folder
    )


def _many_streams(folder: Path) -> bytes:
    return encode_420("many.mkv", *["-map", "0:v"] * 65, "-c:v", "mpeg4", source="testsrc2=s=16x16:r=5:d=0.4")(folder)


_HUGE = encode("huge.mov", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", source="color=black:s=16000x16000:r=1:d=1")
_VALID = encode_420("good.mp4", "-movflags", "faststart", "-g", "15", source="testsrc2=s=64x64:r=15:d=6")
_MOOV_LAST = encode_420("end.mp4")
_TS = encode_420("part.ts", *_H264, "-g", "15")

CASES = [
    # not a video
    Case("empty file", encode_text(""), "not_a_video"),
    Case("random bytes", lambda _: Random(1).randbytes(65_536), "not_a_video"),
    Case("text", encode_text("hello " * 1000), "not_a_video"),
    Case("HTML", encode_text("<html><video src='http://127.0.0.1/x.mp4'></html>"), "not_a_video"),
    Case("HLS playlist of a URL", encode_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"), "not_a_video"),
    Case("HLS playlist of a file", encode_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"), "not_a_video"),
    Case("ffconcat list", encode_text("ffconcat version 1.0\nfile x.mp4\n"), "not_a_video"),
    Case("SDP", encode_text("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n"), "not_a_video"),
    Case("PNG", encode_image("png"), "not_a_video"),
    Case("JPEG", encode_image("mjpeg"), "not_a_video"),
    Case("animated GIF", encode("moves.gif"), "not_a_video"),
    Case("concatenated PNGs", concatenate(*[encode_image("png")] * 5), "not_a_video"),
    Case("raw H.264", encode_420("raw.h264"), "not_a_video"),
    Case("MP4 without moov", truncate(_MOOV_LAST, 0.5), "not_a_video"),
    Case("MP4 boxes nested 4,000 deep", _nested, "not_a_video"),
    Case("audio only", lambda folder: silence(folder / "sound.mp4").read_bytes(), "no_video_stream"),
    Case("audio with cover art", _cover_art, "no_video_stream"),
    Case("subtitles only", _subtitles, "no_video_stream"),
    Case("unknown codec", replace_bytes(encode_420("known.mp4"), b"avc1", b"zzz1"), "unsupported_codec"),
    # too large
    Case("MP4 of 80 million samples", _sample_bomb, "damaged_video"),
    Case("10 hours, declared", encode_420("long.mp4", "-preset", "ultrafast", source="color=s=64x64:r=1:d=36000"), "video_too_long"),
    Case("10 hours, not declared", encode_420("live.mkv", "-preset", "ultrafast", "-live", "1", source="color=s=64x64:r=1:d=36000"), "video_too_long"),
    Case("timestamps that jump by 5 hours", encode_420("ahead.mp4", "-vf", "setpts=PTS+gt(N\\,15)*18000/TB", "-fps_mode", "vfr"), "video_too_long"),
    Case("1,000 fps", encode_420("fast.mp4", source="testsrc2=s=64x64:r=1000:d=2"), "frame_rate_too_high"),
    Case("1,000,000 fps", encode_420("faster.mp4", "-video_track_timescale", "1000000", source="testsrc2=s=64x64:r=1000000:d=0.002"), "frame_rate_too_high"),
    Case("16000 x 16000", _HUGE, "damaged_video"),
    Case("16000 x 16000 declared as 64 x 64", _wrong_size, "damaged_video"),
    Case("65 video streams", _many_streams, "too_many_streams"),
    # cannot be decoded
    Case("encrypted MP4", encode_420("secret.mp4", "-encryption_scheme", "cenc-aes-ctr", *_KEY), "encrypted_video"),
    Case("MP4 without frames", _no_frames, "damaged_video"),
    Case("MP4 with zeros instead of frames", _zeroed, "damaged_video"),
    # partly damaged
    Case("truncated MP4", truncate(_VALID, 0.6), PARTIAL),
    Case("MP4 with noise in the middle", add_noise(_VALID, 0.5, 0.6), PARTIAL),
    Case("truncated Matroska", truncate(encode_420("cut.mkv", "-g", "15"), 0.6), PARTIAL),
    Case("truncated WebM", truncate(encode_420("cut.webm", "-c:v", "libvpx"), 0.6), PARTIAL),
    Case("truncated AVI", truncate(encode_420("cut.avi", "-c:v", "mjpeg"), 0.6), PARTIAL),
    Case("MOV with noise in the middle", add_noise(encode_420("noise.mov", "-c:v", "mjpeg"), 0.4, 0.6), PARTIAL),
    # unusual but valid
    Case("fragmented MP4", encode_420("parts.mp4", "-movflags", "frag_keyframe+empty_moov", "-g", "15"), SUCCEEDED),
    Case("audio longer than the video", encode_420("song.mkv", "-c:a", "aac", audio="anullsrc=d=6"), SUCCEEDED),
    Case("truncated transport stream", truncate(encode_420("cut.ts", "-c:v", "mpeg2video"), 0.6), PARTIAL),
    Case("one frame", encode_420("one.mp4", "-frames:v", "1"), SUCCEEDED),
    Case("8K", encode_420("8k.mp4", "-preset", "ultrafast", source="color=gray:s=7680x4320:r=2:d=1"), SUCCEEDED),
    Case("1 x 1", encode("dot.mov", "-c:v", "png", source="color=white:s=1x1:r=15:d=1"), SUCCEEDED),
    Case("odd width and height", encode("odd.mkv", "-c:v", "ffv1", source="testsrc2=s=33x77:r=15:d=1"), SUCCEEDED),
    Case("16384 x 2", encode("line.mov", "-c:v", "png", source="color=white:s=16384x2:r=15:d=0.4"), SUCCEEDED),
    Case("pixel aspect ratio of 1000:1", encode_420("wide.mp4", "-vf", "setsar=1000/1"), SUCCEEDED),
    Case("HDR (PQ, 10 bit)", encode("hdr.mkv", "-vf", _TO_PQ, "-c:v", "libx265", "-x265-params", "log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"), SUCCEEDED),
    Case("interlaced", encode_420("fields.ts", "-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-vf", "interlace"), SUCCEEDED),
    Case("WebM with alpha", encode("alpha.webm", "-c:v", "libvpx", "-auto-alt-ref", "0", "-pix_fmt", "yuva420p"), SUCCEEDED),
    Case("ProRes 4444 with alpha", encode("alpha.mov", "-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le"), SUCCEEDED),
    Case("PNG with alpha in MOV", encode("png.mov", "-c:v", "png", "-pix_fmt", "rgba"), SUCCEEDED),
    Case("with audio, subtitles and a font", _all_stream_types, SUCCEEDED),
    Case("three video streams", encode_420("three.mp4", *["-map", "0:v"] * 3), SUCCEEDED),
    Case("negative timestamps", encode_420("below.mkv", "-vf", "setpts=PTS-1/TB", "-avoid_negative_ts", "disabled", "-fps_mode", "passthrough"), SUCCEEDED),
    Case("timestamps that restart", concatenate(_TS, _TS), SUCCEEDED),
    Case("no timestamps", encode_420("untimed.avi", "-c:v", "mpeg4", "-bf", "2"), SUCCEEDED),
    Case("audio stream added later", concatenate(_TS, encode_420("sound.ts", *_H264, audio="sine=d=2")), SUCCEEDED),
    Case("frame size changes", concatenate(_TS, encode_420("large.ts", *_H264, source="testsrc2=s=128x96:r=15:d=2")), SUCCEEDED),
    Case("pixel format changes", concatenate(_TS, encode("full.ts", *_H264, "-pix_fmt", "yuv444p10le")), SUCCEEDED),
    Case("display orientation changes", _rotated, SUCCEEDED),
]  # fmt: skip


# A minute: a video of undeclared length is analysed up to the limit before it is refused.
_LIMITS = Limits(max_duration_s=60.0)


def run(cases: Iterable[Case], folder: Path, detector: Detector, sandbox: MeasuredSandbox) -> Iterator[Outcome]:
    """Analyse each case as a worker does."""
    for case in cases:
        content = case.make(folder)
        start = time.perf_counter()
        actual, damaged = analyse(detector, content)
        seconds = time.perf_counter() - start
        yield Outcome(case, len(content), actual, seconds, sandbox.peaks_mib()[-1], damaged)


def analyse(detector: Detector, content: bytes) -> tuple[str, tuple[tuple[float, float], ...]]:
    """Analyse a video; returns the outcome and the damaged intervals in seconds."""
    try:
        detected = detector.detect(io.BytesIO(content), region=Region(), limits=_LIMITS)
    except VideoError as error:
        return error.code, ()
    ends = [0.0, *(interval.end_s for interval in detected.coverage)]
    starts = [*(interval.start_s for interval in detected.coverage), detected.media.duration_s]
    assert all(abs(start - end) < 1e-6 for start, end in zip(starts, ends, strict=True)), detected.coverage
    return PARTIAL if detected.media.damaged else SUCCEEDED, detected.media.damaged


# Mutations of valid files

_SHORT = "testsrc2=s=64x64:r=10:d=1"

VALID_FILES = {
    "mp4": encode_420("seed.mp4", "-movflags", "faststart", source=_SHORT),
    "fragments": encode_420("fragments.mp4", "-movflags", "frag_keyframe+empty_moov", "-g", "6", source=_SHORT),
    "mkv": encode_420("seed.mkv", "-g", "6", "-c:a", "aac", source=_SHORT, audio="sine=d=1"),
    "webm": encode_420("seed.webm", "-c:v", "libvpx", source=_SHORT),
    "avi": encode_420("seed.avi", "-c:v", "mpeg4", "-bf", "2", source=_SHORT),
    "ts": encode_420("seed.ts", *_H264, "-g", "6", source=_SHORT),
}  # fmt: skip


def mutations(seed: int, folder: Path, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield `count` damaged files, each with a name that describes the mutation."""
    rng = Random(seed)
    valid = {name: make(folder) for name, make in VALID_FILES.items()}
    kinds = itertools.cycle(itertools.product(valid, MUTATIONS))
    for _, (name, mutation) in zip(range(count), kinds, strict=False):
        yield f"{mutation} {name}", MUTATIONS[mutation](bytearray(valid[name]), rng)


def _flip(content: bytearray, rng: Random) -> bytes:
    for _ in range(rng.choice((1, 4, 16, 64))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def _flip_head(content: bytearray, rng: Random) -> bytes:
    """Flip bytes in the header."""
    for _ in range(rng.choice((1, 2, 8))):
        content[rng.randrange(min(1000, len(content)))] = rng.randrange(256)
    return bytes(content)


def _cut_tail(content: bytearray, rng: Random) -> bytes:
    return bytes(content[: rng.randrange(len(content))])


def _swap(content: bytearray, rng: Random) -> bytes:
    size = rng.choice((16, 188, 1024))
    first, second = (rng.randrange(len(content) - size) for _ in range(2))
    first_part, second_part = content[first : first + size], content[second : second + size]
    content[first : first + size], content[second : second + size] = second_part, first_part
    return bytes(content)


def _resize(content: bytearray, rng: Random) -> bytes:
    """Overwrite four bytes by another number, as sizes and counts are stored."""
    position = rng.randrange(min(2000, len(content)) - 4)
    number = rng.choice((0, 1, 7, 2**16, 2**31 - 1, 2**31, 2**32 - 1, rng.randrange(2**32)))
    content[position : position + 4] = number.to_bytes(4, rng.choice(("big", "little")))
    return bytes(content)


def _drop(content: bytearray, rng: Random) -> bytes:
    start = rng.randrange(len(content))
    del content[start : start + rng.choice((1, 100, 2000))]
    return bytes(content)


def _repeat(content: bytearray, rng: Random) -> bytes:
    start, end = sorted(rng.randrange(len(content)) for _ in range(2))
    return bytes(content[:end] + content[start:])


MUTATIONS: dict[str, Callable[[bytearray, Random], bytes]] = {
    "flip": _flip, "flip head": _flip_head, "cut tail": _cut_tail, "swap": _swap, "resize": _resize, "drop": _drop,
    "repeat": _repeat,
}  # fmt: skip


def main() -> None:
    from tests.untrained_bundle import make_bundle

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    sys.stdout.write("| input | bytes | outcome | seconds | decoder's memory, MiB |\n|---|---|---|---|---|\n")
    wrong = 0
    with tempfile.TemporaryDirectory() as name, measured_sandbox(Path(name)) as sandbox:
        bundle: Bundle = make_bundle(Path(name) / "bundle")
        detector = Detector(bundle, load_engine(bundle), decoder=sandbox)
        for outcome in run(CASES, Path(name), detector, sandbox):
            parts = ", ".join(f"{start_s:.1f}-{end_s:.1f} s" for start_s, end_s in outcome.damaged)
            actual = f"{outcome.actual} ({parts} damaged)" if parts else outcome.actual
            if outcome.actual != outcome.case.expected:
                wrong += 1
                actual += f", not {outcome.case.expected}"
            sys.stdout.write(
                f"| {outcome.case.name} | {outcome.size_bytes:,} | {actual} | {outcome.seconds:.2f} | {outcome.peak_mib} |\n"
            )
            sys.stdout.flush()
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
