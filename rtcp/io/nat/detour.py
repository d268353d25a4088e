"""Our end of a session on a UDP relay, as one more address that pipes may go to.

The address is nobody's (``rtcp.nat.relayend.session_address``): what the endpoint sends there is wrapped and goes to
the relay, and what the relay brings seems to come from there.  So pipes, their congestion control and their MTU search
need not know.  No datagram is looked into.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

import trio

from cyfs_ns.errors import BadWire, Unreachable
from rtcp.io.nat.ground import Ground
from rtcp.nat.relayend import RelayEnd, RelayState, session_address
from rtcp.nat.relaywire import HEADER_SIZE
from rtcp.nat.signals import RelaySide
from rtcp.party import Address

_MOST_SEGMENTS: Final = 32
"""In one call: with their headers they stay below what the kernel takes."""


class Detour:
    """Stands until ``close``; ``address`` is where pipes go to.  ``side`` says who we are there."""

    def __init__(self, ground: Ground, side: RelaySide) -> None:
        self.address: Address = session_address(side.relay_id)
        self.relay = side.relay
        self.alarms: list[float] = []
        self._ground = ground
        self._end = RelayEnd(side.relay_id, side.side, side.key)
        self._settled = trio.Event()
        self._open = ExitStack()
        self._open.enter_context(ground.share.session(side.relay_id, self._take))
        ground.endpoint.lead(self.address, self._send)
        self._open.callback(ground.endpoint.lead, self.address, None)
        self._closed = False

    @property
    def in_use(self) -> bool:
        """Whether it is kept open while nothing is sent."""
        return self._end.in_use

    @in_use.setter
    def in_use(self, wanted: bool) -> None:
        self._end.in_use = wanted
        self._go_on()

    async def bind(self) -> None:
        """Let the relay know where we are.  Raises ``Unreachable`` when it does not answer."""
        self.rebind()
        await self._settled.wait()
        if self._end.state is not RelayState.BOUND:
            raise Unreachable(f"the relay at {self.relay[0]} does not answer", "connect_timeout")

    def rebind(self) -> None:
        """As ``bind``, without waiting: where we are may be elsewhere."""
        self._settled = trio.Event()
        self._end.bind(trio.current_time())
        self._go_on()

    def ring(self) -> None:
        """A deadline may be due."""
        if not self._closed:
            self._end.handle_timeout(trio.current_time())
            self._go_on()

    def close(self) -> None:
        """Nothing goes there any more.  May be called twice."""
        self._closed = True
        self._open.close()
        self._settled.set()

    def _send(self, train: memoryview, segment: int) -> None:
        header, endpoint = self._end.header, self._ground.endpoint
        whole = _MOST_SEGMENTS * segment
        for start in range(0, len(train), whole):
            part = train[start : start + whole]
            wrapped = b"".join(b for at in range(0, len(part), segment) for b in (header, part[at : at + segment]))
            endpoint.send_train(wrapped, segment + HEADER_SIZE, self.relay)
        self._end.sent(trio.current_time())

    def _take(self, datagram: bytes, source: Address) -> None:
        if source != self.relay:
            return
        try:
            said = self._end.receive(datagram, trio.current_time())
        except BadWire:
            return
        if said is None:
            self._go_on()
        elif said:
            self._ground.endpoint.came(said, self.address)

    def _go_on(self) -> None:
        end = self._end
        while (data := end.data_to_send()) is not None:
            self._ground.share.send(data, self.relay)
        if end.state in (RelayState.BOUND, RelayState.FAILED):
            self._settled.set()
        if (deadline := end.next_deadline()) is not None:
            self._ground.alarms.ask(self, deadline)
