"""The model, and the state of the service."""

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from service.desk import CallerOf, DeskOf, problems
from service.errors import Problem
from service.job_schemas import Health, Readiness
from service.schemas import Labels, ModelCard

router = APIRouter()

_MODEL = problems("no_worker_yet", "key_missing", "key_unknown", "rate_limited", "internal_error")


@router.get("/labels", summary="All classes, both levels", tags=["model"], responses=_MODEL)
def get_labels(desk: DeskOf, _caller: CallerOf) -> Labels:
    """Actions and body parts of the model the workers have loaded."""
    return desk.model_card().labels


@router.get("/model", summary="The model", tags=["model"], responses=_MODEL)
def get_model(desk: DeskOf, _caller: CallerOf) -> ModelCard:
    """What the workers have loaded, what it was trained on, and what to be warned of."""
    return desk.model_card()


@router.get("/healthz", summary="Is the process up", tags=["operations"])
async def healthz() -> Health:  # on the event loop: answers even when every thread waits for Redis
    """Answers as long as the process does."""
    return Health()


@router.get(
    "/readyz", summary="Would a video be analysed now", tags=["operations"],
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
