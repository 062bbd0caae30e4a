"""The model, and the state of the service."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from service.app_state import AppStateDep, CallerDep, problems
from service.errors import Problem
from service.job_schemas import Health, Readiness
from service.metrics_endpoint import MEDIA_TYPE
from service.schemas import Labels, ModelCard
from service.store import SANDBOX, Store

router = APIRouter()

_MODEL = problems("no_worker_yet", "key_missing", "key_unknown", "rate_limited", "internal_error")


@router.get("/labels", summary="All classes, both levels", tags=["model"], responses=_MODEL)
def get_labels(app_state: AppStateDep, _caller: CallerDep) -> Labels:
    """Actions and body parts of the model the workers have loaded."""
    return app_state.model_card().labels


@router.get("/model", summary="The model", tags=["model"], responses=_MODEL)
def get_model(app_state: AppStateDep, _caller: CallerDep) -> ModelCard:
    """What the workers have loaded, what it was trained on, and what to be warned of."""
    return app_state.model_card()


@router.get("/healthz", summary="Is the process up", tags=["operations"])
async def healthz() -> Health:  # on the event loop: answers even when every thread waits for Redis
    """Answers as long as the process does."""
    return Health()


@router.get(
    "/readyz", summary="Would a video be analysed now", tags=["operations"],
    responses={503: {"model": Readiness, "description": "Not now; the checks say why"}},
)  # fmt: skip
def readyz(response: Response, app_state: AppStateDep) -> Readiness:
    """Checks store, Redis, workers and model. How a worker's decoder is shut in is told too, and decides nothing."""
    checks = {"store": app_state.admission.trouble() or "ok", **app_state.queue.check()}
    try:
        app_state.model_card()
        checks["model"] = "ok"
    except Problem as problem:
        checks["model"] = problem.detail
    ready = all(check == "ok" for check in checks.values())
    response.status_code = 200 if ready else 503
    return Readiness(ready=ready, checks=checks | _sandbox(app_state.store))


def _sandbox(store: Store) -> dict[str, str]:
    """What the last worker to start said; nothing where none did."""
    try:
        told = store.get(SANDBOX).decode()
    except KeyError:
        return {}
    return {"sandbox": told}


@router.get(
    "/metrics", summary="Numbers for Prometheus", tags=["operations"], response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format"},
        **problems("key_missing", "key_unknown", "rate_limited", "internal_error"),
    },
)  # fmt: skip
def get_metrics(app_state: AppStateDep, _caller: CallerDep) -> Response:
    """Jobs, queue, stages, workers and requests. Needs a key where the service asks for keys."""
    return Response(app_state.metrics_endpoint.render(), media_type=MEDIA_TYPE)


@router.get("/", include_in_schema=False)
def index(request: Request) -> RedirectResponse:
    """The documentation."""
    return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")
