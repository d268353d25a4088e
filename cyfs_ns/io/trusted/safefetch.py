"""Fetching a URL that strangers chose, so that nobody can use us to reach where they cannot.

Whoever owns a name decides which host we turn to.  So a URL is a stranger's wish: https alone, no redirects, so many
bytes and seconds and no more, few at a time to one host.  Its host is resolved by the resolver that is handed in, every
address is judged, and the connection goes to one that was judged, not to the name, which might mean another address a
moment later.  The certificate must still be the name's.  A host whose name itself needs a chain is refused, or lookups
could go round in circles.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

import trio

from cyfs_ns import names
from cyfs_ns.errors import BadWire, Refused, Unreachable
from cyfs_ns.io.dial import Dial, plain_dial
from cyfs_ns.io.http import Response, fetch
from cyfs_ns.purposes import special

Resolve: TypeAlias = Callable[[str], Awaitable[Sequence[str]]]
"""The addresses of a host, as text; none when it surely has none.  Raises ``Unreachable`` when that is not known."""

_UNFIT_SUFFIXES = ("eth", "did", "bns", "alt", "onion", "local", "localhost", "internal", "home.arpa")
"""Names that need a chain, or mean something at home only."""

_MOST_URL = 64 << 10
_HOSTS_KEPT = 256

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class NoAddress(Unreachable):
    """The host surely has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one fetch may take."""

    most_bytes: int = 64 << 10
    timeout: float = 8.0
    """Seconds for one request, all in all."""
    at_once: int = 2
    """Requests to one host at the same time."""


class SafeFetch:
    """Asks servers of strangers.  ``whom`` is what errors call them."""

    def __init__(
        self,
        resolve: Resolve,
        limits: Limits = Limits(),
        *,
        dial: Dial | None = None,
        tls: ssl.SSLContext | None = None,
        whom: str = "server",
    ) -> None:
        self.limits = limits
        self._resolve, self._tls, self._whom = resolve, tls, whom
        self._dial = dial or plain_dial()
        self._turns: defaultdict[str, trio.CapacityLimiter] = defaultdict(lambda: trio.CapacityLimiter(limits.at_once))

    async def fetch(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        private: bool = False,
        insecure: bool = False,
    ) -> Response:
        """The response, whatever its status.

        ``private`` and ``insecure`` are the owner's word: this host may stand at any address, and be asked by http.
        Raises ``Refused`` for what nobody here will ask, ``NoAddress``, else as :func:`cyfs_ns.io.http.fetch`.
        """
        host = self.judge(url, private=private, insecure=insecure)
        limits = self.limits
        if self._tls is None:
            self._tls = ssl.create_default_context()  # reading all authorities of the system takes its time

        async def dial(name: str, port: int, via: str | None) -> trio.abc.Stream:
            return await self._dial_judged(name, port, via, private)

        try:
            with trio.fail_after(limits.timeout):
                async with self._turn(host):
                    return await fetch(
                        url,
                        dial=dial,
                        method=method,
                        headers=headers,
                        body=body,
                        max_bytes=limits.most_bytes,
                        timeout=limits.timeout,
                        max_redirects=0,
                        tls=self._tls,
                    )
        except trio.TooSlowError:
            raise Unreachable(f"no response in {limits.timeout:g} s", "connect_timeout") from None
        except ssl.SSLError as fault:
            raise Unreachable(f"{host}: TLS: {fault}", "tls_handshake") from None

    def judge(self, url: str, *, private: bool = False, insecure: bool = False) -> str:
        """The host of ``url``, if it may be asked at all.  Raises ``Refused``."""
        host = host_of(url)
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and insecure):
            raise Refused("only https is asked")
        if parts.username is not None:
            raise Refused(f"a {self._whom} that wants a password")
        if not private and any(host == suffix or host.endswith("." + suffix) for suffix in _UNFIT_SUFFIXES):
            raise Refused(f"{host} is no name of the public DNS")
        return host

    def _turn(self, host: str) -> trio.CapacityLimiter:
        if len(self._turns) > _HOSTS_KEPT:
            for idle in [known for known, turn in self._turns.items() if not turn.borrowed_tokens]:
                del self._turns[idle]
        return self._turns[host]

    async def _dial_judged(self, host: str, port: int, via: str | None, private: bool) -> trio.abc.Stream:
        """Connects to an address that was judged, and tries the next that was."""
        addresses = (host,) if names.is_ip(host) else tuple(await self._resolve(host))
        if not addresses:
            raise NoAddress(f"{host} has no address", "pre_connect_dns")
        if not private:
            for address in addresses:
                # One bad address condemns the name: who mixes them is up to something.
                if not is_public(address):
                    raise Refused(f"{host} is at {address}, where no {self._whom} of strangers is")
        last: Unreachable | None = None
        for address in addresses:
            try:
                return await self._dial(names.ip(address), port, via)
            except Unreachable as fault:
                last = fault
        assert last is not None
        raise last


def host_of(url: str) -> str:
    """The canonical host in a stranger's ``url``.  Raises ``Refused`` if it is no URL that anybody should ask."""
    if len(url) > _MOST_URL or not url.isascii() or not url.isprintable():
        raise Refused("no URL to ask strangers for")
    try:
        parts = urlsplit(url)
        host = names.host(parts.hostname or "")
        _ = parts.port
    except (ValueError, BadWire):
        raise Refused("no URL to ask strangers for") from None
    return host


def is_public(address: str) -> bool:
    """Whether an address is one of the Internet at large; what hides an IPv4 address in IPv6 is judged by that.
    Documentation's are not: nobody has them, so whoever sends us there means somebody who is near us."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id is not None:
            return False
        if parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        elif parsed in _NAT64:
            parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    return special(parsed) is None
