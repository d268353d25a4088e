"""Calls between two gateways: the tunnel's key proves which device calls, and a service is found at the other end."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
import trio
from krpcservices import House, Note, Notes, until, user

from cyfs_gateway.host import Host
from cyfs_gateway.io.modules import Modules
from tests.cyfs_gateway.io.peering import HOME, LAPTOP, NAS, PHOTOS, PI, machine, published
from tests.freeport import free_port
from zone.config.model import Set, Transaction
from zone.io.config.sqlite import Database, SqliteBackend
from zone.io.config.store import ConfigStore
from zone.io.krpc.client import Client
from zone.io.krpc.dispatch import Dispatcher
from zone.io.krpc.resolve import Here, open_services
from zone.io.krpc.server import OFFER, KrpcServer
from zone.io.krpc.transport import HttpTransport, by_endpoint
from zone.krpc.faults import Code, KrpcFault


class Calls:
    """A module that offers the notes to the devices of its zone."""

    section = "calls"
    hosts: ClassVar[list[Host]] = []
    house: ClassVar[House]

    @classmethod
    def check(cls, settings: Any) -> None:
        pass

    async def run(self, host: Host, settings: Any) -> None:
        self.hosts.append(host)
        dispatcher = self.house.dispatcher

        def known(identity):
            return user(identity.did.rpartition(":")[2]) if identity.zone == str(HOME) else None

        server = KrpcServer(dispatcher, lambda token: user("nobody"), known)
        host.register_offer(OFFER, server.serve_peer)
        await trio.sleep_forever()


@pytest.fixture
async def hosts(tmp_path, monkeypatch):
    """How ``photos``, which serves notes, and ``laptop`` see their gateways."""
    Calls.hosts, Calls.house = [], House()
    monkeypatch.setattr(Modules, "discover", staticmethod(lambda: {"calls": Calls}))
    port = free_port()
    config = f"rtcp: {{listen: '127.0.0.1:{port}', versions: [5]}}\nrules: ['MATCH,REJECT']\ncalls: on\n"
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, config, did=PHOTOS, dns=dns),
        machine(tmp_path / "laptop", PI, "rtcp: {versions: [5]}\ncalls: on\n", did=LAPTOP, dns=dns),
    ):
        await until(lambda: len(Calls.hosts) == 2)
        yield Calls.hosts


async def test_the_key_of_a_tunnel_says_who_calls(hosts):
    _, here = hosts
    transport = HttpTransport(by_endpoint(lambda: here.call_offer(PHOTOS, OFFER)))
    client = Client(transport, "notes")
    notes = client.of(Notes)
    assert await notes.whoami() == LAPTOP.id
    assert await notes.put("milk") == Note("milk")
    async with client.batch(Notes) as calls:
        last = calls.step(0)
        for _ in range(9):
            last = calls.step(last)
        title = calls.list()[0].title
    assert (await last, await title) == (10, "milk")
    assert list(Calls.house.kept) == [LAPTOP.id]
    await transport.aclose()


async def test_a_service_is_found_through_a_tunnel(hosts, tmp_path):
    _, here = hosts
    backend = SqliteBackend(Database(tmp_path / "zone.db"))
    store = ConfigStore(backend)
    told = {"photos": {"node_did": str(PHOTOS), "state": "Started", "weight": 1, "service_port": {}}}
    await store.transact(Transaction((Set("services/notes/info", json.dumps({"node_list": told})),)))
    place = Here("laptop", here, tmp_path / "k.sock")
    async with open_services(store, place, Dispatcher(), user("laptop")) as services:
        assert await services.service("notes").of(Notes).whoami() == LAPTOP.id
        with pytest.raises(KrpcFault) as caught:
            await services.service("notes").call("put", {"title": 5})
        assert caught.value.code == Code.INVALID
    await backend.aclose()
