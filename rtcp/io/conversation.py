"""Streams and flows of a version 5 tunnel, as whoever moves bytes wants them: a pipe, and datagrams.

They share their tunnel's carriers, so a call of theirs does not touch a socket: it tells the machine, which puts all
that was said in one turn into one record.  What arrived stays in the record it came in until it is read.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from select import EPOLLERR, EPOLLIN
from typing import Protocol, TypeVar

import trio

from cyfs_ns.errors import Unreachable
from rtcp.io.bare import BareLeg
from rtcp.io.pipe import Reactor, TcpPipe
from rtcp.io.readiness import Readiness
from rtcp.v5.frames import MOST_DATAGRAM, Stop

_MOST_WAITING, _MOST_BYTES_WAITING = 512, 1 << 20
"""Datagrams that wait for their reader; what comes beyond is dropped, as UDP does."""
_SMALL = 8192
"""Smaller pieces of a stream do not wait by themselves."""
_MOST_NESTED = 8
"""Tunnels whose streams carry the next tunnel are told within each other so deep; what is deeper waits for the reactor,
since a peer may nest more than there is stack."""


_Given = TypeVar("_Given")
_Got = TypeVar("_Got")


class _Depth:
    """How many tunnels tell their news at this moment, each within the one before."""

    now = 0


class Talk(Protocol):
    """What a conversation does to its tunnel."""

    def send(self, conversation: int, data: bytes | memoryview) -> int: ...
    def consumed(self, conversation: int, size: int) -> None: ...
    def finish(self, conversation: int, bared: int = 0, /) -> None: ...
    def sealed(self, conversation: int) -> None: ...
    def cut(self, conversation: int) -> None: ...
    def complete(self, conversation: int) -> None: ...
    def carried(self) -> None: ...
    def stop(self, conversation: int) -> None: ...
    def reset(self, conversation: int, code: Stop) -> None: ...
    def send_datagram(self, conversation: int, data: bytes | memoryview) -> None: ...
    def forget(self, conversation: int) -> None: ...


class Herald(Protocol):
    """Of a reactor, what streams need to tell whoever watches them that something came."""

    def soon(self, callback: Callable[[], None], /) -> None: ...
    def prompt(self, fd: int, events: int, /) -> None: ...


class MuxedStream:
    """The stream ``conversation`` of ``talk``, a pipe.  Raises ``OSError`` when there are no more descriptors.

    Of what arrived the reactor is told without a descriptor, which is made readable only for what it leaves.
    """

    __slots__ = (
        "_arrived",
        "_bare",
        "_closed",
        "_ended",
        "_fault",
        "_finished",
        "_fresh",
        "_id",
        "_is_announced",
        "_is_over",
        "_is_telling",
        "_lent",
        "_nursery",
        "_reactor",
        "_ready",
        "_talk",
        "fileno",
    )

    def __init__(self, talk: Talk, conversation: int, reactor: Herald) -> None:
        self._talk, self._id, self._reactor = talk, conversation, reactor
        self._ready = Readiness()
        self.fileno = self._ready.fileno
        self._arrived: deque[memoryview] = deque()
        self._fresh = 0
        self._ended = self._finished = self._closed = self._is_announced = self._is_telling = False
        self._is_over = False
        """Its reader has seen the end, and waits for nothing more."""
        self._lent = 0
        self._fault: OSError | None = None
        self._bare: BareLeg | None = None
        self._nursery: trio.Nursery | None = None

    @property
    def waiting(self) -> int:
        """Bytes that arrived and are not read."""
        return sum(map(len, self._arrived))

    # What is wanted of it

    def recv_into(self, buffer: memoryview, /) -> int:
        arrived = self._arrived
        if not arrived:
            if self._ended:
                self._is_over = True
                return 0
            if self._fault is None and (bare := self._bare) is not None and bare.receives:
                return self._by(bare.recv_into, buffer)
            raise self._fault or BlockingIOError
        got, size = 0, len(buffer)
        while arrived and got < size:
            piece = arrived[0]
            n = len(piece)
            if n > size - got:
                n = size - got
                arrived[0] = piece[n:]
                piece = piece[:n]
            else:
                arrived.popleft()
            buffer[got : got + n] = piece
            got += n
        if not arrived and not self._ended:
            self._ready.set_readable(False)
            if self._bare is not None:
                self._bare.resume()
        self._talk.consumed(self._id, got)
        return got

    def lend(self, most: int, /) -> bytes | memoryview:
        """As ``recv_into``, at most ``most`` bytes, from where they lie; empty at the end."""
        arrived = self._arrived
        if not arrived:
            if self._ended:
                self._is_over = True
                return b""
            if self._fault is None and (bare := self._bare) is not None and bare.receives:
                return self._by(bare.lend, most)
            raise self._fault or BlockingIOError
        lent = arrived.popleft()
        if len(lent) > most:
            arrived.appendleft(lent[most:])
            lent = lent[:most]
        elif arrived and len(lent) + len(arrived[0]) <= most:
            pieces, got = [lent], len(lent)
            while arrived and got + len(arrived[0]) <= most:
                pieces.append(piece := arrived.popleft())
                got += len(piece)
            lent = memoryview(b"".join(pieces))
        if not arrived and not self._ended and self._ready.is_readable:
            self._ready.set_readable(False)
            if self._bare is not None:
                self._bare.resume()
        if self._is_telling:
            self._lent += len(lent)
        else:
            self._talk.consumed(self._id, len(lent))
        return lent

    def send(self, data: bytes | memoryview, /) -> int:
        if self._fault is not None:
            raise self._fault
        if self._finished:
            raise BrokenPipeError("this side has finished sending")
        if (bare := self._bare) is not None and bare.sends:
            return self._by(bare.send, data)
        n = self._talk.send(self._id, data)
        if n < len(data):
            self._ready.set_writable(False)
            if not n:
                raise BlockingIOError
        return n

    def pending(self) -> bool:
        return False

    def unsent(self) -> bool:
        return False

    def flush(self) -> None:
        """The tunnel does that."""

    def shutdown_write(self) -> None:
        if not self._finished and self._fault is None:
            self._finished = True
            self._finish()

    def _finish(self) -> None:
        self._talk.finish(self._id, 0 if self._bare is None else self._bare.sent)

    def carries_sealed(self) -> None:
        """Its users have sealed what it carries from here on for the far end, so its leg may be bare."""
        self._talk.sealed(self._id)

    def break_off(self) -> None:
        """Before ``close``: the peer shall not take what it got for all there was."""
        if self._fault is None:
            self._fault = ConnectionAbortedError("broken off")
            self._drop_unread()
            self._talk.reset(self._id, Stop.TARGET_RESET)
            if self._bare is not None:
                self._bare.break_off()

    def check(self) -> None:
        """Raises the ``OSError`` that ended it, unless all that the peer had to say was said before."""
        if self._fault is not None and not self._ended:
            raise self._fault

    def close(self) -> None:
        """What was sent is still delivered; what comes is not wanted any more."""
        if self._closed:
            return
        self._closed = True
        if self._fault is None:
            self.shutdown_write()
            if not self._ended or self._arrived:
                self._talk.stop(self._id)
            if self._bare is not None:
                assert self._nursery is not None
                self._bare.close(self._nursery, done=self._ended)
        self._arrived.clear()
        self._talk.forget(self._id)
        self._ready.close()

    # What its tunnel tells it

    def take(self, views: list[memoryview]) -> None:
        self._arrived.extend(views)
        self._fresh += len(views)
        if not self._is_announced:
            self._is_announced = True
            self._reactor.soon(self._announce)

    def peer_finished(self, bared: int = 0) -> None:
        if self._bare is None or not self._bare.receives:
            self._ended = True
            self._announce_soon()
            return
        try:
            self._bare.ends_at(bared)
        except OSError as fault:
            self._lose(fault)

    def peer_stopped(self) -> None:
        """Whatever we have to say is taken, and dropped."""
        if self._bare is not None and not self._finished:
            self._finish()
            self._bare.is_stopped = True
        self.has_room()

    # Its bare leg

    def has_bare_leg(self, pipe: TcpPipe, reactor: Reactor, nursery: trio.Nursery, clock: Callable[[], float]) -> None:
        """``pipe`` is its own, which ``leg_ready`` and ``peer_shifted`` begin to use."""
        if self._closed or self._fault is not None:
            pipe.close()
            return
        self._bare, self._nursery = BareLeg(pipe, self._ready, self, reactor, clock), nursery

    def leg_ready(self) -> None:
        if self._bare is not None:
            self._bare.sends = True
            self.has_room()

    def peer_shifted(self) -> None:
        if self._bare is not None and self._fault is None and not self._closed:
            self._bare.begin_receiving()

    def bare_complete(self) -> None:
        """All that the peer had to say over it was read."""
        self._ended = True
        self._talk.complete(self._id)
        self._announce_soon()

    def bare_cut(self) -> None:
        """It ended, and the peer has not said so on control yet."""
        self._talk.cut(self._id)

    def bare_moved(self) -> None:
        """Bytes go over it, of which the tunnel sees nothing."""
        self._talk.carried()

    def _by(self, what: Callable[[_Given], _Got], given: _Given) -> _Got:
        """Do it on the bare leg, of which a fault is the stream's."""
        try:
            return what(given)
        except BlockingIOError:
            raise
        except OSError as fault:
            self._lose(fault)
            raise

    def _lose(self, fault: OSError) -> None:
        assert self._bare is not None
        self._fault = fault
        self._drop_unread()
        self._talk.reset(self._id, Stop.LOST)
        self._bare.break_off()
        self._ready.set_readable(True)
        self._ready.set_writable(True)
        self._announce_soon()

    def _announce_soon(self) -> None:
        if not self._is_announced:
            self._is_announced = True
            self._reactor.soon(self._announce)

    def _announce(self) -> None:
        self._is_announced = False
        if not self._closed:
            self._is_telling = True
            events = EPOLLIN if self._fault is None else EPOLLIN | EPOLLERR
            ends = self._ended and bool(self._arrived)
            self._reactor.prompt(self.fileno(), events)
            if ends and not self._arrived and not self._closed:
                self._reactor.prompt(self.fileno(), events)  # the end came with what was just read
            self._is_telling = False
            if self._lent:  # told when it is on its way, which it should not wait for
                lent, self._lent = self._lent, 0
                self._talk.consumed(self._id, lent)
        if not self._closed:
            if self._arrived:
                self._pack()
            else:
                self._fresh = 0
            readable = bool(self._arrived) or (self._ended and not self._is_over) or self._fault is not None
            readable = readable or (self._bare is not None and self._bare.is_paused)
            if readable is not self._ready.is_readable:
                self._ready.set_readable(readable)

    def _pack(self) -> None:
        """What its reader left may wait for long: a peer's many small pieces, or small parts of large records, would
        take far more room than they count for."""
        arrived, count, self._fresh = self._arrived, self._fresh, 0
        fresh = [arrived.pop() for _ in range(min(count, len(arrived)))]
        if any(len(piece) < max(_SMALL, memoryview(piece.obj).nbytes // 8) for piece in fresh):
            if arrived and len(arrived[-1]) < _SMALL:
                fresh.append(arrived.pop())
            fresh = [memoryview(b"".join(reversed(fresh)))]
        arrived.extend(reversed(fresh))

    def has_room(self) -> None:
        self._ready.set_writable(True)

    def broke(self, why: str, *, keep: bool = False) -> None:
        """What is not read is lost (§8.2); unless it is complete, and ``keep``: its tunnel alone has ended.

        Who waits for neither side of it is told all the same, as of a connection that hangs up.
        """
        if self._closed:  # before the peer said no to it
            return
        if not (keep and self._ended):
            self._drop_unread()
        if self._fault is None:
            self._fault = ConnectionResetError(why)
            if self._bare is not None:
                self._bare.break_off()
        self._ready.set_readable(True)
        self._ready.set_writable(True)
        self._announce_soon()

    def _drop_unread(self) -> None:
        """What is gone must not look complete."""
        self._arrived.clear()
        self._ended = False


class MuxedDatagrams:
    """The flow ``conversation`` of ``talk``, to one target.  Raises ``OSError`` when there are no more descriptors."""

    __slots__ = ("_arrived", "_closed", "_fault", "_fd", "_id", "_talk", "_waiting")

    def __init__(self, talk: Talk, conversation: int) -> None:
        self._talk, self._id = talk, conversation
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._arrived: deque[bytes] = deque()
        self._waiting = 0
        self._fault: OSError | None = None
        self._closed = False

    def fileno(self) -> int:
        """Readable when ``recv`` has something to do."""
        return self._fd

    def recv(self) -> bytes:
        """The next datagram.  Raises ``BlockingIOError``, or another ``OSError`` when the way is gone."""
        if not self._arrived:
            raise self._fault or BlockingIOError
        datagram = self._arrived.popleft()
        self._waiting -= len(datagram)
        if not self._arrived and self._fault is None:
            os.eventfd_read(self._fd)
        return datagram

    def send(self, data: bytes | memoryview) -> None:
        """Send one datagram, or drop it.  Raises ``OSError`` when the way is gone."""
        if self._fault is not None:
            raise self._fault
        if len(data) <= MOST_DATAGRAM:
            self._talk.send_datagram(self._id, data)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._fault is None:
            self._talk.reset(self._id, Stop.CANCELLED)
        self._talk.forget(self._id)
        self._arrived.clear()
        os.close(self._fd)

    # What its tunnel tells it

    def take(self, payload: memoryview) -> None:
        if len(self._arrived) < _MOST_WAITING and self._waiting < _MOST_BYTES_WAITING:
            self._arrived.append(bytes(payload))
            self._waiting += len(payload)
            if len(self._arrived) == 1:
                os.eventfd_write(self._fd, 1)

    def broke(self, why: str) -> None:
        """What is not read is lost (§8.5)."""
        if self._fault is None:
            self._fault = ConnectionResetError(why)
            if not self._arrived:
                os.eventfd_write(self._fd, 1)
            self._arrived.clear()
            self._waiting = 0


class Conversations:
    """Those that stand on the tunnel of ``talk``, by their numbers, and their herald: what is to be done ``soon`` is
    done with the next ``tell``, while that is ``near``, and it costs no round of the reactor.
    """

    __slots__ = ("_news", "_reactor", "_talk", "flows", "near", "prompt", "streams")

    def __init__(self, talk: Talk, reactor: Reactor) -> None:
        self.streams: dict[int, MuxedStream] = {}
        self.flows: dict[int, MuxedDatagrams] = {}
        self._talk, self._reactor = talk, reactor
        self.prompt = reactor.prompt
        self._news: list[Callable[[], None]] = []
        self.near = False

    def stream(self, number: int) -> MuxedStream:
        """One more.  Raises ``Unreachable`` when there are no more descriptors."""
        try:
            made = self.streams[number] = MuxedStream(self._talk, number, self)
        except OSError as fault:
            raise Unreachable(f"no stream can be opened: {fault}", "other") from fault
        return made

    def flow(self, number: int) -> MuxedDatagrams:
        """As ``stream``."""
        try:
            made = self.flows[number] = MuxedDatagrams(self._talk, number)
        except OSError as fault:
            raise Unreachable(f"no stream can be opened: {fault}", "other") from fault
        return made

    def soon(self, callback: Callable[[], None], /) -> None:
        if self.near:
            self._news.append(callback)
        else:
            self._reactor.soon(callback)

    def tell(self) -> None:
        """Do what was put off; from the reactor alone."""
        self.near = False
        if not self._news:
            return
        news, self._news = self._news, []
        if _Depth.now >= _MOST_NESTED:
            for callback in news:
                self._reactor.soon(callback)
            return
        _Depth.now += 1
        try:
            for callback in news:
                callback()
        finally:
            _Depth.now -= 1

    def forget(self, number: int) -> None:
        """It is closed."""
        self.streams.pop(number, None)
        self.flows.pop(number, None)
