"""Conversations that the peer of a version 5 tunnel asks for, from the request to our answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Final

import trio

from cyfs_ns.errors import Misuse, Refused, Unreachable
from rtcp.io.answers import code_of
from rtcp.io.commons import Commons
from rtcp.io.conversation import Conversations, MuxedDatagrams, MuxedStream
from rtcp.io.pipe import DatagramPipe, Pipe, log
from rtcp.packet import Purpose
from rtcp.party import Peer
from rtcp.v5 import frames as f
from rtcp.v5.frames import Code, Opening
from rtcp.v5.targets import NotServed, read_target
from rtcp.v5.tunnel import Tunnel

_TOO_LATE = "the peer waits for this stream no longer"


class _Done:
    """Nothing is left to be waited for."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


DONE: Final = _Done()
"""What ``Serve`` may return for a request that it has dealt with at once: no task is begun for it."""


class MuxedRequest:
    """The peer asks for a conversation (``rtcp.io.tunnel.StreamRequest``).  Nothing happens until it is accepted."""

    def __init__(self, judging: Judging, number: int, opening: Opening) -> None:
        self._judging, self._number = judging, number
        self.purpose = Purpose.STREAM if opening.purpose == f.Purpose.STREAM else Purpose.DATAGRAM
        self.host, self.port = read_target(opening)
        self.source = None if opening.route is None else opening.route.source

    @property
    def peer(self) -> Peer:
        """Who asks."""
        return self._judging.who()

    @property
    def tunnel(self) -> bytes:
        """The id of the tunnel that it came through."""
        return self._judging.tunnel

    async def accept(self) -> Pipe:
        """Say yes to a stream.  Raises ``Unreachable`` when it is too late."""
        await trio.lowlevel.checkpoint_if_cancelled()
        return self.accept_now()

    def accept_now(self) -> Pipe:
        """As ``accept``, for whoever does not wait."""
        if self.purpose is not Purpose.STREAM:
            raise Misuse("it asks for datagrams")
        return self._judging.accept_stream(self._number)

    async def accept_datagrams(self) -> DatagramPipe:
        """Say yes to datagrams.  Raises ``Unreachable`` when it is too late."""
        if self.purpose is not Purpose.DATAGRAM:
            raise Misuse("it asks for a stream")
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._judging.accept_datagrams(self._number)


class Judging:
    """Those that are not answered.  ``who`` asks, as far as is known by now; ``soon``: the machine has something to
    say."""

    __slots__ = ("_asked", "_machine", "_shared", "_soon", "_standing", "who")

    def __init__(
        self,
        machine: Tunnel,
        standing: Conversations,
        shared: Commons,
        who: Callable[[], Peer],
        soon: Callable[[], None],
    ) -> None:
        self.who = who
        self._machine, self._standing, self._shared, self._soon = machine, standing, shared, soon
        self._asked: dict[int, trio.CancelScope | None] = {}

    def __len__(self) -> int:
        return len(self._asked)

    @property
    def tunnel(self) -> bytes:
        """Its id."""
        return self._machine.id

    def asked(self, number: int, opening: Opening) -> None:
        """A request came: let the rules speak, in a task if there is something to wait for."""
        self._asked[number] = None
        try:
            served = self._shared.serve(MuxedRequest(self, number, opening))
        except Exception as fault:
            self._say_no(number, self._code_of(fault))
            return
        if served is DONE:
            self._say_no(number, Code.NOT_AUTHORIZED)  # if nobody accepted it
            return
        scope = self._asked[number] = trio.CancelScope()  # it may be reset before its task runs
        self._shared.nursery.start_soon(self._serve, number, served, scope)

    def reset(self, number: int) -> None:
        """Nobody waits for an answer any more."""
        if (scope := self._asked.get(number)) is not None:
            scope.cancel()

    def accept_stream(self, number: int) -> MuxedStream:
        """Say yes.  Raises ``Unreachable``."""
        self._check_awaited(number)
        stream = self._standing.stream(number)
        self._accept(number, stream)
        return stream

    def accept_datagrams(self, number: int) -> MuxedDatagrams:
        """Say yes.  Raises ``Unreachable``."""
        self._check_awaited(number)
        flow = self._standing.flow(number)
        self._accept(number, flow)
        return flow

    async def _serve(self, number: int, served: Awaitable[None], scope: trio.CancelScope) -> None:
        code = Code.NOT_AUTHORIZED
        try:
            with scope:
                await served
        except Exception as fault:
            code = self._code_of(fault)
        self._say_no(number, code)

    def _code_of(self, fault: Exception) -> Code:
        """What the peer hears of it."""
        match fault:
            case NotServed():
                return fault.code
            case Refused():
                log.debug("a stream for %s is refused: %s", self.who().did, fault)
                return Code.NOT_AUTHORIZED
            case Unreachable():
                log.debug("a stream for %s cannot be served: %s", self.who().did, fault)
                return code_of(fault)
        log.error("serving a stream failed", exc_info=fault)
        return Code.UNREACHABLE

    def _say_no(self, number: int, code: Code) -> None:
        """Answer it, unless somebody accepted it."""
        if number in self._asked:
            del self._asked[number]
            self._machine.answer(number, code, self._shared.clock())
            self._soon()

    def _check_awaited(self, number: int) -> None:
        """Raises ``Unreachable`` for what was answered."""
        if number not in self._asked:
            raise Unreachable(_TOO_LATE, "tunnel_open")

    def _accept(self, number: int, made: MuxedStream | MuxedDatagrams) -> None:
        del self._asked[number]
        if not self._machine.answer(number, Code.YES, self._shared.clock()):
            made.broke(_TOO_LATE)
            made.close()
            raise Unreachable(_TOO_LATE, "tunnel_open")
        self._soon()
