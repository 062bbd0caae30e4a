"""Bodies that come compressed: undone within the limits, or refused by name."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from service.app_state import AppState
from service.encodings import Decoder
from service.errors import Problem
from service.jobs import job_key
from tests.fake_service import VIDEO, assert_problem, stored_files


def _raw(content: bytes) -> bytes:
    made = zlib.compressobj(wbits=-15)
    return made.compress(content) + made.flush()


def _members(content: bytes) -> bytes:
    return gzip.compress(content[:100]) + gzip.compress(content[100:]) + bytes(300)


WAYS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZip", gzip.compress),
    "identity beside it": ("identity, gzip", gzip.compress),
    "several members": ("gzip", _members),
    "deflate": ("deflate", zlib.compress),
    "bare deflate": ("deflate", _raw),
    "identity": ("identity", bytes),
    "empty": ("", bytes),
}


def in_pieces(content: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [1, 100_000])
def test_it_is_undone(api: TestClient, app_state: AppState, way: str, size: int) -> None:
    header, compress = WAYS[way]
    answer = api.post("/detect", content=in_pieces(compress(VIDEO), size), headers={"content-encoding": header})
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    assert app_state.store.get(job_key(job_id, "video")) == VIDEO
    assert app_state.jobs.get(job_id).upload.bytes == len(VIDEO)


def test_a_form_is_undone(api: TestClient, app_state: AppState) -> None:
    form = api.build_request("POST", "/detect", files={"file": ("a.mp4", VIDEO)}, data={"tag": "x"})
    headers = {"content-type": form.headers["content-type"], "content-encoding": "gzip"}
    answer = api.post("/detect", content=gzip.compress(form.read()), headers=headers)
    record = app_state.jobs.get(answer.json()["id"])
    assert (record.name, record.upload.bytes) == ("a.mp4", len(VIDEO))


@pytest.mark.parametrize("header", ["br", "zstd", "compress", "gzip, gzip", "deflate, gzip", "nonsense", "gzip;q=1"])
def test_others_are_refused_by_name(api: TestClient, app_state: AppState, header: str) -> None:
    answer = api.post("/detect", content=VIDEO, headers={"content-encoding": header})
    detail = assert_problem(answer, "unsupported_content_encoding")
    assert repr(header) in detail
    assert "gzip and deflate" in detail
    assert answer.headers["accept-encoding"] == "gzip, deflate"
    assert "jobs" not in {name.split("/")[0] for name in stored_files(app_state)}


@pytest.mark.parametrize(
    ("header", "content", "words"),
    [
        ("gzip", gzip.compress(VIDEO, mtime=0)[:-9], "ends before its end"),
        ("gzip", gzip.compress(VIDEO, mtime=0)[:-1], "ends before its end"),
        ("gzip", gzip.compress(VIDEO, mtime=0) + b"more", "is not that"),
        ("gzip", VIDEO, "is not that"),
        ("gzip", gzip.compress(VIDEO, mtime=0)[:-8] + bytes(8), "is not that"),  # its checksum
        ("deflate", zlib.compress(VIDEO)[:-5], "ends before its end"),
        ("deflate", zlib.compress(VIDEO) + b"more", "goes on after its end"),
        ("deflate", b"\x78", "ends before its end"),
    ],
)
def test_a_broken_body_is_told(api: TestClient, app_state: AppState, header: str, content: bytes, words: str) -> None:
    answer = api.post("/detect", content=content, headers={"content-encoding": header})
    assert words in assert_problem(answer, "malformed_upload")
    assert "jobs" not in {name.split("/")[0] for name in stored_files(app_state)}


def test_nothing_compressed_is_an_empty_upload(api: TestClient) -> None:
    for content in (b"", gzip.compress(b"")):
        answer = api.post("/detect", content=content, headers={"content-encoding": "gzip"})
        assert_problem(answer, "empty_upload")


def test_limits_are_of_what_comes_out(api: TestClient, app_state: AppState) -> None:
    bomb = gzip.compress(VIDEO + bytes(50_000_000))
    form = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s'
    typed = {"content-encoding": "gzip", "content-type": "multipart/form-data; boundary=b"}
    assert_problem(api.post("/detect", content=bomb, headers={"content-encoding": "gzip"}), "upload_too_large")
    in_file = gzip.compress(form % (b"file", VIDEO + bytes(50_000_000)))
    assert_problem(api.post("/detect", content=in_file, headers=typed), "upload_too_large")
    in_field = gzip.compress(form % (b"tag", bytes(50_000_000)))
    assert_problem(api.post("/detect", content=in_field, headers=typed), "malformed_upload")
    before = gzip.compress(b"\r\n" * 20_000_000)  # before the first part
    assert api.post("/detect", content=before, headers=typed).status_code in (400, 413)


def test_a_bomb_takes_little_memory() -> None:
    bomb = gzip.compress(bytes(100_000_000))
    tracemalloc.start()
    decoder = Decoder("gzip")
    assert sum(len(piece) for piece in decoder.feed(bomb)) == 100_000_000
    decoder.finish()
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_padding_after_the_end_is_not_kept() -> None:
    decoder = Decoder("gzip")
    list(decoder.feed(gzip.compress(VIDEO, mtime=0)))
    tracemalloc.start()
    for _ in range(100):
        list(decoder.feed(bytes(100_000)))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    with pytest.raises(Problem, match="is not that"):
        list(decoder.feed(b"more"))
