"""HEAD where GET is (RFC 9110, 9.3.2): the same status and headers, no body."""

import re

from anyio import CancelScope
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.prefix import path_below

# A stream of events has no end, and its headers tell nothing.
_STREAM = re.compile(r"/jobs/[^/]+/events")


def takes_head(path: str) -> bool:
    """Whether HEAD is answered at a path where GET is."""
    return not _STREAM.fullmatch(path)


class Head:
    """Answers HEAD with what GET would say, and stops the work once the headers are known."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http" or scope["method"] != "HEAD" or not takes_head(path_below(scope)):
            await self._app(scope, receive, send)
            return
        # Range is for GET alone (RFC 9110, 14.2).
        headers = [pair for pair in scope["headers"] if pair[0] != b"range"]
        as_get = {**scope, "method": "GET", "headers": headers}
        with CancelScope() as work:

            async def send_headers(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await send(message)
                elif not work.cancel_called:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    work.cancel()

            try:
                await self._app(as_get, receive, send_headers)
            finally:
                scope["route"] = as_get.get("route")  # for whoever counts requests
