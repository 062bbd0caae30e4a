"""Routes for results: as a document, an exported file or scores over time; and for the stored video."""

import os
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, BinaryIO

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from service.app_state import AppStateDep, CallerDep, problems
from service.errors import Problem
from service.exports import FORMATS, VideoResult, find_format
from service.jobs import job_key
from service.names import format_attachment
from service.parameters import describe_parameters, parse_parameters
from service.results import make_result, with_defaults
from service.routes.jobs import JOB_PROBLEMS
from service.schemas import ExportView, FrameScores, FramesView, Result, ResultView
from service.scores import make_frame_scores

router = APIRouter(tags=["results"])

_RESULT_PROBLEMS = (
    "job_not_finished", "job_canceled", "unknown_parameter", "invalid_parameter", *JOB_PROBLEMS,
    "not_a_video", "no_video_stream", "unsupported_codec", "video_too_long", "picture_too_large",
    "frame_rate_too_high", "damaged_video", "decoder_crashed", "decoder_timeout", "decoder_out_of_memory",
    "too_many_streams", "encrypted_video",
    "job_timeout",
)  # fmt: skip
_PIECE_BYTES = 1024 * 1024
_RANGE = re.compile(r"bytes=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*")
_LEVEL = {
    "schema": {"type": "string", "enum": ["both", "action", "body", "frames"], "default": "both"},
    "description": "`action` leaves body_segments empty, `body` detections; the summary has both. `frames`: the score "
    "of every class over time, of all proposals; takes `rate` and no other parameter.",
}
_FORMAT = {
    "schema": {"type": "string", "enum": list(FORMATS)},
    "description": "; ".join(f"`{one.name}`: {one.description}" for one in FORMATS.values()),
}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file", "content": {one.media_type: {} for one in FORMATS.values()}}
}
_VIDEO: dict[int | str, dict[str, Any]] = {
    200: {"description": "The video", "content": {"application/octet-stream": {}}},
    206: {"description": "The part asked for with Range", "content": {"application/octet-stream": {}}},
}


@router.get(
    "/jobs/{job_id}/result",
    response_model=Result | FrameScores,
    summary="What was found",
    openapi_extra={"parameters": describe_parameters(ResultView, FramesView, level=_LEVEL)},
    responses=problems(*_RESULT_PROBLEMS),
)
def get_result(job_id: str, request: Request, app_state: AppStateDep, caller: CallerDep) -> Response:
    """Return the result. Parameters override those of the upload and re-filter the same proposals without a new run."""
    values = dict(request.query_params)
    if values.get("level") == "frames":
        frames_view = parse_parameters(FramesView, values)
        stored = app_state.proposals(app_state.succeeded(job_id, caller.owner))
        return JSONResponse(make_frame_scores(stored, frames_view.rate).model_dump(mode="json"))
    view = parse_parameters(ResultView, values)
    record = app_state.succeeded(job_id, caller.owner)
    if not values:
        return Response(app_state.read(record, "result.json"), media_type="application/json")
    stored = app_state.proposals(record)
    return JSONResponse(make_result(stored, with_defaults(stored, view)).model_dump(mode="json"))


@router.get(
    "/jobs/{job_id}/export",
    response_class=Response,
    summary="The result as a file",
    openapi_extra={"parameters": describe_parameters(ExportView, format=_FORMAT)},
    responses=_FILE | problems(*_RESULT_PROBLEMS),
)
def export(job_id: str, request: Request, app_state: AppStateDep, caller: CallerDep) -> Response:
    """Export the result for ELAN, BORIS, Label Studio, spreadsheets, video players or the challenge."""
    view = parse_parameters(ExportView, dict(request.query_params))
    chosen = find_format(view.format)
    record = app_state.succeeded(job_id, caller.owner)
    stored = app_state.proposals(record)
    result = make_result(stored, with_defaults(stored, view))
    name = PurePath(record.name).stem if record.name else job_id
    analysed = VideoResult(name, result, stored, record.name or "", view.rate, view.eaf_scores)
    content = chosen.write([analysed])
    headers = {"Content-Disposition": format_attachment(f"{name}{chosen.suffix}")}
    return Response(content, media_type=chosen.media_type, headers=headers)


@router.get(
    "/jobs/{job_id}/video",
    response_class=Response,
    summary="The video, while it is kept",
    openapi_extra={
        "parameters": [{"name": "Range", "in": "header", "schema": {"type": "string"}, "example": "bytes=0-1023",
                        "description": "One range of bytes."}]
    },
    responses=_VIDEO | problems("video_not_kept", "range_not_satisfiable", *JOB_PROBLEMS),
)  # fmt: skip
def get_video(job_id: str, request: Request, app_state: AppStateDep, caller: CallerDep) -> Response:
    """Return the video, which is stored until the job has ended, or as long as the result with keep_video."""
    record = app_state.jobs.get(job_id, caller.owner)
    try:
        file = app_state.store.open(job_key(record.id, "video"))
    except KeyError as error:
        detail = "the video was removed when it had been analysed; send it with keep_video=true"
        raise Problem("video_not_kept", detail) from error
    length = file.seek(0, os.SEEK_END)
    byte_range = parse_range(request.headers.get("range"), length)
    if byte_range is None:
        file.close()
        raise Problem(
            "range_not_satisfiable",
            f"the video has {length} bytes, and the range begins behind them",
            {"Content-Range": f"bytes */{length}"},
        )
    headers = {"Accept-Ranges": "bytes", "Content-Length": str(len(byte_range))}
    if record.name:
        headers["Content-Disposition"] = format_attachment(record.name)
    if len(byte_range) < length:
        headers["Content-Range"] = f"bytes {byte_range.start}-{byte_range.stop - 1}/{length}"
    return _FileResponse(file, byte_range, 206 if "Content-Range" in headers else 200, headers)


def parse_range(header: str | None, length: int) -> range | None:
    """Return the range of bytes to send of a file of `length` bytes (RFC 9110, section 14).

    The whole file if the header is absent, invalid or has several ranges; None if the range cannot be satisfied.
    """
    match = _RANGE.fullmatch(header or "")
    if not match or match[1] == match[2] == "":
        return range(length)
    if not match[1]:  # suffix range: the last n bytes
        count = min(int(match[2]), length)
        return range(length - count, length) if count else None
    first = int(match[1])
    last = min(int(match[2]), length - 1) if match[2] else length - 1
    if match[2] and int(match[2]) < first:  # invalid: ignored
        return range(length)
    return range(first, last + 1) if first < length else None


class _FileResponse(StreamingResponse):
    """Streams a byte range of a file, and closes it when the response ends or the client disconnects."""

    def __init__(self, file: BinaryIO, byte_range: range, status_code: int, headers: dict[str, str]) -> None:
        super().__init__(_read_range(file, byte_range), status_code, headers, media_type="application/octet-stream")
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # When the client disconnects, the iterator is cancelled without being closed.
            self._file.close()


def _read_range(file: BinaryIO, byte_range: range) -> Iterator[bytes]:
    file.seek(byte_range.start)
    left = len(byte_range)
    while left and (piece := file.read(min(left, _PIECE_BYTES))):
        left -= len(piece)
        yield piece
