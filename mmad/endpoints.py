"""The requests that a client makes: each built here once, with how its answer is read, for both clients to send."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypedDict, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx

from mmad.models import (
    Accepted,
    Answer,
    AnswerError,
    Batch,
    FrameScores,
    Job,
    JobPage,
    Json,
    Labels,
    ModelCard,
    Receipt,
    Result,
    Webhook,
)

DEFAULT_URL = "http://127.0.0.1:8000"
PIECE_BYTES = 1024 * 1024
# Jobs a page: the most that the service gives.
_PAGE_JOBS = 100

Video = str | Path | bytes | BinaryIO
T = TypeVar("T")
AnswerT = TypeVar("AnswerT", bound=Answer)


class SubmitOptions(TypedDict, total=False):
    """What may be asked of a job. All may be left out, or None.

    Attributes:
        min_score: least score shown, 0 to 1; the model's threshold of each class if not given.
        top_k: at most this many detections, the best.
        labels: codes or names of actions ("B1", "nodding") or body parts ("B", "Head"), as a list or with commas
            between.
        region: the part of the upright picture to look at: x, y, width, height as fractions of it.
        callback_url: where the service sends a signed message when the job has ended.
        retention_s: how many seconds the result is kept after the end.
        keep_video: keep the video as long as the result.
        tag: a word of the caller's own, to find jobs by.
        name: the video's name, which exports have; that of the file if not given. For a single video.
        idempotency_key: a name of the caller's for this very request: sent again within a day it gives the same job.
            A random one if not given, so that a try after a lost connection makes no second job.
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
    """Another view of a job's proposals, without a second run. All may be left out, or None.

    Attributes:
        min_score: least score shown, 0 to 1.
        top_k: at most this many detections, the best.
        labels: codes or names of actions ("B1", "nodding") or body parts ("B", "Head"), as a list or with commas
            between.
        from_s: leave out what ends before.
        to_s: leave out what starts after.
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
    """Filters; `rate`: times a second, for formats of scores over time; `eaf_scores`: "tier" or "value", for ELAN."""

    rate: float | None
    eaf_scores: str | None


class JobFilters(TypedDict, total=False):
    """Which jobs are wanted: their state, tag or batch, and the times (datetime or ISO 8601) they were sent between."""

    state: str | None
    tag: str | None
    batch: str | None
    since: datetime | str | None
    until: datetime | str | None


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how the JSON of its answer is read.

    Attributes:
        method: of HTTP.
        path: below the service's address.
        read: from the answer's JSON to what the caller gets; raises AnswerError.
        params: of the query.
        headers: besides the client's own.
        videos: sent as the form's files, each opened anew for every try.
        repeatable: whether it may be sent again when nobody knows what became of the first.
        silence_s: the longest silence of this answer, where it is another than the client's.
    """

    method: str
    path: str
    read: Callable[[Json], T]
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    videos: Sequence[Video] = ()
    repeatable: bool = True
    silence_s: float | None = None

    @contextmanager
    def request(self, http: httpx.Client | httpx.AsyncClient) -> Iterator[httpx.Request]:
        """The request, as long as its files are open; raises OSError if one cannot be."""
        with ExitStack() as stack:
            files = [("file", (_file_name(video), _open(video, stack))) for video in self.videos]
            silence = {} if self.silence_s is None else {"read": self.silence_s}
            yield http.build_request(
                self.method,
                self.path,
                params=self.params,
                headers=self.headers,
                files=files or None,
                timeout=httpx.Timeout(**{**http.timeout.as_dict(), **silence}),
            )

    def take(self, response: httpx.Response) -> T:
        """The answer of a response that was read; raises AnswerError."""
        try:
            document = response.json()
        except ValueError as error:
            raise AnswerError(f"{response.status_code} without JSON") from error
        return self.read(document)


def submit(video: Video, options: SubmitOptions) -> Call[Accepted]:
    """POST /detect with one video."""
    return _detect([video], Accepted, options)


def submit_many(videos: Sequence[Video], options: SubmitOptions) -> Call[Batch]:
    """POST /detect with several; raises ValueError for fewer than two, which make no batch."""
    if len(videos) < 2:
        raise ValueError(f"a batch has two videos or more, not {len(videos)}: use submit for one")
    return _detect(videos, Batch, options)


def job(job_id: str) -> Call[Job]:
    """GET /jobs/{id}."""
    return Call("GET", _path(job_id), Job.from_json)


def jobs(filters: JobFilters, cursor: str | None) -> Call[JobPage]:
    """GET /jobs, one page."""
    return Call("GET", "/jobs", JobPage.from_json, _texts({**filters, "cursor": cursor, "limit": _PAGE_JOBS}))


def cancel(job_id: str) -> Call[Job]:
    """POST /jobs/{id}/cancel: canceled again, a job stays canceled."""
    return Call("POST", _path(job_id, "cancel"), Job.from_json)


def delete(job_id: str) -> Call[Receipt]:
    """DELETE /jobs/{id}."""
    return Call("DELETE", _path(job_id), Receipt.from_json)


def result(job_id: str, filters: ResultFilters) -> Call[Result]:
    """GET /jobs/{id}/result."""
    return Call("GET", _path(job_id, "result"), Result.from_json, _texts(filters))


def frames(job_id: str, rate: float | None) -> Call[FrameScores]:
    """GET /jobs/{id}/result with level=frames."""
    return Call(
        "GET", _path(job_id, "result"), FrameScores.from_json, _texts({"level": "frames", "rate": rate})
    )


def export(job_id: str, form: str, filters: ExportFilters) -> Call[None]:
    """GET /jobs/{id}/export."""
    return Call("GET", _path(job_id, "export"), _no_json, _texts({"format": form, **filters}))


def video(job_id: str) -> Call[None]:
    """GET /jobs/{id}/video."""
    return Call("GET", _path(job_id, "video"), _no_json)


def labels() -> Call[Labels]:
    """GET /labels."""
    return Call("GET", "/labels", Labels.from_json)


def model() -> Call[ModelCard]:
    """GET /model."""
    return Call("GET", "/model", ModelCard.from_json)


def webhook(job_id: str) -> Call[Webhook]:
    """GET /jobs/{id}/webhook."""
    return Call("GET", _path(job_id, "webhook"), Webhook.from_json)


def resend_webhook(job_id: str) -> Call[Webhook]:
    """POST /jobs/{id}/webhook/resend: sent twice, the receiver gets two messages."""
    return Call("POST", _path(job_id, "webhook/resend"), Webhook.from_json, repeatable=False)


def events(job_id: str, headers: Mapping[str, str], silence_s: float) -> Call[None]:
    """GET /jobs/{id}/events."""
    return Call("GET", _path(job_id, "events"), _no_json, headers=headers, silence_s=silence_s)


@contextmanager
def written_aside(path: Path) -> Iterator[BinaryIO]:
    """A file that has its name only when it is whole; where it does not come to that, what was there stays."""
    aside = path.with_name(f".{path.name}.{uuid4().hex[:12]}.part")
    try:
        with aside.open("xb") as file:
            yield file
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _detect(videos: Sequence[Video], kind: type[AnswerT], options: SubmitOptions) -> Call[AnswerT]:
    name = options.get("idempotency_key") or str(uuid4())
    return Call(
        "POST",
        "/detect",
        kind.from_json,
        _texts({key: value for key, value in options.items() if key != "idempotency_key"}),
        {"Idempotency-Key": name},
        videos,
        repeatable=all(_can_rewind(one) for one in videos),
    )


def _path(job_id: str, what: str = "") -> str:
    return f"/jobs/{quote(job_id, safe='')}/{what}".rstrip("/")


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    """As a query has them, without those that are None."""
    return {name: _text(value) for name, value in values.items() if value is not None}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        # Without a zone it is meant in that of this machine.
        return (value if value.tzinfo else value.astimezone()).isoformat()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def _can_rewind(video: Video) -> bool:
    return isinstance(video, str | bytes | Path) or video.seekable()


def _file_name(video: Video) -> str | None:
    """The file name of a path or an open file, without folders; None if it has no name."""
    name = video if isinstance(video, str | Path) else getattr(video, "name", None)
    # File objects without a path have a number as name, none, or one such as <stdin>.
    if not isinstance(name, str | Path) or re.fullmatch(r"<.*>", str(name)):
        return None
    # Surrogates, which stand for bytes that are not UTF-8, cannot be encoded.
    return Path(name).name.encode("utf-8", "replace").decode() or None


def _open(video: Video, stack: ExitStack) -> Any:
    """What httpx reads a video from; it goes back to the beginning of what it can seek in."""
    if isinstance(video, str | Path):
        return stack.enter_context(Path(video).open("rb"))
    return video if isinstance(video, bytes) or video.seekable() else _Pipe(video)


class _Pipe:
    """A file that can only be read once: without a descriptor, of which httpx would take a length of 0 bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read


def _no_json(_document: Json) -> None:
    """For answers that are no JSON."""
