"""Drives a conversation machine by hand, and says what came of it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cyfs_ns.conversation import Conversation, PageWanted
from cyfs_ns.errors import BadWire


class Outcome(NamedTuple):
    queries: list[bytes]
    sent: bytes
    fault: str


def question(name: str = "www.example.com", ident: int = 0) -> bytes:
    """A query for the A record of ``name``."""
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    return struct.pack("!6H", ident, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


def reply_to(query: bytes, ttl: int = 60) -> bytes:
    """192.0.2.1 is the answer to everything."""
    head = query[:2] + struct.pack("!5H", 0x8180, 1, 1, 0, 0)
    ends = query.index(b"\0", 12) + 5
    return head + query[12:ends] + b"\xc0\x0c" + struct.pack("!HHLH", 1, 1, ttl, 4) + bytes((192, 0, 2, 1))


def echo(query: bytes) -> bytes:
    """For bytes that are no query: something of their length."""
    return query[:2] + b"\x80" + query[3:]


def converse(
    machine: Conversation, pieces: Iterable[bytes], answer: Callable[[bytes], bytes | None] = echo, *, most: int = 1
) -> Outcome:
    """Feed ``pieces``, answering each query before the next is taken, which makes the order of all output certain."""
    queries: list[bytes] = []
    sent = bytearray()
    fault = ""
    for piece in pieces:
        machine.feed(piece, 0.0)
        try:
            while asked := machine.take(most):
                for token, query, _ in asked:
                    if isinstance(query, PageWanted):
                        machine.show(token, None)
                        continue
                    queries.append(query)
                    machine.answer(token, answer(query))
        except BadWire as broken:
            fault = str(broken)
        sent += b"".join(machine.pieces_to_send())
    return Outcome(queries, bytes(sent), fault)


def singly(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))] or [b""]
