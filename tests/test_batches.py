"""Batches from worker processes: through shared memory, through pipes, and errors of workers."""

import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from torch.utils.data import Dataset

from model.bundle import Manifest
from tests.untrained_bundle import make_untrained_manifest
from training.augment import Example
from training.batches import explain_worker_errors, load_batches
from training.dataset import DatasetError
from training.run import TrainingError

MANIFEST = make_untrained_manifest()
BATCHES = [[0, 1], [2, 3], [4, 5]]


class BrightnessDataset(Dataset[Example]):
    """The brightness of each example is its index."""

    def __getitem__(self, index: int) -> Example:
        frames = np.full((16, 112, 112, 3), index, np.uint8)
        return Example(frames, np.array([[1.0, 4.0]]), np.array([index]), None)


class FailingDataset(Dataset[Example]):
    def __getitem__(self, index: int) -> Example:
        raise DatasetError("a.mp4 has no sidecar")


class KilledWorkerDataset(Dataset[Example]):
    def __getitem__(self, index: int) -> Example:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def load_brightness(workers: int, manifest: Manifest = MANIFEST) -> list[list[int]]:
    """Load all batches and return the brightness of their examples."""
    batches = load_batches(BrightnessDataset(), BATCHES, manifest, workers)
    return [batch.clips.amax((1, 2, 3, 4, 5)).tolist() for batch in batches]


def test_workers_preserve_the_order_of_batches() -> None:
    assert load_brightness(2) == load_brightness(0) == BATCHES


def test_killed_worker_is_reported() -> None:
    """In a separate process: PyTorch reports the killed worker again whenever a later child process ends."""
    completed = subprocess.run(
        [sys.executable, "-m", "tests.test_batches", "killed"], capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    assert re.search(r"ended from outside.*set data\.workers=1", completed.stdout)


def test_dataset_error_is_raised_without_the_worker_traceback() -> None:
    with pytest.raises(DatasetError) as caught, explain_worker_errors():
        list(load_batches(FailingDataset(), BATCHES, MANIFEST, 1))
    assert str(caught.value) == "a.mp4 has no sidecar"


def test_other_errors_are_not_translated() -> None:
    with pytest.raises(RuntimeError, match="no more than that"), explain_worker_errors():
        raise RuntimeError("no more than that")


@pytest.mark.parametrize(
    ("options", "event"), [("size=1m", "shared_memory_is_full"), ("size=1m,ro", "no_shared_memory"), ("size=64m", "")]
)
def test_batches_load_with_little_or_read_only_shared_memory(options: str, event: str) -> None:
    """Load three batches of 1.2 MB from a worker process with a separate file system at /dev/shm."""
    mount = f"mount -t tmpfs -o {options} tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    command = f'{mount} && exec "$0" -m tests.test_batches'
    completed = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, sys.executable], capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    lines = completed.stdout.splitlines()
    assert lines[-1] == str(BATCHES)
    assert [line for line in lines if "shared_memory" in line and event in line] if event else len(lines) == 1


def describe_killed_worker() -> str:
    try:
        with explain_worker_errors():
            list(load_batches(KilledWorkerDataset(), BATCHES, MANIFEST, 1))
    except TrainingError as error:
        return str(error)
    return "no error"


if __name__ == "__main__":
    sys.stdout.write(f"{describe_killed_worker() if sys.argv[1:] else load_brightness(1)}\n")
