"""The public ingress of an SN: which visitor goes to which device, and what is asked there.

A visitor is any client with nothing installed.  Its first bytes name a host: the server name of a TLS ClientHello, or
the Host of an HTTP request.  That host leads to a name somebody has here, that name to one of their devices, and the
visitor's bytes go through the tunnel which that device keeps, unchanged and unread: TLS ends at home.  Which service
answers there, and whether one does, are the device's to say.  So this is no open proxy: nobody is dialled, ever, and
without a tunnel there is nowhere to go.

A host is compared in one spelling (``cyfs_ns/names.py``): case and a trailing dot do not matter; what is encoded, is an
address, contradicts itself or is not there at all leads nowhere.  Since the same bytes are read again at home, nothing
is mended on the way: what could be read in two ways is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from cyfs_gateway.sn.registry import Host, NameEntry
from cyfs_gateway.sniff import MORE, NOT_IT, sniff_tls
from cyfs_gateway.sniff.result import Unsettled, name_or_nothing
from cyfs_gateway.sniff.tls import MAX_HELLO
from cyfs_ns import names
from cyfs_ns.config.written import split_host_port
from cyfs_ns.errors import BadWire, ConfigFault
from rtcp.party import Address
from rtcp.v5.opening import read_first
from tunnels.authority import parse_authority
from tunnels.http1 import RequestHead, cut_head, parse_request, values_of

MAX_LOOK: Final = MAX_HELLO + 4096
"""Bytes of a ClientHello and of its record headers."""
MAX_HEAD: Final = 16 * 1024
"""Bytes of a request head: twice what web servers take."""
TLS_PORT: Final = 443
HTTP_PORT: Final = 80
"""What devices are asked for, wherever the SN listens."""


class Alert(Enum):
    """Why a TLS client is turned away (RFC 8446 section 6)."""

    DECODE_ERROR = 50
    INTERNAL_ERROR = 80
    UNRECOGNIZED_NAME = 112


class Guest(Enum):
    """Who comes without naming a host."""

    DEVICE = "it speaks rtcp, so it wants the SN itself"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A visitor for ``host``, canonical.  ``location``: where a page in plain HTTP is found over TLS."""

    host: str
    location: str = ""


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """Nobody to be led anywhere; ``answer`` is their last word from us, ``why`` is for the log."""

    answer: bytes = field(repr=False)
    why: str


First = Wanted | TurnedAway | Guest | Unsettled
"""What first bytes mean; ``MORE``: nothing yet."""


def read_tls(untrusted: bytes) -> First:
    """What somebody at the TLS port wants, by all that came so far."""
    found = sniff_tls(untrusted)
    if found is MORE:
        return MORE if len(untrusted) < MAX_LOOK else TurnedAway(alert(Alert.DECODE_ERROR), "an endless ClientHello")
    if found is not NOT_IT:
        assert not isinstance(found, Unsettled)
        if not found.host:
            return TurnedAway(alert(Alert.UNRECOGNIZED_NAME), "no server name, or none that can be one")
        return Wanted(found.host)
    return _read_rtcp(untrusted) or TurnedAway(
        alert(Alert.DECODE_ERROR) if untrusted[:1] == b"\x16" else b"", "neither TLS nor rtcp"
    )


def _read_rtcp(untrusted: bytes) -> First | None:
    """None: it is nothing of that kind."""
    try:
        return MORE if read_first(untrusted) is None else Guest.DEVICE
    except BadWire:
        return None


def read_http(untrusted: bytes) -> First:
    """What somebody at the HTTP port wants, by all that came so far."""
    if untrusted[:1] and untrusted[0] < 0x20:
        return _read_rtcp(untrusted) or TurnedAway(b"", "neither HTTP nor rtcp")
    try:
        found = cut_head(untrusted[: MAX_HEAD + 4])
        if found is None:
            if len(untrusted) > MAX_HEAD:
                raise BadWire(f"a head of more than {MAX_HEAD} bytes")
            return MORE
        head = parse_request(found[0])
        host = host_of(head)
    except BadWire as bad:
        return TurnedAway(page(400, f"The request cannot be read: {bad}"), str(bad))
    path = b"/" + head.target.partition(b"://")[2].partition(b"/")[2] if b"://" in head.target else head.target
    return Wanted(host, f"https://{host}{path.decode('ascii')}" if path.startswith(b"/") else f"https://{host}/")


def host_of(head: RequestHead) -> str:
    """The canonical name that a request is for.  Raises ``BadWire`` unless there is exactly one, said once, or twice
    alike (RFC 9112 section 3.2)."""
    said = values_of(head.fields, b"host")
    if len(said) != 1:
        raise BadWire(f"{len(said)} Host fields")
    host = _name(said[0])
    if head.target.startswith(b"/") or (head.method == b"OPTIONS" and head.target == b"*"):
        return host
    scheme, separator, rest = head.target.partition(b"://")
    if not separator or scheme.lower() != b"http":
        raise BadWire("this is no proxy")
    if _name(rest.partition(b"/")[0].partition(b"?")[0]) != host:
        raise BadWire("the Host field and the target name two hosts")
    return host


def _name(authority: bytes) -> str:
    host = authority if authority.isascii() else b""
    if host[:1] != b"[":
        host = host.partition(b":")[0]
    parse_authority(authority, HTTP_PORT)
    found = name_or_nothing(host)
    if not found:
        raise BadWire(f"{authority[:80]!r} is no name")
    return found


def machine_of(entry: NameEntry, host: str, domain: str, now: float) -> Host | None:
    """The machine of ``entry`` that answers for ``host``: the one that ``host`` names below the name, else the one
    chosen for all of it.  None: there is none whose document is in force at ``now`` (Unix time)."""
    base = entry.name if "." in entry.name else f"{entry.name}.{domain}"
    own = host.removesuffix(base).rstrip(".").rpartition(".")[2]
    machine = entry.hosts.get(own) or entry.hosts.get(entry.chosen)
    return machine if machine is not None and now < machine.device.expires else None


# What visitors are told


def alert(code: Alert) -> bytes:
    """A fatal alert in a record of TLS 1.2, as clients of any version take it before anything was agreed on."""
    return bytes((21, 3, 3, 0, 2, 2, code.value))


_PHRASES: Final = {
    308: "Permanent Redirect",
    400: "Bad Request",
    404: "Not Found",
    502: "Bad Gateway",
    503: "Service Unavailable",
}


def page(status: int, text: str, location: str = "") -> bytes:
    """A whole HTTP response that ends its connection; ``text`` is for people."""
    body = text.encode("utf-8", "replace") + b"\n"
    lines = [
        f"HTTP/1.1 {status} {_PHRASES[status]}",
        "Content-Type: text/plain; charset=utf-8",
        "X-Content-Type-Options: nosniff",
        "Cache-Control: no-store",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *([f"Location: {location}"] if location else []),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


# What the operator says


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressSettings:
    """``tls`` and ``http`` are where visitors are taken.  Times are seconds.

    ``first``: until the first bytes have to be whole; ``opening``: until the device has to have answered; ``idle``: how
    long a stream may be silent, WebSockets too.  ``of_device`` and ``of_source``: streams at a time; ``total``: of all.
    ``rate``: new ones a second, of which one source has a 32nd (:class:`~cyfs_gateway.sn.ingresscrowd.Pace`).
    ``half_open``: visitors whose first bytes are not whole, of all and (``half_open_of``) of one source.
    ``ports``: first and last of what is leased, None: nothing; ``leases``: of one device; ``lease``: how long one holds
    if it is not asked for again.  ``reflect``: octets that may go back to an unproven UDP source for each that came.
    """

    domain: str
    tls: tuple[Address, ...] = (("", TLS_PORT),)
    http: tuple[Address, ...] = (("", HTTP_PORT),)
    ports: tuple[int, int] | None = None
    leases: int = 8
    lease: float = 30 * 86400.0
    first: float = 10.0
    opening: float = 15.0
    idle: float = 3600.0
    udp_idle: float = 120.0
    of_device: int = 1024
    of_source: int = 512
    total: int = 16384
    rate: int = 4096
    half_open: int = 4096
    half_open_of: int = 64
    udp_sessions: int = 1024
    udp_of_source: int = 32
    reflect: int = 3


_NUMBERS: Final = {
    "leases": ("leases", 0, 1024),
    "connections": ("total", 1, 1 << 20),
    "connections-of-device": ("of_device", 1, 1 << 20),
    "connections-of-source": ("of_source", 1, 1 << 20),
    "connections-per-second": ("rate", 1, 1 << 20),
    "idle": ("idle", 10, 7 * 86400),
}


def read_ingress(written: Any, domain: str) -> IngressSettings:
    """``ingress:`` of the section ``sn`` (plain data, True for all as it is).  Raises ``ConfigFault``."""
    if written is True or written is None:
        return IngressSettings(domain=domain)
    if not isinstance(written, dict):
        raise ConfigFault("sn/ingress: expected a mapping, or true")
    known = {"tls", "http", "ports", *_NUMBERS}
    if unknown := sorted(str(key) for key in written if key not in known):
        raise ConfigFault(f"sn/ingress: unknown key {unknown[0][:60]!r}; there are {', '.join(sorted(known))}")
    found: dict[str, Any] = {key: tuple(_places(written[key], key)) for key in ("tls", "http") if key in written}
    if written.get("ports") is not None:
        found["ports"] = _range(written["ports"])
    for key, (name, least, most) in _NUMBERS.items():
        if key in written:
            value = written[key]
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise ConfigFault(f"sn/ingress/{key}: expected a number from {least} to {most}")
            found[name] = value
    return IngressSettings(domain=domain, **found)


def _places(value: Any, key: str) -> list[Address]:
    found = []
    for each in value if isinstance(value, list) else [] if value is None else [value]:
        text = str(each)
        where = split_host_port(text if ":" in text else f":{text}")
        if where is None or (where[0] and not names.is_ip(where[0])):
            raise ConfigFault(f"sn/ingress/{key}: expected a port, or an address and a port, found {text[:60]!r}")
        found.append((names.ip(where[0]) if where[0] else "", where[1]))
    return found


def _range(value: Any) -> tuple[int, int]:
    first, _, last = str(value).partition("-")
    if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit() and len(first) + len(last) < 11):
        raise ConfigFault(f"sn/ingress/ports: expected two ports such as 20000-20999, found {str(value)[:60]!r}")
    if not 1024 <= int(first) <= int(last) <= 65535:
        raise ConfigFault("sn/ingress/ports: expected ports from 1024 to 65535, the lower one first")
    return int(first), int(last)
