"""One member: its program on good and bad days, its sockets, its file, its snapshots."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cyfs_ns.errors import BadWire, ConfigFault, Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.keys import SecretKey
from zone.config.faults import Code, ConfigError
from zone.config.keys import At, Scope
from zone.config.model import Set, Transaction
from zone.etcd.launch import Launch, Trouble
from zone.etcd.seats import CLIENT, Seat
from zone.etcd.start import Mark, Stage
from zone.io.config.etcd import EtcdBackend
from zone.io.config.store import ConfigStore
from zone.io.etcd.admin import Admin, check_snapshot
from zone.io.etcd.files import has_data, load_mark, restore
from zone.io.etcd.process import EtcdMember

ONE = Seat("ood1", Did("web", "ood1.home.example"), SecretKey(bytes(31) + b"\x01").public)
LIFE = "0000000a"
FIRST = Launch(url=ONE.url(LIFE), is_new=True)

pytestmark = pytest.mark.skipif(
    None in map(shutil.which, ("etcd", "etcdctl")), reason="needs etcd and etcdctl (Debian: etcd-server, etcd-client)"
)


async def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    with trio.fail_after(seconds):
        while not holds():  # noqa: ASYNC110  # nothing tells
            await trio.sleep(0.02)


async def answered(admin: Admin) -> None:
    with trio.fail_after(60):
        while True:
            try:
                if (await admin.state()).leader:
                    return
            except Unreachable:
                await trio.sleep(0.05)


@asynccontextmanager
async def kept(member: EtcdMember, launch: Launch = FIRST) -> AsyncIterator[Admin]:
    """It runs and answers; afterwards it is stopped."""
    admin = Admin(member.client)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member.keep, launch)
            await answered(admin)
            yield admin
            nursery.cancel_scope.cancel()
    finally:
        admin.close()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def internet_sockets(pid: int) -> list[str]:
    own = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    lines = [line for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return [line for line in lines if f"socket:[{line.split()[9]}]" in own]


async def test_it_runs_behind_sockets_of_its_own_and_stops(tmp_path: Path):
    member = EtcdMember(tmp_path / "etcd")
    async with kept(member) as admin:
        pid = member.pid
        assert stat.S_IMODE((tmp_path / "etcd").stat().st_mode) == 0o700
        assert (tmp_path / "etcd" / CLIENT).is_socket()
        (one,) = await admin.members()
        assert (one.url, one.is_learner) == (FIRST.url, False)
        state = await admin.state()
        assert state.leads
        # It listens nowhere else.
        assert not internet_sockets(pid)
    assert not alive(pid)
    assert member.pid == 0


async def test_one_that_is_killed_is_started_again_with_all_it_knew(tmp_path: Path):
    member = EtcdMember(tmp_path)
    async with kept(member) as admin:
        await admin.follow(7)
        os.kill(member.pid, signal.SIGKILL)
        await until(lambda: member.starts == 2)
        await answered(admin)
        assert await admin.document() == 7
        assert member.fault is not None
        assert str(member.fault) == "etcd: it ended: killed by signal 9"


async def test_one_that_outlived_its_gateway_is_taken_over(tmp_path: Path):
    first = EtcdMember(tmp_path)
    process = await first._begun(FIRST)
    try:
        second = EtcdMember(tmp_path)
        async with kept(second):
            assert (second.pid, second.adopted, second.starts) == (process.pid, True, 0)
        await process.wait()
    finally:
        process.close()


async def test_one_of_another_life_is_ended_before_the_next_begins(tmp_path: Path):
    first = EtcdMember(tmp_path)
    process = await first._begun(FIRST)
    try:
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        second = EtcdMember(tmp_path)
        async with kept(second, Launch(url=ONE.url("0000000b"), is_new=True, data="other")):
            assert second.pid != process.pid
            assert not second.adopted
            with trio.fail_after(10):
                await process.wait()
    finally:
        process.close()


async def test_a_lock_that_is_held_by_who_knows_whom_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("zone.io.etcd.process._PATIENCE", 0.2)
    process = await EtcdMember(tmp_path)._begun(FIRST)
    try:
        await until(lambda: (tmp_path / "member.pid").exists())
        for text in ("", "1", "nonsense"):
            (tmp_path / "member.pid").write_text(text)
            with pytest.raises(Unreachable, match="lock is held"):
                await EtcdMember(tmp_path).keep(FIRST)
    finally:
        await process.stop()
        process.close()


async def test_damaged_data_are_told_and_not_started_again_and_again(tmp_path: Path):
    member = EtcdMember(tmp_path)
    async with kept(member) as admin:
        for document in range(1, 40):
            await admin.follow(document)
    (wal,) = (tmp_path / "data" / "member" / "wal").glob("0*.wal")
    written = bytearray(wal.read_bytes())
    written[200:1200] = bytes(byte ^ 0x55 for byte in written[200:1200])
    wal.write_bytes(written)
    with trio.fail_after(60):
        fault = await member.keep(FIRST)
    assert fault.trouble is Trouble.DAMAGED
    assert "restore a snapshot" in str(fault)


async def test_a_program_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("zone.io.etcd.process._LEAST_PAUSE", 0.01)
    member = EtcdMember(tmp_path, "/nonexistent/etcd")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(member.keep, FIRST)
        await until(lambda: member.fault)
        nursery.cancel_scope.cancel()
    assert "not found" in str(member.fault)


async def test_the_environment_has_no_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ETCD_LISTEN_CLIENT_URLS", "http://0.0.0.0:2379")
    monkeypatch.setenv("ETCD_FORCE_NEW_CLUSTER", "true")
    async with kept(EtcdMember(tmp_path)) as admin:
        assert len(await admin.members()) == 1


async def test_full_by_its_quota_it_takes_no_writes_until_there_is_room(tmp_path: Path):
    member = EtcdMember(tmp_path)
    store = ConfigStore(backend := EtcdBackend([member.client], "/z/"))
    async with kept(member, Launch(url=FIRST.url, is_new=True, quota=2 * 1024 * 1024)) as admin:
        own = (await admin.state()).id
        big = '"' + "x" * 200_000 + '"'
        with pytest.raises(ConfigError) as full:
            while True:
                await store.transact(Transaction((Set("a", big),)))
        assert full.value.code is Code.FULL
        with trio.fail_after(60):
            while not await admin.has_no_room(own):  # noqa: ASYNC110  # nothing tells
                await trio.sleep(0.05)
        state = await admin.state()
        await admin.compact(state.revision)
        await admin.defragment()
        assert (await admin.state()).size < state.size
        await admin.disarm(own)
        assert not await admin.has_no_room(own)
        await store.transact(Transaction((Set("a", "1"),)))
    await backend.aclose()


async def test_a_snapshot_comes_back_as_another_cluster_and_watches_hear_of_it(tmp_path: Path):
    folder, kept_file = tmp_path / "etcd", tmp_path / "snapshot.db"
    member = EtcdMember(folder)
    backend = EtcdBackend([member.client], "/z/")
    store = ConfigStore(backend)
    async with trio.open_nursery() as nursery:
        async with kept(member) as admin:
            await store.transact(Transaction((Set("a", "1"),)))
            snapshot = await admin.snapshot(kept_file)
            assert await check_snapshot(kept_file) == snapshot
            assert stat.S_IMODE(kept_file.stat().st_mode) == 0o600
            before = await admin.state()
            after = await store.transact(Transaction((Set("a", "2"),)))
            heard: list[str] = []

            async def listen(scope: Scope, after: int, words: str, *, task_status: trio.TaskStatus[None]) -> None:
                async with store.watch(scope, after) as changes:
                    task_status.started()
                    with pytest.raises(ConfigError, match=words) as gone:
                        await anext(changes)
                    assert gone.value.code is Code.INVALID
                    heard.append(words)

            # One whose revision is not there any more, or means another; and one whose revision is there as before.
            await nursery.start(listen, At("c"), after, "put back|future revision")
            await nursery.start(listen, At("d"), before.revision, "put back")
        mark = await restore(kept_file, folder, ONE)
        assert mark == load_mark(folder)
        assert mark.stage is Stage.MEMBER
        assert mark.life != LIFE
        async with kept(member, Launch(url=ONE.url(mark.life))) as admin:
            assert (await store.get("a")).value == "1"
            assert (await admin.state()).cluster != before.cluster
            # Where the old revisions are overtaken, too.
            for value in range(20):
                await store.transact(Transaction((Set("b", str(value)),)))
            await until(lambda: len(heard) == 2)
    await backend.aclose()


async def test_half_a_snapshot_is_none(tmp_path: Path):
    folder, path = tmp_path / "etcd", tmp_path / "snapshot.db"
    async with kept(EtcdMember(folder)) as admin:
        await admin.snapshot(path)
    whole = path.read_bytes()
    for bad in (b"", b"x" * 32, whole[:-1], whole[: len(whole) // 2], b"\x01" + whole[1:]):
        path.write_bytes(bad)
        with pytest.raises(BadWire):
            await restore(path, folder, ONE)
    assert has_data(folder), "what was there is untouched"
    assert load_mark(folder) is None


async def test_without_etcdctl_nothing_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, path = tmp_path / "etcd", tmp_path / "snapshot.db"
    async with kept(EtcdMember(folder)) as admin:
        await admin.snapshot(path)
    monkeypatch.setattr("zone.io.etcd.files._CTL", "/nonexistent/etcdctl")
    with pytest.raises(ConfigFault, match="etcd-client"):
        await restore(path, folder, ONE)
    assert load_mark(folder) is None
    monkeypatch.setattr("zone.io.etcd.files._CTL", "false")
    with pytest.raises(ConfigFault, match="false"):
        await restore(path, folder, ONE)
    assert load_mark(folder) is None


def test_a_mark_that_cannot_be_read_stops_everything(tmp_path: Path):
    (tmp_path / "member.json").write_bytes(b"{}")
    with pytest.raises(ConfigFault, match="remove both"):
        load_mark(tmp_path)
    assert Mark("00000001", Stage.MEMBER).text()
