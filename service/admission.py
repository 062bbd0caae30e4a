"""Whether there is room for another job: among those that have not ended, and on the store's disk."""

from service.errors import Problem
from service.jobs import Jobs
from service.settings import Settings
from service.store import Store
from service.ttl_cache import Lately

_GOOD_FOR_S = 1.0


class Admission:
    """What all callers together may fill; one in each API process."""

    def __init__(self, store: Store, jobs: Jobs, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._unfinished = Lately(_GOOD_FOR_S, jobs.unfinished)
        self._trouble = Lately(_GOOD_FOR_S, lambda: store.check() or self._shortage(0))

    def unfinished(self) -> list[str]:
        """The ids of all jobs that had not ended a second ago, the oldest first."""
        return self._unfinished.get()

    def trouble(self) -> str | None:
        """What keeps the store from taking a video, as it was a second ago: a look writes and syncs a file."""
        return self._trouble.get()

    def check(self, coming_bytes: int) -> None:
        """Whether one more video may come; to be asked before its bytes do.

        Uploads that are under way are not among them: asked again when their bytes are there, see service.submission.

        Args:
            coming_bytes: as declared; 0 where that is not known.

        Raises:
            Problem: queue_full, disk_full.
        """
        check_queue(len(self.unfinished()), 1, self._settings.max_queued_jobs)
        self.check_disk(coming_bytes)

    def check_disk(self, coming_bytes: int = 0) -> None:
        """Whether so much more fits on the disk; raises Problem disk_full."""
        if shortage := self._shortage(coming_bytes):
            raise Problem("disk_full", f"{shortage}; send the video again later")

    def _shortage(self, coming_bytes: int) -> str | None:
        free, kept = self._store.free_bytes(), self._settings.min_free_bytes
        if free >= coming_bytes + kept:
            return None
        return (
            f"the service's disk has {free} bytes left, of which {kept} are for records and results "
            f"(MMAD_MIN_FREE_BYTES): there is no room for {coming_bytes or 'any'} more"
        )


def check_queue(found: int, coming: int, limit: int) -> None:
    """Whether so many jobs more are taken beside those that have not ended; raises Problem queue_full."""
    if found + coming > limit:
        raise Problem(
            "queue_full",
            f"{found} jobs have not ended, the service takes {limit} at a time (MMAD_MAX_QUEUED_JOBS): "
            "send the video again later",
        )
