"""Jobs: where they stand, what becomes of them."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from service.app_state import AppStateDep, CallerDep, problems
from service.events import follow, mark_of, parse_mark
from service.job_schemas import Job, JobPage, Receipt, Webhook
from service.jobs import Record
from service.listing import Listing, page
from service.parameters import parse_parameters
from service.routes.parameters import LISTING

router = APIRouter(tags=["jobs"])

CALLER = ("key_missing", "key_unknown", "rate_limited", "internal_error")
KNOWN = ("job_not_found", "job_deleted", "job_expired", *CALLER)


@router.get(
    "/jobs", summary="Jobs, the newest first", openapi_extra={"parameters": LISTING},
    responses=problems("unknown_parameter", "invalid_parameter", *CALLER),
)  # fmt: skip
def list_jobs(request: Request, app_state: AppStateDep, caller: CallerDep) -> JobPage:
    """Page by page: go on with `cursor=next` until `next` is null. A page may hold fewer jobs than `limit`."""
    listing = parse_parameters(Listing, dict(request.query_params))
    found = page(app_state.jobs, listing, caller.owner)
    return JobPage(jobs=[app_state.describe(record) for record in found.records], next=found.next)


@router.get("/jobs/{job_id}", summary="Where a job stands", responses=problems(*KNOWN))
def get_job(job_id: str, app_state: AppStateDep, caller: CallerDep) -> Job:
    """State, stage, progress, place in the queue, estimate, and every change with its time."""
    return app_state.describe(app_state.jobs.get(job_id, caller.owner))


@router.post("/jobs/{job_id}/cancel", summary="Stop a job", responses=problems("job_already_ended", *KNOWN))
def cancel_job(job_id: str, app_state: AppStateDep, caller: CallerDep) -> Job:
    """At once if it is queued, within seconds if it runs. A job canceled stays canceled, whatever its worker finds."""
    return app_state.describe(app_state.cancel(job_id, caller.owner))


@router.delete("/jobs/{job_id}", summary="Remove a job", responses=problems(*KNOWN))
def delete_job(job_id: str, app_state: AppStateDep, caller: CallerDep) -> Receipt:
    """Video, proposals, result and record go, also of a job that runs; the receipt says what was there."""
    receipt = app_state.jobs.remove(app_state.jobs.get(job_id, caller.owner), "deleted")
    app_state.queue.forget(job_id)
    return receipt


LastEventId = Annotated[
    str | None, Header(description="The id of the last event seen: the stream goes on after it.")
]


def _known(
    job_id: str, app_state: AppStateDep, caller: CallerDep, last_event_id: LastEventId = None
) -> Record:
    # Before the stream begins: afterwards it is too late for another status.
    record = app_state.jobs.get(job_id, caller.owner)
    if record.ended and parse_mark(last_event_id) >= mark_of(app_state.describe(record)):
        raise HTTPException(204)  # a browser would come back for ever
    return record


_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: `state` when the state changes, `progress` between; data is the job"
    },
    204: {"description": "All was told: the job has ended, and Last-Event-ID is its last event"},
}


@router.get(
    "/jobs/{job_id}/events", response_class=EventSourceResponse, summary="A job as it moves on",
    responses=_STREAM | problems(*KNOWN),
)  # fmt: skip
async def get_events(
    record: Annotated[Record, Depends(_known)],
    app_state: AppStateDep,
    caller: CallerDep,
    last_event_id: LastEventId = None,
) -> AsyncIterator[ServerSentEvent]:
    """Closed after the event of the final state. `Last-Event-ID` goes on where a connection was lost."""
    told = parse_mark(last_event_id)
    async for job in follow(app_state, record.id, caller.owner, told):
        mark = mark_of(job)
        kind = "state" if mark.changes > told.changes else "progress"
        told = mark
        yield ServerSentEvent(raw_data=job.model_dump_json(), event=kind, id=str(mark))


@router.get(
    "/jobs/{job_id}/webhook", summary="How a job's message fared", responses=problems("no_callback", *KNOWN)
)
def get_webhook(job_id: str, app_state: AppStateDep, caller: CallerDep) -> Webhook:
    """Every try to deliver the message to the job's callback_url."""
    return app_state.webhooks.get(app_state.jobs.get(job_id, caller.owner))


@router.post(
    "/jobs/{job_id}/webhook/resend", status_code=202, summary="Send a job's message again",
    responses=problems("no_callback", "job_not_finished", *KNOWN),
)  # fmt: skip
def resend_webhook(job_id: str, app_state: AppStateDep, caller: CallerDep) -> Webhook:
    """At once, under the same id, whether or not it was delivered before."""
    return app_state.webhooks.resend(app_state.jobs.get(job_id, caller.owner))
