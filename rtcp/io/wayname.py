"""What a pipe is, in the words that ways have (``rtcp.nat.race.Way``): for people, and for those who compare."""

from __future__ import annotations

import socket
from contextlib import suppress

from rtcp.io.pipe import Pipe
from rtcp.io.udp.pipe import UdpPipe
from rtcp.nat.candidates import Kind, Transport
from rtcp.nat.race import Way
from rtcp.nat.relayend import stands_for_session
from rtcp.party import Address


def name_of(transport: Transport, address: Address) -> str:
    """``udp 198.51.100.7:4242``."""
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{transport.name.lower()} {host}:{address[1]}"


def way_of(pipe: Pipe) -> Way:
    """What ``pipe`` is, as far as it tells."""
    if isinstance(pipe, UdpPipe):
        if stands_for_session(pipe.address[0]):
            return Way("udp through a relay", Kind.RELAY, Transport.UDP)
        return Way(name_of(Transport.UDP, pipe.address), Kind.OBSERVED, Transport.UDP)
    if isinstance(pipe, socket.SocketType):
        with suppress(OSError):
            host, port = pipe.getpeername()[:2]
            return Way(name_of(Transport.TCP, (host, port)), Kind.HOST, Transport.TCP)
    return Way("a stream of somebody's", Kind.RELAY, Transport.TCP)
