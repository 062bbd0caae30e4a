"""The path under which a reverse proxy shows the service, such as /mmad: from MMAD_ROOT_PATH or X-Forwarded-Prefix.

The proxy may take the prefix off the path or leave it on: both are understood.
"""

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.settings import clean_prefix

HEADER = "x-forwarded-prefix"


def path_below(scope: Scope) -> str:
    """A request's path without the prefix, as the routes have it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class BehindProxy:
    """Sets `root_path` of each request, and `scheme` and `client` by X-Forwarded-Proto and X-Forwarded-For.

    Headers are taken from trusted addresses only. To be added last: it sees whom a request really comes from.

    Args:
        app: what is behind the proxy.
        root_path: the prefix where no header names one.
        trusted: addresses and networks of proxies, with commas between; "*" for all.
    """

    def __init__(self, app: ASGIApp, root_path: str, trusted: str) -> None:
        self._proxies = ProxyHeadersMiddleware(app, trusted)  # type: ignore[arg-type]
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] == "http":
            prefix = self._forwarded(scope)
            scope = _under(scope, self._root_path if prefix is None else prefix)
        await self._proxies(scope, receive, send)  # type: ignore[arg-type]

    def _forwarded(self, scope: Scope) -> str | None:
        """What the header says; None without a header that can be used. Proxies in a row add their parts in order."""
        client = scope.get("client")
        values = Headers(scope=scope).getlist(HEADER)
        if not values or not client or client[0] not in self._proxies.trusted_hosts:
            return None
        return _joined(part for value in values for part in value.split(","))


def _joined(parts: Iterable[str]) -> str | None:
    try:
        return clean_prefix("".join(clean_prefix(part) for part in parts))
    except ValueError:
        return None


def _under(scope: Scope, prefix: str) -> Scope:
    """The request with the prefix as ASGI has it: in `root_path`, and at the beginning of `path`."""
    path: str = scope["path"]
    if path == prefix:
        path += "/"
    if not path.startswith(f"{prefix}/"):
        path = prefix + path
    return {**scope, "path": path, "root_path": prefix}
