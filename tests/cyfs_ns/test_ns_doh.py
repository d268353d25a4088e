"""What HTTP requests mean to DoH, and HTTP/1.1 that carries them."""

from __future__ import annotations

import base64
import struct
from ipaddress import ip_address, ip_network

import dnslib
import h11
import pytest
from conversing import converse, question, reply_to, singly
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.doh import Refusal, forwarded_client, max_age, read_request
from cyfs_ns.errors import BadWire
from cyfs_ns.http1 import Http1
from cyfs_ns.web import Web, by_alpn


def encoded(query: bytes) -> bytes:
    return base64.urlsafe_b64encode(query).rstrip(b"=")


QUERY = question()
GET = b"/dns-query?dns=" + encoded(QUERY)


@pytest.mark.parametrize(
    ("method", "target", "kind", "length", "status"),
    [
        (b"GET", b"/", b"", None, 404),
        (b"GET", b"/dns-query/", b"", None, 404),
        (b"PUT", b"/", b"", None, 404),
        (b"PUT", b"/dns-query", b"", None, 405),
        (b"OPTIONS", b"/dns-query", b"", None, 405),
        (b"BREW", b"/dns-query", b"", None, 501),
        (b"GET", b"/dns-query", b"", None, 400),
        (b"GET", b"/dns-query?dns=", b"", None, 400),
        (b"GET", b"/dns-query?dns=AAAA", b"", None, 400),
        (b"GET", GET + b"=", b"", None, 400),
        (b"GET", b"/dns-query?dns=" + b"A" * 17, b"", None, 400),
        (b"GET", b"/dns-query?dns=" + b"AA+A" * 9, b"", None, 400),
        (b"GET", b"/dns-query?dns=" + encoded(bytes(65536)), b"", None, 413),
        (b"POST", b"/dns-query", b"text/plain", None, 415),
        (b"POST", b"/dns-query", b"", None, 415),
        (b"POST", b"/dns-query", b"application/dns-message", 65536, 413),
    ],
)
def test_requests_that_are_refused(method: bytes, target: bytes, kind: bytes, length: int | None, status: int) -> None:
    refusal = read_request(method, target, kind, length)
    assert isinstance(refusal, Refusal)
    assert refusal.status == status


def test_requests_that_are_queries() -> None:
    assert read_request(b"GET", GET, b"", None) == QUERY
    assert read_request(b"HEAD", b"/dns-query?ct&dns=" + encoded(QUERY) + b"&x=y", b"", None) == QUERY
    assert read_request(b"GET", b"https://dns.test:8443" + GET, b"", None) == QUERY
    odd = bytes(range(240, 256)) + bytes(range(12))
    assert read_request(b"GET", b"/dns-query?dns=" + encoded(odd), b"", None) == odd
    assert read_request(b"POST", b"/dns-query", b"Application/DNS-message; x=y", 65535) is None
    assert read_request(b"POST", b"/q", b"application/dns-message", None, b"/q") is None


def _reply(*zone: str, rcode: int = 0, authority: str = "") -> bytes:
    record = dnslib.DNSRecord.parse(QUERY).reply()
    record.header.rcode = rcode
    for line in zone:
        record.add_answer(*dnslib.RR.fromZone(line))
    if authority:
        record.add_auth(*dnslib.RR.fromZone(authority))
    return bytes(record.pack())


SOA = "example.com. 900 IN SOA ns.example.com. root.example.com. 1 2 3 4 300"


@pytest.mark.parametrize(
    ("reply", "age"),
    [
        (_reply("www.example.com. 60 IN A 192.0.2.1"), 60),
        (_reply("www.example.com. 60 IN CNAME x.test.", "x.test. 7 IN A 192.0.2.1", "y.test. 9 IN A 192.0.2.1"), 7),
        (_reply("www.example.com. 0 IN A 192.0.2.1", authority=SOA), 0),
        (_reply(authority=SOA), 300),
        (_reply(rcode=3, authority=SOA), 300),
        (_reply(rcode=3, authority=SOA.replace("900", "100")), 100),
        (_reply(rcode=2, authority=SOA), 0),
        (_reply(authority="example.com. 900 IN NS ns.example.com."), 0),
        (_reply(), 0),
        (b"", 0),
        (_reply("www.example.com. 60 IN A 192.0.2.1")[:-5], 0),
    ],
)
def test_the_age_of_a_reply(reply: bytes, age: int) -> None:
    assert max_age(reply) == age


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 3), st.integers(0, 3))
def test_any_bytes_have_an_age(rest: bytes, answers: int, authorities: int) -> None:
    assert 0 <= max_age(struct.pack("!6H", 0, 0x8180, 1, answers, authorities, 0) + rest) < 1 << 32


@pytest.mark.parametrize(
    ("header", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("198.51.100.1, 192.0.2.7, 127.0.0.1", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:DB8::1]:443", "2001:db8::1"),
        ("192.0.2.7:5353", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("192.0.2.7, unknown", None),
        ("127.0.0.1", None),
        ("", None),
    ],
)
def test_for_whom_a_proxy_asks(header: str, client: str | None) -> None:
    own = ip_network("127.0.0.0/8")
    assert forwarded_client(header, lambda address: address in own) == client


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_header_names_an_address_or_nobody(header: str) -> None:
    client = forwarded_client(header, lambda _address: False)
    assert client is None or ip_address(client)


# --- HTTP/1.1 --------------------------------------------------------------------------------------------------------


def post(body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST /dns-query HTTP/1.1", b"host: x", b"content-type: application/dns-message", *headers]
    return b"\r\n".join([*lines, b"content-length: %d" % len(body), b"", body])


def get(target: bytes = GET, method: bytes = b"GET", *headers: bytes) -> bytes:
    return b"\r\n".join([method + b" " + target + b" HTTP/1.1", b"host: x", *headers, b"", b""])


def responses(sent: bytes, *methods: bytes) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    client = h11.Connection(h11.CLIENT)
    client.receive_data(sent)
    came = []
    for method in methods:
        client.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        client.send(h11.EndOfMessage())
        while isinstance(event := client.next_event(), h11.InformationalResponse):
            pass
        assert isinstance(event, h11.Response)
        body = b""
        while isinstance(data := client.next_event(), h11.Data):
            body += data.data
        came.append((event.status_code, dict(event.headers), body))
        if client.our_state is h11.DONE and client.their_state is h11.DONE:
            client.start_next_cycle()
    assert client.trailing_data[0] == b""
    return came


def test_http1_answers_one_after_the_other() -> None:
    machine = Http1()
    outcome = converse(machine, [post(QUERY) + get() + get(method=b"HEAD")], reply_to)
    assert outcome.queries == [QUERY] * 3
    first, second, third = responses(outcome.sent, b"POST", b"GET", b"HEAD")
    assert first == second == (200, first[1], reply_to(QUERY))
    assert first[1][b"content-type"] == b"application/dns-message"
    assert first[1][b"cache-control"] == b"max-age=60"
    assert third == (200, first[1], b"")
    assert not machine.partial
    assert not machine.finished


def test_http1_waits_for_the_reply_before_it_reads_on() -> None:
    machine = Http1()
    machine.feed(get() + get(), 0.0)
    (asked,) = machine.take(10)
    assert machine.take(10) == []
    assert not machine.partial
    machine.answer(asked.token, None)
    assert responses(b"".join(machine.pieces_to_send()), b"GET")[0][0] == 400
    assert len(machine.take(10)) == 1


def test_http1_tells_who_was_forwarded() -> None:
    machine = Http1()
    machine.feed(get(GET, b"GET", b"x-forwarded-for: 192.0.2.7", b"x-forwarded-for: 192.0.2.8"), 0.0)
    assert machine.take(1)[0].forwarded == "192.0.2.7,192.0.2.8"


@pytest.mark.parametrize(
    ("request_", "status", "closes"),
    [
        (get(b"/"), 404, False),
        (get(method=b"PUT"), 405, False),
        (get(method=b"BREW"), 501, False),
        (post(b"short"), 400, False),
        (post(QUERY).replace(b"dns-message", b"json"), 415, True),
        (post(QUERY).replace(b"content-length: ", b"content-length: 99999"), 413, True),
        (
            post(b"", b"transfer-encoding: chunked").replace(b"content-length: 0\r\n", b"")
            + b"8000\r\n" + bytes(0x8000) + b"\r\n8000\r\n" + bytes(0x8000) + b"\r\n",
            413,
            True,
        ),
    ],
)  # fmt: skip
def test_http1_refuses(request_: bytes, status: int, closes: bool) -> None:
    machine = Http1()
    outcome = converse(machine, [request_])
    assert outcome.queries == []
    ((got, headers, body),) = responses(outcome.sent, b"GET")
    assert got == status
    assert body.endswith(b"\n")
    assert machine.finished is closes
    assert (headers.get(b"connection") == b"close") is closes
    assert (headers.get(b"allow") == b"GET, HEAD, POST") is (status == 405)


@pytest.mark.parametrize(
    ("bytes_", "status"),
    [(b"\x16\x03\x01\x00\r\n\r\n", 400), (b"GET / HTTP/1.1\r\n\r\n", 400), (b"GET /" + b"a" * 20000, 431)],
)
def test_http1_says_goodbye_to_noise(bytes_: bytes, status: int) -> None:
    machine = Http1()
    outcome = converse(machine, [bytes_])
    assert outcome.fault
    assert responses(outcome.sent, b"GET")[0][0] == status
    assert machine.finished
    with pytest.raises(BadWire):
        machine.take(1)


def test_http1_closes_after_the_last_word() -> None:
    machine = Http1()
    machine.leave()
    outcome = converse(machine, [get()], reply_to)
    assert responses(outcome.sent, b"GET")[0][1][b"connection"] == b"close"
    assert machine.finished


def test_http1_lets_a_client_go_on_that_asks_first() -> None:
    machine = Http1()
    machine.feed(post(QUERY, b"expect: 100-continue")[: -len(QUERY)], 0.0)
    assert machine.take(1) == []
    assert b"".join(machine.pieces_to_send()).startswith(b"HTTP/1.1 100 ")
    assert machine.partial
    machine.feed(QUERY, 0.0)
    assert machine.take(1)[0].query == QUERY


SCRAPS = st.sampled_from(
    [
        post(QUERY),
        get(),
        get(b"/"),
        get(method=b"HEAD"),
        post(b"x"),
        QUERY,
        b"\r\n",
        b"GET ",
        b"HTTP/1.1\r\n",
        b"PRI * ",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(SCRAPS | st.binary(max_size=20), max_size=4).map(b"".join))
def test_http1_does_not_care_how_bytes_are_split(stream: bytes) -> None:
    whole, split = converse(by_alpn("http/1.1"), [stream]), converse(by_alpn("http/1.1"), singly(stream))
    assert whole[:2] == split[:2]
    assert bool(whole.fault) == bool(split.fault)


def test_without_alpn_the_first_bytes_decide() -> None:
    for stream in (get(), post(QUERY)):
        machine = Web()
        assert converse(machine, singly(stream), reply_to).queries == [QUERY]
        assert machine.width == 1
    machine = Web(width=7)
    outcome = converse(machine, singly(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
    assert outcome.sent[3] == 4  # a SETTINGS frame
    assert machine.width == 7
