"""Reading where an intercepted flow really wanted to go, and answering from there.

The kernel hands us other people's traffic in two ways.  REDIRECT rewrites a TCP connection's destination to our port
and remembers the first one in conntrack: ``original_dst`` asks for it.  TPROXY rewrites nothing: an accepted TCP
socket's own name *is* the foreign destination (``getsockname``), and a UDP datagram brings it as ancillary data:
``parse_orig_dst``. Replies to a UDP client must leave from the address it wrote to, so ``reply_socket`` binds to that
foreign address.

A client that connects straight to a redirect port has that very port as its "original" destination; following it
would be a loop, hence ``Refused``.  With TPROXY such a client looks like any other, so whoever listens asks
``is_own_address`` too.  Facts: Linux ``netfilter_ipv4.h``, ``netfilter_ipv6/ip6_tables.h``,
``Documentation/networking/tproxy.rst``.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable

from cyfs_ns.errors import BadWire, Refused

__all__ = [
    "IPV6_RECVORIGDSTADDR",
    "IPV6_TRANSPARENT",
    "IP_RECVORIGDSTADDR",
    "IP_TRANSPARENT",
    "ORIG_DST_SPACE",
    "is_own_address",
    "original_dst",
    "parse_orig_dst",
    "receive_orig_dst",
    "reply_socket",
    "set_mark",
    "set_transparent",
    "tproxy_dst",
]

IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75
IP_RECVORIGDSTADDR = 20
IPV6_RECVORIGDSTADDR = 74
_SO_ORIGINAL_DST = 80
_SO_MARK = 36
_SOL_IP = socket.IPPROTO_IP
_SOL_IPV6 = socket.IPPROTO_IPV6
_SOCKADDR_IN = 16
_SOCKADDR_IN6 = 28

ORIG_DST_SPACE = socket.CMSG_SPACE(_SOCKADDR_IN6)
"""Bytes of ancillary buffer that ``recvmsg`` needs on a socket prepared with ``receive_orig_dst``."""


def original_dst(sock: socket.SocketType) -> tuple[str, int]:
    """The (address, port) an accepted, REDIRECTed TCP connection was sent to.

    Raises ``Refused`` when it was not redirected: the client came straight to our port, or conntrack knows nothing of
    it.
    """
    here = _own_name(sock)
    try:
        if ":" in here[0]:
            found = _sockaddr(sock.getsockopt(_SOL_IPV6, _SO_ORIGINAL_DST, _SOCKADDR_IN6))
        else:
            found = _sockaddr(sock.getsockopt(_SOL_IP, _SO_ORIGINAL_DST, _SOCKADDR_IN))
    except (OSError, BadWire) as fault:
        raise Refused(f"a connection to port {here[1]} was not redirected by the kernel") from fault
    if found == here:
        raise Refused(f"a client connected straight to the redirect port {here[1]}")
    return found


def tproxy_dst(sock: socket.SocketType) -> tuple[str, int]:
    """The (address, port) an accepted, TPROXYed TCP connection was sent to."""
    return _own_name(sock)


def set_transparent(sock: socket.socket) -> None:
    """Let ``sock`` bind to, and accept for, addresses that are not ours.  ``PermissionError`` without CAP_NET_ADMIN."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(_SOL_IPV6, IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(_SOL_IP, IP_TRANSPARENT, 1)


def receive_orig_dst(sock: socket.socket) -> None:
    """Ask for each datagram's destination as ancillary data; read it with ``parse_orig_dst``."""
    sock.setsockopt(_SOL_IP, IP_RECVORIGDSTADDR, 1)  # an IPv6 socket may hear IPv4 too
    if sock.family == socket.AF_INET6:
        sock.setsockopt(_SOL_IPV6, IPV6_RECVORIGDSTADDR, 1)


def parse_orig_dst(ancdata: Iterable[tuple[int, int, bytes]]) -> tuple[str, int]:
    """The (address, port) one datagram was sent to, from ``recvmsg``'s ancillary data; ``BadWire`` when it lacks it."""
    for level, kind, data in ancdata:
        if (level, kind) in ((_SOL_IP, IP_RECVORIGDSTADDR), (_SOL_IPV6, IPV6_RECVORIGDSTADDR)):
            return _sockaddr(data)
    raise BadWire("a datagram came without its original destination")


def reply_socket(host: str, port: int, mark: int = 0) -> socket.socket:
    """A non-blocking UDP socket bound to the foreign ``host``:``port``, to answer a client in that address's name.

    It stays unconnected on purpose: TPROXY prefers connected sockets, and then the client's next datagram would arrive
    here and not at the listener.  ``mark`` (0: none) keeps the answer out of our own interception rules.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(_SOL_IPV6, socket.IPV6_V6ONLY, 1)
        set_transparent(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if mark:
            set_mark(sock, mark)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def set_mark(sock: socket.socket, mark: int) -> None:
    """Stamp everything ``sock`` sends with a firewall mark (``routing-mark``)."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)


def is_own_address(host: str) -> bool:
    """Whether packets to the literal ``host`` end on this machine: what a loop check asks before it dials.

    The kernel is asked by way of a route: it picks the destination itself as source only when that is local.  Nothing
    is sent.
    """
    address = ipaddress.ip_address(host)
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return False
        return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]) == address


def _own_name(sock: socket.SocketType) -> tuple[str, int]:
    """Where the socket is bound: address without zone, IPv4-mapped forms unmapped."""
    host, port = sock.getsockname()[:2]
    return host.partition("%")[0].removeprefix("::ffff:"), port


def _sockaddr(raw: bytes) -> tuple[str, int]:
    """A kernel ``sockaddr_in``/``sockaddr_in6`` as (address, port)."""
    if len(raw) < 2:
        raise BadWire("a socket address is cut short")
    (family,) = struct.unpack_from("=H", raw)
    if family == socket.AF_INET and len(raw) >= 8:
        return socket.inet_ntop(socket.AF_INET, raw[4:8]), int.from_bytes(raw[2:4], "big")
    if family == socket.AF_INET6 and len(raw) >= 24:
        return socket.inet_ntop(socket.AF_INET6, raw[8:24]), int.from_bytes(raw[2:4], "big")
    raise BadWire(f"a socket address of family {family} and {len(raw)} bytes")
