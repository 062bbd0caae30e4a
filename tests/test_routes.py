"""Routes of jobs: list, cancel, delete, events, video, export and webhook."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service import events, listing
from service.app_state import AppState
from service.exports import FORMATS
from service.job_schemas import JobError, JobOptions, State
from service.jobs import Upload, job_key, new_job_id
from service.queue import Progress
from service.routes.results import parse_range
from service.sweeper import Sweeper
from tests.fake_service import VIDEO, assert_problem, make_finished_job


def send(api: TestClient, **params: Any) -> str:
    return str(api.post("/detect", content=VIDEO, params=params).json()["id"])


def list_pages(api: TestClient, **params: Any) -> Iterator[list[str]]:
    """Yield the job ids of every page."""
    while True:
        page = api.get("/jobs", params=params).json()
        yield [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            return
        params["cursor"] = page["next"]


def test_job_shows_queue_position_estimate_and_expiry(api: TestClient, app_state: AppState) -> None:
    first, second = send(api), send(api, tag="t")
    queued = api.get(f"/jobs/{second}").json()
    assert (queued["queue_position"], queued["estimate_s"], queued["tag"]) == (1, 4 * 1.5, "t")
    app_state.queue.ids.remove(first)
    app_state.jobs.change(app_state.jobs.get(first), State.RUNNING)
    running = api.get(f"/jobs/{first}").json()
    assert running["queue_position"] is None
    assert 0 < running["estimate_s"] < 5  # half done: remaining time equals elapsed time
    assert running["expires_at"] is None
    ended = api.get(f"/jobs/{make_finished_job(app_state)}").json()
    assert (ended["queue_position"], ended["estimate_s"]) == (None, None)
    retention = datetime.fromisoformat(ended["expires_at"]) - datetime.fromisoformat(ended["changes"][-1]["at"])
    assert retention == timedelta(seconds=60)


def test_job_list_is_paginated(api: TestClient, app_state: AppState) -> None:
    ids = [send(api) for _ in range(5)]
    pages = list(list_pages(api, limit=2))
    assert [len(page) for page in pages] == [2, 2, 1]
    flat = [job_id for page in pages for job_id in page]
    assert flat == sorted(ids, reverse=True)
    assert [len(page) for page in list_pages(api, limit=5)] == [5]
    assert api.get("/jobs?batch=x").json() == {"jobs": [], "next": None}


def test_job_list_is_filtered(api: TestClient, app_state: AppState) -> None:
    plain, tagged, done = send(api), send(api, tag="red"), make_finished_job(app_state, tag="red")
    assert list(list_pages(api, tag="red")) == [sorted([tagged, done], reverse=True)]
    assert list(list_pages(api, tag="red", state="succeeded")) == [[done]]
    assert set(next(list_pages(api, state="queued"))) == {plain, tagged}
    middle = app_state.jobs.get(done).changes[0].at
    assert list(list_pages(api, since=middle.isoformat())) == [[done]]
    assert set(next(list_pages(api, until=middle.isoformat()))) == {plain, tagged}
    for wrong in (
        {"limit": 0},
        {"limit": 101},
        {"state": "lost"},
        {"since": "yesterday"},
        {"until": "0.5"},
        {"since": "2026-03-01T12:00:00"},
        {"cursor": "x"},
    ):
        assert_problem(api.get("/jobs", params=wrong), "invalid_parameter")
    assert_problem(api.get("/jobs?colour=red"), "unknown_parameter")


def test_job_list_reads_limited_records_per_page(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = send(api, tag="rare")
    for _ in range(6):
        send(api)
    monkeypatch.setattr(listing, "_MAX_RECORDS_READ", 3)
    assert list(list_pages(api, tag="rare")) == [[], [], [job_id]]


def test_jobs_of_other_owners_are_not_accessible(api: TestClient, app_state: AppState) -> None:
    job_id = new_job_id()
    app_state.jobs.create(job_id, Upload(bytes=1, sha256="0"), JobOptions(), retention_s=60, owner="anna")
    mine = send(api)
    assert list(list_pages(api)) == [[mine]]
    for method, path in [
        ("GET", ""), ("GET", "/result"), ("GET", "/export?format=json"), ("GET", "/events"), ("GET", "/video"),
        ("GET", "/webhook"), ("POST", "/webhook/resend"), ("POST", "/cancel"), ("DELETE", ""),
    ]:  # fmt: skip
        assert_problem(api.request(method, f"/jobs/{job_id}{path}"), "job_not_found")
    assert app_state.jobs.get(job_id).state is State.QUEUED


def test_canceled_job_leaves_queue_and_has_no_result(api: TestClient, app_state: AppState) -> None:
    job_id = send(api)
    canceled = api.post(f"/jobs/{job_id}/cancel").json()
    assert canceled["state"] == "canceled"
    assert app_state.queue.ids == []
    assert api.get(f"/jobs/{job_id}").json() == canceled == api.post(f"/jobs/{job_id}/cancel").json()
    assert_problem(api.get(f"/jobs/{job_id}/result"), "job_canceled")
    assert_problem(api.post(f"/jobs/{make_finished_job(app_state)}/cancel"), "job_already_ended")


def test_deleted_job_reports_job_deleted(api: TestClient, app_state: AppState) -> None:
    job_id = make_finished_job(app_state, keep_video=True)
    receipt = api.delete(f"/jobs/{job_id}").json()
    assert {file["what"]: file["bytes"] for file in receipt["removed"]}["video"] == len(VIDEO)
    for path in ("", "/result", "/video", "/events", "/export?format=csv"):
        assert_problem(api.get(f"/jobs/{job_id}{path}"), "job_deleted")
    assert_problem(api.delete(f"/jobs/{job_id}"), "job_deleted")
    queued = send(api)
    assert api.delete(f"/jobs/{queued}").status_code == 200
    assert app_state.queue.ids == []
    assert [entry.key for entry in app_state.store.entries("jobs")] == []


def test_sweeper_removes_expired_jobs_and_orphans(api: TestClient, app_state: AppState) -> None:
    old, young, running = (make_finished_job(app_state, keep_video=True), make_finished_job(app_state), send(api))
    now = datetime.now(UTC)
    app_state.store.put("jobs/0123/video", b"a job without a record")
    for key in (f"pending/open/{'0' * 32}-17", f"owners/open/{'0' * 32}", "incoming/x", "uploads/x/0"):
        app_state.store.put(key, b"")
    headers = {"idempotency-key": "k"}
    recent = api.post("/detect", content=VIDEO, headers=headers).json()["id"]
    sweeper = Sweeper(app_state.store, app_state.jobs, 1, 3600)
    assert sweeper.sweep(now) == 0
    assert app_state.store.names("jobs/0123") == ["video"]
    record = app_state.jobs.get(young)
    app_state.store.put(
        job_key(young, "job.json"), record.model_copy(update={"retention_s": 9_000_000_000}).model_dump_json().encode()
    )
    assert sweeper.sweep(now + timedelta(seconds=61)) == 1
    assert_problem(api.get(f"/jobs/{old}"), "job_expired")
    assert sweeper.sweep(now + timedelta(days=2)) == 0
    assert {*app_state.store.names("jobs")} == {young, running, recent}
    assert app_state.store.names("incoming") == app_state.store.names("uploads") == []
    assert {*app_state.jobs.get_pending_bytes("open")} == {running, recent}
    assert {*app_state.store.names("owners/open")} == {young, running, recent}
    assert app_state.store.names("idempotency/open") == []
    assert_problem(api.get(f"/jobs/{old}"), "job_expired")
    sweeper.sweep(now + timedelta(days=40))
    assert_problem(api.get(f"/jobs/{old}"), "job_not_found")


def test_sweeper_removes_leftovers_of_ended_jobs(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files remain from a process that crashed before its cleanup, or from an earlier attempt."""
    monkeypatch.setattr(app_state.jobs, "clean_up", lambda _record: None)
    job_id = send(api)
    app_state.jobs.cancel(job_id)
    monkeypatch.undo()
    app_state.store.put(job_key(job_id, "1/result.json"), b"{}")
    assert app_state.store.names(f"jobs/{job_id}") == ["1", "job.json", "video"]
    Sweeper(app_state.store, app_state.jobs, 1, 3600).sweep(datetime.now(UTC))
    assert app_state.store.names(f"jobs/{job_id}") == ["job.json"]
    assert app_state.jobs.get_pending_bytes("open") == {}


def test_unreadable_record_does_not_affect_other_jobs(api: TestClient, app_state: AppState) -> None:
    broken, old, other = send(api), make_finished_job(app_state), send(api)
    app_state.store.put(job_key(broken, "job.json"), b'{"id": 1}')
    app_state.store.put(job_key(old, ".nfs0001"), b"x")
    assert list(list_pages(api)) == [sorted([old, other], reverse=True)]
    assert Sweeper(app_state.store, app_state.jobs, 1, 3600).sweep(datetime.now(UTC) + timedelta(seconds=61)) == 1
    assert_problem(api.get(f"/jobs/{old}"), "job_expired")


def test_pagination_ignores_jobs_of_other_owners(api: TestClient, app_state: AppState) -> None:
    mine = send(api)
    for _ in range(3):
        app_state.jobs.create(new_job_id(), Upload(bytes=1, sha256="0"), JobOptions(), retention_s=60, owner="anna")
    assert api.get("/jobs?limit=1").json()["next"] is None
    assert [job["id"] for job in api.get("/jobs").json()["jobs"]] == [mine]


def test_sweeper_thread_removes_expired_jobs(api: TestClient, app_state: AppState) -> None:
    stop = threading.Event()
    sweeper = threading.Thread(target=Sweeper(app_state.store, app_state.jobs, 0.01, 3600).run, args=(stop,))
    sweeper.start()
    job_id = send(api, retention_s=0)
    app_state.jobs.cancel(job_id)
    deadline = time.monotonic() + 20
    while api.get(f"/jobs/{job_id}").status_code != 410:
        assert time.monotonic() < deadline
    stop.set()
    sweeper.join()


def read_events(api: TestClient, job_id: str, last: str | None = None) -> list[tuple[str, str, dict[str, Any]]]:
    """Return (event, id, data) of all events until the stream is closed."""
    headers = {"last-event-id": last} if last else {}
    with api.stream("GET", f"/jobs/{job_id}/events", headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        text = "".join(response.iter_text())
    blocks = [
        dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        for block in text.split("\n\n")
    ]
    return [(block["event"], block["id"], json.loads(block["data"])) for block in blocks if block]


def test_events_report_progress_until_job_ends(
    api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_POLL_INTERVAL_S", 0.005)
    fractions = iter([0.0, 0.25, 0.25, 0.5, 0.4, 0.9])
    job_id = send(api)

    def progress(_job_id: str) -> Progress:
        """Return the next fraction; after the last one the job fails."""
        try:
            return Progress(None, next(fractions))
        except StopIteration:
            record = app_state.jobs.get(job_id)
            if not record.ended:
                app_state.jobs.change(record, State.FAILED, JobError(code="damaged_video", detail="x"))
            return Progress(None, 0.9)

    monkeypatch.setattr(app_state.queue, "get_progress", progress)
    app_state.jobs.change(app_state.jobs.get(job_id), State.RUNNING)
    received = read_events(api, job_id)
    assert [(kind, event_id) for kind, event_id, _ in received] == [
        ("state", "2.0"), ("progress", "2.250"), ("progress", "2.500"), ("progress", "2.900"), ("state", "3.0"),
    ]  # fmt: skip
    assert received[-1][2] == api.get(f"/jobs/{job_id}").json()
    assert read_events(api, job_id, last="2.900") == received[-1:]
    ended = api.get(f"/jobs/{job_id}/events", headers={"last-event-id": "3.0"})
    assert (ended.status_code, ended.content) == (204, b"")
    assert read_events(api, job_id, last="rubbish") == received[-1:]


def test_events_end_when_job_is_deleted(api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_POLL_INTERVAL_S", 0.005)
    job_id = send(api)
    calls: list[str] = []

    def position(_job_id: str) -> int:
        calls.append(job_id)
        if len(calls) == 3:
            app_state.jobs.remove(app_state.jobs.get(job_id), "deleted")
        return 0

    monkeypatch.setattr(app_state.queue, "get_position", position)
    assert [kind for kind, _, _ in read_events(api, job_id)] == ["state"]


def test_retained_video_is_served_with_ranges(api: TestClient, app_state: AppState) -> None:
    job_id = make_finished_job(app_state, keep_video=True)
    whole = api.get(f"/jobs/{job_id}/video")
    assert (whole.status_code, whole.content) == (200, VIDEO)
    assert whole.headers["accept-ranges"] == "bytes"
    part = api.get(f"/jobs/{job_id}/video", headers={"range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert part.headers["content-range"] == f"bytes 4-7/{len(VIDEO)}"
    beyond = api.get(f"/jobs/{job_id}/video", headers={"range": f"bytes={len(VIDEO)}-"})
    assert_problem(beyond, "range_not_satisfiable")
    assert beyond.headers["content-range"] == f"bytes */{len(VIDEO)}"
    assert_problem(api.get(f"/jobs/{make_finished_job(app_state)}/video"), "video_not_kept")


@given(st.integers(0, 20), st.none() | st.integers(0, 25), st.none() | st.integers(0, 25))
def test_range_matches_rfc_9110_definition(length: int, first: int | None, last: int | None) -> None:
    """Compare with the list of selected positions (RFC 9110, 14.1.2)."""
    parsed = parse_range(f"bytes={'' if first is None else first}-{'' if last is None else last}", length)
    if first is None:
        expected = None if last is None else [position for position in range(length) if position >= length - last]
    elif last is not None and last < first:
        expected = None
    else:
        expected = [position for position in range(length) if first <= position and (last is None or position <= last)]
    if expected is None:
        assert parsed == range(length)
    else:
        assert (list(parsed) if parsed is not None else []) == expected


@pytest.mark.parametrize("header", [None, "", "bytes", "items=0-1", "bytes=0-1,3-4", "bytes=x-y", "bytes=-"])
def test_unsupported_range_is_ignored(header: str | None) -> None:
    assert parse_range(header, 9) == range(9)


@pytest.mark.parametrize("name", list(FORMATS))
def test_export_route_serves_every_format(api: TestClient, app_state: AppState, name: str) -> None:
    job_id = make_finished_job(app_state)
    response = api.get(f"/jobs/{job_id}/export", params={"format": name, "min_score": "0.3"})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].split(";")[0] == FORMATS[name].media_type.split(";")[0]
    assert response.headers["content-disposition"] == f'attachment; filename="{job_id}{FORMATS[name].suffix}"'
    assert response.content


def test_export_filters_and_invalid_parameters(api: TestClient, app_state: AppState) -> None:
    job_id = make_finished_job(app_state)
    export = f"/jobs/{job_id}/export"
    line_counts = [
        len(api.get(export, params={"format": "csv", **more}).text.splitlines()) for more in ({}, {"labels": "A"})
    ]
    assert line_counts == [5, 2]
    assert "known are json" in assert_problem(api.get(f"{export}?format=docx"), "invalid_parameter")
    assert_problem(api.get(export), "invalid_parameter")
    assert_problem(api.get(f"{export}?format=csv&level=body"), "unknown_parameter")


def test_frame_scores_route(api: TestClient, app_state: AppState) -> None:
    frames = api.get(f"/jobs/{make_finished_job(app_state)}/result?level=frames&rate=2").json()
    assert len(frames["times_s"]) == 40
    column = frames["actions"].index("B1")
    assert [row[column] for row in frames["action_scores"]][:10] == pytest.approx([0, 0, *[0.9] * 4, 0, 0, 0.61, 0.61])
    assert_problem(api.get(f"/jobs/{make_finished_job(app_state)}/result?level=frames&rate=31"), "invalid_parameter")
    assert_problem(api.get(f"/jobs/{make_finished_job(app_state)}/result?level=frames&top_k=3"), "unknown_parameter")
    assert_problem(api.get(f"/jobs/{make_finished_job(app_state)}/result?level=all"), "invalid_parameter")


def test_webhook_route(api: TestClient, app_state: AppState) -> None:
    assert_problem(api.get(f"/jobs/{make_finished_job(app_state)}/webhook"), "no_callback")
    assert_problem(api.post(f"/jobs/{make_finished_job(app_state)}/webhook/resend"), "no_callback")
    job_id = send(api, callback_url="https://example.org/hook")
    webhook = api.get(f"/jobs/{job_id}/webhook").json()
    assert (webhook["url"], webhook["state"], webhook["deliveries"]) == ("https://example.org/hook", "waiting", [])
    assert_problem(api.post(f"/jobs/{job_id}/webhook/resend"), "job_not_finished")
