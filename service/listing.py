"""Paginated, filtered listing of jobs."""

import re
from datetime import datetime
from itertools import islice
from typing import Annotated

from pydantic import AwareDatetime, BeforeValidator, Field

from service.job_schemas import State
from service.jobs import Jobs, Record
from service.schemas import Document

# Records read per page: a filter that few jobs match must not read the whole store in one request.
_MAX_RECORDS_READ = 1000


def _require_rfc3339(value: object) -> object:
    """Accept RFC 3339 dates and times only: pydantic would also accept seconds since 1970."""
    if isinstance(value, str) and not re.match(r"\d{4}-\d\d-\d\d[Tt ]", value):
        raise ValueError("give date and time with a zone, such as 2026-03-01T12:00:00Z")
    return value


Cursor = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Timestamp = Annotated[AwareDatetime, BeforeValidator(_require_rfc3339)]


class JobQuery(Document):
    """Query parameters of the job listing."""

    cursor: Cursor | None = Field(None, description="`next` of the page before.")
    limit: Annotated[int, Field(ge=1, le=100)] = Field(20, description="Jobs a page.")
    state: State | None = Field(None, description="Only jobs in this state.")
    since: Timestamp | None = Field(None, description="Only jobs sent at this time or later.")
    until: Timestamp | None = Field(None, description="Only jobs sent before this time.")
    tag: str | None = Field(None, description="Only jobs with this tag.")
    batch: str | None = Field(None, description="Only jobs of this batch.")

    def matches(self, record: Record) -> bool:
        """Return whether a job passes the filters."""
        created_at: datetime = record.changes[0].at
        return (
            self.state in (None, record.state)
            and self.tag in (None, record.options.tag)
            and self.batch in (None, record.batch)
            and (self.until is None or created_at < self.until)
            and (self.since is None or created_at >= self.since)
        )


def load_page(jobs: Jobs, query: JobQuery, owner: str) -> tuple[list[Record], str | None]:
    """Return one page of an owner's jobs, newest first, and the cursor of the next; None on the last page."""
    matching: list[Record] = []
    cursor = None
    for record in islice(jobs.iter_newest(owner, query.cursor), _MAX_RECORDS_READ):
        if len(matching) == query.limit:
            return matching, cursor
        cursor = record.id
        if query.matches(record):
            matching.append(record)
        if query.since is not None and record.changes[0].at < query.since:
            return matching, None  # the remaining jobs are older
    has_more = cursor is not None and next(jobs.iter_newest(owner, cursor), None) is not None
    return matching, cursor if has_more else None
