"""What the service answers, as frozen objects with types. Times are seconds from the video's first frame.

They mirror service/schemas.py and service/job_schemas.py, where each field is explained. Reading is lenient where the
service may be newer than its caller: unknown keys are ignored and enumerations are words, so that a new key or state
breaks no caller. What is missing or of another type than it should be is told.
"""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime
from functools import cache, partial
from types import NoneType, UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

Json = dict[str, Any]
_Reader = Callable[[Any], Any]

ENDED = frozenset({"succeeded", "failed", "canceled"})


class AnswerError(ValueError):
    """A document lacks a value, or has one of another type."""


@dataclass(frozen=True)
class Answer:
    """A document of the service; `document` has all of it, as it came."""

    document: Json = field(default_factory=dict, repr=False, compare=False, kw_only=True)

    @classmethod
    def from_json(cls, document: Json) -> Self:
        """Read a document; raises AnswerError naming the value that does not fit.

        A field with a default may be missing: older services do not send it.
        """
        if not isinstance(document, dict):
            raise AnswerError(f"{cls.__name__} should be an object and is {document!r:.64}")
        kind: Any = cls  # for a checker that doubts that classes are hashable
        given = {
            one.name
            for one in fields(kind)
            if one.name in document or (one.default is MISSING and one.default_factory is MISSING)
        }
        values = {name: read(document) for name, read in _members(kind).items() if name in given}
        return cls(**values, document=document)


@dataclass(frozen=True)
class Label(Answer):
    """A class of either level."""

    id: int
    code: str
    name: str


@dataclass(frozen=True)
class ActionLabel(Label):
    """An action and the body part it belongs to."""

    body: Label


@dataclass(frozen=True)
class Labels(Answer):
    """All classes of the model, both levels."""

    bodies: list[Label]
    actions: list[ActionLabel]


@dataclass(frozen=True)
class Notice(Answer):
    """A warning with a stable code."""

    code: str
    detail: str


@dataclass(frozen=True)
class Region(Answer):
    """A part of the upright picture, as fractions of its width and height."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Shown(Answer):
    """What a job was asked for, and what this result shows."""

    min_score: float | None
    top_k: int | None
    labels: list[str] | None
    from_s: float | None
    to_s: float | None
    level: str
    region: Region | None


@dataclass(frozen=True)
class Media(Answer):
    """What was found in the file."""

    sha256: str
    duration_s: float
    width: int
    height: int
    frames_decoded: int
    average_fps: float
    variable_frame_rate: bool
    rotation_deg: int
    start_offset_s: float = 0.0


@dataclass(frozen=True)
class TrainedOn(Answer):
    """What the weights were trained on."""

    data: str
    synthetic: bool
    notes: str


@dataclass(frozen=True)
class ModelUsed(Answer):
    """What is needed to repeat a run. `trained_on` is None for weights that were never trained."""

    bundle: str
    version: str
    weights_sha256: str
    engine: str
    precision: str
    trained_on: TrainedOn | None


@dataclass(frozen=True)
class ModelCard(ModelUsed):
    """The model that the workers have loaded."""

    licence: str
    device: str
    fps: float
    window_s: float
    input_width: int
    input_height: int
    metrics: dict[str, float] | None
    thresholds: list[float]
    labels: Labels
    warnings: list[Notice]
    calibrated: bool = False


@dataclass(frozen=True)
class Stretch(Answer):
    """A part of the video and what became of it: `analysed`, `no_person` or `damaged`."""

    start_s: float
    end_s: float
    status: str


@dataclass(frozen=True)
class Detection(Answer):
    """One micro-action. `id` is the same in every view of a job's result."""

    id: str
    start_s: float
    end_s: float
    score: float
    action: Label
    body: Label
    overlaps: list[str]


@dataclass(frozen=True)
class HiddenDetection(Answer):
    """A detection below the display threshold; `threshold` is the score from which it would be shown."""

    id: str
    start_s: float
    end_s: float
    score: float
    threshold: float
    action: Label
    body: Label


@dataclass(frozen=True)
class Hidden(Answer):
    """Detections below the display threshold that score at least `from_score`: how many, and the best of them."""

    count: int
    from_score: float
    best: list[HiddenDetection]
    cut_by_top_k: int


@dataclass(frozen=True)
class BodySegment(Answer):
    """A stretch in which a body part moves."""

    start_s: float
    end_s: float
    score: float
    body: Label
    actions: list[str]


@dataclass(frozen=True)
class Tally(Label):
    """One class in numbers: how often, how long in all (overlap counted once), how often a minute."""

    count: int
    total_s: float
    rate_per_min: float


@dataclass(frozen=True)
class Simultaneous(Answer):
    """For how long exactly `count` actions were going on."""

    count: int
    total_s: float


@dataclass(frozen=True)
class Concurrency(Answer):
    """How many actions go on at once."""

    max: int
    mean: float
    seconds: list[Simultaneous]


@dataclass(frozen=True)
class Pair(Answer):
    """Two different actions going on at once: how many times, and for how long."""

    first: Label
    second: Label
    count: int
    total_s: float


@dataclass(frozen=True)
class Summary(Answer):
    """The detections in numbers, of the stretch shown."""

    by_action: list[Tally]
    by_body: list[Tally]
    concurrency: Concurrency
    pairs: list[Pair]


@dataclass(frozen=True)
class Reproduction(Answer):
    """What a run was made with, besides the video, the region and the weights."""

    mmad: str
    python: str
    packages: dict[str, str]
    bundle_sha256: str
    taxonomy_sha256: str
    device: str
    decode_fps: float
    input_width: int
    input_height: int
    window_frames: int
    overlap_frames: int
    postprocessing: dict[str, str | float | int | bool]
    calibrated: bool
    random_numbers: bool


@dataclass(frozen=True)
class Result(Answer):
    """The answer to one video."""

    schema_version: int
    job_id: str | None
    media: Media
    model: ModelUsed
    settings: Shown
    coverage: list[Stretch]
    partial: bool
    detections: list[Detection]
    body_segments: list[BodySegment]
    summary: Summary
    warnings: list[Notice]
    reproduction: Reproduction
    hidden: Hidden = field(default_factory=lambda: Hidden(0, 0.0, [], 0))


@dataclass(frozen=True)
class FrameScores(Answer):
    """The score of every class over time: one row for each time, one column for each class."""

    schema_version: int
    job_id: str | None
    rate: float
    times_s: list[float]
    actions: list[str]
    action_scores: list[list[float]]
    bodies: list[str]
    body_scores: list[list[float]]


@dataclass(frozen=True)
class JobError(Answer):
    """Why a job failed."""

    code: str
    detail: str


@dataclass(frozen=True)
class Change(Answer):
    """A state a job came into, and when; `why`, where a running job is queued again."""

    state: str
    at: datetime
    why: str | None = None


@dataclass(frozen=True)
class Links(Answer):
    """Where to go from a job; below the service's own address."""

    self: str
    result: str
    export: str
    events: str
    cancel: str


@dataclass(frozen=True)
class Job(Answer):
    """Where a job stands: `queued`, `running`, `succeeded`, `failed` or `canceled`."""

    id: str
    state: str
    stage: str | None
    progress: float
    queue_position: int | None
    estimate_s: float | None
    attempt: int
    name: str | None
    tag: str | None
    batch: str | None
    changes: list[Change]
    expires_at: datetime | None
    error: JobError | None
    links: Links

    @property
    def ended(self) -> bool:
        """Whether its state is final."""
        return self.state in ENDED


@dataclass(frozen=True)
class Accepted(Answer):
    """The answer to an upload."""

    id: str
    state: str
    error: JobError | None
    links: Links


@dataclass(frozen=True)
class BatchLinks(Answer):
    """Where to go from a batch."""

    jobs: str


@dataclass(frozen=True)
class Batch(Answer):
    """The answer to an upload of several videos: a job for each, in their order."""

    batch: str
    jobs: list[Accepted]
    links: BatchLinks


@dataclass(frozen=True)
class JobPage(Answer):
    """Jobs, the newest first, and the cursor of those before."""

    jobs: list[Job]
    next: str | None


@dataclass(frozen=True)
class Removed(Answer):
    """A thing that is no more."""

    what: str
    bytes: int


@dataclass(frozen=True)
class Receipt(Answer):
    """What a deletion removed."""

    id: str
    at: datetime
    removed: list[Removed]


@dataclass(frozen=True)
class Delivery(Answer):
    """One try to deliver a job's message."""

    at: datetime
    status: int | None
    error: str | None
    took_s: float


@dataclass(frozen=True)
class Webhook(Answer):
    """A job's message to its caller: `waiting`, `delivered` or `given_up`, and how its delivery went."""

    id: str
    url: str
    state: str
    next_at: datetime | None
    deliveries: list[Delivery]


@cache
def _members(kind: Any) -> dict[str, _Reader]:
    """For each field, what takes its value from the document."""
    hints = get_type_hints(kind)
    names = (one.name for one in fields(kind) if one.name != "document")
    return {name: partial(_member, f"{kind.__name__}.{name}", name, _reader(hints[name])) for name in names}


def _member(place: str, name: str, read: _Reader, document: Json) -> Any:
    try:
        # A key that is missing is read as null: an older service does not say yet what may be absent.
        return read(document.get(name))
    except AnswerError:  # it names a place within
        raise
    except (TypeError, ValueError) as error:
        raise AnswerError(f"{place}: {error}") from error


@cache
def _reader(kind: Any) -> _Reader:
    """From a type to what reads its JSON."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is list:
        return partial(_list, _reader(inner[0]))
    if origin is dict:
        return partial(_dict, _reader(inner[1]))
    if origin is UnionType:
        return _optional(inner)
    readers: dict[Any, _Reader] = {float: _float, datetime: _datetime}
    if issubclass(kind, Answer):
        readers[kind] = kind.from_json
    return readers.get(kind, partial(_exactly, kind))


def _optional(inner: tuple[Any, ...]) -> _Reader:
    """X or None; or one of several plain types, which JSON tells apart by itself."""
    kinds = [kind for kind in inner if kind is not NoneType]
    if len(kinds) > 1:
        return partial(_plain, tuple(inner))
    read = _reader(kinds[0])
    return lambda value: None if value is None else read(value)


def _plain(kinds: tuple[type, ...], value: Any) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(f"{value!r:.64} is none of {', '.join(kind.__name__ for kind in kinds)}")
    return value


def _exactly(kind: type, value: Any) -> Any:
    if type(value) is not kind:  # isinstance takes True for an int
        raise TypeError(f"{value!r:.64} is no {kind.__name__}")
    return value


def _float(value: Any) -> float:
    return value if type(value) is float else float(_exactly(int, value))


def _datetime(value: Any) -> datetime:
    return datetime.fromisoformat(_exactly(str, value))


def _list(read: _Reader, value: Any) -> list[Any]:
    return [read(one) for one in _exactly(list, value)]


def _dict(read: _Reader, value: Any) -> dict[str, Any]:
    return {name: read(one) for name, one in _exactly(dict, value).items()}
