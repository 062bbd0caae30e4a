"""The store: a folder with all job data, the only authoritative state. Writes are atomic and durable."""

import hashlib
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple
from uuid import uuid4

import structlog

from service.files import lock, open_replacement, rename, sync_folder

log = structlog.get_logger()

# Key of the model card, written by the worker that has loaded the model.
MODEL_CARD = "model.json"
# Key of the decoder sandbox's status, written by the worker: "full", "ok", or what is missing.
SANDBOX = "sandbox"
_DELETE_ATTEMPTS = 3
_LOCK_COUNT = 64


class StoreError(Exception):
    """The store cannot be opened; the message gives reason and remedy."""


class Entry(NamedTuple):
    """A key and the size of its content in bytes."""

    key: str
    bytes: int


class FolderStore:
    """Bytes under keys such as `jobs/<id>/job.json`. Keys are made by the service and never come from requests."""

    def __init__(self, root: Path) -> None:
        """Open the store and create missing folders; raises StoreError if that fails, such as on a full disk."""
        self._root = root
        self._incoming = root / "incoming"
        try:
            self._incoming.mkdir(parents=True, exist_ok=True)
            self._locks = _make_lock_files(root / "locks")
            with (self._locks / "00").open("w") as file:
                supported = lock(file)
            if not supported:
                self._locks = _make_lock_files(_find_local_lock_folder(root))
                log.warning(
                    "store_without_locks", folder=str(root), locks=str(self._locks),
                    remedy="run all processes of this store on this machine, with one folder for temporary files (no "
                    "containers of their own), or put it on a file system with locks",
                )  # fmt: skip
        except OSError as error:
            raise StoreError(
                f"cannot write in {root} ({error.strerror}): give it room and rights, "
                "or choose another folder with MMAD_DATA_DIR"
            ) from error

    def clear_incoming(self) -> None:
        """Remove partial writes of processes that were killed; call it only while no other process writes."""
        for path in self._incoming.iterdir():
            path.unlink()

    def put(self, key: str, content: bytes) -> None:
        """Write atomically and durably: content survives a crash, and readers never see a part of it."""
        with self.open_writer(key) as file:
            file.write(content)

    def compare_and_swap(self, key: str, expected: bytes | None, content: bytes) -> bool:
        """Write like `put` if the current content is `expected` (None: the key is missing), and return whether it was.

        A file lock serializes concurrent calls, also of other processes.
        """
        with self._lock(key):
            if self.find(key) != expected:
                return False
            self.put(key, content)
            return True

    def get(self, key: str) -> bytes:
        """Read the content; raises KeyError if the key is missing."""
        with self.open(key) as file:
            return file.read()

    def find(self, key: str) -> bytes | None:
        """Read the content; None if the key is missing."""
        with suppress(KeyError):
            return self.get(key)
        return None

    def open(self, key: str) -> BinaryIO:
        """Open for reading and seeking; raises KeyError if the key is missing."""
        try:
            return (self._root / key).open("rb")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise KeyError(key) from error

    @contextmanager
    def open_writer(self, key: str) -> Iterator[BinaryIO]:
        """Open a file for writing: stored durably on exit, discarded on an exception."""
        target = self._root / key
        with open_replacement(target, self._incoming / uuid4().hex) as file:
            yield file
        sync_folder(target.parent.parent)

    def move(self, source: str, target: str) -> None:
        """Rename a key, durably; raises KeyError if `source` is missing."""
        path = self._root / target
        try:
            rename(self._root / source, path)
            sync_folder(path.parent.parent)
        except FileNotFoundError as error:
            raise KeyError(source) from error

    def names(self, prefix: str) -> list[str]:
        """Return the names directly below a prefix, sorted; empty if it is missing."""
        try:
            return sorted(path.name for path in (self._root / prefix).iterdir())
        except FileNotFoundError:
            return []

    def entries(self, prefix: str) -> list[Entry]:
        """Return all keys below a prefix, at any depth, sorted."""
        entries = []
        for path in (self._root / prefix).rglob("*"):
            try:
                if path.is_file():
                    entries.append(Entry(path.relative_to(self._root).as_posix(), path.stat().st_size))
            except FileNotFoundError:  # removed in the meantime
                continue
        return sorted(entries)

    def age_s(self, key: str, now: float) -> float:
        """Return the seconds since a key was written, or a name below it was added or removed; raises KeyError."""
        try:
            return now - (self._root / key).stat().st_mtime
        except FileNotFoundError as error:
            raise KeyError(key) from error

    def delete(self, prefix: str) -> None:
        """Remove a key or everything below a prefix, if it exists; raises OSError if that fails.

        Holds the lock, so that a concurrent compare_and_swap cannot recreate the key.
        """
        target = self._root / prefix
        with self._lock(prefix):
            for _ in range(_DELETE_ATTEMPTS):
                if not target.is_dir():
                    target.unlink(missing_ok=True)
                    return
                shutil.rmtree(target, ignore_errors=True)  # another process may be writing below it
            if target.exists():
                shutil.rmtree(target)

    def check(self) -> str | None:
        """Return why the store cannot be written, or None."""
        try:
            self.put("probe", b"")
        except OSError as error:
            return f"the store cannot be written: {error.strerror}"
        return None

    def free_bytes(self) -> int:
        """Return the free disk space in bytes."""
        return shutil.disk_usage(self._root).free

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        """Lock a key. Keys share a fixed number of lock files, so unrelated keys may briefly wait for each other."""
        # Created again, because the system may clean up its folder for temporary files.
        self._locks.mkdir(mode=0o700, exist_ok=True)
        with (self._locks / f"{zlib.crc32(key.encode()) % _LOCK_COUNT:02d}").open("w") as file:
            lock(file)
            yield


def _make_lock_files(folder: Path) -> Path:
    """Create the folder with all lock files in advance: keys can then be deleted even when the disk is full."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(_LOCK_COUNT):
        (folder / f"{number:02d}").touch()
    return folder


def _find_local_lock_folder(root: Path) -> Path:
    """Return a local folder for the lock files of a store on a file system without locks, one per user and store."""
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"mmad-locks-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise StoreError(f"{folder} belongs to another user: remove it, or choose another folder with TMPDIR")
    return folder
