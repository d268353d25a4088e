"""One tunnel of version 5 in the world: its machine, the carriers under it, and the conversations on it.

No task belongs to a tunnel.  The reactor hears its lines, programs talk to its machine directly, and either way one
*turn* follows: what the machine tells is handed on, and what it has to say goes out, all of one turn in as few records
as can be.  Turns that programs cause are put off to the end of the reactor's batch.  A task runs for what has to be
waited for: a carrier that is called, a request that is judged.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from cyfs_ns.errors import CyfsError, Misuse, Refused, Unreachable
from rtcp.events import End
from rtcp.io.alarms import Alarms
from rtcp.io.conversation import MuxedDatagrams, MuxedStream, Talk
from rtcp.io.line import Line
from rtcp.io.pipe import DatagramPipe, Pipe, Reactor, log, watch_over
from rtcp.io.shaking import next_event
from rtcp.io.tunnel import Serve, TooSoon, TunnelOver
from rtcp.packet import Purpose
from rtcp.party import Peer
from rtcp.registry import PROBE, TunnelKey
from rtcp.v5 import events as ev
from rtcp.v5.calling import NATIVE_ENTROPY, Call, ResponderProven
from rtcp.v5.carrier import RecordLayer
from rtcp.v5.channel import Claim
from rtcp.v5.closing import Close, CloseCode
from rtcp.v5.established import Established
from rtcp.v5.frames import MOST_TARGET, Address, Code, Opening, Stop, TargetKind
from rtcp.v5.frames import Purpose as Wanted
from rtcp.v5.keys import DeviceKey
from rtcp.v5.ledger import Ledger, Share
from rtcp.v5.payloads import Introduction, Parameters
from rtcp.v5.tunnel import Tunnel

_CALL_SECONDS = 10.0
_HELD_PATIENCE = 8.0
"""Seconds for which whoever wants a stream waits while the tunnel has no carrier."""
_LEAST_WAITS = {CloseCode.FAULT: 60.0, CloseCode.REPLACED: 60.0}
"""Seconds, whatever the peer says (§12)."""
_PAUSES = (0.1, 0.3, 1.0, 2.0)
"""Seconds to wait before a request is repeated that the peer had no room for."""
_TOO_LATE = "the peer waits for this stream no longer"

Connect = Callable[[], Awaitable[Pipe]]
"""Opens one more connection to the peer.  Raises ``Unreachable`` or ``Refused``."""


@dataclass(slots=True, kw_only=True)
class Commons:
    """What all tunnels of a device have in common.

    ``clock`` is trio's, without the way there; ``boot`` is random for each start of the device.  ``holders`` are the
    tunnels by their shares in the ``ledger``.
    """

    nursery: trio.Nursery
    reactor: Reactor
    alarms: Alarms
    clock: Callable[[], float]
    own: DeviceKey
    parameters: Parameters
    boot: bytes
    serve: Serve
    ledger: Ledger
    holders: dict[Share, MuxedTunnel] = field(default_factory=dict)

    def make_room(self) -> None:
        """Together they may hold too much: whoever holds most gives way."""
        while debtors := self.ledger.debtors():
            for share in debtors:
                self.holders[share].make_room()


class MuxedRequest:
    """The peer asks for a conversation (``rtcp.io.tunnel.StreamRequest``).  Nothing happens until it is accepted."""

    def __init__(self, tunnel: MuxedTunnel, number: int, opening: Opening) -> None:
        self._tunnel, self._number = tunnel, number
        self.purpose = Purpose.STREAM if opening.purpose == Wanted.STREAM else Purpose.DATAGRAM
        self.host, self.port = _read_target(opening)

    @property
    def peer(self) -> Peer:
        """Who asks."""
        return self._tunnel.peer

    async def accept(self) -> Pipe:
        """Say yes to a stream.  Raises ``Unreachable`` when it is too late."""
        if self.purpose is not Purpose.STREAM:
            raise Misuse("it asks for datagrams")
        await trio.lowlevel.checkpoint()
        return self._tunnel._accept_stream(self._number)

    async def accept_datagrams(self) -> DatagramPipe:
        """Say yes to datagrams.  Raises ``Unreachable`` when it is too late."""
        if self.purpose is not Purpose.DATAGRAM:
            raise Misuse("it asks for a stream")
        await trio.lowlevel.checkpoint()
        return self._tunnel._accept_datagrams(self._number)


class NotNow(CyfsError):
    """The cause of a call that came to nothing: for ``wait`` seconds nobody should come back who is not asked to."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"not for {wait:g} s")
        self.wait = wait


class MuxedTunnel:
    """``machine`` with ``peer``, whose further carriers are called by ``connect``, if we can call it."""

    version = 5

    def __init__(
        self,
        machine: Tunnel,
        peer: Peer,
        key: TunnelKey,
        shared: Commons,
        connect: Connect | None = None,
        boot: bytes = b"",
    ) -> None:
        self.peer, self.key = peer, key
        self.boot = boot
        """From which start of its process the peer called it; empty if we did."""
        self.on_end: Callable[[MuxedTunnel], None] | None = None
        self.over = trio.Event()
        self.end: ev.Ended | None = None
        """How it ended; None while it stands."""
        self.is_draining = False
        """Whether new conversations are better opened elsewhere."""
        self.alarms: list[float] = []
        self._now = shared.clock
        self.last_heard = self._now()
        """When the peer gave its last sign of life, in trio's time."""
        self._machine, self._shared, self._connect = machine, shared, connect
        shared.holders[machine.share] = self
        self._rest: Share | None = None
        self._lines: dict[RecordLayer, Line] = {}
        self._streams: dict[int, MuxedStream] = {}
        self._flows: dict[int, MuxedDatagrams] = {}
        self._asking: dict[int, _Asked] = {}
        self._judging: dict[int, trio.CancelScope] = {}
        self._pingers: list[tuple[trio.Event, list[float]]] = []
        self._stands = trio.Event()
        self._is_turning = self._is_due = self._is_retired = False

    @property
    def id(self) -> bytes:
        return self._machine.id

    @property
    def is_held(self) -> bool:
        """Whether it waits for a carrier."""
        return not self._machine.is_up

    @property
    def stay_away(self) -> float:
        """Now that it is over: seconds for which nobody should come back who is not asked to."""
        if self.end is None:
            return 0.0
        return max(self.end.wait, _LEAST_WAITS.get(self.end.code, 0.0))

    # What is wanted of it

    async def open_stream(self, host: str | None, port: int) -> Pipe:
        """Ask the peer to reach ``host`` (None: its own machine) at ``port``.

        Raises ``Refused`` when the peer's rules say no, ``TunnelOver``, or ``Unreachable``.
        """
        number = await self._open(Wanted.STREAM, host, port)
        return self._streams[number]

    async def open_datagrams(self, host: str | None, port: int) -> DatagramPipe:
        """Like ``open_stream``, for datagrams."""
        number = await self._open(Wanted.DATAGRAMS, host, port)
        return self._flows[number]

    async def ping(self) -> float:
        """Seconds to the peer and back.  Raises ``TunnelOver``."""
        if self._machine.is_ended:
            raise self._gone()
        answer: tuple[trio.Event, list[float]] = (trio.Event(), [])
        self._pingers.append(answer)
        try:
            self._machine.ping(self._now())
            self._turn()
            await answer[0].wait()
        finally:
            if answer in self._pingers:
                self._pingers.remove(answer)
        if not answer[1]:
            raise self._gone()
        return answer[1][0]

    async def shake(self) -> None:
        """The caller's side, after its message 3.  Raises ``Refused`` when the peer does not want us, else
        ``Unreachable``."""
        await self._stands.wait()
        if self.end is not None:
            why, not_now = self.end.why, NotNow(self.stay_away)
            if self.end.end is End.REFUSED:
                raise Refused(why) from not_now
            raise Unreachable(why, "tunnel_open") from not_now

    async def is_alive(self) -> bool:
        """Whether the peer gives a sign of life; it has ``PROBE`` seconds."""
        with trio.move_on_after(PROBE), suppress(TunnelOver):
            await self.ping()
            return not self.is_draining
        return False

    def lose(self) -> None:
        """The peer is gone."""
        self.close(CloseCode.LOST)

    def close(self, code: CloseCode = CloseCode.DONE, reason: str = "", *, when_done: bool = False) -> None:
        """End it, and all that is on it; ``when_done``: once all that was said has arrived."""
        self._machine.close(self._now(), code, reason=reason, when_done=when_done)
        self._turn()

    def retire(self) -> None:
        """Nothing more is opened on it, and it ends with the last conversation that is open."""
        self._is_retired = True
        self._turn()

    def abandon(self) -> None:
        """Leave nothing behind.  May be called twice."""
        if not self.over.is_set():
            self.close()

    def make_room(self) -> None:
        """All tunnels together hold too much, and this one the most."""
        if self.end is not None:
            for stream in self._streams.values():
                stream.broke(_why(Stop.STALLED))
            self._count_rest()
            return
        self._machine.make_room(self._now())
        self._turn()

    def _count_rest(self) -> None:
        """Streams that were complete when the tunnel ended are read later, and what waits on them counts until then."""
        shared, rest = self._shared, self._rest
        left = sum(stream.waiting for stream in self._streams.values())
        if rest is None:
            if not left:
                return
            rest = self._rest = shared.ledger.open(anonymous=self._machine.share.anonymous)
            shared.holders[rest] = self
        rest.settle(left, held=False)
        if not left:
            rest.close()
            del shared.holders[rest]
            self._rest = None

    def network_changed(self) -> None:
        """An address or a route of this machine is another: is the peer still there?"""
        self._machine.network_changed(self._now())
        self._turn()

    # Carriers

    def take_carrier(
        self, established: Established, pipe: Pipe, early: bytes = b"", owed: bytes = b"", *, leg: bool = False
    ) -> None:
        """What the handshake left stands, or is about to; ``owed`` is left to say of it, ``early`` came behind it."""
        watch_over(pipe)
        carrier = established.carrier
        line = self._lines[carrier] = Line(carrier, pipe, self._shared.reactor, self._hear, self._heard, leg=leg)
        if owed:
            line.send([owed])
        if early:
            self._hear(line, early)
        self._turn()

    def join(self, established: Established, claim: Claim, seen: Address | None) -> Close | None:
        """The peer called a carrier.  None: ``take_carrier`` follows; else this is to be said."""
        verdict = self._machine.join(established.carrier, claim, seen, self._now())
        if verdict is not None:
            self._turn()
        return verdict

    def _hear(self, line: Line, untrusted: bytes | memoryview) -> None:
        now = self._now()
        if untrusted:
            self.last_heard = now
            self._machine.receive(line.carrier, untrusted, now)
        else:
            self._machine.lost(line.carrier, now)
            self._drop(line)

    def _heard(self) -> None:
        """Hand on what came.  The turn waits until programs have read it, as they have then something to say, too."""
        while (event := self._machine.next_event()) is not None:
            self._take(event)
        self._soon()

    def _drop(self, line: Line, last: bytes = b"") -> None:
        self._lines.pop(line.carrier, None)
        line.close(last, self._shared.nursery)

    async def _call(self, channel: int) -> None:
        """Call a carrier for ``channel``."""
        connect = self._connect
        if connect is None:
            return
        try:
            with trio.move_on_after(_CALL_SECONDS):
                await self._call_by(await connect(), channel)
        except (Unreachable, Refused) as fault:
            log.debug("no carrier to %s: %s", self.peer.did, fault)
        except Exception:
            log.exception("calling %s failed", self.peer.did)

    async def _call_by(self, pipe: Pipe, channel: int) -> None:
        shared, key = self._shared, self.peer.device.key
        assert key is not None
        try:
            call = Call.native(shared.own, key, entropy=secrets.token_bytes(NATIVE_ENTROPY), now=self._now())
            event = await next_event(call, pipe)
            if not isinstance(event, ResponderProven):
                raise Unreachable(f"the peer was not found again: {event}", "tunnel_open")
            claim = self._machine.claim(channel, self._now())
            if claim is None:
                pipe.close()
                return
            said = Introduction(
                key=shared.own.public,
                parameters=shared.parameters,
                boot=shared.boot,
                tunnel=self.id,
                channel=claim.channel,
                move=claim.move,
                expect=claim.expect,
            )
            established = call.go_on(said)
            assert established is not None
            if not self._machine.attach(established.carrier, channel, self._now()):
                pipe.close()
                return
        except BaseException:
            pipe.close()
            raise
        self.take_carrier(established, pipe, owed=call.data_to_send(), leg=channel != 0)

    # Turns

    def ring(self) -> None:
        """A deadline may be due."""
        self._machine.handle_timeout(self._now())
        self._turn()

    def _soon(self) -> None:
        """A program said something: a turn follows when all have."""
        if not self._is_due:
            self._is_due = True
            if not self._is_turning:
                self._shared.reactor.soon(self._turn)

    def _turn(self) -> None:
        """Hand on what the machine tells, and send what it has to say."""
        self._is_due = False
        if self._is_turning:
            self._is_due = True
            return
        self._is_turning = True
        machine = self._machine
        now = self._now()
        try:
            while True:
                while (event := machine.next_event()) is not None:
                    self._take(event)
                self._is_due = False
                self._speak(now)
                if not self._is_due and not machine.has_events:
                    break
        finally:
            self._is_turning = False
            if self._is_due:  # it failed, and what was said meanwhile goes out all the same
                self._shared.reactor.soon(self._turn)
        machine.settle()
        if self._shared.ledger.is_over:
            self._shared.reactor.soon(self._shared.make_room)
        if self._is_retired and not machine.conversations:
            self._is_retired = False
            self.close(when_done=True)
            return
        deadline = machine.next_deadline()
        if deadline is not None:
            self._shared.alarms.ask(self, deadline)

    def _speak(self, now: float) -> None:
        """Send what the machine has to say on each line, as far as the line takes it."""
        to_send = self._machine.data_to_send
        for carrier, line in list(self._lines.items()):
            portion = line.portion
            while not line.is_clogged and (records := to_send(carrier, now, portion)):
                line.send(records)
                if sum(map(len, records)) < portion:
                    break

    def _take(self, event: ev.TunnelEvent) -> None:
        match event:
            case ev.DataArrived(number, views):
                if (stream := self._streams.get(number)) is not None:
                    stream.take(views)
            case ev.SendRoom(number):
                if (stream := self._streams.get(number)) is not None:
                    stream.has_room()
            case ev.DatagramArrived(number, _, payload):
                if (flow := self._flows.get(number)) is not None:
                    flow.take(payload)
            case ev.PeerFinished(number):
                if (stream := self._streams.get(number)) is not None:
                    stream.peer_finished()
            case ev.PeerStopped(number):
                if (stream := self._streams.get(number)) is not None:
                    stream.has_room()  # whatever it has to say is taken, and dropped
            case ev.Answered(number, code, reason):
                if (asked := self._asking.get(number)) is not None:
                    asked.answer(None if code == Code.YES else _fault(code, reason))
            case ev.Reset(number, code):
                self._reset(number, code)
            case ev.ConversationRequested(number, opening):
                judging = self._judging[number] = trio.CancelScope()  # it may be reset before its task runs
                self._shared.nursery.start_soon(self._serve, number, opening, judging)
            case ev.Alive(round_trip):
                self._tell_pingers(round_trip)
            case ev.Stands():
                self._stands.set()
                if self._pingers:
                    self._machine.ping(self._now())
            case ev.CarrierWanted(channel):
                self._shared.nursery.start_soon(self._call, channel)
            case ev.CarrierRetired(carrier, last):
                if (line := self._lines.get(carrier)) is not None:
                    self._drop(line, last)
            case ev.Draining():
                self.is_draining = True
            case ev.Ended():
                self._ended(event)
            case ev.LegReady():
                pass

    def _reset(self, number: int, code: int) -> None:
        if (asked := self._asking.get(number)) is not None:
            asked.answer(self._gone() if self._machine.is_ended else Unreachable(_why(code), "tunnel_open"))
        if (judging := self._judging.get(number)) is not None:
            judging.cancel()
        if (stream := self._streams.get(number)) is not None:
            stream.broke(_why(code), keep=code == Stop.LOST and self._machine.is_ended)
        if (flow := self._flows.get(number)) is not None:
            flow.broke(_why(code))

    def _tell_pingers(self, round_trip: float | None) -> None:
        for answered, answer in self._pingers:
            if round_trip is not None:
                answer.append(round_trip)
            answered.set()
        self._pingers.clear()

    def _ended(self, event: ev.Ended) -> None:
        self.end = event
        del self._shared.holders[self._machine.share]
        self._count_rest()
        if event.code is CloseCode.REPLACED and self.peer.dialled:
            log.warning("another machine has the same key as this one: %s was called from there", self.peer.did)
        for line in list(self._lines.values()):
            self._drop(line)
        self._tell_pingers(None)
        self._stands.set()
        self.over.set()
        if self.on_end is not None:
            self.on_end(self)

    def _gone(self) -> TunnelOver:
        return TunnelOver(f"the tunnel is over: {self.end.why if self.end else 'closed'}", "tunnel_open")

    # Conversations of ours

    async def _open(self, purpose: Wanted, host: str | None, port: int) -> int:
        for pause in (*_PAUSES, None):
            try:
                return await self._ask(purpose, host, port)
            except TooSoon:
                if pause is None:
                    break
                await trio.sleep(pause)
        raise Unreachable("the peer takes no more streams at the moment", "tunnel_open")

    async def _ask(self, purpose: Wanted, host: str | None, port: int) -> int:
        if self.is_draining:
            raise TunnelOver("the peer takes no new streams", "tunnel_open")
        opening = _write_target(purpose, host, port)
        try:
            number = self._machine.open(opening, self._now())
        except Unreachable as over:
            raise TunnelOver(str(over), "tunnel_open") from over
        except Refused as full:
            raise TooSoon(str(full), "tunnel_open") from full
        made: MuxedStream | MuxedDatagrams
        try:
            if purpose is Wanted.STREAM:
                made = self._streams[number] = _made(MuxedStream, self, number)
            else:
                made = self._flows[number] = _made(MuxedDatagrams, self, number)
        except Unreachable:
            self.reset(number, Stop.INTERNAL)
            raise
        asked = self._asking[number] = _Asked()
        self._turn()
        try:
            await self._hear_of(asked)
            if asked.fault is not None:
                raise asked.fault
        except trio.Cancelled:
            self.reset(number, Stop.CANCELLED)
            made.broke("nobody waits for it any more")
            made.close()
            raise
        except CyfsError:
            self.reset(number, Stop.CANCELLED)
            made.broke("it was not opened")
            made.close()
            raise
        finally:
            del self._asking[number]
        return number

    async def _hear_of(self, asked: _Asked) -> None:
        """Wait for an answer; but not for long while there is nobody who could give it.  Raises ``Unreachable``."""
        while not asked.answered.is_set():
            with trio.move_on_after(_HELD_PATIENCE):
                await asked.answered.wait()
                return
            if self.is_held:
                raise Unreachable("there is no way to the peer at the moment", "connect_timeout")

    # Conversations of the peer

    async def _serve(self, number: int, opening: Opening, judging: trio.CancelScope) -> None:
        code = Code.NOT_AUTHORIZED
        try:
            with judging:
                await self._shared.serve(MuxedRequest(self, number, opening))
        except _NotServed as no:
            code = no.code
        except Refused as no:
            log.debug("a stream for %s is refused: %s", self.peer.did, no)
        except Unreachable as fault:
            log.debug("a stream for %s cannot be served: %s", self.peer.did, fault)
            code = _CODES.get(fault.reason, Code.UNREACHABLE)
        except Exception:
            log.exception("serving a stream failed")
            code = Code.UNREACHABLE
        if self._judging.pop(number, None) is not None:  # nobody accepted it
            self._machine.answer(number, code, self._now())
            self._soon()

    def _accept_stream(self, number: int) -> MuxedStream:
        self._check_awaited(number)
        stream = self._streams[number] = _made(MuxedStream, self, number)
        self._accept(number, stream)
        return stream

    def _accept_datagrams(self, number: int) -> MuxedDatagrams:
        self._check_awaited(number)
        flow = self._flows[number] = _made(MuxedDatagrams, self, number)
        self._accept(number, flow)
        return flow

    def _check_awaited(self, number: int) -> None:
        """Raises ``Unreachable`` for what was answered."""
        if number not in self._judging:
            raise Unreachable(_TOO_LATE, "tunnel_open")

    def _accept(self, number: int, made: MuxedStream | MuxedDatagrams) -> None:
        """Raises ``Unreachable``."""
        del self._judging[number]
        if not self._machine.answer(number, Code.YES, self._now()):
            made.broke(_TOO_LATE)
            made.close()
            raise Unreachable(_TOO_LATE, "tunnel_open")
        self._soon()

    # What conversations say (``conversation.Talk``)

    def send(self, conversation: int, data: bytes | memoryview) -> int:
        taken = self._machine.send(conversation, data, self._now())
        self._soon()
        return taken

    def consumed(self, conversation: int, size: int) -> None:
        if self._rest is not None:
            self._count_rest()
            return
        self._machine.consumed(conversation, size, self._now())
        if self._machine.has_news:
            self._soon()

    def finish(self, conversation: int) -> None:
        self._machine.finish(conversation, self._now())
        self._soon()

    def stop(self, conversation: int) -> None:
        self._machine.stop(conversation, Stop.CANCELLED, self._now())
        self._soon()

    def reset(self, conversation: int, code: Stop) -> None:
        self._machine.reset(conversation, code, self._now())
        self._soon()

    def send_datagram(self, conversation: int, data: bytes | memoryview) -> None:
        self._machine.send_datagram(conversation, None, data, self._now())
        self._soon()

    def forget(self, conversation: int) -> None:
        self._streams.pop(conversation, None)
        self._flows.pop(conversation, None)
        if self._rest is not None:
            self._count_rest()
        if self._is_retired:
            self._soon()


_Made = TypeVar("_Made", MuxedStream, MuxedDatagrams)


def _made(kind: Callable[[Talk, int, Reactor], _Made], tunnel: MuxedTunnel, number: int) -> _Made:
    try:
        return kind(tunnel, number, tunnel._shared.reactor)
    except OSError as fault:
        raise Unreachable(f"no stream can be opened: {fault}", "other") from fault


class _Asked:
    """A request of ours, until the peer has answered it."""

    __slots__ = ("answered", "fault")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.fault: CyfsError | None = None

    def answer(self, fault: CyfsError | None) -> None:
        if not self.answered.is_set():
            self.fault = fault
            self.answered.set()


class _NotServed(CyfsError):
    """What is asked for is nothing we do."""

    def __init__(self, code: Code) -> None:
        super().__init__(code.name)
        self.code = code


_CODES = {
    "connect_timeout": Code.TIMEOUT,
    "connect_refused": Code.CONNECT_REFUSED,
    "pre_connect_dns": Code.NAME_UNKNOWN,
}
_REASONS = {code: reason for reason, code in _CODES.items()}
_FAULTS = {
    Code.TIMEOUT: "the peer says that its target did not answer",
    Code.CONNECT_REFUSED: "the peer says that its target refused the connection",
    Code.NAME_UNKNOWN: "the peer does not know its target's name",
    Code.UNREACHABLE: "the peer says that there is no way to its target",
    Code.UNSUPPORTED: "the peer does not carry such streams",
}
_WHY = {
    Stop.CANCELLED: "the peer wants it no more",
    Stop.TARGET_RESET: "the peer's target broke it off",
    Stop.TIMEOUT: "it took too long",
    Stop.LOST: "the way to the peer was lost",
    Stop.STALLED: "it was not read while others had to wait",
}


def _why(code: int) -> str:
    return next((why for known, why in _WHY.items() if known == code), f"the peer ended it (code {code})")


def _fault(code: int, reason: str) -> CyfsError:
    """What an answer other than yes means to whoever asked."""
    match code:
        case Code.NOT_AUTHORIZED:
            return Refused("the peer refuses to open this stream")
        case Code.QUOTA | Code.RATE_LIMITED:
            return TooSoon("the peer takes no more streams at the moment", "tunnel_open")
        case Code.DRAINING:
            return TunnelOver("the peer takes no new streams", "tunnel_open")
    known = next((one for one in _FAULTS if one == code), None)
    said = _FAULTS[known] if known is not None else f"the peer cannot open this stream (code {code})"
    return Unreachable(said, _REASONS.get(known, "tunnel_open") if known is not None else "tunnel_open")


def _write_target(purpose: Wanted, host: str | None, port: int) -> Opening:
    """``host`` may be a tunnel URL, for the peer to open.  Raises ``Unreachable``."""
    if host is not None and "://" in host:
        opening = Opening(purpose, host, TargetKind.URL)
    else:
        shown = f"[{host}]" if host and ":" in host else host or ""
        opening = Opening(purpose, f"{shown}:{port}")
    if len(opening.target.encode()) > MOST_TARGET:
        raise Unreachable("the target is longer than what can be asked for", "other")
    return opening


def _read_target(opening: Opening) -> tuple[str | None, int]:
    """Host, None for this machine, or URL; and port.  Raises ``_NotServed``."""
    if opening.purpose not in (Wanted.STREAM, Wanted.DATAGRAMS) or opening.kind == TargetKind.SERVICE:
        raise _NotServed(Code.UNSUPPORTED)
    if opening.kind == TargetKind.URL:
        return opening.target, 0
    host, colon, port = opening.target.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise _NotServed(Code.BAD_TARGET)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host or None, int(port)
