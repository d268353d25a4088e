"""Machines boot into one zone: cold, again without a network outside, wiped, and from one OOD to three."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
from inprocess import until
from machines import KEYS, Town, owner_signs, town
from oods import NAMES
from zones import Signed

from cyfs_ns.identity.documents import ZoneDoc
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.revision import revision_of
from cyfs_ns.identity.strictjson import Json
from cyfs_ns.identity.token import read_token
from tests.cyfs_ns.identity.identities import secret
from zone.config.faults import ConfigError
from zone.config.model import Set, Transaction
from zone.hub.subjects import machine
from zone.hub.tokens import bootstrap
from zone.io.config.remote import SERVICE
from zone.io.here import services_of, store_as
from zone.io.krpc.client import Client
from zone.io.krpc.transport import HttpTransport, by_unix
from zone.io.module import HUB, SOCKET, ZoneModule
from zone.krpc.faults import Code, KrpcFault


async def write(place: Town, name: str, key: str, value: str) -> None:
    """Acknowledged, sooner or later."""
    with trio.fail_after(60):
        while True:
            store = place[name].store
            try:
                if store is not None:
                    await store.transact(Transaction((Set(key, f'"{value}"'),)))
                    return
            except ConfigError:
                pass
            await trio.sleep(0.05)


async def found(place: Town, name: str, key: str, value: str) -> None:
    """Read there, sooner or later."""
    with trio.fail_after(60):
        while True:
            store = place[name].store
            try:
                if store is not None and (await store.get(key)).value == f'"{value}"':
                    return
            except ConfigError:
                pass
            await trio.sleep(0.05)


async def in_force(place: Town, signed: Signed, *names: str) -> None:
    """Until they go by what the owner signed."""
    token = read_token(signed.zone)
    document = read_document(token.claims, ZoneDoc.kind)
    revision = str(revision_of(document, token))
    try:
        await until(lambda: all(place[name].status().get("document") == revision for name in names), 120.0)
    except trio.TooSlowError:
        raise AssertionError({name: dict(place[name].status()) for name in names}) from None


@pytest.mark.timeout(600)
async def test_three_machines_boot_into_one_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signed = owner_signs(*NAMES, nodes=["pi"])
    async with town(tmp_path, monkeypatch, *NAMES, "pi") as place:
        for name in (*NAMES, "pi"):
            place[name].activate(signed)
        began = trio.current_time()
        await place.start(*NAMES)
        await place.up(*NAMES)
        with capsys.disabled():
            print(f"\n  three machines, cold: up after {trio.current_time() - began:.1f} s")
        await write(place, "ood2", "a", "1")
        await found(place, "ood3", "a", "1")
        began = trio.current_time()
        await place.start("pi")
        await place.up("pi")
        with capsys.disabled():
            print(f"  a plain node: up after {trio.current_time() - began:.1f} s")
        # It writes what is its own, and no more.
        await write(place, "pi", "devices/pi/info", "here")
        await found(place, "ood1", "devices/pi/info", "here")
        assert place["pi"].store is not None
        with pytest.raises(ConfigError, match="may not"):
            await place["pi"].store.transact(Transaction((Set("devices/ood1/info", '"x"'),)))
        # The OOD that it asked is gone: another one answers.
        for gone in NAMES:
            await place.stop(gone)
            await write(place, "pi", "devices/pi/info", f"without {gone}")
            await place.start(gone)
            await place.up(gone)
            await found(place, gone, "devices/pi/info", f"without {gone}")
        assert place["pi"].lives == 1


@pytest.mark.timeout(600)
async def test_they_come_back_without_a_network_outside_and_without_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Of whom the owner says where they are.
    named = [f"{name}:127.0.0.1" for name in NAMES]
    async with town(tmp_path, monkeypatch, *NAMES) as place:
        signed = owner_signs(*named, ports=place.ports)
        for name in NAMES:
            place[name].activate(signed)
        await place.start(*NAMES)
        await place.up(*NAMES)
        await write(place, "ood1", "a", "1")
        # One alone is still booted, and says why nothing can be written.
        await place.stop("ood2", "ood3")
        await until(lambda: "no majority" in str(place["ood1"].status()["why"]), 60.0)
        assert place["ood1"].step == "booted"
        await place.start("ood2", "ood3")
        await place.up(*NAMES)
        await until(lambda: all(not place[name].status()["why"] for name in NAMES), 60.0)
        # All of them at once, and nobody tells any names: they go by the zone's document, which they kept.
        await place.stop(*NAMES)
        place.has_dns = False
        began = trio.current_time()
        await place.start(*NAMES)
        await place.up(*NAMES)
        with capsys.disabled():
            print(
                f"\n  three machines, again and without a network outside: up after {trio.current_time() - began:.1f} s"
            )
        for name in NAMES:
            await found(place, name, "a", "1")
        # The first, which founded the cluster, has lost its disk; its owner's permission is still good.
        place.has_dns = True
        await place.stop("ood1")
        place["ood1"].wipe()
        place["ood1"].activate(signed)
        await write(place, "ood2", "a", "2")
        await place.start("ood1")
        await place.up("ood1")
        await found(place, "ood1", "a", "2")


@pytest.mark.timeout(600)
async def test_one_ood_grows_to_three_and_back_to_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, three = owner_signs("ood1", nodes=["pi", "ood2"]), owner_signs(*NAMES, nodes=["pi"], age=50)
    async with town(tmp_path, monkeypatch, *NAMES, "pi") as place:
        for name in ("ood1", "ood2", "pi"):
            place[name].activate(alone)
        await place.start("ood1", "ood2", "pi")
        await place.up("ood1", "ood2", "pi")
        store = place["ood1"].store
        assert store is not None
        await store.transact(Transaction((Set("security/a", '"secret"'), Set("a", '"1"'))))
        lease = await store.grant(60)
        await store.transact(Transaction((Set("b", '"1"', lease),)))
        await write(place, "pi", "devices/pi/info", "here")
        # Nothing happens before there is somebody to carry the zone with.
        await place.stop("ood2")
        booting = place["ood1"].booting
        assert booting is not None
        await booting.hear(three.zone, "its owner")
        await until(lambda: place["ood1"].status()["ahead"] is not None)
        assert place["ood1"].store is store
        place["ood2"].activate(three)
        place["ood3"].activate(three)
        began = trio.current_time()
        await place.start("ood2", "ood3")
        await in_force(place, three, *NAMES, "pi")
        await place.up(*NAMES, "pi")
        with capsys.disabled():
            print(f"\n  one OOD grew to three within {trio.current_time() - began:.1f} s")
        for name in NAMES:
            await found(place, name, "a", "1")
            await found(place, name, "security/a", "secret")
            with pytest.raises(ConfigError, match="absent"):
                await place[name].store.get("b")  # type: ignore[union-attr]
        await found(place, "pi", "devices/pi/info", "here")
        assert not list(await trio.Path(tmp_path / "ood1" / "zone").glob("*/config.db"))
        # The owner has one again: it goes on where the state is.
        last = owner_signs("ood2", nodes=["ood1", "ood3", "pi"], age=20)
        booting = place["ood1"].booting
        assert booting is not None
        await booting.hear(last.zone, "its owner")
        await in_force(place, last, *NAMES, "pi")
        await place.up(*NAMES, "pi")
        await found(place, "ood2", "security/a", "secret")
        await write(place, "pi", "devices/pi/info", "still")
        await found(place, "ood2", "devices/pi/info", "still")
        await place.stop("ood2")
        await place.start("ood2")
        await place.up("ood2")
        await found(place, "ood2", "devices/pi/info", "still")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("has_dns", [True, False], ids=["old-dns", "no-dns"])
async def test_a_new_machine_in_the_place_of_a_dead_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_dns: bool
) -> None:
    """The DNS goes on telling the key of the dead one, or there is none from the first boot on."""
    named = [f"{name}:127.0.0.1" for name in NAMES]
    async with town(tmp_path, monkeypatch, *NAMES, "pi") as place:
        place.has_dns = has_dns
        signed = owner_signs(*named, nodes=["pi"], ports=place.ports)
        for name in (*NAMES, "pi"):
            place[name].activate(signed)
        await place.start(*NAMES, "pi")
        await place.up(*NAMES, "pi")
        await write(place, "ood3", "a", "1")
        await place.stop("ood3")
        new = secret(60)
        again = owner_signs(*named, nodes=["pi"], ports=place.ports, keys={**KEYS, "ood3": new}, age=50)
        old = place["ood3"].leave(new)
        place["ood3"].activate(again)
        # One of the others is told.
        booting = place["pi"].booting
        assert booting is not None
        await booting.hear(again.zone, "its administrator")
        await place.start("ood3")
        await in_force(place, again, *NAMES, "pi")
        await place.up(*NAMES, "pi")
        await found(place, "ood3", "a", "1")
        await write(place, "ood3", "a", "2")
        # The old one comes back, and is let in nowhere.
        await place.stop("ood3")
        place["ood3"].home, place["ood3"].key = old, KEYS["ood3"]
        await place.start("ood3")
        await until(lambda: "was replaced" in str(place["ood3"].status().get("why")), 60.0)
        assert place["ood3"].store is None
        await write(place, "ood1", "a", "3")


@pytest.mark.timeout(600)
async def test_a_plain_node_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = owner_signs("ood1", nodes=["pi"])
    async with town(tmp_path, monkeypatch, "ood1", "pi") as place:
        for name in ("ood1", "pi"):
            place[name].activate(signed)
        await place.start("ood1", "pi")
        await place.up("ood1", "pi")
        await write(place, "pi", "devices/pi/info", "before")
        place.cut_off("pi")
        assert place["pi"].world is not None
        await until(lambda: not place["pi"].world.reached, 60.0)  # type: ignore[union-attr]
        store = place["pi"].store
        assert store is not None
        with pytest.raises(ConfigError):
            await store.get("devices/pi/info")
        # Meanwhile the owner signs; it hears of that when it is back.
        later = owner_signs("ood1", nodes=["pi"], age=50)
        booting = place["ood1"].booting
        assert booting is not None
        await booting.hear(later.zone, "its administrator")
        await in_force(place, later, "ood1")
        place.mend()
        await in_force(place, later, "pi")
        await write(place, "pi", "devices/pi/info", "after")
        await found(place, "ood1", "devices/pi/info", "after")
        assert place["pi"].lives == 1


@pytest.mark.timeout(600)
async def test_a_plain_node_uses_the_store_through_its_own_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = owner_signs("ood1", nodes=["pi"])
    async with town(tmp_path, monkeypatch, "ood1", "pi", module=ZoneModule, section="zone: {{port: 0}}") as place:
        for name in ("ood1", "pi"):
            place[name].activate(signed)
        await place.start("ood1", "pi")
        zone, services = signed.of("pi").zone, services_of(place["pi"].home)
        me, other = (machine(zone, KEYS[name].public) for name in ("pi", "ood1"))
        assert me is not None
        assert other is not None
        store = store_as(me, services)
        await store.transact(Transaction((Set("devices/pi/info", '"here"'),)))
        assert (await store.get("devices/pi/info")).value == '"here"'
        with pytest.raises(ConfigError, match="may not"):
            await store.transact(Transaction((Set("devices/ood1/info", '"x"'),)))
        # It speaks for nobody but itself.
        with pytest.raises(ConfigError, match="on an OOD"):
            await store_as(other, services).get("devices/pi/info")
        # Its programs call what the OODs carry at its own door: as whom their tokens say, and else as nobody.
        door = place["pi"].home / SOCKET

        async def call(service: str, method: str, token: str = "", **params: str) -> Mapping[str, Json]:
            async def tokens() -> str:
                return token

            told = await Client(HttpTransport(by_unix(door), tokens), service).call(method, params)
            assert isinstance(told, Mapping)
            return told

        with pytest.raises(KrpcFault) as caught:
            await call(SERVICE, "sys_config_get", key="devices/pi/info")
        assert caught.value.code == Code.UNAUTHENTICATED
        jwt = bootstrap("home.example", "pi", "node-daemon", KEYS["pi"], "1", time.time())
        token = str((await call(HUB, "login_by_jwt", jwt=jwt))["session_token"])
        assert (await call(SERVICE, "sys_config_get", token, key="devices/pi/info"))["value"] == "here"
        with pytest.raises(KrpcFault) as caught:
            await call(SERVICE, "sys_config_get", token, key="devices/ood1/info")
        assert caught.value.code == Code.DENIED
