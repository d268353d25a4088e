"""One relayed flow: two endpoints, two directions, and what keeps them honest.

Every relay of a reactor reads through the same buffer, so an idle flow owns no buffer at all.  A direction that its
receiver cannot take in full keeps the rest (the *debt*) and stops reading until it is paid: that is back pressure.  The
size of one read grows while the receiver keeps up and falls back to ``_READ_LEAST`` when it does not, and all debts
together are bounded: beyond ``_DEBT_LIMIT`` every read is the least, so a crowd of slow readers cannot fill the memory.

Half-close is kept: the end of one direction is passed on after its debt is paid, the other goes on.  A reset is passed
on as a reset, and so is every other end but both sides' own: a download cut short never looks complete.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any, Final

from rtcp.io.pipe import break_off, check_fault
from tunnels.endpoint import Endpoint
from tunnels.io.reactor import READABLE, WRITABLE, Handler, Reactor

_READ_MOST: Final = 1024 * 1024
_READ_LEAST: Final = 16 * 1024
_READ_SMALL: Final = 479
"""The longest ``bytes`` that CPython's allocator for small objects serves: up to there, reading into a new object costs
less than reading into the shared buffer and slicing that."""
_FEW: Final = 4096
"""Who sends no more at once has nothing large under way, or not any more."""
_READS_PER_EVENT: Final = 2
_DEBT_LIMIT: Final = 64 * 1024 * 1024
_DEAF: Final = 1 << 16
"""An interest no epoll has: the descriptor is not registered at all."""
_UNUSUAL: Final = ~(READABLE | select.EPOLLHUP)
"""Events that are not simply input: reading tells what a hang-up means."""
_INPUT: Final = select.EPOLLIN
_CHATTY: Final = READABLE | select.EPOLLPRI | select.EPOLLET
"""Reported once an arrival.  A read that was not filled has taken all there was, unless urgent data cut it short."""
_MORE: Final = int(socket.MSG_MORE)
_SHUT_WR: Final = int(socket.SHUT_WR)

_scratch = memoryview(bytearray(_READ_MOST))
_SIZES: Final = (_READ_LEAST, _READ_LEAST * 4, _READ_LEAST * 16, _READ_MOST)
_views = {size: _scratch[:size] for size in _SIZES}
_GROW: Final = dict(zip(_SIZES, (*_SIZES[1:], _READ_MOST), strict=True))


class _Debts:
    """Bytes read but not yet taken by a receiver, over all relays."""

    total = 0


def _change_debts(by: int) -> None:
    """Keep the sum, and let all reads through the small view only while it is beyond the limit."""
    before = _Debts.total
    _Debts.total = after = before + by
    if (before < _DEBT_LIMIT) != (after < _DEBT_LIMIT):
        for size in _GROW:
            _views[size] = _scratch[: size if after < _DEBT_LIMIT else _READ_LEAST]


def _told(_relay: Relay, _why: str) -> None:
    """In place of whoever has heard of the end."""


class _Way:
    """One direction: from ``source`` to ``sink``."""

    __slots__ = ("carried", "debt", "ended", "finished", "may_chat", "raw_sink", "raw_source", "sink", "size", "source")

    def __init__(self, source: Endpoint, sink: Endpoint) -> None:
        self.source = source
        self.sink = sink
        self.raw_source = isinstance(source, socket.SocketType)
        self.raw_sink = isinstance(sink, socket.SocketType)
        self.size = _READ_LEAST
        self.debt: bytes | memoryview = b""
        self.carried = 0
        self.may_chat = True
        """The source has not yet done what ends a chat."""
        self.ended = False
        """The source has said it is done."""
        self.finished = False
        """...and the sink has been told."""


class Relay:
    """Join two endpoints on the reactor until both directions are done, one fails, or ``idle`` seconds pass in silence.

    Takes both over: it closes them.  ``on_close(relay, why)`` is called exactly once; ``why`` is empty for a normal
    end.  ``early`` was read from ``a`` before (a sniffed or pipelined prefix) and goes to ``b`` first; ``late``
    likewise from ``b`` to ``a``.  ``a_watched`` and ``b_watched`` say that the reactor watches it for reading already.
    """

    __slots__ = (
        "_a_interest",
        "_b_interest",
        "_down",
        "_fa",
        "_fb",
        "_held",
        "_idle",
        "_on_close",
        "_reactor",
        "_up",
        "closed",
        "deadline",
        "slot",
    )

    def __init__(
        self,
        reactor: Reactor,
        a: Endpoint,
        b: Endpoint,
        *,
        idle: float,
        on_close: Callable[[Relay, str], None],
        early: bytes | memoryview = b"",
        late: bytes | memoryview = b"",
        a_watched: bool = False,
        b_watched: bool = False,
    ) -> None:
        self._reactor = reactor
        self._idle = idle
        self._on_close = on_close
        self._up = _Way(a, b)
        self._down = _Way(b, a)
        self._fa = a.fileno()
        self._fb = b.fileno()
        self._a_interest = self._b_interest = READABLE
        self._held = False
        self.closed = False
        self.slot = 0
        self.deadline = reactor.now + idle
        reactor.schedule(self)
        on_a: Handler = self._on_a
        on_b: Handler = self._on_b
        near: Any = a  # a cast() would cost a call for each connection
        far: Any = b
        if self._up.raw_source and self._up.raw_sink:
            on_a, on_b = self._quick(self._up, self._down, on_a), self._quick(self._down, self._up, on_b)
        elif self._up.raw_source and hasattr(b, "lend"):
            on_a, on_b = self._everyday(self._up, near.recv, on_a), self._everyday(self._down, far.lend, on_b)
        elif self._up.raw_sink and hasattr(a, "lend"):
            on_a, on_b = self._everyday(self._up, near.lend, on_a), self._everyday(self._down, far.recv, on_b)
        if a_watched:
            reactor.rehandle(self._fa, on_a)
        else:
            reactor.watch(self._fa, READABLE, on_a)
        if b_watched:
            reactor.rehandle(self._fb, on_b)
        else:
            reactor.watch(self._fb, READABLE, on_b)
        try:
            if early:
                self._up.carried = len(early)
                self._push(self._up, early)
            if late:
                self._down.carried = len(late)
                self._push(self._down, late)
        except OSError as fault:
            self._fail(fault)
            return
        if early or late:
            self._settle()
        if self.closed or (self._up.raw_source and self._down.raw_source):
            return
        if (not self._up.raw_source and a.pending()) or (not self._down.raw_source and b.pending()):
            reactor.soon(self._poke)

    @property
    def up(self) -> int:
        """Bytes carried from ``a`` to ``b`` so far."""
        return self._up.carried

    @property
    def far(self) -> Endpoint:
        """The endpoint ``b``."""
        return self._up.sink

    def remote(self) -> str:
        """Address of the peer that ``b`` is connected to, as text; empty when it is not a socket."""
        sink = self._up.sink
        if self.closed or not isinstance(sink, socket.SocketType):
            return ""
        try:
            return str(sink.getpeername()[0])
        except OSError:
            return ""

    @property
    def down(self) -> int:
        """Bytes carried from ``b`` to ``a`` so far."""
        return self._down.carried

    def close(self, why: str = "closed by request") -> None:
        """End the flow now, both ways.  With a reason it was cut, and neither side shall take what it got for all."""
        if self.closed:
            return
        self.closed = True
        if why:
            break_off(self._up.source)
            break_off(self._up.sink)
        reactor = self._reactor
        reactor.unschedule(self)
        reactor.closing(self._fa)
        reactor.closing(self._fb)
        if self._up.debt or self._down.debt:
            _change_debts(-len(self._up.debt) - len(self._down.debt))
        self._up.source.close()
        self._up.sink.close()
        # Let go of whoever waits: it holds us, and such a pair would lie about until the garbage collector comes.
        on_close, self._on_close = self._on_close, _told
        on_close(self, why)

    def hold(self) -> None:
        """Read nothing more from either side, until :meth:`release`; what was read is passed on."""
        self._keep(True)

    def release(self) -> None:
        """Go on."""
        self._keep(False)

    def _keep(self, held: bool) -> None:
        if self.closed or held is self._held:
            return
        self._held = held
        try:
            self._settle()
        except OSError as fault:
            self._fail(fault)

    def expire(self) -> None:
        """Nothing moved for the idle time."""
        self.close("idle")

    def _on_a(self, events: int) -> None:
        self._turn(events, self._up, self._down)

    def _on_b(self, events: int) -> None:
        self._turn(events, self._down, self._up)

    def _quick(self, way: _Way, back: _Way, thorough: Handler) -> Handler:
        """The everyday turn between two sockets, spelled out: input and nothing else, one read, all of it sent.

        This is where the gateway spends its time; a relay of small messages runs a fifth faster by it.  A direction
        that owes or has ended is not watched for input, so it never comes here.  A small message that is not the first
        starts a chat.
        """
        reactor, idle = self._reactor, self._idle
        recv_into, send = way.source.recv_into, way.sink.send

        def on_events(events: int) -> None:
            if events != _INPUT:
                if events & _UNUSUAL or way.debt or way.ended:
                    thorough(events)
                else:
                    self._read_on(way, back, b"")
                return
            view = _views[way.size]
            n, sent = -1, 0
            try:
                n = recv_into(view)
                sent = send(view[:n])
            except BlockingIOError:
                if n < 0:
                    return
            except OSError as fault:
                self._fail(fault)
                return
            self.deadline = reactor.now + idle
            way.carried += n
            if sent != n or not 0 < n < way.size:
                self._conclude(way, back, view[sent:n], n == 0)
            elif n < _READ_SMALL and way.may_chat and way.carried > n:
                self._start_chat(way, back, thorough)

        return on_events

    def _everyday(self, way: _Way, read: Callable[[int], bytes | memoryview], thorough: Handler) -> Handler:
        """The turn between a socket and an endpoint that lends, by ``read`` of the source: little came, and it is taken
        as it is, from where it lies."""
        reactor, idle, send = self._reactor, self._idle, way.sink.send

        def on_events(events: int) -> None:
            if events != _INPUT or way.debt or way.ended or way.size != _READ_LEAST or self._held:
                thorough(events)
                return
            data, sent = None, 0
            try:
                data = read(_READ_LEAST)
                sent = send(data) if data else 0
            except BlockingIOError:
                if data is None:
                    return
            except OSError as fault:
                self._fail(fault)
                return
            self.deadline = reactor.now + idle
            self._took(way, len(data), data[sent:])

        return on_events

    def _took(self, way: _Way, n: int, rest: bytes | memoryview) -> None:
        """``n`` bytes were read at once, of which the sink did not take the ``rest``."""
        way.carried += n
        if not rest and 0 < n < _READ_LEAST:
            return
        if not rest and n:
            self._grow(way)
            return
        way.ended = not n
        if rest:
            self._owe(way, rest)
        try:
            self._settle()
        except OSError as fault:
            self._fail(fault)

    def _start_chat(self, way: _Way, back: _Way, thorough: Handler) -> None:
        if self._interest(way) == READABLE:  # and not in paying what ``back`` owes as well
            self._reactor.rehandle(way.source.fileno(), self._chat(way, back, thorough))
            self._watch_source(way, _CHATTY)

    def _chat(self, way: _Way, back: _Way, thorough: Handler) -> Handler:
        """``_quick`` once more, for small messages: no buffer to slice, and no second look by epoll at what is empty.

        Anything else than a small message ends the chat for good: the source is watched by level again, so that nobody
        else here needs to read until nothing is left.  Owing ends it too as far as epoll is concerned (``_settle``).
        """
        reactor, idle = self._reactor, self._idle
        source: Any = way.source  # a socket; a cast() would cost a call for each connection
        recv, send = source.recv, way.sink.send

        def end() -> Handler:
            way.may_chat = False
            # Made anew: a handler that knew itself to be used again would be a cycle, and those cost a collection.
            quick = self._quick(way, back, thorough)
            reactor.rehandle(way.source.fileno(), quick)
            if self._interest(way) == _CHATTY:
                self._watch_source(way, READABLE)
            return quick

        def on_events(events: int) -> None:
            if events != _INPUT:
                end()(events)
                return
            data = None
            try:
                data = recv(_READ_SMALL)
                if (n := len(data)) == _READ_SMALL:
                    end()
                    self._read_on(way, back, data)
                    return
                sent = send(data)
            except BlockingIOError:
                if data is None:
                    return
                sent = 0
            except OSError as fault:
                self._fail(fault)
                return
            self.deadline = reactor.now + idle
            way.carried += n
            if sent != n or not n:
                self._conclude(way, back, memoryview(data)[sent:], n == 0)

        return on_events

    def _read_on(self, way: _Way, back: _Way, begun: bytes) -> None:
        """The rest of what a small read has ``begun``, or an end, is in sight: all of it goes out in one packet."""
        source = way.source
        sink: Any = way.sink
        size = way.size
        view = _views[size]
        n, sent, ended = len(begun), 0, False
        if n:
            view[:n] = begun
        try:
            try:
                while n < len(view) and not ended:
                    more = source.recv_into(view[n:])
                    ended = more == 0
                    n += more
            except BlockingIOError:
                pass  # that was all
            if n:
                sent = sink.send(view[:n], _MORE if ended else 0)
        except BlockingIOError:
            pass  # sent nothing
        except OSError as fault:
            self._fail(fault)
            return
        self.deadline = self._reactor.now + self._idle
        way.carried += n
        if sent != n or ended or n == size:
            self._conclude(way, back, view[sent:n], ended)

    def _conclude(self, way: _Way, back: _Way, rest: memoryview, ended: bool) -> None:
        """After a read that was not everyday: it was full, was not taken whole, or found the end."""
        if not rest and not ended:
            self._grow(way)
            return
        way.ended = ended
        if rest:
            self._owe(way, rest)
        elif back.ended and not back.debt:
            self.close("")
            return
        try:
            if rest or back.debt:
                self._settle()
            else:
                self._pass_end(way)
        except OSError as fault:
            self._fail(fault)

    def _pass_end(self, way: _Way) -> None:
        """What ``_settle`` comes to when the first of two sockets has ended and nobody owes anything."""
        way.finished = True
        sink: Any = way.sink
        sink.shutdown(_SHUT_WR)
        self._watch_source(way, 0)

    def _interest(self, way: _Way) -> int:
        return self._a_interest if way is self._up else self._b_interest

    def _watch_source(self, way: _Way, events: int) -> None:
        if way is self._up:
            self._reactor.rewatch(self._fa, events)
            self._a_interest = events
        else:
            self._reactor.rewatch(self._fb, events)
            self._b_interest = events

    def _turn(self, events: int, out: _Way, back: _Way) -> None:
        """The source of ``out`` (which is the sink of ``back``) is ready for something."""
        self.deadline = self._reactor.now + self._idle
        if self._held:
            events &= ~READABLE  # streams of tunnels tell of input without being asked
        try:
            if events & WRITABLE:
                self._pay(back)
            if events & ~WRITABLE:
                if events & READABLE and not out.ended and not out.debt:
                    if self._pump(out) and not events & WRITABLE:
                        return
                elif out.ended or out.debt:
                    # No reading wanted, so this is a hang-up or an error that epoll reports whether asked or not.
                    if events & ~(READABLE | WRITABLE):
                        self._hush(out.source)
                elif self._pump(out) and not events & WRITABLE:
                    return
            self._settle()
        except OSError as fault:
            self._fail(fault)

    def _hush(self, end: Endpoint) -> None:
        """An error is raised; a mere hang-up while we are not reading would be reported for ever, so stop listening."""
        check_fault(end)
        if end is self._up.source:
            self._reactor.forget(self._fa)
            self._a_interest = _DEAF
        else:
            self._reactor.forget(self._fb)
            self._b_interest = _DEAF

    def _pump(self, way: _Way) -> bool:
        """Carry what is there, within bounds.  True: an everyday success after which nothing needs settling."""
        source, sink = way.source, way.sink
        for _ in range(_READS_PER_EVENT):
            size = way.size
            view = _views[size]
            try:
                n = source.recv_into(view)
            except BlockingIOError:
                return way.raw_source and way.raw_sink
            if n == 0:
                way.ended = True
                return False
            way.carried += n
            try:
                sent = sink.send(view[:n])
            except BlockingIOError:
                sent = 0
            if sent < n:
                self._owe(way, view[sent:n])
                if not way.raw_sink:
                    way.size = max((one for one in _SIZES if one <= sent), default=_READ_LEAST)
                return False
            if n < size:
                if n < _FEW:
                    way.size = _READ_LEAST
                break
            self._grow(way)
        if way.raw_source:
            return way.raw_sink
        if source.pending():
            self._reactor.soon(self._poke)
        return False

    @staticmethod
    def _grow(way: _Way) -> None:
        """A full read was taken whole: the next one may be bigger."""
        if _Debts.total < _DEBT_LIMIT:
            way.size = _GROW[way.size]

    def _owe(self, way: _Way, rest: bytes | memoryview) -> None:
        way.debt = bytes(rest)
        way.size = _READ_LEAST
        _change_debts(len(rest))

    def _push(self, way: _Way, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[way.sink.send(view) :]
            except BlockingIOError:
                break
        if view:
            self._owe(way, view)

    def _pay(self, way: _Way) -> None:
        """The sink can take more."""
        if not way.raw_sink and way.sink.unsent():
            try:
                way.sink.flush()
            except BlockingIOError:
                return
        if debt := way.debt:
            try:
                sent = way.sink.send(debt)
            except BlockingIOError:
                return
            _change_debts(-sent)
            way.debt = memoryview(debt)[sent:] if sent < len(debt) else b""

    def _settle(self) -> None:
        """Pass ends on, close when all is done, and ask epoll for exactly what is wanted now."""
        up, down = self._up, self._down
        if up.ended and down.ended and not up.debt and not down.debt and up.raw_sink and down.raw_sink:
            self.close("")  # which says the second end as well as a half-close would
            return
        for way in (up, down):
            if way.ended and not way.finished and not way.debt:
                way.finished = True
                if isinstance(way.sink, socket.SocketType):
                    way.sink.shutdown(socket.SHUT_WR)
                else:
                    way.sink.shutdown_write()
        if up.finished and down.finished and not self._unsent(up) and not self._unsent(down):
            self.close("")
            return
        reading = 0 if self._held else READABLE
        a = (0 if up.ended or up.debt else reading) | (WRITABLE if down.debt or self._unsent(down) else 0)
        b = (0 if down.ended or down.debt else reading) | (WRITABLE if up.debt or self._unsent(up) else 0)
        if a != self._a_interest and (a or self._a_interest != _DEAF):
            self._want(self._fa, self._a_interest, a, self._on_a)
            if a & ~self._a_interest & READABLE and not up.raw_source:
                self._reactor.soon(self._poke)
            self._a_interest = a
        if b != self._b_interest and (b or self._b_interest != _DEAF):
            self._want(self._fb, self._b_interest, b, self._on_b)
            if b & ~self._b_interest & READABLE and not down.raw_source:
                self._reactor.soon(self._poke)
            self._b_interest = b

    def _want(self, fd: int, before: int, now: int, handler: Callable[[int], None]) -> None:
        if before == _DEAF:
            self._reactor.watch(fd, now, handler)
        else:
            self._reactor.rewatch(fd, now)

    @staticmethod
    def _unsent(way: _Way) -> bool:
        return not way.raw_sink and way.sink.unsent()

    def _poke(self) -> None:
        """Read what an endpoint may hold decrypted, which no descriptor announces."""
        if self.closed or self._held:
            return
        for way, on in ((self._up, self._on_a), (self._down, self._on_b)):
            if not self.closed and not way.raw_source and not way.ended and not way.debt and way.source.pending():
                on(READABLE)

    def _fail(self, fault: OSError) -> None:
        self.close(fault.strerror or type(fault).__name__)
