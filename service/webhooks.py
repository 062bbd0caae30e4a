"""Webhooks for ended jobs (Standard Webhooks): signed messages, retries for about a day, and a delivery log.

In the store, the marker `callbacks/<id>` exists while a job's message may have to be sent, and
`jobs/<id>/webhook.json` holds the state and log of its delivery. Each attempt is claimed there by compare-and-swap
first, so that only one of several processes makes it. The claim of a process that dies expires, and the attempt is
repeated: delivery is at least once, always with the same webhook-id.
"""

import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Literal
from urllib.parse import urlsplit

import httpx
import structlog

from service import egress_guard
from service.egress_guard import GuardedClient, PostResult
from service.errors import Problem
from service.job_schemas import Delivery, Links, State, Webhook
from service.jobs import Jobs, Record, job_key
from service.schemas import Document
from service.settings import Settings
from service.signing import derive_secret, load_secret, sign

log = structlog.get_logger()

# Delay before each attempt, from the end of the previous one: about a day in total.
DELAYS_S = (0, 5, 30, 2 * 60, 10 * 60, 30 * 60, 3600, 3 * 3600, 6 * 3600, 12 * 3600)
# Random relative increase of each delay, so that messages that failed together are not retried together.
JITTER = 0.1
MAX_RETRY_AFTER_S = 3600
# Expiry of a claim; longer than an attempt can take.
CLAIM_S = 3 * egress_guard.TIMEOUT_S
# A marker without a job record belongs to a job that is being created; after this long, to a failed creation.
ORPHAN_S = 600
MAX_DELIVERIES = 100  # entries in the log; older ones are dropped
PASS_EVERY_S = 1.0
THREADS = 16
# Concurrent deliveries to one host, so that a slow host does not block the others.
THREADS_PER_HOST = 4

Clock = Callable[[], datetime]
Post = Callable[[str, Mapping[str, str], bytes], PostResult]


class MessageData(Document):
    """Data of a message. It contains no analysis results."""

    id: str
    state: State
    tag: str | None
    links: Links


class Message(Document):
    """The body of a message."""

    type: Literal["job.succeeded", "job.failed", "job.canceled"]
    timestamp: datetime
    data: MessageData


class _DeliveryLog(Webhook):
    """Content of webhook.json. `series` counts resends, `tries` the attempts claimed since the last resend."""

    series: int = 0
    tries: int = 0


class Webhooks:
    """Sends the messages of all jobs. `links` returns the links of a job by its id."""

    def __init__(self, jobs: Jobs, settings: Settings, links: Callable[[str], Links], post: Post | None = None) -> None:
        self._store = jobs.store
        self._jobs = jobs
        self._links = links
        self._allow_private = settings.webhook_allow_private
        self._secret = load_secret(settings)
        # httpx's context: certifi's certificates, or those of SSL_CERT_FILE.
        self._post = post or GuardedClient(httpx.create_ssl_context(), allow_private=self._allow_private).post
        self._running: dict[str, tuple[str, Future[bool]]] = {}  # by job id: host and running attempt

    def check(self, url: str) -> None:
        """Raise Problem callback_refused for a bad URL; its host's addresses are checked at each connection."""
        egress_guard.check(url, allow_private=self._allow_private)

    def get(self, record: Record) -> Webhook:
        """Return the state and log of a job's delivery; raises Problem no_callback."""
        return _to_public(self._load_or_make(record)[1])

    def resend(self, record: Record) -> Webhook:
        """Schedule a job's message again, with a full series of attempts and the same webhook-id; raises Problem."""
        while True:
            content, stored = self._load_or_make(record)
            if not record.ended:
                raise Problem("job_not_finished", f"the job is {record.state}: its message is sent when it has ended")
            restart = {"state": "waiting", "next_at": datetime.now(UTC), "series": stored.series + 1, "tries": 0}
            renewed = stored.model_copy(update=restart)
            if self._write(record.id, content, renewed):
                self._store.put(_marker_key(record.id), b"")
                return _to_public(renewed)
            self._jobs.get(record.id)  # raises if the job was removed

    def deliver_due(self, now: datetime) -> int:
        """Attempt each due message once, wait for the responses, and return the number of attempts."""
        with ThreadPoolExecutor(THREADS, "webhook") as pool:
            return sum(future.result() for future in self._start(pool, lambda: now))

    def run(self, stop: Event) -> None:
        """Deliver due messages until `stop` is set, then wait for running attempts; to be run in a thread."""
        with ThreadPoolExecutor(THREADS, "webhook") as pool:
            while not stop.wait(PASS_EVERY_S):
                try:
                    self._start(pool, lambda: datetime.now(UTC))
                except Exception:  # such as an unreachable store; the next pass retries
                    log.exception("webhook_pass_failed")
            pool.shutdown(cancel_futures=True)

    def _start(self, pool: ThreadPoolExecutor, clock: Clock) -> list[Future[bool]]:
        self._running = {job_id: entry for job_id, entry in self._running.items() if not entry[1].done()}
        started = []
        for job_id in self._store.names("callbacks"):
            if job_id in self._running:
                continue
            host = self._find_due_host(job_id, clock())
            if host is None or [busy for busy, _ in self._running.values()].count(host) >= THREADS_PER_HOST:
                continue
            future = pool.submit(self._attempt, job_id, clock)
            self._running[job_id] = (host, future)
            started.append(future)
        return started

    def _find_due_host(self, job_id: str, now: datetime) -> str | None:
        """Return the host of a job's due message, or None. Removes the marker of a finished delivery."""
        try:
            if loaded := self._load(job_id):
                stored = loaded[1]
            elif record := self._load_record(job_id, now):
                stored = _make_log(record)
            else:
                return None
            if stored.state == "waiting":
                return urlsplit(stored.url).hostname if _is_due(stored, now) else None
            self._remove_marker(job_id)
        except Exception:  # must not affect other messages
            log.exception("webhook_failed", job_id=job_id)
        return None

    def _attempt(self, job_id: str, clock: Clock) -> bool:
        """Claim a message and send it; return False if another process claimed it or it is no longer due."""
        try:
            claim = self._claim(job_id, clock())
            if claim is None:
                return False
            record, claimed = claim
            at, started_s = clock(), time.monotonic()
            body = self._make_message(record).model_dump_json()
            headers = sign(derive_secret(record.owner, self._secret), claimed.id, body)
            result = self._post(claimed.url, headers, body.encode())
            took_s = round(time.monotonic() - started_s, 3)
            delivery = Delivery(at=at, status=result.status, error=result.error, took_s=took_s)
            log.info("webhook_tried", job_id=job_id, **delivery.model_dump(exclude={"at"}))
            self._finish(job_id, claimed, result, delivery, clock())
        except Exception:  # the claim expires, and the attempt is repeated
            log.exception("webhook_failed", job_id=job_id)
        return True

    def _claim(self, job_id: str, now: datetime) -> tuple[Record, _DeliveryLog] | None:
        record = self._load_record(job_id, now)
        if record is None:
            return None
        content, stored = self._load_or_make(record)
        if not _is_due(stored, now):
            return None
        if stored.tries == len(DELAYS_S):  # the process died in the last attempt
            self._write(job_id, content, _close(stored, "given_up"))
            return None
        claimed = stored.model_copy(update={"tries": stored.tries + 1, "next_at": now + timedelta(seconds=CLAIM_S)})
        return (record, claimed) if self._write(job_id, content, claimed) else None

    def _finish(
        self, job_id: str, claimed: _DeliveryLog, result: PostResult, delivery: Delivery, now: datetime
    ) -> None:
        """Record the result of an attempt, merged with concurrent changes."""
        while loaded := self._load(job_id):
            content, stored = loaded
            after = _apply_result(stored, claimed, result, now)
            logged = [*stored.deliveries, delivery][-MAX_DELIVERIES:]
            if self._write(job_id, content, after.model_copy(update={"deliveries": logged})):
                if after.state != "waiting":
                    self._remove_marker(job_id)
                return

    def _remove_marker(self, job_id: str) -> None:
        """Remove a marker, and restore it if a resend was scheduled concurrently."""
        self._store.delete(_marker_key(job_id))
        loaded = self._load(job_id)
        if loaded and loaded[1].state == "waiting":
            self._store.put(_marker_key(job_id), b"")

    def _load_record(self, job_id: str, now: datetime) -> Record | None:
        """Return a job's record; None if there is none. The marker of a removed job is deleted."""
        try:
            return self._jobs.get(job_id)
        except Problem as problem:
            try:
                age_s = self._store.age_s(_marker_key(job_id), now.timestamp())
            except KeyError:
                return None
            # The marker is written before the record, so a recent one may not have its record yet.
            if problem.code != "job_not_found" or age_s > ORPHAN_S:
                self._store.delete(_marker_key(job_id))
            return None

    def _load(self, job_id: str) -> tuple[bytes, _DeliveryLog] | None:
        content = self._store.find(job_key(job_id, "webhook.json"))
        return None if content is None else (content, _DeliveryLog.model_validate_json(content))

    def _load_or_make(self, record: Record) -> tuple[bytes | None, _DeliveryLog]:
        return self._load(record.id) or (None, _make_log(record))

    def _write(self, job_id: str, expected: bytes | None, changed: _DeliveryLog) -> bool:
        """Replace webhook.json by compare-and-swap; if the job was deleted concurrently, delete what was written."""
        content = changed.model_dump_json().encode()
        if not self._store.compare_and_swap(job_key(job_id, "webhook.json"), expected, content):
            return False
        try:
            self._jobs.get(job_id)
        except Problem:
            self._store.delete(job_key(job_id))
            return False
        return True

    def _make_message(self, record: Record) -> Message:
        links = self._links(record.id)
        data = MessageData(id=record.id, state=record.state, tag=record.options.tag, links=links)
        message = {"type": f"job.{record.state}", "timestamp": record.changes[-1].at, "data": data}
        return Message.model_validate(message)


def _make_log(record: Record) -> _DeliveryLog:
    """Return the delivery log of a job before its first attempt; raises Problem no_callback."""
    if record.options.callback_url is None:
        raise Problem("no_callback", "the job was sent without a callback_url; give one with POST /detect")
    url, next_at = record.options.callback_url, record.changes[-1].at if record.ended else None
    return _DeliveryLog(id=f"msg_{record.id}", url=url, state="waiting", next_at=next_at, deliveries=[])


def _apply_result(stored: _DeliveryLog, claimed: _DeliveryLog, result: PostResult, now: datetime) -> _DeliveryLog:
    """Return the log after an attempt; unchanged if the message was delivered or resent in the meantime."""
    if stored.series != claimed.series or stored.state == "delivered":
        return stored
    if result.status is not None and 200 <= result.status < 300:
        return _close(stored, "delivered")
    if stored.tries != claimed.tries:  # the claim expired, and another process made the next attempt
        return stored
    if result.status == 410 or stored.tries == len(DELAYS_S):
        return _close(stored, "given_up")
    delay_s = DELAYS_S[stored.tries] * random.uniform(1, 1 + JITTER)
    requested_s = min(result.retry_after_s or 0.0, MAX_RETRY_AFTER_S)
    return stored.model_copy(update={"next_at": now + timedelta(seconds=max(delay_s, requested_s))})


def _close(stored: _DeliveryLog, state: Literal["delivered", "given_up"]) -> _DeliveryLog:
    return stored.model_copy(update={"state": state, "next_at": None})


def _is_due(stored: _DeliveryLog, now: datetime) -> bool:
    return stored.state == "waiting" and stored.next_at is not None and stored.next_at <= now


def _to_public(stored: _DeliveryLog) -> Webhook:
    return Webhook.model_validate(stored.model_dump(exclude={"series", "tries"}))


def _marker_key(job_id: str) -> str:
    return f"callbacks/{job_id}"
