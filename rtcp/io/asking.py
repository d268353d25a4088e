"""Conversations that we ask the peer of a version 5 tunnel for, from the request to the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from cyfs_ns.errors import CyfsError, Refused, Unreachable
from rtcp.io.answers import TooSoon, TunnelOver, fault_of
from rtcp.io.commons import Commons
from rtcp.io.conversation import Conversations, MuxedDatagrams, MuxedStream
from rtcp.v5.frames import Address, Code, Opening, Purpose, Stop
from rtcp.v5.targets import write_target
from rtcp.v5.tunnel import Tunnel

_HELD_PATIENCE = 8.0
"""Seconds for which whoever wants a stream waits while the tunnel has no carrier.  Who asks while there is one needs no
clock for that: ``doubt`` tells when it is gone."""
_PAUSES = (0.1, 0.3, 1.0, 2.0)
"""Seconds to wait before a request is repeated that the peer had no room for."""


class Asking:
    """Those that are not answered.  ``turn``: the machine has something to say."""

    def __init__(self, machine: Tunnel, standing: Conversations, shared: Commons, turn: Callable[[], None]) -> None:
        self._machine, self._standing, self._shared, self._turn = machine, standing, shared, turn
        self._now = shared.clock
        self._asked: dict[int, _Asked] = {}

    def __len__(self) -> int:
        return len(self._asked)

    async def open_stream(self, host: str | None, port: int, source: Address | None) -> MuxedStream:
        """Raises ``Refused``, ``TunnelOver`` and ``Unreachable``."""
        return self._standing.streams[await self._open(write_target(Purpose.STREAM, host, port, source))]

    async def open_datagrams(self, host: str | None, port: int, source: Address | None) -> MuxedDatagrams:
        """Raises as ``open_stream``."""
        return self._standing.flows[await self._open(write_target(Purpose.DATAGRAMS, host, port, source))]

    def answered(self, number: int, code: int) -> None:
        """The peer said so."""
        if (asked := self._asked.get(number)) is not None:
            asked.answer(None if code == Code.YES else fault_of(code))

    def failed(self, number: int, fault: CyfsError) -> None:
        """It was reset, or the tunnel is over."""
        if (asked := self._asked.get(number)) is not None:
            asked.answer(fault)

    def doubt(self) -> None:
        """The tunnel may have lost its carrier: whoever waits does not wait for long."""
        if self._asked and not self._machine.is_up and not self._machine.is_ended:
            self._shared.nursery.start_soon(self._lose_patience, list(self._asked.values()))

    async def _lose_patience(self, waiting: Iterable[_Asked]) -> None:
        await trio.sleep(_HELD_PATIENCE)
        if not self._machine.is_up:
            for asked in waiting:
                asked.answer(_no_way())

    async def _open(self, opening: Opening) -> int:
        for pause in (*_PAUSES, None):
            try:
                return await self._ask(opening)
            except TooSoon:
                if pause is None:
                    break
                await trio.sleep(pause)
        raise Unreachable("the peer takes no more streams at the moment", "tunnel_open")

    async def _ask(self, opening: Opening) -> int:
        try:
            number = self._machine.open(opening, self._now())
        except Unreachable as over:
            raise TunnelOver(str(over), "tunnel_open") from over
        except Refused as full:
            raise TooSoon(str(full), "tunnel_open") from full
        try:
            is_stream = opening.purpose == Purpose.STREAM
            made = self._standing.stream(number) if is_stream else self._standing.flow(number)
        except Unreachable:
            self._give_up(number, Stop.INTERNAL)
            raise
        asked = self._asked[number] = _Asked()
        self._turn()
        try:
            await self._hear_of(asked)
            if asked.fault is not None:
                raise asked.fault
        except (CyfsError, trio.Cancelled):
            self._give_up(number, Stop.CANCELLED)
            made.broke("it was not opened")
            made.close()
            raise
        finally:
            del self._asked[number]
        return number

    def _give_up(self, number: int, code: Stop) -> None:
        self._machine.reset(number, code, self._now())
        self._turn()

    async def _hear_of(self, asked: _Asked) -> None:
        """Wait for an answer; but not for long while there is nobody who could give it.  Raises ``Unreachable``."""
        if not self._machine.is_up:
            with trio.move_on_after(_HELD_PATIENCE):
                await asked.answered.wait()
            if not self._machine.is_up and not asked.answered.is_set():
                raise _no_way()
        await asked.answered.wait()


def _no_way() -> Unreachable:
    return Unreachable("there is no way to the peer at the moment", "connect_timeout")


class _Asked:
    """One request."""

    __slots__ = ("answered", "fault")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.fault: CyfsError | None = None

    def answer(self, fault: CyfsError | None) -> None:
        if not self.answered.is_set():
            self.fault = fault
            self.answered.set()
