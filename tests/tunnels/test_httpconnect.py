from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire, Misuse, Unreachable
from tests.tunnels.splits import bytewise, cut, places
from tunnels.endpoint import Target
from tunnels.httpconnect import ConnectClient

NAME = Target("a.example", 443)


def test_the_request() -> None:
    assert ConnectClient(NAME).start() == b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"
    assert ConnectClient(Target("2001:db8::1", 443)).start().startswith(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\n")
    wire = ConnectClient(NAME, "Aladdin", "open sesame", {"X-T5-Auth": "1", "Host": "ignored"}).start()
    assert b"\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n" in wire
    assert b"\r\nX-T5-Auth: 1\r\n" in wire
    assert b"ignored" not in wire


def test_a_header_cannot_smuggle_another() -> None:
    with pytest.raises(Misuse):
        ConnectClient(NAME, headers={"X": "a\r\nY: b"})


def outcome(pieces: Iterable[bytes]) -> tuple[object, ...]:
    client = ConnectClient(NAME)
    leftover = b""
    for piece in pieces:
        if client.done:
            leftover += piece
            continue
        try:
            assert client.feed(piece) == b""
        except Unreachable as fault:
            return Unreachable, fault.reason
        except BadWire:
            return (BadWire,)
    return client.done, client.leftover + leftover


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (b"HTTP/1.1 200 Connection established\r\n\r\nearly", (True, b"early")),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nearly", (True, b"early")),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 Fine\r\n\r\n", (True, b"")),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", (Unreachable, "tunnel_open")),
        (b"HTTP/1.1 504 Gateway Timeout\r\n\r\n", (Unreachable, "connect_timeout")),
        (b"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n", (Unreachable, "tunnel_open")),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", (BadWire,)),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 9, (BadWire,)),
        (b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n", (BadWire,)),
        (b"SSH-2.0-OpenSSH_9.2\r\n", (BadWire,)),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, (BadWire,)),
    ],
)
def test_answers(wire: bytes, expected: tuple[object, ...]) -> None:
    assert outcome([wire]) == expected
    assert outcome(bytewise(wire)) == expected


@given(
    st.binary(max_size=80)
    | st.lists(
        st.sampled_from([b"HTTP/1.1 ", b"100 ", b"200 OK", b"503 No", b"\r\n", b"\r\n\r\n", b"X: y", b"\n", b"HTTP/1."])
    ).map(b"".join),
    places,
)
def test_an_answer_or_its_one_error_however_it_is_cut(wire: bytes, at: list[int]) -> None:
    whole = outcome([wire])
    assert outcome(cut(wire, at)) == whole
    assert outcome(bytewise(wire)) == whole
