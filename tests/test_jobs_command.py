"""`mmad jobs` on a store, without a running service."""

import json
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from typer.testing import CliRunner

from mmad.commands import jobs
from mmad.private_redis import private_redis
from service.app_state import AppState
from service.job_schemas import JobError, JobOptions, State
from service.jobs import Upload, job_key, new_job_id
from service.queue import lease_key
from tests.fake_service import VIDEO, make_finished_job, stored_files

INTERNAL_ERROR = JobError(code="internal_error", detail="it broke")


@pytest.fixture(autouse=True)
def _settings(app_state: AppState, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the store of `app_state` and no Redis."""
    monkeypatch.setenv("MMAD_DATA_DIR", str(app_state.settings.data_dir))
    for name in ("MMAD_REDIS_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str, status: int = 0) -> str:
    """Run a command; returns its standard output, on failure including standard error."""
    result = CliRunner().invoke(jobs.app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == status, result.output
    return result.output if status else result.stdout


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"))


def test_list_shows_newest_jobs_first(app_state: AppState) -> None:
    ids = [make_finished_job(app_state), make_finished_job(app_state, INTERNAL_ERROR), new_job_id()]
    app_state.jobs.create(ids[2], Upload(bytes=7, sha256="0"), JobOptions(), retention_s=60, owner="ada")
    rows = run_json("list")["jobs"]
    assert [row["id"] for row in rows] == ids[::-1]
    assert [(row["state"], row["attempt"], row["bytes"], row["error"]) for row in rows] == [
        ("queued", 0, 7, None), ("failed", 1, len(VIDEO), "internal_error"), ("succeeded", 1, len(VIDEO), None),
    ]  # fmt: skip
    assert all(0 <= row["age_s"] < 60 for row in rows)
    assert [row["id"] for row in run_json("list", "--state", "failed")["jobs"]] == [ids[1]]
    assert len(run_json("list", "--limit", "2")["jobs"]) == 2
    assert ids[1] in run("list")
    assert "known are queued, running" in run("list", "--state", "lost", status=2)


def test_show_prints_record_and_files(app_state: AppState) -> None:
    job_id = make_finished_job(app_state, tag="[red]", keep_video=True)
    shown = run_json("show", job_id)
    assert shown["record"] == json.loads(app_state.store.get(job_key(job_id, "job.json")))
    assert {"job.json", "video", "1/result.json", "1/proposals.npz"} == set(shown["files"])
    assert shown["files"]["video"] == len(VIDEO)
    assert shown["leased"] is None
    text = run("show", job_id)
    assert "[red]" in text
    assert "not known" in text
    assert "no job has the id" in run("show", "0123", status=1)


def test_show_reads_lease_from_private_redis(app_state: AppState) -> None:
    job_id = new_job_id()
    record = app_state.jobs.create(job_id, Upload(bytes=1, sha256="0"), JobOptions(), retention_s=60)
    record = app_state.jobs.change(record, State.RUNNING)
    with private_redis(app_state.settings.data_dir / "redis") as server:
        assert run_json("show", job_id)["leased"] is False
        with Redis.from_url(server.url) as connection:
            connection.set(lease_key(job_id, record.attempt), "worker")
        socket = app_state.settings.data_dir / "redis/redis.sock"
        assert run_json("show", job_id)["leased"] is (True if socket.exists() else None)


def test_cancel_cancels_unfinished_job(app_state: AppState) -> None:
    job_id = new_job_id()
    app_state.jobs.create(job_id, Upload(bytes=1, sha256="0"), JobOptions(), retention_s=60)
    assert run_json("cancel", job_id)["state"] == "canceled"
    assert app_state.jobs.get(job_id).state is State.CANCELED
    assert "there is nothing to cancel" in run("cancel", make_finished_job(app_state), status=1)


def test_retry_copies_failed_job(app_state: AppState) -> None:
    old = make_finished_job(app_state, INTERNAL_ERROR, keep_video=True, tag="a", min_score=0.2)
    new = app_state.jobs.get(run("retry", old).strip())
    before = app_state.jobs.get(old)
    assert new.id != old
    assert (new.state, new.attempt, before.state) == (State.QUEUED, 0, State.FAILED)
    assert (new.owner, new.options, new.upload) == (before.owner, before.options, before.upload)
    assert app_state.store.get(job_key(new.id, "video")) == app_state.store.get(job_key(old, "video")) == VIDEO
    assert new.id in app_state.jobs.list_unfinished()  # so that the reconciler queues it
    assert run_json("retry", old)["made_of"] == old


def test_retry_without_video_fails(app_state: AppState) -> None:
    job_id = make_finished_job(app_state, INTERNAL_ERROR)
    before = stored_files(app_state)
    assert "has to send it again" in " ".join(run("retry", job_id, status=1).split())
    assert "succeeded" in run("retry", make_finished_job(app_state), status=1)
    assert set(before) <= set(stored_files(app_state))
    assert app_state.jobs.list_unfinished() == []


def test_missing_store_is_an_error_and_not_created(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    assert "--data-dir" in run("list", "--data-dir", str(empty), status=1)
    assert not empty.exists()
