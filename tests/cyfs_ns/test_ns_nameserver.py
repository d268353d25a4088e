"""The long way of a question, stop by stop, and that ready-made answers are the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import dns.edns
import dns.flags
import dns.message
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from nameserving import (
    CLIENT,
    edes,
    house_of,
    lists,
    name_server,
    query_wire,
    rcode,
    shown,
)

from cyfs_ns.given import Stand, Trail
from cyfs_ns.io.house import networks_set
from cyfs_ns.io.nameserver import NameServer
from cyfs_ns.leases import Lease
from cyfs_ns.links import Home
from cyfs_ns.peer import Peer
from cyfs_ns.query import read_query
from cyfs_ns.reply import make_reply
from cyfs_ns.routersets import Addition

WWW = {("www.example", "A"): ["300 A 198.51.100.1"]}

WAY: list[tuple[str, dict[str, Any], tuple[str, str], str, list[str], str]] = [
    ("local record", {"records": ["nas.lan 60 A 192.168.1.2"]}, ("nas.lan", "A"), "NOERROR",
     ["nas.lan 60 A 192.168.1.2"], "local"),
    ("the other family of a local name", {"records": ["nas.lan 60 A 192.168.1.2"]}, ("nas.lan", "AAAA"), "NOERROR",
     [], "local"),
    ("local zone", {"local-domains": ["lan"]}, ("no.lan", "A"), "NXDOMAIN", [], "local"),
    ("alias out of the house", {"records": ["w.lan 60 CNAME www.example."]}, ("w.lan", "A"), "NOERROR",
     ["w.lan 60 CNAME www.example.", "www.example 300 A 198.51.100.1"], "local"),
    ("alias that leads to a rewrite", {"records": ["w.lan 60 CNAME r.example."],
     "rewrites": {"r.example": "192.0.2.9"}},
     ("w.lan", "A"), "NOERROR", ["w.lan 60 CNAME r.example.", "r.example 60 A 192.0.2.9"], "local"),
    ("alias that leads to a block", {"records": ["w.lan 60 CNAME b.example."], "block": ["b.example"]}, ("w.lan", "A"),
     "NOERROR", ["w.lan 60 CNAME b.example.", "b.example 60 A 0.0.0.0"], "blocked"),
    ("only the alias is asked for", {"rewrites": {"r.example": "www.example"}}, ("r.example", "CNAME"), "NOERROR",
     ["r.example 60 CNAME www.example."], "rewritten"),
    ("block", {"block": ["+.ads.example"]}, ("x.ads.example", "A"), "NOERROR", ["x.ads.example 60 A 0.0.0.0"],
     "blocked"),
    ("block, another type", {"block": ["+.ads.example"]}, ("x.ads.example", "TXT"), "NOERROR", [], "blocked"),
    ("block as told", {"block": ["ads.example"], "block-answer": "nxdomain"}, ("ads.example", "A"), "NXDOMAIN", [],
     "blocked"),
    ("block with refusal", {"block": ["ads.example"], "block-answer": "refused"}, ("ads.example", "A"), "REFUSED", [],
     "blocked"),
    ("allowed", {"block": ["+.example"], "allow": ["www.example"]}, ("www.example", "A"), "NOERROR",
     ["www.example 300 A 198.51.100.1"], "upstream"),
    ("rewrite to an address", {"rewrites": {"r.example": "192.0.2.9"}}, ("r.example", "A"), "NOERROR",
     ["r.example 60 A 192.0.2.9"], "rewritten"),
    ("rewrite to a name", {"rewrites": {"r.example": "www.example"}}, ("r.example", "A"), "NOERROR",
     ["r.example 60 CNAME www.example.", "www.example 300 A 198.51.100.1"], "rewritten"),
    ("rewrites that lead round", {"rewrites": {"r.example": "s.example", "s.example": "r.example"}}, ("r.example", "A"),
     "SERVFAIL", ["r.example 60 CNAME s.example."], "failed"),
    ("a rewrite to itself is none", {"rewrites": {"+.example": "192.0.2.9", "www.example": "www.example"}},
     ("www.example", "A"),
     "NOERROR", ["www.example 300 A 198.51.100.1"], "upstream"),
    ("a wildcard rewrite that covers its target", {"rewrites": {"+.example": "www.example"}}, ("r.example", "A"),
     "NOERROR",
     ["r.example 60 CNAME www.example.", "www.example 300 A 198.51.100.1"], "rewritten"),
    ("unwanted type", {"filter-types": ["TXT"]}, ("www.example", "TXT"), "NOERROR", [], "blocked"),
    ("no IPv6 at all", {"ipv6": False}, ("www.example", "AAAA"), "NOERROR", [], "blocked"),
    ("ANY", {}, ("www.example", "ANY"), "NOERROR", ['www.example 3600 HINFO "RFC8482" ""'], "local"),
    ("a domain nobody is asked for", {"servers": ["/corp.example/"]}, ("x.corp.example", "A"), "NXDOMAIN", [], "local"),
    ("a name of the house in it", {"servers": ["/corp.example/"], "records": ["x.corp.example MX 1 m.example."]},
     ("x.corp.example", "A"), "NOERROR", [], "local"),
    ("upstream", {}, ("www.example", "A"), "NOERROR", ["www.example 300 A 198.51.100.1"], "upstream"),
    ("upstream says no", {}, ("none.example", "A"), "NXDOMAIN", [], "upstream"),
    ("upstream denies a name of the house", {"records": ["none.example A 192.0.2.9"]}, ("none.example", "TXT"),
     "NOERROR", [], "upstream"),
    ("upstream denies what a pattern of the house makes", {"records": ["*.none.example A 192.0.2.9"]},
     ("x.none.example", "TXT"), "NOERROR", [], "upstream"),
    ("nobody answers", {}, ("dead.example", "A"), "SERVFAIL", [], "failed"),
    ("the root", {}, (".", "NS"), "NXDOMAIN", [], "upstream"),
    ("an odd name", {}, ("a\\.b\\000.example", "A"), "NXDOMAIN", [], "upstream"),
    ("bogus address", {"bogus-nxdomain": ["198.51.100.1"]}, ("www.example", "A"), "NXDOMAIN", [], "upstream"),
    ("ignored address", {"ignore-address": ["198.51.100.1"]}, ("www.example", "A"), "SERVFAIL", [], "failed"),
    ("rebinding", {"rebind-protection": True}, ("evil.example", "A"), "NOERROR", [], "blocked"),
    ("rebinding spared", {"rebind-protection": True, "rebind-allow": ["+.example"]}, ("evil.example", "A"), "NOERROR",
     ["evil.example 300 A 192.168.1.1"], "upstream"),
    ("split DNS is not spared", {"rebind-protection": True, "servers": ["/evil.example/192.0.2.1"]},
     ("evil.example", "A"),
     "NOERROR", [], "blocked"),
    ("an alias of theirs to a blocked name", {"block": ["tracker.example"]}, ("cloak.example", "A"), "NOERROR",
     ["cloak.example 60 A 0.0.0.0"], "blocked"),
    ("the same, spared by the owner", {"block": ["tracker.example"], "allow": ["cloak.example"]},
     ("cloak.example", "A"),
     "NOERROR", ["cloak.example 300 CNAME tracker.example.", "tracker.example 300 A 198.51.100.9"], "upstream"),
    ("preferred family", {"family": "prefer-ipv4"}, ("both.example", "AAAA"), "NOERROR", [], "upstream"),
    ("preferred family is missing", {"family": "prefer-ipv6"}, ("www.example", "A"), "NOERROR",
     ["www.example 300 A 198.51.100.1"], "upstream"),
    ("a question of ours", {}, ("probe.example", "A"), "NXDOMAIN", [], "local"),
]  # fmt: skip
SAYS: dict[tuple[str, str], Any] = {
    **WWW,
    ("evil.example", "A"): ["300 A 192.168.1.1"],
    ("cloak.example", "A"): ["300 CNAME tracker.example.", "tracker.example 300 A 198.51.100.9"],
    ("both.example", "A"): ["300 A 198.51.100.4"],
    ("both.example", "AAAA"): ["300 AAAA 2001:db8::4"],
}


@pytest.mark.parametrize(("case", "config", "question", "wanted", "answer", "source"), WAY, ids=[way[0] for way in WAY])
async def test_the_stops_of_the_way(
    case: str, config: dict[str, Any], question: tuple[str, str], wanted: str, answer: list[str], source: str
) -> None:
    async with name_server(config, SAYS) as lab:
        lab.upstreams.down = question[0] == "dead.example"
        told = await lab.ask(*question)
        assert (rcode(told), shown(told), lab.notes[-1].source) == (wanted, answer, source)
        if not told.answer and rcode(told) in ("NOERROR", "NXDOMAIN") and question[0] != "probe.example":
            assert [rrset.rdtype for rrset in told.authority] == [6]
        again = await lab.ask(*question)
        assert (rcode(again), shown(again), again.authority) == (rcode(told), shown(told), told.authority)


@pytest.mark.parametrize(
    ("rdclass", "name", "wanted"),
    [("CH", "version.bind", "NOERROR"), ("CH", "authors.bind", "REFUSED"), ("HS", "www.example", "NOTIMP")],
)
async def test_other_classes(rdclass: str, name: str, wanted: str) -> None:
    async with name_server({"version-text": "a name server"}) as lab:
        assert rcode(await lab.ask(name, "TXT", rdclass=rdclass)) == wanted


async def test_strangers_are_refused_and_told_so() -> None:
    async with name_server({"deny-from": ["192.168.1.66"]}, WWW) as lab:
        for client in ("203.0.113.9", "192.168.1.66"):
            told = await lab.ask("www.example", client=client, edns=True)
            assert (rcode(told), edes(told)) == ("REFUSED", [18])
        silent = house_of({"refuse": "silent"})
        lab.server.wear(silent, lab.upstreams, lists())  # type: ignore[arg-type]
        assert await lab.raw(query_wire("www.example"), "203.0.113.9") is None


async def test_who_refuses_recursion_hears_only_what_is_known() -> None:
    async with name_server(says=WWW) as lab:
        told = await lab.ask("www.example", flags="", edns=True)
        assert (rcode(told), edes(told), lab.upstreams.asked) == ("REFUSED", [20], [])
        await lab.ask("www.example")
        assert shown(await lab.ask("www.example", flags="")) == ["www.example 300 A 198.51.100.1"]


async def test_flags_are_passed_on_and_kept_apart() -> None:
    async with name_server(says=WWW) as lab:
        for flags, do in (("RD", False), ("RD CD", False), ("RD", True), ("RD CD", True)):
            told = await lab.ask("www.example", flags=flags, do=do)
            assert bool(told.flags & dns.flags.CD) == ("CD" in flags)
            assert bool(told.ednsflags & dns.flags.DO) == do
        assert [(asked.options["cd"], asked.options["do"]) for asked in lab.upstreams.asked] == [
            (False, False), (True, False), (False, True), (True, True),
        ]  # fmt: skip


# The cache


async def test_answers_come_from_the_cache_and_age() -> None:
    async with name_server(says=WWW) as lab:
        await lab.ask("www.example")
        lab.pass_time(100)
        for flags in ("RD", "RD AD"):  # ready-made, and the long way
            assert shown(await lab.ask("www.example", flags=flags)) == ["www.example 200 A 198.51.100.1"]
        assert [note.source for note in lab.notes] == ["upstream", "cache"]
        assert len(lab.upstreams.asked) == 1


async def test_negative_answers_are_kept_as_long_as_their_soa_says() -> None:
    async with name_server() as lab:
        assert rcode(await lab.ask("none.example")) == "NXDOMAIN"
        lab.pass_time(100)
        told = await lab.ask("none.example")
        assert (rcode(told), told.authority[0].ttl) == ("NXDOMAIN", 20)
        assert len(lab.upstreams.asked) == 1
        lab.pass_time(21)
        lab.upstreams.says[("none.example", "A")] = ["60 A 198.51.100.2"]
        assert rcode(await lab.ask("none.example")) == "NOERROR"


async def test_a_failure_is_remembered_for_a_moment() -> None:
    async with name_server() as lab:
        lab.upstreams.down = True
        for _ in range(3):
            told = await lab.ask("dead.example", edns=True)
            assert (rcode(told), edes(told)) == ("SERVFAIL", [22])
        assert len(lab.upstreams.asked) == 1
        lab.pass_time(6)
        await lab.ask("dead.example")
        assert len(lab.upstreams.asked) == 2


async def test_an_old_answer_serves_when_nobody_answers() -> None:
    async with name_server(says=WWW) as lab:
        await lab.ask("www.example")
        lab.pass_time(400)
        lab.upstreams.down = True
        told = await lab.ask("www.example", edns=True)
        assert (shown(told), edes(told)) == (["www.example 30 A 198.51.100.1"], [3])
        asked = len(lab.upstreams.asked)
        assert edes(await lab.ask("www.example", edns=True)) == [3]
        assert len(lab.upstreams.asked) == asked  # not again for a while
        lab.pass_time(31)
        lab.upstreams.down = False
        fresh = await lab.ask("www.example", edns=True)
        assert (shown(fresh), edes(fresh)) == (["www.example 300 A 198.51.100.1"], [])


async def test_an_old_denial_is_told_to_be_one() -> None:
    async with name_server() as lab:
        await lab.ask("none.example")
        lab.pass_time(200)
        lab.upstreams.down = True
        told = await lab.ask("none.example", edns=True)
        assert (rcode(told), edes(told)) == ("NXDOMAIN", [19])


async def test_nobody_waits_longer_than_the_patience_for_a_fresh_answer(autojump_clock: trio.testing.MockClock) -> None:
    async with name_server({"cache": {"stale-wait": 1.8}}, WWW) as lab:
        await lab.ask("www.example")
        lab.pass_time(400)
        lab.upstreams.gate = trio.Event()
        waited = []

        async def ask() -> None:
            begun = trio.current_time()
            told = await lab.ask("www.example", edns=True)
            waited.append((round(trio.current_time() - begun, 3), edes(told)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(1)
            lab.pass_time(1)
            nursery.start_soon(ask)
        assert sorted(waited) == [(0.8, [3]), (1.8, [3])]  # the first has waited longer
        assert len(lab.upstreams.asked) == 2
        lab.upstreams.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert shown(await lab.ask("www.example")) == ["www.example 300 A 198.51.100.1"]


async def test_a_name_asked_for_often_is_asked_for_again_before_its_end() -> None:
    async with name_server(says=WWW) as lab:
        for _ in range(3):
            await lab.ask("www.example")
        lab.server.settle()
        lab.pass_time(280)
        assert shown(await lab.ask("www.example")) == ["www.example 20 A 198.51.100.1"]
        await trio.testing.wait_all_tasks_blocked()
        assert len(lab.upstreams.asked) == 2
        assert shown(await lab.ask("www.example")) == ["www.example 300 A 198.51.100.1"]


async def test_prefetching_can_be_switched_off() -> None:
    async with name_server({"cache": {"prefetch": False}}, WWW) as lab:
        for _ in range(3):
            await lab.ask("www.example")
        lab.server.settle()
        lab.pass_time(295)
        await lab.ask("www.example", flags="RD AD")
        await trio.testing.wait_all_tasks_blocked()
        assert len(lab.upstreams.asked) == 1


async def test_the_preferred_family_is_not_waited_for_without_end(autojump_clock: trio.testing.MockClock) -> None:
    async with name_server({"family": "prefer-ipv4"}, SAYS) as lab:
        lab.upstreams.slow = {("both.example", 1)}
        assert shown(await lab.ask("both.example", "AAAA")) == ["both.example 300 AAAA 2001:db8::4"]
        assert round(trio.current_time()) == 1
        lab.upstreams.slow = set()
        assert shown(await lab.ask("both.example", "AAAA")) == []


async def test_an_alias_is_flushed_with_what_it_leads_to() -> None:
    async with name_server({"records": ["w.lan CNAME www.example."]}, dict(WWW)) as lab:
        for _ in range(2):
            await lab.ask("w.lan")
        assert lab.hits == 1
        lab.upstreams.says = {("www.example", "A"): ["300 A 198.51.100.2"]}
        lab.server.flush("www.example")
        assert shown(await lab.ask("w.lan"))[1] == "www.example 300 A 198.51.100.2"


async def test_flushing_forgets_what_is_kept_and_what_is_ready_made() -> None:
    async with name_server(says=WWW) as lab:
        await lab.ask("www.example")
        await lab.ask("www.example")
        assert lab.hits == 1
        assert lab.server.flush("example", below=True) == 1
        await lab.ask("www.example")
        assert len(lab.upstreams.asked) == 2


# Client subnets


def subnet(text: str) -> dns.edns.ECSOption:
    address, _, bits = text.partition("/")
    return dns.edns.ECSOption(address, int(bits))


async def test_answers_for_a_subnet_stay_there_and_those_for_all_are_shared() -> None:
    async with name_server({"client-subnet": "pass"}, WWW) as lab:
        lab.upstreams.scope = 24
        for text in ("198.51.100.0/24", "203.0.113.0/24"):
            await lab.ask("www.example", options=[subnet(text)])
        assert len(lab.upstreams.asked) == 2
        await lab.ask("www.example", options=[subnet("203.0.113.0/24")])
        assert len(lab.upstreams.asked) == 2
        lab.server.flush()
        lab.upstreams.scope = 0
        for text in ("198.51.100.0/24", "203.0.113.0/24"):
            await lab.ask("www.example", options=[subnet(text)])
        await lab.ask("www.example")
        assert len(lab.upstreams.asked) == 3


async def test_an_old_answer_for_a_subnet_is_refreshed_by_one_for_all() -> None:
    async with name_server({"client-subnet": "pass"}, WWW) as lab:
        lab.upstreams.scope = 24
        await lab.ask("www.example", options=[subnet("198.51.100.0/24")])
        lab.pass_time(400)
        lab.upstreams.scope = 0
        told = await lab.ask("www.example", options=[subnet("198.51.100.0/24")])
        assert (shown(told), edes(told)) == (["www.example 300 A 198.51.100.1"], [])


async def test_a_subnet_that_is_everybodys_does_not_keep_answers_from_being_ready() -> None:
    async with name_server({"client-subnet": {"mode": "add", "fixed": ["203.0.113.0/24"]}}, WWW) as lab:
        lab.upstreams.scope = 24
        for _ in range(3):
            await lab.ask("www.example")
        assert lab.hits == 2
        assert str(lab.upstreams.asked[0].options["subnet"].prefix[:3].hex()) == "cb0071"


# Who asks


CHILD = {"clients": [{"name": "child", "match": ["192.168.1.50"], "block": ["+.games.example"]}]}


async def test_an_answer_of_one_view_never_reaches_another() -> None:
    says = {("x.games.example", "A"): ["300 A 198.51.100.3"]}
    async with name_server(CHILD, says) as lab:
        for _ in range(3):
            assert shown(await lab.ask("x.games.example")) == ["x.games.example 300 A 198.51.100.3"]
            assert shown(await lab.ask("x.games.example", client="192.168.1.50")) == ["x.games.example 60 A 0.0.0.0"]
        assert lab.hits == 4


async def test_clients_with_servers_of_their_own() -> None:
    config = {"clients": [{"name": "child", "match": ["192.168.1.50"], "nameserver": ["192.0.2.99"]}]}
    async with name_server(config, WWW) as lab:
        await lab.ask("www.example")
        await lab.ask("www.example", client="192.168.1.50")
        assert [str(asked.group.servers[0]) for asked in lab.upstreams.asked] == [
            "udp://192.0.2.53:53", "udp://192.0.2.99:53",
        ]  # fmt: skip


async def test_a_schedule_changes_views_and_ready_made_answers(autojump_clock: trio.testing.MockClock) -> None:
    # The labs' epoch is a Friday, 08:00:00 UTC; the monotonic clock adds a thousand seconds.
    config = {
        "time-zone": "UTC",
        "clients": [
            {"name": "child", "match": [CLIENT], "schedule": [{"days": "daily", "from": "08:20", "to": "09:00"}]}
        ],
    }
    async with name_server(config, WWW) as lab:
        for _ in range(2):
            assert rcode(await lab.ask("www.example")) == "NOERROR"
        before = shown(await lab.ask("www.example"))
        lab.pass_time(300)
        await trio.sleep(2)
        after = shown(await lab.ask("www.example"))
        assert (before, after) == (["www.example 300 A 198.51.100.1"], ["www.example 60 A 0.0.0.0"])
        lab.pass_time(2400)
        await trio.sleep(2)
        assert shown(await lab.ask("www.example")) == ["www.example 300 A 198.51.100.1"]


async def test_a_clock_that_is_set_right_ends_what_was_judged_by_the_wrong_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    config = {
        "time-zone": "UTC",
        "clients": [
            {"name": "child", "match": [CLIENT], "schedule": [{"days": "daily", "from": "08:20", "to": "09:00"}]}
        ],
    }
    async with name_server(config, WWW) as lab:
        lab.clock.wall_ahead += 600
        await trio.sleep(2)
        assert shown(await lab.ask("www.example")) == ["www.example 60 A 0.0.0.0"]
        lab.clock.wall_ahead -= 600
        await trio.sleep(2)
        assert shown(await lab.ask("www.example")) == ["www.example 300 A 198.51.100.1"]


async def test_lists_are_swapped_and_answers_on_their_way_are_not_kept_ready() -> None:
    config = {"lists": {"ads": {"path": "/nowhere"}}}
    async with name_server(config, WWW) as lab:
        lab.upstreams.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lab.ask, "www.example")
            await trio.testing.wait_all_tasks_blocked()
            lab.server.take_lists(lists("www.example"))
            lab.upstreams.gate.set()
        assert shown(await lab.ask("www.example")) == ["www.example 60 A 0.0.0.0"]
        lab.server.take_lists(lists())
        assert shown(await lab.ask("www.example")) == ["www.example 300 A 198.51.100.1"]


async def test_leases_come_and_go_and_a_renewed_one_disturbs_nobody() -> None:
    async with name_server({"domain": "lan"}, WWW) as lab:
        lease = Lease(CLIENT, "02:00:00:00:00:01", "02:00:00:00:00:01", "laptop", lab.clock.wall() + 3600)
        lab.server.take_leases([lease])
        assert shown(await lab.ask("laptop.lan")) == [f"laptop.lan 60 A {CLIENT}"]
        await lab.ask("laptop.lan")
        lab.server.take_leases([replace(lease, expires=lease.expires + 60)])
        await lab.ask("laptop.lan")
        assert lab.hits == 2
        lab.server.take_leases([])
        assert rcode(await lab.ask("laptop.lan")) == "NXDOMAIN"


async def test_other_servers_mean_other_answers() -> None:
    async with name_server(says=WWW) as lab:
        await lab.ask("www.example")
        lab.wear({"nameserver": ["192.0.2.54"]})
        lab.upstreams.says = {("www.example", "A"): ["300 A 198.51.100.77"]}
        assert shown(await lab.ask("www.example")) == ["www.example 300 A 198.51.100.77"]
        lab.wear({})  # the first again: what they said is still known
        assert shown(await lab.ask("www.example")) == ["www.example 300 A 198.51.100.1"]


async def test_a_question_that_fails_by_a_change_is_asked_of_the_new_servers() -> None:
    async with name_server(says=WWW) as lab:
        old, lab.upstreams.gate = lab.upstreams, trio.Event()
        answers = []
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                answers.append(shown(await lab.ask("www.example")))

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            lab.upstreams = type(old)(WWW)
            lab.wear({})
            old.down = True
            old.gate.set()
        assert answers == [["www.example 300 A 198.51.100.1"]]


@pytest.mark.parametrize(
    ("said", "lines", "code"),
    [
        # A name of the house is what the house says, whatever others make of it.
        (["300 CNAME nas.lan."], ["www.example 300 CNAME nas.lan.", "nas.lan 60 A 192.168.1.2"], "NOERROR"),
        (["300 CNAME nas.lan.", "nas.lan 9 A 192.0.2.9"],
         ["www.example 300 CNAME nas.lan.", "nas.lan 60 A 192.168.1.2"], "NOERROR"),
        # What the servers asked do not know is asked of those who do,
        (["300 CNAME app.corp.example."],
         ["www.example 300 CNAME app.corp.example.", "app.corp.example 50 A 10.0.0.9"], "NOERROR"),
        (["300 CNAME x.example.", "x.example 200 CNAME chain.corp.example."],
         ["www.example 300 CNAME x.example.", "x.example 200 CNAME chain.corp.example.",
          "chain.corp.example 40 CNAME nas.lan.", "nas.lan 60 A 192.168.1.2"], "NOERROR"),
        (["300 CNAME none.corp.example."], ["www.example 300 CNAME none.corp.example."], "NXDOMAIN"),
        # and what they know is not asked again.
        (["300 CNAME app.corp.example.", "app.corp.example 7 A 203.0.113.9"],
         ["www.example 300 CNAME app.corp.example.", "app.corp.example 7 A 203.0.113.9"], "NOERROR"),
        (["300 CNAME other.example."], ["www.example 300 CNAME other.example."], "NOERROR"),
        (["300 CNAME www.example."], ["www.example 300 CNAME www.example."], "NOERROR"),
    ],
)  # fmt: skip
async def test_aliases_of_others_lead_on_where_only_we_know_the_way(
    said: list[str], lines: list[str], code: str
) -> None:
    config = {"records": ["nas.lan 60 A 192.168.1.2"], "servers": ["/corp.example/10.0.0.53"]}
    says = {
        ("www.example", "A"): said,
        ("app.corp.example", "A"): ["50 A 10.0.0.9"],
        ("chain.corp.example", "A"): ["40 CNAME nas.lan."],
    }
    async with name_server(config, says) as lab:
        for _ in range(2):
            told = await lab.ask("www.example")
            assert (shown(told), rcode(told)) == (lines, code)
        if len(said) == 2 and "nas.lan" in said[0]:  # one that is cached
            lab.pass_time(5)
            assert shown(await lab.ask("www.example")) == [lines[0].replace("300", "295"), lines[1]]


async def test_an_alias_into_the_house_is_a_rebinding_like_any() -> None:
    config = {"records": ["nas.lan 60 A 192.168.1.2"], "rebind-protection": True}
    async with name_server(config, {("www.example", "A"): ["300 CNAME nas.lan."]}) as lab:
        assert "192.168.1.2" not in str(await lab.ask("www.example"))


# The rest of an answer


async def test_cookies_are_given_and_known_again() -> None:
    async with name_server({"rate-limit": 16, "allow-from": ["0.0.0.0/0"]}, WWW) as lab:
        cookie = dns.edns.GenericOption(10, b"8 octets")
        told = await lab.ask("www.example", options=[cookie], client="9.9.9.9")
        given = next(option for option in told.options if option.otype == 10).to_wire()
        assert (len(given), given[:8]) == (24, b"8 octets")
        whole = dns.edns.GenericOption(10, given)
        again = await lab.ask("www.example", options=[whole], client="9.9.9.9")
        assert next(option for option in again.options if option.otype == 10).to_wire() == given
        plain = query_wire("www.example")
        spent = [await lab.raw(plain, "9.9.9.9") for _ in range(40)]
        assert None in spent  # over the limit
        assert shown(await lab.ask("www.example", options=[whole], client="9.9.9.9"))
        # Somebody else's cookie is of no use.
        forged = query_wire("www.example", options=[dns.edns.GenericOption(10, given[:-1] + bytes(1))])
        assert [await lab.raw(forged, "9.9.9.9") for _ in range(4)].count(None) >= 2


@pytest.mark.parametrize(
    ("keys", "client", "limited"),
    [
        ({}, "9.9.9.9", True),  # there is a limit though nobody asked for one
        ({}, "2a00:1450:5::9", True),
        ({}, "192.168.1.7", False),
        ({}, "127.0.0.1", False),
        ({}, "100.64.0.9", False),
        ({}, "fd00::9", False),
        ({}, "192.175.48.9", True),  # servers that everybody reaches
        ({}, "64:ff9b::909:909", True),  # answers go through a translator to 9.9.9.9
        ({}, "2002:909:909::9", True),
        ({}, "2001:4860:7::9", False),  # on our own link
        ({"rate-limit": 0}, "9.9.9.9", False),
    ],
)
async def test_who_comes_from_outside_gets_so_many_answers_a_second(
    keys: dict[str, Any], client: str, limited: bool
) -> None:
    async with name_server({"allow-from": ["0.0.0.0/0", "::/0"], **keys}, WWW) as lab:
        lab.server.near = networks_set(["2001:4860:7::/64"])
        lab.server.hot.forget_clients()
        told = [await lab.raw(query_wire("www.example"), client) for _ in range(300)]
        whole = sum(answer is not None and not answer[2] & 2 for answer in told)
        assert whole == (100 if limited else 300)


async def test_addresses_of_answers_are_told_on_by_the_name_that_was_asked() -> None:
    heard: list[tuple[str, list[str]]] = []

    def prepare(server: NameServer) -> None:
        server.answered = lambda name, addresses: heard.append((name, list(addresses)))

    config = {"rewrites": {"r.example": "www.example"}, "block": ["b.example"]}
    async with name_server(config, WWW, prepare=prepare) as lab:
        for name in ("www.example", "r.example", "b.example", "none.example"):
            await lab.ask(name)
        assert heard == [("www.example", ["198.51.100.1"]), ("r.example", ["198.51.100.1"]), ("none.example", [])]


async def test_nobody_hears_of_an_address_before_it_stands_in_its_sets() -> None:
    class Feeder:
        def __init__(self) -> None:
            self.asked, self.done = trio.Event(), trio.Event()
            self.added: list[bytes] = []

        async def add(self, additions: Sequence[Addition]) -> None:
            self.added += [each.address for each in additions]
            self.asked.set()
            await self.done.wait()

    feeder, answers = Feeder(), list[list[str]]()

    def prepare(server: NameServer) -> None:
        server._feeder = feeder  # type: ignore[assignment]

    async def ask() -> None:
        answers.append(shown(await lab.ask("www.example")))

    config = {"nftset": ["/example/4#inet#t#s"]}
    async with name_server(config, WWW, prepare=prepare) as lab, trio.open_nursery() as clients:
        clients.start_soon(ask)
        await feeder.asked.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert (feeder.added, answers) == ([bytes((198, 51, 100, 1))], [])
        feeder.done.set()
    assert answers == [["www.example 300 A 198.51.100.1"]]


async def test_the_mark_of_a_connection_goes_on_every_question_for_it() -> None:
    class Marks:
        def mark(self, protocol: int, client: tuple[str, int], local: tuple[str, int]) -> int:
            return 7 if (protocol, client, local) == (17, (CLIENT, 5353), ("192.168.1.1", 53)) else 0

    def prepare(server: NameServer) -> None:
        server._marks = Marks()  # type: ignore[assignment]

    for keys in ({}, {"fallback": ["192.0.2.54"]}):
        async with name_server({"connmark": True, **keys}, WWW, prepare=prepare) as lab:
            for name in ("www.example", "elsewhere.example"):
                await lab.server.serve(query_wire(name), Peer(CLIENT, 5353, "udp", "192.168.1.1", "", local_port=53))
            assert [asked.options["mark"] for asked in lab.upstreams.asked] == [7, 7]


async def test_fake_answers_are_ready_made_with_their_ttl_and_dropped_when_freed() -> None:
    class Fakes:
        def __init__(self) -> None:
            self.given: list[str] = []
            self.freed = ""

        def answer(self, name: str, question: bytes, rtype: int) -> Stand | None:
            if rtype != 1:
                return None
            self.given.append(name)
            record = (question[:-4].lower(), 1, 1, bytes((198, 18, 0, len(self.given))))
            return Stand(make_reply(question, answer=[record]), 300.0, self.freed)

    fakes = Fakes()

    def prepare(server: NameServer) -> None:
        server.fake = fakes

    async with name_server({"rewrites": {"r.example": "www.example"}}, prepare=prepare) as lab:
        for _ in range(3):
            assert shown(await lab.ask("www.example")) == ["www.example 1 A 198.18.0.1"]
            lab.pass_time(50)
        assert (fakes.given, lab.hits) == (["www.example"], 2)
        fakes.freed = "www.example"
        assert shown(await lab.ask("new.example")) == ["new.example 1 A 198.18.0.2"]
        fakes.freed = ""
        assert shown(await lab.ask("www.example")) == ["www.example 1 A 198.18.0.3"]
        lab.pass_time(301)
        await lab.ask("www.example")
        assert fakes.given == ["www.example", "new.example", "www.example", "www.example"]
        # An alias of ours leads to a fake address, too.
        assert shown(await lab.ask("r.example")) == ["r.example 60 CNAME www.example.", "www.example 1 A 198.18.0.5"]


async def test_the_way_is_told_to_who_wants_to_know() -> None:
    async with name_server({"rewrites": {"r.example": "www.example"}}, WWW) as lab:
        query = read_query(query_wire("r.example"))
        assert not isinstance(query, bytes)
        assert query is not None
        trail = Trail(lab.clock)
        view = lab.server.view_of(CLIENT)
        given_ = await lab.server.answer(query, Peer(CLIENT, 0, "inner", "", ""), view, trail)
        assert given_.source == "rewritten"
        assert [step.stop for step in trail.steps] == ["client", "policy", "policy", "upstreams", "upstreams"]
        assert trail.steps[-1].said == "udp://192.0.2.53:53 answered NOERROR in 10.0 ms"


@pytest.mark.parametrize("untrusted", [b"", b"\0" * 11, b"\x12\x34\x80" + bytes(9)])
async def test_what_is_no_question_brings_silence(untrusted: bytes) -> None:
    async with name_server() as lab:
        assert await lab.raw(untrusted) is None


# Hot and cold

SAME: dict[str, Any] = {
    "records": ["nas.lan 60 A 192.168.1.2", "w.lan 45 CNAME www.example.", "z.lan 0 A 192.168.1.3"],
    "local-domains": ["lan"],
    "block": ["+.ads.example"],
    "rewrites": {"r.example": "www.example"},
    "family": "prefer-ipv4",
    "bogus-nxdomain": ["198.51.100.66"],
    "svcb-hints": False,
}
SAME_SAYS: dict[tuple[str, str], Any] = {
    **SAYS,
    ("bogus.example", "A"): ["500 A 198.51.100.66"],
    ("short.example", "A"): ["3 A 198.51.100.5"],
    ("many.example", "A"): [f"{100 + at} A 198.51.100.{at}" for at in range(60)],
    ("www.example", "HTTPS"): ["200 HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1"],
}
NAMES = (
    "nas.lan w.lan z.lan no.lan x.ads.example r.example www.example cloak.example both.example bogus.example "
    "short.example many.example none.example ."
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(NAMES.split()),
            st.sampled_from(["A", "AAAA", "HTTPS", "CNAME", "ANY"]),
            st.sampled_from(["RD", "RD AD", "RD CD", ""]),
            st.booleans(),
            st.booleans(),
            st.sampled_from(["udp", "tcp", "tls"]),
            st.integers(0, 40),
            st.integers(0, 2**16),
        ),
        min_size=1,
        max_size=25,
    )
)
def test_ready_made_answers_are_those_of_the_long_way(
    questions: list[tuple[str, str, str, bool, bool, str, int, int]],
) -> None:
    async def main() -> None:
        async with name_server(SAME, SAME_SAYS) as lab:
            for name, rtype, flags, edns, do, door, seconds, seed in questions:
                lab.pass_time(seconds + 0.3)
                wire = query_wire(name, rtype, flags=flags, edns=edns, do=do)
                mixed = bytes(wire[:12]) + mix(wire[12:-15], seed) + wire[-15:]
                await lab.raw(wire, door=door)
                ready = await lab.raw(mixed, door=door)
                cold = await lab.server.serve(mixed, Peer(CLIENT, 5353, door, "192.168.1.1", ""))
                assert ready == cold

    trio.run(main)


def mix(octets: bytes, seed: int) -> bytes:
    """Letters of the question in random case; short octets are lengths."""
    dice = random.Random(seed)
    return bytes(octet ^ 0x20 if 0x61 <= octet <= 0x7A and dice.random() < 0.5 else octet for octet in octets)


# -- TTLs that are cut, subnets that come back, addresses by where one asks --------------------------------------------


@pytest.mark.parametrize(
    ("lines", "told"),
    [  # at 0, 1, 40, 50, 51 and 59 seconds; 300 is 250 more than is told
        (["300 A 198.51.100.1"], [[50], [50], [50], [50], [50], [50]]),
        (["100 A 198.51.100.1"], [[50], [50], [50], [50], [49], [41]]),
        (["300 CNAME x.example.", "x.example 60 A 198.51.100.1"],
         [[50, 50], [50, 50], [50, 20], [50, 10], [50, 9], [50, 1]]),
        (["60 CNAME x.example.", "x.example 300 A 198.51.100.1"],
         [[50, 50], [50, 50], [20, 50], [10, 50], [9, 50], [1, 50]]),
        (["60 A 198.51.100.1", "60 A 198.51.100.2"], [[50, 50], [50, 50], [20, 20], [10, 10], [9, 9], [1, 1]]),
    ],
)  # fmt: skip
async def test_clients_are_told_no_more_than_the_bound_and_answers_are_kept_longer(
    lines: list[str], told: list[list[int]]
) -> None:
    config = {"cache": {"max-client-ttl": 50, "prefetch": False}}
    async with name_server(config, {("www.example", "A"): lines}) as lab:
        heard, before = [], 0
        for second in (0, 1, 40, 50, 51, 59):
            lab.pass_time(second - before)
            before = second
            both = [[rrset.ttl for rrset in (await lab.ask("www.example")).answer for _ in rrset] for _ in range(2)]
            assert both[0] == both[1]  # the second is ready-made, if it may be
            heard.append(both[0])
    assert heard == told
    assert len(lab.upstreams.asked) == 1
    assert lab.hits >= 3


async def test_what_is_told_for_less_is_ready_made_as_long_as_it_holds() -> None:
    config = {"cache": {"max-client-ttl": 50, "prefetch": False}}
    async with name_server(config, {("www.example", "A"): ["300 A 198.51.100.1"]}) as lab:
        for second in range(299):
            hits = lab.hits
            assert shown(await lab.ask("www.example"))[0].split()[1] == str(min(300 - second, 50))
            assert (lab.hits > hits) is (second not in (0, 251)), second
            lab.pass_time(1)


@pytest.mark.parametrize(
    ("mode", "scope", "sent", "wanted"),
    [
        ("pass", 24, ("203.0.113.0", 24), [("203.0.113.0", 24, 24)]),
        ("add", 16, ("203.0.113.0", 24), [("203.0.113.0", 24, 16)]),
        ("pass", None, ("203.0.113.0", 24), [("203.0.113.0", 24, 0)]),
        ("pass", 24, ("0.0.0.0", 0), [("0.0.0.0", 0, 0)]),
        ("pass", 24, None, []),
        ("add", 24, None, []),
        ("strip", 24, ("203.0.113.0", 24), []),
    ],
)
async def test_a_subnet_comes_back_with_the_scope_of_the_answer(
    mode: str, scope: int | None, sent: tuple[str, int] | None, wanted: list[tuple[str, int, int]]
) -> None:
    """RFC 7871 section 7.2.2; whether the answer is fresh, from the cache, or one of our own."""
    says = {("www.example", "A"): ["300 A 198.51.100.1"]}
    async with name_server({"client-subnet": mode, "records": ["own.lan A 192.168.1.1"]}, says) as lab:
        lab.upstreams.scope = scope
        options = [dns.edns.ECSOption(*sent)] if sent else []
        for name in ("www.example", "www.example", "own.lan"):
            told = await lab.ask(name, edns=True, options=options)
            found = [(each.address, each.srclen, each.scopelen) for each in told.options if each.otype == 8]
            assert found == ([(*each[:2], 0) for each in wanted] if name == "own.lan" else wanted)


async def test_an_answer_behind_an_alias_of_ours_holds_for_its_subnet() -> None:
    says = {("www.example", "A"): ["300 A 198.51.100.1"]}
    config = {"client-subnet": "pass", "rewrites": {"alias.example": "www.example"}}
    async with name_server(config, says) as lab:
        lab.upstreams.scope = 20
        told = await lab.ask("alias.example", edns=True, options=[dns.edns.ECSOption("203.0.113.0", 24)])
        assert [option.scopelen for option in told.options if option.otype == 8] == [20]


async def test_addresses_go_by_where_one_asks_and_are_not_ready_made() -> None:
    config = {
        "localise-queries": True,
        "records": ["many.lan A 192.168.1.9", "many.lan A 10.9.0.9", "one.lan A 10.9.0.1"],
    }
    async with name_server(config) as lab:
        lab.server.take_homes(frozenset({Home("lan", "192.168.1.1", 2, 24), Home("guest", "10.9.0.1", 3, 16)}))
        for _ in range(2):  # the lab's door is at 192.168.1.1
            assert shown(await lab.ask("many.lan")) == ["many.lan 60 A 192.168.1.9"]
        assert lab.hits == 0
        lab.server.take_homes(frozenset({Home("lan", "192.168.1.1", 2, 32)}))
        assert len(shown(await lab.ask("many.lan"))) == 2
        for _ in range(2):
            await lab.ask("one.lan")
        assert lab.hits == 1


async def test_names_of_our_addresses_are_told_anew_when_those_change() -> None:
    async with name_server({"interface-name": ["gw.lan,lan"], "domain": "lan"}) as lab:
        for ip in ("192.168.1.1", "192.168.2.1"):
            lab.server.take_homes(frozenset({Home("lan", ip, 2, 24)}))
            for _ in range(2):
                assert shown(await lab.ask("gw.lan")) == [f"gw.lan 60 A {ip}"]
        lab.wear({"interface-name": ["gate.lan,lan"], "domain": "lan"})
        assert shown(await lab.ask("gate.lan")) == ["gate.lan 60 A 192.168.2.1"]
