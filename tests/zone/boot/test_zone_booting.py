"""The boot of a zone of one machine with its real files: kills, power cuts, full disks, strange clocks."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from alone import Alone
from zones import DAY, HOME, NOW, OOD1, PI, Signed, sign

from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.token import Token, read_token
from cyfs_ns.identity.txt import txt_record
from cyfs_ns.io.trusted.keystore import KeyStore
from tests.powercut import PowerCut
from zone.boot.known import Known, first_known
from zone.boot.machine import BeginAnew
from zone.config.keys import At
from zone.io.boot.booting import Booting
from zone.io.boot.memory import Memory
from zone.io.boot.search import Search, by_dns, by_hand
from zone.io.config.store import ConfigStore
from zone.io.membership import MembershipStore
from zone.membership import Membership

ONE = sign("ood1", nodes=["nas"])
NEW = sign("ood1:192.0.2.7", nodes=["nas", "pi"], iat=NOW - 100)


def activate(home: Path, signed: Signed, name: str = "ood1") -> None:
    """What an activation leaves of a machine with the key of ood1."""
    store = KeyStore(home)
    store.path.mkdir(parents=True, exist_ok=True)
    store.device_pem.write_bytes(OOD1.pem())
    store.device_pem.chmod(0o600)
    MembershipStore(home).path.write_bytes(signed.text(name))


@dataclass
class Box:
    """A machine whose zone comes up."""

    booting: Booting
    up: trio.Event = field(default_factory=trio.Event)
    store: ConfigStore | None = None
    lives: int = 0

    async def life(self, store: ConfigStore, membership: Membership) -> None:
        self.store, self.lives = store, self.lives + 1
        self.up.set()
        await trio.sleep_forever()

    async def at(self, step: str) -> None:
        await self.booting.until(lambda status: status["step"] == step)


@asynccontextmanager
async def running(home: Path, searches: Sequence[Search] = (), now: float = NOW) -> AsyncGenerator[Box]:
    box: Box

    async def life(store: ConfigStore, membership: Membership) -> None:
        await box.life(store, membership)

    box = Box(Booting(home, Alone(home), searches, life, wall=lambda: now))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.booting.run)
        yield box
        nursery.cancel_scope.cancel()


def found(*tokens: str) -> Search:
    async def search(zone: Did) -> list[tuple[str, Token]]:
        return [("somewhere", read_token(token)) for token in tokens]

    return search


async def test_a_zone_of_one_machine_comes_up_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    activate(tmp_path, ONE)
    took = []
    for _ in range(2):
        began = time.perf_counter()
        async with running(tmp_path) as box:
            await box.up.wait()
            took.append(time.perf_counter() - began)
            assert box.store is not None
            assert (await box.store.get("boot/config")).version == 1
            status = box.booting.status()
    assert (status["step"], status["role"], status["zone"], status["ahead"]) == ("booted", "ood", str(HOME), None)
    assert status["waits_for"] == ""
    with capsys.disabled():
        print(f"\n  a zone of one machine is up after {took[0] * 1e3:.0f} ms, the second time {took[1] * 1e3:.0f} ms")


async def test_without_an_activation_it_waits_and_begins_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zone.boot.machine.AGAIN", 0.05)
    async with running(tmp_path) as box:
        await box.booting.until(lambda status: "node activate" in status["why"])
        activate(tmp_path, ONE)
        await box.up.wait()


async def test_a_newer_document_is_taken_from_whoever_has_it(tmp_path: Path) -> None:
    activate(tmp_path, ONE)
    async with running(tmp_path) as box:
        await box.up.wait()
    async with running(tmp_path, [found(NEW.zone, ONE.zone)]) as box:
        await box.up.wait()
        assert box.store is not None
        async with box.store.watch(At("nodes/pi/intent"), 1) as changes:
            await anext(changes)
        assert json.loads((await box.store.get("boot/config")).value or "")["jwt"] == NEW.zone
    membership = MembershipStore(tmp_path).own(NOW)
    known, _ = Memory(tmp_path, membership).read()
    assert known is not None
    assert known.zone == NEW.state(membership)
    async with running(tmp_path, [found(ONE.zone)]) as box:
        await box.up.wait()
        await _noted(box, "refused")


async def test_a_document_may_be_brought_by_anybody(tmp_path: Path) -> None:
    async with running(tmp_path) as box:
        with pytest.raises(Unreachable):
            await box.booting.hear(NEW.zone, "a peer")
        activate(tmp_path, ONE)
    async with running(tmp_path) as box:
        await box.up.wait()
        for bad in (sign("ood1", owner=PI, iat=NOW - 50).zone, NEW.owner, "x", NEW.zone[:-4]):
            with pytest.raises(BadWire):
                await box.booting.hear(bad, "a stranger")
        await box.booting.hear(NEW.zone, "a peer")
        revision = str(NEW.state(ONE.of("ood1")).revision)
        await box.booting.until(lambda status: status["document"] == revision)


async def test_of_the_peers_the_last_word_counts(tmp_path: Path) -> None:
    class Fickle(Alone):
        async def reach(self, names: tuple[str, ...], tell: Callable[[frozenset[str]], None]) -> None:
            for standing in ((), ("ood2",), (), ("ood2", "ood3"), ("ood3",)):
                tell(frozenset(standing))
            await trio.sleep_forever()

    activate(tmp_path, sign("ood1", "ood2", "ood3"))
    box = Box(Booting(tmp_path, Fickle(tmp_path), [], _nothing, wall=lambda: NOW))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.booting.run)
        await box.booting.until(lambda status: "etcd" in status["why"])
        assert box.booting.status()["step"] == "store"
        nursery.cancel_scope.cancel()


async def test_a_machine_that_was_replaced_stops_what_it_runs(tmp_path: Path) -> None:
    activate(tmp_path, ONE)
    other = sign("ood1", nodes=["nas"], keys={"ood1": PI, "nas": OOD1}, iat=NOW - 100)
    async with running(tmp_path) as box:
        await box.up.wait()
    async with running(tmp_path, [found(other.zone)]) as box:
        await box.at("halted")
        assert "replaced" in box.booting.status()["why"]
    async with running(tmp_path) as box:
        await box.at("halted")
        assert box.lives == 0


async def test_an_empty_store_waits_for_a_backup_or_the_owners_word(tmp_path: Path) -> None:
    activate(tmp_path, ONE)
    async with running(tmp_path) as box:
        await box.up.wait()
    for file in Memory(tmp_path, ONE.of("ood1")).path.glob("config.db*"):
        file.unlink()
    async with running(tmp_path) as box:
        await box.at("restore")
        await box.booting.until(lambda status: status["why"].startswith("no backup"))
        assert box.booting.status()["waits_for"] == "a backup of the zone"
        await box.booting.tell(BeginAnew())
        await box.up.wait()


async def test_what_it_remembered_is_damaged(tmp_path: Path) -> None:
    activate(tmp_path, ONE)
    async with running(tmp_path) as box:
        await box.up.wait()
    file = Memory(tmp_path, ONE.of("ood1")).path / "known.json"
    file.write_bytes(file.read_bytes()[:-40])
    async with running(tmp_path) as box:
        await box.up.wait()
        assert "known.json" in box.booting.status()["notes"][0]


async def test_a_full_disk_holds_everything_up_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock that jumps would outrun the threads that write.
    monkeypatch.setattr("zone.io.boot.booting.AGAIN", 0.05)
    activate(tmp_path, ONE)
    real, full = Memory.keep, [OSError(errno.ENOSPC, "No space left on device")] * 3

    def keep(memory: Memory, known: Known) -> None:
        if full:
            raise full.pop()
        real(memory, known)

    monkeypatch.setattr(Memory, "keep", keep)
    async with running(tmp_path) as box:
        await box.booting.until(lambda status: "No space left" in status["why"])
        assert box.store is None
        await box.up.wait()
        assert box.booting.status()["why"] == ""


async def test_a_clock_that_was_never_set_keeps_nobody_from_coming_up(tmp_path: Path) -> None:
    activate(tmp_path, ONE)
    async with running(tmp_path, [found(NEW.zone)], now=1000.0) as box:
        await box.up.wait()
        await _noted(box, "in the future")


async def test_a_document_that_is_no_good_hides_none_beside_it(tmp_path: Path) -> None:
    activate(tmp_path, ONE)
    others = sign("ood1", owner=PI).zone
    async with running(tmp_path, [found(others, NEW.zone)]) as box:
        revision = str(NEW.state(ONE.of("ood1")).revision)
        with trio.fail_after(30):
            await box.booting.until(lambda status: status.get("document") == revision)


async def test_documents_that_ended_are_no_identity(tmp_path: Path) -> None:
    activate(tmp_path, ONE)
    async with running(tmp_path, now=NOW + 2 * DAY) as box:
        await box.booting.until(lambda status: status["why"] != "")
        assert "expired" in box.booting.status()["why"]
        assert box.booting.status()["step"] == "identity"


async def test_where_documents_are_looked_for(tmp_path: Path) -> None:
    activate(tmp_path, ONE)
    local = tmp_path / "names" / "local"
    local.mkdir(parents=True)
    (local / "zone.jwt").write_text(NEW.zone)
    (local / "other.jwt").write_text(sign("ood1", zone=Did("web", "other.example")).zone)
    assert [token.text for _, token in await by_hand(tmp_path)(HOME)] == [NEW.zone]

    async def txt_records(name: str) -> list[bytes]:
        assert name == "home.example"
        return [txt_record("BOOT", json.loads(json.dumps(NEW.of("ood1").zone.boot_jwt))).encode()]

    async with running(tmp_path, [by_dns(txt_records)]) as box:
        await box.up.wait()
        await _noted(box, "signed the zone anew")


@pytest.mark.parametrize("signed", [sign("ood1", "ood2"), sign("ood2", nodes=["ood1"])], ids=["two OODs", "a node"])
async def test_a_zone_of_several_waits_for_the_others(tmp_path: Path, signed: Signed) -> None:
    activate(tmp_path, signed)
    async with running(tmp_path) as box:
        await box.at("peers")
        assert box.booting.status()["waits_for"] == "1 of ood2"


def test_a_power_cut_leaves_the_document_that_was_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ONE.of("ood1")
    memory, known = Memory(tmp_path, own), first_known(own)
    memory.path.mkdir(parents=True)
    cut = PowerCut(monkeypatch)
    memory.keep(known)
    assert cut.leaves(memory.path / "known.json") == known.text()
    assert memory.read() == (known, "")


def test_a_kill_at_any_moment_leaves_a_machine_that_comes_up(tmp_path: Path) -> None:
    """With real documents of now, since it is a process that reads the clock."""
    now = int(time.time())
    activate(tmp_path, sign("ood1", nodes=["nas"], iat=now - 10, exp=now + DAY))
    dice = random.Random(5)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = [sys.executable, str(Path(__file__).with_name("bootchild.py")), str(tmp_path)]
    memory = Memory(tmp_path, MembershipStore(tmp_path).own(now))
    for round in range(9):
        process = subprocess.Popen(child, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        if round == 8:
            assert process.stdout.readline() == "booted 1\n"
        else:
            # Early rounds fall between the first files, later ones anywhere.
            while round > 1 and not memory.path.exists() and process.poll() is None:
                time.sleep(0.001)
            time.sleep(dice.uniform(0, 0.03 * round))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert not list(memory.path.glob(".*.tmp"))


async def _nothing(store: ConfigStore, membership: Membership) -> None:
    await trio.sleep_forever()


async def _noted(box: Box, words: str) -> None:
    await box.booting.until(lambda status: any(words in note for note in status["notes"]))
