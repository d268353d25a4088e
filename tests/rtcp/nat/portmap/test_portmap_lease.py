"""A lease from asking to giving back, against a router that is a plain object: hours pass in no time."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcp.nat.portmap.epoch import Epoch
from rtcp.nat.portmap.igd import Replied
from rtcp.nat.portmap.lease import Call, Lease, Search, obstacle
from rtcp.nat.portmap.values import Protocol, Transport, Wanted, Way
from tests.rtcp.nat.portmap.fakerouter import (
    FOUND,
    LOCATION,
    NONCE,
    OUTSIDE,
    WANTED,
    WAY,
    FakeRouter,
    Stage,
    description,
)

PCP, NAT_PMP, UPNP = Protocol


def only(*protocols: Protocol, **knobs: object) -> FakeRouter:
    return FakeRouter(speaks=frozenset(protocols), **knobs)


def pcp_answers(data: bytes) -> bool:
    return data[0] == 2


# The race


@pytest.mark.parametrize(("speaks", "best"), [((PCP, NAT_PMP, UPNP), PCP), ((NAT_PMP, UPNP), NAT_PMP), ((UPNP,), UPNP)])
def test_the_best_language_that_is_answered_wins(speaks, best):
    stage = Stage(only(*speaks))
    stage.until(lambda: stage.status.protocol is not None, at_most=10)
    assert (stage.status.protocol, stage.status.outside) == (best, (OUTSIDE, 4000))
    assert set(stage.router.mappings) == {best}


def test_who_answers_at_once_needs_no_time():
    assert Stage(FakeRouter()).status.since == 0.0
    assert Stage(only(UPNP), refuse=lambda data: True).status.since == 0.0


def test_a_router_of_the_older_language_alone_is_understood_at_once():
    router = only(NAT_PMP)
    router.datagram = lambda data, now: (  # RFC 6886 section 3.5
        struct.pack("!BBHI", 0, 0x80, 1, 7) if data[0] == 2 else FakeRouter.datagram(router, data, now)
    )
    stage = Stage(router)
    assert (stage.status.protocol, stage.status.since) == (NAT_PMP, 0.0)


def test_a_router_of_the_newer_language_alone_may_refuse():
    router = only(PCP, pcp_error=2)
    router.datagram = lambda data, now: (
        struct.pack("!BBBBII12x", 2, 0x80, 0, 1, 0, 7) if data[0] == 0 else FakeRouter.datagram(router, data, now)
    )
    stage = Stage(router)
    stage.wait(4)
    assert stage.status.why == "PCP: not authorised; NAT-PMP: the router does not speak it; UPnP: no answer"


def test_a_refusal_is_asked_again_in_the_next_language():
    stage = Stage(FakeRouter(pcp_error=2, pmp_error=2))
    assert stage.status.protocol is UPNP
    assert stage.status.why == "mapped by UPnP"


@pytest.mark.parametrize("grants", [1, 19])
def test_a_mapping_for_a_moment_is_none(grants):
    stage = Stage(only(PCP, grants=grants), allowed=frozenset({PCP}))
    assert stage.status.why == f"PCP: granted for {grants} s only"


def test_what_is_not_allowed_is_never_said():
    stage = Stage(FakeRouter(), allowed=frozenset({NAT_PMP}))
    assert stage.router.heard == ["NAT-PMP address", "NAT-PMP 7200 4000"]
    stage = Stage(FakeRouter(), allowed=frozenset())
    assert stage.status.why == "no language is allowed in which the router could be asked"


def test_another_port_outside_may_be_preferred():
    assert Stage(FakeRouter(), Wanted(Transport.TCP, 4000, outside=443)).status.outside == (OUTSIDE, 443)


def test_silence_is_asked_three_times_and_then_less_and_less():
    stage = Stage(only())
    stage.wait(3.5)
    assert [(data[0], len(data)) for data in stage.sent] == [(0, 2), (2, 60)] * 3
    assert stage.status.why == "PCP: no answer; NAT-PMP: no answer; UPnP: no answer"
    stage.wait(6 * 3600)
    assert 20 < len(stage.sent) / 6 < 40


def test_a_mapping_of_ipv6_is_asked_for_by_pcp_alone():
    way = Way("fe80::1", "2001:db8::20")
    stage = Stage(FakeRouter(ip="2001:db8::20"), Wanted(Transport.UDP, 4000, version=6), way=way)
    assert stage.router.heard == ["PCP 7200 4000"]
    assert stage.status.outside == ("2001:db8::20", 4000)
    assert not stage.status.partway


def test_an_address_of_the_other_version_is_no_answer():
    stage = Stage(only(PCP, ip="2001:db8::20"), allowed=frozenset({PCP}))
    assert stage.status.why == "PCP: it has no public address outside"


def test_upnp_is_not_spoken_with_a_gateway_in_the_open():
    stage = Stage(only(UPNP), way=Way("203.0.113.1", "10.0.0.2"))
    stage.wait(3)
    assert stage.status.why == "PCP: no answer; NAT-PMP: no answer"


@pytest.mark.parametrize("protocol", list(Protocol), ids=str)
@pytest.mark.parametrize(
    ("ip", "what"),
    [("100.64.3.2", "RFC 6598"), ("10.1.2.3", "RFC 1918"), ("192.168.100.4", "RFC 1918"), ("192.0.0.2", "RFC 7335")],
)
def test_a_nat_behind_the_nat_is_told(protocol, ip, what):
    stage = Stage(only(protocol, ip=ip), allowed=frozenset({protocol}))
    assert stage.status.partway
    assert stage.status.outside == (ip, 4000)
    assert ip in stage.status.why
    assert what in stage.status.why


@pytest.mark.parametrize(
    ("wanted", "way", "why"),
    [
        (WANTED, None, "there is no way out by IPv4"),
        (Wanted(Transport.UDP, 1, version=6), None, "there is no way out by IPv6"),
        (WANTED, Way("", "10.0.0.2"), "the way out has no gateway that could be asked"),
        (WANTED, Way("203.0.113.1", "203.0.113.7"), "no NAT is in the way: 203.0.113.7 is a public address itself"),
        (WANTED, WAY, ""),
        (WANTED, Way("100.64.0.1", "100.64.0.2"), ""),
        (Wanted(Transport.UDP, 1, version=6), Way("fe80::1", "2001:db8::1"), ""),
        (
            Wanted(Transport.UDP, 1, version=6),
            Way("fe80::1", "fd00::1"),
            "fd00::1 is a private address (RFC 4193), of no use outside",
        ),
    ],
)
def test_what_need_not_or_cannot_be_asked_for(wanted, way, why):
    assert obstacle(wanted, way) == why


# Renewal and loss


@pytest.mark.parametrize("protocol", [PCP, NAT_PMP], ids=str)
def test_it_is_renewed_at_half_its_life_for_as_long_as_it_is_wanted(protocol):
    stage = Stage(only(protocol, grants=400), allowed=frozenset({protocol}))
    asked = len(stage.sent)
    stage.wait(199)
    assert len(stage.sent) == asked
    stage.wait(52)  # 5/8 of its life
    assert len(stage.sent) == 2 * asked
    stage.wait(24 * 3600)
    assert (stage.status.protocol, stage.status.since) == (protocol, 0.0)
    assert stage.status.until > stage.now
    assert len(stage.sent) <= asked * (2 + 24 * 3600 / 200)


def test_a_silent_renewal_is_tried_again_while_the_mapping_lasts():
    stage = Stage(only(PCP, grants=4000), allowed=frozenset({PCP}))
    stage.router.speaks = frozenset()
    stage.wait(3990)
    assert stage.status.outside == (OUTSIDE, 4000)
    assert stage.now + 10 == stage.status.until
    stage.wait(20)
    assert stage.status.why == "PCP: no answer"
    stage.router.speaks = frozenset({PCP})
    stage.wait(3600)
    assert stage.status.protocol is PCP


def test_a_refused_renewal_is_a_loss_and_another_language_is_tried():
    stage = Stage(FakeRouter(grants=1000))
    stage.router.pcp_error = 8
    stage.wait(630)
    assert stage.status.protocol is NAT_PMP


def test_a_refusal_is_not_asked_again_before_its_time():
    stage = Stage(only(PCP, pcp_error=8), allowed=frozenset({PCP}))
    stage.wait(590)
    assert stage.router.heard == ["PCP 7200 4000"]
    stage.router.pcp_error = 0
    stage.wait(600)
    assert stage.status.protocol is PCP


@pytest.mark.parametrize("protocol", list(Protocol), ids=str)
def test_what_a_router_forgot_without_a_word_is_mapped_again_in_minutes(protocol):
    stage = Stage(only(protocol), allowed=frozenset({protocol}))
    stage.wait(100)
    stage.router.forget(stage.now)
    stage.wait(276)  # 5/4 of 300 s after the beginning
    assert stage.router.mappings == {protocol: (4000, 7200)}
    assert stage.router.heard[-1].endswith(" 7200 4000")
    assert len(stage.router.heard) <= 5


def test_a_upnp_router_that_moved_is_found_again():
    stage = Stage(only(UPNP), allowed=frozenset({UPNP}))
    stage.router.http = lambda asked: Replied(404, b"") if asked.body else FakeRouter.http(stage.router, asked)
    stage.router.heard.clear()
    stage.wait(376)
    assert set(stage.router.heard) == {"UPnP description"}
    assert stage.status.protocol is UPNP  # what was lent is not over yet
    del stage.router.http
    stage.wait(120)
    assert stage.status.protocol is UPNP
    assert "UPnP AddPortMapping 7200 4000" in stage.router.heard


def announcement(clock: int) -> bytes:
    return struct.pack("!BBBBII12x", 2, 0x80, 0, 0, 0, clock)


def pmp_announcement(clock: int, ip: bytes = b"\xcb\x00\x71\x07") -> bytes:
    return struct.pack("!BBHI", 0, 128, 0, clock) + ip


@pytest.mark.parametrize("protocol", [PCP, NAT_PMP], ids=str)
@pytest.mark.parametrize("announced", [announcement, pmp_announcement])
def test_a_router_that_forgot_is_asked_again_within_a_second(protocol, announced):
    stage = Stage(only(protocol), allowed=frozenset({protocol}))
    stage.wait(100)
    stage.router.forget(stage.now)
    stage.lease.announced(announced(0), stage.now)
    stage.wait(1)
    assert stage.router.mappings == {protocol: (4000, 7200)}
    assert 100 <= stage.status.since <= 101


def test_a_router_that_forgot_is_found_out_by_its_renewal():
    stage = Stage(only(PCP, grants=1000), allowed=frozenset({PCP}))
    stage.wait(100)
    stage.router.forget(stage.now)
    stage.wait(400)
    assert 100 < stage.status.since <= 375


def test_a_router_with_another_address_outside_is_asked_again():
    stage = Stage(only(NAT_PMP))
    stage.wait(100)
    stage.router.ip = "203.0.113.99"
    stage.lease.announced(pmp_announcement(1100, b"\xcb\x00\x71\x63"), stage.now)
    stage.wait(1)
    assert stage.status.outside == ("203.0.113.99", 4000)
    assert stage.status.since > 99


def test_an_announcement_without_news_is_none():
    stage = Stage(FakeRouter())
    stage.wait(100)
    sent = len(stage.sent)
    for clock in range(1099, 1103):
        stage.lease.announced(announcement(clock), stage.now)
        stage.lease.announced(pmp_announcement(clock), stage.now)
    stage.wait(5)
    assert len(stage.sent) == sent


def test_a_flood_of_forged_announcements_costs_a_question_in_ten_seconds():
    stage = Stage(FakeRouter())
    stage.wait(10)
    sent = len(stage.sent)
    for _ in range(1000):
        stage.lease.announced(announcement(0), stage.now)
        stage.wait(0.1)
    assert len(stage.sent) - sent <= 11
    assert stage.status.since == 0.0


def test_a_router_that_refused_is_asked_again_when_it_announces_itself():
    stage = Stage(only(PCP, pcp_error=8), allowed=frozenset({PCP}))
    stage.router.pcp_error = 0
    stage.lease.announced(announcement(0), stage.now)
    stage.wait(1)
    assert stage.status.protocol is PCP


def test_a_router_that_announces_itself_while_it_is_asked_too_early_is_asked_once_more():
    stage = Stage(only(), allowed=frozenset({PCP}))
    stage.wait(1)  # all questions are sent
    stage.router.speaks = frozenset({PCP})
    stage.lease.announced(announcement(0), stage.now)
    stage.wait(2)
    assert stage.status.protocol is PCP


def test_a_router_that_forgot_soon_after_another_announcement_is_asked_again():
    stage = Stage(only(PCP), allowed=frozenset({PCP}))
    for _ in range(2):
        stage.wait(5)
        stage.router.forget(stage.now)
        stage.lease.announced(announcement(0), stage.now)
    stage.wait(11)
    assert stage.router.mappings == {PCP: (4000, 7200)}


def test_a_router_whose_announcement_got_lost_is_found_by_the_next_rest():
    stage = Stage(only(), allowed=frozenset({PCP}))
    stage.wait(24 * 3600)
    stage.router.speaks = frozenset({PCP})
    stage.wait(1024)
    assert stage.status.protocol is PCP


def test_who_announced_itself_and_does_not_answer_is_soon_asked_again():
    stage = Stage(only(), allowed=frozenset({PCP}))
    stage.wait(24 * 3600)
    stage.lease.announced(announcement(0), stage.now)
    stage.wait(3)
    stage.router.speaks = frozenset({PCP})
    stage.wait(15)
    assert stage.status.protocol is PCP


@pytest.mark.parametrize(
    ("before", "after", "remembers"),
    [
        (Epoch(1000, 0.0), Epoch(1060, 60.0), True),
        (Epoch(1000, 0.0), Epoch(999, 0.5), True),
        (Epoch(1000, 0.0), Epoch(998, 0.5), False),
        (Epoch(1000, 0.0), Epoch(1000, 60.0), False),
        (Epoch(1000, 0.0), Epoch(4375, 3600.0), True),  # its clock loses 1/16
        (Epoch(1000, 0.0), Epoch(4300, 3600.0), False),
        (Epoch(1000, 0.0), Epoch(5000, 3600.0), False),
        (Epoch(0, 0.0), Epoch(2, 0.0), True),
    ],
)
def test_a_clock_tells_whether_a_router_remembers(before, after, remembers):
    assert before.leads_to(after) is remembers


# UPnP's many ways to refuse


def upnp(**knobs: object) -> Stage:
    return Stage(only(UPNP, **knobs), allowed=frozenset({UPNP}))


def test_a_port_that_is_taken_is_exchanged_for_another():
    stage = upnp(upnp_faults={("AddPortMapping", 4000): 718})
    assert stage.status.outside[1] != 4000
    assert stage.status.outside[1] >= 20000


def test_a_router_where_all_is_taken_is_not_asked_for_ever():
    stage = upnp(upnp_faults={("AddPortMapping", None): 718})
    assert stage.status.why == "UPnP: that port outside is somebody else's"
    assert len(stage.router.heard) < 10
    stage.lease.release(stage.now)
    stage.play()
    assert not any("Delete" in heard for heard in stage.router.heard)


def test_a_router_that_lends_for_ever_only_gets_it_back_all_the_same():
    stage = upnp(permanent_only=True)
    assert stage.router.mappings == {UPNP: (4000, 0)}
    stage.wait(3600)
    assert stage.status.protocol is UPNP
    stage.lease.release(stage.now)
    stage.play()
    assert stage.router.mappings == {}
    assert stage.lease.over


def test_a_router_that_wants_the_same_port_gets_it():
    stage = Stage(
        only(UPNP, upnp_faults={("AddPortMapping", 443): 724}),
        Wanted(Transport.TCP, 4000, outside=443),
        allowed=frozenset({UPNP}),
    )
    assert stage.status.outside == (OUTSIDE, 4000)


def test_not_authorised_is_not_argued_with():
    stage = upnp(upnp_faults={("AddPortMapping", None): 606})
    assert stage.status.why == "UPnP: not authorised"
    assert sum("AddPort" in heard for heard in stage.router.heard) == 1


def test_the_second_version_is_asked_for_any_port():
    stage = upnp(upnp_version=2)
    assert stage.router.heard[-1] == "UPnP AddAnyPortMapping 7200 4000"
    stage = upnp(upnp_version=2, upnp_faults={("AddAnyPortMapping", None): 401})
    assert stage.router.heard[-1] == "UPnP AddPortMapping 7200 4000"
    assert stage.status.protocol is UPNP


def test_a_router_that_is_not_connected_maps_nothing():
    assert upnp(ip="0.0.0.0").status.why == "UPnP: it has no public address outside"
    assert upnp(upnp_faults={("GetExternalIPAddress", None): 501}).status.protocol is None


@pytest.mark.parametrize(
    "reply",
    [
        Replied(404, b""),
        Replied(302, description()),
        Replied(200, b"<root/>"),
        Replied(200, b"no xml"),
        Replied(200, description(control="http://10.0.0.5/ctl")),
        Replied(200, description(control="http://192.168.1.1:22/")),
        Replied(200, description(control="//127.0.0.1:8080/")),
        Replied(200, description(head='<!DOCTYPE x [<!ENTITY a "b">]>')),
        Replied(200, description(kind="Layer3Forwarding")),
    ],
)
def test_a_description_that_leads_elsewhere_is_not_followed(reply):
    lease = Lease(WANTED, WAY, nonce=NONCE, die=lambda: 0.0, now=0.0, allowed=frozenset({UPNP}))
    assert isinstance(lease.next_action(), Search)
    lease.found(FOUND, 0.0)
    asked = lease.next_action()
    assert isinstance(asked, Call)
    assert asked.asked.url == LOCATION
    lease.replied(asked.ticket, reply, 0.0)
    assert lease.next_action() is None
    assert lease.status.why.startswith("UPnP: ")


def test_a_router_that_takes_its_time_over_http_is_left():
    lease = Lease(WANTED, WAY, nonce=NONCE, die=lambda: 0.0, now=0.0, allowed=frozenset({UPNP}))
    lease.found(FOUND, 0.0)
    lease.next_action()
    asked = lease.next_action()
    assert lease.next_deadline() < 20
    lease.handle_timeout(lease.next_deadline())
    assert lease.status.why == "UPnP: its answers take too long"
    lease.replied(asked.ticket, Replied(200, description()), 20.0)  # too late
    assert lease.next_action() is None


# Strangers


def test_an_answer_with_another_nonce_is_none():
    stage = Stage(only(), allowed=frozenset({PCP}))
    answer = bytearray(FakeRouter().datagram(stage.sent[0], 0.0))
    for place in range(24, 36):
        forged = bytearray(answer)
        forged[place] ^= 1
        stage.lease.receive(bytes(forged), 0.0)
    assert stage.status.protocol is None
    stage.lease.receive(bytes(answer), 0.0)
    assert stage.status.protocol is PCP


@pytest.mark.parametrize("answer", ["mapping", "address"])
def test_an_answer_nobody_asked_for_is_none(answer):
    stage = Stage(FakeRouter())
    before = stage.status
    forged = {
        "mapping": struct.pack("!BBHIHHI", 0, 129, 0, 5, 4000, 9, 9999),
        "address": pmp_announcement(5, b"\x06\x06\x06\x06"),
    }
    stage.lease.receive(forged[answer], 1.0)
    assert stage.status == before


_BYTES = st.one_of(
    st.binary(max_size=80),
    st.binary(min_size=58, max_size=58).map(lambda tail: b"\x02\x81" + tail),
    st.binary(min_size=14, max_size=14).map(lambda tail: b"\x00\x81" + tail),
    st.binary(min_size=10, max_size=10).map(lambda tail: b"\x00\x80" + tail),
)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["receive", "announced", "found", "reply", "time", "closed"]), _BYTES)))
def test_whatever_a_router_does_a_lease_has_a_state_a_deadline_and_an_end(steps):
    lease, now, calls = Lease(WANTED, WAY, nonce=NONCE, die=lambda: 0.5, now=0.0), 0.0, []

    def drain() -> int:
        count = 0
        while (action := lease.next_action()) is not None:
            count += 1
            if isinstance(action, Call):
                calls.append(action.ticket)
        return count

    for what, data in steps:
        now += 0.01
        if what == "time":
            now = min(max(now, lease.next_deadline()), now + 1e5)
            lease.handle_timeout(now)
        elif what == "closed":
            lease.closed(now)
        elif what == "reply" and calls:
            lease.replied(calls.pop(), Replied(200, data), now)
        elif what == "found":
            lease.found(FOUND if len(data) % 2 else data, now)
        else:
            getattr(lease, "receive" if what == "reply" else what)(data, now)
        assert drain() <= 8
        assert lease.next_deadline() < now + 1e5
        assert lease.status.why
    lease.release(now)
    for _ in range(10):
        drain()
        if lease.over:
            break
        now = max(now, lease.next_deadline())
        lease.handle_timeout(now)
    assert lease.over
    assert lease.next_deadline() == float("inf")


# Giving back


@pytest.mark.parametrize("protocol", list(Protocol), ids=str)
def test_what_was_granted_is_given_back(protocol):
    stage = Stage(only(protocol), allowed=frozenset({protocol}))
    assert stage.router.mappings
    stage.lease.release(stage.now)
    stage.play()
    assert stage.router.mappings == {}
    assert stage.lease.over
    assert stage.status.why == "given back"


def test_a_pinhole_that_cannot_be_deleted_is_shortened():
    wanted, way = Wanted(Transport.UDP, 4000, version=6), Way("fe80::1", "2001:db8::20")
    stage = Stage(only(PCP, ip="2001:db8::20"), wanted, way=way)
    stage.router.pcp_error = 2
    stage.router.heard.clear()
    stage.lease.release(stage.now)
    stage.play()
    assert stage.router.heard == ["PCP 0 0", "PCP 1 4000"]
    assert stage.lease.over


@pytest.mark.parametrize("protocol", [PCP, NAT_PMP], ids=str)
def test_a_late_answer_to_what_was_asked_before_is_no_deletion(protocol):
    stage = Stage(only(protocol), allowed=frozenset({protocol}))
    late = stage.router.datagram(stage.sent[-1], stage.now)
    stage.router.speaks = frozenset()
    stage.lease.release(stage.now)
    stage.play()
    stage.lease.receive(late, stage.now)
    assert not stage.lease.over
    stage.router.speaks = frozenset({protocol})
    stage.until(lambda: stage.lease.over, at_most=stage.now + 0.5)
    assert stage.router.mappings == {}


def test_what_was_granted_after_a_silence_is_given_back():
    stage = Stage(only(NAT_PMP))
    stage.until(lambda: stage.status.protocol is NAT_PMP)
    stage.lease.release(stage.now)
    stage.play()
    assert stage.router.mappings == {}
    stage.until(lambda: stage.lease.over, at_most=stage.now + 1.5)


def test_what_may_have_been_granted_is_given_back():
    stage = Stage(only())
    stage.router.speaks = frozenset({PCP})
    stage.lease.release(stage.now)
    stage.play()
    assert stage.router.heard == ["PCP 0 0"]
    assert stage.lease.over


def test_a_silent_router_does_not_hold_us_up():
    stage = Stage(FakeRouter())
    stage.router.speaks = frozenset()
    stage.lease.release(stage.now)
    stage.play()
    stage.until(lambda: stage.lease.over, at_most=1.5)
    stage.lease.release(stage.now)
    assert stage.lease.next_action() is None


def test_nothing_granted_is_nothing_to_give_back():
    stage = Stage(only(UPNP, upnp_faults={("AddPortMapping", None): 606}), refuse=lambda data: True)
    stage.lease.release(stage.now)
    stage.play()
    stage.until(lambda: stage.lease.over, at_most=2)
    assert not any("Delete" in heard for heard in stage.router.heard)
