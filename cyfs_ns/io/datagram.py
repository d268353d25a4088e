"""One question over UDP: a port of its own, so that a forger must guess a port and an id, and the spelling too.

The kernel picks a random port when a socket is connected, and lets only the server's address pass.  Datagrams with
another id or another question are passed over; many of them mean that somebody is guessing, and then the question is
asked over TCP, where guessing is of no use.

Sockets serve again, ports do not: once a question is over its socket is disconnected, which gives the port back;
connecting anew picks another port.  That costs a third of a new socket, and one nested epoll can keep watching it.  A
socket serves again once the next look at that epoll has shown that nothing lies in it, else not at all.  So one task
hears for all questions of a run, whether those who wait are tasks or light work (:mod:`cyfs_ns.io.light`), and sees to
their deadlines, too.
"""

from __future__ import annotations

import ctypes
import errno
import heapq
import resource
import select
import socket
from collections.abc import Awaitable, Callable, Collection
from itertools import count
from math import inf
from typing import Protocol, TypeAlias

import trio

from cyfs_ns.errors import BadWire, CyfsError, Unreachable
from cyfs_ns.io.dial import prepare
from cyfs_ns.io.light import Word

_ROOM = 4096  # more than the 1232 we offer to take, for servers that do not care
_MAX_STRAYS = 64
_MOST_SPARE = 64
_OTHER: dict[int, int] = {socket.AF_INET: socket.AF_INET6, socket.AF_INET6: socket.AF_INET}
_SPARE_PART = 16  # of the descriptors that the process may have: the others have the better use for theirs
_RESTED = 8  # sockets for which one look is worth the while
_SWEPT = 2  # questions that are over, to forget with each new one: more than come, so that they never pile up for long
_AT_ONCE = 64  # each takes all the way to its client, so more would hold up everybody else for too long
_NOWHERE = bytes(16)  # a sockaddr of family AF_UNSPEC

# Never waits, so it keeps the interpreter's lock.
_connect = ctypes.PyDLL(None).connect
_connect.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]


class Forged(BadWire):
    """So many datagrams were not the reply that somebody seems to be guessing."""


class Datagrams(Protocol):
    """An open way for datagrams to one server."""

    async def send(self, data: bytes) -> None: ...
    async def receive(self) -> bytes: ...
    def close(self) -> None: ...


OpenDatagrams: TypeAlias = Callable[[str, int, str], Awaitable[Datagrams]]
"""``open_datagrams(host, port, via)`` through an outbound.  Raises ``Unreachable`` where it carries none."""


class Datagram:
    """``query``, with the name spelt ``spelling``, has been sent when this is made.  Raises ``Unreachable``.  To be
    closed."""

    __slots__ = (
        "_come", "_family", "_fault", "_plain", "_query", "_question", "_sock", "_sockets", "_until",
        "edns", "ident", "sent_at", "spelling", "strays", "word",
    )  # fmt: skip

    def __init__(
        self,
        address: str,
        port: int,
        query: bytes,
        spelling: bytes,
        *,
        mark: int = 0,
        interface: str = "",
        source: tuple[str, int] = ("", 0),
        edns: bool = True,
        now: float | None = None,
        sockets: Sockets | None = None,
    ) -> None:
        """``now``, by trio's clock, and ``sockets``, of this run, save a look at them."""
        self._query, self.spelling, self.edns, self.strays = query, spelling, edns, 0
        self._question = query[12 : 16 + len(spelling)]
        self.sent_at = trio.current_time() if now is None else now
        self.ident = query[0] << 8 | query[1]
        self._come: bytes | None = None
        self._fault: CyfsError | None = None
        self.word: Word[bytes | None] | None = None
        """Of whoever is in :meth:`receive`."""
        self._until = inf
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._plain = not (mark or interface or source[0])
        self._sockets = sockets or sockets_here()
        try:
            self._sock = sock = self._sockets.take(self._family, self, plain=self._plain)
        except OSError as fault:
            raise _unreachable(fault) from fault
        try:
            if mark or interface:
                prepare(sock, mark, interface)
            if source[0]:
                sock.bind(source)
            sock.connect((address, port))
            sock.send(query)
        except BlockingIOError:
            return  # lost on the way out, as datagrams may be
        except OSError as fault:
            self.close()
            raise _unreachable(fault) from fault

    def send_again(self) -> None:
        try:
            self._sock.send(self._query)
        except BlockingIOError:
            return
        except OSError as fault:
            raise _unreachable(fault) from fault

    async def receive(self, until: float) -> bytes | None:
        """The next datagram that may be the reply, or ``None`` when ``until`` (trio's clock) has come.

        It bears our id and our question, perhaps in another case, or no question at all.  Raises ``Unreachable``, or
        ``Forged``.
        """
        come = self._come
        if come is not None:
            self._come = None
            return come
        fault = self._fault
        if fault is not None:
            self._fault = None
            raise fault
        try:
            return await self.expect(until)
        finally:
            self.word = None

    def expect(self, until: float) -> Word[bytes | None]:
        """What :meth:`receive` waits for, for who has just asked: nothing can have come yet."""
        word = self.word = Word()
        self._until = until
        self._sockets.remind(self, until)
        return word

    def hold(self, came: bytes | CyfsError) -> None:
        """Let the next :meth:`receive` give the reply, or raise the fault, that came once more."""
        if isinstance(came, bytes):
            self._come = came
        else:
            self._fault = came

    def close(self) -> None:
        """Give the port back; what comes for it now is nobody's."""
        self.word = None
        self._sockets.give_back(self._family, self._sock, self, plain=self._plain)

    def look(self) -> bool:
        """Take what has come, if anything has.  Never raises."""
        try:
            data = self._sock.recv(_ROOM)
        except BlockingIOError:
            return False
        except OSError as fault:
            self._fail(_unreachable(fault))
            return True
        question = self._question
        if data[:2] != self._query[:2] or not (data.startswith(question, 12) or concerns(data, question)):
            self.strays += 1
            if self.strays > _MAX_STRAYS:
                self._fail(Forged(f"{self.strays} datagrams that were not the reply"))
            return True
        word, self.word = self.word, None
        if word is not None:
            word.say(data)
        else:
            self._come = self._come or data
        return True

    def expire(self, now: float) -> None:
        """Let whoever waits go on if it is time."""
        word = self.word
        if word is not None and self._until <= now:
            self.word = None
            word.say(None)

    def _fail(self, fault: CyfsError) -> None:
        word, self.word = self.word, None
        if word is not None:
            word.fail(fault)
        else:
            self._fault = fault


class Sockets:
    """The sockets of a run's questions, and the task that hears for them."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._asking: dict[int, Datagram] = {}
        self._spare: dict[int, list[socket.socket]] = {socket.AF_INET: [], socket.AF_INET6: []}
        """Without a port, and empty."""
        self._resting: list[tuple[int, socket.socket]] = []
        """With their families: without a port since the last look, and perhaps not empty."""
        self._most_spare = min(_MOST_SPARE, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SPARE_PART)
        self._deadlines: list[tuple[float, int, Datagram]] = []
        self._count = count()
        self._due = inf
        """When the task that hears wakes by itself."""
        self._scope = trio.CancelScope()
        self.closed = False
        """Whether their run is over."""
        trio.lowlevel.spawn_system_task(self._live, name="questions to name servers")

    def take(self, family: int, asking: Datagram, *, plain: bool) -> socket.socket:
        """A socket without a port, to hear for ``asking``; ``plain``: without settings of its own.  Raises
        ``OSError``."""
        if self.closed:
            raise OSError(errno.ESHUTDOWN, "the run is over")
        spare = self._spare[family]
        if plain and not spare and len(self._resting) >= _RESTED:
            self._sift(dict(self._epoll.poll(0)))
        if plain and spare:
            sock = spare.pop()
        else:
            try:
                sock = self._made(family)
            except OSError:
                self._sift(dict(self._epoll.poll(0)))
                if not (plain and spare):
                    raise
                sock = spare.pop()
        self._asking[sock.fileno()] = asking
        return sock

    def _made(self, family: int) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        except OSError:
            sock.close()
            raise
        return sock

    def give_back(self, family: int, sock: socket.socket, asking: Datagram, *, plain: bool) -> None:
        """``asking`` is over: give its port back.  Once more does no harm."""
        number = sock.fileno()
        if self._asking.get(number) is not asking:
            return
        del self._asking[number]
        spare, others = self._spare[family], self._spare[_OTHER[family]]
        full = len(spare) + len(others) + len(self._resting) >= self._most_spare
        if plain and full and others:  # those of the family that is asked no more make room
            others.pop().close()
            full = False
        if not plain or full or self.closed or _connect(number, _NOWHERE, len(_NOWHERE)):
            sock.close()
        else:
            self._resting.append((family, sock))

    def remind(self, asking: Datagram, until: float) -> None:
        """Have ``asking`` expire then, by trio's clock, if it is still waiting."""
        if until < inf:
            # Here and there, not all at their time, when some question would have to wait for that.
            deadlines = self._deadlines
            for _ in range(_SWEPT):
                if deadlines and deadlines[0][2].word is None:
                    heapq.heappop(deadlines)
            heapq.heappush(deadlines, (until, next(self._count), asking))
            if until < self._due:
                self._due = self._scope.deadline = until

    async def _live(self) -> None:
        try:
            while True:
                self._due = self._deadlines[0][0] if self._deadlines else inf
                with trio.CancelScope(deadline=self._due) as self._scope:
                    number = self._epoll.fileno()
                    while True:
                        await trio.lowlevel.wait_readable(number)
                        self._turn()
                self._expire(trio.current_time())
        finally:
            self.closed = True
            self._epoll.close()
            resting = (sock for _, sock in self._resting)
            for sock in (*self._spare[socket.AF_INET], *self._spare[socket.AF_INET6], *resting):
                sock.close()

    def _expire(self, now: float) -> None:
        deadlines = self._deadlines
        # Those whose answer has come go as well, or each would wake the task at its time.
        while deadlines and (deadlines[0][0] <= now or deadlines[0][2].word is None):
            heapq.heappop(deadlines)[2].expire(now)

    def _turn(self) -> None:
        """Hear what has come.  Bounded, so that the rest of the house gets its turn, too."""
        if len(self._asking) == 1:
            (alone,) = self._asking.values()
            if alone.look():
                return
        come = self._epoll.poll(0, _AT_ONCE)
        if self._resting and len(come) < _AT_ONCE:
            self._sift(dict(come))
        for number, _ in come:
            asking = self._asking.get(number)
            if asking is not None:
                asking.look()
            else:
                self._discard(number)

    def _discard(self, number: int) -> None:
        """Something came where nobody asks: it must neither wake us for ever nor be taken for a reply."""
        for spare in self._spare.values():
            for sock in spare:
                if sock.fileno() == number:
                    spare.remove(sock)
                    sock.close()
                    return

    def _sift(self, come: Collection[int]) -> None:
        """Those that rest and are not among the descriptors with something in them may serve again."""
        for family, sock in self._resting:
            if sock.fileno() in come:
                sock.close()
            else:
                self._spare[family].append(sock)
        self._resting.clear()


_of_this_run: trio.lowlevel.RunVar[Sockets] = trio.lowlevel.RunVar("sockets of questions to name servers")


def sockets_here() -> Sockets:
    """Those of this run; good for as long as they are not closed."""
    try:
        return _of_this_run.get()
    except LookupError:
        sockets = Sockets()
        _of_this_run.set(sockets)
        return sockets


def concerns(data: bytes, question: bytes) -> bool:
    """Whether a message carries ``question`` in whatever case, or is not one that carries exactly one question."""
    if data.startswith(question, 12) or data[4:6] != b"\0\1" or len(data) < 12:
        return True
    return data[12 : 8 + len(question)].lower() == question[:-4].lower() and data.startswith(
        question[-4:], 8 + len(question)
    )


def _unreachable(fault: OSError) -> Unreachable:
    refused = isinstance(fault, ConnectionRefusedError)
    return Unreachable(fault.strerror or str(fault), "connect_refused" if refused else "other")
