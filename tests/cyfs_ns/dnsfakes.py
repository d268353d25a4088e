"""Name servers of a few lines, for what a real one will not do on request."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import dnslib
import trio

from cyfs_ns.upstream import Upstream

Handler = Callable[[bytes], bytes | None]
"""A query to a reply, or to silence."""


@asynccontextmanager
async def udp_server(handler: Handler, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Upstream]:
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind((host, port))

        async def serve() -> None:
            while True:
                query, client = await sock.recvfrom(4096)
                reply = handler(query)
                if reply is not None:
                    await sock.sendto(reply, client)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield Upstream(scheme="udp", host=host, port=sock.getsockname()[1])
            nursery.cancel_scope.cancel()


def zone(*lines: str, rcode: int = 0) -> Handler:
    """Answers from zone file lines; with ``rcode`` set, always that code and nothing else."""
    records = [record for line in lines for record in dnslib.RR.fromZone(line)]

    def handle(query: bytes) -> bytes:
        asked = dnslib.DNSRecord.parse(query)
        reply = asked.reply()
        reply.header.rcode = rcode
        for record in records:
            if record.rname == asked.q.qname and record.rtype == asked.q.qtype and not rcode:
                reply.add_answer(record)
        return bytes(reply.pack())

    return handle


def asked_type(query: bytes) -> int:
    return int(dnslib.DNSRecord.parse(query).q.qtype)


class Counted:
    """A handler that remembers what it was asked."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.queries: list[bytes] = []

    def __call__(self, query: bytes) -> bytes | None:
        self.queries.append(query)
        return self.handler(query)


def silent(query: bytes) -> None:
    """A black hole."""


Conversation = Callable[[trio.abc.Stream], Awaitable[None]]
"""What a server of streams does with one connection."""


@asynccontextmanager
async def stream_server(
    converse: Conversation, scheme: str = "tcp", *, tls: ssl.SSLContext | None = None, port: int = 0
) -> AsyncIterator[Upstream]:
    """A server of ``scheme`` on loopback; a conversation may end as abruptly as it likes."""

    async def serve(plain: trio.SocketStream) -> None:
        stream: trio.abc.Stream = trio.SSLStream(plain, tls, server_side=True) if tls is not None else plain
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await converse(stream)
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, port, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        path = "/dns-query" if scheme in ("https", "http") else ""
        yield Upstream(scheme=scheme, host="127.0.0.1", port=port, path=path)
        nursery.cancel_scope.cancel()


async def frames(stream: trio.abc.Stream) -> AsyncIterator[bytes]:
    """The messages that come in, each behind its length."""
    data = b""
    while some := await stream.receive_some():
        data += some
        while len(data) >= 2 and len(data) >= 2 + int.from_bytes(data[:2]):
            size = 2 + int.from_bytes(data[:2])
            yield data[2:size]
            data = data[size:]


def framed(message: bytes | None) -> bytes:
    message = message or b""
    return len(message).to_bytes(2) + message


def answering(handler: Handler) -> Conversation:
    """Answers framed queries one after the other."""

    async def converse(stream: trio.abc.Stream) -> None:
        async for query in frames(stream):
            reply = handler(query)
            if reply is not None:
                await stream.send_all(framed(reply))

    return converse


def over_http2(respond: Callable[[bytes], tuple[int, str, bytes]]) -> Conversation:
    """Answers each request body with status, content type and body."""
    import h2.config
    import h2.connection
    import h2.events

    async def converse(stream: trio.abc.Stream) -> None:
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        http.initiate_connection()
        bodies: dict[int, bytes] = {}
        while True:
            await stream.send_all(http.data_to_send())
            data = await stream.receive_some()
            if not data:
                return
            for event in http.receive_data(bytes(data)):
                if isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] = bodies.get(event.stream_id, b"") + event.data
                elif isinstance(event, h2.events.StreamEnded):
                    status, kind, body = respond(bodies.pop(event.stream_id, b""))
                    http.send_headers(event.stream_id, [(":status", str(status)), ("content-type", kind)])
                    for at in range(0, len(body), 16384):
                        if http.local_flow_control_window(event.stream_id) < 16384:
                            break
                        http.send_data(event.stream_id, body[at : at + 16384])
                    http.end_stream(event.stream_id)

    return converse
