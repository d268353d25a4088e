"""PCP, the Port Control Protocol, version 2 (RFC 6887), as far as one host maps ports of its own: MAP and ANNOUNCE.

A request and its answer are datagrams of 60 octets: a head of 24 (section 7.1, 7.2) and the mapping of 36 (section
11.1).  Addresses are 16 octets, those of IPv4 mapped.  A mapping belongs to who knows its nonce: without it nobody can
change it, and an answer without it is none to us.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from cyfs_ns.errors import BadWire
from rtcp.nat.portmap.values import Grant, Wanted, Way

PORT: Final = 5351
"""Of the router, for PCP and NAT-PMP."""
ANNOUNCE_PORT: Final = 5350
"""Where hosts hear what a router announces, of both."""
GROUPS: Final = {4: "224.0.0.1", 6: "ff02::1"}
"""The multicast groups it is announced in."""
VERSION: Final = 2
NONCE: Final = 12

SUCCESS, UNSUPPORTED_VERSION = 0, 1
_WORDS: Final = {
    1: "unsupported version",
    2: "not authorised",
    3: "malformed request",
    4: "unsupported operation",
    5: "unsupported option",
    6: "malformed option",
    7: "it has no public address outside",
    8: "no resources",
    9: "unsupported protocol",
    10: "we have too many mappings",
    11: "that port outside cannot be had",
    12: "a NAT lies between us and the router",
    13: "too many remote peers",
}

_ANNOUNCE, _MAP, _ANSWER = 0, 1, 0x80
_REQUEST_HEAD = Struct("!BBHI16s")
_ANSWER_HEAD = Struct("!BBBBII12x")
_MAPPING = Struct("!12sB3xHH16s")
_MAX_SIZE = 1100  # section 7


@dataclass(frozen=True, slots=True)
class PcpAnswer:
    """What a router says."""

    result: int
    lifetime: int
    """Seconds: of the mapping, or for which the same request would fail again."""
    clock: int
    """See :mod:`rtcp.nat.portmap.epoch`."""
    mapping: PcpMapping | None = None
    """None in an announcement, and where a router refuses what it cannot read."""

    @property
    def words(self) -> str:
        """The result."""
        return _WORDS.get(self.result, f"error {self.result}")


@dataclass(frozen=True, slots=True)
class PcpMapping:
    """Which mapping an answer is about."""

    nonce: bytes = field(repr=False)
    protocol: int
    internal: int
    external: int
    ip: str

    def is_of(self, wanted: Wanted, nonce: bytes) -> bool:
        """Whether it is the one asked for."""
        asked = (wanted.transport.value, wanted.port)
        return hmac.compare_digest(self.nonce, nonce) and (self.protocol, self.internal) == asked

    def grant(self, lifetime: int) -> Grant:
        """What was granted.  Raises ``BadWire`` if that is no port."""
        if not self.external:
            raise BadWire("PCP: mapped to port 0")
        return Grant(self.ip, self.external, lifetime)


def nonce_of(secret: bytes, wanted: Wanted, way: Way) -> bytes:
    """The nonce of a mapping, the same after a restart: else the router would refuse us what we lost sight of."""
    text = f"pcp nonce|{way.gateway}|{way.source}|{wanted.transport.value}|{wanted.port}"
    return hmac.digest(secret, text.encode(), hashlib.sha256)[:NONCE]


def map_request(wanted: Wanted, source: str, nonce: bytes, lifetime: int, suggested: tuple[str, int]) -> bytes:
    """Asks for a mapping, or to renew it; ``lifetime`` 0 deletes it.

    ``suggested``: address (the unspecified one: any) and port outside one would like.
    """
    head = _REQUEST_HEAD.pack(VERSION, _MAP, 0, lifetime, _packed(source))
    return head + _MAPPING.pack(nonce, wanted.transport.value, wanted.port, suggested[1], _packed(suggested[0]))


def read_answer(untrusted: bytes) -> PcpAnswer:
    """A router's answer or announcement.  Options are passed over.  Raises ``BadWire``."""
    if not _ANSWER_HEAD.size <= len(untrusted) <= _MAX_SIZE or len(untrusted) % 4:
        raise BadWire(f"PCP: an answer of {len(untrusted)} octets")
    version, operation, _, result, lifetime, clock = _ANSWER_HEAD.unpack_from(untrusted)
    if version != VERSION:
        raise BadWire(f"PCP: version {version}")
    if operation == _ANNOUNCE | _ANSWER:
        return PcpAnswer(result, lifetime, clock)
    if operation != _MAP | _ANSWER:
        raise BadWire(f"PCP: operation {operation:#x}")
    if len(untrusted) < _ANSWER_HEAD.size + _MAPPING.size:
        if result == SUCCESS:
            raise BadWire("PCP: a mapping ends too early")
        return PcpAnswer(result, lifetime, clock)
    nonce, protocol, internal, external, packed = _MAPPING.unpack_from(untrusted, _ANSWER_HEAD.size)
    return PcpAnswer(result, lifetime, clock, PcpMapping(nonce, protocol, internal, external, _unpacked(packed)))


def _packed(ip: str) -> bytes:
    address = ipaddress.ip_address(ip)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def _unpacked(packed: bytes) -> str:
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)
