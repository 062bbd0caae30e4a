"""Uploads sent twice, uploads of several videos, uploads whose callers wait."""

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


def send(api: TestClient, content: bytes = VIDEO, key_: str = "k1", **params: str) -> object:
    return api.post("/detect", content=content, params=params, headers={"idempotency-key": key_})


def test_the_same_key_and_body_is_the_same_job(api: TestClient, app_state: AppState) -> None:
    first, again = send(api, tag="x"), send(api, tag="x")
    assert first.status_code == again.status_code == 202
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert first.json() == again.json()
    assert again.headers["location"] == first.headers["location"]
    assert app_state.queue.ids == [first.json()["id"]]
    assert len(app_state.store.names("jobs")) == 1


@pytest.mark.parametrize("change", ["body", "parameter"])
def test_the_same_key_for_something_else_is_refused(api: TestClient, app_state: AppState, change: str) -> None:
    send(api)
    other = send(api, OTHER) if change == "body" else send(api, min_score="0.5")
    assert "'k1' was used at 20" in assert_problem(other, "idempotency_conflict")
    assert len(app_state.store.names("jobs")) == len(app_state.queue.ids) == 1


def test_another_key_is_another_job(api: TestClient, app_state: AppState) -> None:
    assert send(api).json()["id"] != send(api, key_="k2").json()["id"]
    assert len(app_state.queue.ids) == 2


def test_the_answer_tells_where_the_job_is_by_now(api: TestClient, app_state: AppState) -> None:
    job_id = send(api).json()["id"]
    finish_job(app_state, job_id)
    again = send(api)
    assert (again.json()["id"], again.json()["state"]) == (job_id, "succeeded")


def test_two_at_the_same_moment_make_one_job(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All have their videos stored before the first takes the key; the others wait until its job is queued."""
    together = threading.Barrier(4)
    swap = app_state.store.compare_and_swap

    def late(name: str, expected: bytes | None, content: bytes) -> bool:
        if name.startswith("idempotency/") and expected is None and b'"queued":false' in content:
            together.wait(10)  # all have looked, and found the key free
        return swap(name, expected, content)

    monkeypatch.setattr(app_state.store, "compare_and_swap", late)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: send(api), range(4)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 3
    assert app_state.queue.ids == [answers[0].json()["id"]]
    assert len(app_state.store.names("jobs")) == len(app_state.store.names("pending/open")) == 1
    assert app_state.store.names("uploads") == []


def test_a_job_is_not_promised_twice_and_then_taken_back(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first hangs at the end and fails; the second, with the same key, waited and makes the job itself."""
    hangs, waits = threading.Event(), threading.Event()
    offer = app_state.queue.try_enqueue

    def first_fails(job_id: str) -> None:
        if not hangs.is_set():
            hangs.set()
            waits.wait(10)
            raise RuntimeError("broken")
        offer(job_id)

    monkeypatch.setattr(app_state.queue, "try_enqueue", first_fails)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(send, api)
        assert hangs.wait(10)
        second = threads.submit(send, api)
        wait_for(lambda: len(app_state.store.names("uploads")) == 2, seconds=10)
        waits.set()
        assert_problem(first.result(), "internal_error")
        taken = second.result()
    assert taken.status_code == 202
    assert "idempotency-replayed" not in taken.headers
    assert api.get(f"/jobs/{taken.json()['id']}").json()["state"] == "queued"
    assert app_state.queue.ids == app_state.store.names("jobs") == [taken.json()["id"]]


def test_a_key_whose_upload_failed_is_free(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_job_id: str) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(app_state.queue, "try_enqueue", broken)
    assert_problem(send(api), "internal_error")
    assert stored_files(app_state) == []
    monkeypatch.undo()
    assert "idempotency-replayed" not in send(api, OTHER).headers


def test_a_key_whose_job_was_deleted_is_free(api: TestClient, app_state: AppState) -> None:
    first = send(api).json()["id"]
    assert api.delete(f"/jobs/{first}").status_code == 200
    again = send(api)
    assert again.json()["id"] != first
    assert "idempotency-replayed" not in again.headers
    assert app_state.queue.ids == [again.json()["id"]]


def test_a_request_sent_again_is_answered_at_the_limit(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    full: list[bool] = []
    check_limits = app_state.auth.check_limits

    def at_limit(caller: Caller, jobs: Jobs, coming_bytes: int, count: int) -> None:
        if full:
            raise Problem("too_many_jobs", "no more jobs for this key")
        check_limits(caller, jobs, coming_bytes, count)

    monkeypatch.setattr(app_state.auth, "check_limits", at_limit)
    first = send(api).json()
    full.append(True)
    assert send(api).json() == first
    assert_problem(send(api, key_="k2"), "too_many_jobs")


def test_several_videos_are_several_jobs_of_a_batch(api: TestClient, app_state: AppState) -> None:
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


def test_a_batch_is_replayed_as_a_batch(api: TestClient, app_state: AppState) -> None:
    files = [("file", ("a", VIDEO)), ("file", ("b", OTHER))]
    first, again = (api.post("/detect", files=files, headers={"idempotency-key": "b"}) for _ in range(2))
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    swapped = api.post("/detect", files=files[::-1], headers={"idempotency-key": "b"})
    assert_problem(swapped, "idempotency_conflict")
    assert len(app_state.store.names("jobs")) == 2


def test_a_batch_that_cannot_be_made_whole_leaves_nothing(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, made = app_state.jobs.create, []

    def second_fails(*arguments: Any, **options: Any) -> Any:
        if made:
            raise RuntimeError("broken")
        made.append(1)
        return create(*arguments, **options)

    monkeypatch.setattr(app_state.jobs, "create", second_fails)
    response = api.post("/detect", files=[("file", ("a", VIDEO)), ("file", ("b", OTHER))])
    assert_problem(response, "internal_error")
    assert stored_files(app_state) == []


def test_fields_before_the_file_are_judged_before_it(api: TestClient, app_state: AppState) -> None:
    """The file would be refused too, had it been read."""
    form = {"data": {"min_score": "7"}, "files": {"file": ("x", b"text" * 200)}}
    assert "min_score=7" in assert_problem(api.post("/detect", **form), "invalid_parameter")
    assert stored_files(app_state) == []


def test_who_waits_gets_the_result(api: TestClient, app_state: AppState) -> None:
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


def test_who_waits_in_vain_or_for_a_failure_gets_the_job(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = api.post("/detect", content=VIDEO, headers={"prefer": "wait=0"})
    assert (response.status_code, response.json()["state"]) == (202, "queued")
    offer = app_state.queue.try_enqueue

    def fails(job_id: str) -> None:
        offer(job_id)
        finish_job(app_state, job_id, JobError(code="damaged_video", detail="x"))

    monkeypatch.setattr(app_state.queue, "try_enqueue", fails)
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
def test_how_long_a_caller_prefers_to_wait(header: str | None, seconds: int | None) -> None:
    assert parse_preferred_wait(header) == seconds


def test_one_file_is_open_at_a_time(api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many a request brings: it may take an hour to bring them."""
    opened: list[int] = []
    most: list[int] = []
    writing = app_state.store.open_writer

    @contextmanager
    def counting(name: str) -> Iterator[Any]:
        opened.append(1)
        most.append(len(opened))
        with writing(name) as file:
            yield file
        opened.pop()

    monkeypatch.setattr(app_state.store, "open_writer", counting)
    batch = api.post("/detect", files=[("file", (name, VIDEO + name.encode())) for name in "abc"]).json()
    assert max(most) == 1
    assert opened == []
    for job, name in zip(batch["jobs"], "abc", strict=True):
        assert app_state.store.get(job_key(job["id"], "video")) == VIDEO + name.encode()


def test_a_batch_that_the_queue_has_no_room_for(api: TestClient, app_state: AppState) -> None:
    app_state.settings = app_state.settings.model_copy(update={"max_queued_jobs": 2})
    files = [("file", (name, VIDEO + name.encode())) for name in "abc"]
    assert "MMAD_MAX_QUEUED_JOBS" in assert_problem(api.post("/detect", files=files), "queue_full")
    assert stored_files(app_state) == []
    assert len(api.post("/detect", files=files[:2]).json()["jobs"]) == 2
