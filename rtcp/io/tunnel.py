"""One tunnel in the world: a ``Link`` over a pipe, and the streams that are being opened on it.

A tunnel has one task, which reads and keeps deadlines.  Whoever else wants something of the link calls it directly and
then ``_act``: what the link has to say is sent at once if the pipe takes it, and by a task of its own only when it does
not; what the link has to tell is handed on.  So a tunnel that is idle costs one sleeping task.

Streams live longer than their tunnel: each has a connection and keys of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import trio

from cyfs_ns.errors import CyfsError, Refused, Unreachable
from rtcp.events import (
    End,
    LinkClosed,
    LinkEvent,
    PingAnswered,
    StreamAnswered,
    StreamMissed,
    StreamRequested,
    TunnelOpened,
)
from rtcp.io.answers import TooSoon, TunnelOver, fault_of
from rtcp.io.leg import Datagrams, LegPipe
from rtcp.io.pipe import DatagramPipe, Pipe, log
from rtcp.legs import LegBook
from rtcp.limits import Limits
from rtcp.link import Link
from rtcp.packet import Purpose, Result
from rtcp.party import Address, Peer
from rtcp.records import Spent
from rtcp.registry import FRESH, PROBE, TunnelKey, Verdict, arbitrate, patience
from rtcp.targets import check_target

_READ_SIZE = 16384
_MOST_HOST = 16384
"""Bytes of a target that fit in a packet however they are written there."""
_PAUSES = (0.0, 0.1, 0.3, 1.0, 2.0)
"""Seconds to wait before a request is made, and before it is repeated if it came too soon after others."""

_scratch = memoryview(bytearray(_READ_SIZE))

Connect = Callable[[], Awaitable[Pipe]]
"""Opens one more connection to the peer.  Raises ``Unreachable`` or ``Refused``."""


class StreamRequest(Protocol):
    """The peer asks for a stream to ``host`` (None: this machine; or a URL) and ``port``.  Nothing happens until it is
    accepted."""

    @property
    def peer(self) -> Peer:
        """Who asks."""

    @property
    def purpose(self) -> Purpose: ...
    @property
    def host(self) -> str | None: ...
    @property
    def port(self) -> int: ...
    @property
    def source(self) -> Address | None:
        """Where the peer says that it came from, an IP text and a port; nothing proves it.  None: it does not say."""

    async def accept(self) -> Pipe:
        """Say yes; the stream, once it is connected.  Raises ``Unreachable`` when that does not happen."""

    async def accept_datagrams(self) -> DatagramPipe:
        """As ``accept``, where the purpose is datagrams."""


class _Requested:
    """A :class:`StreamRequest` of version 4."""

    def __init__(self, tunnel: Tunnel, asked: StreamRequested, patience: trio.CancelScope) -> None:
        self._tunnel, self._asked, self._patience = tunnel, asked, patience
        self.answered = False

    @property
    def peer(self) -> Peer:
        return self._tunnel.peer

    @property
    def purpose(self) -> Purpose:
        return self._asked.purpose

    @property
    def host(self) -> str | None:
        return self._asked.host

    @property
    def port(self) -> int:
        return self._asked.port

    @property
    def source(self) -> None:
        """Version 4 has no word for it."""

    async def accept(self) -> LegPipe:
        return await self._tunnel._accept(self._asked.stream_id, self._say)

    async def accept_datagrams(self) -> Datagrams:
        return Datagrams(await self.accept())

    def _say(self, result: Result) -> bool:
        self.answered = True
        self._patience.deadline = float("inf")
        return self._tunnel._answer(self._asked.stream_id, result)


Serve = Callable[[StreamRequest], Awaitable[None]]
"""Judges a request and serves it.  Returning without ``accept``, or raising ``Refused``, refuses it; ``Unreachable``
tells the peer that its target cannot be reached.  It is cancelled when the peer waits no longer for an answer; after
``accept`` the stream is the handler's, and so is its time."""


async def refuse(request: StreamRequest) -> None:
    """Serves nothing."""
    raise Refused("no streams are served here")


@dataclass(slots=True, kw_only=True)
class Shared:
    """What all tunnels of a device have in common."""

    nursery: trio.Nursery
    legs: LegBook[Tunnel]
    limits: Limits
    serve: Serve


@dataclass(slots=True)
class _Awaited:
    """A stream that is being opened: set when it is answered, connected or lost."""

    news: trio.Event
    leg: LegPipe | None = None
    fault: CyfsError | None = None

    def fail(self, fault: CyfsError) -> None:
        self.fault = self.fault or fault
        self.news.set()


class Tunnel:
    """``link`` over ``pipe``, which is taken over.  ``connect`` is given if we dialled the tunnel."""

    version = 4

    def __init__(self, link: Link, pipe: Pipe, shared: Shared, connect: Connect | None = None) -> None:
        self.peer: Peer
        self.key: TunnelKey
        """Both are set once the peer is known, before the tunnel stands."""
        self.over = trio.Event()
        self.end: LinkClosed | None = None
        """How it ended; None while it stands."""
        self._link, self._pipe, self._shared, self._connect = link, pipe, shared, connect
        self._owed = memoryview(b"")
        self._draining = False
        self._alarm: trio.CancelScope | None = None
        self._heard: trio.Event | None = None
        self._doubted = False
        self._slowest = 0.0
        """The longest that the handshake waited for the peer: the way there and back, at least."""
        self._awaited: dict[bytes, _Awaited] = {}
        self._pingers: list[tuple[trio.Event, list[float]]] = []
        self._room = trio.Semaphore(shared.limits.pending)

    # What is wanted of it

    async def open_datagrams(self, host: str | None, port: int, *, source: Address | None = None) -> Datagrams:
        """Like ``open_stream``, for datagrams."""
        return Datagrams(await self._open(Purpose.DATAGRAM, host, port))

    async def open_stream(self, host: str | None, port: int, *, source: Address | None = None) -> LegPipe:
        """Ask the peer to reach ``host`` (None: its own machine) at ``port``.  ``source`` is not told: there is no word
        for it.

        Raises ``Refused`` when the peer's rules say no, ``Spent`` when a new tunnel is needed, ``TunnelOver``, or
        ``Unreachable``.
        """
        return await self._open(Purpose.STREAM, host, port)

    async def _open(self, purpose: Purpose, host: str | None, port: int) -> LegPipe:
        if host is not None:
            check_target(host, _MOST_HOST)
        async with self._room:
            for pause in _PAUSES:
                if pause:
                    await trio.sleep(pause)
                leg = await self._ask(purpose, host, port)
                if leg is not None:
                    return leg
        raise Unreachable("too many streams are being opened through this tunnel", "tunnel_open")

    async def ping(self) -> float:
        """Seconds to the peer and back.  Raises ``TunnelOver``."""
        if self._link.is_closed:
            raise self._gone()
        answer: tuple[trio.Event, list[float]] = (trio.Event(), [])
        self._pingers.append(answer)
        try:
            self._link.ping(trio.current_time())
            self._act()
            await answer[0].wait()
        finally:
            with suppress(ValueError):
                self._pingers.remove(answer)
        if not answer[1]:
            raise self._gone()
        return answer[1][0]

    async def is_alive(self) -> bool:
        """Whether the peer, who seems to come anew, gives a sign of life here, or gave one a moment ago."""
        return await self._answers(patience(self._slowest))

    async def _answers(self, within: float) -> bool:
        """Whether the peer gives a sign of life in so many seconds, or gave one a moment ago."""
        probed: float | None = None
        while True:
            now = trio.current_time()
            match arbitrate(None if self._link.is_closed else self._link.last_heard, now, probed, within):
                case Verdict.REFUSE:
                    return True
                case Verdict.ACCEPT | Verdict.REPLACE:
                    return False
                case Verdict.PROBE if probed is None:
                    probed = now
                    self._link.ping(now)
                    self._act()
            if self._heard is None:
                self._heard = trio.Event()
            with trio.move_on_at(probed + within):
                await self._heard.wait()

    @property
    def last_heard(self) -> float:
        """When the peer gave its last sign of life, in trio's time."""
        return self._link.last_heard

    def close(self) -> None:
        """End it; its streams go on."""
        self._link.close()
        self._act()

    def lose(self) -> None:
        """The peer is gone."""
        self._link.receive_eof()
        self._act()

    # The handshake, which the device conducts

    async def next_event(self) -> LinkEvent:
        """What happens next; after ``LinkClosed`` nothing does."""
        while (event := self._link.next_event()) is None:
            since = trio.current_time()
            await self._turn()
            self._slowest = max(self._slowest, trio.current_time() - since)
        return event

    async def shake(self) -> None:
        """The dialler's side.  Raises ``Refused`` when the peer does not want us, else ``Unreachable``."""
        match await self.next_event():
            case TunnelOpened():
                return
            case LinkClosed(End.REFUSED, why):
                raise Refused(why)
            case LinkClosed(_, why):
                raise Unreachable(why, "tunnel_open")

    # Its life

    async def run(self) -> None:
        """Until it is over."""
        try:
            while not self._link.is_closed:
                self._act()
                await self._turn()
            self._act()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Leave nothing behind.  May be called twice."""
        if self.over.is_set():
            return
        self._draining = True  # there may be no nursery any more to wait in
        self._link.close()
        self._act()
        with suppress(OSError):
            self._push()
        trio.lowlevel.notify_closing(self._pipe.fileno())
        self._pipe.close()
        self._shared.legs.forget_all(self)
        self.over.set()

    async def _turn(self) -> None:
        """Wait for bytes or a deadline, and tell the link."""
        self._flush()
        with trio.CancelScope() as self._alarm:
            self._rearm()
            if self._pipe.pending():
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._pipe.fileno())
        self._alarm = None
        now = trio.current_time()
        self._read(now)  # first: what waits to be read may be the sign of life that the deadline asks for
        self._link.handle_timeout(now)

    def _read(self, now: float) -> None:
        try:
            n = self._pipe.recv_into(_scratch)
        except BlockingIOError:
            return
        except OSError:
            n = 0
        if not n:
            self._link.receive_eof()
            return
        self._link.receive_data(bytes(_scratch[:n]), now)
        if self._heard is not None:
            self._heard.set()
            self._heard = None

    def _wake(self) -> None:
        """Let whoever waits in ``_turn`` look at the link."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _rearm(self) -> None:
        if self._alarm is not None:
            deadline = self._link.next_deadline()
            self._alarm.deadline = -float("inf") if deadline is None else deadline

    def _act(self) -> None:
        """The link was told something: do what follows from it."""
        while (event := self._link.next_event()) is not None:
            self._take(event)
        self._flush()
        while (event := self._link.next_event()) is not None:  # the peer may be found gone in writing to it
            self._take(event)
        self._rearm()

    def _take(self, event: LinkEvent) -> None:
        match event:
            case StreamRequested() if not self._link.is_closed:
                self._shared.nursery.start_soon(self._serve, event)
            case StreamAnswered(stream_id, result):
                if (awaited := self._awaited.get(stream_id)) is None:
                    return
                if result != Result.OK:
                    awaited.fail(_fault(result))
                elif self._connect is not None:
                    awaited.news.set()
            case StreamMissed(stream_id):
                if (awaited := self._awaited.get(stream_id)) is not None:
                    awaited.fail(Unreachable("the connection of the stream never came", "connect_timeout"))
            case PingAnswered(rtt):
                for answered, answer in self._pingers:
                    answer.append(rtt)
                    answered.set()
                self._pingers.clear()
            case LinkClosed():
                self.end = event
                for awaited in self._awaited.values():
                    awaited.fail(self._gone())
                for answered, _ in self._pingers:
                    answered.set()
                if self._heard is not None:
                    self._heard.set()

    # Streams

    async def _ask(self, purpose: Purpose, host: str | None, port: int) -> LegPipe | None:
        """One request; None: it came too soon after others."""
        stream_id = secrets.token_bytes(16)
        with self._expecting(stream_id) as awaited:
            if self._connect is None:
                self._shared.legs.expect(stream_id, self)
            try:
                self._link.open_stream(stream_id, purpose, host, port, trio.current_time())
            except Refused:
                return None  # requests whose askers gave up are still under way
            except Unreachable as fault:
                raise self._gone() from fault
            self._act()
            self._doubt()
            try:
                leg = await self._news(awaited)
            except TooSoon:
                return None
        return leg or await self._join(stream_id, await self._connected(self._connect))

    async def _accept(self, stream_id: bytes, say: Callable[[Result], bool]) -> LegPipe:
        """Serve the request ``stream_id`` of the peer."""
        if self._connect is not None:
            pipe = await self._connected(self._connect)
            if say(Result.OK):
                return await self._join(stream_id, pipe)
            pipe.close()
            raise Unreachable("the peer waits for this stream no longer", "tunnel_open")
        with self._expecting(stream_id) as awaited:
            if not self._shared.legs.expect(stream_id, self):
                say(Result.DUPLICATE_ID)
                raise Unreachable("another tunnel awaits a stream with this id", "tunnel_open")
            if not say(Result.OK):
                raise Unreachable("the peer waits for this stream no longer", "tunnel_open")
            leg = await self._news(awaited)
            assert leg is not None
            return leg

    @contextmanager
    def _expecting(self, stream_id: bytes) -> Iterator[_Awaited]:
        awaited = self._awaited[stream_id] = _Awaited(trio.Event())
        try:
            yield awaited
        except BaseException:
            if awaited.leg is not None:
                awaited.leg.close()
            raise
        finally:
            del self._awaited[stream_id]
            self._shared.legs.forget(stream_id, self)

    async def _news(self, awaited: _Awaited) -> LegPipe | None:
        """The connection that came; None: it is for us to make.  Raises as ``open_stream``."""
        with trio.move_on_after(FRESH):
            await awaited.news.wait()
        if not awaited.news.is_set():
            self._doubt()  # a peer that spoke a moment ago may be gone now
            await awaited.news.wait()
        if awaited.leg is None and awaited.fault is not None:
            raise awaited.fault
        return awaited.leg

    async def _connected(self, connect: Connect | None) -> Pipe:
        assert connect is not None
        with trio.move_on_after(self._shared.limits.connect):
            try:
                return await connect()
            except Refused as no:  # ours, and no verdict on the stream
                raise Unreachable(f"the peer may not be connected to: {no}", "tunnel_open") from no
        raise Unreachable("connecting to the peer once more took too long", "connect_timeout")

    async def _join(self, stream_id: bytes, pipe: Pipe) -> LegPipe:
        """The stream over the connection that we made for it."""
        leg = self._link.take_leg(stream_id, trio.current_time())
        if leg is None:
            pipe.close()
            raise self._gone() if self._link.is_closed else Unreachable("connected too late", "connect_timeout")
        joined = LegPipe(leg, pipe, trio.current_time)
        try:
            with trio.move_on_after(self._shared.limits.connect):
                while joined.unsent():  # until the peer has seen the id it cannot speak first
                    await trio.lowlevel.wait_writable(pipe.fileno())
                    with suppress(BlockingIOError):
                        joined.flush()
                return joined
        except OSError as fault:
            joined.close()
            raise Unreachable(f"the connection of the stream broke: {fault}", "tunnel_open") from fault
        except BaseException:
            joined.close()
            raise
        joined.close()
        raise Unreachable("the connection of the stream takes nothing", "connect_timeout")

    def arrived(self, stream_id: bytes, pipe: Pipe) -> bool:
        """The connection of a stream came; False: nobody wants it (any more), and it stays the caller's."""
        leg = self._link.take_leg(stream_id, trio.current_time())
        awaited = self._awaited.get(stream_id)
        if leg is None or awaited is None:
            return False
        awaited.leg = LegPipe(leg, pipe, trio.current_time)
        awaited.news.set()
        return True

    async def _serve(self, asked: StreamRequested) -> None:
        patience = trio.CancelScope(deadline=trio.current_time() + self._shared.limits.answer)
        request = _Requested(self, asked, patience)
        result = Result.NOT_AUTHORIZED
        try:
            if asked.host is not None and not asked.host.isprintable():
                raise Refused("its target is no text")
            with patience:
                await self._shared.serve(request)
            if patience.cancelled_caught:
                result = Result.TIMEOUT
        except Refused as no:
            log.debug("a stream for %s is refused: %s", self.peer.did, no)
        except Unreachable as fault:
            log.debug("a stream for %s cannot be served: %s", self.peer.did, fault)
            result = Result.TIMEOUT if fault.reason == "connect_timeout" else Result.RECONNECT_FAILED
        except Exception:
            log.exception("serving a stream failed")
            result = Result.RECONNECT_FAILED
        if not request.answered:
            self._answer(asked.stream_id, result)

    def _answer(self, stream_id: bytes, result: Result) -> bool:
        answered = self._link.answer_stream(stream_id, result, trio.current_time())
        self._act()
        return answered

    def _doubt(self) -> None:
        """A peer that was silent for long may be gone: whoever asks for something shall not wait a minute for that."""
        if not self._doubted and arbitrate(self._link.last_heard, trio.current_time()) is Verdict.PROBE:
            self._doubted = True
            self._shared.nursery.start_soon(self._settle_doubt)

    async def _settle_doubt(self) -> None:
        if not await self._answers(PROBE):
            self.lose()
        self._doubted = False

    def _gone(self) -> TunnelOver:
        return TunnelOver(f"the tunnel is over: {self.end.why if self.end else 'closed'}", "tunnel_open")

    # Writing

    def _flush(self) -> None:
        """Send what the link has to say, now or by a task that waits for room."""
        if self._draining:
            return
        try:
            self._push()
        except BlockingIOError:
            self._draining = True
            self._shared.nursery.start_soon(self._drain)
        except OSError:
            self._link.receive_eof()

    def _push(self) -> None:
        # As long as something is owed the link keeps the rest, and ends itself when that becomes too much.
        while True:
            if self._owed:
                self._owed = self._owed[self._pipe.send(self._owed) :]
            elif self._pipe.unsent():
                self._pipe.flush()
            elif data := self._link.data_to_send():
                self._owed = memoryview(data)
            else:
                return

    async def _drain(self) -> None:
        with suppress(trio.ClosedResourceError):
            while self._draining and not self.over.is_set():
                await trio.lowlevel.wait_writable(self._pipe.fileno())
                try:
                    self._push()
                except BlockingIOError:
                    continue
                except OSError:
                    self._link.receive_eof()
                self._draining = False
                self._wake()


def _fault(result: int) -> CyfsError:
    """What an answer other than OK means to whoever asked."""
    if result == Result.IDS_SPENT:
        return Spent("the peer takes no more streams under these keys")
    return fault_of(result)
