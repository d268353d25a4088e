"""Names that mean something of their own and are never asked of a network.

The zones of RFC 6761, 6762, 7686, 8375, 9462 and 9476, which a resolver answers itself; the reverse zones of private
addresses (RFC 6303, 7793); and how clients that came in by the plain door are told of the encrypted ones (RFC 9462).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from cyfs_ns import names
from cyfs_ns.message import AAAA, A
from cyfs_ns.records import SVCB, data_wire
from cyfs_ns.wire import Record, name_wire

SPECIAL_ZONES = ("localhost", "invalid", "test", "onion", "alt", "local", "home.arpa", "resolver.arpa")
"""``localhost`` is loopback with all below it; the others hold nothing but what the owner writes into them."""

IDENTITY_DOMAINS = frozenset({"eth", "did"})
"""What stands below these names identities, on chains and in documents; the public DNS has no such domains."""

NEVER_ASKED = IDENTITY_DOMAINS | {"alt"}
"""Never asked of ordinary servers, whatever else is switched off: it would only tell them (RFC 9476 section 3)."""

HOME = name_wire("home.arpa")
"""DS of it is asked upstream, for its delegation is insecure on purpose (RFC 8375 section 4)."""

CANARY = "use-application-dns.net"
"""A browser that is told there is no such name leaves the choice of resolver to the system (Mozilla's convention)."""

RESOLVER = name_wire("_dns.resolver.arpa")

LOOPBACK_NAMES = (
    (name_wire("1.0.0.127.in-addr.arpa"), name_wire("localhost")),
    (name_wire("1." + "0." * 31 + "ip6.arpa"), name_wire("localhost")),
)


def private_reverse_zones() -> tuple[str, ...]:
    """Where the names of addresses live that only mean something at home."""
    ipv4 = ["10", "168.192", "0", "127", "254.169", "2.0.192", "100.51.198", "113.0.203", "255.255.255.255"]
    ipv4 += [f"{number}.172" for number in range(16, 32)]
    ipv4 += [f"{number}.100" for number in range(64, 128)]
    ipv6 = ["0." * 31 + "0", "1." + "0." * 30 + "0", "d.f", "8.e.f", "9.e.f", "a.e.f", "b.e.f", "8.b.d.0.1.0.0.2"]
    return (*(f"{zone}.in-addr.arpa" for zone in ipv4), *(f"{zone}.ip6.arpa" for zone in ipv6))


def designated(
    name: str, addresses: Iterable[str], *, tls_port: int = 0, https_port: int = 0, path: str = "/dns-query", ttl: int
) -> tuple[Record, ...]:
    """What to answer about the resolver itself when it can be reached encrypted: SVCB records and their addresses.

    ``name`` must stand in the certificate, and so should the addresses; port 0 is a door that does not exist.
    """
    texts = [names.ip(address) for address in addresses]
    hints = "".join(
        f" {key}={','.join(hinted)}"
        for key, hinted in (
            ("ipv4hint", [text for text in texts if ":" not in text]),
            ("ipv6hint", [text for text in texts if ":" in text]),
        )
        if hinted
    )
    doors = []
    if https_port:
        doors.append(f"alpn=h2 port={https_port} dohpath={path}{{?dns}}")
    if tls_port:
        doors.append(f"alpn=dot port={tls_port}")
    found = [
        (RESOLVER, SVCB, ttl, data_wire(SVCB, f"{order} {name}. {door}{hints}"))
        for order, door in enumerate(doors, start=1)
    ]
    if found:
        found += [(name_wire(name), *address_data(text, ttl)) for text in texts]
    return tuple(found)


def address_data(ip: str, ttl: int) -> tuple[int, int, bytes]:
    """Type, TTL and data of the record for a canonical address."""
    if ":" in ip:
        return AAAA, ttl, socket.inet_pton(socket.AF_INET6, ip)
    return A, ttl, socket.inet_pton(socket.AF_INET, ip)
