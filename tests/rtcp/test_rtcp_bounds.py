"""Legs by their ids, datagrams in a stream, the doorstep, and which of two tunnels stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire, Misuse
from cyfs_ns.identity.did import dev_did
from rtcp.datagrams import MOST_DATAGRAM, DatagramReader, write_datagram
from rtcp.doorstep import Doorstep
from rtcp.legs import Leg, LegBook
from rtcp.limits import Limits
from rtcp.records import Budget, Spent
from rtcp.registry import FRESH, PROBE, TunnelKey, Verdict, arbitrate
from rtcp.schedule import Keys
from tests.rtcp.pair import ALICE, BOB, ID

KEYS = Keys(b"k" * 32, b"i" * 16)


def test_a_leg_is_claimed_once_by_whoever_awaits_it():
    book: LegBook[str] = LegBook()
    assert book.expect(ID, "alice") and book.expect(ID, "alice") and not book.expect(ID, "mallory")
    book.forget(ID, "mallory")
    assert (book.claim(ID), book.claim(ID)) == ("alice", None)
    assert book.expect(ID, "mallory")
    book.forget_all("mallory")
    assert book.claim(ID) is None


def test_a_leg_ends_on_the_edge_of_a_record():
    dialler, accepter = Leg(KEYS, ID, True, 0), Leg(KEYS, ID, False, 0)
    wire = dialler.seal(b"bye")
    accepter.receive_data(wire)
    assert accepter.next_data() == b"bye"
    accepter.receive_eof()
    dialler.receive_data(accepter.seal(b"x")[:-1])
    assert dialler.next_data() is None
    with pytest.raises(BadWire):
        dialler.receive_eof()
    assert dialler.expires == 86400


def test_a_leg_tells_when_its_keys_are_spent():
    leg = Leg(KEYS, ID, True, 0, Budget(10, 4, 86400))
    leg.seal(b"1234")
    with pytest.raises(Spent):
        leg.seal(b"5")


def datagrams(pieces: list[bytes]) -> tuple[list[bytes], bool]:
    reader, found = DatagramReader(), []
    for piece in pieces:
        reader.receive_data(piece)
        try:
            while (payload := reader.next_datagram()) is not None:
                found.append(payload)
        except BadWire:
            with pytest.raises(BadWire):
                reader.next_datagram()
            return found, True
    return found, False


def test_datagrams_keep_their_edges_up_to_the_largest():
    payloads = [b"", b"x", bytes(MOST_DATAGRAM)]
    assert datagrams([b"".join(write_datagram(payload) for payload in payloads)]) == (payloads, False)
    assert datagrams([(MOST_DATAGRAM + 1).to_bytes(4, "big")]) == ([], True)
    with pytest.raises(Misuse):
        write_datagram(bytes(MOST_DATAGRAM + 1))


@given(st.lists(st.binary(max_size=20).map(write_datagram) | st.binary(max_size=9)).map(b"".join))
def test_datagrams_of_strangers_are_read_the_same_however_they_come(wire):
    assert datagrams([wire]) == datagrams([wire[at : at + 1] for at in range(len(wire))])


def test_the_doorstep_holds_so_many_at_a_time():
    door = Doorstep(most=2)
    assert door.enter("a", 0) and door.enter("b", 0) and not door.enter("c", 0)
    door.leave()
    assert door.enter("c", 0)


def test_the_doorstep_lets_one_address_in_only_so_often():
    door = Doorstep(most=1000)
    assert [door.enter("a", 0) for _ in range(33)].count(True) == 32
    assert door.enter("b", 0)
    assert [door.enter("a", 1) for _ in range(20)].count(True) == 16


def test_the_doorstep_remembers_so_many_addresses():
    door = Doorstep(most=1000, burst=1, sources=2)
    assert [door.enter(source, 0) for source in "aabcb"] == [True, False, True, True, False]
    assert door.enter("a", 0), "forgotten, so it starts afresh"


@pytest.mark.parametrize(
    ("last_heard", "now", "probed_at", "verdict"),
    [
        (None, 100, None, Verdict.ACCEPT),
        (100 - FRESH, 100, None, Verdict.REFUSE),
        (98, 100, None, Verdict.PROBE),
        (98, 100, 100, Verdict.PROBE),
        (100.1, 100.2, 100, Verdict.REFUSE),
        (100, 100.2, 100, Verdict.PROBE),
        (98, 100 + PROBE, 100, Verdict.REPLACE),
        (None, 100 + PROBE, 100, Verdict.ACCEPT),
    ],
)
def test_the_first_tunnel_wins_while_it_lives(last_heard, now, probed_at, verdict):
    assert arbitrate(last_heard, now, probed_at) is verdict


def test_the_verdict_comes_before_the_dialler_gives_up():
    assert Limits().step / 2 > PROBE


def test_tunnels_are_known_by_both_keys_and_the_way_around():
    alice, bob = dev_did(ALICE.public), dev_did(BOB.public)
    assert str(TunnelKey(alice, bob)) == f"{alice}_{bob}"
    assert str(TunnelKey(alice, bob, "socks://relay")) == f"{alice}_{bob}|bootstrap=socks://relay"


def test_the_ids_of_an_epoch_have_a_hard_bound():
    with pytest.raises(Misuse):
        Limits(stream_ids=(1 << 20) + 1)
