"""Legs by their ids, datagrams in a stream, and which of two tunnels stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire, Misuse
from cyfs_ns.identity.did import dev_did
from rtcp.backoff import Backoff
from rtcp.datagrams import MOST_DATAGRAM, DatagramReader, write_datagram
from rtcp.legs import Leg, LegBook
from rtcp.limits import Limits
from rtcp.paths import Paths
from rtcp.records import Budget, Spent
from rtcp.registry import FRESH, PROBE, Register, TunnelKey, Verdict, arbitrate, patience
from rtcp.schedule import Keys
from tests.rtcp.pair import ALICE, ALICES_NAME, BOB, BOBS_NAME, ID, MALLORY

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


def test_a_leg_that_has_nothing_to_say_says_so_in_a_record():
    dialler, accepter = Leg(KEYS, ID, True, 0), Leg(KEYS, ID, False, 0)
    wire = dialler.finish()
    accepter.receive_data(wire)
    assert accepter.next_data() is None
    accepter.receive_eof()
    accepter.seal(b"something")
    assert len(wire) == 18 and accepter.finish() == b""


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


def test_a_tunnel_has_time_to_answer_by_how_long_its_way_is():
    assert [patience(seconds) for seconds in (0, 0.1, 0.5, 1, 60)] == [1, 1, 1.5, PROBE, PROBE]
    assert arbitrate(98, 101, 100, patience(0.1)) is Verdict.REPLACE
    assert arbitrate(98, 101, 100, patience(1)) is Verdict.PROBE


def test_tunnels_are_known_by_both_keys_and_the_way_around():
    alice, bob = dev_did(ALICE.public), dev_did(BOB.public)
    assert str(TunnelKey(alice, bob)) == f"{alice}_{bob}"
    assert str(TunnelKey(alice, bob, "socks://relay")) == f"{alice}_{bob}|bootstrap=socks://relay"


def test_tunnels_that_stand_are_found_by_every_name_of_their_peer():
    alice, bob, mallory = dev_did(ALICE.public), dev_did(BOB.public), dev_did(MALLORY.public)
    register: Register[str] = Register(alice)
    direct, around = TunnelKey(alice, bob), TunnelKey(alice, bob, "socks://relay")
    register.add(direct, "direct")
    register.add(around, "around")
    assert register.call(bob, BOBS_NAME) and register.call(bob, bob)
    assert register.find(BOBS_NAME) == register.find(bob) == "direct"
    assert register.find(BOBS_NAME, "socks://relay") == "around"
    assert register.find(mallory) is None and register.find(ALICES_NAME) is None
    assert not register.call(mallory, BOBS_NAME) and register.holder(BOBS_NAME) == bob
    register.remove(direct, "another")
    assert register.by_any_way(bob) == "direct"
    register.remove(direct, "direct")
    assert register.find(BOBS_NAME) is None and register.holder(BOBS_NAME) == bob, "one way to it is left"
    assert register.by_any_way(bob) == "around"
    register.remove(around, "around")
    assert register.by_any_way(bob) is None
    assert register.holder(BOBS_NAME) is None and len(register) == 0
    assert register.call(mallory, BOBS_NAME)


def test_a_tunnel_that_took_the_place_of_another_outlives_it():
    register: Register[str] = Register(dev_did(ALICE.public))
    key = TunnelKey(dev_did(ALICE.public), dev_did(BOB.public))
    register.add(key, "old")
    register.add(key, "new")
    register.remove(key, "old")
    assert register.tunnels() == ["new"]


def test_each_failure_makes_us_wait_longer_until_a_tunnel_has_stood():
    backoff = Backoff(first=1, longest=8)
    assert [backoff.failed(0) for _ in range(5)] == [0.5, 1, 2, 4, 4]
    assert 4 < backoff.failed(0.5) < 8
    backoff.stood(0.9)
    assert backoff.failed(0) == 4
    backoff.stood(60)
    assert (backoff.failed(0), backoff.failed(0)) == (0, 0.5)
    backoff.reset()
    assert backoff.failed(0) == 0.5


def test_a_tunnel_that_broke_is_made_again_at_once_but_not_again_and_again():
    backoff = Backoff(first=1, longest=8)
    for stood in (1, 60, 29, 1):
        backoff.stood(stood)
        assert backoff.failed(0.99) < 0.5, "no wave, even so"
    for due in (0.5, 1, 2, 4, 4):
        backoff.stood(29)
        assert backoff.failed(0) == due


def test_addresses_that_worked_come_first_and_those_that_failed_last():
    paths = Paths(most=4)
    a, b, c, d = (("192.0.2.1", port) for port in range(4))
    paths.worked(b, 0.5)
    paths.worked(d, 0.1)
    paths.failed(a)
    assert paths.arrange([a, b, c, d, c]) == [d, b, c, a]
    for _ in range(30):
        paths.worked(b, 0.01)
    paths.worked(a, 0.2)
    assert paths.arrange([a, b, c, d]) == [b, d, a, c]
    for port in range(10, 14):
        paths.failed(("192.0.2.2", port))
    assert paths.arrange([a, b, c, d]) == [a, b, c, d], "only so many are remembered"


def test_the_ids_of_an_epoch_have_a_hard_bound():
    with pytest.raises(Misuse):
        Limits(stream_ids=(1 << 20) + 1)
