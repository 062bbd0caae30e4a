"""Protects a service without API keys against requests from foreign web pages.

Without keys, everyone who reaches the address is trusted, and that includes the browser on the same machine for every
page it shows. A page whose host name resolves to this service (DNS rebinding) could read responses, and a form on any
page could send a video or delete a job (cross-site request forgery). Both are recognised by headers that pages cannot
set: Host is the page's host name, Origin the page's origin. With keys none of this is needed, as pages have no key.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_address

from fastapi import FastAPI
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.keys import active_keys_file
from service.middleware import HEALTH_PATHS, HttpMiddleware, path_without_prefix
from service.problems import problem_response
from service.settings import Settings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_ANY = "*"
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^][:/@\s]+)(?::(?P<port>[0-9]*))?", re.ASCII)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class OriginGuard(HttpMiddleware):
    """Refuses requests with a foreign Host, and unsafe requests with a foreign Origin; "*" allows all.

    `hosts` are names and addresses without port, IPv6 in brackets; `origins` are allowed beside the service's own.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], origins: Iterable[str]) -> None:
        super().__init__(app)
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origins)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        refusal = self._check_host(request) or self._check_origin(request)
        app = problem_response(request, *refusal) if refusal else self._app
        await app(scope, receive, send)

    def _check_host(self, request: Request) -> tuple[str, str] | None:
        if _ANY in self._hosts or path_without_prefix(request.scope) in HEALTH_PATHS:
            return None
        host = _parse_host(request)
        if host is not None and host[0] in self._hosts:
            return None
        hosts = (", ".join(request.headers.getlist("host")) or "none")[:200]
        return (
            "host_refused",
            f"the header Host is {hosts!r}, and this service, which asks for no keys, answers only to "
            f"{', '.join(sorted(self._hosts))}: add the name to MMAD_ALLOWED_HOSTS, or turn keys on "
            "(MMAD_API_KEYS_FILE)",
        )

    def _check_origin(self, request: Request) -> tuple[str, str] | None:
        if request.method in SAFE_METHODS or _ANY in self._origins:
            return None
        own = _make_own_origin(request)
        # Browsers send one Origin header; if there are several, check each.
        foreign = {*request.headers.getlist("origin")} - self._origins - {own}
        if not foreign:
            return None
        return (
            "origin_refused",
            f"the request comes from a page of {', '.join(sorted(foreign))[:200]!r}, and this service, which asks for "
            f"no keys, lets only its own pages at {own or 'its address'} and those of MMAD_CORS_ORIGINS do that: "
            "add the origin there, or turn keys on (MMAD_API_KEYS_FILE)",
        )


def add_origin_guard(app: FastAPI, settings: Settings) -> None:
    """Add OriginGuard if the service requires no keys; inside the CORS middleware, which answers preflights."""
    if active_keys_file(settings) is None:
        app.add_middleware(OriginGuard, hosts=allowed_hosts(settings), origins=settings.cors_origins)


def allowed_hosts(settings: Settings) -> list[str]:
    """Return the hosts allowed by the settings, and the listening address unless it is a wildcard."""
    host = settings.host
    try:
        is_wildcard = ip_address(host).is_unspecified
    except ValueError:
        is_wildcard = host == ""
    if is_wildcard:
        return settings.allowed_hosts
    return [*settings.allowed_hosts, f"[{host}]" if ":" in host else host]


def _parse_host(request: Request) -> tuple[str, str] | None:
    """Parse the Host header into name and port; None unless there is exactly one and it is well-formed."""
    values = request.headers.getlist("host")
    parts = _HOST.fullmatch(values[0].lower()) if len(values) == 1 else None
    return (parts["name"], parts["port"] or "") if parts else None


def _make_own_origin(request: Request) -> str | None:
    """Return the service's own origin as browsers write it: without the scheme's default port."""
    host, scheme = _parse_host(request), request.scope["scheme"]
    if host is None:
        return None
    name, port = host
    return f"{scheme}://{name}" + ("" if port in ("", _DEFAULT_PORTS.get(scheme)) else f":{port}")
