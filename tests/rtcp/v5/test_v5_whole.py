"""From the first byte to a stream that outlives its carrier: handshake, records, channels and streams together."""

from __future__ import annotations

import pytest

from cyfs_ns.identity.did import dev_did
from rtcp.admission import Policy, Proven
from rtcp.v5.admission import examine
from rtcp.v5.answering import Answer, CallerProven
from rtcp.v5.calling import Call, ResponderProven
from rtcp.v5.carrier import RecordLayer
from rtcp.v5.channel import Claim
from rtcp.v5.closing import Close, CloseCode, read_close
from rtcp.v5.events import CarrierRetired, CarrierWanted, ConversationRequested, DataArrived, Ended, Stands
from rtcp.v5.frames import Code, Opening, Purpose
from rtcp.v5.payloads import Introduction
from rtcp.v5.tunnel import Tunnel
from tests.rtcp.pair import ALICE, BOB_HERE
from tests.rtcp.v5.people import ALICE_SAYS, BOBS_KEY, BOOT, CALLEDS, CALLERS, OPENINGS, native, told

GIVEN = {"die": b"\x01" * 8, "round_trip": 0.05}


def sent(tunnel: Tunnel, carrier: RecordLayer, now: float) -> bytes:
    return b"".join(tunnel.data_to_send(carrier, now))


class Home:
    """Alice's tunnel to Bob, and the carriers each of them has; bytes go from one to the other at once."""

    def __init__(self, call: Call) -> None:
        self.now, self.taken, self.dice = 0.0, b"", 0x40
        answer = self.knock(call)
        hers = call.go_on(ALICE_SAYS)
        self.alice = Tunnel.call(hers.carrier, hers.tunnel, CALLERS, hers.parameters, now=0, **GIVEN)
        self.carriers = [hers.carrier]
        self.stream = self.alice.open(Opening(Purpose.STREAM, ":443"), 0)
        self.alice.send(self.stream, b"sent before the verdict, ", 0)
        answer.receive_data(call.data_to_send() + sent(self.alice, hers.carrier, 0), 0)
        (proven,) = told(answer)
        assert examine(proven.introduction, BOB_HERE, Policy()) == Proven(ALICE.public, dev_did(ALICE.public))
        his, waiting = answer.accept()
        assert his.tunnel == hers.tunnel
        self.bob = Tunnel.welcome(his.carrier, his.tunnel, CALLEDS, his.parameters, seen=None, now=0, **GIVEN)
        self.pipes = {hers.carrier: his.carrier}
        self.bob.receive(his.carrier, waiting, 0)
        self.talk()

    def knock(self, call: Call, **given: object) -> Answer:
        """Up to message 2, on any connection."""
        self.dice += 1
        answer = Answer((BOBS_KEY,), CALLEDS, entropy=bytes((self.dice,)) * 32, now=self.now)
        answer.receive_data(call.data_to_send(), self.now)
        told(answer)
        call.receive_data(answer.data_to_send(), self.now)
        assert isinstance(told(call)[0], ResponderProven)
        return answer

    def next_carrier(self, tunnel: bytes, claim: Claim) -> tuple[Call, object, Close | None]:
        """Alice's call for a channel of ``tunnel``; and what Bob has against it."""
        self.dice += 1
        call = native(entropy=bytes((self.dice,)) * 32)
        answer = self.knock(call)
        said = Introduction(key=ALICE.public, parameters=CALLERS, boot=BOOT, tunnel=tunnel, **claim._asdict())
        hers = call.go_on(said)
        answer.receive_data(call.data_to_send(), self.now)
        (proven,) = told(answer)
        assert proven == CallerProven(said)
        close: Close | None = Close(CloseCode.UNKNOWN_TUNNEL)
        if (said.tunnel, said.key) == (self.bob.id, ALICE.public):
            close = self.bob.join(answer.established.carrier, claim, None, self.now)
        if close is None:
            accepted = answer.accept()
            self.pipes[hers.carrier] = accepted[0].carrier
            return call, hers.carrier, None
        answer.refuse(close, self.now)
        (record,) = hers.carrier.receive(answer.data_to_send(), self.now)
        assert read_close(record.plain[8:]) == close
        return call, hers.carrier, close

    def talk(self) -> None:
        for _ in range(20):
            for hers, his in list(self.pipes.items()):
                self.bob.receive(his, sent(self.alice, hers, self.now), self.now)
                self.alice.receive(hers, sent(self.bob, his, self.now), self.now)
            while (event := self.bob.next_event()) is not None:
                match event:
                    case ConversationRequested(stream, _):
                        self.bob.answer(stream, Code.YES, self.now)
                    case DataArrived(stream, views):
                        self.taken += b"".join(views)
                        self.bob.consumed(stream, sum(map(len, views)), self.now)

    def hers(self) -> list[object]:
        events = []
        while (event := self.alice.next_event()) is not None:
            events.append(event)
        return events

    def cut(self) -> None:
        for carrier, other in self.pipes.items():
            self.alice.lost(carrier, self.now)
            self.bob.lost(other, self.now)
        self.pipes.clear()

    def until_a_carrier_is_wanted(self) -> None:
        for _ in range(20):
            if any(isinstance(event, CarrierWanted) for event in self.hers()):
                return
            self.now = self.alice.next_deadline()
            self.alice.handle_timeout(self.now)
        raise AssertionError("no carrier was wanted")


@pytest.mark.parametrize("opening", OPENINGS)
def test_what_goes_with_message_3_is_served_after_the_verdict(opening):
    home = Home(OPENINGS[opening]())
    assert home.alice.is_up and home.bob.is_up
    assert home.taken == b"sent before the verdict, "


def test_a_stream_goes_on_over_the_next_carrier():
    home = Home(native())
    home.alice.send(home.stream, b"lost on the way, ", home.now)
    (carrier,) = home.pipes
    home.alice.data_to_send(carrier, home.now)  # sealed and sent, and it never arrives
    home.cut()
    home.until_a_carrier_is_wanted()
    claim = home.alice.claim(0, home.now)
    assert claim == Claim(0, 1, 1)
    _, carrier, close = home.next_carrier(home.alice.id, claim)
    assert close is None
    home.alice.attach(carrier, 0, home.now)
    home.talk()
    home.alice.send(home.stream, b"and sent afterwards", home.now)
    home.talk()
    assert home.taken == b"sent before the verdict, lost on the way, and sent afterwards"
    assert any(isinstance(event, Stands) for event in home.hers())


def test_an_older_attempt_that_arrives_late_is_stale():
    home = Home(native())
    home.cut()
    home.until_a_carrier_is_wanted()
    claim = home.alice.claim(0, home.now)
    _, carrier, close = home.next_carrier(home.alice.id, claim)
    assert close is None
    home.alice.attach(carrier, 0, home.now)
    home.talk()
    _, _, close = home.next_carrier(home.alice.id, claim)
    assert close == Close(CloseCode.STALE)
    home.alice.send(home.stream, b"still here", home.now)
    home.talk()
    assert home.taken.endswith(b"still here")


def test_who_does_not_know_the_tunnel_cannot_take_it():
    home = Home(native())
    _, _, close = home.next_carrier(b"\1" * 16, Claim(0, 1, 0))
    assert close == Close(CloseCode.UNKNOWN_TUNNEL)
    assert home.bob.is_up


def test_a_byte_that_is_changed_on_the_way_costs_the_carrier_and_not_the_tunnel():
    home = Home(native())
    ((hers, his),) = home.pipes.items()
    home.alice.send(home.stream, b"changed on the way", home.now)
    wire = bytearray(sent(home.alice, hers, home.now))
    wire[-1] ^= 1
    home.bob.receive(his, wire, home.now)
    retired = [event for event in iter(home.bob.next_event, None) if isinstance(event, CarrierRetired)]
    assert [event.last for event in retired] == [b""]
    assert not home.bob.is_ended and not home.bob.is_up


def test_a_refusal_ends_what_was_sent_on_trust():
    call = native()
    answer = Answer((BOBS_KEY,), CALLEDS, entropy=b"\x50" * 32, now=0)
    answer.receive_data(call.data_to_send(), 0)
    call.receive_data(answer.data_to_send(), 0)
    hers = call.go_on(ALICE_SAYS)
    alice = Tunnel.call(hers.carrier, hers.tunnel, CALLERS, hers.parameters, now=0, **GIVEN)
    alice.open(Opening(Purpose.STREAM, ":443"), 0)
    answer.receive_data(call.data_to_send() + sent(alice, hers.carrier, 0), 0)
    answer.refuse(Close(CloseCode.REFUSED, 60, "not today"), 0)
    alice.receive(hers.carrier, answer.data_to_send(), 0)
    ended = [event for event in iter(alice.next_event, None) if isinstance(event, Ended)]
    assert [(event.code, event.wait) for event in ended] == [(CloseCode.REFUSED, 60)]
