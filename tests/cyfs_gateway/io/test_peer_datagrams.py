"""A program that speaks UDP with many, through a proxy of type ``rtcp``: each of them is a flow at the far gateway."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from inprocess import udp_echo, until
from peering import LAPTOP, NAS, PHOTOS, PI, machine, published
from test_udp import associated

from cyfs_gateway.io.packets import Association, _Route, _Way
from tests.freeport import free_port
from tunnels.endpoint import Target

PHOTOS_CONFIG = """
hosts: {{echo.test: 127.0.0.1}}
rtcp: {{listen: '127.0.0.1:{port}'}}
rules: ['AND,((ZONE,home.example),(DST-PORT,{refused})),REJECT', 'ZONE,home.example,DIRECT']
"""
LAPTOPS = """
listeners: [{{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}}]
proxies: [{{name: home, type: rtcp, server: photos.home.example}}]
rules: ['MATCH,home']
rtcp: {{versions: [{version}]}}
"""


@pytest.mark.parametrize("version", [5, 4])
async def test_one_association_reaches_many_by_the_far_gateway(
    tmp_path: Path, nursery: trio.Nursery, version: int
) -> None:
    port, marks = free_port(), [b"%d " % number for number in range(20)]
    echoes = {await udp_echo(nursery, mark): mark for mark in marks}
    refused, *allowed = echoes
    async with (
        published(port) as dns,
        machine(
            tmp_path / "photos", NAS, PHOTOS_CONFIG.format(port=port, refused=refused), did=PHOTOS, dns=dns
        ) as photos,
        machine(tmp_path / "laptop", PI, LAPTOPS.format(version=version), did=LAPTOP, dns=dns) as laptop,
        associated(laptop) as client,
    ):
        targets = [Target("echo.test" if number % 2 else "127.0.0.1", at) for number, at in enumerate(allowed)]
        await client.send("127.0.0.1", refused, b"never")
        for target in targets:
            await client.send(target.host, target.port, b"a")
        got = dict([await client.recv() for _ in targets])
        assert got == {target: echoes[target.port] + b"a" for target in targets}
        for target in reversed(targets):
            await client.send(target.host, target.port, b"b")
            assert await client.recv() == (target, echoes[target.port] + b"b")
        flows = [one.flow for one in photos.gateway.connections()]
        assert sorted(flow.dst_port for flow in flows) == sorted(allowed)
        assert {flow.network for flow in flows} == {"udp"}
        assert all(flow.identity is not None and flow.identity.did == str(LAPTOP) for flow in flows)
    await until(lambda: not laptop.gateway.connections())


async def test_a_client_has_so_many_ways_through_tunnels_and_opens_so_many_at_once(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_TUNNELLED_MOST", 3), ("_OPENING_MOST", 2), ("_REST", 0.0)):
        monkeypatch.setattr(f"cyfs_gateway.io.packets.{name}", value)
    port, echoes, most = free_port(), [await udp_echo(nursery) for _ in range(8)], 0
    open_way, opening = Association._open, set[object]()

    async def counted(self: Association, key: _Way, first: _Route) -> None:
        nonlocal most
        opening.add(key)
        most = max(most, len(opening))
        await open_way(self, key, first)
        opening.remove(key)

    monkeypatch.setattr(Association, "_open", counted)
    config = PHOTOS_CONFIG.format(port=port, refused=9)
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, config, did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, LAPTOPS.format(version=5), did=LAPTOP, dns=dns) as laptop,
        associated(laptop) as client,
    ):
        for at in echoes:
            await client.send("127.0.0.1", at, b"all at once")
        await client.recv()
        await until(lambda: not opening)
        assert most == 2
        for at in echoes:
            await client.send("127.0.0.1", at, b"one by one")
            while await client.recv() != (Target("127.0.0.1", at), b"one by one"):
                pass
        await until(lambda: len(photos.gateway.connections()) == 3)
        assert {one.flow.dst_port for one in photos.gateway.connections()} == set(echoes[-3:])
        assert len(laptop.gateway.connections()) == 3
