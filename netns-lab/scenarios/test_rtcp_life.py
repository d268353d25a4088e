"""Tunnels on bad days: whatever dies comes back by itself, and a download that can go on goes on.

Version 4 binds each stream to a connection, so a router that forgets connections ends downloads; but the next request
works within seconds.  Version 5 carries on.
"""

from __future__ import annotations

import hashlib

import pytest
import trio
from devices import BY_SOCKS, MARK, PHOTOS, RELAY, World, needed
from netnslab import HOME, SYMMETRIC
from netnslab.process import until

SOON = 5.0
"""Seconds after which a request works once the way is there again."""
AT_ONCE = 2.0
"""Seconds after which a download goes on that can."""


@pytest.fixture
def world(lab, people):
    needed()
    return World(lab, people)


async def works_within(world: World, seconds: float) -> None:
    """A request that is made now works, or one that follows; by then."""

    async def works() -> bool:
        return await world.page(world.laptop, *BY_SOCKS, seconds=int(seconds)) == MARK

    await until("a request works", works, timeout=seconds)


class Download:
    """Somebody watches the film slowly, on ``laptop``."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._file = world.lab.directory / name
        self.code: int | None = None
        self.longest = 0.0
        """Seconds without a byte."""

    async def run(self) -> None:
        words = ("curl", "-sS", "-m", "60", *BY_SOCKS, "-o", str(self._file), f"http://{PHOTOS}/slow/film")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look)
            self.code = (await self._world.laptop.run(*words, check=False, timeout=70)).code
            nursery.cancel_scope.cancel()

    def size(self) -> int:
        return self._file.stat().st_size if self._file.exists() else 0

    def sum(self) -> str:
        return hashlib.sha256(self._file.read_bytes()).hexdigest()

    async def _look(self) -> None:
        size, since = 0, trio.current_time()
        while True:
            await trio.sleep(0.02)
            now, grown = trio.current_time(), self.size()
            self.longest = max(self.longest, now - since) if size else 0.0
            if grown > size:
                size, since = grown, now


@pytest.mark.parametrize("nat", [HOME, SYMMETRIC], ids=lambda nat: nat.name)
async def test_the_router_reboots_during_a_download(lab, people, nat):
    needed()
    world = World(lab, people, nat=nat)
    async with world.at_work() as (_, photos), world.gateway("laptop", world.outside()) as laptop:
        assert await world.page(world.laptop, *BY_SOCKS) == MARK
        carried_on = {await world.version(photos, RELAY), await world.version(laptop, PHOTOS)} == {5}
        for turn in range(3):
            download = Download(world, f"slow.film.{turn}")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(download.run)
                await until("it has begun", lambda d=download: d.size() > 1 << 20)
                away = trio.current_time()
                await world.reboot_router()
                away = trio.current_time() - away
                await works_within(world, SOON)
                if not carried_on:
                    nursery.cancel_scope.cancel()
            if carried_on:
                assert (download.code, download.sum()) == (0, world.film)
                assert download.longest < away + AT_ONCE
        await world.stands(photos, RELAY)


async def test_the_box_is_killed_and_starts_again(world):
    async with world.lived_in(), world.gateway("relay", world.at_relay()), world.gateway("laptop", world.outside()):
        for _ in range(2):
            async with world.gateway("photos", world.at_home()) as photos:
                await world.stands(photos, RELAY)
                await works_within(world, SOON)
                await photos.kill()


async def test_the_relay_reboots(world):
    """Its connections are gone without a word."""
    async with world.at_work() as (relay, photos), world.gateway("laptop", world.outside()):
        assert await world.page(world.laptop, *BY_SOCKS) == MARK
        await world.relay.unplug("eth0")
        await relay.kill()
        await world.relay.plug_in("eth0")
        async with world.gateway("relay", world.at_relay()):
            await works_within(world, SOON)
            await world.stands(photos, RELAY)


async def test_the_box_gets_another_address(world):
    """As after a renewed lease: what is bound to the old address leads nowhere, and nobody is told."""
    async with world.at_work() as (_, photos), world.gateway("laptop", world.outside()) as laptop:
        assert await world.page(world.laptop, *BY_SOCKS) == MARK
        carried_on = {await world.version(photos, RELAY), await world.version(laptop, PHOTOS)} == {5}
        download = Download(world, "slow.film")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(download.run)
            await until("it has begun", lambda: download.size() > 1 << 20)
            old = f"{world.photos.ip}/24"
            changes = (f"addr del {old} dev eth0", "addr add 192.168.1.77/24 dev eth0")
            for change in (*changes, "route replace default via 192.168.1.1"):
                await world.photos.run("ip", *change.split())
            await works_within(world, SOON)
            if not carried_on:
                nursery.cancel_scope.cancel()
        if carried_on:
            assert (download.code, download.sum()) == (0, world.film)
        await world.stands(photos, RELAY)
