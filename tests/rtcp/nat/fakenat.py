"""A NAT, an internet that loses and delays, and STUN servers on it, all in one process and without a clock."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from rtcp.nat.behaviour import Dependence, Survey
from rtcp.nat.stun import HostPort, Place, respond

INSIDE, OUTSIDE = "192.168.1.10", "198.51.100.7"


@dataclass(kw_only=True)
class FakeNat:
    """``mapping`` None: addresses are not translated, only filtered.  ``ports``: kept, random, or counted by a step.

    ``wide``: who was written to by one socket may answer all.  ``spoils``: a datagram that was kept out still takes the
    place of a flow, as in a Linux router without a guard.
    """

    mapping: Dependence | None = Dependence.ENDPOINT_INDEPENDENT
    filtering: Dependence = Dependence.ENDPOINT_INDEPENDENT
    ports: Literal["kept", "random"] | int = "kept"
    hairpin: bool = False
    blocked: bool = False
    wide: bool = False
    spoils: bool = False
    dice: random.Random = field(default_factory=lambda: random.Random(1))

    def __post_init__(self) -> None:
        self._mappings: dict[tuple[object, ...], HostPort] = {}
        self._insides: dict[HostPort, HostPort] = {}
        self._written: dict[HostPort, set[HostPort]] = {}
        self._taken: set[tuple[HostPort, HostPort]] = set()
        self._counter = 20000

    @property
    def outside(self) -> str:
        return INSIDE if self.mapping is None else OUTSIDE

    def out(self, local: HostPort, to: HostPort) -> HostPort:
        """The source with which a datagram leaves."""
        if self.mapping is None:
            seen = self._insides[local] = local
        else:
            key: tuple[object, ...] = (local,)
            if self.mapping is Dependence.ADDRESS:
                key = (local, to.host)
            elif self.mapping is Dependence.ADDRESS_AND_PORT:
                key = (local, to)
            if (self._mappings.get(key), to) in self._taken:
                key = (local, to, "anew")
            if key not in self._mappings:
                place = HostPort(OUTSIDE, self._new_port(local.port))
                self._mappings[key], self._insides[place] = place, local
            seen = self._mappings[key]
        self._written.setdefault(seen, set()).add(to)
        return seen

    def into(self, source: HostPort, to: HostPort) -> HostPort | None:
        """Who gets a datagram that arrives; None: nobody."""
        inside = self._insides.get(to)
        if inside is None:
            return None
        written = set().union(*self._written.values()) if self.wide else self._written[to]
        if (
            self.filtering is Dependence.ENDPOINT_INDEPENDENT
            or source in written
            or (self.filtering is Dependence.ADDRESS and source.host in {place.host for place in written})
        ):
            return inside
        if self.spoils:
            self._taken.add((to, source))
        return None

    def _new_port(self, own: int) -> int:
        taken = {place.port for place in self._insides}
        if self.ports == "kept" and own not in taken:
            return own
        if isinstance(self.ports, int):
            self._counter += self.ports
            return self._counter
        while True:
            port = self.dice.randrange(1024, 65536)
            if port not in taken:
                return port


class World:
    """``loss``: the share of datagrams that vanish, though never so many of one question that it fails for that."""

    def __init__(
        self, nat: FakeNat, servers: Sequence[Place], *, dice: random.Random | None = None, loss: float = 0.0
    ) -> None:
        self.nat, self.servers, self.dice, self.loss = nat, {place.here: place for place in servers}, dice, loss
        self.now = 0.0
        self.sockets: dict[int, HostPort] = {}
        self.sent = 0
        self._losses: Counter[bytes] = Counter()
        self._coming: list[tuple[float, int, HostPort, HostPort, bytes]] = []
        self._order = count()

    def run(self, survey: Survey) -> None:
        """Until it is finished."""
        while not survey.finished:
            while (send := survey.next_send()) is not None:
                if send.socket not in self.sockets:
                    # Far apart, so that kept ports look like no sequence.
                    self.sockets[send.socket] = HostPort(INSIDE, 40000 + 1009 * send.socket**2 % 20000)
                    survey.opened(send.socket, self.sockets[send.socket])
                self.sent += 1
                self._post(self.sockets[send.socket], send.to, send.data)
            deadline = survey.next_deadline()
            if deadline is None:
                break
            if self._coming and self._coming[0][0] <= deadline:
                self.now, _, source, to, data = heapq.heappop(self._coming)
                self._arrive(survey, source, to, data)
            else:
                self.now = deadline
                survey.handle_timeout(self.now)

    def _post(self, source: HostPort, to: HostPort, data: bytes) -> None:
        if self.dice is not None and self.dice.random() < self.loss and self._losses[data[8:20]] < 3:
            self._losses[data[8:20]] += 1
            return
        for _ in range(2 if self.dice is not None and self.dice.random() < self.loss / 4 else 1):
            delay = 0.01 if self.dice is None else self.dice.uniform(0.005, 0.04)
            heapq.heappush(self._coming, (self.now + delay, next(self._order), source, to, data))

    def _arrive(self, survey: Survey, source: HostPort, to: HostPort, data: bytes) -> None:
        if source.host == INSIDE:
            if self.nat.blocked:
                return
            if to.host == self.nat.outside and not self.nat.hairpin:
                return
            source = self.nat.out(source, to)
        if to.host == self.nat.outside:
            inside = self.nat.into(source, to)
            for number, local in self.sockets.items():
                if local == inside:
                    survey.received(number, source, data, self.now)
        elif to in self.servers:
            reply = respond(data, source, self.servers[to])
            if reply is not None:
                self._post(reply.origin, reply.to, reply.data)
