"""Fixtures of the webhook tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.webhooks.deployment import Deployment
from tests.webhooks.receiver import Receiver, run_receiver


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with run_receiver() as server:
        yield server
