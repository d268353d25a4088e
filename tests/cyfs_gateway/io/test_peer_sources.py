"""Where a stream came from, as a peer tells it: told where that is wanted, believed of whom ``proxy-from`` names."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from inprocess import Living, connect, echo, exactly, serve, socks5_request, udp_echo, until
from peering import LAPTOP, NAS, PHOTOS, PI, dev, machine, published
from test_udp import associated

from cyfs_gateway.flow import Flow
from tests.freeport import free_port
from tunnels.endpoint import Target
from tunnels.proxyproto import build_v1

CLIENT, CLIENT6 = ("198.51.100.7", 40000), ("2001:db8::7", 40000)
MAPPED = ("::ffff:198.51.100.7", 40000)
NOT_TOLD = ("127.0.0.1", 0)


def laptops(version: int = 5, tells: str = "true", proxies: str = "127.0.0.0/8") -> str:
    return f"""
listeners: [{{name: mixed, type: mixed, listen: 127.0.0.1, port: 0, proxy-protocol: [{proxies}]}}]
proxies: [{{name: peers, type: rtcp, proxy-protocol: {tells}}}]
proxy-groups: [{{name: group, type: select, proxies: [peers]}}]
rules: ['DOMAIN-SUFFIX,home.example,group', 'MATCH,DIRECT']
rtcp: {{versions: [{version}]}}
"""


def photos_rules(port: int, target: int, believed: str = "laptop.home.example", seen: str = "0.0.0.0/0") -> str:
    return f"""
rtcp:
  listen: 127.0.0.1:{port}
  proxy-from: [{believed}]
rules: ['AND,((ZONE,home.example),(SRC-IP-CIDR,{seen}),(DST-PORT,{target})),DIRECT']
"""


async def asked_by(client: tuple[str, int], house: Living, port: int) -> trio.SocketStream:
    """A stream by SOCKS of a client behind a balancer."""
    stream = await connect(house.port())
    line = build_v1(Target(*client), Target(client[0], 1080))
    await stream.send_all(line + socks5_request("photos.home.example", port))
    assert await exactly(stream, 2) == b"\x05\x00"
    reply = await exactly(stream, 4)
    await exactly(stream, {1: 6, 4: 18}[reply[3]])
    assert reply[1] == 0
    await stream.send_all(b"hello")
    assert await exactly(stream, 5) == b"hello"
    return stream


def seen_by(house: Living) -> list[Flow]:
    return [one.flow for one in house.gateway.connections()]


@pytest.mark.parametrize(
    ("believed", "version", "tells", "told", "seen"),
    [
        ("laptop.home.example", 5, "true", CLIENT, CLIENT),
        (str(dev(PI)), 5, "true", MAPPED, CLIENT),
        ("laptop.home.example", 5, "true", CLIENT6, CLIENT6),
        ("laptop.home.example", 5, "false", CLIENT, NOT_TOLD),
        ("laptop.home.example", 4, "true", CLIENT, NOT_TOLD),
        ("photos.home.example", 5, "true", CLIENT, NOT_TOLD),
        ("", 5, "true", CLIENT, NOT_TOLD),
    ],
)
async def test_a_source_is_told_by_whom_it_is_asked_of_and_believed_of_whom_it_may_be(
    tmp_path: Path,
    nursery: trio.Nursery,
    believed: str,
    version: int,
    tells: str,
    told: tuple[str, int],
    seen: tuple[str, int],
) -> None:
    port, target = free_port(), await serve(nursery, echo)
    alone = f"{seen[0]}/{128 if ':' in seen[0] else 32}"
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, photos_rules(port, target, believed, alone), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, laptops(version, tells), did=LAPTOP, dns=dns) as laptop,
    ):
        stream = await asked_by(told, laptop, target)  # the rules see it, too
        (flow,) = seen_by(photos)
        assert (flow.src_ip, flow.src_port) == seen
        assert flow.identity is not None and flow.identity.did == str(LAPTOP), "whose word it is does not change"
        await stream.aclose()


async def test_each_flow_is_told_as_its_own_clients(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, target = free_port(), await serve(nursery, echo)
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, photos_rules(port, target), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, laptops(), did=LAPTOP, dns=dns) as laptop,
    ):
        clients = [("198.51.100.7", 40000), ("198.51.100.7", 40001), ("198.51.100.8", 40000)]
        streams = [await asked_by(client, laptop, target) for client in clients]
        assert [(flow.src_ip, flow.src_port) for flow in seen_by(photos)] == clients
        assert {one.chains for one in laptop.gateway.connections()} == {("peers", "group")}
        for stream in streams:
            await stream.aclose()


async def test_datagrams_tell_their_source_as_well(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, target = free_port(), await udp_echo(nursery, b"said ")
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, photos_rules(port, target), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, laptops(proxies="127.0.0.9/32"), did=LAPTOP, dns=dns) as laptop,
        associated(laptop) as client,
    ):
        await client.send("photos.home.example", target, b"hello")
        assert (await client.recv())[1] == b"said hello"
        await until(lambda: seen_by(photos))
        (flow,) = seen_by(photos)
        assert (flow.src_ip, flow.src_port) == client.sock.getsockname()


async def test_nobody_is_believed_for_a_name_that_only_the_dns_gives_him(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, target = free_port(), await serve(nursery, echo)
    photos_config = f"""
rtcp:
  listen: 127.0.0.1:{port}
  txt-bootstrap: true
  admission: ['TRUST,plain-dns,ACCEPT']
  proxy-from: [laptop.home.example]
rules: ['AND,((TRUST,none),(DST-PORT,{target})),DIRECT']
"""
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, photos_config, did=PHOTOS, dns=dns, pinned=False) as photos,
        machine(tmp_path / "laptop", PI, laptops(), did=LAPTOP, dns=dns) as laptop,
    ):
        stream = await asked_by(CLIENT, laptop, target)
        (flow,) = seen_by(photos)
        assert flow.identity is not None and flow.identity.did == str(LAPTOP)
        assert (flow.src_ip, flow.src_port) == NOT_TOLD
        await stream.aclose()
