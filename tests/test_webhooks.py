"""Messages about ended jobs: signed, once claimed, tried again, written down, and never sent to private places."""

import base64
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
import standardwebhooks
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from service import webhooks as module
from service.egress_guard import PostResult
from service.errors import Problem
from service.job_schemas import JobError, JobOptions, Links, State, Webhook
from service.jobs import ANONYMOUS_OWNER, Jobs, Record, Upload, job_key, new_job_id
from service.settings import Settings
from service.signing import load_secret
from service.store import FolderStore
from service.webhooks import CLAIM_S, DELAYS_S, JITTER, MAX_RETRY_AFTER_S, ORPHAN_S, Post, Webhooks
from tests.conftest import free_port, wait_for
from tests.webhook_receiver import Receiver, run_receiver

PUBLIC = "93.184.215.14"
SUCCEEDED, FAILED, CANCELED = State.SUCCEEDED, State.FAILED, State.CANCELED


def links(job_id: str) -> Links:
    here = f"/jobs/{job_id}"
    return Links(
        self=here, result=f"{here}/result", export=f"{here}/export", events=f"{here}/events", cancel=f"{here}/cancel"
    )


class House:
    """A store with jobs, and as many processes over it as a test makes."""

    def __init__(self, folder: Path, store: FolderStore | None = None) -> None:
        self.settings = Settings(data_dir=folder, webhook_allow_private=True)
        self.store = store or FolderStore(folder / "store")
        self.jobs = Jobs(self.store)

    def process(self, post: Post | None = None) -> Webhooks:
        return Webhooks(self.jobs, self.settings, links, post)

    def job(
        self,
        url: str | None = "http://hooks.example.org/",
        state: State | None = SUCCEEDED,
        owner: str = ANONYMOUS_OWNER,
    ) -> Record:
        """A job in a state; None: still queued."""
        options = JobOptions.model_validate({"callback_url": url, "tag": "walk 7"})
        upload = Upload(bytes=3, sha256="ab" * 32)
        record = self.jobs.create(new_job_id(), upload, options, retention_s=3600, owner=owner)
        if state is None:
            return record
        record = self.jobs.change(record, State.RUNNING)
        error = JobError(code="damaged_video", detail="it cannot be decoded") if state is FAILED else None
        return self.jobs.change(record, state, error)

    def marks(self) -> list[str]:
        return self.store.names("callbacks")

    def shown(self, record: Record) -> Webhook:
        return self.process(never).get(record)


class Answers:
    """Answers a test lays down, one for each try; remembers what was sent."""

    def __init__(self, answers: Iterable[PostResult | int]) -> None:
        self._answers = iter(answers)
        self.sent: list[tuple[str, dict[str, str], bytes]] = []

    def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        self.sent.append((url, dict(headers), body))
        answer = next(self._answers)
        return PostResult(answer) if isinstance(answer, int) else answer


def never(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
    raise AssertionError(f"nothing should go to {url}")


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with run_receiver() as made:
        yield made


@pytest.mark.parametrize("state", [SUCCEEDED, FAILED, CANCELED])
def test_a_receiver_can_verify_the_message_and_it_tells_only_state_and_links(
    house: House, receiver: Receiver, state: State
) -> None:
    record = house.job(receiver.url + ";v=1?token=a%20b", state)
    house.store.put(job_key(record.id, "1/result.json"), b'{"detections": ["nodding"]}')
    assert house.process().deliver_due(now()) == 1
    [(path, headers, body)] = receiver.deliveries
    assert path == "/hook;v=1?token=a%20b"
    assert headers["Host"] == f"127.0.0.1:{receiver.port}"
    assert headers["content-type"] == "application/json"
    message = standardwebhooks.Webhook(load_secret(house.settings)).verify(body, headers)
    assert message == {
        "type": f"job.{state}",
        "timestamp": record.changes[-1].at.isoformat().replace("+00:00", "Z"),
        "data": {"id": record.id, "state": state, "tag": "walk 7", "links": links(record.id).model_dump()},
    }
    shown = house.shown(record)
    assert (shown.state, shown.next_at, shown.id) == ("delivered", None, headers["webhook-id"])
    assert [(done.status, done.error) for done in shown.deliveries] == [(204, None)]
    assert house.marks() == []


def test_a_message_that_was_changed_on_the_way_is_seen(house: House, receiver: Receiver) -> None:
    house.job(receiver.url)
    house.process().deliver_due(now())
    [(_, headers, body)] = receiver.deliveries
    verifier = standardwebhooks.Webhook(load_secret(house.settings))
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verifier.verify(body.replace(b"succeeded", b"failed"), headers)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verifier.verify(body, headers | {"webhook-id": "msg_another"})


def verifies(secret_: str, headers: Mapping[str, str], body: bytes) -> bool:
    try:
        standardwebhooks.Webhook(secret_).verify(body, dict(headers))
    except standardwebhooks.WebhookVerificationError:
        return False
    return True


def test_each_keys_messages_are_signed_with_its_own_secret(house: House) -> None:
    owners = [ANONYMOUS_OWNER, "0123abcd", "4567cdef"]
    records = {house.job(owner=owner).id: owner for owner in owners}
    answers = Answers([200] * 3)
    assert house.process(answers).deliver_due(now()) == 3
    signed_by = {}
    for _, headers, body in answers.sent:
        fits = [owner for owner in owners if verifies(load_secret(house.settings, owner), headers, body)]
        signed_by[json.loads(body)["data"]["id"]] = fits
    assert signed_by == {job_id: [owner] for job_id, owner in records.items()}


def test_a_keys_secret_comes_from_the_services_and_from_its_id(tmp_path: Path) -> None:
    given = {"data_dir": tmp_path, "webhook_secret": "whsec_" + base64.b64encode(bytes(range(32))).decode()}
    house = Settings.model_validate(given)
    # printf 'mmad webhook 0123abcd' | openssl dgst -sha256 -mac HMAC -macopt hexkey:000102...1f -binary | base64
    assert load_secret(house, "0123abcd") == "whsec_nqR0pr7wB0E8uzQOXjMU1LWlzisuBTFDaVJIRwVINTw="
    unpadded = house.model_copy(update={"webhook_secret": SecretStr(given["webhook_secret"].rstrip("="))})  # type: ignore[attr-defined]
    assert load_secret(unpadded, "0123abcd") == load_secret(house, "0123abcd")
    other = house.model_copy(update={"webhook_secret": SecretStr("whsec_" + "A" * 43 + "=")})
    found = {load_secret(one, owner) for one in (house, other) for owner in (ANONYMOUS_OWNER, "0123abcd", "0123abce")}
    assert len(found) == 6
    assert list(tmp_path.iterdir()) == []


def test_the_log_has_status_or_a_word_and_nothing_of_the_answer(house: House, receiver: Receiver) -> None:
    receiver.status, receiver.body = 500, b"inner matters"
    receiver.headers = {"X-Inner": "inner matters"}
    record = house.job(receiver.url)
    house.process().deliver_due(now())
    receiver.server.server_close()
    house.process().deliver_due(now() + timedelta(minutes=1))
    shown = house.shown(record)
    assert [(done.status, done.error) for done in shown.deliveries] == [(500, None), (None, "connection_failed")]
    assert b"inner" not in house.store.get(job_key(record.id, "webhook.json"))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_failures(house: House, receiver: Receiver, status: int) -> None:
    with run_receiver() as other:
        receiver.status, receiver.headers = status, {"Location": other.url}
        record = house.job(receiver.url)
        house.process().deliver_due(now())
        assert len(receiver.deliveries) == 1
        assert other.deliveries == []
    shown = house.shown(record)
    assert (shown.state, shown.deliveries[0].status) == ("waiting", status)


def test_no_proxy_of_the_environment_is_used(house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with run_receiver() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        house.job(receiver.url)
        house.process().deliver_due(now())
        assert proxy.deliveries == []
    assert len(receiver.deliveries) == 1


def test_tries_follow_the_table_over_restarts_and_end(house: House) -> None:
    record = house.job()
    answers = Answers([500] * 99)
    at = now()
    gaps_s: list[float] = []
    while house.marks():
        if gaps_s:
            assert house.process(never).deliver_due(at - timedelta(milliseconds=1)) == 0
        assert house.process(answers).deliver_due(at) == 1  # each time a process that has just begun
        next_at = house.shown(record).next_at
        if next_at:
            gaps_s.append((next_at - at).total_seconds())
            at = next_at
    assert len(gaps_s) == len(DELAYS_S) - 1
    for gap_s, delay_s in zip(gaps_s, DELAYS_S[1:], strict=True):
        assert delay_s <= gap_s <= delay_s * (1 + JITTER) + 0.001
    shown = house.shown(record)
    assert (shown.state, len(shown.deliveries)) == ("given_up", len(DELAYS_S))
    assert len({headers["webhook-id"] for _, headers, _ in answers.sent}) == 1
    assert len({body for _, _, body in answers.sent}) == 1
    assert house.process(never).deliver_due(at + timedelta(days=9)) == 0


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
def test_it_ends_delivered_if_and_only_if_a_2xx_came(laid_down: list[PostResult]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        house = House(Path(folder))
        record = house.job()
        answers = Answers(laid_down)
        at: datetime | None = now()
        while at:
            house.process(answers).deliver_due(at)
            at = house.shown(record).next_at
        given = laid_down[: len(answers.sent)]
        shown = house.shown(record)
        deliveries = [answer.status for answer in given if answer.status and 200 <= answer.status < 300]
        assert len(given) == len(shown.deliveries) <= len(DELAYS_S)
        assert (shown.state == "delivered") == bool(deliveries)
        assert len(deliveries) <= 1
        if not deliveries:
            assert shown.state == "given_up"
            assert given[-1].status == 410 or len(given) == len(DELAYS_S)
        assert all(answer.status != 410 for answer in given[:-1])
        assert house.marks() == []


@pytest.mark.parametrize(
    ("header", "least_s", "most_s"),
    [
        ("120", 120, 120),
        ("1", DELAYS_S[1], DELAYS_S[1] * (1 + JITTER)),  # never sooner than the table
        ("999999", MAX_RETRY_AFTER_S, MAX_RETRY_AFTER_S),
        (1800, 1700, 1800),  # from now, as a date
        (-1800, 5, 5 * (1 + JITTER)),
        ("soon", 5, 5 * (1 + JITTER)),
        ("-7", 5, 5 * (1 + JITTER)),
        ("9" * 5000, 5, 5 * (1 + JITTER)),
    ],
)
def test_a_receivers_retry_after_is_honoured_up_to_an_hour(
    house: House, receiver: Receiver, header: str | int, least_s: float, most_s: float
) -> None:
    if isinstance(header, int):
        header = format_datetime(now() + timedelta(seconds=header), usegmt=True)
    receiver.status, receiver.headers = 503, {"Retry-After": header}
    record = house.job(receiver.url)
    at = now()
    house.process().deliver_due(at)
    next_at = house.shown(record).next_at
    assert next_at
    assert least_s <= (next_at - at).total_seconds() <= most_s + 0.001


def test_a_job_that_has_not_ended_says_nothing_yet(house: House) -> None:
    record = house.job(state=None)
    assert house.process(never).deliver_due(now() + timedelta(days=1)) == 0
    assert house.marks() == [record.id]
    shown = house.shown(record)
    assert (shown.state, shown.next_at, shown.deliveries) == ("waiting", None, [])
    house.jobs.cancel(record.id)
    answers = Answers([200])
    assert house.process(answers).deliver_due(now()) == 1
    assert json.loads(answers.sent[0][2])["type"] == "job.canceled"
    assert answers.sent[0][1]["webhook-id"] == shown.id


def test_of_many_processes_one_tries(house: House) -> None:
    records = [house.job(f"http://host{index}.example.org/") for index in range(6)]
    answers = Answers([200] * 99)
    processes = [house.process(answers) for _ in range(6)]
    together = threading.Barrier(len(processes))
    at = now()

    def pass_once(process: Webhooks) -> int:
        together.wait()
        return process.deliver_due(at)

    with ThreadPoolExecutor(len(processes)) as pool:
        assert sum(pool.map(pass_once, processes)) == len(records)
    assert sorted(url for url, *_ in answers.sent) == sorted(str(record.options.callback_url) for record in records)


def test_a_process_that_dies_in_the_middle_leaves_the_message_to_another(house: House) -> None:
    record = house.job()

    def dies(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        raise MemoryError

    at = now()
    house.process(dies).deliver_due(at)
    soon = at + timedelta(seconds=CLAIM_S)
    assert house.process(never).deliver_due(soon - timedelta(seconds=1)) == 0
    assert house.process(Answers([200])).deliver_due(soon) == 1
    assert house.shown(record).state == "delivered"


def test_it_is_given_up_also_where_nobody_lived_to_write_the_tries_down(house: House) -> None:
    record = house.job()
    tried = 0

    def dies(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        nonlocal tried
        tried += 1
        raise MemoryError

    at: datetime | None = now()
    while at:
        house.process(dies).deliver_due(at)
        at = house.shown(record).next_at
    assert (tried, house.shown(record).state) == (len(DELAYS_S), "given_up")
    assert house.process(never).deliver_due(now()) == 0
    assert house.marks() == []


def test_a_late_success_counts_and_a_late_failure_changes_nothing(house: House) -> None:
    def overtaken(late: int, meanwhile: int) -> tuple[datetime, Webhook]:
        record, at = house.job(), now()

        def post(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
            assert house.process(Answers([meanwhile])).deliver_due(at + timedelta(seconds=CLAIM_S)) == 1
            return PostResult(late)

        house.process(post).deliver_due(at)
        return at, house.shown(record)

    assert overtaken(late=200, meanwhile=500)[1].state == "delivered"
    assert overtaken(late=500, meanwhile=200)[1].state == "delivered"
    at, after_both = overtaken(late=500, meanwhile=503)
    assert (after_both.state, len(after_both.deliveries)) == ("waiting", 2)
    assert after_both.next_at
    assert (after_both.next_at - at).total_seconds() >= CLAIM_S + DELAYS_S[2]


def test_a_failure_does_not_undo_what_an_earlier_try_delivered_meanwhile(house: House) -> None:
    record, at = house.job(), now()
    second_is_out = threading.Event()

    def first(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        assert second_is_out.wait(30)
        return PostResult(200)

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(house.process(first).deliver_due, at)
        wait_for(lambda: house.store.names(f"jobs/{record.id}").count("webhook.json"), seconds=30)

        def second(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
            second_is_out.set()
            assert slow.result() == 1
            return PostResult(500)

        assert house.process(second).deliver_due(at + timedelta(seconds=CLAIM_S)) == 1
    shown = house.shown(record)
    assert [done.status for done in shown.deliveries] == [200, 500]
    assert (shown.state, shown.next_at, house.marks()) == ("delivered", None, [])


def test_a_success_counts_even_after_the_end(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DELAYS_S", (0,))
    record, at = house.job(), now()

    def last(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        house.process(never).deliver_due(at + timedelta(seconds=CLAIM_S))
        assert house.shown(record).state == "given_up"
        return PostResult(200)

    assert house.process(last).deliver_due(at) == 1
    assert house.shown(record).state == "delivered"


def test_a_job_deleted_while_its_message_is_on_the_way_leaves_nothing(house: House) -> None:
    record = house.job()

    def post(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        house.jobs.remove(record, "deleted")
        return PostResult(500)

    assert house.process(post).deliver_due(now()) == 1
    assert house.store.entries(job_key(record.id)) == []
    assert house.marks() == []


def test_a_claim_written_beside_a_deletion_goes_too(tmp_path: Path) -> None:
    class Racing(FolderStore):
        def compare_and_swap(self, key: str, expected: bytes | None, content: bytes) -> bool:
            if key.endswith("webhook.json"):
                house.jobs.remove(record, "deleted")
            return super().compare_and_swap(key, expected, content)

    house = House(tmp_path, Racing(tmp_path / "store"))
    record = house.job()
    assert house.process(never).deliver_due(now()) == 0
    assert house.store.entries(job_key(record.id)) == []


def test_marks_of_jobs_that_are_gone_are_dropped_but_not_of_those_just_being_made(house: House) -> None:
    gone = house.job()
    house.jobs.remove(gone, "expired")
    being_made = new_job_id()
    for job_id in (gone.id, being_made):
        house.store.put(f"callbacks/{job_id}", b"")
    process = house.process(never)
    assert process.deliver_due(now()) == 0
    assert house.marks() == [being_made]
    assert process.deliver_due(now() + timedelta(seconds=ORPHAN_S + 1)) == 0
    assert house.marks() == []


def test_one_message_in_trouble_does_not_hold_up_the_next(house: House) -> None:
    broken, sound = house.job(), house.job()
    house.store.put(job_key(broken.id, "webhook.json"), b"not json")
    assert house.process(Answers([200])).deliver_due(now()) == 1
    assert house.shown(sound).state == "delivered"


def test_a_resend_is_the_same_message_with_all_its_tries_again(house: House) -> None:
    record = house.job()
    answers = Answers([410, *[500] * (len(DELAYS_S) - 1), 200])
    house.process(answers).deliver_due(now())
    assert house.shown(record).state == "given_up"
    again = house.process(never).resend(record)
    assert (again.state, len(again.deliveries)) == ("waiting", 1)
    at = again.next_at
    while at:
        house.process(answers).deliver_due(at)
        at = house.shown(record).next_at
    shown = house.shown(record)
    assert (shown.state, len(shown.deliveries)) == ("delivered", 1 + len(DELAYS_S))
    assert len({headers["webhook-id"] for _, headers, _ in answers.sent}) == 1
    assert house.marks() == []


def test_a_resend_while_a_try_is_on_its_way_is_not_lost(house: House) -> None:
    record = house.job()
    process = house.process(never)

    def post(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        process.resend(record)
        return PostResult(200)

    house.process(post).deliver_due(now())
    assert house.shown(record).state == "waiting"
    assert house.process(Answers([200])).deliver_due(now()) == 1
    shown = house.shown(record)
    assert (shown.state, len(shown.deliveries)) == ("delivered", 2)


def test_a_resend_between_the_end_and_its_mark_is_not_lost(tmp_path: Path) -> None:
    class Racing(FolderStore):
        raced = False

        def delete(self, prefix: str) -> None:
            if prefix.startswith("callbacks/") and not self.raced:
                self.raced = True
                house.process(never).resend(record)
            super().delete(prefix)

    house = House(tmp_path, Racing(tmp_path / "store"))
    record = house.job()
    house.process(Answers([200])).deliver_due(now())
    assert house.process(Answers([200])).deliver_due(now()) == 1
    assert len(house.shown(record).deliveries) == 2


def test_what_cannot_be_shown_or_resent_says_why(house: House) -> None:
    process = house.process(never)
    without, queued, deleted = house.job(None), house.job(state=None), house.job()
    house.jobs.remove(deleted, "deleted")
    for ask, record, code in (
        (process.get, without, "no_callback"),
        (process.resend, without, "no_callback"),
        (process.resend, queued, "job_not_finished"),
        (process.resend, deleted, "job_deleted"),
    ):
        with pytest.raises(Problem) as caught:
            ask(record)
        assert caught.value.code == code
    assert house.store.entries(job_key(deleted.id)) == []


def test_the_log_keeps_the_latest(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DELIVERIES", 2)
    record = house.job()
    for status in (500, 501, 502):
        house.process(Answers([status])).deliver_due(now())
        house.process(never).resend(record)
    assert [done.status for done in house.shown(record).deliveries] == [501, 502]


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


def test_a_slow_host_does_not_hold_up_others(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PASS_EVERY_S", 0.01), ("THREADS", 4), ("THREADS_PER_HOST", 2)):
        monkeypatch.setattr(module, name, value)
    release, quick_came, slow_came = threading.Event(), threading.Event(), threading.Event()
    slow = [house.job("http://slow.example.org/") for _ in range(6)]

    def post(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        if "slow" in url:
            slow_came.set()
            release.wait(60)
        else:
            quick_came.set()
        return PostResult(200)

    with running(house.process(post)):
        try:
            assert slow_came.wait(30)
            quick = house.job("http://quick.example.org/")
            assert quick_came.wait(30)
        finally:
            release.set()
    assert house.shown(quick).state == "delivered"
    assert "delivered" in {house.shown(record).state for record in slow}


def test_a_store_that_fails_once_does_not_end_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PASS_EVERY_S", 0.01)
    failed, deliveries = threading.Event(), threading.Event()

    class Failing(FolderStore):
        def names(self, prefix: str) -> list[str]:
            if prefix == "callbacks" and not failed.is_set():
                failed.set()
                raise OSError("away")
            return super().names(prefix)

    house = House(tmp_path, Failing(tmp_path / "store"))
    record = house.job()

    def post(url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        deliveries.set()
        return PostResult(200)

    with running(house.process(post)):
        assert deliveries.wait(30)
    assert failed.is_set()
    assert house.shown(record).state == "delivered"


def test_webhooks_check_as_the_settings_say(tmp_path: Path) -> None:
    for allow_private in (False, True):
        house = House(tmp_path)
        house.settings = Settings(data_dir=tmp_path, webhook_allow_private=allow_private)
        if allow_private:
            house.process(never).check("http://127.0.0.1/")
        else:
            with pytest.raises(Problem, match="127.0.0.1"):
                house.process(never).check("http://127.0.0.1/")


def test_the_secret_is_made_once_and_is_its_owners_only(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    together = threading.Barrier(8)

    def make(_: int) -> str:
        together.wait()
        return load_secret(Settings(data_dir=folder))

    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(make, range(8)))
    assert made == {load_secret(Settings(data_dir=folder))}
    assert [path.name for path in folder.iterdir()] == ["webhook-secret"]
    assert stat.S_IMODE((folder / "webhook-secret").stat().st_mode) == 0o600
    assert made != {load_secret(Settings(data_dir=tmp_path / "other"))}


def test_the_setting_comes_first_and_must_be_a_secret(tmp_path: Path) -> None:
    good = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert load_secret(Settings.model_validate({"data_dir": tmp_path, "webhook_secret": good})) == good
    assert list(tmp_path.iterdir()) == []
    for bad in (
        "",
        "hunter2",
        "whsec_",
        "whsec_c2hvcnQ=",
        "whsec_" + "A" * 200,
        "whsec_****" + good,
        good[:18] + "!" + good[18:],
    ):
        with pytest.raises(ValueError, match="MMAD_WEBHOOK_SECRET") as caught:
            load_secret(Settings.model_validate({"data_dir": tmp_path, "webhook_secret": bad}))
        assert not bad or bad not in str(caught.value) or bad == "whsec_"


def test_the_receiver_of_the_documentation_works(house: House) -> None:
    text = (Path(__file__).parents[1] / "docs/webhooks.md").read_text()
    program = text.split("```python\n")[1].split("```")[0]
    port = free_port()
    assert program.count("9000") == 1
    environment = os.environ | {"MMAD_WEBHOOK_SECRET": load_secret(house.settings)}
    receiver = subprocess.Popen(
        [sys.executable, "-u", "-c", program.replace("9000", str(port))],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    with receiver:
        try:
            wait_for(lambda: listens(port) or receiver.poll() is not None, seconds=60)
            url = f"http://127.0.0.1:{port}/"
            record = house.job(url)
            house.process().deliver_due(now())
            assert house.shown(record).state == "delivered"
            assert receiver.stdout
            assert receiver.stdout.readline().decode().split() == [record.id, "succeeded"]
            forged = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
            assert httpx.post(url, headers=forged, content=b"{}", trust_env=False).status_code == 400
        finally:
            receiver.kill()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
