"""Routes about the model and the state of the service."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from service.app_state import AppStateDep, CallerDep, problems
from service.errors import Problem
from service.job_schemas import Health, Readiness
from service.metrics_endpoint import MEDIA_TYPE
from service.schemas import Labels, ModelCard
from service.store import SANDBOX

router = APIRouter()

_MODEL = problems("no_worker_yet", "key_missing", "key_unknown", "rate_limited", "internal_error")


@router.get("/labels", summary="All classes, both levels", tags=["model"], responses=_MODEL)
def get_labels(app_state: AppStateDep, _caller: CallerDep) -> Labels:
    """Return the actions and body parts of the model that the workers have loaded."""
    return app_state.model_card().labels


@router.get("/model", summary="The model", tags=["model"], responses=_MODEL)
def get_model(app_state: AppStateDep, _caller: CallerDep) -> ModelCard:
    """Return the model that the workers have loaded, its training data, and its warnings."""
    return app_state.model_card()


@router.get("/healthz", summary="Is the process up", tags=["operations"])
async def healthz() -> Health:  # async: responds even if all threads wait for Redis
    """Succeeds as long as the process runs."""
    return Health()


@router.get(
    "/readyz", summary="Would a video be analysed now", tags=["operations"],
    responses={503: {"model": Readiness, "description": "Not now; the checks say why"}},
)  # fmt: skip
def readyz(response: Response, app_state: AppStateDep) -> Readiness:
    """Check the store, Redis, workers and model. The state of the decoder sandbox is informational."""
    checks = {"store": app_state.admission.store_problem.get() or "ok", **app_state.queue.check()}
    try:
        app_state.model_card()
        checks["model"] = "ok"
    except Problem as problem:
        checks["model"] = problem.detail
    ready = all(check == "ok" for check in checks.values())
    response.status_code = 200 if ready else 503
    if sandbox := app_state.store.find(SANDBOX):
        checks["sandbox"] = sandbox.decode()
    return Readiness(ready=ready, checks=checks)


@router.get(
    "/metrics", summary="Numbers for Prometheus", tags=["operations"], response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format"},
        **problems("key_missing", "key_unknown", "rate_limited", "internal_error"),
    },
)  # fmt: skip
def get_metrics(app_state: AppStateDep, _caller: CallerDep) -> Response:
    """Return metrics of jobs, queue, stages, workers and requests. Requires a key if the service uses keys."""
    return Response(app_state.metrics_endpoint.document.get(), media_type=MEDIA_TYPE)


@router.get("/", include_in_schema=False)
def index(request: Request) -> RedirectResponse:
    """Redirect to the documentation."""
    return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")
