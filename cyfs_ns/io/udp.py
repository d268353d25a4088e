"""The UDP door: one task a socket, which drains what has come in and answers what is known within the batch.

Only questions whose answer is not at hand go the long way, under a bound for all and for each client: over it the new
are dropped, since those who came first have waited longer, and a client asks again.

A turn goes on until the socket is empty, not until a batch is less than full: under load a wake-up of the scheduler
costs more than the answers of a whole small batch.  But a question that came alone has seldom anybody behind it, and
the scheduler waits anyhow.  A turn ends after ``TURN`` questions, or fewer that go the long way, so that the rest of
the house gets its own.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

from cyfs_ns.hot import Hot
from cyfs_ns.io.datagrams import TURN, Errand, UdpDoor
from cyfs_ns.io.light import light_work
from cyfs_ns.io.mmsg import SLOTS
from cyfs_ns.peer import Peer

Serve: TypeAlias = Callable[[bytes, Peer], Awaitable["bytes | None"]]
"""The long way: from a stranger's octets to the finished reply, or ``None`` for silence.  It is light work
(:mod:`cyfs_ns.io.light`)."""

MAX_IN_FLIGHT = 1024
MAX_OF_ONE = 256
_LONGER = 7  # times a question whose answer is at hand, more or less

_log = logging.getLogger("cyfs.dns")


async def serve_udp(
    sock: socket.socket,
    hot: Hot,
    serve: Serve,
    *,
    interface: str = "",
    coming: trio.CancelScope | None = None,
    clock: Callable[[], float] = time.monotonic,
    task_status: trio.TaskStatus[UdpDoor] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer what comes in at ``sock`` (:func:`cyfs_ns.io.datagrams.open_udp`), for ever; closes it at the end.

    ``clock`` is the one whose whole seconds the hot tables count in.  ``coming`` is entered around what takes questions
    in: cancelled by itself, it leaves those that are here already to be answered, and then this ends.
    """
    with sock:
        door = UdpDoor(sock, interface=interface)
        async with light_work() as long_way:
            in_flight = 0

            async def run(errand: Errand) -> None:
                nonlocal in_flight
                try:
                    answer = await serve(errand.query, door.peer(errand))
                finally:
                    in_flight -= 1
                    errand.client.pending -= 1
                if answer:
                    door.send(errand, answer)

            errands: list[Errand] = []

            def turn() -> int:
                nonlocal in_flight
                second = int(clock())
                taken, count = 0, SLOTS
                while count > 1 and taken < TURN:
                    try:
                        count = door.answer_batch(hot.doors["udp"], second, errands)
                    except OSError as fault:
                        _log.warning("udp %s: %s", sock.getsockname(), fault)
                        break
                    except Exception:
                        # A fault of ours costs these questions, and never the house.
                        _log.exception("a batch of questions could not be answered")
                        break
                    taken += count + _LONGER * len(errands)
                    for errand in errands:
                        if in_flight >= MAX_IN_FLIGHT or errand.client.pending >= MAX_OF_ONE:
                            door.dropped += 1
                            continue
                        in_flight += 1
                        errand.client.pending += 1
                        long_way.start(run(errand))
                    errands.clear()
                next(hot.chores, None)
                return taken

            task_status.started(door)
            with coming or trio.CancelScope():
                number = sock.fileno()
                while True:
                    await trio.lowlevel.wait_readable(number)
                    turn()
            while turn():
                pass
