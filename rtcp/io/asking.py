"""Conversations that we ask the peer of a version 5 tunnel for, from the request to the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Generic, TypeVar

import trio

from cyfs_ns.errors import CyfsError, Refused, Unreachable
from rtcp.io.answers import TooSoon, TunnelOver, fault_of
from rtcp.io.commons import Commons
from rtcp.io.conversation import Conversations, MuxedDatagrams, MuxedStream
from rtcp.io.pipe import Answered, Denied, GiveUp, send_all
from rtcp.v5.frames import Address, Code, Opening, Purpose, Stop
from rtcp.v5.targets import write_target
from rtcp.v5.tunnel import Tunnel

_HELD_PATIENCE = 8.0
"""Seconds for which whoever wants a stream waits while the tunnel has no carrier.  Who asks while there is one needs no
clock for that: ``doubt`` tells when it is gone."""
_PAUSES = (0.1, 0.3, 1.0, 2.0)
"""Seconds to wait before a request is repeated that the peer had no room for."""

_Made = TypeVar("_Made", bound="MuxedStream | MuxedDatagrams")


class Asking:
    """Those that are not answered.  The machine has something to say: now by ``turn``, with all else by ``soon``."""

    __slots__ = ("_asked", "_machine", "_now", "_shared", "_soon", "_standing", "_turn")

    def __init__(
        self,
        machine: Tunnel,
        standing: Conversations,
        shared: Commons,
        turn: Callable[[], None],
        soon: Callable[[], None],
    ) -> None:
        self._machine, self._standing, self._shared, self._turn, self._soon = machine, standing, shared, turn, soon
        self._now = shared.clock
        self._asked: dict[int, _Asked | _Awaited] = {}

    def __len__(self) -> int:
        return len(self._asked)

    async def open_stream(self, host: str | None, port: int, source: Address | None, first: bytes = b"") -> MuxedStream:
        """``first`` goes out behind the request, as far as there is room.  Raises ``Refused``, ``TunnelOver`` and
        ``Unreachable``."""
        begun = await self._open(write_target(Purpose.STREAM, host, port, source), self._standing.stream, first)
        if begun.unsent:
            try:
                await send_all(begun.pipe, begun.unsent)
            except OSError as fault:
                begun.pipe.close()
                raise Unreachable(f"the peer ended it: {fault}", "tunnel_open") from fault
            except BaseException:
                begun.pipe.close()
                raise
        return begun.pipe

    async def open_datagrams(self, host: str | None, port: int, source: Address | None) -> MuxedDatagrams:
        """Raises as ``open_stream``."""
        begun = await self._open(write_target(Purpose.DATAGRAMS, host, port, source), self._standing.flow)
        return begun.pipe

    def begin_stream(self, host: str | None, port: int, source: Address | None) -> Begun[MuxedStream]:
        """As ``open_stream``, that waits for no answer.  Raises ``TunnelOver`` and ``Unreachable``."""
        return self._ask(write_target(Purpose.STREAM, host, port, source), self._standing.stream)

    def ask_stream(
        self, host: str | None, port: int, source: Address | None, then: Answered, first: bytes = b""
    ) -> GiveUp | None:
        """As ``open_stream`` for whoever is no task, with all of ``first`` behind the request; None: it takes one, and
        ``then`` hears nothing."""
        if not self._machine.is_up:
            return None
        try:
            number, stream = self._begin(write_target(Purpose.STREAM, host, port, source), self._standing.stream)
        except Unreachable:
            return None  # whoever awaits it is told, or waits until it can be asked
        if first and self._machine.send(number, first, self._now()) < len(first):
            self.put_away(number, stream)
            return None
        asked = self._asked[number] = _Asked(self, number, stream, then)
        self._soon()
        return asked.give_up

    def tell(self, asked: _Asked) -> None:
        """Somebody who is no task is to hear of its answer, with the next news."""
        self._standing.soon(asked.tell)

    def done(self, number: int) -> bool:
        """Whether this was waited for, and is no longer."""
        return self._asked.pop(number, None) is not None

    def put_away(self, number: int, made: MuxedStream | MuxedDatagrams) -> None:
        """It was not opened, or nobody wants it any more."""
        self._machine.reset(number, Stop.CANCELLED, self._now())
        made.broke("it was not opened")
        made.close()
        self._soon()

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
        if self._asked and self._machine.is_held:
            self._shared.nursery.start_soon(self._lose_patience, list(self._asked.values()))

    async def _lose_patience(self, waiting: Iterable[_Asked | _Awaited]) -> None:
        await trio.sleep(_HELD_PATIENCE)
        if self._machine.is_held:
            for asked in waiting:
                asked.answer(_no_way())

    async def _open(self, opening: Opening, make: Callable[[int], _Made], first: bytes = b"") -> Begun[_Made]:
        for pause in (*_PAUSES, None):
            try:
                begun = self._ask(opening, make, first)
                await begun.answered()
                return begun
            except TooSoon:
                if pause is None:
                    break
                await trio.sleep(pause)
        raise Unreachable("the peer takes no more streams at the moment", "tunnel_open")

    def _ask(self, opening: Opening, make: Callable[[int], _Made], first: bytes = b"") -> Begun[_Made]:
        number, made = self._begin(opening, make)
        asked = self._asked[number] = _Awaited()
        sent = self._machine.send(number, first, self._now()) if first else 0
        self._turn()
        return Begun(self, number, made, asked, first[sent:])

    def _begin(self, opening: Opening, make: Callable[[int], _Made]) -> tuple[int, _Made]:
        """Raises ``Unreachable``: ``TunnelOver``, ``TooSoon``, or there are no more descriptors."""
        try:
            number = self._machine.open(opening, self._now())
        except Unreachable as over:
            raise TunnelOver(str(over), "tunnel_open") from over
        except Refused as full:
            raise TooSoon(str(full), "tunnel_open") from full
        try:
            return number, make(number)
        except Unreachable:
            self._machine.reset(number, Stop.INTERNAL, self._now())
            self._soon()
            raise

    async def hear(self, begun: Begun[_Made]) -> None:
        """As :meth:`Begun.answered`."""
        try:
            await self._hear(begun)
        except (CyfsError, trio.Cancelled):
            begun.pipe.close()
            raise

    def hear_soon(self, begun: Begun[_Made]) -> None:
        """As :meth:`Begun.is_used`."""

        async def hear() -> None:
            with suppress(CyfsError):
                await self._hear(begun)

        self._shared.nursery.start_soon(hear)

    async def _hear(self, begun: Begun[_Made]) -> None:
        try:
            await self._hear_of(begun.asked)
            if begun.asked.fault is not None:
                raise begun.asked.fault
        except (CyfsError, trio.Cancelled) as fault:
            self._machine.reset(begun.number, Stop.CANCELLED, self._now())
            begun.pipe.broke(str(fault) or "it was not opened")
            self._soon()
            raise
        finally:
            del self._asked[begun.number]

    async def _hear_of(self, asked: _Awaited) -> None:
        """Wait for an answer; but not for long while there is nobody who could give it.  A verdict has its own time."""
        if self._machine.is_held:
            with trio.move_on_after(_HELD_PATIENCE):
                await asked.answered.wait()
            if self._machine.is_held:
                asked.answer(_no_way())
        await asked.answered.wait()


class Begun(Generic[_Made]):
    """A conversation that the peer is asked for.  What is said on ``pipe`` goes out behind the request (§8.1)."""

    __slots__ = ("_asking", "asked", "number", "pipe", "unsent")

    def __init__(self, asking: Asking, number: int, pipe: _Made, asked: _Awaited, unsent: bytes = b"") -> None:
        self._asking, self.number, self.pipe, self.asked, self.unsent = asking, number, pipe, asked, unsent

    async def answered(self) -> None:
        """Until the peer says yes; to be awaited once, unless it ``is_used``.

        Raises ``Refused``, ``TunnelOver`` and ``Unreachable``; ``pipe`` is closed then, and when it is cancelled.
        """
        await self._asking.hear(self)

    def is_used(self, on_no: Denied | None = None) -> None:
        """Nobody waits for the answer: ``pipe`` is its reader's from now on, and breaks with a no, which ``on_no``
        hears."""
        self.asked.on_no = on_no
        self._asking.hear_soon(self)


def _no_way() -> Unreachable:
    return Unreachable("there is no way to the peer at the moment", "connect_timeout")


class _Awaited:
    """One request that a task waits for."""

    __slots__ = ("answered", "fault", "on_no")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.fault: CyfsError | None = None
        self.on_no: Denied | None = None

    def answer(self, fault: CyfsError | None) -> None:
        if not self.answered.is_set():
            self.fault = fault
            self.answered.set()
            if fault is not None and self.on_no is not None:
                self.on_no(fault)  # now: whoever uses it sees it break soon, and would not know why


class _Asked:
    """One that no task waits for: ``then`` hears of it."""

    __slots__ = ("_asking", "_fault", "_is_answered", "_number", "_stream", "_then")

    def __init__(self, asking: Asking, number: int, stream: MuxedStream, then: Answered) -> None:
        self._asking, self._number, self._stream, self._then = asking, number, stream, then
        self._fault: CyfsError | None = None
        self._is_answered = False

    def answer(self, fault: CyfsError | None) -> None:
        if not self._is_answered:
            self._fault, self._is_answered = fault, True
            self._asking.tell(self)

    def tell(self) -> None:
        """Unless it was given up since."""
        if not self._asking.done(self._number):
            return
        fault = self._fault
        if fault is None:
            self._then(self._stream)
            return
        self._asking.put_away(self._number, self._stream)
        self._then(None if isinstance(fault, TooSoon | TunnelOver) else fault)

    def give_up(self) -> None:
        if self._asking.done(self._number):
            self._asking.put_away(self._number, self._stream)
