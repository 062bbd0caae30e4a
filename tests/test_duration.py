"""Declared durations of containers, and uploads refused because of them."""

import io
import random
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies
from starlette.testclient import TestClient

from service.app import build_app
from service.app_state import AppState
from service.duration import read_declared_duration_s
from service.settings import Settings
from tests import clips
from tests.fake_service import assert_problem, stored_files

CONTAINERS = {
    "mp4": ("x.mp4", ()),
    "moov first": ("x.mp4", ("-movflags", "+faststart")),
    "mov": ("x.mov", ()),
    "mkv": ("x.mkv", ()),
    "webm": ("x.webm", ("-c:v", "libvpx", "-deadline", "realtime")),
    "avi": ("x.avi", ("-c:v", "mpeg4")),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_declared_duration_is_read(tmp_path: Path, container: str) -> None:
    name, extra = CONTAINERS[container]
    with clips.pattern(tmp_path / name, size="64x64", seconds=25, rate="5", extra=extra).open("rb") as file:
        assert read_declared_duration_s(file) == pytest.approx(25, abs=0.1)


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("x.ts", ()), ("x.mp4", ("-movflags", "+frag_keyframe+empty_moov")),
        ("x.mkv", ("-live", "1")), ("x.mp4", ("-f", "matroska", "-live", "1")),
    ],
)  # fmt: skip
def test_undeclared_duration_is_none(tmp_path: Path, name: str, extra: tuple[str, ...]) -> None:
    with clips.pattern(tmp_path / name, size="64x64", seconds=3, extra=extra).open("rb") as file:
        assert read_declared_duration_s(file) is None


def box(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    return (8 + len(content) if length is None else length).to_bytes(4) + kind + content


def make_movie(version: int, timescale: int, ticks: int, more: bytes = b"") -> io.BytesIO:
    width = 8 if version else 4
    header = bytes([version, 0, 0, 0]) + bytes(2 * width) + timescale.to_bytes(4) + ticks.to_bytes(width)
    return io.BytesIO(box(b"ftyp", b"isom") + box(b"moov", box(b"mvhd", header + bytes(80)) + more))


def test_mvhd_and_mehd_durations() -> None:
    assert read_declared_duration_s(make_movie(0, 1000, 9_000_000)) == 9000
    assert read_declared_duration_s(make_movie(1, 1000, 9_000_000)) == 9000
    assert read_declared_duration_s(make_movie(0, 1000, 0xFFFFFFFF)) is None
    assert read_declared_duration_s(make_movie(1, 1000, 2**64 - 1)) is None
    assert read_declared_duration_s(make_movie(0, 0, 5)) is None
    fragments = box(b"mvex", box(b"mehd", bytes(4) + (5000).to_bytes(4)))
    assert read_declared_duration_s(make_movie(0, 1000, 0, fragments)) == 5
    wide = box(b"mdat", (1 << 40).to_bytes(8), length=1)  # ends beyond the end of the file
    assert read_declared_duration_s(io.BytesIO(wide + make_movie(0, 1000, 1).getvalue())) is None


@pytest.mark.parametrize(
    ("element", "duration_s"),
    [(b"\x44\x89\x84" + b"\x7f\x80\0\0", None), (b"\x44\x89\x84" + b"\x7f\xc0\0\0", None), (b"\x44\x89\x84\xc0\0\0\0", None)],
    ids=["infinite", "nan", "negative"],
)  # fmt: skip
def test_invalid_matroska_duration_is_none(element: bytes, duration_s: float | None) -> None:
    info = b"\x15\x49\xa9\x66" + bytes([0x80 | len(element)]) + element
    content = b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67\x01" + b"\xff" * 7 + info
    assert read_declared_duration_s(io.BytesIO(content)) is duration_s


SIGNATURES = [b"\0\0\0\x18ftypisom", b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67", b"RIFF\xff\xff\xff\xffAVI LIST", b"G"]


@settings(max_examples=300, deadline=None)
@given(strategies.sampled_from(SIGNATURES), strategies.binary(max_size=300))
def test_random_bytes_give_none_or_positive_duration(head: bytes, rest: bytes) -> None:
    duration_s = read_declared_duration_s(io.BytesIO(head + rest))
    assert duration_s is None or duration_s > 0


@pytest.mark.parametrize(
    "content",
    [
        SIGNATURES[0] + bytes(8) + b"\0\0\0\1mdat" + b"\xff" * 8,  # 2^64 bytes
        SIGNATURES[0] + bytes(8) + b"\0\0\0\1mdat" + (2**45).to_bytes(8),
        SIGNATURES[1][:9] + b"\x01" + b"\xff" * 7 + b"\xec\x01\x04" + bytes(6),
    ],
)
def test_oversized_element_gives_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with path.open("rb") as file:
        assert read_declared_duration_s(file) is None


class CountingFile(io.BytesIO):
    """Counts reads and the bytes read."""

    reads = bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.reads += 1
        self.bytes_read += len(content)
        return content


def test_deeply_nested_empty_elements_are_not_all_read() -> None:
    empty_chunks = b"JUNK\0\0\0\0" * 4000
    stream = b"LIST" + (4 + len(empty_chunks)).to_bytes(4, "little") + b"strl" + empty_chunks
    headers = b"LIST" + (4 + 300 * len(stream)).to_bytes(4, "little") + b"hdrl" + stream * 300

    file = CountingFile(b"RIFF\xff\xff\xff\xffAVI " + headers)
    assert read_declared_duration_s(file) is None
    assert file.reads < 20_000


@pytest.mark.parametrize("container", ["mp4", "mkv", "avi"])
def test_corrupt_headers_read_limited_bytes(tmp_path: Path, container: str) -> None:
    name, extra = CONTAINERS[container]
    original = clips.pattern(tmp_path / name, size="64x64", seconds=1, extra=extra).read_bytes()
    rng = random.Random(5)
    for _ in range(300):
        content = bytearray(original[: rng.randrange(len(original))] if rng.random() < 0.3 else original)
        for _ in range(rng.randrange(1, 30)):
            if content:
                content[rng.randrange(min(len(content), 3000))] = rng.choice([0, 1, 255, rng.randrange(256)])
        file = CountingFile(bytes(content))
        read_declared_duration_s(file)
        assert file.bytes_read <= 200_000


def test_upload_with_declared_duration_above_limit_is_refused(app_state: AppState) -> None:
    app_state.settings = app_state.settings.model_copy(update={"max_duration_s": 7200.0})
    api = TestClient(build_app(app_state), "http://127.0.0.1")
    long, short = make_movie(0, 1000, 7_300_000).getvalue(), make_movie(0, 1000, 7_200_900).getvalue()
    before = stored_files(app_state)
    for request in (
        {"content": long},
        {"files": {"file": ("x.mp4", long)}},
        {"files": [("file", short), ("file", long)]},
    ):
        refused = api.post("/detect", **request)  # type: ignore[arg-type]
        assert "lasts 7300 s, the limit is 7200 s (MMAD_MAX_DURATION_S)" in assert_problem(refused, "video_too_long")
    assert stored_files(app_state) == before
    assert api.post("/detect", content=short).status_code == 202
    assert api.post("/detect", content=b"G" + bytes(187) + b"G" + bytes(400)).status_code == 202


def test_default_duration_limit_is_two_hours() -> None:
    settings = Settings()
    assert settings.max_duration_s == 7200
    assert min(settings.job_timeout_s, settings.decoder_cpu_s) > settings.max_duration_s
