"""A program seen from outside: what it answers, and what it costs."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import dnslib


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


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
