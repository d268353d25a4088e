"""Who stands between two devices, or has stolen a key, or only has time: what they try, and what comes of it."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire, PeerFault
from cyfs_ns.identity.token import read_token
from rtcp.admission import ProvenHello
from rtcp.events import LinkClosed
from rtcp.handshake import answer as answer_in_version_4
from rtcp.handshake import greet
from rtcp.link import Link
from rtcp.packet import Packet, PacketReader, write_packet
from rtcp.party import Remote
from rtcp.tokens import read_hello_claims
from rtcp.v5.answering import AnswerFailed, CallerProven, Met, OldHello
from rtcp.v5.calling import Call, CallFailed, ResponderProven, SpeaksVersion4
from rtcp.v5.carrier import Kind
from rtcp.v5.keys import x25519_public
from rtcp.v5.messages import mac1_key, write_first
from rtcp.v5.noise import Initiator, Responder
from rtcp.v5.opening import native_prologue
from tests.rtcp.pair import ALICE, ALICE_HERE, ALICES_DICE, BOB, BOB_HERE, MALLORY, TO_BOB, WALL, local, responding
from tests.rtcp.pair import told as told_by_link
from tests.rtcp.v5.people import (
    ALICE_SAYS,
    ALICES_KEY,
    BOBS_KEY,
    CALLEDS,
    HELLO_RANDOM,
    MALLORYS_KEY,
    OPENINGS,
    Meeting,
    answering,
    asked,
    met,
    native,
    told,
)

openings = pytest.mark.parametrize("opening", OPENINGS)
offers = pytest.mark.parametrize("opening", ["marked", "masked"])


def failed(machine) -> bool:
    return isinstance(told(machine)[-1], AnswerFailed | CallFailed)


def another() -> Call:
    """Alice calls Bob once more."""
    return native(entropy=b"\x13" * 32)


def packet_of(wire: bytes):
    reader = PacketReader()
    reader.receive_data(wire)
    return reader.next_packet().body


# Downgrade


@offers
def test_a_marked_hello_is_never_answered_in_version_4(opening):
    meeting = Meeting(OPENINGS[opening]()).knock().reply()
    assert told(meeting.answer) == [Met()] and meeting.second[2:4] == b"\5\2"


def test_a_hello_without_its_mark_has_lost_its_signature_too():
    """The one way to have Bob answer in version 4 is another Hello, and Alice signs none without a mark."""
    call = OPENINGS["marked"]()
    hello = packet_of(call.data_to_send())
    head, _, signature = hello.tunnel_token.split(".")
    unmarked, _ = greet(ALICE_HERE, TO_BOB, ALICES_DICE, WALL)
    other_claims = unmarked.tunnel_token.split(".")[1]
    forged = dataclasses.replace(hello, tunnel_token=f"{head}.{other_claims}.{signature}")
    wire = write_packet(Packet(1, forged))

    bob = answering()
    bob.receive_data(wire, 0)
    assert told(bob) == [OldHello(wire)]
    link = responding()
    link.receive_data(wire, 0)
    (closed,) = told_by_link(link)
    assert isinstance(closed, LinkClosed) and "not signed" in closed.why and link.data_to_send() == b""


def test_an_answer_in_version_4_to_another_hello_is_none():
    """Mallory has Bob answer a Hello of her own in version 4, and gives that to Alice."""
    hers = Link.dial(local(MALLORY), TO_BOB, entropy=bytes(64), now=0, wall=WALL)
    bob = responding()
    bob.receive_data(hers.data_to_send(), 0)
    bob.admit(0)
    ack = bob.data_to_send()
    for opening in ("marked", "masked"):
        call = OPENINGS[opening]()
        call.data_to_send()
        call.receive_data(ack, 0)
        assert failed(call) and call.data_to_send() == b""


@offers
@pytest.mark.parametrize("signer", [MALLORY, ALICE])
def test_an_answer_in_version_4_that_somebody_else_signs_is_none(opening, signer):
    """It fits the Hello in every word, but for the key."""
    hello = packet_of(OPENINGS[opening]().data_to_send())
    claims = read_hello_claims(read_token(hello.tunnel_token))
    for key, event in ((signer, CallFailed), (BOB, SpeaksVersion4)):
        proven = ProvenHello(ALICE.public, ALICE_HERE.did, claims=claims)
        ack, _ = answer_in_version_4(dataclasses.replace(BOB_HERE, key=key), proven, bytes(64), WALL)
        call = asked(OPENINGS[opening]())
        call.receive_data(write_packet(Packet(1, ack)), 0)
        assert isinstance(told(call)[0], event)


def test_a_hello_of_before_the_offer_brings_nobody_back():
    """Mallory kept an unmarked Hello of Alice's, and Bob, who may still speak version 4, answers it."""
    link = Link.dial(ALICE_HERE, TO_BOB, entropy=ALICES_DICE, now=0, wall=WALL)
    kept = link.data_to_send()
    door = answering()
    door.receive_data(kept, 0)
    assert told(door) == [OldHello(kept)]
    bob = responding()
    bob.receive_data(kept, 0)
    bob.admit(0)
    ack = bob.data_to_send()
    call = asked(Call.marked(ALICES_KEY, ALICE_HERE, TO_BOB, entropy=b"\x19" * 32 + HELLO_RANDOM, now=0, wall=WALL))
    call.receive_data(ack, 0)
    assert failed(call)


def test_a_native_call_takes_no_version_4():
    call = asked(native())
    call.receive_data(b"\0\x40\x08\2", 0)
    assert failed(call)


def test_a_hello_cannot_be_made_a_native_opening_nor_the_reverse():
    """The same ephemeral key, the other prologue: nothing opens."""
    marked = OPENINGS["marked"]()
    marked.data_to_send()
    bob = answering()
    bob.receive_data(native().data_to_send(), 0)
    marked.receive_data(bob.data_to_send(), 0)
    assert failed(marked)

    plain = native()
    plain.data_to_send()
    bob = answering()
    bob.receive_data(OPENINGS["marked"]().data_to_send(), 0)
    plain.receive_data(bob.data_to_send(), 0)
    assert failed(plain)


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_bit_of_a_marked_hello_can_be_changed(at, bit):
    call = OPENINGS["marked"]()
    wire = bytearray(call.data_to_send())
    wire[at % len(wire)] ^= 1 << bit
    bob = answering()
    bob.receive_data(bytes(wire), 0)
    events = told(bob)
    if events == [Met()]:  # it was read all the same; but its hash is in the prologue
        call.receive_data(bob.data_to_send(), 0)
        assert failed(call)
    elif events and isinstance(events[0], OldHello):  # the mark is gone; so is the signature
        link = responding()
        link.receive_data(events[0].data, 0)
        assert link.is_closed and link.data_to_send() == b""
    else:
        assert bob.data_to_send() == b""


# Mixing, replay, reflection


@openings
def test_halves_of_two_connections_do_not_fit(opening):
    one, two = Meeting(OPENINGS[opening]()).knock(), Meeting(another(), answering(entropy=b"\x23" * 32)).knock()
    second = two.answer.data_to_send()
    one.call.receive_data(second, 0)
    assert failed(one.call)

    one, two = Meeting(OPENINGS[opening]()), Meeting(another(), answering(entropy=b"\x23" * 32))
    one.knock().reply(), two.knock().reply()
    two.call.go_on(ALICE_SAYS)
    one.answer.receive_data(two.call.data_to_send(), 0)
    assert failed(one.answer) and one.answer.data_to_send() == b""


@openings
def test_a_replayed_message_1_gets_an_answer_nobody_can_use(opening):
    first = Meeting(OPENINGS[opening]()).knock().reply()
    first.prove()
    bob = answering(entropy=b"\x24" * 32)
    bob.receive_data(first.first, 0)
    assert told(bob) == [Met()]
    assert bob.data_to_send() != first.second
    bob.receive_data(first.third, 0)
    assert failed(bob) and bob.data_to_send() == b""


@openings
def test_a_replayed_message_2_does_not_open(opening):
    first = Meeting(OPENINGS[opening]()).knock().reply()
    again = asked(native(entropy=b"\x14" * 32))
    again.receive_data(first.second, 0)
    assert failed(again)


@openings
def test_what_is_sent_back_is_not_an_answer(opening):
    call = OPENINGS[opening]()
    call.receive_data(call.data_to_send(), 0)
    assert failed(call)

    meeting = Meeting(OPENINGS[opening]()).knock().reply()
    meeting.answer.receive_data(meeting.second, 0)
    assert failed(meeting.answer) and meeting.answer.data_to_send() == b""


def test_what_alice_sends_is_not_for_alice():
    answer = answering()
    answer._keys = (ALICES_KEY,)
    answer.receive_data(native().data_to_send(), 0)
    assert failed(answer)


# Unknown key share, and stolen keys


@openings
def test_who_passes_a_call_on_cannot_make_it_its_own(opening):
    """Mallory between: what Alice means for Bob does not open for Mallory."""
    meeting = Meeting(OPENINGS[opening]()).knock().reply()
    meeting.call.go_on(ALICE_SAYS)
    third = meeting.call.data_to_send()
    own = Responder(native_prologue(MALLORY.public), MALLORYS_KEY.secret, MALLORYS_KEY.x25519)
    with pytest.raises(BadWire):
        own.first(native().data_to_send()[4:52])
    meeting.answer.receive_data(third, 0)
    assert told(meeting.answer)[-1] == CallerProven(ALICE_SAYS)


def test_both_ends_name_the_same_two_keys():
    hers, his = met()
    assert (hers.peer, his.peer) == (BOB.public, ALICE.public)


def test_a_key_of_the_same_x25519_is_another_device():
    """Ed25519 keys that differ in sign agree alike; Alice calls the one, and the other is somebody else."""
    mirrored = type(BOB.public)(BOB.public.raw[:31] + bytes((BOB.public.raw[31] ^ 0x80,)))
    assert x25519_public(mirrored) == BOBS_KEY.x25519
    meeting = Meeting(Call.native(ALICES_KEY, mirrored, entropy=b"\x11" * 32, now=0)).knock()
    assert failed(meeting.answer)
    # Even if mac1 were right: the prologue has the Ed25519 form.
    noise = Initiator(native_prologue(mirrored), ALICES_KEY.secret, b"\x11" * 32, BOBS_KEY.x25519)
    answer = answering()
    answer.receive_data(write_first(noise.first(b""), mac1_key(BOB.public)), 0)
    assert failed(answer) and answer.data_to_send() == b""


def test_who_stole_the_responders_key_cannot_pose_as_a_caller_to_it():
    """Mallory has Bob's key.  Whatever key she can prove is the one he hears of, and that is not Alice's."""
    for static in (MALLORYS_KEY, BOBS_KEY):
        noise = Initiator(native_prologue(BOB.public), static.secret, b"\x15" * 32, BOBS_KEY.x25519)
        answer = answering()
        answer.receive_data(write_first(noise.first(b""), mac1_key(BOB.public)), 0)
        noise.second(answer.data_to_send()[4:])
        third, _ = noise.third(dataclasses.replace(ALICE_SAYS, key=ALICE.public).write())
        answer.receive_data((4 + len(third)).to_bytes(2, "big") + b"\5\3" + third, 0)
        assert failed(answer) and answer.data_to_send() == b""


def test_who_claims_alices_static_key_cannot_go_on_without_its_secret():
    """She sends Alice's X25519 key as hers, and agrees with what she has."""
    noise = Initiator(native_prologue(BOB.public), MALLORYS_KEY.secret, b"\x15" * 32, BOBS_KEY.x25519)
    answer = answering()
    answer.receive_data(write_first(noise.first(b""), mac1_key(BOB.public)), 0)
    noise.second(answer.data_to_send()[4:])
    state = noise._state
    static = state.seal(ALICES_KEY.x25519)
    state.mix_key(MALLORYS_KEY.secret.exchange(BOBS_KEY.secret.public_key()))
    third = static + state.seal(ALICE_SAYS.write())
    answer.receive_data((4 + len(third)).to_bytes(2, "big") + b"\5\3" + third, 0)
    assert failed(answer) and answer.data_to_send() == b""


@openings
def test_who_stole_the_callers_key_cannot_pose_as_a_responder_to_it(opening):
    """Mallory has Alice's key and answers in Bob's name: ``es`` needs Bob's."""
    call = OPENINGS[opening]()
    wire = call.data_to_send()
    for stolen in (ALICES_KEY, MALLORYS_KEY):
        posing = answering()
        posing._keys = (dataclasses.replace(stolen, public=BOB.public),)
        posing.receive_data(wire, 0)
        second = posing.data_to_send()
        if opening == "native":
            assert second == b""  # the payload of message 1 does not even open
            continue
        again = asked(OPENINGS[opening]())
        again.receive_data(second, 0)
        assert failed(again)


def test_what_was_recorded_does_not_open_with_both_keys():
    """Who gets the keys of both devices later has one shared secret of the four, and not the one that counts."""
    meeting = Meeting(native(entropy=b"\x16" * 32), answering(entropy=b"\x26" * 32)).knock().reply()
    hers = meeting.prove()
    record = hers.carrier.seal(Kind.LOOSE, (b"said in confidence",), 0)
    for guess in (b"\x17" * 32, b"\x27" * 32):
        called = Responder(native_prologue(BOB.public), BOBS_KEY.secret, BOBS_KEY.x25519)
        called.first(meeting.first[4:52])
        called.second(CALLEDS.write(), guess)
        with pytest.raises(BadWire):
            called.third(meeting.third[4:])
    assert b"confidence" not in record


# A man in the middle with all the time of the world


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_closed_with_a_reason_or_as_if_nothing_had_happened(data):
    """Two machines over a wire that drops, doubles, cuts, flips and mixes in what was said in another meeting."""
    opening = data.draw(st.sampled_from(sorted(OPENINGS)))
    other = Meeting(another(), answering(entropy=b"\x23" * 32)).knock().reply()
    other.prove()
    old = [other.first, other.second, other.third]
    call, answer = OPENINGS[opening](), answering()
    met_whom, proven, meddled = [], False, False
    for _ in range(4):
        for sender, receiver in ((call, answer), (answer, call)):
            wire = sender.data_to_send()
            if not wire:
                continue
            match data.draw(st.sampled_from(["pass", "pass", "pass", "flip", "cut", "double", "old"])):
                case "flip":
                    at = data.draw(st.integers(0, len(wire) * 8 - 1))
                    wire = wire[: at // 8] + bytes((wire[at // 8] ^ 1 << at % 8,)) + wire[at // 8 + 1 :]
                    meddled = True
                case "cut":
                    wire = wire[: data.draw(st.integers(0, len(wire) - 1))]
                    meddled = True
                case "double":
                    wire = wire + wire
                    meddled = True
                case "old":
                    wire = data.draw(st.sampled_from(old))
                    meddled = True
            receiver.receive_data(wire, 0)
            for event in told(receiver):
                if isinstance(event, CallerProven):
                    met_whom.append(event.introduction)
                elif isinstance(event, ResponderProven):
                    proven = True
                    hers = call.go_on(ALICE_SAYS)
                assert not isinstance(event, SpeaksVersion4)
    assert met_whom in ([], [ALICE_SAYS])
    if met_whom:  # then Alice had been sure of Bob before, and both have the same keys
        assert proven
        his, waiting = answer.accept()
        assert hers.tunnel == his.tunnel
        try:
            records = list(his.carrier.receive(waiting, 0))
        except PeerFault:
            records = []
        assert records == []
    elif not meddled:
        raise AssertionError("nobody meddled, and they did not meet")
    for machine, late in ((call, 20), (answer, 20)):
        machine.handle_timeout(late)
        assert machine.next_deadline() is None


@offers
@pytest.mark.parametrize("off", [-86400, -300, 300, 86400])
def test_clocks_do_not_matter(opening, off):
    """What a marked Hello says of the time is not looked at, and nothing else says anything of it."""
    make = {"marked": Call.marked, "masked": Call.masked}[opening]
    entropy = b"\x1a" * (72 if opening == "masked" else 40)
    meeting = Meeting(make(ALICES_KEY, ALICE_HERE, TO_BOB, entropy=entropy, now=0, wall=WALL + off)).knock().reply()
    assert told(meeting.call) == [ResponderProven(CALLEDS, 0)]


def test_a_hello_for_another_device_is_closed():
    call = Call.marked(
        ALICES_KEY,
        ALICE_HERE,
        Remote(TO_BOB.did, MALLORY.public),
        entropy=b"\x11" * 32 + HELLO_RANDOM,
        now=0,
        wall=WALL,
    )
    meeting = Meeting(call).knock()
    assert failed(meeting.answer) and meeting.answer.data_to_send() == b""
