"""HTTP client for webhooks that refuses private addresses (server-side request forgery) and limits time and size.

Host names are resolved here, every resolved address is checked, and the connection is made to a checked address. There
is no second lookup between check and connection that could return another address (DNS rebinding).
"""

import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Thread
from urllib.parse import SplitResult, urlsplit

import httpcore
from httpcore import SOCKET_OPTION

from service.errors import Problem

TIMEOUT_S = 10.0
MAX_URL_CHARACTERS = 2000
# Bytes of a response body that are read and discarded, so that the connection is not closed on a writing receiver.
MAX_RESPONSE_BYTES = 4096

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Resolves a host and port to addresses as text; raises OSError if the name does not resolve.
Resolve = Callable[[str, int], list[str]]

# Not classified correctly by all versions of ipaddress: IETF protocol assignments, 6to4 relays, Azure's host agent.
_REFUSED_V4 = tuple(map(ipaddress.IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")  # allocated global unicast addresses (IANA)
_REFUSED_V6 = ipaddress.IPv6Network("3fff::/20")  # documentation (RFC 9637)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052


@dataclass(frozen=True)
class PostResult:
    """Outcome of a POST: the status, or an error code if there is no response. `retry_after_s` is from Retry-After."""

    status: int | None = None
    error: str | None = None
    retry_after_s: float | None = None


class _DeliveryError(Exception):
    """A POST that could not be made; the text is the error code for the delivery log."""


def check(url: str, *, allow_private: bool) -> None:
    """Raise Problem callback_refused for a bad URL. Any host name passes: connecting resolves and checks it."""
    if len(url) > MAX_URL_CHARACTERS:
        raise _make_refusal(f"it has {len(url)} characters, the limit is {MAX_URL_CHARACTERS}")
    if not re.fullmatch(r"[!-~]+", url):
        raise _make_refusal("it has characters that do not belong into an address; write them percent-encoded")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _make_refusal("it is not a well-formed address") from None
    if parts.scheme not in ("http", "https"):
        raise _make_refusal(f"its scheme is {parts.scheme[:20]!r}; use https, or http")
    if not host or port == 0:
        raise _make_refusal("it names no host and port to connect to")
    if "@" in parts.netloc:
        raise _make_refusal("it has a user name or password; messages are signed, verify the signature instead")
    if "#" in url:
        raise _make_refusal("it has a fragment (#...), which is never sent; use the query instead")
    if not allow_private and (private := _find_private(host.rstrip("."))):
        raise _make_refusal(
            f"{private} is not on the public internet; whoever runs the service can allow it "
            "(MMAD_WEBHOOK_ALLOW_PRIVATE=true)"
        )


def is_public(address: Address) -> bool:
    """Return whether an address is on the public internet. IPv6 addresses that embed an IPv4 one are judged by it."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast and not any(address in network for network in _REFUSED_V4)
    inner = address.ipv4_mapped or address.sixtofour
    if address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(inner)
    return address.is_global and address in _GLOBAL_V6 and address not in _REFUSED_V6


def _resolve_with_system(host: str, port: int) -> list[str]:
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(socket_address[0]) for *_, socket_address in entries))


@dataclass(frozen=True)
class GuardedClient:
    """Client for POST requests to checked addresses. Follows no redirects and ignores proxy environment variables."""

    tls: ssl.SSLContext
    allow_private: bool = False
    timeout_s: float = TIMEOUT_S  # from name resolution to the last byte read
    resolve: Resolve = _resolve_with_system
    network: httpcore.NetworkBackend = field(default_factory=httpcore.SyncBackend)

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> PostResult:
        """Send a body. Failures are returned in the result, not raised."""
        parts = urlsplit(url)
        backend = _GuardedBackend(self, time.monotonic() + self.timeout_s)
        # httpcore omits the brackets of IPv6 addresses in the Host header.
        all_headers = [("Host", parts.netloc), *headers.items()]
        try:
            with (
                httpcore.ConnectionPool(ssl_context=self.tls, network_backend=backend) as pool,
                pool.stream("POST", _to_httpcore(parts), headers=all_headers, content=body) as response,
            ):
                _drain(response)
                return PostResult(response.status, retry_after_s=_retry_after_s(response))
        except _DeliveryError as error:
            return PostResult(error=str(error))
        except httpcore.TimeoutException:
            return PostResult(error="timeout")
        except httpcore.ConnectError:
            return PostResult(error="connection_failed")
        except httpcore.NetworkError:
            return PostResult(error="connection_broken")
        except httpcore.ProtocolError:
            return PostResult(error="protocol_error")


def _left_s(deadline_s: float) -> float:
    """Return the positive number of seconds until a monotonic time; raises _DeliveryError if none are left."""
    if (left_s := deadline_s - time.monotonic()) <= 0:
        raise _DeliveryError("timeout")
    return left_s


class _GuardedBackend(httpcore.NetworkBackend):
    """Network backend that resolves host names itself and connects to allowed addresses only."""

    def __init__(self, client: GuardedClient, deadline_s: float) -> None:
        self._client, self._deadline_s = client, deadline_s

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first reachable address of a host; raises _DeliveryError if any address is refused."""
        addresses = self._resolve(host, port)
        allowed = self._client.allow_private or all(map(is_public, map(ipaddress.ip_address, addresses)))
        if not allowed:
            raise _DeliveryError("address_refused")
        for left, address in zip(reversed(range(len(addresses))), addresses, strict=True):
            # Split the remaining time evenly, so that an unreachable address leaves time for the next.
            share_s = _left_s(self._deadline_s) / (left + 1)
            try:
                stream = self._client.network.connect_tcp(address, port, share_s, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if not left:
                    raise
            else:
                return _DeadlineStream(stream, self._deadline_s)
        raise _DeliveryError("name_not_found")

    def _resolve(self, host: str, port: int) -> list[str]:
        # In a separate thread, as the system's resolver has no timeout; a daemon, which an exit does not wait for.
        resolved: Future[list[str]] = Future()

        def resolve() -> None:
            try:
                resolved.set_result(self._client.resolve(host, port))
            except Exception as error:
                resolved.set_exception(error)

        Thread(target=resolve, name="webhook-name", daemon=True).start()
        try:
            return resolved.result(_left_s(self._deadline_s))
        except TimeoutError:
            raise _DeliveryError("timeout") from None
        except (OSError, UnicodeError):  # UnicodeError: a label is too long
            raise _DeliveryError("name_not_found") from None


class _DeadlineStream(httpcore.NetworkStream):
    """Network stream on which all operations share one deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline_s: float) -> None:
        self._stream, self._deadline_s = stream, deadline_s

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left_s(self._deadline_s))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left_s(self._deadline_s))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            stream = self._stream.start_tls(ssl_context, server_hostname, _left_s(self._deadline_s))
        except httpcore.ConnectError as error:
            raise _DeliveryError("tls_failed") from error
        return _DeadlineStream(stream, self._deadline_s)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def _find_private(host: str) -> str | None:
    """Return a host that is localhost or a non-public address, normalized; None for any other."""
    if host == "localhost" or host.endswith(".localhost"):
        return host
    try:
        address: Address = ipaddress.ip_address(host)
    except ValueError:
        try:  # other notations that the system accepts: 2130706433, 0177.0.0.1, 0x7f.1, 127.1
            address = ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return None  # a host name
    return None if is_public(address) else str(address)


def _make_refusal(why: str) -> Problem:
    return Problem("callback_refused", f"no message can be sent to this callback_url: {why}")


def _to_httpcore(parts: SplitResult) -> httpcore.URL:
    """Convert a URL by its parts: httpcore's own parser drops what follows a semicolon in the path."""
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return httpcore.URL(scheme=parts.scheme, host=parts.hostname or "", port=parts.port, target=target)


def _drain(response: httpcore.Response) -> None:
    """Read and discard at most MAX_RESPONSE_BYTES of the body. Errors are ignored, as the status was received."""
    left_bytes = MAX_RESPONSE_BYTES
    with suppress(httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, _DeliveryError):
        for piece in response.iter_stream():
            left_bytes -= len(piece)
            if left_bytes <= 0:
                return


def _retry_after_s(response: httpcore.Response) -> float | None:
    """Parse Retry-After into seconds from now (RFC 9110, 10.2.3); None if it is missing or malformed."""
    fields = {name.lower(): value for name, value in response.headers}
    text = fields.get(b"retry-after", b"").decode("latin-1").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max((at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)
