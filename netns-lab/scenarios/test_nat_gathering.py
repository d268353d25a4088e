"""What a device finds out about itself is what lets two of them meet: real routers, real STUN, both offers."""

from __future__ import annotations

import queue
import socket
import sys
from dataclasses import dataclass
from functools import partial

import trio
from netnslab import (
    FIREWALL6,
    FULL_CONE,
    HOME,
    NO_UDP,
    PORT_RESTRICTED,
    PREDICTABLE,
    SYMMETRIC,
    Host,
)
from netnslab.process import until

from rtcp.io.nat.gather import Gatherer
from rtcp.io.nat.punch import Outcome, UdpSockets, carry_out
from rtcp.io.nat.stun import behaviour
from rtcp.nat.behaviour import StunServer
from rtcp.nat.budget import Budget
from rtcp.nat.candidates import Kind, Mapping, Nat, Offer, Transport
from rtcp.nat.punch import Punch
from rtcp.nat.stun import HostPort

PORTS = (3478, 3479)
NATS = {
    **{nat.name: nat for nat in (FULL_CONE, HOME, PORT_RESTRICTED, PREDICTABLE)},
    "predictable2": PREDICTABLE,
    "random": SYMMETRIC,
    "blocked": NO_UDP,
    "six": FIREWALL6,
    "six2": FIREWALL6,
    "own home": HOME,
}
PAIRS = {
    ("full-cone", "random"): "udp",
    ("home", "predictable"): "udp",
    ("port-restricted", "home"): "udp",
    ("predictable", "predictable2"): "udp",
    ("open", "random"): "udp",
    ("random", "home"): "relayed because our NAT is random-symmetric",
    ("home", "random"): "relayed because the far NAT is random-symmetric",
    ("home", "blocked"): "relayed because UDP is blocked on the far side",
    ("six", "six2"): "udp",
    ("blocked", "own home"): "tcp",
}
_SERVE = """
import sys, trio
from rtcp.io.nat.stunserver import serve_stun, serve_stun_tcp
async def serve():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_stun, sys.argv[1:], {ports})
        for port in {ports}:
            nursery.start_soon(serve_stun_tcp, "0.0.0.0", port)
trio.run(serve)
"""


@dataclass
class Told:
    """How one device fared."""

    first: Offer
    known: Nat
    outcome: Outcome | None = None


Words = queue.SimpleQueue[Offer | None]


async def life(servers: list[HostPort], opens: bool, trusts: bool, said: Words, hears: Words) -> Told:
    """A device that starts, is asked at once, and meets its peer when both know their NATs."""
    sockets = []
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        sock = trio.socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await sock.bind((host, 0 if not sockets else sockets[0].getsockname()[1]))
        sockets.append(sock)
    share = UdpSockets(*sockets)

    async def known() -> list[HostPort]:
        return servers

    async with trio.open_nursery() as nursery:
        nursery.start_soon(share.run)
        gatherer = Gatherer(udp=[sock.getsockname()[:2] for sock in sockets], servers=known)
        await nursery.start(gatherer.run)
        first = await gatherer.offer(share, False)

        async def surveyed() -> bool:
            return gatherer.behaviour is not None

        await until("the NAT is known", surveyed, timeout=60)
        said.put(None)
        await trio.to_thread.run_sync(hears.get)  # now both know
        ours = await gatherer.offer(share, trusts)
        said.put(ours)
        theirs = await trio.to_thread.run_sync(hears.get)
        machine = Punch(
            ours,
            theirs,
            opens=opens,
            secret=b"of the tunnel of these two peers" * 2,
            start=trio.current_time(),
            rtt=0.02,
            budget=Budget(),
            own=gatherer.addresses,
            private=trusts,
        )
        inside = [c for c in ours.candidates if c.transport is Transport.TCP and c.kind is Kind.HOST]
        outcome = await carry_out(machine, share, tcp=[(c.address, c.port) for c in inside])
        for stream in outcome.streams.values():
            await stream.aclose()
        nursery.cancel_scope.cancel()
    for sock in sockets:
        sock.close()
    return Told(first, gatherer.nat, outcome)


async def test_offers_of_real_devices_lead_to_each_other(lab):
    core = lab.network("198.51.100.0/24", "2001:db8::/64", name="core")
    server = lab.host(core, name="server", addresses=2)
    hosts: dict[tuple[int, int], Host] = {}
    for row, pair in enumerate(PAIRS):
        for side, name in enumerate(pair):
            net = core
            if name != "open":
                nat = NATS[name]
                six = [f"2001:db8:{row + 1}{side}::/64"] if nat is FIREWALL6 else []
                net = lab.network("192.168.1.0/24", *six, uplink=core, nat=nat, name=f"n{row}{side}")
            hosts[row, side] = lab.host(net, name=f"h{row}{side}")
    told: dict[tuple[int, int], Told] = {}
    ips = [ip for ip in server.addresses if ":" not in ip]

    async def one(place: tuple[int, int], servers: list[HostPort], ends: tuple[queue.SimpleQueue, ...]) -> None:
        side = place[1]
        trusts = any(name.startswith("own") for name in list(PAIRS)[place[0]])
        work = partial(life, servers, side == 1, trusts, ends[side], ends[1 - side])
        told[place] = await hosts[place].call(partial(trio.run, work))

    async with lab.up():
        server.start(sys.executable, "-c", _SERVE.format(ports=PORTS), *ips, name="stun")

        async def answers() -> bool:
            at = [StunServer(HostPort(ips[0], PORTS[0]))]
            looked = await hosts[4, 0].call(partial(trio.run, partial(behaviour, at)))
            return looked.blocked.value is False

        await until("the server answers", answers, timeout=60)
        servers = [HostPort(ips[0], port) for port in PORTS]
        few = trio.CapacityLimiter(3)  # more at a time, and the machine is what they measure

        async def two(row: int) -> None:
            ends = queue.SimpleQueue(), queue.SimpleQueue()
            async with few, trio.open_nursery() as nursery:
                for side in (0, 1):
                    nursery.start_soon(one, (row, side), servers, ends)

        async with trio.open_nursery() as nursery:
            for row in range(len(PAIRS)):
                nursery.start_soon(two, row)

    for row, (pair, how) in enumerate(PAIRS.items()):
        both = told[row, 0], told[row, 1]
        for name, device in zip(pair, both, strict=True):
            assert device.first.nat.predictable is ("predictable" in name), "the first offer tells all it takes"
            assert device.known.udp is (name != "blocked")
            if "random" in name or "predictable" in name:
                assert device.known.mapping is Mapping.APDM
                assert device.known.predictable is ("random" not in name)
            assert device.known.tcp is not ("random" in name or "six" in name), name
            seen = [c for c in device.first.candidates if c.kind is Kind.OBSERVED]
            assert bool(seen) is (name not in ("blocked", "open")), (name, device.first)
            assert not any(c.private for c in device.first.candidates)
        verdicts = [device.outcome.verdict for device in both]
        if how in ("udp", "tcp"):
            assert all(verdict.direct for verdict in verdicts), (pair, [verdict.why for verdict in verdicts])
            assert {verdict.ways[0].target[0].name.lower() for verdict in verdicts} == {how}, pair
        else:
            assert verdicts[0].why == how, pair
