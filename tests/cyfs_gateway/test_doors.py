from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_gateway.doors import (
    Close,
    CloseUpstream,
    Command,
    Dial,
    HttpDoor,
    ToClient,
    ToUpstream,
    Tunnel,
    error_response,
    speaks_socks,
)
from cyfs_ns.errors import Misuse
from tests.tunnels.splits import bytewise, cut, places
from tunnels.endpoint import Target

USERS = {"joe": "se:cret"}
A, B = Dial(Target("a.example", 80), ""), Dial(Target("b.example", 80), "")
GET_A = b"GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n"
SENT_A = b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n"
GET_B = b"GET http://b.example/y HTTP/1.1\r\nHost: b.example\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Play:
    """A door with everything it asked for, written down; every ``Dial`` succeeds at once unless told otherwise."""

    def __init__(self, users: dict[str, str] | None = None, *, auth_required: bool = False, dials: bool = True) -> None:
        self.door = HttpDoor(users, auth_required)
        self.dials = dials
        self.to_client = b""
        self.to_upstream = b""
        self.steps: list[Command] = []
        """All commands except those that only carry bytes."""

    def carry_out(self, commands: list[Command]) -> Play:
        for command in commands:
            if isinstance(command, ToClient):
                self.to_client += command.data
            elif isinstance(command, ToUpstream):
                self.to_upstream += command.data
            else:
                self.steps.append(command)
                if isinstance(command, Dial) and self.dials:
                    self.carry_out(self.door.opened())
        return self

    def client(self, *pieces: bytes) -> Play:
        for piece in pieces:
            if not self.over:
                self.carry_out(self.door.client(piece))
            elif self.steps[-1] == Tunnel():
                self.to_upstream += piece
        return self

    def upstream(self, *pieces: bytes) -> Play:
        for piece in pieces:
            if not self.over:
                self.carry_out(self.door.upstream(piece))
            elif self.steps[-1] == Tunnel():
                self.to_client += piece
        return self

    @property
    def over(self) -> bool:
        return bool(self.steps) and isinstance(self.steps[-1], Close | Tunnel)

    @property
    def status(self) -> int:
        return int(self.to_client.split(b" ", 2)[1])


def sent_for(request: bytes) -> bytes:
    """What the upstream gets for this request."""
    play = Play().client(request)
    assert isinstance(play.steps[0], Dial), play.to_client
    return play.to_upstream


def test_the_first_byte_tells_socks_from_http() -> None:
    assert [first for first in range(256) if speaks_socks(first)] == [4, 5]


@pytest.mark.parametrize(
    ("authority", "target"),
    [
        (b"a.example:443", Target("a.example", 443)),
        (b"[2001:DB8::1]:443", Target("2001:db8::1", 443)),
        (b"10.0.0.1:22", Target("10.0.0.1", 22)),
    ],
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_connect_becomes_a_tunnel(authority: bytes, target: Target, version: bytes) -> None:
    wire = b"CONNECT %s HTTP/%s\r\nHost: %s\r\nProxy-Connection: keep-alive\r\n\r\nearly" % (
        authority,
        version,
        authority,
    )
    for pieces in ([wire], bytewise(wire)):
        play = Play().client(*pieces)
        assert play.steps == [Dial(target, "", connect=True), Tunnel()]
        assert play.to_client == b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert play.to_upstream == b"early"


def test_a_door_that_became_a_tunnel_is_not_to_be_used() -> None:
    play = Play().client(b"CONNECT a.example:443 HTTP/1.1\r\n\r\n")
    with pytest.raises(Misuse):
        play.door.client(b"x")


@pytest.mark.parametrize(("status", "phrase"), [(403, b"Forbidden"), (502, b"Bad Gateway"), (504, b"Gateway Timeout")])
def test_a_failed_dial_is_explained(status: int, phrase: bytes) -> None:
    play = Play(dials=False).client(b"CONNECT a.example:443 HTTP/1.1\r\n\r\n")
    assert play.steps == [Dial(Target("a.example", 443), "", connect=True)]
    play.carry_out(play.door.failed(status, "a.example:443: connection refused"))
    head, _, body = play.to_client.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d %s\r\n" % (status, phrase))
    assert b"Connection: close" in head
    assert body == b"a.example:443: connection refused\n"
    assert play.steps[-1] == Close()


def test_a_refusal_of_head_has_no_body() -> None:
    play = Play(dials=False).client(b"HEAD http://a.example/ HTTP/1.1\r\n\r\n")
    play.carry_out(play.door.failed(502, "unreachable"))
    assert play.to_client == error_response(502, "unreachable", body=False)
    assert play.to_client.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("line", "sent"),
    [
        (b"GET http://a.example/x?y=1 HTTP/1.1", b"GET /x?y=1 HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        (b"GET HTTP://A.Example./x HTTP/1.1", b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        (b"GET http://a.example:80 HTTP/1.1", b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        (b"GET http://a.example?q HTTP/1.1", b"GET /?q HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        (b"GET http://a.example:8080/ HTTP/1.0", b"GET / HTTP/1.0\r\nHost: a.example:8080\r\n\r\n"),
        (b"GET http://[2001:db8::1]/ HTTP/1.1", b"GET / HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n"),
        (b"OPTIONS http://a.example HTTP/1.1", b"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n"),
    ],
)
def test_absolute_form_becomes_origin_form(line: bytes, sent: bytes) -> None:
    assert sent_for(line + b"\r\nHost: someone.else\r\n\r\n") == sent


def test_headers_of_the_hop_stay_here() -> None:
    sent = sent_for(
        b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nProxy-Connection: keep-alive\r\nAccept: */*\r\n"
        b"Connection: keep-alive, X-Private\r\nX-Private: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n"
        b"Proxy-Authorization: Basic am9lOng=\r\nCookie: a=b\r\n\r\n"
    )
    assert sent == b"GET / HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\nCookie: a=b\r\n\r\n"


def test_a_kept_connection_is_used_again_for_the_same_host() -> None:
    play = Play().client(GET_A).upstream(OK).client(GET_A).upstream(OK)
    assert play.steps == [A]
    assert play.to_upstream == 2 * SENT_A
    assert play.to_client == 2 * OK


def test_another_host_means_another_upstream() -> None:
    play = Play().client(GET_A).upstream(OK).client(GET_B).upstream(OK)
    assert play.steps == [A, CloseUpstream(), B]
    assert play.to_client == 2 * OK


def test_pipelined_requests_wait_for_their_turn() -> None:
    play = Play().client(GET_A + GET_B + GET_A)
    assert not play.door.wants_client
    assert play.to_upstream == SENT_A
    play.upstream(OK).upstream(OK).upstream(OK)
    assert play.steps == [A, CloseUpstream(), B, CloseUpstream(), A]
    assert play.to_client == 3 * OK


POST = b"POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\n%s\r\n\r\n%s"


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: 5", b"hello"),
        (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nTrailer: z\r\n\r\n"),
    ],
)
def test_a_body_goes_through_and_the_next_request_follows(framing: bytes, body: bytes) -> None:
    wire = POST % (framing, body) + GET_B
    for pieces in ([wire], bytewise(wire)):
        play = Play().client(*pieces)
        assert play.to_upstream == b"POST / HTTP/1.1\r\nHost: a.example\r\n" + framing + b"\r\n\r\n" + body
        play.upstream(OK)
        assert play.steps == [A, CloseUpstream(), B]


@pytest.mark.parametrize(
    ("answer", "passed", "steps"),
    [
        (OK, OK, []),
        (b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 204 No\r\n\r\n", []),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            [],
        ),
        (
            b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
            [CloseUpstream()],
        ),
        (
            b"HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 3\r\nContent-Length: 1\r\n\r\na",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
            [CloseUpstream()],
        ),
        (OK + b"HTTP/1.1 200 smuggled\r\n\r\n", OK, [CloseUpstream()]),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"HTTP/1.1 100 Continue\r\n\r\n" + OK, []),
        (
            b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + OK,
            b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + OK,
            [],
        ),
    ],
)
def test_answers_come_back_and_the_client_stays(answer: bytes, passed: bytes, steps: list[Command]) -> None:
    play = Play().client(GET_A).upstream(answer)
    assert play.to_client == passed
    assert play.steps == [A, *steps]
    assert play.door.wants_client


def test_an_answer_until_close_ends_the_connection() -> None:
    play = Play().client(GET_A).upstream(b"HTTP/1.1 200 OK\r\n\r\n", b"all ", b"of it")
    assert play.to_client == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it"
    assert play.carry_out(play.door.upstream_eof()).steps == [A, Close()]


def test_an_answer_to_head_has_no_body() -> None:
    play = Play().client(GET_A.replace(b"GET", b"HEAD")).upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert play.door.wants_client
    assert play.steps == [A]


@pytest.mark.parametrize("line", [b"Connection: close", b"Proxy-Connection: Close"])
def test_a_client_that_wants_to_close_is_closed(line: bytes) -> None:
    play = Play().client(GET_A.replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n\r\n")).upstream(OK)
    assert play.steps == [A, Close()]
    assert b"\r\nConnection: close\r\n" in play.to_client


def test_http_1_0_gets_one_answer_without_interim_ones() -> None:
    play = Play().client(b"GET http://a.example/x HTTP/1.0\r\n\r\n").upstream(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)
    assert play.to_client == OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert play.steps == [A, Close()]


def test_expect_continue_goes_through() -> None:
    play = Play().client(POST % (b"Expect: 100-continue\r\nContent-Length: 5", b""))
    assert b"\r\nExpect: 100-continue\r\n" in play.to_upstream
    assert play.upstream(b"HTTP/1.1 100 Continue\r\n\r\n").to_client == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert play.client(b"hello").upstream(OK).to_upstream.endswith(b"\r\n\r\nhello")
    assert play.door.wants_client


def test_an_answer_before_the_body_is_whole_ends_the_connection() -> None:
    play = (
        Play()
        .client(POST % (b"Content-Length: 500", b"begin"))
        .upstream(b"HTTP/1.1 413 Big\r\nContent-Length: 0\r\n\r\n")
    )
    assert play.status == 413
    assert play.steps == [A, Close()]


UPGRADE = (
    b"GET http://a.example/ws HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: x\r\n\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def test_a_websocket_becomes_a_tunnel() -> None:
    play = Play().client(UPGRADE).client(b"client frame").upstream(SWITCH + b"server frame")
    assert play.steps == [A, Tunnel()]
    assert play.to_upstream == (
        b"GET /ws HTTP/1.1\r\nHost: a.example\r\nSec-WebSocket-Key: x\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\nclient frame"
    )
    assert play.to_client == SWITCH + b"server frame"


def test_a_declined_upgrade_is_an_ordinary_answer() -> None:
    play = Play().client(UPGRADE).upstream(OK)
    assert play.to_client == OK
    assert play.door.wants_client


def test_nobody_upgrades_to_http2_behind_our_back() -> None:
    play = Play().client(UPGRADE.replace(b"websocket", b"h2c").replace(b"Sec-WebSocket-Key", b"HTTP2-Settings"))
    assert play.to_upstream == b"GET /ws HTTP/1.1\r\nHost: a.example\r\n\r\n"
    assert play.upstream(SWITCH).status == 502


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-x\r\n\r\n",
        SWITCH,
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: split\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: Content-Length\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 17,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
    ],
)
def test_a_broken_answer_becomes_502(answer: bytes) -> None:
    play = Play().client(GET_A).upstream(answer)
    assert play.status == 502
    assert play.steps == [A, Close()]


def test_an_answer_that_breaks_in_its_body_is_cut() -> None:
    play = Play().client(GET_A).upstream(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nhelloX\n")
    assert play.steps == [A, Close()]
    assert play.to_client.endswith(b"\r\n\r\n")


def test_a_server_that_closes_without_an_answer() -> None:
    play = Play().client(GET_A)
    assert play.carry_out(play.door.upstream_eof()).status == 502
    assert play.steps == [A, Close()]


def test_a_kept_server_that_closes_under_a_request_leaves_the_retry_to_the_client() -> None:
    play = Play().client(GET_A).upstream(OK).client(GET_A)
    assert play.carry_out(play.door.upstream_eof()).to_client == OK
    assert play.steps == [A, Close()]


def test_a_server_that_closes_between_requests_is_dialled_again() -> None:
    play = Play().client(GET_A).upstream(OK)
    play.carry_out(play.door.upstream_eof()).client(GET_A).upstream(OK)
    assert play.steps == [A, CloseUpstream(), A]
    assert play.to_client == 2 * OK


def test_a_server_that_speaks_unasked_is_dropped() -> None:
    play = Play().client(GET_A).upstream(OK).upstream(b"HTTP/1.1 408 Too Late\r\n\r\n").client(GET_A).upstream(OK)
    assert play.steps == [A, CloseUpstream(), A]
    assert play.to_client == 2 * OK


def test_a_client_that_stops_sending_still_gets_its_answer() -> None:
    play = Play().client(GET_A)
    assert play.carry_out(play.door.client_eof()).steps == [A]
    assert play.upstream(OK).to_client.endswith(b"hello")
    assert play.steps == [A, Close()]


@pytest.mark.parametrize("sent", [b"", b"GET http://a", POST % (b"Content-Length: 5", b"he")])
def test_a_client_that_leaves_in_the_middle_is_closed(sent: bytes) -> None:
    play = Play().client(sent)
    assert play.carry_out(play.door.client_eof()).steps[-1] == Close()


def with_login(login: bytes, request: bytes = GET_A) -> bytes:
    return request.replace(b"\r\n\r\n", b"\r\nProxy-Authorization: " + login + b"\r\n\r\n")


def basic(text: bytes) -> bytes:
    return b"Basic " + b64encode(text)


@pytest.mark.parametrize(
    "login",
    [
        basic(b"joe:wrong"),
        basic(b"nobody:se:cret"),
        basic(b"joe"),
        basic(b"joe:se:cret\0"),
        basic(b"\xff:x"),
        b"Basic !!!",
        b"Basic",
        b"Bearer x",
        b"Digest " + b64encode(b"joe:se:cret"),
        basic(b"joe:se:cret") + b"\r\nProxy-Authorization: " + basic(b"joe:se:cret"),
    ],
)
def test_only_known_users_are_served(login: bytes) -> None:
    play = Play(USERS, auth_required=True).client(with_login(login))
    assert play.status == 407
    assert b'\r\nProxy-Authenticate: Basic realm="' in play.to_client
    assert play.steps == [Close()]


def test_without_any_login_there_is_407() -> None:
    assert Play(USERS, auth_required=True).client(GET_A).status == 407
    assert Play(None, auth_required=True).client(with_login(basic(b":"))).status == 407


def test_a_known_user_is_named_and_the_login_goes_no_further() -> None:
    play = Play(USERS, auth_required=True).client(with_login(basic(b"joe:se:cret").replace(b"Basic ", b"bAsIc  ")))
    assert play.steps == [Dial(Target("a.example", 80), "joe")]
    assert play.to_upstream == SENT_A


def test_where_nobody_must_log_in_a_false_login_proves_nothing() -> None:
    assert Play(USERS).client(with_login(basic(b"joe:wrong"))).steps == [A]


def test_every_request_on_a_connection_needs_its_login() -> None:
    play = Play(USERS, auth_required=True).client(with_login(basic(b"joe:se:cret"))).upstream(OK).client(GET_A)
    assert play.to_client.startswith(OK + b"HTTP/1.1 407 ")


HEAD = b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n"

SMUGGLING = {
    "CL.CL": POST % (b"Content-Length: 5\r\nContent-Length: 0", b"GET /"),
    "CL, CL": POST % (b"Content-Length: 5, 5", b"hello"),
    "CL.TE": POST % (b"Content-Length: 6\r\nTransfer-Encoding: chunked", b"0\r\n\r\nG"),
    "TE.CL": POST % (b"Transfer-Encoding: chunked\r\nContent-Length: 4", b"5c\r\nGPOST"),
    "TE.TE": POST % (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x", b"0\r\n\r\n"),
    "TE: x": POST % (b"Transfer-Encoding: xchunked", b"0\r\n\r\n"),
    "TE list": POST % (b"Transfer-Encoding: identity, chunked", b"0\r\n\r\n"),
    "TE :": POST % (b"Transfer-Encoding : chunked", b"0\r\n\r\n"),
    "TE vertical tab": POST % (b"Transfer-Encoding: \x0bchunked", b"0\r\n\r\n"),
    "TE folded": POST % (b"Transfer-Encoding:\r\n chunked", b"0\r\n\r\n"),
    "TE after bare LF": POST % (b"X: y\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    "TE after bare CR": POST % (b"X: y\rTransfer-Encoding: chunked", b"0\r\n\r\n"),
    "TE after NUL": POST % (b"X: y\0Transfer-Encoding: chunked", b"0\r\n\r\n"),
    "TE with HTTP/1.0": (POST % (b"Transfer-Encoding: chunked", b"0\r\n\r\n")).replace(b"/1.1", b"/1.0"),
    "space before the first field": b"GET http://a.example/ HTTP/1.1\r\n Host: a.example\r\n\r\n",
    "CL signed": POST % (b"Content-Length: +5", b"hello"),
    "CL hexadecimal": POST % (b"Content-Length: 0x5", b"hello"),
    "CL with underscore": POST % (b"Content-Length: 1_0", b"0123456789"),
    "CL with space": POST % (b"Content-Length: 1 0", b"0123456789"),
    "CL negative": POST % (b"Content-Length: -1", b""),
    "CL hidden by Connection": POST % (b"Connection: Content-Length\r\nContent-Length: 5", b"hello"),
    "TE hidden by Connection": POST % (b"Connection: transfer-encoding\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    "Host hidden by Connection": HEAD + b"Connection: host\r\n\r\n",
    "two hosts": HEAD + b"Host: b.example\r\n\r\n",
    "CONNECT with a body": b"CONNECT a.example:443 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    "CONNECT with chunks": b"CONNECT a.example:443 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "user in the URL": b"GET http://a.example@b.example/ HTTP/1.1\r\n\r\n",
    "backslash in the host": b"GET http://a.example\\@b.example/ HTTP/1.1\r\n\r\n",
    "fragment": b"GET http://a.example/#x HTTP/1.1\r\n\r\n",
    "space in the target": b"GET http://a.example/ x HTTP/1.1\r\n\r\n",
    "tab in the request line": b"GET\thttp://a.example/ HTTP/1.1\r\n\r\n",
    "no version": b"GET http://a.example/\r\n\r\n",
    "two spaces": b"GET  http://a.example/ HTTP/1.1\r\n\r\n",
    "disguised loopback": b"GET http://0x7f.1/ HTTP/1.1\r\n\r\n",
    "number as host": b"CONNECT 2130706433:80 HTTP/1.1\r\n\r\n",
    "origin form": b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "https": b"GET https://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "ftp": b"GET ftp://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "CONNECT without port": b"CONNECT a.example HTTP/1.1\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "two empty lines first": b"\r\n\r\n" + GET_A,
    "too long": HEAD + b"X: y\r\n" * 20_000,
}


@pytest.mark.parametrize("wire", SMUGGLING.values(), ids=SMUGGLING)
def test_a_doubtful_request_is_answered_with_400_and_dials_nobody(wire: bytes) -> None:
    for pieces in ([wire], cut(wire, [1, 30, 60, 70, 80]) if len(wire) > 1000 else bytewise(wire)):
        play = Play(dials=False).client(*pieces)
        assert play.status == 400
        assert play.steps == [Close()]


BAD_CHUNKS = {
    "bare LF after the size": b"5\nhello\r\n0\r\n\r\n",
    "bare LF in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "bare CR in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "other terminator": b"5\r\nhelloXX0\r\n\r\n",
    "bare LF as terminator": b"5\r\nhello\n0\r\n\r\n",
    "size with sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "size with prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "size too big": b"fffffffffffffffff\r\nhello",
    "broken trailer": b"0\r\nX : y\r\n\r\n",
}


@pytest.mark.parametrize("body", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
def test_crooked_chunks_end_the_connection(body: bytes) -> None:
    wire = POST % (b"Transfer-Encoding: chunked", body) + GET_B
    for pieces in ([wire], bytewise(wire)):
        play = Play().client(*pieces)
        assert play.steps == [A, Close()]
        assert play.status == 400
        assert b"b.example" not in play.to_upstream


def test_one_empty_line_between_requests_is_forgiven() -> None:
    wire = POST % (b"Content-Length: 5", b"hello") + b"\r\n" + GET_A
    for pieces in ([wire], bytewise(wire)):
        play = Play().client(*pieces).upstream(OK)
        assert play.to_upstream.endswith(SENT_A)


def run(client: Iterable[bytes], upstream: Iterable[bytes]) -> tuple[bytes, bytes, list[Command], bool]:
    play = Play().client(*client).upstream(*upstream)
    return play.to_client, play.to_upstream, play.steps, play.over


CHUNKED_POST = POST % (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n")
SIZED_POST = POST % (b"Content-Length: 5", b"hello")
CONNECT = b"CONNECT a.example:1 HTTP/1.1\r\n\r\n"
requests = st.lists(
    st.sampled_from([GET_A, GET_B, UPGRADE, SIZED_POST, CHUNKED_POST, CONNECT, b"\r\n"]),
    min_size=1,
    max_size=4,
).map(b"".join)
answers = st.sampled_from(
    [
        OK,
        SWITCH,
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n",
    ]
)


@given(requests, answers, places, places)
def test_how_bytes_are_cut_changes_nothing(client: bytes, answer: bytes, at: list[int], at2: list[int]) -> None:
    whole = run([client], [answer])
    assert run(cut(client, at), cut(answer, at2)) == whole
    assert run(bytewise(client), bytewise(answer)) == whole


PIECES = [b"GET ", b"http://a.example/", b" HTTP/1.1", b"\r\n", b"\r\n\r\n", b"\n", b"abc", b"0", b": ", b"\0"]
HEADERS = [b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Connection: Upgrade", b"HTTP/1.1 101 X"]
scraps = st.sampled_from([*PIECES, *HEADERS, GET_A, OK])
noise = st.lists(scraps, max_size=10).map(b"".join) | st.binary(max_size=60)


@given(noise, noise, st.booleans())
def test_noise_is_answered_or_awaited_but_never_raises(client: bytes, answer: bytes, auth_required: bool) -> None:
    outcomes = set()
    for pieces in ([client], list(bytewise(client))):
        play = Play(USERS, auth_required=auth_required).client(*pieces).upstream(*bytewise(answer))
        if not play.over:
            play.carry_out(play.door.upstream_eof())
        if not play.over:
            play.carry_out(play.door.client_eof())
        assert play.over or not play.door.wants_client
        outcomes.add((repr(play.steps), play.to_client[:12]))
    assert len(outcomes) == 1
