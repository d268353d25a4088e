"""What a house says that has nothing to say: a sign of life each 25 s on the way in use, and nothing to anybody else.

A laptop has a direct way to a box, both have their SN, and a phone belongs to the SN too but speaks with nobody.  Every
machine counts its packets, with whom, for two minutes.

The gate "at most one packet each 25 s on the path in use, none for idle peers" means: over UDP each end sends one
packet, the question or its answer, and who has no tunnel sends none.  Over TCP, by which the SN may be reached, the
answer is acknowledged by the kernel: two packets there and one back (two, where the answer comes late), within a round
trip.  What a battery feels is how often the radio wakes, which is once either way.

An end that stands still for longer than a probe timeout is asked once more (RFC 9002 section 6.2).  One such exchange
is allowed: it tells how busy the machine is that all of them run on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import trio
from members import INTERNET, Sn, members, opened
from netnslab import HOME, Host, need

WINDOW = 120.0
PULSE = 25.0
LOOK = 1.0
QUIET = 8.0
"""Seconds without a packet after which what the beginning had to say is said."""
MOST = int(WINDOW / PULSE) + 1
"""Signs of life in a window of that length, which may begin just before one."""
NAMES = ("laptop", "box", "phone")


async def count(host: Host, others: Mapping[str, str]) -> None:
    """Have ``host`` count what it says to, and hears from, ``others`` (addresses by name)."""
    named = "".join(f"counter {name}_out {{}}\ncounter {name}_in {{}}\n" for name in others)
    out = "".join(f"ip daddr {ip} counter name {name}_out\n" for name, ip in others.items())
    into = "".join(f"ip saddr {ip} counter name {name}_in\n" for name, ip in others.items())
    rules = (
        f"table inet said {{\n{named}"
        f"chain out {{ type filter hook output priority 0;\n{out}}}\n"
        f"chain into {{ type filter hook input priority 0;\n{into}}}\n}}\n"
    )
    await host.run("nft", "-f", "-", stdin=rules)


async def counted(host: Host) -> dict[str, int]:
    """Packets so far, by host, other and direction."""
    said = json.loads((await host.run("nft", "-j", "list", "counters", "table", "inet", "said")).out)
    found = [each["counter"] for each in said["nftables"] if "counter" in each]
    return {f"{host.name} {each['name'].replace('_', ' ')}": each["packets"] for each in found}


def bursts(counts: Sequence[int]) -> int:
    """How often a count grew; a look into the midst of a sign of life sees it grow twice in a row."""
    grew = [after != before for before, after in pairwise(counts)]
    return sum(now and not before for before, now in pairwise([False, *grew]))


async def test_an_idle_house_gives_a_sign_of_life_each_25_seconds(lab: Any, capsys: Any) -> None:
    need("nft")
    internet = lab.network(INTERNET, name="internet")
    sn = Sn(lab.host(internet, name="sn"))
    homes = [
        lab.network(f"192.168.{number}.0/24", uplink=internet, nat=HOME, name=f"home-of-{name}")
        for number, name in enumerate(NAMES, start=1)
    ]
    everybody = members([lab.host(home, name=name) for home, name in zip(homes, NAMES, strict=True)])
    laptop, box, _ = everybody
    async with lab.up(timeout=300), opened(lab, sn, everybody):
        await laptop.dial(box)
        await laptop.goes(box, "udp ")
        places = {name: home.router.ip for name, home in zip(NAMES, homes, strict=True)} | {"sn": sn.host.ip}
        hosts = [sn.host, *(one.host for one in everybody)]
        for host in hosts:
            await count(host, {name: ip for name, ip in places.items() if name != host.name})

        async def seen() -> dict[str, int]:
            return {key: packets for host in hosts for key, packets in (await counted(host)).items()}

        last, since = await seen(), trio.current_time()
        with trio.fail_after(60):
            while trio.current_time() < since + QUIET:
                await trio.sleep(LOOK)
                if (now := await seen()) != last:
                    last, since = now, trio.current_time()
        looks, begun = [last], trio.current_time()
        while trio.current_time() < begun + WINDOW:
            await trio.sleep(LOOK)
            looks.append(await seen())
        packets = {key: looks[-1][key] - looks[0][key] for key in looks[0]}
        times = {key: bursts([look[key] for look in looks]) for key in looks[0]}
        told = "\n".join(f"{key:16} {packets[key]:3} packets, {times[key]:2} times" for key in packets)
        with capsys.disabled():
            print(f"\n{told}")
        for key in packets:
            host, other, _ = key.split()
            if "phone" in (host, other) and "sn" not in (host, other):
                assert packets[key] == 0, f"{key}: these two have nothing to do with each other\n{told}"
            else:
                assert 3 <= times[key] <= MOST, f"{key}\n{told}"
        for one in ("laptop sn", "box sn", "phone sn"):
            assert packets[f"{one} out"] + packets[f"{one} in"] <= 4 * MOST, f"{one}\n{told}"
        for key in ("laptop box out", "laptop box in", "box laptop out", "box laptop in"):
            assert packets[key] <= times[key] + 1, f"{key}: a sign of life is one packet of each end\n{told}"
        assert (await laptop.way_to(box))["way"].startswith("udp ")
