"""Problem documents (RFC 9457), the format of all error responses."""

from fastapi import Request
from fastapi.responses import JSONResponse

from service.errors import CATALOGUE
from service.job_schemas import ProblemDocument

MEDIA_TYPE = "application/problem+json"
# Sent when the request body was not read to its end: the connection cannot be reused.
CLOSE = {"Connection": "close"}


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
    kind = CATALOGUE[code]
    request_id = getattr(request.state, "request_id", None)  # set by RequestLog
    document = problem_document(code, detail, request.path_params.get("job_id"), request_id)
    retry_after = {"Retry-After": str(kind.retry_after_s)} if kind.retry_after_s else {}
    content = document.model_dump(exclude_none=True)
    return JSONResponse(content, kind.status, headers=retry_after | (headers or {}), media_type=MEDIA_TYPE)
