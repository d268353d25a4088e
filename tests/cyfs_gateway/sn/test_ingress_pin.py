"""One HTTP connection stays with one host, whatever is asked on it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.sn.ingresspin import Pinned
from cyfs_ns.errors import BadWire

HOST = "photos.alice.sn.example"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def ask(host: str = HOST, *more: str, method: str = "GET", body: bytes = b"") -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} / HTTP/1.1", f"Host: {host}", *length, *more, "", ""]).encode() + body


def test_requests_for_one_host_pass_unchanged() -> None:
    pinned = Pinned(HOST)
    wire = ask() + ask(HOST.upper() + ".") + ask(method="POST", body=b"x" * 99) + ask()
    passed = b"".join(pinned.client(wire[at : at + 1]) for at in range(len(wire)))
    assert passed == wire
    chunked = ask(HOST, "Transfer-Encoding: chunked", method="PUT") + b"3\r\nabc\r\n0\r\n\r\n"
    assert pinned.client(chunked + ask()) == chunked + ask()
    assert not pinned.over


@pytest.mark.parametrize(
    "other",
    [
        ask("bob.sn.example"),
        ask("192.0.2.1"),
        ask(HOST, f"Host: {HOST}"),
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET http://bob.sn.example/ HTTP/1.1\r\nHost: photos.alice.sn.example\r\n\r\n",
        b"CONNECT bob.sn.example:80 HTTP/1.1\r\nHost: photos.alice.sn.example\r\n\r\n",
        b"rubbish\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: photos.alice.sn.example\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: photos.alice.sn.example\r\nTransfer-Encoding: x\r\n\r\n",
        b"GET /" + b"a" * 20_000,
    ],
)
def test_what_is_for_another_ends_it_after_the_answers(other: bytes) -> None:
    pinned = Pinned(HOST)
    assert pinned.client(ask() + ask() + other) == ask() + ask()
    assert not pinned.over, "two answers are to come"
    pinned.server(OK)
    assert not pinned.over
    pinned.server(OK)
    assert pinned.over
    assert pinned.client(ask()) == b""


def test_a_request_hidden_in_a_body_is_a_body() -> None:
    pinned = Pinned(HOST)
    wire = ask(method="POST", body=ask("bob.sn.example"))
    assert pinned.client(wire) == wire
    assert pinned.client(ask("bob.sn.example")) == b""


def test_after_an_upgrade_anything_may_follow_and_not_before() -> None:
    upgrade = ask(HOST, "Connection: keep-alive, Upgrade", "Upgrade: websocket")
    pinned = Pinned(HOST)
    assert pinned.client(upgrade + b"\x81\x02hi") == upgrade
    assert pinned.is_holding
    pinned.server(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81")
    assert pinned.is_free
    assert pinned.client(b"") == b"\x81\x02hi" or pinned.client(b"more") == b"more"
    assert pinned.client(ask("bob.sn.example")) == ask("bob.sn.example")


def test_an_upgrade_that_is_refused_is_no_way_to_another_host() -> None:
    upgrade = ask(HOST, "Connection: Upgrade", "Upgrade: websocket")
    pinned = Pinned(HOST)
    assert pinned.client(upgrade + ask("bob.sn.example")) == upgrade
    pinned.server(OK)
    assert pinned.client(b"") == b""
    assert pinned.over
    granted = Pinned(HOST)
    assert granted.client(upgrade + ask()) == upgrade
    granted.server(OK)
    assert granted.client(b"") == ask()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        b"SSH-2.0\r\n\r\n",
        OK + OK,
    ],
)
def test_answers_nobody_asked_for(answer: bytes) -> None:
    pinned = Pinned(HOST)
    h2c = b"h2c" in answer
    pinned.client(ask(HOST, "Connection: Upgrade", "Upgrade: h2c") if h2c else ask())
    with pytest.raises(BadWire):
        pinned.server(answer)


def test_answers_end_as_their_requests_say() -> None:
    pinned = Pinned(HOST)
    pinned.client(ask(method="HEAD") + ask() + ask() + ask("bob.sn.example"))
    pinned.server(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
    pinned.server(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n")
    assert not pinned.over
    pinned.server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
    assert not pinned.over
    pinned.server(b"\r\n")
    assert pinned.over


def test_what_is_kept_back_is_bounded() -> None:
    pinned = Pinned(HOST)
    wire = ask()
    assert pinned.client(wire * 5000) == wire * 64, "no more than so many wait for an answer"
    assert not pinned.is_holding
    for _ in range(64):
        pinned.server(OK)
    assert pinned.over


@given(
    st.lists(st.sampled_from([ask(), ask("bob.sn.example"), ask(method="PUT", body=b"abc"), b"\r\n", b"x"])), st.data()
)
@settings(max_examples=150, deadline=None)
def test_what_passes_does_not_depend_on_the_pieces(parts: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(parts)
    whole = Pinned(HOST).client(wire)
    pieces, pinned, at = b"", Pinned(HOST), 0
    while at < len(wire):
        size = data.draw(st.integers(1, 40))
        pieces += pinned.client(wire[at : at + size])
        at += size
    assert pieces == whole
    assert b"bob" not in whole
