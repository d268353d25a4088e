from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire, Misuse, Unreachable
from tests.tunnels.splits import bytewise, cut, places
from tunnels.endpoint import Target
from tunnels.socks import (
    NOT_ALLOWED,
    SUCCEEDED,
    SocksClient,
    SocksFault,
    SocksRequest,
    SocksServer,
    pack_udp,
    rep_for,
    reply,
    unpack_udp,
)

USERS = {"joe": "secret", "müller": "pässword", "open": ""}
CONNECT_V4 = b"\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50"
CONNECT_NAME = b"\x05\x01\x00\x03\x0bExample.COM\x01\xbb"


def serve(
    pieces: Iterable[bytes], users: dict[str, str] | None = None, auth_required: bool = False
) -> tuple[bytes, SocksRequest | None, bytes, bool]:
    """Everything sent back, the request, what is left over, and whether it ended in a fault."""
    server = SocksServer(users, auth_required)
    sent = leftover = b""
    for piece in pieces:
        if server.request is not None:
            leftover += piece
            continue
        try:
            sent += server.feed(piece)
        except SocksFault as fault:
            with pytest.raises(SocksFault):
                server.feed(b"\x05")
            return sent + fault.reply, None, b"", True
    return sent, server.request, server.leftover + leftover, False


@pytest.mark.parametrize(
    ("request_bytes", "target", "command"),
    [
        (CONNECT_V4, Target("10.0.0.1", 80), "connect"),
        (CONNECT_NAME, Target("example.com", 443), "connect"),
        (b"\x05\x01\x00\x04" + b"\0" * 15 + b"\x01\x00\x16", Target("::1", 22), "connect"),
        (b"\x05\x01\x00\x04" + b"\0" * 10 + b"\xff\xff\x7f\0\0\x01\x00\x16", Target("127.0.0.1", 22), "connect"),
        (b"\x05\x01\x00\x03\x09127.0.0.1\x00\x16", Target("127.0.0.1", 22), "connect"),
        (b"\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", Target("0.0.0.0", 0), "udp"),
    ],
)
def test_socks5_without_authentication(request_bytes: bytes, target: Target, command: str) -> None:
    whole = b"\x05\x02\x00\x01" + request_bytes + b"early data"
    for pieces in ([whole], bytewise(whole), [whole[:4], whole[4:]]):
        assert serve(pieces) == (b"\x05\x00", SocksRequest(5, command, target, ""), b"early data", False)


@pytest.mark.parametrize("name", ["joe", "müller"])
def test_socks5_with_a_password(name: str) -> None:
    user, password = name.encode(), USERS[name].encode()
    login = b"\x01" + bytes((len(user),)) + user + bytes((len(password),)) + password
    whole = b"\x05\x02\x00\x02" + login + CONNECT_NAME
    sent, request, _, _ = serve(bytewise(whole), USERS, auth_required=True)
    assert sent == b"\x05\x02\x01\x00"
    assert request == SocksRequest(5, "connect", Target("example.com", 443), name)


@pytest.mark.parametrize(
    ("login", "reply_bytes"),
    [
        (b"\x01\x03joe\x05wrong", b"\x05\x02\x01\x01"),
        (b"\x01\x06nobody\x06secret", b"\x05\x02\x01\x01"),
        (b"\x01\x03joe\x00", b"\x05\x02\x01\x01"),
        (b"\x01\x02\xff\xfe\x06secret", b"\x05\x02\x01\x01"),
        (b"\x02\x03joe\x06secret", b"\x05\x02\x01\x01"),
    ],
)
def test_a_wrong_login_is_refused(login: bytes, reply_bytes: bytes) -> None:
    assert serve([b"\x05\x01\x02" + login], USERS, auth_required=True) == (reply_bytes, None, b"", True)


def test_a_client_that_offers_no_password_is_told_so() -> None:
    assert serve([b"\x05\x01\x00"], USERS, auth_required=True) == (b"\x05\xff", None, b"", True)


def test_where_nobody_must_log_in_a_false_login_proves_nothing() -> None:
    _, request, _, _ = serve([b"\x05\x01\x02\x01\x03joe\x05wrong" + CONNECT_V4], USERS)
    assert request == SocksRequest(5, "connect", Target("10.0.0.1", 80), "")
    _, request, _, _ = serve([b"\x05\x01\x02\x01\x03joe\x06secret" + CONNECT_V4], USERS)
    assert request is not None
    assert request.user == "joe"


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"\x05\x02\x00\x01\x0a\x00\x00\x01\x00\x50", 7),
        (b"\x05\x09\x00\x01\x0a\x00\x00\x01\x00\x50", 7),
        (b"\x05\x01\x00\x02\x0a\x00\x00\x01\x00\x50", 8),
        (b"\x05\x01\x00\x03\x00\x00\x50", 1),
        (b"\x05\x01\x00\x03\x05a\0b.c\x00\x50", 1),
        (b"\x05\x01\x00\x03\x05127.1\x00\x50", 1),
        (b"\x04\x01\x00\x01\x0a\x00\x00\x01\x00\x50", 1),
    ],
)
def test_a_request_we_do_not_serve_gets_its_code(request_bytes: bytes, code: int) -> None:
    expected = b"\x05\x00" + bytes((5, code, 0, 1)) + b"\0" * 6
    for pieces in ([b"\x05\x01\x00" + request_bytes], bytewise(b"\x05\x01\x00" + request_bytes)):
        assert serve(pieces) == (expected, None, b"", True)


@pytest.mark.parametrize(
    ("wire", "target", "user"),
    [
        (b"\x04\x01\x00\x50\x0a\x00\x00\x01joe\x00", Target("10.0.0.1", 80), ""),
        (b"\x04\x01\x00\x50\x0a\x00\x00\x01open\x00", Target("10.0.0.1", 80), "open"),
        (b"\x04\x01\x01\xbb\x00\x00\x00\x01\x00Example.com\x00", Target("example.com", 443), ""),
        (b"\x04\x01\x00\x50\x00\x00\x00\x00\x00", Target("0.0.0.0", 80), ""),
    ],
)
def test_socks4_and_4a(wire: bytes, target: Target, user: str) -> None:
    for pieces in ([wire + b"x"], bytewise(wire + b"x")):
        assert serve(pieces, USERS) == (b"", SocksRequest(4, "connect", target, user), b"x", False)


def test_socks4_knows_users_without_password_only() -> None:
    wire = b"\x04\x01\x00\x50\x0a\x00\x00\x01%s\x00"
    assert serve([wire % b"joe"], USERS, auth_required=True) == (b"\0\x5d" + b"\0" * 6, None, b"", True)
    _, request, _, _ = serve([wire % b"open"], USERS, auth_required=True)
    assert request is not None
    assert request.user == "open"


@pytest.mark.parametrize(
    "wire",
    [
        b"\x04\x02\x00\x50\x0a\x00\x00\x01\x00",
        b"\x04\x01\x00\x50\x0a\x00\x00\x01" + b"a" * 300,
        b"\x04\x01\x00\x50\x00\x00\x00\x01\x00" + b"a" * 300,
        b"\x04\x01\x00\x50\x00\x00\x00\x01\x00\x00",
    ],
)
def test_bad_socks4_is_rejected_in_bounded_space(wire: bytes) -> None:
    for pieces in ([wire], bytewise(wire)):
        assert serve(pieces) == (b"\0\x5b" + b"\0" * 6, None, b"", True)


def test_what_is_not_socks_gets_no_answer() -> None:
    assert serve([b"GET / HTTP/1.1\r\n"]) == (b"", None, b"", True)


def test_feeding_a_finished_handshake_is_our_own_fault() -> None:
    server = SocksServer(None, False)
    server.feed(b"\x05\x01\x00" + CONNECT_V4)
    with pytest.raises(Misuse):
        server.feed(b"x")


greetings = st.sampled_from([b"\x05\x01\x00", b"\x05\x02\x00\x02", b"\x05\x01\x02", b"\x04\x01\x00\x50", b""])
logins = st.sampled_from([b"\x01\x03joe\x06secret", b"\x01\x03joe\x01x", b""])
requests = st.sampled_from([CONNECT_V4, CONNECT_NAME, CONNECT_NAME[:9], b"\x05\x01\x00\x03", b""])
almost_socks = st.builds(lambda *parts: b"".join(parts), greetings, logins, requests, st.binary(max_size=40))


@given(st.binary(max_size=300) | almost_socks, places, st.booleans())
def test_a_request_or_its_one_error_however_it_is_cut(wire: bytes, at: list[int], auth_required: bool) -> None:
    whole = serve([wire], USERS, auth_required)
    assert serve(cut(wire, at), USERS, auth_required) == whole
    assert serve(bytewise(wire), USERS, auth_required) == whole


def test_replies() -> None:
    five = SocksRequest(5, "connect", Target("a.example", 1), "")
    four = SocksRequest(4, "connect", Target("a.example", 1), "")
    assert reply(five, SUCCEEDED) == b"\x05\x00\x00\x01\0\0\0\0\0\0"
    assert reply(five, SUCCEEDED, Target("::1", 258)) == b"\x05\x00\x00\x04" + b"\0" * 15 + b"\x01\x01\x02"
    assert reply(five, NOT_ALLOWED) == b"\x05\x02\x00\x01\0\0\0\0\0\0"
    assert reply(four, SUCCEEDED) == b"\0\x5a" + b"\0" * 6
    assert reply(four, rep_for("connect_refused")) == b"\0\x5b" + b"\0" * 6


@pytest.mark.parametrize(
    ("reason", "code"),
    [("pre_connect_dns", 4), ("pre_connect_route", 3), ("connect_refused", 5), ("connect_timeout", 4), ("other", 1)],
)
def test_a_reason_becomes_a_code(reason: str, code: int) -> None:
    assert rep_for(reason) == code


targets = st.builds(
    Target,
    st.sampled_from(["a.example", "10.1.2.3", "2001:db8::1", "x" * 63 + ".example"]),
    st.integers(0, 65535),
)


@given(targets, st.binary(max_size=100))
def test_udp_packs_and_unpacks(target: Target, payload: bytes) -> None:
    found, rest = unpack_udp(pack_udp(target, payload))
    assert (found, bytes(rest)) == (target, payload)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"\0\0\0" + tail))
def test_a_datagram_or_its_one_error(wire: bytes) -> None:
    try:
        target, payload = unpack_udp(wire)
    except BadWire:
        return
    assert wire.endswith(bytes(payload))
    assert 0 <= target.port <= 65535


def test_fragments_are_refused() -> None:
    with pytest.raises(BadWire, match="fragment"):
        unpack_udp(b"\0\0\x01\x01\x7f\0\0\x01\x00\x50x")


def talk(client: SocksClient, server: SocksServer) -> bytes:
    """Let both halves talk until the request is known; returns what the server said last."""
    to_server = client.start()
    while server.request is None:
        to_server = client.feed(server.feed(to_server))
    return to_server


@given(targets, st.sampled_from(["", "joe"]), st.sampled_from(["connect", "udp"]))
def test_our_client_and_our_server_understand_each_other(target: Target, user: str, command: str) -> None:
    client = SocksClient(target, user, USERS.get(user, ""), command)
    server = SocksServer(USERS, auth_required=bool(user))
    talk(client, server)
    assert server.request == SocksRequest(5, command, target, user)
    client.feed(reply(server.request, SUCCEEDED, Target("10.9.8.7", 4321)) + b"hello")
    assert client.done
    assert (client.bound, client.leftover) == (Target("10.9.8.7", 4321), b"hello")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"\x05\xff", "tunnel_open"),
        (b"\x05\x02\x01\x01", "tunnel_open"),
        (b"\x05\x02\x01\x00\x05\x05\x00", "connect_refused"),
        (b"\x05\x00\x05\x04\x00", "pre_connect_route"),
        (b"\x05\x00\x05\x77\x00", "tunnel_open"),
    ],
)
def test_a_proxy_that_says_no(answer: bytes, reason: str) -> None:
    for pieces in ([answer], bytewise(answer)):
        client = SocksClient(Target("a.example", 1), "joe", "x")
        with pytest.raises(Unreachable) as refusal:
            for piece in pieces:
                client.feed(piece)
        assert refusal.value.reason == reason


def test_a_proxy_may_not_ask_for_a_password_we_did_not_offer() -> None:
    with pytest.raises(Unreachable):
        SocksClient(Target("a.example", 1)).feed(b"\x05\x02")


def test_an_empty_name_as_bound_address_is_taken_as_unknown() -> None:
    client = SocksClient(Target("a.example", 1))
    client.feed(b"\x05\x00\x05\x00\x00\x03\x00\x00\x00rest")
    assert (client.done, client.bound, client.leftover) == (True, None, b"rest")


def answer_of(pieces: Iterable[bytes], user: str) -> tuple[object, ...]:
    client = SocksClient(Target("a.example", 1), user, user)
    leftover, sent = b"", b""
    for piece in pieces:
        if client.done:
            leftover += piece
            continue
        try:
            sent += client.feed(piece)
        except (BadWire, Unreachable) as fault:
            return type(fault), str(fault)
    return client.done, client.bound, client.leftover + leftover, sent


almost_answer = st.builds(
    lambda *parts: b"".join(parts),
    st.sampled_from([b"\x05\x00", b"\x05\x02\x01\x00", b"\x05\x02", b"\x05", b""]),
    st.sampled_from([b"\x05\x00\x00\x01\x7f\0\0\x01\0\x50", b"\x05\x00\x00\x03\x04host\0\x50", b"\x05\x00\x00", b""]),
    st.binary(max_size=30),
)


@given(st.binary(max_size=60) | almost_answer, places, st.sampled_from(["", "joe"]))
def test_a_bound_address_or_its_one_error_however_it_is_cut(wire: bytes, at: list[int], user: str) -> None:
    whole = answer_of([wire], user)
    assert answer_of(cut(wire, at), user) == whole
    assert answer_of(bytewise(wire), user) == whole


def test_credentials_that_do_not_fit_are_our_own_fault() -> None:
    with pytest.raises(Misuse):
        SocksClient(Target("a.example", 1), "x" * 256)
    with pytest.raises(Misuse):
        SocksClient(Target("bücher.example", 1)).feed(b"\x05\x00")
