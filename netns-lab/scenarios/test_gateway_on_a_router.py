"""The installed gateway on a router box: it carries its LAN by rules, without loops, and leaves nothing behind."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import trio
from netnslab import Gateway, Host
from netnslab.process import until
from netnslab.traffic import ask_udp, http_server, tcp_server, udp_echo
from pictures import Picture

REDIR, TPROXY, SOCKS = 7892, 7893, 7891


@pytest.fixture
def picture(lab):
    return Picture(lab)


def config(picture: Picture, *, redirect: bool = True, iptables: bool = True, **more: Any) -> dict[str, Any]:
    """A Clash configuration for the box; the server's second addresses are forbidden."""
    second4, second6 = picture.server.addresses[1], picture.server.addresses[3]
    return {
        "allow-lan": True,
        "bind-address": "*",
        "ipv6": True,
        "log-level": "debug",
        "lan-allowed-ips": ["192.168.1.0/24", "2001:db8:a::/64", "127.0.0.0/8", "::1/128"],
        **({"redir-port": REDIR} if redirect else {}),
        "tproxy-port": TPROXY,
        "iptables": {"enable": iptables, "inbound-interface": ["lan"], "dns-redirect": False},
        "rules": [
            f"IP-CIDR,{second4}/32,REJECT,no-resolve",
            f"IP-CIDR6,{second6}/128,REJECT,no-resolve",
            "DST-PORT,81,REJECT",
            "MATCH,DIRECT",
        ],
        **more,
    }


async def serve(nursery: trio.Nursery, server: Host) -> None:
    for ip in server.addresses:
        for port in (80, 81):
            await nursery.start(http_server, server, ip, port)
        await nursery.start(udp_echo, server, ip, 7)
        await nursery.start(tcp_server, server, ip, 9, _discard)


async def _discard(stream: trio.SocketStream) -> None:
    async for _ in stream:
        pass


async def curl(host: Host, ip: str, port: int = 80, *options: str) -> str:
    """What an HTTP server answered; an empty string when it did not."""
    url = f"http://{f'[{ip}]' if ':' in ip else ip}:{port}/"
    done = await host.run("curl", "-sS", "--noproxy", "" if options else "*", "-m", "8", *options, url, check=False)
    return done.out


def open_files(gateway: Gateway) -> int:
    return len(list(Path(f"/proc/{gateway.process.pid}/fd").iterdir()))


@pytest.mark.parametrize("redirect", [True, False], ids=["redirect-and-tproxy", "tproxy-alone"])
async def test_a_lan_is_carried_by_rules_without_a_setting(picture, redirect):
    client, box, server = picture.client, picture.box, picture.server
    second4, second6 = server.addresses[1], server.addresses[3]
    async with picture.lab.up(), trio.open_nursery() as nursery:
        await serve(nursery, server)
        async with box.gateway(config(picture, redirect=redirect)) as gateway:
            for ip, forbidden in ((server.ip, second4), (server.ip6, second6)):
                assert await curl(client, ip) in box.addresses, "the server saw the gateway"
                assert await curl(client, ip, 81) == "", "a rule forbids the port"
                assert await curl(client, forbidden) == "", "a rule forbids the address"
                answer = await ask_udp(client, (ip, 7), b"x")
                assert answer in [f"{own}|x".encode() for own in box.addresses]
                assert await ask_udp(client, (forbidden, 7), b"x", timeout=0.3) is None
                await expect_listed(gateway, client, ip, "Redir" if redirect else "TProxy")
        nursery.cancel_scope.cancel()


async def expect_listed(gateway: Gateway, client: Host, ip: str, kind: str) -> None:
    """A connection is listed while it lives, with rule and chain, and not after."""

    async def listed() -> list[dict[str, Any]]:
        every = await gateway.connections()
        return [c for c in every if c["metadata"]["destinationIP"] == ip and c["metadata"]["destinationPort"] == "9"]

    with await client.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM) as sock:
        await sock.connect((ip, 9))
        await sock.send(b"something")
        await until("the connection is listed", listed)
        (found,) = await listed()
        assert found["metadata"]["type"] == kind
        assert found["metadata"]["sourceIP"] in client.addresses
        assert (found["rule"].upper(), found["chains"]) == ("MATCH", ["DIRECT"])

    async def gone() -> bool:
        return not await listed()

    await until("it is not listed any more", gone)


@pytest.mark.parametrize("iptables", [True, False], ids=["with-rules", "listener-alone"])
async def test_no_way_leads_round_in_a_circle(picture, iptables):
    client, box, server = picture.client, picture.box, picture.server
    async with picture.lab.up(), trio.open_nursery() as nursery:
        await serve(nursery, server)
        wanted = config(picture, iptables=iptables, **{"socks-port": SOCKS})
        async with box.gateway(wanted) as gateway:
            idle = open_files(gateway)
            for host in (client, box):
                for ip in (*box.addresses, "127.0.0.1") if host is box else box.addresses:
                    for port in (REDIR, TPROXY):
                        assert await curl(host, ip, port) == "", "straight to a listener of the kernel's"
                        assert await ask_udp(host, (ip, port), b"x", timeout=0.05) is None
            proxy = f"{picture.box_lan}:{SOCKS}"
            for ip in (*box.addresses, "127.0.0.1", "::1"):
                for port in (REDIR, TPROXY, SOCKS):
                    assert await curl(client, ip, port, "--socks5", proxy) == "", "DIRECT, back to ourselves"
            assert await curl(client, server.ip, 80, "--socks5", proxy) == box.ip, "and it still serves"

            async def quiet() -> bool:
                return not [c for c in await gateway.connections() if c["metadata"]["network"] == "tcp"]

            await until("no connection runs on", quiet)
            await until("descriptors are given back", lambda: open_files(gateway) <= idle + 10)
        nursery.cancel_scope.cancel()


async def test_stopping_takes_away_every_rule_and_route(picture):
    box = picture.box
    async with picture.lab.up():
        before = await picture.traces()
        async with box.gateway(config(picture)) as gateway:
            during = await picture.traces()
            assert "cyfs_gateway" in during
            assert "fwmark" in during
            assert await gateway.stop() == 0
            assert await picture.traces() == before


async def test_what_a_killed_gateway_left_goes_with_the_next_start(picture):
    box = picture.box
    async with picture.lab.up():
        before = await picture.traces()
        async with box.gateway(config(picture)) as gateway:
            during = await picture.traces()
            await gateway.kill()
            assert await picture.traces() == during, "nobody tidied up"
        async with box.gateway(config(picture)):
            assert await picture.traces() == during, "the same again, once"
        assert await picture.traces() == before
        async with box.gateway(config(picture)) as gateway:
            await gateway.kill()
        async with box.gateway(config(picture, iptables=False)):
            assert await picture.traces() == before, "a configuration without iptables removes the leftovers"
