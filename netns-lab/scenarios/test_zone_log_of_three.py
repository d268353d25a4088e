"""What any machine of a zone says is found from any that carries it, also while one of them is off."""

from __future__ import annotations

import json
from typing import Any

import pytest
from netnslab import Lab
from netnslab.process import until
from zone_world import Ood, ZoneWorld

NAMES = {"ood1", "ood2", "ood3"}


async def found(ood: Ood, *words: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((await ood.program("logs", "--zone", "--json", *words)).out)
    return told


@pytest.mark.timeout(280)
async def test_lines_of_all_machines_are_found_from_each(lab: Lab) -> None:
    world = ZoneWorld(lab)
    async with world.up():
        world.start()
        await world.booted()
        for name in sorted(NAMES):

            async def is_heard_of_all(ood: Ood = world[name]) -> bool:
                told = await found(ood, "--text", "zone: booted")
                return {line["node"] for line in told["lines"]} == NAMES and not told["away"]

            await until(f"{name} knows what all have said", is_heard_of_all)
        one = (await found(world["ood2"], "--text", "zone: booted"))["lines"]
        assert len(one) == 3
        # Each machine that carries the zone keeps its own, and asks the others for theirs.
        assert {(line["node"], line["ood"]) for line in one} == {(name, name) for name in NAMES}

        await world["ood3"].cut_power()

        async def is_without() -> bool:
            told = await found(world["ood1"], "--text", "zone: booted")
            return set(told["away"]) == {"ood3"} and {line["node"] for line in told["lines"]} == NAMES - {"ood3"}

        await until("the others answer without one that is off", is_without)
        await world["ood3"].switch_on()
        await world.booted("ood3")

        async def is_back() -> bool:
            told = await found(world["ood1"], "--text", "zone: booted", "--node", "ood3")
            return len(told["lines"]) == 2 and not told["away"]

        await until("nothing is lost of what it said, and nothing told twice", is_back)
