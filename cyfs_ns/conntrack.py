"""Asking the kernel's connection tracking for the mark of a flow (``linux/netfilter/nfnetlink_conntrack.h``)."""

from __future__ import annotations

import socket
from typing import Final

from cyfs_ns.errors import BadWire
from cyfs_ns.netlink import ACK, attribute, attributes, message, nested, number

UDP: Final = socket.IPPROTO_UDP
TCP: Final = socket.IPPROTO_TCP

_GET = 1 << 8 | 1
_TUPLE_REPLY, _MARK = 2, 8
_ADDRESSES, _PROTOCOL = 1, 2
_PROTOCOL_NUMBER, _SOURCE_PORT, _TARGET_PORT = 1, 2, 3
_FAMILIES = {4: (socket.AF_INET, 1, 2), 16: (socket.AF_INET6, 3, 4)}


def mark_query(protocol: int, client: tuple[bytes, int], local: tuple[bytes, int], seq: int) -> bytes:
    """Asks for the flow between a client and our socket, each an address of 4 or 16 octets and a port.

    The answer claims to be one part of many, so only the acknowledgement after it tells the end.

    It is looked up by the packets we send: redirected to us on its way (DNAT), the client's own packets name another
    destination.  Raises ``BadWire`` for addresses of two families.
    """
    if len(client[0]) != len(local[0]) or len(local[0]) not in _FAMILIES:
        raise BadWire("a flow has two addresses of one family")
    family, source, target = _FAMILIES[len(local[0])]
    tuples = nested(
        _TUPLE_REPLY,
        nested(_ADDRESSES, attribute(source, local[0]), attribute(target, client[0])),
        nested(
            _PROTOCOL,
            attribute(_PROTOCOL_NUMBER, bytes((protocol,))),
            attribute(_SOURCE_PORT, local[1].to_bytes(2)),
            attribute(_TARGET_PORT, client[1].to_bytes(2)),
        ),
    )
    return message(_GET, ACK, seq, bytes((family, 0, 0, 0)) + tuples)


def read_mark(untrusted: bytes) -> int:
    """The mark in the body of the answer, 0 where there is none.  Raises ``BadWire``."""
    return number(attributes(untrusted, 4), _MARK)
