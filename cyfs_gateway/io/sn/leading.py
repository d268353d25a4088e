"""Streams from one member of an SN to the door of another: opened through the tunnel that the other keeps, and carried.

What the one says first goes out behind the request, before the other has taken it: so the SN costs both no round trip.
What they say inside is between the two; here it is octets, counted for both accounts.  Nobody counts on the hot path: a
few times a second one task looks at what has moved, and holds whoever is over the pace until the pace has caught up, or
ends what is over the month.  So an account may be ahead by what fits between two looks, and pays for it by waiting.

There is no way to anybody but a registered device that has a tunnel here, so this is no proxy.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final, Protocol

import trio

from cyfs_gateway.flow import ANSWERED
from cyfs_gateway.host import Begun
from cyfs_gateway.io.sn.ledger import Ledger
from cyfs_gateway.sn.accounts import Device
from cyfs_gateway.sn.meter import Usage
from cyfs_gateway.sn.quota import Denied, Later
from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import Did
from rtcp.party import Address
from tunnels.endpoint import Endpoint
from tunnels.io.reactor import Reactor
from tunnels.io.relay import Relay
from tunnels.io.waiting import carries_sealed, receive_some

EVERY: Final = 0.25
"""Seconds from one look to the next."""
_OFTEN: Final = 5
"""So many times as often those are looked at that moved something the last time."""
_DOOR: Final = f"rtcp{ANSWERED}"
_PATIENCE: Final = 15.0
"""Seconds for the other device to take a stream."""
_EARLY: Final = 16384
"""Octets, about, that go out before the answer: a handshake's first message, and what a device may hold unread."""
_IDLE: Final = 4 * 3600.0


class LeadingHost(Protocol):
    """What this needs of the gateway (``cyfs_gateway/host.py``)."""

    @property
    def reactor(self) -> Reactor: ...
    async def begin_to_peer(
        self, device: Did, host: str | None, port: int, *, source: Address | None = None
    ) -> Begun: ...


class Leading:
    """All such streams.  ``most``: of one device that asks.  Needs :meth:`run`."""

    def __init__(
        self, host: LeadingHost, ledger: Ledger, most: int, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._host, self._ledger, self._most, self._steady = host, ledger, most, steady
        self._streams: dict[_Carried, None] = {}
        self._asked: Counter[Did] = Counter()
        self.octets = 0
        """Carried so far, as far as they were counted."""
        self.opened = self.refused = 0

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def held(self) -> int:
        """How many wait for the pace of their accounts."""
        now = self._steady()
        return sum(stream.held_until > now for stream in self._streams)

    async def open(
        self, asker: Device, to: Device, source: Address | None, near: Endpoint, early: bytes, *, known_as: str = ""
    ) -> Led:
        """A stream to the door of ``to``, for ``asker``, who comes from ``source`` and talks on ``near``, where it has
        said ``early`` so far; to be carried, or closed.

        ``known_as`` is the host name that it will most likely go by, which ``to`` is told, so that it can find out who
        that is while the two shake hands.

        Raises ``Refused`` for an account that may not, and ``Unreachable``.
        """
        door = f"{known_as}.{_DOOR}" if known_as else _DOOR
        first = _First(early)
        with ExitStack() as unless_it_opens:
            try:
                if self._asked[asker.did] >= self._most:
                    raise Refused(f"{asker.did} has {self._most} streams here already")
                self._asked[asker.did] += 1
                unless_it_opens.callback(self._leave, asker.did)
                for owner in dict.fromkeys((asker.owner, to.owner)):
                    if why := self._ledger.open(owner):
                        raise Refused(why)
                    unless_it_opens.callback(self._ledger.close, owner)
                with trio.fail_after(_PATIENCE):
                    begun = await self._host.begin_to_peer(to.did, door, 1, source=source)
                    await first.pass_on(near, begun)
            except BaseException as fault:
                # A device that would not have it does not pay for it.
                self._charge_first(first.passed, asker.owner)
                self.refused += isinstance(fault, Refused | Unreachable | trio.TooSlowError)
                if isinstance(fault, trio.TooSlowError):
                    raise Unreachable(f"{to.did} did not answer in time", "connect_timeout") from None
                raise
            self.opened += 1
            self._charge_first(first.passed, asker.owner, to.owner)
            return Led(begun.pipe, asker.owner, to.owner, first.rest, unless_it_opens.pop_all())

    def _charge_first(self, octets: int, asker: Did, asked: Did | None = None) -> None:
        """``octets`` went out before the answer."""
        if not octets:
            return
        self.octets += octets
        self._ledger.charge(asker, Usage(up=octets))
        if asked is not None and asked != asker:
            self._ledger.charge(asked, Usage(down=octets))

    def _leave(self, device: Did) -> None:
        self._asked[device] -= 1
        if not self._asked[device]:
            del self._asked[device]

    async def carry(self, near: Endpoint, led: Led) -> None:
        """Join ``near`` with it until either ends.  Takes both over."""
        over = trio.Event()
        stream = None
        try:
            self._host.reactor.freshen()
            for end in (near, led.far):
                carries_sealed(end)
            relay = Relay(
                self._host.reactor, near, led.far, idle=_IDLE, on_close=lambda *_: over.set(), early=led.early
            )
            stream = _Carried(led, relay, self._steady())
            self._streams[stream] = None
            await over.wait()
        finally:
            if stream is not None:
                stream.relay.close("the SN ends")
                self._charge(stream, self._steady())
                del self._streams[stream]
            led.close()

    def end_account(self, owner: Did, why: str) -> None:
        """End all streams of an account."""
        for stream in list(self._streams):
            if owner in (stream.led.asker, stream.led.asked):
                stream.relay.close(why)

    async def run(self) -> None:
        """Count until cancelled."""
        while True:
            for turn in range(_OFTEN):
                await trio.sleep(EVERY / _OFTEN)
                now = self._steady()
                for stream in list(self._streams):
                    if not turn or stream.is_busy:
                        self._look(stream, now)

    def _look(self, stream: _Carried, now: float) -> None:
        verdict = self._charge(stream, now)
        if isinstance(verdict, Denied):
            stream.relay.close(verdict.why)
        elif isinstance(verdict, Later):
            stream.held_until = verdict.at
            stream.relay.hold()
        else:
            stream.held_until = now
            stream.relay.release()

    def _charge(self, stream: _Carried, now: float) -> Later | Denied | None:
        """Count what has moved since the last time, for both accounts; what is to become of the stream."""
        relay, led = stream.relay, stream.led
        up, down, seconds = relay.up - stream.up, relay.down - stream.down, now - stream.looked
        stream.looked, stream.is_busy = now, up + down > 0
        if not stream.is_busy:
            if stream.held_until <= now:
                return None
            seconds = 0.0  # it waits for leave, which may come sooner or not at all by now
        stream.up, stream.down = relay.up, relay.down
        self.octets += up + down
        verdicts = [self._ledger.charge(led.asker, Usage(up, down, seconds))]
        if led.asked != led.asker:
            verdicts.append(self._ledger.charge(led.asked, Usage(down, up, seconds)))
        denied = next((one for one in verdicts if isinstance(one, Denied)), None)
        later = [one for one in verdicts if isinstance(one, Later)]
        return denied or max(later, key=lambda one: one.at, default=None)


class _First:
    """What is said first: ``passed`` octets of it went to the other device, ``rest`` is left."""

    def __init__(self, early: bytes) -> None:
        self.passed, self.rest = 0, early

    async def pass_on(self, near: Endpoint, begun: Begun) -> None:
        """What ``near`` says until the other device has answered, and not much.  Raises ``Refused`` and
        ``Unreachable``; its pipe is closed then, and when this is cancelled."""
        fault: Refused | Unreachable | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, near, begun.pipe)
                try:
                    await begun.answered()
                except (Refused, Unreachable) as no:
                    fault = no
                nursery.cancel_scope.cancel()
        except BaseException:
            begun.pipe.close()  # a yes may come in the moment in which this is cancelled
            raise
        if fault is not None:
            raise fault

    async def _send(self, near: Endpoint, far: Endpoint) -> None:
        with suppress(OSError):  # whoever carries it finds out
            while self.passed < _EARLY:
                while self.rest:
                    taken = far.send(self.rest)
                    self.passed, self.rest = self.passed + taken, self.rest[taken:]
                self.rest = await receive_some(near, _EARLY)
                if not self.rest:
                    return


class Led:
    """A stream that stands, for the owners of both sides, who are charged; ``held`` is given back at its end.

    ``early`` is to go first.
    """

    def __init__(self, far: Endpoint, asker: Did, asked: Did, early: bytes, held: ExitStack) -> None:
        self.far, self.asker, self.asked, self.early = far, asker, asked, early
        self._held = held

    def close(self) -> None:
        """It is over.  May be called twice."""
        self.far.close()
        self._held.close()


class _Carried:
    """One that is carried."""

    __slots__ = ("down", "held_until", "is_busy", "led", "looked", "relay", "up")

    def __init__(self, led: Led, relay: Relay, now: float) -> None:
        self.led, self.relay, self.looked = led, relay, now
        self.up = self.down = 0
        self.held_until = now
        self.is_busy = True
