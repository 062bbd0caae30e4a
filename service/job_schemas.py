"""What callers and service say to each other about jobs."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, AnyHttpUrl, BaseModel, BeforeValidator, Field, TypeAdapter

from service.names import MAX_CHARACTERS, clean_name
from service.schemas import Document, Fraction, Options, Seconds


def _http_url(url: str) -> str:
    TypeAdapter(AnyHttpUrl).validate_python(url)
    return url


# As it was given: what a library makes of it may be longer, or not what the receiver knows.
CallbackUrl = Annotated[str, Field(max_length=2000), AfterValidator(_http_url)]


def _plain_name(given: object) -> object:
    if not isinstance(given, str):
        return given
    if len(given) > MAX_CHARACTERS:
        raise ValueError(f"it has {len(given)} characters, the limit is {MAX_CHARACTERS}")
    name = clean_name(given)
    if name is None:
        raise ValueError("it holds no character of a file's name")
    return name


VideoName = Annotated[str, BeforeValidator(_plain_name)]


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"  # accepted and durable; no worker has it
    RUNNING = "running"  # a worker has it
    SUCCEEDED = "succeeded"  # its result is published
    FAILED = "failed"  # it ended with an error, and will not run again
    CANCELED = "canceled"  # its caller wanted no answer any more


ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELED})


class Stage(StrEnum):
    """What a worker is doing with a running job."""

    DECODING = "decoding"
    DETECTING = "detecting"
    PUBLISHING = "publishing"


class JobOptions(Options):
    """What a job was asked for: what to look at, and what to do with the answer."""

    callback_url: CallbackUrl | None = Field(
        None, description="Where a signed message is sent when the job has ended."
    )
    retention_s: Annotated[int, Field(ge=0)] | None = Field(
        None, description="How long the result is kept after the end; the service's default if not given."
    )
    keep_video: bool = Field(
        False, description="Keep the video as long as the result, not just until analysed."
    )
    tag: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        None, description="A word of the caller's own, to find jobs by."
    )
    name: VideoName | None = Field(
        None, description="The video's name, for exports; the file's own name if not given."
    )

    def for_detector(self) -> Options:
        """The part that shapes the result."""
        return Options.model_validate(self.model_dump(include=set(Options.model_fields)))


class JobError(Document):
    """Why a job failed."""

    code: str
    detail: str


class RetryReason(StrEnum):
    """What takes a running job back to the queue."""

    WORKER_LOST = "worker_lost"  # its worker died, or was not heard of for too long
    FAULT = "fault"  # something went wrong here; the log says what
    HANDED_BACK = "handed_back"  # its worker was asked to stop


class Change(Document):
    """A state a job came into, and when."""

    state: State
    at: datetime
    why: RetryReason | None = Field(None, description="Only of a running job that is queued again.")


class Links(Document):
    """Where to go from here."""

    self: str
    result: str
    export: str
    events: str
    cancel: str


class Job(Document):
    """A job as its caller sees it."""

    id: str
    state: State
    stage: Stage | None = Field(None, description="Only while running.")
    progress: Fraction
    queue_position: Annotated[int, Field(ge=0)] | None = Field(
        None, description="How many jobs are before it; only while queued."
    )
    estimate_s: Seconds | None = Field(
        None,
        description="Seconds to the end, from the last jobs' times and this one's progress; null if nothing is known.",
    )
    attempt: int
    name: str | None = Field(
        None, description="The video's name: as was asked for, or the file's own, if it has one."
    )
    tag: str | None = None
    batch: str | None = None
    changes: list[Change]
    expires_at: datetime | None = Field(
        None, description="When result and record will be removed; once it has ended."
    )
    error: JobError | None = None
    links: Links


class Accepted(Document):
    """The answer to an upload."""

    id: str
    state: State
    error: JobError | None = Field(None, description="Why it failed, where it has failed by now.")
    links: Links


class BatchLinks(Document):
    """Where to go from a batch."""

    jobs: str


class Batch(Document):
    """The answer to an upload of several videos: a job for each, in their order."""

    batch: str
    jobs: list[Accepted]
    links: BatchLinks


class JobPage(Document):
    """Jobs, the newest first."""

    jobs: list[Job]
    next: str | None = Field(
        description="Give it as `cursor` for those before; null at the end. Pages may be short."
    )


StoredFile = Literal["video", "proposals", "result", "webhook", "record", "other"]


class Removed(Document):
    """A thing that is no more."""

    what: StoredFile
    bytes: int


class Receipt(Document):
    """What a deletion removed."""

    id: str
    at: datetime
    removed: list[Removed]


class Delivery(Document):
    """One try to deliver a job's message."""

    at: datetime
    status: int | None = Field(description="The receiver's HTTP status; null if none came.")
    error: str | None = None
    took_s: Seconds


class Webhook(Document):
    """A job's message to its caller, and how its delivery went."""

    id: str = Field(description="The header webhook-id: the same for every try.")
    url: str
    state: Literal["waiting", "delivered", "given_up"]
    next_at: datetime | None = Field(description="When it is tried again.")
    deliveries: list[Delivery]


class ProblemDocument(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    job_id: str | None = None
    request_id: str | None = None


class Health(Document):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(Document):
    """Whether a video sent now would be analysed; each check is "ok" or says what is missing."""

    ready: bool
    checks: dict[str, str]
