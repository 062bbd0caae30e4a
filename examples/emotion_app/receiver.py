"""Receives the service's messages, and believes none whose signature does not fit (Standard Webhooks)."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, Queue
from threading import Thread
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

_MAX_BYTES = 64 * 1024
_SILENCE_S = 10.0


class Receiver:
    """Messages that came and are genuine, each once however often it is delivered."""

    def __init__(self, secret: str) -> None:
        self._webhook = Webhook(secret)
        self._messages: Queue[dict[str, Any]] = Queue()
        self._ids: set[str] = set()

    def take(self, body: bytes, headers: dict[str, str]) -> int:
        """The HTTP status to answer a delivery with: 204 for a genuine one, 401 for others."""
        try:
            message = self._webhook.verify(body, headers)
        except (
            WebhookVerificationError,
            ValueError,
        ):  # ValueError: a signature or body that cannot be decoded
            return 401
        # Deliveries come at least once: the same id is the same message.
        if (name := headers["webhook-id"]) not in self._ids:
            self._ids.add(name)
            self._messages.put(message)
        return 204

    def wait(self, job_id: str, timeout_s: float) -> dict[str, Any]:
        """The message about a job; raises TimeoutError if none comes."""
        while True:
            try:
                message = self._messages.get(timeout=timeout_s)
            except Empty:
                raise TimeoutError(f"no message about job {job_id} came within {timeout_s:g} s") from None
            if message["data"]["id"] == job_id:
                return message


@contextmanager
def listening(receiver: Receiver, host: str, port: int, listen: str | None = None) -> Iterator[str]:
    """Serve a receiver for as long as the context lasts; yields the address for callback_url.

    Args:
        receiver: takes what comes.
        host: as the service reaches it.
        port: 0 is any free one.
        listen: the address to listen on, where that is not the host: 0.0.0.0 in a container, for one.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = _SILENCE_S

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > _MAX_BYTES:
                status = 413
            else:
                headers = {name.lower(): value for name, value in self.headers.items()}
                status = receiver.take(self.rfile.read(int(length)), headers)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing to standard error."""

    with ThreadingHTTPServer((listen or host, port), Handler) as server:
        thread = Thread(target=server.serve_forever, name="webhooks", daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{server.server_address[1]}/mmad"
        finally:
            server.shutdown()
            thread.join()
