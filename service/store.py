"""The store: the truth about every job. A folder, whose files appear whole or not at all."""

import hashlib
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol
from uuid import uuid4

import structlog

from service.locks import lock

log = structlog.get_logger()

# What a worker says of the model that it has loaded.
MODEL_CARD = "model.json"
# What a worker says of how it shuts its decoder in: "full", "ok", or what is missing.
SANDBOX = "sandbox"
_TRIES = 3
_LOCKS = 64


class StoreError(Exception):
    """The store cannot be opened; the text says why, and what to do."""


class Entry(NamedTuple):
    """A key and how many bytes lie there."""

    key: str
    bytes: int


class Store(Protocol):
    """Bytes under keys such as `jobs/<id>/job.json`. Keys come from the service, never from a caller."""

    def put(self, key: str, content: bytes) -> None:
        """Write durably: after this returns, a crash does not lose it, and no reader sees half of it."""

    def compare_and_swap(self, key: str, expected: bytes | None, content: bytes) -> bool:
        """Write as `put` if the key still holds `expected` (None: nothing), and say whether it did: of several
        processes that swap at once, one wins."""

    def get(self, key: str) -> bytes:
        """Read; raises KeyError where there is nothing."""

    def open(self, key: str) -> BinaryIO:
        """Open for reading and seeking; raises KeyError where there is nothing."""

    def writing(self, key: str) -> AbstractContextManager[BinaryIO]:
        """A context in which bytes are written piece by piece; durable when it ends, gone if it raises."""

    def move(self, source: str, target: str) -> None:
        """Give what lies under a key another one, durably; raises KeyError where there is nothing."""

    def names(self, prefix: str) -> list[str]:
        """The names right below a prefix, sorted; none where there is nothing."""

    def entries(self, prefix: str) -> list[Entry]:
        """All keys below a prefix, at any depth, sorted."""

    def age_s(self, key: str, now: float) -> float:
        """Seconds since a key was written, or a name below it came or went; raises KeyError."""

    def delete(self, prefix: str) -> None:
        """Remove a key, or all below it. Nothing there is no error; OSError where something cannot be removed."""

    def check(self) -> str | None:
        """What keeps the store from being written, or None."""

    def free_bytes(self) -> int:
        """Room that is left for whoever may write here."""


class FolderStore:
    """A store in a folder of this machine."""

    def __init__(self, root: Path) -> None:
        """Make its folders where they are missing.

        Raises:
            StoreError: they cannot be made, such as on a disk that is full or read-only.
        """
        self._root = root
        self._incoming = root / "incoming"
        try:
            self._incoming.mkdir(parents=True, exist_ok=True)
            self._locks = _make_locks(root / "locks")
            if not _can_lock(self._locks):
                self._locks = _make_locks(_folder_for_locks(root))
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
        """Remove what was being written when a process was stopped; only where nobody else writes."""
        for path in self._incoming.iterdir():
            path.unlink()

    def put(self, key: str, content: bytes) -> None:
        """See Store."""
        with self.writing(key) as file:
            file.write(content)

    def compare_and_swap(self, key: str, expected: bytes | None, content: bytes) -> bool:
        """See Store. A file lock orders those who swap."""
        with self._lock(key):
            try:
                found: bytes | None = self.get(key)
            except KeyError:
                found = None
            if found != expected:
                return False
            self.put(key, content)
            return True

    def get(self, key: str) -> bytes:
        """See Store."""
        with self.open(key) as file:
            return file.read()

    def open(self, key: str) -> BinaryIO:
        """See Store."""
        try:
            return (self._root / key).open("rb")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise KeyError(key) from error

    @contextmanager
    def writing(self, key: str) -> Iterator[BinaryIO]:
        """See Store. Written aside, synced, renamed; then the folder is synced, so that the name lasts too."""
        aside = self._incoming / uuid4().hex
        try:
            with aside.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            self._place(aside, key)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def move(self, source: str, target: str) -> None:
        """See Store."""
        try:
            self._place(self._root / source, target)
        except FileNotFoundError as error:
            raise KeyError(source) from error

    def names(self, prefix: str) -> list[str]:
        """See Store."""
        try:
            return sorted(path.name for path in (self._root / prefix).iterdir())
        except FileNotFoundError:
            return []

    def entries(self, prefix: str) -> list[Entry]:
        """See Store."""
        found = []
        for path in (self._root / prefix).rglob("*"):
            try:
                if path.is_file():
                    found.append(Entry(path.relative_to(self._root).as_posix(), path.stat().st_size))
            except FileNotFoundError:  # it was removed meanwhile
                continue
        return sorted(found)

    def age_s(self, key: str, now: float) -> float:
        """See Store."""
        try:
            return now - (self._root / key).stat().st_mtime
        except FileNotFoundError as error:
            raise KeyError(key) from error

    def delete(self, prefix: str) -> None:
        """See Store. Waits for a swap that is under way, so that it cannot bring the key back."""
        target = self._root / prefix
        with self._lock(prefix):
            for _ in range(_TRIES):
                if not target.is_dir():
                    target.unlink(missing_ok=True)
                    return
                shutil.rmtree(target, ignore_errors=True)  # somebody may write there at this moment
            if target.exists():
                shutil.rmtree(target)

    def check(self) -> str | None:
        """See Store."""
        try:
            self.put("probe", b"")
        except OSError as error:
            return f"the store cannot be written: {error.strerror}"
        return None

    def free_bytes(self) -> int:
        """See Store."""
        return shutil.disk_usage(self._root).free

    def _place(self, path: Path, key: str) -> None:
        target = self._root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        for folder in (target.parent, target.parent.parent):
            _sync_folder(folder)

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        """Few files for many keys: two keys that share one wait for each other for a moment."""
        self._locks.mkdir(
            mode=0o700, exist_ok=True
        )  # what lies in a folder for temporary files may be tidied away
        with (self._locks / f"{zlib.crc32(key.encode()) % _LOCKS:02d}").open("w") as file:
            lock(file)
            yield


def _make_locks(folder: Path) -> Path:
    """A folder with the files to lock. All at once: something can be removed from a full disk then."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(_LOCKS):
        (folder / f"{number:02d}").touch()
    return folder


def _can_lock(folder: Path) -> bool:
    with (folder / "00").open("w") as file:
        return lock(file)


def _folder_for_locks(root: Path) -> Path:
    """On this machine, for a store whose file system has no locks: the same for each process of a user."""
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"mmad-locks-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise StoreError(f"{folder} belongs to another user: remove it, or choose another folder with TMPDIR")
    return folder


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
