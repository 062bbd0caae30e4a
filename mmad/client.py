"""Client of the API: submit a video, wait, get the result.

`mmad.async_client.AsyncClient` has the same methods for async code.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx

from mmad import endpoints, models
from mmad.connection import make_http
from mmad.endpoints import (
    DEFAULT_URL,
    PAGE_JOBS,
    Call,
    ExportFilters,
    JobFilters,
    ResultFilters,
    SubmitOptions,
    Video,
    job_path,
)
from mmad.errors import (
    EventsUnavailable,
    JobCanceled,
    JobFailed,
    NotFound,
    PollSchedule,
    RetryDelays,
    ServiceError,
    Unreachable,
    parse_error,
    translate_errors,
)
from mmad.files import replace_file
from mmad.models import DocumentT, Job, Json, parse
from mmad.sse import READ_TIMEOUT_S, Event, EventStream

__all__ = [
    "DEFAULT_URL", "Client", "Event", "EventsUnavailable", "JobCanceled", "JobFailed", "Json", "NotFound",
    "ServiceError", "Unreachable",
]  # fmt: skip

T = TypeVar("T")


class Client:
    """Client of one service.

    Idempotent requests are retried when the connection fails and on status 429, 502, 503 and 504, after an
    exponentially growing delay or the one in Retry-After. Uploads carry an idempotency key and are retried too. All
    methods raise ServiceError, or its subclasses NotFound and Unreachable.

    Example: `with Client() as client: result = client.detect("interview.mp4")`.

    Args:
        url: address of the service; MMAD_URL or DEFAULT_URL by default. Proxies from the environment are used for
            other machines only.
        api_key: API key; MMAD_API_KEY by default.
        timeout_s: httpx timeout in seconds: for connecting, and between two reads or writes.
        retries: maximum number of retries of a request.
        transport: httpx transport to use instead of the network.
    """

    def __init__(
        self, url: str | None = None, api_key: str | None = None, timeout_s: float = 60.0, retries: int = 3,
        transport: httpx.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        self._http = make_http(httpx.Client, httpx.HTTPTransport, url, api_key, timeout_s, transport)
        self._retries = retries

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(self, video: Video, **options: Unpack[SubmitOptions]) -> models.Accepted:
        """Submit a video and return the accepted job with its id.

        Args:
            video: path, bytes, or a binary file, which is sent from its beginning. The upload is streamed. A file that
                cannot seek, such as a pipe, is sent without retries.
            options: see SubmitOptions.

        Raises:
            ServiceError: the service refused the video.
            OSError: the file cannot be read.
        """
        return self._request(models.Accepted, endpoints.submit([video], options))

    def submit_many(self, videos: Sequence[Video], **options: Unpack[SubmitOptions]) -> models.Batch:
        """Submit two or more videos in one request; returns one job each, in the same order. See submit."""
        return self._request(models.Batch, endpoints.submit_many(videos, options))

    def detect(
        self,
        video: Video,
        *,
        on_progress: Callable[[Job], object] | None = None,
        wait_timeout_s: float = float("inf"),
        **options: Unpack[SubmitOptions],
    ) -> models.Result:
        """Submit a video and wait for its result. See submit and wait."""
        return self.wait(self.submit(video, **options).id, on_progress, wait_timeout_s)

    def job(self, job_id: str) -> Job:
        """Return the current state of a job."""
        return self._request(Job, Call("GET", job_path(job_id)))

    def jobs(self, **filters: Unpack[JobFilters]) -> Iterator[Job]:
        """Iterate over all jobs, newest first; pages are requested as needed. See JobFilters."""
        cursor: str | None = None
        while True:
            call = Call("GET", "/jobs", {**filters, "cursor": cursor, "limit": PAGE_JOBS})
            page = self._request(models.JobPage, call)
            yield from page.jobs
            if (cursor := page.next) is None:
                return

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; raises ServiceError (job_already_ended) if it has ended."""
        return self._request(Job, Call("POST", job_path(job_id, "cancel")))

    def delete(self, job_id: str) -> models.Receipt:
        """Delete a job and all its files; the receipt lists what was deleted.

        Raises:
            NotFound: there is no such job. Also raised (job_deleted) when the connection failed after the deletion, so
                that the retry found the job deleted.
        """
        return self._request(models.Receipt, Call("DELETE", job_path(job_id)))

    def events(self, job_id: str) -> Generator[Event, None, None]:
        """Iterate over the events of a job, up to its final state. Lost connections are resumed (Last-Event-ID).

        Raises:
            EventsUnavailable: the server has no event stream.
        """
        return self._events(job_id, float("inf"))

    def wait(
        self, job_id: str, on_progress: Callable[[Job], object] | None = None, timeout_s: float = float("inf")
    ) -> models.Result:
        """Wait until a job has succeeded and return its result.

        Args:
            job_id: as returned by submit.
            on_progress: called with the job after every change.
            timeout_s: how long to wait, in seconds.

        Raises:
            JobFailed: the job failed; has the code and detail of the error.
            JobCanceled: the job was canceled.
            TimeoutError: the job has not ended after `timeout_s`. It continues to run.
        """
        schedule = PollSchedule(job_id, timeout_s)
        with closing(self._updates(job_id, schedule)) as updates:
            for job in updates:
                if on_progress is not None:
                    on_progress(job)
                if schedule.succeeded(job):
                    break
        return self.result(job_id)

    def result(self, job_id: str, **filters: Unpack[ResultFilters]) -> models.Result:
        """Return the result of a succeeded job, filtered from its stored proposals. See ResultFilters."""
        return self._request(models.Result, Call("GET", job_path(job_id, "result"), filters))

    def frames(self, job_id: str, rate: float | None = None) -> models.FrameScores:
        """Return the score of every class over time, `rate` samples per second."""
        return self._request(
            models.FrameScores, Call("GET", job_path(job_id, "result"), {"level": "frames", "rate": rate})
        )

    def export(self, job_id: str, form: str, path: str | Path, **filters: Unpack[ExportFilters]) -> Path:
        """Download a result in an export format: csv, vtt, eaf or another one of the service. See ExportFilters.

        The file is created only when the download is complete.

        Raises:
            OSError: the file cannot be written.
        """
        return self._download(Call("GET", job_path(job_id, "export"), {"format": form, **filters}), Path(path))

    def video(self, job_id: str, path: str | Path) -> Path:
        """Download the video of a job, if the service still stores it; raises NotFound, OSError."""
        return self._download(Call("GET", job_path(job_id, "video")), Path(path))

    def labels(self) -> models.Labels:
        """Return all classes of the model: actions and body parts."""
        return self._request(models.Labels, Call("GET", "/labels"))

    def model(self) -> models.ModelCard:
        """Return a description of the model that the workers have loaded."""
        return self._request(models.ModelCard, Call("GET", "/model"))

    def webhook(self, job_id: str) -> models.Webhook:
        """Return the delivery status of a job's webhook; raises NotFound (no_callback)."""
        return self._request(models.Webhook, Call("GET", job_path(job_id, "webhook")))

    def resend_webhook(self, job_id: str) -> models.Webhook:
        """Deliver a job's webhook again, with the same message id. Not retried: every request sends a message."""
        return self._request(models.Webhook, Call("POST", job_path(job_id, "webhook/resend"), repeatable=False))

    def _request(self, kind: type[DocumentT], call: Call) -> DocumentT:
        def read(response: httpx.Response) -> DocumentT:
            return parse(kind, response.read())

        return self._retry(call, read)

    def _download(self, call: Call, path: Path) -> Path:
        def save(response: httpx.Response) -> Path:
            with replace_file(path) as file:
                for chunk in response.iter_bytes(endpoints.CHUNK_BYTES):
                    file.write(chunk)
            return path

        return self._retry(call, save)

    def _retry(self, call: Call, consume: Callable[[httpx.Response], T]) -> T:
        delays = RetryDelays(self._retries if call.repeatable else 0)
        while True:
            try:
                with self._send(call) as response:
                    return consume(response)
            except ServiceError as error:
                time.sleep(delays.delay_s(error))

    @contextmanager
    def _send(self, call: Call) -> Iterator[httpx.Response]:
        """Send one attempt and yield the unread successful response; raises ServiceError."""
        with (
            translate_errors(self._http.base_url),
            call.request(self._http) as request,
            closing(self._http.send(request, stream=True)) as response,
        ):
            if not response.is_success:
                response.read()
                raise parse_error(response)
            yield response

    def _updates(self, job_id: str, schedule: PollSchedule) -> Generator[Job, None, None]:
        """Yield the job at every change: from the event stream, or by polling where there is none.

        Polls too when less time is left than the stream's read timeout, as a blocking read cannot be interrupted.
        """
        try:
            with closing(self._events(job_id, schedule.deadline - READ_TIMEOUT_S)) as events:
                for event in events:
                    yield event.job
        except EventsUnavailable:
            pass
        while True:
            job = self.job(job_id)
            yield job
            time.sleep(schedule.delay_s(job))

    def _events(self, job_id: str, until: float) -> Generator[Event, None, None]:
        """Yield events up to the final one, or until a time of the monotonic clock."""
        stream = EventStream(job_id, self._retries, until)
        while not stream.done:
            try:
                with self._send(stream.call) as response:
                    for message in stream.open(response).iter_sse():
                        yield from stream.parse(message)
                        if stream.done:
                            return
                delay_s = stream.delay_s()
            except ServiceError as error:
                delay_s = stream.delay_s(error)
            time.sleep(delay_s)
