"""Plain HTTP through the proxy: one task carries out what ``HttpDoor`` says, between a client and one server at a time.

Every request line may name another host, so every dial goes through the rules and is a flow of its own in the tracker.
An upgraded connection leaves for the reactor.
"""

from __future__ import annotations

import logging
import math
import select
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from cyfs_gateway.decide import Decision
from cyfs_gateway.doors import Close, CloseUpstream, Command, Dial, HttpDoor, ToClient, ToUpstream, Tunnel
from cyfs_gateway.flow import Flow
from cyfs_ns.errors import CyfsError, Refused, Unreachable
from tunnels.endpoint import Endpoint
from tunnels.io.waiting import break_off, receive_some, send_all

if TYPE_CHECKING:
    from cyfs_gateway.io.connection import Connection
    from cyfs_gateway.io.engine import Engine

DROP_SECONDS: Final = 30.0
"""How long REJECT-DROP holds a flow in silence."""
DROPS_MOST: Final = 1024
_READ: Final = 65536
_PART_SECONDS: Final = 1.0
_PART_READS: Final = 64
_FAREWELL_SECONDS: Final = 5.0
"""How long a silent server may still answer a client that has finished sending: that may be all it has to say, but most
have gone."""
_log = logging.getLogger("cyfs.http")


def status_of(fault: Exception) -> int:
    """The HTTP status that tells a client of this fault."""
    if isinstance(fault, Refused):
        return 403
    return 504 if isinstance(fault, Unreachable) and fault.reason == "connect_timeout" else 502


class _Upstream:
    """The way to one server, as the tracker sees it."""

    def __init__(self, engine: Engine, flow: Flow, decision: Decision, owner: Conversation) -> None:
        self.flow = flow
        self.decision = decision
        self.number = 0
        self.start = engine.reactor.now
        self.up = self.down = 0
        self.endpoint: Endpoint | None = None
        self.scope = trio.CancelScope()
        self._owner = owner

    def counters(self) -> tuple[int, int]:
        return self.up, self.down

    def remote(self) -> str:
        return ""

    def close(self, why: str) -> None:
        self._owner.close(why)


class Conversation:
    """One client connection that speaks HTTP to many servers, one after the other."""

    def __init__(self, connection: Connection, door: HttpDoor) -> None:
        self._connection = connection
        self._engine = connection.engine
        self._client = connection.client
        self._door = door
        self._upstream: _Upstream | None = None
        self._turn = trio.Lock()
        self._changed = trio.Event()
        self._over = False
        self._tunnel = False
        self._moved = trio.current_time()
        """When bytes came last, from either side."""
        self._head_due = math.inf
        """Until when a request head that has begun must be whole."""
        self._nursery: trio.Nursery | None = None

    def close(self, why: str) -> None:
        """End it now."""
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def run(self, first: Dial) -> None:
        """Serve until either side is done; closes the client unless a relay has taken it over."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._read_client, first)
        except* (OSError, trio.TooSlowError) as fault:
            _log.debug("%s: the conversation broke: %s", self._connection.peer_host, fault.exceptions[0])
        finally:
            self._engine.keeps_nothing(self)
            if self._tunnel:
                self._hand_over()
            else:
                self._drop_upstream()
                if self._door.is_answering and not self._over:
                    break_off(self._client)  # an answer may end with its connection, and this one did not end
                try:
                    if self._over:
                        await self._part()
                finally:
                    self._connection.close("done")

    async def _part(self) -> None:
        """Let the last answer arrive: closing with unread input makes a reset, which overtakes it."""
        with suppress(OSError), trio.move_on_after(_PART_SECONDS):
            self._client.shutdown_write()
            for _ in range(_PART_READS):
                if not await receive_some(self._client, _READ):
                    return

    async def _read_client(self, first: Dial) -> None:
        async with self._turn:
            await self._carry_out([first])
        while not self._over:
            if not self._door.wants_client:
                await self._await_answer()
                continue
            data = await self._hear_client()
            async with self._turn:
                if not self._over:
                    await self._carry_out(self._door.client(data) if data else self._door.client_eof())
            self._engine.keeps(self, self._door.kept)
            if not data:
                return

    async def _await_answer(self) -> None:
        """Until the client is to be read again.  Ends the conversation when it goes away before."""
        reactor, fd = self._engine.reactor, self._client.fileno()
        patience = trio.CancelScope()
        left = False

        def on_hang_up(events: int) -> None:
            nonlocal left
            reactor.forget(fd)
            left = True
            broken = events & ~select.EPOLLRDHUP
            patience.deadline = -math.inf if broken else trio.current_time() + _FAREWELL_SECONDS

        reactor.watch(fd, select.EPOLLRDHUP, on_hang_up)
        try:
            with patience:
                while not self._over and not self._door.wants_client:
                    await self._changed.wait()
                    if left:
                        patience.deadline = trio.current_time() + _FAREWELL_SECONDS
        finally:
            reactor.forget(fd)
        if patience.cancelled_caught:
            self.close("over")

    async def _hear_client(self) -> bytes:
        """What the client sends next.  Raises ``TooSlowError`` for silence, and for a head that comes in drops."""
        timeouts = self._engine.timeouts
        if not self._door.head_begun:
            self._head_due = math.inf
        elif self._head_due == math.inf:
            self._head_due = trio.current_time() + timeouts.handshake
        while True:
            with trio.move_on_at(min(self._moved + timeouts.idle, self._head_due)):
                data = await receive_some(self._client, _READ)
                self._moved = trio.current_time()
                return data
            self._check_silence()

    def _check_silence(self) -> None:
        """One direction may be silent as long as the other moves: a long upload is answered at its end."""
        now = trio.current_time()
        if now >= min(self._moved + self._engine.timeouts.idle, self._head_due):
            raise trio.TooSlowError

    async def _read_upstream(self, upstream: _Upstream) -> None:
        assert upstream.endpoint is not None
        while self._upstream is upstream:
            # Only the wait for input may be cut short: what follows may dial the next server in this very task.
            with trio.move_on_at(self._moved + self._engine.timeouts.idle) as upstream.scope:
                data = await receive_some(upstream.endpoint, _READ)
            if self._upstream is not upstream:
                return
            if upstream.scope.cancelled_caught:
                self._check_silence()
                continue
            self._moved = trio.current_time()
            upstream.down += len(data)
            async with self._turn:
                if self._over or self._upstream is not upstream:
                    return
                await self._carry_out(self._door.upstream(data) if data else self._door.upstream_eof())
            if not data:
                return

    async def _carry_out(self, commands: Iterable[Command]) -> None:
        queue = list(commands)
        for command in queue:
            if isinstance(command, Dial):
                queue += await self._dial(command)
            elif isinstance(command, ToUpstream):
                assert self._upstream is not None and self._upstream.endpoint is not None
                self._upstream.up += len(command.data)
                with trio.fail_after(self._engine.timeouts.idle):
                    await send_all(self._upstream.endpoint, command.data)
            elif isinstance(command, ToClient):
                with trio.fail_after(self._engine.timeouts.idle):
                    await send_all(self._client, command.data)
            elif isinstance(command, CloseUpstream):
                self._drop_upstream()
            else:
                self._tunnel = isinstance(command, Tunnel)
                self._over = True
                self.close("over")
                assert isinstance(command, Tunnel | Close)
        self._moved = trio.current_time()
        self._changed.set()
        self._changed = trio.Event()

    async def _dial(self, dial: Dial) -> list[Command]:
        flow = self._connection.flow_to(dial.target, dial.user, "HTTP")
        config = self._connection.inbound.config
        try:
            with trio.fail_after(self._engine.timeouts.connect):
                decision = await self._engine.decide(flow, None, proxy=config.proxy, rule=config.rule)
                upstream = _Upstream(self._engine, flow, decision, self)
                self._engine.count(decision, flow)
                if decision.leaf.kind != "RejectDrop":
                    upstream.endpoint = await self._engine.open_stream(decision, flow)
        except trio.TooSlowError:
            return self._door.failed(504, f"{dial.target} did not answer in time.")
        except (CyfsError, OSError) as fault:
            return self._door.failed(status_of(fault), str(fault))
        if upstream.endpoint is None:
            await self._drop()
            return []
        self._upstream = upstream
        self._engine.tracker.add(upstream)
        assert self._nursery is not None
        self._nursery.start_soon(self._read_upstream, upstream)
        return self._door.opened()

    async def _drop(self) -> None:
        """Say nothing for a while, then end."""
        engine = self._engine
        if engine.drops < DROPS_MOST:
            engine.drops += 1
            try:
                await trio.sleep(DROP_SECONDS)
            finally:
                engine.drops -= 1
        self.close("over")

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.scope.cancel()
            self._engine.tracker.drop(upstream)
            if upstream.endpoint is not None:
                upstream.endpoint.close()

    def _hand_over(self) -> None:
        upstream, self._upstream = self._upstream, None
        assert upstream is not None and upstream.endpoint is not None
        self._engine.tracker.drop(upstream)
        self._connection.tunnel(upstream.flow, upstream.decision, upstream.endpoint)


async def serve_http(connection: Connection, door: HttpDoor, first: Dial) -> None:
    """Carry on a conversation that began with ``first``."""
    await Conversation(connection, door).run(first)
