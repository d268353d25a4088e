"""Replies of upstreams scrubbed, and dressed for clients; read again by dnspython."""

from __future__ import annotations

from collections.abc import Callable

import dns.edns
import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.edns import Edns
from cyfs_ns.errors import BadWire
from cyfs_ns.query import Query, build_upstream_query, read_query
from cyfs_ns.reply import Reply, Shape, make_reply, read_reply, records, render, rewritten, shape_of, with_ttls
from cyfs_ns.wire import HEADER, Record, name_text, name_wire

WWW, NET, COM = name_wire("www.example.com"), name_wire("a.example.net"), name_wire("example.com")
QUESTION = WWW + b"\0\1\0\1"
SPELT = b"\x03wWw\x07eXample\x03cOm\0"
SOA = "example.com. 900 IN SOA ns.example.com. root.example.com. 1 2 3 4 120"
SIGNATURE = "300 IN RRSIG A 8 3 300 20300101000000 20200101000000 1 example.com. abcd"


def asked(rtype: int = 1, *, name: bytes = WWW, flags: int = 0x0100, edns: Edns | None = None) -> Query:
    question = name + rtype.to_bytes(2) + b"\0\1"
    return Query(0xBEEF, flags, question, name.lower(), rtype, 1, edns, 12 + len(question))


def upstream(
    answer: str = "", authority: str = "", additional: str = "", *, rtype: int = 1, rcode: int = 0, flags: int = 0x8180
) -> dns.message.Message:
    """A reply in zone-file lines, one record after the other as written."""
    message = dns.message.make_query(dns.name.from_wire(WWW, 0)[0], rtype, id=7)
    for section, lines in ((message.answer, answer), (message.authority, authority), (message.additional, additional)):
        for line in filter(None, map(str.strip, lines.splitlines())):
            owner, ttl, rclass, kind, data = line.split(maxsplit=4)
            section.append(dns.rrset.from_text(owner, int(ttl), rclass, kind, data))
    message.flags = flags
    message.set_rcode(rcode)
    return message


def read(message: dns.message.Message, rtype: int = 1, *, do: bool = False) -> Reply:
    return read_reply(message.to_wire(), WWW, rtype, 1, 7, do=do)


def owners(reply: Reply, section: int = 0) -> list[tuple[str, int]]:
    return [(name_text(record[0]), record[1]) for record in records(reply, section)]


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_an_everyday_reply() -> None:
    reply = read(
        upstream("www.example.com. 300 IN CNAME a.Example.NET.\n a.Example.NET. 20 IN A 192.0.2.1", flags=0x85A0)
    )
    assert list(records(reply, 0)) == [
        (WWW, 5, 300, b"\1a\7Example\3NET\0"),
        (NET, 1, 20, bytes([192, 0, 2, 1])),
    ]
    assert (reply.question, reply.rcode, reply.counts, reply.ttl) == (QUESTION, 0, (2, 0, 0), 20)
    assert reply.flags == 0x00A0, "AD and RA stay, AA is not ours to claim"
    assert (reply.ede, reply.ecs_scope, reply.truncated) == ((), None, False)


def test_what_does_not_answer_is_left_out() -> None:
    reply = read(
        upstream(
            """www.example.com. 300 IN CNAME a.example.net.
            bank.example. 300 IN A 192.0.2.66
            a.example.net. 20 IN A 192.0.2.1
            a.example.net. 20 IN AAAA 2001:db8::1
            www.example.com. 300 IN A 192.0.2.66
            www.example.com. 300 IN CNAME bank.example.
            a.example.net. 20 CH A bank.example. 60
            a.example.net. 20 IN RRSIG A 8 3 300 20300101000000 20200101000000 1 example.net. abcd""",
            "com. 900 IN NS bank.example.\n example.com. 900 IN NS ns.example.com.\n" + SOA,
            "bank.example. 900 IN A 192.0.2.66\n ns.example.com. 900 IN A 192.0.2.67",
        )
    )
    assert owners(reply) == [("www.example.com", 5), ("a.example.net", 1)]
    assert reply.counts == (2, 0, 0)
    assert [record[3] for record in records(reply, 0)] == [NET, bytes([192, 0, 2, 1])]


def test_aliases_may_come_in_any_order_and_twice() -> None:
    reply = read(
        upstream(
            """c.example.org. 20 IN A 192.0.2.1
            b.example.org. 30 IN CNAME c.example.org.
            www.example.com. 40 IN CNAME b.example.org.
            c.example.org. 20 IN A 192.0.2.1"""
        )
    )
    assert owners(reply) == [("c.example.org", 1), ("b.example.org", 5), ("www.example.com", 5)]


@pytest.mark.parametrize(
    "answer",
    [
        "www.example.com. 5 IN CNAME www.example.com.",
        "www.example.com. 5 IN CNAME b.example.com.\n b.example.com. 5 IN CNAME www.example.com.",
        "www.example.com. 5 IN CNAME n1.\n" + "\n".join(f"n{n}. 5 IN CNAME n{n + 1}." for n in range(1, 20)),
    ],
)
def test_aliases_that_go_round_are_refused(answer: str) -> None:
    with pytest.raises(BadWire):
        read(upstream(answer))
    assert read(upstream(answer, rtype=5), 5).counts == (1, 0, 0), "asked for the alias itself, it is an answer"


def test_a_renamed_tree_keeps_its_dname() -> None:
    reply = read(
        upstream(
            """example.com. 50 IN DNAME example.net.
            www.example.com. 0 IN CNAME www.example.net.
            www.example.net. 60 IN A 192.0.2.1
            other.org. 50 IN DNAME example.net.
            www.example.com. 50 IN DNAME example.net."""
        )
    )
    assert owners(reply) == [("example.com", 39), ("www.example.com", 5), ("www.example.net", 1)]
    assert reply.ttl == 0


def test_any_brings_all_of_the_name() -> None:
    lines = "www.example.com. 50 IN TXT a\n www.example.com. 40 IN CNAME b.\n b. 1 IN A 192.0.2.1"
    reply = read(upstream(lines, rtype=255), 255)
    assert owners(reply) == [("www.example.com", 16), ("www.example.com", 5)] and reply.ttl == 40


def test_an_opt_is_no_answer_even_to_any() -> None:
    wire = b"\0\7\x81\x80\0\1\0\1\0\0\0\0" + b"\0\0\xff\0\1" + b"\0\0\x29\0\1\0\0\0\0\0\0"
    assert read_reply(wire, b"\0", 255, 1, 7).counts == (0, 0, 0)


@pytest.mark.parametrize(
    ("answer", "authority", "rcode", "ttl", "kept"),
    [
        ("", SOA, 3, 120, 1),
        ("", SOA, 0, 120, 1),
        ("", SOA.replace("900", "60"), 3, 60, 1),
        ("", "", 3, 0, 0),
        ("", "example.com. 900 IN NS ns.example.com.", 0, 0, 0),
        ("", SOA.replace("example.com. 900", "example.org. 900"), 3, 0, 0),  # not above the name
        ("www.example.com. 50 IN CNAME b.example.com.", SOA, 3, 50, 1),
        ("www.example.com. 500 IN CNAME b.example.com.", SOA, 0, 120, 1),
        ("www.example.com. 500 IN CNAME b.example.com.", "", 0, 0, 0),
        ("www.example.com. 500 IN A 192.0.2.1", SOA, 0, 500, 0),
        ("", SOA, 2, 0, 1),
        ("", "", 5, 0, 0),
        ("www.example.com. 9000000 IN A 192.0.2.1", "", 0, 604800, 0),
    ],
)
def test_for_how_long_it_may_be_kept(answer: str, authority: str, rcode: int, ttl: int, kept: int) -> None:
    reply = read(upstream(answer, authority, rcode=rcode))
    assert (reply.rcode, reply.ttl, reply.counts[1]) == (rcode, ttl, kept)


def test_a_ttl_with_the_top_bit_means_nought() -> None:
    wire = bytearray(upstream("www.example.com. 5 IN A 192.0.2.1").to_wire())
    wire[-10] = 0x80
    reply = read_reply(bytes(wire), WWW, 1, 1, 7)
    assert [record[2] for record in records(reply, 0)] == [0] and reply.ttl == 0


def test_records_of_dnssec_come_only_to_those_who_asked() -> None:
    message = upstream(
        f"www.example.com. 5 IN A 192.0.2.1\n www.example.com. {SIGNATURE}\n b.example.com. {SIGNATURE}",
        f"ns.example.com. 60 IN NSEC zz.example.com. A\n ns.example.com. {SIGNATURE}\n com. 9 IN NS ns.com.",
    )
    assert read(message).counts == (1, 0, 0)
    reply = read(message, do=True)
    assert (owners(reply), [rtype for _, rtype in owners(reply, 1)]) == (
        [("www.example.com", 1), ("www.example.com", 46)], [47, 46],
    )  # fmt: skip
    assert read(upstream(f"www.example.com. {SIGNATURE}", rtype=46), 46).counts == (1, 0, 0), "asked for by name"


def test_edns_of_the_upstream() -> None:
    message = upstream("www.example.com. 5 IN A 192.0.2.1")
    ecs = dns.edns.ECSOption("192.0.2.0", 24, 20)
    message.use_edns(0, 0, 1232, options=[dns.edns.EDEOption(22, "slow"), ecs, dns.edns.EDEOption(3)])
    message.set_rcode(16)
    reply = read(message)
    assert (reply.rcode, reply.ede, reply.ecs_scope) == (16, ((22, "slow"), (3, "")), 20)
    opt = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"
    wire = bytearray(upstream().to_wire())
    wire[11] = 2
    with pytest.raises(BadWire):
        read_reply(bytes(wire) + opt * 2, WWW, 1, 1, 7)


def test_whose_reply_it_is() -> None:
    query = build_upstream_query(WWW, 1, 1, 7, mixed_case=SPELT)
    wire = query[:2] + b"\x81\x80" + query[4:11] + b"\0" + query[12 : 12 + len(QUESTION)]
    assert read_reply(wire, WWW, 1, 1, 7, exact_case=SPELT).counts == (0, 0, 0)
    assert read_reply(wire, WWW, 1, 1, 7).counts == (0, 0, 0)
    for args in ((WWW, 1, 1, 8), (WWW, 28, 1, 7), (WWW, 1, 3, 7), (NET, 1, 1, 7)):
        with pytest.raises(BadWire):
            read_reply(wire, *args)
    with pytest.raises(BadWire):
        read_reply(wire, WWW, 1, 1, 7, exact_case=WWW)
    with pytest.raises(BadWire):
        read_reply(query, WWW, 1, 1, 7)  # our own, reflected
    with pytest.raises(BadWire):
        read_reply(wire[:2] + b"\xa8\0" + wire[4:], WWW, 1, 1, 7)  # another opcode
    https = b"\3www\0\0A\0\1"
    with pytest.raises(BadWire):
        read_reply(b"\0\7\x81\x80\0\1" + bytes(6) + https.lower(), b"\3www\0", 65, 1, 7)  # the type is not text


def test_a_truncated_reply_is_read_no_further_than_its_question() -> None:
    wire = bytearray(upstream("www.example.com. 5 IN A 192.0.2.1").to_wire()[:-3])
    wire[2] |= 2
    reply = read_reply(bytes(wire), WWW, 1, 1, 7)
    assert reply.truncated and (reply.body, reply.ttl) == (b"", 0)


def test_a_server_that_could_not_read_us_may_leave_the_question_out() -> None:
    assert read_reply(bytes.fromhex("0007 8181 0000 0000 0000 0000"), WWW, 1, 1, 7).rcode == 1
    for bad in ("0007 8180 0000 0000 0000 0000", "0007 8181 0000 0001 0000 0000", "0007 8181 0002 0000 0000 0000"):
        with pytest.raises(BadWire):
            read_reply(bytes.fromhex(bad), WWW, 1, 1, 7)


# -- made by us, and rewritten ----------------------------------------------------------------------------------------


def test_replies_of_our_own() -> None:
    answer = [(WWW, 5, 300, NET), (NET, 1, 20, b"abcd")]
    reply = make_reply(SPELT + b"\0\1\0\1", aa=True, ra=False, answer=answer, additional=[(NET, 28, 9, bytes(16))])
    assert (reply.question, reply.flags, reply.counts, reply.ttl) == (QUESTION, 0x0400, (2, 0, 1), 20)
    assert list(records(reply, 0)) == answer
    short = rewritten(reply, answer=answer[:1])
    assert (list(records(short, 0)), list(records(short, 2))) == (answer[:1], [(NET, 28, 9, bytes(16))])
    assert short.ttl == 0, "an alias to nothing, and no SOA to say for how long"
    soa = (COM, 6, 900, b"\0\0" + bytes(16) + (77).to_bytes(4))
    assert make_reply(QUESTION, rcode=3, authority=[soa]).ttl == 77
    assert make_reply(QUESTION, rcode=2, authority=[soa]).ttl == 0
    assert [record[2] for record in records(with_ttls(reply, 50, 100), 0)] == [100, 50]
    assert with_ttls(reply, 50, 100).ttl == 50


def test_a_name_of_the_house_may_have_more_records_than_strangers_may_send() -> None:
    answer = [(WWW, 1, 5, n.to_bytes(4)) for n in range(2000)]
    reply = make_reply(QUESTION, answer=answer, additional=answer[:1])
    assert list(records(reply, 0)) == answer
    query = asked()
    assert render(reply, query, shape_of(query, limit=1232))[2] & 2
    assert len(render(reply, query, Shape(len(reply.body)))) < len(reply.body)


@settings(max_examples=100)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 400))
def test_what_is_rendered_is_read_back_alike(an: int, ns: int, ar: int, age: int) -> None:
    sections = [[(WWW, 1, 100 * n, bytes([1, 2, 3, n])) for n in range(count)] for count in (an, ns, ar)]
    reply = make_reply(QUESTION, answer=sections[0], authority=sections[1], additional=sections[2])
    query = asked(name=SPELT, edns=Edns(1232, 0, False, ()))
    message = dns.message.from_wire(
        bytes(render(reply, query, shape_of(query, limit=1232), age)), one_rr_per_rrset=True
    )
    for theirs, ours in zip((message.answer, message.authority, message.additional), sections, strict=True):
        assert [(rrset.name.to_wire(), rrset.ttl, rrset[0].to_wire()) for rrset in theirs] == [
            (SPELT, max(0, ttl - age), data) for _, _, ttl, data in ours
        ]
    assert message.id == 0xBEEF


# -- dressed for a client ---------------------------------------------------------------------------------------------

REPLY = make_reply(QUESTION, answer=[(WWW, 1, 300, b"abcd")])


@pytest.mark.parametrize("flags", [0, 0x0100, 0x0010, 0x0020, 0x0130, 0x0040])
@pytest.mark.parametrize("do", [None, False, True])
def test_flags_follow_the_client(flags: int, do: bool | None) -> None:
    query = asked(flags=flags, edns=None if do is None else Edns(4096, 0, do, ()))
    wire = render(REPLY._replace(flags=0x00A0), query, shape_of(query, limit=1232))
    got = int.from_bytes(wire[2:4])
    assert got & 0x0110 == flags & 0x0110
    assert got & 0x8680 == 0x8080 and not got & 0x0040
    assert bool(got & 0x20) == (bool(flags & 0x20) or bool(do)), "AD only to those it means something to"
    message = dns.message.from_wire(bytes(wire))
    assert (message.edns, message.ednsflags) == (-1 if do is None else 0, 0x8000 if do else 0)


def test_stale_answers_say_thirty() -> None:
    query = asked()
    reply = make_reply(QUESTION, answer=[(WWW, 1, 300, b"abcd"), (WWW, 1, 3600, b"wxyz")])
    message = dns.message.from_wire(
        bytes(render(reply, query, shape_of(query), 1000, ttl_min=30)), one_rr_per_rrset=True
    )
    assert [rrset.ttl for rrset in message.answer] == [30, 2600]


def test_codes_that_need_edns() -> None:
    reply = make_reply(QUESTION, rcode=23)
    for opt, want in ((None, 2), (Edns(512, 0, False, ()), 23)):
        query = asked(edns=opt)
        wire = render(reply, query, shape_of(query))
        assert wire[3] & 0xF == want & 0xF
        if opt is not None:
            assert wire[-6] == 1


def test_explanations_cookies_and_keepalive_go_into_opt() -> None:
    cookie = bytes(range(24))
    query = asked(edns=Edns(1232, 0, False, ((11, b""), (10, cookie[:8]))))
    reply = REPLY._replace(ede=((15, "on a list"), (3, "")))
    message = dns.message.from_wire(bytes(render(reply, query, shape_of(query, cookie=cookie, keepalive=300))))
    assert [(int(option.otype), option.to_wire()) for option in message.options] == [
        (15, b"\0\x0fon a list"), (15, b"\0\x03"), (10, cookie), (11, b"\x01\x2c"),
    ]  # fmt: skip
    bare = asked()
    assert dns.message.from_wire(bytes(render(reply, bare, shape_of(bare, cookie=cookie, keepalive=300)))).edns == -1
    quiet = asked(edns=Edns(1232, 0, False, ()))
    assert not dns.message.from_wire(bytes(render(REPLY, quiet, shape_of(quiet, pad=True, keepalive=300)))).options


@settings(max_examples=100)
@given(st.integers(0, 120), st.sampled_from([None, 1232, 512]))
def test_padding(size: int, limit: int | None) -> None:
    query = asked(edns=Edns(600, 0, False, ((12, b""),)))
    reply = make_reply(QUESTION, answer=[(WWW, 16, 5, bytes((size,)) + bytes(size))] * 3)
    shape = shape_of(query, limit=limit, pad=True)
    wire = render(reply, query, shape)
    assert len(wire) % 468 == 0 or len(wire) == shape.limit
    assert dns.message.from_wire(bytes(wire)).answer[0].to_rdataset()


def test_the_limit_is_the_smaller_of_what_both_take() -> None:
    for size, ours, want in (
        (None, 1232, 512),
        (100, 1232, 512),
        (4096, 1232, 1232),
        (1400, 4096, 1400),
        (0, None, 0xFFFF),
    ):
        assert shape_of(asked(edns=None if size is None else Edns(size, 0, False, ())), limit=ours).limit == want
    assert shape_of(asked()).limit == 0xFFFF


@pytest.mark.parametrize(
    ("count", "more", "tc", "left"), [(20, 0, False, (20, 0)), (25, 10, False, (25, 0)), (40, 0, True, (0, 0))]
)
@pytest.mark.parametrize("opt", [None, Edns(512, 0, True, ())])
def test_over_the_limit(count: int, more: int, tc: bool, left: tuple[int, int], opt: Edns | None) -> None:
    answer: list[Record] = [(WWW, 1, 5, bytes([1, 2, 3, n])) for n in range(count)]
    reply = make_reply(QUESTION, answer=answer, additional=[(WWW, 28, 5, bytes(15) + bytes([n])) for n in range(more)])
    query = asked(edns=opt)
    wire = render(reply, query, shape_of(query, limit=1232), 3)
    message = dns.message.from_wire(bytes(wire), one_rr_per_rrset=True)
    assert len(wire) <= 512
    assert (bool(message.flags & dns.flags.TC), (len(message.answer), len(message.additional))) == (tc, left)
    assert all(rrset.ttl == 2 for rrset in message.answer)
    assert message.question[0].name.to_wire() == WWW
    assert (message.edns, message.ednsflags) == ((-1, 0) if opt is None else (0, 0x8000))


def test_explanations_give_way_before_the_question() -> None:
    name = b"\x3f" + b"a" * 63 + b"\x3f" + b"b" * 63 + b"\x3f" + b"c" * 63 + b"\0"
    reply = make_reply(name + b"\0\1\0\1", rcode=2, ede=((0, "x" * 120),) * 4)
    query = asked(name=name, edns=Edns(512, 0, False, ()))
    wire = render(reply, query, shape_of(query, limit=1232))
    assert len(wire) <= 512 and dns.message.from_wire(bytes(wire)).rcode() == 2


# -- octets nobody meant ----------------------------------------------------------------------------------------------

RICH = upstream(
    f"""www.example.com. 300 IN CNAME a.example.com.
    a.example.com. 20 IN A 192.0.2.1
    a.example.com. 20 IN A 192.0.2.2
    a.example.com. {SIGNATURE}
    example.com. 20 IN DNAME example.com.""",
    SOA + "\nns.example.com. 60 IN NSEC zz.example.com. A",
).to_wire()


def a_value_or_bad_wire(wire: bytes, rtype: int = 1) -> Reply | None:
    try:
        reply = read_reply(wire, WWW, rtype, 1, 7, do=True)
    except BadWire:
        return None
    query = asked(rtype, edns=Edns(1232, 0, True, ()))
    rendered = bytes(render(reply, query, shape_of(query)))
    told = dns.message.from_wire(rendered[:2] + rendered[2:], one_rr_per_rrset=True, continue_on_error=True)
    assert tuple(map(len, (told.answer, told.authority))) == reply.counts[:2] or told.errors
    assert not any(reply.counts) or not reply.truncated
    # Scrubbing what is scrubbed changes nothing.
    if reply.rcode < 16 and not reply.truncated:
        again = read_reply(b"\0\7" + rendered[2:], WWW, rtype, 1, 7, do=True)
        assert again._replace(flags=reply.flags, ecs_scope=reply.ecs_scope) == reply
    return reply


@settings(max_examples=200)
@given(
    st.sampled_from([1, 28]),
    st.lists(st.tuples(st.sampled_from([0, 60, 604801, 1 << 31]), st.integers(0, 3)), min_size=1, max_size=4),
    st.sampled_from([b"", b"\0\0\x29\4\xd0\0\0\0\0\0\0"]),
    st.lists(st.tuples(st.integers(0, 120), st.sampled_from([0, 1, 12, 0xC0, 0xFF])), max_size=3),
    st.integers(0, 120),
)
def test_plain_addresses_are_read_as_all_else_is(
    rtype: int, told: list[tuple[int, int]], opt: bytes, changes: list[tuple[int, int]], lost: int
) -> None:
    wire = bytearray(HEADER.pack(7, 0x8180, 1, len(told), 0, 1 if opt else 0) + WWW + rtype.to_bytes(2) + b"\0\1")
    size = 4 if rtype == 1 else 16
    for ttl, last in told:
        wire += b"\xc0\x0c" + rtype.to_bytes(2) + b"\0\1" + ttl.to_bytes(4) + size.to_bytes(2)
        wire += bytes(size - 1) + bytes((last,))
    wire += opt
    for at, octet in changes:
        wire[at % len(wire)] = octet
    if lost < 20:
        del wire[len(wire) - lost :]

    def outcome() -> Reply | str:
        try:
            return read_reply(bytes(wire), WWW, rtype, 1, 7)
        except BadWire as fault:
            return str(fault)

    quickly = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cyfs_ns.reply._ADDRESSES", {})
        assert outcome() == quickly


def test_every_prefix_is_bad_wire() -> None:
    assert a_value_or_bad_wire(RICH) is not None
    assert [size for size in range(len(RICH)) if a_value_or_bad_wire(RICH[:size]) is not None] == []


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(2, len(RICH) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_spoilt_reply_is_a_value_or_bad_wire(changes: list[tuple[int, int]]) -> None:
    wire = bytearray(RICH)
    for at, octet in changes:
        wire[at] = octet
    a_value_or_bad_wire(bytes(wire))


@settings(max_examples=200)
@given(st.integers(0, 60), st.binary(max_size=60), st.binary(max_size=100))
def test_any_octets_are_a_value_or_bad_wire(rtype: int, rdata: bytes, tail: bytes) -> None:
    a_value_or_bad_wire(tail)
    question = WWW + rtype.to_bytes(2) + b"\0\1"
    head = b"\0\7\x81\x80\0\1\0\1\0\0\0\0" + question
    a_value_or_bad_wire(
        head + b"\xc0\x0c" + rtype.to_bytes(2) + b"\0\1\0\0\0\5" + len(rdata).to_bytes(2) + rdata, rtype
    )
    a_value_or_bad_wire(head + tail, rtype)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_octets_may_come_in_any_vessel(kind: Callable[[bytes], bytes]) -> None:
    assert read_reply(kind(RICH), WWW, 1, 1, 7) == read_reply(RICH, WWW, 1, 1, 7)
    query = build_upstream_query(WWW, 1, 1, 7)
    assert read_query(kind(query)) == read_query(query)


def test_many_records_whose_names_grow_when_written_out() -> None:
    """512 names of 255 octets behind pointers no longer fit a message: the client is told so, nothing breaks."""
    long = (b"\x3e" + b"a" * 62) * 4 + b"\0"
    question = WWW + b"\0\x21\0\1"
    first = b"\xc0\x0c\0\x21\0\1\0\0\0\5" + (6 + len(long)).to_bytes(2) + bytes(6) + long
    at = 12 + len(question) + 12 + 6
    rest = b"".join(
        b"\xc0\x0c\0\x21\0\1\0\0\0\5\0\x08\0\0" + n.to_bytes(4) + (0xC000 | at).to_bytes(2) for n in range(1, 512)
    )
    reply = read_reply(b"\0\7\x81\x80\0\1\2\0\0\0\0\0" + question + first + rest, WWW, 33, 1, 7)
    assert reply.counts == (512, 0, 0) and len(reply.body) > 0xFFFF
    query = asked(33)
    assert dns.message.from_wire(bytes(render(reply, query, shape_of(query)))).flags & dns.flags.TC
