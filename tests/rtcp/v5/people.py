"""Who meets whom in these tests, and two machines that shake hands in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cyfs_ns.identity.keys import SecretKey
from rtcp.v5.answering import Answer, AnswerEvent
from rtcp.v5.calling import Call, CallEvent
from rtcp.v5.established import Established
from rtcp.v5.keys import device_key
from rtcp.v5.payloads import Feature, Introduction, Parameters
from tests.rtcp.pair import ALICE, ALICE_HERE, BOB, MALLORY, TO_BOB, WALL, whole

ALICES_KEY, BOBS_KEY, MALLORYS_KEY = device_key(ALICE), device_key(BOB), device_key(MALLORY)
ALICES_EPHEMERAL, BOBS_EPHEMERAL = b"\x11" * 32, b"\x22" * 32
HELLO_RANDOM = bytes.fromhex("0011223344556677")
NOBODY = b"\x77" * 32
CALLERS = Parameters()
CALLEDS = Parameters(features=Feature.CALLABLE | Feature.LEGS | Feature.DATAGRAMS, port=2980)
BOOT = bytes.fromhex("0102030405060708")
ALICE_SAYS = Introduction(key=ALICE.public, parameters=CALLERS, boot=BOOT, to="did:web:responder.example")

OPENINGS: dict[str, Callable[[], Call]] = {
    "native": lambda: native(),
    "marked": lambda: Call.marked(
        ALICES_KEY, ALICE_HERE, TO_BOB, entropy=ALICES_EPHEMERAL + HELLO_RANDOM, now=0, wall=WALL
    ),
    "masked": lambda: Call.masked(
        ALICES_KEY, ALICE_HERE, TO_BOB, entropy=ALICES_EPHEMERAL + HELLO_RANDOM + NOBODY, now=0, wall=WALL
    ),
}
"""The three ways to begin; all of them call Bob."""


def native(peer: SecretKey = BOB, *, entropy: bytes = ALICES_EPHEMERAL, **more: object) -> Call:
    return Call.native(ALICES_KEY, peer.public, entropy=entropy, **{"now": 0, **more})  # type: ignore[arg-type]


def asked(call: Call) -> Call:
    """``call``, when what it says first is out."""
    call.data_to_send()
    return call


def answering(**more: object) -> Answer:
    given = {"entropy": BOBS_EPHEMERAL, "now": 0, **more}
    return Answer((BOBS_KEY,), CALLEDS, **given)  # type: ignore[arg-type]


def told(machine: Call | Answer) -> list[CallEvent | AnswerEvent]:
    """All that ``machine`` has to tell now."""
    events: list[CallEvent | AnswerEvent] = []
    while (event := machine.next_event()) is not None:
        events.append(event)
    return events


@dataclass
class Meeting:
    """A call and its answer, step by step; what was sent is kept."""

    call: Call = field(default_factory=native)
    answer: Answer = field(default_factory=answering)
    split: Callable[[bytes], Iterator[bytes]] = whole
    first: bytes = b""
    second: bytes = b""
    third: bytes = b""

    def knock(self) -> Meeting:
        self.first = self.call.data_to_send()
        self._give(self.answer, self.first)
        return self

    def reply(self) -> Meeting:
        self.second = self.answer.data_to_send()
        self._give(self.call, self.second)
        return self

    def prove(self, introduction: Introduction = ALICE_SAYS) -> Established:
        """Alice's end; Bob waits for a verdict."""
        established = self.call.go_on(introduction)
        assert established is not None
        self.third = self.call.data_to_send()
        self._give(self.answer, self.third)
        return established

    def _give(self, machine: Call | Answer, data: bytes) -> None:
        for piece in self.split(data):
            machine.receive_data(piece, 0)


def met(introduction: Introduction = ALICE_SAYS, **given: object) -> tuple[Established, Established]:
    """Alice's end and Bob's of a handshake that went well."""
    meeting = Meeting(**given).knock().reply()  # type: ignore[arg-type]
    hers = meeting.prove(introduction)
    accepted = meeting.answer.accept()
    assert accepted is not None
    return hers, accepted[0]
