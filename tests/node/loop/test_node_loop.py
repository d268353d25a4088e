"""The node loop with a real store and real programs, and the daemon killed in the middle of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from freeport import free_port

from node.io.loop.daemon import NodeLoop
from node.io.run.cgroups import ControlGroups
from node.io.run.kinds import Processes
from node.io.run.packages import Packages
from node.io.run.users import Users
from node.run.runner import MARK, Kind, Order, Place
from zone.config.faults import Code, ConfigError
from zone.config.keys import At
from zone.config.model import Commit, Delete, Reading, Set, Transaction
from zone.io.config.sqlite import Database, SqliteBackend
from zone.io.config.store import ConfigStore
from zone.scheduler.observe import alive_key
from zone.scheduler.service import Health, Work
from zone.scheduler.snapshot import Item, item_key

NODE = "ood1"


def processes(home: Path) -> dict[str, Kind]:
    text = str(home)
    return {"process": Processes(NODE, Packages(text), Users(text), ControlGroups(text))}


class Moody(SqliteBackend):
    """A store that is away whenever the test says so."""

    is_away = False

    async def read(self, *args: Any, **more: Any) -> Reading:
        self._check()
        return await super().read(*args, **more)

    async def commit(self, commit: Commit) -> int | None:
        self._check()
        return await super().commit(commit)

    async def grant(self, ttl: int) -> int:
        self._check()
        return await super().grant(ttl)

    async def keep_alive(self, lease: int) -> None:
        self._check()
        await super().keep_alive(lease)

    def _check(self) -> None:
        if self.is_away:
            raise ConfigError(Code.UNAVAILABLE, "away")


@dataclass
class Zone:
    """The store as the scheduler has it, and the node's home."""

    home: Path
    backend: Moody
    epoch: int = 0
    seen: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = ConfigStore(self.backend)

    def package(self, script: str, version: str = "1") -> None:
        folder = self.home / "packages/web" / version
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "serve").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "serve").chmod(0o755)

    async def put(self, key: str, plain: object) -> None:
        await self.store.transact(Transaction((Set(key, json.dumps(plain)),)))

    async def delete(self, key: str) -> None:
        await self.store.transact(Transaction((Delete(key),)))

    async def order(self, version: str = "1", target: str = "running", **work: Any) -> int:
        self.epoch += 1
        made = Work(image=f"web:{version}", kind="process", **{"command": ("serve",), "memory": 256 << 20} | work)
        item = Item(work=made, ports=work.get("ports", ()), target=target, epoch=self.epoch, placed=0.0)  # type: ignore[arg-type]
        await self.put(item_key(NODE, "web"), item.as_plain())
        return self.epoch

    async def get(self, key: str) -> Any:
        reading = await self.store.read([At(key)])
        return json.loads(reading.entries[0].text() or "null") if reading.entries else None

    async def until(self, holds: Callable[[Any], bool], key: str = f"services/web/instances/{NODE}") -> Any:
        """The value of ``key`` as soon as it is so."""
        with trio.fail_after(200):
            while not holds(said := await self.get(key)):  # noqa: ASYNC110 -- asked as anybody may ask
                await trio.sleep(0.005)
        return said

    async def until_state(self, state: str, epoch: int | None = None) -> Any:
        wanted = self.epoch if epoch is None else epoch
        return await self.until(lambda said: said is not None and (said["state"], said["epoch"]) == (state, wanted))

    def running(self) -> list[int]:
        """The processes of the service."""
        mark = f"{MARK}={self.home}/runs/web".encode()
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
            except OSError:
                continue
        return found

    @asynccontextmanager
    async def loop(self, kinds: dict[str, Kind] | None = None) -> AsyncIterator[NodeLoop]:
        kinds = kinds or processes(self.home)
        made = NodeLoop(NODE, self.store, str(self.home), kinds, did="did:dev:x", net_id="lan1")
        async with trio.open_nursery() as nursery:
            await nursery.start(made.run)
            yield made
            nursery.cancel_scope.cancel()


@pytest.fixture
async def zone(open_folder: Path, tmp_path: Path) -> AsyncIterator[Zone]:
    found = Zone(open_folder, Moody(Database(tmp_path / "zone.db")))
    yield found
    found.backend.is_away = False
    async with found.loop():
        await found.order(target="stopped")
        await found.until_state("stopped")
    await found.backend.aclose()
    groups = ControlGroups(str(open_folder))
    await groups.leave("web")
    groups.close()


FOREVER = "echo up; exec sleep 600"


async def test_an_order_is_obeyed_changed_stopped_and_forgotten(zone: Zone) -> None:
    zone.package(FOREVER)
    zone.package("exec sleep 700", "2")
    async with zone.loop():
        await zone.order()
        first = await zone.until_state("ready")
        assert len(before := zone.running()) == 1
        epoch = await zone.order("2")
        second = await zone.until_state("ready", epoch)
        assert second["since"] > first["since"]
        assert len(after := zone.running()) == 1
        assert before != after
        await zone.order("2", "stopped")
        await zone.until_state("stopped")
        assert zone.running() == []
        await zone.delete(item_key(NODE, "web"))
        await zone.until(lambda said: said is None)


async def test_a_daemon_that_shuts_others_out_runs_services_all_the_same(zone: Zone) -> None:
    zone.home.chmod(0o700)  # as one whose umask is 077 makes it
    before = os.umask(0o077)
    try:
        zone.package("echo kept > $VOLUME_DATA/it && cat $VOLUME_DATA/it && exec sleep 600")
        async with zone.loop():
            await zone.order(volumes=(("data", "/srv/data"),))
            await zone.until_state("ready")
    finally:
        os.umask(before)


async def test_the_node_says_that_it_is_there_and_what_it_is(zone: Zone) -> None:
    async with zone.loop():
        info = await zone.until(lambda said: said is not None, f"devices/{NODE}/info")
        assert info["did"] == "did:dev:x"
        assert info["net_id"] == "lan1"
        assert info["cpu_num"] == len(os.sched_getaffinity(0))
        assert info["total_mem"] > info["used_mem"] > 0
        reading = await zone.store.read([At(alive_key(NODE))])
        lease = reading.entries[0].lease
        await zone.store.revoke(lease)
        await zone.until(lambda said: said is not None, alive_key(NODE))
        reading = await zone.store.read([At(f"devices/{NODE}/info")])
        assert reading.entries[0].lease not in (0, lease)


async def test_a_service_that_answers_is_ready_and_one_that_does_not_is_not(zone: Zone) -> None:
    port = free_port()
    zone.package(
        f"until [ -e {zone.home}/go ]; do sleep 0.02; done; exec python3 -m http.server --bind 127.0.0.1 $PORT_HTTP"
    )
    async with zone.loop():
        await zone.order(ports=(("http", port),), health=Health("http", "/", every=0.2))
        said = await zone.until(lambda said: said is not None and "refused" in said["why"])
        assert said["state"] == "starting"
        (zone.home / "go").touch()
        await zone.until_state("ready")
        assert (await zone.order(ports=(("http", port),), health=Health("http", "/nothing", every=0.2))) == 2
        await zone.until(lambda said: said["epoch"] == 2 and "404" in said["why"])


async def test_what_ends_again_and_again_fails_and_says_why(zone: Zone) -> None:
    zone.package("echo oh no >&2; exit 3")
    async with zone.loop():
        await zone.order()
        said = await zone.until_state("failed")
        assert said["why"] == "exited with 3"
        assert len((zone.home / "logs/web/log").read_text().splitlines()) == 3


async def test_a_run_that_is_over_is_not_ready_whoever_answers_on_its_port(zone: Zone) -> None:
    """Here it takes a while to clear the run away, and another program of this machine has the port."""
    zone.package("exit 3")
    probes = 0

    class Slow(Processes):
        async def probe(self, order: Order, place: Place) -> str:
            nonlocal probes
            probes += 1
            return await super().probe(order, place)

        async def release(self, place: Place) -> None:
            seen = probes
            while probes < seen + 3:  # noqa: ASYNC110 -- the loop tells no event
                await trio.sleep(0.005)
            await super().release(place)

    text = str(zone.home)
    kinds = {"process": Slow(NODE, Packages(text), Users(text), ControlGroups(text))}
    (others,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = others.socket.getsockname()[1]
    states = set()
    async with others, zone.loop(kinds):
        await zone.order(ports=(("http", port),), health=Health("http", every=0.1))

        def noted(said: Any) -> bool:
            states.update(() if said is None else (said["state"],))
            return said is not None and said["state"] == "failed"

        assert (await zone.until(noted))["why"] == "exited with 3"
    assert states == {"starting", "failed"}


async def test_a_page_that_can_never_run_fails_at_once_and_a_better_one_runs(zone: Zone) -> None:
    zone.package(FOREVER)
    async with zone.loop():
        await zone.order(command=())
        assert "no command" in (await zone.until_state("failed"))["why"]
        await zone.order()
        await zone.until_state("ready")
        await zone.put(item_key(NODE, "web"), {"work": 7})
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(zone.running()) == 1


async def test_who_does_not_listen_is_ended_after_its_grace(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.loop.converge.GRACE", 0.3)
    zone.package("trap '' TERM; (setsid sleep 600 &); while :; do sleep 0.1; done")
    async with zone.loop():
        await zone.order()
        await zone.until_state("ready")
        await zone.order(target="stopped")
        await zone.until_state("stopped")
        assert zone.running() == []


async def test_who_goes_into_the_background_is_told_what_is_wrong(zone: Zone) -> None:
    zone.package("setsid sleep 600 & exit 0")
    async with zone.loop():
        await zone.order()
        said = await zone.until(lambda said: said is not None and said["why"])
        assert said["why"] == "exited with 0, leaving 1 processes behind: a service must stay in the foreground"


async def test_who_takes_too_much_memory_is_told_how_much_it_had(zone: Zone) -> None:
    if "memory" in ControlGroups(str(zone.home)).lacking:
        pytest.skip("needs root: memory is limited by groups")
    zone.package("exec python3 -c 'x = bytearray(200 << 20); import time; time.sleep(600)'")
    async with zone.loop():
        await zone.order(memory=32 << 20)
        said = await zone.until(lambda said: said is not None and said["why"])
        assert said["why"] == "used more than its 32 MiB of memory"


async def test_the_last_orders_run_while_the_store_is_away(zone: Zone) -> None:
    zone.package(FOREVER)
    async with zone.loop():
        await zone.order()
        before = await zone.until_state("ready")
    first = zone.running()
    zone.backend.is_away = True
    os.kill(first[0], signal.SIGKILL)
    async with zone.loop():
        with trio.fail_after(200):
            while not set(zone.running()) - set(first):  # noqa: ASYNC110 -- processes tell nobody
                await trio.sleep(0.01)
        zone.backend.is_away = False
        after = await zone.until(lambda said: said["since"] > before["since"] and said["state"] == "ready")
        assert after["epoch"] == before["epoch"]


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
async def test_orders_that_are_not_whole_are_none_and_what_runs_goes_on(zone: Zone, damage: str) -> None:
    zone.package(FOREVER)
    async with zone.loop():
        await zone.order()
        before = await zone.until_state("ready")
    kept = zone.home / "orders.json"
    text = kept.read_bytes()
    kept.write_bytes({"cut": text[:-20], "changed": text.replace(b"web:1", b"web:9"), "gone": b""}[damage])
    if damage == "gone":
        kept.unlink()
    first = zone.running()
    zone.backend.is_away = True
    async with zone.loop():
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert zone.running() == first
        zone.backend.is_away = False
        await zone.until(lambda said: said == before)
    assert zone.running() == first


DAEMON = """
import sys, trio
sys.path[:0] = [{tests!r}, {root!r}, {root!r} + "/tests"]
from pathlib import Path
from test_node_loop import Moody, Zone
from zone.io.config.sqlite import Database
async def main():
    zone = Zone(Path({home!r}), Moody(Database(Path({db!r}))), {epoch})
    await zone.order(env=(("EPOCH", "{epoch}"),))
    async with zone.loop():
        await zone.until_state("ready")
        print("ready", flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


def daemon(zone: Zone, db: Path) -> subprocess.Popen[bytes]:
    """With a store of its own, in which it gives itself the order that is then given here."""
    root = Path(__file__).parents[3]
    source = DAEMON.format(
        tests=str(Path(__file__).parent), root=str(root), home=str(zone.home), db=str(db), epoch=zone.epoch
    )
    return subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE)


async def test_a_daemon_that_is_killed_is_not_missed(zone: Zone, tmp_path: Path) -> None:
    zone.package(FOREVER)
    first = daemon(zone, tmp_path / "other.db")
    assert first.stdout is not None
    assert await trio.to_thread.run_sync(first.stdout.readline) == b"ready\n"
    told = json.loads(json.loads((zone.home / "told.json").read_text())["body"])["web"]
    first.kill()
    first.wait()
    assert len(before := zone.running()) == 1
    await zone.order(env=(("EPOCH", "0"),))
    async with zone.loop():
        said = await zone.until(lambda said: said is not None)
        assert [said["state"], said["epoch"], said["since"]] == told[:3] == ["ready", 1, told[2]]
        assert zone.running() == before
        await zone.order(target="stopped")
        await zone.until_state("stopped")
    assert zone.running() == []


async def test_a_daemon_killed_in_mid_start_leaves_one_run(zone: Zone, tmp_path: Path) -> None:
    zone.package(FOREVER)
    launch = zone.home / "runs/web/launch"
    for delay in range(3):
        first = daemon(zone, tmp_path / f"other{delay}.db")
        with trio.fail_after(200):
            while not launch.exists():  # noqa: ASYNC110 -- another process
                await trio.sleep(0.001)
        await trio.sleep(delay * 0.02)
        first.kill()
        first.wait()
        await zone.order(env=(("EPOCH", str(zone.epoch)),))
        async with zone.loop():
            await zone.until_state("ready")
            assert len(zone.running()) == 1
            await zone.order(target="stopped")
            await zone.until_state("stopped")
            assert zone.running() == []
