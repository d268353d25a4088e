"""A zone of three machines serves somebody without a pause, while the one that leads it is lost, and comes back empty.

It loses its power and its disk, of which only its identity is kept.  What was acknowledged is there in the end, also on
the machine that has lost it, and nothing is counted twice.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest
import trio
from netnslab import GatewayFault, Lab
from netnslab.process import CommandFailed, until
from zone_services import BOT, BOT_PAGE, COUNTER, COUNTER_PAGE, put_down
from zone_world import NAMES, PROXY, ZONE, Ood, ZoneWorld


@dataclass
class Client:
    """Somebody at ``pi``, who uses the zone by names, and remembers what was acknowledged."""

    world: ZoneWorld
    counted: list[int] = field(default_factory=list)
    """What the counter answered, in that order."""
    asked: int = 0
    """How often it was to count."""
    written: int = 0
    """The last number that the configuration took."""
    last: float = 0.0
    """When that was."""

    async def visit(self, service: str, *words: str) -> str:
        """What is at a service's name; empty: nothing."""
        at = ("-x", f"http://127.0.0.1:{PROXY}", f"http://{service}.{ZONE}/")
        done = await self.world.hosts["pi"].run("curl", "-sf", "-m", "3", *words, *at, check=False, timeout=60)
        return done.out.strip() if done.code == 0 else ""

    async def count(self) -> None:
        """For ever."""
        while True:
            self.asked += 1
            if said := await self.visit("counter", "-X", "POST"):
                self.counted.append(int(said))
            await trio.sleep(0.1)

    async def write(self) -> None:
        """For ever, with whichever machine takes it."""
        number = 0
        while True:
            number += 1
            for name in NAMES:
                with trio.move_on_after(2):
                    try:
                        await self.world[name].set("data/test/number", number)
                    except (CommandFailed, GatewayFault):
                        continue
                    self.written, self.last = number, time.monotonic()
                    break
            await trio.sleep(0.1)

    async def goes_on(self) -> tuple[float, float]:
        """Seconds until the next write, and until everything is served again."""
        began, written, counted = time.monotonic(), self.written, len(self.counted)
        await until("a write is acknowledged", lambda: self.written > written + 1)
        writes = self.last - began

        async def all_serve() -> bool:
            talks = await self.visit("bot", "-d", "I feel cut off")
            return talks == "why are you cut off?" and len(self.counted) > counted + 1

        await until("the services are back", all_serve)
        return writes, time.monotonic() - began


async def leader(world: ZoneWorld) -> Ood:
    """Of etcd, once there is one."""
    found: list[Ood] = []

    async def is_there() -> bool:
        found[:] = [ood for ood in world.oods.values() if ood.name in NAMES and await ood.leads()]
        return len(found) == 1

    await until("etcd has a leader", is_there)
    return found[0]


@pytest.mark.timeout(280)
async def test_services_and_writes_go_on_without_the_machine_that_led(lab: Lab) -> None:
    world = ZoneWorld(lab, nodes=["pi"])
    async with world.up():
        for name in NAMES:
            bring(world[name])
        began = time.monotonic()
        world.start()
        await world.booted()
        print(f"\n  three machines and a node, cold: {time.monotonic() - began:.1f} s")
        for page in (COUNTER_PAGE, BOT_PAGE):
            file = lab.directory / "page.yaml"
            file.write_text(page)
            done = await world["ood2"].program("zone", "deploy", str(file), check=False)
            assert done.code == 0, done.out + done.err + world["ood2"].said
        client = Client(world)
        await until("the counter is found by name", lambda: client.visit("counter"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.count)
            nursery.start_soon(client.write)
            await client.goes_on()

            lost = await leader(world)
            await lost.cut_power()
            lost.wipe("identity")
            writes, all_of_it = await client.goes_on()
            print(f"  {lost.name} led and was lost: a write after {writes:.1f} s, all served after {all_of_it:.1f} s")
            bring(lost)
            await lost.switch_on()
            await world.booted(lost.name)
            nursery.cancel_scope.cancel()
        assert client.counted == sorted(set(client.counted)), "no number was given twice"
        assert client.counted[-1] <= int(await client.visit("counter")) <= client.asked
        assert await lost.get("data/test/number") >= client.written


def bring(ood: Ood) -> None:
    """The packages of the services."""
    put_down(ood.node, "counter", "serve", COUNTER)
    put_down(ood.node, "bot", "start", BOT)
