"""A worker: a process that answers what it knows and asks the server for the rest.

It has sockets of its own in the same ``SO_REUSEPORT`` groups, a :class:`HotDoor` of its own and no scheduler: one
``epoll`` over its sockets and its line to the server.  It decides nothing.  A client it does not know yet has no
answers here, so that its first question goes to the server, and the answer says how the client stands.

The line's end is the worker's end: it lives no longer than its server, however that died.

Run as ``python -m cyfs_ns.io.workerprocess LINE SOCKET[=INTERFACE]…`` with inherited descriptors.
"""

from __future__ import annotations

import contextlib
import gc
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from cyfs_ns import workerframes as frames
from cyfs_ns.cookies import Cookies
from cyfs_ns.hot import Admission, HotDoor
from cyfs_ns.io.datagrams import TURN, Errand, UdpDoor
from cyfs_ns.ratelimit import RateLimit

MAX_IN_FLIGHT = 2048
MAX_OF_ONE = 512

_COUNTS = 32  # told before questions get their turn again
_END = object()
_UNKNOWN = Admission("")
_FRAMES = 64  # read before the sockets get their turn


class Worker:
    """The loop and what it holds."""

    def __init__(self, line: socket.socket, doors: Sequence[UdpDoor]) -> None:
        self._line = line
        self._doors = {door.sock.fileno(): door for door in doors}
        self._hot = HotDoor(_judge)
        self._in_flight: dict[int, tuple[UdpDoor, Errand]] = {}
        self._number = 0
        self._told_second = 0
        self._telling: Iterator[None] | None = None

    def run(self) -> None:
        """Until the server is gone."""
        poll = select.epoll()
        for fd in (self._line.fileno(), *self._doors):
            poll.register(fd, select.EPOLLIN)
        while True:
            events = poll.poll(1 if self._telling is None else 0)
            # The server counts seconds by the same clock: it is the machine's.
            second = int(time.monotonic())
            ready = {fd for fd, _ in events}
            # The server first: what it takes back must not be answered once more to those who ask after that.
            if self._line.fileno() in ready and not self._listen():
                return
            for fd in ready & self._doors.keys():
                self._turn(self._doors[fd], second)
            if second != self._told_second:
                self._told_second = second
                self._telling = self._telling or self._counts_told()
            if self._telling is not None and next(self._telling, _END) is _END:
                self._telling = None

    def _turn(self, door: UdpDoor, second: int) -> None:
        errands: list[Errand] = []
        taken, count = 0, 1
        while count and taken < TURN:
            try:
                count = door.answer_batch(self._hot, second, errands)
            except OSError:  # the interface went away, for instance; the server reports such things
                return
            taken += count
            for errand in errands:
                self._ask(door, errand)
            errands.clear()

    def _ask(self, door: UdpDoor, errand: Errand) -> None:
        if len(self._in_flight) >= MAX_IN_FLIGHT or errand.client.pending >= MAX_OF_ONE:
            return  # those who came first have waited longer
        self._number = (self._number + 1) & 0xFFFFFFFF
        peer = door.peer(errand)
        frame = frames.pack(
            frames.ERRAND,
            frames.number(self._number),
            errand.client.address,
            errand.query,
            peer.ip.encode(),
            frames.number(peer.port),
            peer.local.encode(),
            peer.interface.encode(),
            frames.number(peer.local_port),
        )
        with contextlib.suppress(BlockingIOError):  # the server has enough to do: the client will ask again
            self._line.send(frame)
            errand.client.pending += 1
            self._in_flight[self._number] = door, errand

    def _listen(self) -> bool:
        for _ in range(_FRAMES):
            try:
                frame = self._line.recv(1 << 17)
            except BlockingIOError:
                return True
            except ConnectionError:
                return False
            if not frame:
                return False
            kind, fields = frames.unpack(frame)
            if kind == frames.ANSWER:
                self._answer(*fields)
            elif kind == frames.FLUSH:
                self._flush(*fields)
            elif kind == frames.FORGET:
                self._hot.forget_clients()
            elif kind == frames.SETUP:
                self._set_up(*map(int.from_bytes, fields[:4]), secret=fields[4])
        return True

    def _answer(self, number: bytes, answer: bytes, view: bytes, standing: bytes, entry: bytes) -> None:
        door, errand = self._in_flight.pop(int.from_bytes(number))
        errand.client.pending -= 1
        if answer:
            door.send(errand, answer)
        admission = Admission(view.decode(), limited=standing == frames.LIMITED)
        if standing == frames.STRANGER:
            self._hot.admit(errand.client.address, None)
        elif errand.client.view != admission.view:
            known = self._hot.clients.get(errand.client.address)
            if known is None or known.view != admission.view:
                self._hot.admit(errand.client.address, admission)
        if entry:
            query = errand.query
            self._hot.table(admission.view).adopt(query, frames.unpack_entry(entry, query))

    def _flush(self, scope: bytes, name: bytes) -> None:
        for _, table in self._hot.tables():
            if scope == frames.ALL:
                table.clear()
            else:
                table.drop(name, below=scope == frames.BELOW)

    def _set_up(self, per_second: int, slip: int, refuse: int, max_bytes: int, *, secret: bytes) -> None:
        for _ in chain(self._telling or (), self._counts_told()):
            pass
        limit = RateLimit(per_second, slip=slip) if per_second else None
        self._hot = HotDoor(_judge, limit=limit, refuse=bool(refuse), max_bytes=max_bytes)
        if secret:
            cookies = Cookies(secret)
            self._hot.vouch = lambda address, query: cookies.vouch(address, query, int(time.time()))

    def _counts_told(self) -> Iterator[None]:
        """Tell the server what was hit since the last time, some microseconds' worth at a turn."""
        yield from self._told(frames.CLIENTS, iter(self._hot.harvest_clients().items()))
        for view, table in list(self._hot.tables()):
            hits = ((entry.label, times) for entry, times in table.harvest() if isinstance(entry.label, bytes))
            yield from self._told(frames.HITS, hits, view.encode())

    def _told(self, kind: int, counts: Iterator[tuple[bytes, int]], *first: bytes) -> Iterator[None]:
        while lot := list(islice(counts, _COUNTS)):
            with contextlib.suppress(BlockingIOError):  # counts may be lost, answers may not wait
                for frame in frames.pack_counts(kind, lot, *first):
                    self._line.send(frame)
            yield


def _judge(_: bytes) -> Admission:
    return _UNKNOWN


def main(arguments: Sequence[str]) -> None:
    """See the module's text."""
    # Whoever stops the server from a terminal reaches its workers, too; they go when it does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Nothing here makes cycles, and a collection of all answers is a pause of tens of milliseconds.
    gc.disable()
    line = socket.socket(fileno=int(arguments[0]))
    line.setblocking(False)
    doors = []
    for argument in arguments[1:]:
        fd, _, interface = argument.partition("=")
        doors.append(UdpDoor(socket.socket(fileno=int(fd)), interface=interface))
    with contextlib.suppress(BrokenPipeError):
        Worker(line, doors).run()


if __name__ == "__main__":
    main(sys.argv[1:])
