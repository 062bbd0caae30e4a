"""Batches that other processes make while the network trains.

They come through shared memory. Where /dev/shm has no room, as in a container with Docker's default of 64 MB, they come
through pipes, which copies them twice more.
"""

import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, get_worker_info

from model.bundle import Manifest
from model.errors import DetectorError
from training.augment import Example
from training.dataset import CorpusError
from training.objectives import Batch, collate
from training.run import TrainingError

log = structlog.get_logger()

_SHARED_MEMORY = "/dev/shm"

Arrays = list[NDArray[np.generic]]


def load_batches(
    examples: Dataset[Example], numbers: Sequence[list[int]], manifest: Manifest, workers: int
) -> Iterator[Batch]:
    """Collated batches, in the order of `numbers`; with no workers they are made in this process.

    Raises:
        TrainingError: a worker was ended from outside. It may be raised wherever the caller is: see naming_workers.
        CorpusError, DetectorError: what is wrong with a video.
    """
    if workers and not _can_share():
        workers = 0
    loader: DataLoader[Example] = DataLoader(
        examples, batch_sampler=numbers, num_workers=workers, collate_fn=partial(_carry, manifest=manifest),
        persistent_workers=False, multiprocessing_context="spawn" if workers else None,
    )  # fmt: skip
    told = False
    for carried in loader:
        if isinstance(carried, list) and not told:
            told = True
            log.warning(
                "shared_memory_is_full", path=_SHARED_MEMORY, free_mb=_free_mb(),
                consequence="batches go through pipes, which is slower", remedy="docker run --shm-size=2g",
            )  # fmt: skip
        yield Batch(*(torch.as_tensor(part) for part in carried))


def _free_mb() -> int | None:
    try:
        return shutil.disk_usage(_SHARED_MEMORY).free // 10**6
    except OSError:  # there is none
        return None


@contextmanager
def naming_workers() -> Iterator[None]:
    """Turn errors of DataLoader workers, which PyTorch reports as tracebacks, into sentences with a remedy."""
    try:
        yield
    except (CorpusError, DetectorError) as error:
        lines = str(error).strip().splitlines() or [""]
        if not lines[0].startswith("Caught "):
            raise
        kind = type(error)
        raise kind(str(error).rpartition(f"{kind.__name__}: ")[2].strip()) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a process that reads videos was ended from outside ({error}): memory may be short; set data.workers=1, "
            "or 0 to read in the training process"
        ) from error


def _carry(examples: Sequence[Example], manifest: Manifest) -> Batch | Arrays:
    """Collate examples: into shared memory in a worker, or as arrays if there is no room for that."""
    batch = collate(examples, manifest)
    if get_worker_info() is None:
        return batch
    try:
        for part in batch:
            part.share_memory_()  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError):  # sending it would fail the same way, in a thread that nobody hears of
        return [part.numpy() for part in batch]
    return batch


def _can_share() -> bool:
    """Whether processes can share locks, which need /dev/shm too."""
    try:
        multiprocessing.get_context("spawn").Lock()
    except (ImportError, OSError) as error:
        log.warning(
            "no_shared_memory", path=_SHARED_MEMORY, error=str(error),
            consequence="videos are read in the training process, as with data.workers=0",
        )  # fmt: skip
        return False
    return True
