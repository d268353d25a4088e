"""Asking STUN servers: how they see a socket that others use, and how our NAT behaves.

What others see of a socket only an answer through that very socket's mapping tells, so an :class:`Observer` asks over
a share of it.  How a NAT behaves is the NAT's own; to tell it takes sockets that have written to nobody, and those are
opened for it.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress

import trio

from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.io.dial import prepare
from rtcp.io.nat.punch import Datagrams
from rtcp.nat.behaviour import BRISK, SEED_SIZE, NatBehaviour, Patience, StunServer, Survey
from rtcp.nat.stun import (
    HEADER_SIZE,
    MOST,
    TRANSACTION_SIZE,
    HostPort,
    Kind,
    is_stun,
    read_message,
    write_request,
)
from rtcp.party import Address

WITHIN = 20.0
"""Seconds a survey may take; ordinarily it takes one or two."""

_TCP_SECONDS = 3.0
_NO_LINGER = struct.pack("@ii", 1, 0)
_AT_ONCE = 32  # datagrams of one socket before its neighbours get their turn


class Observer:
    """Asks servers how they see the socket behind ``share``, which it reads while it asks."""

    def __init__(self, share: Datagrams) -> None:
        self._share = share
        self.seen: dict[HostPort, HostPort] = {}
        """How each server that has answered sees the socket."""

    async def ask(
        self,
        servers: Collection[HostPort],
        *,
        patience: Patience = BRISK,
        grace: Callable[[float], float] | None = None,
    ) -> None:
        """Until all ``servers`` have answered or refused, or ``patience`` is over.

        ``grace``: for how many seconds to wait for the others when the first has answered after so many.
        """
        waiting = {os.urandom(TRANSACTION_SIZE): server for server in servers}
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear, waiting, began, grace, nursery.cancel_scope)
            for wait in (*patience.sends()[1:], patience.end()):
                for transaction, server in list(waiting.items()):
                    await self._share.send(write_request(transaction), server, None)
                await trio.sleep_until(began + wait)
            nursery.cancel_scope.cancel()

    async def _hear(
        self,
        waiting: dict[bytes, HostPort],
        began: float,
        grace: Callable[[float], float] | None,
        asking: trio.CancelScope,
    ) -> None:
        while waiting:
            datagram, source = await self._share.receive()
            server = waiting.get(datagram[8:20]) if is_stun(datagram) else None
            if server is None or source != server:
                continue
            try:
                message = read_message(datagram)
            except BadWire:
                continue
            seen = message.seen or message.seen_plain
            if message.kind is Kind.SUCCESS and not message.strange and seen is not None and seen.port:
                self.seen[server] = seen
            elif message.kind is not Kind.ERROR or message.error is None:
                continue
            del waiting[message.transaction]
            if grace is not None and len(self.seen) == 1:
                now = trio.current_time()
                asking.deadline = min(asking.deadline, now + grace(now - began))
        asking.cancel()


async def observe_tcp(server: HostPort, local: Address, *, mark: int = 0) -> HostPort:
    """How ``server`` sees a connection from ``local``, a place that others have, too.  Raises ``Unreachable``."""
    family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
    try:
        with trio.socket.socket(family, socket.SOCK_STREAM) as sock, trio.fail_after(_TCP_SECONDS):
            prepare(sock, mark, "")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # Without a farewell, so that neither end waits for packets of a connection that is over.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            await sock.bind(local)
            await sock.connect(server)
            stream = trio.SocketStream(sock)
            transaction = os.urandom(TRANSACTION_SIZE)
            await stream.send_all(write_request(transaction))
            message = read_message(await receive_message(stream))
    except (OSError, trio.BrokenResourceError, trio.TooSlowError, BadWire) as fault:
        raise Unreachable(f"{server} does not answer by STUN over TCP: {fault}", "connect_timeout") from fault
    seen = message.seen or message.seen_plain
    if message.kind is not Kind.SUCCESS or message.transaction != transaction or seen is None or not seen.port:
        raise Unreachable(f"{server} does not say by STUN how it sees a connection", "connect_timeout")
    return seen


async def receive_message(stream: trio.abc.ReceiveStream) -> bytes:
    """One message of a stream, as far as its head says.  Raises ``BadWire`` and ``trio.BrokenResourceError``."""
    untrusted = b""
    while len(untrusted) < (size := _size(untrusted)):
        more = await stream.receive_some(size - len(untrusted))
        if not more:
            raise BadWire(f"a STUN message ends after {len(untrusted)} octets")
        untrusted += more
    return untrusted


def _size(begun: bytes) -> int:
    """How long the message is, or its head."""
    size = HEADER_SIZE if len(begun) < HEADER_SIZE else HEADER_SIZE + int.from_bytes(begun[2:4])
    if size > MOST:
        raise BadWire(f"a STUN message of {size} octets")
    return size


async def behaviour(
    servers: Sequence[StunServer],
    *,
    local: str = "",
    mark: int = 0,
    interface: str = "",
    patience: Patience = BRISK,
    within: float = WITHIN,
) -> NatBehaviour:
    """How the NAT on the way to ``servers``, all of one family, behaves, told from sockets of our own.

    They are bound to the address ``local``, or the one the kernel would use; ``mark`` and ``interface`` as for
    :func:`cyfs_ns.io.dial.prepare`.  After ``within`` seconds, what is known by then.  Raises ``Unreachable`` where not
    even a socket can be had: no route, no such address.
    """
    with ExitStack() as ours:
        ready = ours.enter_context(select.epoll())
        sockets: dict[int, socket.socket] = {}
        numbers: dict[int, int] = {}
        try:
            local = local or own_host(servers[0].at, mark, interface)
            survey = Survey(servers, seed=os.urandom(SEED_SIZE), now=trio.current_time(), patience=patience)
            with trio.move_on_after(within):
                while not survey.finished:
                    while (send := survey.next_send()) is not None:
                        if send.socket not in sockets:
                            sock = sockets[send.socket] = ours.enter_context(_open(local, mark, interface))
                            numbers[sock.fileno()] = send.socket
                            ready.register(sock, select.EPOLLIN)
                            survey.opened(send.socket, HostPort(*sock.getsockname()[:2]))
                        with suppress(OSError):  # no route, or no room: lost, as datagrams may be
                            sockets[send.socket].sendto(send.data, send.to)
                    with trio.move_on_at(survey.next_deadline() or trio.current_time()):
                        await trio.lowlevel.wait_readable(ready.fileno())
                    for fd, _ in ready.poll(0):
                        _hear(survey, numbers[fd], sockets[numbers[fd]])
                    survey.handle_timeout(trio.current_time())
        except OSError as fault:
            raise Unreachable(f"no socket to ask {servers[0].at} from: {fault}", "pre_connect_route") from fault
        return survey.behaviour()


def _hear(survey: Survey, number: int, sock: socket.socket) -> None:
    with suppress(OSError):  # empty, or an error that somebody's ICMP reports
        for _ in range(_AT_ONCE):
            data, source = sock.recvfrom(MOST + 1)
            survey.received(number, HostPort(*source[:2]), data, trio.current_time())


def _open(host: str, mark: int, interface: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        prepare(sock, mark, interface)
        sock.bind((host, 0))
    except BaseException:
        sock.close()
        raise
    return sock


def own_host(server: HostPort, mark: int, interface: str) -> str:
    """Our address on the way to ``server``; nothing is sent."""
    with _open("::" if ":" in server.host else "0.0.0.0", mark, interface) as sock:
        sock.connect(server)
        host: str = sock.getsockname()[0]
        return host
