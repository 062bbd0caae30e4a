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
    answer: str


class Outcome(NamedTuple):
    case: Case
    size: int
    answer: str
    seconds: float
    peak_mib: int
    damaged: tuple[tuple[float, float], ...]


def film(name: str, *options: str, source: str = "testsrc2=s=64x64:r=15:d=2", sound: str = "") -> Make:
    """Make FFmpeg's test pattern with these options and this file name, once."""

    @cache
    def encode() -> bytes:
        inputs = ["-f", "lavfi", "-i", source, *(["-f", "lavfi", "-i", sound] if sound else [])]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            ffmpeg(*inputs, *options, str(path))
            return path.read_bytes()

    return lambda _folder: encode()


def plain(name: str, *options: str, **more: str) -> Make:
    """Like film, with pixel format yuv420p."""
    return film(name, *options, "-pix_fmt", "yuv420p", **more)


def cut(make: Make, share: float) -> Make:
    def cut_off(folder: Path) -> bytes:
        content = make(folder)
        return content[: int(share * len(content))]

    return cut_off


def scrambled(make: Make, start: float, end: float) -> Make:
    """Replace the bytes between two fractions of the file by noise."""

    def scramble(folder: Path) -> bytes:
        content = bytearray(make(folder))
        first, last = int(start * len(content)), int(end * len(content))
        content[first:last] = Random(7).randbytes(last - first)
        return bytes(content)

    return scramble


def replaced(make: Make, old: bytes, new: bytes) -> Make:
    def replace(folder: Path) -> bytes:
        content = make(folder)
        assert old in content
        return content.replace(old, new)

    return replace


def joined(*parts: Make) -> Make:
    return lambda folder: b"".join(make(folder) for make in parts)


def text(content: str) -> Make:
    return lambda _: content.encode()


def still(codec: str) -> Make:
    """Make a single image without a container."""
    return lambda _: ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64", "-frames:v", "1", "-c:v", codec, "-f", "image2pipe", "-")  # fmt: skip


def _cover_art(folder: Path) -> bytes:
    picture, song = folder / "cover.png", folder / "song.mp4"
    picture.write_bytes(still("png")(folder))
    inputs = ("-f", "lavfi", "-i", "anullsrc=d=1", "-i", str(picture), "-map", "0", "-map", "1")
    ffmpeg(*inputs, "-c:a", "aac", "-c:v", "copy", "-disposition:v:0", "attached_pic", str(song))
    return song.read_bytes()


def _subtitles(folder: Path) -> bytes:
    lines = folder / "lines.srt"
    lines.write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    ffmpeg("-i", str(lines), str(folder / "lines.mkv"))
    return (folder / "lines.mkv").read_bytes()


def _with_all(folder: Path) -> bytes:
    """Make a video with audio, subtitles and a font attachment."""
    _subtitles(folder)
    (folder / "font.ttf").write_bytes(bytes(100))
    lines = ("-i", str(folder / "lines.srt"), "-attach", str(folder / "font.ttf"))
    return plain("all.mkv", *lines, "-metadata:s:t", "mimetype=font/ttf", sound="sine=d=2")(folder)


def _no_frames(folder: Path) -> bytes:
    """Make the header of a fragmented file without fragments."""
    content = plain("header.mp4", "-movflags", "frag_keyframe+empty_moov")(folder)
    return content[: content.index(b"moof") - 4]


def _garbled(folder: Path) -> bytes:
    """Make a file with a valid index and zeros instead of frames."""
    content = _GOOD(folder)
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


def _turned(folder: Path) -> bytes:
    """Make a recording whose display orientation changes by 90 degrees."""
    turn = ("-bsf:v", "h264_metadata=display_orientation=insert:rotate=90")
    wide = "testsrc2=s=96x64:r=15:d=2"
    return plain("upright.ts", *_H264, source=wide)(folder) + plain("turned.ts", *_H264, *turn, source=wide)(folder)


def _many_streams(folder: Path) -> bytes:
    return plain("many.mkv", *["-map", "0:v"] * 65, "-c:v", "mpeg4", source="testsrc2=s=16x16:r=5:d=0.4")(folder)


_HUGE = film("huge.mov", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", source="color=black:s=16000x16000:r=1:d=1")
_GOOD = plain("good.mp4", "-movflags", "faststart", "-g", "15", source="testsrc2=s=64x64:r=15:d=6")
_END = plain("end.mp4")
_TS = plain("part.ts", *_H264, "-g", "15")

CASES = [
    # no video
    Case("nothing at all", text(""), "not_a_video"),
    Case("random bytes", lambda _: Random(1).randbytes(65_536), "not_a_video"),
    Case("text", text("hello " * 1000), "not_a_video"),
    Case("HTML", text("<html><video src='http://127.0.0.1/x.mp4'></html>"), "not_a_video"),
    Case("HLS playlist of an address", text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"), "not_a_video"),
    Case("HLS playlist of a file", text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"), "not_a_video"),
    Case("ffconcat list", text("ffconcat version 1.0\nfile x.mp4\n"), "not_a_video"),
    Case("SDP", text("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n"), "not_a_video"),
    Case("PNG", still("png"), "not_a_video"),
    Case("JPEG", still("mjpeg"), "not_a_video"),
    Case("GIF that moves", film("moves.gif"), "not_a_video"),
    Case("PNGs in a row", joined(*[still("png")] * 5), "not_a_video"),
    Case("raw H.264", plain("raw.h264"), "not_a_video"),
    Case("MP4 without moov", cut(_END, 0.5), "not_a_video"),
    Case("boxes 4,000 deep", _nested, "not_a_video"),
    Case("sound alone", lambda folder: silence(folder / "sound.mp4").read_bytes(), "no_video_stream"),
    Case("song with cover art", _cover_art, "no_video_stream"),
    Case("subtitles alone", _subtitles, "no_video_stream"),
    Case("codec that nobody knows", replaced(plain("known.mp4"), b"avc1", b"zzz1"), "unsupported_codec"),
    # too much
    Case("MP4 of 80 million samples", _sample_bomb, "damaged_video"),
    Case("10 hours, declared", plain("long.mp4", "-preset", "ultrafast", source="color=s=64x64:r=1:d=36000"), "video_too_long"),
    Case("10 hours, not declared", plain("live.mkv", "-preset", "ultrafast", "-live", "1", source="color=s=64x64:r=1:d=36000"), "video_too_long"),
    Case("times that jump ahead by 5 hours", plain("ahead.mp4", "-vf", "setpts=PTS+gt(N\\,15)*18000/TB", "-fps_mode", "vfr"), "video_too_long"),
    Case("1,000 frames a second", plain("fast.mp4", source="testsrc2=s=64x64:r=1000:d=2"), "frame_rate_too_high"),
    Case("a million frames a second", plain("faster.mp4", "-video_track_timescale", "1000000", source="testsrc2=s=64x64:r=1000000:d=0.002"), "frame_rate_too_high"),
    Case("16000 x 16000", _HUGE, "damaged_video"),
    Case("16000 x 16000 that is declared as 64 x 64", _wrong_size, "damaged_video"),
    Case("65 video streams", _many_streams, "too_many_streams"),
    # cannot be decoded
    Case("encrypted MP4", plain("secret.mp4", "-encryption_scheme", "cenc-aes-ctr", *_KEY), "encrypted_video"),
    Case("MP4 without a frame", _no_frames, "damaged_video"),
    Case("MP4 of noise", _garbled, "damaged_video"),
    # damaged in part
    Case("MP4 cut off", cut(_GOOD, 0.6), PARTIAL),
    Case("MP4 with noise in the middle", scrambled(_GOOD, 0.5, 0.6), PARTIAL),
    Case("Matroska cut off", cut(plain("cut.mkv", "-g", "15"), 0.6), PARTIAL),
    Case("WebM cut off", cut(plain("cut.webm", "-c:v", "libvpx"), 0.6), PARTIAL),
    Case("AVI cut off", cut(plain("cut.avi", "-c:v", "mjpeg"), 0.6), PARTIAL),
    Case("MOV with noise in the middle", scrambled(plain("noise.mov", "-c:v", "mjpeg"), 0.4, 0.6), PARTIAL),
    # odd, and fine
    Case("fragmented MP4", plain("parts.mp4", "-movflags", "frag_keyframe+empty_moov", "-g", "15"), SUCCEEDED),
    Case("sound longer than the video", plain("song.mkv", "-c:a", "aac", sound="anullsrc=d=6"), SUCCEEDED),
    Case("transport stream cut off", cut(plain("cut.ts", "-c:v", "mpeg2video"), 0.6), PARTIAL),
    Case("one frame", plain("one.mp4", "-frames:v", "1"), SUCCEEDED),
    Case("8K", plain("8k.mp4", "-preset", "ultrafast", source="color=gray:s=7680x4320:r=2:d=1"), SUCCEEDED),
    Case("1 x 1", film("dot.mov", "-c:v", "png", source="color=white:s=1x1:r=15:d=1"), SUCCEEDED),
    Case("odd sizes", film("odd.mkv", "-c:v", "ffv1", source="testsrc2=s=33x77:r=15:d=1"), SUCCEEDED),
    Case("16384 x 2", film("line.mov", "-c:v", "png", source="color=white:s=16384x2:r=15:d=0.4"), SUCCEEDED),
    Case("pixels a thousand times as wide as high", plain("wide.mp4", "-vf", "setsar=1000/1"), SUCCEEDED),
    Case("HDR (PQ, 10 bit)", film("hdr.mkv", "-vf", _TO_PQ, "-c:v", "libx265", "-x265-params", "log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"), SUCCEEDED),
    Case("interlaced", plain("fields.ts", "-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-vf", "interlace"), SUCCEEDED),
    Case("WebM with alpha", film("alpha.webm", "-c:v", "libvpx", "-auto-alt-ref", "0", "-pix_fmt", "yuva420p"), SUCCEEDED),
    Case("ProRes 4444 with alpha", film("alpha.mov", "-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le"), SUCCEEDED),
    Case("PNG with alpha in MOV", film("png.mov", "-c:v", "png", "-pix_fmt", "rgba"), SUCCEEDED),
    Case("sound, subtitles and a font as well", _with_all, SUCCEEDED),
    Case("three video streams", plain("three.mp4", *["-map", "0:v"] * 3), SUCCEEDED),
    Case("times below zero", plain("below.mkv", "-vf", "setpts=PTS-1/TB", "-avoid_negative_ts", "disabled", "-fps_mode", "passthrough"), SUCCEEDED),
    Case("times that start anew", joined(_TS, _TS), SUCCEEDED),
    Case("no times at all", plain("untimed.avi", "-c:v", "mpeg4", "-bf", "2"), SUCCEEDED),
    Case("sound comes in later", joined(_TS, plain("sound.ts", *_H264, sound="sine=d=2")), SUCCEEDED),
    Case("the size changes", joined(_TS, plain("large.ts", *_H264, source="testsrc2=s=128x96:r=15:d=2")), SUCCEEDED),
    Case("the pixel format changes", joined(_TS, film("full.ts", *_H264, "-pix_fmt", "yuv444p10le")), SUCCEEDED),
    Case("the camera is turned", _turned, SUCCEEDED),
]  # fmt: skip


# A minute: a video of undeclared length is analysed up to the limit before it is refused.
_LIMITS = Limits(max_duration_s=60.0)


def run(cases: Iterable[Case], folder: Path, detector: Detector, sandbox: MeasuredSandbox) -> Iterator[Outcome]:
    """Analyse each case as a worker does."""
    for case in cases:
        content = case.make(folder)
        start = time.perf_counter()
        answer, damaged = analyse(detector, content)
        seconds = time.perf_counter() - start
        yield Outcome(case, len(content), answer, seconds, sandbox.peaks_mib()[-1], damaged)


def analyse(detector: Detector, content: bytes) -> tuple[str, tuple[tuple[float, float], ...]]:
    """Analyse a video; returns the outcome and the damaged intervals in seconds."""
    try:
        found = detector.detect(io.BytesIO(content), region=Region(), limits=_LIMITS)
    except VideoError as error:
        return error.code, ()
    ends = [0.0, *(one.end_s for one in found.coverage)]
    starts = [*(one.start_s for one in found.coverage), found.media.duration_s]
    assert all(abs(start - end) < 1e-6 for start, end in zip(starts, ends, strict=True)), found.coverage
    return PARTIAL if found.media.damaged else SUCCEEDED, found.media.damaged


# Mutations of good files

_SHORT = "testsrc2=s=64x64:r=10:d=1"

GOOD = {
    "mp4": plain("seed.mp4", "-movflags", "faststart", source=_SHORT),
    "fragments": plain("fragments.mp4", "-movflags", "frag_keyframe+empty_moov", "-g", "6", source=_SHORT),
    "mkv": plain("seed.mkv", "-g", "6", "-c:a", "aac", source=_SHORT, sound="sine=d=1"),
    "webm": plain("seed.webm", "-c:v", "libvpx", source=_SHORT),
    "avi": plain("seed.avi", "-c:v", "mpeg4", "-bf", "2", source=_SHORT),
    "ts": plain("seed.ts", *_H264, "-g", "6", source=_SHORT),
}  # fmt: skip


def mutations(seed: int, folder: Path, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield `count` damaged files, each with a name that describes the mutation."""
    chosen = Random(seed)
    good = {name: make(folder) for name, make in GOOD.items()}
    turns = itertools.cycle(itertools.product(good, MUTATIONS))
    for _, (name, how) in zip(range(count), turns, strict=False):
        yield f"{how} {name}", MUTATIONS[how](bytearray(good[name]), chosen)


def _flip(content: bytearray, chosen: Random) -> bytes:
    for _ in range(chosen.choice((1, 4, 16, 64))):
        content[chosen.randrange(len(content))] ^= 1 << chosen.randrange(8)
    return bytes(content)


def _flip_head(content: bytearray, chosen: Random) -> bytes:
    """Flip bytes in the header."""
    for _ in range(chosen.choice((1, 2, 8))):
        content[chosen.randrange(min(1000, len(content)))] = chosen.randrange(256)
    return bytes(content)


def _cut_tail(content: bytearray, chosen: Random) -> bytes:
    return bytes(content[: chosen.randrange(len(content))])


def _swap(content: bytearray, chosen: Random) -> bytes:
    size = chosen.choice((16, 188, 1024))
    first, second = (chosen.randrange(len(content) - size) for _ in range(2))
    one, other = content[first : first + size], content[second : second + size]
    content[first : first + size], content[second : second + size] = other, one
    return bytes(content)


def _resize(content: bytearray, chosen: Random) -> bytes:
    """Overwrite four bytes by another number, as sizes and counts are stored."""
    place = chosen.randrange(min(2000, len(content)) - 4)
    number = chosen.choice((0, 1, 7, 2**16, 2**31 - 1, 2**31, 2**32 - 1, chosen.randrange(2**32)))
    content[place : place + 4] = number.to_bytes(4, chosen.choice(("big", "little")))
    return bytes(content)


def _drop(content: bytearray, chosen: Random) -> bytes:
    start = chosen.randrange(len(content))
    del content[start : start + chosen.choice((1, 100, 2000))]
    return bytes(content)


def _repeat(content: bytearray, chosen: Random) -> bytes:
    start, end = sorted(chosen.randrange(len(content)) for _ in range(2))
    return bytes(content[:end] + content[start:])


MUTATIONS: dict[str, Callable[[bytearray, Random], bytes]] = {
    "flip": _flip, "flip head": _flip_head, "cut tail": _cut_tail, "swap": _swap, "resize": _resize, "drop": _drop,
    "repeat": _repeat,
}  # fmt: skip


def main() -> None:
    from tests.untrained_bundle import make_bundle

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    sys.stdout.write("| input | bytes | answer | seconds | decoder's memory, MiB |\n|---|---|---|---|---|\n")
    wrong = 0
    with tempfile.TemporaryDirectory() as name, measured_sandbox(Path(name)) as sandbox:
        bundle: Bundle = make_bundle(Path(name) / "bundle")
        detector = Detector(bundle, load_engine(bundle), decoder=sandbox)
        for one in run(CASES, Path(name), detector, sandbox):
            parts = ", ".join(f"{start_s:.1f}-{end_s:.1f} s" for start_s, end_s in one.damaged)
            answer = f"{one.answer} ({parts} damaged)" if parts else one.answer
            if one.answer != one.case.answer:
                wrong += 1
                answer += f", not {one.case.answer}"
            sys.stdout.write(f"| {one.case.name} | {one.size:,} | {answer} | {one.seconds:.2f} | {one.peak_mib} |\n")
            sys.stdout.flush()
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
