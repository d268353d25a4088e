"""Who of several addresses answers first: Happy Eyeballs (RFC 8305 §5) over whatever makes connections.

An attempt gets a head start before the next one begins beside it; a failed attempt lets the next begin at once.  That
somebody answers does not make him the peer: only the handshake tells, and the caller comes back with those left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from cyfs_ns.errors import Refused, Unreachable
from rtcp.io.pipe import Pipe
from rtcp.party import Address
from rtcp.paths import Paths

HEAD_START = 0.25
PATIENCE = 10.0
"""Seconds for all addresses together."""

Dial = Callable[[str, int], Awaitable[Pipe]]
"""Opens a connection to a host and port.  Raises ``Unreachable`` or ``Refused``."""


async def race(addresses: Sequence[Address], dial: Dial, paths: Paths) -> tuple[Pipe, Address]:
    """The first connection that stands, and where to.  Raises ``Unreachable`` when there is none."""
    contest = _Contest(addresses, dial, paths)
    with trio.move_on_after(PATIENCE):
        return await contest.run()
    raise Unreachable(f"none of {len(addresses)} addresses answered within {PATIENCE:g} s", "connect_timeout")


class _Contest:
    def __init__(self, addresses: Sequence[Address], dial: Dial, paths: Paths) -> None:
        self._addresses, self._dial, self._paths = addresses, dial, paths
        self._winner: tuple[Pipe, Address] | None = None
        self._fault: Unreachable | Refused = Unreachable("no address of the peer is known", "pre_connect_dns")
        self._news = trio.Event()

    async def run(self) -> tuple[Pipe, Address]:
        try:
            async with trio.open_nursery() as attempts:
                for address in self._addresses:
                    self._news = trio.Event()
                    attempts.start_soon(self._try, address, attempts.cancel_scope)
                    with trio.move_on_after(HEAD_START):
                        await self._news.wait()
        except BaseException:
            if self._winner is not None:
                self._winner[0].close()
            raise
        if self._winner is None:
            raise self._fault
        return self._winner

    async def _try(self, address: Address, contest: trio.CancelScope) -> None:
        begun = trio.current_time()
        try:
            pipe = await self._dial(*address)
        except (Unreachable, Refused) as fault:
            self._fault = fault
            self._paths.failed(address)
        else:
            self._paths.worked(address, trio.current_time() - begun)
            if self._winner is None:
                self._winner = pipe, address
                contest.cancel()
            else:
                pipe.close()
        self._news.set()
