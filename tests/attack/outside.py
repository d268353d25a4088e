"""A program seen from outside: what it answers, and whether it rests."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import dnslib

_LOOKS, _BETWEEN = 10, 0.01


def asked(port: int, name: str) -> dnslib.DNSRecord:
    """What a name server on this machine answers by UDP."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        sock.settimeout(8)
        query = dnslib.DNSRecord.question(name)
        sock.send(query.pack())
        reply = dnslib.DNSRecord.parse(sock.recv(4096))
        assert reply.header.id == query.header.id
        return reply


def dns(port: int, name: str) -> list[str]:
    """The addresses that it knows of a name, or that there are none."""
    reply = asked(port, name)
    assert dnslib.RCODE[reply.header.rcode] in ("NOERROR", "NXDOMAIN"), reply
    return [str(record.rdata) for record in reply.rr]


def rests(pid: int) -> bool:
    """Whether a process sleeps each time one looks: whoever turns without waiting for anything is never found so."""
    for _ in range(_LOOKS):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            return False
        time.sleep(_BETWEEN)
    return True
