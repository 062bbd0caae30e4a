"""POST /detect: queue jobs for uploaded videos, or return the result if the caller waits for it."""

from typing import Any

from anyio import CancelScope, to_thread
from fastapi import APIRouter, Request, Response

from service.app_state import AppState, AppStateDep, CallerDep, problems
from service.auth import Caller
from service.encodings import ACCEPTED
from service.errors import Problem
from service.events import wait_until_ended
from service.job_schemas import Accepted, Batch, BatchLinks, JobOptions, State
from service.jobs import Record
from service.parameters import describe_parameters
from service.submission import MAX_WAIT_S, Submission, parse_idempotency_key, parse_preferred_wait
from service.uploads import FILE_FIELD, get_declared_bytes, receive

router = APIRouter(tags=["detect"])

_PARAMETERS = describe_parameters(JobOptions)
_HEADERS: list[dict[str, Any]] = [
    {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "minLength": 1, "maxLength": 255},
     "description": "A name of the caller's for this request: sent again with the same body within a day, it gives the "
     "same jobs."},
    {"name": "Prefer", "in": "header", "schema": {"type": "string"}, "example": "wait=10",
     "description": f"`wait=N`: answer with the result if it is there within N seconds, {MAX_WAIT_S} at most; "
     "for a single video."},
    {"name": "Content-Encoding", "in": "header", "schema": {"type": "string", "enum": [*ACCEPTED, "identity"]},
     "description": "How the body is compressed; limits are of what it is when that is undone."},
]  # fmt: skip
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_FILES = {
    "oneOf": [_BYTES["schema"], {"type": "array", "items": _BYTES["schema"], "minItems": 1}],
    "description": "A video; several fields of this name make a batch.",
}
_FORM = {
    "type": "object",
    "required": [FILE_FIELD],
    "properties": {FILE_FIELD: _FILES, **{one["name"]: one["schema"] for one in _PARAMETERS}},
}
_BODIES = {"multipart/form-data": {"schema": _FORM}, "video/*": _BYTES, "application/octet-stream": _BYTES}
_LOCATION = {"schema": {"type": "string"}, "description": "Where the job, or the batch, is."}
_REPLAYED = {"schema": {"type": "string"}, "description": "`true` if an earlier request with this key made the jobs."}
_ACCEPTED_HEADERS = {"headers": {"Location": _LOCATION, "Idempotency-Replayed": _REPLAYED}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The result: it was asked for with `Prefer: wait` and ready in time",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Result"}}},
        **_ACCEPTED_HEADERS,
    },
    202: {"description": "A job, or a batch of them", **_ACCEPTED_HEADERS},
}


@router.post(
    "/detect",
    status_code=202,
    response_model=Accepted | Batch,
    summary="Send a video",
    openapi_extra={"parameters": [*_PARAMETERS, *_HEADERS], "requestBody": {"required": True, "content": _BODIES}},
    responses=_RESPONSES | problems(
        "malformed_upload", "empty_upload", "upload_too_slow", "upload_too_large", "too_many_files", "not_a_video",
        "unsupported_content_encoding", "video_too_long",
        "unknown_parameter", "invalid_parameter", "idempotency_conflict", "request_in_progress", "callback_refused",
        "key_missing", "key_unknown", "rate_limited", "too_many_jobs", "storage_full", "queue_full", "disk_full",
        "no_worker_yet", "internal_error",
    ),
)  # fmt: skip
async def detect(request: Request, response: Response, app_state: AppStateDep, caller: CallerDep) -> Any:
    """Accept one or several videos. The jobs are stored before the response; poll them, then fetch their results."""
    query = dict(request.query_params)
    submission = Submission(app_state, caller, parse_idempotency_key(request.headers.get("idempotency-key")))
    submission.options(query)  # refused before the body is read
    await to_thread.run_sync(_check_admission, app_state, caller, submission, get_declared_bytes(request))
    try:
        received = await receive(
            request,
            app_state.settings,
            submission.open_video,
            lambda fields: submission.options({**query, **fields}),
            app_state.admission.check_disk,
        )
        submitted = await to_thread.run_sync(submission.submit, received, query)
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(submission.close)
    if submitted.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    if len(submitted.records) == 1:
        return await _answer_one(submitted.records[0], app_state, caller.owner, request, response)
    batch = str(submitted.records[0].batch)
    url = f"{app_state.root_path}/jobs?batch={batch}"
    response.headers["Location"] = url
    jobs = [app_state.accepted(record) for record in submitted.records]
    return Batch(batch=batch, jobs=jobs, links=BatchLinks(jobs=url))


async def _answer_one(
    record: Record, app_state: AppState, owner: str, request: Request, response: Response
) -> Accepted | Response:
    accepted = app_state.accepted(record)
    response.headers["Location"] = accepted.links.self
    wait_s = parse_preferred_wait(request.headers.get("prefer"))
    if wait_s is None or not await wait_until_ended(app_state, record.id, wait_s):
        return accepted
    try:
        record = await to_thread.run_sync(app_state.jobs.get, record.id, owner)
        if record.state is not State.SUCCEEDED:
            return app_state.accepted(record)
        content = await to_thread.run_sync(app_state.read, record, "result.json")
    except Problem:  # the job was removed in the meantime: its link responds with the reason
        return accepted
    headers = {**response.headers, "Preference-Applied": f"wait={wait_s}"}
    return Response(content, media_type="application/json", headers=headers)


def _check_admission(app_state: AppState, caller: Caller, submission: Submission, declared_bytes: int) -> None:
    if not submission.may_replay:
        # A body above the upload limit is refused by `receive`, as waiting for disk space would not help.
        app_state.admission.check(min(declared_bytes, app_state.settings.max_upload_bytes))
        app_state.auth.check_limits(caller, app_state.jobs, declared_bytes, 1)
