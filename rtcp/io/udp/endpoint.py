"""One UDP port of a device: its pipes, those who want one, and what belongs to others.

Datagrams find their pipe by the id they begin with, wherever they come from.  Openings and entries are the door's
(``rtcp/udp/door.py``).  All that does not begin as ours does goes to ``on_stranger``: answers of STUN servers and
probes of peers share the port, since a NAT's mapping is one port's.

Whatever the socket holds is read in bounded turns; then each pipe that heard something hands it on and sends what it
has to say.  A socket that takes no more keeps one train, and its pipes wait for it.
"""

from __future__ import annotations

import secrets
import select
import socket
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from cyfs_ns.errors import BadWire, Unreachable
from rtcp.io.alarms import Alarms
from rtcp.io.pipe import Reactor, log
from rtcp.io.udp.pipe import UdpPipe
from rtcp.io.udp.sockets import TrainSocket
from rtcp.party import Address
from rtcp.udp import wire
from rtcp.udp.connection import CALL_ENTROPY, ROOM, Connection, Settings, Stage
from rtcp.udp.door import DOOR_ENTROPY, Door
from rtcp.udp.keys import reset_token

_READABLE: Final = select.EPOLLIN
_WRITABLE: Final = select.EPOLLOUT
_READS: Final = 16
_TRAINS: Final = 16
"""How many are received and sent in one turn, so that one pipe does not keep the others waiting."""
_RESETS: Final = 16
_ENTRIES: Final = 8
"""How many a turn are answered and let in, as many as version 5 has handshakes in one (section 3.8 of its document)."""
_MOST_PIPES: Final = 4096

_leaving = memoryview(bytearray(ROOM))
"""Shared: a train is sent, or copied, before the next is written."""

Stranger = Callable[[bytes, Address], None]
"""Is given a datagram that is none of ours, and where it came from."""
Detour = Callable[[memoryview, int], None]
"""Takes a train, good until it returns, and the size of its datagrams, and sends them another way, or loses them."""
Take = Callable[[UdpPipe, Address], None]
"""Is given a pipe that somebody called, and takes it over."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """An invite that came by another way: ``entropy`` is the caller's (``CALL_ENTROPY``) that it was made for."""

    entropy: bytes = field(repr=False)
    invite: tuple[bytes, bytes] = field(repr=False)


class UdpEndpoint:
    """On ``sockets``, one a family, which are taken over; moved by ``reactor`` while ``run`` runs.

    ``take`` is given the pipes of those who call one of ``devices`` (Ed25519 keys, 32 bytes); ``admits`` is asked first
    whether an address may have one more.
    """

    def __init__(
        self,
        sockets: Sequence[TrainSocket],
        reactor: Reactor,
        *,
        devices: Collection[bytes] = (),
        take: Take | None = None,
        admits: Callable[[Address], bool] = lambda address: True,
        on_stranger: Stranger | None = None,
        reset_secret: bytes | None = None,
    ) -> None:
        self.on_stranger = on_stranger
        self._reactor, self._take, self._admits = reactor, take, admits
        self._settings = Settings(reset_secret=reset_secret or secrets.token_bytes(32))
        self._sockets: dict[int, TrainSocket] = {sock.family: sock for sock in sockets}
        self._door: Door | None = None
        if devices and take is not None:
            self._door = Door(devices, self._settings, secrets.token_bytes(DOOR_ENTROPY), trio.current_time())
        self._alarms = Alarms()
        self._pipes: dict[int, UdpPipe] = {}
        self._peers: dict[int, UdpPipe] = {}
        self._calls: dict[bytes, UdpPipe] = {}
        self._detours: dict[Address, Detour] = {}
        self._clogged: dict[int, tuple[bytes, int, Address]] = {}
        self._waiting: set[UdpPipe] = set()
        self._resets = self._entries = 0
        self._watch()

    # What is wanted of it

    @property
    def addresses(self) -> list[Address]:
        """Where its sockets are bound."""
        return [sock.address for sock in self._sockets.values()]

    @property
    def pipes(self) -> list[UdpPipe]:
        """Those that stand."""
        return list(self._pipes.values())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep time; until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._alarms.run)
            task_status.started()
            while True:
                if self._door is None:
                    await trio.sleep_forever()
                else:
                    await trio.sleep_until(self._door.due)
                    self._door.renew(secrets.token_bytes(DOOR_ENTROPY), trio.current_time())

    def invite(self, tag: bytes, public: bytes, source: Address) -> tuple[bytes, bytes] | None:
        """The key and the cookie with which who is to call from ``source`` may enter; None: nobody may."""
        return None if self._door is None else self._door.invite(tag, public, source)

    async def connect(self, address: Address, device: bytes, ticket: Ticket | None = None) -> UdpPipe:
        """A pipe to the device with the Ed25519 key ``device`` at ``address`` (an IP text).  Raises ``Unreachable``.

        With a ``ticket``, which is good for one pipe, it is there at once, and whether anybody is at its other end is
        seen later.
        """
        if address not in self._detours and self._socket_for(address) is None:
            raise Unreachable(f"no UDP socket for {address[0]}", "pre_connect_route")
        door, now = wire.door_key(device), trio.current_time()
        entropy = secrets.token_bytes(CALL_ENTROPY) if ticket is None else ticket.entropy
        machine = Connection.call(address, door, self._settings, entropy, now)
        try:
            pipe = UdpPipe(machine, self, self._reactor)
        except OSError as fault:
            raise Unreachable(f"no pipe can be made: {fault}") from fault
        answered = trio.Event()

        def on_news() -> None:
            if machine.stage is not Stage.CALLING:
                answered.set()

        pipe.on_news = on_news
        self._calls[machine.tag] = pipe
        try:
            if ticket is not None and machine.invited(wire.Invite(machine.tag, *ticket.invite), now):
                self._stands(pipe)
            pipe.soon()
            await answered.wait()
        except BaseException:
            machine.close()
            pipe.close()
            raise
        finally:
            pipe.on_news = None
            self._calls.pop(machine.tag, None)
        if machine.stage is Stage.OVER:
            pipe.close()
            raise Unreachable(f"{address[0]} port {address[1]}: {machine.why}", "connect_timeout")
        return pipe

    def send(self, datagram: bytes | memoryview, to: Address, ttl: int | None = None) -> None:
        """Send a datagram that is none of ours, or drop it; ``ttl`` None: the usual one."""
        if (detour := self._detours.get(to)) is not None:
            detour(memoryview(datagram), len(datagram))
        elif (sock := self._socket_for(to)) is None:
            return
        elif ttl is not None:
            sock.send_apart(bytes(datagram), to, ttl)
        else:
            with suppress(BlockingIOError):
                sock.send(memoryview(datagram), len(datagram), to)

    def send_train(self, train: bytes, segment: int, to: Address) -> None:
        """Send datagrams of ``segment`` bytes, the last maybe smaller, that are none of ours, or drop them."""
        if (sock := self._socket_for(to)) is not None:
            with suppress(BlockingIOError):
                sock.send(memoryview(train), segment, to)

    def lead(self, address: Address, detour: Detour | None) -> None:
        """What goes to ``address``, which stands for a way and is nobody's, is handed to ``detour``; None: no more."""
        if detour is None:
            self._detours.pop(address, None)
        else:
            self._detours[address] = detour

    def came(self, datagram: bytes, source: Address) -> None:
        """A datagram came by the way that ``source`` stands for."""
        self._arrived(memoryview(datagram), len(datagram), source, trio.current_time())

    def network_changed(self) -> None:
        """An address or a route of this machine is another."""
        for pipe in self.pipes:
            pipe.network_changed()

    def rebind(self, sockets: Sequence[TrainSocket]) -> None:
        """Go on at ``sockets``, which are taken over, instead of those there were; the pipes come along."""
        self._leave()
        self._sockets = {sock.family: sock for sock in sockets}
        self._watch()
        waiting, self._waiting = self._waiting, set()
        for pipe in waiting:
            pipe.soon()
        self.network_changed()

    def close(self) -> None:
        """End all pipes, and give the port back."""
        for pipe in [*self._pipes.values(), *self._calls.values()]:
            pipe.machine.close()
            self.pump(pipe)
            pipe.soon()
        self._leave()

    def _watch(self) -> None:
        for sock in self._sockets.values():
            self._reactor.watch(sock.fileno(), _READABLE, partial(self._on_events, sock))

    def _leave(self) -> None:
        for sock in self._sockets.values():
            self._reactor.forget(sock.fileno())
            sock.close()
        self._sockets.clear()
        self._clogged.clear()

    def _socket_for(self, address: Address) -> TrainSocket | None:
        return self._sockets.get(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)

    # Datagrams in

    def _on_events(self, sock: TrainSocket, events: int) -> None:
        if events & _WRITABLE:
            self._unclog(sock)
        if not events & ~_WRITABLE:
            return
        now = trio.current_time()
        self._resets, self._entries = _RESETS, _ENTRIES
        for _ in range(_READS):
            try:
                train, segment, source = sock.receive()
            except BlockingIOError:
                return
            except OSError:
                continue  # what an earlier datagram met on its way
            try:
                self._arrived(train, segment, source, now)
            except Exception:
                log.exception("a datagram cannot be dealt with")  # the port is many peers'

    def _arrived(self, train: memoryview, segment: int, source: Address, now: float) -> None:
        at = 0
        while at < len(train):
            pipe = self._pipes.get(wire.sealed_id(train[at : at + segment]))
            if pipe is not None:
                at += pipe.machine.receive(train[at:], source, now, segment)
                pipe.soon()
            else:
                self._receive(train[at : at + segment], source, now)
                at += segment

    def _receive(self, untrusted: memoryview, source: Address, now: float) -> None:
        if not wire.is_ours(untrusted):
            if self.on_stranger is not None and untrusted:
                self.on_stranger(bytes(untrusted), source)
            return
        try:
            read = wire.read_datagram(untrusted)
        except BadWire:
            return
        match read:
            case wire.Sealed(id):
                self._deny(id, source)
            case wire.Entry(id=id):
                if (pipe := self._pipes.get(id)) is None:
                    self._enter(read, source, now)
                else:
                    pipe.machine.receive(read.sealed, source, now)
                    pipe.soon()
            case wire.Opening() if self._door is not None and self._admits(source):
                if (invite := self._door.opening(read, untrusted, source)) is not None:
                    self.send(invite, source)
            case wire.Invite(tag=tag):
                if (pipe := self._calls.get(tag)) is not None and pipe.machine.invited(read, now):
                    self._stands(pipe)
                    pipe.soon()
            case wire.Reset(id, token):
                if (pipe := self._peers.get(id)) is not None and pipe.machine.reset(token):
                    pipe.soon()

    def _enter(self, entry: wire.Entry, source: Address, now: float) -> None:
        door, take = self._door, self._take
        if door is None or take is None or len(self._pipes) >= _MOST_PIPES or not self._admits(source):
            return
        if not self._entries or not door.proves(entry, source):
            return
        self._entries -= 1
        machine = door.entry(entry, source, now, secrets.token_bytes(32), lambda id: id not in self._pipes)
        if machine is None:
            return
        try:
            pipe = UdpPipe(machine, self, self._reactor)
        except OSError:
            return  # no more descriptors: the caller comes again
        self._stands(pipe)
        pipe.soon()
        take(pipe, source)

    def _stands(self, pipe: UdpPipe) -> None:
        self._pipes[pipe.machine.id] = pipe
        self._peers[pipe.machine.peer_id] = pipe

    def _deny(self, id: int, source: Address) -> None:
        """Nobody here has ``id`` any more; the answer is shorter than what it answers."""
        if self._resets:
            self._resets -= 1
            self.send(wire.write_reset(id, reset_token(self._settings.reset_secret, id)), source)

    # Datagrams out

    def pump(self, pipe: UdpPipe) -> None:
        """Send what ``pipe`` has to say, as far as its socket takes it."""
        machine, now = pipe.machine, trio.current_time()
        for _ in range(_TRAINS):
            if self._clogged:
                self._waiting.add(pipe)
                return
            train = machine.next_train(now, _leaving)
            if train is None:
                break
            if (detour := self._detours.get(train.address)) is not None:
                detour(_leaving[: train.size], train.segment)
            elif (sock := self._socket_for(train.address)) is not None:
                self._send(sock, _leaving[: train.size], train.segment, train.address)
        else:
            pipe.soon()
        if machine.stage is Stage.OVER:
            self._forget(pipe)
        elif (deadline := machine.next_deadline()) is not None:
            self._alarms.ask(pipe, deadline)

    def _send(self, sock: TrainSocket, train: memoryview, segment: int, to: Address) -> None:
        try:
            sock.send(train, segment, to)
        except BlockingIOError:
            self._clogged[sock.family] = bytes(train), segment, to
            self._reactor.rewatch(sock.fileno(), _READABLE | _WRITABLE)

    def _unclog(self, sock: TrainSocket) -> None:
        held = self._clogged.pop(sock.family, None)
        if held is not None:
            self._send(sock, memoryview(held[0]), held[1], held[2])
            if sock.family in self._clogged:
                return
        self._reactor.rewatch(sock.fileno(), _READABLE)
        waiting, self._waiting = self._waiting, set()
        for pipe in waiting:
            pipe.soon()

    def _forget(self, pipe: UdpPipe) -> None:
        machine = pipe.machine
        if self._pipes.get(machine.id) is pipe:
            del self._pipes[machine.id]
        if self._peers.get(machine.peer_id) is pipe:
            del self._peers[machine.peer_id]
