"""One conversation in which files are taken (``cyfs_gateway.transfer``), from a stream into an inbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

import trio

from cyfs_gateway.io.command.inbox import Inbox, NotTaken, Part
from cyfs_gateway.transfer import WAIT, Code, Data, Ended, Misnamed, Offer, Start, Taking, Told
from cyfs_ns.errors import BadWire
from tunnels.io.stream import EndpointStream

_READ = 256 * 1024
_WRITE = 1 << 20
"""Bytes that are written at once, since each time costs a thread."""
_LINGER = 30.0
_ALIVE = 20.0
"""Seconds after which one who is busy with a disk gives a sign of life."""

_T = TypeVar("_T")


class Witness(Protocol):
    """Who hears how it goes; ``peer`` is the other device."""

    def begun(self, peer: str, offer: Offer, held: int) -> None: ...
    def moved(self, peer: str, offer: Offer, held: int) -> None: ...
    def whole(self, peer: str, offer: Offer) -> None: ...
    def failed(self, peer: str, name: str, why: str) -> None: ...


async def patiently(stream: EndpointStream, work: Callable[[], _T]) -> _T:
    """Do ``work`` in a thread, with signs of life meanwhile.  Raises what it raises.

    It is done to its end even when we are cancelled, but what it returns is lost then.
    """
    faults: list[Exception] = []
    outcome: list[_T] = []
    async with trio.open_nursery() as nursery:

        async def live() -> None:
            # When the stream is broken, whoever uses it next finds out.
            with suppress(trio.BrokenResourceError):
                while True:
                    await trio.sleep(_ALIVE)
                    await stream.send_all(WAIT)

        nursery.start_soon(live)
        try:
            outcome.append(await trio.to_thread.run_sync(work))
        except Exception as fault:
            faults.append(fault)
        nursery.cancel_scope.cancel()
    if faults:
        raise faults[0]
    return outcome[0]


class Taker:
    """Takes files into ``inbox``, from several peers at once."""

    def __init__(self, inbox: Inbox, witness: Witness) -> None:
        self.inbox, self.witness = inbox, witness
        self._busy: dict[tuple[str, str], _Held] = {}
        """Who and which file, of those under way."""

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[_Held]:
        """What one conversation has under way; nothing afterwards."""
        with trio.CancelScope() as scope:
            held = _Held(self._busy, scope)
            try:
                yield held
            finally:
                held.let_go()


@dataclass(slots=True)
class Conversation:
    """Files from ``peer`` by ``stream``, which is closed at the end."""

    taker: Taker
    stream: EndpointStream
    peer: str
    taken: int = 0
    """How many files have come whole."""

    @property
    def inbox(self) -> Inbox:
        return self.taker.inbox

    @property
    def witness(self) -> Witness:
        return self.taker.witness

    async def run(self) -> bool:
        """Until the giver has no more.  False: it was cut off, or refused, or began anew by another stream."""
        machine = Taking()
        async with self.stream, self.taker.under_way() as held:
            try:
                while True:
                    data = await self.stream.receive_some(_READ)
                    for told in machine.receive_data(data):
                        await self._heed(machine, told, held)
                    if not data:
                        machine.receive_data(b"")
                        return await self._ended(machine, held)
            except NotTaken as no:
                self.witness.failed(self.peer, held.name, str(no))
                with suppress(trio.BrokenResourceError):
                    await self._turn_away(machine.no(no.code, str(no)))
            except (trio.BrokenResourceError, BadWire) as fault:
                self.witness.failed(self.peer, held.name, str(fault))
        return False

    async def _ended(self, machine: Taking, held: _Held) -> bool:
        if not machine.between:
            self.witness.failed(self.peer, held.name, "the giver ended in the middle")
            return False
        await self.stream.send_eof()
        return True

    async def _heed(self, machine: Taking, told: Told, held: _Held) -> None:
        """Raises ``NotTaken`` for what ends the conversation."""
        match told:
            case Data(data):
                held.gathered.append(data)
                if sum(map(len, held.gathered)) >= _WRITE:
                    await self._write(held)
                return
            case Start(offset):
                if offset != held.sure.held:
                    await patiently(self.stream, held.sure.restart)
                self.witness.begun(self.peer, held.offer, offset)
                return
        # What is refused here leaves the next file its chance.
        try:
            answer = await self._answer(machine, told, held)
        except NotTaken as no:
            self.witness.failed(self.peer, held.name, str(no))
            held.let_go()
            answer = machine.no(no.code, str(no))
        await self.stream.send_all(answer)

    async def _write(self, held: _Held) -> None:
        data, held.gathered = b"".join(held.gathered), []
        await trio.to_thread.run_sync(held.sure.append, data)
        self.witness.moved(self.peer, held.offer, held.sure.held)

    async def _answer(self, machine: Taking, told: Offer | Misnamed | Ended, held: _Held) -> bytes:
        match told:
            case Misnamed(why):
                held.name = "?"
                raise NotTaken(Code.NAME, why)
            case Offer():
                await held.begin(self.peer, told)
                if await trio.to_thread.run_sync(self.inbox.has, told):
                    return machine.have()
                return await self._hold(machine, held)
            case Ended(sha256) if held.part is None:
                if not await patiently(self.stream, lambda: self.inbox.proves(held.offer, sha256, self.peer)):
                    return await self._hold(machine, held)
            case Ended(sha256):
                await self._write(held)
                await patiently(self.stream, lambda: held.sure.finish(sha256))
        held.let_go()
        self.taken += 1
        self.witness.whole(self.peer, held.offer)
        return machine.done()

    async def _hold(self, machine: Taking, held: _Held) -> bytes:
        def take() -> None:
            # Here, since whoever is cancelled meanwhile hears nothing of it and still has to close it.
            held.part = self.inbox.part(held.offer, self.peer)

        await patiently(self.stream, take)
        return machine.hold(held.sure.held, held.sure.sha256)

    async def _turn_away(self, no: bytes) -> None:
        """Say no in the middle of a file, and read on until the giver has heard it: what is not read breaks the way."""
        with trio.move_on_after(_LINGER):
            await self.stream.send_all(no)
            await self.stream.send_eof()
            while await self.stream.receive_some(_READ):
                pass


class _Held:
    """One file that is under way.  Its giver may begin anew, by a way that lives, before the old one is known dead."""

    def __init__(self, busy: dict[tuple[str, str], _Held], scope: trio.CancelScope) -> None:
        self.offer = Offer("", 0, 0)
        self.name = ""
        self.part: Part | None = None
        self.gathered: list[bytes] = []
        """What has come and is not written yet."""
        self._busy, self._scope = busy, scope
        self._free = trio.Event()

    @property
    def sure(self) -> Part:
        assert self.part is not None
        return self.part

    async def begin(self, peer: str, offer: Offer) -> None:
        """It is ``offer`` now, and nobody else's."""
        key = peer, offer.name
        while (other := self._busy.get(key)) is not None:
            other._scope.cancel()
            await other._free.wait()
        self._busy[key], self._free = self, trio.Event()
        self.offer, self.name = offer, offer.name

    def let_go(self) -> None:
        if self.part is not None:
            with suppress(NotTaken):  # it is only the beginning of the next attempt
                self.part.append(b"".join(self.gathered))
            self.part.close()
            self.part = None
        self.gathered = []
        for key in [key for key, held in self._busy.items() if held is self]:
            del self._busy[key]
        self._free.set()
