"""How a command gets streams from the running gateway: a control request that turns its connection into one.

The rest of the command line asks and prints (``cyfs_ns.io.client``, which blocks); what moves bytes lives in trio.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import h11
import trio

from cyfs_gateway.io.chunks import STREAM, Chunked
from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.io.client import ApiFault
from tunnels.io.waiting import TcpEndpoint

_SECONDS = 90.0
_MOST_HEAD = 65536
_AGAIN = 0.02


@dataclass(frozen=True, slots=True)
class Controller:
    """Where the gateway's control API is: a unix socket, or ``http://host:port`` with the secret."""

    place: Path | str
    secret: str = field(default="", repr=False)

    async def stream(self, *segments: str, body: Mapping[str, object]) -> Chunked:
        """The stream that a request opens.  Raises ``Unreachable`` (no gateway), ``ApiFault`` (it says no), BadWire."""
        return Chunked(await self.upgraded(segments, body, STREAM))

    async def upgraded(self, segments: tuple[str, ...], body: Mapping[str, object], protocol: str) -> TcpEndpoint:
        """The connection after it was agreed to speak ``protocol`` on it.  Raises as ``stream``."""
        try:
            sock = await self._connected()
        except OSError as fault:
            why = fault.strerror or fault
            raise Unreachable(f"no gateway answers at {self.place}: {why}", "connect_refused") from fault
        try:
            with trio.fail_after(_SECONDS):
                await _ask(sock, self._request(segments, body, protocol))
        except BaseException as fault:
            sock.close()
            if isinstance(fault, OSError):
                raise Unreachable(f"the gateway at {self.place} hung up: {fault}", "connect_refused") from fault
            if isinstance(fault, trio.TooSlowError):
                raise Unreachable(f"the gateway at {self.place} does not answer", "connect_timeout") from fault
            raise
        return sock

    async def _connected(self) -> TcpEndpoint:
        if isinstance(self.place, Path):
            sock = TcpEndpoint(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            while True:
                try:
                    sock.connect(str(self.place))
                    return sock
                except BlockingIOError:  # its queue is full: others are being let in
                    await trio.sleep(_AGAIN)
                except BaseException:
                    sock.close()
                    raise
        whole = urlsplit(self.place)
        if whole.scheme != "http":
            raise OSError("streams are not carried over https: use the unix socket, or http on loopback")
        stream = await trio.open_tcp_stream(whole.hostname or "localhost", whole.port or 80)
        plain = stream.socket
        return TcpEndpoint(int(plain.family), int(plain.type), 0, _taken(stream))

    def _request(self, segments: tuple[str, ...], body: Mapping[str, object], protocol: str) -> bytes:
        content = json.dumps(body).encode()
        host = "localhost" if isinstance(self.place, Path) else urlsplit(self.place).netloc
        lines = [
            f"POST /{'/'.join(quote(segment, safe='') for segment in segments)} HTTP/1.1",
            f"Host: {host}",
            "Connection: Upgrade",
            f"Upgrade: {protocol}",
            f"Content-Length: {len(content)}",
            *([f"Authorization: Bearer {self.secret}"] if self.secret else []),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + content


def _taken(stream: trio.SocketStream) -> int:
    """The descriptor of a stream that is used no more."""
    fd = os.dup(stream.socket.fileno())
    stream.socket.close()
    return fd


async def _ask(sock: TcpEndpoint, request: bytes) -> None:
    """Returns when the answer is 101, having read nothing of what follows it.  Raises ``ApiFault``, ``OSError``."""
    rest = memoryview(request)
    while rest:
        try:
            rest = rest[sock.send(rest) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
    head = b""
    while (end := head.find(b"\r\n\r\n")) < 0:
        if len(head) > _MOST_HEAD:
            raise BadWire("the answer has no end: is this address a gateway's?")
        await trio.lowlevel.wait_readable(sock)
        seen = sock.recv(_MOST_HEAD, socket.MSG_PEEK)
        if not seen:
            raise ConnectionResetError("it takes no more connections")
        # What follows the head of a 101 is another's to read.
        found = (head + seen).find(b"\r\n\r\n")
        head += sock.recv(len(seen) if found < 0 else found + 4 - len(head))
    if head.split(b" ", 2)[1:2] == [b"101"]:
        return
    raise await _fault(sock, head[: end + 4])


async def _fault(sock: TcpEndpoint, head: bytes) -> ApiFault | BadWire:
    """What an answer other than 101 says."""
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="POST", target="/", headers=[("Host", "localhost")]))
    http.send(h11.EndOfMessage())
    http.receive_data(head)
    status, body = 0, b""
    try:
        while not isinstance(event := http.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
            if event is h11.NEED_DATA:
                await trio.lowlevel.wait_readable(sock)
                http.receive_data(sock.recv(_MOST_HEAD))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data) and len(body) < _MOST_HEAD:
                body += event.data
        said: Any = json.loads(body)
        return ApiFault(status, str(said["message"]))
    except (ValueError, KeyError, TypeError, OSError, h11.RemoteProtocolError):
        return ApiFault(status, f"the answer was {status}") if status else BadWire("that is no gateway's answer")
