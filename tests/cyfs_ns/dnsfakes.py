"""Name servers of a few lines, for what a real one will not do on request."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

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


def free_port() -> int:
    """A port free for UDP and TCP on loopback at this moment."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                continue
            return int(tcp.getsockname()[1])
