"""A UDP socket of a name server: what is known is answered within the batch it came in, the rest told apart.

No task, no scheduler: the door of the server and its worker processes both turn this crank.
"""

from __future__ import annotations

import contextlib
import socket
from struct import Struct
from typing import NamedTuple

from cyfs_ns.address import canonical
from cyfs_ns.hot import HotClient, HotDoor
from cyfs_ns.io.mmsg import Batch
from cyfs_ns.peer import Peer

TURN = 512
"""Questions, some 3 ms, after which others should get their turn."""

IP_FREEBIND = 15
"""Of both families: the address need not be there yet."""

_BUFFER = 4 << 20
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_IP_MTU_DISCOVER, _IP_PMTUDISC_OMIT, _IPV6_MTU_DISCOVER = 10, 5, 23
_IP_PKTINFO, _IPV6_PKTINFO, _IPV6_RECVPKTINFO = 8, 50, 49
_CMSG_HEADER = 16
_PORT = Struct("!H")
_INT = Struct("=i")


class Errand(NamedTuple):
    """A question for the long way."""

    query: bytes
    sender: bytes
    """``sockaddr_in`` or ``sockaddr_in6``."""
    control: bytes
    """What came with it: on wildcard sockets the address that was asked."""
    client: HotClient


def open_udp(
    ip: str, port: int, *, interface: str = "", reuse_port: bool = False, early: bool = False
) -> socket.socket:
    """A bound, non-blocking socket for a literal address; ``0.0.0.0`` and ``::`` each for their own family alone.

    What comes to those two says from the first datagram on which address was asked, since nobody waits with questions
    until there is somebody to serve.  ``interface``: only what comes in there.  ``early``: the address need not be
    there yet.  Raises ``OSError``.
    """
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        for forced, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, forced, _BUFFER)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, plain, _BUFFER)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if early:
            sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        if interface:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        # Never fragment because of a forged "fragmentation needed": off-path fragments poison caches.
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IP_PMTUDISC_OMIT)
            if ip == "::":
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_OMIT)
            if ip == "0.0.0.0":
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.bind((ip, port))
    except BaseException:
        sock.close()
        raise
    return sock


class UdpDoor:
    """One socket: hits answered in the batch they come in, the rest told apart.  Owns nothing but memory."""

    def __init__(self, sock: socket.socket, *, interface: str = "") -> None:
        self.sock = sock
        self.unsent = 0
        """Answers the kernel would not take."""
        self.dropped = 0
        """Questions over the bounds."""
        own, self._port = sock.getsockname()[:2]
        self._own = own
        self._interface = interface
        self._v6 = sock.family == socket.AF_INET6
        self._fd = sock.fileno()
        self._wildcard = own in ("0.0.0.0", "::")
        self._batch = Batch(sock.family, control=self._wildcard)

    def answer_batch(self, hot: HotDoor, second: int, errands: list[Errand]) -> int:
        """Take one batch, send what is known, add the rest to ``errands``; how many came.  Raises ``OSError``."""
        batch = self._batch
        count = batch.receive(self._fd)
        if not count:
            return 0
        memory, lengths, clients, journal = batch.memory, batch.lengths, hot.clients, hot.journal
        gaps: list[int] = []
        slot = -1
        # The short look of HotDoor.answer, spelt out: this loop is where the time goes.
        for at, vector, size, (address,) in zip(
            batch.starts, batch.vectors, batch.sizes(count), batch.addresses(count), strict=False
        ):
            slot += 1
            client = clients.get(address)
            if client is not None and client.left:
                entry = client.entries.get(memory[at + 2 : at + size].tobytes())
                if entry is not None and (entry.second == second or entry.age(second)):
                    client.left -= 1
                    if not entry.hits:
                        client.table.hit.append(entry)
                    entry.hits += 1
                    memory[at + 2 : at + entry.size] = entry.tail
                    lengths[vector] = entry.size
                    if journal is not None:
                        journal.append((client, entry))
                    continue
            query = memory[at : at + size].tobytes()
            answer = hot.answer(address, query, second)
            if answer:
                memory[at : at + len(answer)] = answer
                lengths[vector] = len(answer)
                continue
            gaps.append(slot)
            if answer is None:
                control = batch.control(slot) if self._wildcard else b""
                errands.append(Errand(query, batch.sender(slot), control, clients[address]))
        first = 0
        for gap in gaps:
            if gap > first:
                self.unsent += batch.send(self._fd, first, gap - first)
            first = gap + 1
        if count > first:
            self.unsent += batch.send(self._fd, first, count - first)
        return count

    def peer(self, errand: Errand) -> Peer:
        """Who asks, and where."""
        local, interface = self._own, self._interface
        if errand.control:
            data = errand.control[_CMSG_HEADER:]
            if self._v6:
                local, index = canonical(data[:16]), _INT.unpack_from(data, 16)[0]
            else:
                local, index = canonical(data[8:12]), _INT.unpack_from(data)[0]
            with contextlib.suppress(OSError):  # an interface that went away meanwhile
                interface = interface or socket.if_indextoname(index)
        return Peer(errand.client.ip, _PORT.unpack_from(errand.sender, 2)[0], "udp", local, interface, self._port)

    def send(self, errand: Errand, answer: bytes) -> None:
        """Answer an errand."""
        sender = errand.sender
        port = _PORT.unpack_from(sender, 2)[0]
        told: tuple[str, int] | tuple[str, int, int, int]
        if self._v6:
            told = socket.inet_ntop(socket.AF_INET6, sender[8:24]), port, 0, _INT.unpack_from(sender, 24)[0]
        else:
            told = errand.client.ip, port
        try:
            if errand.control:
                self.sock.sendmsg([answer], self._answered_from(errand.control), 0, told)
            else:
                self.sock.sendto(answer, told)
        except OSError:
            self.unsent += 1

    def _answered_from(self, control: bytes) -> list[tuple[int, int, bytes]]:
        """The address that was asked, and as for a batch without the interface."""
        data = control[_CMSG_HEADER:]
        if self._v6:
            return [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, data[:16] + bytes(4))]
        return [(socket.IPPROTO_IP, _IP_PKTINFO, bytes(4) + data[4:12])]
