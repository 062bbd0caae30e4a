"""Routes for listing, inspecting, following, canceling and deleting jobs."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from service.app_state import AppStateDep, CallerDep, problems
from service.events import follow_job, make_event_id, parse_event_id
from service.job_schemas import Job, JobPage, Receipt, Webhook
from service.jobs import Record
from service.listing import JobQuery, load_page
from service.parameters import describe_parameters, parse_parameters

router = APIRouter(tags=["jobs"])

CALLER_PROBLEMS = ("key_missing", "key_unknown", "rate_limited", "internal_error")
JOB_PROBLEMS = ("job_not_found", "job_deleted", "job_expired", *CALLER_PROBLEMS)


@router.get(
    "/jobs", summary="Jobs, the newest first", openapi_extra={"parameters": describe_parameters(JobQuery)},
    responses=problems("unknown_parameter", "invalid_parameter", *CALLER_PROBLEMS),
)  # fmt: skip
def list_jobs(request: Request, app_state: AppStateDep, caller: CallerDep) -> JobPage:
    """Return one page of jobs: continue with `cursor=next` until `next` is null. Pages may be shorter than `limit`."""
    query = parse_parameters(JobQuery, dict(request.query_params))
    records, cursor = load_page(app_state.jobs, query, caller.owner)
    return JobPage(jobs=[app_state.describe(record) for record in records], next=cursor)


@router.get("/jobs/{job_id}", summary="Where a job stands", responses=problems(*JOB_PROBLEMS))
def get_job(job_id: str, app_state: AppStateDep, caller: CallerDep) -> Job:
    """Return the state, stage, progress, queue position, estimated time left, and all state changes of a job."""
    return app_state.describe(app_state.jobs.get(job_id, caller.owner))


@router.post("/jobs/{job_id}/cancel", summary="Stop a job", responses=problems("job_already_ended", *JOB_PROBLEMS))
def cancel_job(job_id: str, app_state: AppStateDep, caller: CallerDep) -> Job:
    """Cancel a job: at once if queued, within seconds if running. It stays canceled even if its worker finishes."""
    return app_state.describe(app_state.cancel(job_id, caller.owner))


@router.delete("/jobs/{job_id}", summary="Remove a job", responses=problems(*JOB_PROBLEMS))
def delete_job(job_id: str, app_state: AppStateDep, caller: CallerDep) -> Receipt:
    """Delete the video, proposals, result and record of a job in any state. The receipt lists what was deleted."""
    receipt = app_state.jobs.remove(app_state.jobs.get(job_id, caller.owner), "deleted")
    app_state.queue.remove(job_id)
    return receipt


LastEventId = Annotated[str | None, Header(description="The id of the last event seen: the stream goes on after it.")]


def _get_job_to_stream(
    job_id: str, app_state: AppStateDep, caller: CallerDep, last_event_id: LastEventId = None
) -> Record:
    # Checked before the stream starts, as its status cannot be changed afterwards.
    record = app_state.jobs.get(job_id, caller.owner)
    if record.ended and parse_event_id(last_event_id) >= make_event_id(app_state.describe(record)):
        raise HTTPException(204)  # otherwise browsers would reconnect for ever
    return record


_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "Server-sent events: `state` when the state changes, `progress` between; data is the job"},
    204: {"description": "There are no more events: the job has ended, and Last-Event-ID is its last event"},
}


@router.get(
    "/jobs/{job_id}/events", response_class=EventSourceResponse, summary="A job as it moves on",
    responses=_STREAM | problems(*JOB_PROBLEMS),
)  # fmt: skip
async def get_events(
    record: Annotated[Record, Depends(_get_job_to_stream)],
    app_state: AppStateDep,
    caller: CallerDep,
    last_event_id: LastEventId = None,
) -> AsyncIterator[ServerSentEvent]:
    """Stream a job's changes and close after its final state. `Last-Event-ID` resumes after a lost connection."""
    last_id = parse_event_id(last_event_id)
    async for job in follow_job(app_state, record.id, caller.owner, last_id):
        event_id = make_event_id(job)
        kind = "state" if event_id.changes > last_id.changes else "progress"
        last_id = event_id
        yield ServerSentEvent(raw_data=job.model_dump_json(), event=kind, id=str(event_id))


@router.get(
    "/jobs/{job_id}/webhook", summary="How a job's message fared", responses=problems("no_callback", *JOB_PROBLEMS)
)
def get_webhook(job_id: str, app_state: AppStateDep, caller: CallerDep) -> Webhook:
    """Return the delivery state of a job's message and all attempts to deliver it to its callback_url."""
    return app_state.webhooks.get(app_state.jobs.get(job_id, caller.owner))


@router.post(
    "/jobs/{job_id}/webhook/resend", status_code=202, summary="Send a job's message again",
    responses=problems("no_callback", "job_not_finished", *JOB_PROBLEMS),
)  # fmt: skip
def resend_webhook(job_id: str, app_state: AppStateDep, caller: CallerDep) -> Webhook:
    """Send the message again at once, with the same id, whether or not it was delivered before."""
    return app_state.webhooks.resend(app_state.jobs.get(job_id, caller.owner))
