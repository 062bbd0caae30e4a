"""The store: the truth about every job. A folder, whose files appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol
from uuid import uuid4

# What a worker says of the model that it has loaded.
MODEL_CARD = "model.json"


class Store(Protocol):
    """Bytes under keys such as `jobs/<id>/job.json`. Keys come from the service, never from a caller."""

    def put(self, key: str, content: bytes) -> None:
        """Write durably: after this returns, a crash does not lose it, and no reader sees half of it."""

    def get(self, key: str) -> bytes:
        """Read; raises KeyError where there is nothing."""

    def open(self, key: str) -> BinaryIO:
        """Open for reading and seeking; raises KeyError where there is nothing."""

    def writing(self, key: str) -> AbstractContextManager[BinaryIO]:
        """A context in which bytes are written piece by piece; durable when it ends, gone if it raises."""

    def delete(self, prefix: str) -> None:
        """Remove a key, or all below it. Nothing there is no error."""

    def check(self) -> str | None:
        """What keeps the store from being written, or None."""


class FolderStore:
    """A store in a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)

    def clear_incoming(self) -> None:
        """Remove what was being written when a process was stopped; only where nobody else writes."""
        for path in self._incoming.iterdir():
            path.unlink()

    def put(self, key: str, content: bytes) -> None:
        """See Store."""
        with self.writing(key) as file:
            file.write(content)

    def get(self, key: str) -> bytes:
        """See Store."""
        with self.open(key) as file:
            return file.read()

    def open(self, key: str) -> BinaryIO:
        """See Store."""
        try:
            return (self._root / key).open("rb")
        except FileNotFoundError as error:
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
            target = self._root / key
            target.parent.mkdir(parents=True, exist_ok=True)
            aside.rename(target)
            for folder in (target.parent, target.parent.parent):
                _sync_folder(folder)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def delete(self, prefix: str) -> None:
        """See Store."""
        target = self._root / prefix
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    def check(self) -> str | None:
        """See Store."""
        try:
            self.put("probe", b"")
        except OSError as error:
            return f"the store cannot be written: {error.strerror}"
        return None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
