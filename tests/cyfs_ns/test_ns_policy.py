"""Views: which client has which, what counts in it and when, and how what was judged is answered."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.blockanswer import Alias, BlockAnswer, Mode, answer_of
from cyfs_ns.errors import ConfigFault
from cyfs_ns.judgement import PASS, Action
from cyfs_ns.listcompile import ListSource, compile_lists
from cyfs_ns.lists import ListSet
from cyfs_ns.policy import Client, Pause, Policy, View, ViewSpec, normal_mac
from cyfs_ns.reply import Reply, records
from cyfs_ns.schedule import Schedule, parse_window
from cyfs_ns.wire import name_wire

A, CNAME, SOA, TXT, AAAA, HTTPS, ANY = 1, 5, 6, 16, 28, 65, 255
ADS = b"||ads.example^\n||shop.example^$client=192.0.2.7\n||toys.example^$ctag=user_child\n@@||good.ads.example^\n"
GAMES = b"games.example\n"
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()  # a Friday
MAC = "aa:bb:cc:dd:ee:ff"


def policy(*views: Mapping[str, Any], default: Mapping[str, Any] | None = None) -> Policy:
    lists = ListSet(
        compile_lists(
            [(ListSource(name="ads", format="adblock"), ADS), (ListSource(name="games", format="domains"), GAMES)]
        )
    )
    first = ViewSpec(**{"name": "", "lists": ("ads",), **(default or {})})
    return Policy([first, *(ViewSpec(**view) for view in views)], lists)


def view_of(made: Policy, ip: str, mac: str = "", *names: str, now: float = NOON) -> View:
    return made.view_of(Client(ip, mac, names), now)


def action(made: Policy, ip: str, name: str, rtype: int = A, now: float = NOON) -> Action:
    return made.judge(view_of(made, ip, now=now), name, rtype).action


def test_a_client_is_known_by_address_then_mac_then_name_then_longest_prefix():
    made = policy(
        {"name": "lan", "match": ("192.0.2.0/24", "2001:db8::/32")},
        {"name": "corner", "match": ("192.0.2.128/25",)},
        {"name": "tv", "match": ("AA-BB-CC-DD-EE-FF",)},
        {"name": "printer", "match": ("192.0.2.200", "2001:0DB8:0::9")},
        {"name": "phone", "match": ("Eves-Phone",)},
    )
    clients = {
        "lan": Client("192.0.2.1"),
        "corner": Client("192.0.2.129"),
        "printer": Client("192.0.2.200", MAC),
        "tv": Client("192.0.2.129", MAC, ("eves-phone",)),
        "phone": Client("192.0.2.129", "", ("x", "eves-phone")),
        "": Client("198.51.100.1"),
    }
    for name, client in clients.items():
        assert made.view_of(client, NOON).spec.name == name
    assert view_of(made, "2001:db8::5").spec.name == "lan"
    assert view_of(made, "2001:db8::9").spec.name == "printer"
    with pytest.raises(ConfigFault, match="not a prefix"):
        policy({"name": "x", "match": ("192.0.2.0/33",)})


@pytest.mark.parametrize(
    ("word", "enough"), [("192.0.2.0/24", True), ("2001:db8::9", True), (MAC, False), ("tv", False)]
)
def test_it_is_told_whether_addresses_alone_decide(word: str, enough: bool) -> None:
    nothing = ListSet(compile_lists(()))
    assert Policy([ViewSpec(name=""), ViewSpec(name="some", match=(word,))], nothing).by_address == enough


def test_rules_for_some_clients_need_more_than_addresses() -> None:
    assert not policy().by_address


def test_a_view_in_which_nothing_counts_is_silent() -> None:
    made = policy({"name": "free", "match": ("192.0.2.1",)}, {"name": "guest", "match": ("192.0.2.2",), "refuse": True})
    assert {ip: view_of(made, f"192.0.2.{ip}").silent for ip in (1, 2, 3)} == {1: True, 2: False, 3: False}


def test_views_of_the_same_kind_are_the_same_and_answers_may_be_shared():
    made = policy({"name": "lan", "match": ("192.0.2.0/24",)})
    assert view_of(made, "192.0.2.1") is view_of(made, "192.0.2.2")
    assert view_of(made, "192.0.2.7").key != view_of(made, "192.0.2.2").key  # a $client rule is for .7
    assert view_of(made, "192.0.2.1").key != view_of(made, "198.51.100.1").key


def test_client_and_tag_rules_are_for_those_they_name():
    made = policy({"name": "kids", "match": ("192.0.2.9",), "lists": ("ads",), "tags": ("user_child",)})
    assert action(made, "192.0.2.7", "shop.example") is Action.BLOCK
    assert action(made, "192.0.2.8", "shop.example") is Action.PASS
    assert action(made, "192.0.2.9", "toys.example") is Action.BLOCK
    assert action(made, "192.0.2.7", "toys.example") is Action.PASS


@pytest.mark.parametrize(
    ("who", "fits"),
    [
        ("192.0.2.0/24", True),
        ("~192.0.2.0/24", False),
        ("~198.51.100.1", True),
        ("kids", True),
        ("~Kids|192.0.2.0/24", False),
        ("mom|eves-phone", True),
        ("mom", False),
        (MAC.upper(), True),
    ],
)
def test_who_a_rule_is_for(who: str, fits: bool):
    kids = ViewSpec(name="kids", match=("192.0.2.9",), lists=("l",))
    lists = ListSet(compile_lists([(ListSource(name="l"), f"||a.example^$client={who}\n".encode())]))
    made = Policy([ViewSpec(name=""), kids], lists)
    view = made.view_of(Client("192.0.2.9", MAC, ("eves-phone",)), NOON)
    assert (made.judge(view, "a.example", A).action is Action.BLOCK) is fits


def test_own_rules_come_before_lists_and_everybodys_count_for_each():
    made = policy(
        {
            "name": "kids",
            "match": ("192.0.2.9",),
            "lists": ("ads", "games"),
            "allow": ("+.games.example",),
            "block": ("+.video.example", "||good.ads.example^"),
        },
        default={"block": ("evil.example",), "rewrites": {"+.nas.example": ("192.0.2.5", "2001:db8::5")}},
    )
    kid, other = view_of(made, "192.0.2.9"), view_of(made, "192.0.2.1")
    assert made.judge(kid, "games.example", A).action is Action.ALLOW
    judged = made.judge(kid, "x.video.example", A)
    assert (judged.action, judged.list, judged.rule, judged.ede) == (
        Action.BLOCK, "client kids block", "||video.example^", 17,
    )  # fmt: skip
    assert made.judge(kid, "good.ads.example", A).action is Action.BLOCK
    assert made.judge(other, "good.ads.example", A).action is Action.ALLOW
    assert made.judge(other, "x.video.example", A) is PASS
    for view in (kid, other):
        assert made.judge(view, "evil.example", A).ede == 15
        judged = made.judge(view, "www.nas.example", AAAA)
        assert judged.action is Action.REWRITE and len(judged.rewrites) == 2
        assert judged.rule == "+.nas.example: 192.0.2.5"


def test_all_rules_that_hold_can_be_told():
    made = policy(default={"block": ("+.ads.example",)})
    found = made.matches(view_of(made, "192.0.2.1"), "good.ads.example", A)
    assert [(match.list, match.text) for match in found] == [
        ("own block", "||ads.example^"),
        ("ads", "||ads.example^"),
        ("ads", "@@||good.ads.example^"),
    ]


def test_a_refused_client_is_refused_whatever_it_asks():
    made = policy({"name": "camera", "match": ("192.0.2.66",), "refuse": True})
    judged = made.judge(view_of(made, "192.0.2.66"), "a.example", A)
    assert judged.action is Action.REFUSE
    assert rcode(answer_of(judged, question("a.example", A), BlockAnswer())) == 5


def test_a_pause_blocks_everything_but_what_is_allowed_and_ends():
    night = Schedule((parse_window(["daily"], "21:00", "07:00"),), UTC)
    games = Schedule((parse_window(["fri"], "13:00", "14:00"),), UTC)
    made = policy(
        {
            "name": "kids",
            "match": ("192.0.2.9",),
            "lists": ("ads",),
            "allow": ("school.example",),
            "pauses": (Pause(when=night, name="bedtime"), Pause(when=games, lists=("games",))),
        }
    )
    late, hour = NOON + 10 * 3600, NOON + 3600
    assert action(made, "192.0.2.9", "a.example") is Action.PASS
    assert action(made, "192.0.2.9", "a.example", now=late) is Action.BLOCK
    assert made.judge(view_of(made, "192.0.2.9", now=late), "a.example", A).rule == "bedtime"
    assert action(made, "192.0.2.9", "school.example", now=late) is Action.ALLOW
    assert action(made, "192.0.2.1", "a.example", now=late) is Action.PASS
    assert action(made, "192.0.2.9", "games.example", now=hour - 1) is Action.PASS
    assert action(made, "192.0.2.9", "games.example", now=hour) is Action.BLOCK
    assert action(made, "192.0.2.9", "a.example", now=hour) is Action.PASS
    assert len({view_of(made, "192.0.2.9", now=now).key for now in (NOON, hour, late)}) == 3
    assert made.next_change(NOON) == hour
    assert made.next_change(hour + 3600) == NOON + 9 * 3600
    assert policy().next_change(NOON) is None


def test_faults_of_own_rules_come_all_at_once():
    with pytest.raises(ConfigFault, match=r"a b.*c d.*no day|a b.*c d") as caught:
        policy({"name": "x", "allow": ("c d",)}, default={"block": ("a b",), "rewrites": {"a.example": ("x y",)}})
    assert "a.example" in str(caught.value)


def test_macs_have_one_spelling():
    assert normal_mac("AA-BB-CC-DD-EE-FF") == MAC
    assert normal_mac("aa:bb:cc:dd:ee-ff") == normal_mac("eves-phone") == ""


# --- the answers -----------------------------------------------------------------------------------------------------


def question(name: str, rtype: int) -> bytes:
    return name_wire(name) + rtype.to_bytes(2, "big") + b"\x00\x01"


def rcode(reply: Reply | Alias) -> int:
    assert isinstance(reply, Reply)
    return reply.rcode


def told(reply: Reply | Alias, section: int = 0) -> list[tuple[int, bytes]]:
    assert isinstance(reply, Reply)
    return [(rtype, rdata) for _, rtype, _, rdata in records(reply, section)]


NULL4, NULL6 = bytes(4), bytes(16)


@pytest.mark.parametrize(
    ("mode", "rtype", "code", "answer"),
    [
        ("nxdomain", A, 3, []),
        ("nodata", A, 0, []),
        ("zero", A, 0, [(A, NULL4)]),
        ("zero", AAAA, 0, [(AAAA, NULL6)]),
        ("zero", HTTPS, 0, []),
        ("refused", A, 5, []),
        ("address", A, 0, [(A, bytes((192, 0, 2, 1))), (A, bytes((192, 0, 2, 2)))]),
        ("address", AAAA, 0, []),
    ],
)
def test_blocks_in_every_way(mode: Mode, rtype: int, code: int, answer: list[tuple[int, bytes]]):
    made = policy()
    judged = made.judge(view_of(made, "192.0.2.1"), "x.ads.example", rtype)
    how = BlockAnswer(mode=mode, addresses=("192.0.2.1", "192.0.2.2"), ttl=77)
    reply = answer_of(judged, question("x.ads.example", rtype), how)
    assert isinstance(reply, Reply)
    assert (reply.rcode, told(reply)) == (code, answer)
    assert reply.ede == ((15, "ads: ||ads.example^"),)
    if mode != "refused":
        assert reply.ttl == 77
        assert [rtype for rtype, _ in told(reply, 1)] == ([] if answer else [SOA])
    plain = answer_of(judged, question("x.ads.example", rtype), BlockAnswer(mode=mode, explain=False))
    assert isinstance(plain, Reply) and plain.ede == ((15, ""),)


@pytest.mark.parametrize(
    ("values", "rtype", "code", "answer"),
    [
        (("192.0.2.1", "2001:db8::1"), A, 0, [(A, bytes((192, 0, 2, 1)))]),
        (("192.0.2.1",), AAAA, 0, []),
        (("192.0.2.1",), TXT, 0, []),
        (("192.0.2.1",), ANY, 0, [(A, bytes((192, 0, 2, 1)))]),
        (("NXDOMAIN",), A, 3, []),
        (("REFUSED",), A, 5, []),
        (("NOERROR;;",), A, 0, []),
        (("NOERROR;TXT;hello you",), TXT, 0, [(TXT, b"\x09hello you")]),
    ],
)
def test_rewrites_are_answered_as_written(
    values: tuple[str, ...], rtype: int, code: int, answer: list[tuple[int, bytes]]
):
    made = policy(default={"rewrites": {"a.example": values}})
    reply = answer_of(
        made.judge(view_of(made, "192.0.2.1"), "a.example", rtype), question("a.example", rtype), BlockAnswer()
    )
    assert (rcode(reply), told(reply)) == (code, answer)
    assert isinstance(reply, Reply) and (reply.ttl == 60 or code == 5)


@settings(max_examples=100, deadline=None)
@given(
    pattern=st.text("ab.*+|^$=~'/\\-_ ,;:1", max_size=12),
    value=st.text("ab.;:A1 NOERXD", max_size=12),
)
def test_whatever_the_owner_writes_is_a_policy_or_a_fault_of_the_configuration(pattern: str, value: str):
    try:
        made = policy(default={"block": (pattern,), "rewrites": {"a.example": (value,)}})
    except ConfigFault:
        return
    view = view_of(made, "192.0.2.1")
    for name in ("a.example", "a.b", ""):
        judged = made.judge(view, name, A)
        if judged.action is not Action.PASS and judged.action is not Action.ALLOW:
            answer_of(judged, question(name, A), BlockAnswer())
