"""The path prefix under which a reverse proxy serves the API, whether or not the proxy strips it from the path."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.settings import clean_prefix

HEADER = "x-forwarded-prefix"


def path_without_prefix(scope: Scope) -> str:
    """Return the request's path relative to the prefix, as routes define it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class ForwardedPrefix:
    """Sets `root_path` of each request, and `scheme` and `client` from X-Forwarded-Proto and X-Forwarded-For.

    Headers are read from addresses and networks in `trusted` only (comma-separated, "*" for all); `root_path` is the
    prefix of other requests. Add this middleware last, so that it sees the peer's real address.
    """

    def __init__(self, app: ASGIApp, root_path: str, trusted: str) -> None:
        self._proxies = ProxyHeadersMiddleware(app, trusted)  # type: ignore[arg-type]
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] == "http":
            read = self._read_prefix(scope)
            prefix = self._root_path if read is None else read
            path = scope["path"] if scope["path"] != prefix else f"{prefix}/"
            # ASGI has the prefix in `root_path` and at the beginning of `path`.
            path = path if path.startswith(f"{prefix}/") else prefix + path
            scope = {**scope, "path": path, "root_path": prefix}
        await self._proxies(scope, receive, send)  # type: ignore[arg-type]

    def _read_prefix(self, scope: Scope) -> str | None:
        """Return the prefix in the header; None without a usable one. Chained proxies append their parts in order."""
        client = scope.get("client")
        values = Headers(scope=scope).getlist(HEADER)
        if not values or not client or client[0] not in self._proxies.trusted_hosts:
            return None
        try:
            return clean_prefix("".join(clean_prefix(part) for value in values for part in value.split(",")))
        except ValueError:
            return None
