"""The application: settings in, an ASGI app out. `python -m service.app` prints the OpenAPI document."""

import re
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import structlog
import yaml
from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service import errors
from service.auth import Auth, RateLimitHeaders, add_cors
from service.browsers import keep_pages_out
from service.desk import Desk, retry_after
from service.errors import Problem
from service.job_schemas import ProblemDocument
from service.openapi import complete
from service.queue import JobQueue, connect
from service.routes import router
from service.settings import Settings
from service.store import FolderStore
from service.sweeper import Sweeper
from service.webhooks import Message

log = structlog.get_logger()

DESCRIPTION = """Finds every micro-action in a video of a person: what, when, several at once, at two levels.

`POST /detect` with a video answers with a job; poll `GET /jobs/{id}` until it has succeeded, then fetch
`GET /jobs/{id}/result`. Errors are problem documents (RFC 9457) with a stable `code`."""


def create_app(settings: Settings) -> FastAPI:
    """The API over the store and Redis of the settings."""
    connection = connect(settings, retries=1)
    auth = Auth(settings, connection)
    desk = Desk(settings, FolderStore(settings.store_dir), JobQueue(connection, settings.job_timeout_s), auth)
    app = app_of(desk)
    add_cors(app, settings)
    return app


def app_of(desk: Desk) -> FastAPI:
    """The API at a desk, with what goes on behind the counter while it runs."""

    @asynccontextmanager
    async def background(_app: FastAPI) -> AsyncIterator[None]:
        stop = threading.Event()
        sweeper = Sweeper(desk.store, desk.jobs, desk.settings.sweep_every_s)
        threads = [threading.Thread(target=run, args=(stop,)) for run in (sweeper.run, desk.webhooks.run)]
        for thread in threads:
            thread.start()
        yield
        stop.set()
        for thread in threads:
            await to_thread.run_sync(thread.join)

    app = bare_app(background)
    app.state.desk, app.state.auth = desk, desk.auth
    keep_pages_out(app, desk.settings, problem_response)
    return app


def bare_app(lifespan: Any = None) -> FastAPI:
    """Routes and errors, connected to nothing: enough for the OpenAPI document."""
    # Its pages bring their own scripts: /docs works without the internet.
    app = FastAPIOffline(
        title="mmad",
        version="0.1.0",
        description=DESCRIPTION,
        redoc_url=None,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
    )
    app.add_middleware(RateLimitHeaders)
    app.webhooks.add_api_route(
        "job-ended", job_ended, methods=["POST"], status_code=204, summary="A job has ended", tags=["jobs"],
        operation_id="job_ended",
    )  # fmt: skip
    app.include_router(router)
    complete(app.openapi())  # kept by FastAPI, and served
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_fault)
    return app


def job_ended(message: Message) -> None:
    """What `callback_url` is sent, signed as Standard Webhooks say; any answer of 2xx will do."""


def problem_response(
    request: Request,
    code: str,
    detail: str,
    request_id: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """A problem document."""
    kind = errors.CATALOGUE[code]
    document = ProblemDocument(
        type=f"urn:mmad:problem:{code}",
        title=kind.title,
        status=kind.status,
        detail=detail,
        code=code,
        job_id=request.path_params.get("job_id"),
        request_id=request_id,
    )
    return JSONResponse(
        document.model_dump(exclude_none=True),
        kind.status,
        headers=retry_after(code) | (headers or {}),
        media_type="application/problem+json",
    )


async def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return problem_response(request, error.code, error.detail, headers=error.headers)


async def _on_disconnect(request: Request, _error: Exception) -> Response:
    log.info("upload_broken_off", path=request.url.path)
    return Response(status_code=400)  # nobody is there to read it


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NO_CONTENT:
        return Response(status_code=HTTPStatus.NO_CONTENT)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response = problem_response(
            request, "method_not_allowed", f"{request.method} is not taken here; see /docs"
        )
        response.headers["Allow"] = ", ".join(sorted(_methods(request)))
        return response
    return problem_response(
        request, "not_found", "there is nothing at this address; see /docs for those there are"
    )


def _methods(request: Request) -> set[str]:
    """All that an address takes; the router knows those of one route only."""
    for shape, operations in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", shape), request.url.path):
            return {method.upper() for method in operations}
    return {"GET"}  # the pages that are not in the document


async def _on_fault(request: Request, error: Exception) -> JSONResponse:
    request_id = uuid4().hex
    log.error("request_failed", request_id=request_id, path=request.url.path, exc_info=error)
    detail = "something went wrong here and was written to the log under this request_id; try again"
    return problem_response(request, "internal_error", detail, request_id)


def openapi_yaml() -> str:
    """The OpenAPI document, as committed in openapi.yaml."""
    return yaml.safe_dump(bare_app().openapi(), sort_keys=False, allow_unicode=True, width=110)


if __name__ == "__main__":
    sys.stdout.write(openapi_yaml())
