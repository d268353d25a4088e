"""Ours and the second peer, which was written from the description alone, talk both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cyfs_ns.identity.did import dev_did
from cyfs_ns.identity.keys import PublicKey
from rtcp.datagrams import DatagramReader, write_datagram
from rtcp.events import (
    End,
    HelloProven,
    LinkClosed,
    LinkEvent,
    PeerConfirmed,
    PingAnswered,
    StreamAnswered,
    StreamRequested,
    TunnelOpened,
)
from rtcp.legs import Leg
from rtcp.limits import Limits
from rtcp.link import Link
from rtcp.packet import Purpose, Result
from rtcp.party import Remote
from tests.rtcp.oldpeer import (
    ACK,
    CONFIRM,
    HELLO,
    OPEN,
    OPEN_RESP,
    PING,
    PONG,
    RESULT,
    ROPEN,
    ROPEN_RESP,
    OldPeer,
    Records,
    Step,
    Tunnel,
)
from tests.rtcp.pair import (
    ALICES_DICE,
    BOB,
    BOBS_DICE,
    BOBS_NAME,
    ID,
    WALL,
    bytewise,
    dialled,
    let_in,
    responding,
    whole,
)

OLD_ALICE = OldPeer(b"\x33" * 32, ALICES_DICE[:32], ALICES_DICE[32:48])
OLD_BOB = OldPeer(b"\x44" * 32, BOBS_DICE[:32], BOBS_DICE[32:48], BOBS_DICE[48:])


class Meeting:
    """Our link and one step after the other of the old peer, joined in memory."""

    def __init__(self, link: Link, split: Callable[[bytes], Iterator[bytes]]) -> None:
        self.link, self.split = link, split
        self.told: list[LinkEvent] = []
        self._to_old = b""

    def ours(self) -> None:
        """Our side does what it has to."""
        while (event := self.link.next_event()) is not None:
            self.told.append(event)
            let_in(self.link, event, 0)
        self._to_old += self.link.data_to_send()

    def run(self, step: Step) -> Any:
        """The old peer's ``step`` to its end."""
        given = b""
        self.ours()
        try:
            wanted = next(step)
            while True:
                if isinstance(wanted, bytes):
                    for piece in self.split(wanted):
                        self.link.receive_data(piece, 0)
                        self.ours()
                    given = b""
                else:
                    assert len(self._to_old) >= wanted, "the old peer waits for what never comes"
                    given, self._to_old = self._to_old[:wanted], self._to_old[wanted:]
                wanted = step.send(given)
        except StopIteration as done:
            self.ours()
            return done.value

    def news(self) -> list[LinkEvent]:
        self.ours()
        events, self.told = self.told, []
        return events


def old_dials(split: Callable[[bytes], Iterator[bytes]], limits: Limits = Limits()) -> tuple[Meeting, Tunnel]:  # noqa: B008
    meeting = Meeting(responding(limits=limits), split)
    tunnel = meeting.run(OLD_ALICE.dial(BOB.public.raw, WALL, str(BOBS_NAME), "responder.example"))
    assert meeting.news()[-1] == TunnelOpened()
    return meeting, tunnel


def ours_dials(split: Callable[[bytes], Iterator[bytes]]) -> tuple[Meeting, Tunnel]:
    meeting = Meeting(dialled(), split)
    tunnel = meeting.run(OLD_BOB.serve(WALL))
    assert meeting.news() == [TunnelOpened()]
    assert tunnel.peer_hello["to_id"] == str(BOBS_NAME) and tunnel.peer_hello["my_port"] == 2980
    return meeting, tunnel


def carry(leg: Leg, old: Records, text: bytes, answer: bytes) -> None:
    """``text`` to ours and ``answer`` back."""
    leg.receive_data(old.seal(text))
    assert leg.next_data() == text
    wire = leg.seal(answer)
    reading = old.read(len(answer))
    wanted = next(reading)
    try:
        while True:
            assert isinstance(wanted, int)
            piece, wire = wire[:wanted], wire[wanted:]
            wanted = reading.send(piece)
    except StopIteration as done:
        assert done.value == answer and wire == b""


both = pytest.mark.parametrize("meet", [old_dials, ours_dials])
splits = pytest.mark.parametrize("split", [whole, bytewise])


@both
@splits
def test_they_meet_and_ping_each_other(meet, split):
    meeting, tunnel = meet(split)
    meeting.run(tunnel.send(PING, 9, {"timestamp": WALL}))
    assert meeting.run(tunnel.receive()) == (PONG, 9, {"timestamp": 0})
    meeting.link.ping(0)
    command, seq, body = meeting.run(tunnel.receive())
    assert (command, body) == (PING, {"timestamp": WALL}) and seq != 0
    meeting.run(tunnel.send(PONG, seq, {"timestamp": 0}))
    assert meeting.news() == [PingAnswered(0)]


@both
@splits
@pytest.mark.parametrize("purpose", list(Purpose))
def test_the_old_peer_asks_for_a_stream(meet, split, purpose):
    meeting, tunnel = meet(split)
    old_dialled = meet is old_dials
    asked = {"streamid": ID.hex(), "purpose": purpose.value, "dest_port": 22, "dest_host": None}
    meeting.run(tunnel.send(OPEN if old_dialled else ROPEN, 3, asked))
    assert meeting.news() == [StreamRequested(ID, purpose, None, 22)]
    assert meeting.link.answer_stream(ID, Result.OK, 0)
    assert meeting.run(tunnel.receive()) == (OPEN_RESP if old_dialled else ROPEN_RESP, 3, {"result": 0})
    leg = meeting.link.take_leg(ID, 0)
    assert leg is not None and leg.preamble == (b"" if old_dialled else b"\0\0" + ID.hex().encode())
    carry(leg, tunnel.leg(ID.hex(), 0 if purpose is Purpose.STREAM else 1, dialled=old_dialled), b"ask", b"answer")


@both
@splits
def test_we_ask_for_a_stream(meet, split):
    meeting, tunnel = meet(split)
    old_dialled = meet is old_dials
    meeting.link.open_stream(ID, Purpose.DATAGRAM, "dns.example", 53, 0)
    command, seq, body = meeting.run(tunnel.receive())
    assert command == (ROPEN if old_dialled else OPEN)
    assert body == {"streamid": ID.hex(), "purpose": "Datagram", "dest_port": 53, "dest_host": "dns.example"}
    meeting.run(tunnel.send(ROPEN_RESP if old_dialled else OPEN_RESP, seq, {"result": 0}))
    assert meeting.news() == [StreamAnswered(ID, Result.OK)]
    leg = meeting.link.take_leg(ID, 0)
    assert leg is not None
    old = tunnel.leg(ID.hex(), 1, dialled=old_dialled)
    carry(leg, old, (3).to_bytes(4, "big") + b"one", write_datagram(b"two"))
    reader = DatagramReader()
    leg.receive_data(old.seal((2).to_bytes(4, "big") + b"h") + old.seal(b"i"))
    while (plain := leg.next_data()) is not None:
        reader.receive_data(plain)
    assert reader.next_datagram() == b"hi"


@both
def test_the_old_peer_asks_the_wrong_way(meet):
    meeting, tunnel = meet(whole)
    old_dialled = meet is old_dials
    asked = {"streamid": ID.hex(), "purpose": "Stream", "dest_port": 22, "dest_host": None}
    meeting.run(tunnel.send(ROPEN if old_dialled else OPEN, 3, asked))
    assert meeting.run(tunnel.receive()) == (ROPEN_RESP if old_dialled else OPEN_RESP, 3, {"result": 3})
    assert meeting.news() == []


def results(limits: Limits, streamids: list[str]) -> list[int]:
    """What the old peer is told that asks for all of these, where it is not left waiting."""
    meeting, tunnel = old_dials(whole, limits)
    for seq, streamid in enumerate(streamids):
        asked = {"streamid": streamid, "purpose": "Stream", "dest_port": 22, "dest_host": None}
        meeting.run(tunnel.send(OPEN, seq, asked))
    requested = len(meeting.news())
    return [meeting.run(tunnel.receive())[2]["result"] for _ in range(len(streamids) - requested)]


def ids(count: int) -> list[str]:
    return [f"{number:032x}" for number in range(count)]


def test_a_wrong_id_gets_6_and_a_doubled_one_7():
    good = ID.hex()
    assert results(Limits(), ["", good.upper(), good[:-1], good + "0", good, good]) == [6, 6, 6, 6, 7]


def test_too_many_under_way_get_1():
    assert results(Limits(burst=100), ids(66)) == [1, 1]


def test_too_many_at_once_get_8():
    assert results(Limits(burst=5), ids(7)) == [8, 8]


def test_too_many_ids_get_9():
    assert results(Limits(stream_ids=3), ids(5)) == [9, 9]


@pytest.mark.parametrize(
    ("command", "body"),
    [
        (HELLO, {"from_id": "a", "to_id": "b", "my_port": 1, "tunnel_token": "t"}),
        (ACK, {"ack_token": "t", "challenge": "0" * 32, "responder_id": "b"}),
        (CONFIRM, {"challenge_echo": "f" * 32}),
        (RESULT, {"accepted": True}),
        (99, {}),
    ],
)
@both
def test_a_packet_of_another_hour_ends_the_tunnel(meet, command, body):
    meeting, tunnel = meet(whole)
    meeting.run(tunnel.send(command, 0, body))
    assert [event.end for event in meeting.news()] == [End.FAULT]


@both
def test_an_answer_that_only_we_could_give_ends_the_tunnel(meet):
    meeting, tunnel = meet(whole)
    meeting.run(tunnel.send(ROPEN_RESP if meet is ours_dials else OPEN_RESP, 1, {"result": 0}))
    assert [event.end for event in meeting.news()] == [End.FAULT]


def test_nothing_is_heard_before_the_tunnel_is_kept():
    meeting = Meeting(responding(), whole)
    meeting.link.accept_tunnel = lambda now: None  # type: ignore[method-assign]
    hasty = OldPeer(OLD_ALICE.seed, OLD_ALICE.ephemeral, OLD_ALICE.nonce, hasty=True)
    with pytest.raises(AssertionError, match="waits for what never comes"):
        meeting.run(hasty.dial(BOB.public.raw, WALL, str(BOBS_NAME), "responder.example"))
    assert [type(event) for event in meeting.news()] == [HelloProven, PeerConfirmed, LinkClosed]


def test_who_gives_back_another_challenge_is_refused():
    meeting = Meeting(responding(), whole)
    liar = OldPeer(OLD_ALICE.seed, OLD_ALICE.ephemeral, OLD_ALICE.nonce, echo="0" * 32)
    with pytest.raises(AssertionError, match="waits for what never comes"):
        meeting.run(liar.dial(BOB.public.raw, WALL, str(BOBS_NAME), "responder.example"))
    assert "challenge" in meeting.news()[-1].why


def test_the_old_peer_turns_us_away():
    meeting = Meeting(dialled(), whole)
    meeting.run(OLD_BOB.serve(WALL, accept=False))
    assert meeting.news() == [LinkClosed(End.REFUSED, "the peer does not want the tunnel: 'full'")]


def test_we_turn_the_old_peer_away():
    meeting = Meeting(responding(), whole)
    meeting.link.accept_tunnel = lambda now: meeting.link.turn_away("duplicate tunnel")  # type: ignore[method-assign]
    with pytest.raises(PermissionError, match="duplicate tunnel"):
        meeting.run(OLD_ALICE.dial(BOB.public.raw, WALL, str(BOBS_NAME), "responder.example"))


def test_we_dial_the_old_peer_by_its_key():
    key = PublicKey(OLD_BOB.public)
    meeting = Meeting(dialled(Remote(dev_did(key), key)), whole)
    tunnel = meeting.run(OLD_BOB.serve(WALL))
    assert meeting.news() == [TunnelOpened()]
    assert tunnel.peer_hello["to_id"] == OLD_BOB.did
