"""The requests of the API and the parsing of their responses, shared by the sync and the async client."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypedDict, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx

from mmad.models import (
    Accepted,
    Batch,
    Document,
    FrameScores,
    Job,
    JobPage,
    Labels,
    ModelCard,
    Receipt,
    Result,
    Webhook,
    parse,
)

DEFAULT_URL = "http://127.0.0.1:8000"
CHUNK_BYTES = 1024 * 1024
# The largest page that the service returns.
_PAGE_JOBS = 100

Video = str | Path | bytes | BinaryIO
T = TypeVar("T")
DocumentT = TypeVar("DocumentT", bound=Document)


class SubmitOptions(TypedDict, total=False):
    """Options of a job. Each may be omitted or None.

    Attributes:
        min_score: minimum score of detections, 0 to 1; the model's threshold of each class by default.
        top_k: return only this many detections, those with the highest scores.
        labels: codes or names of actions ("B1", "nodding") or body parts ("B", "Head"), as a list or separated by
            commas.
        region: part of the upright frame to analyse: x, y, width, height as fractions of its size.
        callback_url: URL that receives a signed webhook when the job has ended.
        retention_s: how long the result is stored after the end of the job, in seconds.
        keep_video: store the video as long as the result.
        tag: label for finding jobs.
        name: name of the video in exports; the file name by default. For a single video.
        idempotency_key: the same key within a day returns the same job. A random one by default, so that a retry
            after a lost connection does not create a second job.
    """

    min_score: float | None
    top_k: int | None
    labels: Sequence[str] | str | None
    region: Sequence[float] | str | None
    callback_url: str | None
    retention_s: int | None
    keep_video: bool | None
    tag: str | None
    name: str | None
    idempotency_key: str | None


class Filters(TypedDict, total=False):
    """Filters applied to a job's stored proposals. Each may be omitted or None.

    Attributes:
        min_score: minimum score of detections, 0 to 1.
        top_k: return only this many detections, those with the highest scores.
        labels: codes or names of actions ("B1", "nodding") or body parts ("B", "Head"), as a list or separated by
            commas.
        from_s: omit detections that end before this time, in seconds.
        to_s: omit detections that start after this time, in seconds.
    """

    min_score: float | None
    top_k: int | None
    labels: Sequence[str] | str | None
    from_s: float | None
    to_s: float | None


class ResultFilters(Filters, total=False):
    """Filters, and `level`: "both", "action" or "body"."""

    level: str | None


class ExportFilters(Filters, total=False):
    """Filters, `rate` (samples per second of scores over time) and `eaf_scores` ("tier" or "value", for ELAN)."""

    rate: float | None
    eaf_scores: str | None


class JobFilters(TypedDict, total=False):
    """Filters of jobs by state, tag, batch and time of submission (`since`, `until`: datetime or ISO 8601)."""

    state: str | None
    tag: str | None
    batch: str | None
    since: datetime | str | None
    until: datetime | str | None


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and the parser of its JSON response.

    Attributes:
        method: HTTP method.
        path: path below the service's address.
        parse_json: turns the response's JSON into the return value; raises AnswerError.
        params: query parameters.
        headers: headers in addition to the client's own.
        videos: files of the multipart form, opened for every attempt.
        repeatable: whether the request may be retried.
        read_timeout_s: read timeout of this response in seconds, if not the client's.
    """

    method: str
    path: str
    parse_json: Callable[[bytes], T]
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    videos: Sequence[Video] = ()
    repeatable: bool = True
    read_timeout_s: float | None = None

    @contextmanager
    def request(self, http: httpx.Client | httpx.AsyncClient) -> Iterator[httpx.Request]:
        """Yield the httpx request with its files open; raises OSError if a file cannot be opened."""
        with ExitStack() as stack:
            files = [("file", (_file_name(video), _open(video, stack))) for video in self.videos]
            changed = {} if self.read_timeout_s is None else {"read": self.read_timeout_s}
            yield http.build_request(
                self.method,
                self.path,
                params=self.params,
                headers=self.headers,
                files=files or None,
                timeout=httpx.Timeout(**{**http.timeout.as_dict(), **changed}),
            )

    def parse(self, response: httpx.Response) -> T:
        """Parse a response whose body has been read; raises AnswerError."""
        return self.parse_json(response.content)


def submit(video: Video, options: SubmitOptions) -> Call[Accepted]:
    """POST /detect with one video."""
    return _detect([video], Accepted, options)


def submit_many(videos: Sequence[Video], options: SubmitOptions) -> Call[Batch]:
    """POST /detect with several videos; raises ValueError for fewer than two."""
    if len(videos) < 2:
        raise ValueError(f"a batch has two videos or more, not {len(videos)}: use submit for one")
    return _detect(videos, Batch, options)


def job(job_id: str) -> Call[Job]:
    """GET /jobs/{id}."""
    return Call("GET", _path(job_id), partial(parse, Job))


def jobs(filters: JobFilters, cursor: str | None) -> Call[JobPage]:
    """GET /jobs, one page."""
    return Call(
        "GET", "/jobs", partial(parse, JobPage), _make_query({**filters, "cursor": cursor, "limit": _PAGE_JOBS})
    )


def cancel(job_id: str) -> Call[Job]:
    """POST /jobs/{id}/cancel. Repeatable: a canceled job stays canceled."""
    return Call("POST", _path(job_id, "cancel"), partial(parse, Job))


def delete(job_id: str) -> Call[Receipt]:
    """DELETE /jobs/{id}."""
    return Call("DELETE", _path(job_id), partial(parse, Receipt))


def result(job_id: str, filters: ResultFilters) -> Call[Result]:
    """GET /jobs/{id}/result."""
    return Call("GET", _path(job_id, "result"), partial(parse, Result), _make_query(filters))


def frames(job_id: str, rate: float | None) -> Call[FrameScores]:
    """GET /jobs/{id}/result with level=frames."""
    return Call(
        "GET", _path(job_id, "result"), partial(parse, FrameScores), _make_query({"level": "frames", "rate": rate})
    )


def export(job_id: str, form: str, filters: ExportFilters) -> Call[None]:
    """GET /jobs/{id}/export."""
    return Call("GET", _path(job_id, "export"), _no_json, _make_query({"format": form, **filters}))


def video(job_id: str) -> Call[None]:
    """GET /jobs/{id}/video."""
    return Call("GET", _path(job_id, "video"), _no_json)


def labels() -> Call[Labels]:
    """GET /labels."""
    return Call("GET", "/labels", partial(parse, Labels))


def model() -> Call[ModelCard]:
    """GET /model."""
    return Call("GET", "/model", partial(parse, ModelCard))


def webhook(job_id: str) -> Call[Webhook]:
    """GET /jobs/{id}/webhook."""
    return Call("GET", _path(job_id, "webhook"), partial(parse, Webhook))


def resend_webhook(job_id: str) -> Call[Webhook]:
    """POST /jobs/{id}/webhook/resend. Not repeatable: every request sends a message."""
    return Call("POST", _path(job_id, "webhook/resend"), partial(parse, Webhook), repeatable=False)


def events(job_id: str, headers: Mapping[str, str], read_timeout_s: float) -> Call[None]:
    """GET /jobs/{id}/events."""
    return Call("GET", _path(job_id, "events"), _no_json, headers=headers, read_timeout_s=read_timeout_s)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file that replaces `path` on success; on an exception `path` stays unchanged."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.part")
    try:
        with temporary.open("xb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _detect(videos: Sequence[Video], kind: type[DocumentT], options: SubmitOptions) -> Call[DocumentT]:
    key = options.get("idempotency_key") or str(uuid4())
    return Call(
        "POST",
        "/detect",
        partial(parse, kind),
        _make_query({name: value for name, value in options.items() if name != "idempotency_key"}),
        {"Idempotency-Key": key},
        videos,
        repeatable=all(_can_rewind(one) for one in videos),
    )


def _path(job_id: str, resource: str = "") -> str:
    return f"/jobs/{quote(job_id, safe='')}/{resource}".rstrip("/")


def _make_query(values: Mapping[str, object]) -> dict[str, str]:
    """Return values as query parameters, without those that are None."""
    return {name: _to_text(value) for name, value in values.items() if value is not None}


def _to_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        # A naive datetime is in local time.
        return (value if value.tzinfo else value.astimezone()).isoformat()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def _can_rewind(video: Video) -> bool:
    return isinstance(video, str | bytes | Path) or video.seekable()


def _file_name(video: Video) -> str | None:
    """Return the file name of a path or an open file without folders, or None if it has none."""
    name = video if isinstance(video, str | Path) else getattr(video, "name", None)
    # The name of a file object without a path may be a number, missing, or like <stdin>.
    if not isinstance(name, str | Path) or re.fullmatch(r"<.*>", str(name)):
        return None
    # Surrogate escapes of bytes that are not UTF-8 cannot be encoded.
    return Path(name).name.encode("utf-8", "replace").decode() or None


def _open(video: Video, stack: ExitStack) -> Any:
    """Return what httpx reads the video from. httpx rewinds seekable files."""
    if isinstance(video, str | Path):
        return stack.enter_context(Path(video).open("rb"))
    return video if isinstance(video, bytes) or video.seekable() else _Pipe(video)


class _Pipe:
    """A file that cannot seek. Hides the file descriptor, from which httpx would infer a length of 0 bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read


def _no_json(_content: bytes) -> None:
    """The `parse_json` of responses that are not JSON."""
