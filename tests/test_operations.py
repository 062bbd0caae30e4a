"""GET /metrics, and the metrics and settings named by docs/operations.md and docs/alerts.yaml."""

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
# Suffixes of Prometheus counters and histograms.
_SUFFIXES = re.compile(r"_(total|bucket|count|sum)$")


@pytest.fixture
def meter(connection: Redis) -> Iterator[Meter]:
    meter = Meter(connection)
    yield meter
    meter.close()


@pytest.fixture
def metered_api(app_state: AppState, redis_url: str) -> Iterator[TestClient]:
    app_state.queue.meter = Meter(connect(Settings(redis_url=redis_url), retries=0))
    with TestClient(build_app(app_state), "http://127.0.0.1") as client:
        yield client


def scrape(api: TestClient, **headers: str) -> dict[str, float]:
    """Return the value of each sample by name and labels."""
    response = api.get("/metrics", headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    samples = {}
    for family in text_string_to_metric_families(response.text):
        assert family.documentation
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}"] = sample.value
    return samples


def test_worker_metrics_are_exposed(meter: Meter, metered_api: TestClient) -> None:
    meter.count(JOBS_ENDED, state=State.SUCCEEDED, code="")
    meter.count(JOBS_ENDED, state=State.SUCCEEDED, code="")
    meter.count(JOBS_ENDED, state=State.FAILED, code="damaged_video")
    meter.count(DECODED_FRAMES, 150)
    meter.count(VIDEO_SECONDS, 10.5)
    meter.count(RETRIES, why="worker_lost")
    for seconds in (0.05, 0.2, 7.0, 4000.0):
        meter.observe(STAGE_SECONDS, seconds, stage="decoding")
    samples = scrape(metered_api)
    assert samples["mmad_jobs_ended_total{code=,state=succeeded}"] == 2
    assert samples["mmad_jobs_ended_total{code=damaged_video,state=failed}"] == 1
    assert samples["mmad_decoded_frames_total{}"] == 150
    assert samples["mmad_video_seconds_total{}"] == 10.5
    assert samples["mmad_retries_total{why=worker_lost}"] == 1
    assert samples["mmad_leases_lost_total{}"] == 0
    buckets = {
        bound: samples[f"mmad_stage_seconds_bucket{{le={bound},stage=decoding}}"]
        for bound in ("0.05", "0.1", "0.25", "5.0", "10.0", "1800.0", "+Inf")
    }
    assert list(buckets.values()) == [1, 1, 2, 2, 3, 3, 4]
    assert samples["mmad_stage_seconds_count{stage=decoding}"] == 4
    assert samples["mmad_stage_seconds_sum{stage=decoding}"] == pytest.approx(4007.25)


def test_processes_share_counters(connection: Redis, redis_url: str, meter: Meter) -> None:
    other = Meter(Redis.from_url(redis_url))
    for process in (meter, other, meter):
        process.count(LEASES_LOST)
    sums = meter.read()
    assert sums
    assert sums[LEASES_LOST] == {(): {"amount": 3.0}}
    other.close()


def test_meter_tolerates_unavailable_redis(tmp_path: Path) -> None:
    """Also with a worker's connection, which retries for two minutes: the test would time out."""
    patient = connect(Settings(redis_url=f"unix://{tmp_path}/nothing"), retries=1000)
    meter = Meter(patient)
    for _ in range(100):
        meter.count(LEASES_LOST)
        meter.observe(STAGE_SECONDS, 1.0, stage="decoding")
    assert meter.read() is None


def test_unknown_metric_or_label_is_rejected(meter: Meter) -> None:
    with pytest.raises(KeyError):
        meter.count(RETRIES)
    with pytest.raises(KeyError):
        meter.count(RETRIES, why="fault", job="1")
    with pytest.raises(KeyError):
        meter.count("mmad_other")
    assert meter.read() == {name: {} for name in FAMILIES}


def test_invalid_redis_fields_are_ignored(connection: Redis, meter: Meter, metered_api: TestClient) -> None:
    for field in ('["mmad_new", [], "amount"]', "no JSON", '["mmad_retries", ["a", "b"], "amount"]', "[1]", "{}"):
        connection.hset(KEY, field, "1")
    connection.hset(KEY, '["mmad_leases_lost", [], "amount"]', "words")
    assert scrape(metered_api)["mmad_leases_lost_total{}"] == 0


def test_job_gauges(connection: Redis, metered_api: TestClient, app_state: AppState) -> None:
    ids = [metered_api.post("/detect", content=VIDEO).json()["id"] for _ in range(3)]
    app_state.jobs.change(app_state.jobs.get(ids[1]), State.RUNNING)
    app_state.jobs.cancel(ids[2])
    connection.rpush("rq:queue:mmad", "a", "b")

    def job_counts() -> tuple[float, float]:
        samples = scrape(metered_api)
        return samples["mmad_jobs{state=queued}"], samples["mmad_jobs{state=running}"]

    wait_for(lambda: job_counts() == (1, 1), seconds=10)  # counts are cached for a second
    samples = scrape(metered_api)
    assert 0 < samples["mmad_oldest_waiting_seconds{}"] < 60
    assert samples["mmad_queue_depth{}"] == 2
    assert samples["mmad_workers{}"] == app_state.queue.get_throughput().workers
    assert samples["mmad_redis_up{}"] == 1
    assert samples["mmad_store_free_bytes{}"] > 0
    assert samples[f"mmad_build_info{{version={version('mmad')}}}"] == 1


def test_scrape_reads_limited_records(
    metered_api: TestClient, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.metrics_endpoint._MAX_RECORDS_READ", 5)
    for _ in range(12):
        app_state.jobs.create(new_job_id(), Upload(bytes=1, sha256="0"), JobOptions(), retention_s=60)
    read: list[str] = []
    read_record = app_state.jobs.read
    monkeypatch.setattr(app_state.jobs, "read", lambda job_id: (read.append(job_id), read_record(job_id))[1])
    assert scrape(metered_api)["mmad_jobs{state=queued}"] == 12
    first_scrape = len(read)
    scrape(metered_api)
    assert (first_scrape, len(read)) == (5, 5)  # the second scrape uses the cache


def test_scrape_without_redis_omits_redis_metrics(api: TestClient) -> None:
    samples = scrape(api)
    assert samples["mmad_redis_up{}"] == 0
    assert samples["mmad_jobs{state=queued}"] == 0
    assert "mmad_queue_depth{}" not in samples
    assert "mmad_decoded_frames_total{}" not in samples


def test_http_metrics_are_grouped_by_route(metered_api: TestClient) -> None:
    for path in ("/jobs/a", "/jobs/b", "/healthz", "/a", "/b", "/c"):
        metered_api.get(path)
    samples = scrape(metered_api)
    assert samples["mmad_http_requests_total{method=GET,route=/jobs/{job_id},status=404}"] == 2
    assert samples["mmad_http_requests_total{method=GET,route=other,status=404}"] == 3
    assert samples["mmad_http_request_seconds_count{method=GET,route=/jobs/{job_id}}"] == 2
    assert samples["mmad_http_requests_total{method=GET,route=/healthz,status=200}"] == 1


def test_metrics_need_a_key_if_keys_are_required(app_state: AppState, metered_api: TestClient, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    _, key = create(path, "prometheus", OwnLimits())
    settings = app_state.settings.model_copy(update={"api_keys_file": path})
    app_state.auth = Auth(settings, connect(settings, retries=0))
    assert_problem(metered_api.get("/metrics"), "key_missing")
    assert scrape(metered_api, authorization=f"Bearer {key}")


def family_names(api: TestClient) -> set[str]:
    return {family.name for family in text_string_to_metric_families(api.get("/metrics").text)}


def test_canceled_job_is_counted_once(metered_api: TestClient) -> None:
    job_id = metered_api.post("/detect", content=VIDEO).json()["id"]
    for _ in range(2):
        assert metered_api.post(f"/jobs/{job_id}/cancel").json()["state"] == "canceled"
    assert scrape(metered_api)["mmad_jobs_ended_total{code=,state=canceled}"] == 1


def test_documentation_names_exactly_the_exposed_metrics(meter: Meter, metered_api: TestClient) -> None:
    meter.count(JOBS_ENDED, state=State.SUCCEEDED, code="")
    meter.count(RETRIES, why="fault")
    meter.observe(STAGE_SECONDS, 1.0, stage="decoding")
    metered_api.get("/healthz")
    exposed = family_names(metered_api)
    assert all(name.startswith("mmad_") for name in exposed)
    assert named_metrics(DOCUMENT.read_text()) == exposed
    assert named_metrics(ALERTS.read_text()) <= exposed


def named_metrics(text: str) -> set[str]:
    return {_SUFFIXES.sub("", name) for name in re.findall(r"\bmmad_[a-z_]+", text)}


def test_alert_rules_are_complete() -> None:
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(names) == len(set(names)) >= 8
    for rule in group["rules"]:
        assert set(rule) == {"alert", "expr", "for", "annotations"}, rule
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_documented_scrape_config_uses_a_key() -> None:
    [config] = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.S))
    [job] = config["scrape_configs"]
    assert job["authorization"]["type"] == "Bearer"
    assert job["metrics_path"] == "/metrics"


def test_documented_settings_exist() -> None:
    documented = set(re.findall(r"\bMMAD_[A-Z_]+", DOCUMENT.read_text() + ALERTS.read_text()))
    assert documented <= {f"MMAD_{name.upper()}" for name in Settings.model_fields}


def test_ttl_cache_keeps_values_but_not_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], [0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def compute() -> int:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError("once")
        return calls[0]

    cache = TtlCache(1.0, compute)
    assert [cache.get(), cache.get()] == [1, 1]
    now[0] = 1.0
    with pytest.raises(OSError, match="once"):
        cache.get()
    assert cache.get() == 3
