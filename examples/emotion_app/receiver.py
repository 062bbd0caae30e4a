"""Receive webhooks of the service and verify their signatures (Standard Webhooks)."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, Queue
from threading import Thread
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

_MAX_BYTES = 64 * 1024
_READ_TIMEOUT_S = 10.0


class Receiver:
    """Verifies deliveries and queues their messages, without duplicates."""

    def __init__(self, secret: str) -> None:
        self._webhook = Webhook(secret)
        self._messages: Queue[dict[str, Any]] = Queue()
        self._ids: set[str] = set()

    def receive(self, body: bytes, headers: dict[str, str]) -> int:
        """Verify a delivery and return the status to respond with: 204, or 401 if the signature is invalid."""
        try:
            message = self._webhook.verify(body, headers)
        except (WebhookVerificationError, ValueError):  # ValueError: a signature or body that cannot be decoded
            return 401
        # Delivery is at least once: the same id is the same message.
        if (message_id := headers["webhook-id"]) not in self._ids:
            self._ids.add(message_id)
            self._messages.put(message)
        return 204

    def wait(self, job_id: str, timeout_s: float) -> dict[str, Any]:
        """Wait for the message about a job and return it; raises TimeoutError."""
        while True:
            try:
                message = self._messages.get(timeout=timeout_s)
            except Empty:
                raise TimeoutError(f"no message about job {job_id} came within {timeout_s:g} s") from None
            if message["data"]["id"] == job_id:
                return message


@contextmanager
def serve_receiver(receiver: Receiver, host: str, port: int, listen: str | None = None) -> Iterator[str]:
    """Run an HTTP server for a receiver; yields the URL for callback_url.

    `host` is the address of this machine, as seen by the service; `listen` is the address to listen on, if not `host`.
    Port 0 is any free port.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = _READ_TIMEOUT_S

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > _MAX_BYTES:
                status = 413
            else:
                headers = {name.lower(): value for name, value in self.headers.items()}
                status = receiver.receive(self.rfile.read(int(length)), headers)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Do not log to standard error."""

    with ThreadingHTTPServer((listen or host, port), Handler) as server:
        thread = Thread(target=server.serve_forever, name="webhooks", daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{server.server_address[1]}/mmad"
        finally:
            server.shutdown()
            thread.join()
