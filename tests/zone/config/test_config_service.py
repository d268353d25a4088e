"""system_config as a service: who may, how much, and how soon others know; over a file and over real etcd."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
import trio
from configstores import Etcd, Kind, Sqlite

from cyfs_ns.identity.strictjson import Json
from zone.config.access import Subject, read_rule
from zone.config.baserules import BASE, POLICY
from zone.config.faults import Code as ConfigCode
from zone.config.faults import ConfigError
from zone.config.keys import Below
from zone.config.model import MOST_VALUE, MOST_WRITTEN, Create, Delete, Set, Transaction
from zone.io.config import feed, service
from zone.io.config.service import MOST_BEHIND, MOST_CALLS, MOST_LEASES, MOST_TOLD, MOST_WATCHES, ConfigService
from zone.io.config.store import ConfigStore
from zone.krpc.caller import NOBODY, Caller
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.service import CallContext
from zone.scheduler.snapshot import MOST_REPORT


def somebody(role: str, **names: str) -> Caller:
    who = {"user": names.get("user", ""), "device": names.get("device", ""), "app": names.get("app", "")}
    return Caller(
        name="/".join(filter(None, who.values())) or role, subjects=(Subject(frozenset({role}), names),), **who
    )


KERNEL = somebody("kernel", device="ood1", app="scheduler")
ALICE = somebody("user", user="alice")
BOB = somebody("user", user="bob")
BOX = somebody("device", device="box")
OTHER = somebody("device", device="other")


@dataclass
class Served:
    store: ConfigStore
    service: ConfigService
    rules: list
    ended: set[str] = field(default_factory=set)

    async def __call__(self, who: Caller, method: str, **params: Json) -> Mapping[str, Json]:
        named = {key.rstrip("_"): value for key, value in params.items()}
        return await self.service(who, method, named, CallContext())

    async def refused(self, who: Caller, method: str, **params: Json) -> KrpcFault:
        with pytest.raises(KrpcFault) as caught:
            await self(who, method, **params)
        return caught.value


@pytest.fixture(params=[Sqlite, Etcd], ids=lambda kind: kind.name, scope="module")
def running(request, tmp_path_factory):
    with request.param(tmp_path_factory.mktemp(request.param.name)) as kind:
        yield kind


@pytest.fixture
def place(running: Kind) -> Kind:
    running.fresh()
    return running


@asynccontextmanager
async def serving(place: Kind) -> AsyncGenerator[Served]:
    backend = place.open()
    store = ConfigStore(backend)
    rules, ended = list(BASE), set()
    made = ConfigService(store, lambda: tuple(rules), lambda who: who.name not in ended)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(made.run)
            yield Served(store, made, rules, ended)
            nursery.cancel_scope.cancel()
    finally:
        await backend.aclose()


async def test_the_forerunners_methods(place):
    async with serving(place) as config:
        first = await config(ALICE, "sys_config_create", key="users/alice/apps/photos/settings", value='{"a": [1]}')
        got = await config(ALICE, "sys_config_get", key="users/alice/apps/photos/settings")
        assert got == {"value": '{"a": [1]}', "version": first["version"]}
        await config(
            ALICE, "sys_config_set_by_json_path", key="users/alice/apps/photos/settings", json_path="/b", value="2"
        )
        await config(
            ALICE, "sys_config_set_by_json_path", key="users/alice/apps/photos/settings", json_path="/a", value="null"
        )
        got = await config(ALICE, "sys_config_get", key="users/alice/apps/photos/settings")
        assert got["value"] == '{"b":2}' and got["version"] > first["version"]
        await config(ALICE, "sys_config_set", key="users/alice/apps/photos/note", value="-----BEGIN")
        await config(ALICE, "sys_config_append", key="users/alice/apps/photos/note", append_value=" END-----")
        got = await config(ALICE, "sys_config_get", key="users/alice/apps/photos/note")
        assert got["value"] == "-----BEGIN END-----"
        assert await config(ALICE, "sys_config_list", key="users/alice/apps") == ["photos"]
        assert await config(ALICE, "sys_config_list", key="users/alice/apps/photos") == ["note", "settings"]
        await config(ALICE, "sys_config_delete", key="users/alice/apps/photos/note")
        fault = await config.refused(ALICE, "sys_config_get", key="users/alice/apps/photos/note")
        assert fault.code == Code.MISSING
        fault = await config.refused(ALICE, "sys_config_create", key="users/alice/apps/photos/settings", value="1")
        assert fault.code == Code.EXISTS
        assert await config(ALICE, "sys_refresh_trust_keys") is None


async def test_main_key_is_compared(place):
    async with serving(place) as config:
        version = (await config(KERNEL, "sys_config_create", key="boot/config", value="{}"))["version"]
        actions = {
            "nodes/a/config": {"action": "create", "value": "1"},
            "boot/config": {"action": "update", "value": "2"},
        }
        fault = await config.refused(
            KERNEL, "sys_config_exec_tx", actions=actions, main_key={"key": "boot/config", "revision": version + 1}
        )
        assert fault.code == Code.CONFLICT
        assert (await config.refused(KERNEL, "sys_config_get", key="nodes/a/config")).code == Code.MISSING
        await config(KERNEL, "sys_config_exec_tx", actions=actions, main_key=f"boot/config:{version}")
        assert (await config(KERNEL, "sys_config_get", key="boot/config"))["value"] == "2"
        fault = await config.refused(KERNEL, "sys_config_exec_tx", actions=actions, main_key=f"boot/config:{version}")
        assert fault.code == Code.CONFLICT


async def test_values_ranges_and_history(place):
    async with serving(place) as config:
        done = await config(
            KERNEL,
            "transact",
            actions=[{"do": "create", "key": "services/a/info", "value": {"n": 1}}],
            if_=[{"key": "services/a/info", "revision": 0}],
        )
        await config(
            KERNEL, "transact", actions=[{"do": "set-path", "key": "services/a/info", "path": "/n", "value": 2}]
        )
        now = await config(ALICE, "read", scopes=[{"at": "services/a/info"}, {"below": "boot"}])
        assert [entry["value"] for entry in now["entries"]] == [{"n": 2}] and now["fresh"] is True
        then = await config(ALICE, "read", scopes=[{"at": "services/a/info"}], revision=done["revision"])
        assert [entry["value"] for entry in then["entries"]] == [{"n": 1}]
        told = await config(ALICE, "history", key="services/a/info")
        assert [entry["value"]["n"] for entry in told["entries"]] == [2, 1]
        fault = await config.refused(
            KERNEL,
            "transact",
            actions=[{"do": "delete", "key": "services/a/info"}],
            if_=[{"key": "services/a/info", "value": {"n": 1}}],
        )
        assert fault.code == Code.CONFLICT and fault.retryable


async def test_a_large_range_comes_in_pages_of_one_revision(place):
    async with serving(place) as config:
        for number in range(12):
            await config.store.transact(Transaction((Set(f"services/s{number:02}/spec", f'"{"x" * 250_000}"'),)))
        page = await config(KERNEL, "read", scopes=[{"below": "services"}])
        await config.store.transact(Transaction((Delete("services/s11/spec"),)))
        found = [entry["key"] for entry in page["entries"]]
        while "next" in page:
            page = await config(
                KERNEL, "read", scopes=[{"below": "services"}], revision=page["revision"], after_key=page["next"]
            )
            found += [entry["key"] for entry in page["entries"]]
            assert sum(len(entry["value"]) for entry in page["entries"]) <= MOST_TOLD
        assert found == [f"services/s{number:02}/spec" for number in range(12)]


# -- who may


async def test_a_machine_reads_where_all_services_are(place):
    async with serving(place) as config:
        infos = {f"services/s{number}/info": f'"{"x" * 250_000}"' for number in range(10)}
        for key, text in infos.items():
            await config.store.transact(Transaction((Set(key, text), Set(key.replace("info", "spec"), '"secret"'))))
        scope = {"each": "services/*/info"}
        page = await config(BOX, "read", scopes=[scope])
        revision, found = page["revision"], list(page["entries"])
        while "next" in page:
            page = await config(BOX, "read", scopes=[scope], revision=revision, after_key=page["next"])
            found += page["entries"]
        assert [entry["key"] for entry in found] == sorted(infos)
        # Of what else changes there it hears nothing.
        await config.store.transact(Transaction((Set("services/s1/spec", "1"), Delete("services/s2/info"))))
        news = await config(BOX, "watch", scope=scope, after=revision)
        told = [[entry["key"] for entry in change["entries"]] for change in news["changes"]]
        assert told == [["services/s2/info"]]
        for method, params in (
            ("read", {"scopes": [{"each": "services/*/spec"}]}),
            ("watch", {"scope": {"each": "services/*/spec"}, "after": revision}),
            ("read", {"scopes": [scope, {"each": "devices/*/info"}]}),
        ):
            assert (await config.refused(BOX, method, **params)).code == Code.DENIED
        config.rules.append(read_rule("deny device read services/s3/*"))
        assert (await config.refused(BOX, "read", scopes=[scope])).code == Code.DENIED


async def test_the_rules_hold_for_every_method(place):
    async with serving(place) as config:
        await config.store.transact(Transaction((Set("security/a", "1"), Set("users/bob/profile", "1"))))
        tx = {"users/alice/profile": {"action": "update", "value": "1"}, "users/bob/profile": {"action": "remove"}}
        for method, params in {
            "sys_config_get": {"key": "users/bob/profile"},
            "sys_config_set": {"key": "users/bob/profile", "value": "1"},
            "sys_config_create": {"key": "users/bob/new", "value": "1"},
            "sys_config_append": {"key": "users/bob/profile", "append_value": "1"},
            "sys_config_set_by_json_path": {"key": "users/bob/profile", "json_path": "", "value": "1"},
            "sys_config_delete": {"key": "users/bob/profile"},
            "sys_config_list": {"key": "users/bob"},
            "sys_config_exec_tx": {"actions": tx},
            "dump_configs_for_scheduler": {},
            "read": {"scopes": [{"at": "users/alice/profile"}, {"at": "users/bob/profile"}]},
            "transact": {"actions": [{"do": "delete", "key": "users/bob/profile"}]},
            "history": {"key": "security/a"},
            "watch": {"scope": {"below": ""}, "after": 1},
        }.items():
            assert (await config.refused(ALICE, method, **params)).code == Code.DENIED, method
            assert (await config.refused(NOBODY, method, **params)).code == Code.UNAUTHENTICATED, method
        # A comparison tells what is there.
        guess = {"actions": [{"do": "set", "key": "users/alice/profile", "value": 1}]}
        fault = await config.refused(ALICE, "transact", **guess, if_=[{"key": "security/a", "value": 1}])
        assert fault.code == Code.DENIED
        assert (await config.refused(ALICE, "run")).code == Code.UNKNOWN_METHOD


async def test_an_app_has_the_rights_of_both(place):
    both = Caller(
        name="photos",
        user="alice",
        app="photos",
        subjects=(Subject(frozenset({"app"}), {"user": "alice", "app": "photos"}), *ALICE.subjects),
    )
    async with serving(place) as config:
        await config(both, "sys_config_set", key="users/alice/apps/photos/settings", value="1")
        for key in ("users/alice/profile", "users/alice/apps/mail/settings"):
            assert (await config.refused(both, "sys_config_set", key=key, value="1")).code == Code.DENIED


async def test_all_at_once_is_for_the_scheduler(place):
    async with serving(place) as config:
        await config.store.transact(Transaction((Set("security/a", "1"), Set("boot/config", '{"a":1}'))))
        assert await config(KERNEL, "dump_configs_for_scheduler") == {"boot/config": '{"a":1}'}
        for who in (somebody("kernel", device="ood1", app="repo"), somebody("device", device="box", app="scheduler")):
            assert (await config.refused(who, "dump_configs_for_scheduler")).code == Code.DENIED


async def test_rules_are_written_whole_and_readable(place):
    async with serving(place) as config:
        good = ["deny user write users/*/profile"]
        await config(KERNEL, "transact", actions=[{"do": "set", "key": POLICY, "value": good}])
        for bad in (
            {"do": "set", "key": POLICY, "value": ["deny user"]},
            {"do": "set", "key": POLICY, "value": "g, alice, owner"},
            {"do": "append", "key": POLICY, "value": "allow guest read **"},
            {"do": "set-path", "key": POLICY, "path": "/0", "value": "x"},
        ):
            assert (await config.refused(KERNEL, "transact", actions=[bad])).code == Code.INVALID
        assert json.loads((await config.store.get(POLICY)).text()) == good


# -- how much


async def test_giants_are_refused(place):
    async with serving(place) as config:
        key = "users/alice/profile"
        for value in ("x" * (MOST_VALUE + 1), "\u00e4" * MOST_VALUE):
            code = (await config.refused(ALICE, "sys_config_set", key=key, value=value)).code
            assert code == Code.TOO_LARGE
        actions = {f"users/alice/apps/a/k{n}": {"action": "create", "value": "x" * 200_000} for n in range(6)}
        assert MOST_WRITTEN < 6 * 200_000
        assert (await config.refused(ALICE, "sys_config_exec_tx", actions=actions)).code == Code.TOO_LARGE
        many = [{"do": "create", "key": f"users/alice/apps/a/k{n}", "value": 1} for n in range(3000)]
        assert (await config.refused(ALICE, "transact", actions=many)).code == Code.TOO_LARGE


async def test_nobody_fills_what_all_share(place):
    async with serving(place) as config:
        room = '"' + "x" * 100_000 + '"'
        for number in range(5):
            await config(BOX, "sys_config_set", key=f"devices/box/{number}", value=room)
        fault = await config.refused(BOX, "sys_config_set", key="devices/box/more", value=room)
        assert fault.code == Code.FULL and "devices/box" in fault.message
        # What is there may be exchanged and removed, others have their own, and the zone itself is not held up.
        await config(BOX, "sys_config_set", key="devices/box/0", value=room)
        await config(OTHER, "sys_config_set", key="devices/other/0", value=room)
        await config(KERNEL, "sys_config_set", key="devices/box/doc", value=room)
        await config(BOX, "sys_config_delete", key="devices/box/0")
        await config(BOX, "sys_config_delete", key="devices/box/1")
        await config(BOX, "sys_config_set", key="devices/box/more", value=room)
        names = [{"do": "create", "key": f"devices/box/n{number}", "value": 1} for number in range(300)]
        assert (await config.refused(BOX, "transact", actions=names)).code == Code.FULL


async def test_many_at_once_do_not_slip_in_together(place):
    async with serving(place) as config:
        room = '"' + "x" * 100_000 + '"'
        codes = []

        async def put(number: int) -> None:
            try:
                await config(BOX, "sys_config_set", key=f"devices/box/{number}", value=room)
            except KrpcFault as fault:
                codes.append(fault.code)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(put, number)
        there = (await config.store.read([Below("devices/box")])).entries
        assert len(there) == 5 and set(codes) == {Code.FULL}


async def test_a_machine_reports_on_what_it_was_ordered(place):
    async with serving(place) as config:
        report = {"do": "create", "key": "services/notes/instances/box", "value": {"state": "ready"}}
        assert (await config.refused(BOX, "transact", actions=[report])).code == Code.DENIED
        await config.store.transact(Transaction((Create("nodes/box/config/notes", "{}"),)))
        await config(BOX, "transact", actions=[report])
        long = {**report, "do": "set", "value": {"state": "x" * MOST_REPORT}}
        assert (await config.refused(BOX, "transact", actions=[long])).code == Code.TOO_LARGE
        longer = {**report, "do": "set-path", "path": "/more", "value": "x" * 100}
        assert (await config.refused(BOX, "transact", actions=[longer])).code == Code.INVALID
        await config.store.transact(Transaction((Delete("nodes/box/config/notes"),)))
        # That it has stopped is the last it says.
        await config(BOX, "transact", actions=[{**report, "do": "set", "value": {"state": "stopped"}}])


async def test_a_caller_has_so_many_calls_at_once(place):
    async with serving(place) as config:
        codes: list[str] = []
        revision = (await config.store.read([])).revision

        async def call(who: Caller, method: str, **params: Json) -> None:
            try:
                await config(who, method, **params)
            except KrpcFault as fault:
                codes.append(fault.code)

        async with trio.open_nursery() as nursery:
            for _ in range(MOST_CALLS + 10):
                nursery.start_soon(lambda: call(BOX, "sys_config_set", key="devices/box/info", value="1"))
            await config(OTHER, "sys_config_set", key="devices/other/info", value="1")
        assert codes == [Code.LIMITED] * 10
        codes.clear()
        async with trio.open_nursery() as nursery:
            scope = {"below": "devices/box"}
            for _ in range(MOST_WATCHES + 10):
                nursery.start_soon(lambda: call(BOX, "watch", scope=scope, after=revision + 10**6, seconds=0))
        assert codes.count(Code.LIMITED) == 10 and codes.count(Code.INVALID) == MOST_WATCHES
        # All are given back.
        assert not config.service._calls and not config.service._watches


# -- watching


async def test_a_change_is_told_to_all_who_wait_by_one_watch(place, monkeypatch):
    async with serving(place) as config:
        watches = []
        monkeypatch.setattr(config.store, "watch", lambda *_: watches.append(1))
        after = (await config.store.read([])).revision
        heard: dict[int, float] = {}
        news = {}

        async def wait(number: int, who: Caller) -> None:
            scope = {"below": f"devices/{who.device}"}
            news[number] = await config(who, "watch", scope=scope, after=after)
            heard[number] = trio.current_time()

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(wait, number, BOX)
            nursery.start_soon(wait, 20, OTHER)
            while len(config.service._feed._polls) < 21:  # noqa: ASYNC110, nothing tells it
                await trio.sleep(0.001)
            await config.store.transact(Transaction((Set("services/x/info", "1"),)))
            began = trio.current_time()
            await config.store.transact(
                Transaction((Set("devices/box/info", '{"n":1}'), Set("devices/other/info", "2")))
            )
        print(f"{place.name}: a change reached 21 who wait in {(max(heard.values()) - began) * 1000:.1f} ms")
        assert not watches
        for number in range(20):
            (change,) = news[number]["changes"]
            assert [(entry["key"], entry["value"]) for entry in change["entries"]] == [("devices/box/info", {"n": 1})]
            assert news[number]["revision"] >= change["revision"] == news[20]["changes"][0]["revision"]


async def test_who_polls_misses_nothing_and_sees_nothing_twice(place):
    async with serving(place) as config:
        after = (await config.store.read([])).revision
        seen: list[int] = []

        async def write() -> None:
            for number in range(50):
                await config.store.transact(Transaction((Set("devices/box/info", str(number)),)))
                await config.store.transact(Transaction((Set("devices/other/info", str(number)),)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            while len(seen) < 50:
                news = await config(BOX, "watch", scope={"at": "devices/box/info"}, after=after)
                assert news["revision"] >= after
                after = news["revision"]
                seen += [change["entries"][0]["value"] for change in news["changes"]]
        assert seen == list(range(50))


async def test_an_idle_scope_does_not_fall_behind(place, monkeypatch):
    async with serving(place) as config:
        after = (await config.store.read([])).revision
        monkeypatch.setattr(feed, "MOST_CHANGES", 4)
        for number in range(10):
            last = await config.store.transact(Transaction((Set("devices/other/info", str(number)),)))
        while config.service._feed._seen < last:  # noqa: ASYNC110, nothing tells it
            await trio.sleep(0.001)
        fault = await config.refused(BOX, "watch", scope={"below": "devices/box"}, after=after, seconds=0)
        assert fault.code == Code.COMPACTED and "read the present state" in fault.message
        news = await config(BOX, "watch", scope={"below": "devices/box"}, after=last - 2, seconds=0)
        assert news == {"revision": last, "changes": []}
        assert len(config.service._feed._kept) == 4


async def test_a_wait_ends_with_nothing_and_bad_ones_at_once(place):
    async with serving(place) as config:
        after = (await config.store.read([])).revision
        scope = {"below": "devices/box"}
        assert (await config(BOX, "watch", scope=scope, after=after, seconds=0.01))["changes"] == []
        for bad in (
            {"scope": scope, "after": after + 1000},
            {"scope": scope, "after": -1},
            {"scope": scope, "after": "1"},
            {"scope": scope, "after": after, "seconds": 10**9},
            {"scope": scope, "after": after, "seconds": True},
            {"scope": "devices", "after": after},
        ):
            assert (await config.refused(BOX, "watch", **bad)).code == Code.INVALID


async def test_what_is_told_is_allowed_when_it_is_told(place):
    async with serving(place) as config:
        after = (await config.store.read([])).revision
        faults = []

        async def wait(who: Caller) -> None:
            scope = {"below": f"devices/{who.device}"}
            faults.append(await config.refused(who, "watch", scope=scope, after=after))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, BOX)
            nursery.start_soon(wait, OTHER)
            while len(config.service._feed._polls) < 2:  # noqa: ASYNC110, nothing tells it
                await trio.sleep(0.001)
            config.rules.append(read_rule("deny device read devices/box/**"))
            config.ended.add(OTHER.name)
            await config.store.transact(Transaction((Set("devices/box/info", "1"), Set("devices/other/info", "1"))))
        assert {fault.code for fault in faults} == {Code.DENIED, Code.UNAUTHENTICATED}


async def test_too_many_who_wait_are_told_so(place, monkeypatch):
    async with serving(place) as config:
        monkeypatch.setattr(feed, "MOST_WAITING", 3)
        after = (await config.store.read([])).revision
        codes = []

        async def wait(number: int) -> None:
            who = somebody("device", device=f"d{number}")
            try:
                await config(who, "watch", scope={"below": f"devices/d{number}"}, after=after)
            except KrpcFault as fault:
                codes.append((fault.code, fault.retryable))

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(wait, number)
            while len(codes) < 7:  # noqa: ASYNC110, nothing tells it
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        assert codes == [(Code.UNAVAILABLE, True)] * 7 and not config.service._feed._polls


# -- leases


async def test_a_lease_belongs_to_who_took_it(place):
    async with serving(place) as config:
        lease = (await config(BOX, "grant", ttl=60))["lease"]
        mine = {"do": "set", "key": "devices/box/info", "value": 1, "lease": lease}
        await config(BOX, "transact", actions=[mine])
        assert await config(BOX, "keep_alive", lease=lease) == {}
        theirs = {**mine, "key": "devices/other/info"}
        for method, params in {
            "transact": {"actions": [theirs]},
            "keep_alive": {"lease": lease},
            "end_lease": {"lease": lease},
        }.items():
            assert (await config.refused(OTHER, method, **params)).code == Code.MISSING
        forged = {"do": "set", "key": f"system/leases/device/other/~/{lease}", "value": True}
        assert (await config.refused(KERNEL, "transact", actions=[forged])).code == Code.DENIED
        await config(BOX, "end_lease", lease=lease)
        assert (await config.refused(KERNEL, "sys_config_get", key="devices/box/info")).code == Code.MISSING
        assert (await config.store.read([Below("system/leases")])).entries == ()
        assert (await config.refused(BOX, "keep_alive", lease=lease)).code == Code.MISSING


async def test_no_app_has_the_leases_of_those_that_come_without_one(place):
    async with serving(place) as config:
        lease = (await config(BOX, "grant", ttl=60))["lease"]
        for app in ("~", "~~"):
            assert (await config.refused(replace(BOX, app=app), "keep_alive", lease=lease)).code == Code.MISSING
        tilde = (await config(replace(BOX, app="~"), "grant", ttl=60))["lease"]
        assert (await config.refused(BOX, "keep_alive", lease=tilde)).code == Code.MISSING


async def test_leases_that_are_taken_at_once_have_limits_too(place):
    async with serving(place) as config:
        refused = []

        async def take() -> None:
            try:
                await config(BOX, "grant", ttl=60)
            except KrpcFault as fault:
                refused.append(fault.code)

        async with trio.open_nursery() as nursery:
            for _ in range(MOST_LEASES + 8):
                nursery.start_soon(take)
        assert refused == ["limited"] * 8


async def test_a_lease_that_cannot_be_counted_is_none(place, monkeypatch):
    async with serving(place) as config:
        granted: list[int] = []

        async def grant(ttl: int) -> int:
            granted.append(await ConfigStore.grant(config.store, ttl))
            return granted[-1]

        async def lost(transaction: Transaction) -> int:
            raise ConfigError(ConfigCode.UNCERTAIN, "the answer was lost")

        with monkeypatch.context() as broken:
            broken.setattr(config.store, "grant", grant)
            broken.setattr(config.store, "transact", lost)
            assert (await config.refused(BOX, "grant", ttl=600)).code == Code.UNCERTAIN
        (lease,) = granted
        with pytest.raises(ConfigError) as caught:
            await config.store.keep_alive(lease)
        assert caught.value.code is ConfigCode.MISSING


async def test_leases_have_limits(place):
    async with serving(place) as config:
        for bad in (0, -1, 10**6, "1", None):
            assert (await config.refused(BOX, "grant", ttl=bad)).code == Code.INVALID
        for _ in range(MOST_LEASES):
            await config(BOX, "grant", ttl=60)
        assert (await config.refused(BOX, "grant", ttl=60)).code == Code.LIMITED
        await config(OTHER, "grant", ttl=60)
        # An app more is no room more.
        apps = [somebody("app", user="alice", app=f"a{number}") for number in range(MOST_BEHIND + 1)]
        for app in apps[:-1]:
            await config(app, "grant", ttl=60)
        assert (await config.refused(apps[-1], "grant", ttl=60)).code == Code.LIMITED
        assert service.LEASES == "system/leases"
