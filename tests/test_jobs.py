"""The job record: its states, its end, who may see it, what is left of it."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service.errors import Problem
from service.job_schemas import ENDED, JobError, JobOptions, State
from service.jobs import (
    ANONYMOUS_OWNER,
    TRANSITIONS,
    Jobs,
    Record,
    StaleAttemptError,
    Upload,
    attempt_key,
    job_key,
    new_job_id,
)
from service.store import FolderStore

UPLOAD = Upload(bytes=5, sha256="0" * 64)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def jobs(store: FolderStore) -> Jobs:
    return Jobs(store)


def make(jobs: Jobs, owner: str = ANONYMOUS_OWNER, retention_s: int = 60, **options: Any) -> Record:
    job_id = new_job_id()
    jobs.store.put(job_key(job_id, "video"), b"bytes")
    return jobs.create(job_id, UPLOAD, JobOptions(**options), retention_s=retention_s, owner=owner)


def bring(jobs: Jobs, record: Record, state: State) -> Record:
    """A job in this state."""
    if state is State.QUEUED:
        return record
    if state is State.CANCELED:
        return jobs.change(record, state)
    running = jobs.change(record, State.RUNNING)
    return running if state is State.RUNNING else jobs.change(running, state)


def files(store: FolderStore) -> set[str]:
    return {entry.key for entry in store.entries("") if not entry.key.startswith(("locks/", "incoming/"))}


def test_job_ids_sort_by_time_and_differ() -> None:
    ids = [new_job_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert [one[:12] for one in ids] == sorted(one[:12] for one in ids)
    assert all(len(one) == 32 for one in ids)


def test_a_job_goes_through_its_states(store: FolderStore) -> None:
    jobs = Jobs(store)
    record = make(jobs, min_score=0.3)
    assert jobs.get(record.id) == record
    running = jobs.change(record, State.RUNNING)
    assert running.attempt == 1
    again = jobs.change(jobs.change(running, State.QUEUED), State.RUNNING)
    assert again.attempt == 2
    failed = jobs.change(again, State.FAILED, JobError(code="damaged_video", detail="x"))
    assert jobs.get(record.id) == failed
    assert [change.state for change in failed.changes] == ["queued", "running", "queued", "running", "failed"]
    assert sorted(change.at for change in failed.changes) == [change.at for change in failed.changes]


@pytest.mark.parametrize("state", list(State))
def test_only_the_tables_transitions_are_allowed(store: FolderStore, state: State) -> None:
    jobs = Jobs(store)
    record = make(jobs).model_copy(update={"state": state})
    for target in set(State) - TRANSITIONS[state]:
        with pytest.raises(ValueError, match=f"cannot go from {state} to {target}"):
            jobs.change(record, target)


@pytest.mark.parametrize("job_id", ["", "x", "../../etc/passwd", "0" * 31, "0" * 32, "0" * 32 + "\n", "A" * 32])
def test_unknown_ids_never_reach_the_disk(store: FolderStore, job_id: str) -> None:
    store.put(job_key("probe", "job.json"), b"{}")
    with pytest.raises(Problem) as caught:
        Jobs(store).get(job_id)
    assert caught.value.code == "job_not_found"


@pytest.mark.parametrize("state", sorted(ENDED))
@pytest.mark.parametrize("keep", [False, True])
def test_a_job_that_has_ended_lets_go_of_its_video(jobs: Jobs, state: State, keep: bool) -> None:
    record = make(jobs, keep_video=keep)
    assert jobs.get_pending_bytes(ANONYMOUS_OWNER) == {record.id: 5}
    assert jobs.get_retained_bytes(ANONYMOUS_OWNER) == ({record.id: 5} if keep else {})
    bring(jobs, record, state)
    assert jobs.get_pending_bytes(ANONYMOUS_OWNER) == {}
    assert (job_key(record.id, "video") in files(jobs.store)) == keep
    assert jobs.get_retained_bytes(ANONYMOUS_OWNER) == ({record.id: 5} if keep else {})


def test_only_a_job_that_has_ended_expires(jobs: Jobs) -> None:
    record = make(jobs, retention_s=60)
    assert record.expires_at is None
    ended = jobs.cancel(record.id)
    assert ended.expires_at == ended.changes[-1].at + timedelta(seconds=60)


def test_a_job_is_its_owners(jobs: Jobs) -> None:
    record = make(jobs, owner="anna")
    assert jobs.get(record.id, "anna") == jobs.get(record.id) == record
    for act in (jobs.get, jobs.cancel):
        with pytest.raises(Problem) as caught:
            act(record.id, "ben")
        assert caught.value.code == "job_not_found"
    jobs.remove(record, "deleted")
    for owner, code in (("ben", "job_not_found"), ("anna", "job_deleted"), (None, "job_deleted")):
        with pytest.raises(Problem) as caught:
            jobs.get(record.id, owner)
        assert caught.value.code == code


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_a_cancellation_wins_over_a_late_finish(jobs: Jobs, state: State) -> None:
    record = bring(jobs, make(jobs), state)
    canceled = jobs.cancel(record.id)
    assert canceled.state is State.CANCELED
    for late in TRANSITIONS[record.state]:
        with pytest.raises(StaleAttemptError, match="canceled"):
            jobs.change(record, late)
    assert jobs.get(record.id) == jobs.cancel(record.id) == canceled


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED])
def test_what_has_ended_cannot_be_canceled(jobs: Jobs, state: State) -> None:
    record = bring(jobs, make(jobs), state)
    with pytest.raises(Problem, match=f"has {state}") as caught:
        jobs.cancel(record.id)
    assert caught.value.code == "job_already_ended"


def test_of_a_finish_and_a_cancellation_at_once_one_is_true(jobs: Jobs) -> None:
    """Whoever is told that it won is right: the state is theirs and stays."""

    def finish(running: Record) -> State | None:
        try:
            return jobs.change(running, State.SUCCEEDED).state
        except StaleAttemptError:
            return None

    def cancel(running: Record) -> State | None:
        try:
            return jobs.cancel(running.id).state
        except Problem:
            return None

    with ThreadPoolExecutor(2) as threads:
        for _ in range(20):
            running = bring(jobs, make(jobs), State.RUNNING)
            told = [one.result() for one in [threads.submit(act, running) for act in (finish, cancel)]]
            assert sum(one is not None for one in told) == 1
            assert jobs.get(running.id).state in told


def test_a_removal_leaves_a_note_and_a_receipt(jobs: Jobs) -> None:
    record = bring(jobs, make(jobs, keep_video=True, callback_url="https://example.org/x"), State.RUNNING)
    jobs.store.put(attempt_key(record, "proposals.npz"), b"1234567")
    jobs.store.put(attempt_key(record, "result.json"), b"12")
    jobs.store.put(job_key(record.id, "webhook.json"), b"1")
    jobs.store.put(job_key(record.id, ".nfs01"), b"")
    receipt = jobs.remove(record, "deleted")
    sizes = {one.what: one.bytes for one in receipt.removed}
    assert set(sizes) == {"video", "proposals", "result", "webhook", "record", "other"}
    assert (sizes["video"], sizes["proposals"], sizes["result"]) == (5, 7, 2)
    assert files(jobs.store) == {f"gone/{record.id}"}
    with pytest.raises(StaleAttemptError, match="removed"):
        jobs.change(record, State.SUCCEEDED)
    assert files(jobs.store) == {f"gone/{record.id}"}


def test_the_newest_come_first_and_go_on_behind_an_id(jobs: Jobs) -> None:
    made = sorted((make(jobs).id for _ in range(4)), reverse=True)
    assert [one.id for one in jobs.iter_newest(ANONYMOUS_OWNER)] == made
    assert [one.id for one in jobs.iter_newest(ANONYMOUS_OWNER, made[1])] == made[2:]
    assert list(jobs.iter_newest("anna")) == []


def test_a_job_that_cannot_be_written_leaves_nothing(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    put = jobs.store.put

    def full(name: str, content: bytes) -> None:
        if name.endswith("job.json"):
            raise OSError(28, "No space left on device")
        put(name, content)

    monkeypatch.setattr(jobs.store, "put", full)
    with pytest.raises(OSError, match="No space"):
        make(jobs, keep_video=True, callback_url="https://example.org/x")
    assert jobs.get_pending_bytes(ANONYMOUS_OWNER) == jobs.get_retained_bytes(ANONYMOUS_OWNER) == {}
    assert [one.key for one in jobs.store.entries("") if not one.key.startswith("locks/")] == []
