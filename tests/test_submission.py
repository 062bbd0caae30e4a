"""Submissions: idempotency keys, batches and `Prefer: wait`."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.app_state import AppState
from service.auth import Caller
from service.errors import Problem
from service.job_schemas import JobError, State
from service.jobs import Jobs, job_key
from service.submission import parse_preferred_wait
from tests.conftest import wait_for
from tests.fake_service import VIDEO, assert_problem, finish_job, stored_files

OTHER = VIDEO + b"other"


def send(api: TestClient, content: bytes = VIDEO, key: str = "k1", **params: str) -> object:
    return api.post("/detect", content=content, params=params, headers={"idempotency-key": key})


def test_repeated_request_returns_same_job(api: TestClient, app_state: AppState) -> None:
    first, repeated = send(api, tag="x"), send(api, tag="x")
    assert first.status_code == repeated.status_code == 202
    assert "idempotency-replayed" not in first.headers
    assert repeated.headers["idempotency-replayed"] == "true"
    assert first.json() == repeated.json()
    assert repeated.headers["location"] == first.headers["location"]
    assert app_state.queue.ids == [first.json()["id"]]
    assert len(app_state.store.names("jobs")) == 1


@pytest.mark.parametrize("change", ["body", "parameter"])
def test_reused_key_with_other_request_is_refused(api: TestClient, app_state: AppState, change: str) -> None:
    send(api)
    other = send(api, OTHER) if change == "body" else send(api, min_score="0.5")
    assert "'k1' was used at 20" in assert_problem(other, "idempotency_conflict")
    assert len(app_state.store.names("jobs")) == len(app_state.queue.ids) == 1


def test_other_key_creates_other_job(api: TestClient, app_state: AppState) -> None:
    assert send(api).json()["id"] != send(api, key="k2").json()["id"]
    assert len(app_state.queue.ids) == 2


def test_replayed_response_has_current_state(api: TestClient, app_state: AppState) -> None:
    job_id = send(api).json()["id"]
    finish_job(app_state, job_id)
    repeated = send(api)
    assert (repeated.json()["id"], repeated.json()["state"]) == (job_id, "succeeded")


def test_concurrent_requests_with_same_key_create_one_job(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All videos are stored before the first request claims the key."""
    barrier = threading.Barrier(4)
    swap = app_state.store.compare_and_swap

    def swap_together(name: str, expected: bytes | None, content: bytes) -> bool:
        if name.startswith("idempotency/") and expected is None and b'"queued":false' in content:
            barrier.wait(10)  # all requests have read that the key is unused
        return swap(name, expected, content)

    monkeypatch.setattr(app_state.store, "compare_and_swap", swap_together)
    with ThreadPoolExecutor(4) as threads:
        responses = list(threads.map(lambda _: send(api), range(4)))
    assert {response.status_code for response in responses} == {202}
    assert len({response.json()["id"] for response in responses}) == 1
    assert sum("idempotency-replayed" in response.headers for response in responses) == 3
    assert app_state.queue.ids == [responses[0].json()["id"]]
    assert len(app_state.store.names("jobs")) == len(app_state.store.names("pending/open")) == 1
    assert app_state.store.names("uploads") == []


def test_waiting_request_creates_job_after_first_fails(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request blocks and then fails; the second, with the same key, waits for it."""
    blocked, released = threading.Event(), threading.Event()
    try_enqueue = app_state.queue.try_enqueue

    def first_fails(job_id: str) -> None:
        if not blocked.is_set():
            blocked.set()
            released.wait(10)
            raise RuntimeError("broken")
        try_enqueue(job_id)

    monkeypatch.setattr(app_state.queue, "try_enqueue", first_fails)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(send, api)
        assert blocked.wait(10)
        second = threads.submit(send, api)
        wait_for(lambda: len(app_state.store.names("uploads")) == 2, seconds=10)
        released.set()
        assert_problem(first.result(), "internal_error")
        accepted = second.result()
    assert accepted.status_code == 202
    assert "idempotency-replayed" not in accepted.headers
    assert api.get(f"/jobs/{accepted.json()['id']}").json()["state"] == "queued"
    assert app_state.queue.ids == app_state.store.names("jobs") == [accepted.json()["id"]]


def test_failed_upload_releases_key(api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_job_id: str) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(app_state.queue, "try_enqueue", broken)
    assert_problem(send(api), "internal_error")
    assert stored_files(app_state) == []
    monkeypatch.undo()
    assert "idempotency-replayed" not in send(api, OTHER).headers


def test_deleted_job_releases_key(api: TestClient, app_state: AppState) -> None:
    first = send(api).json()["id"]
    assert api.delete(f"/jobs/{first}").status_code == 200
    repeated = send(api)
    assert repeated.json()["id"] != first
    assert "idempotency-replayed" not in repeated.headers
    assert app_state.queue.ids == [repeated.json()["id"]]


def test_repeated_request_is_replayed_at_job_limit(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited: list[bool] = []
    check_limits = app_state.auth.check_limits

    def at_limit(caller: Caller, jobs: Jobs, upload_bytes: int, count: int) -> None:
        if limited:
            raise Problem("too_many_jobs", "no more jobs for this key")
        check_limits(caller, jobs, upload_bytes, count)

    monkeypatch.setattr(app_state.auth, "check_limits", at_limit)
    first = send(api).json()
    limited.append(True)
    assert send(api).json() == first
    assert_problem(send(api, key="k2"), "too_many_jobs")


def test_batch_creates_job_per_video(api: TestClient, app_state: AppState) -> None:
    videos = [VIDEO, OTHER, VIDEO + b"third"]
    response = api.post(
        "/detect?tag=t", files=[("file", (f"{n}.mp4", video)) for n, video in enumerate(videos)], data={"top_k": "2"}
    )
    assert response.status_code == 202
    body = response.json()
    ids = [job["id"] for job in body["jobs"]]
    assert app_state.queue.ids == ids
    assert [app_state.store.get(job_key(job_id, "video")) for job_id in ids] == videos
    assert {app_state.jobs.get(job_id).options.top_k for job_id in ids} == {2}
    assert response.headers["location"] == body["links"]["jobs"] == f"/jobs?batch={body['batch']}"
    api.post("/detect", content=VIDEO)
    listed = api.get(body["links"]["jobs"]).json()["jobs"]
    assert {job["id"] for job in listed} == set(ids)
    assert {job["batch"] for job in listed} == {body["batch"]}


def test_repeated_batch_is_replayed(api: TestClient, app_state: AppState) -> None:
    files = [("file", ("a", VIDEO)), ("file", ("b", OTHER))]
    first, repeated = (api.post("/detect", files=files, headers={"idempotency-key": "b"}) for _ in range(2))
    assert first.json() == repeated.json()
    assert repeated.headers["idempotency-replayed"] == "true"
    swapped = api.post("/detect", files=files[::-1], headers={"idempotency-key": "b"})
    assert_problem(swapped, "idempotency_conflict")
    assert len(app_state.store.names("jobs")) == 2


def test_failed_batch_leaves_no_files(api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch) -> None:
    create, created = app_state.jobs.create, []

    def second_fails(*arguments: Any, **options: Any) -> Any:
        if created:
            raise RuntimeError("broken")
        created.append(1)
        return create(*arguments, **options)

    monkeypatch.setattr(app_state.jobs, "create", second_fails)
    response = api.post("/detect", files=[("file", ("a", VIDEO)), ("file", ("b", OTHER))])
    assert_problem(response, "internal_error")
    assert stored_files(app_state) == []


def test_form_fields_are_validated_before_the_file(api: TestClient, app_state: AppState) -> None:
    """The file is invalid too, but is not read."""
    form = {"data": {"min_score": "7"}, "files": {"file": ("x", b"text" * 200)}}
    assert "min_score=7" in assert_problem(api.post("/detect", **form), "invalid_parameter")
    assert stored_files(app_state) == []


def test_prefer_wait_returns_result(api: TestClient, app_state: AppState) -> None:
    def work() -> None:
        deadline = time.monotonic() + 20
        while not app_state.queue.ids and time.monotonic() < deadline:
            time.sleep(0.01)
        finish_job(app_state, app_state.queue.ids[0])

    worker = threading.Thread(target=work)
    worker.start()
    response = api.post("/detect", content=VIDEO, headers={"prefer": "respond-async, wait=20"})
    worker.join()
    assert response.status_code == 200
    assert response.headers["preference-applied"] == "wait=20"
    assert len(response.json()["detections"]) == 4
    assert response.headers["location"] == f"/jobs/{app_state.queue.ids[0]}"


def test_prefer_wait_returns_job_after_timeout_or_failure(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = api.post("/detect", content=VIDEO, headers={"prefer": "wait=0"})
    assert (response.status_code, response.json()["state"]) == (202, "queued")
    try_enqueue = app_state.queue.try_enqueue

    def enqueue_and_fail(job_id: str) -> None:
        try_enqueue(job_id)
        finish_job(app_state, job_id, JobError(code="damaged_video", detail="x"))

    monkeypatch.setattr(app_state.queue, "try_enqueue", enqueue_and_fail)
    response = api.post("/detect", content=OTHER, headers={"prefer": "wait=20"})
    assert (response.status_code, response.json()["state"]) == (202, "failed")
    assert app_state.jobs.get(response.json()["id"]).state is State.FAILED


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None), ("", None), ("wait=10", 10), ("Wait = 10", 10), ("respond-async; x, wait=\"7\"", 7),
        ("wait=999", 60), ("wait=-1", None), ("wait=x", None), ("await=5", None), ("wait=5x", None), ("wait=0", 0),
    ],
)  # fmt: skip
def test_parse_preferred_wait(header: str | None, seconds: int | None) -> None:
    assert parse_preferred_wait(header) == seconds


def test_batch_upload_opens_one_file_at_a_time(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow upload may otherwise hold many files open."""
    opened: list[int] = []
    counts: list[int] = []
    open_writer = app_state.store.open_writer

    @contextmanager
    def counting_writer(name: str) -> Iterator[Any]:
        opened.append(1)
        counts.append(len(opened))
        with open_writer(name) as file:
            yield file
        opened.pop()

    monkeypatch.setattr(app_state.store, "open_writer", counting_writer)
    batch = api.post("/detect", files=[("file", (name, VIDEO + name.encode())) for name in "abc"]).json()
    assert max(counts) == 1
    assert opened == []
    for job, name in zip(batch["jobs"], "abc", strict=True):
        assert app_state.store.get(job_key(job["id"], "video")) == VIDEO + name.encode()


def test_batch_above_queue_limit_is_refused(api: TestClient, app_state: AppState) -> None:
    app_state.settings = app_state.settings.model_copy(update={"max_queued_jobs": 2})
    files = [("file", (name, VIDEO + name.encode())) for name in "abc"]
    assert "MMAD_MAX_QUEUED_JOBS" in assert_problem(api.post("/detect", files=files), "queue_full")
    assert stored_files(app_state) == []
    assert len(api.post("/detect", files=files[:2]).json()["jobs"]) == 2
