"""Who asks, and where the question came in."""

from __future__ import annotations

from typing import NamedTuple


class Peer(NamedTuple):
    """One client of a door."""

    ip: str
    """Canonical text; IPv4 mapped into IPv6 is written as IPv4, without a scope."""
    port: int
    door: str
    """``udp``, ``tcp``, ``tls`` or ``https``."""
    local: str
    """The address of ours that was asked."""
    interface: str
    """Where it came in, or empty when the door does not know."""
    local_port: int = 0
    """The port of ours that was asked; 0: it came in no socket of ours that the client knows of."""
