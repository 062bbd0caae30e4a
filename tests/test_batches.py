"""Batches of other processes: through shared memory, through pipes, and what is said where a process ends."""

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
NUMBERS = [[0, 1], [2, 3], [4, 5]]


class Shades(Dataset[Example]):
    """Each example is as bright as its number says."""

    def __getitem__(self, number: int) -> Example:
        frames = np.full((16, 112, 112, 3), number, np.uint8)
        return Example(frames, np.array([[1.0, 4.0]]), np.array([number]), None)


class Broken(Dataset[Example]):
    def __getitem__(self, number: int) -> Example:
        raise DatasetError("a.mp4 has no sidecar")


class Killed(Dataset[Example]):
    def __getitem__(self, number: int) -> Example:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def shades(workers: int, manifest: Manifest = MANIFEST) -> list[list[int]]:
    """Of each batch, the brightness of its examples."""
    batches = load_batches(Shades(), NUMBERS, manifest, workers)
    return [batch.clips.amax((1, 2, 3, 4, 5)).tolist() for batch in batches]


def test_workers_bring_batches_in_order() -> None:
    assert shades(2) == shades(0) == NUMBERS


def test_a_worker_that_is_killed_ends_the_run_with_a_sentence() -> None:
    """In a process of its own: PyTorch goes on telling of the killed worker, at any later end of a child."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.test_batches", "killed"], capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"ended from outside.*set data\.workers=1", ended.stdout)


def test_what_is_wrong_with_a_video_is_said_without_the_worker_s_traceback() -> None:
    with pytest.raises(DatasetError) as told, explain_worker_errors():
        list(load_batches(Broken(), NUMBERS, MANIFEST, 1))
    assert str(told.value) == "a.mp4 has no sidecar"


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="no more than that"), explain_worker_errors():
        raise RuntimeError("no more than that")


@pytest.mark.parametrize(
    ("options", "said"), [("size=1m", "shared_memory_is_full"), ("size=1m,ro", "no_shared_memory"), ("size=64m", "")]
)
def test_batches_come_whatever_shared_memory_there_is(options: str, said: str) -> None:
    """Three batches of 1.2 MB, of another process, in a file system of their own at /dev/shm."""
    mounted = f"mount -t tmpfs -o {options} tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mounted], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    command = f'{mounted} && exec "$0" -m tests.test_batches'
    ended = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, sys.executable], capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[-1] == str(NUMBERS)
    assert [line for line in lines if "shared_memory" in line and said in line] if said else len(lines) == 1


def tell_of_killed_worker() -> str:
    try:
        with explain_worker_errors():
            list(load_batches(Killed(), NUMBERS, MANIFEST, 1))
    except TrainingError as error:
        return str(error)
    return "no error"


if __name__ == "__main__":
    sys.stdout.write(f"{tell_of_killed_worker() if sys.argv[1:] else shades(1)}\n")
