"""Worker processes for machines with more cores than one can keep busy: ``workers: N``.

Each worker (:mod:`cyfs_ns.io.workerprocess`) has sockets of its own, among which the kernel spreads the clients, and
answers what it knows.  For the rest it asks here: first the server's own hot table, then the long way.  With an answer
goes what the worker needs to give it itself the next time.  What no longer holds is told to all, on the same line and
so in the same order, and holds from the worker's next turn on; a worker that does not keep up with that is replaced by
a new one, which knows nothing wrong.

The sockets are the server's: a worker that dies leaves what lies in them to its successor.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from cyfs_ns import workerframes as frames
from cyfs_ns.errors import BadWire
from cyfs_ns.hot import Hot
from cyfs_ns.io.light import LightWork, afterwards, light_work
from cyfs_ns.io.udp import MAX_IN_FLIGHT, Serve
from cyfs_ns.peer import Peer

_BACK_OFF = 1.0
"""Seconds between a worker's death and the next one's birth, so that a fault at birth is no storm."""
_LINE_BUFFER = 4 << 20
_FRAMES = 64  # read before the rest of the house gets its turn
_SO_SNDBUFFORCE = 32
_log = logging.getLogger("cyfs.dns")


@dataclass(frozen=True, slots=True)
class WorkerSocket:
    """One bound socket of one worker, with ``SO_REUSEPORT``."""

    sock: socket.socket
    interface: str = ""


class Crew:
    """The workers of one server.  To be among ``hot.followers`` while :meth:`run` runs, which sees to that."""

    def __init__(self, hot: Hot, serve: Serve, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` must be the machine's monotonic one: the workers look at it, too."""
        self._hot = hot
        self._serve = serve
        self._clock = clock
        self._lines: set[_Line] = set()
        self._many = 1

    async def run(
        self,
        sockets: Sequence[Sequence[WorkerSocket]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep a worker alive for each of the lists of sockets, for ever; closes the sockets at the end."""
        self._many = len(sockets)
        self._hot.followers.append(self)
        try:
            async with trio.open_nursery() as nursery:
                for own in sockets:
                    nursery.start_soon(self._keep_alive, own)
                task_status.started()
        finally:
            self._hot.followers.remove(self)
            for own in sockets:
                for each in own:
                    each.sock.close()

    @property
    def pids(self) -> list[int]:
        """Of the workers that are alive."""
        return sorted(line.process.pid for line in self._lines)

    def flushed(self, name: bytes | None, *, below: bool) -> None:
        scope = frames.ALL if name is None else frames.BELOW if below else frames.NAME
        self._tell_all(frames.pack(frames.FLUSH, scope, name or b""))

    def clients_forgotten(self) -> None:
        self._tell_all(frames.pack(frames.FORGET))

    def renewed(self) -> None:
        for line in [*self._lines]:
            line.tell(self._settings())

    def _tell_all(self, frame: bytes) -> None:
        for line in [*self._lines]:
            line.tell(frame)

    def _settings(self) -> bytes:
        door = self._hot.doors["udp"]
        limit = door.limit
        # Each worker sees its share of a network's questions.
        share = -(-limit.per_second // self._many) if limit is not None else 0
        return frames.pack(
            frames.SETUP,
            frames.number(share),
            frames.number(limit.slip if limit is not None else 0),
            frames.number(door.refuse),
            frames.number(door.max_bytes),
            self._hot.cookies.secret if self._hot.cookies is not None else b"",
        )

    async def _keep_alive(self, sockets: Sequence[WorkerSocket]) -> None:
        while True:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours:
                with theirs:
                    for end in (ours, theirs):
                        _widen(end)
                    process = _start(theirs, sockets)
                ours.setblocking(False)
                line = _Line(ours, process)
                self._lines.add(line)
                try:
                    line.tell(self._settings())
                    await self._attend(line)
                finally:
                    self._lines.discard(line)
                    process.kill()
                    process.wait()
            _log.warning("dns worker %d died (%s); the next one follows", process.pid, process.returncode)
            await trio.sleep(_BACK_OFF)

    async def _attend(self, line: _Line) -> None:
        """Answer a worker's questions until it is gone."""
        with trio.CancelScope() as life:
            async with light_work() as long_way:
                with contextlib.suppress(OSError, BadWire):  # an empty frame is the line's end
                    while True:
                        await trio.lowlevel.wait_readable(line.sock)
                        for _ in range(_FRAMES):
                            # The worker bounds what it asks; a fuller house than this is a line that waits.
                            await line.room(MAX_IN_FLIGHT)
                            try:
                                frame = line.sock.recv(1 << 17)
                            except BlockingIOError:
                                break
                            self._hear(line, frame, long_way)
                life.cancel()

    def _hear(self, line: _Line, untrusted: bytes, long_way: LightWork) -> None:
        kind, fields = frames.unpack(untrusted)
        if kind == frames.ERRAND:
            line.in_flight += 1
            long_way.start(self._run(line, fields))
        elif kind == frames.HITS:
            table = self._hot.doors["udp"].table(fields[0].decode())
            for query, times in frames.pairs(fields[1:]):
                table.add_hits(query, times)
        elif kind == frames.CLIENTS:
            for address, times in frames.pairs(fields):
                self._hot.doors["udp"].add_hits(address, times)

    async def _run(self, line: _Line, fields: list[bytes]) -> None:
        number, address, query, ip, port, local, interface, local_port = fields
        try:
            answer = self._hot.doors["udp"].answer(address, query, int(self._clock()))
            if answer is None:
                peer = Peer(
                    ip.decode(),
                    int.from_bytes(port),
                    "udp",
                    local.decode(),
                    interface.decode(),
                    int.from_bytes(local_port),
                )
                answer = await self._serve(query, peer)
        except Exception:
            _log.exception("a question could not be answered")
            answer = None
        finally:
            line.done()
        # What the long way keeps for the next time it keeps then, too, and before us.
        afterwards(partial(self._tell, line, number, address, query, answer))

    def _tell(self, line: _Line, number: bytes, address: bytes, query: bytes, answer: bytes | None) -> None:
        """Answer a worker's question, with what it needs to answer it itself from now on."""
        door = self._hot.doors["udp"]
        client = door.client(address)
        if client is None:
            frame = frames.pack(frames.ANSWER, number, answer or b"", b"", frames.STRANGER, b"")
        else:
            entry = client.table.peek(query)
            standing = frames.LIMITED if client.limited else frames.UNLIMITED
            frame = frames.pack(
                frames.ANSWER,
                number,
                answer or b"",
                client.view.encode(),
                standing,
                frames.pack_entry(entry) if entry is not None else b"",
            )
        line.tell(frame)


class _Line:
    """The way to one worker."""

    def __init__(self, sock: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.sock = sock
        self.process = process
        self.in_flight = 0
        self._room: trio.Event | None = None

    async def room(self, most: int) -> None:
        """Until fewer than ``most`` questions are on their way."""
        while self.in_flight >= most:
            self._room = trio.Event()
            await self._room.wait()

    def done(self) -> None:
        """A question is on its way no more."""
        self.in_flight -= 1
        if self._room is not None:
            self._room.set()
            self._room = None

    def tell(self, frame: bytes) -> None:
        """Send at once; a worker that does not listen any more is ended, and its successor starts anew."""
        try:
            self.sock.send(frame)
        except OSError:
            self.process.kill()


def _start(line: socket.socket, sockets: Sequence[WorkerSocket]) -> subprocess.Popen[bytes]:
    described = [f"{each.sock.fileno()}={each.interface}" for each in sockets]
    return subprocess.Popen(
        [sys.executable, "-m", "cyfs_ns.io.workerprocess", str(line.fileno()), *described],
        pass_fds=[line.fileno(), *(each.sock.fileno() for each in sockets)],
        stdin=subprocess.DEVNULL,
    )


def _widen(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _LINE_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LINE_BUFFER)
