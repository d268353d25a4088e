"""Everybody at once: strangers who are slow, who replay and who babble, and one friend who wants to come in."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from rtcp.door import Door, DoorLimits, Place, Stage
from rtcp.v5.answering import Answer, AnswerFailed, CallerProven, Met
from rtcp.v5.calling import Call
from rtcp.v5.messages import MOST_FIRST
from tests.rtcp.pair import BOB
from tests.rtcp.v5.people import ALICE_SAYS, ALICES_KEY, BOBS_KEY, CALLEDS, OPENINGS, native, told

LIMITS = DoorLimits(knocking=64, proving=64, deciding=16, long_hellos=4, door_per_second=200)


def is_long(answer: Answer) -> bool:
    """Whether a Hello larger than any message 1 has begun."""
    return answer._buffer[2:4] == b"\x08\x01" and int.from_bytes(answer._buffer[:2], "big") > MOST_FIRST


@dataclass
class Reception:
    """A shell of the called side, as small as one can be.  ``agreed`` counts what costs: agreements of keys."""

    door: Door = field(default_factory=lambda: Door(0, LIMITS))
    inside: dict[Place, Answer] = field(default_factory=dict)
    proven: list[Place] = field(default_factory=list)
    agreed: int = 0
    now: float = 0

    def accept(self, source: str) -> Place | None:
        place = self.door.enter(source, self.now)
        if place is not None:
            self.inside[place] = Answer((BOBS_KEY,), CALLEDS, entropy=random.randbytes(32), now=self.now)
        self._close_evicted()
        return place

    def hear(self, place: Place, data: bytes) -> bytes:
        """What the stranger at ``place`` gets for ``data``; nothing if it is not there any more."""
        answer = self.inside.get(place)
        if answer is None:
            return b""
        if place.stage is Stage.KNOCKING and not self.door.may_shake_hands(place, self.now):
            return self._close(place)
        answer.receive_data(data, self.now)
        if is_long(answer):
            self.door.long_hello(place)
        for event in told(answer):
            match event:
                case AnswerFailed():
                    return self._close(place)
                case Met():
                    self.agreed += 1
                    if not self.door.begin_proof(place, self.now):
                        return self._close(place)
                case CallerProven():
                    assert self.door.begin_decision(place, self.now)
                    self.proven.append(place)
        self._close_evicted()
        return answer.data_to_send()

    def wait(self, until: float) -> None:
        self.now = until
        for place, answer in list(self.inside.items()):
            answer.handle_timeout(until)
            if answer.next_deadline() is None:
                self._close(place)

    def held(self) -> int:
        """Bytes of strangers that are kept."""
        return sum(len(answer._buffer) for answer in self.inside.values())

    def _close(self, place: Place) -> bytes:
        del self.inside[place]
        self.door.leave(place, self.now)
        return b""

    def _close_evicted(self) -> None:
        while (place := self.door.next_evicted()) is not None:
            del self.inside[place]


def comes_in(house: Reception, source: str, entropy: bytes) -> bool:
    """Alice calls from ``source``, and nobody is in her way."""
    place = house.accept(source)
    if place is None:
        return False
    call = Call.native(ALICES_KEY, BOB.public, entropy=entropy, now=house.now)
    call.receive_data(house.hear(place, call.data_to_send()), house.now)
    if call.go_on(ALICE_SAYS) is None:
        return False
    house.hear(place, call.data_to_send())
    return place in house.proven


REPLAYED = native(entropy=b"\x31" * 32).data_to_send()
HELLO = OPENINGS["marked"]().data_to_send()
STRANGERS = {
    "says nothing": lambda dice: b"",
    "stops half-way": lambda dice: REPLAYED[: dice.randrange(1, 84)],
    "babbles": lambda dice: dice.randbytes(dice.randrange(1, 2000)),
    "replays message 1": lambda dice: REPLAYED,
    "replays a Hello": lambda dice: HELLO,
    "promises a large Hello": lambda dice: b"\xff\xff\x08\x01" + bytes(1000),
}


@pytest.mark.parametrize("kind", [*STRANGERS, "all of them"])
def test_a_flood_is_bounded_and_a_friend_gets_through(kind):
    dice = random.Random(kind)
    house = Reception()
    assert comes_in(house, "198.51.100.7", b"\x32" * 32)
    friend = house.proven[-1]
    assert house.door.stand(friend, 0, anonymous=False)
    tries, came_in = 0, 0
    for step in range(4000):
        house.wait(step * 0.005)
        place = house.accept(f"203.0.113.{dice.randrange(256)}")
        if place is not None:
            says = STRANGERS[kind if kind in STRANGERS else dice.choice(list(STRANGERS))]
            house.hear(place, says(dice))
        assert len(house.inside) <= 64 + 64 + 16 + 1
        assert sum(is_long(answer) for answer in house.inside.values()) <= LIMITS.long_hellos
        assert house.held() <= 64 * MOST_FIRST + 64 * 16384 + LIMITS.long_hellos * 65535
        if step % 400 == 399:
            tries += 1
            came_in += comes_in(house, "198.51.100.7", dice.randbytes(32))
    assert came_in == tries == 10
    assert house.agreed <= 20 * 150 + 150 + tries + 1  # no more than the door's rate for strangers lets in
    house.wait(60)
    house.wait(120)
    assert set(house.inside) <= {friend}


@pytest.mark.parametrize("opening", OPENINGS)
def test_what_one_stranger_can_have_kept(opening):
    """However much comes, no more is held than the message that may be there."""
    answer = Answer((BOBS_KEY,), CALLEDS, entropy=bytes(32), now=0)
    first = OPENINGS[opening]().data_to_send()
    answer.receive_data(first[:-1], 0)
    assert len(answer._buffer) < len(first)
    answer.receive_data(first[-1:], 0)
    assert told(answer) == [Met()] and not answer._buffer and answer.data_to_send()
    answer.receive_data(b"\x40\x00\x05\x03" + bytes(16379), 0)
    assert told(answer) == [] and len(answer._buffer) < 16384
    answer.receive_data(bytes(1), 0)
    assert isinstance(told(answer)[0], AnswerFailed) and not answer._buffer
    answer.receive_data(bytes(100_000), 0)
    assert not answer._buffer
