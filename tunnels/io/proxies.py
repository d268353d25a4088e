"""Ways through somebody's proxy: SOCKS5 (streams and UDP) and HTTP CONNECT, each in TLS if wanted."""

from __future__ import annotations

import select
from typing import Final

from cyfs_ns.errors import BadWire, Unreachable
from tunnels.authority import packed_of_host
from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.httpconnect import ConnectClient
from tunnels.io.leaf import Dialer, Leaf
from tunnels.io.tls import TlsClient
from tunnels.io.waiting import Handshake, TcpEndpoint, shake, within
from tunnels.outbound import Outbound
from tunnels.socks import SocksClient, pack_udp, unpack_udp
from tunnels.spec import HttpSpec, Socks5Spec

_UNSPECIFIED: Final = frozenset({"", "0.0.0.0", "::"})
_BAD_IN_A_ROW: Final = 16


class _Proxied(Leaf):
    """A leaf with a server that shakes hands before it carries anything, within ``timeout`` seconds."""

    def __init__(self, spec: Socks5Spec | HttpSpec, dialer: Dialer, timeout: float) -> None:
        super().__init__(spec)
        self._timeout = timeout
        self._dialer = dialer
        self._server = Target(spec.server, spec.port)
        self._tls = TlsClient(spec.tls_options, timeout) if spec.tls else None

    async def _shake(self, ep: Endpoint, machine: Handshake) -> Endpoint:
        if self._tls is not None:
            ep = await self._tls.wrap(ep, self._server.host)
        with within(self._timeout, f"the handshake with {self.name}"):
            return await shake(ep, machine)


class Socks5(_Proxied):
    """RFC 1928 with RFC 1929 credentials: CONNECT, and UDP ASSOCIATE when ``udp`` is on."""

    def __init__(self, spec: Socks5Spec, dialer: Dialer, timeout: float = 5.0) -> None:
        super().__init__(spec, dialer, timeout)
        self._spec = spec

    def over(self, dialer: Dialer) -> Outbound:
        return Socks5(self._spec, dialer, self._timeout)

    async def open_stream(self, target: Target) -> Endpoint:
        machine = SocksClient(target, self._spec.username, self._spec.password)
        return await self._shake(await self._dialer.open_stream(self._server), machine)

    async def open_packets(self, target: Target) -> PacketEndpoint:
        if not self.udp:
            raise self._streams_only()
        machine = SocksClient(Target("0.0.0.0", 0), self._spec.username, self._spec.password, "udp")
        ep = await self._dialer.open_stream(self._server)
        server = _peer_of(ep) or self._server.host
        control = await self._shake(ep, machine)
        try:
            bound = machine.bound
            if bound is None or not bound.port:
                raise Unreachable(f"{self.name} names no relay for UDP", "tunnel_open")
            relay = Target(server if bound.host in _UNSPECIFIED else bound.host, bound.port)
            return SocksPackets(control, await self._dialer.open_packets(relay), relay)
        except BaseException:
            control.close()
            raise


def _peer_of(ep: Endpoint) -> str:
    """The address a socket is connected to: a relay at "the same host" must not depend on resolving again."""
    if not isinstance(ep, TcpEndpoint):
        return ""
    try:
        return str(ep.getpeername()[0])
    except OSError:
        return ""


class SocksPackets:
    """Datagrams through a SOCKS5 relay.  The association lives as long as ``control``; when that ends, so does this.

    One descriptor stands for both connections: an epoll of its own.  Only datagrams that come from the relay count.
    """

    def __init__(self, control: Endpoint, lower: PacketEndpoint, relay: Target) -> None:
        self._control = control
        self._lower = lower
        self._relay = relay
        # A relay with a name lies behind a dialer that resolves it, so its address is not ours to compare.
        self._from_relay_only = packed_of_host(relay.host) is not None
        self._byte = memoryview(bytearray(1))
        self._epoll = select.epoll(2)
        self._epoll.register(control.fileno(), select.EPOLLIN)
        self._epoll.register(lower.fileno(), select.EPOLLIN)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def recv(self) -> tuple[bytes, Target]:
        for _ in range(_BAD_IN_A_ROW):
            try:
                data, came_from = self._lower.recv()
            except BlockingIOError:
                self._check_control()
                raise
            if self._from_relay_only and came_from != self._relay:
                continue
            try:
                source, payload = unpack_udp(data)
            except BadWire:
                continue
            return bytes(payload), source
        raise BlockingIOError

    def send(self, data: bytes | memoryview, to: Target) -> None:
        self._lower.send(pack_udp(to, data), self._relay)

    def _check_control(self) -> None:
        try:
            ended = self._control.recv_into(self._byte) == 0
        except BlockingIOError:
            return
        if ended:
            raise ConnectionResetError("the SOCKS proxy ended the UDP association")

    def close(self) -> None:
        self._epoll.close()
        self._lower.close()
        self._control.close()


class Http(_Proxied):
    """HTTP CONNECT."""

    def __init__(self, spec: HttpSpec, dialer: Dialer, timeout: float = 5.0) -> None:
        super().__init__(spec, dialer, timeout)
        self._spec = spec
        self.udp = False

    def over(self, dialer: Dialer) -> Outbound:
        return Http(self._spec, dialer, self._timeout)

    async def open_stream(self, target: Target) -> Endpoint:
        machine = ConnectClient(target, self._spec.username, self._spec.password, self._spec.headers)
        return await self._shake(await self._dialer.open_stream(self._server), machine)

    async def open_packets(self, target: Target) -> PacketEndpoint:
        raise self._streams_only()
