"""Compressed request bodies: decoding, limits and unsupported encodings."""

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


def _deflate_raw(content: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(content) + compressor.flush()


def _gzip_members(content: bytes) -> bytes:
    return gzip.compress(content[:100]) + gzip.compress(content[100:]) + bytes(300)


ENCODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZip", gzip.compress),
    "identity and gzip": ("identity, gzip", gzip.compress),
    "several members": ("gzip", _gzip_members),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", _deflate_raw),
    "identity": ("identity", bytes),
    "empty": ("", bytes),
}


def split(content: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [1, 100_000])
def test_compressed_body_is_decoded(api: TestClient, app_state: AppState, encoding: str, size: int) -> None:
    header, compress = ENCODINGS[encoding]
    response = api.post("/detect", content=split(compress(VIDEO), size), headers={"content-encoding": header})
    assert response.status_code == 202, response.text
    job_id = response.json()["id"]
    assert app_state.store.get(job_key(job_id, "video")) == VIDEO
    assert app_state.jobs.get(job_id).upload.bytes == len(VIDEO)


def test_compressed_form_is_decoded(api: TestClient, app_state: AppState) -> None:
    form = api.build_request("POST", "/detect", files={"file": ("a.mp4", VIDEO)}, data={"tag": "x"})
    headers = {"content-type": form.headers["content-type"], "content-encoding": "gzip"}
    response = api.post("/detect", content=gzip.compress(form.read()), headers=headers)
    record = app_state.jobs.get(response.json()["id"])
    assert (record.name, record.upload.bytes) == ("a.mp4", len(VIDEO))


@pytest.mark.parametrize("header", ["br", "zstd", "compress", "gzip, gzip", "deflate, gzip", "nonsense", "gzip;q=1"])
def test_unsupported_encoding_is_refused(api: TestClient, app_state: AppState, header: str) -> None:
    response = api.post("/detect", content=VIDEO, headers={"content-encoding": header})
    detail = assert_problem(response, "unsupported_content_encoding")
    assert repr(header) in detail
    assert "gzip and deflate" in detail
    assert response.headers["accept-encoding"] == "gzip, deflate"
    assert "jobs" not in {name.split("/")[0] for name in stored_files(app_state)}


@pytest.mark.parametrize(
    ("header", "content", "message"),
    [
        ("gzip", gzip.compress(VIDEO, mtime=0)[:-9], "ends before its end"),
        ("gzip", gzip.compress(VIDEO, mtime=0)[:-1], "ends before its end"),
        ("gzip", gzip.compress(VIDEO, mtime=0) + b"more", "is not that"),
        ("gzip", VIDEO, "is not that"),
        ("gzip", gzip.compress(VIDEO, mtime=0)[:-8] + bytes(8), "is not that"),  # wrong checksum
        ("deflate", zlib.compress(VIDEO)[:-5], "ends before its end"),
        ("deflate", zlib.compress(VIDEO) + b"more", "goes on after its end"),
        ("deflate", b"\x78", "ends before its end"),
    ],
)
def test_corrupt_compressed_body_is_refused(
    api: TestClient, app_state: AppState, header: str, content: bytes, message: str
) -> None:
    response = api.post("/detect", content=content, headers={"content-encoding": header})
    assert message in assert_problem(response, "malformed_upload")
    assert "jobs" not in {name.split("/")[0] for name in stored_files(app_state)}


def test_empty_compressed_body_is_empty_upload(api: TestClient) -> None:
    for content in (b"", gzip.compress(b"")):
        response = api.post("/detect", content=content, headers={"content-encoding": "gzip"})
        assert_problem(response, "empty_upload")


def test_limits_apply_to_decoded_size(api: TestClient, app_state: AppState) -> None:
    bomb = gzip.compress(VIDEO + bytes(50_000_000))
    form = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s'
    headers = {"content-encoding": "gzip", "content-type": "multipart/form-data; boundary=b"}
    assert_problem(api.post("/detect", content=bomb, headers={"content-encoding": "gzip"}), "upload_too_large")
    in_file = gzip.compress(form % (b"file", VIDEO + bytes(50_000_000)))
    assert_problem(api.post("/detect", content=in_file, headers=headers), "upload_too_large")
    in_field = gzip.compress(form % (b"tag", bytes(50_000_000)))
    assert_problem(api.post("/detect", content=in_field, headers=headers), "malformed_upload")
    before = gzip.compress(b"\r\n" * 20_000_000)  # before the first part
    assert api.post("/detect", content=before, headers=headers).status_code in (400, 413)


def test_decompression_bomb_uses_little_memory() -> None:
    bomb = gzip.compress(bytes(100_000_000))
    tracemalloc.start()
    decoder = Decoder("gzip")
    assert sum(len(chunk) for chunk in decoder.feed(bomb)) == 100_000_000
    decoder.finish()
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_padding_after_end_uses_no_memory() -> None:
    decoder = Decoder("gzip")
    list(decoder.feed(gzip.compress(VIDEO, mtime=0)))
    tracemalloc.start()
    for _ in range(100):
        list(decoder.feed(bytes(100_000)))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    with pytest.raises(Problem, match="is not that"):
        list(decoder.feed(b"more"))
