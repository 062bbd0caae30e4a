"""httpx clients for the API clients: direct to this machine, through the environment's proxies to others."""

import ipaddress
import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

from mmad.endpoints import DEFAULT_URL
from mmad.errors import ServiceError

HttpT = TypeVar("HttpT", httpx.Client, httpx.AsyncClient)


def make_http(
    kind: Callable[..., HttpT],
    direct: Callable[[], Any],
    url: str | None,
    api_key: str | None,
    timeout_s: float,
    transport: Any,
) -> HttpT:
    """Make an httpx client for the arguments of mmad.client.Client; `direct` makes a transport without proxy.

    Raises ServiceError if the address or a proxy from the environment is invalid.
    """
    address = url or os.environ.get("MMAD_URL") or DEFAULT_URL
    try:
        base_url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise ServiceError("unreachable", f"{address} is no address: {error}") from error
    headers = {"User-Agent": "mmad-client", "Accept": "application/json, */*"}
    if secret := api_key or os.environ.get("MMAD_API_KEY"):
        headers["Authorization"] = f"Bearer {secret}"
    if transport is None and is_this_machine(base_url.host):
        transport = direct()
    try:
        return kind(base_url=base_url, headers=headers, timeout=timeout_s, transport=transport)
    except ImportError as error:  # socksio
        raise ServiceError(
            "unreachable",
            f"the environment names a SOCKS proxy, which httpx needs socksio for: pip install 'httpx[socks]', "
            f"or add {base_url.host} to NO_PROXY",
        ) from error
    except (ValueError, httpx.InvalidURL) as error:
        raise ServiceError(
            "unreachable",
            "http_proxy, https_proxy or all_proxy of the environment is not the address of a proxy: correct it, "
            f"or add {base_url.host} to NO_PROXY",
        ) from error


def is_this_machine(host: str) -> bool:
    """Return whether a host is this machine: localhost, its host name or one of its addresses. Makes no DNS query."""
    name = host.lower().rstrip(".").strip("[]")
    if name == "localhost" or name.endswith(".localhost") or name == socket.gethostname().lower():
        return True
    try:
        address = ipaddress.ip_address(name)
        if not address.is_loopback and not address.is_unspecified:
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind((name, 0))  # fails for addresses of other machines
    except (ValueError, OSError):
        return False
    return True
