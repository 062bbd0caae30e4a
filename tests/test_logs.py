"""The content of the log, and what it must not contain."""

import json
import logging
from pathlib import Path

import httpx
import pytest
import structlog

from mmad import logs
from service.keys import OwnLimits, create
from tests.api_process import running_api
from tests.conftest import wait_for
from tests.fake_service import VIDEO

SECRETS = ("secret-name", "secret-tag", "secret-address", "secret-query", "SECRETBYTES")


def test_file_names_keys_and_contents_are_not_logged(tmp_path: Path) -> None:
    """Uploads, refused and malformed requests and a server error are logged as JSON without secrets."""
    keys = tmp_path / "keys.json"
    _, key = create(keys, "secret-name", OwnLimits())
    video = VIDEO + b"SECRETBYTES" * 500
    with running_api(tmp_path, api_keys_file=keys, log_format="json", upload_stall_s=0.5) as api:
        headers = {"authorization": f"Bearer {key}"}
        with httpx.Client(base_url=api.url, headers=headers) as http:
            upload = {"params": {"tag": "secret-tag"}, "files": {"file": ("secret-name.mp4", video)}}
            job_id = http.post("/detect", **upload).json()["id"]
            http.post("/detect", files={"file": ("secret-name.txt", b"SECRETBYTES" * 500)})
            http.post("/detect", params={"secret-query": "1"}, content=video)
            http.get("/secret-address?x=secret-query")
            http.get("/jobs", headers={"authorization": "Bearer secret-name"})
            api.exchange(b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: secret-name\r\n\r\nSECRETBYTES")
            bearer = f"Authorization: Bearer {key}\r\n".encode()
            api.exchange(b"POST /detect HTTP/1.1\r\nHost: x\r\n" + bearer + b"Content-Length: 99999\r\n\r\n" + video)
            record = api.store.get(f"jobs/{job_id}/job.json")
            api.store.put(f"jobs/{job_id}/job.json", record.replace(b'"queued"', b'"secret-tag"'))
            assert http.get(f"/jobs/{job_id}").status_code == 500
        wait_for(lambda: api.log.read_text().count('"request"') >= 7, seconds=10)
        text = api.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    for secret in (*SECRETS, key, key.split("_", 2)[2]):
        assert secret not in text
    statuses = [line["status"] for line in lines if line["event"] == "request"]
    assert sorted(statuses) == [202, 401, 404, 408, 415, 422, 500]
    [failure] = [line for line in lines if line["event"] == "request_failed"]
    assert "Traceback" in failure["exception"]
    assert failure["request_id"] in [line.get("request_id") for line in lines if line.get("status") == 500]
    [invalid_request] = [line for line in lines if line.get("logger") == "uvicorn.error"]
    assert invalid_request["level"] == "warning"
    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_tracebacks_contain_no_variables(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    before, configuration = logging.getLogger().handlers, structlog.get_config()
    try:
        logs.configure(log_format)  # type: ignore[arg-type]
        for logger in (structlog.get_logger(), logging.getLogger("library")):
            secret = "SECRET" + "BYTES"
            try:
                raise ValueError(f"has {len(secret)} characters")
            except ValueError:
                logger.exception("it_failed")
    finally:
        structlog.configure(**configuration)  # structlog's defaults format variables too, which takes seconds
        logging.basicConfig(handlers=before, force=True, level=logging.WARNING)
    text = capsys.readouterr().err
    assert text.count("ValueError: has 11 characters") == 2
    assert text.count("it_failed") >= 2
    assert "SECRETBYTES" not in text
    if log_format == "json":
        assert [json.loads(line)["level"] for line in text.splitlines()] == ["error", "error"]
