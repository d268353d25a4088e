"""The HTTP/2 machine against the h2 library, against bytes by hand, and against those who would tire it."""

from __future__ import annotations

import base64
import struct

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import hpack
import pytest
from conversing import converse, echo, question, reply_to, singly
from h2frames import (
    CALM,
    CLOSED,
    COMPRESSION,
    CONTINUATION,
    DATA,
    FLOW,
    GET,
    GOAWAY,
    HEADERS,
    HELLO,
    PING,
    POST,
    PRIORITY,
    PROTOCOL,
    PUSH,
    QUERY,
    REFUSED,
    RST,
    SETTINGS,
    SIZE,
    WINDOW,
    block,
    fields,
    frame,
    frames,
    goaway_code,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from cyfs_ns.http2 import PREFACE, Http2


def resets(sent: bytes) -> list[tuple[int, int]]:
    return [(stream, int.from_bytes(payload, "big")) for kind, _, stream, payload in frames(sent) if kind == RST]


class Client:
    """The h2 library at the other end of a machine."""

    def __init__(self, machine: Http2) -> None:
        self.machine = machine
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.http.initiate_connection()
        self.heads: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.reset: dict[int, int] = {}
        self.refund = True

    def ask(self, head: list[tuple[str, str]], body: bytes = b"", pieces: int = 1) -> int:
        stream = self.http.get_next_available_stream_id()
        self.http.send_headers(stream, head, end_stream=not body)
        if body:
            step = -(-len(body) // pieces)
            for at in range(0, len(body), step):
                self.http.send_data(stream, body[at : at + step], end_stream=at + step >= len(body))
        return stream

    def exchange(self, reply: bytes | None = None) -> list[bytes]:
        """Carry bytes to and fro until nobody has more to say; the queries that came."""
        queries: list[bytes] = []
        while data := self.http.data_to_send():
            self.machine.feed(data, 0.0)
            while asked := self.machine.take(100):
                queries += [one.query for one in asked]
                for one in asked:
                    self.machine.answer(one.token, reply if reply is not None else reply_to(one.query))
            self.listen()
        return queries

    def listen(self) -> None:
        for event in self.http.receive_data(b"".join(self.machine.pieces_to_send())):
            if isinstance(event, h2.events.ResponseReceived):
                self.heads[event.stream_id] = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                if self.refund:
                    self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self.reset[event.stream_id] = int(event.error_code)


def test_queries_and_replies_with_the_library() -> None:
    client = Client(Http2())
    get = fields("GET", "/dns-query?dns=" + base64.urlsafe_b64encode(QUERY).decode().rstrip("="))
    asked = [client.ask(fields(), QUERY), client.ask(get), client.ask(fields(), QUERY, pieces=3)]
    assert client.exchange() == [QUERY] * 3
    for stream in asked:
        assert client.heads[stream] == {
            ":status": "200",
            "content-type": "application/dns-message",
            "content-length": "49",
            "cache-control": "max-age=60",
        }
        assert client.bodies[stream] == reply_to(QUERY)
        assert stream in client.ended
    head = client.ask([("" + key, "HEAD" if key == ":method" else value) for key, value in get])
    client.exchange()
    assert client.heads[head]["content-length"] == "49"
    assert head not in client.bodies
    assert head in client.ended
    assert not client.machine.partial


def test_a_thousand_queries_keep_every_window_open() -> None:
    client = Client(Http2())
    for at in range(1000):
        query = question(f"host{at}.example.com", at)
        stream = client.ask(fields("POST", "/dns-query", ("content-length", str(len(query)))), query)
        assert client.exchange() == [query]
        assert client.bodies[stream] == reply_to(query)


def test_the_longest_messages_pass_both_ways() -> None:
    machine = Http2()
    client = Client(machine)
    longest = QUERY + bytes(65535 - len(QUERY))
    client.exchange()
    for _ in range(3):
        stream = client.http.get_next_available_stream_id()
        client.http.send_headers(stream, fields())
        left = longest
        while left:
            size = min(len(left), client.http.local_flow_control_window(stream), 16384)
            client.http.send_data(stream, left[:size], end_stream=size == len(left))
            left = left[size:]
            queries = client.exchange(longest)
        assert queries == [longest]
        assert client.bodies[stream] == longest
    assert not machine.partial


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        (fields("GET", "/"), b"", "404"),
        (fields("PUT"), b"", "405"),
        (fields("PUT"), b"something", "405"),
        (fields("BREW"), b"", "501"),
        (fields("GET"), b"", "400"),
        (fields(), b"short", "400"),
        ([*fields()[:4], ("content-type", "text/plain")], QUERY, "415"),
        (fields("POST", "/dns-query", ("content-length", "65536")), QUERY, "413"),
        (fields("HEAD", "/"), b"", "404"),
    ],
)
def test_refusals(head: list[tuple[str, str]], body: bytes, status: str) -> None:
    client = Client(Http2())
    stream = client.ask(head, body) if "65536" not in str(head) else 1
    if not body or "65536" not in str(head):
        assert client.exchange() == []
    else:
        client.http.send_headers(stream, head)
        client.exchange()
    assert client.heads[stream][":status"] == status
    assert (client.heads[stream].get("allow") == "GET, HEAD, POST") is (status == "405")
    # The connection lives on.
    again = client.ask(fields(), QUERY)
    assert client.exchange() == [QUERY]
    assert client.heads[again][":status"] == "200"


def test_silence_is_a_bad_request() -> None:
    machine = Http2()
    machine.feed(HELLO + frame(HEADERS, 5, 1, GET), 0.0)
    (asked,) = machine.take(9)
    machine.answer(asked.token, None)
    sent = frames(b"".join(machine.pieces_to_send()))
    assert [one[0] for one in sent] == [SETTINGS, SETTINGS, HEADERS, DATA]
    assert dict(hpack.Decoder().decode(sent[2][3]))[":status"] == "400"


def test_trailers_padding_and_priorities_are_understood() -> None:
    stream = HELLO
    stream += frame(HEADERS, 0x2C, 1, b"\3" + bytes(4) + b"\x10" + POST + bytes(3))
    stream += frame(DATA, 8, 1, b"\2" + QUERY[:5] + bytes(2))
    stream += frame(PRIORITY, 0, 9, bytes(5)) + frame(77, 255, 1, b"unknown")
    stream += frame(DATA, 0, 1, QUERY[5:])
    stream += frame(HEADERS, 5, 1, block([("checksum", "1")]))
    assert converse(Http2(), [stream]).queries == [QUERY]


def test_a_block_means_what_the_table_says_at_that_time() -> None:
    """The same bytes twice, with the entry they point at replaced between: a remembered meaning would be wrong."""
    machine = Http2()
    encoder = hpack.Encoder()
    first = encoder.encode(fields())
    # ":path" of this block is the newest entry (index 62) of the table, whatever that is.
    pointing = b"\x83\x87" + b"\xbe" + block(fields()[4:])

    def path_entry(path: bytes) -> bytes:
        return b"\x83\x87" + b"\x44" + bytes((len(path),)) + path + block(fields()[4:])

    stream = HELLO + frame(HEADERS, 4, 1, first) + frame(DATA, 1, 1, QUERY)
    ident = 3
    for path in (b"/dns-query", b"/elsewhere", b"/dns-query"):
        stream += frame(HEADERS, 4, ident, path_entry(path)) + frame(DATA, 1, ident, QUERY)
        for _ in range(2):
            ident += 2
            stream += frame(HEADERS, 4, ident, pointing) + frame(DATA, 1, ident, QUERY)
        ident += 2
    outcome = converse(machine, [stream])
    assert outcome.fault == ""
    decoder = hpack.Decoder()
    codes = [
        dict(decoder.decode(payload))[":status"] for kind, _, _, payload in frames(outcome.sent) if kind == HEADERS
    ]
    assert codes == ["200"] * 4 + ["404"] * 3 + ["200"] * 3


def test_a_table_made_smaller_forgets_what_was_remembered() -> None:
    entry = b"\x83\x87\x44\x0a/dns-query" + block(fields()[4:])
    pointing = b"\x83\x87\xbe" + block(fields()[4:])
    stream = HELLO
    for ident, head in ((1, entry), (3, pointing), (5, pointing), (7, b"\x20\x3f\xe1\x1f" + POST), (9, pointing)):
        stream += frame(HEADERS, 4, ident, head) + frame(DATA, 1, ident, QUERY)
    outcome = converse(Http2(), [stream])
    assert len(outcome.queries) == 4
    assert goaway_code(outcome.sent) == COMPRESSION


def test_replies_wait_for_the_windows_and_leave_in_time() -> None:
    client = Client(Http2())
    client.refund = False
    client.http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 20})
    stream = client.ask(fields(), QUERY)
    client.exchange()
    assert client.bodies[stream] == reply_to(QUERY)[:20]
    assert client.machine.partial
    client.http.increment_flow_control_window(10, stream)
    client.exchange()
    assert client.bodies[stream] == reply_to(QUERY)[:30]
    client.http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    client.exchange()
    assert client.bodies[stream] == reply_to(QUERY)
    assert stream in client.ended
    assert not client.machine.partial


def test_streams_beyond_the_limit_are_refused_and_a_reset_frees_one() -> None:
    machine = Http2(width=2)
    machine.feed(HELLO + b"".join(frame(HEADERS, 5, ident, GET) for ident in (1, 3, 5)), 0.0)
    assert len(machine.take(9)) == 2
    assert resets(b"".join(machine.pieces_to_send())) == [(5, REFUSED)]
    machine.feed(frame(RST, 0, 1, bytes(4)) + frame(HEADERS, 5, 7, GET), 0.0)
    assert len(machine.take(9)) == 1


def test_a_reply_to_a_stream_that_is_gone_is_dropped() -> None:
    machine = Http2()
    machine.feed(HELLO + frame(HEADERS, 5, 1, GET), 0.0)
    (asked,) = machine.take(9)
    machine.feed(frame(RST, 0, 1, bytes(4)) + frame(WINDOW, 0, 1, b"\0\0\0\1"), 0.0)
    assert machine.take(9) == []
    machine.pieces_to_send()
    machine.answer(asked.token, reply_to(QUERY))
    assert machine.pieces_to_send() == []


def test_farewell_of_either_side() -> None:
    ours, theirs = Http2(), Http2()
    for machine in (ours, theirs):
        machine.feed(HELLO + frame(HEADERS, 5, 1, GET), 0.0)
    (asked,) = ours.take(9)
    ours.leave()
    assert not ours.finished
    ours.feed(frame(HEADERS, 5, 3, GET), 0.0)
    assert ours.take(9) == []
    ours.answer(asked.token, reply_to(QUERY))
    sent = b"".join(ours.pieces_to_send())
    assert goaway_code(sent) == 0
    assert resets(sent) == [(3, REFUSED)]
    assert ours.finished
    (asked,) = theirs.take(9)
    theirs.feed(frame(GOAWAY, 0, 0, bytes(8)), 0.0)
    assert theirs.take(9) == []
    assert not theirs.finished
    theirs.answer(asked.token, reply_to(QUERY))
    assert theirs.finished


MALFORMED = [
    [(":method", "GET")],
    [*fields(), (":path", "/")],
    [*fields(), (":status", "200")],
    [("accept", "x"), *fields()],
    [*fields(), ("Upper", "x")],
    [*fields(), ("connection", "close")],
    [*fields(), ("te", "gzip")],
    [*fields(), ("content-length", "x")],
    [*fields(), ("content-length", "5"), ("content-length", "6")],
    [*fields(), ("content-length", "5")],
]


@pytest.mark.parametrize("head", MALFORMED)
def test_malformed_requests_end_their_stream_only(head: list[tuple[str, str]]) -> None:
    stream = HELLO + frame(HEADERS, 4, 1, block(head)) + frame(DATA, 1, 1, QUERY) + frame(HEADERS, 5, 3, GET)
    outcome = converse(Http2(), [stream])
    assert outcome.queries == [QUERY]
    assert resets(outcome.sent) == [(1, PROTOCOL)]
    assert outcome.fault == ""


OPEN = HELLO + frame(HEADERS, 4, 1, POST)


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (b"GET / HTTP/1.1\r\n", PROTOCOL),
        (PREFACE + frame(PING, 0, 0, bytes(8)), PROTOCOL),
        (PREFACE + frame(SETTINGS, 1, 0), PROTOCOL),
        (HELLO + frame(DATA, 0, 1, b"x"), PROTOCOL),
        (HELLO + frame(HEADERS, 5, 2, GET), PROTOCOL),
        (HELLO + frame(HEADERS, 5, 0, GET), PROTOCOL),
        (HELLO + frame(HEADERS, 13, 1, b"\xff" + GET), PROTOCOL),
        (HELLO + frame(HEADERS, 0x25, 1, b"abc"), SIZE),
        (HELLO + frame(HEADERS, 5, 1, b"\xff\xff\xff\xff\xff\xff"), COMPRESSION),
        (HELLO + frame(HEADERS, 5, 1, b"\xbf"), COMPRESSION),
        (HELLO + frame(HEADERS, 5, 1, b"\x40\x7f"), COMPRESSION),
        (HELLO + frame(HEADERS, 1, 1, GET) + frame(PING, 0, 0, bytes(8)), PROTOCOL),
        (HELLO + frame(HEADERS, 1, 1, GET) + frame(CONTINUATION, 4, 3), PROTOCOL),
        (HELLO + frame(CONTINUATION, 4, 1), PROTOCOL),
        (HELLO + frame(PUSH, 4, 1, bytes(4)), PROTOCOL),
        (HELLO + frame(RST, 0, 1, bytes(4)), PROTOCOL),
        (HELLO + frame(WINDOW, 0, 1, bytes(4)), PROTOCOL),
        (HELLO + frame(WINDOW, 0, 0, bytes(4)), PROTOCOL),
        (HELLO + frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"), FLOW),
        (HELLO + frame(WINDOW, 0, 0, bytes(3)), SIZE),
        (HELLO + frame(SETTINGS, 0, 1), PROTOCOL),
        (HELLO + frame(SETTINGS, 0, 0, bytes(5)), SIZE),
        (HELLO + frame(SETTINGS, 1, 0, bytes(6)), SIZE),
        (HELLO + frame(SETTINGS, 0, 0, struct.pack("!HL", 2, 2)), PROTOCOL),
        (HELLO + frame(SETTINGS, 0, 0, struct.pack("!HL", 4, 1 << 31)), FLOW),
        (HELLO + frame(SETTINGS, 0, 0, struct.pack("!HL", 5, 100)), PROTOCOL),
        (HELLO + frame(PING, 0, 1, bytes(8)), PROTOCOL),
        (HELLO + frame(PING, 0, 0, bytes(7)), SIZE),
        (HELLO + frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL),
        (HELLO + frame(PRIORITY, 0, 3, bytes(4)), SIZE),
        (HELLO + frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL),
        (HELLO + frame(GOAWAY, 0, 0, bytes(7)), SIZE),
        (OPEN + frame(RST, 0, 1, bytes(3)), SIZE),
        (OPEN + frame(DATA, 8, 1, b"\5abc"), PROTOCOL),
        (OPEN + frame(DATA, 0, 1, bytes(16384)) * 4, FLOW),
        (HELLO + frame(DATA, 0, 1, bytes(16385)), SIZE),
        (HELLO + frame(HEADERS, 5, 1, block(fields("GET", "/" + "a" * 17000))[:16384]), CALM),
    ],
)
def test_whoever_breaks_the_rules_is_told_which(stream: bytes, code: int) -> None:
    machine = Http2()
    whole, split = converse(machine, [stream]), converse(Http2(), singly(stream))
    assert whole == split
    assert goaway_code(whole.sent) == code
    assert machine.finished
    with pytest.raises(BadWire):
        machine.take(1)


def test_data_on_a_stream_whose_request_is_whole() -> None:
    machine = Http2()
    machine.feed(HELLO + frame(HEADERS, 5, 1, GET) + frame(DATA, 1, 1, b"x"), 0.0)
    assert len(machine.take(9)) == 1
    with pytest.raises(BadWire):
        machine.take(9)
    assert goaway_code(b"".join(machine.pieces_to_send())) == CLOSED


BOMB = b"\x40\x01a\x7f\xe0\x1e" + bytes(4063)
"""An entry as large as the table; each byte after it can stand for 4 KiB."""


@pytest.mark.parametrize(
    "flood",
    [
        frame(PING, 0, 0, bytes(8)),
        frame(SETTINGS, 0, 0),
        frame(SETTINGS, 0, 0, struct.pack("!HL", 4, 65535) * 2700),
        frame(PRIORITY, 0, 3, bytes(5)),
        frame(WINDOW, 0, 1, b"\0\0\0\1"),
        frame(99, 0, 0),
        frame(DATA, 0, 1),
        frame(DATA, 8, 1, b"\0"),
        frame(DATA, 0, 1, b"x"),
    ],
)
def test_floods_end_in_calm(flood: bytes) -> None:
    outcome = converse(Http2(), [OPEN + flood * 3000])
    assert goaway_code(outcome.sent) == CALM
    assert len(outcome.sent) < 1100 * 30


def test_a_flood_of_continuations_ends_in_calm() -> None:
    for piece in (b"", b"\x00", bytes(5000)):
        stream = HELLO + frame(HEADERS, 1, 1, GET[:3]) + frame(CONTINUATION, 0, 1, piece) * 100
        assert goaway_code(converse(Http2(), [stream]).sent) == CALM


def test_header_bombs_end_in_calm() -> None:
    stream = HELLO + frame(HEADERS, 5, 1, b"\x82\x87" + BOMB + b"\xbe" * 8000)
    assert goaway_code(converse(Http2(), [stream]).sent) == CALM


def test_rapid_resets_end_in_calm() -> None:
    machine = Http2()
    stream = HELLO + b"".join(
        frame(HEADERS, 5, ident, GET) + frame(RST, 0, ident, bytes(4)) for ident in range(1, 4001, 2)
    )
    machine.feed(stream, 0.0)
    started = 0
    with pytest.raises(BadWire):
        while True:
            started += len(machine.take(100))
    assert started < 110
    assert goaway_code(b"".join(machine.pieces_to_send())) == CALM


def test_malformed_requests_without_end_end_in_calm() -> None:
    stream = HELLO + b"".join(frame(HEADERS, 5, ident, block(MALFORMED[0])) for ident in range(1, 4001, 2))
    assert goaway_code(converse(Http2(), [stream]).sent) == CALM


def test_replies_nobody_lets_us_send_are_bounded() -> None:
    machine = Http2()
    machine.feed(HELLO + frame(SETTINGS, 0, 0, struct.pack("!HL", 4, 0)), 0.0)
    machine.take(1)
    with pytest.raises(BadWire):
        for ident in range(1, 201, 2):
            machine.feed(frame(HEADERS, 5, ident, GET), 0.0)
            for asked in machine.take(9):
                machine.answer(asked.token, bytes(12) + bytes(40_000))
    sent = b"".join(machine.pieces_to_send())
    assert goaway_code(sent) == CALM
    assert len(sent) < 2000


def test_honest_work_never_runs_out_of_credit() -> None:
    client = Client(Http2())
    for _ in range(2000):
        client.ask(fields(), QUERY)
        client.http.ping(bytes(8))
        assert client.exchange() == [QUERY]


def test_time_gives_credit_back() -> None:
    machine = Http2()
    machine.feed(HELLO, 0.0)
    for second in range(200):
        machine.feed(frame(PING, 0, 0, bytes(8)) * 19, float(second))
        assert machine.take(1) == []


SCRAPS = st.one_of(
    st.sampled_from(
        [
            frame(HEADERS, 5, 1, GET),
            frame(HEADERS, 4, 1, POST),
            frame(HEADERS, 4, 3, POST),
            frame(HEADERS, 0, 3, POST[:4]),
            frame(CONTINUATION, 4, 3, POST[4:]),
            frame(DATA, 1, 1, QUERY),
            frame(DATA, 0, 3, QUERY[:7]),
            frame(DATA, 1, 3, QUERY[7:]),
            frame(RST, 0, 1, bytes(4)),
            frame(SETTINGS, 0, 0, struct.pack("!HL", 4, 3)),
            frame(WINDOW, 0, 0, b"\0\0\0\7"),
            frame(WINDOW, 0, 3, b"\0\0\0\7"),
            frame(PING, 0, 0, bytes(8)),
            frame(GOAWAY, 0, 0, bytes(8)),
        ]
    ),
    st.builds(frame, st.integers(0, 10), st.integers(0, 255), st.integers(0, 6), st.binary(max_size=24)),
    st.binary(max_size=12),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(SCRAPS, max_size=10).map(b"".join), st.booleans())
def test_the_way_bytes_are_split_makes_no_difference(stream: bytes, greet: bool) -> None:
    stream = HELLO + stream if greet else stream
    whole = converse(Http2(width=2), [stream])
    assert whole == converse(Http2(width=2), singly(stream))
    frames(whole.sent)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_header_block_is_a_request_a_refusal_or_a_fault(noise: bytes) -> None:
    outcome = converse(Http2(), [HELLO + frame(HEADERS, 5, 1, noise)], echo)
    assert outcome.sent
