"""Our own sockets: options, Happy Eyeballs against real listeners, reasons of failure, UDP's rules."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence

import pytest
import trio

from cyfs_ns.errors import Unreachable
from tests.tunnels.exam import black_hole, closed_port, receive_packet, udp_echo
from tunnels.endpoint import Target
from tunnels.io.direct import Sockets, UdpEndpoint, why
from tunnels.spec import DialOptions


def sockets(*addresses: str, **options: object) -> Sockets:
    async def resolve(host: str) -> Sequence[str]:
        return addresses

    return Sockets(DialOptions(**{"connect_timeout": 3.0, **options}), resolve)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ECONNREFUSED, "connect_refused"),
        (errno.ETIMEDOUT, "connect_timeout"),
        (errno.ENETUNREACH, "pre_connect_route"),
        (errno.EMFILE, "other"),
    ],
)
def test_reasons(number: int, reason: str) -> None:
    assert why(OSError(number, "x")) == reason


async def test_a_started_connect_is_a_bare_socket_with_the_options_set() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = sockets(keep_alive_idle=33, keep_alive_interval=7)
        sock = ours.start_connect(*listener.getsockname())
        assert sock.gettimeout() == 0.0 and not os.get_inheritable(sock.fileno())
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        ours.keep_alive(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 33
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 7
        await trio.lowlevel.wait_writable(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        sock.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: SO_MARK and SO_BINDTODEVICE")
async def test_mark_and_interface() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = sockets(routing_mark=77, interface_name="lo", keep_alive=False)
        sock = ours.start_connect(*listener.getsockname())
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 77
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16) == b"lo\0"
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        sock.close()
        udp = ours.packets()
        assert udp._sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 77
        udp.close()
    with pytest.raises(Unreachable) as fault:
        await sockets(interface_name="nosuch0").connect(Target("127.0.0.1", 1))
    assert fault.value.reason == "pre_connect_route"


@pytest.mark.parametrize("flag", ["tfo", "mptcp"])
async def test_optional_ways_to_connect(flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = await sockets(**{flag: True}).connect(Target(*listener.getsockname()))
        sock.send(b"hello")
        near, _ = listener.accept()
        assert near.recv(5) == b"hello"
        near.close()
        sock.close()


def test_whoever_is_on_this_machine_is_reached_without_waiting() -> None:
    ours = sockets()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = ours.connect_here(Target(*listener.getsockname()))
        assert sock is not None and sock.getpeername() == listener.getsockname()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sockets(ip_version="ipv6").connect_here(Target(*listener.getsockname())) is None
        sock.close()
    with pytest.raises(Unreachable) as fault:
        ours.connect_here(Target("127.0.0.1", closed_port()))
    assert fault.value.reason == "connect_refused"
    for elsewhere in ("192.0.2.1", "localhost"):
        assert ours.connect_here(Target(elsewhere, 80)) is None
    with black_hole() as hole:
        before = len(os.listdir("/proc/self/fd"))
        assert ours.connect_here(Target("127.0.0.1", hole.port)) is None
        assert len(os.listdir("/proc/self/fd")) == before


async def test_the_source_address_can_be_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = await sockets(bind_address="127.0.0.9").connect(Target(*listener.getsockname()))
        assert sock.getsockname()[0] == "127.0.0.9"
        sock.close()
    udp = sockets(bind_address="127.0.0.9").packets()
    assert udp._sock.getsockname()[0] == "127.0.0.9"
    udp.close()


async def test_the_other_family_is_tried_at_once_when_one_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        sock = await sockets("127.0.0.1", "::1").connect(Target("both.example", port))
        assert sock.getpeername() == ("127.0.0.1", port)
        sock.close()


async def test_an_address_that_never_answers_is_overtaken() -> None:
    with black_hole() as hole, socket.create_server(("127.0.0.2", hole.port)) as listener:
        before = len(os.listdir("/proc/self/fd"))
        sock = await sockets("127.0.0.1", "127.0.0.2").connect(Target("two.example", hole.port))
        assert sock.getpeername() == listener.getsockname()
        sock.close()
        assert len(os.listdir("/proc/self/fd")) == before


async def test_when_all_fail_the_telling_reason_is_given() -> None:
    with pytest.raises(Unreachable) as refused:
        await sockets("127.0.0.1", "::1").connect(Target("a.example", closed_port()))
    assert refused.value.reason == "connect_refused"
    with pytest.raises(Unreachable) as nowhere:
        await sockets().connect(Target("a.example", 1))
    assert nowhere.value.reason == "pre_connect_dns"
    with pytest.raises(Unreachable) as wrong_family:
        await sockets("192.0.2.1", ip_version="ipv6").connect(Target("a.example", 1))
    assert wrong_family.value.reason == "pre_connect_dns"
    with black_hole() as hole, pytest.raises(Unreachable) as silent:
        await sockets("127.0.0.1", "127.0.0.1", connect_timeout=0.1).connect(Target("a.example", hole.port))
    assert silent.value.reason == "connect_timeout"


async def test_udp_drops_what_it_cannot_send() -> None:
    for version in ("dual", "ipv4", "ipv6"):
        udp = sockets(ip_version=version).packets()
        for target in (
            Target("name.example", 53),
            Target("127.0.0.1", 0),
            Target("240.0.0.1", 9),
            Target("2001:db8::1", 9),
        ):
            udp.send(b"x", target)
            udp.send(b"x" * 70_000, target)
        with pytest.raises(BlockingIOError):
            udp.recv()
        udp.close()
        udp.close()


async def test_udp_keeps_to_its_family() -> None:
    async with udp_echo("127.0.0.1") as four, udp_echo("::1") as six:
        for version, reached, other in (("ipv4", four, six), ("ipv6", six, four)):
            udp = sockets(ip_version=version).packets()
            udp.send(b"no", other)
            udp.send(b"yes", reached)
            assert await receive_packet(udp) == (b"yes", reached)
            with pytest.raises(BlockingIOError):
                udp.recv()
            udp.close()


async def test_a_machine_without_ipv6_still_has_udp(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without_ipv6(family: int = socket.AF_INET, *rest: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no IPv6 here")
        return real(family, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("tunnels.io.direct.socket.socket", without_ipv6)
        udp = sockets().packets()
    async with udp_echo("127.0.0.1") as four:
        udp.send(b"hello", four)
        assert await receive_packet(udp) == (b"hello", four)
    udp.close()


def test_many_peers_do_not_fill_the_memory() -> None:
    udp = UdpEndpoint(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "ipv4")
    for i in range(3000):
        udp.send(b"", Target(f"127.{i // 250}.0.{i % 250}", 9))
    assert len(udp._hosts) <= 1024
    udp.close()
