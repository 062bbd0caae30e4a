"""Where messages may go, and one POST there: checked when it connects, bounded in time and size.

A name is looked up here, each of its addresses is checked, and the connection goes to a checked address itself.
Between check and connection there is no second look-up that could answer otherwise (DNS rebinding).
"""

import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Thread
from urllib.parse import SplitResult, urlsplit

import httpcore
from httpcore import SOCKET_OPTION

from service.errors import Problem

TIMEOUT_S = 10.0
MAX_URL_CHARACTERS = 2000
# What is read of an answer's body, so that a receiver which still writes is not cut off. None of it is kept.
MAX_ANSWER_BYTES = 4096

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# A host and a port to addresses, as text; raises OSError where the name leads nowhere.
Resolve = Callable[[str, int], list[str]]

# Not told apart by ipaddress in all of its versions: IETF protocol assignments, 6to4 relays, Azure's host agent.
_REFUSED_V4 = tuple(map(ipaddress.IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")  # all that is given out as global unicast (IANA)
_REFUSED_V6 = ipaddress.IPv6Network("3fff::/20")  # documentation (RFC 9637)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052


@dataclass(frozen=True)
class Answer:
    """How a POST went: the status, or in a word why there is none. `retry_after_s` is the receiver's wish."""

    status: int | None = None
    error: str | None = None
    retry_after_s: float | None = None


class _DeliveryError(Exception):
    """A POST that could not be made; the text is the word for the delivery log."""


def check(url: str, *, allow_private: bool) -> None:
    """Whether a message may be sent to an address, as far as the address itself tells.

    A name passes: what it leads to is checked at each connection.

    Args:
        url: as the caller gave it.
        allow_private: whether addresses that are not public may be used.

    Raises:
        Problem: callback_refused.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise _refused(f"it has {len(url)} characters, the limit is {MAX_URL_CHARACTERS}")
    if not re.fullmatch(r"[!-~]+", url):
        raise _refused("it has characters that do not belong into an address; write them percent-encoded")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _refused("it is not a well-formed address") from None
    if parts.scheme not in ("http", "https"):
        raise _refused(f"its scheme is {parts.scheme[:20]!r}; use https, or http")
    if not host or port == 0:
        raise _refused("it names no host and port to connect to")
    if "@" in parts.netloc:
        raise _refused("it has a user name or password; messages are signed, verify the signature instead")
    if "#" in url:
        raise _refused("it has a fragment (#...), which is never sent; use the query instead")
    if not allow_private:
        _check_literal(host.rstrip("."))


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet; where an IPv6 address leads to an IPv4 one, whether that is."""
    if isinstance(address, ipaddress.IPv4Address):
        return (
            address.is_global
            and not address.is_multicast
            and not any(address in network for network in _REFUSED_V4)
        )
    inner = address.ipv4_mapped or address.sixtofour
    if address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(inner)
    return address.is_global and address in _GLOBAL_V6 and address not in _REFUSED_V6


def system_resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system finds them; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(where[0]) for *_, where in found))


@dataclass(frozen=True)
class Sender:
    """Makes POSTs. Follows no redirect, and knows no proxy of the environment.

    Args:
        tls: what certificates are verified with.
        allow_private: whether addresses that are not public may be connected to.
        timeout_s: for all of a POST, from looking the name up to the last byte read.
        resolve: looks names up.
        network: makes the connections, to addresses that were checked.
    """

    tls: ssl.SSLContext
    allow_private: bool = False
    timeout_s: float = TIMEOUT_S
    resolve: Resolve = system_resolve
    network: httpcore.NetworkBackend | None = None

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a body; what goes wrong on the way is in the answer."""
        parts = urlsplit(url)
        guard = _Guard(self, _Deadline(self.timeout_s))
        # Host by hand: httpcore leaves the brackets of an IPv6 address out.
        all_headers = [("Host", parts.netloc), *headers.items()]
        try:
            with (
                httpcore.ConnectionPool(ssl_context=self.tls, network_backend=guard) as pool,
                pool.stream("POST", _to_httpcore(parts), headers=all_headers, content=body) as response,
            ):
                _drain(response)
                return Answer(response.status, retry_after_s=_retry_after_s(response))
        except _DeliveryError as error:
            return Answer(error=str(error))
        except httpcore.TimeoutException:
            return Answer(error="timeout")
        except httpcore.ConnectError:
            return Answer(error="connection_failed")
        except httpcore.NetworkError:
            return Answer(error="connection_broken")
        except httpcore.ProtocolError:
            return Answer(error="protocol_error")


class _Deadline:
    """A moment by which all must be done."""

    def __init__(self, timeout_s: float) -> None:
        self._at_s = time.monotonic() + timeout_s

    def left_s(self) -> float:
        """Seconds left, above 0; raises _DeliveryError where there are none."""
        left_s = self._at_s - time.monotonic()
        if left_s <= 0:
            raise _DeliveryError("timeout")
        return left_s


class _Guard(httpcore.NetworkBackend):
    """Connects to addresses that may be connected to, and no others."""

    def __init__(self, sender: Sender, deadline: _Deadline) -> None:
        self._sender = sender
        self._deadline = deadline
        self._network = sender.network or httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address of the name that takes one; raises where any of them is refused."""
        addresses = self._look_up(host, port)
        if not self._sender.allow_private and not all(
            is_public(ipaddress.ip_address(address)) for address in addresses
        ):
            raise _DeliveryError("address_refused")
        for others, address in zip(reversed(range(len(addresses))), addresses, strict=True):
            # Each gets its share of the time, so that one that is silent leaves some for the next.
            share_s = self._deadline.left_s() / (others + 1)
            try:
                stream = self._network.connect_tcp(address, port, share_s, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if not others:
                    raise
            else:
                return _Timed(stream, self._deadline)
        raise _DeliveryError("name_not_found")

    def _look_up(self, host: str, port: int) -> list[str]:
        # In a thread of its own: the system's resolver takes no limit of time.
        found: Future[list[str]] = Future()

        def look_up() -> None:
            try:
                found.set_result(self._sender.resolve(host, port))
            except Exception as error:
                found.set_exception(error)

        Thread(target=look_up, name="webhook-name", daemon=True).start()
        try:
            return found.result(self._deadline.left_s())
        except TimeoutError:
            raise _DeliveryError("timeout") from None
        except (OSError, UnicodeError):  # the second for a label that is too long
            raise _DeliveryError("name_not_found") from None


class _Timed(httpcore.NetworkStream):
    """A connection whose every step ends with the deadline: many small steps take no longer than one."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left_s())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left_s())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left_s())
        except httpcore.ConnectError as error:
            raise _DeliveryError("tls_failed") from error
        return _Timed(stream, self._deadline)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def _check_literal(host: str) -> None:
    if host == "localhost" or host.endswith(".localhost"):
        raise _private(host)
    try:
        address: Address = ipaddress.ip_address(host)
    except ValueError:
        try:  # the forms the system takes as well: 2130706433, 0177.0.0.1, 0x7f.1, 127.1
            address = ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return  # a name
    if not is_public(address):
        raise _private(str(address))


def _private(host: str) -> Problem:
    return _refused(
        f"{host} is not on the public internet; whoever runs the service can allow it (MMAD_WEBHOOK_ALLOW_PRIVATE=true)"
    )


def _refused(why: str) -> Problem:
    return Problem("callback_refused", f"no message can be sent to this callback_url: {why}")


def _to_httpcore(parts: SplitResult) -> httpcore.URL:
    """Part by part: httpcore's own parsing loses what follows a semicolon in the path."""
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return httpcore.URL(scheme=parts.scheme, host=parts.hostname or "", port=parts.port, target=target)


def _drain(response: httpcore.Response) -> None:
    """Read a little of a body. The status has come: what goes wrong from here on changes nothing."""
    left_bytes = MAX_ANSWER_BYTES
    with suppress(httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, _DeliveryError):
        for piece in response.iter_stream():
            left_bytes -= len(piece)
            if left_bytes <= 0:
                return


def _retry_after_s(response: httpcore.Response) -> float | None:
    """The header Retry-After in seconds from now (RFC 9110, 10.2.3); None where there is none that can be read."""
    fields = {name.lower(): value for name, value in response.headers}
    text = fields.get(b"retry-after", b"").decode("latin-1").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max((at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)
