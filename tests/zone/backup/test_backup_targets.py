"""Backups on real targets: made, broken, cut off, held back, let go and restored."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio
from backuptargets import HOME, KINDS, ZONE, maker, noise, serving, sources
from zones import ALICE, DAY, MALLORY, NOW

from cyfs_ns.errors import BadWire, ConfigFault, CyfsError, Refused, Unreachable
from zone.backup.chunks import PIECE
from zone.backup.manifest import Kind
from zone.backup.retention import Retention
from zone.config.model import Set, Transaction
from zone.io.backup import target as targets
from zone.io.backup.backups import back_up, begin, discard, forget, load, survey, sweep, verify
from zone.io.backup.restoring import restore
from zone.io.backup.sources import Files
from zone.io.backup.target import Directory, Target
from zone.io.backup.webdav import WebDav, read_credentials
from zone.io.config.sqlite import Database, SqliteBackend
from zone.io.config.store import ConfigStore

OWNER = ALICE.public


@pytest.fixture(params=KINDS)
async def target(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Target]:
    async with serving(request.param, tmp_path / "target") as one:
        await begin(one, HOME)
        yield one


@pytest.fixture
async def disk(tmp_path: Path) -> Directory:
    (tmp_path / "target").mkdir()
    one = Directory(tmp_path / "target")
    await begin(one, HOME)
    return one


def files(folder: Path) -> dict[str, object]:
    """What is in a folder, in a form that can be compared."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        time = 0 if path.is_symlink() else int(path.stat().st_mtime)
        found[str(path.relative_to(folder))] = (content, path.lstat().st_mode, time)
    return found


def chunks(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "target" / "chunks").glob("??/*"))


async def test_the_exam_of_a_target(target: Target) -> None:
    assert await target.read("chunks/ab/none", 10) is None
    assert await target.list("chunks/ab") == set()
    await target.write("chunks/ab/one", b"first")
    await target.write("chunks/ab/one", b"second")
    await target.write("chunks/ab/two", b"")
    assert await target.list("chunks/ab") == {"one", "two"}
    assert await target.read("chunks/ab/one", 6) == b"second"
    with pytest.raises(BadWire):
        await target.read("chunks/ab/one", 5)
    await target.remove("chunks/ab/one")
    await target.remove("chunks/ab/one")
    assert await target.list("chunks/ab") == {"two"}
    await begin(target, HOME)
    with pytest.raises(Refused, match="another zone"):
        await begin(target, "did:web:other.example")


async def test_what_was_saved_comes_back(target: Target, tmp_path: Path) -> None:
    made = await back_up(target, maker(tmp_path), sources(tmp_path), made=NOW, sample=1)
    assert (made.machine, made.number, made.warnings) == ("ood1", 1, ())
    newest, faults = await survey(target, OWNER, HOME)
    assert faults == []
    verdict = await verify(target, newest["ood1"])
    assert verdict.checked and not verdict.lost and not verdict.damaged
    parts = await restore(target, newest["ood1"], ALICE, tmp_path / "back")
    assert [(part.name, part.revision) for part in parts] == [("system_config", 42), ("web.data", 0)]
    assert (tmp_path / "back" / "system_config").read_bytes() == (tmp_path / "config.db").read_bytes()
    assert files(tmp_path / "back" / "web.data") == files(tmp_path / "data")
    assert sorted(os.listdir(tmp_path / "back")) == ["system_config", "web.data"]


async def test_the_target_sees_nothing_of_it(disk: Directory, tmp_path: Path) -> None:
    await back_up(disk, maker(tmp_path), sources(tmp_path), made=NOW)
    for path in (path for path in (tmp_path / "target").rglob("*") if path.is_file()):
        assert b"note" not in path.read_bytes() and b"web.data" not in path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600


async def test_what_is_there_is_not_written_again(target: Target, tmp_path: Path) -> None:
    first = await back_up(target, maker(tmp_path), sources(tmp_path), made=NOW)
    again = await back_up(target, maker(tmp_path), sources(tmp_path), made=NOW)
    assert (again.number, again.written, again.size) == (2, 0, first.size)
    (tmp_path / "data" / "note-070x").write_text("a new one in the middle")
    with (tmp_path / "config.db").open("r+b") as file:
        file.seek(PIECE + 100)
        file.write(b"a page that changed")
    third = await back_up(target, maker(tmp_path), sources(tmp_path), made=NOW)
    assert 0 < third.written < first.written / 2
    other = await back_up(target, maker(tmp_path, "ood2"), sources(tmp_path), made=NOW)
    assert (other.machine, other.number, other.written) == ("ood2", 1, 0)


async def test_one_part_and_nothing_over_what_is_there(disk: Directory, tmp_path: Path) -> None:
    await back_up(disk, maker(tmp_path), sources(tmp_path), made=NOW)
    manifest = await load(disk, OWNER, "ood1", 1)
    with pytest.raises(Refused, match="this key is"):
        await restore(disk, manifest, MALLORY, tmp_path / "back")
    with pytest.raises(Refused, match="has no part 'mail'"):
        await restore(disk, manifest, ALICE, tmp_path / "back", only=["mail"])
    await restore(disk, manifest, ALICE, tmp_path / "back", only=["system_config"])
    assert os.listdir(tmp_path / "back") == ["system_config"]
    with pytest.raises(Refused, match="may be newer"):
        await restore(disk, manifest, ALICE, tmp_path / "back")


async def test_a_restore_that_broke_off_goes_on(disk: Directory, tmp_path: Path) -> None:
    await back_up(disk, maker(tmp_path), sources(tmp_path), made=NOW)
    manifest = await load(disk, OWNER, "ood1", 1)

    class Cut(Exception): ...

    def cut(part: str, done: int, size: int) -> None:
        if done > size / 2:
            raise Cut

    steps: list[int] = []
    with pytest.raises(Cut):
        await restore(disk, manifest, ALICE, tmp_path / "back", progress=cut)
    with (tmp_path / "back" / "system_config.part").open("ab") as file:
        file.write(b"half a piece")
    await restore(disk, manifest, ALICE, tmp_path / "back", progress=lambda part, done, size: steps.append(done))
    assert steps[0] > PIECE
    assert (tmp_path / "back" / "system_config").read_bytes() == (tmp_path / "config.db").read_bytes()
    assert files(tmp_path / "back" / "web.data") == files(tmp_path / "data")


async def test_what_was_damaged_is_found_and_never_restored(disk: Directory, tmp_path: Path) -> None:
    await back_up(disk, maker(tmp_path), sources(tmp_path), made=NOW)
    manifest = await load(disk, OWNER, "ood1", 1)
    first, second, *_ = chunks(tmp_path)
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    second.unlink()
    verdict = await verify(disk, manifest)
    assert [name.hex() for name in verdict.damaged] == [first.name]
    assert [name.hex() for name in verdict.lost] == [second.name]
    with pytest.raises(BadWire):
        await restore(disk, manifest, ALICE, tmp_path / "back")
    assert not (tmp_path / "back" / "system_config").exists() or not (tmp_path / "back" / "web.data").exists()


async def test_what_was_damaged_is_written_anew_by_the_next_backup(disk: Directory, tmp_path: Path) -> None:
    await back_up(disk, maker(tmp_path), sources(tmp_path), made=NOW)
    manifest = await load(disk, OWNER, "ood1", 1)
    first, *_ = chunks(tmp_path)
    first.write_bytes(b"rotten")
    await discard(disk, await verify(disk, manifest))
    made = await back_up(disk, maker(tmp_path), sources(tmp_path), made=NOW)
    assert made.written == first.stat().st_size
    verdict = await verify(disk, manifest)
    assert not verdict.lost and not verdict.damaged


async def test_a_target_that_went_back_is_told(disk: Directory, tmp_path: Path) -> None:
    for _ in range(3):
        await back_up(disk, maker(tmp_path), sources(tmp_path), made=NOW)
    await back_up(disk, maker(tmp_path, "ood2"), [], made=NOW)
    held = tmp_path / "target" / "backups" / "ood1"
    (held / "3").rename(tmp_path / "third")
    _, faults = await survey(disk, OWNER, HOME)
    assert faults == ["backup ood1/3, which ood2/1 saw, is not there: the target was put back, or lost it"]
    (held / "3").write_bytes((held / "2").read_bytes())
    newest, faults = await survey(disk, OWNER, HOME)
    assert newest["ood1"].number == 2
    assert "somebody exchanged them" in faults[0]
    made = await back_up(disk, maker(tmp_path), [], made=NOW)
    assert made.number == 4
    assert any("went back: number 3 was there, the newest is 2" in line for line in made.warnings)


async def test_the_past_is_let_go_with_what_only_it_needs(disk: Directory, tmp_path: Path) -> None:
    for day in range(4):
        (tmp_path / "today").write_bytes(noise(1000 + day))
        today = Files("today", tmp_path / "today", Kind.FILE)
        await back_up(disk, maker(tmp_path), [*sources(tmp_path), today], made=NOW + day * DAY)
    await disk.write("chunks/ab/leftover.part", b"of a write that broke off")
    assert await sweep(disk, maker(tmp_path), Retention(last=2, daily=0, weekly=0, monthly=0)) == (2, 3)
    for number in (3, 4):
        verdict = await verify(disk, await load(disk, OWNER, "ood1", number))
        assert not verdict.lost
    assert await sweep(disk, maker(tmp_path), Retention()) == (0, 0)


async def test_nobody_sweeps_while_others_work_and_the_other_way_round(disk: Directory, tmp_path: Path) -> None:
    await disk.write("claims/making-ood2", b"of a run that goes on")
    with pytest.raises(Unreachable, match="ood2 is at work there"):
        await sweep(disk, maker(tmp_path), Retention())
    # Two may make backups at once, and the claim of an earlier run of our own is in nobody's way.
    await disk.write("claims/sweeping-ood1", b"of a run that was killed")
    await back_up(disk, maker(tmp_path), [], made=NOW)
    await forget(disk, "ood2")
    await disk.write("claims/sweeping-ood2", b"of a run that goes on")
    with pytest.raises(Unreachable, match="ood2 is at work there"):
        await back_up(disk, maker(tmp_path), [], made=NOW)
    assert await disk.list("claims") == {"sweeping-ood2"}


async def test_whose_claim_was_taken_away_makes_no_backup(disk: Directory, tmp_path: Path) -> None:
    def taken(*_: object) -> None:
        (tmp_path / "target" / "claims" / "making-ood1").unlink(missing_ok=True)

    with pytest.raises(Unreachable, match="took our claim away"):
        await back_up(disk, maker(tmp_path), sources(tmp_path), made=NOW, progress=taken)
    assert await disk.list("backups/ood1") == set()


async def test_as_long_as_a_manifest_cannot_be_read_nothing_is_removed(disk: Directory, tmp_path: Path) -> None:
    for _ in range(2):
        await back_up(disk, maker(tmp_path), sources(tmp_path), made=NOW)
    path = tmp_path / "target" / "backups" / "ood1" / "1"
    path.write_bytes(path.read_bytes()[:-1])
    before = chunks(tmp_path)
    with pytest.raises(BadWire, match="ood1/1"):
        await sweep(disk, maker(tmp_path), Retention(last=1, daily=0, weekly=0, monthly=0))
    assert chunks(tmp_path) == before


async def test_a_disk_that_is_not_mounted_is_no_empty_target(disk: Directory, tmp_path: Path) -> None:
    await back_up(disk, maker(tmp_path), [], made=NOW)
    (tmp_path / "target").rename(tmp_path / "unplugged")
    with pytest.raises(Unreachable, match="is it mounted"):
        await back_up(disk, maker(tmp_path), [], made=NOW)
    (tmp_path / "target").mkdir()
    with pytest.raises(Unreachable, match="is it mounted"):
        await back_up(disk, maker(tmp_path), [], made=NOW)


async def test_a_full_target_says_so_and_the_backup_goes_on_later(
    disk: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, room = targets.write_atomic, [4]

    def write(path: Path, data: bytes) -> None:
        if path.parent.parent.name == "chunks":
            room[0] -= 1
            if room[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, data)

    monkeypatch.setattr(targets, "write_atomic", write)
    with pytest.raises(Refused, match="no room; make some"):
        await back_up(disk, maker(tmp_path), sources(tmp_path), made=NOW)
    assert await disk.list("backups/ood1") == set()
    written = len(chunks(tmp_path))
    room[0] = 1000
    made = await back_up(disk, maker(tmp_path), sources(tmp_path), made=NOW)
    assert made.number == 1
    assert 1000 - room[0] == len(chunks(tmp_path)) - written


async def test_a_server_that_goes_away_says_so(tmp_path: Path) -> None:
    async with serving("webdav", tmp_path / "target") as target:
        await begin(target, HOME)
        await back_up(target, maker(tmp_path), [], made=NOW)
    with pytest.raises(Unreachable):
        await back_up(target, maker(tmp_path), [], made=NOW)


async def test_a_server_that_does_not_know_us(tmp_path: Path) -> None:
    async with serving("webdav", tmp_path / "target") as target:
        assert isinstance(target, WebDav)
        stranger = WebDav(str(target), target._dial, "alice:wrong")
        with pytest.raises(Refused, match="does not let us in"):
            await begin(stranger, HOME)


@pytest.mark.parametrize("url", ["ftp://a/b", "http:///b", "https://a/b?c", "https://user:word@a/b", "/srv/backup"])
def test_urls_that_are_no_target(url: str) -> None:
    with pytest.raises(ConfigFault) as told:
        WebDav(url, lambda *_: None)  # type: ignore[arg-type, return-value]
    assert "word" not in str(told.value) or "password" in str(told.value)


def test_credentials_are_for_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    with pytest.raises(ConfigFault):
        read_credentials(path)
    path.write_text("alice:secret\n")
    path.chmod(0o640)
    with pytest.raises(ConfigFault, match="chmod 600"):
        read_credentials(path)
    path.chmod(0o600)
    assert read_credentials(path) == "alice:secret"


def test_what_is_cut_off_by_a_kill_goes_on(tmp_path: Path) -> None:
    """Killed at any piece, any number of times: what is there in the end is whole."""
    place = tmp_path / "target"
    place.mkdir()
    sources(tmp_path)
    command = [sys.executable, str(Path(__file__).with_name("backupchild.py")), str(place), str(tmp_path)]
    here = Path(__file__).parent
    paths = [str(here), str(here.parent / "boot"), str(here.parents[1]), str(here.parents[2])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    die = random.Random(7)
    for _ in range(4):
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as child:
            assert child.stdout is not None
            for _ in range(die.randrange(1, 5)):
                assert child.stdout.readline() == b"piece\n"
            child.kill()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, timeout=120)

    async def look() -> None:
        newest, faults = await survey(Directory(place), OWNER, HOME)
        assert faults == []
        await restore(Directory(place), newest["ood1"], ALICE, tmp_path / "back")

    trio.run(look)
    assert files(tmp_path / "back" / "web.data") == files(tmp_path / "data")


async def test_the_configuration_of_a_zone_comes_back(disk: Directory, tmp_path: Path) -> None:
    store = SqliteBackend(Database(tmp_path / "live.db"))
    await ConfigStore(store).transact(Transaction((Set("services/web/spec", "1"),)))
    revision = await store.snapshot(tmp_path / "copy.db")
    await ConfigStore(store).transact(Transaction((Set("services/web/spec", "2"),)))
    await back_up(disk, maker(tmp_path), [Files("system_config", tmp_path / "copy.db", Kind.FILE, revision)], made=NOW)
    await store.aclose()
    (part,) = await restore(disk, await load(disk, OWNER, "ood1", 1), ALICE, tmp_path / "back")
    again = SqliteBackend(Database(tmp_path / "back" / "system_config"))
    entry = await ConfigStore(again).get("services/web/spec")
    assert (entry.value, part.revision) == ("1", revision)
    await again.aclose()


async def test_a_folder_that_changes_while_it_is_read(disk: Directory, tmp_path: Path) -> None:
    data = tmp_path / "busy"
    data.mkdir()
    (data / "log").write_bytes(bytes(3 * PIECE))
    os.mkfifo(data / "pipe")

    def shrink(*_: object) -> None:
        os.truncate(data / "log", 10)

    made = await back_up(disk, maker(tmp_path), [Files("busy", data, Kind.FOLDER)], made=NOW, progress=shrink)
    assert [line for line in made.warnings if "became shorter" in line]
    await restore(disk, await load(disk, OWNER, "ood1", 1), ALICE, tmp_path / "back")
    assert sorted(os.listdir(tmp_path / "back" / "busy")) == ["log"]


async def test_a_source_that_cannot_be_read_is_no_backup(disk: Directory, tmp_path: Path) -> None:
    with pytest.raises(OSError):
        await back_up(disk, maker(tmp_path), [Files("gone", tmp_path / "gone", Kind.FILE)], made=NOW)
    with pytest.raises(CyfsError):
        await back_up(disk, maker(tmp_path), [Files("../gone", tmp_path / "gone", Kind.FILE)], made=NOW)
    assert await disk.list("backups/ood1") == set()
    assert ZONE.of("ood1").name == "ood1"
