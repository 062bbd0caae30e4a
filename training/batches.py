"""Load batches in worker processes while the network trains: through shared memory, or pipes if /dev/shm is full."""

import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import structlog
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from model.arrays import Array
from model.bundle import Manifest
from model.errors import DetectorError
from training.augment import Example
from training.dataset import DatasetError
from training.objectives import Batch, collate
from training.run import TrainingError

log = structlog.get_logger()

_SHARED_MEMORY = "/dev/shm"


def load_batches(
    examples: Dataset[Example], numbers: Sequence[list[int]], manifest: Manifest, workers: int
) -> Iterator[Batch]:
    """Yield collated batches in the order of `numbers`; use explain_worker_errors. 0 workers: made in this process."""
    if workers and not _can_use_shared_memory():
        workers = 0
    loader: DataLoader[Example] = DataLoader(
        examples, batch_sampler=numbers, num_workers=workers, collate_fn=partial(_collate_shared, manifest=manifest),
        persistent_workers=False, multiprocessing_context="spawn" if workers else None,
    )  # fmt: skip
    warned = False
    for batch in loader:
        if isinstance(batch, list) and not warned:
            warned = True
            log.warning(
                "shared_memory_is_full", path=_SHARED_MEMORY, free_mb=_free_mb(),
                consequence="batches go through pipes, which is slower", remedy="docker run --shm-size=2g",
            )  # fmt: skip
        yield Batch(*(torch.as_tensor(part) for part in batch))


def _free_mb() -> int | None:
    try:
        return shutil.disk_usage(_SHARED_MEMORY).free // 10**6
    except OSError:  # /dev/shm does not exist
        return None


@contextmanager
def explain_worker_errors() -> Iterator[None]:
    """Convert errors of workers to TrainingError if one was killed, and to DatasetError or DetectorError of a video."""
    try:
        yield
    except (DatasetError, DetectorError) as error:
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


def _collate_shared(examples: Sequence[Example], manifest: Manifest) -> Batch | list[Array]:
    batch = collate(examples, manifest)
    if get_worker_info() is None:
        return batch
    try:
        for part in batch:
            part.share_memory_()  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError):  # sending the batch would fail silently in the queue's thread
        return [part.numpy() for part in batch]
    return batch


def _can_use_shared_memory() -> bool:
    """Return whether processes can share locks, which need /dev/shm too."""
    try:
        multiprocessing.get_context("spawn").Lock()
    except (ImportError, OSError) as error:
        log.warning(
            "no_shared_memory", path=_SHARED_MEMORY, error=str(error),
            consequence="videos are read in the training process, as with data.workers=0",
        )  # fmt: skip
        return False
    return True
