"""Tasks of a node with a real store and real programs, and the daemon killed in the middle of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from test_node_loop import FOREVER, NODE, Moody, Zone

from node.io.run.cgroups import ControlGroups
from zone.config.keys import At
from zone.config.model import Set, Transaction
from zone.io.config.sqlite import Database
from zone.scheduler.snapshot import item_key


@pytest.fixture
async def zone(open_folder: Path, tmp_path: Path) -> AsyncIterator[Zone]:
    found = Zone(open_folder, Moody(Database(tmp_path / "zone.db")))
    yield found
    found.backend.is_away = False
    async with found.loop():
        for entry in (await found.store.read([At(task("t"))])).entries:
            await found.delete(entry.key)
        await found.order(target="stopped")
        await found.until_state("stopped")
    await found.backend.aclose()
    groups = ControlGroups(str(open_folder))
    for service in ("web", "web+op-t"):
        await groups.leave(service)
    groups.close()


async def until(holds: Callable[[], object]) -> None:
    """What files say is asked for again and again; minutes are for a machine that is busy."""
    with trio.fail_after(200):
        while not holds():  # noqa: ASYNC110 -- they tell no event
            await trio.sleep(0.01)


def task(name: str) -> str:
    return f"nodes/{NODE}/ops/{name}"


def work(*command: str, version: str = "1", **more: Any) -> dict[str, Any]:
    return {"image": f"web:{version}", "kind": "process", "command": list(command), "memory": 256 << 20, **more}


def run(*command: str, **more: Any) -> dict[str, Any]:
    return {"kind": "run", "service": "web", "epoch": 1, "work": work(*command, **more.pop("work", {})), **more}


async def receipt(zone: Zone, *states: str, epoch: int = 1) -> dict[str, Any]:
    """The receipt as soon as it says one of ``states``, or is final."""
    said: dict[str, Any] = await zone.until(
        lambda said: (
            said is not None
            and said["epoch"] in (0, epoch)
            and said["state"] in {*states, "done", "failed", "refused", "unknown"}
        ),
        f"nodes/{NODE}/status/ops/t",
    )
    assert said["state"] in states, said
    return said


async def order_and(zone: Zone, name: str, page: dict[str, Any], version: str) -> int:
    """An order and a task that it waits for, at once."""
    zone.epoch += 1
    item = {"work": work("serve", version=version), "ports": {}, "target": "running", "epoch": zone.epoch, "why": ""}
    writes = tuple(Set(key, json.dumps(plain)) for key, plain in ((task(name), page), (item_key(NODE, "web"), item)))
    await zone.store.transact(Transaction(writes))
    return zone.epoch


async def test_a_command_runs_once_as_the_service_and_with_its_volumes(zone: Zone) -> None:
    zone.package('echo ran >> "$VOLUME_DATA/ran"; id -u >> "$VOLUME_DATA/ran"; echo hello')
    async with zone.loop():
        await zone.put(task("t"), run("serve", work={"volumes": {"data": "/data"}}))
        said = await receipt(zone, "done")
        assert said["attempts"] == 1
        assert said["started"] <= said["ended"]
    async with zone.loop():
        await zone.order(volumes=(("data", "/data"),), command=("sleep", "600"))
        await zone.until_state("ready")
        lines = (zone.home / "volumes/web/data/ran").read_text().split()
        assert lines == ["ran", str((zone.home / "volumes/web/data").stat().st_uid)]
        log = zone.home / "logs/web+op-t/log"
        assert log.read_text().endswith("o hello\n")
        await zone.delete(task("t"))
        await zone.until(lambda said: said is None, f"nodes/{NODE}/status/ops/t")
        await until(lambda: not log.exists())


async def test_a_command_that_fails_says_how_and_one_that_lasts_too_long_is_ended(zone: Zone) -> None:
    zone.package("exit 7")
    zone.package("exec sleep 600", "2")
    async with zone.loop():
        await zone.put(task("t"), run("serve"))
        assert "exited with 7" in (await receipt(zone, "failed"))["why"]
        await zone.put(task("t"), run("serve", epoch=2, timeout=0.3, work={"version": "2"}))
        assert (await receipt(zone, "failed", epoch=2))["why"] == "took longer than 0.3 s"
        await zone.put(task("t"), run("nothing-there", epoch=3))
        assert "no program" in (await receipt(zone, "failed", epoch=3))["why"]
        assert (await zone.get(f"nodes/{NODE}/status/alive")) == {}


async def test_an_upgrade_waits_for_its_task(zone: Zone) -> None:
    zone.package(FOREVER)
    zone.package("exec sleep 700", "2")
    go = zone.home / "go"
    zone.package(f"until [ -e {go} ]; do sleep 0.02; done", "migrate")
    async with zone.loop():
        first = await zone.order()
        await zone.until_state("ready")
        before = zone.running()
        page = run("serve", holds=["web"], work={"version": "migrate"})
        await order_and(zone, "t", page, "2")
        await receipt(zone, "running")
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert zone.running() == before
        assert (await zone.get(f"services/web/instances/{NODE}"))["epoch"] == first
        go.touch()
        await receipt(zone, "done")
        await zone.until_state("ready")
        assert zone.running() != before


async def test_a_task_that_waits_is_remembered_while_the_store_is_away(zone: Zone) -> None:
    zone.package(FOREVER)
    zone.package("exit 1", "2")
    async with zone.loop():
        await zone.order()
        await zone.until_state("ready")
        await order_and(zone, "t", run("serve", holds=["web"], work={"version": "2"}), "2")
        await receipt(zone, "failed")
    before = zone.running()
    zone.backend.is_away = True
    async with zone.loop():
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert zone.running() == before
        zone.backend.is_away = False
        await zone.delete(task("t"))
        await zone.until(lambda said: said["epoch"] == zone.epoch)
        assert zone.running() != before


async def test_what_is_done_while_the_store_is_away_is_told_when_it_is_back(zone: Zone) -> None:
    go, gone = zone.home / "go", zone.home / "volumes/web/data/gone"
    zone.package(f'until [ -e {go} ]; do sleep 0.02; done; touch "$VOLUME_DATA/gone"')
    async with zone.loop():
        await zone.put(task("t"), run("serve", work={"volumes": {"data": "/data"}}))
        await receipt(zone, "running")
        zone.backend.is_away = True
        go.touch()
        await until(gone.exists)
        await trio.testing.wait_all_tasks_blocked(0.1)
        zone.backend.is_away = False
        assert (await receipt(zone, "done"))["attempts"] == 1


async def test_what_is_prepared_is_there_when_its_source_is_gone(zone: Zone) -> None:
    zone.package(FOREVER)
    async with zone.loop():
        page = {"kind": "prepare", "service": "web", "epoch": 1, "work": work("serve")}
        await zone.put(task("t"), page)
        await receipt(zone, "done")
        assert (zone.home / "items/web+op-t/prepared/serve").is_file()
        await zone.put(task("t"), page | {"epoch": 2, "work": work("serve", version="9")})
        assert "no package" in (await receipt(zone, "failed", epoch=2))["why"]
        await zone.delete(task("t"))
        await until(lambda: not (zone.home / "items/web+op-t").exists())


async def test_a_volume_is_removed_only_where_nothing_of_its_service_is(zone: Zone) -> None:
    zone.package(FOREVER)
    volume = zone.home / "volumes/web/data"
    page = {"kind": "remove-volume", "service": "web", "volume": "data", "epoch": 1}
    async with zone.loop():
        await zone.order(volumes=(("data", "/data"),))
        await zone.until_state("ready")
        (volume / "precious").touch()
        await zone.put(task("t"), page)
        assert "has an item" in (await receipt(zone, "refused"))["why"]
        await zone.delete(item_key(NODE, "web"))
        await zone.put(task("t"), page | {"epoch": 2})
        assert (await receipt(zone, "done", epoch=2))["done"] == f"{volume} is removed"
        assert list(volume.parent.iterdir()) == []
        assert zone.running() == []
        volume.symlink_to("/etc")
        await zone.put(task("t"), page | {"epoch": 3})
        assert "is a link" in (await receipt(zone, "failed", epoch=3))["why"]
        volume.unlink()


async def test_deleting_a_task_ends_its_command_and_takes_its_files(zone: Zone) -> None:
    zone.package('touch "$VOLUME_DATA/ran"; trap "" TERM; while :; do sleep 0.1; done')
    own = [zone.home / folder / "web+op-t" for folder in ("items", "logs", "runs")]
    async with zone.loop():
        await zone.put(task("t"), run("serve", holds=["web"], work={"volumes": {"data": "/data"}}))
        await until((zone.home / "volumes/web/data/ran").exists)
        assert all(path.exists() for path in own[:2])
        await zone.delete(task("t"))
        await zone.until(lambda said: said is None, f"nodes/{NODE}/status/ops/t")
        await until(lambda: not any(path.exists() for path in own))


async def test_a_task_that_was_deleted_while_nobody_looked_leaves_nothing(zone: Zone) -> None:
    zone.package("exit 0")
    own = [zone.home / folder / "web+op-t" for folder in ("items", "logs", "runs")]
    async with zone.loop():
        await zone.put(task("t"), run("serve"))
        await receipt(zone, "done")
    assert all(path.exists() for path in own[:2])
    await zone.delete(task("t"))
    async with zone.loop():
        await zone.until(lambda said: said is None, f"nodes/{NODE}/status/ops/t")
        await until(lambda: not any(path.exists() for path in own))


DAEMON = """
import sys, trio
sys.path[:0] = [{tests!r}, {root!r}, {root!r} + "/tests"]
from pathlib import Path
from test_node_loop import Moody, Zone
from zone.io.config.sqlite import Database
async def main():
    zone = Zone(Path({home!r}), Moody(Database(Path({db!r}))))
    async with zone.loop():
        await trio.sleep_forever()
trio.run(main)
"""


@pytest.mark.parametrize("repeatable", [False, True])
async def test_a_daemon_killed_in_the_middle_is_told_of(zone: Zone, tmp_path: Path, *, repeatable: bool) -> None:
    ran, go = zone.home / "volumes/web/data/ran", zone.home / "go"
    zone.package(f'echo ran >> "$VOLUME_DATA/ran"; until [ -e {go} ]; do sleep 0.02; done')
    await zone.put(task("t"), run("serve", repeatable=repeatable, work={"volumes": {"data": "/data"}}))
    await zone.backend.aclose()
    root = Path(__file__).parents[3]
    db = str(tmp_path / "zone.db")
    source = DAEMON.format(tests=str(Path(__file__).parent), root=str(root), home=str(zone.home), db=db)
    daemon = subprocess.Popen([sys.executable, "-c", source])  # noqa: ASYNC220 -- to be killed, not waited for
    try:
        await until(lambda: ran.exists() and ran.read_text())
    finally:
        daemon.kill()
        daemon.wait()
    zone.backend = Moody(Database(Path(db)))
    zone.__post_init__()
    go.touch()
    async with zone.loop():
        said = await receipt(zone, "done", "unknown")
        await zone.delete(task("t"))
        await until(lambda: not (zone.home / "logs/web+op-t").exists())
    limits = ControlGroups(str(zone.home))
    assert not any((tree.folder / "web+op-t").exists() for tree in limits._trees)
    limits.close()
    assert said["state"] == ("done" if repeatable else "unknown")
    assert len(ran.read_text().split()) == said["attempts"] == (2 if repeatable else 1)
