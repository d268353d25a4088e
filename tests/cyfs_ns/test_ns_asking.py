from __future__ import annotations

import random
from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import pytest
from dnsfakes import framed
from h2.settings import SettingCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.askhttp import DNS_MESSAGE, Http1Asking, Http2Asking
from cyfs_ns.asking import Asking, FramedAsking, Replied
from cyfs_ns.errors import BadWire, Unreachable

QUERY = b"\0\0\1\0\0\1" + bytes(6) + b"\1a\0\0\1\0\1"
REPLY = b"\0\0\x81\x80\0\1" + bytes(6) + b"\1a\0\0\1\0\1"


def plain(joined: bool = True) -> FramedAsking:
    return FramedAsking(lambda: random.Random(7).getrandbits(16), joined=joined)


def sent(asking: Asking) -> bytes:
    out = b""
    while data := asking.data_to_send():
        out += data
    return out


# --- frames ----------------------------------------------------------------------------------------------------------


def test_queries_have_ids_of_their_own_and_replies_may_come_in_any_order() -> None:
    asking = plain()
    tickets = [asking.ask(QUERY) for _ in range(3)]
    assert len(set(tickets)) == 3
    assert sent(asking) == b"".join(framed(ticket.to_bytes(2) + QUERY[2:]) for ticket in tickets)
    replies = b"".join(framed(ticket.to_bytes(2) + REPLY[2:]) for ticket in reversed(tickets))
    assert asking.receive(replies) == [Replied(ticket, REPLY) for ticket in reversed(tickets)]
    assert asking.room == 1024


def test_over_tls_each_message_is_written_by_itself() -> None:
    asking = plain(joined=False)
    first, _ = asking.ask(QUERY), asking.ask(QUERY)
    assert asking.data_to_send() == framed(first.to_bytes(2) + QUERY[2:])
    assert sent(asking).count(QUERY[2:]) == 1
    asking = plain()
    asking.ask(QUERY), asking.ask(QUERY)
    assert asking.data_to_send().count(QUERY[2:]) == 2 and not sent(asking)


def test_a_forgotten_question_keeps_its_id() -> None:
    asking = plain()
    first = asking.ask(QUERY)
    asking.forget(first)
    assert asking.ask(QUERY) != first


def test_a_server_that_answers_without_being_asked_is_left() -> None:
    asking = plain()
    asking.ask(QUERY)
    assert asking.receive(framed(b"\xff\xfe" + REPLY[2:]) * 64) == []
    with pytest.raises(BadWire):
        asking.receive(framed(b"\xff\xfe" + REPLY[2:]))
    assert asking.over and asking.room == 0


# --- HTTP ------------------------------------------------------------------------------------------------------------


class Http2Server:
    """The other end, by the same library."""

    def __init__(self) -> None:
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.http.initiate_connection()
        self.requests: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytes] = {}

    def take(self, asking: Http2Asking) -> None:
        for event in self.http.receive_data(sent(asking)):
            if isinstance(event, h2.events.RequestReceived):
                self.requests[event.stream_id] = {str(key): str(value) for key, value in event.headers}
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] = event.data

    def answer(self, stream: int, body: bytes = REPLY, status: int = 200, kind: str = DNS_MESSAGE) -> bytes:
        self.http.send_headers(stream, [(":status", str(status)), ("content-type", kind)])
        self.http.send_data(stream, body, end_stream=True)
        return self.http.data_to_send()


def test_many_questions_on_one_http2_connection() -> None:
    asking, server = Http2Asking("dns.example", "/dns-query"), Http2Server()
    tickets = [asking.ask(QUERY) for _ in range(3)]
    server.take(asking)
    assert set(server.requests) == set(tickets) and set(server.bodies.values()) == {QUERY}
    request = server.requests[tickets[0]]
    assert (request[":method"], request[":authority"], request[":path"]) == ("POST", "dns.example", "/dns-query")
    assert (request["content-type"], request["accept"]) == (DNS_MESSAGE, DNS_MESSAGE)
    for ticket in reversed(tickets):
        assert asking.receive(server.answer(ticket)) == [Replied(ticket, REPLY)]


@pytest.mark.parametrize(
    ("status", "kind", "fault", "told"),
    [
        (404, DNS_MESSAGE, Unreachable, "404"),
        (302, DNS_MESSAGE, Unreachable, "302"),
        (200, "text/html; charset=utf-8", BadWire, "text/html"),
        (200, "", BadWire, "type"),
    ],
)
def test_what_is_no_dns_message_is_that_questions_failure(
    status: int, kind: str, fault: type[Exception], told: str
) -> None:
    asking, server = Http2Asking("dns.example", "/"), Http2Server()
    bad, good = asking.ask(QUERY), asking.ask(QUERY)
    server.take(asking)
    ((ticket, failure),) = asking.receive(server.answer(bad, status=status, kind=kind))
    assert ticket == bad and isinstance(failure, fault) and told in str(failure)
    assert asking.receive(server.answer(good, kind=DNS_MESSAGE.upper() + "; x=y")) == [Replied(good, REPLY)]


def test_an_endless_body_is_cut_off() -> None:
    asking, server = Http2Asking("dns.example", "/"), Http2Server()
    ticket = asking.ask(QUERY)
    server.take(asking)
    server.http.send_headers(ticket, [(":status", "200"), ("content-type", DNS_MESSAGE)])
    found: list[Replied] = []
    for _ in range(4):
        server.http.send_data(ticket, bytes(16384))
    server.http.send_data(ticket, bytes(1))
    found = asking.receive(server.http.data_to_send())
    assert [replied.ticket for replied in found] == [ticket] and isinstance(found[0].reply, BadWire)
    resets = [event for event in server.http.receive_data(sent(asking)) if isinstance(event, h2.events.StreamReset)]
    assert len(resets) == 1
    assert asking.room == 100


def test_resets_and_goodbyes_fail_what_they_concern() -> None:
    asking, server = Http2Asking("dns.example", "/"), Http2Server()
    first, second, third = (asking.ask(QUERY) for _ in range(3))
    server.take(asking)
    server.http.reset_stream(first)
    ((ticket, fault),) = asking.receive(server.http.data_to_send())
    assert ticket == first and isinstance(fault, Unreachable)
    server.http.close_connection(last_stream_id=second)
    ((ticket, fault),) = asking.receive(server.http.data_to_send())
    assert ticket == third and asking.over and asking.room == 0


def test_what_nobody_waits_for_is_reset() -> None:
    asking, server = Http2Asking("dns.example", "/"), Http2Server()
    ticket = asking.ask(QUERY)
    server.take(asking)
    asking.forget(ticket)
    (event,) = server.http.receive_data(sent(asking))
    assert isinstance(event, h2.events.StreamReset) and event.stream_id == ticket


@pytest.mark.parametrize("setting", [SettingCodes.INITIAL_WINDOW_SIZE, SettingCodes.MAX_CONCURRENT_STREAMS])
def test_a_server_that_lets_us_send_nothing(setting: SettingCodes) -> None:
    asking, server = Http2Asking("dns.example", "/"), Http2Server()
    server.http.update_settings({setting: 0})
    asking.receive(server.http.data_to_send())
    if asking.room > 0:
        with pytest.raises(BadWire):
            asking.ask(QUERY)
        assert asking.over
    assert asking.room == 0


def response(body: bytes = REPLY, status: str = "200 OK", kind: str = DNS_MESSAGE, more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def test_one_question_after_the_other_on_http1() -> None:
    asking = Http1Asking("dns.example:8443", "/q?x=1")
    for _ in range(2):
        assert asking.room == 1
        ticket = asking.ask(QUERY)
        assert asking.room == 0
        request = sent(asking)
        assert request.startswith(b"POST /q?x=1 HTTP/1.1\r\n") and request.endswith(b"\r\n\r\n" + QUERY)
        assert b"host: dns.example:8443\r\n" in request.lower()
        assert asking.receive(response()) == [Replied(ticket, REPLY)]
    ticket = asking.ask(QUERY)
    ((_, fault),) = asking.receive(response(status="503 Busy"))
    assert isinstance(fault, Unreachable) and "503" in str(fault)
    ticket = asking.ask(QUERY)
    assert asking.receive(response(more="connection: close\r\n")) == [Replied(ticket, REPLY)]
    assert asking.over and asking.room == 0


def test_a_huge_body_ends_http1() -> None:
    asking = Http1Asking("dns.example", "/q")
    asking.ask(QUERY)
    with pytest.raises(BadWire, match="65535"):
        asking.receive(response(bytes(70000)))
    assert asking.over


# --- anything --------------------------------------------------------------------------------------------------------

MACHINES: dict[str, Callable[[], Asking]] = {
    "frames": plain,
    "h2": lambda: Http2Asking("dns.example", "/"),
    "h1": lambda: Http1Asking("dns.example", "/"),
}


def outcome(asking: Asking, pieces: list[bytes]) -> list[str]:
    found: list[str] = []
    try:
        for piece in pieces:
            found += [repr(replied) for replied in asking.receive(piece)]
            asking.data_to_send()
    except BadWire as fault:
        found.append(type(fault).__name__)
    return found


@settings(max_examples=150)
@given(st.sampled_from(sorted(MACHINES)), st.binary(max_size=200), st.data())
def test_any_bytes_give_replies_or_one_error_however_they_are_split(
    kind: str, data: bytes, draw: st.DataObject
) -> None:
    server = Http2Server()
    legal = {
        "frames": framed(random.Random(7).getrandbits(16).to_bytes(2) + REPLY[2:]),
        "h2": server.http.data_to_send(),
        "h1": response(),
    }[kind]
    whole = draw.draw(st.sampled_from([data, legal + data, legal[: len(data)] + data]).filter(bool))
    machines = [MACHINES[kind]() for _ in range(2)]
    for machine in machines:
        machine.ask(QUERY)
    together = outcome(machines[0], [whole])
    apart = outcome(machines[1], [whole[at : at + 1] for at in range(len(whole))])
    assert together == apart or (apart[-1:] == ["BadWire"] and together == ["BadWire"])
