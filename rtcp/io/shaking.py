"""A handshake of version 5 in the world: either side's machine over a pipe, until it tells something."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Protocol, TypeVar

import trio

from cyfs_ns.errors import Unreachable
from rtcp.io.gate import Gate
from rtcp.io.pipe import Pipe, hear_out, receive_some, send_all

_READ_SIZE = 16384
_LINGER = 2.0

Event_co = TypeVar("Event_co", covariant=True)


class Shaking(Protocol[Event_co]):
    """A ``Call`` or an ``Answer``."""

    def receive_data(self, untrusted: bytes, now: float) -> None: ...
    def receive_eof(self) -> None: ...
    def next_event(self) -> Event_co | None: ...
    def data_to_send(self) -> bytes: ...
    def next_deadline(self) -> float | None: ...
    def handle_timeout(self, now: float) -> None: ...


async def next_event(machine: Shaking[Event_co], pipe: Pipe, gate: Gate | None = None) -> Event_co:
    """What happens next, once what the machine has to say is out.  What a stranger says passes the ``gate``.

    To be called until the handshake is over, and not after.  Raises ``Unreachable`` when whoever leads there says no.
    """
    while True:
        with trio.move_on_at(machine.next_deadline() or float("inf")):
            await _say(machine, pipe)
            if (event := machine.next_event()) is not None:
                return event
            await _hear(machine, pipe, gate)
        machine.handle_timeout(trio.current_time())


async def _say(machine: Shaking[Event_co], pipe: Pipe) -> None:
    if data := machine.data_to_send():
        try:
            await send_all(pipe, data)
        except OSError:
            machine.receive_eof()


async def _hear(machine: Shaking[Event_co], pipe: Pipe, gate: Gate | None) -> None:
    try:
        data = await receive_some(pipe, _READ_SIZE)
    except ConnectionRefusedError as no:
        raise Unreachable(str(no), "connect_refused") from no
    except OSError:
        data = b""
    if not data:
        machine.receive_eof()
        return
    async with gate.one() if gate is not None else nullcontext():
        machine.receive_data(data, trio.current_time())


async def part(machine: Shaking[Event_co], pipe: Pipe) -> None:
    """Send the last words, if there are any, leave the peer a moment for them, and close ``pipe``.

    Closing upon bytes that nobody read would call back what was said.
    """
    try:
        if data := machine.data_to_send():
            with trio.move_on_after(_LINGER), suppress(OSError):
                await send_all(pipe, data)
                await hear_out(pipe)
    finally:
        pipe.close()
