"""Who is in the house, by the files that DHCP servers keep: dnsmasq, odhcpd and Kea.

A lease ties an address to a device and, if the device said so, to a name.  The file is the server's and trusted; the
*name* is the device's and is not: :func:`lease_name` takes it only where it is one plain host name, perhaps with the
house's own domain behind it, and never one of those that browsers and systems look up to find their proxy or tunnel.
Lines that make no sense are passed over, for files are read while they are written.

Formats: dnsmasq's ``expiry mac ip name client-id`` (IPv6 after a line ``duid ...``, with the association's number in
the place of the mac); odhcpd's ``# interface duid-or-mac iaid-or-ipv4 name expiry assigned length address/length...``;
Kea's memfile, comma-separated under a heading, a journal in which later lines win.  Kea cleans its journal up into
files beside it (:func:`kea_files`); one after the other they read as one text.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf

from cyfs_ns import names
from cyfs_ns.errors import BadWire

KEA_HEAD = "address,"
"""How a file of Kea's begins."""

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?\Z").match
_NOBODYS = frozenset({"wpad", "isatap", "localhost", "local", "invalid", "onion", "test", "alt"})
"""Names that mean something to those who look them up (VU#598349 for the first): no guest may have them."""

_MAX_NAME = 253
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\Z").match
_HEX = re.compile(r"[0-9a-f]+\Z").match
_WHOLE = re.compile(r"-?[0-9]{1,12}\Z").match
_NO_CLOCK = 315_360_000
"""dnsmasq built for machines without a clock writes how long a lease lasts, not until when; no date is this small."""
_KEA_FOREVER = 0xFFFFFFFF
_KEA_GIVEN = "0"
_KEA_COMMA = "&#x2c"


@dataclass(frozen=True, slots=True)
class Lease:
    """One address given to one device."""

    ip: str
    """Canonical."""
    mac: str
    """``aa:bb:cc:dd:ee:ff``, from a DUID where that tells it; else empty."""
    device: str
    """What tells this device from others: its mac or its DUID."""
    name: str
    """As the device said it; empty if it said none.  See :func:`lease_name`."""
    expires: float
    """Unix time, ``inf`` for never."""


def read_leases(text: str) -> tuple[Lease, ...]:
    """The leases of a file in any of the formats, later lines winning.  Never fails."""
    lines = text.split("\n")  # and nowhere else: names are strangers' and could hold other kinds of line breaks
    kea = lines[0].startswith(KEA_HEAD)
    found = _kea(lines) if kea else [lease for line in lines for lease in _line(line)]
    return tuple({lease.ip: lease for lease in found}.values())


def kea_files(path: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The files that Kea's leases at ``path`` are spread over, oldest first: those if the first is there, else these.

    While it cleans up and after it, the journal itself holds only what is new since.
    """
    return (f"{path}.completed", path), (f"{path}.2", f"{path}.1", path)


def living(leases: Iterable[Lease], now: float) -> dict[str, Lease]:
    """By address, the leases that hold at the Unix time ``now``; of several for one address, the longest."""
    found: dict[str, Lease] = {}
    for lease in leases:
        if lease.expires > now and (lease.ip not in found or lease.expires >= found[lease.ip].expires):
            found[lease.ip] = lease
    return found


def lease_name(said: str, domain: str) -> str:
    """The one label a device may be called by in ``domain``, or empty where what it said is not fit to be one."""
    name = said.lower().removesuffix(".")
    if domain:
        name = name.removesuffix("." + domain)
    fits = len(name) + 1 + len(domain) <= _MAX_NAME
    return name if fits and _LABEL(name) and name not in _NOBODYS and not name.isdigit() else ""


def by_name(leases: Iterable[Lease], domain_of: Callable[[str], str]) -> dict[str, dict[str, list[Lease]]]:
    """Per domain (``domain_of`` an address) and name, the leases of the one device that holds the name.

    Two devices that claim one name: the one whose lease lasts longest has it, as the newcomer has with dnsmasq.  Most
    DUIDs do not tell a mac, or tell that of another card: who is seen by IPv4 alone and who is seen by IPv6 alone are
    taken for one device.
    """
    claims: dict[tuple[str, str], list[Lease]] = {}
    for lease in leases:
        domain = domain_of(lease.ip)
        if name := lease_name(lease.name, domain):
            claims.setdefault((domain, name), []).append(lease)
    found: dict[str, dict[str, list[Lease]]] = {}
    for (domain, name), rivals in claims.items():
        holder = _newest(rivals)
        held = [lease for lease in rivals if lease.device == holder]
        families = {_is_ipv6(lease) for lease in held}
        if len(families) == 1:
            others = {lease.device for lease in rivals if _is_ipv6(lease) in families}
            if unmet := [lease for lease in rivals if lease.device not in others]:
                also = _newest(unmet)
                held += [lease for lease in unmet if lease.device == also]
        found.setdefault(domain, {})[name] = held
    return found


def _newest(leases: Iterable[Lease]) -> str:
    """The device with the lease that lasts longest, whatever its family: they need not end together."""
    return max(leases, key=lambda lease: (lease.expires, lease.device)).device


def _is_ipv6(lease: Lease) -> bool:
    return ":" in lease.ip


def _line(line: str) -> list[Lease]:
    fields = line.split()
    if fields[:1] == ["#"]:
        return _odhcpd(fields[1:])
    if len(fields) < 4 or not _WHOLE(fields[0]):
        return []
    expires, who, address, name = fields[:4]
    client = fields[4] if len(fields) > 4 else ""
    when = float(expires)
    lasting = inf if when == 0 or 0 < when <= _NO_CLOCK else when
    if ":" in address:
        duid = client.lower().replace(":", "")
        return _lease(address, _duid_mac(duid), duid or who, name, lasting)
    mac = who.lower().rpartition("-")[2]  # "06-..." says what hardware it is, where it is not Ethernet
    return _lease(address, mac, mac, name, lasting)


def _odhcpd(fields: list[str]) -> list[Lease]:
    if len(fields) < 8 or not _WHOLE(fields[4]):
        return []
    device, kind, name, expires = fields[1].lower(), fields[2], fields[3], float(fields[4])
    lasting = inf if expires < 0 else expires
    hexed = device.replace(":", "")
    found = []
    for address in fields[7:]:
        ip, _, length = address.partition("/")
        if kind == "ipv4":
            found += _lease(ip, _colons(hexed), _colons(hexed), name, lasting)
        elif length in ("128", ""):  # else a prefix that was delegated
            found += _lease(ip, _duid_mac(hexed), hexed, name, lasting)
    return found


def _kea(lines: list[str]) -> list[Lease]:
    found: dict[str, Lease | None] = {}
    try:
        for row in csv.DictReader(lines, restval=""):
            ip, lifetime = row.get("address", ""), row.get("valid_lifetime", "")
            if not (_WHOLE(row.get("expire", "")) and _WHOLE(lifetime)):
                continue
            lasting = inf if int(lifetime) == _KEA_FOREVER else float(row["expire"])
            given = row.get("state", "") == _KEA_GIVEN and int(lifetime) > 0 and row.get("lease_type", "0") == "0"
            mac, duid = row.get("hwaddr", "").lower(), row.get("duid", "").lower().replace(":", "")
            name = row.get("hostname", "").replace(_KEA_COMMA, ",")
            leases = _lease(ip, mac if _MAC(mac) else _duid_mac(duid), duid or mac, name, lasting)
            for lease in leases:
                found[lease.ip] = lease if given else None
    except csv.Error:
        pass  # a line longer than csv takes, or a NUL: what came before it stands
    return [lease for lease in found.values() if lease is not None]


def _lease(address: str, mac: str, device: str, name: str, expires: float) -> list[Lease]:
    try:
        ip = names.ip(address)
    except BadWire:
        return []
    said = "" if name in ("*", "-") else name
    return [Lease(ip, mac if _MAC(mac) else "", device, said, expires)]


def _colons(digits: str) -> str:
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))


def _duid_mac(duid: str) -> str:
    """The Ethernet address within a DUID of the kinds that carry one (RFC 8415 sections 11.2 and 11.4)."""
    if _HEX(duid):
        if duid.startswith("00010001") and len(duid) == 28:
            return _colons(duid[16:])
        if duid.startswith("00030001") and len(duid) == 20:
            return _colons(duid[8:])
    return ""
