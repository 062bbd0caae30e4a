"""Webhook retries, concurrent attempts and resends."""

import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import webhooks as module
from service.egress_guard import PostResult
from service.job_schemas import Webhook
from service.store import FolderStore
from service.webhooks import CLAIM_S, DELAYS_S, JITTER, MAX_RETRY_AFTER_S, Webhooks
from tests.conftest import wait_for
from tests.webhooks.deployment import Deployment, ScriptedPost, now, unexpected_post
from tests.webhooks.receiver import Receiver


def test_retries_follow_delay_table_across_restarts(deployment: Deployment) -> None:
    record = deployment.make_job()
    post = ScriptedPost([500] * 99)
    at = now()
    gaps_s: list[float] = []
    while deployment.pending_ids():
        if gaps_s:
            assert deployment.process(unexpected_post).deliver_due(at - timedelta(milliseconds=1)) == 0
        assert deployment.process(post).deliver_due(at) == 1  # a new process for every attempt
        next_at = deployment.get_webhook(record).next_at
        if next_at:
            gaps_s.append((next_at - at).total_seconds())
            at = next_at
    assert len(gaps_s) == len(DELAYS_S) - 1
    for gap_s, delay_s in zip(gaps_s, DELAYS_S[1:], strict=True):
        assert delay_s <= gap_s <= delay_s * (1 + JITTER) + 0.001
    webhook = deployment.get_webhook(record)
    assert (webhook.state, len(webhook.deliveries)) == ("given_up", len(DELAYS_S))
    assert len({headers["webhook-id"] for _, headers, _ in post.requests}) == 1
    assert len({body for _, _, body in post.requests}) == 1
    assert deployment.process(unexpected_post).deliver_due(at + timedelta(days=9)) == 0


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                PostResult(200),
                PostResult(202),
                PostResult(503, retry_after_s=7),
                PostResult(404),
                PostResult(error="timeout"),
            ]
        )
        | st.builds(PostResult, st.sampled_from([301, 400, 410, 429, 500, 503, None, None, None, None])),
        min_size=12,
        max_size=12,
    )
)
def test_webhook_is_delivered_only_after_2xx(responses: list[PostResult]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        deployment = Deployment(Path(folder))
        record = deployment.make_job()
        post = ScriptedPost(responses)
        at: datetime | None = now()
        while at:
            deployment.process(post).deliver_due(at)
            at = deployment.get_webhook(record).next_at
        used = responses[: len(post.requests)]
        webhook = deployment.get_webhook(record)
        deliveries = [response.status for response in used if response.status and 200 <= response.status < 300]
        assert len(used) == len(webhook.deliveries) <= len(DELAYS_S)
        assert (webhook.state == "delivered") == bool(deliveries)
        assert len(deliveries) <= 1
        if not deliveries:
            assert webhook.state == "given_up"
            assert used[-1].status == 410 or len(used) == len(DELAYS_S)
        assert all(response.status != 410 for response in used[:-1])
        assert deployment.pending_ids() == []


@pytest.mark.parametrize(
    ("header", "least_s", "most_s"),
    [
        ("120", 120, 120),
        ("1", DELAYS_S[1], DELAYS_S[1] * (1 + JITTER)),  # never earlier than the table
        ("999999", MAX_RETRY_AFTER_S, MAX_RETRY_AFTER_S),
        (1800, 1700, 1800),  # converted to a date below
        (-1800, 5, 5 * (1 + JITTER)),
        ("soon", 5, 5 * (1 + JITTER)),
        ("-7", 5, 5 * (1 + JITTER)),
        ("9" * 5000, 5, 5 * (1 + JITTER)),
    ],
)
def test_retry_after_is_honoured_up_to_limit(
    deployment: Deployment, receiver: Receiver, header: str | int, least_s: float, most_s: float
) -> None:
    if isinstance(header, int):
        header = format_datetime(now() + timedelta(seconds=header), usegmt=True)
    receiver.status, receiver.headers = 503, {"Retry-After": header}
    record = deployment.make_job(receiver.url)
    at = now()
    deployment.process().deliver_due(at)
    next_at = deployment.get_webhook(record).next_at
    assert next_at
    assert least_s <= (next_at - at).total_seconds() <= most_s + 0.001


def test_only_one_process_delivers_a_message(deployment: Deployment) -> None:
    records = [deployment.make_job(f"http://host{index}.example.org/") for index in range(6)]
    post = ScriptedPost([200] * 99)
    processes = [deployment.process(post) for _ in range(6)]
    barrier = threading.Barrier(len(processes))
    at = now()

    def deliver(process: Webhooks) -> int:
        barrier.wait()
        return process.deliver_due(at)

    with ThreadPoolExecutor(len(processes)) as pool:
        assert sum(pool.map(deliver, processes)) == len(records)
    assert sorted(url for url, *_ in post.requests) == sorted(str(record.options.callback_url) for record in records)


def test_message_of_crashed_process_is_delivered_by_another(deployment: Deployment) -> None:
    record = deployment.make_job()

    def crash(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        raise MemoryError

    at = now()
    deployment.process(crash).deliver_due(at)
    expired = at + timedelta(seconds=CLAIM_S)
    assert deployment.process(unexpected_post).deliver_due(expired - timedelta(seconds=1)) == 0
    assert deployment.process(ScriptedPost([200])).deliver_due(expired) == 1
    assert deployment.get_webhook(record).state == "delivered"


def test_message_is_given_up_after_repeated_crashes(deployment: Deployment) -> None:
    record = deployment.make_job()
    attempts = 0

    def crash(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        nonlocal attempts
        attempts += 1
        raise MemoryError

    at: datetime | None = now()
    while at:
        deployment.process(crash).deliver_due(at)
        at = deployment.get_webhook(record).next_at
    assert (attempts, deployment.get_webhook(record).state) == (len(DELAYS_S), "given_up")
    assert deployment.process(unexpected_post).deliver_due(now()) == 0
    assert deployment.pending_ids() == []


def test_late_success_counts_and_late_failure_is_ignored(deployment: Deployment) -> None:
    def deliver_late(late: int, meanwhile: int) -> tuple[datetime, Webhook]:
        record, at = deployment.make_job(), now()

        def post(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
            assert deployment.process(ScriptedPost([meanwhile])).deliver_due(at + timedelta(seconds=CLAIM_S)) == 1
            return PostResult(late)

        deployment.process(post).deliver_due(at)
        return at, deployment.get_webhook(record)

    assert deliver_late(late=200, meanwhile=500)[1].state == "delivered"
    assert deliver_late(late=500, meanwhile=200)[1].state == "delivered"
    at, after_both = deliver_late(late=500, meanwhile=503)
    assert (after_both.state, len(after_both.deliveries)) == ("waiting", 2)
    assert after_both.next_at
    assert (after_both.next_at - at).total_seconds() >= CLAIM_S + DELAYS_S[2]


def test_failure_does_not_undo_earlier_success(deployment: Deployment) -> None:
    record, at = deployment.make_job(), now()
    second_started = threading.Event()

    def first(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        assert second_started.wait(30)
        return PostResult(200)

    with ThreadPoolExecutor(1) as pool:
        first_result = pool.submit(deployment.process(first).deliver_due, at)
        wait_for(lambda: deployment.store.names(f"jobs/{record.id}").count("webhook.json"), seconds=30)

        def second(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
            second_started.set()
            assert first_result.result() == 1
            return PostResult(500)

        assert deployment.process(second).deliver_due(at + timedelta(seconds=CLAIM_S)) == 1
    webhook = deployment.get_webhook(record)
    assert [delivery.status for delivery in webhook.deliveries] == [200, 500]
    assert (webhook.state, webhook.next_at, deployment.pending_ids()) == ("delivered", None, [])


def test_success_counts_after_giving_up(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DELAYS_S", (0,))
    record, at = deployment.make_job(), now()

    def last(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        deployment.process(unexpected_post).deliver_due(at + timedelta(seconds=CLAIM_S))
        assert deployment.get_webhook(record).state == "given_up"
        return PostResult(200)

    assert deployment.process(last).deliver_due(at) == 1
    assert deployment.get_webhook(record).state == "delivered"


def test_resend_repeats_message_with_new_attempts(deployment: Deployment) -> None:
    record = deployment.make_job()
    post = ScriptedPost([410, *[500] * (len(DELAYS_S) - 1), 200])
    deployment.process(post).deliver_due(now())
    assert deployment.get_webhook(record).state == "given_up"
    resent = deployment.process(unexpected_post).resend(record)
    assert (resent.state, len(resent.deliveries)) == ("waiting", 1)
    at = resent.next_at
    while at:
        deployment.process(post).deliver_due(at)
        at = deployment.get_webhook(record).next_at
    webhook = deployment.get_webhook(record)
    assert (webhook.state, len(webhook.deliveries)) == ("delivered", 1 + len(DELAYS_S))
    assert len({headers["webhook-id"] for _, headers, _ in post.requests}) == 1
    assert deployment.pending_ids() == []


def test_resend_during_delivery_is_not_lost(deployment: Deployment) -> None:
    record = deployment.make_job()
    process = deployment.process(unexpected_post)

    def post(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        process.resend(record)
        return PostResult(200)

    deployment.process(post).deliver_due(now())
    assert deployment.get_webhook(record).state == "waiting"
    assert deployment.process(ScriptedPost([200])).deliver_due(now()) == 1
    webhook = deployment.get_webhook(record)
    assert (webhook.state, len(webhook.deliveries)) == ("delivered", 2)


def test_resend_before_pending_entry_is_removed_is_not_lost(tmp_path: Path) -> None:
    class Racing(FolderStore):
        raced = False

        def delete(self, prefix: str) -> None:
            if prefix.startswith("callbacks/") and not self.raced:
                self.raced = True
                deployment.process(unexpected_post).resend(record)
            super().delete(prefix)

    deployment = Deployment(tmp_path, Racing(tmp_path / "store"))
    record = deployment.make_job()
    deployment.process(ScriptedPost([200])).deliver_due(now())
    assert deployment.process(ScriptedPost([200])).deliver_due(now()) == 1
    assert len(deployment.get_webhook(record).deliveries) == 2
