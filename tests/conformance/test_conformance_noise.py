"""Queries that are none, at every door: a well-formed answer or silence, and the next question is answered.

Mutations keep the id, so an answer can be told from another's.  What must not come is anything that is not a DNS reply
to that id; the house must not grow by what it is fed.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import dns.message
import pytest
from asking import Asker, StreamAsker, UdpAsker
from livehouse import LiveHouse, Place

SEED = 1035
SENTINEL = dns.message.make_query("nas.lan", "A", id=0xFEED).to_wire()
ROUNDS = 300
GROWTH = 16 << 20


def seeds() -> list[bytes]:
    names = ["nas.lan", "alpha.example", "www.alpha.example", "nowhere.lan", "a.wild.alpha.example", "big.lan"]
    found = [dns.message.make_query(name, rtype) for name in names for rtype in ("A", "TXT", "HTTPS", "ANY")]
    found += [dns.message.make_query(name, "A", use_edns=0, want_dnssec=True, payload=4096) for name in names]
    return [number.to_bytes(2) + query.to_wire()[2:] for number, query in enumerate(found, 100)]


def mutations(dice: random.Random) -> Iterator[bytes]:
    """Queries with octets changed, cut, doubled, put in; and noise."""
    basis = seeds()
    while True:
        data = bytearray(dice.choice(basis))
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(2, len(data)) if len(data) > 2 else 0
            match dice.randrange(7):
                case 0:
                    data[at : at + 1] = dice.randbytes(1)
                case 1:
                    data = data[:at]
                case 2:
                    data[at:at] = dice.randbytes(dice.randint(1, 20))
                case 3:
                    data += data[12:]
                case 4:
                    data[at : at + 2] = struct.pack("!H", 0xC000 | dice.randrange(64))
                case 5:
                    data[4:12] = struct.pack("!4H", *(dice.choice((0, 1, 1, 2, 255, 65535)) for _ in range(4)))
                case _:
                    data = bytearray(data[:12] + dice.randbytes(dice.randint(0, 300)))
        yield bytes(data)


HAND_MADE = {
    "nothing": b"",
    "one octet": b"\0",
    "eleven octets": b"\0" * 11,
    "a header": struct.pack("!6H", 7, 0x0100, 0, 0, 0, 0),
    "a header that claims everything": struct.pack("!6H", 7, 0x0100, 65535, 65535, 65535, 65535),
    "a name that points at itself": struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",
    "a name that points behind": struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\xc0\xff\0\1\0\1",
    "a name of 256 octets": struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + (b"\x3f" + b"x" * 63) * 4 + b"\0\0\1\0\1",
    "a name of 255 octets": struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0)
    + (b"\x3f" + b"x" * 63) * 3 + b"\x3d" + b"x" * 61 + b"\0\0\1\0\1",
    "127 labels": struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\1x" * 127 + b"\0\0\1\0\1",
    "128 labels": struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\1x" * 128 + b"\0\0\1\0\1",
    "an extended label": struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\x41x\0\0\1\0\1",
    "two questions": struct.pack("!6H", 7, 0x0100, 2, 0, 0, 0) + b"\3nas\3lan\0\0\1\0\1" * 2,
    "an answer in a question": struct.pack("!6H", 7, 0x0100, 1, 1, 0, 0) + b"\3nas\3lan\0\0\1\0\1" * 2 + b"\0" * 6,
    "a reply": struct.pack("!6H", 7, 0x8180, 1, 0, 0, 0) + b"\3nas\3lan\0\0\1\0\1",
    "octets behind the question": b"\0\7" + SENTINEL[2:] + b"\0" * 100,
    "an unknown class": struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\3nas\3lan\0\0\1\0\x42",
    "class ANY": struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\3nas\3lan\0\0\1\0\xff",
    "class NONE": struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\3nas\3lan\0\0\1\0\xfe",
    "class HESIOD": struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\3nas\3lan\0\0\1\0\4",
    "an update": struct.pack("!6H", 7, 5 << 11, 1, 0, 1, 0) + b"\3nas\3lan\0\0\6\0\1" + b"\0" * 10,
    "a notify": struct.pack("!6H", 7, 4 << 11 | 0x0400, 1, 0, 0, 0) + b"\3nas\3lan\0\0\6\0\1",
}  # fmt: skip


def well_formed(reply: bytes, queries: list[bytes]) -> None:
    assert reply[:2] in [query[:2] for query in queries]
    assert reply[2] & 0x80
    dns.message.from_wire(reply)


@pytest.mark.parametrize("what", HAND_MADE)
def test_hand_made(way: tuple[Place, str], what: str) -> None:
    query = HAND_MADE[what]
    place, transport = way
    with place.asker(transport) as door:
        check(door, [query], [query])


def test_mutations(way: tuple[Place, str]) -> None:
    place, transport = way
    house = place.house
    dice = random.Random(f"{SEED} {transport}")
    source = mutations(dice)
    with place.asker(transport) as door:
        asked: list[bytes] = []
        before = 0
        for _ in range(ROUNDS // 50):
            fresh = [next(source) for _ in range(50)]
            asked += fresh
            check(door, fresh, asked)
            before = before or house.rss
    house.assert_well()
    assert house.rss - before < GROWTH


def check(door: Asker, queries: list[bytes], asked: list[bytes]) -> None:
    """Everything is asked, then a question we know the answer of; what comes before it answers one of ``asked``."""
    if isinstance(door, UdpAsker):
        for query in queries:
            door.sock.send(query)
        door.sock.send(SENTINEL)
        until_sentinel((door.sock.recv(65535) for _ in range(2 * len(asked) + 1)), asked)
    elif isinstance(door, StreamAsker):
        for query in queries:
            # One at a time: a query without end takes the connection with it, and not the other queries.
            door.send(len(query).to_bytes(2) + query + len(SENTINEL).to_bytes(2) + SENTINEL)
            until_sentinel(replies(door), asked)
    else:
        for query in queries:
            reply = door.ask(query)
            if reply is not None:
                well_formed(reply, [query])
        reply = door.ask(SENTINEL)
        assert reply is not None
        assert dns.message.from_wire(reply).answer


def until_sentinel(came: Iterator[bytes], asked: list[bytes]) -> None:
    for reply in came:
        if reply[:2] == SENTINEL[:2]:
            assert dns.message.from_wire(reply).answer
            return
        well_formed(reply, asked)
    raise AssertionError("the house fell silent")


def replies(door: StreamAsker) -> Iterator[bytes]:
    """A connection may be closed on us for what we sent; the next one must serve."""
    for _ in range(2):
        try:
            while (reply := door.receive()) is not None:
                yield reply
        except OSError:
            door.close()
        door.send(len(SENTINEL).to_bytes(2) + SENTINEL)


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_noise_on_streams(house: LiveHouse, transport: str) -> None:
    dice = random.Random(f"{SEED} stream {transport}")
    before = house.rss
    for _ in range(40):
        with house.asker(transport) as door:
            assert isinstance(door, StreamAsker)
            try:
                for _ in range(dice.randint(1, 5)):
                    door.send(dice.randbytes(dice.randint(1, 3000)))
            except OSError:
                continue
    answer = house.ask(SENTINEL, transport)
    assert answer is not None
    assert dns.message.from_wire(answer).answer
    house.assert_well()
    assert house.rss - before < GROWTH


def test_noise_before_tls(house: LiveHouse) -> None:
    dice = random.Random(SEED)
    for kind in ("tls", "https"):
        for _ in range(30):
            door = StreamAsker(house.ports[kind])
            try:
                door.send(dice.randbytes(dice.randint(1, 600)))
            finally:
                door.close()
    for transport in ("tls", "https-post", "http2-get"):
        answer = house.ask(SENTINEL, transport)
        assert answer is not None
        assert dns.message.from_wire(answer).answer
    house.assert_well()
