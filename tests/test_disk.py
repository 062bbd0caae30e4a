"""Full disk: an API process with its store on a small tmpfs."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api_process import Api, running_api
from tests.conftest import wait_for
from tests.fake_service import VIDEO

MIB = 1024**2
CHUNKED = b"POST /detect HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "data"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def video_chunks(total: int) -> Iterator[bytes]:
    """Yield a video of `total` bytes."""
    yield VIDEO
    for _ in range((total - len(VIDEO)) // 65536):
        yield bytes(65536)


def assert_disk_full(response: httpx.Response, message: str) -> None:
    assert (response.status_code, response.json()["code"]) == (507, "disk_full")
    assert message in response.json()["detail"]
    assert response.headers["retry-after"] == "60"


def fill(path: Path) -> None:
    """Append until the disk is full."""
    with pytest.raises(OSError, match="No space"), path.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def stored_folders(api: Api) -> set[str]:
    return {key.split("/")[0] for key in api.stored()} - {"probe"}


@pytest.mark.parametrize(("min_free_bytes", "message"), [(0, "disk is full"), (2 * MIB, "MMAD_MIN_FREE_BYTES")])
def test_upload_that_fills_the_disk_is_refused(disk: Path, min_free_bytes: int, message: str) -> None:
    """Without a minimum of free space the write itself fails."""
    with running_api(disk.parent, min_free_bytes=min_free_bytes) as api, httpx.Client(base_url=api.url) as http:
        assert_disk_full(http.post("/detect", content=video_chunks(12 * MIB)), message)
        assert stored_folders(api) == set()
        assert http.post("/detect", content=video_chunks(2 * MIB)).status_code == 202
        assert http.get("/healthz").is_success
        assert "Traceback" not in api.log.read_text()


def test_upload_above_free_space_is_refused_before_its_body(disk: Path) -> None:
    with running_api(disk.parent, min_free_bytes=2 * MIB, upload_stall_s=60, header_timeout_s=1) as api:
        head = f"POST /detect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {7 * MIB}\r\n\r\n"
        response = api.exchange(head.encode())  # without a body
        assert (response.status, json.loads(response.body)["code"]) == (507, "disk_full")
        assert stored_folders(api) == set()
        ready = httpx.get(f"{api.url}/readyz").json()
        assert ready["checks"]["store"] == "ok"


def test_disk_filled_by_other_process_and_freed_again(disk: Path) -> None:
    """During an upload; afterwards the service recovers."""
    filler = disk / "filler"
    with running_api(disk.parent, min_free_bytes=MIB) as api, httpx.Client(base_url=api.url) as http:
        http.post("/detect", content=VIDEO)
        job = http.post("/detect?keep_video=true", content=VIDEO).json()["id"]
        with api.connect() as caller:
            chunk = VIDEO + bytes(MIB)
            caller.sendall(CHUNKED + f"{2 * len(chunk):x}\r\n".encode() + chunk)
            wait_for(lambda: "incoming" in stored_folders(api), seconds=10)
            fill(filler)
            caller.sendall(chunk + b"\r\n0\r\n\r\n")
            response = caller.recv(65536)
        assert b" 507 " in response
        assert stored_folders(api) == {"jobs", "owners", "pending", "kept"}
        fill(filler)  # also what the upload has freed
        wait_for(lambda: "MMAD_MIN_FREE_BYTES" in http.get("/readyz").json()["checks"]["store"], seconds=5)
        assert http.get("/readyz").status_code == 503
        assert_disk_full(http.post("/detect", content=VIDEO), "MMAD_MIN_FREE_BYTES")
        assert http.get(f"/jobs/{job}").json()["state"] == "queued"
        assert http.get(f"/jobs/{job}/video").content == VIDEO
        other = http.get("/jobs").json()["jobs"][-1]["id"]
        assert http.delete(f"/jobs/{other}").is_success  # frees space
        assert http.get(f"/jobs/{other}").status_code == 404
        filler.unlink()
        assert http.post("/detect", content=VIDEO).status_code == 202
        wait_for(lambda: http.get("/readyz").json()["checks"]["store"] == "ok", seconds=5)
        assert http.delete(f"/jobs/{job}").is_success
