"""The application: settings in, an ASGI app out. `python -m service.app` prints the OpenAPI document."""

import re
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import yaml
from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service.app_state import AppState
from service.auth import Auth, RateLimitHeaders, add_cors
from service.errors import Problem
from service.head import Head
from service.middleware import GONE, Guard, Requests
from service.openapi import complete
from service.origin_guard import keep_pages_out
from service.prefix import BehindProxy, path_below
from service.problems import problem_response
from service.queue import JobQueue, connect
from service.reconciler import Reconciler
from service.routes import router
from service.settings import Settings
from service.store import FolderStore
from service.sweeper import Sweeper
from service.webhooks import Message

# From the last byte of an upload to the record of its job, with much to spare.
_MAKING_S = 60.0

DESCRIPTION = """Finds every micro-action in a video of a person: what, when, several at once, at two levels.

`POST /detect` with a video answers with a job; poll `GET /jobs/{id}` until it has succeeded, then fetch
`GET /jobs/{id}/result`. Errors are problem documents (RFC 9457) with a stable `code`."""


def create_app(settings: Settings) -> FastAPI:
    """The API with the store and Redis that the settings name."""
    connection = connect(settings, retries=1)
    auth = Auth(settings, connection)
    app_state = AppState(
        settings, FolderStore(settings.store_dir), JobQueue(connection, settings.job_timeout_s), auth
    )
    return app_of(app_state)


def app_of(app_state: AppState) -> FastAPI:
    """The API over a given state, with its background threads: sweeper, webhooks and reconciler."""

    @asynccontextmanager
    async def background(_app: FastAPI) -> AsyncIterator[None]:
        stop = threading.Event()
        settings = app_state.settings
        sweeper = Sweeper(
            app_state.store,
            app_state.jobs,
            settings.sweep_every_s,
            orphan_s=settings.upload_timeout_s + _MAKING_S,
        )
        reconciler = Reconciler(app_state.jobs, app_state.queue)
        works = (sweeper.run, app_state.webhooks.run, reconciler.run)
        threads = [threading.Thread(target=run, args=(stop,)) for run in works]
        for thread in threads:
            thread.start()
        yield
        stop.set()
        for thread in threads:
            await to_thread.run_sync(thread.join)
        app_state.queue.meter.close()

    app = bare_app(background)
    app.state.app_state = app_state
    # From the innermost to the outermost.
    keep_pages_out(app, app_state.settings, problem_response)
    app.add_middleware(Guard)
    app.add_middleware(RateLimitHeaders)
    add_cors(app, app_state.settings)
    app.add_middleware(Head)
    app.add_middleware(Requests, note=app_state.metrics_endpoint.note_request)
    app.add_middleware(
        BehindProxy, root_path=app_state.settings.root_path, trusted=app_state.settings.forwarded_allow_ips
    )
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
    app.webhooks.add_api_route(
        "job-ended", job_ended, methods=["POST"], status_code=204, summary="A job has ended", tags=["jobs"],
        operation_id="job_ended",
    )  # fmt: skip
    app.include_router(router)
    complete(app.openapi())  # kept by FastAPI, and served
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(HTTPException, _on_http)
    return app


def job_ended(message: Message) -> None:
    """What `callback_url` is sent, signed as Standard Webhooks say; any answer of 2xx will do."""


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(request, error.code, error.detail, error.headers)


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=GONE)


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
    path = path_below(request.scope)
    methods = {"GET"}  # of the pages that are not in the document
    for shape, operations in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", shape), path):
            methods = {method.upper() for method in operations}
    return methods | {"HEAD"} if "GET" in methods else methods


def openapi_yaml() -> str:
    """The OpenAPI document, as committed in openapi.yaml."""
    return yaml.safe_dump(bare_app().openapi(), sort_keys=False, allow_unicode=True, width=110)


if __name__ == "__main__":
    sys.stdout.write(openapi_yaml())
