"""Problem documents (RFC 9457), the format of all error responses."""

import errno

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.types import Scope

from service.errors import CATALOGUE, RETRY_AFTER_S, Problem
from service.job_schemas import ProblemDocument

MEDIA_TYPE = "application/problem+json"
# Sent when the request body was not read to its end: the connection cannot be reused.
CLOSE = {"Connection": "close"}
_REQUEST_ID = "request_id"
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def problem_document(
    code: str, detail: str, job_id: str | None = None, request_id: str | None = None
) -> ProblemDocument:
    """Make a problem document; status and title come from the catalogue."""
    kind = CATALOGUE[code]
    return ProblemDocument(
        type=f"urn:mmad:problem:{code}",
        title=kind.title,
        status=kind.status,
        detail=detail,
        code=code,
        job_id=job_id,
        request_id=request_id,
    )


def problem_response(request: Request, code: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Make the response with a problem document; `headers` override those of the code."""
    document = problem_document(code, detail, request.path_params.get("job_id"), get_request_id(request.scope))
    return JSONResponse(
        document.model_dump(exclude_none=True),
        document.status,
        headers=make_retry_after_header(code) | (headers or {}),
        media_type=MEDIA_TYPE,
    )


def make_retry_after_header(code: str) -> dict[str, str]:
    """Return the Retry-After header of temporary problems, and no header for others."""
    return {"Retry-After": str(RETRY_AFTER_S[code])} if code in RETRY_AFTER_S else {}


def make_disk_full_problem(error: BaseException) -> Problem | None:
    """Return Problem disk_full for an error caused by a full disk or quota; None for other errors."""
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        detail = "the service's disk is full; nothing of the request was kept: send it again later"
        return Problem("disk_full", detail)
    return None


def set_request_id(scope: Scope, request_id: str) -> None:
    """Store the id of a request in its scope."""
    scope.setdefault("state", {})[_REQUEST_ID] = request_id


def get_request_id(scope: Scope) -> str | None:
    """Return the id of a request; None outside of RequestLog."""
    request_id: str | None = scope.get("state", {}).get(_REQUEST_ID)
    return request_id
