"""Requests of the API and their parameters, shared by the sync and the async client."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, TypedDict
from urllib.parse import quote
from uuid import uuid4

import httpx

DEFAULT_URL = "http://127.0.0.1:8000"
CHUNK_BYTES = 1024 * 1024
# The largest page that the service returns.
PAGE_JOBS = 100

Video = str | Path | bytes | BinaryIO


class ViewOptions(TypedDict, total=False):
    """Which detections to return: the fields of service.schemas.View.

    `labels` are codes or names ("B1", "nodding", "Head"), as a list or separated by commas. Every option, here and
    below, may be omitted or None.
    """

    min_score: float | None
    top_k: int | None
    labels: Sequence[str] | str | None


class SubmitOptions(ViewOptions, total=False):
    """Options of a job: the fields of service.job_schemas.JobOptions, and `idempotency_key`.

    The same key within a day returns the same job. A random one by default, so that a retry after a lost connection
    does not create a second job.
    """

    region: Sequence[float] | str | None  # x, y, width, height as fractions of the upright frame
    callback_url: str | None
    retention_s: int | None
    keep_video: bool | None
    tag: str | None
    name: str | None  # the file name by default; for a single video
    idempotency_key: str | None


class Filters(ViewOptions, total=False):
    """Filters applied to a job's stored proposals: the fields of service.schemas.TimedView."""

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
class Call:
    """One request to a path below the service's address; parameters that are None are left out."""

    method: str
    path: str
    params: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)  # in addition to the client's own
    videos: Sequence[Video] = ()  # files of the multipart form, opened for every attempt
    repeatable: bool = True  # whether it may be retried
    read_timeout_s: float | None = None  # if not the client's

    @contextmanager
    def request(self, http: httpx.Client | httpx.AsyncClient) -> Iterator[httpx.Request]:
        """Yield the httpx request with its files open; raises OSError if a file cannot be opened."""
        with ExitStack() as stack:
            files = [("file", (_file_name(video), _open(video, stack))) for video in self.videos]
            changed = {} if self.read_timeout_s is None else {"read": self.read_timeout_s}
            yield http.build_request(
                self.method,
                self.path,
                params={name: _to_text(value) for name, value in self.params.items() if value is not None},
                headers=self.headers,
                files=files or None,
                timeout=httpx.Timeout(**{**http.timeout.as_dict(), **changed}),
            )


def submit(videos: Sequence[Video], options: SubmitOptions) -> Call:
    """Return the request that submits videos."""
    params: dict[str, object] = dict(options)
    headers = {"Idempotency-Key": str(params.pop("idempotency_key", None) or uuid4())}
    can_rewind = all(isinstance(video, str | bytes | Path) or video.seekable() for video in videos)
    return Call("POST", "/detect", params, headers, videos, repeatable=can_rewind)


def submit_many(videos: Sequence[Video], options: SubmitOptions) -> Call:
    """Return the request that submits a batch; raises ValueError for fewer than two videos."""
    if len(videos) < 2:
        raise ValueError(f"a batch has two videos or more, not {len(videos)}: use submit for one")
    return submit(videos, options)


def job_path(job_id: str, resource: str = "") -> str:
    """Return the path of a job or of a resource of it."""
    return f"/jobs/{quote(job_id, safe='')}/{resource}".rstrip("/")


def _to_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        # A naive datetime is in local time.
        return (value if value.tzinfo else value.astimezone()).isoformat()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


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
