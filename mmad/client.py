"""The client of the API: send a video, wait, take the result. Needs httpx and nothing else.

`mmad.async_client.AsyncClient` has the same methods for async code.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from mmad import endpoints
from mmad.connection import make_http
from mmad.endpoints import (
    DEFAULT_URL,
    Call,
    ExportFilters,
    JobFilters,
    ResultFilters,
    SubmitOptions,
    Video,
)
from mmad.errors import (
    EventsUnavailable,
    JobCanceled,
    JobFailed,
    NotFound,
    ServiceError,
    Tries,
    Unreachable,
    Watch,
    error_of,
    told_apart,
)
from mmad.models import (
    Accepted,
    Batch,
    FrameScores,
    Job,
    Json,
    Labels,
    ModelCard,
    Receipt,
    Result,
    Webhook,
)
from mmad.sse import SILENCE_S, Event, Listener, is_late

__all__ = [
    "DEFAULT_URL",
    "Client",
    "Event",
    "EventsUnavailable",
    "JobCanceled",
    "JobFailed",
    "Json",
    "NotFound",
    "ServiceError",
    "Unreachable",
]

T = TypeVar("T")


class Client:
    """Talks to one service.

    Requests that do no harm if they arrive twice are sent again where a connection breaks off and where the service
    says 429, 502, 503 or 504: after a delay that doubles, or the one it asks for. Uploads are among them, thanks to
    their idempotency key. All methods raise ServiceError, or its subclasses NotFound and Unreachable.

    Example: `with Client() as client: result = client.detect("interview.mp4")`.

    Args:
        url: address of the service; MMAD_URL, or a service on this machine, if not given. The environment's proxies
            are used for other machines only.
        api_key: where the service wants one; MMAD_API_KEY if not given.
        timeout_s: the longest silence of a connection before it counts as broken.
        retries: how often a request is sent again.
        transport: of httpx, in place of the network.
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

    def submit(self, video: Video, **options: Unpack[SubmitOptions]) -> Accepted:
        """Send a video; the answer has the job's id.

        Args:
            video: path, bytes, or a binary file, which is sent from its beginning. Sent piece by piece. A pipe, which
                cannot be read twice, is sent once, without another try.
            options: see SubmitOptions.

        Raises:
            ServiceError: the service refused it.
            OSError: the file cannot be read.
        """
        return self._ask(endpoints.submit(video, options))

    def submit_many(self, videos: Sequence[Video], **options: Unpack[SubmitOptions]) -> Batch:
        """Send two videos or more in one request; the answer has a job for each, in their order. See submit."""
        return self._ask(endpoints.submit_many(videos, options))

    def detect(
        self,
        video: Video,
        *,
        on_progress: Callable[[Job], object] | None = None,
        wait_timeout_s: float = float("inf"),
        **options: Unpack[SubmitOptions],
    ) -> Result:
        """Send a video and wait for its result. See submit and wait."""
        return self.wait(self.submit(video, **options).id, on_progress, wait_timeout_s)

    def job(self, job_id: str) -> Job:
        """Where a job stands."""
        return self._ask(endpoints.job(job_id))

    def jobs(self, **filters: Unpack[JobFilters]) -> Iterator[Job]:
        """All jobs, the newest first; asked for page by page as they are taken. See JobFilters."""
        cursor: str | None = None
        while True:
            page = self._ask(endpoints.jobs(filters, cursor))
            yield from page.jobs
            if (cursor := page.next) is None:
                return

    def cancel(self, job_id: str) -> Job:
        """Stop a job; raises ServiceError job_already_ended where there is nothing to stop."""
        return self._ask(endpoints.cancel(job_id))

    def delete(self, job_id: str) -> Receipt:
        """Remove a job and all that is kept of it; the receipt says what was there.

        Raises:
            NotFound: also where the connection broke off after the deletion and the next try found it done
                (job_deleted).
        """
        return self._ask(endpoints.delete(job_id))

    def events(self, job_id: str) -> Generator[Event, None, None]:
        """A job's moments as they come, to that of its final state; a lost connection is taken up where it broke off.

        Raises:
            EventsUnavailable: what answers there has no stream of events.
        """
        return self._events(job_id, float("inf"))

    def wait(
        self,
        job_id: str,
        on_progress: Callable[[Job], object] | None = None,
        timeout_s: float = float("inf"),
    ) -> Result:
        """Wait until a job has succeeded, and take its result.

        Args:
            job_id: of submit's answer.
            on_progress: called with the job whenever it has moved on.
            timeout_s: how long to wait.

        Raises:
            JobFailed: with the code and the detail of what went wrong.
            JobCanceled: somebody canceled it.
            TimeoutError: it has not ended after `timeout_s`; it goes on all the same.
        """
        watch = Watch(job_id, timeout_s)
        with closing(self._moments(job_id, watch)) as moments:
            for job in moments:
                if on_progress is not None:
                    on_progress(job)
                if watch.succeeded(job):
                    break
        return self.result(job_id)

    def result(self, job_id: str, **filters: Unpack[ResultFilters]) -> Result:
        """A finished job's result; filters give another view of the same proposals. See ResultFilters."""
        return self._ask(endpoints.result(job_id, filters))

    def frames(self, job_id: str, rate: float | None = None) -> FrameScores:
        """The score of every class over time, `rate` times a second."""
        return self._ask(endpoints.frames(job_id, rate))

    def export(self, job_id: str, form: str, path: str | Path, **filters: Unpack[ExportFilters]) -> Path:
        """Write a result as a file that other programs read.

        Args:
            job_id: of a job that has succeeded.
            form: csv, vtt, eaf and so on, as the service knows them.
            path: where to; it is there when all of it is.
            filters: see ExportFilters.

        Raises:
            OSError: the file cannot be written.
        """
        return self._download(endpoints.export(job_id, form, filters), Path(path))

    def video(self, job_id: str, path: str | Path) -> Path:
        """Write a job's video to a file, while the service keeps it; raises NotFound, OSError."""
        return self._download(endpoints.video(job_id), Path(path))

    def labels(self) -> Labels:
        """All classes of the model, both levels."""
        return self._ask(endpoints.labels())

    def model(self) -> ModelCard:
        """The model that the workers have loaded."""
        return self._ask(endpoints.model())

    def webhook(self, job_id: str) -> Webhook:
        """How the delivery of a job's message went; raises NotFound (no_callback)."""
        return self._ask(endpoints.webhook(job_id))

    def resend_webhook(self, job_id: str) -> Webhook:
        """Send a job's message again, under the same id."""
        return self._ask(endpoints.resend_webhook(job_id))

    def _ask(self, call: Call[T]) -> T:
        def take(response: httpx.Response) -> T:
            response.read()
            return call.take(response)

        return self._try(call, take)

    def _download(self, call: Call[None], path: Path) -> Path:
        def take(response: httpx.Response) -> Path:
            with endpoints.written_aside(path) as file:
                for piece in response.iter_bytes(endpoints.PIECE_BYTES):
                    file.write(piece)
            return path

        return self._try(call, take)

    def _try(self, call: Call[Any], take: Callable[[httpx.Response], T]) -> T:
        tries = Tries(self._retries if call.repeatable else 0)
        while True:
            try:
                with self._answered(call) as response:
                    return take(response)
            except ServiceError as error:
                delay_s = tries.delay_s(error)
            time.sleep(delay_s)

    @contextmanager
    def _answered(self, call: Call[Any]) -> Iterator[httpx.Response]:
        """One try: a response that is a success, its body still to be read. Raises ServiceError."""
        with (
            told_apart(self._http.base_url),
            call.request(self._http) as request,
            closing(self._http.send(request, stream=True)) as response,
        ):
            if not response.is_success:
                response.read()
                raise error_of(response)
            yield response

    def _moments(self, job_id: str, watch: Watch) -> Generator[Job, None, None]:
        """The job as it moves on: told of where there are events, asked for where there are none.

        Also asked for when there is less time left than a stream may be silent: a read cannot be cut short.
        """
        try:
            with closing(self._events(job_id, watch.deadline - SILENCE_S)) as events:
                for event in events:
                    yield event.job
        except EventsUnavailable:
            pass
        while True:
            job = self.job(job_id)
            yield job
            time.sleep(watch.delay_s(job))

    def _events(self, job_id: str, until: float) -> Generator[Event, None, None]:
        """The events to the final one, or to a moment of the monotonic clock."""
        listener = Listener(self._retries)
        while not listener.done and not is_late(until):
            call = endpoints.events(job_id, listener.headers, SILENCE_S)
            try:
                with self._answered(call) as response:
                    listener.opened(response)
                    for piece in response.iter_bytes():
                        yield from listener.feed(piece)
                        if listener.done or is_late(until):
                            return
                delay_s = listener.delay_s()
            except ServiceError as error:
                delay_s = listener.delay_s(error)
            time.sleep(delay_s)
