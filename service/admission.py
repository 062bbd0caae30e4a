"""Admission of new jobs: limits on the number of unfinished jobs and on disk usage."""

from service.errors import Problem
from service.jobs import Jobs
from service.settings import Settings
from service.store import FolderStore
from service.ttl_cache import TtlCache

_CACHE_TTL_S = 1.0


class Admission:
    """Checks the limits shared by all callers; one instance per API process."""

    def __init__(self, store: FolderStore, jobs: Jobs, settings: Settings) -> None:
        self._store, self._settings = store, settings
        # Ids of all unfinished jobs, oldest first.
        self.unfinished = TtlCache(_CACHE_TTL_S, jobs.list_unfinished)
        # Why the store cannot accept a video, or None; cached, as each check writes a file.
        self.store_problem = TtlCache(_CACHE_TTL_S, lambda: store.check() or self._shortage(0))

    def check(self, upload_bytes: int) -> None:
        """Raise Problem queue_full or disk_full if one more video of this size (0 if unknown) cannot be accepted.

        Uploads in progress are not counted: service.submission checks again once a body is stored.
        """
        check_queue(len(self.unfinished.get()), 1, self._settings.max_queued_jobs)
        self.check_disk(upload_bytes)

    def check_disk(self, upload_bytes: int = 0) -> None:
        """Raise Problem disk_full if `upload_bytes` more do not fit on the disk."""
        if shortage := self._shortage(upload_bytes):
            raise Problem("disk_full", f"{shortage}; send the video again later")

    def _shortage(self, upload_bytes: int) -> str | None:
        free_bytes, reserved_bytes = self._store.free_bytes(), self._settings.min_free_bytes
        if free_bytes >= upload_bytes + reserved_bytes:
            return None
        return (
            f"the service's disk has {free_bytes} bytes left, of which {reserved_bytes} are for records and results "
            f"(MMAD_MIN_FREE_BYTES): there is no room for {upload_bytes or 'any'} more"
        )


def check_queue(unfinished: int, new: int, limit: int) -> None:
    """Raise Problem queue_full if `new` jobs beside `unfinished` ones exceed `limit`."""
    if unfinished + new > limit:
        raise Problem(
            "queue_full",
            f"{unfinished} jobs have not ended, the service takes {limit} at a time (MMAD_MAX_QUEUED_JOBS): "
            "send the video again later",
        )
