"""What happens to a running download when the network under it misbehaves: it goes on, and arrives as it was sent.

Each day happens to a pair of its own, a laptop and a box behind a NAT each, all with one SN and all at once: together
they take no longer than the longest.  A download lasts until its day is over; both ends hash it.
"""

from __future__ import annotations

import hashlib
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from devices import BY_SOCKS
from members import INTERNET, Member, Sn, members, opened
from netnslab import HOME, POOL, PORT_RESTRICTED, WEB_ONLY, Host, Nat, Network, need
from netnslab.process import until
from netnslab.traffic import tcp_server

from tests.attack.test_attack_clock import WallClock, shim

__all__ = ["shim"]

_BLOCK, _BETWEEN = 1 << 14, 0.03
"""Bytes, and seconds from one to the next: a film."""
_ASLEEP = 45.0
_LOSS = """table inet loss {
    chain way { type filter hook forward priority -400; numgen random mod 100 < 3 drop; };
}"""
_YEARS = 30 * 365 * 86400


class Film:
    """Goes from ``box`` to ``laptop`` until it is ended; ``stalled``: seconds, the longest time without a byte since
    this was set to 0."""

    def __init__(self, laptop: Host, box: Host, file: Path) -> None:
        self._laptop, self._box, self._file = laptop, box, file
        self._dice, self._sent = random.Random(5), hashlib.sha256()
        self._over = trio.Event()
        self.stalled = 0.0

    async def run(self, day: Callable[[], Awaitable[None]]) -> None:
        """While that day passes.  Raises when the film breaks off, or is another one."""
        async with trio.open_nursery() as nursery:
            await nursery.start(tcp_server, self._box, "127.0.0.1", 80, self._serve)
            self.curl = self._laptop.start("curl", "-sS", "-N", *BY_SOCKS, "-o", str(self._file), "http://box/film")
            nursery.start_soon(self._look)
            await self.goes_on()
            await day()
            self._over.set()
            await until("the film is over", lambda: self.curl.code is not None, timeout=40)
            nursery.cancel_scope.cancel()
        assert self.curl.code == 0, self.curl.text()
        assert hashlib.sha256(self._file.read_bytes()).digest() == self._sent.digest()

    async def goes_on(self) -> None:
        """Until more of it is there than now."""
        before = self._seen

        def more() -> bool:
            assert self.curl.code is None, f"the film broke off: {self.curl.text()}"
            return self._seen > before + 8 * _BLOCK

        await until("the film goes on", more, timeout=40)

    async def _serve(self, stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some(4096)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not self._over.is_set():
            block = self._dice.randbytes(_BLOCK)
            self._sent.update(block)
            await stream.send_all(b"%x\r\n%b\r\n" % (_BLOCK, block))
            await trio.sleep(_BETWEEN)
        await stream.send_all(b"0\r\n\r\n")

    async def _look(self) -> None:
        seen, last = 0, trio.current_time()
        while True:
            await trio.sleep(0.02)
            now = trio.current_time()
            self.stalled = max(self.stalled, now - last)
            if self._seen > seen:
                seen, last = self._seen, now

    @property
    def _seen(self) -> int:
        return self._file.stat().st_size if self._file.exists() else 0


@dataclass
class Pair:
    """``laptop`` watches what ``box`` has, each behind a router of its own; ``elsewhere``: networks they may go to;
    ``clock``: theirs, on a day that has one."""

    laptop: Member
    box: Member
    routers: Sequence[Host]
    elsewhere: Sequence[Network]
    clock: WallClock
    film: Film
    told: list[str] = field(default_factory=list)

    async def overcomes(self, what: str, way: str = "udp ") -> None:
        """What just happened is overcome when the film goes on, and goes by such a way; what that took is told."""
        began = trio.current_time()
        await self.film.goes_on()
        await self.laptop.goes(self.box, way, seconds=60)
        took = trio.current_time() - began
        await self.film.goes_on()
        self.told.append(f"{what}: {self.film.stalled * 1e3:.0f} ms without a byte, by {way}after {took:.1f} s")
        self.film.stalled = 0.0


async def both_move(pair: Pair) -> None:
    """One after the other, then both at once."""
    cafe, hotel = pair.elsewhere
    home, office = (member.host.ports[0].network for member in (pair.laptop, pair.box))
    await pair.laptop.host.move("eth0", cafe)
    await pair.overcomes("the laptop moved")
    await pair.box.host.move("eth0", hotel)
    await pair.overcomes("the box moved")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.laptop.host.move, "eth0", home)
        nursery.start_soon(pair.box.host.move, "eth0", office)
    await pair.overcomes("both moved")


async def laptop_sleeps(pair: Pair) -> None:
    """It stops, with all its programs, and its router forgets it."""
    programs = (pair.laptop.gateway.process, pair.film.curl)
    for program in programs:
        program.send(signal.SIGSTOP)
    try:
        await pair.laptop.host.unplug("eth0")
        await pair.routers[0].run("conntrack", "-F")
        await trio.sleep(_ASLEEP)
        await pair.laptop.host.plug_in("eth0")
        pair.film.stalled = 0.0
    finally:
        for program in programs:
            program.send(signal.SIGCONT)
    await pair.overcomes(f"the laptop woke up after {_ASLEEP:.0f} s")


async def router_reboots(pair: Pair) -> None:
    """It forgets everything, is away for a while, and gives out other ports from then on."""
    router = pair.routers[0]
    await router.unplug("wan")
    await router.run("nft", "flush", "ruleset")
    await router.run("conntrack", "-F")
    await trio.sleep(2)
    await router.run("nft", "-f", "-", stdin=POOL.ruleset(router.ip, pair.laptop.host.ip))
    await router.plug_in("wan")
    await pair.overcomes("the NAT was rebooted")


async def narrows(pair: Pair) -> None:
    for router in pair.routers:
        await router.narrow("wan", 1280)
    await pair.overcomes("1280 bytes a packet")


async def loses(pair: Pair) -> None:
    for router in pair.routers:
        await router.run("nft", "-f", "-", stdin=_LOSS)
    await pair.overcomes("3 % are lost each way")
    for _ in range(8):
        await pair.film.goes_on()
    await pair.overcomes("3 % are lost for a while")


async def clock_jumps(pair: Pair) -> None:
    """That of both: what runs goes by another clock, and what is signed is good again when the time is right again."""
    for by in (3600, -3600, _YEARS, -_YEARS):
        pair.clock.jump(by)
        await pair.overcomes(f"the clock is {by} s off")
    pair.clock.jump(0)
    await pair.overcomes("the clock is right again")
    for member in (pair.laptop, pair.box):
        await member.gateway.api("/cyfs/memberships", method="POST")
        await until(f"{member.host.name} belongs to the SN", member.belongs, timeout=40)


async def web_only(pair: Pair) -> None:
    """To 443 and 80, and nothing else: by the SN, all the time."""
    await pair.overcomes("only 443 is open", "SN ")


@dataclass(frozen=True)
class Day:
    """What happens; ``nats``: of the laptop and the box; ``port``: of the SN, that the laptop may go out to; ``way``:
    by which the film begins; ``clock``: whether they have one of their own."""

    happens: Callable[[Pair], Awaitable[None]]
    nats: tuple[Nat, Nat] = (HOME, PORT_RESTRICTED)
    port: int = 2980
    way: str = "udp "
    clock: bool = False


DAYS = {
    "moving": Day(both_move),
    "sleep": Day(laptop_sleeps),
    "reboot": Day(router_reboots),
    "mtu": Day(narrows),
    "loss": Day(loses),
    "clock": Day(clock_jumps, clock=True),
    "web": Day(web_only, (WEB_ONLY, PORT_RESTRICTED), 443, "SN "),
}


@pytest.mark.timeout(240)
async def test_a_download_lives_through_bad_days(lab, shim, capsys):
    need("curl", "conntrack")
    core = lab.network(INTERNET, name="core")
    sn = Sn(lab.host(core, name="sn"))
    elsewhere = [
        lab.network(subnet, uplink=core, nat=HOME, name=name)
        for name, subnet in {"cafe": "10.1.0.0/24", "hotel": "10.2.0.0/24"}.items()
    ]
    hosts, routers = [], {}
    for name, day in DAYS.items():
        routers[name] = []
        for number, (end, nat) in enumerate(zip(("laptop", "box"), day.nats, strict=True)):
            net = lab.network(f"192.168.{number}.0/24", uplink=core, nat=nat, name=f"{name}{number}")
            hosts.append(lab.host(net, name=f"{name}-{end}"))
            routers[name].append(net.router)
    everybody = members(hosts)
    faults: dict[str, Exception] = {}

    async def live(name: str, pair: Pair) -> None:
        async def begun() -> None:
            await pair.laptop.goes(pair.box, DAYS[name].way, seconds=40)
            pair.film.stalled = 0.0
            await DAYS[name].happens(pair)

        try:
            await pair.film.run(begun)
        except Exception as fault:  # the other days pass all the same
            faults[name] = fault

    async with lab.up(timeout=230):
        pairs = {}
        for name, laptop, box in zip(DAYS, everybody[::2], everybody[1::2], strict=True):
            film = Film(laptop.host, box.host, lab.directory / f"{name}.film")
            pair = Pair(laptop, box, routers[name], elsewhere, WallClock(lab.directory / f"{name}.clock"), film)
            laptop.port, laptop.by_proxy = DAYS[name].port, box
            if DAYS[name].clock:
                laptop.env = box.env = {"WRONG_CLOCK": str(pair.clock.place), "LD_PRELOAD": str(shim)}
            pairs[name] = pair
        async with opened(lab, sn, everybody), trio.open_nursery() as nursery:
            for name, pair in pairs.items():
                nursery.start_soon(live, name, pair)
        with capsys.disabled():
            print("\n" + "\n".join(f"{name}: {line}" for name, pair in pairs.items() for line in pair.told))
        if faults:
            raise ExceptionGroup(f"bad: {', '.join(faults)}", list(faults.values()))
