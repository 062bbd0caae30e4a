"""Problem documents (RFC 9457): what every error becomes that a caller meets."""

import errno

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.types import Scope

from service.errors import CATALOGUE, RETRY_AFTER_S, Problem
from service.job_schemas import ProblemDocument

MEDIA_TYPE = "application/problem+json"
# A connection whose request was not read to its end cannot be used for another.
CLOSE = {"Connection": "close"}
_REQUEST_ID = "request_id"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def problem_document(
    code: str, detail: str, job_id: str | None = None, request_id: str | None = None
) -> ProblemDocument:
    """What is told of a problem; status and title are those of its code."""
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


def problem_response(
    request: Request, code: str, detail: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """The answer to a request, with its id; `headers` go above those that the code brings."""
    document = problem_document(code, detail, request.path_params.get("job_id"), request_id_of(request.scope))
    return JSONResponse(
        document.model_dump(exclude_none=True),
        document.status,
        headers=retry_after(code) | (headers or {}),
        media_type=MEDIA_TYPE,
    )


def retry_after(code: str) -> dict[str, str]:
    """The header that tells when to come again, for problems that pass."""
    return {"Retry-After": str(RETRY_AFTER_S[code])} if code in RETRY_AFTER_S else {}


def no_room(error: BaseException) -> Problem | None:
    """The problem that a full disk is; None for every other error."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        detail = "the service's disk is full; nothing of the request was kept: send it again later"
        return Problem("disk_full", detail)
    return None


def name_request(scope: Scope, request_id: str) -> None:
    """Give a request its id."""
    scope.setdefault("state", {})[_REQUEST_ID] = request_id


def request_id_of(scope: Scope) -> str | None:
    """The id that a request was given."""
    found: str | None = scope.get("state", {}).get(_REQUEST_ID)
    return found
