"""``service("notes")`` finds the best instance, of several that are processes of their own, and finds it again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
from krpcservices import House, Note, Notes, serving, until, user

from cyfs_ns.errors import Misuse, Unreachable
from cyfs_ns.identity.did import dev_did, did_of_host
from cyfs_ns.identity.keys import SecretKey
from tunnels.io.waiting import TcpEndpoint
from zone.config.faults import Code as ConfigCode
from zone.config.faults import ConfigError
from zone.config.model import Delete, Entry, Reading, Set, Transaction
from zone.io.config.sqlite import Database, SqliteBackend
from zone.io.config.store import ConfigStore
from zone.io.krpc.dispatch import Dispatcher
from zone.io.krpc.resolve import Here, open_services
from zone.io.krpc.transport import CONNECT_SECONDS
from zone.krpc.faults import Code, KrpcFault

HERE = Path(__file__).parent
INFO = "services/notes/info"


def did_of(node):
    return dev_did(SecretKey(node.encode().ljust(32, b"\0")).public)


class Tunnels:
    """Leads to the ports of the other nodes, which all are on this machine, as the gateway leads to them by rtcp."""

    def __init__(self):
        self.opened = []
        self.cut = set()

    async def open_url(self, url):
        host, _, port = url.removeprefix("rtcp://").partition("/:")
        did = did_of_host(host)
        self.opened.append(url)
        if did in self.cut:
            await trio.sleep_forever()
        sock = trio.socket.socket()
        try:
            await sock.connect(("127.0.0.1", int(port)))
        except OSError as fault:
            raise Unreachable(str(fault)) from fault
        return TcpEndpoint(sock.family, sock.type, sock.proto, sock.detach())

    async def call_offer(self, peer, name):
        raise Unreachable(f"{peer} offers no {name}")


@pytest.fixture
def nodes():
    """Starts nodes that serve notes; gives the port of each."""
    with ExitStack() as running:
        started = {}

        def start(name):
            process = subprocess.Popen(
                [sys.executable, str(HERE / "krpcserverprocess.py"), name],
                stdout=subprocess.PIPE,
                cwd=HERE.parents[2],
                env={"PYTHONPATH": f"{HERE.parents[2]}:{HERE}"},
            )
            running.callback(process.wait)
            running.callback(process.kill)
            started[name] = process
            return int(process.stdout.readline())

        start.started = started
        yield start


def info(**ports):
    return {
        "selector_type": "random",
        "node_list": {
            name: {
                "node_did": str(did_of(name)),
                "node_net_id": "",
                "state": "Started",
                "weight": 100,
                "service_port": {} if port is None else {"kapi": port},
            }
            for name, port in ports.items()
        },
    }


class Zone:
    def __init__(self, tmp_path):
        self.backend = SqliteBackend(Database(tmp_path / "zone.db"))
        self.store = ConfigStore(self.backend)
        self.tunnels = Tunnels()
        self.dispatcher = Dispatcher()
        self.here = Here("laptop", self.tunnels, tmp_path / "k.sock")

    async def tell(self, **ports):
        await self.store.transact(Transaction((Set(INFO, json.dumps(info(**ports))),)))

    def services(self):
        return open_services(self.store, self.here, self.dispatcher, user("ann"))


@pytest.fixture
async def zone(tmp_path):
    made = Zone(tmp_path)
    yield made
    await made.backend.aclose()


async def test_a_service_is_found_wherever_it_runs_and_when_it_moves(zone, nodes):
    one, two = nodes("one"), nodes("two")
    await zone.tell(one=one)
    async with zone.services() as services:
        notes = services.service("notes").of(Notes)
        assert await notes.whoami() == "one"
        assert await notes.put("milk") == Note("milk")
        assert len(zone.tunnels.opened) == 1  # the connection is used again
        await zone.tell(two=two)
        await until_it_is(notes, "two")
        assert len(services._transports) == 1
        await zone.store.transact(Transaction((Delete(INFO),)))
        with trio.fail_after(30):
            while True:
                try:
                    await notes.whoami()
                except KrpcFault as fault:
                    assert (fault.code, fault.message) == (Code.UNAVAILABLE, "notes is ready nowhere")
                    break
        await zone.tell(one=one)
        await until_it_is(notes, "one")
        async with services.service("notes").batch(Notes) as calls:
            third = calls.step(calls.step(0))
        assert await third == 2


async def until_it_is(notes, name):
    with trio.fail_after(30):
        while True:
            try:
                if await notes.whoami() == name:
                    return
            except KrpcFault as fault:
                assert fault.code == Code.UNAVAILABLE


async def test_a_node_that_is_killed_is_left_for_another(zone, nodes):
    ports = {name: nodes(name) for name in ("one", "two")}
    await zone.tell(**ports)
    async with zone.services() as services:
        notes = services.service("notes").of(Notes)
        seen = set()
        while len(seen) < 2:
            seen.add(await notes.whoami())
        killed = nodes.started["one"]
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        for _ in range(20):
            assert await notes.whoami() == "two"


async def test_a_node_that_does_not_answer_the_tunnel_is_left_for_another(tmp_path, autojump_clock):
    house, tunnels = House(), Tunnels()
    tunnels.cut.add(did_of("gone"))
    async with serving(house, tcp=("127.0.0.1", 0)) as (url,):
        store = Told(info(one=int(url.rpartition(":")[2]), gone=1))
        here = Here("laptop", tunnels, tmp_path / "k.sock")
        async with open_services(store, here, Dispatcher(), user("ann")) as services:
            services._doubted = {"one": float("inf")}
            began = trio.current_time()
            assert await services.service("notes").of(Notes).whoami() == ""
            assert trio.current_time() - began == pytest.approx(CONNECT_SECONDS)
            assert "gone" in services._doubted


class Told:
    """A store in which nothing changes."""

    def __init__(self, value):
        self.entry = Entry(key=INFO, value=json.dumps(value), revision=1, created=1, version=1)

    async def read(self, scopes, revision=None, *, stale_ok=False):
        return Reading(1, (self.entry,))

    @asynccontextmanager
    async def watch(self, scope, after):
        await trio.sleep_forever()
        yield


async def test_what_is_in_this_process_is_called_in_place(zone):
    house = House()
    zone.dispatcher = house.dispatcher
    async with zone.services() as services:
        assert await services.service("notes").of(Notes).whoami() == "ann"
        assert not zone.tunnels.opened


async def test_what_is_on_this_node_is_called_by_its_door(zone):
    house = House()
    await zone.tell(laptop=None, far=None)
    async with serving(house, unix=zone.here.door), zone.services() as services:
        assert await services.service("notes").of(Notes).whoami() == ""
        await zone.tell(far=None)
        notes = services.service("notes").of(Notes)
        with pytest.raises(KrpcFault, match="offers no kapi"):
            with trio.fail_after(30):
                while True:
                    await notes.whoami()


async def test_whoever_is_the_door_of_its_node_does_not_call_there(zone):
    await zone.tell(laptop=None)
    zone.here = Here("laptop", zone.tunnels, None, "passed")
    async with zone.services() as services:
        notes = services.service("notes").of(Notes)
        with pytest.raises(KrpcFault, match="ready nowhere"):
            await notes.whoami()
        await zone.tell(far=None)
        with pytest.raises(KrpcFault, match="offers no passed"):
            with trio.fail_after(30):
                while True:
                    try:
                        await notes.whoami()
                    except KrpcFault as fault:
                        if "ready nowhere" not in fault.message:
                            raise


async def test_what_nobody_tells_is_waited_for(zone):
    async with zone.services() as services:
        with pytest.raises(KrpcFault, match="ready nowhere"):
            await services.service("notes").of(Notes).whoami()
    zone.store = Away()
    async with zone.services() as services:
        with pytest.raises(KrpcFault, match="nobody could tell") as caught:
            await services.service("notes", seconds=0.3).of(Notes).whoami()
        assert caught.value.retryable


class Away:
    """A store that cannot be had."""

    async def read(self, scopes, revision=None, *, stale_ok=False):
        raise ConfigError(ConfigCode.UNAVAILABLE, "the store is away")


async def test_what_is_told_wrong_changes_nothing(zone, nodes, caplog):
    await zone.tell(one=nodes("one"))
    async with zone.services() as services:
        notes = services.service("notes").of(Notes)
        assert await notes.whoami() == "one"
        await zone.store.transact(Transaction((Set(INFO, '{"node_list": 5}'),)))
        await until(lambda: "what was told before stays" in caplog.text)
        assert await notes.whoami() == "one"


async def test_no_name_of_a_service_is_a_mistake(zone):
    async with zone.services() as services:
        with pytest.raises(Misuse):
            services.service("No Name")
