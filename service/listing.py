"""Jobs page by page: which of them, and where to go on."""

import re
from datetime import datetime
from itertools import islice
from typing import Annotated, NamedTuple

from pydantic import AwareDatetime, BeforeValidator, Field

from service.job_schemas import State
from service.jobs import Jobs, Record
from service.schemas import Document

# So many records are read for one page at most: a rare tag must not read the whole store at a time.
_MOST_READ = 1000


def _dated(value: object) -> object:
    """Dates and times as RFC 3339 has them; seconds since 1970 are none."""
    if isinstance(value, str) and not re.match(r"\d{4}-\d\d-\d\d[Tt ]", value):
        raise ValueError("give date and time with a zone, such as 2026-03-01T12:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_dated)]


class Listing(Document):
    """What a caller wants to see."""

    cursor: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    state: State | None = None
    since: Moment | None = None
    until: Moment | None = None
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
    for record in islice(jobs.newest(owner, listing.cursor), _MOST_READ):
        if len(chosen) == listing.limit:
            return Page(chosen, last)
        last = record.id
        if listing.wants(record):
            chosen.append(record)
        if listing.since is not None and record.changes[0].at < listing.since:
            return Page(chosen, None)  # all that follow are older still
    more = last is not None and any(True for _ in islice(jobs.newest(owner, last), 1))
    return Page(chosen, last if more else None)
