"""Which answer fills which sets, as a table; the kernel does not come into it."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import ConfigFault
from cyfs_ns.reply import make_reply
from cyfs_ns.routersets import (
    Lifetimes,
    SetRule,
    SetRules,
    dnsmasq_ipset,
    dnsmasq_nftset,
    ipset_target,
)
from cyfs_ns.wire import name_wire

A, AAAA, CNAME, TXT = 1, 28, 5, 16
V4, V6 = socket.inet_aton("192.0.2.1"), socket.inet_pton(socket.AF_INET6, "2001:db8::1")


def reply(name, *records, rcode=0, rtype=A):
    question = name_wire(name) + rtype.to_bytes(2) + b"\0\1"
    return make_reply(question, rcode=rcode, answer=[(name_wire(owner), *rest) for owner, *rest in records])


def names_of(rules, name):
    return [target.name for target in rules.targets(name_wire(name))]


def test_dnsmasqs_line_is_read():
    rule = dnsmasq_nftset("/a.example/.b.example/4#inet#fw4#vpn,6#inet#fw4#vpn6,fw#old")
    assert rule.patterns == ("+.a.example", "+.b.example")
    assert [(t.only, t.family, t.table, t.name) for t in rule.targets] == [
        (4, "inet", "fw4", "vpn"),
        (6, "inet", "fw4", "vpn6"),
        (0, "ip", "fw", "old"),
    ]
    assert dnsmasq_ipset("/a.example/one,two").targets == (ipset_target("one"), ipset_target("two"))


@pytest.mark.parametrize("text", ["/#/x", "x", "//x", "/a.example//x"])
def test_a_rule_may_be_for_every_name(text):
    assert names_of(SetRules([dnsmasq_ipset(text)]), "any.example.org") == ["x"]


@pytest.mark.parametrize(
    "text",
    ["/a.example/", "/a.example/x y", "/a.example/set", "/a.example/4#set", "/a/5#inet#t#s", "/a/arp#t#s", "/a/t#"],
)
def test_what_names_no_nft_set_is_told_with_the_rule(text):
    with pytest.raises(ConfigFault, match=f"nftset {text}".replace("#", ".")):
        dnsmasq_nftset(text)


@pytest.mark.parametrize("text", ["/a.example/", "/a.example/x,", "/a.example/" + "x" * 32])
def test_what_names_no_ipset_is_told_with_the_rule(text):
    with pytest.raises(ConfigFault, match=r"ipset /a\.example"):
        dnsmasq_ipset(text)


def test_a_bad_domain_is_told():
    with pytest.raises(ConfigFault, match="b d"):
        SetRules([dnsmasq_ipset("/b d/x")])


def test_the_most_specific_rule_counts_and_equal_ones_add_up():
    rules = SetRules(
        [
            dnsmasq_ipset("/#/all"),
            dnsmasq_ipset("/example/wide"),
            dnsmasq_ipset("/shop.example/one,two"),
            dnsmasq_ipset("/shop.example/three,one"),
            SetRule(("*.star.example", "only.example"), (ipset_target("pattern"),)),
        ]
    )
    assert names_of(rules, "www.shop.example") == ["one", "two", "three"]
    assert names_of(rules, "shop.example") == ["one", "two", "three"]
    assert names_of(rules, "workshop.example") == ["wide"]
    assert names_of(rules, "www.star.example") == ["pattern"]
    assert names_of(rules, "star.example") == ["wide"]
    assert names_of(rules, "only.example") == ["pattern"]
    assert names_of(rules, "elsewhere.test") == ["all"]


def test_nftables_and_ipset_are_matched_each_on_its_own():
    rules = SetRules([dnsmasq_ipset("/a.example/x"), dnsmasq_nftset("/example/t#s")])
    assert names_of(rules, "a.example") == ["s", "x"]


def test_subject_are_names_with_a_rule():
    rules = SetRules([dnsmasq_ipset("/a.example/x")])
    assert rules.subject(name_wire("www.a.example"))
    assert not rules.subject(name_wire("example"))
    assert not SetRules([]).subject(b"\0")


def test_addresses_at_the_end_of_aliases_count_for_the_asked_name():
    rules = SetRules([dnsmasq_nftset("/a.example/4#inet#t#four,6#inet#t#six,inet#t#both")])
    answer = reply(
        "www.a.example",
        ("www.a.example", CNAME, 30, name_wire("cdn.test")),
        ("cdn.test", A, 600, V4),
        ("cdn.test", AAAA, 600, V6),
        ("cdn.test", TXT, 600, b"\1x"),
    )
    assert [(a.target.name, a.address, a.timeout, a.needed) for a in rules.additions(answer)] == [
        ("four", V4, 660, 600),
        ("both", V4, 660, 600),
        ("six", V6, 660, 600),
        ("both", V6, 660, 600),
    ]
    assert rules.additions(reply("cdn.test", ("cdn.test", A, 600, V4))) == ()


def test_an_error_adds_nothing():
    rules = SetRules([dnsmasq_ipset("/#/x")])
    assert rules.additions(reply("a.example", ("a.example", A, 60, V4), rcode=3)) == ()
    assert rules.additions(reply("a.example")) == ()


def test_age_shortens_the_life_and_limits_hold():
    rules = SetRules([dnsmasq_ipset("/#/x")], Lifetimes(margin=10, low=20, high=100))

    def lives(ttl, age=0):
        (addition,) = rules.additions(reply("a.example", ("a.example", A, ttl, V4)), age)
        return addition.timeout, addition.needed

    assert lives(60) == (70, 60)
    assert lives(60, 20) == (50, 40)
    assert lives(60, 600) == (20, 0)
    assert lives(3600) == (100, 90)


@given(st.integers(0, 604800), st.integers(0, 604800))
def test_an_answer_from_the_cache_needs_no_second_write_until_the_limit_bites(ttl, age):
    rules = SetRules([dnsmasq_ipset("/#/x")])
    answer = reply("a.example", ("a.example", A, ttl, V4))
    (first,), (later,) = rules.additions(answer), rules.additions(answer, age)
    assert later.needed <= later.timeout
    if ttl + 60 <= 86400 and age <= ttl:
        assert first.timeout - age >= later.needed


@pytest.mark.parametrize("values", [(0, 1, 2), (5, 0, 9), (5, 9, 8), (9, 1, 9), (1, 2, 1_000_001)])
def test_lifetimes_make_sense(values):
    with pytest.raises(ConfigFault, match="lifetimes"):
        Lifetimes(*values)
