"""A zone of three machines, one of them behind a NAT: together up, and through what happens to one of them.

Everything is done by the installed program, as its owner does it.
"""

from __future__ import annotations

import time

import pytest
from netnslab import Lab
from zone_world import ZoneWorld


@pytest.mark.timeout(280)
async def test_three_machines_come_up_together_and_go_on_by_two(lab: Lab) -> None:
    world = ZoneWorld(lab)
    async with world.up():
        began = time.monotonic()
        world.start()
        await world.booted()
        cold = time.monotonic() - began
        await world.write("ood3", "data/test/a", 1)
        assert await world["ood1"].get("data/test/a") == 1

        await world["ood1"].cut_power()
        began = time.monotonic()
        await world.write("ood3", "data/test/a", 2)
        without_power = time.monotonic() - began
        await world["ood1"].switch_on()
        await world.booted("ood1")
        assert await world["ood1"].get("data/test/a") == 2

        await world["ood2"].cut_off()
        began = time.monotonic()
        await world.write("ood3", "data/test/a", 3)
        without_cable = time.monotonic() - began
        await world["ood2"].join_up()
        await world.write("ood2", "data/test/a", 4)

        # The gateway alone: what it had started is there for the next one.
        await world["ood3"].kill_gateway()
        world.start("ood3")
        await world.booted("ood3")
        assert await world["ood3"].get("data/test/a") == 4
        print(
            f"\n  three machines, cold {cold:.1f} s; first write after a power cut {without_power:.1f} s,"
            f" after a cut cable {without_cable:.1f} s"
        )
