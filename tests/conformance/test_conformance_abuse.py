"""Bounds: how much a forged question can make us send, and how much a client of HTTP/2 or TCP can make us hold."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import dns.flags
import dns.message
import hpack
import pytest
from asking import unchecked_tls
from livehouse import LiveHouse, live_house

HELD = 16 << 20
"""Octets the server may grow by under any one of these attacks; one million resets would be worth ten times that."""
SENTINEL = dns.message.make_query("nas.lan", "A", id=0xFEED).to_wire()


# Amplification


@pytest.mark.parametrize("size", [None, 512, 1232, 4096, 65535])
@pytest.mark.parametrize(
    ("name", "rtype"), [("big.lan", "TXT"), ("big.alpha.example", "A"), ("longtext.alpha.example", "TXT")]
)
def test_no_datagram_is_larger_than_asked_for_and_fits_a_packet(
    house: LiveHouse, name: str, rtype: str, size: int | None
) -> None:
    query = dns.message.make_query(name, rtype)
    if size is not None:
        query.use_edns(0, payload=size)
    wire = query.to_wire()
    for _ in range(2):  # the second comes ready-made
        reply = house.ask(wire)
        assert reply is not None
        assert len(reply) <= min(size or 512, 1232)
        told = dns.message.from_wire(reply)
        assert told.flags & dns.flags.TC
        assert not told.answer
        assert len(reply) <= len(wire) + 11


@pytest.mark.parametrize("name", ["nas.lan", "alpha.example", "signed.example", "."])
def test_any_is_no_amplifier(house: LiveHouse, name: str) -> None:
    wire = dns.message.make_query(name, "ANY", use_edns=0, payload=4096).to_wire()
    reply = house.ask(wire)
    assert reply is not None
    assert len(reply) <= len(wire) + 200


STRANGER, NEIGHBOUR, ANOTHER, HOME = "45.45.45.45", "45.45.45.99", "46.46.46.46", "192.168.3.3"
RATE = 40


@pytest.fixture(scope="module")
def open_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHouse]:
    """In a namespace where strangers' addresses are ours to use; it answers everybody, with a rate limit."""
    if os.geteuid() != 0:
        pytest.skip("needs root: strangers need addresses")
    if not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("needs ip and unshare")
    addresses = "; ".join(f"ip address add {each}/32 dev lo" for each in (STRANGER, NEIGHBOUR, ANOTHER, HOME))
    inside = ["unshare", "-n", "sh", "-c", f'ip link set lo up; {addresses}; exec "$@"', "sh"]
    settings = {
        "listen": "0.0.0.0:5300",
        "records": [f"big.lan TXT {'y' * 100}", "nas.lan A 192.168.1.2"],
        "allow-from": ["0.0.0.0/0"],
        "rate-limit": RATE,
        "nameserver": ["udp://127.0.0.1:1"],
    }
    with live_house(tmp_path_factory.mktemp("open"), settings, inside=inside) as house:
        yield house
        house.assert_well()


def from_address(house: LiveHouse, address: str, queries: list[bytes]) -> list[bytes]:
    """What comes back to a sender at ``address`` in the server's namespace."""
    replies: list[bytes] = []

    def work() -> None:
        with Path(f"/proc/{house.child.pid}/ns/net").open() as place:
            assert not ctypes.CDLL(None, use_errno=True).setns(place.fileno(), 0x40000000)
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
            sock.connect(("127.0.0.1" if address == HOME else address, 5300))
            for at, query in enumerate(queries):
                sock.send(query)
                # Neither socket may overflow, or what is lost would count as held back.
                if at % 25 == 24:
                    gather(sock, 0.005)
            gather(sock, 0.5)

    def gather(sock: socket.socket, quiet: float) -> None:
        sock.settimeout(quiet)
        with suppress(TimeoutError):
            while True:
                replies.append(sock.recv(65535))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return replies


def kinds(replies: list[bytes]) -> Counter[str]:
    found: Counter[str] = Counter()
    for reply in replies:
        told = dns.message.from_wire(reply)
        found["cut" if told.flags & dns.flags.TC else "whole"] += 1
    return found


def test_a_flood_from_a_strangers_network_is_limited_and_slips(open_house: LiveHouse) -> None:
    query = dns.message.make_query("big.lan", "TXT").to_wire()
    begun = time.monotonic()
    replies = from_address(open_house, STRANGER, [query] * 300)
    neighbour = from_address(open_house, NEIGHBOUR, [query] * 300)
    seconds = int(time.monotonic() - begun) + 2
    found, beside = kinds(replies), kinds(neighbour)
    # What one network gets: the rate, whoever of it asks; every second question more brings a truncated reply.
    assert 0 < found["whole"] + beside["whole"] <= RATE * seconds
    over = 600 - found["whole"] - beside["whole"]
    assert 0.4 * over < found["cut"] + beside["cut"] <= 0.5 * over + 1
    assert all(len(reply) <= len(query) for reply in replies if reply[2] & 2)
    # Others are not punished for it, and the house itself never is.
    assert kinds(from_address(open_house, ANOTHER, [query] * 10)) == {"whole": 10}
    assert kinds(from_address(open_house, HOME, [query] * 300)) == {"whole": 300}


def test_different_names_are_limited_as_well(open_house: LiveHouse) -> None:
    """Questions nobody asked before go the long way, which is limited like the short one."""
    queries = [dns.message.make_query(f"n{number}.lan", "A").to_wire() for number in range(300)]
    begun = time.monotonic()
    found = kinds(from_address(open_house, STRANGER, queries))
    assert found["whole"] <= RATE * (int(time.monotonic() - begun) + 2)
    assert found["cut"] >= 50


# HTTP/2 and streams

DATA, HEADERS, RST, SETTINGS, PING, CONTINUATION, WINDOW = 0, 1, 3, 4, 6, 9, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + struct.pack("!BBL", kind, flags, stream) + payload


def head(stream: int, *, end: bool = False, flags: int = 4) -> bytes:
    fields = [
        (":method", "POST"), (":scheme", "https"), (":authority", "x"), (":path", "/dns-query"),
        ("content-type", "application/dns-message"),
    ]  # fmt: skip
    block = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields])
    return frame(HEADERS, flags | end, stream, bytes(block))


def resets() -> Iterator[bytes]:
    for stream in range(1, 20001, 2):
        yield head(stream) + frame(RST, 0, stream, b"\0\0\0\x08")


def many_streams() -> Iterator[bytes]:
    for stream in range(1, 20001, 2):
        yield head(stream) + frame(DATA, 0, stream, SENTINEL[:10])


def tiny_frames() -> Iterator[bytes]:
    yield head(1)
    for _ in range(20000):
        yield frame(DATA, 0, 1, b"x")


def empty_frames() -> Iterator[bytes]:
    yield head(1)
    for _ in range(20000):
        yield frame(DATA, 0, 1)


def large_body() -> Iterator[bytes]:
    yield head(1)
    for _ in range(2000):
        yield frame(DATA, 0, 1, b"x" * 16000)


def continuations() -> Iterator[bytes]:
    yield head(1, flags=0)
    for _ in range(20000):
        yield frame(CONTINUATION, 0, 1, b"\x10\1x\1y")


def header_bomb() -> Iterator[bytes]:
    big = hpack.Encoder().encode([("x" * 60, "y" * 3000)])
    yield frame(HEADERS, 4, 1, bytes(big))
    for stream in range(3, 2001, 2):
        yield frame(HEADERS, 5, stream, b"\xbe" * 4000)


def pings() -> Iterator[bytes]:
    for _ in range(20000):
        yield frame(PING, 0, 0, b"12345678")


def settings_flood() -> Iterator[bytes]:
    for _ in range(20000):
        yield frame(SETTINGS, 0, 0)


def questions_unread() -> Iterator[bytes]:
    """Large answers, whose windows are wide open, that nobody reads."""
    yield frame(WINDOW, 0, 0, (2**31 - 70000).to_bytes(4))
    query = dns.message.make_query("big.lan", "TXT").to_wire()
    for stream in range(1, 20001, 2):
        yield head(stream) + frame(DATA, 1, stream, query)


HTTP2_FLOODS: list[Callable[[], Iterator[bytes]]] = [
    resets, many_streams, tiny_frames, empty_frames, large_body, continuations, header_bomb, pings, settings_flood,
    questions_unread,
]  # fmt: skip


def pour(sock: socket.socket, pieces: Iterator[bytes], most: float = 1.5) -> bool:
    """Send without reading until it is all out, or we are cut off (False), or nothing moves any more."""
    sock.settimeout(0.3)
    until = time.monotonic() + most
    batch = b""
    try:
        for piece in pieces:
            batch += piece
            if len(batch) > 8192:
                sock.sendall(batch)
                batch = b""
            if time.monotonic() > until:
                return True
        sock.sendall(batch)
    except TimeoutError:
        return True
    except OSError:
        return False
    return True


@pytest.mark.parametrize("flood", HTTP2_FLOODS, ids=lambda flood: flood.__name__)
def test_http2_abuse_holds_no_memory(house: LiveHouse, flood: Callable[[], Iterator[bytes]]) -> None:
    attack(house, "https", "h2", lambda sock: pour(sock, iter([PREFACE + frame(SETTINGS, 0, 0), *flood()])))


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_questions_whose_answers_nobody_reads(house: LiveHouse, kind: str) -> None:
    query = dns.message.make_query("big.lan", "TXT").to_wire()
    attack(house, kind, "dot", lambda sock: pour(sock, (len(query).to_bytes(2) + query for _ in range(30000))))


@pytest.mark.parametrize("kind", ["plain", "tls", "https"])
def test_a_frame_that_never_ends(house: LiveHouse, kind: str) -> None:
    attack(
        house,
        kind,
        "dot" if kind != "https" else "http/1.1",
        lambda sock: pour(sock, iter([b"\xff\xff" + b"x" * 60000])),
    )


def test_http1_heads_and_bodies_without_end(house: LiveHouse) -> None:
    endless = [b"POST /dns-query HTTP/1.1\r\nhost: x\r\n", *[b"x: " + b"y" * 8000 + b"\r\n"] * 2000]
    attack(house, "https", "http/1.1", lambda sock: pour(sock, iter(endless)))
    body = [b"POST /dns-query HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n", *[b"z" * 8192] * 2000]
    attack(house, "https", "http/1.1", lambda sock: pour(sock, iter(body)))


def attack(house: LiveHouse, kind: str, alpn: str, work: Callable[[socket.socket], bool]) -> None:
    """Ten at once do it; meanwhile and afterwards others are served, and the server has not grown."""
    assert house.ask(SENTINEL, "tls") is not None
    before = house.rss
    peak = 0
    socks: list[socket.socket] = []
    with closing(_All(socks)):
        for _ in range(10):
            sock = socket.create_connection(("127.0.0.1", house.ports[kind]), 5)
            if kind != "plain":
                sock = unchecked_tls(alpn).wrap_socket(sock)
            socks.append(sock)
        threads = [threading.Thread(target=work, args=(sock,)) for sock in socks]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            begun = time.monotonic()
            assert house.ask(SENTINEL) is not None
            assert time.monotonic() - begun < 2
            peak = max(peak, house.rss)
            time.sleep(0.05)
        for thread in threads:
            thread.join()
        peak = max(peak, house.rss)
    for transport in ("udp", "tcp", "tls", "http2-post"):
        assert house.ask(SENTINEL, transport) is not None
    house.assert_well()
    assert peak - before < HELD, f"grew by {(peak - before) >> 20} MB"


class _All:
    def __init__(self, socks: list[socket.socket]) -> None:
        self._socks = socks

    def close(self) -> None:
        for sock in self._socks:
            with suppress(OSError, ssl.SSLError):
                sock.close()


def test_hundreds_of_connections_of_one_client(house: LiveHouse) -> None:
    """One client has its share; another address is served, and so is the first one after it lets go."""
    socks = []
    try:
        for _ in range(300):
            with suppress(OSError):
                socks.append(socket.create_connection(("127.0.0.1", house.ports["plain"]), 1))
        with socket.create_connection(("127.0.0.1", house.ports["plain"]), 5, source_address=("127.0.0.2", 0)) as other:
            other.sendall(len(SENTINEL).to_bytes(2) + SENTINEL)
            assert other.recv(4096)
    finally:
        for sock in socks:
            sock.close()
    assert house.ask(SENTINEL, "tcp") is not None
    house.assert_well()
