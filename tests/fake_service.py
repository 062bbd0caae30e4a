"""A job queue that only records ids, and helpers that make and finish jobs without a worker."""

from typing import Any

from service.app_state import AppState
from service.errors import CATALOGUE
from service.job_schemas import JobError, JobOptions, Stage, State
from service.jobs import Jobs, Upload, attempt_key, job_key, new_job_id
from service.queue import JobQueue, Progress, Throughput, connect
from service.results import make_result
from service.schemas import ModelCard, View
from service.settings import Settings
from service.store import FolderStore
from tests.result_examples import EXAMPLE, LABELS

VIDEO = b"\0\0\0\x18ftypisom" + bytes(3000)


class RecordingQueue(JobQueue):
    def __init__(self, store: FolderStore) -> None:
        # There is no Redis for the methods that are not overridden.
        super().__init__(connect(Settings(redis_url="unix:///nowhere/redis.sock"), retries=0), 60)
        self.store = store
        self.ids: list[str] = []
        self.unavailable = False

    def try_enqueue(self, job_id: str) -> None:
        # A worker may start at once: record and video must exist.
        assert Jobs(self.store).get(job_id).state is State.QUEUED
        assert self.store.get(job_key(job_id, "video"))
        if not self.unavailable:
            self.ids.append(job_id)

    def remove(self, job_id: str) -> None:
        if job_id in self.ids:
            self.ids.remove(job_id)

    def get_progress(self, job_id: str) -> Progress:
        return Progress(Stage.DETECTING, 0.5)

    def get_position(self, job_id: str) -> int | None:
        return self.ids.index(job_id) if job_id in self.ids else None

    def get_throughput(self) -> Throughput:
        return Throughput(4.0, 2)

    def check(self) -> dict[str, str]:
        return {"redis": "ok", "workers": "none is running"}


def stored_files(app_state: AppState) -> list[str]:
    return [entry.key for entry in app_state.store.entries("") if not entry.key.startswith("locks/")]


def assert_problem(response: object, code: str) -> str:
    assert response.headers["content-type"] == "application/problem+json"  # type: ignore[attr-defined]
    body = response.json()  # type: ignore[attr-defined]
    assert body["code"] == code
    assert body["status"] == response.status_code == CATALOGUE[code].status  # type: ignore[attr-defined]
    assert body["title"] == CATALOGUE[code].title
    return str(body["detail"])


def finish_job(app_state: AppState, job_id: str, error: JobError | None = None) -> None:
    """Bring a job to its final state as a worker does."""
    record = app_state.jobs.change(app_state.jobs.get(job_id), State.RUNNING)
    if error is None:
        app_state.store.put(attempt_key(record, "proposals.npz"), EXAMPLE.to_bytes())
        result = make_result(EXAMPLE, View()).model_dump_json()
        app_state.store.put(attempt_key(record, "result.json"), result.encode())
    app_state.jobs.change(record, State.FAILED if error else State.SUCCEEDED, error)


def make_finished_job(app_state: AppState, error: JobError | None = None, **options: Any) -> str:
    job_id = new_job_id()
    app_state.store.put(job_key(job_id, "video"), VIDEO)
    upload = Upload(bytes=len(VIDEO), sha256="0")
    app_state.jobs.create(job_id, upload, JobOptions(**options), retention_s=60)
    finish_job(app_state, job_id, error)
    return job_id


def make_model_card() -> ModelCard:
    return ModelCard(
        bundle="b", version="1", weights_sha256="0", engine="e", precision="fp32", trained_on=None, licence="x",
        device="cpu", fps=15, window_s=1, input_width=1, input_height=1, metrics=None, calibrated=False, thresholds=[0.5] * 3,
        labels=LABELS, warnings=[],
    )  # fmt: skip
