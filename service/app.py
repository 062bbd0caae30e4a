"""The FastAPI application. `python -m service.app` prints its OpenAPI document."""

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

from service import middleware
from service.app_state import AppState
from service.auth import Auth, add_cors
from service.errors import Problem
from service.openapi import complete_openapi
from service.origin_guard import add_origin_guard
from service.problems import problem_response
from service.queue import JobQueue, connect
from service.reconciler import Reconciler
from service.routes import router
from service.settings import Settings
from service.store import FolderStore
from service.sweeper import Sweeper
from service.webhooks import Message

# Generous bound on the time from the last byte of an upload to the record of its job.
_JOB_CREATION_S = 60.0

DESCRIPTION = """Finds every micro-action in a video of a person: what, when, several at once, at two levels.

`POST /detect` with a video answers with a job; poll `GET /jobs/{id}` until it has succeeded, then fetch
`GET /jobs/{id}/result`. Errors are problem documents (RFC 9457) with a stable `code`."""


def create_app(settings: Settings) -> FastAPI:
    """Create the application with the store and Redis named by the settings."""
    connection = connect(settings, retries=1)
    auth = Auth(settings, connection)
    app_state = AppState(settings, FolderStore(settings.store_dir), JobQueue(connection, settings.job_timeout_s), auth)
    return build_app(app_state)


def build_app(app_state: AppState) -> FastAPI:
    """Create the application for a given state; its lifespan runs the sweeper, webhook and reconciler threads."""
    settings = app_state.settings

    @asynccontextmanager
    async def background(_app: FastAPI) -> AsyncIterator[None]:
        stop = threading.Event()
        orphan_s = settings.upload_timeout_s + _JOB_CREATION_S
        sweeper = Sweeper(app_state.store, app_state.jobs, settings.sweep_every_s, orphan_s)
        reconciler = Reconciler(app_state.jobs, app_state.queue)
        loops = (sweeper.run, app_state.webhooks.run, reconciler.run)
        threads = [threading.Thread(target=run, args=(stop,)) for run in loops]
        for thread in threads:
            thread.start()
        yield
        stop.set()
        for thread in threads:
            await to_thread.run_sync(thread.join)
        app_state.queue.meter.close()

    app = create_stateless_app(background)
    app.state.app_state = app_state
    # Middleware, innermost first.
    add_origin_guard(app, settings)
    app.add_middleware(middleware.ProblemMiddleware)
    add_cors(app, settings)
    app.add_middleware(middleware.HeadMiddleware)
    app.add_middleware(middleware.RequestLog, on_response=app_state.metrics_endpoint.count_request)
    app.add_middleware(middleware.ForwardedPrefix, root_path=settings.root_path, trusted=settings.forwarded_allow_ips)
    return app


def create_stateless_app(lifespan: Any = None) -> FastAPI:
    """Create the application without state, middleware or lifespan tasks: enough for the OpenAPI document."""
    # FastAPIOffline serves the scripts of /docs itself, so that the page works without internet access.
    app = FastAPIOffline(
        title="mmad", version="0.1.0", description=DESCRIPTION, redoc_url=None, lifespan=lifespan,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        generate_unique_id_function=lambda route: route.name,
    )  # fmt: skip
    app.webhooks.add_api_route(
        "job-ended", job_ended, methods=["POST"], status_code=204, summary="A job has ended", tags=["jobs"],
        operation_id="job_ended",
    )  # fmt: skip
    app.include_router(router)
    complete_openapi(app.openapi())  # app.openapi() caches the document and serves the cached one

    @app.exception_handler(HTTPException)
    async def handle_http_exception(request: Request, error: HTTPException) -> Response:
        if error.status_code == HTTPStatus.NO_CONTENT:
            return Response(status_code=HTTPStatus.NO_CONTENT)
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            detail, allow = f"{request.method} is not taken here; see /docs", ", ".join(sorted(_find_methods(request)))
            return problem_response(request, "method_not_allowed", detail, {"Allow": allow})
        return problem_response(request, "not_found", "there is nothing at this address; see /docs for those there are")

    @app.exception_handler(Problem)
    async def handle_problem(request: Request, problem: Problem) -> Response:
        return problem_response(request, problem.code, problem.detail, problem.headers)

    @app.exception_handler(ClientDisconnect)
    async def handle_disconnect(_request: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=middleware.CLIENT_CLOSED_REQUEST)

    return app


def job_ended(message: Message) -> None:
    """Sent to `callback_url`, signed as Standard Webhooks specifies. Any 2xx response counts as delivered."""


def _find_methods(request: Request) -> set[str]:
    """Return all methods that the request's path supports; the router reports those of one route only."""
    path = middleware.path_without_prefix(request.scope)
    methods = {"GET"}  # of paths outside the OpenAPI document
    for template, operations in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path):
            methods = {method.upper() for method in operations}
    return methods | {"HEAD"} if "GET" in methods else methods


def openapi_yaml() -> str:
    """Return the OpenAPI document, as committed in openapi.yaml."""
    return yaml.safe_dump(create_stateless_app().openapi(), sort_keys=False, allow_unicode=True, width=110)


if __name__ == "__main__":
    sys.stdout.write(openapi_yaml())
