"""The netfilter plan on a real kernel: what it brings to the listeners, what it leaves alone, what it leaves behind.

The gateway's place is taken by servers of a few lines, so that only the rules are on trial.
"""

from __future__ import annotations

import functools
import itertools
import socket
from dataclasses import replace

import pytest
import trio
from netnslab import Host
from netnslab.traffic import ask_udp, http_server, udp_echo
from pictures import Picture

from cyfs_gateway.io import transparent
from cyfs_gateway.io.netfilter import Netfilter, cleanup
from cyfs_gateway.netfilter import OWN_MARK, Interception, plan
from cyfs_ns.errors import ConfigFault, Refused

REDIR, TPROXY, DNS = 7892, 7893, 1053
BOTH = Interception(instance="a1", interfaces=("lan",), redir_port=REDIR, tproxy_port=TPROXY)
ALL_TPROXY = replace(BOTH, redir_port=0)


@pytest.fixture
def picture(lab):
    return Picture(lab)


def netfilter_of(picture: Picture, instance: str = "a1") -> Netfilter:
    return Netfilter(instance, picture.on_box)


async def catch_tcp(box: Host, kind: str, port: int, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
    """A redirect or TPROXY listener of both families: says where the client wanted to go, and hangs up."""
    async with trio.open_nursery() as nursery:
        for family, ip in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            sock = await box.call(lambda family=family: socket.socket(family, socket.SOCK_STREAM))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if kind == "tproxy":
                transparent.set_transparent(sock)
            sock.bind((ip, port))
            sock.listen()

            async def tell(stream: trio.SocketStream) -> None:
                async with stream:
                    duplicate = socket.socket(fileno=stream.socket.dup().detach())
                    with duplicate:
                        asked = transparent.tproxy_dst if kind == "tproxy" else transparent.original_dst
                        try:
                            answer = "{} {}".format(*asked(duplicate))
                        except Refused:
                            answer = "refused"
                    await stream.send_all(f"caught {kind} {answer}".encode())

            nursery.start_soon(trio.serve_listeners, tell, [trio.SocketListener(trio.socket.from_stdlib_socket(sock))])
        task_status.started()


async def catch_udp(box: Host, port: int, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
    """A TPROXY listener for UDP: answers from the address the client wrote to."""

    async def one(sock: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(sock)
            data, anc, _, source = sock.recvmsg(65536, transparent.ORIG_DST_SPACE)
            name = transparent.parse_orig_dst(anc)
            with await box.call(functools.partial(transparent.reply_socket, *name, OWN_MARK)) as reply:
                reply.sendto("caught udp {} {} ".format(*name).encode() + data, source)

    async with trio.open_nursery() as nursery:
        for family, ip in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            sock = await box.call(lambda family=family: socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            transparent.set_transparent(sock)
            transparent.receive_orig_dst(sock)
            sock.bind((ip, port))
            nursery.start_soon(one, sock)
        task_status.started()


async def say(host: Host, ip: str, port: int, *, mark: int = 0) -> str:
    """What a TCP server there says to a plain GET; the error's name when there is no connection."""
    sock = await host.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
    with sock, trio.fail_after(60):
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        heard = b""
        try:
            await sock.connect((ip, port))
            await sock.send(b"GET / HTTP/1.0\r\n\r\n")
            while more := await sock.recv(4096):
                heard += more
        except OSError as fault:
            return heard.decode() or type(fault).__name__
        return heard.decode().rpartition("\r\n")[2]


async def serve_all(nursery: trio.Nursery, picture: Picture) -> None:
    server, box = picture.server, picture.box
    for ip in server.addresses:
        await nursery.start(http_server, server, ip, 80)
        await nursery.start(udp_echo, server, ip, 7)
    await nursery.start(catch_tcp, box, "redir", REDIR)
    await nursery.start(catch_tcp, box, "tproxy", TPROXY)
    await nursery.start(catch_udp, box, TPROXY)


@pytest.mark.parametrize("wanted", [BOTH, ALL_TPROXY], ids=["redirect", "tproxy"])
async def test_tcp_and_udp_of_the_lan_are_taken_and_nothing_else(picture, wanted):
    client, box, server = picture.client, picture.box, picture.server
    second4, second6 = server.addresses[1], server.addresses[3]
    wanted = replace(wanted, bypass=(second4, f"{second6}/128"))
    kind = "redir" if wanted.redir_port else "tproxy"
    async with picture.lab.up(), trio.open_nursery() as nursery:
        await serve_all(nursery, picture)
        await nursery.start(http_server, box, picture.box_lan, 80)
        await netfilter_of(picture).apply(plan(wanted))
        for ip in (server.ip, server.ip6):
            assert await say(client, ip, 80) == f"caught {kind} {ip} 80"
            for _ in range(2):
                assert await ask_udp(client, (ip, 7), b"x") == f"caught udp {ip} 7 x".encode()
        for ip, own in ((second4, client.ip), (second6, client.ip6)):
            assert await say(client, ip, 80) == own, "bypassed"
            assert await ask_udp(client, (ip, 7), b"x") == f"{own}|x".encode()
        assert await say(client, picture.box_lan, 80) == client.ip, "the box itself"
        assert await say(box, server.ip, 80) == box.ip, "the box's own traffic"
        nursery.cancel_scope.cancel()


async def test_a_client_that_goes_straight_to_a_listener_is_refused_by_the_kernel(picture):
    async with picture.lab.up(), trio.open_nursery() as nursery:
        await serve_all(nursery, picture)
        straight = list(itertools.product((picture.client, picture.box), picture.box.addresses, (REDIR, TPROXY)))
        for host, ip, port in straight:
            expected = "caught redir refused" if port == REDIR else f"caught tproxy {ip} {TPROXY}"
            assert await say(host, ip, port) == expected, "no rules yet: the listener must look itself"
        await netfilter_of(picture).apply(plan(BOTH))
        for host, ip, port in straight:
            assert await say(host, ip, port) == "ConnectionRefusedError"
        assert await ask_udp(picture.client, (picture.box.ip, TPROXY), b"x", timeout=0.3) is None
        nursery.cancel_scope.cancel()


async def test_flows_that_begin_outside_pass_untouched(picture):
    """A server in the LAN answers the internet: its replies come from the LAN, and are not a client's traffic."""
    client, server = picture.client, picture.server
    async with picture.lab.up(), trio.open_nursery() as nursery:
        await serve_all(nursery, picture)
        for ip in client.addresses:
            await nursery.start(http_server, client, ip, 8080)
            await nursery.start(udp_echo, client, ip, 9)
        await netfilter_of(picture).apply(plan(ALL_TPROXY))
        for ip in client.addresses:
            assert await say(server, ip, 8080) in server.addresses
            answer = await ask_udp(server, (ip, 9), b"x")
            assert answer in [f"{own}|x".encode() for own in server.addresses]
        nursery.cancel_scope.cancel()


async def test_a_late_answer_does_not_open_a_way_past_the_gateway(picture):
    """Our answer outlives the client's conntrack entry, so the flow now seems to begin at the foreign address."""
    client, box, server = picture.client, picture.box, picture.server
    async with picture.lab.up(), trio.open_nursery() as nursery:
        await serve_all(nursery, picture)
        await netfilter_of(picture).apply(plan(BOTH))
        with await client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, trio.fail_after(60):
            await sock.bind((client.ip, 5555))
            with await box.call(lambda: transparent.reply_socket(server.ip, 7, OWN_MARK)) as late:
                late.sendto(b"late", (client.ip, 5555))
                assert (await sock.recvfrom(100)) == (b"late", (server.ip, 7))
                await sock.sendto(b"x", (server.ip, 7))
                assert await sock.recv(100) == f"caught udp {server.ip} 7 x".encode()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("wanted", [BOTH, ALL_TPROXY], ids=["redirect", "tproxy"])
async def test_the_boxs_own_traffic_is_taken_only_when_asked_and_never_under_our_mark(picture, wanted):
    box, server = picture.box, picture.server
    kind = "redir" if wanted.redir_port else "tproxy"
    async with picture.lab.up(), trio.open_nursery() as nursery:
        await serve_all(nursery, picture)
        await netfilter_of(picture).apply(plan(replace(wanted, own_traffic=True)))
        for ip in (server.ip, server.ip6):
            assert await say(box, ip, 80) == f"caught {kind} {ip} 80"
            assert await ask_udp(box, (ip, 7), b"x") == f"caught udp {ip} 7 x".encode()
            assert (await say(box, ip, 80, mark=OWN_MARK)) in box.addresses
        nursery.cancel_scope.cancel()


async def test_dns_goes_to_our_listener_whomever_it_was_sent_to(picture):
    client, box, server = picture.client, picture.box, picture.server
    async with picture.lab.up(), trio.open_nursery() as nursery:
        await serve_all(nursery, picture)
        for ip in ("0.0.0.0", "::"):
            await nursery.start(udp_echo, box, ip, DNS)
        await netfilter_of(picture).apply(plan(replace(BOTH, dns_port=DNS)))
        for ip in (server.ip, "192.168.1.1", "2001:db8:a::1"):
            own = client.ip6 if ":" in ip else client.ip
            assert await ask_udp(client, (ip, 53), b"q") == f"{own}|q".encode()
        nursery.cancel_scope.cancel()


async def test_everything_goes_away_again_whatever_came_before(picture):
    netfilter = netfilter_of(picture)
    async with picture.lab.up():
        before = await picture.traces()
        assert await netfilter.remove() is False
        await netfilter.apply(plan(BOTH))
        applied = await picture.traces()
        await netfilter.apply(plan(BOTH))
        assert await picture.traces() == applied, "once or twice is the same"
        assert applied != before
        assert await netfilter_of(picture, "a1").remove() is True, "no memory is needed"
        assert await picture.traces() == before
        await netfilter.apply(plan(BOTH))
        await netfilter.apply(plan(replace(BOTH, tproxy_port=0)))
        assert "fwmark" not in await picture.traces(), "a reload without TPROXY drops its routing"
        await netfilter_of(picture, "b2").apply(plan(replace(BOTH, instance="b2")))
        await netfilter.remove()
        assert "cyfs_gateway_b2" in await picture.traces(), "another gateway's rules stay"
        await netfilter.apply(plan(BOTH))
        assert await cleanup(picture.on_box) == ["b2", "a1"]
        assert await picture.traces() == before


async def test_a_plan_the_kernel_refuses_leaves_what_was_there(picture):
    netfilter = netfilter_of(picture)
    good = plan(replace(BOTH, tproxy_port=0))
    async with picture.lab.up():
        await netfilter.apply(good)
        before = await picture.traces()
        with pytest.raises(ConfigFault, match="nft"):
            await netfilter.apply(replace(plan(BOTH), ruleset=good.ruleset + "nonsense\n"))
        assert await picture.traces() == before
