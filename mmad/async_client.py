"""Async client of the API for asyncio and trio, with the methods of `mmad.client.Client`."""

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import anyio
import httpx
from anyio import to_thread

from mmad import endpoints, models
from mmad.connection import make_http
from mmad.endpoints import PAGE_JOBS, Call, ExportFilters, JobFilters, ResultFilters, SubmitOptions, Video, job_path
from mmad.errors import EventsUnavailable, PollSchedule, RetryDelays, ServiceError, parse_error, translate_errors
from mmad.files import replace_file
from mmad.models import DocumentT, Job, parse
from mmad.sse import READ_TIMEOUT_S, Event, EventStream

T = TypeVar("T")


class AsyncClient:
    """Async client of one service. See mmad.client.Client for arguments, retries and errors.

    Example: `async with AsyncClient() as client: result = await client.detect("interview.mp4")`.
    """

    def __init__(
        self, url: str | None = None, api_key: str | None = None, timeout_s: float = 60.0, retries: int = 3,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:  # fmt: skip
        self._http = make_http(httpx.AsyncClient, httpx.AsyncHTTPTransport, url, api_key, timeout_s, transport)
        self._retries = retries

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def submit(self, video: Video, **options: Unpack[SubmitOptions]) -> models.Accepted:
        """Submit a video. See Client.submit."""
        return await self._request(models.Accepted, endpoints.submit([video], options))

    async def submit_many(self, videos: Sequence[Video], **options: Unpack[SubmitOptions]) -> models.Batch:
        """Submit two or more videos in one request. See Client.submit_many."""
        return await self._request(models.Batch, endpoints.submit_many(videos, options))

    async def detect(
        self,
        video: Video,
        *,
        on_progress: Callable[[Job], Awaitable[object] | object] | None = None,
        wait_timeout_s: float = float("inf"),
        **options: Unpack[SubmitOptions],
    ) -> models.Result:
        """Submit a video and wait for its result. See Client.detect."""
        accepted = await self.submit(video, **options)
        return await self.wait(accepted.id, on_progress, wait_timeout_s)

    async def job(self, job_id: str) -> Job:
        """Return the current state of a job."""
        return await self._request(Job, Call("GET", job_path(job_id)))

    async def jobs(self, **filters: Unpack[JobFilters]) -> AsyncIterator[Job]:
        """Iterate over all jobs, newest first. See Client.jobs."""
        cursor: str | None = None
        while True:
            call = Call("GET", "/jobs", {**filters, "cursor": cursor, "limit": PAGE_JOBS})
            page = await self._request(models.JobPage, call)
            for job in page.jobs:
                yield job
            if (cursor := page.next) is None:
                return

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job. See Client.cancel."""
        return await self._request(Job, Call("POST", job_path(job_id, "cancel")))

    async def delete(self, job_id: str) -> models.Receipt:
        """Delete a job and all its files. See Client.delete."""
        return await self._request(models.Receipt, Call("DELETE", job_path(job_id)))

    def events(self, job_id: str) -> AsyncGenerator[Event, None]:
        """Iterate over the events of a job. See Client.events."""
        return self._events(job_id, float("inf"))

    async def wait(
        self,
        job_id: str,
        on_progress: Callable[[Job], Awaitable[object] | object] | None = None,
        timeout_s: float = float("inf"),
    ) -> models.Result:
        """Wait for a job and return its result. `on_progress` may be async. See Client.wait."""
        schedule = PollSchedule(job_id, timeout_s)
        async with aclosing(self._updates(job_id, schedule)) as updates:
            async for job in updates:
                if on_progress is not None and inspect.isawaitable(outcome := on_progress(job)):
                    await outcome
                if schedule.succeeded(job):
                    break
        return await self.result(job_id)

    async def result(self, job_id: str, **filters: Unpack[ResultFilters]) -> models.Result:
        """Return the result of a succeeded job. See Client.result."""
        return await self._request(models.Result, Call("GET", job_path(job_id, "result"), filters))

    async def frames(self, job_id: str, rate: float | None = None) -> models.FrameScores:
        """Return the score of every class over time, `rate` samples per second."""
        call = Call("GET", job_path(job_id, "result"), {"level": "frames", "rate": rate})
        return await self._request(models.FrameScores, call)

    async def export(self, job_id: str, form: str, path: str | Path, **filters: Unpack[ExportFilters]) -> Path:
        """Download a result in an export format. See Client.export."""
        return await self._download(Call("GET", job_path(job_id, "export"), {"format": form, **filters}), Path(path))

    async def video(self, job_id: str, path: str | Path) -> Path:
        """Download the video of a job. See Client.video."""
        return await self._download(Call("GET", job_path(job_id, "video")), Path(path))

    async def labels(self) -> models.Labels:
        """Return all classes of the model: actions and body parts."""
        return await self._request(models.Labels, Call("GET", "/labels"))

    async def model(self) -> models.ModelCard:
        """Return a description of the model that the workers have loaded."""
        return await self._request(models.ModelCard, Call("GET", "/model"))

    async def webhook(self, job_id: str) -> models.Webhook:
        """Return the delivery status of a job's webhook. See Client.webhook."""
        return await self._request(models.Webhook, Call("GET", job_path(job_id, "webhook")))

    async def resend_webhook(self, job_id: str) -> models.Webhook:
        """Deliver a job's webhook again. See Client.resend_webhook."""
        return await self._request(models.Webhook, Call("POST", job_path(job_id, "webhook/resend"), repeatable=False))

    async def _request(self, kind: type[DocumentT], call: Call) -> DocumentT:
        async def read(response: httpx.Response) -> DocumentT:
            return parse(kind, await response.aread())

        return await self._retry(call, read)

    async def _download(self, call: Call, path: Path) -> Path:
        async def save(response: httpx.Response) -> Path:
            with replace_file(path) as file:
                async for chunk in response.aiter_bytes(endpoints.CHUNK_BYTES):
                    await to_thread.run_sync(file.write, chunk)
            return path

        return await self._retry(call, save)

    async def _retry(self, call: Call, consume: Callable[[httpx.Response], Awaitable[T]]) -> T:
        delays = RetryDelays(self._retries if call.repeatable else 0)
        while True:
            try:
                async with self._send(call) as response:
                    return await consume(response)
            except ServiceError as error:
                await anyio.sleep(delays.delay_s(error))

    @asynccontextmanager
    async def _send(self, call: Call) -> AsyncIterator[httpx.Response]:
        """Send one attempt and yield the unread successful response; raises ServiceError."""
        with translate_errors(self._http.base_url), call.request(self._http) as request:
            if call.videos:
                request.stream = _ThreadedBody(request.stream)
            response = await self._http.send(request, stream=True)
            try:
                if not response.is_success:
                    await response.aread()
                    raise parse_error(response)
                yield response
            finally:
                await response.aclose()

    async def _updates(self, job_id: str, schedule: PollSchedule) -> AsyncGenerator[Job, None]:
        """Yield the job at every change. See Client._updates."""
        try:
            async with aclosing(self._events(job_id, schedule.deadline - READ_TIMEOUT_S)) as events:
                async for event in events:
                    yield event.job
        except EventsUnavailable:
            pass
        while True:
            job = await self.job(job_id)
            yield job
            await anyio.sleep(schedule.delay_s(job))

    async def _events(self, job_id: str, until: float) -> AsyncGenerator[Event, None]:
        """Yield events up to the final one, or until a time of the monotonic clock."""
        stream = EventStream(job_id, self._retries, until)
        while not stream.done:
            try:
                async with self._send(stream.call) as response, aclosing(stream.open(response).aiter_sse()) as messages:
                    async for message in messages:
                        for event in stream.parse(message):
                            yield event
                        if stream.done:
                            return
                delay_s = stream.delay_s()
            except ServiceError as error:
                delay_s = stream.delay_s(error)
            await anyio.sleep(delay_s)


class _ThreadedBody(httpx.AsyncByteStream):
    """A request body read in a thread, so that slow files do not block the event loop."""

    def __init__(self, body: Any) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = iter(self._body)
        while (chunk := await to_thread.run_sync(next, chunks, None)) is not None:
            yield chunk
