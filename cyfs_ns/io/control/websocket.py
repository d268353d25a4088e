"""A WebSocket that only talks: each item of a feed is one text message.

There is no queue: the next item is made when the last one is gone, so a slow reader gets fewer samples instead of
older ones, and one that takes nothing for ten seconds is left.  What the peer says is read for control frames only;
silence is probed with pings.  No extension is offered, so there is no decompression.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import h11
import trio
import wsproto
from wsproto.events import AcceptConnection, CloseConnection, Ping, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from cyfs_ns.io.control.wire import HttpFault, Wire

SEND_SECONDS = 10.0
PING_SECONDS = 30.0


async def talk(wire: Wire, request: h11.Request, feed: AsyncIterator[bytes]) -> None:
    """Accept the upgrade and send the feed until it ends or the peer leaves.  ``HttpFault`` 400: no good upgrade."""
    machine = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
    try:
        machine.initiate_upgrade_connection(list(request.headers), request.target)
        list(machine.events())
    except (RemoteProtocolError, LocalProtocolError):
        raise HttpFault(400, "Bad WebSocket upgrade", close=True) from None
    socket = _Socket(wire.stream, machine)
    try:
        await socket.send(AcceptConnection())
        async with trio.open_nursery() as both:
            both.start_soon(socket.listen, wire.leftover(), both.cancel_scope)
            async with aclosing(feed) as items:  # type: ignore[type-var]
                async for item in items:
                    if not await socket.say(item):
                        break
            await socket.send(CloseConnection(code=1000))
            both.cancel_scope.cancel()
    except* (trio.BrokenResourceError, trio.ClosedResourceError, LocalProtocolError):
        pass


class _Socket:
    def __init__(self, stream: trio.abc.Stream, machine: wsproto.WSConnection) -> None:
        self._stream, self._machine = stream, machine
        self._sending = trio.Lock()

    async def send(self, event: wsproto.events.Event) -> None:
        async with self._sending:
            with trio.move_on_after(SEND_SECONDS) as patience:
                await self._stream.send_all(self._machine.send(event))
        if patience.cancelled_caught:
            raise trio.BrokenResourceError("the reader takes nothing")

    async def say(self, text: bytes) -> bool:
        """False when the peer has begun to close."""
        if self._machine.state is not wsproto.connection.ConnectionState.OPEN:
            return False
        await self.send(TextMessage(data=text.decode()))
        return True

    async def listen(self, data: bytes, scope: trio.CancelScope) -> None:
        """Answer control frames until the peer leaves, then stop the conversation."""
        silent = False
        try:
            while True:
                if data:
                    self._machine.receive_data(data)
                    for event in self._machine.events():
                        if isinstance(event, Ping):
                            await self.send(event.response())
                        elif isinstance(event, CloseConnection):
                            await self.send(event.response())
                            return
                with trio.move_on_after(PING_SECONDS) as patience:
                    data = bytes(await self._stream.receive_some(4096))
                    if not data:
                        return
                if not patience.cancelled_caught:
                    silent = False
                elif silent:
                    return
                else:
                    silent, data = True, b""
                    await self.send(Ping())
        except (trio.BrokenResourceError, trio.ClosedResourceError, RemoteProtocolError, LocalProtocolError):
            return
        finally:
            scope.cancel()
