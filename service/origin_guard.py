"""Keeps web pages out of a service that asks nobody for a key.

Such a service trusts whoever reaches its address, and a browser on the same machine reaches it for any page it shows:
a page whose own name is made to lead here (DNS rebinding) reads answers as its own, and a form of any page can send a
video or delete a job. Both tell on themselves, as pages can set neither header: Host holds the page's name, Origin
where the page comes from. Where keys are on a page has none, and nothing of this is needed.
"""

import re
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import NamedTuple

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.keys import file_in_force
from service.prefix import path_below
from service.settings import Settings

# They say nothing of anybody, and what asks them may not choose its Host.
HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_ANY = "*"
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^][:/@\s]+)(?::(?P<port>[0-9]*))?", re.ASCII)
_DEFAULT_PORTS = {"http": "80", "https": "443"}

Answer = Callable[[Request, str, str], Response]


class OwnPagesOnly:
    """Refuses requests that a page of somebody else's makes.

    Args:
        app: what is kept.
        hosts: names and addresses that Host may hold, without port, IPv6 in brackets; "*" allows all.
        origins: origins whose pages may call beside the service's own; "*" allows all.
        answer: makes the response to a request from code and detail.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], origins: Iterable[str], answer: Answer) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origins)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        refused = self._host_refused(request) or self._origin_refused(request)
        if refused is None:
            await self._app(scope, receive, send)
            return
        await self._answer(request, *refused)(scope, receive, send)

    def _host_refused(self, request: Request) -> tuple[str, str] | None:
        if _ANY in self._hosts or path_below(request.scope) in HEALTH_PATHS:
            return None
        host = _host_of(request)
        if host is not None and host.name in self._hosts:
            return None
        shown = ", ".join(request.headers.getlist("host")) or "none"
        return (
            "host_refused",
            f"the header Host is {_cut(shown)}, and this service, which asks for no keys, answers only to "
            f"{', '.join(sorted(self._hosts))}: add the name to MMAD_ALLOWED_HOSTS, or turn keys on "
            "(MMAD_API_KEYS_FILE)",
        )

    def _origin_refused(self, request: Request) -> tuple[str, str] | None:
        if request.method in SAFE_METHODS or _ANY in self._origins:
            return None
        own = _own_origin(request)
        # More than one is no browser's, and each is looked at.
        foreign = {*request.headers.getlist("origin")} - self._origins - {own}
        if not foreign:
            return None
        return (
            "origin_refused",
            f"the request comes from a page of {_cut(', '.join(sorted(foreign)))}, and this service, which asks for "
            f"no keys, lets only its own pages at {own or 'its address'} and those of MMAD_CORS_ORIGINS do that: "
            "add the origin there, or turn keys on (MMAD_API_KEYS_FILE)",
        )


def keep_pages_out(app: FastAPI, settings: Settings, answer: Answer) -> None:
    """Put OwnPagesOnly before an app whose service asks for no keys. To be added before CORS: a preflight has to be
    answered, and a refusal to be read by the pages that may call."""
    if file_in_force(settings) is None:
        app.add_middleware(
            OwnPagesOnly, hosts=hosts_of(settings), origins=settings.cors_origins, answer=answer
        )


def hosts_of(settings: Settings) -> list[str]:
    """What Host may hold: what the settings allow, and the address listened on where it is one."""
    return [*settings.allowed_hosts, *([] if _is_everywhere(settings.host) else [_bracketed(settings.host)])]


class _Host(NamedTuple):
    name: str
    port: str


def _host_of(request: Request) -> _Host | None:
    """What the header Host says; None where there is not exactly one that is well-formed."""
    values = request.headers.getlist("host")
    parts = _HOST.fullmatch(values[0].lower()) if len(values) == 1 else None
    return _Host(parts["name"], parts["port"] or "") if parts else None


def _own_origin(request: Request) -> str | None:
    """The origin of the service's own pages as browsers write it: without a port that goes without saying."""
    host, scheme = _host_of(request), request.scope["scheme"]
    if host is None:
        return None
    port = "" if host.port in ("", _DEFAULT_PORTS.get(scheme)) else f":{host.port}"
    return f"{scheme}://{host.name}{port}"


def _is_everywhere(host: str) -> bool:
    """Whether an address to listen on means all of the machine's: nobody calls it by that."""
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return host == ""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _cut(text: str) -> str:
    """A value of the caller's for a message."""
    return repr(text[:200])
