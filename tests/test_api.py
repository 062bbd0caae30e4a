"""HTTP API with a real store and a queue that only records ids."""

import hashlib
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from starlette.testclient import TestClient

from service.app import openapi_yaml
from service.app_state import AppState
from service.errors import CATALOGUE
from service.job_schemas import JobError, JobOptions, State
from service.jobs import Upload, job_key, new_job_id
from tests.fake_service import VIDEO, assert_problem, make_finished_job, make_model_card, stored_files
from tests.result_examples import LABELS


@pytest.mark.parametrize("encoding", ["form", "raw", "chunked", "curl --data-binary"])
def test_upload_is_stored_and_queued(api: TestClient, app_state: AppState, encoding: str) -> None:
    match encoding:
        case "form":
            response = api.post("/detect?top_k=5", files={"file": ("x.mp4", VIDEO)}, data={"min_score": "0.25"})
        case "raw":
            response = api.post("/detect?top_k=5&min_score=0.25", content=VIDEO, headers={"content-type": "video/mp4"})
        case "chunked":
            chunks = (VIDEO[start : start + 7] for start in range(0, len(VIDEO), 7))
            response = api.post("/detect?top_k=5&min_score=0.25", content=chunks)
        case _:
            form = {"content-type": "application/x-www-form-urlencoded"}
            response = api.post("/detect?top_k=5&min_score=0.25", content=VIDEO, headers=form)
    assert response.status_code == 202
    body = response.json()
    assert body["state"] == "queued"
    assert response.headers["location"] == body["links"]["self"] == f"/jobs/{body['id']}"
    assert app_state.store.get(job_key(body["id"], "video")) == VIDEO
    record = app_state.jobs.get(body["id"])
    name = "x.mp4" if record.upload.name else None
    assert record.upload == Upload(bytes=len(VIDEO), sha256=hashlib.sha256(VIDEO).hexdigest(), name=name)
    assert record.options == JobOptions(min_score=0.25, top_k=5)
    assert app_state.queue.ids == [body["id"]]  # type: ignore[attr-defined]


def test_form_is_parsed_in_chunks_of_any_size(api: TestClient, app_state: AppState) -> None:
    boundary = "--edge"
    payload = VIDEO + b"\r\n--edg\r\n--edgx\r\n-"  # almost the boundary
    body = (
        f'{boundary}\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n3\r\n'
        f'{boundary}\r\nContent-Disposition: form-data; name="file"; filename="../../x"\r\nContent-Type: video/mp4\r\n\r\n'
    ).encode() + payload + f"\r\n{boundary}--\r\n".encode()  # fmt: skip
    for size in (1, 3, 64):
        chunks = (body[start : start + size] for start in range(0, len(body), size))
        response = api.post("/detect", content=chunks, headers={"content-type": "multipart/form-data; boundary=edge"})
        assert response.status_code == 202, response.text
        assert app_state.store.get(job_key(response.json()["id"], "video")) == payload
        assert app_state.jobs.get(response.json()["id"]).options.top_k == 3


INVALID_REQUESTS = [
    ("empty_upload", "no bytes", {"content": b""}),
    ("empty_upload", "no bytes", {"files": {"file": ("x", b"")}}),
    ("not_a_video", "send MP4", {"content": b"hello world, this is text"}),
    ("not_a_video", "send MP4", {"content": b"\x89PNG\r\n\x1a\n" + bytes(2000)}),
    ("not_a_video", "send MP4", {"content": b"#EXTM3U\n" + bytes(2000)}),
    ("upload_too_large", r"10001 bytes or more, the limit is 10000 \(MMAD_MAX_UPLOAD_BYTES\)", {"content": VIDEO + bytes(6989)}),
    ("upload_too_large", "2000000 bytes", {"content": b"", "headers": {"content-length": "2000000"}}),
    ("malformed_upload", "no field 'file'", {"files": {"other": ("x", b"x")}}),
    ("malformed_upload", "no field 'file'", {"data": {"top_k": "3"}, "files": {"video": ("x", b"x")}}),
    ("malformed_upload", "names no boundary", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}),
    ("malformed_upload", "cannot be told apart", {"content": b"x" * 50, "headers": {"content-type": "multipart/form-data; boundary=e"}}),
    ("too_many_files", r"more than 3 videos \(MMAD_MAX_BATCH_FILES\)", {"files": [("file", ("x", VIDEO[:2000]))] * 4}),
    ("upload_too_large", "the limit is 10000", {"files": [("file", ("x", VIDEO + bytes(2000)))] * 3}),
    ("empty_upload", "no bytes", {"files": [("file", ("x", VIDEO)), ("file", ("y", b""))]}),
    ("not_a_video", "send MP4", {"files": [("file", ("x", VIDEO)), ("file", ("y", b"text" * 200))]}),
    ("invalid_parameter", "retention_s=99999999: the limit is 2592000", {"content": VIDEO, "params": {"retention_s": "99999999"}}),
    ("invalid_parameter", "keep_video=perhaps", {"content": VIDEO, "params": {"keep_video": "perhaps"}}),
    ("invalid_parameter", "callback_url=no", {"content": VIDEO, "params": {"callback_url": "no"}}),
    ("callback_refused", "127.0.0.1", {"content": VIDEO, "params": {"callback_url": "http://127.0.0.1/x"}}),
    ("invalid_parameter", "Idempotency-Key has 300", {"content": VIDEO, "headers": {"idempotency-key": "x" * 300}}),
    ("malformed_upload", "more than 35 parts", {"data": {str(n): "x" for n in range(40)}, "files": {"file": ("x", VIDEO)}}),
    ("malformed_upload", "longer than 65536", {"data": {"labels": "x" * 70000}, "files": {"file": ("x", VIDEO)}}),
    ("unknown_parameter", "'colour' is not known here; known are min_score", {"content": VIDEO, "params": {"colour": "red"}}),
    ("unknown_parameter", "'colour'", {"files": {"file": ("x", VIDEO)}, "data": {"colour": "red"}}),
    ("invalid_parameter", "min_score=2: Input should be less than or equal to 1", {"content": VIDEO, "params": {"min_score": "2"}}),
    ("invalid_parameter", "top_k=0", {"content": VIDEO, "params": {"top_k": "0"}}),
    ("invalid_parameter", "region=1,2", {"content": VIDEO, "params": {"region": "1,2"}}),
    ("invalid_parameter", "region=0.5,0,0.6,1: x . width and y", {"content": VIDEO, "params": {"region": "0.5,0,0.6,1"}}),
    ("malformed_upload", "more than 35 parts", {"content": b"".join(b'--e\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n1\r\n' for _ in range(99)), "headers": {"content-type": "multipart/form-data; boundary=e"}}),
    ("malformed_upload", "boundary is not one", {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=" + "e" * 300}}),
    ("invalid_parameter", "region=0,0,1,1,5", {"content": VIDEO, "params": {"region": "0,0,1,1,5"}}),
    ("invalid_parameter", "'Z' is neither", {"content": VIDEO, "params": {"labels": "B1,Z"}}),
]  # fmt: skip


@pytest.mark.parametrize(("code", "message", "request_"), INVALID_REQUESTS)
def test_invalid_request_is_refused_and_leaves_no_files(
    api: TestClient, app_state: AppState, code: str, message: str, request_: dict
) -> None:
    app_state.store.put("model.json", make_model_card().model_dump_json().encode())
    detail = assert_problem(api.post("/detect", **request_), code)
    assert re.search(message, detail), detail
    assert stored_files(app_state) == ["model.json"]
    assert app_state.queue.ids == []  # type: ignore[attr-defined]


def test_truncated_form_is_refused(api: TestClient, app_state: AppState) -> None:
    body = b'--e\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + VIDEO
    response = api.post("/detect", content=body, headers={"content-type": "multipart/form-data; boundary=e"})
    assert "before its closing boundary" in assert_problem(response, "malformed_upload")
    assert stored_files(app_state) == []


def test_job_is_accepted_while_queue_is_unavailable(api: TestClient, app_state: AppState) -> None:
    """The reconciler queues it later."""
    app_state.queue.unavailable = True  # type: ignore[attr-defined]
    job = api.post("/detect", content=VIDEO).json()
    assert job["state"] == "queued"
    assert app_state.queue.ids == []  # type: ignore[attr-defined]
    assert app_state.jobs.list_unfinished() == [job["id"]]
    assert api.get(f"/jobs/{job['id']}").json()["queue_position"] is None


def test_job_document_in_every_state(api: TestClient, app_state: AppState) -> None:
    job_id = new_job_id()
    record = app_state.jobs.create(job_id, Upload(bytes=1, sha256="0"), JobOptions(), retention_s=60)
    queued = api.get(f"/jobs/{job_id}").json()
    assert (queued["state"], queued["stage"], queued["progress"], queued["attempt"]) == ("queued", None, 0, 0)
    response = api.get(f"/jobs/{job_id}/result")
    assert_problem(response, "job_not_finished")
    assert response.headers["retry-after"] == "1"
    app_state.jobs.change(record, State.RUNNING)
    running = api.get(f"/jobs/{job_id}").json()
    assert (running["state"], running["stage"], running["progress"], running["attempt"]) == (
        "running",
        "detecting",
        0.5,
        1,
    )
    done = api.get(f"/jobs/{make_finished_job(app_state)}").json()
    assert (done["state"], done["stage"], done["progress"]) == ("succeeded", None, 1)
    failed = api.get(f"/jobs/{make_finished_job(app_state, JobError(code='no_video_stream', detail='x'))}").json()
    assert (failed["state"], failed["error"]) == ("failed", {"code": "no_video_stream", "detail": "x"})


def test_result_of_failed_job_is_its_error(api: TestClient, app_state: AppState) -> None:
    job_id = make_finished_job(app_state, JobError(code="no_video_stream", detail="only sound"))
    response = api.get(f"/jobs/{job_id}/result")
    assert assert_problem(response, "no_video_stream") == "only sound"
    assert response.json()["job_id"] == job_id


def test_result_filters_need_no_second_analysis(api: TestClient, app_state: AppState) -> None:
    job_id = make_finished_job(app_state)
    assert len(api.get(f"/jobs/{job_id}/result").json()["detections"]) == 4
    everything = api.get(f"/jobs/{job_id}/result?min_score=0").json()
    assert len(everything["detections"]) == 6
    assert everything["settings"]["min_score"] == 0
    assert len(api.get(f"/jobs/{job_id}/result?labels=A&min_score=0").json()["detections"]) == 2
    assert_problem(api.get(f"/jobs/{job_id}/result?labels=Q"), "invalid_parameter")
    assert_problem(api.get(f"/jobs/{job_id}/result?region=0,0,1,1"), "unknown_parameter")
    assert app_state.queue.ids == []  # type: ignore[attr-defined]


def test_unknown_paths_and_methods_return_problems(api: TestClient) -> None:
    assert_problem(api.get("/jobs/nope"), "job_not_found")
    assert_problem(api.get("/jobs/nope/result"), "job_not_found")
    assert_problem(api.get("/nothing/here"), "not_found")
    response = api.get("/detect")
    assert_problem(response, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    assert api.put("/jobs/x").headers["allow"] == "DELETE, GET, HEAD"
    assert api.post("/docs").headers["allow"] == "GET, HEAD"


def test_model_and_labels_come_from_worker(api: TestClient, app_state: AppState) -> None:
    assert_problem(api.get("/model"), "no_worker_yet")
    assert_problem(api.get("/labels"), "no_worker_yet")
    app_state.store.put("model.json", make_model_card().model_dump_json().encode())
    assert api.get("/model").json() == make_model_card().model_dump(mode="json")
    assert api.get("/labels").json() == LABELS.model_dump(mode="json")


def test_label_filter_needs_model_card(api: TestClient, app_state: AppState) -> None:
    assert_problem(api.post("/detect?labels=B1", content=VIDEO), "no_worker_yet")
    assert stored_files(app_state) == []


def test_incompatible_model_card_is_ignored(api: TestClient, app_state: AppState) -> None:
    app_state.store.put("model.json", b'{"old": 1}')
    assert_problem(api.get("/model"), "no_worker_yet")
    assert "mmad worker" in api.get("/readyz").json()["checks"]["model"]


def test_openapi_documents_every_error_code(api_description: dict[str, Any]) -> None:
    """Codes that no route raises are those of the framework."""
    text = openapi_yaml()
    assert {code for code in CATALOGUE if f"`{code}`" not in text} == {"not_found", "method_not_allowed"}
    accepted = api_description["paths"]["/detect"]["post"]["responses"]
    assert "Location" in accepted["202"]["headers"]
    assert "Retry-After" in accepted["503"]["headers"]


def test_readiness_names_failed_checks(api: TestClient) -> None:
    response = api.get("/readyz")
    assert response.status_code == 503
    checks = response.json()["checks"]
    assert checks["workers"] == "none is running"
    assert "mmad worker" in checks["model"]
    assert checks["store"] == checks["redis"] == "ok"
    assert api.get("/healthz").json() == {"status": "ok"}


def test_internal_error_does_not_leak_message(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_job_id: str) -> None:
        raise RuntimeError("a secret path")

    monkeypatch.setattr(app_state.jobs, "get", broken)
    response = api.get("/jobs/x")
    assert_problem(response, "internal_error")
    assert "secret" not in response.text
    assert len(response.json()["request_id"]) == 32


def test_docs_page_needs_no_internet(api: TestClient) -> None:
    assert api.get("/", follow_redirects=False).headers["location"] == "/docs"
    page = api.get("/docs").text
    assert "https://" not in page
    script = "/static-offline-docs/swagger-ui-bundle.js"
    assert script in page
    assert len(api.get(script).content) > 100_000


def test_committed_openapi_document_is_current(api_description: dict[str, Any]) -> None:
    committed = Path(__file__).parents[1] / "openapi.yaml"
    assert committed.read_text() == openapi_yaml(), "run make openapi"
    assert api_description["openapi"].startswith("3.1")


# Media types without examples.
BINARY = ("image/png", "image/svg+xml", "application/zip", "application/octet-stream")


def test_every_response_has_a_valid_example(api_description: dict[str, Any]) -> None:
    document = api_description
    missing = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                for kind, content in response.get("content", {}).items():
                    if kind.split(";")[0] in BINARY:
                        continue
                    examples = content.get("examples", {})
                    if not examples:
                        missing.append(f"{method} {path} {status} {kind}")
                    if "json" in kind:
                        schema = {**content.get("schema", {}), "components": document["components"]}
                        for example in examples.values():
                            reference = example.get("$ref", "").rpartition("/")[2]
                            content_example = document["components"]["examples"][reference] if reference else example
                            jsonschema.validate(content_example["value"], schema)
    assert missing == []
