from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from tests.tunnels.splits import bytewise, cut, places
from tunnels.http1 import (
    MAX_HEAD,
    Body,
    cut_head,
    parse_request,
    parse_response,
    request_body,
    response_body,
    tokens_of,
    values_of,
)


def body_of(head: bytes) -> Body:
    return request_body(parse_request(head))


def follow(body: Body, pieces: list[bytes]) -> tuple[bytes, bool, bytes]:
    passed = b"".join(body.feed(piece) for piece in pieces)
    return passed, body.done, body.rest


def test_a_request_is_read() -> None:
    head = parse_request(b"GET /a HTTP/1.1\r\nHost: a.example\r\nX-Empty:\r\nX-Pad: \t b c \t")
    assert (head.method, head.target, head.minor) == (b"GET", b"/a", 1)
    assert head.fields == [(b"Host", b"a.example"), (b"X-Empty", b""), (b"X-Pad", b"b c")]


def test_a_response_is_read() -> None:
    head = parse_response(b"HTTP/1.0 404 Not Found\r\nServer: x")
    assert (head.status, head.phrase, head.minor) == (404, b"Not Found", 0)
    assert parse_response(b"HTTP/1.1 200").phrase == parse_response(b"HTTP/1.1 200 ").phrase == b""


def test_lists_are_joined_over_lines() -> None:
    head = parse_request(b"GET / HTTP/1.1\r\nConnection: a, B\r\nconnection: ,c ,")
    assert tokens_of(head.fields, b"connection") == {b"a", b"b", b"c"}
    assert values_of(head.fields, b"connection") == [b"a, B", b",c ,"]


@pytest.mark.parametrize(
    "line",
    [
        b"GET  / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b" GET / HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"GET / HTTP/1.2",
        b"GET / HTTP/2.0",
        b"GET / http/1.1",
        b"GET /",
        b"GET /\x00 HTTP/1.1",
        b"GET /\xff HTTP/1.1",
        b"G(T / HTTP/1.1",
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.1\rX: y",
        b"",
    ],
)
def test_a_crooked_request_line_is_refused(line: bytes) -> None:
    with pytest.raises(BadWire):
        parse_request(line)


CROOKED_FIELDS = [
    b"Host : a",
    b" Host: a",
    b"\tfolded",
    b"X: a\r\n folded",
    b"X: a\nY: b",
    b"X: a\rY: b",
    b"X: a\0b",
    b"X: a\x7fb",
    b"X: a\x0bb",
    b": nameless",
    b"no colon",
    b"",
    b"X(Y: a",
    b"X\xff: a",
]


@pytest.mark.parametrize("field", CROOKED_FIELDS)
def test_a_crooked_field_is_refused(field: bytes) -> None:
    with pytest.raises(BadWire):
        parse_request(b"GET / HTTP/1.1\r\n" + field)
    with pytest.raises(BadWire):
        parse_response(b"HTTP/1.1 200 OK\r\n" + field)


CROOKED_FRAMING = [
    b"Content-Length: 1\r\nContent-Length: 1",
    b"Content-Length: 1\r\nContent-Length: 2",
    b"Content-Length: 1\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked;a=b",
    b"Transfer-Encoding: \x0cchunked",
    b"Transfer-Encoding:",
    b"Content-Length: 1, 1",
    b"Content-Length: +1",
    b"Content-Length: -1",
    b"Content-Length: 0x1",
    b"Content-Length: 1_0",
    b"Content-Length: 1 0",
    b"Content-Length: \xb2",
    b"Content-Length:",
    b"Content-Length: 9999999999999999999",
]


@pytest.mark.parametrize("fields", CROOKED_FRAMING)
def test_doubtful_framing_is_refused(fields: bytes) -> None:
    with pytest.raises(BadWire):
        body_of(b"POST / HTTP/1.1\r\n" + fields)
    with pytest.raises(BadWire):
        response_body(parse_response(b"HTTP/1.1 200 OK\r\n" + fields), b"GET")


def test_chunks_in_http_1_0_are_refused() -> None:
    with pytest.raises(BadWire):
        body_of(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked")


@pytest.mark.parametrize(
    ("fields", "wire", "rest"),
    [
        (b"Content-Length: 5", b"hello", b"next"),
        (b"Content-Length: 0", b"", b"next"),
        (b"X: y", b"", b"next"),
        (b"Transfer-Encoding: chunked", b"0\r\n\r\n", b"next"),
        (b"Transfer-Encoding: Chunked", b'5\r\nhello\r\n00a ; x="y"\r\n0123456789\r\n0\r\nX: y\r\n\r\n', b"next"),
        (b"Transfer-Encoding: chunked", b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    ],
)
def test_a_body_is_followed_to_its_end(fields: bytes, wire: bytes, rest: bytes) -> None:
    head = b"POST / HTTP/1.1\r\n" + fields
    for pieces in ([wire + rest], list(bytewise(wire + rest))):
        assert follow(body_of(head), pieces) == (wire, True, rest)


@pytest.mark.parametrize(
    "wire",
    [
        b"5\nhello\r\n",
        b"5\r\nhelloXX",
        b"5\r\nhello\n",
        b"5\r\nhello\r\r\n",
        b"0x5\r\n",
        b"+5\r\n",
        b" 5\r\n",
        b"5 \r\n",
        b"\r\n",
        b"-1\r\n",
        b"g\r\n",
        b"5;a\nb\r\n",
        b"5;a\rb\r\n",
        b"5;a\0\r\n",
        b"5;" + b"a" * 2000,
        b"1" * 16 + b"\r\n",
        b"0\r\nno colon\r\n",
        b"0\r\n folded: x\r\n",
        b"0\r\nX: a\nb\r\n\r\n",
        b"0\r\n" + b"X: y\r\n" * 10_000,
    ],
)
def test_crooked_chunks_are_refused(wire: bytes) -> None:
    for pieces in ([wire], list(bytewise(wire))):
        body = body_of(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked")
        with pytest.raises(BadWire):
            follow(body, pieces)


@pytest.mark.parametrize(
    ("method", "head", "done", "until_close"),
    [
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 3", False, False),
        (b"GET", b"HTTP/1.1 200 OK", False, True),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 3", True, False),
        (b"HEAD", b"HTTP/1.1 200 OK", True, False),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3", True, False),
        (b"GET", b"HTTP/1.1 204 No Content", True, False),
        (b"GET", b"HTTP/1.1 100 Continue", True, False),
    ],
)
def test_how_a_response_ends(method: bytes, head: bytes, done: bool, until_close: bool) -> None:
    body = response_body(parse_response(head), method)
    assert (body.done, body.until_close) == (done, until_close)


def test_a_body_until_close_takes_everything() -> None:
    body = response_body(parse_response(b"HTTP/1.1 200 OK"), b"GET")
    assert follow(body, [b"a", b"b"]) == (b"ab", False, b"")


def test_a_head_is_cut_and_bounded() -> None:
    assert cut_head(b"GET / HTTP/1.1\r\n\r\nbody") == (b"GET / HTTP/1.1", 18)
    assert cut_head(b"GET / HTTP/1.1\r\n\r") is None
    assert cut_head(b"x" * MAX_HEAD + b"\r\n\r") is None
    assert cut_head(b"x" * MAX_HEAD + b"\r\n\r\n") == (b"x" * MAX_HEAD, MAX_HEAD + 4)
    with pytest.raises(BadWire):
        cut_head(b"x" * (MAX_HEAD + 4))
    with pytest.raises(BadWire):
        parse_request(b"GET / HTTP/1.1" + b"\r\na: b" * 300)


@given(
    st.lists(
        st.sampled_from([b"0\r\n", b"\r\n", b"3\r\nabc\r\n", b"a;b\r\n", b"0123456789", b"X: y\r\n", b"\n"]), max_size=8
    ).map(b"".join)
    | st.binary(max_size=60),
    places,
)
def test_a_chunked_body_or_its_one_error_however_it_is_cut(wire: bytes, at: list[int]) -> None:
    results: list[tuple[bytes, bytes] | None] = []
    for pieces in ([wire], cut(wire, at), list(bytewise(wire))):
        body = body_of(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked")
        try:
            passed, done, rest = follow(body, pieces)
        except BadWire:
            results.append(None)
            continue
        assert wire.startswith(passed)
        results.append((passed, rest) if done else (b"", b""))
    assert results[0] == results[1] == results[2]


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b"GET / HTTP/1.1\r\nX: " + tail))
def test_a_head_or_its_one_error(wire: bytes) -> None:
    for parse in (parse_request, parse_response):
        try:
            head = parse(wire)
        except BadWire:
            continue
        assert all(not set(b"\r\n\0") & set(name + value) for name, value in head.fields)


@pytest.mark.timeout(20)  # a pattern that backtracks would need minutes
@pytest.mark.parametrize("field", [b"X:" + b" \t" * 30_000 + b"\0", b"X:" + b" a" * 30_000 + b"\x7f", b"a" * 60_000])
def test_long_lines_cost_linear_time(field: bytes) -> None:
    with pytest.raises(BadWire):
        parse_request(b"GET / HTTP/1.1\r\n" + field)
