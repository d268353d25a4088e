"""What all that looks for ways shares on one device: its UDP port, what the house knows of the world, the bounds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import Did
from rtcp.io.alarms import Alarms
from rtcp.io.dialling import Dial
from rtcp.io.nat.punch import Datagrams, OpenSocket
from rtcp.io.nat.share import Share
from rtcp.io.pipe import Pipe, log, receive_some, send_all
from rtcp.io.udp.endpoint import UdpEndpoint
from rtcp.nat.budget import Budget
from rtcp.nat.candidates import Offer
from rtcp.nat.signals import MOST, Signal, SignalReader, write_signal
from rtcp.party import Address, Peer

PATHS: Final = "paths.invalid"
"""The host that a stream for signals asks for (RFC 6761 section 6.4: nobody has that name)."""
PATHS_PORT: Final = 1


class RelaySession(Protocol):
    """A session on the UDP relay at ``port`` of one of ``addresses`` (IP texts): we are side 0, the peer is side 1."""

    @property
    def relay_id(self) -> bytes: ...
    @property
    def keys(self) -> tuple[bytes, bytes]: ...
    @property
    def addresses(self) -> Sequence[str]: ...
    @property
    def port(self) -> int: ...


Gather = Callable[[Datagrams, bool], Awaitable[Offer]]
"""Finds out where this device may be reached, over its share of the UDP port; the second argument: whether the peer may
know the addresses inside."""


@dataclass(slots=True, kw_only=True)
class Ground:
    """``trusts``: whether a peer may know our private addresses, and make us probe such addresses of its own.

    ``doubt`` is told when a direct way was lost: a router on it may have begun anew, and gather has to look again.
    """

    nursery: trio.Nursery
    alarms: Alarms
    endpoint: UdpEndpoint
    share: Share
    budget: Budget
    gather: Gather | None
    doubt: Callable[[], None]
    relay_session: Callable[[Did], Awaitable[RelaySession | None]]
    trusts: Callable[[Peer], bool]
    open_socket: OpenSocket
    dial: Dial
    accepted: Callable[[Pipe, Address], None]
    _is_looking: bool = field(default=False, init=False)

    def expect(self) -> None:
        """Somebody may ask soon where this device may be reached: who finds out may begin."""
        if self.gather is not None and not self._is_looking:
            self._is_looking = True
            self.nursery.start_soon(self._look, self.gather)

    async def _look(self, gather: Gather) -> None:
        try:
            with self.share.part() as part:
                await gather(part, False)
        except (Unreachable, Refused) as fault:
            log.debug("nobody knows where we may be reached: %s", fault)
        finally:
            self._is_looking = False


class Talk:
    """Signals on one stream, which is taken over."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe, self._reader = pipe, SignalReader()

    async def say(self, signal: Signal) -> None:
        """Raises ``Unreachable``."""
        try:
            await send_all(self._pipe, write_signal(signal))
        except OSError as fault:
            raise Unreachable(f"the peer hears no more signals: {fault}", "tunnel_open") from fault

    async def hear(self) -> Signal:
        """The next one.  Raises ``Unreachable`` at the end, and ``BadWire``."""
        while (signal := self._reader.next_signal()) is None:
            try:
                data = await receive_some(self._pipe, MOST)
            except OSError as fault:
                raise Unreachable(f"the peer says no more: {fault}", "tunnel_open") from fault
            if not data:
                raise Unreachable("the peer says no more", "tunnel_open")
            self._reader.receive_data(data)
        return signal

    def close(self) -> None:
        self._pipe.close()
