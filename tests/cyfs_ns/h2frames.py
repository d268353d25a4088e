"""HTTP/2 by hand: frames that say what no library would."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable

import hpack
from conversing import question

from cyfs_ns.http2 import PREFACE

QUERY = question()
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
HELLO = PREFACE + b"\0\0\0\4\0\0\0\0\0"
CALM, PROTOCOL, FLOW, CLOSED, SIZE, REFUSED, COMPRESSION = 11, 1, 3, 5, 6, 7, 9


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack("!BBL", kind, flags, stream) + payload


def fields(method: str = "POST", path: str = "/dns-query", *more: tuple[str, str]) -> list[tuple[str, str]]:
    pseudo = [(":method", method), (":scheme", "https"), (":authority", "dns.test"), (":path", path)]
    kind = [("content-type", "application/dns-message")] if method == "POST" else []
    return pseudo + kind + list(more)


def block(head: Iterable[tuple[str, str]]) -> bytes:
    """A header block that leaves no trace in the table."""
    return bytes(hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*field) for field in head]))


POST = block(fields())
GET = block(fields("GET", "/dns-query?dns=" + base64.urlsafe_b64encode(QUERY).decode().rstrip("=")))


def frames(sent: bytes) -> list[tuple[int, int, int, bytes]]:
    came = []
    while sent:
        size = int.from_bytes(sent[:3], "big")
        kind, flags, stream = struct.unpack("!BBL", sent[3:9])
        came.append((kind, flags, stream, sent[9 : 9 + size]))
        sent = sent[9 + size :]
    return came


def goaway_code(sent: bytes) -> int | None:
    for kind, _, _, payload in frames(sent):
        if kind == GOAWAY:
            return int.from_bytes(payload[4:8], "big")
    return None
