"""The documents callers and workers exchange. Times are seconds from the video's first frame."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]


class Document(BaseModel):
    """Frozen; unknown keys are refused, so that writer and reader cannot drift apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Label(Document):
    """A class of either level."""

    id: int
    code: str
    name: str


class ActionLabel(Label):
    """An action and the body part it belongs to."""

    body: Label


class Labels(Document):
    """All classes of the model, both levels."""

    bodies: list[Label]
    actions: list[ActionLabel]


class Notice(Document):
    """A warning with a stable code."""

    code: str
    detail: str


class Region(Document):
    """The part of the upright picture to look at, as fractions of its width and height."""

    x: Fraction
    y: Fraction
    width: Annotated[float, Field(gt=0, le=1)]
    height: Annotated[float, Field(gt=0, le=1)]

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if self.x + self.width > 1 or self.y + self.height > 1:
            raise ValueError("x + width and y + height must not be above 1")
        return self


class View(Document):
    """Which of the proposals to show."""

    min_score: Fraction | None = Field(
        None, description="Least score; the bundle's threshold of each class if not given."
    )
    top_k: Annotated[int, Field(gt=0)] | None = Field(None, description="At most this many, the best.")
    labels: list[str] | None = Field(None, description="Codes of actions (B1) or body parts (B).")


class Options(View):
    """What a job was asked for."""

    region: Region | None = None


class Media(Document):
    """What was found in the file. Width and height are upright; rotation_deg is what set it upright, anticlockwise."""

    sha256: str
    duration_s: Seconds
    width: int
    height: int
    frames_decoded: int
    average_fps: float
    variable_frame_rate: bool
    rotation_deg: int


class TrainedOn(Document):
    """What the weights were trained on."""

    data: str
    synthetic: bool
    notes: str


class ModelUsed(Document):
    """What is needed to repeat a run. `trained_on` is null for weights that were never trained."""

    bundle: str
    version: str
    weights_sha256: str
    engine: str
    precision: str
    trained_on: TrainedOn | None


class ModelCard(ModelUsed):
    """The model that the workers have loaded."""

    licence: str
    device: str
    fps: float
    window_s: float
    input_width: int
    input_height: int
    metrics: dict[str, float] | None
    thresholds: list[Fraction] = Field(description="Per action: the score from which a proposal is shown.")
    labels: Labels
    warnings: list[Notice]


class Stretch(Document):
    """A part of the video and what became of it; `no_person`: nobody was found there, so nothing was looked for."""

    start_s: Seconds
    end_s: Seconds
    status: Literal["analysed", "no_person"]


class Detection(Document):
    """One micro-action. `id` is the same in every view of a job's result."""

    id: str
    start_s: Seconds
    end_s: Seconds
    score: Fraction
    action: Label
    body: Label
    overlaps: list[str]


class BodySegment(Document):
    """A stretch in which a body part moves: its actions merged where they touch or overlap."""

    start_s: Seconds
    end_s: Seconds
    score: Fraction
    body: Label
    actions: list[str] = Field(description="Ids of the detections it is made of.")


class Tally(Label):
    """One class in numbers: how often, how long in all (overlap counted once), how often a minute."""

    count: int
    total_s: Seconds
    rate_per_min: float


class Simultaneous(Document):
    """For how long exactly `count` actions were going on."""

    count: int
    total_s: Seconds


class Concurrency(Document):
    """How many actions go on at once."""

    max: int
    mean: float
    seconds: list[Simultaneous]


class Summary(Document):
    """The detections in numbers."""

    by_action: list[Tally]
    by_body: list[Tally]
    concurrency: Concurrency


class Result(Document):
    """The answer to one video."""

    schema_version: Literal[1] = 1
    job_id: str | None
    media: Media
    model: ModelUsed
    settings: Options
    coverage: list[Stretch]
    partial: bool
    detections: list[Detection]
    body_segments: list[BodySegment]
    summary: Summary
    warnings: list[Notice]


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"  # accepted and durable; no worker has it
    RUNNING = "running"  # a worker has it
    SUCCEEDED = "succeeded"  # its result is published
    FAILED = "failed"  # it ended with an error, and will not run again


class Stage(StrEnum):
    """What a worker is doing with a running job."""

    DECODING = "decoding"
    DETECTING = "detecting"
    PUBLISHING = "publishing"


class JobError(Document):
    """Why a job failed."""

    code: str
    detail: str


class Change(Document):
    """A state a job came into, and when."""

    state: State
    at: datetime


class Links(Document):
    """Where to go from here."""

    self: str
    result: str


class Job(Document):
    """A job as its caller sees it."""

    id: str
    state: State
    stage: Stage | None = Field(None, description="Only while running.")
    progress: Fraction
    attempt: int
    changes: list[Change]
    error: JobError | None = None
    links: Links


class Accepted(Document):
    """The answer to an upload."""

    id: str
    state: State
    links: Links


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
