"""Names of uploaded files: cleaning, parsing, use in exports, removal with the job."""

import json
import unicodedata
from pathlib import Path

import pytest
import structlog
from starlette.testclient import TestClient

from mmad import endpoints
from mmad.client import Client
from service.app_state import AppState
from service.jobs import Record
from service.names import MAX_CHARACTERS, clean_name, format_attachment, parse_disposition_name
from tests.fake_service import VIDEO, assert_problem, finish_job


@pytest.mark.parametrize(
    ("file_name", "name"),
    [
        ("interview.mp4", "interview.mp4"), ("/home/anna/a b.mp4", "a b.mp4"), ("C:\\Users\\anna\\x.mp4", "x.mp4"),
        ("..\\..\\x.mp4", "x.mp4"), ("../../etc/passwd", "passwd"), ("a\r\nb\0.mp4", "ab.mp4"), ("", None), ("..", None),
        ("dir/", None), ("  ", None), ("-", None), (unicodedata.normalize("NFD", "Zoë.mp4"), "Zoë.mp4"),
        ("面接.mp4", "面接.mp4"), ("evil\u202e4pm.exe", "evil4pm.exe"), ("x\udcff.mp4", "x.mp4"),
        ("a" * 300 + ".mp4", "a" * (MAX_CHARACTERS - 4) + ".mp4"), ("a" * 300, "a" * MAX_CHARACTERS),
        (".mp4", ".mp4"), ("100%25.mp4", "100%25.mp4"), ("a\u2028b", "ab"),
    ],
)  # fmt: skip
def test_clean_name(file_name: str, name: str | None) -> None:
    assert clean_name(file_name) == name


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b'form-data; name="file"; filename="a.mp4"', "a.mp4"), (b"form-data; name=file; filename=a.mp4", "a.mp4"),
        (b'form-data; name="file"; filename="Zo\xc3\xab.mp4"', "Zoë.mp4"),
        (b'form-data; name="file"; filename="Zo\xeb.mp4"', "Zoë.mp4"),  # Latin-1
        (b"form-data; name=file; filename*=UTF-8''Zo%C3%AB%20%E9%9D%A2.mp4", "Zoë 面.mp4"),
        (b"form-data; name=file; filename=\"Zoe.mp4\"; filename*=utf-8'de'Zo%C3%AB.mp4", "Zoë.mp4"),
        (b"form-data; name=file; filename*=nonsense''x; filename=\"a.mp4\"", "a.mp4"),
        (b"form-data; name=file; filename*=UTF-8''%ff; filename=\"a.mp4\"", "a.mp4"),
        (b'form-data; name="file"; filename="a%22b%0D%0A.mp4"', 'a"b.mp4'),  # browsers
        (b'form-data; name="file"; filename="a\\"b.mp4"', 'a"b.mp4'),  # curl
        (b'form-data; name="file"; filename="a;b=c.mp4"', "a;b=c.mp4"),
        (b'form-data; name="file"; filename="C:\\dir\\a.mp4"', "a.mp4"),
        (b'form-data; name="filename=x"', None), (b'form-data; name="file"; filename=""', None), (b"", None),
        (b"form-data; name=file; filename*=undefined''x; filename=a.mp4", "a.mp4"),
        (b"form-data; name=file; filename*=idna'x'xn--%20%20; filename=a.mp4", "a.mp4"),
        (b'form-data; name="a; filename=evil.mp4"; filename="good.mp4"', "good.mp4"),
        (b'attachment; FileName="a.mp4"', "a.mp4"), (b'form-data; name="file"; filename="a', None),
    ],
)  # fmt: skip
def test_parse_disposition_name(header: bytes, name: str | None) -> None:
    assert parse_disposition_name(header) == name


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.csv", 'attachment; filename="a.csv"'),
        ("Zoë 1.csv", "attachment; filename=\"Zo_ 1.csv\"; filename*=UTF-8''Zo%C3%AB%201.csv"),
        ('a"b;\r\n.csv', "attachment; filename=\"a_b___.csv\"; filename*=UTF-8''a%22b%3B%0D%0A.csv"),
    ],
)
def test_format_attachment(name: str, header: str) -> None:
    assert format_attachment(name) == header
    assert parse_disposition_name(header.encode()) == clean_name(name)


def send(api: TestClient, file_name: str | None = None, **params: str) -> str:
    response = api.post("/detect", files={"file": (file_name, VIDEO)}, params=params)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def test_name_is_used_in_downloads_and_removed_with_job(api: TestClient, app_state: AppState) -> None:
    with structlog.testing.capture_logs() as lines:
        job_id = send(api, "Zoë am 3. Mai.mp4", keep_video="true")
        assert api.get(f"/jobs/{job_id}").json()["name"] == "Zoë am 3. Mai.mp4"
        assert api.get("/jobs").json()["jobs"][0]["name"] == "Zoë am 3. Mai.mp4"
        finish_job(app_state, job_id)
        table = api.get(f"/jobs/{job_id}/export?format=csv")
        assert parse_disposition_name(table.headers["content-disposition"].encode()) == "Zoë am 3. Mai.csv"
        assert table.text.splitlines()[1].startswith("Zoë am 3. Mai,")
        assert "Zo%C3%AB%20am%203.%20Mai.mp4" in api.get(f"/jobs/{job_id}/export?format=eaf").text
        assert api.get(f"/jobs/{job_id}/export?format=json").json()["video"] == "Zoë am 3. Mai.mp4"
        video = api.get(f"/jobs/{job_id}/video")
        assert parse_disposition_name(video.headers["content-disposition"].encode()) == "Zoë am 3. Mai.mp4"
        receipt = api.delete(f"/jobs/{job_id}")
        deleted = api.get(f"/jobs/{job_id}")
    assert "Mai" not in receipt.text + deleted.text + str(lines)
    assert not [entry for entry in app_state.store.entries("") if b"Mai" in app_state.store.get(entry.key)]


def test_name_parameter_overrides_file_name(api: TestClient, app_state: AppState) -> None:
    assert app_state.jobs.get(send(api, "file.mp4", name="asked for.mp4")).name == "asked for.mp4"
    form = api.post("/detect", data={"name": "in the form"}, files={"file": ("file.mp4", VIDEO)})
    assert app_state.jobs.get(form.json()["id"]).name == "in the form"
    body = api.post("/detect", content=VIDEO, headers={"content-disposition": 'attachment; filename="body.mkv"'})
    assert app_state.jobs.get(body.json()["id"]).name == "body.mkv"
    unnamed = api.post("/detect", content=VIDEO).json()["id"]
    assert app_state.jobs.get(unnamed).name is None
    finish_job(app_state, unnamed)
    table = api.get(f"/jobs/{unnamed}/export?format=csv")
    assert table.headers["content-disposition"] == f'attachment; filename="{unnamed}.csv"'
    for wrong in ("", "  ", "..", "x" * 256):
        assert_problem(api.post("/detect", content=VIDEO, params={"name": wrong}), "invalid_parameter")


def test_batch_files_have_own_names(api: TestClient, app_state: AppState) -> None:
    files = [("file", ("anna.mp4", VIDEO)), ("file", ("dir\\ben.mp4", VIDEO)), ("file", VIDEO)]
    jobs = api.post("/detect", files=files).json()["jobs"]
    names = [app_state.jobs.get(job["id"]).name for job in jobs]
    assert names[:2] == ["anna.mp4", "ben.mp4"]
    refused = api.post("/detect", files=files, params={"name": "both"})
    assert "for a single one" in assert_problem(refused, "invalid_parameter")
    assert len(app_state.store.names("jobs")) == 3


def test_file_name_is_not_part_of_idempotency_fingerprint(api: TestClient) -> None:
    key = {"idempotency-key": "k"}
    first = api.post("/detect", files={"file": ("a.mp4", VIDEO)}, headers=key)
    repeated = api.post("/detect", files={"file": ("b.mp4", VIDEO)}, headers=key)
    assert first.json()["id"] == repeated.json()["id"]
    other = api.post("/detect", files={"file": ("a.mp4", VIDEO)}, params={"name": "x"}, headers=key)
    assert_problem(other, "idempotency_conflict")


def test_records_without_name_are_valid(app_state: AppState, api: TestClient) -> None:
    job_id = send(api, "a.mp4")
    record = json.loads(app_state.store.get(f"jobs/{job_id}/job.json"))
    del record["upload"]["name"], record["options"]["name"]
    assert Record.model_validate(record).name is None


def test_client_sends_file_name(api: TestClient, app_state: AppState, tmp_path: Path) -> None:
    path = tmp_path / "Zoë.mp4"
    path.write_bytes(VIDEO)
    with Client("http://127.0.0.1") as client:
        client._http = api
        names = [client.job(client.submit(video, **more).id).name for video, more in (
            (path, {}), (str(path), {}), (VIDEO, {}), (VIDEO, {"name": "given.mp4"}), (path, {"name": "given.mp4"}),
        )]  # type: ignore[arg-type]  # fmt: skip
        with path.open("rb") as file:
            names.append(client.job(client.submit(file).id).name)
        batch = client.submit_many([path, VIDEO])
    assert names == ["Zoë.mp4", "Zoë.mp4", None, "given.mp4", "given.mp4", "Zoë.mp4"]
    assert [app_state.jobs.get(job.id).name for job in batch.jobs] == ["Zoë.mp4", None]
    assert endpoints._file_name("/a/\udcff.mp4") == "?.mp4"
