"""Jobs page by page: which of them, and where to go on."""

from datetime import datetime
from itertools import islice
from typing import Annotated, NamedTuple

from pydantic import AwareDatetime, Field

from service.job_schemas import State
from service.jobs import Jobs, Record
from service.schemas import Document

# So many records are read for one page at most: a rare tag must not read the whole store at a time.
_MOST_READ = 1000


class Listing(Document):
    """What a caller wants to see."""

    cursor: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    state: State | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    tag: str | None = None
    batch: str | None = None

    def wants(self, record: Record) -> bool:
        """Whether a job is among them."""
        sent: datetime = record.changes[0].at
        return (
            self.state in (None, record.state)
            and self.tag in (None, record.options.tag)
            and self.batch in (None, record.batch)
            and (self.until is None or sent < self.until)
            and (self.since is None or sent >= self.since)
        )


class Page(NamedTuple):
    """Records, the newest first, and the cursor of the next page; None at the end."""

    records: list[Record]
    next: str | None


def page(jobs: Jobs, listing: Listing, owner: str) -> Page:
    """A page of an owner's jobs."""
    chosen: list[Record] = []
    last = None
    for record in islice(jobs.newest(listing.cursor), _MOST_READ):
        if len(chosen) == listing.limit:
            return Page(chosen, last)
        last = record.id
        if record.owner == owner and listing.wants(record):
            chosen.append(record)
        if listing.since is not None and record.changes[0].at < listing.since:
            return Page(chosen, None)  # all that follow are older still
    more = last is not None and any(True for _ in islice(jobs.newest(last), 1))
    return Page(chosen, last if more else None)
