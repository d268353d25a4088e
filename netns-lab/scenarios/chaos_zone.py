"""Three OODs that all bad days happen to: each fault of ``tests/zone/chaos/faultplan.py`` carried out, and taken back.

    disk      a file system of its own, which can be filled
    clock     of the gateway, by a preloaded library; etcd has the true one
    cables    cut in one direction or both, for packets that come from another OOD

Who ends by itself is started again after two seconds, as its unit does, and is told of.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio
from devices import PROGRAM
from netnslab import Gateway, Host
from netnslab.process import CommandFailed, run, until
from zone_world import Ood, ZoneWorld

from tests.zone.chaos.faultplan import Cable, Fault, Kind

__all__ = ["Victim", "Victims", "victims"]

_ROOM: Final = 640 << 20
"""etcd writes logs of 64 MB, and keeps five."""
_SHIM: Final = Path(__file__).parents[2] / "tests/attack/wrongclock.c"
_AGAIN: Final = 2.0
_GRACE: Final = 60.0
"""Seconds in which a gateway ends that was asked to, while other tests run beside."""


class Victim:
    """One of them."""

    def __init__(self, ood: Ood, shim: Path, addresses: frozenset[str]) -> None:
        self.ood, self._shim = ood, shim
        self.addresses = addresses
        """As which its packets come to others."""
        self.ended: list[str] = []
        """How the gateway ended by itself."""
        self._down: set[Fault] = set()
        self._is_on = True
        self._changing = trio.Lock()
        place = ood.folder / "clock"
        place.write_bytes(bytes(8))
        with place.open("r+b") as file:
            self._wrong_by = mmap.mmap(file.fileno(), 8)

    @property
    def name(self) -> str:
        return self.ood.name

    def start(self) -> None:
        """The gateway, with a clock that can be set."""
        ood = self.ood
        env = {"LD_PRELOAD": str(self._shim), "WRONG_CLOCK": str(ood.folder / "clock")}
        words = ("run", "-c", str(ood.folder / "config.yaml"), "--home", str(ood.home))
        ood.running = Gateway(ood.host, ood.home, ood.host.start(PROGRAM, *words, name="cyfs-gateway", env=env))

    async def attend(self) -> None:
        """As the unit does, until cancelled."""
        while True:
            await trio.sleep(_AGAIN)
            async with self._changing:
                code = self.ood.gateway.process.code
                if code is not None and not self._down:
                    self.ended.append(f"{self.name} ended with {code}: {self.ood.said}")
                    self.start()

    async def hit(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.KILL_DAEMON | Kind.STOP | Kind.CUT_POWER:
                async with self._changing:
                    self._down.add(fault)
                    await self._take_down(fault.kind)
            case Kind.KILL_MEMBER:
                await self._signal_member("KILL")
            case Kind.FREEZE:
                self._signal(signal.SIGSTOP)
                await self._signal_member("STOP")
            case Kind.JUMP:
                self._wrong_by[:8] = struct.pack("=q", fault.by)
            case Kind.FILL:
                await trio.to_thread.run_sync(_fill, self._filler(fault))

    async def heal(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.KILL_DAEMON | Kind.STOP | Kind.CUT_POWER:
                async with self._changing:
                    self._down.discard(fault)
                    await self._bring_up()
            case Kind.FREEZE:
                self._signal(signal.SIGCONT)
                await self._signal_member("CONT")
            case Kind.JUMP:
                self._wrong_by[:8] = bytes(8)
            case Kind.FILL:
                self._filler(fault).unlink()

    async def _take_down(self, kind: Kind) -> None:
        process = self.ood.gateway.process
        if kind is Kind.CUT_POWER and self._is_on:
            await self.ood.cut_power()
            self._is_on = False
        if kind is Kind.STOP and process.code is None:
            process.send(signal.SIGTERM)
            await until(f"{self.name} ends when asked to", lambda: process.code is not None, timeout=_GRACE)
        elif process.code is None:
            await process.kill()

    async def _bring_up(self) -> None:
        if self._down:
            return
        if not self._is_on:
            await self.ood.host.switch_on()
            self._is_on = True
        if self.ood.gateway.process.code is not None:
            self.start()

    def _signal(self, number: signal.Signals) -> None:
        if self.ood.gateway.process.code is None:
            os.killpg(self.ood.gateway.process.pid, number)

    async def _signal_member(self, name: str) -> None:
        """Where there is one."""
        script = f"read pid <member.pid && grep -qx etcd /proc/$pid/comm && kill -{name} $pid"
        with suppress(CommandFailed):  # The power may go meanwhile.
            await self.ood.host.run("sh", "-c", f"cd {self.member} && {script}", check=False)

    @property
    def member(self) -> Path:
        """The folder of its member of etcd."""
        return next(iter((self.ood.home / "zone").glob("*/etcd")), self.ood.home)

    def _filler(self, fault: Fault) -> Path:
        """Each has its own: under load one may be written still when the next begins."""
        return self.ood.folder / f"filler-{fault.at:.1f}"


class Victims:
    """All of them."""

    def __init__(self, each: dict[str, Victim]) -> None:
        self.each = each
        self._cut: Counter[Cable] = Counter()

    def __getitem__(self, name: str) -> Victim:
        return self.each[name]

    async def suffer(self, fault: Fault) -> None:
        """From its beginning to its end."""
        if fault.kind is not Kind.CUT_CABLES:
            await self[fault.who].hit(fault)
            await trio.sleep(fault.lasts)
            await self[fault.who].heal(fault)
            return
        self._cut.update(fault.cables)
        await self._lay_cables()
        await trio.sleep(fault.lasts)
        self._cut.subtract(fault.cables)
        await self._lay_cables()

    async def _lay_cables(self) -> None:
        for name, victim in self.each.items():
            banned = [a for one, other in +self._cut if other == name for a in sorted(self[one].addresses)]
            drops = "".join(f"ip saddr {address} drop; " for address in banned)
            text = f"table inet cables {{ chain in {{ type filter hook input priority -400; {drops}}}; }}"
            rules = f"table inet cables {{}}; delete table inet cables; {text}\n"
            await run(victim.ood.host.namespace, ["nft", "-f", "-"], stdin=rules.replace("; ", "\n"))


async def victims(world: ZoneWorld) -> Victims:
    """The machines of ``world``, which are activated, on disks of their own; no gateway runs."""
    shim = world.lab.directory / "wrongclock.so"
    await trio.run_process(["cc", "-O1", "-shared", "-fPIC", "-o", str(shim), str(_SHIM)])
    shim.chmod(0o755)
    each = {}
    for name, ood in world.oods.items():
        await ood.host.cut_power()
        await world.lab.give_disk(ood.folder, _ROOM)
        await ood.host.switch_on()
        each[name] = Victim(ood, shim, frozenset(_seen_as(world, ood.host)))
    return Victims(each)


def _seen_as(world: ZoneWorld, host: Host) -> list[str]:
    network = host.ports[0].network
    return [host.ip] if network.router is None else [host.ip, network.router.ip]


def _fill(place: Path) -> None:
    """As far as there is room."""
    with place.open("wb", buffering=0) as file:
        size = 1 << 22
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
