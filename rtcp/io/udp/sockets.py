"""UDP sockets that move trains: many datagrams to one address in one system call, and many from one.

The kernel cuts what is sent (UDP_SEGMENT) and joins what arrives (UDP_GRO); where it cannot cut, which a network card
without checksums tells by EIO, datagrams leave one by one.  Datagrams are never fragmented, and the kernel's own
opinion of what a path takes is not asked for (PMTUDISC_PROBE): ``rtcp/udp/mtu.py`` finds out.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from struct import Struct
from typing import Final

from rtcp.party import Address

_SEGMENT: Final = 103
_GRO: Final = 104
_BUFFER_FORCE = {socket.SO_RCVBUF: 33, socket.SO_SNDBUF: 32}
_BUFFER: Final = 4 << 20
_MTU_DISCOVER = {socket.AF_INET: (socket.IPPROTO_IP, 10), socket.AF_INET6: (socket.IPPROTO_IPV6, 23)}
_PROBE: Final = 3
_TTL = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TTL),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT),
}
"""The control message with one datagram's TTL."""
_U16 = Struct("=H")
_INT = Struct("=i")
_CONTROL: Final = socket.CMSG_SPACE(_INT.size)
_UNCUT: Final = frozenset((errno.EIO, errno.EINVAL, errno.ENOPROTOOPT))

_arrived = memoryview(bytearray(1 << 16))
"""Shared: what is kept of it is copied before anybody reads again."""


def open_sockets(port: int = 0, hosts: tuple[str, ...] = ("::", "0.0.0.0")) -> list[TrainSocket]:
    """One for each of ``hosts`` (IP texts), all on one port; 0 finds one.

    A family that this machine does not have is left out.  Raises ``OSError``.
    """
    made: list[TrainSocket] = []
    try:
        for host in hosts:
            try:
                made.append(TrainSocket(host, port))
            except OSError as fault:
                if fault.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) or (host is hosts[-1] and not made):
                    raise
                continue
            port = made[-1].address[1]
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return made


class TrainSocket:
    """Bound to ``host`` and ``port``.  Raises ``OSError``."""

    def __init__(self, host: str, port: int) -> None:
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = sock = socket.socket(self.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            if self.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port))
            sock.setsockopt(*_MTU_DISCOVER[self.family], _PROBE)
            for option, force in _BUFFER_FORCE.items():
                try:
                    sock.setsockopt(socket.SOL_SOCKET, force, _BUFFER)
                except OSError:  # not for everybody to do
                    sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
            self._cuts = True
            with suppress(OSError):  # an old kernel
                sock.setsockopt(socket.IPPROTO_UDP, _GRO, 1)
        except BaseException:
            sock.close()
            raise
        self.fileno = sock.fileno

    @property
    def address(self) -> Address:
        """Where it is bound."""
        host, port = self._socket.getsockname()[:2]
        return host, port

    def receive(self) -> tuple[memoryview, int, Address]:
        """What came, good until the next call of anybody; how large its datagrams are, the last maybe smaller; and from
        where.  Raises ``BlockingIOError``, or another ``OSError``, after which the socket goes on."""
        size, control, _, source = self._socket.recvmsg_into((_arrived,), _CONTROL)
        segment = _INT.unpack(control[0][2][: _INT.size])[0] if control else size
        host, port = source[:2]
        if len(source) == 4 and source[3]:
            host = f"{host}%{source[3]}"  # of one link only
        return _arrived[:size], segment, (host, port)

    def send_apart(self, datagram: bytes, to: Address, ttl: int) -> None:
        """Send one datagram with a TTL of its own, or lose it."""
        control = (*_TTL[self.family], _INT.pack(ttl))
        with suppress(OSError):
            self._socket.sendmsg((datagram,), (control,), 0, to)

    def send(self, train: memoryview, segment: int, to: Address) -> None:
        """Send ``train`` as datagrams of ``segment`` bytes.  Raises ``BlockingIOError``.

        What cannot be sent for another reason is lost, as it might have been on the way.
        """
        try:
            if len(train) <= segment:
                self._socket.sendto(train, to)
            elif self._cuts:
                self._socket.sendmsg((train,), ((socket.IPPROTO_UDP, _SEGMENT, _U16.pack(segment)),), 0, to)
            else:
                self._send_singly(train, segment, to)
        except BlockingIOError:
            raise
        except OSError as fault:
            if self._cuts and len(train) > segment and fault.errno in _UNCUT:
                self._cuts = False
                self._send_singly(train, segment, to)

    def _send_singly(self, train: memoryview, segment: int, to: Address) -> None:
        for at in range(0, len(train), segment):
            try:
                self._socket.sendto(train[at : at + segment], to)
            except BlockingIOError:
                if not at:
                    raise
                return  # the rest is lost
            except OSError:
                return

    def close(self) -> None:
        """May be called twice."""
        self._socket.close()
