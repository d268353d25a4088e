"""Two links in memory: the published session byte for byte, split in every way, and every limit by a clock we turn."""

from __future__ import annotations

import dataclasses

import pytest

from cyfs_ns.errors import Misuse, Refused, Unreachable
from cyfs_ns.identity.did import Did
from rtcp.admission import Policy
from rtcp.events import (
    End,
    HelloProven,
    LinkClosed,
    PeerConfirmed,
    PingAnswered,
    StreamAnswered,
    StreamMissed,
    StreamRequested,
    TunnelOpened,
)
from rtcp.limits import Limits
from rtcp.nonces import NonceMemory
from rtcp.packet import Purpose, Result
from rtcp.party import Local, Remote
from rtcp.records import Budget, Spent
from tests.rtcp.pair import (
    ALICE,
    ALICE_HERE,
    ALICES_DICE,
    ALICES_NAME,
    BOB,
    BOBS_DICE,
    BOBS_NAME,
    ID,
    MALLORY,
    NAMED_ONLY,
    TO_BOB,
    WALL,
    Pair,
    bytewise,
    device_document,
    dialled,
    let_in,
    local,
    opened,
    responding,
    told,
    whole,
)

CONFIRM = (
    "004d1c1a461b34f57697e6c77be9be8ccb7e59ec56c5a08dd1f93ce4646d3afae913e9d33d47db25747c996bd64e1785f3311ce8ce383d08f3"
    "214e7f9ca4b8d88913b1631321017a872f97e3a439b0"
)
ACCEPTED = "0029652f42f18dc0d0468e8a6a0923941f96d0d5990e9ac462ae95e2fc2171fc70dff13ecdda797a423d8a"


def ids(count: int) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in range(1, count + 1)]


def closed(pair: Pair, name: str) -> LinkClosed:
    """How the tunnel ended for ``name``."""
    ends = [event for event in pair.news(name) if isinstance(event, LinkClosed)]
    assert len(ends) == 1
    return ends[0]


@pytest.mark.parametrize("split", [whole, bytewise])
def test_the_published_session(split):
    pair = Pair(split=split)
    pair.talk()
    assert [type(event) for event in pair.told["bob"]] == [HelloProven, PeerConfirmed, TunnelOpened]
    assert pair.told["alice"] == [TunnelOpened()]
    assert pair.sent["alice"][1].hex() == CONFIRM
    assert pair.sent["bob"][1].hex() == ACCEPTED
    proven = pair.bob.proven
    assert proven is not None and proven.key == ALICE.public and proven.anonymous


@pytest.mark.parametrize("split", [whole, bytewise])
def test_either_side_opens_streams_and_the_legs_carry_bytes_both_ways(split):
    pair = opened(split=split)
    there, back = ids(2)
    pair.alice.open_stream(there, Purpose.STREAM, "db.home.example", 5432, pair.now)
    pair.bob.open_stream(back, Purpose.DATAGRAM, None, 53, pair.now)
    assert pair.news("bob") == [StreamRequested(there, Purpose.STREAM, "db.home.example", 5432)]
    assert pair.news("alice") == [StreamRequested(back, Purpose.DATAGRAM, None, 53)]
    assert pair.bob.answer_stream(there, Result.OK, pair.now) and pair.alice.answer_stream(back, Result.OK, pair.now)
    assert pair.news("alice") == [StreamAnswered(there, Result.OK)]
    assert pair.news("bob") == [StreamAnswered(back, Result.OK)]
    for stream_id in (there, back):
        dialler, accepter = pair.alice.take_leg(stream_id, pair.now), pair.bob.take_leg(stream_id, pair.now)
        assert dialler is not None and accepter is not None
        assert dialler.preamble == b"\0\0" + stream_id.hex().encode() and accepter.preamble == b""
        for sender, receiver, text in ((accepter, dialler, b"220 ready"), (dialler, accepter, b"EHLO")):
            for piece in split(sender.seal(text)):
                receiver.receive_data(piece)
            assert (receiver.next_data(), receiver.next_data()) == (text, None)
    assert pair.alice.take_leg(there, pair.now) is None, "an id serves once"


def test_a_leg_may_arrive_before_the_answer_that_announces_it():
    pair = opened()
    pair.bob.open_stream(ID, Purpose.STREAM, None, 22, 0)
    assert pair.bob.take_leg(ID, 0) is not None
    pair.talk()
    assert pair.alice.answer_stream(ID, Result.OK, 0)
    assert pair.news("bob") == []
    pair.pass_time(200)
    assert pair.news("bob") == [] or all(isinstance(event, PingAnswered) for event in pair.told["bob"])


def test_the_dialler_takes_no_leg_before_it_was_allowed():
    pair = opened()
    pair.alice.open_stream(ID, Purpose.STREAM, None, 22, 0)
    assert pair.alice.take_leg(ID, 0) is None
    pair.talk()
    assert pair.bob.take_leg(ID, 0) is None


@pytest.mark.parametrize("result", [Result.NOT_AUTHORIZED, Result.RECONNECT_FAILED, 77])
def test_a_refused_stream_is_over_on_both_sides(result):
    pair = opened()
    pair.alice.open_stream(ID, Purpose.STREAM, None, 22, 0)
    pair.talk()
    assert pair.bob.answer_stream(ID, result, 0)
    assert pair.news("alice") == [StreamAnswered(ID, result)]
    assert pair.alice.take_leg(ID, 0) is None and pair.bob.take_leg(ID, 0) is None
    assert not pair.bob.answer_stream(ID, Result.OK, 0)


def test_a_request_is_answered_once_and_by_the_other_side():
    pair = opened()
    pair.alice.open_stream(ID, Purpose.STREAM, None, 22, 0)
    assert not pair.alice.answer_stream(ID, Result.OK, 0)
    pair.talk()
    assert pair.bob.answer_stream(ID, Result.OK, 0)
    assert not pair.bob.answer_stream(ID, Result.OK, 0)
    assert pair.news("alice") == [StreamAnswered(ID, Result.OK)]


def test_an_unanswered_request_ends_by_timeout_on_both_sides():
    pair = opened()
    pair.alice.open_stream(ID, Purpose.STREAM, None, 22, 0)
    pair.talk()
    pair.pass_time(61)
    assert StreamAnswered(ID, Result.TIMEOUT) in pair.news("alice")
    assert StreamMissed(ID) in pair.news("bob")
    assert not pair.bob.answer_stream(ID, Result.OK, pair.now)


def test_an_agreed_stream_whose_connection_never_comes_is_missed():
    pair = opened()
    pair.alice.open_stream(ID, Purpose.STREAM, None, 22, 0)
    pair.talk()
    pair.bob.answer_stream(ID, Result.OK, 0)
    pair.talk()
    pair.pass_time(31)
    assert StreamMissed(ID) in pair.news("bob") and StreamMissed(ID) in pair.news("alice")
    assert pair.bob.take_leg(ID, pair.now) is None


def test_our_own_requests_are_bounded_too():
    pair = opened(Limits(pending=2, stream_ids=3))
    first, second, third, fourth = ids(4)
    for stream_id in (first, second):
        pair.alice.open_stream(stream_id, Purpose.STREAM, None, 22, 0)
    with pytest.raises(Refused):
        pair.alice.open_stream(third, Purpose.STREAM, None, 22, 0)
    with pytest.raises(Misuse):
        pair.alice.open_stream(first, Purpose.STREAM, None, 22, 0)
    pair.talk()
    pair.bob.answer_stream(first, Result.NOT_AUTHORIZED, 0)
    pair.talk()
    pair.alice.open_stream(third, Purpose.STREAM, None, 22, 0)
    with pytest.raises(Spent):
        pair.alice.open_stream(fourth, Purpose.STREAM, None, 22, 0)


def test_streams_need_an_open_tunnel():
    alice = dialled()
    with pytest.raises(Misuse):
        alice.open_stream(ID, Purpose.STREAM, None, 22, 0)
    with pytest.raises(Misuse):
        alice.admit(0)
    assert alice.take_leg(ID, 0) is None and not alice.answer_stream(ID, Result.OK, 0)


# The handshake


def test_a_duplicate_is_told_so():
    def duplicate(link, event, now):
        if isinstance(event, PeerConfirmed):
            link.turn_away("duplicate tunnel")
        else:
            let_in(link, event, now)

    pair = Pair(host=duplicate)
    assert closed(pair, "alice").end is End.REFUSED
    assert closed(pair, "bob") == LinkClosed(End.REFUSED, "duplicate tunnel")


def test_a_stranger_who_is_not_wanted_hears_nothing():
    pair = Pair(host=lambda link, event, now: link.turn_away("no") if isinstance(event, HelloProven) else None)
    assert closed(pair, "bob").end is End.REFUSED
    assert pair.sent["bob"] == []


def test_a_hello_is_accepted_once_by_all_links_of_a_device():
    nonces = NonceMemory()
    hello = dialled().data_to_send()
    for expected in (False, True):
        bob = responding(nonces)
        bob.receive_data(hello, 1)
        assert [type(event) for event in told(bob)] == [HelloProven]
        bob.admit(1)
        assert bob.is_closed is expected
    assert told(bob) == [LinkClosed(End.FAULT, "this Hello was used before")]


def test_a_replay_after_a_restart_forgot_its_nonce_still_opens_nothing():
    pair = Pair()
    pair.talk()
    replayed = pair.sent["alice"]
    bob = responding(entropy=b"\x99" * 64)
    bob.receive_data(replayed[0], 2)
    told(bob)
    bob.admit(2)
    bob.receive_data(replayed[1], 2)
    assert [(type(event), event.end) for event in told(bob)] == [(LinkClosed, End.FAULT)]


@pytest.mark.parametrize("skew", [-300, -121, 61, 300])
def test_clocks_too_far_apart_are_told_from_each_other(skew):
    pair = Pair(dialled(wall=WALL + skew))
    assert "clocks" in closed(pair, "bob").why
    assert pair.sent["bob"] == []


@pytest.mark.parametrize("skew", [-59, -30, 30, 60])
def test_clocks_a_little_apart_do(skew):
    pair = Pair(dialled(wall=WALL + skew))
    pair.talk()
    assert pair.alice.is_open and pair.bob.is_open


def test_an_answer_by_a_clock_too_far_ahead_is_refused():
    pair = Pair(bob=responding(wall=WALL + 119))
    assert "clocks" in closed(pair, "alice").why


def test_who_answers_in_anothers_place_is_found_out():
    pair = Pair(dialled(Remote(BOBS_NAME, BOB.public)), responding(here=local(MALLORY, also=frozenset({BOBS_NAME}))))
    assert closed(pair, "bob").end is End.FAULT
    impostor = responding(here=local(MALLORY, also=frozenset({BOBS_NAME})))
    to_mallory = dialled(Remote(BOBS_NAME, MALLORY.public))
    impostor.receive_data(to_mallory.data_to_send(), 0)
    impostor.admit(0)
    alice = dialled()
    alice.receive_data(impostor.data_to_send(), 0)
    assert [(event.end, "somebody else" in event.why) for event in told(alice)] == [(End.FAULT, True)]


def test_an_answer_to_another_hello_is_refused():
    bob = responding()
    bob.receive_data(dialled(entropy=b"\x77" * 64).data_to_send(), 0)
    bob.admit(0)
    alice = dialled()
    alice.receive_data(bob.data_to_send(), 0)
    assert [event.why for event in told(alice)] == ["the answer is to another Hello than ours"]


def test_our_own_hello_sent_back_is_refused():
    alice = dialled()
    alice.receive_data(alice.data_to_send(), 0)
    assert [event.end for event in told(alice)] == [End.FAULT]


def test_a_hello_for_another_device_is_refused_though_the_name_is_ours():
    pair = Pair(dialled(Remote(BOBS_NAME, MALLORY.public)))
    assert "another device" in closed(pair, "bob").why


def test_strangers_without_a_name_may_be_kept_out():
    pair = Pair(bob=responding(policy=NAMED_ONLY))
    assert closed(pair, "bob").end is End.REFUSED
    assert Policy() != NAMED_ONLY


def test_a_device_with_a_name_brings_its_document():
    named = dataclasses.replace(ALICE_HERE, did=ALICES_NAME, device_doc_jwt=device_document(ALICE))
    pair = Pair(dialled(here=named), responding(policy=NAMED_ONLY))
    pair.talk()
    assert pair.alice.is_open and pair.bob.is_open
    proven = pair.bob.proven
    assert proven is not None and (proven.named, proven.key) == (ALICES_NAME, ALICE.public)
    assert proven.document is not None and proven.document.text == named.device_doc_jwt


def test_two_who_spell_a_name_differently_do_not_meet():
    name = Did("bns", "alice")
    named = Local(key=ALICE, did=name, device_doc_jwt=device_document(ALICE), bridges={"bns": "web3.example"})
    assert "another's" in closed(Pair(dialled(here=named)), "bob").why


def test_bytes_before_the_answer_are_a_fault_whenever_they_come():
    hello = dialled().data_to_send()
    for pieces in ([hello + b"x"], [hello, b"x"], [hello[:-1], hello[-1:] + b"x"]):
        bob = responding()
        for piece in pieces:
            bob.receive_data(piece, 0)
        assert [type(event) for event in told(bob)] == [HelloProven, LinkClosed]
        bob.admit(0)
        assert bob.data_to_send() == b""


@pytest.mark.parametrize("wait", ["hello", "admit", "confirm"])
def test_a_slow_handshake_ends_after_fifteen_seconds_in_all(wait):
    bob, alice = responding(), dialled()
    if wait != "hello":
        bob.receive_data(alice.data_to_send(), 10)
    if wait == "confirm":
        bob.admit(12)
    assert bob.next_deadline() == 15
    bob.handle_timeout(14.9)
    assert not bob.is_closed
    bob.handle_timeout(15)
    assert bob.is_closed and bob.next_deadline() is None


def test_the_diallers_steps_are_timed_one_by_one():
    alice, bob = dialled(), responding()
    bob.receive_data(alice.data_to_send(), 0)
    bob.admit(0)
    alice.receive_data(bob.data_to_send(), 14)
    assert alice.next_deadline() == 29
    alice.handle_timeout(29)
    assert told(alice) == [LinkClosed(End.LOST, "too late: waiting for the peer's verdict")]


def test_a_live_tunnel_outlives_the_handshakes_deadline():
    pair = opened()
    pair.pass_time(16)
    assert pair.alice.is_open and pair.bob.is_open


# A tunnel that stands


def test_a_ping_measures_the_way():
    pair = opened()
    pair.alice.ping(0)
    pair.bob.receive_data(pair.alice.data_to_send(), 0.02)
    pair.alice.receive_data(pair.bob.data_to_send(), 0.04)
    assert told(pair.alice) == [PingAnswered(0.04)]


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_a_silent_peer_is_asked_and_then_buried_by_either_side(name):
    link = getattr(opened(), name)
    pings = []
    while (due := link.next_deadline()) is not None:
        link.handle_timeout(due)
        pings += [due] if link.data_to_send() else []
    assert pings == [30, 40, 50] and due is None
    assert told(link) == [LinkClosed(End.LOST, "the peer gives no sign of life")]


def test_a_quiet_tunnel_lives_as_long_as_its_keys():
    pair = opened()
    pair.pass_time(86399)
    assert pair.alice.is_open and pair.bob.is_open
    assert len(pair.news("alice")) == 2879, "one ping each half minute"
    pair.pass_time(86400)
    assert closed(pair, "alice").end is closed(pair, "bob").end is End.SPENT


def test_thirty_days_are_thirty_tunnels():
    nonces, now = NonceMemory(), 0.0
    for day in range(30):
        dice = bytes((day,)) * 64
        limits = Limits(quiet=1e9)
        alice = dialled(entropy=dice, now=now, wall=WALL + now, limits=limits)
        bob = responding(nonces, entropy=BOBS_DICE, now=now, wall=WALL + now, limits=limits)
        pair = Pair(alice, bob, now=now)
        pair.talk()
        assert alice.is_open
        now += 86400
        pair.pass_time(now)
        assert closed(pair, "alice").end is closed(pair, "bob").end is End.SPENT
    assert len(nonces) == 1


def test_a_spent_budget_ends_the_tunnel():
    pair = opened(Limits(budget=Budget(5, 1 << 30, 86400)))
    for _ in range(4):
        pair.alice.ping(0)
        pair.talk()
    pair.alice.ping(0)
    assert closed(pair, "alice").end is End.SPENT


def test_a_peer_that_reads_nothing_is_not_kept_supplied():
    pair = opened(Limits(unsent=10_000))
    for _ in range(300):
        pair.bob.ping(0)
        pair.alice.receive_data(pair.bob.data_to_send(), 0)
    assert [event.end for event in told(pair.alice)] == [End.LOST]


def test_a_hurt_record_ends_the_tunnel_for_good():
    pair = opened()
    pair.alice.ping(0)
    wire = pair.alice.data_to_send()
    pair.bob.receive_data(wire[:-1] + bytes((wire[-1] ^ 1,)), 0)
    pair.bob.receive_data(wire, 0)
    assert [event.end for event in told(pair.bob)] == [End.FAULT]
    assert pair.bob.data_to_send() == b"" and pair.bob.next_deadline() is None


def test_the_end_of_the_connection_is_told_once():
    pair = opened()
    pair.alice.receive_eof()
    pair.alice.receive_eof()
    pair.alice.close()
    pair.alice.handle_timeout(1e9)
    pair.alice.ping(3)
    with pytest.raises(Unreachable):
        pair.alice.open_stream(ID, Purpose.STREAM, None, 22, 3)
    assert told(pair.alice) == [LinkClosed(End.LOST, "the connection ended")]
    assert pair.alice.data_to_send() == b""


def test_we_may_close():
    pair = opened()
    pair.alice.close()
    assert told(pair.alice) == [LinkClosed(End.ASKED, "closed by us")]


def test_decisions_that_come_too_late_do_nothing():
    bob = responding()
    bob.receive_data(dialled().data_to_send(), 0)
    bob.close()
    bob.admit(1)
    bob.turn_away("late")
    assert bob.data_to_send() == b"" and len(told(bob)) == 2


def test_a_handshake_takes_all_its_random_bytes():
    with pytest.raises(Misuse):
        dialled(TO_BOB, entropy=ALICES_DICE[:-1])
