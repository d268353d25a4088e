"""A gateway that serves names, the name servers behind it, and questions to it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import dnslib
import trio

from tests.cyfs_gateway.io.inprocess import Living, living
from tests.cyfs_ns.dnsfakes import Counted, Handler, udp_server, zone
from tests.freeport import free_port

BASE = "ipv6: true\n"
RECORDS = (
    "www.example.net. 60 A 127.0.0.1",
    "other.example.net. 60 A 127.0.0.1",
    "blocked.example.net. 60 A 127.0.0.1",
    "real.example.net. 60 A 127.0.0.1",
    "far.example.net. 60 A 203.0.113.7",
    "loop.example.net. 60 A 198.18.0.99",
)


@dataclass
class Behind:
    """The name server behind the gateway, and what it was asked."""

    port: int
    heard: Counted

    def names(self, rtype: str = "A") -> list[str]:
        """Names it was asked for, in order."""
        asked = [dnslib.DNSRecord.parse(query).q for query in self.heard.queries]
        return [str(q.qname).rstrip(".").lower() for q in asked if dnslib.QTYPE[q.qtype] == rtype]


@asynccontextmanager
async def behind(*records: str, handler: Handler | None = None, port: int = 0) -> AsyncIterator[Behind]:
    heard = Counted(handler or zone(*(records or RECORDS)))
    async with udp_server(heard, port=port) as upstream:
        yield Behind(upstream.port, heard)


@dataclass
class Names:
    """A living gateway whose name server listens at ``port``."""

    house: Living
    port: int
    upstream: Behind
    config: Callable[[str], str]

    async def ask(self, name: str, rtype: str = "A") -> list[str]:
        """The data of the answer's records."""
        reply = await question(self.port, name, rtype)
        return [str(record.rdata) for record in reply.rr]

    async def reload(self, dns: str = "", rest: str = "") -> None:
        await self.house.reload(self.config(dns) + rest, base=BASE)


@asynccontextmanager
async def named(home: Path, dns: str = "", rest: str = "", upstream: Behind | None = None) -> AsyncIterator[Names]:
    """``dns`` are more lines of that section, ``rest`` is more configuration."""
    port = free_port()
    async with behind() if upstream is None else _given(upstream) as server:

        def config(lines: str) -> str:
            listen = "" if "listen:" in lines else f"  listen: 127.0.0.1:{port}\n"
            servers = "" if " nameserver:" in lines else f"  nameserver: [127.0.0.1:{server.port}]\n"
            enable = "" if "enable:" in lines else "  enable: true\n"
            return f"dns:\n{enable}  use-system-hosts: false\n{listen}{servers}{lines}\n"

        # Nobody is left who could still hold a fake address.
        with patch("cyfs_gateway.io.names._DRAIN_MOST", 0.0):
            async with living(home, config(dns) + rest, base=BASE) as house:
                yield Names(house, port, server, config)


@asynccontextmanager
async def _given(upstream: Behind) -> AsyncIterator[Behind]:
    yield upstream


async def question(port: int, name: str, rtype: str = "A") -> dnslib.DNSRecord:
    """Ask over UDP."""
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.sendto(bytes(dnslib.DNSRecord.question(name, rtype).pack()), ("127.0.0.1", port))
        with trio.fail_after(60):
            return dnslib.DNSRecord.parse(await sock.recv(4096))
