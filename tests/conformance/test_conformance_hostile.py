"""Upstreams that mean harm, behind the whole server: the client gets SERVFAIL or the truth, and no lie is remembered.

The name asked says what the upstream does about it.  Those that lead to the truth are asked one after the other, each
after a question that was answered with garbage; the others at once, so the silent ones cost their five seconds
together.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterable, Iterator

import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from asking import many_over_udp
from badserver import Act, Behaviour, Raw, bad_server
from livehouse import LiveHouse, live_house

from cyfs_ns.loops import PROBE_TYPE

GOOD, LIE = socket.inet_aton("192.0.2.1"), socket.inet_aton("203.0.113.66")
ZONE = "hostile.example"
BANK = "bank.example.org"
POINTER = b"\xc0\x0c"


def head(query: bytes, answers: int = 1, *, flags: int = 0x8180, authority: int = 0, additional: int = 0) -> bytes:
    """Header and question of a reply."""
    end = query.index(b"\0", 12) + 5
    return query[:2] + struct.pack("!5H", flags, 1, answers, authority, additional) + query[12:end]


def rr(owner: bytes, rtype: int, data: bytes, *, ttl: int = 300, rclass: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", rtype, rclass, ttl, len(data)) + data


def a(data: bytes = GOOD, owner: bytes = POINTER) -> bytes:
    return rr(owner, 1, data)


def name(text: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in text.split(".")) + b"\0"


def truth(query: bytes) -> bytes:
    return head(query) + a()


def lie(query: bytes) -> bytes:
    return head(query) + a(LIE)


def always(make: Callable[[bytes], bytes]) -> Behaviour:
    return lambda query, _: [make(query)]


def first_udp(*acts: Callable[[bytes], Act]) -> Behaviour:
    """Over UDP these, over TCP the truth."""
    return lambda query, way: [act(query) for act in acts] if way == "udp" else [truth(query)]


def truncated(query: bytes) -> bytes:
    return head(query, 0, flags=0x8380)


def over_tcp(*acts: Callable[[bytes], Act]) -> Behaviour:
    """TC over UDP, then these."""
    return lambda query, way: [truncated(query)] if way == "udp" else [act(query) for act in acts]


def chain(query: bytes, length: int, last: bytes) -> bytes:
    links = [POINTER, *(name(f"c{number}.{ZONE}") for number in range(length))]
    return head(query, length + 1) + b"".join(
        rr(link, 5, after) for link, after in zip(links, [*links[1:], last], strict=True)
    )


def wrong_id(query: bytes) -> bytes:
    return bytes((query[0] ^ 1,)) + lie(query)[1:]


def other_case(query: bytes) -> bytes:
    return query[:12] + query[12:].swapcase()


def poisoned(query: bytes) -> bytes:
    return (
        head(query, 2, authority=2, additional=2)
        + a()
        + a(LIE, name(BANK))
        + rr(name("example.org"), 2, name("ns.evil.example"), ttl=86400)
        + rr(b"\0", 2, name("ns.evil.example"), ttl=86400)
        + a(LIE, name("ns.evil.example"))
        + a(LIE, name(BANK))
    )


def to_bank(query: bytes) -> bytes:
    """An alias over the border, with a lie about where it leads."""
    return head(query, 2) + rr(POINTER, 5, name(BANK)) + a(LIE, name(BANK))


def flood(query: bytes) -> Iterator[Act]:
    dice = random.Random(query)
    for _ in range(200):
        yield dice.randbytes(2) + lie(query)[2:]
        yield lie(other_case(query))
    yield truth(query)


def shape(rtype: int, data: bytes) -> Callable[[bytes], bytes]:
    return lambda query: head(query) + rr(POINTER, rtype, data)


TRUE, EITHER, FAILS, NO_LIE = "the truth", "the truth or SERVFAIL", "SERVFAIL", "anything but a lie"

CASES: dict[str, tuple[Behaviour, str]] = {
    "honest": (always(truth), TRUE),
    "silent": (lambda query, way: [], FAILS),
    "nothing": (always(lambda query: b""), FAILS),
    "two-octets": (always(lambda query: query[:2]), FAILS),
    "header-only": (always(lambda query: query[:2] + b"\x81\x80" + b"\0" * 8), FAILS),
    "cut": (always(lambda query: truth(query)[:-3]), FAILS),
    "counts-too-many": (always(lambda query: head(query, 7) + a()), FAILS),
    "counts-65535": (always(lambda query: head(query, 65535, authority=65535, additional=65535) + a()), FAILS),
    "own-query": (always(lambda query: query), FAILS),
    "pointer-loop": (always(lambda query: head(query) + a(owner=(len(head(query)) | 0xC000).to_bytes(2))), FAILS),
    "pointer-ahead": (always(lambda query: head(query) + a(owner=b"\xc3\xff")), FAILS),
    "rdata-past-the-end": (always(lambda query: head(query) + POINTER + b"\0\1\0\1\0\0\0\x09\xff\xff" + GOOD), FAILS),
    "opcode": (always(lambda query: head(query, flags=0xA980) + a()), FAILS),
    "alias-of-itself": (always(lambda query: head(query) + rr(POINTER, 5, POINTER)), FAILS),
    "aliases-round": (always(lambda query: chain(query, 3, POINTER)), FAILS),
    "aliases-without-end": (always(lambda query: chain(query, 60, name(f"end.{ZONE}"))), FAILS),
    "oversized": (first_udp(lambda query: head(query) + rr(POINTER, 16, b"\xff" + b"x" * 255) * 40), NO_LIE),
    "oversized-tcp": (over_tcp(lambda query: head(query, 3000) + a() * 3000), NO_LIE),
    "slow": (lambda query, way: [1.2, truth(query)], TRUE),
    "wrong-id": (always(wrong_id), FAILS),
    "wrong-id-first": (first_udp(wrong_id, truth), TRUE),
    "wrong-case": (first_udp(lambda query: lie(other_case(query))), TRUE),
    "other-question": (always(lambda query: lie(query[:12] + name(BANK) + b"\0\1\0\1")), FAILS),
    "other-question-first": (first_udp(lambda query: lie(query[:12] + name(BANK) + b"\0\1\0\1"), truth), TRUE),
    "other-type": (first_udp(lambda query: lie(query[: query.index(b"\0", 12)] + b"\0\0\x1c\0\1"), truth), TRUE),
    "other-class": (always(lambda query: head(query) + rr(POINTER, 1, LIE, rclass=3)), NO_LIE),
    "out-of-bailiwick": (always(poisoned), TRUE),
    "alias-over-the-border": (always(to_bank), NO_LIE),
    "tc-loop": (always(truncated), FAILS),
    "tc-then-close": (over_tcp(lambda query: None), FAILS),
    "tc-then-silence": (lambda query, way: [truncated(query)] if way == "udp" else [], FAILS),
    "tc-then-half": (over_tcp(lambda query: Raw(b"\1\0" + truth(query)), lambda query: None), FAILS),
    "tc-then-zero-frames": (over_tcp(lambda query: Raw(b"\0\0" * 50), lambda query: None), FAILS),
    "tc-then-garbage-behind": (over_tcp(truth, lambda _: Raw(random.Random(1).randbytes(2000)), lambda _: None), TRUE),
    "tc-then-wrong-ids": (over_tcp(*[wrong_id] * 80), FAILS),
    "flood": (lambda query, way: flood(query) if way == "udp" else [truth(query)], TRUE),
    "formerr": (always(lambda query: head(query, 0, flags=0x8181)), NO_LIE),
    "refused": (always(lambda query: head(query, 0, flags=0x8185)), NO_LIE),
    "two-opts": (always(lambda query: head(query, 1, additional=2) + a() + rr(b"\0", 41, b"") * 2), FAILS),
    "bad-opt": (always(lambda query: head(query, 1, additional=1) + a() + rr(b"\0", 41, b"\0\x0f\0\xff")), EITHER),
    "ttl-forever": (always(lambda query: head(query) + rr(POINTER, 1, GOOD, ttl=0xFFFFFFFF)), TRUE),
}  # fmt: skip

SHAPES: dict[str, bytes] = {
    "A": b"\1\2\3",
    "AAAA": b"\0" * 15,
    "MX": b"\0",
    "TXT": b"\x09abc",
    "SRV": b"\0\1\0\2",
    "CAA": b"\0",
    "SOA": b"\0\0\1",
    "PTR": b"\x3fabc",
    "CNAME": b"",
    "HTTPS": b"\0\1\0\0\1\0\xff",
    "SVCB": b"\0\1\0\0\3\0\2\0\0\0\1\0\1h",
    "NAPTR": b"\0\1\0\1\xff",
    "SSHFP": b"\1",
    "TLSA": b"",
    "DS": b"\0",
    "HINFO": b"\xffx",
    "NS": b"",
    "DNAME": b"\xc0",
}
"""Record data that cannot be what its type says."""
OPAQUE = ("TXT", "CAA", "SSHFP", "TLSA", "DS", "HINFO")
CHECKED = ("HTTPS", "SVCB")
"""Their hints are looked at when addresses are filtered, as here."""


def behave(query: bytes, way: str) -> Iterable[Act]:
    """As the first label says."""
    asked = dns.message.from_wire(query).question[0]
    if asked.rdtype == PROBE_TYPE and len(asked.name.labels[0]) == 16:
        return []  # the house looks whether we lead back to it
    if asked.name.to_text(omit_final_dot=True).lower() == BANK:
        return [head(query) + a(GOOD)]
    label = asked.name.labels[0].decode().lower()
    if label.startswith("shape-"):
        return [shape(asked.rdtype, SHAPES[dns.rdatatype.to_text(asked.rdtype)])(query)]
    return CASES[label][0](query, way)


@pytest.fixture(scope="module", params=["udp", "tcp"])
def victim(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHouse]:
    with bad_server(behave) as port:
        settings = {"nameserver": [f"{request.param}://127.0.0.1:{port}"], "rebind-protection": True}
        with live_house(tmp_path_factory.mktemp("victim"), settings) as house:
            yield house


def asked(house: LiveHouse, questions: Iterable[tuple[str, str]]) -> list[dns.message.Message]:
    queries = [dns.message.make_query(text, rtype).to_wire() for text, rtype in questions]
    replies = many_over_udp(house.ports["plain"], queries, patience=8.0)
    assert None not in replies
    return [dns.message.from_wire(reply) for reply in replies if reply is not None]


def addresses(told: dns.message.Message) -> set[bytes]:
    return {data.to_wire() for rrset in told.answer if rrset.rdtype == dns.rdatatype.A for data in rrset}


def test_a_client_gets_the_truth_or_servfail(victim: LiveHouse) -> None:
    streams = "tcp://" in victim.config.read_text()
    true = [case for case, (_, wanted) in CASES.items() if wanted == TRUE]
    others = [case for case in CASES if case not in true]
    replies = {case: asked(victim, [("cut." + ZONE, "MX"), (f"{case}.{ZONE}", "A")])[1] for case in true}
    replies |= zip(others, asked(victim, [(f"{case}.{ZONE}", "A") for case in others]), strict=True)
    wrong = {}
    for case, told in replies.items():
        wanted = CASES[case][1]
        failed, true = told.rcode() == dns.rcode.SERVFAIL, addresses(told) == {GOOD}
        if case == "alias-over-the-border":
            # What the server asked for a name says of the name's alias is its own word: told to who asks that name.
            fine = addresses(told) <= {GOOD, LIE}
        elif wanted == FAILS and streams:
            fine = failed or (true and case.startswith("tc-"))
        else:
            fine = {
                TRUE: true and told.rcode() == 0,
                EITHER: true or failed,
                FAILS: failed,
                NO_LIE: LIE not in addresses(told),
            }[wanted]
        if not fine:
            wrong[case] = (wanted, told.to_text())
    assert not wrong
    victim.assert_well()


def test_nothing_of_it_is_remembered(victim: LiveHouse) -> None:
    """After all of the above, and of the hits on it, the bank is where it is."""
    asked(victim, [(f"{case}.{ZONE}", "A") for case in ("out-of-bailiwick", "alias-over-the-border", "other-question")])
    for told in asked(victim, [(BANK, "A"), (BANK.upper(), "A"), (BANK, "A")]):
        assert addresses(told) == {GOOD}
    for told in asked(victim, [(f"{case}.{ZONE}", "A") for case, (_, wanted) in CASES.items() if wanted == TRUE]):
        assert addresses(told) == {GOOD}
        assert all(rrset.ttl <= 604800 for rrset in told.answer)


def test_data_of_the_wrong_shape(victim: LiveHouse) -> None:
    """Names and addresses must be such; what is opaque to a resolver passes as it is, and our own log can bear it."""
    queries = [dns.message.make_query(f"shape-{rtype}.{ZONE}", rtype).to_wire() for rtype in SHAPES]
    replies = many_over_udp(victim.ports["plain"], queries, patience=8.0)
    for rtype, query, wire in zip(SHAPES, queries, replies, strict=True):
        assert wire is not None
        if wire[3] & 15 == dns.rcode.SERVFAIL or rtype in CHECKED:
            assert not dns.message.from_wire(wire).answer
        else:
            assert rtype in OPAQUE
            assert wire[12:] == shape(dns.rdatatype.from_text(rtype), SHAPES[rtype])(query)[12:]
    victim.assert_well()
