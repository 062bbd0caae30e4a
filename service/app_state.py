"""State shared by all routes, and helpers for common responses."""

from copy import copy
from datetime import UTC, datetime
from typing import Annotated, Any

from anyio import CapacityLimiter
from fastapi import Depends, Request
from pydantic import ValidationError

from service.admission import Admission
from service.auth import Auth, Caller, get_caller
from service.errors import CATALOGUE, Problem
from service.job_schemas import Accepted, Job, Links, State
from service.jobs import Jobs, Record, attempt_key
from service.metrics import JOBS_ENDED
from service.metrics_endpoint import MetricsEndpoint
from service.queue import JobQueue, Progress
from service.results import StoredProposals
from service.schemas import ModelCard
from service.settings import Settings
from service.store import MODEL_CARD, FolderStore
from service.webhooks import Webhooks

_POLLING_THREADS = 8


class AppState:
    """The store, the queue and everything built on them; one per API process."""

    def __init__(self, settings: Settings, store: FolderStore, queue: JobQueue, auth: Auth) -> None:
        self.settings = settings
        self.store = store
        self.jobs = Jobs(store)
        self.queue = queue
        self.auth = auth
        self.admission = Admission(store, self.jobs, settings)
        self.metrics_endpoint = MetricsEndpoint(store, self.jobs, queue, self.admission)
        # Event streams and waiting requests poll in separate threads, to leave the other threads to uploads.
        self.polling_limiter = CapacityLimiter(_POLLING_THREADS)
        # Path prefix of all links; see get_app_state.
        self.root_path = settings.root_path
        self.webhooks = Webhooks(self.jobs, settings, self.links)

    def links(self, job_id: str) -> Links:
        """Return the links of a job."""
        self_ = f"{self.root_path}/jobs/{job_id}"
        return Links(self=self_, **{name: f"{self_}/{name}" for name in ("result", "export", "events", "cancel")})

    def accepted(self, record: Record) -> Accepted:
        """Return the response to an upload."""
        return Accepted(id=record.id, state=record.state, error=record.error, links=self.links(record.id))

    def model_card(self) -> ModelCard:
        """Return the model that the workers have loaded; raises Problem no_worker_yet."""
        try:
            return ModelCard.model_validate_json(self.store.get(MODEL_CARD))
        except (KeyError, ValidationError) as error:
            raise Problem("no_worker_yet", "no worker has loaded a model yet: start one with mmad worker") from error

    def succeeded(self, job_id: str, owner: str) -> Record:
        """Return the record of a job that has a result; raises the Problem that says why it has none."""
        record = self.jobs.get(job_id, owner)
        if record.error is not None:
            raise Problem(record.error.code, record.error.detail)
        if record.state is State.CANCELED:
            raise Problem("job_canceled", "the job was canceled: it has no result; send the video again")
        if record.state is not State.SUCCEEDED:
            detail = f"the job is {record.state}; poll {self.links(job_id).self} until it has succeeded"
            raise Problem("job_not_finished", detail)
        return record

    def cancel(self, job_id: str, owner: str) -> Record:
        """Cancel a job; see Jobs.cancel."""
        had_ended = self.jobs.get(job_id, owner).ended
        record = self.jobs.cancel(job_id, owner)
        self.queue.remove(job_id)
        if not had_ended:
            self.queue.meter.count(JOBS_ENDED, state=State.CANCELED, code="")
        return record

    def read(self, record: Record, name: str) -> bytes:
        """Read a file that a job published; raises Problem job_deleted if the job was removed in the meantime."""
        try:
            return self.store.get(attempt_key(record, name))
        except KeyError:
            self.jobs.get(record.id)  # raises the Problem that says why
            raise

    def proposals(self, record: Record) -> StoredProposals:
        """Read all proposals of a job's detector; raises Problem job_deleted."""
        return StoredProposals.from_bytes(self.read(record, "proposals.npz"))

    def describe(self, record: Record) -> Job:
        """Return the public view of a job."""
        live = self.queue.get_progress(record.id) if record.state is State.RUNNING else Progress(None, 0.0)
        position = self.queue.get_position(record.id) if record.state is State.QUEUED else None
        return Job(
            id=record.id,
            state=record.state,
            stage=live.stage,
            progress=1.0 if record.state is State.SUCCEEDED else live.fraction,
            queue_position=position,
            estimate_s=self._estimate_s(record, live, position),
            attempt=record.attempt,
            name=record.name,
            tag=record.options.tag,
            batch=record.batch,
            changes=record.changes,
            expires_at=record.expires_at,
            error=record.error,
            links=self.links(record.id),
        )

    def _estimate_s(self, record: Record, live: Progress, position: int | None) -> float | None:
        if record.ended:
            return None
        pace = self.queue.get_throughput()
        if record.state is State.QUEUED:
            return None if position is None else pace.estimate_queued_s(position)
        elapsed_s = (datetime.now(UTC) - record.changes[-1].at).total_seconds()
        return pace.estimate_running_s(live.fraction, elapsed_s)


def get_app_state(request: Request) -> AppState:
    """Return a copy of the application's state, whose links start with the request's path prefix."""
    app_state: AppState = copy(request.app.state.app_state)
    app_state.root_path = request.scope.get("root_path", "")
    return app_state


AppStateDep = Annotated[AppState, Depends(get_app_state)]
CallerDep = Annotated[Caller, Depends(get_caller)]


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI `responses` of a route that may fail with these problem codes."""
    by_status: dict[int | str, list[str]] = {}
    for code in codes:
        by_status.setdefault(CATALOGUE[code].status, []).append(code)
    responses: dict[int | str, dict[str, Any]] = {}
    for status, some in by_status.items():
        examples = {code: {"$ref": f"#/components/examples/{code}"} for code in some}
        content = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}, "examples": examples}
        responses[status] = {
            "description": "; ".join(f"`{code}`: {CATALOGUE[code].title}" for code in some),
            "content": {"application/problem+json": content},
        }
        if any(CATALOGUE[code].retry_after_s for code in some):
            when = {"schema": {"type": "integer"}, "description": "Seconds to wait before asking again."}
            responses[status]["headers"] = {"Retry-After": when}
    return responses
