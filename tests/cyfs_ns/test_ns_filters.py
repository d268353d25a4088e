"""Answers of upstreams: what is taken out, what is changed, and what blocks the whole."""

from __future__ import annotations

from collections.abc import Sequence
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.domains import DomainMap
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.filters import (
    AnswerRules,
    Fate,
    Inspected,
    inspect,
    other_family,
    parse_addresses,
    parse_alias,
    yielded,
)
from cyfs_ns.judgement import PASS, Action, Judgement
from cyfs_ns.query import AD
from cyfs_ns.records import data_text, data_wire
from cyfs_ns.reply import Reply, make_reply, records
from cyfs_ns.svcb import read_service
from cyfs_ns.wire import Record, name_wire

A, CNAME, SOA, TXT, AAAA, RRSIG, SVCB, HTTPS = 1, 5, 6, 16, 28, 46, 64, 65
NAME = "www.a.example"


def reply(*answer: tuple[int, str], rtype: int = A, owner: str = NAME) -> Reply:
    made: list[Record] = [(name_wire(owner), kind, 300, data_wire(kind, text)) for kind, text in answer]
    return make_reply(name_wire(owner) + rtype.to_bytes(2, "big") + b"\x00\x01", answer=made)


def inspected(given: Reply, judge: Any = None, **rules: Any) -> Inspected:
    return inspect(given, NAME, AnswerRules(**rules), judge)


def told(given: Reply, section: int = 0) -> list[str]:
    return [data_text(rtype, rdata) for _, rtype, _, rdata in records(given, section)]


def refusing(*names: str) -> Any:
    def judge(name: str, rtype: int) -> Judgement:
        return Judgement(Action.BLOCK, "l", name, ede=15) if name in names else PASS

    return judge


def test_without_rules_an_answer_is_the_same_object():
    given = reply((CNAME, "b.example."), (A, "10.0.0.1"))
    assert inspected(given, refusing()).reply is given
    assert inspected(reply()).fate is Fate.KEPT


@pytest.mark.parametrize("named", ["c.example", "192.0.2.1"])
def test_a_blocked_alias_or_address_blocks_the_whole(named: str):
    given = reply((CNAME, "b.example."), (CNAME, "C.example."), (A, "192.0.2.1"))
    found = inspected(given, refusing(named))
    assert (found.fate, found.judgement.rule) == (Fate.BLOCKED, named)


def test_the_target_of_a_service_is_judged_like_an_alias():
    given = reply((HTTPS, "1 ads.example. alpn=h2"), rtype=HTTPS)
    assert inspected(given, refusing("ads.example")).fate is Fate.BLOCKED
    assert inspected(reply((HTTPS, "1 . alpn=h2"), rtype=HTTPS), refusing("")).fate is Fate.KEPT


def test_a_spared_alias_vouches_for_what_follows():
    def judge(name: str, rtype: int) -> Judgement:
        return Judgement(Action.ALLOW) if name == "b.example" else Judgement(Action.BLOCK)

    assert inspected(reply((CNAME, "b.example."), (CNAME, "c.example."), (A, "192.0.2.1")), judge).fate is Fate.KEPT


PRIVATE = [
    *("0.0.0.0", "0.1.2.3", "10.1.2.3", "127.0.0.1", "127.9.9.9", "169.254.1.1", "172.16.0.1", "172.31.255.255"),
    *("192.168.1.1", "255.255.255.255", "::", "::1", "fc00::1", "fdff::1", "fe80::1", "fec0::1"),
    *("::ffff:10.0.0.1", "::ffff:127.0.0.1", "::10.0.0.1", "64:ff9b::192.168.1.1"),
]
PUBLIC = ["1.1.1.1", "172.32.0.1", "192.169.0.1", "100.64.0.1", "2001:db8::1", "64:ff9b::1.1.1.1", "::ffff:1.1.1.1"]


@pytest.mark.parametrize("address", PRIVATE + PUBLIC)
def test_private_addresses_for_a_public_name_are_rebinding(address: str):
    rtype = AAAA if ":" in address else A
    hint = f"ipv{6 if ':' in address else 4}hint={address}"
    for made in (reply((rtype, address), rtype=rtype), reply((HTTPS, f"1 . {hint}"), rtype=HTTPS)):
        assert inspected(made).fate is Fate.KEPT
        found = inspected(made, rebind=True)
        assert (found.fate is Fate.BLOCKED) is (address in PRIVATE)
        if address in PRIVATE:
            assert found.judgement.list == "rebind-protection"
            spared = DomainMap({"+.a.example": True})
            assert inspected(made, rebind=True, rebind_spared=spared).fate is Fate.KEPT


def test_one_private_address_among_many_is_enough_and_loopback_may_be_let_through():
    given = reply((A, "192.0.2.1"), (A, "192.168.0.1"))
    assert inspected(given, rebind=True).fate is Fate.BLOCKED
    for address in ("127.0.0.2", "::1", "::ffff:127.0.0.1"):
        rtype = AAAA if ":" in address else A
        assert inspected(reply((rtype, address), rtype=rtype), rebind=True, rebind_localhost=True).fate is Fate.KEPT


def test_bogus_addresses_mean_that_there_is_no_such_name():
    rules = {"bogus": parse_addresses(["192.0.2.0/24", "2001:db8::1"])}
    found = inspected(reply((A, "192.0.2.77")), **rules)
    assert (found.fate, found.reply.rcode, told(found.reply)) == (Fate.CHANGED, 3, [])
    assert found.reply.ttl == 60
    assert inspected(reply((A, "192.0.3.1")), **rules).fate is Fate.KEPT


def test_answers_with_ignored_addresses_have_not_come():
    assert inspected(reply((A, "192.0.2.1")), ignored=parse_addresses(["192.0.2.1"])).fate is Fate.IGNORED


@pytest.mark.parametrize(
    ("alias", "before", "after"),
    [
        ("192.0.2.1,10.0.0.1", "192.0.2.1", "10.0.0.1"),
        ("192.0.2.1,10.0.0.1", "192.0.2.2", "192.0.2.2"),
        ("1.2.3.0,6.7.8.0,255.255.255.0", "1.2.3.56", "6.7.8.56"),
        ("192.168.0.10-192.168.0.40,10.0.0.0,255.255.255.0", "192.168.0.40", "10.0.0.40"),
        ("192.168.0.10-192.168.0.40,10.0.0.0,255.255.255.0", "192.168.0.41", "192.168.0.41"),
    ],
)
def test_addresses_are_translated_as_dnsmasq_does(alias: str, before: str, after: str):
    found = inspected(reply((A, before)), aliases=(parse_alias(alias),))
    assert told(found.reply) == [after]


def test_what_is_private_after_translation_is_the_owners_will():
    assert (
        inspected(reply((A, "192.0.2.1")), rebind=True, aliases=(parse_alias("192.0.2.1,10.0.0.1"),)).fate
        is Fate.CHANGED
    )


@pytest.mark.parametrize("text", ["", "1.2.3.4", "1.2.3.4,::1", "a,b", "1.2.3.4,1.2.3.5,1,2", "1.2.3.4-x,1.2.3.4"])
def test_translations_that_are_none(text: str):
    with pytest.raises(ConfigFault):
        parse_alias(text)


def test_addresses_that_are_none():
    with pytest.raises(ConfigFault):
        parse_addresses(["192.0.2.0/33"])


FULL = "1 . mandatory=alpn,ipv4hint alpn=h2 ipv4hint=192.0.2.1 ech=AAAA ipv6hint=2001:db8::1"


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({"hints": False}, "1 . mandatory=alpn alpn=h2 ech=AAAA"),
        ({"ech": False}, "1 . mandatory=alpn,ipv4hint alpn=h2 ipv4hint=192.0.2.1 ipv6hint=2001:db8::1"),
        ({"family": "ipv4"}, "1 . mandatory=alpn,ipv4hint alpn=h2 ipv4hint=192.0.2.1 ech=AAAA"),
        ({"dropped": frozenset({AAAA})}, "1 . mandatory=alpn,ipv4hint alpn=h2 ipv4hint=192.0.2.1 ech=AAAA"),
        ({"family": "ipv6", "ech": False}, "1 . mandatory=alpn alpn=h2 ipv6hint=2001:db8::1"),
        ({"family": "prefer-ipv4"}, FULL),
    ],
)
def test_hints_and_keys_are_taken_out_of_service_records(rules: dict[str, Any], kept: str):
    for rtype in (SVCB, HTTPS):
        found = inspected(reply((rtype, FULL), rtype=rtype), **rules)
        assert [rdata for *_, rdata in records(found.reply, 0)] == [data_wire(rtype, kept)]


def test_a_demand_for_hints_alone_goes_with_them():
    found = inspected(reply((HTTPS, "1 . mandatory=ipv4hint ipv4hint=192.0.2.1"), rtype=HTTPS), hints=False)
    assert told(found.reply) == [data_text(HTTPS, data_wire(HTTPS, "1 ."))]


def test_unwanted_types_are_empty_answers_that_can_be_kept():
    rules = {"dropped": frozenset({HTTPS})}
    found = inspected(reply((CNAME, "b.example."), (HTTPS, "1 ."), rtype=HTTPS), **rules)
    assert (found.fate, len(told(found.reply)), found.reply.ttl) == (Fate.CHANGED, 1, 60)
    assert [rtype for _, rtype, _, _ in records(found.reply, 1)] == [SOA]
    assert AnswerRules(**rules).refuses(HTTPS) and not AnswerRules(**rules).refuses(A)
    assert AnswerRules(family="ipv4").refuses(AAAA) and not AnswerRules(family="ipv4").refuses(A)
    assert AnswerRules(family="ipv6").refuses(A) and not AnswerRules(family="prefer-ipv6").refuses(A)


def test_signatures_over_what_was_changed_go_and_the_rest_is_no_longer_authentic():
    signature = "A 8 2 300 20260101000000 20250101000000 1 example. AAAA"
    given = reply((A, "192.0.2.1"), (RRSIG, signature), (RRSIG, signature.replace("A 8", "CNAME 8", 1)))
    given = given._replace(flags=given.flags | AD)
    found = inspected(given, aliases=(parse_alias("192.0.2.1,192.0.2.2"),))
    assert [text.split()[0] for text in told(found.reply)] == ["192.0.2.2", "CNAME"]
    assert not found.reply.flags & AD
    assert inspected(given).reply.flags & AD


def test_the_less_wanted_family_yields_when_the_other_is_there():
    assert (other_family(AAAA, "prefer-ipv4"), other_family(A, "prefer-ipv4")) == (A, None)
    assert (other_family(A, "prefer-ipv6"), other_family(AAAA, "both")) == (AAAA, None)
    six = reply((AAAA, "2001:db8::1"), rtype=AAAA)
    assert told(yielded(six, reply((CNAME, "b.example."), (A, "192.0.2.1")))) == []
    assert yielded(six, reply((CNAME, "b.example."))) is six
    assert yielded(six, None) is six
    assert yielded(six, make_reply(six.question, rcode=2)) is six


# --- strangers' bytes ------------------------------------------------------------------------------------------------


def test_broken_service_data_is_dropped_and_never_hides_an_address():
    good = data_wire(HTTPS, "1 . ipv4hint=192.0.2.1")
    for cut in range(len(good)):
        broken: Sequence[Record] = [(name_wire(NAME), HTTPS, 300, good[:cut])]
        given = make_reply(name_wire(NAME) + b"\x00\x41\x00\x01", answer=broken)
        try:
            read_service(good[:cut])
        except BadWire:
            assert told(inspected(given, hints=False).reply) == []


@settings(max_examples=200, deadline=None)
@given(rdata=st.binary(max_size=60))
def test_service_data_is_read_or_is_bad_wire(rdata: bytes):
    try:
        service = read_service(rdata)
    except BadWire:
        return
    assert service.without(()) == rdata
    assert all(len(address) in (4, 16) for address in service.addresses())
    read_service(service.without({4, 5, 6}))


OCTETS = st.sampled_from([b"\0", b"\x7f\0\0\1", bytes(15) + b"\1", bytes(10) + b"\xff\xff\x7f\0\0\1"])
RECORDS = st.one_of(
    st.tuples(st.just(A), st.one_of(OCTETS, st.binary(min_size=4)).map(lambda octets: octets[-4:].rjust(4))),
    st.tuples(st.just(AAAA), st.one_of(OCTETS, st.binary(min_size=16)).map(lambda octets: octets[-16:].rjust(16))),
    st.tuples(st.sampled_from([TXT, SVCB, HTTPS, RRSIG]), st.binary(max_size=40)),
)


@settings(max_examples=200, deadline=None)
@given(
    answer=st.lists(RECORDS, max_size=6),
    rules=st.fixed_dictionaries(
        {
            "rebind": st.booleans(),
            "hints": st.booleans(),
            "ech": st.booleans(),
            "family": st.sampled_from(["both", "ipv4", "ipv6", "prefer-ipv4"]),
            "dropped": st.frozensets(st.sampled_from([TXT, HTTPS])),
        }
    ),
)
def test_any_answer_comes_through_inspection_and_stays_through_a_second_one(
    answer: list[tuple[int, bytes]], rules: dict[str, Any]
):
    made: list[Record] = [(name_wire(NAME), rtype, 1, rdata) for rtype, rdata in answer]
    given = make_reply(name_wire(NAME) + b"\x00\x01\x00\x01", answer=made)
    found = inspected(given, refusing("192.0.2.1"), **rules)
    if found.fate is Fate.CHANGED:
        assert inspected(found.reply, refusing("192.0.2.1"), **rules).fate is Fate.KEPT
    if found.fate is not Fate.BLOCKED and rules["rebind"]:
        addresses = [rdata for _, rtype, _, rdata in records(found.reply, 0) if rtype in (A, AAAA)]
        assert inet_pton(AF_INET, "127.0.0.1") not in addresses
        assert inet_pton(AF_INET6, "::1") not in addresses
