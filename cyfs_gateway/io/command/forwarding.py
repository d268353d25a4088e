"""Listening ports of a command, whose connections the gateway carries to other devices.

Bytes are moved by a reactor of the command's own; the gateway's moves them on.
"""

from __future__ import annotations

import errno
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Final

import trio

from cyfs_gateway.io.command.attached import Controller
from cyfs_gateway.io.command.piping import asked
from cyfs_gateway.remote import Remote
from cyfs_ns.errors import BadWire, CyfsError, Unreachable
from cyfs_ns.io.client import ApiFault
from tunnels.endpoint import Target
from tunnels.io.reactor import Reactor
from tunnels.io.relay import Relay
from tunnels.io.waiting import TcpEndpoint, break_off

Say = Callable[[dict[str, object], str], None]
"""Tells people and programs: the facts, and a line."""

_OPENING_MOST = 64
_STARVED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE = 0.1
_IDLE = 7 * 24 * 3600.0
"""The gateway ends what is idle; here is only a last resort."""


async def forward_all(
    controller: Controller, wanted: Sequence[tuple[tuple[str, int], Remote]], *, udp: bool, say: Say
) -> None:
    """Listen for all of ``wanted`` until cancelled, or told to end (SIGTERM).

    Raises ``Unreachable`` without a gateway, ``OSError``.
    """
    if udp:
        from cyfs_gateway.io.command.forwarding_udp import forward_datagrams

        await forward_datagrams(controller, wanted, say)
        return
    opened: list[tuple[list[trio.SocketListener], Remote]] = []
    for (host, port), remote in wanted:
        opened.append((await trio.open_tcp_listeners(port, host=host), remote))
    reactor = Reactor()
    forwarder = _Forwarder(controller, reactor, say)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(reactor.run)
            await nursery.start(_heed, nursery.cancel_scope)
            for listeners, remote in opened:
                for listener in listeners:
                    told(say, listener.socket.getsockname(), remote)
                    nursery.start_soon(forwarder.serve, listener, remote)
    finally:
        forwarder.cut()


async def _heed(scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """What Ctrl-C does by itself."""
    with trio.open_signal_receiver(signal.SIGTERM) as asked:
        task_status.started()
        async for _ in asked:
            scope.cancel()


def told(say: Say, address: Sequence[object], remote: Remote) -> None:
    """Tell where one listens."""
    here = Target(str(address[0]), int(str(address[1])))
    say({"listen": str(here), "to": str(remote)}, f"{here} -> {remote}")


class _Forwarder:
    def __init__(self, controller: Controller, reactor: Reactor, say: Say) -> None:
        self._controller, self._reactor, self._say = controller, reactor, say
        self._opening = trio.CapacityLimiter(_OPENING_MOST)
        self._relays: set[Relay] = set()

    def cut(self) -> None:
        """End all that is under way, so that it looks complete to nobody."""
        for relay in list(self._relays):
            relay.close("the command ends")

    async def serve(self, listener: trio.SocketListener, remote: Remote) -> None:
        async def carry(stream: trio.SocketStream) -> None:
            plain = stream.socket
            near = TcpEndpoint(int(plain.family), int(plain.type), 0, plain.detach())
            await self._carry(near, remote)

        # trio's own loop tells of a lack of descriptors by a traceback, ten times a second.
        starved = False
        async with listener, trio.open_nursery() as nursery:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as fault:
                    if fault.errno not in _STARVED:
                        raise
                    if not starved:
                        why = fault.strerror or str(fault)
                        self.failed(remote, Unreachable(f"new connections have to wait: {why}"))
                    starved = True
                    await trio.sleep(_PAUSE)
                else:
                    starved = False
                    nursery.start_soon(carry, stream)

    async def _carry(self, near: TcpEndpoint, remote: Remote) -> None:
        try:
            async with self._opening:
                far = await self._controller.stream("cyfs", "streams", body=asked(remote))
        except (Unreachable, ApiFault, BadWire) as fault:
            self._refuse(near)
            self.failed(remote, fault)
            return
        except BaseException:
            self._refuse(near)
            raise
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reactor.freshen()
        relay = Relay(self._reactor, near, far, idle=_IDLE, on_close=self._ended)
        if not relay.closed:
            self._relays.add(relay)

    @staticmethod
    def _refuse(near: TcpEndpoint) -> None:
        """Whoever has connected gets nothing, which is not an answer of nothing."""
        break_off(near)
        near.close()

    def _ended(self, relay: Relay, why: str) -> None:
        """The client sees for itself how it ended."""
        self._relays.discard(relay)

    def failed(self, remote: Remote, fault: CyfsError) -> None:
        self._say({"to": str(remote), "fault": str(fault)}, f"{remote}: {fault}")
