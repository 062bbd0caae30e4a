"""Request and response schemas of jobs."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, AnyHttpUrl, BaseModel, BeforeValidator, Field, TypeAdapter

from service.names import MAX_CHARACTERS, clean_name
from service.schemas import Document, Fraction, Open, Options, Seconds


def _validate_http_url(url: str) -> str:
    TypeAdapter(AnyHttpUrl).validate_python(url)
    return url


# Not normalised: a normalised URL may be longer, or differ from the one the receiver expects.
CallbackUrl = Annotated[
    str, Field(max_length=2000, json_schema_extra={"format": "uri"}), AfterValidator(_validate_http_url)
]


def _validate_name(given: object) -> object:
    if not isinstance(given, str):
        return given
    if len(given) > MAX_CHARACTERS:
        raise ValueError(f"it has {len(given)} characters, the limit is {MAX_CHARACTERS}")
    name = clean_name(given)
    if name is None:
        raise ValueError("it holds no character of a file's name")
    return name


VideoName = Annotated[
    str, BeforeValidator(_validate_name), Field(json_schema_extra={"minLength": 1, "maxLength": MAX_CHARACTERS})
]


Count = Annotated[int, Field(ge=0)]
Tag = Annotated[str, Field(min_length=1, max_length=200)]


class State(StrEnum):
    """State of a job."""

    QUEUED = "queued"  # accepted and durable; not assigned to a worker
    RUNNING = "running"  # assigned to a worker
    SUCCEEDED = "succeeded"  # its result is published
    FAILED = "failed"  # it ended with an error, and will not run again
    CANCELED = "canceled"  # its caller canceled it


ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELED})


class Stage(StrEnum):
    """Stage of a running job."""

    DECODING = "decoding"
    DETECTING = "detecting"
    PUBLISHING = "publishing"


class JobOptions(Options):
    """Options of a job: what to analyse, which detections to show, and how to handle video and result."""

    callback_url: CallbackUrl | None = Field(None, description="Where a signed message is sent when the job has ended.")
    retention_s: Count | None = Field(None, description="How long the result stays; the service's default if not set.")
    keep_video: bool = Field(False, description="Keep the video as long as the result, not just until analysed.")
    tag: Tag | None = Field(None, description="A word of the caller's own, to find jobs by.")
    name: VideoName | None = Field(None, description="A single video's name, for exports; the file's own if not given.")

    def for_detector(self) -> Options:
        """Return the options that determine the result."""
        return Options.model_validate(self.model_dump(include=set(Options.model_fields)))


class JobError(Document):
    """Why a job failed."""

    code: str
    detail: str


class RetryReason(StrEnum):
    """Why a running job was queued again."""

    WORKER_LOST = "worker_lost"  # the worker's lease expired: it died or was unreachable for too long
    FAULT = "fault"  # the attempt failed with an internal error, which is in the log
    HANDED_BACK = "handed_back"  # the worker was shut down


class Change(Document):
    """A state change of a job."""

    state: Open[State]
    at: datetime
    why: Open[RetryReason] | None = Field(None, description="Only of a running job that is queued again.")


class Links(Document):
    """URLs of a job."""

    self: str
    result: str
    export: str
    events: str
    cancel: str


class Job(Document):
    """The public view of a job."""

    id: str
    state: Open[State]
    stage: Open[Stage] | None = Field(None, description="Only while running.")
    progress: Fraction
    queue_position: Count | None = Field(None, description="How many jobs are before it; only while queued.")
    estimate_s: Seconds | None = Field(
        None,
        description="Seconds to the end, from the last jobs' times and this one's progress; null if nothing is known.",
    )
    attempt: int
    name: str | None = Field(None, description="The video's name: as was asked for, or the file's own, if it has one.")
    tag: str | None = None
    batch: str | None = None
    changes: list[Change]
    expires_at: datetime | None = Field(None, description="When result and record will be removed; once it has ended.")
    error: JobError | None = None
    links: Links

    @property
    def ended(self) -> bool:
        """True if the state is final: succeeded, failed or canceled."""
        return self.state in ENDED


class Accepted(Document):
    """Response to an upload."""

    id: str
    state: Open[State]
    error: JobError | None = Field(None, description="Why it failed, where it has failed by now.")
    links: Links


class BatchLinks(Document):
    """URLs of a batch."""

    jobs: str


class Batch(Document):
    """Response to an upload of several videos: one job for each, in their order."""

    batch: str
    jobs: list[Accepted]
    links: BatchLinks


class JobPage(Document):
    """One page of jobs, newest first."""

    jobs: list[Job]
    next: str | None = Field(description="Give it as `cursor` for those before; null at the end. Pages may be short.")


StoredFile = Literal["video", "proposals", "result", "webhook", "record", "other"]


class Removed(Document):
    """A removed file."""

    what: Open[StoredFile]
    bytes: int


class Receipt(Document):
    """Response to a deletion: the files that were removed."""

    id: str
    at: datetime
    removed: list[Removed]


class Delivery(Document):
    """One attempt to deliver a webhook."""

    at: datetime
    status: int | None = Field(description="The receiver's HTTP status; null if none came.")
    error: str | None = None
    took_s: Seconds


class Webhook(Document):
    """The webhook of a job and its delivery attempts."""

    id: str = Field(description="The header webhook-id: the same for every try.")
    url: str
    state: Open[Literal["waiting", "delivered", "given_up"]]
    next_at: datetime | None = Field(description="When it is tried again.")
    deliveries: list[Delivery]


class ProblemDocument(BaseModel):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    job_id: str | None = None
    request_id: str | None = None


class Health(Document):
    """Liveness of the process."""

    status: Literal["ok"] = "ok"


class Readiness(Document):
    """Readiness of the service. Each check is "ok" or a sentence about what is missing."""

    ready: bool
    checks: dict[str, str]
