"""Both clients against a live service."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from mmad import models
from mmad.async_client import AsyncClient
from mmad.client import Client, JobCanceled, NotFound, ServiceError
from service import schemas
from tests import clips
from tests.conftest import Service


@pytest.fixture(scope="module")
def result(service: Service, clip: Path) -> models.Result:
    with Client(service.url) as client:
        return client.detect(clip, keep_video=True, tag="test_client", retention_s=3600)


def test_client_models_round_trip_service_documents(service: Service, result: models.Result) -> None:
    job_id = str(result.job_id)
    with Client(service.url) as client:
        documents = [
            result, client.job(job_id), client.result(job_id, min_score=0, level="action", top_k=3),
            client.frames(job_id, rate=2), client.labels(), client.model(),
        ]  # fmt: skip
        assert len(client.result(job_id, min_score=0, top_k=3).detections) == 3
        assert client.frames(job_id, rate=2).times_s[:3] == [0, 0.5, 1]
    for document in documents:
        assert document.document
        assert type(document).model_validate(document.document) == document


def test_events_end_with_job(service: Service, clip: Path) -> None:
    with Client(service.url) as client:
        accepted = client.submit(clip)
        events = list(client.events(accepted.id))
        assert [event.job.ended for event in events] == [False] * (len(events) - 1) + [True]
        assert events[-1].type == "state"
        assert events[-1].job.state == "succeeded"
        repeated = list(client.events(accepted.id))
        assert [event.job.state for event in repeated] == ["succeeded"]
        with pytest.raises(NotFound):
            list(client.events("0" * 32))


def test_same_idempotency_key_returns_same_job(service: Service, clip: Path) -> None:
    with Client(service.url) as client:
        first, second = (client.submit(clip, idempotency_key="once") for _ in range(2))
        assert first.id == second.id
        assert client.submit(clip).id != first.id
        with pytest.raises(ServiceError, match="idempotency_conflict"):
            client.submit(clip, idempotency_key="once", tag="another")


def test_export_and_video_are_saved(service: Service, result: models.Result, clip: Path, tmp_path: Path) -> None:
    job_id = str(result.job_id)
    with Client(service.url) as client:
        rows = client.export(job_id, "csv", tmp_path / "a.csv", min_score=0, top_k=7).read_text().splitlines()
        assert len(rows) == 8
        assert client.video(job_id, tmp_path / "v.mp4").read_bytes() == clip.read_bytes()
        with pytest.raises(ServiceError, match="invalid_parameter"):
            client.export(job_id, "papyrus", tmp_path / "b")
        with pytest.raises(NotFound, match="no_callback"):
            client.webhook(job_id)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "v.mp4"]


def test_batch_jobs_are_listed_canceled_and_deleted(service: Service, tmp_path: Path) -> None:
    small = clips.pattern(tmp_path / "small.mp4", size="160x120", seconds=3)
    with Client(service.url) as client:
        batch = client.submit_many([small, small, small], tag="several")
        ids = {job.id for job in batch.jobs}
        assert {job.id for job in client.jobs(batch=batch.batch)} == ids
        assert {job.tag for job in client.jobs(batch=batch.batch)} == {"several"}
        last = batch.jobs[-1].id
        assert client.cancel(last).state == "canceled"
        with pytest.raises(JobCanceled):
            client.wait(last)
        for job_id in ids - {last}:
            client.wait(job_id)
        receipt = client.delete(last)
        assert receipt.id == last
        assert "record" in {file.what for file in receipt.removed}
        with pytest.raises(NotFound, match="job_deleted"):
            client.job(last)


def test_async_client_detects_concurrently(service: Service, clip: Path, result: models.Result, tmp_path: Path) -> None:
    async def run() -> list[Any]:
        async with AsyncClient(service.url) as client:
            results: list[Any] = [None, None]

            async def detect(index: int) -> None:
                with clip.open("rb") as file:
                    results[index] = await client.detect(file, tag=f"async {index}")

            async with anyio.create_task_group() as group:
                for index in range(2):
                    group.start_soon(detect, index)
            assert [job.tag async for job in client.jobs(tag="async 1")] == ["async 1"]
            await client.export(str(results[0].job_id), "vtt", tmp_path / "a.vtt")
            return results

    for detected in anyio.run(run):
        assert detected.detections == result.detections
    assert (tmp_path / "a.vtt").read_text().startswith("WEBVTT")


def test_submit_command_writes_requested_format(service: Service, clip: Path, tmp_path: Path) -> None:
    environment = os.environ | {"MMAD_URL": service.url}
    command = [sys.executable, "-m", "mmad", "submit", str(clip)]
    run = partial(subprocess.run, capture_output=True, text=True, check=False, env=environment)
    table = run([*command, "--wait", "--format", "csv"])
    assert table.returncode == 0
    to_file = run([*command, "--wait", "--format", "csv", "--out", str(tmp_path / "a.csv")])
    assert to_file.stdout == ""
    assert len((tmp_path / "a.csv").read_text().splitlines()) == len(table.stdout.splitlines()) > 1
    run([*command, "--wait", "--out", str(tmp_path / "a.json")])
    schemas.Result.model_validate_json((tmp_path / "a.json").read_bytes())
    for usage in (["--format", "csv"], ["--out", "x"], ["--wait", "--json", "--format", "csv"], ["--format", "x"]):
        assert run([*command, *usage]).returncode == 2, usage
    binary = run([*command, "--wait", "--format", "frames-npz"])
    assert binary.returncode == 2
    assert "--out" in binary.stderr
