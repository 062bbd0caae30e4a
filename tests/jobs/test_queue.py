"""The job queue: delivery, leases, estimates and Redis failures."""

import json
import os
import signal
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from mmad.private_redis import private_redis
from model.bundle import Bundle
from model.detections import Detections
from service.job_schemas import State
from service.jobs import Jobs, new_job_id
from service.queue import DETECT, LEASE_TTL_S, JobQueue, connect, lease_key, make_queue
from service.settings import Settings
from tests.conftest import wait_for
from tests.jobs.job_examples import make_job
from tests.jobs.worker_context import NO_DETECTIONS, ScriptedDetector, make_context
from workers import heartbeat, run
from workers.heartbeat import Heartbeat, ModelWorker
from workers.run import WorkerContext


def test_circuit_breaker_limits_requests_to_unavailable_redis(
    connection: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = JobQueue(connect(Settings(redis_url=f"unix://{tmp_path}/nothing"), retries=0), 60)
    calls: list[str] = []

    def raise_connection_error(name: str) -> Any:
        calls.append(name)
        raise RedisConnectionError("away")

    monkeypatch.setattr(queue._connection, "get", raise_connection_error)
    for _ in range(5):
        assert queue.get_progress("x") == (None, 0.0)
    assert (queue.get_position("x"), queue.get_throughput()) == (None, (None, 0))
    assert len(calls) == 1
    queue._breaker._retry_at_s = 0.0
    queue.get_progress("x")
    assert len(calls) == 2


def test_job_times_give_estimates(bundle: Bundle, jobs: Jobs, connection: Redis) -> None:
    queue = JobQueue(connection, 60)
    assert queue.get_throughput() == (None, 0)
    assert queue.get_throughput().estimate_queued_s(3) is None
    context, _ = make_context(bundle, jobs, connection, NO_DETECTIONS)
    context.run(make_job(jobs).id)
    assert connection.llen("mmad:times") == 1
    connection.delete("mmad:times", "mmad:workers")
    for seconds in (1, 8, 2):
        queue.record_job_time(seconds)
    with Heartbeat(connection):
        wait_for(lambda: JobQueue(connection, 60).get_throughput().workers, seconds=10)
        throughput = JobQueue(connection, 60).get_throughput()
    assert throughput == (2.0, 1)
    assert (throughput.estimate_queued_s(0), throughput.estimate_queued_s(3)) == (2.0, 8.0)
    assert throughput.estimate_running_s(0.01, 0.5) == 1.5
    assert throughput.estimate_running_s(0.01, 5) == 0
    assert throughput.estimate_running_s(0.25, 5) == 15
    for _ in range(60):
        queue.record_job_time(1)
    assert connection.llen("mmad:times") == 50


def test_queue_position_and_removal(jobs: Jobs, connection: Redis) -> None:
    queue = JobQueue(connection, 60)
    first, second = make_job(jobs), make_job(jobs)
    for record in (first, second):
        queue.enqueue(record.id)
    assert (queue.get_position(first.id), queue.get_position(second.id), queue.get_position("x")) == (0, 1, None)
    queue.remove(first.id)
    other = JobQueue(connection, 60)
    assert (other.get_position(first.id), other.get_position(second.id)) == (None, 0)
    assert not list(connection.scan_iter(f"rq:job:{first.id}*"))


def test_queue_payload_is_json_and_run_by_worker(
    bundle: Bundle, jobs: Jobs, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, _ = make_context(bundle, jobs, connection, NO_DETECTIONS)
    monkeypatch.setattr(run, "_context", context)
    record = make_job(jobs)
    JobQueue(connection, 60).enqueue(record.id)
    (delivery,) = connection.scan_iter(f"rq:job:{record.id}*")
    raw = connection.hgetall(delivery)
    assert json.loads(zlib.decompress(raw[b"data"]))[0] == DETECT
    assert int(raw[b"timeout"]) == 60
    ModelWorker(make_queue(connection)).work(burst=True, logging_level="ERROR")
    assert jobs.get(record.id).state is State.SUCCEEDED


def test_heartbeat_renews_lease_after_redis_is_emptied(
    bundle: Bundle, jobs: Jobs, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "HEARTBEAT_INTERVAL_S", 0.05)
    record, queue = make_job(jobs), JobQueue(connection, 60)
    ttls_s: list[int] = []

    class FlushingDetector(ScriptedDetector):
        def detect(self, file: Any, **options: Any) -> Detections:
            assert queue.is_leased(record.id, 1)
            connection.flushall()
            wait_for(lambda: queue.is_leased(record.id, 1), seconds=10)
            assert queue.check()["workers"] == "ok"
            ttls_s.append(connection.ttl(lease_key(record.id, 1)))
            return NO_DETECTIONS

    context = WorkerContext(FlushingDetector(bundle, NO_DETECTIONS), jobs.store, connection, Settings())
    monkeypatch.setattr(run, "_context", context)
    queue.enqueue(record.id)
    with context.heartbeat:
        ModelWorker(make_queue(connection)).work(burst=True, logging_level="ERROR")
    assert jobs.get(record.id).state is State.SUCCEEDED
    assert 0 < ttls_s[0] <= LEASE_TTL_S
    assert not [thread for thread in threading.enumerate() if thread.name == "pulse"]
    assert queue.check()["workers"] == "none is running"


def test_private_redis_keeps_data_when_killed(tmp_path: Path) -> None:
    for start in range(2):
        with private_redis(tmp_path / "redis") as server, connect(Settings(redis_url=server.url), retries=0) as client:
            assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.get("key") == (b"value" if start else None)
            client.set("key", "value")
            os.kill(int(client.info()["process_id"]), signal.SIGKILL)


def test_worker_runs_no_other_function(connection: Redis, tmp_path: Path) -> None:
    queue = make_queue(connection)
    job = queue.enqueue("os.mkdir", str(tmp_path / "made"))
    ModelWorker(queue).work(burst=True, logging_level="CRITICAL")
    assert not (tmp_path / "made").exists()
    assert job.get_status() == "failed"


def test_readiness_reports_live_workers(connection: Redis) -> None:
    queue = JobQueue(connection, 60)
    assert queue.check() == {"redis": "ok", "workers": "none is running"}
    connection.zadd("mmad:workers", {"killed": time.time() - LEASE_TTL_S - 1, "alive": time.time() - 1})
    assert queue.check()["workers"] == "ok"
    connection.zrem("mmad:workers", "alive")
    assert queue.check()["workers"] == "none is running"


def test_queue_tolerates_unavailable_redis(tmp_path: Path) -> None:
    queue = JobQueue(connect(Settings(redis_url=f"unix://{tmp_path}/nothing"), retries=0), 60)
    queue.try_enqueue(new_job_id())
    with pytest.raises(RedisConnectionError):
        queue.get_queued_ids()
    assert queue.get_progress("x") == (None, 0.0)
    assert queue.check()["redis"] == "cannot be reached"
