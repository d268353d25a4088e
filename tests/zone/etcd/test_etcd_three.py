"""Three machines keep one state: their members of etcd talk through tunnels, and nothing that was acknowledged is lost
when one is killed, cut off, or wiped.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
import trio
from inprocess import until
from oods import NAMES, ZONE, Writer, oods, seat

from rtcp.io.pipe import receive_some, send_all
from zone.config.keys import Below
from zone.config.model import Set, Transaction
from zone.etcd.start import Mark, Stage
from zone.etcd.talk import Report, write_report
from zone.io.etcd.files import restore, save_mark
from zone.io.etcd.house import Document


@pytest.mark.timeout(900)
async def test_one_grows_to_three_and_nothing_is_lost_on_bad_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with oods(tmp_path, monkeypatch) as zone:
        begun = trio.current_time()
        await zone.begin("ood1")
        await zone.begin("ood2", "ood3")
        leader = await zone.settle()
        print(f"three members after {trio.current_time() - begun:.1f} s")
        writers = {name: Writer(zone.stores[name], name) for name in NAMES}
        async with trio.open_nursery() as nursery:
            for writer in writers.values():
                nursery.start_soon(writer.run)
            await progress(writers, NAMES)

            # The leader is killed: the others go on, and it comes back by itself.
            pid, killed = zone.houses[leader].member.pid, trio.current_time()
            os.kill(pid, signal.SIGKILL)
            others = [name for name in NAMES if name != leader]
            await progress(writers, others[:1])
            print(f"leader killed to first accepted write: {trio.current_time() - killed:.2f} s")
            leader = await zone.settle()
            await progress(writers, NAMES)

            # The leader is cut off.
            cut = trio.current_time()
            zone.partition(leader)
            others = [name for name in NAMES if name != leader]
            await progress(writers, others)
            print(f"leader cut off to accepted writes of both others: {trio.current_time() - cut:.2f} s")
            mended = trio.current_time()
            zone.mend()
            await zone.settle()
            await progress(writers, NAMES)
            print(f"mended to accepted writes of all: {trio.current_time() - mended:.2f} s")

            # A disk is wiped: it comes back as another member.
            leader = await zone.settle()
            before = set(zone.houses[leader].status()["members"])
            await zone.end(leader)
            shutil.rmtree(zone.folder(leader))
            zone.founder = leader
            await progress(writers, [name for name in NAMES if name != leader])
            await zone.begin(leader)
            wiped = trio.current_time()
            await zone.settle()
            print(f"wiped disk to member again: {trio.current_time() - wiped:.2f} s")
            after = set(zone.houses[leader].status()["members"])
            assert len(before - after) == len(after - before) == 1
            writers[leader] = Writer(zone.stores[leader], "again")
            nursery.start_soon(writers[leader].run)
            await progress(writers, NAMES)

            # The zone document names two OODs, then three again.
            leader = await zone.settle()
            gone = next(name for name in NAMES if name != leader)
            seats = zone.document.seats
            zone.document = Document(tuple(one for one in seats if one.name != gone), zone.document.iat + 1)
            await zone.settle(2)
            await until(lambda: not zone.houses[gone].status()["pid"])
            # It has its tunnels still, and gets nowhere by them.
            for offer in ("etcd-peer", "etcd-members"):
                pipe = await zone.hosts[gone].call_offer(seat(leader).did, f"{offer}.{ZONE}")
                with pytest.raises(OSError), trio.fail_after(30):
                    await send_all(pipe, b"{}\n")
                    assert not await receive_some(pipe)
                    raise OSError
                pipe.close()
            await progress(writers, [name for name in NAMES if name != gone])
            zone.document = Document(seats, zone.document.iat + 1)
            back = trio.current_time()
            await zone.settle()
            print(f"named again to member again: {trio.current_time() - back:.2f} s")
            await progress(writers, NAMES)
            nursery.cancel_scope.cancel()
        acknowledged = {key: revision for writer in writers.values() for key, revision in writer.acknowledged.items()}
        for name in NAMES:
            found = {entry.key: entry.revision for entry in (await zone.stores[name].read([Below()])).entries}
            assert acknowledged.items() <= found.items()


@pytest.mark.timeout(900)
async def test_who_comes_late_is_added_to_those_who_founded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with oods(tmp_path, monkeypatch) as zone:
        await zone.begin("ood1", "ood2")
        await until(lambda: all(len(zone.houses[name].members) == 2 for name in ("ood1", "ood2")))
        await zone.begin("ood3")
        await zone.settle()


@pytest.mark.timeout(900)
async def test_a_founding_whose_members_are_gone_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with oods(tmp_path, monkeypatch) as zone:
        # The founder was switched off with its decision made; meanwhile the others lost their disks.
        lives = [seat(name).url(f"0000000{number}") for number, name in enumerate(NAMES)]
        save_mark(zone.folder("ood1"), Mark("00000000", Stage.FOUNDING, "", tuple(lives)))
        await zone.begin(*NAMES)
        await zone.settle()
        assert not set(zone.houses["ood1"].members) & set(lives)


@pytest.mark.timeout(900)
async def test_one_that_nobody_can_dial_is_a_full_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with oods(tmp_path, monkeypatch, hidden="ood3") as zone:
        await zone.begin(*NAMES)
        await zone.settle()
        writers = {name: Writer(zone.stores[name], name) for name in NAMES}
        async with trio.open_nursery() as nursery:
            for writer in writers.values():
                nursery.start_soon(writer.run)
            await progress(writers, NAMES)
            # It is one of the majority without another.
            os.kill(zone.houses["ood1"].member.pid, signal.SIGKILL)
            await progress(writers, ["ood2", "ood3"])
            await zone.settle()
            nursery.cancel_scope.cancel()


@pytest.mark.timeout(900)
async def test_a_snapshot_brings_back_a_zone_that_lost_its_majority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    snapshot = tmp_path / "snapshot.db"
    async with oods(tmp_path, monkeypatch) as zone:
        await zone.begin(*NAMES)
        await zone.settle()
        await zone.stores["ood2"].transact(Transaction((Set("a", "1"),)))
        await zone.houses["ood2"].admin.snapshot(snapshot)  # where it is known to be
        await zone.stores["ood2"].transact(Transaction((Set("a", "2"),)))
        talk = await zone.hosts["ood1"].call_offer(seat("ood2").did, f"etcd-members.{ZONE}")
        for name in NAMES:
            await zone.end(name)
        # Who has no member any more says nothing of the cluster that was.
        await send_all(talk, write_report(Report(url="", runs=False)))
        assert not await receive_some(talk)
        talk.close()
        shutil.rmtree(zone.folder("ood3"))
        await restore(snapshot, zone.folder("ood1"), seat("ood1"))
        zone.founder = ""
        # What ood2 has is of the cluster that was.
        await zone.begin(*NAMES)
        await zone.settle()
        for name in NAMES:
            assert (await zone.stores[name].get("a")).value == "1"
        assert (zone.folder("ood2") / "data.old").is_dir()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("leader_stays", [True, False])
async def test_three_become_one_whoever_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leader_stays: bool):
    async with oods(tmp_path, monkeypatch) as zone:
        await zone.begin(*NAMES)
        leader = await zone.settle()
        stays = leader if leader_stays else next(name for name in NAMES if name != leader)
        writer = Writer(zone.stores[stays], stays)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            await progress({stays: writer}, [stays])
            # The two others are machines of the zone as before, and vote for their own removal.
            others = tuple(seat(name) for name in NAMES if name != stays)
            zone.document = Document((seat(stays),), zone.document.iat + 1, others)
            assert await zone.settle(1) == stays
            await until(lambda: all(zone.houses[one.name].has_left for one in others))
            await progress({stays: writer}, [stays])
            # Now they get nowhere.
            pipe = await zone.hosts[others[0].name].call_offer(seat(stays).did, f"etcd-peer.{ZONE}")
            with pytest.raises(OSError), trio.fail_after(30):
                await send_all(pipe, b"{}\n")
                assert not await receive_some(pipe)
                raise OSError
            pipe.close()
            nursery.cancel_scope.cancel()
        found = {entry.key: entry.revision for entry in (await zone.stores[stays].read([Below()])).entries}
        assert writer.acknowledged.items() <= found.items()


async def progress(writers: dict[str, Writer], names: list[str] | tuple[str, ...], seconds: float = 240.0) -> None:
    """Until each of those has been heard ten times from now on."""
    goal = {name: len(writers[name].acknowledged) + 10 for name in names}
    with trio.fail_after(seconds):
        while any(len(writers[name].acknowledged) < least for name, least in goal.items()):  # noqa: ASYNC110
            await trio.sleep(0.01)
