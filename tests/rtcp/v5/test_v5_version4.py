"""A peer of version 4 never notices: a marked Hello is an ordinary one to it, and its Hello is served as ever."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from rtcp.events import HelloProven, LinkClosed, PeerConfirmed, TunnelOpened
from rtcp.handshake import greet
from rtcp.limits import Limits
from rtcp.link import Link
from rtcp.offer import is_marked, marked
from rtcp.packet import Packet, write_hello_stream, write_packet
from rtcp.v5.answering import AnswerFailed, OldHello
from rtcp.v5.calling import Call, CallFailed, SpeaksVersion4
from rtcp.v5.opening import First, read_first, read_offer
from tests.rtcp.pair import (
    ALICE_HERE,
    ALICES_DICE,
    BOB,
    BOBS_NAME,
    ID,
    TO_BOB,
    WALL,
    Pair,
    bytewise,
    dialled,
    responding,
    whole,
)
from tests.rtcp.pair import told as told_by_link
from tests.rtcp.test_rtcp_oldpeer import OLD_ALICE, OLD_BOB, Meeting
from tests.rtcp.v5.people import ALICES_KEY, HELLO_RANDOM, OPENINGS, answering, told

splits = pytest.mark.parametrize("split", [whole, bytewise])
offers = pytest.mark.parametrize("opening", ["marked", "masked"])


def given_to(machine, data, split=whole):
    for piece in split(data):
        machine.receive_data(piece, 0)


@splits
def test_a_marked_call_goes_on_in_version_4(split):
    call, bob = OPENINGS["marked"](), responding()
    given_to(bob, call.data_to_send(), split)
    assert isinstance(bob.next_event(), HelloProven)
    bob.admit(0)
    given_to(call, bob.data_to_send(), split)
    (event,) = told(call)
    assert isinstance(event, SpeaksVersion4) and call.next_deadline() is None
    pair = Pair(event.link, bob)
    pair.talk()
    assert pair.told["alice"] == [TunnelOpened()] and pair.told["bob"] == [PeerConfirmed(), TunnelOpened()]


@splits
def test_a_masked_call_learns_the_version_and_shows_nobody(split):
    call, bob = OPENINGS["masked"](), responding()
    given_to(bob, call.data_to_send(), split)
    event = bob.next_event()
    assert isinstance(event, HelloProven) and event.proven.anonymous
    assert event.proven.key not in (ALICE_HERE.key.public, BOB.public)
    bob.admit(0)
    given_to(call, bob.data_to_send(), split)
    assert told(call) == [SpeaksVersion4(None)]
    assert call.data_to_send() == b""


@splits
def test_the_second_peer_takes_a_marked_call_for_an_ordinary_one(split):
    call = OPENINGS["marked"]()
    step = OLD_BOB.serve(WALL)
    hello = call.data_to_send()
    assert next(step) == 8
    assert step.send(hello[:8]) == len(hello) - 8
    given_to(call, step.send(hello[8:]), split)
    (event,) = told(call)
    assert isinstance(event, SpeaksVersion4)
    # The link goes on where the call stopped; the old peer's step is in the middle of its own way.
    waiting = event.link.data_to_send()
    wanted = next(step)
    try:
        while True:
            if isinstance(wanted, bytes):
                given_to(event.link, wanted, split)
                wanted = next(step)
            else:
                given, waiting = waiting[:wanted], waiting[wanted:]
                wanted = step.send(given)
    except StopIteration as done:
        assert done.value.peer_hello["from_id"] == str(ALICE_HERE.did)
    assert told_by_link(event.link) == [TunnelOpened()]


@offers
def test_a_forger_of_the_answer_is_found_out(opening):
    call, bob = OPENINGS[opening](), responding()
    given_to(bob, call.data_to_send())
    bob.admit(0)
    wire = bytearray(bob.data_to_send())
    at = wire.index(b'"ack_token":"') + 13
    for place in range(at + 30, at + 400, 7):
        wrong = bytearray(wire)
        wrong[place] = ord("A") if wire[place] != ord("A") else ord("B")
        again = OPENINGS[opening]()
        again.data_to_send()
        given_to(again, bytes(wrong))
        (event,) = told(again)
        assert isinstance(event, CallFailed)


@pytest.mark.parametrize("make", [Call.marked, Call.masked])
def test_version_4_has_the_bounds_it_is_given(make):
    entropy = bytes(72 if make == Call.masked else 40)
    call = make(ALICES_KEY, ALICE_HERE, TO_BOB, entropy=entropy, now=3, wall=WALL, limits=Limits(step=4))
    assert call.next_deadline() == 7


@offers
def test_version_4_has_the_time_it_always_had(opening):
    """It may look a name up before it answers."""
    call = OPENINGS[opening]()
    assert call.next_deadline() == 15
    call.handle_timeout(15)
    assert told(call) == [CallFailed("no answer in time")]


@splits
def test_an_unmarked_hello_is_served_in_version_4(split):
    alice, door = dialled(), answering()
    hello = alice.data_to_send()
    given_to(door, hello, split)
    assert told(door) == [OldHello(hello)] and door.data_to_send() == b"" and door.next_deadline() is None
    pair = Pair(alice, responding())
    given_to(pair.bob, hello)
    pair.talk()
    assert pair.told["alice"] == [TunnelOpened()]


def test_the_second_peer_is_served_behind_the_door():
    door = answering()
    meeting = Meeting(responding(), whole)
    step = OLD_ALICE.dial(BOB.public.raw, WALL, str(BOBS_NAME), "responder.example")
    hello = next(step)
    given_to(door, hello)
    (event,) = told(door)
    assert event == OldHello(hello)
    given_to(meeting.link, event.data)

    def rest():
        return (yield from step)

    meeting.run(rest())
    assert meeting.news()[-1] == TunnelOpened()


def test_bytes_behind_an_unmarked_hello_are_version_4s_affair():
    door = answering()
    hello = dialled().data_to_send()
    given_to(door, hello + b"more")
    assert told(door) == [OldHello(hello + b"more")]


def test_a_marked_hello_is_what_greet_writes_with_an_offer():
    hello, claims = greet(ALICE_HERE, TO_BOB, ALICES_DICE, WALL, offers=True)
    plain, unmarked = greet(ALICE_HERE, TO_BOB, ALICES_DICE, WALL)
    assert is_marked(claims.xpub, claims.nonce) and not is_marked(unmarked.xpub, unmarked.nonce)
    assert claims.nonce[:8] == unmarked.nonce[:8]
    offer = read_offer(write_packet(Packet(1, hello)))
    assert (offer.responder, offer.ephemeral) == (BOB.public, claims.xpub)
    assert read_offer(write_packet(Packet(1, plain))) is None


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=8, max_size=8), st.integers(0, 127))
def test_the_mark_is_of_one_key_and_all_its_bits_count(xpub, random, bit):
    nonce = marked(xpub, random)
    assert is_marked(xpub, nonce)
    wrong = bytearray(nonce)
    wrong[bit // 8] ^= 1 << bit % 8
    assert not is_marked(xpub, bytes(wrong))
    assert not is_marked(bytes(reversed(xpub)) + b"x", nonce)


def test_a_random_nonce_is_not_marked():
    link = Link.dial(ALICE_HERE, TO_BOB, entropy=bytes(range(64)), now=0, wall=WALL)
    assert read_offer(link.data_to_send()) is None


def test_a_hello_that_offers_does_not_depend_on_the_rest_of_the_entropy():
    one = Link.dial(ALICE_HERE, TO_BOB, entropy=b"\x11" * 32 + HELLO_RANDOM + bytes(24), now=0, wall=WALL, offers=True)
    assert one.data_to_send() == OPENINGS["marked"]().data_to_send()


@pytest.mark.parametrize(
    ("begun", "first"),
    [
        (b"", None),
        (b"\0", None),
        (write_hello_stream(ID)[:2], First.LEG),
        (dialled().data_to_send()[:3], None),
        (dialled().data_to_send()[:4], First.HELLO),
        (OPENINGS["native"]().data_to_send()[:4], First.MESSAGE),
    ],
)
def test_four_bytes_tell_what_a_connection_is(begun, first):
    assert read_first(begun) is first


@given(st.binary(min_size=4, max_size=20))
def test_anything_else_is_closed_without_a_byte(data):
    door = answering()
    try:
        assert read_first(data) in (First.LEG, First.HELLO, First.MESSAGE)
    except BadWire:
        given_to(door, data)
        assert isinstance(told(door)[0], AnswerFailed) and door.data_to_send() == b""


@pytest.mark.parametrize("version", [0, 3, 4, 6, 22, 71])
def test_other_versions_are_closed_without_a_byte(version):
    door = answering()
    given_to(door, bytes((0, 84, version, 1)))
    assert isinstance(told(door)[0], AnswerFailed)
    door = answering()
    given_to(door, bytes((0, 84, 8, version)))
    assert isinstance(told(door)[0], AnswerFailed)


@given(st.binary(max_size=200))
def test_an_offer_or_none_or_its_one_error(data):
    wire = (4 + len(data)).to_bytes(2, "big") + b"\x08\x01" + data
    with contextlib.suppress(BadWire):
        assert read_offer(wire) is None


def test_a_link_that_was_refused_is_told():
    link = responding()
    link.receive_data(OPENINGS["native"]().data_to_send(), 0)
    assert isinstance(told_by_link(link)[0], LinkClosed) and link.data_to_send() == b""
