"""Fixtures of the tests of jobs, queue and workers."""

from pathlib import Path

import pytest

from service.jobs import Jobs
from service.store import FolderStore


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def jobs(store: FolderStore) -> Jobs:
    return Jobs(store)
