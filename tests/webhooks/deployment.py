"""A store with webhook jobs, and scripted responses of receivers."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from service.egress_guard import PostResult
from service.job_schemas import JobError, JobOptions, Links, State, Webhook
from service.jobs import ANONYMOUS_OWNER, Jobs, Record, Upload, new_job_id
from service.settings import Settings
from service.store import FolderStore
from service.webhooks import Post, Webhooks

SUCCEEDED, FAILED, CANCELED = State.SUCCEEDED, State.FAILED, State.CANCELED


def links(job_id: str) -> Links:
    here = f"/jobs/{job_id}"
    return Links(
        self=here, result=f"{here}/result", export=f"{here}/export", events=f"{here}/events", cancel=f"{here}/cancel"
    )


class Deployment:
    """A store with jobs, and any number of service processes that use it."""

    def __init__(self, folder: Path, store: FolderStore | None = None) -> None:
        self.settings = Settings(data_dir=folder, webhook_allow_private=True)
        self.store = store or FolderStore(folder / "store")
        self.jobs = Jobs(self.store)

    def process(self, post: Post | None = None) -> Webhooks:
        return Webhooks(self.jobs, self.settings, links, post)

    def make_job(
        self,
        url: str | None = "http://hooks.example.org/",
        state: State | None = SUCCEEDED,
        owner: str = ANONYMOUS_OWNER,
    ) -> Record:
        """Make a job in a state; None: queued."""
        options = JobOptions.model_validate({"callback_url": url, "tag": "walk 7"})
        upload = Upload(bytes=3, sha256="ab" * 32)
        record = self.jobs.create(new_job_id(), upload, options, retention_s=3600, owner=owner)
        if state is None:
            return record
        record = self.jobs.change(record, State.RUNNING)
        error = JobError(code="damaged_video", detail="it cannot be decoded") if state is FAILED else None
        return self.jobs.change(record, state, error)

    def pending_ids(self) -> list[str]:
        return self.store.names("callbacks")

    def get_webhook(self, record: Record) -> Webhook:
        return self.process(unexpected_post).get(record)


class ScriptedPost:
    """Returns one of the given responses per request and records the requests."""

    def __init__(self, responses: Iterable[PostResult | int]) -> None:
        self._responses = iter(responses)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []

    def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        self.requests.append((url, dict(headers), body))
        response = next(self._responses)
        return PostResult(response) if isinstance(response, int) else response


def unexpected_post(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
    raise AssertionError(f"unexpected request to {url}")


def now() -> datetime:
    return datetime.now(UTC)
