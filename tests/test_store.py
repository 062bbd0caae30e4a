"""The store: atomic and synced writes, compare-and-swap, listing."""

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


def test_put_creates_and_replaces(store: FolderStore) -> None:
    store.put("jobs/a/job.json", b"one")
    store.put("jobs/a/job.json", b"two")
    assert store.get("jobs/a/job.json") == b"two"
    assert all_files(store) == ["jobs/a/job.json"]
    with pytest.raises(KeyError):
        store.get("jobs/b/job.json")


def test_failed_write_leaves_no_file(store: FolderStore) -> None:
    with pytest.raises(RuntimeError, match="stop"), store.open_writer("jobs/a/video") as file:
        file.write(b"half")
        raise RuntimeError("stop")
    assert all_files(store) == []


def test_put_syncs_file_and_folders(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    sync, rename = os.fsync, Path.rename

    def recording_sync(descriptor: int) -> None:
        events.append("sync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def recording_rename(self: Path, target: Path) -> Path:
        events.append(f"rename to {Path(target).name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", recording_sync)
    monkeypatch.setattr(Path, "rename", recording_rename)
    store.put("jobs/a/video", b"bytes")
    assert events[0].startswith("sync ")
    assert events[1:] == ["rename to video", "sync a", "sync jobs"]


def test_delete_removes_file_or_folder(store: FolderStore) -> None:
    for name in ("jobs/a/video", "jobs/a/job.json", "jobs/b/video"):
        store.put(name, b"x")
    store.delete("jobs/a/video")
    store.delete("jobs/b")
    store.delete("jobs/nothing")
    assert all_files(store) == ["jobs/a/job.json"]


def test_check_reports_unwritable_store(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.check() is None

    def raise_disk_full(_self: FolderStore, _key: str, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FolderStore, "put", raise_disk_full)
    assert store.check() == "the store cannot be written: No space left on device"


def test_swap_requires_expected_content(store: FolderStore) -> None:
    assert not store.compare_and_swap("a/b", b"one", b"two")
    assert store.compare_and_swap("a/b", None, b"one")
    assert not store.compare_and_swap("a/b", None, b"two")
    assert not store.compare_and_swap("a/b", b"two", b"three")
    assert store.compare_and_swap("a/b", b"one", b"two")
    assert store.get("a/b") == b"two"


def test_concurrent_swaps_lose_no_update(store: FolderStore) -> None:
    """Increment a counter concurrently."""
    store.put("count", b"0")

    def increment(_index: int) -> None:
        while True:
            value = store.get("count")
            if store.compare_and_swap("count", value, str(int(value) + 1).encode()):
                return

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(increment, range(40)))
    assert store.get("count") == b"40"


def test_names_entries_and_age(store: FolderStore) -> None:
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
