from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_gateway.sniff import MORE, NOT_IT, Sniffed, sniff_http


@pytest.mark.parametrize(
    ("wire", "host"),
    [
        (b"GET / HTTP/1.1\r\nHost: Example.com\r\n", "example.com"),
        (b"GET / HTTP/1.1\r\nUser-Agent: x\r\nhost:example.com:8080 \r\nX", "example.com"),
        (b"POST http://a.example:81/x HTTP/1.1\r\nHost: b.example\r\n", "a.example"),
        (b"GET / HTTP/1.1\r\nHost: 10.0.0.1\r\n", ""),
        (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n", ""),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n", ""),
        (b"GET / HTTP/1.1\r\nHost:\r\n", ""),
        (b"GET / HTTP/1.0\r\n\r\n", ""),
        (b"GET / HTTP/1.1\r\nX: y\r\n\r\nHost: body.example\r\n", ""),
    ],
)
def test_a_host_is_found(wire: bytes, host: str) -> None:
    assert sniff_http(wire) == Sniffed("http", host)


@pytest.mark.parametrize(
    "wire", [b"", b"G", b"GET", b"GET ", b"GET / HTTP/1.1", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: exam"]
)
def test_a_request_under_way_needs_more(wire: bytes) -> None:
    assert sniff_http(wire) is MORE


@pytest.mark.parametrize(
    "wire",
    [
        b"\x16\x03\x01",
        b"SSH-2.0-x\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"get / HTTP/1.1\r\n",
        b"GETX",
        b"GET / HTTP/3\r\nHost: a.example\r\n",
        b"GET / and more HTTP/1.1\r\nHost: a.example\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 8192,
    ],
)
def test_what_is_not_http_is_told_at_once(wire: bytes) -> None:
    assert sniff_http(wire) is NOT_IT


pieces = st.sampled_from(
    [
        b"GET ",
        b"/ ",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"\r\n",
        b"\r",
        b"\n",
        b"Host: ",
        b"a.example",
        b":",
        b"http://b.example",
    ]
)


@given(st.lists(pieces, max_size=12).map(b"".join) | st.binary(max_size=100))
def test_an_answer_and_no_second_thoughts(wire: bytes) -> None:
    final = sniff_http(wire)
    settled = False
    for length in range(len(wire) + 1):
        found = sniff_http(wire[:length])
        assert not settled or found == final
        settled = settled or found is not MORE
