"""What is answered from the wire form is, octet by octet, what the long way would have said."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns import edns, hot
from cyfs_ns.hot import SILENCE, Admission, Hot, HotDoor, HotTable
from cyfs_ns.query import Query, read_query
from cyfs_ns.ratelimit import RateLimit
from cyfs_ns.reply import Reply, make_reply, render, shape_of
from cyfs_ns.wire import HEADER, Record, name_wire

LIMIT = 1232
HOME, GUEST, OUTSIDE = b"\x0a\0\0\1", b"\x0a\0\1\1", b"\xc0\0\2\1"


def judge(address: bytes) -> Admission | None:
    return {b"\x0a\0\0": Admission("home"), b"\x0a\0\1": Admission("guests", limited=True)}.get(address[:3])


def ask(
    name: str | bytes = "www.example", rtype: int = 1, *, ident: int = 7, flags: int = 0x0100, opt: bytes = b""
) -> bytes:
    wire = name_wire(name) if isinstance(name, str) else name
    return HEADER.pack(ident, flags, 1, 0, 0, 1 if opt else 0) + wire + rtype.to_bytes(2) + b"\0\1" + opt


def read(wire: bytes) -> Query:
    query = read_query(wire)
    assert isinstance(query, Query)
    return query


def address_reply(wire: bytes, *, ttl: int = 300, last: int = 1) -> Reply:
    query = read(wire)
    return make_reply(query.question, answer=[(query.name, 1, ttl, bytes((192, 0, 2, last)))])


def learn(table: HotTable, wire: bytes, *, second: int = 100, keep: int = 300, last: int = 1) -> bytes:
    query, reply = read(wire), address_reply(wire, ttl=keep, last=last)
    answer = bytes(render(reply, query, shape_of(query, limit=LIMIT)))
    assert table.put(query, wire, answer, reply, second, second + keep, query.text)
    return answer


def harvested(table: HotTable) -> list[tuple[object, int]]:
    return [(entry.label, times) for entry, times in table.harvest()]


names = st.lists(st.binary(min_size=1, max_size=20), min_size=0, max_size=5).map(
    lambda labels: b"".join(bytes((len(label),)) + label for label in labels).lower() + b"\0"
)
ttls = st.integers(0, 100_000)


@st.composite
def replies(draw: st.DrawFn, question: bytes) -> Reply:
    target = draw(names)
    others = st.tuples(names, st.just(1), ttls, st.binary(min_size=4, max_size=4))
    answer: list[Record] = [(question[:-4], 5, draw(ttls), target)] if draw(st.booleans()) else []
    answer += draw(st.lists(st.tuples(st.just(question[:-4]), st.just(16), ttls, st.just(b"\x03abc")), max_size=60))
    return make_reply(
        question,
        rcode=draw(st.sampled_from([0, 3, 16])),
        aa=draw(st.booleans()),
        answer=answer,
        authority=[(b"\0", 6, draw(ttls), b"\0\0" + bytes(20))] if draw(st.booleans()) else [],
        additional=draw(st.lists(others, max_size=20)),
        ede=draw(st.sampled_from([(), ((15, "blocked"),)])),
    )


opts = st.one_of(
    st.just(b""),
    st.builds(
        lambda size, do, pad: edns.build_opt(size, ((edns.PADDING, bytes(pad)),) if pad else (), do=do),
        st.sampled_from([0, 512, 600, 1232, 4096]),
        st.booleans(),
        st.sampled_from([0, 40]),
    ),
)


@settings(max_examples=200)
@given(st.data())
def test_hot_and_cold_say_the_same(data: st.DataObject):
    name, rtype = data.draw(names), data.draw(st.sampled_from([1, 16, 65, 97, 255]))
    flags = data.draw(st.sampled_from([0x0000, 0x0100, 0x0110, 0x0120]))
    opt, stream = data.draw(opts), data.draw(st.booleans())
    limit = None if stream else LIMIT
    cases = st.integers(0, 2**256 - 1)

    def spelt() -> bytes:
        dice = data.draw(cases)
        mixed = bytes(c ^ 0x20 if 0x61 <= c <= 0x7A and dice >> i & 1 else c for i, c in enumerate(name))
        return ask(mixed, rtype, ident=data.draw(st.integers(0, 65535)), flags=flags, opt=opt)

    first = spelt()
    reply = data.draw(replies(name + rtype.to_bytes(2) + b"\0\1"))
    query, born = read(first), 1000
    age = data.draw(st.integers(0, 500))
    table = HotTable(1 << 20)
    kept = table.put(
        query,
        first,
        render(reply, query, shape_of(query, limit=limit, pad=stream), age),
        reply,
        born + age,
        born + 100_000,
        None,
    )
    assert kept
    seconds = sorted(data.draw(st.lists(st.integers(born + age, born + 99_999), min_size=1, max_size=4)))
    for second in seconds:
        again = spelt()
        found = table.find(again[2:], second)
        assert found is not None
        query = read(again)
        assert again[:2] + found[1] == render(reply, query, shape_of(query, limit=limit, pad=stream), second - born)


@given(st.binary(max_size=80), st.sampled_from([HOME, GUEST, OUTSIDE]))
def test_any_octets_bring_a_miss_or_an_answer(untrusted: bytes, address: bytes):
    door = HotDoor(judge, limit=RateLimit(1))
    learn(door.table("home"), ask())
    for _ in range(3):
        answer = door.answer(address, untrusted, 100)
        assert answer is None or answer == SILENCE or (len(answer) >= 12 and answer[:2] == untrusted[:2])


def test_the_type_is_not_folded_with_the_name():
    table = HotTable(1 << 20)
    learn(table, ask(rtype=97))
    assert table.find(ask(b"\x03wWw\x07example\0", 65)[2:], 100) is None
    assert table.find(ask(b"\x03wWw\x07example\0", 97)[2:], 100) is not None


@pytest.mark.parametrize(
    "other",
    [
        ask(flags=0x0000),
        ask(flags=0x0110),
        ask(rtype=28),
        ask(opt=edns.build_opt(1232)),
        ask("ww.example"),
        ask() + b"\0",
        ask()[:-1],
    ],
)
def test_another_question_is_no_hit(other: bytes):
    table = HotTable(1 << 20)
    learn(table, ask())
    assert table.find(other[2:], 100) is None


@pytest.mark.parametrize(
    "option",
    [(edns.COOKIE, b"12345678"), (edns.ECS, b"\0\1\x18\0\xc0\0\2"), (edns.PADDING, b"\0\1"), (65001, b"")],
)
def test_answers_for_one_client_are_not_kept(option: tuple[int, bytes]):
    wire = ask(opt=edns.build_opt(1232, (option,)))
    query, reply = read(wire), address_reply(wire)
    table = HotTable(1 << 20)
    assert not table.put(query, wire, render(reply, query, shape_of(query, limit=LIMIT)), reply, 100, 400, None)
    assert len(table) == 0


def test_ageing_a_shortened_answer_leaves_its_opt_alone():
    wire = ask(opt=edns.build_opt(512, do=True))
    query = read(wire)
    additional = [(b"\0", 1, 300, number.to_bytes(4)) for number in range(50)]
    reply = make_reply(query.question, answer=[(query.name, 1, 300, bytes(4))], additional=additional)
    shape = shape_of(query, limit=LIMIT)
    table = HotTable(1 << 20)
    assert table.put(query, wire, render(reply, query, shape), reply, 100, 400, None)
    found = table.find(wire[2:], 250)
    assert found is not None
    assert wire[:2] + found[1] == render(reply, query, shape, 150)


def test_a_table_adopts_what_another_one_kept():
    one, other = HotTable(1 << 20), HotTable(1 << 20)
    spelt = ask(b"\3wWw\7example\0", 65)
    learn(one, spelt)
    entry = one.peek(ask(rtype=65))
    assert entry is not None
    other.adopt(spelt, entry)
    assert other.find(spelt[2:], 100) is not None
    assert other.peek(ask(rtype=97)) is None
    other.add_hits(spelt, 3)
    other.add_hits(ask(rtype=97), 3)
    assert harvested(other) == [("www.example", 3)]


def test_an_answer_too_large_for_a_batch_is_not_kept():
    wire = ask(rtype=16, opt=edns.build_opt(4096))
    query = read(wire)
    reply = make_reply(query.question, answer=[(query.name, 16, 300, bytes((200,)) + bytes(200))] * 25)
    table = HotTable(1 << 20)
    assert not table.put(query, wire, render(reply, query, shape_of(query)), reply, 100, 400, None)


def test_an_answer_leaves_when_its_time_is_over():
    table = HotTable(1 << 20)
    learn(table, ask(), second=100, keep=10)
    found = table.find(ask()[2:], 109)
    assert found is not None
    assert found[1][-10:-6] == (1).to_bytes(4)
    assert table.find(ask()[2:], 110) is None


def test_a_table_keeps_its_size_and_what_is_asked_for():
    table = HotTable(100_000)
    learn(table, ask("hot.example"))
    for number in range(2000):
        learn(table, ask(f"cold{number}.example"))
        assert table.find(ask("hot.example")[2:], 100) is not None
    assert 100 < len(table) < 300


def test_flushing_takes_names_suffixes_or_all():
    door = HotDoor(judge)
    house = Hot({"udp": door})
    names = ["example", "www.example", "wwwexample", "a.www.example", "other.test"]
    for view in ("home", "guests"):
        for name in names:
            learn(door.table(view), ask(name))
    assert house.flush(name_wire("www.example")) == 2
    assert house.flush(name_wire("example"), below=True) == 4
    assert door.answer(HOME, ask("wwwexample"), 100) is not None
    assert door.answer(HOME, ask("a.www.example"), 100) is None
    assert house.flush() == 4


def test_views_keep_their_answers_apart():
    door = HotDoor(judge)
    learn(door.table("home"), ask(), last=1)
    learn(door.table("guests"), ask(), last=2)
    for client, last in ((HOME, 1), (GUEST, 2)):
        answer = door.answer(client, ask(), 100)
        assert answer is not None
        assert answer[-1] == last


def test_strangers_are_refused_or_not_heard():
    answer = HotDoor(judge).answer(OUTSIDE, ask(opt=edns.build_opt(1232)), 100)
    assert answer is not None
    assert answer[:4] == b"\0\7\x81\x85"
    assert HotDoor(judge, refuse=False).answer(OUTSIDE, ask(), 100) == SILENCE
    assert HotDoor(judge).answer(OUTSIDE, ask(flags=0x8100), 100) == SILENCE


def test_refusals_count_too():
    door = HotDoor(judge, limit=RateLimit(3))
    told = [door.answer(OUTSIDE, ask(), 100) for _ in range(10)]
    assert [bool(answer) for answer in told] == [True] * 3 + [False] * 7


def test_over_the_limit_a_network_is_told_to_come_by_stream_or_nothing():
    door = HotDoor(judge, limit=RateLimit(10, slip=2))
    learn(door.table("guests"), ask())
    told = [door.answer(GUEST, ask(), 100) for _ in range(20)]
    assert all(answer and answer[2] & 2 == 0 for answer in told[:10])
    assert told[10::2] == [SILENCE] * 5
    for cut in told[11::2]:
        assert cut is not None
        assert cut[2] & 2
        assert cut[4:] == b"\0\1\0\0\0\0\0\0" + ask()[12:]
    assert door.answer(GUEST, ask(), 101)


def test_misses_count_against_the_limit():
    door = HotDoor(judge, limit=RateLimit(10))
    assert [door.answer(GUEST, ask(), 100) is None for _ in range(12)] == [True] * 10 + [False] * 2


def test_those_at_home_are_not_limited():
    door = HotDoor(judge, limit=RateLimit(1))
    learn(door.table("home"), ask())
    assert all(door.answer(HOME, ask(), 100) for _ in range(50))


def test_hits_are_counted_by_client_and_by_answer():
    door = HotDoor(judge, limit=RateLimit(100))
    for view in ("home", "guests"):
        learn(door.table(view), ask())
    for client, times in ((HOME, 3), (GUEST, 2)):
        for _ in range(times):
            door.answer(client, ask(), 100)
        assert door.answer(client, ask("miss.example"), 100) is None
    assert door.harvest_clients() == {HOME: 3, GUEST: 2}
    assert door.harvest_clients() == {}
    assert {view: harvested(table) for view, table in door.tables()} == {
        "home": [("www.example", 3)],
        "guests": [("www.example", 2)],
    }
    door.answer(HOME, ask(), 100)
    door.forget_clients()
    door.table("home").clear()
    assert door.harvest_clients() == {HOME: 1}
    assert harvested(door.table("home")) == [("www.example", 1)]


def test_hits_are_harvested_as_far_as_they_are_fetched():
    table = HotTable(1 << 20)
    for name in ("a.example", "b.example"):
        learn(table, ask(name))
        table.add_hits(ask(name), 2)
    table.clear()
    entry, times = next(table.harvest())
    assert (entry.about, times) == ((name_wire("a.example"), 1), 2)
    assert harvested(table) == [("b.example", 2)]
    assert harvested(table) == []


def test_the_journal_tells_each_hit():
    door = HotDoor(judge)
    learn(door.table("home"), ask())
    door.journal = []
    door.answer(HOME, ask(), 100)
    door.answer(HOME, ask("miss.example"), 100)
    assert [(client.address, entry.label) for client, entry in door.journal] == [(HOME, "www.example")]


def test_clients_are_judged_anew_when_told():
    allowed = {HOME}
    door = HotDoor(lambda address: Admission("home") if address in allowed else None)
    learn(door.table("home"), ask())
    assert door.answer(HOME, ask(), 100) != SILENCE
    allowed.clear()
    allowed.add(GUEST)
    door.forget_clients()
    refused, told = door.answer(HOME, ask(), 100), door.answer(GUEST, ask(), 100)
    assert refused
    assert refused[3] & 0xF == 5
    assert told
    assert told[3] & 0xF == 0


def test_forged_clients_do_not_fill_the_house():
    judged = 0

    def count(address: bytes) -> Admission | None:
        nonlocal judged
        judged += 1
        return Admission("home") if address[0] == 10 else None

    door = HotDoor(count)
    learn(door.table("home"), ask())
    mine = socket.inet_aton("10.255.255.1")
    for number in range(3 * hot.MAX_CLIENTS):
        door.answer(bytes((10 + number % 2,)) + number.to_bytes(3), ask(), 100)
        if number % 1000 == 0:
            assert door.answer(mine, ask(), 100)
    assert len(door.clients) <= hot.MAX_CLIENTS
    assert sum(door.harvest_clients().values()) == 3 * hot.MAX_CLIENTS // 2 + 25
    assert judged == 3 * hot.MAX_CLIENTS + 1
