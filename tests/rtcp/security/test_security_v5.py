"""Attacks on version 5, on its machines: the attacker gets nothing, and the rules hear of nobody unproven.

To the rules leads one event alone, ``CallerProven``; to what they serve, ``ConversationRequested``.  The halves of each
attack that need sockets and a house are in ``test_security_v5_sockets.py``.
"""

from __future__ import annotations

import dataclasses
import pickle
import secrets
from collections.abc import Callable

import pytest

import rtcp.v5.carrier
import rtcp.v5.noise
from cyfs_ns.errors import BadWire, Misuse, Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.documents import DeviceDoc
from cyfs_ns.identity.proof import CLOCK_SKEW, verify
from cyfs_ns.identity.token import read_token, sign_token
from rtcp.door import Door, DoorLimits
from rtcp.events import End
from rtcp.handshake import greet
from rtcp.packet import Packet, PacketReader, write_packet
from rtcp.v5 import frames as f
from rtcp.v5.answering import Answer, AnswerFailed, CallerProven, OldHello
from rtcp.v5.calling import Call, CallFailed, ResponderProven, SpeaksVersion4
from rtcp.v5.carrier import Carrier, CarrierBroken, Kind
from rtcp.v5.channel import Claim
from rtcp.v5.closing import CloseCode
from rtcp.v5.memory import Opening, VersionMemory
from rtcp.v5.messages import mac1_key, write_first
from rtcp.v5.noise import Initiator
from rtcp.v5.opening import native_prologue
from rtcp.v5.payloads import MOST_DOCUMENT, Introduction
from rtcp.v5.schedule import AEADS, Cipher
from tests.rtcp.pair import (
    ALICE,
    ALICE_HERE,
    ALICES_DICE,
    BOB,
    MALLORY,
    OWNER,
    TO_BOB,
    WALL,
    local,
    responding,
)
from tests.rtcp.security.attacker import watching
from tests.rtcp.v5.duet import WEB, standing
from tests.rtcp.v5.people import (
    ALICE_SAYS,
    ALICES_KEY,
    BOBS_KEY,
    CALLEDS,
    HELLO_RANDOM,
    MALLORYS_KEY,
    NOBODY,
    OPENINGS,
    Meeting,
    answering,
    asked,
    met,
    native,
    told,
)
from tests.rtcp.v5.test_v5_bad_peer import say

openings = pytest.mark.parametrize("opening", OPENINGS)


def proven(*machines: Answer) -> list[CallerProven]:
    """Whom the rules would hear of."""
    return [event for machine in machines for event in told(machine) if isinstance(event, CallerProven)]


def nothing_came_of(machine: Call | Answer) -> bool:
    """It failed, and says nothing to whoever is there."""
    return isinstance(told(machine)[-1], AnswerFailed | CallFailed) and machine.data_to_send() == b""


def third_of(noise: Initiator, introduction: Introduction) -> bytes:
    body, _ = noise.third(introduction.write())
    return (4 + len(body)).to_bytes(2, "big") + b"\5\3" + body


# Replay


@openings
def test_replay_of_a_handshake(opening):
    """All that Alice said, once more: Bob answers with a fresh key, and what was recorded behind it does not open.  It
    makes no difference whether he was restarted: he remembers nothing of the first time."""
    first = Meeting(OPENINGS[opening]()).knock().reply()
    hers = first.prove()
    record = bytes(hers.carrier.seal(Kind.NUMBERED, (f.write_open(1, WEB),), 0))
    for dice in (b"\x23", b"\x24"):
        bob = answering(entropy=dice * 32)
        bob.receive_data(first.first, 0)
        assert bob.data_to_send() != first.second
        bob.receive_data(first.third + record, 0)
        assert proven(bob) == [] and bob.data_to_send() == b""
        bob = answering(entropy=dice * 32)
        bob.receive_data(first.first + first.third + record, 0)
        assert proven(bob) == [] and bob.data_to_send() == b""
    again = asked(OPENINGS["native"]() if opening != "native" else native(entropy=b"\x14" * 32))
    again.receive_data(first.second, 0)
    assert nothing_came_of(again), "and what Bob said is no answer to another call"


@pytest.mark.parametrize("what", ["doubled", "again later", "swapped", "of another carrier"])
def test_replay_of_records(what):
    """A record in any place but its own breaks the carrier, and not the tunnel; nothing in it is done twice."""
    duet = standing()
    other = standing()
    pipe, _ = duet.pipes.values()
    one, two = (bytes(pipe.carrier.seal(Kind.NUMBERED, (f.write_open(at, WEB),), duet.now)) for at in (1, 3))
    foreign, _ = other.pipes.values()
    sent = {
        "doubled": one + one,
        "again later": one + two + one,
        "swapped": two + one,
        "of another carrier": bytes(Carrier.seal(foreign.carrier, Kind.NUMBERED, (f.write_open(1, WEB),), duet.now)),
    }[what]
    if what == "of another carrier":  # the duets are alike, so make this one the second of the other's
        foreign.carrier.seal(Kind.LOOSE, (f.frame(f.PING, 0, bytes(8)),), other.now)
        sent = bytes(foreign.carrier.seal(Kind.NUMBERED, (f.write_open(1, WEB),), other.now))
    duet.calls = "lost"
    pipe.sent += sent
    duet.talk()
    assert sorted(duet.bob.book) == {"doubled": [1], "again later": [1, 3]}.get(what, [])
    assert duet.bob.ended is None and not duet.bob.tunnel.is_up


# Reflection


@openings
def test_reflection(opening):
    """What a side said comes back to it: message 1 to the caller, 2 to the called, a whole call to the door of who made
    it, and records to who sealed them."""
    call = OPENINGS[opening]()
    call.receive_data(call.data_to_send(), 0)
    assert nothing_came_of(call)
    meeting = Meeting(OPENINGS[opening]()).knock().reply()
    meeting.answer.receive_data(meeting.second, 0)
    assert nothing_came_of(meeting.answer)
    hers, his = met(call=OPENINGS[opening]())
    for end in (hers, his):
        mine = bytes(end.carrier.seal(Kind.NUMBERED, (b"said by myself",), 0))
        with pytest.raises(CarrierBroken):
            list(end.carrier.receive(mine, 0))
    own_door = Answer((ALICES_KEY,), CALLEDS, entropy=b"\x25" * 32, now=0)
    own_door.receive_data(OPENINGS[opening]().data_to_send(), 0)
    assert nothing_came_of(own_door), "a call for Bob is none for Alice"


def test_reflection_of_a_device_that_is_led_to_itself():
    """Here Alice does call her own key, by whatever way: it is told so, and the rules hear nothing."""
    own_door = Answer((ALICES_KEY,), CALLEDS, entropy=b"\x25" * 32, now=0)
    meeting = Meeting(native(ALICE), own_door).knock().reply()
    hers = meeting.prove(dataclasses.replace(ALICE_SAYS, to=""))
    (record,) = hers.carrier.receive(own_door.data_to_send(), 0)
    assert record.plain[8] == CloseCode.SELF and proven(own_door) == []


# Unknown key share


def test_unknown_key_share_with_the_called():
    """Mallory passes Alice's call on to Bob.  She can pass all of it, and then it is Alice's; or say it is hers, and
    then nothing opens, for she would have to seal it anew without the secrets."""
    meeting = Meeting(native()).knock().reply()
    meeting.call.go_on(ALICE_SAYS)
    alices = meeting.call.data_to_send()
    hers = Initiator(native_prologue(BOB.public), MALLORYS_KEY.secret, b"\x15" * 32, BOBS_KEY.x25519)
    bob = answering(entropy=b"\x26" * 32)
    bob.receive_data(write_first(hers.first(b""), mac1_key(BOB.public)), 0)
    hers.second(bob.data_to_send()[4:])
    bob.receive_data(alices, 0)
    assert nothing_came_of(bob)
    # Her own static key, and Alice's name for it.
    noise = Initiator(native_prologue(BOB.public), MALLORYS_KEY.secret, b"\x17" * 32, BOBS_KEY.x25519)
    other = answering(entropy=b"\x27" * 32)
    other.receive_data(write_first(noise.first(b""), mac1_key(BOB.public)), 0)
    noise.second(other.data_to_send()[4:])
    other.receive_data(third_of(noise, ALICE_SAYS), 0)
    assert nothing_came_of(other)


def test_unknown_key_share_with_the_caller():
    """Alice does call Mallory, who wants Bob to take it for a call to him: the key that is called is in everything."""
    call = Call.native(ALICES_KEY, MALLORY.public, entropy=b"\x11" * 32, now=0)
    first = call.data_to_send()
    bob = answering()
    bob.receive_data(first, 0)
    assert nothing_came_of(bob), "mac1 is for Mallory"
    forged = bytearray(first)
    forged[:] = write_first(bytes(first[4:52]), mac1_key(BOB.public))
    bob = answering()
    bob.receive_data(bytes(forged), 0)
    assert nothing_came_of(bob), "and so is what is sealed in it"


@openings
def test_unknown_key_share_does_not_happen_to_honest_ones(opening):
    """Both ends of a meeting name the same two keys, and have the same id of their tunnel."""
    hers, his = met(call=OPENINGS[opening]())
    assert (hers.peer, his.peer, hers.tunnel) == (BOB.public, ALICE.public, his.tunnel)


# Key-compromise impersonation


def test_key_compromise_impersonation_towards_the_called():
    """Mallory has Bob's key.  To be Alice for Bob takes Alice's all the same."""
    for static in (MALLORYS_KEY, BOBS_KEY):
        noise = Initiator(native_prologue(BOB.public), static.secret, b"\x15" * 32, BOBS_KEY.x25519)
        bob = answering()
        bob.receive_data(write_first(noise.first(b""), mac1_key(BOB.public)), 0)
        noise.second(bob.data_to_send()[4:])
        bob.receive_data(third_of(noise, ALICE_SAYS), 0)
        assert nothing_came_of(bob)
    # She names Alice's X25519 key, too; but she cannot agree with it.
    noise = Initiator(native_prologue(BOB.public), MALLORYS_KEY.secret, b"\x15" * 32, BOBS_KEY.x25519)
    bob = answering()
    bob.receive_data(write_first(noise.first(b""), mac1_key(BOB.public)), 0)
    noise.second(bob.data_to_send()[4:])
    state = noise._state
    static_of_alice = state.seal(ALICES_KEY.x25519)
    state.mix_key(BOBS_KEY.secret.exchange(ALICES_KEY.secret.public_key()))
    third = static_of_alice + state.seal(ALICE_SAYS.write())
    bob.receive_data((4 + len(third)).to_bytes(2, "big") + b"\5\3" + third, 0)
    assert nothing_came_of(bob)


@openings
def test_key_compromise_impersonation_towards_the_caller(opening):
    """Mallory has Alice's key, and answers in Bob's name: it takes Bob's."""
    wire = OPENINGS[opening]().data_to_send()
    for stolen in (ALICES_KEY, MALLORYS_KEY):
        posing = Answer((dataclasses.replace(stolen, public=BOB.public),), CALLEDS, entropy=b"\x28" * 32, now=0)
        posing.receive_data(wire, 0)
        call = asked(OPENINGS[opening]())
        call.receive_data(posing.data_to_send(), 0)
        assert not any(isinstance(event, ResponderProven | SpeaksVersion4) for event in told(call))
        assert call.data_to_send() == b""


# Downgrade


def called_by(opening: Opening) -> Call:
    return OPENINGS[opening.name.lower()]()


Road = Callable[[bytes], bytes]
"""What of the caller's first words arrives."""


def without_the_mark(wire: bytes) -> bytes:
    """The Hello that Alice would have written without an offer, under the signature she gave."""
    reader = PacketReader()
    reader.receive_data(wire)
    packet = reader.next_packet()
    unmarked, _ = greet(ALICE_HERE, TO_BOB, ALICES_DICE, WALL)
    head, _, signature = packet.body.tunnel_token.split(".")
    token = f"{head}.{unmarked.tunnel_token.split('.')[1]}.{signature}"
    return write_packet(Packet(packet.seq, dataclasses.replace(packet.body, tunnel_token=token)))


def by_mallory(wire: bytes) -> bytes:
    """A Hello that Mallory signed, unmarked: Bob does answer that in version 4, for her."""
    hello, _ = greet(local(MALLORY), TO_BOB, ALICES_DICE, WALL)
    return write_packet(Packet(1, hello))


@pytest.mark.parametrize("road", [without_the_mark, by_mallory])
@pytest.mark.parametrize("opening", [Opening.MASKED, Opening.MARKED])
def test_downgrade_by_stripping_the_offer(opening, road):
    """Mallory is between and wants both to speak version 4.  Bob would; Alice hears nothing she could take for his."""
    call = called_by(opening)
    door = answering()
    door.receive_data(road(call.data_to_send()), 0)
    (event,) = told(door)
    assert isinstance(event, OldHello) and door.data_to_send() == b""
    bob = responding()
    bob.receive_data(event.data, 0)
    if road is without_the_mark:
        assert bob.is_closed and bob.data_to_send() == b"", "the signature was over the mark"
        return
    bob.admit(0)
    call.receive_data(bob.data_to_send(), 0)
    assert nothing_came_of(call), "an answer to Mallory is none to Alice"


def test_downgrade_by_cutting_what_is_new():
    """Mallory lets nothing of version 5 pass, for as long as she likes.  To a key that spoke version 5 once there is no
    connection then.  Where nothing is known she gets to see who calls, in a Hello that she cannot strip."""
    memory = VersionMemory()
    assert memory.opening(BOB.public, (5, 4), 0) is Opening.MASKED
    meeting = Meeting(OPENINGS["masked"]()).knock().reply()
    assert told(meeting.call) == [ResponderProven(CALLEDS, 0)] and memory.spoke_5(BOB.public)
    for versions in ((5, 4), (4, 5), (5,)):
        assert memory.opening(BOB.public, versions, 1e9) is Opening.NATIVE
    memory.spoke_4(BOB.public, 0)
    assert memory.opening(BOB.public, (5, 4), 1) is Opening.NATIVE, "no answer in version 4 undoes it"
    for cut in (b"", b"\0", b"\0\x40\x08\2" + bytes(60)):
        call = asked(native())
        call.receive_data(cut, 0)
        call.receive_eof()
        assert nothing_came_of(call)


# Nonces over a restart


def test_nonce_reuse_over_restart(monkeypatch):
    """Devices that start anew with the keys they had, say the same, move, and step through their phases: no key ever
    seals two things with one nonce, in handshakes and records, on every carrier and in both directions."""
    used, watched = watching(AEADS)
    monkeypatch.setattr(rtcp.v5.carrier, "AEADS", watched)
    monkeypatch.setattr(rtcp.v5.carrier, "_STEP_RECORDS", 5)
    monkeypatch.setattr(rtcp.v5.noise, "ChaCha20Poly1305", watched[Cipher.CHACHA20_POLY1305])
    said = dataclasses.replace(ALICE_SAYS, boot=bytes(8))
    for _ in range(3):
        for channel in (0, 0, 1):  # a tunnel, its control moved, a leg
            call = native(entropy=secrets.token_bytes(32))
            answer = answering(entropy=secrets.token_bytes(32))
            claim = said if not channel else dataclasses.replace(said, tunnel=b"\1" * 16, channel=1, to="")
            hers, his = met(claim, call=call, answer=answer)
            for end in (hers, his):
                for _ in range(12):
                    end.carrier.seal(Kind.NUMBERED, (b"the same words",), 0)
    assert len(used) > 9 * 24
    keys = {key for key, _ in used}
    assert len(keys) >= 9 * 2 * 3, "each carrier, direction and phase has a key of its own"


@pytest.mark.parametrize("make", [native, answering, lambda: met()[0].carrier])
def test_nonce_reuse_by_a_copy(make):
    """What holds a key and a count cannot be copied, stored and brought back."""
    with pytest.raises((Misuse, TypeError)):
        pickle.dumps(make())


# Ids of streams


def test_stolen_stream_ids():
    """An id means something inside one tunnel: Mallory, proven in her own, names the number of Alice's stream, and all
    she can hurt is hers."""
    alices, mallorys = standing(), standing()
    stream = alices.alice.tunnel.open(WEB, alices.now)
    alices.alice.tunnel.send(stream, b"for Bob", alices.now)
    alices.talk()
    say(mallorys, f.data_head(stream, 4) + b"evil")
    assert mallorys.bob.ended is not None and mallorys.bob.ended.end is End.FAULT
    assert bytes(alices.bob.told(stream).data) == b"for Bob" and alices.bob.ended is None


def test_stolen_stream_ids_of_legs():
    """A leg is proven by a handshake, and its number has to have been announced in this tunnel."""
    duet = standing()
    for channel in (1, 2, 3):
        pipe, end = duet.lay(duet.alice, channel)
        said = duet.arrive(end, Claim(channel, 0, 0))
        assert said is not None and said.code in (CloseCode.UNKNOWN_CHANNEL, CloseCode.DONE)
        assert end.closed and not pipe.closed
    assert duet.bob.tunnel.is_up and duet.bob.book == {}


def test_id_exhaustion():
    """Ids go up one by one, so a peer cannot jump to their end; what comes and goes leaves nothing; and who has used
    them all, after 17 years at a thousand a second, opens no more on this tunnel."""
    duet = standing()
    say(duet, f.write_open(f.LAST_ID, WEB))
    assert duet.bob.ended is not None and "is the next" in duet.bob.ended.why
    duet = standing()
    for first in range(1, 8001, 2000):
        ids = range(first, first + 2000, 2)
        say(duet, *(part for one in ids for part in (f.write_open(one, WEB), f.frame_u8(f.RESET, one, 32))))
        duet.sleep(1)
    assert duet.bob.ended is None and duet.bob.tunnel.conversations == 0
    duet = standing()
    duet.alice.tunnel._ids._next_ours = f.LAST_ID
    assert duet.alice.tunnel.open(WEB, duet.now) == f.LAST_ID
    with pytest.raises(Unreachable, match="no new conversations"):
        duet.alice.tunnel.open(WEB, duet.now)


# Slow handshakes


@openings
def test_slow_handshakes(opening):
    """A byte a second: five seconds for message 1, ten for all, and no byte is an excuse."""
    meeting = Meeting(OPENINGS[opening]())
    first = meeting.call.data_to_send()
    bob = answering()
    for second in range(6):
        bob.handle_timeout(second)
        bob.receive_data(first[second : second + 1], second)
    assert nothing_came_of(bob) and bob.next_deadline() is None
    bob = answering()
    meeting.call = OPENINGS[opening]()
    bob.receive_data(meeting.call.data_to_send(), 4.9)
    meeting.call.receive_data(bob.data_to_send(), 4.9)
    meeting.call.go_on(ALICE_SAYS)
    third = meeting.call.data_to_send()
    for second in range(5, 12):
        bob.handle_timeout(second)
        bob.receive_data(third[second : second + 1], second)
    assert nothing_came_of(bob)


def test_slow_handshakes_from_everywhere():
    """However many say nothing, the next is let in, and it is the slowest who goes."""
    door = Door(0, DoorLimits(knocking=8))
    slow = [door.enter(f"198.51.100.{one}", 0) for one in range(8)]
    for at in range(20):
        place = door.enter(f"203.0.113.{at}", 1)
        assert place is not None and door.begin_proof(place, 1) and door.begin_decision(place, 1)
        assert door.stand(place, 1, anonymous=False)
    evicted = list(iter(door.next_evicted, None))
    assert evicted and set(evicted) <= set(slow)


# Oversize


@pytest.mark.parametrize(
    "said",
    [
        b"\x04\x55\x05\x01",
        b"\xff\xff\x05\x01",
        b"\0\x53\x05\x01",
        b"\0\x54\x05\x01" + bytes(80) + b"more",
        b"\0\x08\x08\x01" + bytes(4),
    ],
)
def test_oversize_messages(said):
    """A length that no message has is not waited for, and nothing is kept of it."""
    bob = answering()
    bob.receive_data(said, 0)
    assert nothing_came_of(bob) and not bob._buffer


@openings
@pytest.mark.parametrize("length", [0, 67, 16_385, 65_535])
def test_oversize_message_3(opening, length):
    meeting = Meeting(OPENINGS[opening]()).knock().reply()
    meeting.answer.receive_data(length.to_bytes(2, "big") + b"\5\3", 0)
    assert nothing_came_of(meeting.answer)


def test_oversize_documents_and_names():
    """What a caller may bring is bounded where it is written and where it is read."""
    for field, size in (("document", MOST_DOCUMENT + 1), ("to", 513), ("sender", 513)):
        with pytest.raises(Misuse):
            dataclasses.replace(ALICE_SAYS, **{field: "x" * size}).write()
    whole = dataclasses.replace(ALICE_SAYS, sender="", document="").write()
    meeting = Meeting(native()).knock().reply()
    noise = meeting.call._noise
    lied = whole[:-2] + (MOST_DOCUMENT + 1).to_bytes(2, "big") + bytes(MOST_DOCUMENT + 1)
    body, _ = noise.third(lied)
    meeting.answer.receive_data((4 + len(body)).to_bytes(2, "big") + b"\5\3" + body, 0)
    assert nothing_came_of(meeting.answer)


def test_oversize_before_the_verdict():
    """What comes behind message 3 is bounded, and is not looked at while the rules think."""
    meeting = Meeting(native()).knock().reply()
    meeting.prove()
    assert proven(meeting.answer) == [CallerProven(ALICE_SAYS)]
    for _ in range(5):
        meeting.answer.receive_data(bytes(1 << 16), 0)
    assert nothing_came_of(meeting.answer) and not meeting.answer._buffer


def test_oversize_records():
    """A record has 65,556 bytes at most, so no length can lie; a part of one keeps no more than came."""
    hers, his = met()
    with pytest.raises(Misuse):
        hers.carrier.seal(Kind.NUMBERED, (bytes(65_537),), 0)
    largest = hers.carrier.seal(Kind.NUMBERED, (bytes(65_536),), 0)
    assert len(largest) == 65_556
    assert [len(one.plain) for one in his.carrier.receive(bytes(largest), 0)] == [65_536]


# Clocks


@pytest.mark.parametrize("off", [-86_400, -301, -299, 0, 299, 301, 86_400])
@pytest.mark.parametrize("opening", ["marked", "masked", "native"])
def test_clock_skew_of_a_handshake(opening, off):
    """The handshake has no clock: a caller whose time is wrong by any amount gets in."""
    given = {
        "marked": lambda: Call.marked(
            ALICES_KEY, ALICE_HERE, TO_BOB, entropy=b"\x1a" * 32 + HELLO_RANDOM, now=0, wall=WALL + off
        ),
        "masked": lambda: Call.masked(
            ALICES_KEY, ALICE_HERE, TO_BOB, entropy=b"\x1a" * 32 + HELLO_RANDOM + NOBODY, now=0, wall=WALL + off
        ),
        "native": lambda: native(entropy=b"\x1a" * 32),
    }
    hers, his = met(call=given[opening]())
    assert hers.tunnel == his.tunnel


@pytest.mark.parametrize(("off", "held"), [(-301, False), (-CLOCK_SKEW - 1, False), (-CLOCK_SKEW, True), (301, True)])
def test_clock_skew_of_a_document(off, held):
    """What the caller brings is dated; whoever judges it may be a little behind, and as late as the document lasts."""
    issued = DeviceDoc(
        id=ALICE_HERE.did,
        key=ALICE.public,
        name="laptop",
        owner=Did("web", "alice.example"),
        iat=WALL,
        exp=WALL + 10_000,
    )
    token = read_token(sign_token(issued.claims(), OWNER), "device document")
    if held:
        assert verify(token, "device", OWNER.public, WALL + off) == issued
    else:
        with pytest.raises(BadWire, match="in the future"):
            verify(token, "device", OWNER.public, WALL + off)
