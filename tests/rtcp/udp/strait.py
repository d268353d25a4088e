"""A network between two pipes over UDP, with a clock that is told: it loses, doubles, delays and narrows."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from itertools import count

from rtcp.party import Address
from rtcp.udp import wire
from rtcp.udp.connection import CALL_ENTROPY, ROOM, Connection, Settings, Stage
from rtcp.udp.door import DOOR_ENTROPY, Door

KEY = bytes(range(32))
CALLER: Address = ("192.0.2.1", 1111)
CALLED: Address = ("198.51.100.7", 2980)


class Strait:
    """``caller`` calls the device ``KEY``.  ``loss`` and ``doubles`` are odds, ``delay`` and ``jitter`` seconds one
    way, ``rate`` bytes a second with a queue of ``queue`` bytes, ``mtu`` the largest packet, of IPv4.  ``shares``: with
    which other strait it has its rate and queue in common."""

    def __init__(
        self,
        seed: int = 0,
        *,
        loss: float = 0.0,
        doubles: float = 0.0,
        delay: float = 0.01,
        jitter: float = 0.0,
        rate: float = 125e6,
        queue: int = 1 << 20,
        mtu: int = 1500,
        shares: Strait | None = None,
    ) -> None:
        self.die = random.Random(seed)
        self.loss, self.doubles, self.delay, self.jitter = loss, doubles, delay, jitter
        self.rate, self.queue, self.mtu = rate, queue, mtu
        self.now = 1000.0
        self.caller_at = CALLER
        self.is_black = False
        self.loss_up = 0.0
        """Odds that what the caller sends gets lost besides."""
        self.dozes = 0.0
        """Seconds between two looks of the two processes at the world; 0: they are always awake."""
        self.sent: list[tuple[float, Address, Address, bytes]] = []
        """When, from where, where to, what: of everything that was sent, if ``records``."""
        self.records = False
        self.bytes_sent = 0
        self._free_at = {True: 0.0, False: 0.0} if shares is None else shares._free_at
        self._under_way: list[tuple[float, int, Address, Address, bytes]] = []
        self._count = count()
        self._room = memoryview(bytearray(ROOM))
        settings = Settings(reset_secret=self.die.randbytes(32))
        self.door = Door([KEY], settings, self.die.randbytes(DOOR_ENTROPY), self.now)
        self.caller = Connection.call(CALLED, wire.door_key(KEY), settings, self.die.randbytes(CALL_ENTROPY), self.now)
        self.called: Connection | None = None
        self.called_at = CALLED
        """Where the called is by now, and speaks from; at CALLED it is heard in any case."""
        self.also_at: Address | None = None
        """Where it is heard, too."""

    # The world

    def send(self, source: Address, to: Address, datagram: bytes) -> None:
        self.bytes_sent += len(datagram)
        if self.records:
            self.sent.append((self.now, source, to, datagram))
        if self.is_black or len(datagram) > self.mtu - 28 or self.die.random() < self.loss:
            return
        up = source == self.caller_at
        if up and self.loss_up and self.die.random() < self.loss_up:
            return
        start = max(self.now, self._free_at[up])
        if (start - self.now) * self.rate > self.queue:
            return
        self._free_at[up] = out = start + len(datagram) / self.rate
        for _ in range(2 if self.die.random() < self.doubles else 1):
            arrives = out + self.delay + self.die.random() * self.jitter
            heapq.heappush(self._under_way, (arrives, next(self._count), source, to, datagram))

    def _speak(self, pipe: Connection, source: Address) -> None:
        while (train := pipe.next_train(self.now, self._room)) is not None:
            for at in range(0, train.size, train.segment):
                self.send(source, train.address, bytes(self._room[at : min(at + train.segment, train.size)]))

    def speak(self) -> None:
        self._speak(self.caller, self.caller_at)
        if self.called is not None:
            self._speak(self.called, self.called_at)

    def _arrive(self, source: Address, to: Address, datagram: bytes) -> None:
        if to in (CALLED, self.called_at, self.also_at):
            self._reach_called(source, datagram)
        elif to == self.caller_at:
            read = wire.read_datagram(datagram)
            match read:
                case wire.Invite():
                    self.caller.invited(read, self.now)
                case wire.Sealed(id) if id == self.caller.id:
                    self.caller.receive(memoryview(datagram), source, self.now)

    def _reach_called(self, source: Address, datagram: bytes) -> None:
        read = wire.read_datagram(datagram)
        match read:
            case wire.Opening():
                if (invite := self.door.opening(read, datagram, source)) is not None:
                    self.send(CALLED, source, invite)
            case wire.Entry() if self.called is None:
                self.called = self.door.entry(read, source, self.now, self.die.randbytes(32), lambda id: True)
            case wire.Entry(id=id) if self.called is not None and id == self.called.id:
                self.called.receive(read.sealed, source, self.now)
            case wire.Sealed(id) if self.called is not None and id == self.called.id:
                self.called.receive(memoryview(datagram), source, self.now)

    @property
    def pipes(self) -> list[Connection]:
        return [pipe for pipe in (self.caller, self.called) if pipe is not None]

    def next_time(self) -> float:
        """When something happens next."""
        self.speak()
        deadlines = [deadline for pipe in self.pipes if (deadline := pipe.next_deadline()) is not None]
        then = min([self._under_way[0][0] if self._under_way else math.inf, *deadlines])
        if self.dozes and self.now < then < math.inf:
            return max(then, (self.now // self.dozes + 1) * self.dozes)
        return then

    def step(self, until: float) -> bool:
        """On to the next thing that happens; False: that is not before ``until``."""
        then = self.next_time()
        if then > until:
            self.now = max(self.now, until)
            return False
        self.now = max(self.now, then)
        while self._under_way and self._under_way[0][0] <= self.now:
            _, _, source, to, datagram = heapq.heappop(self._under_way)
            self._arrive(source, to, datagram)
        for pipe in self.pipes:
            if (deadline := pipe.next_deadline()) is not None and deadline <= self.now:
                pipe.handle_timeout(self.now)
        return True

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, ``seconds`` at most."""
        end = self.now + seconds
        steps = 0
        while not until() and self.step(end):
            steps += 1
            assert steps < 2_000_000, "time stands still"

    def deliver(self, source: Address, to: Address, datagram: bytes) -> None:
        """Somebody else's doing, at once."""
        self._arrive(source, to, datagram)

    def meet(self) -> Connection:
        """Both sides stand; the called's is returned."""
        self.run(60, lambda: self.called is not None and self.caller.stage is Stage.OPEN)
        assert self.called is not None, self.caller.why
        return self.called


class Talk:
    """One direction of a pipe: ``size`` bytes that nobody can guess, written as there is room, and read."""

    def __init__(self, strait: Strait, writer: Connection, reader: Connection, size: int, seed: int = 7) -> None:
        self._strait, self._writer, self._reader = strait, writer, reader
        self._bytes = random.Random(seed).randbytes(min(size, 1 << 20))
        self.size, self.written, self.got = size, 0, 0
        self._buffer = memoryview(bytearray(1 << 16))
        self.finishes = True

    def write(self, most: int) -> int:
        """The next bytes, as many as are taken of ``most``."""
        at = self.written % len(self._bytes)
        taken = self._writer.write(self._bytes[at : at + most])
        self.written += taken
        return taken

    def fill(self) -> None:
        """As much as there is room for."""
        while self.written < self.size and self._writer.room:
            self.write(min(self.size - self.written, 65536))

    def turn(self) -> bool:
        """Whether all has been said and heard."""
        self.fill()
        strait, period = self._strait, len(self._bytes)
        if self.finishes and self.written == self.size:
            self._writer.finish()
        while n := self._reader.read_into(self._buffer, strait.now):
            rest, at = self._buffer[:n], self.got % period
            while rest:
                part = self._bytes[at : at + len(rest)]
                assert rest[: len(part)] == part, f"other bytes around {self.got}"
                rest, at = rest[len(part) :], 0
            self.got += n
        return self.got == self.size and (not self.finishes or self._reader.is_whole)
