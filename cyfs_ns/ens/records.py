"""What a chain name holds, as the DNS records it stands for.

Chains were not made for DNS, so most of these records are made up here, by rules others set before where there are any:

* records that the name holds as DNS wire data are given as they are, for the types that are harmless when wrong; TLSA,
  SSHFP and CAA, on which other protocols rest their safety, only when they are proven and not merely reported;
* A and AAAA: its addresses (data or text ``ip``);
* CNAME: text ``alias``, unless the name holds something else at that place;
* TXT: the DNSLink of the content hash, also at ``_dnslink.``; texts and coins as ``key=value`` at ``_ens.``;
* URI at ``_did.``: data or text ``did``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from struct import Struct
from struct import error as StructError

from cyfs_ns import names
from cyfs_ns.ens.contenthash import Content, read_content
from cyfs_ns.errors import BadWire
from cyfs_ns.message import AAAA, CNAME, IN, TXT, A, rtype_number
from cyfs_ns.records import CAA, SSHFP, TLSA, URI, data_text, data_wire, txt_data
from cyfs_ns.special import address_data
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Found
from cyfs_ns.wire import name_text, name_wire, read_name

LEAST_TTL, MOST_TTL = 60, 3600
"""Seconds between which the TTL of a record from a chain is brought: a name changes with a block, every twelve."""

_FIXED = Struct("!HHIH")
_MAX_RECORDS = 64
_GUARDED = frozenset({TLSA, SSHFP, CAA})
_MULTIADDR = re.compile(r"/ip[46]/([0-9A-Fa-f.:]+)(?:/.*)?\Z", re.DOTALL).match


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What was found out about a name, as far as DNS can say it."""

    addresses: tuple[str, ...] = ()
    """Canonical IP addresses."""
    content: Content | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    coins: Mapping[int, str] = field(default_factory=dict)
    did: str = ""
    wire: Mapping[int, bytes] = field(default_factory=dict)
    """DNS records as they travel, by type, as the name holds them."""
    wire_trust: Trust = Trust.NONE
    """The level of the weakest of them."""


@dataclass(frozen=True, slots=True)
class DnsRecord:
    """One record to answer with."""

    name: str
    """Owner, A-labels, without trailing dot."""
    rtype: int
    ttl: int
    data: bytes
    """As it travels, names uncompressed."""

    @property
    def text(self) -> str:
        """The data as a zone file writes it."""
        return data_text(self.rtype, self.data)


def dns_records(name: str, rtype: int, held: Holdings, *, ttl: int) -> tuple[DnsRecord, ...]:
    """The answer to a question for ``name`` (A-labels, without ``_dnslink.``, ``_ens.`` or ``_did.``) and ``rtype``.

    For those three places ask :func:`dnslink_records`, :func:`ens_records` and :func:`did_records`.
    """
    stored = _stored(name, rtype, held)
    if stored:
        return stored
    ttl = _clamped(ttl)
    if rtype in (A, AAAA):
        return tuple(
            DnsRecord(name, rtype, ttl, data)
            for address in held.addresses
            for kind, _, data in (address_data(address, ttl),)
            if kind == rtype
        )
    if rtype == CNAME:
        alias = _alias(held)
        return () if alias is None or alias == name else (DnsRecord(name, CNAME, ttl, name_wire(alias)),)
    if rtype == TXT:
        return dnslink_records(name, held, ttl=ttl)
    return ()


def dnslink_records(owner: str, held: Holdings, *, ttl: int) -> tuple[DnsRecord, ...]:
    """The DNSLink of the name's content, to stand at ``owner``."""
    link = None if held.content is None else held.content.dnslink
    return () if link is None else (DnsRecord(owner, TXT, _clamped(ttl), txt_data(link.encode())),)


def ens_records(owner: str, held: Holdings, *, ttl: int) -> tuple[DnsRecord, ...]:
    """All texts and coins of the name, one TXT record each, to stand at ``owner``: ``url=...``, ``a.60=0x...``."""
    lines = [f"{key}={value}" for key, value in held.texts.items()]
    lines += [f"a.{coin}={value}" for coin, value in held.coins.items()]
    return tuple(DnsRecord(owner, TXT, _clamped(ttl), txt_data(line.encode())) for line in lines)


def did_records(owner: str, held: Holdings, *, ttl: int) -> tuple[DnsRecord, ...]:
    """The identity of the name, to stand at ``owner`` (draft-mayrhofer-did-dns)."""
    if not held.did:
        return ()
    return (DnsRecord(owner, URI, _clamped(ttl), b"\x00\x0a\x00\x01" + held.did.encode()),)


def read_addresses(untrusted: str | bytes) -> tuple[str, ...]:
    """The IP addresses in a record ``ip``: as data 4 or 16 octets, as text addresses and multiaddrs parted by commas or
    blanks.  Raises ``BadWire``."""
    if isinstance(untrusted, bytes):
        if len(untrusted) not in (4, 16):
            raise BadWire(f"{len(untrusted)} octets that are no IP address")
        return (names.ip(".".join(map(str, untrusted)) if len(untrusted) == 4 else untrusted.hex(":", 2)),)
    words = untrusted.replace(",", " ").split()
    if len(words) > _MAX_RECORDS:
        raise BadWire(f"{len(words)} addresses")
    found = []
    for word in words:
        multiaddr = _MULTIADDR(word)
        found.append(names.ip(word if multiaddr is None else multiaddr[1]))
    return tuple(dict.fromkeys(found))


def read_stored(untrusted: bytes) -> tuple[DnsRecord, ...]:
    """Records that a name holds in DNS wire form, one after the other.  Raises ``BadWire``."""
    wire = bytes(12) + untrusted  # names are looked for behind a message's head
    found: list[DnsRecord] = []
    at = 12
    while at < len(wire):
        owner, at = read_name(wire, at)
        try:
            rtype, rclass, ttl, size = _FIXED.unpack_from(wire, at)
        except StructError:
            raise BadWire("a DNS record from a chain ends within its head") from None
        at += _FIXED.size
        data = wire[at : at + size]
        if len(data) < size or rclass != IN or len(found) >= _MAX_RECORDS:
            raise BadWire("a DNS record from a chain is cut, of another class, or one of too many")
        at += size
        # Written anew: names in it must not point into the message that it will be sent in.
        data = data_wire(rtype, data_text(rtype, data))
        found.append(DnsRecord(name_text(owner).lower(), rtype, _clamped(ttl), data))
    return tuple(found)


def holdings(found: Found) -> Holdings:
    """What was found about the subject, as far as DNS can say it."""
    texts: dict[str, str] = {}
    coins: dict[int, str] = {}
    wire: dict[int, bytes] = {}
    # Claims come strongest first.
    for claim in found.of("text"):
        head, _, number = claim.key.partition(".")
        if head == "a" and number.isdecimal():
            coins.setdefault(int(number), str(claim.value))
        else:
            texts.setdefault(claim.key, str(claim.value))
    for claim in found.of("record"):
        if isinstance(claim.value, bytes):
            wire.setdefault(rtype_number(claim.key), claim.value)
    content = next((str(claim.value) for claim in found.of("content")), "")
    return Holdings(
        addresses=tuple(dict.fromkeys(str(claim.value) for claim in found.of("address"))),
        content=read_content(content) if content else None,
        texts=texts,
        coins=coins,
        did=next((str(claim.value) for claim in found.of("did")), ""),
        wire=wire,
        wire_trust=min((claim.trust for claim in found.of("record")), default=Trust.NONE),
    )


def stored_for(name: str, rtype: int, untrusted: bytes) -> tuple[DnsRecord, ...]:
    """Those of the stored records that answer for ``name``, wildcards among them under its own name.  Raises
    ``BadWire``."""
    wanted = name.lower()
    return tuple(
        replace(record, name=name)
        for record in read_stored(untrusted)
        if record.rtype == rtype
        and (record.name == wanted or (record.name[:2] == "*." and wanted.endswith(record.name[1:])))
    )


def _stored(name: str, rtype: int, held: Holdings) -> tuple[DnsRecord, ...]:
    if rtype not in held.wire or (rtype in _GUARDED and held.wire_trust < Trust.STORAGE_PROOF):
        return ()
    return stored_for(name, rtype, held.wire[rtype])


def _alias(held: Holdings) -> str | None:
    """Where the name points as a whole; nothing may stand beside a CNAME."""
    wanted = held.texts.get("alias", "")
    if not wanted or held.addresses or held.content is not None or held.wire:
        return None
    try:
        return names.name(wanted)
    except BadWire:
        return None


def _clamped(ttl: int) -> int:
    return min(max(ttl, LEAST_TTL), MOST_TTL)
