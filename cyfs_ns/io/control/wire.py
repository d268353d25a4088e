"""One HTTP/1.1 conversation over a trio stream, with every wait and every size bounded.

h11 is the machine; this is its shell.  The rules that a stranger before the secret check meets:

* a request's head is at most 16 KiB and must be whole within ten seconds of its first byte, or of the connection;
* a body is read only after access was granted, up to what its route allows, within thirty seconds;
* a reader that takes no bytes for thirty seconds is left;
* a refusal or a fault of the peer ends the conversation after the reply, so what follows cannot be misread as a
  request.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable
from typing import Any

import h11
import trio

from cyfs_ns.io.logs import descriptors_log

MAX_HEAD = 16 * 1024
HEAD_SECONDS = 10.0
IDLE_SECONDS = 75.0
BODY_SECONDS = 30.0
SEND_SECONDS = 30.0
_READ = 64 * 1024
_LINGER_BYTES = 256 * 1024

Headers = tuple[tuple[str, str], ...]


class HttpFault(Exception):
    """This request is answered with ``status`` and a message; ``close`` when no further one can be trusted."""

    def __init__(self, status: int, message: str, *, close: bool = False, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status, self.message, self.close, self.headers = status, message, close, headers


def no_descriptors(fault: OSError) -> HttpFault:
    """The answer when a request needs a descriptor and none is left, which is also logged."""
    descriptors_log.warning("a control request fails: %s; raise the limit of open files", fault.strerror)
    return HttpFault(503, f"there are no descriptors left here ({fault.strerror}): raise the limit of open files")


class Wire:
    """The server's side of one connection: ``next_request``, perhaps ``body``, then one reply; and again."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._first = True
        self.switched = False
        """Whether the connection speaks something else by now."""

    async def next_request(self) -> h11.Request | None:
        """The next head; ``None`` when the peer left or stayed silent.  ``HttpFault``: it is no HTTP."""
        waiting, self._first = HEAD_SECONDS if self._first else IDLE_SECONDS, False
        with trio.move_on_after(waiting) as patience:
            while True:
                event = self._next_event()
                if isinstance(event, h11.Request):
                    if sum(len(name) + len(value) for name, value in event.headers) + len(event.target) > MAX_HEAD:
                        raise HttpFault(431, "Bad Request", close=True)  # h11 bounds only heads that are not yet whole
                    return event
                if event is not h11.NEED_DATA:
                    return None
                await self._receive()
                patience.deadline = min(patience.deadline, trio.current_time() + HEAD_SECONDS)
        return None

    async def body(self, limit: int) -> bytes:
        """The whole body.  ``HttpFault`` 413 past ``limit`` bytes, 408: it comes too slowly, 400: it breaks off."""
        parts = bytearray()
        with trio.move_on_after(BODY_SECONDS):
            if self._h11.they_are_waiting_for_100_continue:
                await self._send(self._h11.send(h11.InformationalResponse(status_code=100, headers=[])))
            while True:
                event = self._next_event()
                if isinstance(event, h11.Data):
                    parts += event.data
                    if len(parts) > limit:
                        raise HttpFault(413, "Body too large", close=True)
                elif isinstance(event, h11.EndOfMessage):
                    return bytes(parts)
                elif event is h11.NEED_DATA:
                    await self._receive()
                else:
                    raise HttpFault(400, "Body broken off", close=True)
        raise HttpFault(408, "Body too slow", close=True)

    async def reply(
        self, status: int, headers: Headers, body: bytes = b"", *, close: bool = False, bare: bool = False
    ) -> None:
        """A whole response; ``bare`` (to HEAD) tells the length of the body and keeps the body back."""
        fields = list(headers)
        if status != 204:
            fields.append(("Content-Length", str(len(body))))
        if close:
            fields.append(("Connection", "close"))
        out = bytearray(self._h11.send(h11.Response(status_code=status, headers=fields)) or b"")
        if body and not bare:
            out += self._h11.send(h11.Data(data=body)) or b""
        out += self._h11.send(h11.EndOfMessage()) or b""
        await self._send(bytes(out))

    async def start_chunks(self, status: int, headers: Headers) -> None:
        await self._send(self._h11.send(h11.Response(status_code=status, headers=list(headers))))

    async def chunk(self, data: bytes) -> None:
        await self._send(self._h11.send(h11.Data(data=data)))

    def ready_for_next(self) -> bool:
        """Whether another request may follow on this connection; then it is prepared."""
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        return True

    def leftover(self) -> bytes:
        """What the peer sent behind an upgrade request."""
        return bytes(self._h11.trailing_data[0])

    async def switch(self, protocol: str) -> socket.socket:
        """Answer 101 to an upgrade request whose body was read; the plain connection, which is no HTTP from then on.

        It has a descriptor of its own, taken before anything is promised: 503 when there is none left.
        """
        if not isinstance(self.stream, trio.SocketStream):
            raise HttpFault(501, "not over TLS")
        if self.leftover():
            raise HttpFault(400, "wait for the answer before you speak", close=True)
        shared = self.stream.socket
        try:
            own = socket.socket(shared.family, shared.type, shared.proto, os.dup(shared.fileno()))
        except OSError as fault:
            raise no_descriptors(fault) from fault
        headers = [("Connection", "Upgrade"), ("Upgrade", protocol)]
        try:
            out = self._h11.send(h11.InformationalResponse(status_code=101, headers=headers))
            self.switched = True
            await self._send(out)
        except BaseException:
            own.close()
            raise
        return own

    async def until_peer_leaves(self) -> None:
        """Return when the peer closed, or sent anything, while a long reply runs."""
        try:
            await self.stream.receive_some(1)
        except trio.BrokenResourceError:
            return

    async def linger(self) -> None:
        """Close so that the last reply survives: what is still under way is read and thrown away, within bounds."""
        if self.switched:
            return
        with trio.move_on_after(1.0):
            try:
                if isinstance(self.stream, trio.SocketStream):
                    await self.stream.send_eof()
                    thrown = 0
                    while thrown < _LINGER_BYTES and (data := await self.stream.receive_some(_READ)):
                        thrown += len(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    def _next_event(self) -> Any:
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as fault:
            raise HttpFault(fault.error_status_hint, "Bad Request", close=True) from None

    async def _receive(self) -> None:
        self._h11.receive_data(bytes(await self.stream.receive_some(_READ)))

    async def _send(self, data: bytes | None) -> None:
        if not data:
            return
        with trio.move_on_after(SEND_SECONDS) as patience:
            await self.stream.send_all(data)
        if patience.cancelled_caught:
            raise trio.BrokenResourceError("the reader takes nothing")


def json_bytes(value: object) -> bytes:
    """Compact UTF-8 JSON; text that cannot be UTF-8 stays escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def json_value(untrusted: bytes) -> Any:
    """The one reading of a body as JSON.  ``HttpFault`` 400 for what is none: bad UTF-8, NaN, nesting too deep."""
    try:
        return json.loads(untrusted.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise HttpFault(400, "Body invalid") from None


def header(request: h11.Request, name: bytes) -> str | None:
    """The only header of that (lower-case) name; ``None`` when there is none or more than one."""
    values = [value for key, value in request.headers if key == name]
    return values[0].decode("latin-1") if len(values) == 1 else None


def tokens(request: h11.Request, name: bytes) -> Iterable[str]:
    """Comma-separated tokens of a header, lower case."""
    for key, value in request.headers:
        if key == name:
            yield from (part.strip().lower() for part in value.decode("latin-1").split(","))


def _no_constant(name: str) -> Any:
    raise ValueError(name)
