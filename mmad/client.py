"""A small client of the API: send a video, wait, take the result. Needs httpx and nothing else."""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

DEFAULT_URL = "http://127.0.0.1:8000"

Json = dict[str, Any]


class ServiceError(Exception):
    """The service refused, or a job failed; `code` is the service's stable code."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{detail} [{code}]")
        self.code = code
        self.detail = detail


class Client:
    """Talks to one service.

    Example: `with Client() as client: result = client.wait(client.submit("interview.mp4")["id"])`.
    """

    def __init__(self, url: str = DEFAULT_URL, timeout_s: float = 60.0) -> None:
        self._http = httpx.Client(base_url=url, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(self, video: str | Path, **parameters: str | float) -> Json:
        """Send a video; the answer has the job's `id`, `state` and `links`.

        Args:
            video: path of the file, sent piece by piece.
            parameters: of POST /detect: min_score, top_k, labels, region.

        Raises:
            ServiceError: the service refused it.
            OSError: the file cannot be read.
        """
        with Path(video).open("rb") as file:
            return self._json("POST", "/detect", params=parameters, files={"file": ("video", file)})

    def job(self, job_id: str) -> Json:
        """Where a job stands."""
        return self._json("GET", f"/jobs/{job_id}")

    def result(self, job_id: str, **parameters: str | float) -> Json:
        """A finished job's result; parameters give another view of the same proposals."""
        return self._json("GET", f"/jobs/{job_id}/result", params=parameters)

    def wait(
        self,
        job_id: str,
        on_progress: Callable[[Json], None] = lambda _job: None,
        poll_s: float = 0.25,
        timeout_s: float = float("inf"),
    ) -> Json:
        """Poll until a job has ended; returns its result.

        Raises:
            ServiceError: the job failed.
            TimeoutError: it has not ended after `timeout_s`; it goes on all the same.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            job = self.job(job_id)
            on_progress(job)
            if job["state"] == "failed":
                raise ServiceError(job["error"]["code"], job["error"]["detail"])
            if job["state"] == "succeeded":
                return self.result(job_id)
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"job {job_id} is still {job['state']} after {timeout_s:g} s; ask again later"
                )
            time.sleep(poll_s)

    def _json(self, method: str, path: str, **options: Any) -> Json:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            address = self._http.base_url
            raise ServiceError(
                "unreachable", f"no service answers at {address}: start one with mmad serve ({error})"
            ) from error
        try:
            body: Json = response.json()
        except ValueError as error:
            raise ServiceError(
                "not_mmad", f"{response.url} answers {response.status_code} without JSON"
            ) from error
        if response.is_error:
            raise ServiceError(body.get("code", "unknown"), body.get("detail", response.text))
        return body
