"""Outbounds that lead somewhere themselves, and the base they share.

Every leaf that has a server reaches it through a *dialer*, which is anything with the two opening verbs: direct,
another leaf, a group.  That is all there is to chains: ``dialer-proxy`` hands over a dialer, and anything goes over
anything.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from typing import Protocol

from cyfs_ns.errors import Refused, Unreachable
from rtcp.io.pipe import Answered, Denied, GiveUp
from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.io.direct import Guard, Sockets
from tunnels.io.tls import TlsClient
from tunnels.outbound import FlowHint, Outbound
from tunnels.spec import DirectSpec, ProxySpec, TlsSpec


class Dialer(Protocol):
    """What can open ways.  Every ``Outbound`` can."""

    async def open_stream(self, target: Target) -> Endpoint: ...
    async def open_packets(self, target: Target) -> PacketEndpoint: ...


class Leaf:
    """What leaves share.  By itself it refuses everything: that is ``reject``, ``reject-drop`` and ``pass``."""

    def __init__(self, spec: ProxySpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.kind = spec.kind
        self.udp = spec.udp
        self.hastens = False
        """Whether clients who wait to hear that their way is open are told so by ``hasten_stream``, too."""

    def pick(self, hint: FlowHint) -> Outbound:
        return self

    def over(self, dialer: Dialer) -> Outbound:
        """The same way, its own connection carried by ``dialer``; for relay groups."""
        return self

    def ask_stream(self, target: Target, then: Answered) -> GiveUp | None:
        """``open_stream`` for whoever is no task: what became of it ``then`` hears, and what comes back gives it up.

        None: it takes a task, since there is something to wait for; ``then`` hears nothing.
        """
        return None

    async def open_stream(self, target: Target) -> Endpoint:
        raise Refused(f"{self.name} lets nothing through")

    async def hasten_stream(self, target: Target, on_no: Denied) -> Endpoint:
        """As ``open_stream``, but whoever leads there need not have said yes once it has proven who it is: what is
        opened then breaks with a no, which ``on_no`` hears, as the streams of most kinds of proxies do."""
        return await self.open_stream(target)

    async def open_packets(self, target: Target) -> PacketEndpoint:
        raise Refused(f"{self.name} lets nothing through")

    def _streams_only(self) -> Unreachable:
        return Unreachable(f"{self.name} ({self.kind}) carries no UDP", "unsupported_scheme")


class Direct(Leaf):
    """Our own sockets; ``sockets`` is open to the reactor, which starts connects without a task."""

    def __init__(self, spec: DirectSpec, sockets: Sockets) -> None:
        super().__init__(spec)
        self.sockets = sockets

    def over(self, dialer: Dialer) -> Outbound:
        return Through(self.spec, dialer)

    def guarded(self, guard: Guard) -> Direct:
        """The same, whose streams ``guard`` watches as well; no datagrams."""
        found = copy.copy(self)
        found.sockets, found.udp = self.sockets.guarded(guard), False
        return found

    async def open_stream(self, target: Target) -> Endpoint:
        return await self.sockets.connect(target)

    async def open_packets(self, target: Target) -> PacketEndpoint:
        if not self.udp:
            raise self._streams_only()
        return self.sockets.packets()


class Through(Leaf):
    """``direct`` with a ``dialer-proxy``: adds nothing to its dialer but a name."""

    def __init__(self, spec: ProxySpec, dialer: Dialer) -> None:
        super().__init__(spec)
        self._dialer = dialer

    def over(self, dialer: Dialer) -> Outbound:
        return Through(self.spec, dialer)

    async def open_stream(self, target: Target) -> Endpoint:
        return await self._dialer.open_stream(target)

    async def open_packets(self, target: Target) -> PacketEndpoint:
        if not self.udp:
            raise self._streams_only()
        return await self._dialer.open_packets(target)


class Tls(Leaf):
    """The target itself is spoken to in TLS."""

    def __init__(self, spec: TlsSpec, dialer: Dialer) -> None:
        super().__init__(spec)
        self._spec = spec
        self._dialer = dialer
        self._tls = TlsClient(spec.tls_options)
        self.udp = False

    def over(self, dialer: Dialer) -> Outbound:
        return Tls(self._spec, dialer)

    async def open_stream(self, target: Target) -> Endpoint:
        return await self._tls.wrap(await self._dialer.open_stream(target), target.host)

    async def open_packets(self, target: Target) -> PacketEndpoint:
        raise self._streams_only()


class Dns(Leaf):
    """Whatever is asked for, the gateway's own DNS service answers; it hands in how.

    It wants to know who asks, and each opening by a picked one tells it.
    """

    def __init__(
        self,
        spec: ProxySpec,
        stream: Callable[[Target, str], Awaitable[Endpoint]],
        packets: Callable[[Target, str], Awaitable[PacketEndpoint]],
        source: str | None = None,
    ) -> None:
        super().__init__(spec)
        self._stream = stream
        self._packets = packets
        self._source = source

    def pick(self, hint: FlowHint) -> Outbound:
        if hint.source == self._source:
            return self
        return Dns(self.spec, self._stream, self._packets, hint.source)

    async def open_stream(self, target: Target) -> Endpoint:
        return await self._stream(target, self._source or "")

    async def open_packets(self, target: Target) -> PacketEndpoint:
        return await self._packets(target, self._source or "")
