"""Ways through the tunnels of this device: ``rtcp://peer[:port]/target``, and ``rudp`` for datagrams alone.

The authority is a peer, by the host name that stands for its DID; whoever answers has to prove the key that was found
for it.  The target is reached by the peer, under the peer's rules; ``/:443`` is the peer itself.

How the tunnel gets to the peer can be written before an ``@``.  A carrier without a target of its own, like
``socks://hop:1080``, is asked for the peer's addresses; one with a target, like ``socks://hop:1080/peer:2980``, leads
there by itself, and no address is looked up.  The tunnel is end to end: whoever carries it sees ciphertext.

A URL as the *target* is the peer's to open: it is a hop that we trust with what passes.

A proxy of the configuration (``RtcpProxy``) is such a way under a name; without a server, the name that a flow goes to
is the peer.

The host makes names and policy meet: it opens a device (``rtcp.io.device``) with a ``House``, and calls
``join_tunnels``.
"""

from __future__ import annotations

import hashlib
import secrets
import select
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final, Protocol
from urllib.parse import quote

import trio

from cyfs_ns.errors import BadWire, ConfigFault, Unreachable
from cyfs_ns.identity.did import Bridges, Did, subject
from cyfs_ns.names import is_ip
from rtcp.io.device import Carrier
from rtcp.io.pipe import Answered, DatagramPipe, Denied, GiveUp
from rtcp.io.roll import AnyTunnel
from rtcp.party import Address
from tunnels.authority import parse_authority
from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.io.leaf import Dialer, Leaf
from tunnels.io.registry import Tunnels
from tunnels.outbound import FlowHint, Outbound
from tunnels.spec import RtcpSpec
from tunnels.url import TunnelUrl
from tunnels.url import parse as parse_url

_NAMES_KEPT: Final = 256
"""Host names of which a proxy remembers whom they stand for, since each of many streams asks."""
_DESTINATIONS_MOST: Final = 64
_QUEUE_MOST: Final = 16
_REST: Final = 1.0
"""Seconds for which a destination that was refused is not asked for again."""
_SALT: Final = secrets.token_bytes(16)


class Opener(Protocol):
    """Opens ways through tunnels: a ``Device``, or whoever stands for the one that there is at the moment."""

    async def tunnel(self, did: Did, *, via: Carrier | None = None, at: int | None = None) -> AnyTunnel: ...
    async def open_stream(
        self,
        did: Did,
        host: str | None,
        port: int,
        *,
        via: Carrier | None = None,
        at: int | None = None,
        source: Address | None = None,
    ) -> Endpoint: ...
    async def hasten_stream(
        self,
        did: Did,
        host: str | None,
        port: int,
        on_no: Denied | None = None,
        *,
        via: Carrier | None = None,
        at: int | None = None,
        source: Address | None = None,
    ) -> Endpoint: ...
    def ask_stream(
        self,
        did: Did,
        host: str | None,
        port: int,
        then: Answered,
        *,
        via: Carrier | None = None,
        source: Address | None = None,
    ) -> GiveUp | None: ...
    async def open_datagrams(
        self,
        did: Did,
        host: str | None,
        port: int,
        *,
        via: Carrier | None = None,
        at: int | None = None,
        source: Address | None = None,
    ) -> DatagramPipe: ...
    def open_datagrams_soon(
        self,
        then: Callable[[DatagramPipe | None], None],
        did: Did,
        host: str | None,
        port: int,
        *,
        via: Carrier | None = None,
        at: int | None = None,
        source: Address | None = None,
    ) -> None: ...


def join_tunnels(tunnels: Tunnels, device: Opener, bridges: Bridges | None = None) -> None:
    """Let ``tunnels`` open ``rtcp`` and ``rudp`` URLs through the tunnels of ``device``."""
    build = partial(build_way, tunnels, device, bridges)
    tunnels.register("rtcp", build, ships=True)
    tunnels.register("rudp", build, ships=True)


def build_way(tunnels: Tunnels, device: Opener, bridges: Bridges | None, url: TunnelUrl, dialer: Dialer | None) -> Rtcp:
    """The way that the authority of an ``rtcp`` or ``rudp`` URL describes.  Raises ``ConfigFault``."""
    if url.carrier is None and url.params:
        raise ConfigFault(f"{url.redacted}: a tunnel is opened with keys, not with user and password")
    if not url.host:
        raise ConfigFault(f"{url.redacted}: the peer is missing, as in {url.scheme}://peer/target")
    try:
        did = subject(url.host, bridges)
    except BadWire as bad:
        raise ConfigFault(f"{url.redacted}: {bad}") from bad
    carrier = _carrier(tunnels, url, dialer)
    return Rtcp(url.redacted, device, did, carrier, url.port, streams=url.scheme != "rudp")


def _carrier(tunnels: Tunnels, url: TunnelUrl, dialer: Dialer | None) -> Carrier | None:
    inner = url.carrier
    if inner is not None and inner.path:

        async def lead(host: str, port: int) -> Endpoint:
            try:
                return await tunnels.open_url(inner)
            except ConfigFault as fault:
                raise Unreachable(str(fault), "unsupported_scheme") from fault

        return Carrier(_name(inner), lead, leads=True)
    if dialer is None:
        return None
    if inner is not None:
        name = _name(inner)
    elif isinstance(dialer, Leaf | Rtcp):
        name = dialer.name
    else:
        raise ConfigFault(f"{url.redacted}: write what carries the tunnel before the @")

    async def dial(host: str, port: int) -> Endpoint:
        return await dialer.open_stream(Target(host, port))

    return Carrier(name, dial)


def _name(url: TunnelUrl) -> str:
    """One text for one way, which may be shown: nobody can try passwords on it."""
    if not url.secretive:
        return url.normalised
    return f"{url.redacted}#{hashlib.blake2b(url.normalised.encode(), key=_SALT, digest_size=8).hexdigest()}"


class Rtcp:
    """An outbound through the tunnel from ``device`` to the peer ``did``."""

    def __init__(
        self,
        name: str,
        device: Opener,
        did: Did,
        carrier: Carrier | None,
        port: int | None,
        *,
        streams: bool = True,
        source: Address | None = None,
    ) -> None:
        """``port``: where the peer listens, if the URL says so.  Without ``streams`` there are datagrams alone.
        ``source``: what the peer is told of where it comes from."""
        self.name = name
        self.kind = "Rtcp"
        self.udp = True
        self._device, self._did, self._port, self._streams, self._source = device, did, port, streams, source
        self.carrier = carrier
        """What carries its tunnel; None: plain connections."""

    def pick(self, hint: FlowHint) -> Outbound:
        return self

    def peer_for(self, host: str) -> Did:
        """As :meth:`RtcpProxy.peer_for`; always the same."""
        return self._did

    async def open_stream(self, target: Target) -> Endpoint:
        if not self._streams:
            raise Unreachable("rudp carries datagrams only", "unsupported_scheme")
        return await self._device.open_stream(
            self._did, target.host or None, target.port, via=self.carrier, at=self._port, source=self._source
        )

    async def open_packets(self, target: Target) -> PacketEndpoint:
        return RtcpPackets(self, target, await self.open_datagrams(target))

    async def open_datagrams(self, target: Target) -> DatagramPipe:
        """Datagrams to ``target`` alone."""
        return await self._device.open_datagrams(
            self._did, target.host or None, target.port, via=self.carrier, at=self._port, source=self._source
        )

    def open_soon(self, target: Target, then: Callable[[DatagramPipe | None], None]) -> None:
        """Open datagrams to ``target``; ``then`` is called with them, or with None."""
        self._device.open_datagrams_soon(
            then, self._did, target.host or None, target.port, via=self.carrier, at=self._port, source=self._source
        )


class RtcpProxy(Leaf):
    """A proxy of type ``rtcp``.  ``dialer`` carries its tunnels; None: plain connections."""

    def __init__(
        self, spec: RtcpSpec, tunnels: Tunnels, device: Opener, bridges: Bridges | None, dialer: Dialer | None
    ) -> None:
        """Raises ``ConfigFault`` for a server that is nobody, or a URL that makes no sense."""
        super().__init__(spec)
        self._tells, self.hastens = spec.proxy_protocol, spec.fast_open
        self._told: FlowHint | None = None
        """The flow whose source the peer is told."""
        self._device = device
        self._subject = lru_cache(_NAMES_KEPT)(partial(subject, bridges=bridges))
        self.port = spec.port or None
        """Where its server listens; None: as its documents say."""
        try:
            self._did = subject(spec.server, bridges) if spec.server else None
        except BadWire as bad:
            raise ConfigFault(f"proxy {spec.name!r}: {bad}") from bad
        self._target = _target(spec.target) if spec.target else None
        self.carrier: Carrier | None = None
        """What carries its tunnels; None: plain connections."""
        if spec.via:
            # Whoever is there, the way before the @ is the same.
            url = parse_url(f"rtcp://{quote(spec.via, safe='')}@peer.invalid")
            way = tunnels.way(url)
            assert isinstance(way, Rtcp)
            self.carrier = way.carrier
        elif dialer is not None:

            async def dial(host: str, port: int) -> Endpoint:
                return await dialer.open_stream(Target(host, port))

            self.carrier = Carrier(f"proxy {spec.dialer_proxy}", dial)

    def pick(self, hint: FlowHint) -> Outbound:
        if not self._tells or hint == self._told:
            return self
        told = copy(self)
        told._told = hint
        return told

    async def ping(self) -> float:
        if self._did is None:
            raise Unreachable(
                f"{self.name} leads to whoever is named, so there is nobody to ping", "unsupported_scheme"
            )
        return await (await self._device.tunnel(self._did, via=self.carrier, at=self.port)).ping()

    def peer_for(self, host: str) -> Did | None:
        """Who carries what goes to ``host``; None: nobody can be named so."""
        try:
            return self._did or self._subject(host)
        except BadWire:
            return None

    def is_to(self, peer: Did) -> bool:
        """Whether ``peer`` is its server."""
        return self._did is not None and self._did.canonical == peer.canonical

    def _way(self, target: Target) -> tuple[Rtcp, Target]:
        peer, target = self._peer(target)
        return Rtcp(self.name, self._device, peer, self.carrier, self.port, source=self._source), target

    def _peer(self, target: Target) -> tuple[Did, Target]:
        """Who carries it, and what that peer is asked for.  Raises ``Unreachable``."""
        peer = self._did
        if peer is None:
            peer, target = self._named(target.host), Target("", target.port)
        elif self._is_named(peer, target.host):
            target = Target("", target.port)
        return peer, self._target or target

    @property
    def _source(self) -> Address | None:
        told = self._told
        return (told.source, told.source_port) if told is not None and told.source else None

    def _named(self, host: str) -> Did:
        try:
            return self._subject(host)
        except BadWire as bad:
            raise Unreachable(f"{self.name}: {host or 'nobody'} is no device: {bad}", "pre_connect_dns") from bad

    def _is_named(self, peer: Did, host: str) -> bool:
        try:
            return bool(host) and not is_ip(host) and self._subject(host).canonical == peer.canonical
        except BadWire:
            return False

    def ask_stream(self, target: Target, then: Answered) -> GiveUp | None:
        try:
            peer, target = self._peer(target)
        except Unreachable:
            return None  # whoever awaits it hears why
        return self._device.ask_stream(
            peer, target.host or None, target.port, then, via=self.carrier, source=self._source
        )

    async def open_stream(self, target: Target) -> Endpoint:
        way, target = self._way(target)
        return await way.open_stream(target)

    async def hasten_stream(self, target: Target, on_no: Denied) -> Endpoint:
        peer, target = self._peer(target)
        return await self._device.hasten_stream(
            peer, target.host or None, target.port, on_no, via=self.carrier, at=self.port, source=self._source
        )

    async def open_packets(self, target: Target) -> PacketEndpoint:
        if not self.udp:
            raise self._streams_only()
        way, goal = self._way(target)
        return RtcpPackets(self, target, await way.open_datagrams(goal))

    def open_soon(self, target: Target, then: Callable[[DatagramPipe | None], None]) -> None:
        """As :meth:`Rtcp.open_soon`; each target may be another peer."""
        try:
            way, goal = self._way(target)
        except Unreachable:
            then(None)
        else:
            way.open_soon(goal, then)


def _target(text: str) -> Target:
    """``host:port``, or ``:port``."""
    return Target("", int(text[1:])) if text.startswith(":") else parse_authority(text.encode())


@dataclass(slots=True)
class _Destination:
    """One target: ``way`` is None while it is being opened and after that failed, until ``rests_until``."""

    way: DatagramPipe | None
    queue: list[bytes]
    rests_until: float = 0.0


class RtcpPackets:
    """Datagrams to many targets, each through a stream of its own; the first ones wait until it is open."""

    def __init__(self, outbound: Rtcp | RtcpProxy, target: Target, first: DatagramPipe) -> None:
        """``first`` is its own, and is closed should there be no more descriptors.  Raises ``Unreachable`` then."""
        self._outbound = outbound
        try:
            self._epoll = select.epoll()
        except OSError as fault:
            first.close()
            raise Unreachable(f"no datagrams can be carried: {fault}", "other") from fault
        self._destinations: OrderedDict[Target, _Destination] = OrderedDict()
        self._watched: dict[int, Target] = {}
        self._destinations[target] = _Destination(None, [])
        self.opened(target, first)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def recv(self) -> tuple[bytes, Target]:
        for fd, _ in self._epoll.poll(0):
            target = self._watched[fd]
            way = self._destinations[target].way
            assert way is not None
            try:
                return way.recv(), target
            except BlockingIOError:
                continue
            except OSError:
                self._drop(target)  # the next datagram for it opens another way
        raise BlockingIOError

    def send(self, data: bytes | memoryview, to: Target) -> None:
        if self._epoll.closed:
            raise OSError("the packet way is closed")
        found = self._destinations.get(to)
        if found is None or (found.rests_until and found.rests_until <= trio.current_time()):
            self._start(to, bytes(data))
            return
        self._destinations.move_to_end(to)
        if found.way is not None:
            try:
                found.way.send(data)
            except OSError:
                self._drop(to)
        elif not found.rests_until and len(found.queue) < _QUEUE_MOST:
            found.queue.append(bytes(data))

    def opened(self, target: Target, way: DatagramPipe | None) -> None:
        """What ``target`` was waiting for is there, or failed."""
        waiting = self._destinations.get(target)
        if waiting is None or waiting.way is not None:
            if way is not None:
                way.close()  # given up meanwhile
            return
        if way is None:
            waiting.queue.clear()
            waiting.rests_until = trio.current_time() + _REST
            return
        waiting.way, waiting.rests_until = way, 0.0  # another that was asked for it may have failed before
        fd = way.fileno()
        self._watched[fd] = target
        self._epoll.register(fd, select.EPOLLIN)
        queue, waiting.queue = waiting.queue, []
        with suppress(OSError):
            for data in queue:
                way.send(data)

    def _start(self, target: Target, data: bytes) -> None:
        self._destinations[target] = _Destination(None, [data])
        self._destinations.move_to_end(target)
        if len(self._destinations) > _DESTINATIONS_MOST:
            self._drop(next(iter(self._destinations)))
        self._outbound.open_soon(target, partial(self.opened, target))

    def _drop(self, target: Target) -> None:
        way = self._destinations.pop(target).way
        if way is not None:
            self._epoll.unregister(way.fileno())
            del self._watched[way.fileno()]
            way.close()

    def close(self) -> None:
        for target in list(self._destinations):
            self._drop(target)
        self._epoll.close()
