"""mmad jobs: what an operator sees and does of a store, without a running service."""

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

CRASHED = JobError(code="internal_error", detail="it broke")


@pytest.fixture(autouse=True)
def _settings(app_state: AppState, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is the desk's; no Redis is set."""
    monkeypatch.setenv("MMAD_DATA_DIR", str(app_state.settings.data_dir))
    for name in ("MMAD_REDIS_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


def ask(*arguments: str, status: int = 0) -> str:
    """What a command prints; where it fails, also what it says."""
    done = CliRunner().invoke(jobs.app, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == status, done.output
    return done.output if status else done.stdout


def told(*arguments: str) -> Any:
    return json.loads(ask(*arguments, "--json"))


def test_jobs_are_listed_the_newest_first(app_state: AppState) -> None:
    ids = [make_finished_job(app_state), make_finished_job(app_state, CRASHED), new_job_id()]
    app_state.jobs.create(ids[2], Upload(bytes=7, sha256="0"), JobOptions(), retention_s=60, owner="ada")
    rows = told("list")["jobs"]
    assert [row["id"] for row in rows] == ids[::-1]
    assert [(row["state"], row["attempt"], row["bytes"], row["error"]) for row in rows] == [
        ("queued", 0, 7, None), ("failed", 1, len(VIDEO), "internal_error"), ("succeeded", 1, len(VIDEO), None),
    ]  # fmt: skip
    assert all(0 <= row["age_s"] < 60 for row in rows)
    assert [row["id"] for row in told("list", "--state", "failed")["jobs"]] == [ids[1]]
    assert len(told("list", "--limit", "2")["jobs"]) == 2
    assert ids[1] in ask("list")
    assert "known are queued, running" in ask("list", "--state", "lost", status=2)


def test_a_job_is_shown(app_state: AppState) -> None:
    job_id = make_finished_job(app_state, tag="[red]", keep_video=True)
    shown = told("show", job_id)
    assert shown["record"] == json.loads(app_state.store.get(job_key(job_id, "job.json")))
    assert {"job.json", "video", "1/result.json", "1/proposals.npz"} == set(shown["files"])
    assert shown["files"]["video"] == len(VIDEO)
    assert shown["leased"] is None
    text = ask("show", job_id)
    assert "[red]" in text
    assert "not known" in text
    assert "no job has the id" in ask("show", "0123", status=1)


def test_whether_a_worker_has_it_is_asked_of_the_services_own_redis(app_state: AppState) -> None:
    job_id = new_job_id()
    record = app_state.jobs.create(job_id, Upload(bytes=1, sha256="0"), JobOptions(), retention_s=60)
    record = app_state.jobs.change(record, State.RUNNING)
    with private_redis(app_state.settings.data_dir / "redis") as server:
        assert told("show", job_id)["leased"] is False
        with Redis.from_url(server.url) as connection:
            connection.set(lease_key(job_id, record.attempt), "worker")
        socket = app_state.settings.data_dir / "redis/redis.sock"
        assert told("show", job_id)["leased"] is (True if socket.exists() else None)


def test_a_job_is_canceled(app_state: AppState) -> None:
    job_id = new_job_id()
    app_state.jobs.create(job_id, Upload(bytes=1, sha256="0"), JobOptions(), retention_s=60)
    assert told("cancel", job_id)["state"] == "canceled"
    assert app_state.jobs.get(job_id).state is State.CANCELED
    assert "there is nothing to cancel" in ask("cancel", make_finished_job(app_state), status=1)


def test_a_failed_job_is_made_anew(app_state: AppState) -> None:
    old = make_finished_job(app_state, CRASHED, keep_video=True, tag="a", min_score=0.2)
    made = app_state.jobs.get(ask("retry", old).strip())
    before = app_state.jobs.get(old)
    assert made.id != old
    assert (made.state, made.attempt, before.state) == (State.QUEUED, 0, State.FAILED)
    assert (made.owner, made.options, made.upload) == (before.owner, before.options, before.upload)
    assert app_state.store.get(job_key(made.id, "video")) == app_state.store.get(job_key(old, "video")) == VIDEO
    assert made.id in app_state.jobs.list_unfinished()  # where the reconciler finds it
    assert told("retry", old)["made_of"] == old


def test_a_job_without_its_video_cannot_be_made_anew(app_state: AppState) -> None:
    job_id = make_finished_job(app_state, CRASHED)
    before = stored_files(app_state)
    assert "has to send it again" in " ".join(ask("retry", job_id, status=1).split())
    assert "succeeded" in ask("retry", make_finished_job(app_state), status=1)
    assert set(before) <= set(stored_files(app_state))
    assert app_state.jobs.list_unfinished() == []


def test_a_folder_without_a_store_is_told_and_left_alone(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    assert "--data-dir" in ask("list", "--data-dir", str(empty), status=1)
    assert not empty.exists()
