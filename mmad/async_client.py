"""The client for async code, on asyncio or trio: the methods of `mmad.client.Client`, to be awaited."""

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import anyio
import httpx
from anyio import to_thread

from mmad import endpoints
from mmad.connection import make_http
from mmad.endpoints import Call, ExportFilters, JobFilters, ResultFilters, SubmitOptions, Video
from mmad.errors import EventsUnavailable, ServiceError, Tries, Watch, error_of, told_apart
from mmad.models import (
    Accepted,
    Batch,
    FrameScores,
    Job,
    Labels,
    ModelCard,
    Receipt,
    Result,
    Webhook,
)
from mmad.sse import SILENCE_S, Event, Listener, is_late

T = TypeVar("T")


class AsyncClient:
    """Talks to one service; see mmad.client.Client for arguments, retries and errors.

    Example: `async with AsyncClient() as client: result = await client.detect("interview.mp4")`.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 3,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = make_http(
            httpx.AsyncClient, httpx.AsyncHTTPTransport, url, api_key, timeout_s, transport
        )
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

    async def submit(self, video: Video, **options: Unpack[SubmitOptions]) -> Accepted:
        """Send a video; see Client.submit."""
        return await self._ask(endpoints.submit(video, options))

    async def submit_many(self, videos: Sequence[Video], **options: Unpack[SubmitOptions]) -> Batch:
        """Send two videos or more in one request; see Client.submit_many."""
        return await self._ask(endpoints.submit_many(videos, options))

    async def detect(
        self,
        video: Video,
        *,
        on_progress: Callable[[Job], Awaitable[object] | object] | None = None,
        wait_timeout_s: float = float("inf"),
        **options: Unpack[SubmitOptions],
    ) -> Result:
        """Send a video and wait for its result; see Client.detect."""
        accepted = await self.submit(video, **options)
        return await self.wait(accepted.id, on_progress, wait_timeout_s)

    async def job(self, job_id: str) -> Job:
        """Where a job stands."""
        return await self._ask(endpoints.job(job_id))

    async def jobs(self, **filters: Unpack[JobFilters]) -> AsyncIterator[Job]:
        """All jobs, the newest first; see Client.jobs."""
        cursor: str | None = None
        while True:
            page = await self._ask(endpoints.jobs(filters, cursor))
            for job in page.jobs:
                yield job
            if (cursor := page.next) is None:
                return

    async def cancel(self, job_id: str) -> Job:
        """Stop a job; see Client.cancel."""
        return await self._ask(endpoints.cancel(job_id))

    async def delete(self, job_id: str) -> Receipt:
        """Remove a job and all that is kept of it; see Client.delete."""
        return await self._ask(endpoints.delete(job_id))

    def events(self, job_id: str) -> AsyncGenerator[Event, None]:
        """A job's moments as they come; see Client.events."""
        return self._events(job_id, float("inf"))

    async def wait(
        self,
        job_id: str,
        on_progress: Callable[[Job], Awaitable[object] | object] | None = None,
        timeout_s: float = float("inf"),
    ) -> Result:
        """Wait until a job has succeeded, and take its result; `on_progress` may be async. See Client.wait."""
        watch = Watch(job_id, timeout_s)
        async with aclosing(self._moments(job_id, watch)) as moments:
            async for job in moments:
                if on_progress is not None and inspect.isawaitable(said := on_progress(job)):
                    await said
                if watch.succeeded(job):
                    break
        return await self.result(job_id)

    async def result(self, job_id: str, **filters: Unpack[ResultFilters]) -> Result:
        """A finished job's result; see Client.result."""
        return await self._ask(endpoints.result(job_id, filters))

    async def frames(self, job_id: str, rate: float | None = None) -> FrameScores:
        """The score of every class over time, `rate` times a second."""
        return await self._ask(endpoints.frames(job_id, rate))

    async def export(
        self, job_id: str, form: str, path: str | Path, **filters: Unpack[ExportFilters]
    ) -> Path:
        """Write a result as a file that other programs read; see Client.export."""
        return await self._download(endpoints.export(job_id, form, filters), Path(path))

    async def video(self, job_id: str, path: str | Path) -> Path:
        """Write a job's video to a file; see Client.video."""
        return await self._download(endpoints.video(job_id), Path(path))

    async def labels(self) -> Labels:
        """All classes of the model, both levels."""
        return await self._ask(endpoints.labels())

    async def model(self) -> ModelCard:
        """The model that the workers have loaded."""
        return await self._ask(endpoints.model())

    async def webhook(self, job_id: str) -> Webhook:
        """How the delivery of a job's message went; see Client.webhook."""
        return await self._ask(endpoints.webhook(job_id))

    async def resend_webhook(self, job_id: str) -> Webhook:
        """Send a job's message again, under the same id."""
        return await self._ask(endpoints.resend_webhook(job_id))

    async def _ask(self, call: Call[T]) -> T:
        async def take(response: httpx.Response) -> T:
            await response.aread()
            return call.take(response)

        return await self._try(call, take)

    async def _download(self, call: Call[None], path: Path) -> Path:
        async def take(response: httpx.Response) -> Path:
            with endpoints.written_aside(path) as file:
                async for piece in response.aiter_bytes(endpoints.PIECE_BYTES):
                    await to_thread.run_sync(file.write, piece)
            return path

        return await self._try(call, take)

    async def _try(self, call: Call[Any], take: Callable[[httpx.Response], Awaitable[T]]) -> T:
        tries = Tries(self._retries if call.repeatable else 0)
        while True:
            try:
                async with self._answered(call) as response:
                    return await take(response)
            except ServiceError as error:
                delay_s = tries.delay_s(error)
            await anyio.sleep(delay_s)

    @asynccontextmanager
    async def _answered(self, call: Call[Any]) -> AsyncIterator[httpx.Response]:
        """One try: a response that is a success, its body still to be read. Raises ServiceError."""
        with told_apart(self._http.base_url), call.request(self._http) as request:
            if call.videos:
                request.stream = _InThread(request.stream)
            response = await self._http.send(request, stream=True)
            try:
                if not response.is_success:
                    await response.aread()
                    raise error_of(response)
                yield response
            finally:
                await response.aclose()

    async def _moments(self, job_id: str, watch: Watch) -> AsyncGenerator[Job, None]:
        """The job as it moves on; see Client._moments."""
        try:
            async with aclosing(self._events(job_id, watch.deadline - SILENCE_S)) as events:
                async for event in events:
                    yield event.job
        except EventsUnavailable:
            pass
        while True:
            job = await self.job(job_id)
            yield job
            await anyio.sleep(watch.delay_s(job))

    async def _events(self, job_id: str, until: float) -> AsyncGenerator[Event, None]:
        """The events to the final one, or to a moment of the monotonic clock."""
        listener = Listener(self._retries)
        while not listener.done and not is_late(until):
            call = endpoints.events(job_id, listener.headers, SILENCE_S)
            try:
                async with self._answered(call) as response:
                    listener.opened(response)
                    async for piece in response.aiter_bytes():
                        for event in listener.feed(piece):
                            yield event
                        if listener.done or is_late(until):
                            return
                delay_s = listener.delay_s()
            except ServiceError as error:
                delay_s = listener.delay_s(error)
            await anyio.sleep(delay_s)


class _InThread(httpx.AsyncByteStream):
    """A body that is read from files in a thread, so that a slow disk stops nobody else."""

    def __init__(self, body: Any) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = iter(self._body)
        while (piece := await to_thread.run_sync(next, pieces, None)) is not None:
            yield piece
