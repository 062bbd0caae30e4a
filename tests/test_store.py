"""The store: whole files or none, and of those who swap at once one wins."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.store import FolderStore


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def all_files(store: FolderStore) -> list[str]:
    return [entry.key for entry in store.entries("") if not entry.key.startswith("locks/")]


def test_what_is_put_is_there_and_replaced_whole(store: FolderStore) -> None:
    store.put("jobs/a/job.json", b"one")
    store.put("jobs/a/job.json", b"two")
    assert store.get("jobs/a/job.json") == b"two"
    assert all_files(store) == ["jobs/a/job.json"]
    with pytest.raises(KeyError):
        store.get("jobs/b/job.json")


def test_a_write_that_fails_leaves_nothing(store: FolderStore) -> None:
    with pytest.raises(RuntimeError, match="stop"), store.open_writer("jobs/a/video") as file:
        file.write(b"half")
        raise RuntimeError("stop")
    assert all_files(store) == []


def test_bytes_and_name_are_synced_before_it_returns(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_swap_wants_what_it_expects(store: FolderStore) -> None:
    assert not store.compare_and_swap("a/b", b"one", b"two")
    assert store.compare_and_swap("a/b", None, b"one")
    assert not store.compare_and_swap("a/b", None, b"two")
    assert not store.compare_and_swap("a/b", b"two", b"three")
    assert store.compare_and_swap("a/b", b"one", b"two")
    assert store.get("a/b") == b"two"


def test_of_those_who_swap_at_once_one_wins(store: FolderStore) -> None:
    """Each adds one, with no lock but the swap: none is lost."""
    store.put("count", b"0")

    def add(_turn: int) -> None:
        while True:
            found = store.get("count")
            if store.compare_and_swap("count", found, str(int(found) + 1).encode()):
                return

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(40)))
    assert store.get("count") == b"40"


def test_names_entries_and_ages(store: FolderStore) -> None:
    for name in ("jobs/b/1/result.json", "jobs/b/job.json", "jobs/a/video"):
        store.put(name, b"xyz")
    assert store.names("jobs") == ["a", "b"]
    assert store.names("jobs/b") == ["1", "job.json"]
    assert store.names("nothing/here") == []
    assert store.entries("jobs/b") == [("jobs/b/1/result.json", 3), ("jobs/b/job.json", 3)]
    assert store.entries("nothing") == []
    assert 99 < store.age_s("jobs/a/video", time.time() + 100) < 102
    with pytest.raises(KeyError):
        store.age_s("jobs/c", time.time())
