"""Webhook deliveries: content, log, claims, cleanup and the delivery loop."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import standardwebhooks

from service import webhooks as module
from service.egress_guard import PostResult
from service.errors import Problem
from service.job_schemas import State
from service.jobs import job_key, new_job_id
from service.settings import Settings
from service.signing import load_secret
from service.store import FolderStore
from service.webhooks import ORPHAN_S, Webhooks
from tests.conftest import free_port, wait_for
from tests.webhooks.deployment import CANCELED, FAILED, SUCCEEDED, Deployment, ScriptedPost, links, now, unexpected_post
from tests.webhooks.receiver import Receiver, run_receiver


@pytest.mark.parametrize("state", [SUCCEEDED, FAILED, CANCELED])
def test_message_is_signed_and_contains_only_state_and_links(
    deployment: Deployment, receiver: Receiver, state: State
) -> None:
    record = deployment.make_job(receiver.url + ";v=1?token=a%20b", state)
    deployment.store.put(job_key(record.id, "1/result.json"), b'{"detections": ["nodding"]}')
    assert deployment.process().deliver_due(now()) == 1
    [(path, headers, body)] = receiver.deliveries
    assert path == "/hook;v=1?token=a%20b"
    assert headers["Host"] == f"127.0.0.1:{receiver.port}"
    assert headers["content-type"] == "application/json"
    message = standardwebhooks.Webhook(load_secret(deployment.settings)).verify(body, headers)
    assert message == {
        "type": f"job.{state}",
        "timestamp": record.changes[-1].at.isoformat().replace("+00:00", "Z"),
        "data": {"id": record.id, "state": state, "tag": "walk 7", "links": links(record.id).model_dump()},
    }
    webhook = deployment.get_webhook(record)
    assert (webhook.state, webhook.next_at, webhook.id) == ("delivered", None, headers["webhook-id"])
    assert [(delivery.status, delivery.error) for delivery in webhook.deliveries] == [(204, None)]
    assert deployment.pending_ids() == []


def test_log_contains_status_or_error_but_no_response_content(deployment: Deployment, receiver: Receiver) -> None:
    receiver.status, receiver.body = 500, b"internal"
    receiver.headers = {"X-Inner": "internal"}
    record = deployment.make_job(receiver.url)
    deployment.process().deliver_due(now())
    receiver.server.server_close()
    deployment.process().deliver_due(now() + timedelta(minutes=1))
    webhook = deployment.get_webhook(record)
    assert [(delivery.status, delivery.error) for delivery in webhook.deliveries] == [
        (500, None),
        (None, "connection_failed"),
    ]
    assert b"internal" not in deployment.store.get(job_key(record.id, "webhook.json"))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_is_failure(deployment: Deployment, receiver: Receiver, status: int) -> None:
    with run_receiver() as other:
        receiver.status, receiver.headers = status, {"Location": other.url}
        record = deployment.make_job(receiver.url)
        deployment.process().deliver_due(now())
        assert len(receiver.deliveries) == 1
        assert other.deliveries == []
    webhook = deployment.get_webhook(record)
    assert (webhook.state, webhook.deliveries[0].status) == ("waiting", status)


def test_proxy_environment_is_ignored(
    deployment: Deployment, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_receiver() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        deployment.make_job(receiver.url)
        deployment.process().deliver_due(now())
        assert proxy.deliveries == []
    assert len(receiver.deliveries) == 1


def test_unfinished_job_sends_no_message(deployment: Deployment) -> None:
    record = deployment.make_job(state=None)
    assert deployment.process(unexpected_post).deliver_due(now() + timedelta(days=1)) == 0
    assert deployment.pending_ids() == [record.id]
    webhook = deployment.get_webhook(record)
    assert (webhook.state, webhook.next_at, webhook.deliveries) == ("waiting", None, [])
    deployment.jobs.cancel(record.id)
    post = ScriptedPost([200])
    assert deployment.process(post).deliver_due(now()) == 1
    assert json.loads(post.requests[0][2])["type"] == "job.canceled"
    assert post.requests[0][1]["webhook-id"] == webhook.id


def test_job_deleted_during_delivery_leaves_no_files(deployment: Deployment) -> None:
    record = deployment.make_job()

    def post(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        deployment.jobs.remove(record, "deleted")
        return PostResult(500)

    assert deployment.process(post).deliver_due(now()) == 1
    assert deployment.store.entries(job_key(record.id)) == []
    assert deployment.pending_ids() == []


def test_claim_written_during_deletion_is_removed(tmp_path: Path) -> None:
    class Racing(FolderStore):
        def compare_and_swap(self, key: str, expected: bytes | None, content: bytes) -> bool:
            if key.endswith("webhook.json"):
                deployment.jobs.remove(record, "deleted")
            return super().compare_and_swap(key, expected, content)

    deployment = Deployment(tmp_path, Racing(tmp_path / "store"))
    record = deployment.make_job()
    assert deployment.process(unexpected_post).deliver_due(now()) == 0
    assert deployment.store.entries(job_key(record.id)) == []


def test_pending_entries_of_missing_jobs_are_dropped_after_delay(deployment: Deployment) -> None:
    removed = deployment.make_job()
    deployment.jobs.remove(removed, "expired")
    new_id = new_job_id()
    for job_id in (removed.id, new_id):
        deployment.store.put(f"callbacks/{job_id}", b"")
    process = deployment.process(unexpected_post)
    assert process.deliver_due(now()) == 0
    assert deployment.pending_ids() == [new_id]
    assert process.deliver_due(now() + timedelta(seconds=ORPHAN_S + 1)) == 0
    assert deployment.pending_ids() == []


def test_broken_message_does_not_block_others(deployment: Deployment) -> None:
    broken, intact = deployment.make_job(), deployment.make_job()
    deployment.store.put(job_key(broken.id, "webhook.json"), b"not json")
    assert deployment.process(ScriptedPost([200])).deliver_due(now()) == 1
    assert deployment.get_webhook(intact).state == "delivered"


def test_webhook_errors_name_the_reason(deployment: Deployment) -> None:
    process = deployment.process(unexpected_post)
    no_callback, queued, deleted = deployment.make_job(None), deployment.make_job(state=None), deployment.make_job()
    deployment.jobs.remove(deleted, "deleted")
    for call, record, code in (
        (process.get, no_callback, "no_callback"),
        (process.resend, no_callback, "no_callback"),
        (process.resend, queued, "job_not_finished"),
        (process.resend, deleted, "job_deleted"),
    ):
        with pytest.raises(Problem) as caught:
            call(record)
        assert caught.value.code == code
    assert deployment.store.entries(job_key(deleted.id)) == []


def test_log_is_limited_to_latest_deliveries(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DELIVERIES", 2)
    record = deployment.make_job()
    for status in (500, 501, 502):
        deployment.process(ScriptedPost([status])).deliver_due(now())
        deployment.process(unexpected_post).resend(record)
    assert [delivery.status for delivery in deployment.get_webhook(record).deliveries] == [501, 502]


@contextmanager
def running(process: Webhooks) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=process.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def test_slow_host_does_not_block_others(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PASS_EVERY_S", 0.01), ("THREADS", 4), ("THREADS_PER_HOST", 2)):
        monkeypatch.setattr(module, name, value)
    release, fast_called, slow_called = threading.Event(), threading.Event(), threading.Event()
    slow_jobs = [deployment.make_job("http://slow.example.org/") for _ in range(6)]

    def post(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        if "slow" in url:
            slow_called.set()
            release.wait(60)
        else:
            fast_called.set()
        return PostResult(200)

    with running(deployment.process(post)):
        try:
            assert slow_called.wait(30)
            fast = deployment.make_job("http://fast.example.org/")
            assert fast_called.wait(30)
        finally:
            release.set()
    assert deployment.get_webhook(fast).state == "delivered"
    assert "delivered" in {deployment.get_webhook(record).state for record in slow_jobs}


def test_store_failure_does_not_end_delivery_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PASS_EVERY_S", 0.01)
    failed, delivered = threading.Event(), threading.Event()

    class Failing(FolderStore):
        def names(self, prefix: str) -> list[str]:
            if prefix == "callbacks" and not failed.is_set():
                failed.set()
                raise OSError("unavailable")
            return super().names(prefix)

    deployment = Deployment(tmp_path, Failing(tmp_path / "store"))
    record = deployment.make_job()

    def post(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        delivered.set()
        return PostResult(200)

    with running(deployment.process(post)):
        assert delivered.wait(30)
    assert failed.is_set()
    assert deployment.get_webhook(record).state == "delivered"


def test_private_callback_needs_setting(tmp_path: Path) -> None:
    for allow_private in (False, True):
        deployment = Deployment(tmp_path)
        deployment.settings = Settings(data_dir=tmp_path, webhook_allow_private=allow_private)
        if allow_private:
            deployment.process(unexpected_post).check("http://127.0.0.1/")
        else:
            with pytest.raises(Problem, match="127.0.0.1"):
                deployment.process(unexpected_post).check("http://127.0.0.1/")


def test_documented_receiver_verifies_messages(deployment: Deployment) -> None:
    text = (Path(__file__).parents[2] / "docs/webhooks.md").read_text()
    program = text.split("```python\n")[1].split("```")[0]
    port = free_port()
    assert program.count("9000") == 1
    environment = os.environ | {"MMAD_WEBHOOK_SECRET": load_secret(deployment.settings)}
    receiver = subprocess.Popen(
        [sys.executable, "-u", "-c", program.replace("9000", str(port))],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    with receiver:
        try:
            wait_for(lambda: is_listening(port) or receiver.poll() is not None, seconds=60)
            url = f"http://127.0.0.1:{port}/"
            record = deployment.make_job(url)
            deployment.process().deliver_due(now())
            assert deployment.get_webhook(record).state == "delivered"
            assert receiver.stdout
            assert receiver.stdout.readline().decode().split() == [record.id, "succeeded"]
            forged = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
            assert httpx.post(url, headers=forged, content=b"{}", trust_env=False).status_code == 400
        finally:
            receiver.kill()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
