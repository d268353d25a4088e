"""Name servers that lead back to us: seen in the configuration, or found out by a question that comes home.

A *probe* is a question for a name nobody else would ask, ``<16 hex digits>.loop.test`` (the domain is reserved by RFC
2606).  Sent to a server and met again at our own door it proves that this server, by whatever way, asks us.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from cyfs_ns.upstream import Upstream

PROBE_TYPE = 16
"""TXT."""

_SUFFIX = b"\4loop\4test\0"
_PROBE = re.compile(rb"\x10([0-9a-f]{16})" + re.escape(_SUFFIX))
_ANY = ("", "0.0.0.0", "::")


def probe_name(number: int) -> bytes:
    """The wire name that carries a number of 64 bits."""
    return b"\x10" + f"{number:016x}".encode() + _SUFFIX


def probe_number(name: bytes) -> int | None:
    """The number in a wire name in lower case, if it is a probe's."""
    match = _PROBE.fullmatch(name) if name[:1] == b"\x10" else None
    return int(match[1], 16) if match is not None else None


def own_doors(
    servers: Iterable[Upstream], doors: Iterable[tuple[str, int]], is_local: Callable[[str], bool | None]
) -> list[str]:
    """What is wrong with ``servers``: a line for each that is one of our own ``doors`` (address and port).

    ``is_local`` tells whether an address belongs to this machine, for doors that stand open on all of them.
    """
    listed = list(doors)
    faults = []
    for server in servers:
        address = server.address.partition("%")[0]
        if not address:
            continue
        for door, port in listed:
            if server.port == port and not server.via and (address == door or (door in _ANY and is_local(address))):
                faults.append(f"{server} is this server itself: questions would go round for ever")
                break
    return faults
