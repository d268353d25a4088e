"""From what is written to what can be opened: proxies of the configuration, and tunnel URLs by their scheme.

The table of schemes is open: a transport joins by registering a *builder*, which turns a URL's authority into a way.
The path is walked here, once for all schemes: a target is opened over that way, a nested URL is built over it in turn.

Every attempt to open a URL also teaches the status table, so later choices know what works without asking again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final

import trio

from cyfs_ns.errors import ConfigFault, Refused, Unreachable
from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.io.direct import Guard, Resolve, Sockets, Witness
from tunnels.io.leaf import Dialer, Direct, Dns, Leaf, Through, Tls
from tunnels.io.proxies import Http, Socks5
from tunnels.io.waiting import TcpEndpoint, send_all
from tunnels.proxyproto import build_v1
from tunnels.spec import (
    DialOptions,
    DirectSpec,
    DnsSpec,
    HttpSpec,
    PassSpec,
    ProxySpec,
    RejectDropSpec,
    RejectSpec,
    RtcpSpec,
    Socks5Spec,
    TlsSpec,
    TunnelSpec,
)
from tunnels.status import Source, State, StatusTable, UrlStatus
from tunnels.url import TunnelUrl, parse

_PROBES_AT_ONCE: Final = 32
_LOCAL: Final = "127.0.0.1"
_DIALERS_DEEP: Final = 16
_dialer_depth: ContextVar[int] = ContextVar("dialer_depth", default=0)
"""How many dialers by name the calling task is inside of.  A provider's proxies may name each other in a circle, which
shows only when they are used."""


# Proxies of the configuration


class _Named:
    """A dialer that is known by name only: looked up when used, so order and reloads do not matter."""

    def __init__(self, name: str, find: Callable[[str], Dialer]) -> None:
        self._name = name
        self._find = find

    async def open_stream(self, target: Target) -> Endpoint:
        with self._one_deeper():
            return await self._find(self._name).open_stream(target)

    async def open_packets(self, target: Target) -> PacketEndpoint:
        with self._one_deeper():
            return await self._find(self._name).open_packets(target)

    @contextmanager
    def _one_deeper(self) -> Iterator[None]:
        depth = _dialer_depth.get()
        if depth >= _DIALERS_DEEP:
            raise Unreachable(f"dialer-proxy {self._name!r}: dialers lead to one another in a circle", "tunnel_open")
        token = _dialer_depth.set(depth + 1)
        try:
            yield
        finally:
            _dialer_depth.reset(token)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundBuilder:
    """What all proxies of one configuration are built from."""

    options: DialOptions
    """The global socket options; a proxy's own lie over them."""
    resolve: Resolve
    """For destinations that go out directly."""
    resolve_server: Resolve
    """For the proxies' own servers: must not itself need a proxy."""
    find: Callable[[str], Dialer]
    """Any outbound by name, for ``dialer-proxy``; raises ``Unreachable`` when there is none."""
    guard: Guard | None = None
    witness: Witness | None = None
    """Both watch every TCP connect of ours: see ``tunnels.io.direct``."""
    tunnels: Tunnels | None = None
    """What opens tunnel URLs; ``None``: such proxies cannot be built."""
    rtcp: Callable[[RtcpSpec, Dialer | None], Leaf] | None = None
    """Makes a way through a tunnel of this device, its connections carried by the dialer, if one is given; ``None``:
    there is no device."""
    dns_stream: Callable[[Target, str], Awaitable[Endpoint]] | None = None
    """How the gateway's DNS service is opened for a client's IP address, empty for ourselves; ``None``: it has none."""
    dns_packets: Callable[[Target, str], Awaitable[PacketEndpoint]] | None = None

    def build(self, spec: ProxySpec) -> Leaf:
        """The outbound for ``spec``.  Opens nothing.  Raises ``ConfigFault`` for a spec nobody here knows."""
        match spec:
            case DirectSpec() if spec.dialer_proxy:
                return Through(spec, self._dialer(spec))
            case DirectSpec():
                return Direct(spec, self._sockets(spec, self.resolve))
            case Socks5Spec():
                return Socks5(spec, self._dialer(spec), self.options.connect_timeout)
            case HttpSpec():
                return Http(spec, self._dialer(spec), self.options.connect_timeout)
            case TlsSpec():
                return Tls(spec, self._dialer(spec))
            case TunnelSpec() if self.tunnels is not None:
                return TunnelWay(spec, self.tunnels)
            case RtcpSpec() if self.rtcp is not None:
                return self.rtcp(spec, self._dialer(spec) if spec.dialer_proxy else None)
            case DnsSpec() if self.dns_stream is not None and self.dns_packets is not None:
                return Dns(spec, self.dns_stream, self.dns_packets)
            case DnsSpec() | RejectSpec() | RejectDropSpec() | PassSpec():
                return Leaf(spec)
            case _:
                raise ConfigFault(f"proxy {spec.name!r}: nobody here can build a {type(spec).__name__}")

    def _sockets(self, spec: ProxySpec, resolve: Resolve) -> Sockets:
        common = self.options
        return Sockets(
            replace(
                common,
                interface_name=spec.interface_name or common.interface_name,
                routing_mark=spec.routing_mark or common.routing_mark,
                ip_version=common.ip_version if spec.ip_version == "dual" else spec.ip_version,
                tfo=spec.tfo or common.tfo,
                mptcp=spec.mptcp or common.mptcp,
            ),
            resolve,
            guard=self.guard,
            witness=self.witness,
        )

    def _dialer(self, spec: ProxySpec) -> Dialer:
        if spec.dialer_proxy:
            return _Named(spec.dialer_proxy, self.find)
        # A tls proxy goes to destinations, all others to a server.
        resolve = self.resolve if isinstance(spec, TlsSpec) else self.resolve_server
        return Direct(DirectSpec(name=spec.name), self._sockets(spec, resolve))


# Tunnel URLs

SchemeBuilder = Callable[[TunnelUrl, Dialer | None], Dialer]
"""From a URL's authority to a way; the dialer carries its connection, ``None`` means our own sockets.  Never opens."""


class Tunnels:
    """Opens tunnel URLs and keeps what was learnt in ``status``."""

    def __init__(
        self,
        options: DialOptions,
        resolve: Resolve,
        status: StatusTable | None = None,
        *,
        guard: Guard | None = None,
        witness: Witness | None = None,
    ) -> None:
        self._guard = guard
        self._witness = witness
        self.status = status if status is not None else StatusTable()
        self._options = options
        self._resolve = resolve
        self._probes = trio.Semaphore(_PROBES_AT_ONCE)
        self._probing: dict[str, trio.Event] = {}
        self._shipping: set[str] = set()
        self._builders: dict[str, SchemeBuilder] = {
            "tcp": self._local,
            "udp": self._local,
            "direct": self._local,
            "ptcp": self._announcing,
            "tls": lambda url, dialer: Tls(TlsSpec(name=url.redacted), dialer or self._own()),
            "socks": self._socks,
            "socks5": self._socks,
            "http": self._http,
            "https": self._http,
            "reject": lambda url, dialer: Leaf(RejectSpec(name="reject")),
        }

    def register(self, scheme: str, builder: SchemeBuilder, *, ships: bool = False) -> None:
        """Add a transport, or replace one.

        One that ``ships`` hands a nested URL to the far side as it is, in the host of a target with port 0: the far
        side opens it, and sees what it carries.  Through all others we open it ourselves.
        """
        self._builders[scheme] = builder
        (self._shipping.add if ships else self._shipping.discard)(scheme)

    def unregister(self, scheme: str) -> None:
        """Take a transport away; ways that are open stay open."""
        self._builders.pop(scheme, None)

    async def open_url(self, url: TunnelUrl) -> Endpoint:
        """Open a byte stream.  Raises ``Unreachable``, ``Refused``, or ``ConfigFault`` when the URL makes no sense."""
        return await self._attempt(url, None, Source.BUSINESS_CONNECT)

    async def open_over(self, url: TunnelUrl, target: Target) -> Endpoint:
        """Open a byte stream to ``target`` by the way that ``url``, which names no target itself, describes."""
        return await self._attempt(url, target, Source.BUSINESS_CONNECT)

    async def open_packets_over(self, url: TunnelUrl, target: Target) -> PacketEndpoint:
        """Open a packet way by ``url``; ``target`` is the first destination."""
        return await self._way(url, None).open_packets(target)

    async def open_packets_url(self, url: TunnelUrl) -> tuple[PacketEndpoint, Target]:
        """Open a packet way, and say where the URL wants its packets to go.  Raises as ``open_url`` does."""
        way, goal = self._walk(url, None)
        return await way.open_packets(goal), goal

    async def probe(self, url: TunnelUrl) -> UrlStatus:
        """What is known of ``url``, after trying it if nothing fresh is.  Raises ``ConfigFault`` only."""
        key = url.normalised
        if (running := self._probing.get(key)) is not None:
            await running.wait()
        elif self.status.wants_probe(url, time.time()):
            self._probing[key] = ended = trio.Event()
            self.status.probe_started(url)
            try:
                await self._probe(url)
            finally:
                self.status.probe_ended(url)
                del self._probing[key]
                ended.set()
            return self.status.ask(url, time.time(), fresh=True)
        return self.status.ask(url, time.time())

    async def _probe(self, url: TunnelUrl) -> None:
        if url.scheme == "udp":
            # UDP has no answer to a knock: silence means nothing.
            self.status.learn(url, State.UNSUPPORTED, Source.UNSUPPORTED, time.time(), reason="unsupported_scheme")
            return
        async with self._probes:
            try:
                ep = await self._attempt(url, None, Source.FRESH_PROBE)
            except Unreachable:
                return
            except Refused:
                self.status.learn(url, State.UNKNOWN, Source.FRESH_PROBE, time.time())
                return
        ep.close()

    async def _attempt(self, url: TunnelUrl, target: Target | None, source: Source) -> Endpoint:
        began = trio.current_time()
        try:
            way, goal = self._walk(url, None) if target is None else (self._way(url, None), target)
            ep = await way.open_stream(goal)
        except Unreachable as fault:
            state = State.UNREACHABLE
            if fault.reason == "unsupported_scheme":
                state, source = State.UNSUPPORTED, Source.UNSUPPORTED
            self.status.learn(url, state, source, time.time(), reason=fault.reason)
            raise
        rtt = (trio.current_time() - began) * 1000
        self.status.learn(url, State.REACHABLE, source, time.time(), rtt=rtt)
        return ep

    def _walk(self, url: TunnelUrl, dialer: Dialer | None) -> tuple[Dialer, Target]:
        """The way that ``url`` and all URLs nested in it describe, and its end."""
        way = self._way(url, dialer)
        if not url.path and url.host and url.port is not None and url.scheme in ("tcp", "tls"):
            # Nested inside another URL these two are often written without a path: ``tls://host:port``.
            return way, Target(url.host, url.port)
        goal = url.destination
        if not isinstance(goal, TunnelUrl):
            return way, goal
        return (way, Target(str(goal), 0)) if url.scheme in self._shipping else self._walk(goal, way)

    def way(self, url: TunnelUrl) -> Dialer:
        """The way that ``url`` describes, without its target.  Raises ``Unreachable``: nobody here opens such."""
        return self._way(url, None)

    def _way(self, url: TunnelUrl, dialer: Dialer | None) -> Dialer:
        builder = self._builders.get(url.scheme)
        if builder is None:
            raise Unreachable(f"nobody here opens {url.scheme} URLs", "unsupported_scheme")
        carrier = url.carrier
        return builder(url, dialer if carrier is None else self._way(carrier, dialer))

    def _own(self, bind: str = "", port: int = 0) -> Direct:
        options = replace(self._options, bind_address=bind, bind_port=port)
        sockets = Sockets(options, self._resolve, guard=self._guard, witness=self._witness)
        return Direct(DirectSpec(name="direct"), sockets)

    def _local(self, url: TunnelUrl, dialer: Dialer | None) -> Dialer:
        if not url.path:
            return _HostDefault(dialer or self._own(), _LOCAL)
        return _HostDefault(dialer or self._own(url.host, url.port or 0), url.host or _LOCAL)

    def _announcing(self, url: TunnelUrl, dialer: Dialer | None) -> Dialer:
        if not url.host or url.port is None:
            raise ConfigFault("a ptcp URL needs the source to announce, as ptcp://ip:port/...")
        return _Announcing(_HostDefault(dialer or self._own(), _LOCAL), Target(url.host, url.port))

    def _socks(self, url: TunnelUrl, dialer: Dialer | None) -> Dialer:
        if not url.host:
            return dialer or self._own()
        user, password = url.credentials
        spec = Socks5Spec(
            name=url.redacted,
            server=url.host,
            port=1080 if url.port is None else url.port,
            username=user,
            password=password,
            udp=True,
        )
        return Socks5(spec, dialer or self._own(), self._options.connect_timeout)

    def _http(self, url: TunnelUrl, dialer: Dialer | None) -> Dialer:
        if not url.host:
            raise ConfigFault(f"a {url.scheme} URL needs the proxy as its host")
        tls = url.scheme == "https"
        user, password = url.credentials
        port = url.port if url.port is not None else 443 if tls else 80
        spec = HttpSpec(name=url.redacted, server=url.host, port=port, username=user, password=password, tls=tls)
        return Http(spec, dialer or self._own(), self._options.connect_timeout)


class TunnelWay(Leaf):
    """A tunnel URL as an outbound of the configuration."""

    def __init__(self, spec: TunnelSpec, tunnels: Tunnels) -> None:
        super().__init__(spec)
        self._url = parse(spec.url)
        self._tunnels = tunnels

    async def open_stream(self, target: Target) -> Endpoint:
        return await self._tunnels.open_over(self._url, target)

    async def open_packets(self, target: Target) -> PacketEndpoint:
        if not self.udp:
            raise self._streams_only()
        return await self._tunnels.open_packets_over(self._url, target)


class _HostDefault:
    """Fills in the host of a target that has none: ``tcp:///:80`` means this machine."""

    def __init__(self, inner: Dialer, host: str) -> None:
        self._inner = inner
        self._host = host

    async def open_stream(self, target: Target) -> Endpoint:
        return await self._inner.open_stream(Target(target.host or self._host, target.port))

    async def open_packets(self, target: Target) -> PacketEndpoint:
        return await self._inner.open_packets(Target(target.host or self._host, target.port))


class _Announcing:
    """Says whom the stream is from, in a PROXY v1 line before everything else."""

    def __init__(self, inner: Dialer, source: Target) -> None:
        self._inner = inner
        self._source = source

    async def open_stream(self, target: Target) -> Endpoint:
        ep = await self._inner.open_stream(target)
        try:
            goal = Target(*ep.getpeername()[:2]) if isinstance(ep, TcpEndpoint) else target
            await send_all(ep, build_v1(self._source, goal))
        except OSError as fault:
            ep.close()
            raise Unreachable(f"{target} took no PROXY line: {fault}", "tunnel_open") from fault
        except BaseException:
            ep.close()
            raise
        return ep

    async def open_packets(self, target: Target) -> PacketEndpoint:
        raise Unreachable("ptcp carries no UDP", "unsupported_scheme")
