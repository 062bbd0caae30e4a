"""An HTTP transport with scripted responses, and documents of the API for both clients."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx

from mmad.async_client import AsyncClient
from mmad.models import Json

Handler = Callable[[httpx.Request], httpx.Response]
LINKS = {name: f"/jobs/j1/{name}" for name in ("self", "result", "export", "events", "cancel")}
ACCEPTED = {"id": "j1", "state": "queued", "links": LINKS}
NOW = "2026-01-02T03:04:05Z"


def job_document(state: str = "running", progress: float = 0.5, **more: Any) -> Json:
    return {
        "id": "j1", "state": state, "stage": None, "progress": progress, "attempt": 1,
        "changes": [{"state": "queued", "at": NOW}], "links": LINKS, **more,
    }  # fmt: skip


def json_response(document: Json, status: int = 200, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=document, headers=headers)


def problem_response(code: str, status: int, **headers: str) -> httpx.Response:
    return json_response({"code": code, "detail": f"the detail of {code}", "status": status}, status, **headers)


def stream_response(*chunks: bytes, kind: str = "text/event-stream; charset=utf-8") -> httpx.Response:
    """Respond with chunks; an exception among them is raised when reached."""
    return httpx.Response(200, stream=Chunks(chunks), headers={"Content-Type": kind})


class Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __init__(self, chunks: tuple[bytes | Exception, ...]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    async def __aiter__(self) -> Any:
        for chunk in self:
            yield chunk


def sse_event(number: int, document: Json, kind: str = "progress") -> bytes:
    return f"id: {number}.0\nevent: {kind}\ndata: {json.dumps(document)}\n\n".encode()


def copy_response(response: httpx.Response) -> httpx.Response:
    """Copy a response: one that was read or closed cannot be returned again."""
    if isinstance(response.stream, Chunks):
        return httpx.Response(response.status_code, headers=response.headers, stream=response.stream)
    return httpx.Response(response.status_code, headers=response.headers, content=response.content)


class ScriptedServer:
    """Handler that returns or raises the given responses in order and records all requests."""

    def __init__(self, *responses: httpx.Response | Exception) -> None:
        self.responses = list(responses)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        response = self.responses.pop(0)
        if isinstance(response, Exception):
            raise response
        return copy_response(response)

    @property
    def paths(self) -> list[str]:
        return [request.url.path for request in self.requests]


class BlockingAsyncClient:
    """Async client with blocking methods, so that one test covers both clients."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            async def run() -> Any:
                returned = getattr(self._client, name)(*arguments, **named)
                return [item async for item in returned] if hasattr(returned, "__aiter__") else await returned

            return anyio.run(run)

        return call


MakeClient = Callable[..., Any]


RESULT = {
    "schema_version": 1, "job_id": "j1", "coverage": [], "partial": False, "detections": [], "body_segments": [],
    "warnings": [],
    "media": {"sha256": "00", "duration_s": 1, "width": 1, "height": 1, "frames_decoded": 1, "average_fps": 1,
              "variable_frame_rate": False, "rotation_deg": 0},
    "model": {"bundle": "b", "version": "1", "weights_sha256": "00", "engine": "e", "precision": "fp32",
              "trained_on": None},
    "settings": {"level": "both"},
    "summary": {"by_action": [], "by_body": [], "pairs": [],
                "concurrency": {"max": 0, "mean": 0.0, "seconds": []}},
    "hidden": {"count": 0, "from_score": 0.02, "best": [], "cut_by_top_k": 0},
    "reproduction": {"mmad": "1", "python": "3", "packages": {"av": "1"}, "bundle_sha256": "00",
                     "taxonomy_sha256": "00", "device": "cpu", "decode_fps": 15.0, "input_width": 1,
                     "input_height": 1, "window_frames": 1, "overlap_frames": 0,
                     "postprocessing": {"kind": "soft-nms", "sigma": 0.5, "top": 200, "voting": True},
                     "calibrated": True, "random_numbers": False},
}  # fmt: skip
