"""The talk with an SN: what is written is read, and what strangers write is a value or one error."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sn_people import person

from cyfs_gateway.sn import talk
from cyfs_gateway.sn.talk import (
    MOST_LINE,
    Ask,
    Connect,
    Connected,
    Here,
    Lease,
    Leased,
    Lines,
    No,
    Place,
    RelaySession,
    RelayWith,
    Reply,
    Submit,
    Submitted,
    Unlease,
    Unleased,
    Update,
    Updated,
    Where,
    read_ask,
    read_reply,
    write_ask,
    write_reply,
)
from cyfs_ns.errors import BadWire

ALICE, BOB = person(1).did, person(2).did
WEB, SSH = Place("name", name="photos.alice.sn.example"), Place("tcp", 2222, "ssh")
ASKS: list[Ask] = [
    Submit("x" * 16384),
    Update("e30.e30.AA"),
    Where(),
    RelayWith(BOB),
    Lease(Place("udp"), proves=True),
    Lease(WEB),
    Unlease(SSH),
    Connect(BOB),
]
HERE = Here(
    domain="sn.example",
    did=ALICE,
    seen="198.51.100.7",
    addresses=("192.0.2.1", "2001:db8::1"),
    udp=3478,
    names=("alice", "alice.example"),
    leases=(Leased(SSH, 3600), Leased(WEB)),
    knows=True,
)
SESSION = RelaySession(
    relay_id=bytes(range(7)), keys=(b"a" * 32, b"b" * 32), addresses=("192.0.2.1",), port=3478, seconds=86_400
)
REPLIES: list[tuple[Ask, Reply]] = [
    (ASKS[0], Submitted("done", {"observed": "192.0.2.1"})),
    (ASKS[1], Updated("done", 7)),
    (Where(), HERE),
    (Where(), Here(domain="sn.example", did=ALICE)),
    (RelayWith(BOB), SESSION),
    (Lease(SSH), Leased(SSH, 60)),
    (Lease(WEB), Leased(WEB)),
    (Unlease(WEB), Unleased()),
    (ASKS[1], No("stale", "number 6, and 7 was heard already", 7)),
    (Connect(BOB), Connected()),
    (Connect(BOB), No("unknown", "there is no such machine here")),
]


@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: type(ask).__name__)
def test_what_is_asked_is_read(ask: Ask) -> None:
    line = write_ask(ask)
    assert len(line) <= MOST_LINE
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert read_ask(line[:-1]) == ask


@pytest.mark.parametrize(("ask", "reply"), REPLIES, ids=lambda one: type(one).__name__)
def test_what_is_answered_is_read(ask: Ask, reply: Reply) -> None:
    line = write_reply(reply)
    assert line.count(b"\n") == 1
    assert read_reply(line[:-1], ask) == reply


def test_what_is_secret_is_not_shown() -> None:
    assert "a" * 32 not in repr(SESSION)
    assert "e30" not in repr(Update("e30.e30.AA"))


def test_an_account_with_more_than_a_line_can_tell_is_told_as_much_as_fits() -> None:
    name = f"{'a' * 63}.{'b' * 63}.{'c' * 63}.example"
    many = Here(
        domain="sn.example",
        did=ALICE,
        names=(name,) * 500,
        leases=(Leased(Place("name", name=name)),) * 500,
    )
    line = write_reply(many)
    assert len(line) <= MOST_LINE
    told = read_reply(line[:-1], Where())
    assert isinstance(told, Here)
    assert set(told.names) == {name}


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"ask": "shutdown"},
        {"ask": ["where"]},
        {"ask": "submit"},
        {"ask": "submit", "request": "x" * 16385},
        {"ask": "update", "update": 7},
        {"ask": "connect", "device": "did:web:photos.example"},
        {"ask": "connect", "device": "photos"},
        {"ask": "relay"},
        {"ask": "lease", "kind": "icmp", "port": 0},
        {"ask": "lease", "kind": "tcp", "name": "ssh", "port": 65536},
        {"ask": "lease", "kind": "tcp", "name": "ssh", "port": True},
        {"ask": "lease", "kind": "tcp", "name": "ssh", "port": -1},
        {"ask": "lease", "kind": "tcp", "name": "-ssh", "port": 1},
        {"ask": "lease", "kind": "name", "name": "not a name"},
        {"ask": "lease", "kind": "tcp", "name": "ssh", "port": 1, "proves": "yes"},
        {"ask": "unlease", "kind": "tcp"},
    ],
    ids=json.dumps,
)
def test_what_makes_no_sense_is_bad(asked: dict[str, object]) -> None:
    with pytest.raises(BadWire):
        read_ask(json.dumps(asked).encode())


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (Where(), {}),
        (Where(), {"ok": []}),
        (Where(), {"ok": {"domain": "sn.example", "did": "did:web:sn.example", "leases": [], "udp": 1}}),
        (Where(), {"ok": {"domain": "sn.example", "did": str(ALICE), "leases": {}, "udp": 1}}),
        (Where(), {"no": "NOT A CODE"}),
        (RelayWith(BOB), {"ok": {"id": "00", "keys": [], "addresses": ["192.0.2.1"], "port": 1, "seconds": 1}}),
        (RelayWith(BOB), {"ok": {**json.loads(write_reply(SESSION))["ok"], "addresses": []}}),
        (RelayWith(BOB), {"ok": {**json.loads(write_reply(SESSION))["ok"], "id": "0001020304050G"}}),
        (RelayWith(BOB), {"ok": {**json.loads(write_reply(SESSION))["ok"], "port": 0}}),
        (Submit("x"), {"ok": {"why": "done"}}),
    ],
)
def test_an_answer_that_makes_no_sense_is_bad(ask: Ask, answer: object) -> None:
    with pytest.raises(BadWire):
        read_reply(json.dumps(answer).encode(), ask)


def test_a_field_that_is_new_is_passed_over() -> None:
    assert read_ask(b'{"ask":"where","since":7}') == Where()
    told = json.loads(write_reply(HERE))
    told["ok"]["weather"] = "fine"
    assert read_reply(json.dumps(told).encode(), Where()) == HERE


# Strangers

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.sampled_from(["submit", "update", "where", "relay", "lease", "unlease", "connect"])
KEYS = st.sampled_from(["request", "update", "peer", "kind", "port", "name", "device", "proves"])


@settings(max_examples=200, deadline=None)
@given(st.builds(lambda word, more: {**more, "ask": word}, WORDS, st.dictionaries(KEYS, JUNK, max_size=4)))
def test_any_object_is_a_question_or_bad(asked: dict[str, object]) -> None:
    try:
        ask = read_ask(json.dumps(asked).encode())
    except BadWire:
        return
    assert read_ask(write_ask(ask)[:-1]) == ask


FIELDS = st.sampled_from(
    [
        "domain",
        "did",
        "seen",
        "addresses",
        "udp",
        "names",
        "leases",
        "id",
        "keys",
        "port",
        "seconds",
        "told",
        "why",
        "network",
        "service",
        "knows",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(REPLIES), st.dictionaries(FIELDS, JUNK, max_size=3))
def test_any_object_is_an_answer_or_bad(said: tuple[Ask, Reply], junk: dict[str, object]) -> None:
    ask, reply = said
    told = json.loads(write_reply(reply))
    if "ok" in told:
        told["ok"].update(junk)
    try:
        read = read_reply(json.dumps(told).encode(), ask)
    except BadWire:
        return
    assert read_reply(write_reply(read)[:-1], ask) == read


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_octets_are_a_value_or_bad(untrusted: bytes) -> None:
    for read in (read_ask, lambda line: read_reply(line, Where())):
        try:
            read(untrusted)
        except BadWire:
            continue


def taken(pieces: list[bytes]) -> list[bytes | None]:
    """The lines in ``pieces``, and None for a fault, after which there is nothing."""
    lines, found = Lines(), list[bytes | None]()
    for piece in pieces:
        lines.receive_data(piece)
        try:
            while (line := lines.next_line()) is not None:
                found.append(line)
        except BadWire:
            with pytest.raises(BadWire):
                lines.next_line()
            return [*found, None]
    return found


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(0, 200), max_size=8))
def test_lines_are_the_same_however_they_are_cut(parts: list[bytes], cuts: list[int]) -> None:
    whole = b"\n".join(parts)
    places = sorted({min(cut, len(whole)) for cut in cuts})
    pieces = [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)]
    assert taken(pieces) == taken([whole]) == taken([bytes([octet]) for octet in whole]) == whole.split(b"\n")[:-1]


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_line_without_end_is_bad_and_stays_so(size: int) -> None:
    endless = b"x" * (MOST_LINE - 1)
    pieces = [endless[at : at + size] for at in range(0, len(endless), size)]
    assert taken([*pieces, b"\n"]) == [endless]
    assert taken([*pieces, b"y", b"\n"]) == taken([*pieces, b"y\nz\n"]) == [None]


def test_what_comes_behind_a_line_is_kept() -> None:
    lines = Lines()
    lines.receive_data(write_ask(Connect(BOB)) + b"hello\nthere")
    line = lines.next_line()
    assert line is not None
    assert read_ask(line) == Connect(BOB)
    assert (lines.rest(), lines.rest(), lines.next_line()) == (b"hello\nthere", b"", None)


def test_the_service_has_the_name_that_peers_ask_for() -> None:
    assert talk.NAME == "sn"
