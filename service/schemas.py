"""Schemas of results and of the model. Times are in seconds from the video's first frame."""

from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import to_jsonable_python

Fraction = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# Validation context of clients, whose service may be newer than they are; see Open.
LENIENT: Final = {"lenient": True}


def _allow_unknown(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Validate; with the context LENIENT a value that is not one of the known ones is returned as it is."""
    try:
        return handler(value)
    except ValidationError:
        if info.context == LENIENT and isinstance(value, str | int):
            return value
        raise


ValueT = TypeVar("ValueT")
# An enumeration or literal in a response, to which later versions may add values.
Open = Annotated[ValueT, WrapValidator(_allow_unknown)]


class Document(BaseModel):
    """Base of all schemas: frozen, and unknown keys are rejected."""

    # Validation errors must not quote the input: stored documents contain user data, which must not be logged.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @property
    def document(self) -> dict[str, Any]:
        """The fields that were given, unknown ones of a newer service included, as JSON values."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        return {name: _to_json(value) for name, value in (given | (self.model_extra or {})).items()}


def _to_json(value: Any) -> Any:
    if isinstance(value, Document):
        return value.document
    return [_to_json(item) for item in value] if isinstance(value, list) else to_jsonable_python(value)


class Label(Document):
    """An action class or a body part class."""

    id: int
    code: str
    name: str


class ActionLabel(Label):
    """An action and the body part it belongs to."""

    body: Label


class Labels(Document):
    """All classes of the model, of both levels."""

    bodies: list[Label]
    actions: list[ActionLabel]


class Notice(Document):
    """A warning with a stable code."""

    code: str
    detail: str


class Region(Document):
    """The part of the upright frame to analyse, as fractions of its width and height."""

    x: Fraction
    y: Fraction
    width: Annotated[float, Field(gt=0, le=1)]
    height: Annotated[float, Field(gt=0, le=1)]

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if self.x + self.width > 1 or self.y + self.height > 1:
            raise ValueError("x + width and y + height must not be above 1")
        return self


class View(Document):
    """Which detections to show."""

    min_score: Fraction | None = Field(None, description="Least score shown; each action's threshold if not given.")
    top_k: Annotated[int, Field(gt=0)] | None = Field(None, description="At most this many detections, the best.")
    labels: list[str] | None = Field(
        None, description="Codes or names of actions or body parts, in any case of letters; in a query with commas."
    )


class Options(View):
    """Options of a detection: the view, and the region to analyse."""

    region: Region | None = Field(
        None, description="The part of the upright picture to look at; in a query x,y,width,height as fractions of it."
    )


class TimedView(View):
    """Which detections to show, from which part of the video: those that overlap it."""

    from_s: Seconds | None = Field(None, description="Leave out what ends before.")
    to_s: Seconds | None = Field(None, description="Leave out what starts after.")

    @field_validator("to_s")
    @classmethod
    def _check_order(cls, to_s: float | None, info: ValidationInfo) -> float | None:
        from_s = info.data.get("from_s")
        if from_s is not None and to_s is not None and to_s <= from_s:
            raise ValueError(f"it must be above from_s={from_s:g}")
        return to_s


class ResultView(TimedView):
    """Which detections and levels a result shows."""

    level: Open[Literal["both", "action", "body"]] = Field(
        "both", description="`action` leaves body_segments empty, `body` detections; the summary has both."
    )


Rate = Annotated[float, Field(ge=1, le=30)]


class FramesView(Document):
    """Parameters of scores over time."""

    level: Literal["frames"] = Field("frames", description="The scores of all classes over time.")
    rate: Rate = Field(5.0, description="Times a second, for scores over time.")


EafScores = Literal["tier", "value"]


class ExportView(TimedView):
    """Parameters of an export."""

    format: str = Field(description="Name of the format.")
    eaf_scores: EafScores = Field("tier", description="Where ELAN's file has scores: in tiers of their own, or values.")
    rate: Rate = Field(5.0, description="Times a second, for scores over time.")


class Shown(ResultView):
    """The settings of a result: its view, and the region that was analysed."""

    region: Region | None = None


class Media(Document):
    """Properties of the video file.

    Width and height are those of the upright frame, which is the decoded one rotated by rotation_deg anticlockwise.
    For a truncated file, duration_s is the duration that the container declares.
    """

    sha256: str
    duration_s: Seconds
    width: int
    height: int
    frames_decoded: int
    average_fps: float
    variable_frame_rate: bool
    rotation_deg: int
    start_offset_s: Seconds = Field(
        0.0,
        description="When a player that plays the file shows the first frame: sound may start before the picture. Add "
        "it to this document's times for the player's clock.",
    )


class TrainedOn(Document):
    """What the weights were trained on."""

    data: str
    synthetic: bool
    notes: str


class ModelUsed(Document):
    """The model that produced a result. `trained_on` is null for untrained weights."""

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
    calibrated: bool = Field(
        description="Whether scores are probabilities: how often a proposal with such a score was right on the videos "
        "that the bundle was calibrated on. On people of another kind scores are lower, and right less often."
    )
    thresholds: list[Fraction] = Field(
        description="Display thresholds, one for each action: the score from which a detection is shown without "
        "min_score. They balance misses and false alarms, and do not say how sure a detection is: its score does."
    )
    labels: Labels
    warnings: list[Notice]


class Stretch(Document):
    """A part of the video and its status. The parts are contiguous, from 0 to the end of the video.

    `no_person`: no person was detected, so the part was not analysed; `damaged`: it could not be decoded.
    """

    start_s: Seconds
    end_s: Seconds
    status: Open[Literal["analysed", "no_person", "damaged"]]


class Detection(Document):
    """One micro-action. `id` is the same in all views of a job's result. Detections of one action never overlap."""

    id: str
    start_s: Seconds
    end_s: Seconds
    score: Fraction = Field(description="The highest of its proposals; a probability if calibrated (GET /model).")
    action: Label
    body: Label
    overlaps: list[str]


class HiddenDetection(Document):
    """A detection whose score is below the view's threshold."""

    id: str
    start_s: Seconds
    end_s: Seconds
    score: Fraction
    threshold: Fraction = Field(description="The score from which this view shows it.")
    action: Label
    body: Label


class Hidden(Document):
    """Detections that match the view's labels and time range but are not shown."""

    count: int = Field(
        description="How many detections score at least `from_score`, but less than min_score or, without it, than the "
        "threshold of their action. `min_score` set to `from_score` shows them."
    )
    from_score: Fraction = Field(description="Detections that score less are not counted: nearly none is right.")
    best: list[HiddenDetection] = Field(description="Those of them with the highest scores, 3 at most.")
    cut_by_top_k: int = Field(description="How many more detections are left out by top_k; `count` has none of them.")


class BodySegment(Document):
    """An interval in which a body part moves: the union of its detections that touch or overlap."""

    start_s: Seconds
    end_s: Seconds
    score: Fraction
    body: Label
    actions: list[str] = Field(description="Ids of the detections it is made of.")


class Tally(Label):
    """Statistics of one class: count, total duration (overlaps counted once), and rate per minute."""

    count: int
    total_s: Seconds
    rate_per_min: float


class Simultaneous(Document):
    """Total time during which exactly `count` detections overlap."""

    count: int
    total_s: Seconds


class Concurrency(Document):
    """How many detections overlap at a time."""

    max: int
    mean: float
    seconds: list[Simultaneous]


class Pair(Document):
    """Two different actions that overlap in time."""

    first: Label
    second: Label
    count: int = Field(description="How many times a detection of the one overlaps one of the other.")
    total_s: Seconds = Field(description="For how long both are going on.")


class Summary(Document):
    """Statistics of the detections. Seconds and rates refer to the part shown: the whole video, or from_s to to_s.

    Parts without a person and damaged parts count as time without detections.
    """

    by_action: list[Tally]
    by_body: list[Tally]
    concurrency: Concurrency
    pairs: list[Pair] = Field(description="The most frequent first.")


class Reproduction(Document):
    """Software, bundle and parameters of a run: what is needed to repeat it, besides video, region and weights."""

    mmad: str = Field(description="Version of mmad.")
    python: str
    packages: dict[str, str] = Field(description="Versions of what decodes and computes.")
    bundle_sha256: str = Field(description="Of bundle.json, which names the hash of every other file.")
    taxonomy_sha256: str = Field(description="Of the labels, as canonical JSON.")
    device: str
    decode_fps: float = Field(description="Frames a second taken from the video.")
    input_width: int
    input_height: int
    window_frames: int
    overlap_frames: int
    postprocessing: dict[str, str | float | int | bool] = Field(description="Of non-maximum suppression.")
    calibrated: bool
    random_numbers: Open[Literal[False]] = Field(
        False, description="None are drawn. Other hardware or versions may differ in a score's last digits."
    )


class Result(Document):
    """The result of one video."""

    schema_version: Open[Literal[1]] = 1
    job_id: str | None
    media: Media
    model: ModelUsed
    settings: Shown
    coverage: list[Stretch]
    partial: bool = Field(description="Whether a part of the video is damaged: coverage says which.")
    detections: list[Detection]
    body_segments: list[BodySegment]
    summary: Summary
    hidden: Hidden
    warnings: list[Notice]
    reproduction: Reproduction


class Context(Document):
    """Everything in a result except the detections; stored with the proposals, so that views need no other input."""

    job_id: str | None
    media: Media
    model: ModelUsed
    settings: Options
    coverage: list[Stretch]
    partial: bool
    warnings: list[Notice]
    labels: Labels
    thresholds: list[float]
    reproduction: Reproduction


class FrameScores(Document):
    """The score of every class over time, as features for other models.

    A class's score at a time is the highest score of its proposals that cover it (start_s <= time < end_s), without
    any threshold; 0 without a proposal. A body part has the highest score of its actions.
    """

    schema_version: Open[Literal[1]] = 1
    job_id: str | None
    rate: float = Field(description="Times a second.")
    times_s: list[Seconds] = Field(description="0, 1 / rate, and so on, below the video's duration.")
    actions: list[str] = Field(description="Codes, in the order of the columns of action_scores.")
    action_scores: list[list[Fraction]] = Field(description="One row for each time, one column for each action.")
    bodies: list[str] = Field(description="Codes, in the order of the columns of body_scores.")
    body_scores: list[list[Fraction]] = Field(description="One row for each time, one column for each body part.")
