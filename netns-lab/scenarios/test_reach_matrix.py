"""Every kind of network with every kind, each with its own gateway and all with one SN: who goes which way, and why.

One gateway for each kind in the west dials one for each kind in the east; two provider networks lie between them, so
that packets of a low TTL die on the way, as they do on the real internet.  ``theory`` says from RFC 4787's words alone
what must come of it.  Which cells are looked at: those that show every kind on both sides with everything that may come
of it; with ``--whole-matrix`` all.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import pytest
import trio
from members import INTERNET, Member, Sn, members, opened
from netnslab import (
    FIREWALL6,
    FULL_CONE,
    HAIRPIN,
    HOME,
    NO_UDP,
    PORT_RESTRICTED,
    PREDICTABLE,
    RESTRICTED,
    SYMMETRIC,
    WEB_ONLY,
    Lab,
    Nat,
    Network,
)

from rtcp.nat.budget import MOST_PROBES

_AT_A_TIME = 4
"""Meetings at once: more, and the machine is what they measure."""
_PATIENCE = 40.0


@dataclass(frozen=True)
class Kind:
    """A row of the matrix: the NATs before a gateway, the nearest last, and whether it has a global IPv6 address."""

    name: str
    nats: tuple[Nat, ...]
    six: bool = False
    udp: bool = True
    tcp: bool = True
    """A TCP port is mapped alike whoever is called."""
    door: int = 2980
    """The port of the SN that it may go out to."""

    @property
    def predictable(self) -> bool:
        return PREDICTABLE in self.nats

    @property
    def port_known(self) -> bool:
        """Whether a peer can know from which port it will come."""
        return self.predictable or all(nat.mapping == "EIM" for nat in self.nats)

    @property
    def lets_known_in(self) -> bool:
        """Whether an address that was written to may answer from any port."""
        return all(nat.filtering in ("EIF", "ADF") for nat in self.nats)


KINDS = (
    Kind("none", ()),
    Kind("cone", (FULL_CONE,)),
    Kind("address", (RESTRICTED,)),
    Kind("port", (PORT_RESTRICTED,)),
    Kind("predict", (PREDICTABLE,)),
    Kind("random", (SYMMETRIC,), tcp=False),
    Kind("double", (PORT_RESTRICTED, HOME)),
    Kind("hairpin", (HAIRPIN,)),
    Kind("no UDP", (NO_UDP,), udp=False),
    Kind("web only", (WEB_ONLY,), udp=False, tcp=False, door=443),
    Kind("IPv6", (SYMMETRIC,), six=True, tcp=False),
    Kind("IPv6 wall", (FIREWALL6,), six=True, tcp=False),
)


@dataclass(frozen=True)
class Expected:
    """How the way is called, and what the reason must say."""

    way: str
    why: str

    @property
    def direct(self) -> bool:
        return self.way in ("udp", "tcp")


def theory(one: Kind, other: Kind) -> Expected:
    """What comes of it when ``one`` dials ``other``."""
    if one.six and other.six:
        return Expected("udp", "")  # no translation, and both write first
    if not (one.udp and other.udp):
        if one.tcp and other.tcp:
            return Expected("tcp", "")  # both connect at once
        where = "on both sides" if one.udp == other.udp else "on the far side" if one.udp else "here"
        return Expected("SN", f"UDP is blocked {where}")
    for known, unknown in ((one, other), (other, one)):
        if known.port_known and (unknown.port_known or known.lets_known_in):
            return Expected("udp", "")
    if one.port_known:
        return Expected("relay", "the far NAT is random-symmetric")
    if other.port_known:
        return Expected("relay", "our NAT is random-symmetric")
    return Expected("relay", "our NAT is random-symmetric and the far one random-symmetric")


Pair = tuple[Kind, Kind]


def covering() -> list[Pair]:
    """Pairs that show each kind, as the one who dials and as the one who is dialled, with each thing that may come of
    it; as few as taking the most telling first gives."""
    left = {
        pair: {(side, pair[side].name, theory(*pair)) for side in (0, 1)} for pair in itertools.product(KINDS, KINDS)
    }
    chosen: list[Pair] = []
    shown: set[tuple[int, str, Expected]] = set()
    while news := {pair: facts - shown for pair, facts in left.items() if facts - shown}:
        pair = max(news, key=lambda pair: len(news[pair]))
        chosen.append(pair)
        shown |= left.pop(pair)
    return chosen


@dataclass(frozen=True)
class Cell:
    """How two met: by which way, for which reason, after how many seconds; how many probes the dialling side sent."""

    way: str
    why: str
    seconds: float
    probes: int

    @property
    def kind(self) -> str:
        return self.way.partition(" ")[0]

    def fits(self, expected: Expected) -> bool:
        return self.kind == expected.way and expected.why in self.why and self.probes <= MOST_PROBES


async def meet(one: Member, other: Member, expected: Expected) -> Cell:
    """``one`` dials ``other``; the cell is what it is when a direct way is used, or the reason for the relay known."""
    began = trio.current_time()
    await one.dial(other)
    seen = await one.way_to(other)
    with trio.move_on_after(_PATIENCE):
        while True:
            is_judged = str(seen["why"]).startswith("relayed because")
            if seen["way"].startswith(("udp", "tcp")) or (is_judged and seen["way"].startswith(expected.way)):
                break
            await trio.sleep(0.03)
            seen = await one.way_to(other)
    seconds = trio.current_time() - began
    told = re.findall(rf"punched to {re.escape(str(other.did))}: (\d+) probes", one.gateway.process.text())
    return Cell(seen["way"], seen["why"], seconds, sum(map(int, told)))


def provider(lab: Lab, core: Network, number: int) -> Network:
    """A network two routers away from the core."""
    for step in (number, number + 1):
        core = lab.network(f"5.1.{step}.0/24", f"2a01:4f8:{step}::/64", uplink=core, name=f"provider{step}")
    return core


def home(lab: Lab, uplink: Network, kind: Kind, name: str, number: int) -> Network:
    """A network behind the NATs of a kind, the ``number``-th of all."""
    for depth, nat in enumerate(kind.nats):
        inner = depth == len(kind.nats) - 1
        six = (f"2a01:4f8:{number:x}::/64",) if kind.six else ()
        subnets = ("192.168.1.0/24", *six) if inner else ("100.64.0.0/24",)
        uplink = lab.network(*subnets, uplink=uplink, nat=nat, name=f"{name}n{depth}")
    return uplink


@pytest.mark.timeout(600)
async def test_every_kind_of_network_with_every_kind(lab, capsys, request):
    whole = request.config.getoption("--whole-matrix", default=False)
    pairs = list(itertools.product(KINDS, KINDS)) if whole else covering()
    core = lab.network(INTERNET, "2a01:4f8::/64", name="core")
    sn = Sn(lab.host(core, name="sn"))
    sides = {"west": provider(lab, core, 2), "east": provider(lab, core, 4)}
    places = list(itertools.product(sides, KINDS))
    hosts = []
    for number, (side, kind) in enumerate(places):
        name = f"{side}{number % len(KINDS)}"
        hosts.append(lab.host(home(lab, sides[side], kind, name, 256 + number), name=name))
    everybody = dict(zip(places, members(hosts), strict=True))
    for (_, kind), member in everybody.items():
        member.port = kind.door
        if not kind.nats:
            member.more = {"listen": 2980}
    cells: dict[Pair, Cell] = {}
    # What takes longest, giving up, goes first; a home is in one meeting at a time, for predictions count its packets.
    waiting = sorted(pairs, key=lambda pair: theory(*pair).direct)
    busy: set[tuple[str, Kind]] = set()

    async def one_cell(pair: Pair) -> None:
        one, other = (everybody[place] for place in zip(sides, pair, strict=True))
        cells[pair] = await meet(one, other, theory(*pair))
        busy.difference_update(zip(sides, pair, strict=True))
        start()

    def start() -> None:
        for pair in list(waiting):
            homes = set(zip(sides, pair, strict=True))
            if len(busy) < 2 * _AT_A_TIME and not busy & homes:
                busy.update(homes)
                waiting.remove(pair)
                nursery.start_soon(one_cell, pair)

    async with lab.up(timeout=580), opened(lab, sn, list(everybody.values())):
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            start()
        wrong = {pair: cell for pair, cell in cells.items() if not cell.fits(theory(*pair))}
        with capsys.disabled():
            print(f"\n{table(cells)}\n{len(cells)} cells in {trio.current_time() - began:.1f} s")
        assert wrong == {}, "\n".join(
            f"{one.name} to {other.name}: {cell}, not {theory(one, other)}" for (one, other), cell in wrong.items()
        )


def table(cells: dict[Pair, Cell]) -> str:
    """For people: path, milliseconds, probes of the side that dials, which is that of the row; * where theory errs."""
    lines = ["path ms/probes " + "".join(f"{kind.name:>15}" for kind in KINDS)]
    for one in KINDS:
        line = f"{one.name:<15}"
        for other in KINDS:
            cell = cells.get((one, other))
            wrong = "" if cell is None or cell.fits(theory(one, other)) else "*"
            line += f"{'' if cell is None else f'{wrong}{cell.kind} {cell.seconds * 1e3:.0f}/{cell.probes}':>15}"
        lines.append(line)
    return "\n".join(lines)


@pytest.mark.parametrize("nat", [HAIRPIN, HOME], ids=["hairpin", "no hairpin"])
async def test_two_behind_one_nat_meet_at_home(lab, nat):
    """By their own network, though the router may turn packets round."""
    core = lab.network(INTERNET, name="core")
    sn = Sn(lab.host(core, name="sn"))
    inside = lab.network("192.168.1.0/24", uplink=core, nat=nat, name="home")
    both = members([lab.host(inside, name=name) for name in ("box", "laptop")], more={"lan": False})
    async with lab.up(timeout=110), opened(lab, sn, both):
        box, laptop = both
        await laptop.dial(box)
        await laptop.goes(box, f"udp {box.host.ip}:")
