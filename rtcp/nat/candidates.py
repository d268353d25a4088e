"""Where a device may be reached, and how its NAT behaves: what two peers tell each other before they try to meet.

An :class:`Offer` travels inside the peers' authenticated tunnel (over the relay), so nobody signs it; but the peer
itself may lie.  Whatever it lists is only ever *probed*, with a handful of small packets, and never what could hurt:

* special addresses (loopback, link-local with its metadata services, multicast, broadcast) and addresses that hide
  another one (IPv4-mapped, NAT64, 6to4, Teredo) are skipped;
* private ones are offered and probed only for peers the owner trusts (``private``): they tell what a home looks like
  inside, and a probe there is a packet behind the firewall;
* our own are skipped, unless another port of a network we share;
* no more than ``MOST_ADDRESSES`` different addresses an offer, so that no peer aims us at many strangers; how many
  packets each may get is :mod:`rtcp.nat.budget`'s.

A predictable NAT's coming ports are not listed: its side says ``delta``, the other side counts (``predicted``).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from struct import Struct

from cyfs_ns.errors import BadWire, Misuse
from cyfs_ns.purposes import Special, is_public, special
from rtcp.nat.behaviour import Dependence, NatBehaviour

MOST_CANDIDATES = 24
MOST_ADDRESSES = 8
"""Different addresses of one offer that are probed."""
MOST_DELTA = 64
"""A step between ports that is larger is no pattern."""
PREDICTED_PORTS = 20
NONCE_SIZE = 16
NETWORK_SIZE = 8
NO_NETWORK = bytes(NETWORK_SIZE)

_VERSION = 1
_HEAD = Struct(f">BBBBh{NONCE_SIZE}sB")
_ITEM = Struct(f">BBHII{NETWORK_SIZE}s")
_UDP_WORKS, _TCP_STEADY = 1, 2

_INSIDE = frozenset((Special.PRIVATE, Special.UNIQUE_LOCAL, Special.CARRIER))


class Transport(IntEnum):
    UDP = 0
    TCP = 1


class Kind(IntEnum):
    """How a candidate was come by, the best first: ``rank`` is this order."""

    LAN = 0
    """Found on a network we share."""
    HOST = 1
    """An interface's own IPv4 address."""
    IPV6 = 2
    """An interface's own global IPv6 address."""
    MAPPED = 3
    """A port the router was asked for (PCP, NAT-PMP, UPnP)."""
    OBSERVED = 4
    """How a STUN server, or the peer, sees us."""
    PREDICTED = 5
    """Where a predictable NAT will put us next."""
    RELAY = 6
    """A relay's address; never probed."""


class Mapping(IntEnum):
    """When a NAT takes a new external port (RFC 4787 §4.1)."""

    UNKNOWN = 0
    NONE = 1
    EIM = 2
    ADM = 3
    APDM = 4


class Filtering(IntEnum):
    """Whose packets a NAT lets in (RFC 4787 §5)."""

    UNKNOWN = 0
    EIF = 1
    ADF = 2
    APDF = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Nat:
    """What a side says of the NAT before it.  Raises ``Misuse`` for an impossible ``delta``."""

    mapping: Mapping = Mapping.UNKNOWN
    filtering: Filtering = Filtering.UNKNOWN
    udp: bool = True
    """UDP gets out and answers come back."""
    tcp: bool = False
    """A TCP port keeps its external port whoever is called, so it can be offered."""
    delta: int = 0
    """From one destination's external port to the next one's; 0: not predictable."""

    def __post_init__(self) -> None:
        if abs(self.delta) > MOST_DELTA:
            raise Misuse(f"ports {self.delta} apart are no pattern")

    @property
    def port_known(self) -> bool:
        """Whether the peer can know the port our packets to it will come from."""
        return self.mapping in (Mapping.UNKNOWN, Mapping.NONE, Mapping.EIM) or self.predictable

    @property
    def predictable(self) -> bool:
        return self.mapping is Mapping.APDM and self.delta != 0

    def __str__(self) -> str:
        if not self.udp:
            return "blocked for UDP"
        if self.mapping is Mapping.APDM:
            return "predictable-symmetric" if self.delta else "random-symmetric"
        if self.mapping is Mapping.ADM:
            return "address-dependent"
        if self.mapping is Mapping.NONE and self.filtering is Filtering.EIF:
            return "absent"
        filters = {Filtering.EIF: "full-cone", Filtering.ADF: "address-restricted", Filtering.APDF: "port-restricted"}
        return filters.get(self.filtering, "unknown")


def told(behaviour: NatBehaviour, *, tcp: bool) -> Nat:
    """What of a survey's result the peer needs; ``tcp``: what was found of TCP."""
    mappings = {
        Dependence.ENDPOINT_INDEPENDENT: Mapping.EIM,
        Dependence.ADDRESS: Mapping.ADM,
        Dependence.ADDRESS_AND_PORT: Mapping.APDM,
    }
    filters = {
        Dependence.ENDPOINT_INDEPENDENT: Filtering.EIF,
        Dependence.ADDRESS: Filtering.ADF,
        Dependence.ADDRESS_AND_PORT: Filtering.APDF,
    }
    mapping, filtering, ports = behaviour.mapping.value, behaviour.filtering.value, behaviour.ports.value
    known = mappings[mapping] if mapping is not None else Mapping.UNKNOWN
    step = ports.step if ports is not None else 0
    return Nat(
        mapping=Mapping.NONE if behaviour.translated.value is False else known,
        filtering=filters[filtering] if filtering is not None else Filtering.UNKNOWN,
        udp=behaviour.blocked.value is not True,
        tcp=tcp,
        delta=step if known is Mapping.APDM and abs(step) <= MOST_DELTA else 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One place.  ``address`` is IP text in its one canonical form; raises ``Misuse`` for what cannot be written.

    ``foundation`` is equal for candidates that will fail alike, ``priority`` larger for better ones (RFC 8445 §5.1);
    ``network`` names the network it belongs to, opaque, ``NO_NETWORK`` when that is nobody's business.
    """

    address: str
    port: int
    kind: Kind
    transport: Transport = Transport.UDP
    foundation: int = 0
    priority: int = 0
    network: bytes = field(default=NO_NETWORK, repr=False)

    def __post_init__(self) -> None:
        try:
            canonical = str(ipaddress.ip_address(self.address))
        except ValueError:
            raise Misuse(f"{self.address!r} is no IP address") from None
        if canonical != self.address or "%" in canonical:
            raise Misuse(f"{self.address!r} is not how this address is written")
        if not 0 < self.port <= 0xFFFF or len(self.network) != NETWORK_SIZE:
            raise Misuse(f"no candidate: port {self.port}, a network of {len(self.network)} bytes")
        if not (0 <= self.foundation <= 0xFFFFFFFF and 0 <= self.priority <= 0xFFFFFFFF):
            raise Misuse("no candidate: foundation or priority past 32 bits")

    @property
    def private(self) -> bool:
        """Whether the address means something on its own network only (RFC 1918, 4193, 6598)."""
        return special(ipaddress.ip_address(self.address)) in _INSIDE

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.kind.name.lower()} {self.transport.name.lower()} {host}:{self.port}"


def priority(kind: Kind, preference: int = 0xFFFF) -> int:
    """RFC 8445 §5.1.2.1, with one component.  ``preference``: 16 bits, larger for a better interface."""
    return (126 - 20 * kind) << 24 | preference << 8 | 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """All of one side.  ``nonce``: fresh random bytes, they go into the keys of this attempt's probes.

    The OBSERVED candidate of a predictable NAT is the last port that was seen.  Raises ``Misuse`` for too many
    candidates or the same place twice.
    """

    nonce: bytes = field(repr=False)
    nat: Nat
    candidates: tuple[Candidate, ...] = ()

    def __post_init__(self) -> None:
        if len(self.nonce) != NONCE_SIZE or len(self.candidates) > MOST_CANDIDATES:
            raise Misuse(f"offer: a nonce of {len(self.nonce)} bytes, {len(self.candidates)} candidates")
        if len({(c.transport, c.address, c.port) for c in self.candidates}) != len(self.candidates):
            raise Misuse("offer: the same place twice")

    def write(self) -> bytes:
        nat = self.nat
        flags = _UDP_WORKS * nat.udp | _TCP_STEADY * nat.tcp
        out = [_HEAD.pack(_VERSION, nat.mapping, nat.filtering, flags, nat.delta, self.nonce, len(self.candidates))]
        for c in self.candidates:
            packed = ipaddress.ip_address(c.address).packed
            form = c.transport | (len(packed) == 16) << 1
            out += [_ITEM.pack(c.kind, form, c.port, c.priority, c.foundation, c.network), packed]
        return b"".join(out)


def read_offer(untrusted: bytes) -> Offer:
    """The whole of ``untrusted``, nothing behind it.  Raises ``BadWire``."""
    if len(untrusted) < _HEAD.size:
        raise BadWire(f"an offer of {len(untrusted)} bytes")
    version, mapping, filtering, flags, delta, nonce, count = _HEAD.unpack_from(untrusted)
    if version != _VERSION or count > MOST_CANDIDATES:
        raise BadWire(f"an offer of version {version} with {count} candidates")
    try:
        nat = Nat(
            mapping=Mapping(mapping),
            filtering=Filtering(filtering),
            udp=bool(flags & _UDP_WORKS),
            tcp=bool(flags & _TCP_STEADY),
            delta=delta,
        )
        candidates, at = [], _HEAD.size
        for _ in range(count):
            candidate, at = _read_candidate(untrusted, at)
            candidates.append(candidate)
        if at != len(untrusted):
            raise BadWire(f"an offer with {len(untrusted) - at} bytes behind it")
        return Offer(nonce=nonce, nat=nat, candidates=tuple(candidates))
    except (Misuse, ValueError) as wrong:
        raise BadWire(f"offer: {wrong}") from None


def _read_candidate(untrusted: bytes, at: int) -> tuple[Candidate, int]:
    if len(untrusted) < at + _ITEM.size:
        raise BadWire("offer: cut off")
    kind, form, port, rank, foundation, network = _ITEM.unpack_from(untrusted, at)
    if form > 3:
        raise BadWire(f"offer: a candidate of form {form}")
    begin, end = at + _ITEM.size, at + _ITEM.size + (16 if form & 2 else 4)
    if len(untrusted) < end:
        raise BadWire("offer: cut off")
    candidate = Candidate(
        address=str(ipaddress.ip_address(untrusted[begin:end])),
        port=port,
        kind=Kind(kind),
        transport=Transport(form & 1),
        foundation=foundation,
        priority=rank,
        network=network,
    )
    return candidate, end


def worth_offering(candidates: Iterable[Candidate], *, private: bool) -> tuple[Candidate, ...]:
    """What a peer is told of our ``candidates``, the best first; without ``private`` nothing of the network inside."""
    told = [c if private else replace(c, network=NO_NETWORK) for c in candidates if private or not c.private]
    unique = {(c.transport, c.address, c.port): c for c in sorted(told, key=_order, reverse=True) if _is_somebody(c)}
    return tuple(sorted(unique.values(), key=_order)[:MOST_CANDIDATES])


def worth_probing(theirs: Offer, ours: Offer, own: Collection[str], *, private: bool) -> tuple[Candidate, ...]:
    """What of the peer's offer we send packets to, the best first; what is on a network of ours is ``Kind.LAN``.

    ``own``: the addresses of our interfaces; ``private``: whether this peer may make us probe private addresses.
    """
    networks = {c.network for c in ours.candidates} - {NO_NETWORK}
    our_places = {(c.transport, c.address, c.port) for c in ours.candidates}
    chosen: list[Candidate] = []
    addresses: set[str] = set()
    for c in sorted((_seen_from(networks, c) for c in theirs.candidates), key=_order):
        if c.kind is Kind.RELAY or not _is_somebody(c) or (c.private and not private):
            continue
        if (c.transport, c.address, c.port) in our_places or (c.address in own and c.network not in networks):
            continue
        if c.address in addresses or len(addresses) < MOST_ADDRESSES:
            addresses.add(c.address)
            chosen.append(c)
    return tuple(chosen)


def _seen_from(networks: Collection[bytes], theirs: Candidate) -> Candidate:
    shared = theirs.kind in (Kind.HOST, Kind.IPV6) and theirs.network in networks
    return replace(theirs, kind=Kind.LAN) if shared else theirs


def predicted(seen: Candidate, delta: int, steps: Iterable[int]) -> list[Candidate]:
    """Where a NAT that was ``seen`` at one port will put later destinations, so many steps on."""
    ports = (seen.port + delta * step for step in steps)
    return [replace(seen, port=port, kind=Kind.PREDICTED) for port in ports if 1024 <= port <= 0xFFFF]


def _order(candidate: Candidate) -> tuple[int, int]:
    return candidate.kind, -candidate.priority


def _is_somebody(candidate: Candidate) -> bool:
    """Whether a packet to it could reach one device, and that device is named by what we see."""
    ip = ipaddress.ip_address(candidate.address)
    return is_public(ip) or special(ip) in _INSIDE
