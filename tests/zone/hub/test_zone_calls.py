"""A machine that carries nothing, and people, at work in the zone by calls over HTTP: hub, rules and store together."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from configstores import Etcd, Kind, Sqlite
from hubs import PASSWORD, ZONE, Zone, until, zone

from zone.config.baserules import BASE
from zone.config.faults import Code, ConfigError
from zone.config.keys import At, Below
from zone.config.model import AtRevision, Create, Delete, Set, SetPath, Transaction
from zone.io.config import remote
from zone.io.config.remote import MOST_POLLS, SERVICE, RemoteBackend
from zone.io.config.service import ConfigService
from zone.io.config.store import ConfigStore
from zone.io.hub.trust import TrustWatch
from zone.io.krpc.client import Client
from zone.io.krpc.dispatch import Dispatcher
from zone.io.krpc.server import KrpcServer
from zone.io.krpc.transport import HttpTransport, by_tcp
from zone.krpc.faults import Code as FaultCode
from zone.krpc.faults import KrpcFault


@pytest.fixture(params=[Sqlite, Etcd], ids=lambda kind: kind.name, scope="module")
def running(request, tmp_path_factory):
    with request.param(tmp_path_factory.mktemp(request.param.name)) as kind:
        yield kind


@pytest.fixture
def place(running: Kind) -> Kind:
    running.fresh()
    return running


@dataclass
class Site:
    home: Zone
    server: KrpcServer
    port: int = 0
    token: str = ""

    async def tokens(self) -> str:
        return self.token

    def transport(self) -> HttpTransport:
        return HttpTransport(by_tcp("127.0.0.1", self.port), self.tokens)


@asynccontextmanager
async def calling(place: Kind) -> AsyncGenerator[Site]:
    async with zone(place) as home, trio.open_nursery() as nursery:
        config = ConfigService(home.stores[0], lambda: home.policy.rules, home.trust.stands)
        await nursery.start(config.run)
        dispatcher = Dispatcher()
        dispatcher.register("verify-hub", home.hubs[0])
        dispatcher.register(SERVICE, config)
        site = Site(home, KrpcServer(dispatcher, home.trust.believe, lambda _: None))
        site.port = await serve(site, nursery)
        yield site
        nursery.cancel_scope.cancel()


async def serve(site: Site, nursery: trio.Nursery) -> int:
    (url,) = await nursery.start(
        lambda task_status: site.server.serve(tcp=("127.0.0.1", site.port), task_status=task_status)
    )
    return int(url.rpartition(":")[2])


@asynccontextmanager
async def machine(site: Site) -> AsyncGenerator[RemoteBackend]:
    """The store as ``box`` sees it, which has logged in."""
    transport = site.transport()
    told = await Client(transport, "verify-hub").call("login_by_jwt", {"jwt": site.home.proof("box")})
    site.token = told["session_token"]
    backend = RemoteBackend(Client(transport, SERVICE, seconds=40))
    try:
        yield backend
    finally:
        await backend.aclose()
        await transport.aclose()


async def refused(calling) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        await calling
    return caught.value


async def test_a_person_logs_in_and_keeps_something(place):
    async with calling(place) as site:
        await site.home.user("alice")
        transport = site.transport()
        hub, config = Client(transport, "verify-hub"), Client(transport, SERVICE)
        with pytest.raises(KrpcFault) as caught:
            await config.call("sys_config_get", {"key": "boot/config"})
        assert caught.value.code == FaultCode.UNAUTHENTICATED
        told = await hub.call("login_by_password", {"username": "alice", "password": PASSWORD, "appid": "photos"})
        site.token = told["session_token"]
        key = "users/alice/apps/photos/settings"
        await config.call("sys_config_set", {"key": key, "value": '{"theme":"dark"}'})
        assert (await config.call("sys_config_get", {"key": key}))["value"] == '{"theme":"dark"}'
        with pytest.raises(KrpcFault) as caught:
            await config.call("sys_config_set", {"key": "users/alice/profile", "value": "1"})
        assert caught.value.code == FaultCode.DENIED
        # The rules of the zone count from the moment they are written.
        await site.home.put(system__rbac__policy='["deny app write users/*/apps/photos/settings"]')
        await until(lambda: site.home.policy.rules != BASE)
        with pytest.raises(KrpcFault) as caught:
            await config.call("sys_config_set", {"key": key, "value": "1"})
        assert caught.value.code == FaultCode.DENIED
        await hub.call("logout", {})
        await site.home.until_refused(site.token)
        with pytest.raises(KrpcFault) as caught:
            await config.call("sys_config_get", {"key": key})
        assert caught.value.code == FaultCode.UNAUTHENTICATED
        await transport.aclose()


async def test_a_machine_uses_the_store_as_an_ood_does(place):
    async with calling(place) as site, machine(site) as backend:
        store, zones = ConfigStore(backend), site.home.stores[0]
        await zones.transact(Transaction((Create("nodes/box/config/notes", '{ "epoch": 1.0 }'),)))
        reading = await store.read([Below("nodes/box"), At("boot/config")])
        assert reading == await zones.read([Below("nodes/box"), At("boot/config")]) and reading.fresh
        lease = await store.grant(60)
        report = "services/notes/instances/box"
        made = await store.transact(Transaction((Create(report, '{"state":"starting"}', lease),)))
        await store.transact(Transaction((SetPath(report, "/state", '"ready"'),), (AtRevision(report, made),)))
        entry = await zones.get(report)
        assert entry.text() == '{"state":"ready"}' and entry.lease == lease and entry.version == 2
        assert [found.version for found in await store.history(report)] == [2, 1]
        assert (await store.get(report, made)).text() == '{"state":"starting"}'
        fault = await refused(store.transact(Transaction((Delete(report),), (AtRevision(report, made),))))
        assert fault.code is Code.CONFLICT and fault.message.count("read again") == 0
        await store.keep_alive(lease)
        await store.revoke(lease)
        assert (await zones.read([At(report)])).entries == ()
        assert (await refused(store.keep_alive(lease))).code is Code.MISSING
        assert (await refused(store.compact(2))).code is Code.DENIED
        for act in (
            store.transact(Transaction((Set("nodes/box/config/notes", "{}"),))),
            store.transact(Transaction((Set("devices/ood1/info", "{}"),))),
            store.read([Below("security")]),
        ):
            assert (await refused(act)).code is Code.DENIED


async def test_services_of_that_machine_believe_tokens_by_themselves(place):
    async with calling(place) as site, machine(site) as backend, trio.open_nursery() as nursery:
        await site.home.user("alice")
        trust = TrustWatch(ConfigStore(backend), ZONE, site.home.clock)
        await nursery.start(trust.run)
        token = (await site.home.login())["session_token"]
        who = trust.believe(token)
        assert who.user == "alice" and trust.stands(who)
        await site.home.put(users__alice__settings='{"type":"user","state":"banned:spam"}')
        await until(lambda: not trust.stands(who))
        with pytest.raises(KrpcFault, match="ended"):
            trust.believe(token)
        nursery.cancel_scope.cancel()


async def test_writers_at_both_ends_lose_nothing(place):
    async with calling(place) as site, machine(site) as backend:
        await site.home.put(devices__box__count="{}")

        async def count(store: ConfigStore, name: str) -> None:
            for number in range(8):
                await store.transact(Transaction((SetPath("devices/box/count", f"/{name}{number}", "1"),)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count, site.home.stores[0], "here")
            nursery.start_soon(count, ConfigStore(backend), "there")
        entry = await site.home.stores[0].get("devices/box/count")
        assert (entry.text() or "").count(":1") == 16


async def test_a_machine_hears_of_changes_in_their_order(place):
    async with calling(place) as site, machine(site) as backend:
        after = (await backend.read([])).revision
        heard = []
        zones = site.home.stores[0]

        async def write() -> None:
            for number in range(20):
                await zones.transact(
                    Transaction((Set("nodes/box/config/notes", str(number)), Set("devices/x/info", "1")))
                )
            await zones.transact(Transaction((Delete("nodes/box/config/notes"),)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            async with backend.watch(Below("nodes/box"), after) as changes:
                async for change in changes:
                    (entry,) = change.entries
                    heard.append(entry.text())
                    assert entry.revision == change.revision
                    if entry.value is None:
                        break
        assert heard == [*map(str, range(20)), None]


async def test_many_watches_leave_room_for_calls(place, monkeypatch):
    monkeypatch.setattr(remote, "_TURN", 0.05)
    async with calling(place) as site, machine(site) as backend:
        after = (await backend.read([])).revision
        keys = [f"devices/box/{number}" for number in range(5 * MOST_POLLS)]
        heard = set()

        async def hear(key: str) -> None:
            async with backend.watch(At(key), after) as changes:
                async for _ in changes:
                    heard.add(key)
                    return

        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(hear, key)
            await until(lambda: len(backend._calls) >= MOST_POLLS)
            with trio.fail_after(20):
                await ConfigStore(backend).transact(Transaction(tuple(Set(key, "1") for key in keys)))
        assert heard == set(keys)


async def test_a_watch_outlives_the_server_and_ends_with_the_session(place):
    async with calling(place) as site, machine(site) as backend:
        after = (await backend.read([])).revision
        async with trio.open_nursery() as nursery:
            site.port = 0
            async with trio.open_nursery() as first:
                site.port = await serve(site, first)
                transport = site.transport()
                watcher = RemoteBackend(Client(transport, SERVICE, seconds=40))
                heard: list[str | None] = []
                fault: list[Code] = []

                async def follow() -> None:
                    try:
                        async with watcher.watch(At("nodes/box/config/notes"), after) as changes:
                            async for change in changes:
                                heard.append(change.entries[0].value)
                    except ConfigError as error:
                        fault.append(error.code)

                nursery.start_soon(follow)
                await site.home.put(nodes__box__config__notes="1")
                await until(lambda: heard == ["1"])
                first.cancel_scope.cancel()
            await site.home.put(nodes__box__config__notes="2")
            await serve(site, nursery)
            await until(lambda: heard == ["1", "2"])
            await site.home.call("logout", site.token)
            await site.home.until_refused(site.token)
            await site.home.put(nodes__box__config__notes="3")
            await until(lambda: fault == [Code.DENIED])
            assert heard == ["1", "2"]
            await transport.aclose()
            nursery.cancel_scope.cancel()


async def test_a_store_that_is_closed_or_gone(place):
    async with calling(place) as site, machine(site) as backend:
        ended = []

        after = (await backend.read([])).revision
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(ConfigError) as caught:
                    async with backend.watch(Below("devices/box"), after) as changes:
                        async for _ in changes:
                            pass
                ended.append(caught.value.code)

            nursery.start_soon(wait)
            await until(lambda: bool(backend._calls))
            await backend.aclose()
        assert ended == [Code.UNAVAILABLE]
        assert (await refused(backend.read([]))).code is Code.UNAVAILABLE
        site.port = 1
        lost = RemoteBackend(Client(site.transport(), SERVICE, seconds=1))
        assert (await refused(lost.read([]))).code is Code.UNAVAILABLE
