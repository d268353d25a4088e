"""What the ingress carries: who has how many streams, and who is charged for them.

Octets are told to the meter when a stream ends and twice a second while it moves something, so no stream pays for it by
the packet.  Whoever is over their pace is held until that has caught up; whoever has used up their month is cut off.
"""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar

import trio

from cyfs_gateway.sn.ingress import IngressSettings
from cyfs_gateway.sn.ingresscrowd import Pace, source_of
from cyfs_gateway.sn.quota import Denied, Later
from cyfs_ns.errors import Refused
from cyfs_ns.identity.did import Did
from rtcp.io.pipe import Answered, DatagramPipe, GiveUp
from rtcp.party import Address
from tunnels.endpoint import Endpoint
from tunnels.io.reactor import Reactor

EVERY: Final = 0.5
"""Seconds between two looks at what has moved."""
_KEPT: Final = 512
"""Descriptors for all else; each stream takes three, two of them for the tunnel's side."""

Meter = Callable[[Did, int], Later | Denied | None]
"""Takes an owner and octets that were carried for them.  None: they may go on."""


class IngressHost(Protocol):
    """What the ingress needs of the gateway (``cyfs_gateway/host.py``)."""

    @property
    def reactor(self) -> Reactor: ...
    @property
    def home(self) -> Path: ...
    def standing(self, device: Did) -> bool: ...
    async def open_to_peer(
        self, device: Did, host: str | None, port: int, *, source: Address | None = None
    ) -> Endpoint: ...
    def ask_peer(
        self,
        device: Did,
        host: str | None,
        port: int,
        then: Answered,
        *,
        source: Address | None = None,
        first: bytes = b"",
    ) -> GiveUp | None: ...
    async def open_datagrams_to_peer(
        self, device: Did, host: str | None, port: int, *, source: Address | None = None
    ) -> DatagramPipe:
        """As ``open_to_peer``, for datagrams."""

    def take_peer(self, sock: Endpoint, source: Address) -> None:
        """Somebody at ``source`` speaks rtcp, and has come to another door than those for it; takes ``sock`` over."""


class Moving(Protocol):
    """Something that carries octets both ways until it is closed."""

    @property
    def up(self) -> int: ...
    @property
    def down(self) -> int: ...
    def hold(self) -> None: ...
    def release(self) -> None: ...
    def close(self, why: str = ...) -> None: ...


class Ticket:
    """A stream of ``device`` for a visitor; ``source`` is by what that one is counted, empty if nobody counts here.
    ``moving`` is set once there is something; ``told`` is how many octets of it were charged, below 0 for those that
    went before.  ``held``: until when (monotonic seconds) it is to wait."""

    __slots__ = ("device", "held", "moving", "owner", "source", "told")

    def __init__(self, owner: Did, device: Did, source: str = "") -> None:
        self.owner, self.device, self.source = owner, device, source
        self.moving: Moving | None = None
        self.told = 0
        self.held = 0.0


class Traffic:
    """See the module's text."""

    def __init__(self, settings: IngressSettings, meter: Meter, steady: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._meter, self._steady = settings, meter, steady
        self._tickets: dict[Ticket, None] = {}
        self._of_device: Counter[Did] = Counter()
        self._of_source: Counter[str] = Counter()
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = settings.total if descriptors < 0 else min(settings.total, max(1, (descriptors - _KEPT) // 3))
        self._pace = Pace(settings.rate, steady())
        self.octets = 0
        """Carried so far, as far as they were told."""
        self.outcomes: Counter[str] = Counter()
        """What became of visitors."""
        self.draining = False
        """Streams go on, and none begins."""

    def __len__(self) -> int:
        return len(self._tickets)

    def admit(self, owner: Did, device: Did, address: str) -> Ticket:
        """One more stream, until :meth:`over`.  Raises ``Refused`` for one too many, or an account that is used up."""
        source = source_of(address)
        if len(self._tickets) >= self._most:
            raise Refused("the SN carries as many streams as it can")
        if self._of_device[device] >= self._settings.of_device:
            raise Refused(f"{device} has {self._settings.of_device} visitors already")
        if self._of_source[source] >= self._settings.of_source:
            raise Refused(f"{source} has {self._settings.of_source} streams already")
        self.ask(owner)
        if not self._pace.allows(source, self._steady()):
            raise Refused(f"{source}, or everybody together, opens streams too fast")
        ticket = Ticket(owner, device, source)
        self._of_device[device] += 1
        self._of_source[source] += 1
        self._tickets[ticket] = None
        return ticket

    def ask(self, owner: Did) -> None:
        """Raises ``Refused`` when nothing more is carried for ``owner`` at present."""
        if self.draining:
            raise Refused("the SN begins nothing new")
        verdict = self._meter(owner, 0)
        if isinstance(verdict, Denied):
            raise Refused(verdict.why)

    def follow(self, owner: Did, device: Did, moving: Moving) -> Ticket:
        """Charge for ``moving`` until :meth:`over`; somebody else bounds how many there are."""
        ticket = Ticket(owner, device)
        ticket.moving = moving
        self._tickets[ticket] = None
        return ticket

    def over(self, ticket: Ticket) -> None:
        """It has ended.  To be called once."""
        self._charge(ticket)
        del self._tickets[ticket]
        if ticket.source:
            _less(self._of_device, ticket.device)
            _less(self._of_source, ticket.source)

    def close(self, device: Did | None = None) -> None:
        """End all streams, or those of ``device``."""
        for ticket in list(self._tickets):
            if ticket.moving is not None and (device is None or ticket.device == device):
                ticket.moving.close("the device is gone")

    def _charge(self, ticket: Ticket) -> Later | Denied | None:
        moving = ticket.moving
        more = 0 if moving is None else moving.up + moving.down - ticket.told
        ticket.told += more
        self.octets += more
        return self._meter(ticket.owner, more) if more or ticket.held else None

    async def run(self) -> None:
        """Tell the meter until cancelled."""
        while True:
            await trio.sleep(EVERY)
            now = self._steady()
            for ticket in list(self._tickets):
                if ticket.held <= now:
                    self._look(ticket)

    def _look(self, ticket: Ticket) -> None:
        verdict, moving = self._charge(ticket), ticket.moving
        if moving is None:
            return
        if isinstance(verdict, Denied):
            moving.close(verdict.why)
        elif isinstance(verdict, Later):
            ticket.held = verdict.at
            moving.hold()
        elif ticket.held:
            ticket.held = 0.0
            moving.release()


_K = TypeVar("_K")


def _less(counter: Counter[_K], key: _K) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
