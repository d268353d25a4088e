"""NAT-PMP, the NAT Port Mapping Protocol (RFC 6886), PCP's elder on the same port; IPv4 alone.

Two questions: the router's address outside (2 octets), and a mapping (12).  There is no nonce: an answer is known by
where it comes from and what it is about.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from struct import Struct
from typing import Final

from cyfs_ns.errors import BadWire
from rtcp.nat.portmap.values import Transport, Wanted

ADDRESS_REQUEST: Final = b"\0\0"
"""Asks for the address outside (section 3.2)."""

_WORDS: Final = {
    1: "unsupported version",
    2: "not authorised",
    3: "it has no public address outside",
    4: "no resources",
    5: "unsupported operation",
}
_OPERATIONS: Final = {Transport.UDP: 1, Transport.TCP: 2}
_TRANSPORTS: Final = {operation: transport for transport, operation in _OPERATIONS.items()}
_ANSWER = 0x80
_MAP_REQUEST = Struct("!BBxxHHI")
_HEAD = Struct("!BBHI")
_ADDRESS = Struct("!4s")
_MAPPING = Struct("!HHI")
_MAX_SIZE = 1100  # PCP's bound: the port is shared


@dataclass(frozen=True, slots=True)
class PmpAddress:
    """The router's address outside."""

    clock: int
    ip: str


@dataclass(frozen=True, slots=True)
class PmpMapping:
    """A mapping it made; ``lifetime`` 0: deleted it."""

    clock: int
    transport: Transport
    internal: int
    external: int
    lifetime: int


@dataclass(frozen=True, slots=True)
class PmpRefusal:
    """It will not."""

    clock: int
    transport: Transport | None
    """Of the mapping that was asked for; None: the address was, or an operation it does not know."""
    result: int

    @property
    def words(self) -> str:
        """The result."""
        return _WORDS.get(self.result, f"error {self.result}")


def map_request(wanted: Wanted, external: int, lifetime: int) -> bytes:
    """Asks for a mapping, or to renew it (section 3.3); ``lifetime`` and ``external`` 0 delete it (section 3.4)."""
    return _MAP_REQUEST.pack(0, _OPERATIONS[wanted.transport], wanted.port, external, lifetime)


def read_answer(untrusted: bytes) -> PmpAddress | PmpMapping | PmpRefusal:
    """A router's answer, or what it announces when its address changes.  Raises ``BadWire``."""
    if not _HEAD.size <= len(untrusted) <= _MAX_SIZE:
        raise BadWire(f"NAT-PMP: an answer of {len(untrusted)} octets")
    version, operation, result, clock = _HEAD.unpack_from(untrusted)
    if version or not operation & _ANSWER:
        raise BadWire(f"NAT-PMP: version {version}, operation {operation:#x}")
    transport = _TRANSPORTS.get(operation - _ANSWER)
    if result:
        return PmpRefusal(clock, transport, result)
    body = untrusted[_HEAD.size :]
    if operation == _ANSWER and len(body) >= _ADDRESS.size:
        return PmpAddress(clock, socket.inet_ntop(socket.AF_INET, body[: _ADDRESS.size]))
    if transport is not None and len(body) >= _MAPPING.size:
        internal, external, lifetime = _MAPPING.unpack_from(body)
        if lifetime and not external:
            raise BadWire("NAT-PMP: mapped to port 0")
        return PmpMapping(clock, transport, internal, external, lifetime)
    raise BadWire(f"NAT-PMP: operation {operation:#x} of {len(untrusted)} octets")
