"""The store and the job record."""

import os
from pathlib import Path

import pytest

from service.errors import Problem
from service.jobs import TRANSITIONS, Jobs, Upload, key, new_job_id
from service.schemas import JobError, Options, State
from service.store import FolderStore

UPLOAD = Upload(bytes=1, sha256="0" * 64)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def all_files(store: FolderStore) -> list[str]:
    return sorted(str(path.relative_to(store._root)) for path in store._root.rglob("*") if path.is_file())


def test_what_is_put_is_there_and_replaced_whole(store: FolderStore) -> None:
    store.put("jobs/a/job.json", b"one")
    store.put("jobs/a/job.json", b"two")
    assert store.get("jobs/a/job.json") == b"two"
    assert all_files(store) == ["jobs/a/job.json"]
    with pytest.raises(KeyError):
        store.get("jobs/b/job.json")


def test_a_write_that_fails_leaves_nothing(store: FolderStore) -> None:
    with pytest.raises(RuntimeError, match="stop"), store.writing("jobs/a/video") as file:
        file.write(b"half")
        raise RuntimeError("stop")
    assert all_files(store) == []


def test_bytes_and_name_are_synced_before_it_returns(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, rename = os.fsync, Path.rename

    def noting_sync(descriptor: int) -> None:
        events.append("sync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def noting_rename(self: Path, target: Path) -> Path:
        events.append(f"rename to {Path(target).name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(Path, "rename", noting_rename)
    store.put("jobs/a/video", b"bytes")
    assert events[0].startswith("sync ")
    assert events[1:] == ["rename to video", "sync a", "sync jobs"]


def test_delete_takes_a_file_or_all_below(store: FolderStore) -> None:
    for name in ("jobs/a/video", "jobs/a/job.json", "jobs/b/video"):
        store.put(name, b"x")
    store.delete("jobs/a/video")
    store.delete("jobs/b")
    store.delete("jobs/nothing")
    assert all_files(store) == ["jobs/a/job.json"]


def test_a_store_that_cannot_be_written_says_so(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.check() is None

    def full(_self: FolderStore, _key: str, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FolderStore, "put", full)
    assert store.check() == "the store cannot be written: No space left on device"


def test_job_ids_sort_by_time_and_differ() -> None:
    ids = [new_job_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert [one[:12] for one in ids] == sorted(one[:12] for one in ids)
    assert all(len(one) == 32 for one in ids)


def test_a_job_goes_through_its_states(store: FolderStore) -> None:
    jobs = Jobs(store)
    record = jobs.create(new_job_id(), UPLOAD, Options(region=None, min_score=0.3))
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
    record = jobs.create(new_job_id(), UPLOAD, Options(region=None)).model_copy(update={"state": state})
    for target in set(State) - TRANSITIONS[state]:
        with pytest.raises(ValueError, match=f"cannot go from {state} to {target}"):
            jobs.change(record, target)


@pytest.mark.parametrize(
    "job_id", ["", "x", "../../etc/passwd", "0" * 31, "0" * 32, "0" * 32 + "\n", "A" * 32]
)
def test_unknown_ids_never_reach_the_disk(store: FolderStore, job_id: str) -> None:
    store.put(key("probe", "job.json"), b"{}")
    with pytest.raises(Problem) as caught:
        Jobs(store).get(job_id)
    assert caught.value.code == "job_not_found"
