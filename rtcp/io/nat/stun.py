"""Asking STUN servers: from a socket that others use, and from sockets of our own to learn how our NAT behaves.

An :class:`Observer` never reads.  Whoever owns the socket hands over what looks like STUN, since only the answer that
went through that very socket's mapping tells what others see of it.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

import trio

from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.io.dial import prepare
from rtcp.nat.behaviour import BRISK, SEED_SIZE, NatBehaviour, Patience, StunServer, Survey
from rtcp.nat.stun import MOST, TRANSACTION_SIZE, HostPort, Kind, is_stun, read_message, write_request

WITHIN = 20.0
"""Seconds a survey may take; ordinarily it takes one or two."""

_AT_ONCE = 32  # datagrams of one socket before its neighbours get their turn


class Observer:
    """Asks servers how they see one socket.

    ``send(data, to)`` sends a datagram from it, or loses it, without waiting.  The socket's owner calls :meth:`take`
    with every datagram that may be STUN.
    """

    def __init__(self, send: Callable[[bytes, HostPort], object]) -> None:
        self._send = send
        self._waiting: dict[bytes, _Waiting] = {}

    def take(self, datagram: bytes, source: HostPort) -> bool:
        """Whether ``datagram`` was the answer to a question of ours; it is nobody else's then."""
        if not self._waiting or not is_stun(datagram):
            return False
        waiting = self._waiting.get(datagram[8:20])
        if waiting is None or waiting.server != source:
            return False
        with suppress(BadWire):
            message = read_message(datagram)
            if message.kind is Kind.ERROR and message.error is not None:
                waiting.settle(Unreachable(f"{source} refuses STUN with {message.error[0]}"))
            seen = message.seen or message.seen_plain
            if message.kind is Kind.SUCCESS and not message.strange and seen is not None and seen.port:
                waiting.settle(seen)
        return True

    async def observe(self, server: HostPort, *, patience: Patience = BRISK) -> HostPort:
        """How ``server`` sees the socket.  Raises ``Unreachable``: no answer, or a refusal."""
        transaction = os.urandom(TRANSACTION_SIZE)
        request = write_request(transaction)
        waiting = self._waiting[transaction] = _Waiting(server)
        began = trio.current_time()
        try:
            for wait in (*patience.sends()[1:], patience.end()):
                self._send(request, server)
                with trio.move_on_at(began + wait):
                    await waiting.settled.wait()
                    break
        finally:
            del self._waiting[transaction]
        if waiting.answer is None:
            raise Unreachable(f"{server} does not answer by STUN", "connect_timeout")
        if isinstance(waiting.answer, Unreachable):
            raise waiting.answer
        return waiting.answer


class _Waiting:
    """One question under way."""

    __slots__ = ("answer", "server", "settled")

    def __init__(self, server: HostPort) -> None:
        self.server = server
        self.answer: HostPort | Unreachable | None = None
        self.settled = trio.Event()

    def settle(self, answer: HostPort | Unreachable) -> None:
        if self.answer is None:
            self.answer = answer
            self.settled.set()


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
            local = local or _own_host(servers[0].at, mark, interface)
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


def _own_host(server: HostPort, mark: int, interface: str) -> str:
    """Our address on the way to ``server``; nothing is sent."""
    with _open("::" if ":" in server.host else "0.0.0.0", mark, interface) as sock:
        sock.connect(server)
        host: str = sock.getsockname()[0]
        return host
