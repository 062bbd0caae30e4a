"""GET /metrics, and that docs/operations.md and docs/alerts.yaml name only what exists."""

import re
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from starlette.testclient import TestClient

from service.app import build_app
from service.app_state import AppState
from service.auth import Auth
from service.job_schemas import JobOptions, State
from service.jobs import Upload, new_job_id
from service.keys import OwnLimits, create
from service.metrics import (
    DECODED_FRAMES,
    FAMILIES,
    JOBS_ENDED,
    KEY,
    LEASES_LOST,
    RETRIES,
    STAGE_SECONDS,
    VIDEO_SECONDS,
    Meter,
)
from service.queue import connect
from service.settings import Settings
from service.ttl_cache import TtlCache
from tests.conftest import wait_for
from tests.fake_service import VIDEO, assert_problem

DOCUMENT = Path(__file__).parents[1] / "docs/operations.md"
ALERTS = DOCUMENT.with_name("alerts.yaml")
# What Prometheus makes of a counter and of a histogram.
_SUFFIXES = re.compile(r"_(total|bucket|count|sum)$")


@pytest.fixture
def meter(connection: Redis) -> Iterator[Meter]:
    made = Meter(connection)
    yield made
    made.close()


@pytest.fixture
def counted(app_state: AppState, redis_url: str) -> Iterator[TestClient]:
    app_state.queue.meter = Meter(connect(Settings(redis_url=redis_url), retries=0))
    with TestClient(build_app(app_state), "http://127.0.0.1") as client:
        yield client


def scrape(api: TestClient, **headers: str) -> dict[str, float]:
    """Samples as Prometheus reads them: name and labels to value."""
    response = api.get("/metrics", headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    found = {}
    for family in text_string_to_metric_families(response.text):
        assert family.documentation
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_what_workers_count_is_shown(meter: Meter, counted: TestClient) -> None:
    meter.count(JOBS_ENDED, state=State.SUCCEEDED, code="")
    meter.count(JOBS_ENDED, state=State.SUCCEEDED, code="")
    meter.count(JOBS_ENDED, state=State.FAILED, code="damaged_video")
    meter.count(DECODED_FRAMES, 150)
    meter.count(VIDEO_SECONDS, 10.5)
    meter.count(RETRIES, why="worker_lost")
    for seconds in (0.05, 0.2, 7.0, 4000.0):
        meter.observe(STAGE_SECONDS, seconds, stage="decoding")
    found = scrape(counted)
    assert found["mmad_jobs_ended_total{code=,state=succeeded}"] == 2
    assert found["mmad_jobs_ended_total{code=damaged_video,state=failed}"] == 1
    assert found["mmad_decoded_frames_total{}"] == 150
    assert found["mmad_video_seconds_total{}"] == 10.5
    assert found["mmad_retries_total{why=worker_lost}"] == 1
    assert found["mmad_leases_lost_total{}"] == 0
    buckets = {
        bound: found[f"mmad_stage_seconds_bucket{{le={bound},stage=decoding}}"]
        for bound in ("0.05", "0.1", "0.25", "5.0", "10.0", "1800.0", "+Inf")
    }
    assert list(buckets.values()) == [1, 1, 2, 2, 3, 3, 4]
    assert found["mmad_stage_seconds_count{stage=decoding}"] == 4
    assert found["mmad_stage_seconds_sum{stage=decoding}"] == pytest.approx(4007.25)


def test_several_processes_count_together(connection: Redis, redis_url: str, meter: Meter) -> None:
    other = Meter(Redis.from_url(redis_url))
    for one in (meter, other, meter):
        one.count(LEASES_LOST)
    sums = meter.read()
    assert sums
    assert sums[LEASES_LOST] == {(): {"amount": 3.0}}
    other.close()


def test_counting_never_raises_and_never_waits_for_long(tmp_path: Path) -> None:
    """Not even with a worker's connection, which tries for two minutes: the test's own limit would tell."""
    patient = connect(Settings(redis_url=f"unix://{tmp_path}/nothing"), retries=1000)
    meter = Meter(patient)
    for _ in range(100):
        meter.count(LEASES_LOST)
        meter.observe(STAGE_SECONDS, 1.0, stage="decoding")
    assert meter.read() is None


def test_a_metric_is_counted_with_its_labels_only(meter: Meter) -> None:
    with pytest.raises(KeyError):
        meter.count(RETRIES)
    with pytest.raises(KeyError):
        meter.count(RETRIES, why="fault", job="1")
    with pytest.raises(KeyError):
        meter.count("mmad_other")
    assert meter.read() == {name: {} for name in FAMILIES}


def test_what_another_version_counted_is_passed_over(connection: Redis, meter: Meter, counted: TestClient) -> None:
    for field in ('["mmad_new", [], "amount"]', "no JSON", '["mmad_retries", ["a", "b"], "amount"]', "[1]", "{}"):
        connection.hset(KEY, field, "1")
    connection.hset(KEY, '["mmad_leases_lost", [], "amount"]', "words")
    assert scrape(counted)["mmad_leases_lost_total{}"] == 0


def test_how_jobs_stand(connection: Redis, counted: TestClient, app_state: AppState) -> None:
    ids = [counted.post("/detect", content=VIDEO).json()["id"] for _ in range(3)]
    app_state.jobs.change(app_state.jobs.get(ids[1]), State.RUNNING)
    app_state.jobs.cancel(ids[2])
    connection.rpush("rq:queue:mmad", "a", "b")

    def stand() -> tuple[float, float]:
        found = scrape(counted)
        return found["mmad_jobs{state=queued}"], found["mmad_jobs{state=running}"]

    wait_for(lambda: stand() == (1, 1), seconds=10)  # what was known at the upload is good for a second
    found = scrape(counted)
    assert 0 < found["mmad_oldest_waiting_seconds{}"] < 60
    assert found["mmad_queue_depth{}"] == 2
    assert found["mmad_workers{}"] == app_state.queue.get_throughput().workers
    assert found["mmad_redis_up{}"] == 1
    assert found["mmad_store_free_bytes{}"] > 0
    assert found[f"mmad_build_info{{version={version('mmad')}}}"] == 1


def test_a_scrape_reads_a_bounded_number_of_records(
    counted: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.metrics_endpoint._MAX_RECORDS_READ", 5)
    for _ in range(12):
        app_state.jobs.create(new_job_id(), Upload(bytes=1, sha256="0"), JobOptions(), retention_s=60)
    read: list[str] = []
    once = app_state.jobs.read
    monkeypatch.setattr(app_state.jobs, "read", lambda job_id: (read.append(job_id), once(job_id))[1])
    assert scrape(counted)["mmad_jobs{state=queued}"] == 12
    by_metrics = len(read)
    scrape(counted)
    assert (by_metrics, len(read)) == (5, 5)  # the second within a second asks nobody


def test_without_redis_the_rest_is_shown(api: TestClient) -> None:
    found = scrape(api)
    assert found["mmad_redis_up{}"] == 0
    assert found["mmad_jobs{state=queued}"] == 0
    assert "mmad_queue_depth{}" not in found
    assert "mmad_decoded_frames_total{}" not in found


def test_requests_are_counted_by_route(counted: TestClient) -> None:
    for path in ("/jobs/a", "/jobs/b", "/healthz", "/a", "/b", "/c"):
        counted.get(path)
    found = scrape(counted)
    assert found["mmad_http_requests_total{method=GET,route=/jobs/{job_id},status=404}"] == 2
    assert found["mmad_http_requests_total{method=GET,route=other,status=404}"] == 3
    assert found["mmad_http_request_seconds_count{method=GET,route=/jobs/{job_id}}"] == 2
    assert found["mmad_http_requests_total{method=GET,route=/healthz,status=200}"] == 1


def test_it_needs_a_key_where_keys_are_on(app_state: AppState, counted: TestClient, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    _, key = create(path, "prometheus", OwnLimits())
    settings = app_state.settings.model_copy(update={"api_keys_file": path})
    app_state.auth = Auth(settings, connect(settings, retries=0))
    assert_problem(counted.get("/metrics"), "key_missing")
    assert scrape(counted, authorization=f"Bearer {key}")


def families(api: TestClient) -> set[str]:
    found = text_string_to_metric_families(api.get("/metrics").text)
    return {family.name for family in found}


def test_a_canceled_job_is_counted_once(counted: TestClient) -> None:
    job_id = counted.post("/detect", content=VIDEO).json()["id"]
    for _ in range(2):
        assert counted.post(f"/jobs/{job_id}/cancel").json()["state"] == "canceled"
    assert scrape(counted)["mmad_jobs_ended_total{code=,state=canceled}"] == 1


def test_the_document_names_every_metric_and_no_other(meter: Meter, counted: TestClient) -> None:
    meter.count(JOBS_ENDED, state=State.SUCCEEDED, code="")
    meter.count(RETRIES, why="fault")
    meter.observe(STAGE_SECONDS, 1.0, stage="decoding")
    counted.get("/healthz")
    exposed = families(counted)
    assert all(name.startswith("mmad_") for name in exposed)
    assert named_metrics(DOCUMENT.read_text()) == exposed
    assert named_metrics(ALERTS.read_text()) <= exposed


def named_metrics(text: str) -> set[str]:
    return {_SUFFIXES.sub("", name) for name in re.findall(r"\bmmad_[a-z_]+", text)}


def test_alerts_are_rules_with_a_summary_and_a_description() -> None:
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(names) == len(set(names)) >= 8
    for rule in group["rules"]:
        assert set(rule) == {"alert", "expr", "for", "annotations"}, rule
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_the_document_configures_scraping_with_a_key() -> None:
    [scraping] = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.S))
    [job] = scraping["scrape_configs"]
    assert job["authorization"]["type"] == "Bearer"
    assert job["metrics_path"] == "/metrics"


def test_every_setting_of_the_document_is_one() -> None:
    named = set(re.findall(r"\bMMAD_[A-Z_]+", DOCUMENT.read_text() + ALERTS.read_text()))
    assert named <= {f"MMAD_{name.upper()}" for name in Settings.model_fields}


def test_an_answer_is_good_for_a_while_and_a_fault_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = [0.0], [0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def ask() -> int:
        asked[0] += 1
        if asked[0] == 2:
            raise OSError("once")
        return asked[0]

    lately = TtlCache(1.0, ask)
    assert [lately.get(), lately.get()] == [1, 1]
    now[0] = 1.0
    with pytest.raises(OSError, match="once"):
        lately.get()
    assert lately.get() == 3
