"""The addresses of this machine by which the internet may know it: those that it would call the internet from."""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from cyfs_ns import names
from cyfs_ns.purposes import is_public

_FAR: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
"""Nobody (RFC 5737, RFC 3849); and nothing is sent, only the way there is looked up."""


def own_addresses() -> list[str]:
    """Canonical ones, at most one of each family; none behind a NAT."""
    found = []
    for family, far in _FAR:
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((far, 9))
            address = names.ip(sock.getsockname()[0])
            if is_public(ip_address(address)):
                found.append(address)
    return found
