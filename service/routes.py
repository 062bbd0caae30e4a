"""The addresses of the API, each a few lines: what happens lies in the rooms below."""

from typing import Annotated, Any

from anyio import CancelScope, to_thread
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import ValidationError

from service.errors import CATALOGUE, RETRY_AFTER_S, Problem
from service.jobs import Jobs, Record, key, new_job_id
from service.parameters import parse_parameters
from service.queue import JobQueue
from service.results import StoredProposals, chosen_actions, make_result
from service.schemas import (
    Accepted,
    Health,
    Job,
    Labels,
    Links,
    ModelCard,
    Options,
    Readiness,
    Result,
    State,
    View,
)
from service.settings import Settings
from service.store import MODEL_CARD, Store
from service.uploads import FILE_FIELD, Received, receive

router = APIRouter()


class Desk:
    """What every route works with."""

    def __init__(self, settings: Settings, store: Store, queue: JobQueue) -> None:
        self.settings = settings
        self.store = store
        self.jobs = Jobs(store)
        self.queue = queue

    def model_card(self) -> ModelCard:
        """The model the workers have loaded; raises Problem no_worker_yet."""
        try:
            return ModelCard.model_validate_json(self.store.get(MODEL_CARD))
        except (KeyError, ValidationError) as error:
            raise Problem(
                "no_worker_yet", "no worker has loaded a model yet: start one with mmad worker"
            ) from error


def get_desk(request: Request) -> Desk:
    """The desk of this application."""
    desk: Desk = request.app.state.desk
    return desk


DeskOf = Annotated[Desk, Depends(get_desk)]


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The problem documents a route may answer with, for the OpenAPI document."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        kind = CATALOGUE[code]
        schema = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
        entry = by_status.setdefault(
            kind.status, {"description": "", "content": {"application/problem+json": schema}}
        )
        entry["description"] = "; ".join(filter(None, [entry["description"], f"`{code}`: {kind.title}"]))
        if code in RETRY_AFTER_S:
            when = {"schema": {"type": "integer"}, "description": "Seconds to wait before asking again."}
            entry["headers"] = {"Retry-After": when}
    return by_status


_PARAMETERS: list[dict[str, Any]] = [
    {"name": "min_score", "in": "query", "schema": {"type": "number", "minimum": 0, "maximum": 1},
     "description": "Least score shown; without it, the bundle's threshold of each class."},
    {"name": "top_k", "in": "query", "schema": {"type": "integer", "minimum": 1},
     "description": "At most this many detections, the best."},
    {"name": "labels", "in": "query", "schema": {"type": "string"}, "example": "B1,F",
     "description": "Codes of actions or body parts, with commas between."},
]  # fmt: skip
_REGION = {"name": "region", "in": "query", "schema": {"type": "string"}, "example": "0.25,0,0.5,1",
           "description": "x,y,width,height as fractions of the upright picture: the part to look at."}  # fmt: skip
_VIDEO = {"schema": {"type": "string", "format": "binary"}}
_LOCATION = {"schema": {"type": "string"}, "description": "Where the job is."}
_ACCEPTED: dict[int | str, dict[str, Any]] = {202: {"headers": {"Location": _LOCATION}}}
_UPLOAD: dict[str, Any] = {
    "parameters": [*_PARAMETERS, _REGION],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FILE_FIELD],
                    "properties": {
                        FILE_FIELD: {"type": "string", "format": "binary"},
                        **{one["name"]: one["schema"] for one in [*_PARAMETERS, _REGION]},
                    },
                }
            },
            "video/*": _VIDEO,
            "application/octet-stream": _VIDEO,
        },
    },
}


@router.post(
    "/detect",
    status_code=202,
    response_model=Accepted,
    summary="Send a video",
    tags=["detect"],
    openapi_extra=_UPLOAD,
    responses=_ACCEPTED | problems(
        "malformed_upload", "empty_upload", "upload_too_large", "not_a_video",
        "unknown_parameter", "invalid_parameter", "queue_unavailable", "no_worker_yet", "internal_error",
    ),
)  # fmt: skip
async def detect(request: Request, response: Response, desk: DeskOf) -> Accepted:
    """Accept a video. The job is on disk before this answers; poll the job, then fetch its result."""
    query = dict(request.query_params)
    parse_parameters(Options, query)  # refused before the body is read
    job_id = new_job_id()
    try:
        received = await receive(request, desk.store, key(job_id, "video"), desk.settings.max_upload_bytes)
        record = await to_thread.run_sync(_accept, desk, job_id, received, query)
    except BaseException:
        with CancelScope(shield=True):
            await to_thread.run_sync(desk.store.delete, key(job_id))
        raise
    links = _links(job_id)
    response.headers["Location"] = links.self
    return Accepted(id=job_id, state=record.state, links=links)


@router.get(
    "/jobs/{job_id}", response_model=Job, summary="Where a job stands", tags=["jobs"],
    responses=problems("job_not_found", "internal_error"),
)  # fmt: skip
def get_job(job_id: str, desk: DeskOf) -> Job:
    """State, stage and progress."""
    return _job(desk.jobs.get(job_id), desk.queue)


@router.get(
    "/jobs/{job_id}/result",
    response_model=Result,
    summary="What was found",
    tags=["jobs"],
    openapi_extra={"parameters": _PARAMETERS},
    responses=problems(
        "job_not_found", "job_not_finished", "unknown_parameter", "invalid_parameter",
        "not_a_video", "no_video_stream", "unsupported_codec", "video_too_long", "picture_too_large", "damaged_video",
        "job_timeout", "internal_error",
    ),
)  # fmt: skip
def get_result(job_id: str, request: Request, desk: DeskOf) -> Response:
    """The result; other parameters than the upload's give another view of the same proposals, without a second run."""
    record = desk.jobs.get(job_id)
    if record.error is not None:
        raise Problem(record.error.code, record.error.detail)
    if record.state is not State.SUCCEEDED:
        raise Problem(
            "job_not_finished",
            f"the job is {record.state}; poll {_links(job_id).self} until it has succeeded",
        )
    values = dict(request.query_params)
    if not values:
        return Response(desk.store.get(key(job_id, "result.json")), media_type="application/json")
    view = parse_parameters(View, values)
    stored = StoredProposals.from_bytes(desk.store.get(key(job_id, "proposals.npz")))
    asked = stored.context.settings.model_dump(include=set(View.model_fields)) | view.model_dump(
        exclude_unset=True
    )
    return JSONResponse(make_result(stored, View.model_validate(asked)).model_dump(mode="json"))


@router.get(
    "/labels", response_model=Labels, summary="All classes, both levels", tags=["model"],
    responses=problems("no_worker_yet", "internal_error"),
)  # fmt: skip
def get_labels(desk: DeskOf) -> Labels:
    """Actions and body parts of the model the workers have loaded."""
    return desk.model_card().labels


@router.get(
    "/model",
    response_model=ModelCard,
    summary="The model",
    tags=["model"],
    responses=problems("no_worker_yet", "internal_error"),
)
def get_model(desk: DeskOf) -> ModelCard:
    """What the workers have loaded, what it was trained on, and what to be warned of."""
    return desk.model_card()


@router.get("/healthz", response_model=Health, summary="Is the process up", tags=["operations"])
async def healthz() -> Health:  # on the event loop: answers even when every thread waits for Redis
    """Answers as long as the process does."""
    return Health()


@router.get(
    "/readyz", response_model=Readiness, summary="Would a video be analysed now", tags=["operations"],
    responses={503: {"model": Readiness, "description": "Not now; the checks say why"}},
)  # fmt: skip
def readyz(response: Response, desk: DeskOf) -> Readiness:
    """Checks store, Redis, workers and model."""
    checks = {"store": desk.store.check() or "ok", **desk.queue.check()}
    try:
        desk.model_card()
        checks["model"] = "ok"
    except Problem as problem:
        checks["model"] = problem.detail
    ready = all(check == "ok" for check in checks.values())
    response.status_code = 200 if ready else 503
    return Readiness(ready=ready, checks=checks)


@router.get("/", include_in_schema=False)
def index() -> RedirectResponse:
    """The documentation."""
    return RedirectResponse("/docs")


def retry_after(code: str) -> dict[str, str]:
    """The header that tells when to come again, for problems that pass."""
    return {"Retry-After": str(RETRY_AFTER_S[code])} if code in RETRY_AFTER_S else {}


def _accept(desk: Desk, job_id: str, received: Received, query: dict[str, str]) -> Record:
    """From a stored video to a queued job; waits for disk and Redis."""
    options = parse_parameters(Options, {**query, **received.fields})
    if options.labels is not None:
        chosen_actions(desk.model_card().labels, options.labels)
    record = desk.jobs.create(job_id, received.upload, options)
    desk.queue.enqueue(job_id)
    return record


def _links(job_id: str) -> Links:
    return Links(self=f"/jobs/{job_id}", result=f"/jobs/{job_id}/result")


def _job(record: Record, queue: JobQueue) -> Job:
    stage, progress = None, float(record.state is State.SUCCEEDED)
    if record.state is State.RUNNING:
        stage, progress = queue.progress(record.id)
    return Job(
        id=record.id,
        state=record.state,
        stage=stage,
        progress=progress,
        attempt=record.attempt,
        changes=record.changes,
        error=record.error,
        links=_links(record.id),
    )
