"""The direct way: our own TCP and UDP sockets, by Happy Eyeballs (RFC 8305), with the owner's socket options.

Options are worked out once, into a list of ``setsockopt`` calls, because a gateway makes thousands of sockets a second
and most need two or three options.  Names never reach the kernel or the C library from here: they go through the
``Resolve`` that was handed in, and only IP texts are connected to.
"""

from __future__ import annotations

import copy
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import trio

from cyfs_ns.errors import Unreachable
from tunnels.authority import packed_of_host
from tunnels.endpoint import Target
from tunnels.happy import Race, arrange
from tunnels.io.waiting import TcpEndpoint, within
from tunnels.spec import DialOptions

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Name to IP texts, both families.  Raises ``Unreachable`` (``pre_connect_dns``) or answers nothing."""

Guard = Callable[[str, int], None]
"""Asked before every TCP connect to an IP text and port; raises ``Refused`` for one that must not be made."""
Witness = Callable[[TcpEndpoint, str, int], None]
"""Told of every TCP connect that has begun, while its packets may already come back to us."""

_IPPROTO_MPTCP: Final = 262
_TCP_FASTOPEN_CONNECT: Final = 30
_NONBLOCKING: Final = int(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
_STREAM: Final = int(socket.SOCK_STREAM) | _NONBLOCKING
_V4, _V6 = int(socket.AF_INET), int(socket.AF_INET6)
"""Bare numbers: the enumerations of ``socket`` cost every connection a microsecond."""
_MAPPED: Final = "::ffff:"
_NAMES_KEPT: Final = 1024
_DATAGRAM: Final = 65535

_REASONS: Final = {
    errno.ECONNREFUSED: "connect_refused",
    errno.ECONNRESET: "connect_refused",
    errno.ETIMEDOUT: "connect_timeout",
    errno.ENETUNREACH: "pre_connect_route",
    errno.EHOSTUNREACH: "pre_connect_route",
    errno.ENETDOWN: "pre_connect_route",
    errno.EADDRNOTAVAIL: "pre_connect_route",
    errno.EAFNOSUPPORT: "pre_connect_route",
    errno.ENODEV: "pre_connect_route",
    errno.EACCES: "pre_connect_route",
    errno.EINVAL: "pre_connect_route",
}


def why(fault: OSError) -> str:
    """The reason (of ``cyfs_ns.errors.REASONS``) behind a failed connect."""
    return _REASONS.get(fault.errno or 0, "other")


class Sockets:
    """Makes our own sockets, all with the same options.  ``Direct`` is the outbound around it."""

    def __init__(
        self,
        options: DialOptions,
        resolve: Resolve,
        *,
        guard: Guard | None = None,
        witness: Witness | None = None,
    ) -> None:
        self.options = options
        self._resolve = resolve
        self._guard = guard
        self._witness = witness
        both: list[tuple[int, int, int | bytes]] = []
        if options.interface_name:
            both.append((socket.SOL_SOCKET, socket.SO_BINDTODEVICE, options.interface_name.encode() + b"\0"))
        if options.routing_mark:
            both.append((socket.SOL_SOCKET, socket.SO_MARK, options.routing_mark))
        tcp: list[tuple[int, int, int | bytes]] = [*both, (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        self._keep_alive_options: list[tuple[int, int, int]] = []
        if options.keep_alive:
            self._keep_alive_options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
            if options.keep_alive_idle:
                self._keep_alive_options.append((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, options.keep_alive_idle))
            if options.keep_alive_interval:
                interval = (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, options.keep_alive_interval)
                self._keep_alive_options.append(interval)
        if options.tfo:
            tcp.append((socket.IPPROTO_TCP, _TCP_FASTOPEN_CONNECT, 1))
        self._udp_options = both
        self._bind = (options.bind_address, options.bind_port) if options.bind_address or options.bind_port else None
        self._tcp_options = tcp
        # A kernel without MPTCP gets plain TCP, as its peers would.
        self._protocol = _IPPROTO_MPTCP if options.mptcp and _mptcp_works() else socket.IPPROTO_TCP

    def guarded(self, guard: Guard) -> Sockets:
        """The same, which ``guard`` watches as well."""
        before, found = self._guard, copy.copy(self)

        def both(ip: str, port: int) -> None:
            guard(ip, port)
            if before is not None:
                before(ip, port)

        found._guard = both
        return found

    def start_connect(self, ip: str, port: int) -> TcpEndpoint:
        """A non-blocking socket whose connect has begun; it turns writable when that ends, and ``SO_ERROR`` tells how.

        ``ip`` must be an IP text.  Keep-alive is left to :meth:`keep_alive`: most connections do not live to need it.
        Raises ``OSError``, see :func:`why`, or what the guard says.
        """
        if self._guard is not None:
            self._guard(ip, port)
        sock = TcpEndpoint(_V6 if ":" in ip else _V4, _STREAM, self._protocol)
        try:
            for level, option, value in self._tcp_options:
                sock.setsockopt(level, option, value)
            if self._bind is not None:
                sock.bind(self._bind)
            # Not connect(): an exception for EINPROGRESS on every connection costs more than the call itself.
            begun = sock.connect_ex((ip, port))
            if begun and begun != errno.EINPROGRESS:
                raise _socket_error(begun)
            if self._witness is not None:
                self._witness(sock, ip, port)
        except BaseException:
            sock.close()
            raise
        return sock

    def connect_here(self, target: Target) -> TcpEndpoint | None:
        """Connect to this machine, if ``target`` is an address of its loopback and answers in no time; else None.

        Raises ``Unreachable``, or as the guard.
        """
        if not _is_here(target.host) or self.options.ip_version != "dual":
            return None
        try:
            sock = self.start_connect(target.host, target.port)
            error = sock.connect_ex((target.host, target.port))
            if error and error != errno.EISCONN:
                sock.close()
                if error == errno.EALREADY:
                    return None
                raise _socket_error(error)
        except OSError as fault:
            raise _unreachable(target, fault) from fault
        self.keep_alive(sock)
        return sock

    def keep_alive(self, sock: TcpEndpoint) -> None:
        """Let the kernel find out when the peer is gone."""
        for level, option, value in self._keep_alive_options:
            sock.setsockopt(level, option, value)

    async def addresses(self, host: str) -> list[str]:
        """The addresses of ``host`` in the order to try.  Raises ``Unreachable``."""
        literal = packed_of_host(host) is not None
        found = arrange((host,) if literal else await self._resolve(host), self.options.ip_version)
        if not found:
            raise Unreachable(f"{host} has no address of the wanted family", "pre_connect_dns")
        return found

    async def connect(self, target: Target) -> TcpEndpoint:
        """Connect to ``target``, whichever of its addresses answers first.  Raises ``Unreachable``, or as the guard."""
        found = await self.addresses(target.host)
        if self._guard is not None and len(found) > 1:  # of several, none is tried when one is refused
            for ip in found:
                self._guard(ip, target.port)
        with within(self.options.connect_timeout, f"connecting to {target}"):
            try:
                if len(found) == 1:
                    return await self._attempt(target.port, found[0])
                return await _Contest(partial(self._attempt, target.port), found).run()
            except OSError as fault:
                raise _unreachable(target, fault) from fault

    async def _attempt(self, port: int, ip: str) -> TcpEndpoint:
        sock = self.start_connect(ip, port)
        try:
            error = sock.connect_ex((ip, port)) if _is_here(ip) else errno.EALREADY
            if error == errno.EALREADY:
                await trio.lowlevel.wait_writable(sock)
                error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            else:
                await trio.lowlevel.checkpoint_if_cancelled()
            if error and error != errno.EISCONN:
                raise _socket_error(error)
            self.keep_alive(sock)
        except BaseException:
            sock.close()
            raise
        return sock

    def packets(self) -> UdpEndpoint:
        """A UDP socket that reaches both families where the machine has them.  Raises ``Unreachable``."""
        version = self.options.ip_version
        try:
            return UdpEndpoint(self._udp_socket(version), version)
        except OSError as fault:
            raise Unreachable(f"no UDP socket: {fault}", why(fault)) from fault

    def _udp_socket(self, version: str) -> socket.socket:
        kind = socket.SOCK_DGRAM | _NONBLOCKING
        if version == "ipv4" or "." in self.options.bind_address:
            sock = socket.socket(socket.AF_INET, kind)
        else:
            try:
                sock = socket.socket(socket.AF_INET6, kind)
            except OSError:
                if version == "ipv6":
                    raise
                sock = socket.socket(socket.AF_INET, kind)
        try:
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, version == "ipv6")
            for level, option, value in self._udp_options:
                sock.setsockopt(level, option, value)
            sock.bind(self._bind or ("", 0))
        except BaseException:
            sock.close()
            raise
        return sock


class _Contest:
    """One connect to several addresses; the first that answers wins and the others are closed."""

    def __init__(self, attempt: Callable[[str], Awaitable[TcpEndpoint]], addresses: Sequence[str]) -> None:
        self._attempt = attempt
        self._race = Race(addresses)
        self._winner: TcpEndpoint | None = None
        self._fault: OSError | None = None
        self._news = trio.Event()

    async def run(self) -> TcpEndpoint:
        """Raises the ``OSError`` that says most when all have failed."""
        try:
            async with trio.open_nursery() as attempts:
                while self._race.waiting and self._winner is None:
                    self._news = trio.Event()
                    if (ip := self._race.start(trio.current_time())) is not None:
                        attempts.start_soon(self._try, ip, attempts.cancel_scope)
                    with trio.move_on_at(self._race.next_start):
                        await self._news.wait()
        except BaseException:
            if self._winner is not None:
                self._winner.close()
            raise
        if self._winner is None:
            raise self._fault or OSError(errno.ENETUNREACH, "no address could be tried")
        return self._winner

    async def _try(self, ip: str, contest: trio.CancelScope) -> None:
        try:
            sock = await self._attempt(ip)
        except OSError as fault:
            # "No route to IPv6" says little when the IPv4 server refused.
            if self._fault is None or why(self._fault) == "pre_connect_route":
                self._fault = fault
            self._race.failed(trio.current_time())
        else:
            if self._winner is None:
                self._winner = sock
                contest.cancel()
            else:
                sock.close()
        self._news.set()


class UdpEndpoint:
    """Datagrams to any address of either family, through one socket.

    Sends that the network refuses are drops, as everywhere in UDP.  So are sends to names: resolve them first.
    """

    __slots__ = ("_hosts", "_last", "_last_from", "_sock", "_version", "fileno")

    def __init__(self, sock: socket.socket, version: str) -> None:
        self._sock = sock
        self._version = version
        self._hosts: dict[str, str] = {}
        self._last: object = None
        self._last_from = Target("", 0)
        self.fileno = sock.fileno

    def recv(self) -> tuple[bytes, Target]:
        while True:
            try:
                data, address = self._sock.recvfrom(_DATAGRAM)
                break
            except ConnectionError:
                # An ICMP error about an earlier send; it takes nothing away from the next datagram.
                continue
        if address != self._last:
            self._last = address
            self._last_from = Target(address[0].removeprefix(_MAPPED), address[1])
        return data, self._last_from

    def send(self, data: bytes | memoryview, to: Target) -> None:
        host = self._hosts.get(to.host)
        if host is None:
            host = self._spell(to.host)
        if not host:
            return
        try:
            self._sock.sendto(data, (host, to.port))
        except OSError as fault:
            if fault.errno == errno.EBADF:
                raise

    def _spell(self, host: str) -> str:
        """``host`` as this socket wants it; empty when it cannot go there."""
        packed = packed_of_host(host)
        if packed is None or (len(packed) == 16) > (self._sock.family == socket.AF_INET6):
            return ""
        if len(packed) == 4 and self._sock.family == socket.AF_INET6:
            spelt = "" if self._version == "ipv6" else _MAPPED + host
        else:
            spelt = host
        if len(self._hosts) >= _NAMES_KEPT:
            self._hosts.clear()
        self._hosts[host] = spelt
        return spelt

    def close(self) -> None:
        self._sock.close()


def _is_here(ip: str) -> bool:
    """Whoever listens there has answered before a connect returns, and a second call tells."""
    return ip.startswith("127.") or ip == "::1"


def _unreachable(target: Target, fault: OSError) -> Unreachable:
    return Unreachable(f"cannot connect to {target}: {fault.strerror or fault}", why(fault))


def _socket_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _mptcp_works() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, _IPPROTO_MPTCP).close()
    except OSError:
        return False
    return True
