"""Job records: state transitions, ownership, cancellation and removal."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from service.errors import Problem
from service.job_schemas import ENDED, JobError, State
from service.jobs import ANONYMOUS_OWNER, TRANSITIONS, Jobs, Record, StaleAttemptError, attempt_key, job_key, new_job_id
from service.store import FolderStore
from tests.jobs.job_examples import make_job


def bring_to(jobs: Jobs, record: Record, state: State) -> Record:
    """Bring a queued job to a state."""
    if state is State.QUEUED:
        return record
    if state is State.CANCELED:
        return jobs.change(record, state)
    running = jobs.change(record, State.RUNNING)
    return running if state is State.RUNNING else jobs.change(running, state)


def stored_keys(store: FolderStore) -> set[str]:
    return {entry.key for entry in store.entries("") if not entry.key.startswith(("locks/", "incoming/"))}


def test_job_ids_are_unique_and_sort_by_time() -> None:
    ids = [new_job_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert [job_id[:12] for job_id in ids] == sorted(job_id[:12] for job_id in ids)
    assert all(len(job_id) == 32 for job_id in ids)


def test_job_records_state_changes(store: FolderStore) -> None:
    jobs = Jobs(store)
    record = make_job(jobs, min_score=0.3)
    assert jobs.get(record.id) == record
    running = jobs.change(record, State.RUNNING)
    assert running.attempt == 1
    retried = jobs.change(jobs.change(running, State.QUEUED), State.RUNNING)
    assert retried.attempt == 2
    failed = jobs.change(retried, State.FAILED, JobError(code="damaged_video", detail="x"))
    assert jobs.get(record.id) == failed
    assert [change.state for change in failed.changes] == ["queued", "running", "queued", "running", "failed"]
    assert sorted(change.at for change in failed.changes) == [change.at for change in failed.changes]


@pytest.mark.parametrize("state", list(State))
def test_other_transitions_are_rejected(store: FolderStore, state: State) -> None:
    jobs = Jobs(store)
    record = make_job(jobs).model_copy(update={"state": state})
    for target in set(State) - TRANSITIONS[state]:
        with pytest.raises(ValueError, match=f"cannot go from {state} to {target}"):
            jobs.change(record, target)


@pytest.mark.parametrize("job_id", ["", "x", "../../etc/passwd", "0" * 31, "0" * 32, "0" * 32 + "\n", "A" * 32])
def test_unknown_or_invalid_id_reports_not_found(store: FolderStore, job_id: str) -> None:
    store.put(job_key("probe", "job.json"), b"{}")
    with pytest.raises(Problem) as caught:
        Jobs(store).get(job_id)
    assert caught.value.code == "job_not_found"


@pytest.mark.parametrize("state", sorted(ENDED))
@pytest.mark.parametrize("keep", [False, True])
def test_ended_job_releases_its_video(jobs: Jobs, state: State, keep: bool) -> None:
    record = make_job(jobs, keep_video=keep)
    assert jobs.get_pending_bytes(ANONYMOUS_OWNER) == {record.id: 5}
    assert jobs.get_retained_bytes(ANONYMOUS_OWNER) == ({record.id: 5} if keep else {})
    bring_to(jobs, record, state)
    assert jobs.get_pending_bytes(ANONYMOUS_OWNER) == {}
    assert (job_key(record.id, "video") in stored_keys(jobs.store)) == keep
    assert jobs.get_retained_bytes(ANONYMOUS_OWNER) == ({record.id: 5} if keep else {})


def test_expiry_starts_when_job_ends(jobs: Jobs) -> None:
    record = make_job(jobs, retention_s=60)
    assert record.expires_at is None
    ended = jobs.cancel(record.id)
    assert ended.expires_at == ended.changes[-1].at + timedelta(seconds=60)


def test_job_is_visible_to_its_owner_only(jobs: Jobs) -> None:
    record = make_job(jobs, owner="anna")
    assert jobs.get(record.id, "anna") == jobs.get(record.id) == record
    for call in (jobs.get, jobs.cancel):
        with pytest.raises(Problem) as caught:
            call(record.id, "ben")
        assert caught.value.code == "job_not_found"
    jobs.remove(record, "deleted")
    for owner, code in (("ben", "job_not_found"), ("anna", "job_deleted"), (None, "job_deleted")):
        with pytest.raises(Problem) as caught:
            jobs.get(record.id, owner)
        assert caught.value.code == code


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_canceled_job_cannot_finish_later(jobs: Jobs, state: State) -> None:
    record = bring_to(jobs, make_job(jobs), state)
    canceled = jobs.cancel(record.id)
    assert canceled.state is State.CANCELED
    for late in TRANSITIONS[record.state]:
        with pytest.raises(StaleAttemptError, match="canceled"):
            jobs.change(record, late)
    assert jobs.get(record.id) == jobs.cancel(record.id) == canceled


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED])
def test_ended_job_cannot_be_canceled(jobs: Jobs, state: State) -> None:
    record = bring_to(jobs, make_job(jobs), state)
    with pytest.raises(Problem, match=f"has {state}") as caught:
        jobs.cancel(record.id)
    assert caught.value.code == "job_already_ended"


def test_only_one_of_concurrent_finish_and_cancel_succeeds(jobs: Jobs) -> None:
    """The state of the successful call persists."""

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
            running = bring_to(jobs, make_job(jobs), State.RUNNING)
            futures = [threads.submit(call, running) for call in (finish, cancel)]
            states = [future.result() for future in futures]
            assert sum(state is not None for state in states) == 1
            assert jobs.get(running.id).state in states


def test_removal_returns_receipt_and_leaves_tombstone(jobs: Jobs) -> None:
    record = bring_to(jobs, make_job(jobs, keep_video=True, callback_url="https://example.org/x"), State.RUNNING)
    jobs.store.put(attempt_key(record, "proposals.npz"), b"1234567")
    jobs.store.put(attempt_key(record, "result.json"), b"12")
    jobs.store.put(job_key(record.id, "webhook.json"), b"1")
    jobs.store.put(job_key(record.id, ".nfs01"), b"")
    receipt = jobs.remove(record, "deleted")
    sizes = {file.what: file.bytes for file in receipt.removed}
    assert set(sizes) == {"video", "proposals", "result", "webhook", "record", "other"}
    assert (sizes["video"], sizes["proposals"], sizes["result"]) == (5, 7, 2)
    assert stored_keys(jobs.store) == {f"gone/{record.id}"}
    with pytest.raises(StaleAttemptError, match="removed"):
        jobs.change(record, State.SUCCEEDED)
    assert stored_keys(jobs.store) == {f"gone/{record.id}"}


def test_iter_newest_is_sorted_and_resumes_after_id(jobs: Jobs) -> None:
    ids = sorted((make_job(jobs).id for _ in range(4)), reverse=True)
    assert [record.id for record in jobs.iter_newest(ANONYMOUS_OWNER)] == ids
    assert [record.id for record in jobs.iter_newest(ANONYMOUS_OWNER, ids[1])] == ids[2:]
    assert list(jobs.iter_newest("anna")) == []


def test_failed_creation_leaves_no_files(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    put = jobs.store.put

    def put_or_raise(name: str, content: bytes) -> None:
        if name.endswith("job.json"):
            raise OSError(28, "No space left on device")
        put(name, content)

    monkeypatch.setattr(jobs.store, "put", put_or_raise)
    with pytest.raises(OSError, match="No space"):
        make_job(jobs, keep_video=True, callback_url="https://example.org/x")
    assert jobs.get_pending_bytes(ANONYMOUS_OWNER) == jobs.get_retained_bytes(ANONYMOUS_OWNER) == {}
    assert [entry.key for entry in jobs.store.entries("") if not entry.key.startswith("locks/")] == []
