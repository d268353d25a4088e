"""Streams of peers for a command that waits for them, as long as it does.

The gateway *announces* each to the command, which *claims* it with a connection of its own.  Only then the peer is told
yes, so that whoever waits no longer is a refusal and no stream that breaks.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import trio

from cyfs_gateway.facade import Arrival
from cyfs_gateway.flow import Identity
from cyfs_ns.errors import Refused, Unreachable
from tunnels.endpoint import Endpoint

_MOST = 64
_SECONDS = 8.0


class _Waiting:
    """One stream nobody has claimed yet."""

    def __init__(self) -> None:
        self.claimed = trio.Event()
        self.endpoint: Endpoint | None = None


class Arrivals:
    """Those for one command."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self._say, self._hear = trio.open_memory_channel[Arrival](_MOST)

    async def open(self, identity: Identity) -> Endpoint:
        """Announce a stream of ``identity``, and wait until it is claimed.  Raises ``Refused`` and ``Unreachable``."""
        id = secrets.token_hex(16)
        waiting = self._waiting[id] = _Waiting()
        try:
            try:
                self._say.send_nowait(Arrival(id=id, peer=identity))
            except (trio.WouldBlock, trio.BrokenResourceError):
                raise Refused("too many wait already") from None
            with trio.move_on_after(_SECONDS):
                await waiting.claimed.wait()
            if waiting.endpoint is None:
                raise Unreachable("nobody takes it any more", "connect_timeout")
            endpoint, waiting.endpoint = waiting.endpoint, None
            return endpoint
        finally:
            del self._waiting[id]
            if waiting.endpoint is not None:
                waiting.endpoint.close()

    def awaits(self, id: str) -> bool:
        """Whether the stream of that id is still to be claimed."""
        return id in self._waiting and not self._waiting[id].claimed.is_set()

    def claim(self, id: str, endpoint: Endpoint) -> None:
        """Join it with ``endpoint``, which is taken over; closed when the stream is there no more."""
        waiting = self._waiting.get(id)
        if waiting is None or waiting.claimed.is_set():
            endpoint.close()
            return
        waiting.endpoint = endpoint
        waiting.claimed.set()

    def close(self) -> None:
        """No more are taken, and those that wait are told so."""
        self._say.close()
        self._hear.close()
        for waiting in self._waiting.values():
            waiting.claimed.set()

    async def __aiter__(self) -> AsyncIterator[Arrival]:
        async for arrival in self._hear:
            yield arrival
