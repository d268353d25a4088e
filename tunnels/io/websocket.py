"""A byte stream in WebSocket messages (RFC 6455), for networks that let nothing pass but HTTP.

Bytes travel in binary messages, cut anywhere.  An empty message says that nothing more follows: the Close frame cannot,
for it ends both directions.  Whoever is cut off without it has not been told the end, and gets an error.

There is one resource (``PATH``) and one subprotocol, no extensions, so nothing is ever unpacked.  A message is passed
on as it comes, so its length is no matter; what a peer can make us hold is one read and a bounded number of answers to
its pings.  Whoever sends frame upon frame without a byte for us would keep whoever reads busy for as long as it likes,
so there are few in a row.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    Request,
)
from wsproto.utilities import ProtocolError

from cyfs_ns.errors import BadWire, Unreachable
from tunnels.endpoint import Endpoint
from tunnels.io.waiting import receive_some, send_all

PATH: Final = "/rtcp"
SUBPROTOCOL: Final = "rtcp"
MOST_HEAD: Final = 8192
"""Octets of a request or an answer at most."""
_MESSAGE: Final = 64 * 1024
_MOST_OWED: Final = 2 * _MESSAGE
_MOST_EMPTY: Final = 64
"""Frames in a row that bring no byte: pings, their answers, empty pieces."""
_READ: Final = 64 * 1024

_BAD: Final = (ProtocolError, UnicodeDecodeError)
"""What the machine raises for bytes that are wrong; the second for a head with some that are not ASCII."""

_scratch = memoryview(bytearray(_READ))
"""Messages pass through here on their way into the machine; shared, since nobody awaits in between."""


class WebSocketEndpoint:
    """One end of an open WebSocket over ``lower``.  Made by :func:`open_websocket` and :func:`answer_websocket`."""

    def __init__(self, lower: Endpoint, machine: WSConnection) -> None:
        self._lower, self._machine = lower, machine
        self._ready, self._owed = bytearray(), bytearray()
        self._within = False
        """In the middle of a message that came in pieces."""
        self._empty = 0
        self._ended = self._end_told = self._write_ended = False
        self.fileno = lower.fileno
        self._look()

    def recv_into(self, buffer: memoryview, /) -> int:
        while not self._ready:
            if self._ended:
                self._end_told = True
                return 0
            n = self._lower.recv_into(_scratch)
            if not n:
                raise ConnectionResetError("the WebSocket was cut")
            self._feed(bytes(_scratch[:n]))
        n = min(len(buffer), len(self._ready))
        buffer[:n] = self._ready[:n]
        del self._ready[:n]
        return n

    def _feed(self, untrusted: bytes) -> None:
        try:
            self._machine.receive_data(untrusted)
        except ProtocolError as bad:
            raise ConnectionAbortedError(f"no WebSocket: {bad}") from bad
        self._look()

    def _look(self) -> None:
        try:
            for event in self._machine.events():
                self._take(event)
        except ProtocolError as bad:
            raise ConnectionAbortedError(f"no WebSocket: {bad}") from bad
        if self._owed:
            with suppress(BlockingIOError):
                self.flush()
            if len(self._owed) > _MOST_OWED:
                raise ConnectionAbortedError("it pings and does not read")

    def _take(self, event: Event) -> None:
        self._empty = 0 if isinstance(event, BytesMessage) and event.data else self._empty + 1
        if self._empty > _MOST_EMPTY:
            raise ConnectionAbortedError("it has nothing to say, and says so without end")
        if isinstance(event, BytesMessage) and not self._ended:
            self._ended = not (event.data or self._within) and event.message_finished
            self._within = not event.message_finished
            self._ready += event.data
        elif isinstance(event, Ping):
            self._owed += self._machine.send(event.response())
        elif isinstance(event, CloseConnection) and self._ended:
            pass
        elif not isinstance(event, Pong):
            raise ConnectionAbortedError(f"the WebSocket was closed, or says what it may not: {type(event).__name__}")

    def send(self, data: bytes | memoryview, /) -> int:
        if self._write_ended:
            raise BrokenPipeError("this side has finished sending")
        if self._owed:
            self.flush()
        piece = bytes(memoryview(data)[:_MESSAGE])
        if piece:
            self._say(piece)
        return len(piece)

    def _say(self, piece: bytes) -> None:
        try:
            self._owed += self._machine.send(BytesMessage(piece))
        except ProtocolError as bad:
            raise BrokenPipeError("the WebSocket was closed") from bad
        with suppress(BlockingIOError):
            self.flush()

    def pending(self) -> bool:
        return bool(self._ready) or (self._ended and not self._end_told) or self._lower.pending()

    def unsent(self) -> bool:
        return bool(self._owed) or self._lower.unsent()

    def flush(self) -> None:
        while self._owed:
            del self._owed[: self._lower.send(bytes(self._owed[:_MESSAGE]))]
        if self._lower.unsent():
            self._lower.flush()

    def shutdown_write(self) -> None:
        if not self._write_ended:
            self._write_ended = True
            self._say(b"")

    def close(self) -> None:
        self._ready.clear()
        self._owed.clear()
        self._lower.close()


async def open_websocket(lower: Endpoint, host: str) -> WebSocketEndpoint:
    """Ask ``host`` for a WebSocket over ``lower``.

    Raises ``Unreachable``; then, and when cancelled, ``lower`` is closed.
    """
    machine = WSConnection(ConnectionType.CLIENT)
    try:
        await send_all(lower, machine.send(Request(host=host, target=PATH, subprotocols=[SUBPROTOCOL])))
        heard = 0
        while heard <= MOST_HEAD:
            piece = await receive_some(lower, MOST_HEAD)
            heard += len(piece)
            machine.receive_data(piece or None)
            for event in machine.events():
                if isinstance(event, AcceptConnection) and event.subprotocol == SUBPROTOCOL:
                    return WebSocketEndpoint(lower, machine)
                if isinstance(event, RejectConnection):
                    raise Unreachable(f"{host} has no WebSocket for us: it answers {event.status_code}", "other")
                raise Unreachable(f"{host} has no WebSocket for us", "other")
            if not piece:
                break
        raise Unreachable(f"{host} does not answer as a WebSocket does", "other")
    except (OSError, *_BAD) as fault:
        lower.close()
        raise Unreachable(f"no WebSocket with {host}: {fault}", "other") from fault
    except BaseException:
        lower.close()
        raise


async def answer_websocket(lower: Endpoint, head: bytes) -> WebSocketEndpoint:
    """Agree to what a client asks for in ``head``, with whatever came behind it.  Raises ``BadWire``, ``OSError``."""
    machine = WSConnection(ConnectionType.SERVER)
    try:
        machine.receive_data(head)
        asked = next(iter(machine.events()), None)
        if not isinstance(asked, Request) or asked.target != PATH or SUBPROTOCOL not in asked.subprotocols:
            raise BadWire("no request for our WebSocket")
        await send_all(lower, machine.send(AcceptConnection(subprotocol=SUBPROTOCOL)))
    except _BAD as bad:
        raise BadWire(f"no request for a WebSocket: {bad}") from bad
    return WebSocketEndpoint(lower, machine)
