"""Small servers and clients that live in the test itself, on sockets of lab hosts.

Each server is a trio task for ``nursery.start``: when that returns, it answers.  They say whom they saw, for that is
what tests of routers and proxies want to know.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from netnslab.lab import Host

__all__ = ["NatSeen", "ask_udp", "dhcp_lease", "http_server", "measure_nat", "reflector", "tcp_server", "udp_echo"]

_Status = trio.TaskStatus[object]
_REFLECT, _REFLECT_FROM_ALL = b"who?", b"who? from all"


def _family(ip: str) -> int:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


async def _bound(host: Host, kind: int, ip: str, port: int) -> trio.socket.SocketType:
    sock = await host.socket(_family(ip), kind)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    await sock.bind((ip, port))
    return sock


async def udp_echo(host: Host, ip: str, port: int, *, task_status: _Status = trio.TASK_STATUS_IGNORED) -> None:
    """Answers each datagram with ``SOURCE-IP|data``."""
    with await _bound(host, socket.SOCK_DGRAM, ip, port) as sock:
        task_status.started()
        while True:
            data, source = await sock.recvfrom(65536)
            await sock.sendto(source[0].encode() + b"|" + data, source)


async def ask_udp(host: Host, target: tuple[str, int], data: bytes, *, timeout: float = 5.0) -> bytes | None:
    """One datagram and its answer, which must come from ``target``; None when there is none in time.

    The question is repeated each half second: datagrams may be lost.
    """
    with await host.socket(_family(target[0]), socket.SOCK_DGRAM) as sock, trio.move_on_after(timeout):
        await sock.connect(target)
        while True:
            with trio.move_on_after(0.5):
                try:
                    await sock.send(data)
                    return await sock.recv(65536)
                except ConnectionRefusedError:
                    await trio.sleep(0.1)
    return None


async def tcp_server(
    host: Host,
    ip: str,
    port: int,
    serve: Callable[[trio.SocketStream], Awaitable[None]],
    *,
    task_status: _Status = trio.TASK_STATUS_IGNORED,
) -> None:
    """Runs ``serve`` for each connection; a client that breaks off is no fault."""
    sock = await _bound(host, socket.SOCK_STREAM, ip, port)
    sock.listen(128)

    async def one(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await serve(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    await trio.serve_listeners(one, [trio.SocketListener(sock)], task_status=task_status)


async def http_server(
    host: Host, ip: str, port: int, *, body: bytes | None = None, task_status: _Status = trio.TASK_STATUS_IGNORED
) -> None:
    """Answers every GET with ``body``, or without one with the peer's address; then closes."""

    async def serve(stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (more := await stream.receive_some(4096)):
                return
            head += more
        answer = body if body is not None else stream.socket.getpeername()[0].encode()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(answer))
        await stream.send_all(answer)

    await tcp_server(host, ip, port, serve, task_status=task_status)


async def dhcp_lease(host: Host, mac: str, name: str, *, device: str = "eth0") -> str:
    """Get an IPv4 address by DHCP (RFC 2131) for a device of this MAC and name; it is not put on any interface."""
    number = os.urandom(4)
    head = b"\x01\x01\x06\x00" + number + b"\x00\x00\x80\x00" + bytes(16)
    head += bytes.fromhex(mac.replace(":", "")).ljust(208, b"\0") + b"\x63\x82\x53\x63\x35\x01"

    def message(kind: int, options: bytes = b"") -> bytes:
        return head + bytes((kind, 12, len(name))) + name.encode() + options

    with await host.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, trio.fail_after(60):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        await sock.bind(("", 68))
        question = message(1)
        while True:
            with trio.move_on_after(1):
                await sock.sendto(question, ("255.255.255.255", 67))
                answer, (server, _) = await sock.recvfrom(2000)
                kind = answer[answer.index(b"\x35\x01", 240) + 2]
                if answer[4:8] != number or kind not in (2, 5):
                    continue
                if kind == 5:
                    return str(ipaddress.IPv4Address(answer[16:20]))
                server = ipaddress.IPv4Address(server).packed
                question = message(3, b"\x32\x04" + answer[16:20] + b"\x36\x04" + server)


async def reflector(
    host: Host, ips: list[str], ports: list[int], *, task_status: _Status = trio.TASK_STATUS_IGNORED
) -> None:
    """The NAT check server: on every (address, port) it says from where it was asked; on demand from all of them."""
    socks = [await _bound(host, socket.SOCK_DGRAM, ip, port) for ip, port in itertools.product(ips, ports)]

    async def one(sock: trio.socket.SocketType) -> None:
        while True:
            data, source = await sock.recvfrom(100)
            for out in socks if data == _REFLECT_FROM_ALL else [sock]:
                await out.sendto(f"{source[0]} {source[1]}".encode(), source)

    async with trio.open_nursery() as nursery:
        for sock in socks:
            nursery.start_soon(one, sock)
        task_status.started()


@dataclass(frozen=True, slots=True)
class NatSeen:
    """What a client learnt of the NAT before it, in the words of ``Nat``."""

    mapping: str
    filtering: str
    port_kept: bool
    outside: tuple[str, int]
    """The first mapping."""


async def measure_nat(client: Host, ips: list[str], ports: list[int]) -> NatSeen:
    """Ask a ``reflector`` on two addresses and two ports.  ``trio.TooSlowError`` when UDP does not get through."""
    with await client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, trio.fail_after(60):
        await sock.bind((client.ip, 0))
        own_port = sock.getsockname()[1]
        # Filtering first: later questions would open the way for the answers that must not come.
        first = (ips[0], ports[0])
        answered: set[tuple[str, int]] = set()
        while not answered:
            await sock.sendto(_REFLECT_FROM_ALL, first)
            with trio.move_on_after(0.4):
                while True:
                    answered.add((await sock.recvfrom(100))[1])
        seen: dict[tuple[str, int], tuple[str, int]] = {}
        for place in itertools.product(ips, ports):
            while place not in seen:
                await sock.sendto(_REFLECT, place)
                with trio.move_on_after(0.5):  # datagrams may be lost
                    while place not in seen:
                        data, source = await sock.recvfrom(100)
                        ip, port = data.decode().split()
                        seen[source] = (ip, int(port))
    other_port, other_ip = (ips[0], ports[1]), (ips[1], ports[0])
    mapping = "EIM" if len(set(seen.values())) == 1 else "ADM" if seen[other_port] == seen[first] else "APDM"
    filtering = "EIF" if other_ip in answered else "ADF" if other_port in answered else "APDF"
    return NatSeen(mapping, filtering, seen[first][1] == own_port, seen[first])
