"""Messages to callers about jobs that have ended: signed, tried again for a day, written down (Standard Webhooks).

In the store: `callbacks/<id>` as long as a job's message may have to be sent, `jobs/<id>/webhook.json` for how its
delivery goes. A try is claimed there before it is made, so of several processes one makes it; and a process that dies
in the middle leaves a claim whose time comes again. So a message comes at least once, under one webhook-id.
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
from service.egress_guard import Answer, Sender
from service.errors import Problem
from service.job_schemas import Delivery, Links, State, Webhook
from service.jobs import Jobs, Record, key
from service.schemas import Document
from service.settings import Settings
from service.signing import Signers
from service.store import Store

log = structlog.get_logger()

MINUTE_S, HOUR_S = 60, 3600
# How long before each try, from the end of the one before it: about a day in all.
DELAYS_S = (
    *(0, 5, 30, 2 * MINUTE_S, 10 * MINUTE_S, 30 * MINUTE_S),
    *(HOUR_S, 3 * HOUR_S, 6 * HOUR_S, 12 * HOUR_S),
)
# A delay is up to so much longer, so that messages that failed together do not come back together.
JITTER = 0.1
MAX_RETRY_AFTER_S = HOUR_S
# A claim is not taken over before this; longer than a try can take.
CLAIM_S = 3 * egress_guard.TIMEOUT_S
# A mark without a record is a job that is just being created; after this long, one that never was.
ORPHAN_S = 10 * MINUTE_S
MAX_DELIVERIES = 100  # in the log; the oldest go
PASS_EVERY_S = 1.0
THREADS = 16
# Messages on their way to one host: one that is slow leaves threads for the others.
THREADS_PER_HOST = 4

Clock = Callable[[], datetime]
Post = Callable[[str, Mapping[str, str], bytes], Answer]


class MessageData(Document):
    """What a message tells of a job. Nothing of what was seen in the video."""

    id: str
    state: State
    tag: str | None
    links: Links


class Message(Document):
    """The body of a message."""

    type: Literal["job.succeeded", "job.failed", "job.canceled"]
    timestamp: datetime
    data: MessageData


class _Log(Webhook):
    """webhook.json. `series` counts the resends, `tries` the tries claimed since."""

    series: int = 0
    tries: int = 0


class Webhooks:
    """The messages of a store's jobs.

    Args:
        store: the store.
        jobs: its jobs.
        settings: webhook_secret, webhook_allow_private, data_dir.
        links: a job's id to its links.
        post: makes a POST; if not given, one guarded as the settings say.
    """

    def __init__(
        self,
        store: Store,
        jobs: Jobs,
        settings: Settings,
        links: Callable[[str], Links],
        post: Post | None = None,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._links = links
        self._allow_private = settings.webhook_allow_private
        self._signers = Signers(settings)
        # Certificates as httpx takes them: certifi's, or those of SSL_CERT_FILE.
        self._post = post or Sender(httpx.create_ssl_context(), allow_private=self._allow_private).post
        self._under_way: dict[str, tuple[str, Future[bool]]] = {}  # by job: the host, and the try

    def check(self, url: str) -> None:
        """Whether a callback_url may be taken; names are checked again at each connection.

        Raises:
            Problem: callback_refused.
        """
        egress_guard.check(url, allow_private=self._allow_private)

    def get(self, record: Record) -> Webhook:
        """How the delivery of a job's message goes.

        Raises:
            Problem: no_callback.
        """
        found = self._stored(record.id)
        return _shown(found[1] if found else _begin(record))

    def resend(self, record: Record) -> Webhook:
        """Send a job's message anew, with all tries before it and under the same webhook-id.

        Raises:
            Problem: no_callback; job_not_finished: there is no message yet; job_deleted, job_expired.
        """
        begin = _begin(record)
        if not record.ended:
            raise Problem(
                "job_not_finished", f"the job is {record.state}: its message is sent when it has ended"
            )
        while True:
            found = self._stored(record.id)
            content, stored = found or (None, begin)
            renewed = stored.model_copy(
                update={
                    "state": "waiting",
                    "next_at": datetime.now(UTC),
                    "series": stored.series + 1,
                    "tries": 0,
                }
            )
            if self._write(record.id, content, renewed):
                self._store.put(_mark(record.id), b"")
                return _shown(renewed)
            self._jobs.get(record.id)  # ends this where the job was removed

    def work_off(self, now: datetime) -> int:
        """One pass: try each message whose time has come, and wait for the answers.

        Returns:
            How many tries this process made.
        """
        with ThreadPoolExecutor(THREADS, "webhook") as pool:
            return sum(future.result() for future in self._start(pool, lambda: now))

    def run(self, stop: Event) -> None:
        """Pass after pass until `stop` is set; for a thread of its own. Tries under way are waited for at the end."""
        with ThreadPoolExecutor(THREADS, "webhook") as pool:
            while not stop.wait(PASS_EVERY_S):
                try:
                    self._start(pool, _utc_now)
                except Exception:  # the store may be away; the next pass sees
                    log.exception("webhook_pass_failed")
            pool.shutdown(cancel_futures=True)

    def _start(self, pool: ThreadPoolExecutor, clock: Clock) -> list[Future[bool]]:
        """Begin what is due and not under way."""
        self._under_way = {job: on for job, on in self._under_way.items() if not on[1].done()}
        begun = []
        for job_id in self._store.names("callbacks"):
            if job_id in self._under_way:
                continue
            host = self._due_at(job_id, clock())
            if host is None or [on[0] for on in self._under_way.values()].count(host) >= THREADS_PER_HOST:
                continue
            future = pool.submit(self._try, job_id, clock)
            self._under_way[job_id] = (host, future)
            begun.append(future)
        return begun

    def _due_at(self, job_id: str, now: datetime) -> str | None:
        """The host a job's message is to go to now; None if none is. Marks that are done with are removed."""
        try:
            found = self._stored(job_id)
            if found is None:
                record = self._record(job_id, now)
                return _host(_begin(record)) if record and record.ended else None
            stored = found[1]
            if stored.state == "waiting":
                return _host(stored) if _is_due(stored, now) else None
            self._unmark(job_id)
        except Exception:  # one message's trouble is not the others'
            log.exception("webhook_failed", job_id=job_id)
        return None

    def _try(self, job_id: str, clock: Clock) -> bool:
        """Claim a message and send it; False if another process has it, or nothing is due any more."""
        try:
            claim = self._claim(job_id, clock())
            if claim is None:
                return False
            record, claimed = claim
            at, began_s = clock(), time.monotonic()
            body = self._message(record).model_dump_json()
            headers = self._signers.of(record.owner).headers(claimed.id, body)
            answer = self._post(claimed.url, headers, body.encode())
            took_s = round(time.monotonic() - began_s, 3)
            delivery = Delivery(at=at, status=answer.status, error=answer.error, took_s=took_s)
            log.info("webhook_tried", job_id=job_id, **delivery.model_dump(exclude={"at"}))
            self._finish(job_id, claimed, answer, delivery, clock())
        except Exception:  # the claim runs out, and the next try comes
            log.exception("webhook_failed", job_id=job_id)
        return True

    def _claim(self, job_id: str, now: datetime) -> tuple[Record, _Log] | None:
        found = self._stored(job_id)
        record = self._record(job_id, now)
        if record is None:
            return None
        content, stored = found or (None, _begin(record))
        if not _is_due(stored, now):
            return None
        if stored.tries == len(DELAYS_S):  # whoever made the last try did not live to write it down
            self._write(job_id, content, _ended(stored, "given_up"))
            return None
        claimed = stored.model_copy(
            update={"tries": stored.tries + 1, "next_at": now + timedelta(seconds=CLAIM_S)}
        )
        return (record, claimed) if self._write(job_id, content, claimed) else None

    def _finish(self, job_id: str, claimed: _Log, answer: Answer, delivery: Delivery, now: datetime) -> None:
        """Write down how a try went, beside what others may have written meanwhile."""
        while found := self._stored(job_id):
            content, stored = found
            after = _after(stored, claimed, answer, now)
            logged = [*stored.deliveries, delivery][-MAX_DELIVERIES:]
            if self._write(job_id, content, after.model_copy(update={"deliveries": logged})):
                if after.state != "waiting":
                    self._unmark(job_id)
                return

    def _unmark(self, job_id: str) -> None:
        """Remove a mark, and put it back if a resend came between."""
        self._store.delete(_mark(job_id))
        found = self._stored(job_id)
        if found and found[1].state == "waiting":
            self._store.put(_mark(job_id), b"")

    def _record(self, job_id: str, now: datetime) -> Record | None:
        """A job's record; a job that was removed takes its mark along."""
        try:
            return self._jobs.get(job_id)
        except Problem as problem:
            try:
                age_s = self._store.age_s(_mark(job_id), now.timestamp())
            except KeyError:
                return None
            # The mark is written before the record: one that is young may have its record coming.
            if problem.code != "job_not_found" or age_s > ORPHAN_S:
                self._store.delete(_mark(job_id))
            return None

    def _stored(self, job_id: str) -> tuple[bytes, _Log] | None:
        try:
            content = self._store.get(key(job_id, "webhook.json"))
        except KeyError:
            return None
        return content, _Log.model_validate_json(content)

    def _write(self, job_id: str, expected: bytes | None, changed: _Log) -> bool:
        """Swap webhook.json; what is written beside a deletion of the job goes too."""
        if not self._store.compare_and_swap(
            key(job_id, "webhook.json"), expected, changed.model_dump_json().encode()
        ):
            return False
        try:
            self._jobs.get(job_id)
        except Problem:
            self._store.delete(key(job_id))
            return False
        return True

    def _message(self, record: Record) -> Message:
        return Message.model_validate(
            {
                "type": f"job.{record.state}",
                "timestamp": record.changes[-1].at,
                "data": MessageData(
                    id=record.id, state=record.state, tag=record.options.tag, links=self._links(record.id)
                ),
            }
        )


def _begin(record: Record) -> _Log:
    """A job's message before its first try."""
    if record.options.callback_url is None:
        raise Problem("no_callback", "the job was sent without a callback_url; give one with POST /detect")
    return _Log(
        id=f"msg_{record.id}",
        url=str(record.options.callback_url),
        state="waiting",
        next_at=record.changes[-1].at if record.ended else None,
        deliveries=[],
    )


def _after(stored: _Log, claimed: _Log, answer: Answer, now: datetime) -> _Log:
    """What follows from a try: nothing, where another delivered the message meanwhile, or it is sent anew."""
    if stored.series != claimed.series or stored.state == "delivered":
        return stored
    if answer.status is not None and 200 <= answer.status < 300:
        return _ended(stored, "delivered")
    if stored.tries != claimed.tries:  # the claim ran out, and another has it now
        return stored
    if answer.status == 410 or stored.tries == len(DELAYS_S):
        return _ended(stored, "given_up")
    delay_s = DELAYS_S[stored.tries] * random.uniform(1, 1 + JITTER)
    wished_s = min(answer.retry_after_s or 0.0, MAX_RETRY_AFTER_S)
    return stored.model_copy(update={"next_at": now + timedelta(seconds=max(delay_s, wished_s))})


def _ended(stored: _Log, state: Literal["delivered", "given_up"]) -> _Log:
    return stored.model_copy(update={"state": state, "next_at": None})


def _is_due(stored: _Log, now: datetime) -> bool:
    return stored.state == "waiting" and stored.next_at is not None and stored.next_at <= now


def _shown(stored: _Log) -> Webhook:
    return Webhook.model_validate(stored.model_dump(exclude={"series", "tries"}))


def _host(stored: _Log) -> str:
    return urlsplit(stored.url).hostname or ""


def _mark(job_id: str) -> str:
    return f"callbacks/{job_id}"


def _utc_now() -> datetime:
    return datetime.now(UTC)
