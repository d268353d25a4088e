"""Every kind of NAT with every kind, either side first: who meets directly, how fast, with how many packets.

Two provider networks of two routers each lie between the homes, so that packets of a low TTL die on the way, as they
do on the real internet; the rendezvous is in the middle.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import trio
from netnslab import (
    FIREWALL6,
    FULL_CONE,
    HAIRPIN,
    HOME,
    NO_UDP,
    ONE_TO_ONE,
    PER_ADDRESS,
    POOL,
    PORT_RESTRICTED,
    PREDICTABLE,
    RESTRICTED,
    SYMMETRIC,
    TOUCHY,
    WEB_ONLY,
    Lab,
    Link,
    Nat,
    Network,
)
from netnslab.traffic import reflector, tcp_server
from punching import PUBLIC, TCP_PORT, UDP_PORT, Device, Met, meet, reflect_tcp, says

from rtcp.nat.budget import MOST_PROBES
from rtcp.nat.candidates import Nat as Says


@dataclass(frozen=True)
class Kind:
    """A row of the matrix: the NATs before a device, the nearest last, and what it says of them."""

    name: str
    nats: tuple[Nat, ...]
    says: Says
    theory: str
    """With each kind, in their order: u UDP, t TCP, r relayed.

    L is TCP, or UDP by luck: of a thousand ports ADM may choose the one that was observed.  p is anything: the SYNs
    would have to cross on the way.
    """


KINDS = (
    Kind("none", (), PUBLIC, "uuuuuuuuuuu tr"),
    Kind("1:1", (ONE_TO_ONE,), says(ONE_TO_ONE), "uuuuuuuuuuu tr"),
    Kind("cone", (FULL_CONE,), says(FULL_CONE), "uuuuuuuuuuu tr"),
    Kind("address", (RESTRICTED,), says(RESTRICTED), "uuuuuuuuuuu tr"),
    Kind("home", (HOME,), says(HOME), "uuuuuuuuLru tr"),
    Kind("touchy", (TOUCHY,), says(TOUCHY), "uuuuuuuupru pr"),
    Kind("port", (PORT_RESTRICTED,), says(PORT_RESTRICTED), "uuuuuuuuLru tr"),
    Kind("predict", (PREDICTABLE,), says(PREDICTABLE, delta=1), "uuuuuuuuLru tr"),
    Kind("ADM", (PER_ADDRESS,), says(PER_ADDRESS), "uuuuLpLLLrL tr"),
    Kind("random", (SYMMETRIC,), says(SYMMETRIC, tcp=False), "uuuurrrrr rr rr"),
    Kind("double", (PORT_RESTRICTED, HOME), says(HOME), "uuuuuuuuLru tr"),
    Kind("no UDP", (NO_UDP,), says(NO_UDP, udp=False), "tttttpttt rt tr"),
    Kind("web only", (WEB_ONLY,), says(WEB_ONLY, udp=False, tcp=False), "rrrrrrrrrrr rr"),
)
_WAYS = {"u": ("udp",), "t": ("tcp",), "r": ("relay",), "L": ("tcp", "udp"), "p": ("tcp", "udp", "relay")}
THEORY = {
    (one.name, other.name): _WAYS[letter]
    for one in KINDS
    for other, letter in zip(KINDS, one.theory.replace(" ", ""), strict=True)
}
Cells = dict[tuple[str, str], Met]


def provider(lab: Lab, core: Network, name: str, number: int) -> Network:
    """A network two routers away from the core."""
    near = lab.network(f"5.1.{number}.0/24", f"2001:db8:{number}::/64", uplink=core, name=f"{name}1")
    number += 1
    return lab.network(f"5.1.{number}.0/24", f"2001:db8:{number}::/64", uplink=near, name=f"{name}2")


def home(lab: Lab, uplink: Network, kind: Kind, side: str, link: Link | None = None) -> Device:
    """A device behind the NATs of a kind, on a cable of a kind."""
    name = f"{side}{KINDS.index(kind)}"
    for depth, nat in enumerate(kind.nats):
        inner = depth == len(kind.nats) - 1
        subnet = "192.168.1.0/24" if inner else "100.64.0.0/24"
        uplink = lab.network(subnet, uplink=uplink, nat=nat, name=f"{name}n{depth}")
    return Device(lab.host(uplink, name=name, link=link), kind.says)


async def test_every_kind_of_nat_with_every_kind(lab, capsys):
    core = lab.network("198.51.100.0/24", "2001:db8::/64", name="core")
    server = lab.host(core, name="server")
    west, east = provider(lab, core, "west", 1), provider(lab, core, "east", 3)
    left = {kind.name: home(lab, west, kind, "w") for kind in KINDS}
    right = {kind.name: home(lab, east, kind, "e") for kind in KINDS}
    cells: Cells = {}
    # What takes longest, giving up, goes first; a home is in one meeting at a time, for predictions count its packets.
    waiting = sorted(THEORY, key=lambda pair: "relay" not in THEORY[pair])
    busy: set[tuple[int, str]] = set()

    async def one_cell(pair: tuple[str, str]) -> None:
        cells[pair] = await meet(left[pair[0]], right[pair[1]], server.ip)
        busy.difference_update({(0, pair[0]), (1, pair[1])})
        start()

    def start() -> None:
        for pair in list(waiting):
            homes = {(0, pair[0]), (1, pair[1])}
            if not homes & busy and len(busy) < 24:
                busy.update(homes)
                waiting.remove(pair)
                nursery.start_soon(one_cell, pair)

    async with lab.up(), trio.open_nursery() as servers:
        await servers.start(reflector, server, [server.ip], [UDP_PORT])
        await servers.start(tcp_server, server, server.ip, TCP_PORT, reflect_tcp)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            start()
        with capsys.disabled():
            print(f"\n{table(cells)}\nin {trio.current_time() - began:.1f} s")
        servers.cancel_scope.cancel()
    wrong = {
        pair: (THEORY[pair], met.how, met.why, met.outcomes[1].verdict.why)
        for pair, met in cells.items()
        if met.how not in THEORY[pair]
    }
    assert wrong == {}
    assert max(met.probes for met in cells.values()) <= MOST_PROBES


def table(cells: Cells) -> str:
    """For people: path, milliseconds, probes of the side that sent more; the first side in the row."""
    lines = ["path ms/probes " + "".join(f"{kind.name:>11}" for kind in KINDS)]
    for one in KINDS:
        line = f"{one.name:<15}"
        for other in KINDS:
            met = cells[one.name, other.name]
            took = f"{met.seconds * 1000:.0f}" if met.seconds is not None else "-"
            line += f"{met.how[0] + ' ' + took + '/' + str(met.probes):>11}"
        lines.append(line)
    return "\n".join(lines)


async def test_slow_and_lossy_cables_change_nothing(lab):
    core = lab.network("198.51.100.0/24", "2001:db8::/64", name="core")
    server = lab.host(core, name="server")
    west, east = provider(lab, core, "west", 1), provider(lab, core, "east", 3)
    kinds = [kind for kind in KINDS if kind.name in ("home", "predict", "double", "no UDP")]
    pairs = {
        kind.name: [
            home(lab, uplink, kind, side, Link(delay=0.02, jitter=0.005, loss=0.03, seed=KINDS.index(kind)))
            for uplink, side in ((west, "w"), (east, "e"))
        ]
        for kind in kinds
    }
    found: dict[str, str] = {}

    async def one(name: str) -> None:
        found[name] = (await meet(*pairs[name], server.ip)).how

    async with lab.up(), trio.open_nursery() as servers:
        await servers.start(reflector, server, [server.ip], [UDP_PORT])
        await servers.start(tcp_server, server, server.ip, TCP_PORT, reflect_tcp)
        async with trio.open_nursery() as nursery:
            for name in pairs:
                nursery.start_soon(one, name)
        servers.cancel_scope.cancel()
    assert found == {"home": "udp", "predict": "udp", "double": "udp", "no UDP": "tcp"}


async def test_two_behind_one_nat(lab):
    core = lab.network("198.51.100.0/24", name="core")
    server = lab.host(core, name="server")
    nets = {
        nat.name: lab.network("192.168.1.0/24", uplink=core, nat=nat, name=nat.name) for nat in (HAIRPIN, HOME, POOL)
    }
    pairs = {
        nat.name: tuple(Device(lab.host(nets[nat.name]), says(nat)) for _ in range(2)) for nat in (HAIRPIN, HOME, POOL)
    }
    found: dict[tuple[str, bool], str] = {}

    async def one(name: str, private: bool) -> None:
        found[name, private] = (await meet(*pairs[name], server.ip, private=private)).how

    async with lab.up(), trio.open_nursery() as servers:
        await servers.start(reflector, server, [server.ip], [UDP_PORT])
        await servers.start(tcp_server, server, server.ip, TCP_PORT, reflect_tcp)
        async with trio.open_nursery() as nursery:
            for name, private in itertools.product(pairs, (False, True)):
                nursery.start_soon(one, name, private)
        servers.cancel_scope.cancel()
    assert found == {
        (name, private): "udp" if private or name == HAIRPIN.name else "relay"
        for name, private in itertools.product(pairs, (False, True))
    }


async def test_ipv6_through_two_firewalls_where_ipv4_is_hopeless(lab):
    core = lab.network("198.51.100.0/24", "2001:db8::/64", name="core")
    server = lab.host(core, name="server")
    west, east = provider(lab, core, "west", 1), provider(lab, core, "east", 3)
    devices = []
    for number, uplink in enumerate((west, east)):
        net = lab.network(
            "192.168.1.0/24", f"2001:db8:a{number}::/64", uplink=uplink, nat=FIREWALL6, name=f"home{number}"
        )
        devices.append(Device(lab.host(net), says(FIREWALL6, tcp=False), six=True))
    async with lab.up(), trio.open_nursery() as servers:
        await servers.start(reflector, server, [server.ip], [UDP_PORT])
        met = await meet(devices[0], devices[1], server.ip)
        servers.cancel_scope.cancel()
    assert met.how == "udp"
    assert met.why == "direct by UDP, to its own IPv6 address"
