"""Devices of this link, asked for and answering (:mod:`rtcp.nat.lan` has the rules).

Interfaces are those that carry multicast, each time anew: a question goes out on every one of them, and who answers
listens on all that there were when it began; :meth:`Responder.refresh` makes it look again.
"""

from __future__ import annotations

import logging
import secrets
import socket
import struct
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.keys import PublicKey, SecretKey
from rtcp.limits import Bucket
from rtcp.nat.lan import (
    GROUPS,
    HOPS,
    MOST_SOUGHT,
    NONCE_SIZE,
    PORT,
    QUESTION_SIZE,
    Answer,
    read_answer,
    read_question,
    write_answer,
    write_question,
)

_TRIES = (0.0, 0.05, 0.2)
"""Seconds into the search at which the question is asked, since multicast gets lost."""
_READ_PER_SECOND, _READ_AT_ONCE = 500, 200
_ANSWERS_PER_SECOND, _ANSWERS_AT_ONCE = 20, 40
_MOST_HEARD = 256
"""Datagrams of one search that are looked at."""
_ROOM = QUESTION_SIZE + 1
_UP, _LOOPBACK, _MULTICAST = 0x1, 0x8, 0x1000
_MREQN, _MREQ6 = struct.Struct("@4s4si"), struct.Struct("@16sI")
_CONTROL = socket.CMSG_SPACE(4)
_IP_RECVTTL = 12
_IP_MULTICAST_ALL = 49  # 0: hear of the groups this socket has joined, not of those that anybody here has

_log = logging.getLogger("cyfs.rtcp")


@dataclass(frozen=True, slots=True)
class Found:
    """A device that answered, and the address it did so from: with its zone (``fe80::1%eth0``) if it needs one."""

    answer: Answer
    source: str


def links() -> list[int]:
    """Indexes of the interfaces that are up and carry multicast."""
    found = []
    for index, name in socket.if_nameindex():
        with suppress(OSError, ValueError):
            flags = int(Path(f"/sys/class/net/{name}/flags").read_text(), 16)
            if flags & (_UP | _LOOPBACK | _MULTICAST) == _UP | _MULTICAST:
                found.append(index)
    return found


async def find(keys: Collection[PublicKey], *, patience: float = 0.4) -> tuple[Found, ...]:
    """The devices with ``keys``, ``MOST_SOUGHT`` at most, that answer within ``patience`` seconds; it ends as soon as
    all have.  Never raises: nobody there, or no way to ask, is an empty answer."""
    sought = list(dict.fromkeys(keys))[:MOST_SOUGHT]
    if not sought:
        return ()
    found: dict[PublicKey, Found] = {}
    nonce = secrets.token_bytes(NONCE_SIZE)
    question = write_question(sought, nonce)

    async def ask(sock: trio.socket.SocketType, version: int) -> None:
        began = trio.current_time()
        for at in _TRIES:
            await trio.sleep_until(began + at)
            for link in links():
                with suppress(OSError):  # it went away, or has no address of this version
                    _send_by(sock, version, link)
                    await sock.sendto(question, (GROUPS[version], PORT))

    async def hear(sock: trio.socket.SocketType, search: trio.CancelScope) -> None:
        for _ in range(_MOST_HEARD):
            data, sender, is_near = await _receive(sock)
            with suppress(BadWire, OSError):
                if is_near:
                    answer = read_answer(data, nonce, sought)
                    found.setdefault(answer.key, Found(answer, _host_of(sender)))
            if len(found) == len(sought):
                search.cancel()

    with trio.move_on_after(patience), ExitStack() as closing:
        async with trio.open_nursery() as nursery:
            for version in GROUPS:
                with suppress(OSError):  # the machine has no such version
                    sock = closing.enter_context(_socket(version))
                    nursery.start_soon(ask, sock, version)
                    nursery.start_soon(hear, sock, nursery.cancel_scope)
            nursery.start_soon(trio.sleep, patience)
    return tuple(found.values())


class Responder:
    """Answers for the device ``own`` whoever looks for it, while :meth:`run` runs.

    ``ports`` are those it listens on, TCP and UDP, at the moment; ``addresses`` what else it may be reached by on the
    links (an answer tells the one it comes from by itself).
    """

    def __init__(
        self,
        own: SecretKey,
        ports: Callable[[], tuple[int, int]],
        addresses: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._own, self._ports, self._addresses = own, ports, addresses
        self._listening: dict[int, trio.socket.SocketType] = {}
        self.answered = 0
        """Questions that sought us and were answered."""

    def refresh(self) -> None:
        """Interfaces have come or gone: listen on all there are now."""
        for version, sock in self._listening.items():
            for link in links():
                with suppress(OSError):  # it listens there already, or has no address of this version
                    _join(sock, version, link)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled.  Somebody else who has the port for himself is told of once, and then left alone."""
        with ExitStack() as closing:
            for version in GROUPS:
                try:
                    sock = closing.enter_context(_socket(version, PORT))
                except OSError as fault:
                    _log.info("nobody can find this device on the LAN by IPv%d: %s", version, fault)
                    continue
                self._listening[version] = sock
            closing.callback(self._listening.clear)
            self.refresh()
            now = trio.current_time()
            reads = Bucket(_READ_PER_SECOND, _READ_AT_ONCE, now)
            answers = Bucket(_ANSWERS_PER_SECOND, _ANSWERS_AT_ONCE, now)
            async with trio.open_nursery() as nursery:
                for sock in self._listening.values():
                    nursery.start_soon(self._serve, sock, reads, answers)
                task_status.started()
                await trio.sleep_forever()

    async def _serve(self, sock: trio.socket.SocketType, reads: Bucket, answers: Bucket) -> None:
        while True:
            try:
                data, sender, is_near = await _receive(sock)
                now = trio.current_time()
                if not reads.take(now) or not is_near:
                    continue
                question = read_question(data)
                if not question.seeks(self._own.public) or not answers.take(now):
                    continue
                tcp, udp = self._ports()
                if tcp or udp:
                    await sock.sendto(write_answer(self._own, question, tcp, udp, self._addresses()), sender)
                    self.answered += 1
            except BadWire:
                continue
            except OSError as fault:  # of one asker, who is gone
                _log.debug("a question from the LAN is not answered: %s", fault)
                await trio.lowlevel.checkpoint()


@contextmanager
def _socket(version: int, port: int = 0) -> Iterator[trio.socket.SocketType]:
    """Raises ``OSError``."""
    v6 = version == 6
    plain = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with plain:
        if v6:
            level, ours, heard = socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, socket.IPV6_RECVHOPLIMIT
            plain.setsockopt(level, socket.IPV6_V6ONLY, 1)
            plain.setsockopt(level, socket.IPV6_MULTICAST_HOPS, HOPS)
            plain.setsockopt(level, socket.IPV6_MULTICAST_LOOP, 1)
        else:
            level, ours, heard = socket.IPPROTO_IP, socket.IP_TTL, _IP_RECVTTL
            plain.setsockopt(level, socket.IP_MULTICAST_TTL, HOPS)
            plain.setsockopt(level, socket.IP_MULTICAST_LOOP, 1)
            plain.setsockopt(level, _IP_MULTICAST_ALL, 0)
        plain.setsockopt(level, ours, HOPS)
        plain.setsockopt(level, heard, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # several devices may live on one machine
        plain.bind(("", port))
        yield trio.socket.from_stdlib_socket(plain)


def _join(sock: trio.socket.SocketType, version: int, link: int) -> None:
    group = socket.inet_pton(socket.AF_INET6 if version == 6 else socket.AF_INET, GROUPS[version])
    if version == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, _MREQ6.pack(group, link))
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _MREQN.pack(group, bytes(4), link))


def _send_by(sock: trio.socket.SocketType, version: int, link: int) -> None:
    if version == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, struct.pack("@I", link))
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _MREQN.pack(bytes(4), bytes(4), link))


async def _receive(sock: trio.socket.SocketType) -> tuple[bytes, tuple[Any, ...], bool]:
    """A datagram, the socket address it came from, and whether it comes from this link for sure."""
    data, ancillary, _, sender = await sock.recvmsg(_ROOM, _CONTROL)
    assert isinstance(sender, tuple)
    return data, sender, _is_near(ancillary)


def _host_of(sender: tuple[Any, ...]) -> str:
    """The address, with its zone if it is one of the link.  Raises ``OSError`` when the interface is gone."""
    host = str(sender[0]).partition("%")[0]
    return f"{host}%{socket.if_indextoname(sender[3])}" if host.startswith("fe80:") else host


def _is_near(ancillary: list[tuple[int, int, bytes]]) -> bool:
    return any(
        int.from_bytes(data, sys.byteorder) == HOPS
        for level, kind, data in ancillary
        if (level, kind) in ((socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT))
    )
