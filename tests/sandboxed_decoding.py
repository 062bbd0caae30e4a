"""Helpers to decode intact and faulty videos in the sandbox."""

import io
import struct
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from model.sandbox.client import SandboxedVideo
from model.sandbox.sandbox import Sandbox
from model.video import InProcessDecoder, Limits, Video
from tests.conftest import descendants
from tests.faulty_forkserver import marked_bytes

# Stall timeout for decoders that hang on purpose.
SHORT_STALL = Limits(max_stall_s=1)


def read_frames(video: Video | SandboxedVideo, size: tuple[int, int] = (64, 36)) -> list[np.ndarray]:
    with closing(video):
        return list(video.frames(15, *size))


def decode_faulty(sandboxed: Sandbox, small_clip: Path, fault: str, limits: Limits = Limits()) -> NoReturn:
    """Decode a video with a fault and raise its error."""
    read_frames(sandboxed.open(faulty_video(small_clip, fault), limits))
    pytest.fail(f"{fault} raised nothing")


def faulty_video(small_clip: Path, fault: str) -> io.BytesIO:
    return io.BytesIO(marked_bytes(small_clip.read_bytes(), fault))


def forkserver_pid(sandboxed: Sandbox) -> int:
    return sandboxed._forkserver.process.pid


def assert_next_video_decodes(sandboxed: Sandbox, small_clip: Path) -> None:
    """Assert that the next video decodes correctly and that no decoder process is left."""
    with small_clip.open("rb") as file, small_clip.open("rb") as same:
        np.testing.assert_array_equal(
            read_frames(sandboxed.open(file, Limits())), read_frames(InProcessDecoder().open(same, Limits()))
        )
    assert descendants(forkserver_pid(sandboxed)) == []


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
