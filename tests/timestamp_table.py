"""Videos of numbered frames in many codecs and containers; compares our frame times with FFmpeg's.

`python -m tests.timestamp_table` prints the table; tests/test_times.py checks it.
"""

import json
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import OutputContainer
from numpy.typing import NDArray

from model.video import Limits, Media, Video

os.environ.setdefault("SVT_LOG", "1")  # errors only
SIDE, BLOCK = 64, 16  # pixels; a frame has 4 x 4 blocks: the 8 bits of its number and their complements
STEP_MS = 40
OPTIONS = {
    "libx264": {"preset": "ultrafast", "threads": "1"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
    "mpeg4": {"qscale": "3", "threads": "1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "threads": "1", "crf": "30", "b": "0"},
    "libsvtav1": {"preset": "8", "svtav1-params": "lp=1"},
}


class Codec(NamedTuple):
    """An encoder and its maximum number of consecutive B-frames."""

    encoder: str
    b_frames: int = 0


class Container(NamedTuple):
    """File suffix, and FFmpeg's muxer with options."""

    suffix: str
    muxer: str
    options: dict[str, str] = {}  # noqa: RUF012


class Sound(NamedTuple):
    """A silent audio stream: encoder, start and duration."""

    encoder: str
    start_ms: int = 0
    seconds: float = 1.0


CODECS = {
    "H.264": Codec("libx264"),
    "H.264 B": Codec("libx264", 2),
    "HEVC B": Codec("libx265", 3),
    "MPEG-4": Codec("mpeg4"),
    "MPEG-4 B": Codec("mpeg4", 2),
    "VP9": Codec("libvpx-vp9"),
    "AV1": Codec("libsvtav1"),
}
CONTAINERS = {
    "MP4": Container(".mp4", "mp4"),
    "fragmented MP4": Container(".mp4", "mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "MOV": Container(".mov", "mov"),
    "MKV": Container(".mkv", "matroska"),
    "WebM": Container(".webm", "webm"),
    "TS": Container(".ts", "mpegts"),
    "AVI": Container(".avi", "avi"),
}
_HOLDS = {
    "WebM": {"VP9", "AV1"},
    "TS": {"H.264", "H.264 B", "HEVC B"},
    "AVI": {"H.264", "H.264 B", "MPEG-4", "MPEG-4 B"},
}
_NOT_IN = {"MOV": {"AV1", "VP9"}}


def _pause(seconds: float) -> list[int]:
    return [index * STEP_MS + (round(seconds * 1000) - STEP_MS) * (index > 12) for index in range(30)]


def _jitter() -> list[int]:
    rng = np.random.default_rng(7)
    return [0, *(int(time) * STEP_MS for time in np.cumsum(rng.choice([1, 1, 2, 3, 9], 39)))]


# Presentation times in milliseconds, multiples of STEP_MS.
PATTERNS = {
    "constant": [index * STEP_MS for index in range(40)],
    "pause of 0.6 s": _pause(0.6),
    "pause of 2.4 s": _pause(2.4),
    "pause of 30 s": _pause(30),
    "two jumps": [index * STEP_MS + 1000 * (index > 9) + 5000 * (index > 20) for index in range(40)],
    "jitter": _jitter(),
    "1 fps": [index * 1000 for index in range(20)],
    "0.2 fps": [index * 5000 for index in range(12)],
    "starts at 5 s": [5000 + index * STEP_MS for index in range(30)],
    "pause at the end": [index * STEP_MS + 4000 * (index == 29) for index in range(30)],
}


@dataclass(frozen=True)
class Case:
    """A combination of container, codec and pattern of times."""

    container: str
    codec: str
    pattern: str

    @property
    def name(self) -> str:
        return f"{self.container}, {self.codec}, {self.pattern}"


def cases() -> list[Case]:
    """Return all cases: every codec in every container that supports it, with every pattern."""
    return [
        Case(container, codec, pattern)
        for container in CONTAINERS
        for codec in CODECS
        if codec in _HOLDS.get(container, CODECS) and codec not in _NOT_IN.get(container, ())
        for pattern in PATTERNS
    ]


def make(case: Case, folder: Path) -> Path:
    """Write the video of a case and return its path."""
    container = CONTAINERS[case.container]
    path = folder / f"{case.name.replace(' ', '_')}{container.suffix}"
    return write(path, container, CODECS[case.codec], PATTERNS[case.pattern])


def write(path: Path, container: Container, codec: Codec, times_ms: Sequence[int], sound: Sound | None = None) -> Path:
    """Write a video of frames 0, 1, 2 ... with these presentation times."""
    with av.open(str(path), "w", format=container.muxer, options=container.options) as out:
        stream = out.add_stream(codec.encoder, 1000 // STEP_MS, options=OPTIONS[codec.encoder])
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(STEP_MS, 1000)
        if codec.b_frames:
            stream.codec_context.max_b_frames = codec.b_frames
        stream.codec_context.gop_size = 15
        silence = _silence(out, sound) if sound else []
        for number, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(picture(number), format="gray").reformat(format="yuv420p")
            frame.pts, frame.time_base = time_ms // STEP_MS, Fraction(STEP_MS, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        for packet in silence:
            out.mux(packet)
    return path


def _silence(out: OutputContainer, sound: Sound) -> list[av.Packet]:
    stream = out.add_stream(sound.encoder, 48000, layout="mono")
    packets: list[av.Packet] = []
    for index in range(round(sound.seconds * 48000 / 1024)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.time_base = 48000, Fraction(1, 48000)
        frame.pts = sound.start_ms * 48 + index * 1024
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def edit(path: Path, edits: Sequence[tuple[int, int, int]]) -> Path:
    """Replace the edit list of an MP4 or MOV file with one stream and with moov after mdat.

    Args:
        path: file to change.
        edits: (duration in ms, media time in ticks or -1 for an empty edit, rate); rate 0 is a dwell on one frame.
    """
    content = path.read_bytes()
    elst = b"".join(struct.pack(">IiHH", *one, 0) for one in edits)
    elst = struct.pack(">I4sII", 16 + len(elst), b"elst", 0, len(edits)) + elst
    edts = struct.pack(">I4s", 8 + len(elst), b"edts") + elst
    position = content.index(b"edts") - 4
    old = int.from_bytes(content[position : position + 4])
    content = content[:position] + edts + content[position + old :]
    for name in (b"moov", b"trak"):
        start = content.rindex(name, 0, position) - 4
        size = int.from_bytes(content[start : start + 4]) + len(edts) - old
        content = content[:start] + struct.pack(">I", size) + content[start + 4 :]
    path.write_bytes(content)
    return path


def picture(number: int) -> NDArray[np.uint8]:
    """Draw a number from 0 to 255 as black and white blocks; returns (64, 64)."""
    bits = [number >> shift & 1 for shift in range(8)]
    blocks = np.array(bits + [1 - bit for bit in bits], np.uint8).reshape(4, 4)
    return np.kron(blocks * 200 + 20, np.ones((BLOCK, BLOCK))).astype(np.uint8)


def read_number(gray: NDArray[np.uint8]) -> int:
    """Read the number drawn in a (64, 64) frame; -1 if there is none."""
    if gray.shape != (SIDE, SIDE):
        return -1
    means = gray.reshape(4, BLOCK, 4, BLOCK).mean((1, 3)).reshape(2, 8)
    if np.abs(means[0] - means[1]).min() < 40:
        return -1
    return int((means[0] > means[1]) @ (1 << np.arange(8)))


class DecodedVideo(NamedTuple):
    """Output of our decoder: numbers and times of the frames, time base, end and media."""

    numbers: list[int]
    times: list[Fraction]
    tick: Fraction
    end: Fraction
    media: Media


def read(path: Path, limits: Limits = Limits()) -> DecodedVideo:
    """Decode a video with our decoder."""
    with path.open("rb") as file, closing(Video(file, limits)) as video:
        tick = video.time_base
        decoded = [(frame.frame.to_ndarray(format="gray"), frame.start, frame.end) for frame in video.timed_frames()]
    assert video.media is not None
    return DecodedVideo(
        [read_number(np.asarray(gray, np.uint8)) for gray, _, _ in decoded],
        [start * tick for _, start, _ in decoded],
        tick,
        decoded[-1][2] * tick,
        video.media,
    )


def probe(path: Path) -> list[Fraction]:
    """Return the times of all frames according to ffprobe, relative to the first."""
    command = ["ffprobe", "-v", "error", "-select_streams", "V:0", "-show_entries"]
    entries = "frame=best_effort_timestamp:stream=time_base"
    process = subprocess.run([*command, entries, "-of", "json", str(path)], check=True, capture_output=True)
    output = json.loads(process.stdout)
    tick = Fraction(output["streams"][0]["time_base"])
    stamps: list[int] = []
    for frame in output["frames"]:  # the last frames of AVI have no time: they follow at the frame rate
        stamps.append(int(frame.get("best_effort_timestamp", stamps[-1] + 1 if stamps else 0)))
    return [(stamp - stamps[0]) * tick for stamp in stamps]


def has_ffprobe() -> bool:
    return shutil.which("ffprobe") is not None


class Row(NamedTuple):
    """A row of the table."""

    case: Case
    frames: int
    error: Fraction
    tick: Fraction
    fault: str


def compare(case: Case, folder: Path) -> Row:
    """Compare our frame numbers and times with FFmpeg's and with those written."""
    decoded, times_ms = read(path := make(case, folder)), PATTERNS[case.pattern]
    written = [Fraction(times_ms[number] - times_ms[decoded.numbers[0]], 1000) for number in decoded.numbers]
    expected = probe(path) if has_ffprobe() else written
    faults = []
    # In some MP4 files the second to last frame is after the end of the edit list, and FFmpeg skips it.
    if (
        decoded.numbers != sorted(set(decoded.numbers))
        or min(decoded.numbers) < 0
        or len(times_ms) - len(decoded.numbers) > 1
    ):
        faults.append(f"frames {decoded.numbers}")
    if len(expected) != len(decoded.times):
        faults.append(f"{len(decoded.times)} frames, FFmpeg has {len(expected)}")
    # AVI has no presentation times; those that FFmpeg derives from decoding times are some frames off.
    if case.container != "AVI" and decoded.times != written:
        faults.append("not the times that were written")
    if decoded.media.damaged:
        faults.append(f"damaged {decoded.media.damaged}")
    error = max((abs(a - b) for a, b in zip(decoded.times, expected, strict=False)), default=Fraction(0))
    return Row(case, len(decoded.times), error, decoded.tick, "; ".join(faults))


def table() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        for case in cases():
            yield compare(case, Path(folder))


def main() -> None:
    """Print the table."""
    print("| container | codec | pattern | frames | largest error, ms | fault |")  # noqa: T201
    print("|---|---|---|---|---|---|")  # noqa: T201
    for row in table():
        case, error_ms = row.case, float(row.error * 1000)
        print(  # noqa: T201
            f"| {case.container} | {case.codec} | {case.pattern} | {row.frames} | {error_ms:.3f} | {row.fault} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
