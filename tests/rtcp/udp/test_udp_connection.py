"""A pipe over UDP through bad weather: every byte once and in order, or an end with a reason; by a told clock."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from rtcp.udp import frames as fr
from rtcp.udp import keys, wire
from rtcp.udp.bbr import Bbr
from rtcp.udp.connection import CALL_ENTROPY, PATIENCE, SILENCE, Connection, Settings, Stage, opening_of
from rtcp.udp.door import DOOR_ENTROPY
from rtcp.udp.inbox import MOST_WINDOW
from rtcp.udp.mtu import MtuSearch
from rtcp.udp.paths import QUESTION, Paths, Proof
from tests.rtcp.udp.strait import CALLED, CALLER, KEY, Strait, Talk

MEGABYTE = 1_000_000
ELSEWHERE = ("203.0.113.9", 4444)
VICTIM = ("192.0.2.200", 53)


def exchange(strait: Strait, size: int, seconds: float = 900.0) -> float:
    """``size`` bytes each way at once; the seconds it took."""
    called = strait.meet()
    there, back = Talk(strait, strait.caller, called, size), Talk(strait, called, strait.caller, size, seed=8)
    began = strait.now
    strait.run(seconds, lambda: there.turn() & back.turn())
    assert there.turn() and back.turn(), (strait.caller.why, called.why, there.got, back.got)
    return strait.now - began


def download(strait: Strait, size: int, seconds: float = 900.0) -> float:
    """``size`` bytes to the caller; the seconds it took."""
    talk = Talk(strait, strait.meet(), strait.caller, size)
    began = strait.now
    strait.run(seconds, talk.turn)
    assert talk.turn(), (strait.caller.why, talk.got)
    return strait.now - began


# Weather


@given(
    st.integers(0, 1 << 30),
    st.floats(0, 0.3),
    st.floats(0, 0.2),
    st.floats(0.0001, 0.2),
    st.floats(0, 0.05),
    st.sampled_from([1228, 1280, 1420, 1500]),
    st.sampled_from([20_000, 100_000, 1_000_000]),
)
@settings(max_examples=40, deadline=None)
def test_every_byte_arrives_once_and_in_order(seed, loss, doubles, delay, jitter, mtu, size):
    strait = Strait(seed, loss=loss, doubles=doubles, delay=delay, jitter=jitter, mtu=mtu, rate=2e6, queue=100_000)
    strait.run(60, lambda: strait.caller.stage in (Stage.OPEN, Stage.OVER))
    if loss > 0.2 and strait.caller.stage is Stage.OVER:
        assert "nobody answered" in strait.caller.why or "no more" in strait.caller.why
        return
    exchange(strait, size // 4 if loss > 0.1 else size)
    assert strait.caller.datagram_size <= mtu - 28


def test_a_lossless_path_is_filled():
    strait = Strait(delay=0.015, rate=12.5e6)
    assert download(strait, 10 * MEGABYTE) < 10 * MEGABYTE / 12.5e6 * 1.5
    assert strait.bytes_sent < 1.15 * 10 * MEGABYTE


def test_losses_of_the_air_do_not_slow_it():
    strait = Strait(delay=0.015, rate=12.5e6, loss=0.03)
    assert download(strait, 20 * MEGABYTE) < 20 * MEGABYTE / 12.5e6 * 2.5


def test_a_short_queue_is_not_flooded_for_long():
    strait = Strait(delay=0.015, rate=1.25e6, queue=30_000)
    assert download(strait, 10 * MEGABYTE) < 10 * MEGABYTE / 1.25e6 * 1.5
    assert strait.bytes_sent < 1.4 * 10 * MEGABYTE


def test_two_pipes_share_a_path():
    one = Strait(1, delay=0.02, rate=1e6, queue=50_000)
    two = Strait(2, delay=0.02, rate=1e6, queue=50_000, shares=one)
    talks = []
    for strait in (one, two):
        talks.append(Talk(strait, strait.meet(), strait.caller, 1000 * MEGABYTE))
    end = max(one.now, two.now) + 20
    while (then := min(one.next_time(), two.next_time())) < end:
        for strait, talk in zip((one, two), talks, strict=True):
            strait.step(then)
            talk.turn()
    assert sum(talk.got for talk in talks) > 0.7 * 20 * 1e6
    assert min(talk.got for talk in talks) > 0.2 * max(talk.got for talk in talks)


def rounds(bbr: Bbr, now: float, count: int, lost: int) -> float:
    """Round trips of 30 ms that deliver 60,000 bytes each, and lose ``lost``."""
    for _ in range(count):
        burst = bbr.burst(now, 1)
        now += 0.03
        bbr.on_lost(lost, burst)
        bbr.on_acked(now, 60_000, burst, 0.03, 1)
    return now


def test_rounds_that_lose_most_of_what_was_sent_narrow_the_window_for_a_while():
    bbr = Bbr(0.0, 1200, 0.03)
    now = rounds(bbr, 0.0, 20, 0)
    usual = bbr.window
    assert 60_000 < usual < 300_000
    now = rounds(bbr, now, 10, 40_000)
    assert bbr.window > 0.9 * usual
    now = rounds(bbr, now, 10, 200_000)
    assert bbr.window < 0.1 * usual
    rounds(bbr, now, 20, 0)
    assert bbr.window > 0.9 * usual


# Paths


@pytest.mark.parametrize("mtu, size", [(1228, 1200), (1280, 1252), (1420, 1392), (1500, 1472)])
def test_the_size_of_datagrams_is_found(mtu, size):
    strait = Strait(mtu=mtu)
    download(strait, 3 * MEGABYTE)
    assert strait.called is not None and strait.called.datagram_size == size


def test_a_path_that_becomes_narrow_is_noticed():
    strait = Strait(mtu=1500, rate=2e6)
    called = strait.meet()
    talk = Talk(strait, called, strait.caller, 8 * MEGABYTE)
    strait.run(60, lambda: talk.turn() or talk.got > 3 * MEGABYTE)
    assert called.datagram_size == 1472
    strait.mtu = 1280
    began = strait.now
    strait.run(60, talk.turn)
    assert talk.turn() and strait.now - began < 10
    assert called.datagram_size == 1252


def test_a_probe_for_the_size_that_was_only_late_takes_no_loss_back(monkeypatch):
    strait, told, late = Strait(delay=0.02, rate=2e6), [], []
    called, send = strait.meet(), strait.send

    def delay_probes(source, to, datagram):
        strait.delay = 0.02 if len(datagram) <= called.datagram_size else 0.08
        late.append(strait.delay > 0.02)
        send(source, to, datagram)

    monkeypatch.setattr(strait, "send", delay_probes)
    monkeypatch.setattr(Bbr, "on_lost", lambda self, size, burst: told.append(size))
    download(strait, MEGABYTE)
    assert any(late) and called.datagram_size == 1472
    assert all(lost >= 0 for lost in accumulate(told))


def test_a_roaming_caller_takes_the_download_along():
    strait = Strait(delay=0.02, rate=2.5e6)
    called = strait.meet()
    talk = Talk(strait, called, strait.caller, 10 * MEGABYTE)
    strait.run(60, lambda: talk.turn() or talk.got > 3 * MEGABYTE)
    strait.caller_at, got = ELSEWHERE, talk.got
    strait.caller.network_changed(strait.now)
    moved = strait.now
    strait.run(60, lambda: talk.turn() or talk.got > got + 200_000)
    assert strait.now - moved < 1
    assert called.address == ELSEWHERE
    strait.run(60, talk.turn)
    assert talk.turn()


def test_a_roaming_called_is_followed():
    strait = Strait(delay=0.02, rate=2.5e6)
    called = strait.meet()
    talk = Talk(strait, strait.caller, called, 5 * MEGABYTE)
    strait.run(60, lambda: talk.turn() or talk.got > MEGABYTE)
    strait.called_at = ELSEWHERE
    called.network_changed(strait.now)
    strait.run(60, talk.turn)
    assert talk.turn() and strait.caller.address == ELSEWHERE


def test_nothing_but_challenges_goes_where_nobody_echoed():
    """Somebody between the two sends a copy on in a victim's name, before the original."""
    strait = Strait(delay=0.02, rate=2.5e6)
    called = strait.meet()
    talk = Talk(strait, called, strait.caller, 20 * MEGABYTE)
    strait.run(60, lambda: talk.turn() or talk.got > MEGABYTE)
    strait.records, stolen = True, 0
    for _ in range(50):
        strait.sent.clear()
        strait.run(0.05, talk.turn)
        for _, source, to, datagram in strait.sent:
            if source == CALLER:
                stolen += len(datagram)
                strait.deliver(VICTIM, to, datagram)
        strait.speak()
        to_victim = [datagram for _, _, to, datagram in strait.sent if to == VICTIM]
        assert all(len(datagram) < 60 for datagram in to_victim)
        assert sum(map(len, to_victim)) <= 3 * stolen
        strait.records = True
    assert called.address == CALLER
    strait.run(60, talk.turn)
    assert talk.turn()


def test_a_peer_that_was_moved_has_time_to_follow():
    """What it still says from the address we left does not call us back there, until it seems to mean it."""
    strait = Strait(delay=0.02, rate=1.25e6)
    called = strait.meet()
    talk = Talk(strait, called, strait.caller, 50 * MEGABYTE)
    strait.also_at = ELSEWHERE
    strait.caller.try_address(ELSEWHERE, strait.now)
    strait.run(1, lambda: talk.turn() or strait.caller.address == ELSEWHERE)
    assert strait.caller.address == ELSEWHERE
    strait.run(4.9, lambda: talk.turn() or strait.caller.address != ELSEWHERE)
    assert strait.caller.address == ELSEWHERE
    strait.run(1, lambda: talk.turn() or strait.caller.address != ELSEWHERE)
    assert strait.caller.address == CALLED


def test_a_path_that_becomes_narrow_is_noticed_by_silence_alone():
    strait = Strait(mtu=1500, rate=2e6)
    called = strait.meet()
    talk = Talk(strait, called, strait.caller, 2 * MEGABYTE)
    talk.finishes = False
    strait.run(60, talk.turn)
    strait.run(1)
    strait.mtu, began = 1280, strait.now
    assert called.datagram_size == 1472 and called.write(bytes(3000)) == 3000
    strait.run(60, lambda: strait.caller.readable == 3000)
    assert strait.caller.readable == 3000 and strait.now - began < 1


def test_the_search_starts_again_when_all_large_datagrams_are_lost():
    search = MtuSearch()
    assert search.probe(0.0) == 1472
    search.arrived(1472)
    for at in range(100):
        search.lost(1.0 + at / 1000, 0.1)
    search.arrived(1472)
    for _ in range(20):
        search.lost(2.0, 0.1)
    assert search.size == 1472, "that was one bad moment"
    search.lost(2.4, 0.1)
    assert search.size == 1200


def test_a_question_costs_what_was_heard_from_there():
    paths = Paths(bytes(32))
    paths.seen(VICTIM, QUESTION // 3, 0.0)
    assert paths.due(0.0) is None and paths.next_deadline() is None
    paths.seen(VICTIM, 1, 0.0)
    asked = paths.due(0.0)
    assert asked is not None and asked[0] == VICTIM
    paths.seen(VICTIM, 1000, 0.1)
    assert paths.due(0.1) is None, "not so soon again"
    assert paths.due(0.3) == asked
    assert paths.proven(bytes(8), 0.4) is None
    assert paths.proven(asked[1], 0.4) == Proof(VICTIM, None, False)
    assert paths.proven(asked[1], 0.4) is None


def test_an_address_where_nobody_is_is_asked_six_times():
    paths, now, asked = Paths(bytes(32)), 0.0, 0
    paths.want(VICTIM, now)
    while (due := paths.next_deadline()) is not None:
        now = max(now, due)
        asked += paths.due(now) is not None
    assert asked == 6 and 10 < now < 15


def test_an_address_that_is_wanted_is_tried_and_taken():
    strait = Strait(delay=0.02, rate=1.25e6)
    called = strait.meet()
    talk = Talk(strait, called, strait.caller, 5 * MEGABYTE)
    strait.run(60, lambda: talk.turn() or talk.got > MEGABYTE)
    strait.caller.try_address(VICTIM, strait.now)
    strait.run(2, talk.turn)
    assert strait.caller.address == CALLED, "nobody is there"
    strait.caller.try_address(ELSEWHERE, strait.now)
    strait.called_at = ELSEWHERE
    strait.run(0.2, talk.turn)
    assert strait.caller.address == ELSEWHERE and not talk.turn()
    strait.run(60, talk.turn)
    assert talk.turn() and strait.caller.address == ELSEWHERE


# Silence, and ends


def test_silence_ends_it_with_a_reason():
    strait = Strait()
    called = strait.meet()
    strait.run(1)
    strait.caller.write(b"is anybody there?")
    strait.is_black = True
    began = strait.now
    strait.run(600, lambda: strait.caller.stage is Stage.OVER)
    assert abs(strait.now - began - SILENCE) < 0.001 and strait.caller.failed
    assert strait.caller.why == "the peer is silent" and called.stage is Stage.OPEN


@pytest.mark.parametrize("seconds", [2.0, 8.0, 20.0])
def test_a_hole_of_some_seconds_is_slept_through(seconds):
    strait = Strait(delay=0.02, rate=2.5e6)
    talk = Talk(strait, strait.meet(), strait.caller, 10 * MEGABYTE)
    strait.run(60, lambda: talk.turn() or talk.got > 3 * MEGABYTE)
    strait.is_black = True
    strait.run(seconds, talk.turn)
    strait.is_black, back, got = False, strait.now, talk.got
    strait.run(60, lambda: talk.turn() or talk.got > got)
    assert strait.now - back < 1.2
    strait.run(60, talk.turn)
    assert talk.turn()


def test_nobody_answers():
    strait = Strait()
    strait.is_black, strait.records = True, True
    strait.run(60, lambda: strait.caller.stage is Stage.OVER)
    assert strait.now == 1000 + PATIENCE and strait.caller.why == "nobody answered"
    assert 10 < len(strait.sent) < 15


def test_idle_peers_say_nothing():
    strait = Strait()
    strait.meet()
    strait.run(2)
    strait.records = True
    strait.run(3600)
    assert strait.sent == [] and strait.caller.stage is Stage.OPEN


def test_a_sign_of_life_costs_one_datagram_each_way():
    strait = Strait()
    strait.meet()
    strait.run(2)
    strait.records = True
    for _ in range(40):
        asked = strait.now
        strait.caller.ping()
        strait.run(25)
        assert asked < strait.caller.heard_at < asked + 0.1
    assert [source for _, source, _, _ in strait.sent] == 40 * [CALLER, CALLED]


def test_leaving_delivers_what_was_written_and_tells():
    strait = Strait(loss=0.1)
    called = strait.meet()
    talk = Talk(strait, strait.caller, called, 400_000)
    talk.turn()
    assert talk.written == talk.size
    strait.caller.leave(strait.now)
    strait.run(30, lambda: talk.turn() and called.stage is Stage.OVER)
    assert talk.got == talk.size and called.is_whole
    assert strait.caller.stage is Stage.OVER and not strait.caller.failed


def test_a_close_is_heard_with_its_reason():
    strait = Strait()
    called = strait.meet()
    strait.caller.close("no more of this")
    strait.run(1)
    assert called.stage is Stage.OVER and called.why == "no more of this" and called.failed
    assert called.write(b"x") == 0


def test_a_peer_that_forgot_says_so_and_nobody_else_can():
    strait = Strait()
    called = strait.meet()
    strait.run(1)
    secret = called._settings.reset_secret
    assert not strait.caller.reset(bytes(16))
    assert not strait.caller.reset(keys.reset_token(secret, called.id ^ 1))
    assert strait.caller.stage is Stage.OPEN
    assert strait.caller.reset(keys.reset_token(secret, called.id))
    assert strait.caller.stage is Stage.OVER and strait.caller.failed


def test_a_reader_that_sleeps_is_not_sent_more_than_it_allows():
    strait = Strait(rate=125e6)
    called = strait.meet()
    talk = Talk(strait, called, strait.caller, 100 * MEGABYTE)
    for _ in range(200):
        strait.run(0.05)
        while talk.written < talk.size and called.write(bytes(65536)):
            talk.written += 65536
    assert 0 < strait.caller.readable <= MOST_WINDOW
    assert strait.caller.stage is called.stage is Stage.OPEN
    strait.records = True
    strait.run(60)
    assert len(strait.sent) < 10, "it asks again and again"


# Attacks


def test_what_the_peer_did_not_seal_changes_nothing():
    strait = Strait()
    called = strait.meet()
    strait.records = True
    talk = Talk(strait, strait.caller, called, 50_000)
    strait.run(10, talk.turn)
    strait.run(1)
    good = [datagram for _, source, _, datagram in strait.sent if source == CALLER]
    arrived = called.arrived
    for datagram in good:
        called.receive(memoryview(datagram), VICTIM, strait.now)
        for at in range(0, len(datagram), 97):
            bad = bytearray(datagram)
            bad[at] ^= 0x80
            called.receive(memoryview(bad), VICTIM, strait.now)
    assert called.address == CALLER and called.arrived == arrived and called.stage is Stage.OPEN
    strait.sent.clear()
    strait.speak()
    assert strait.sent == []


def test_a_door_keeps_nothing_and_tells_nothing():
    strait = Strait()
    opening = wire.write_opening(b"t" * 8, b"p" * 32, wire.door_key(KEY))
    before = vars(strait.door).copy()
    invites = set()
    for port in range(1000):
        invite = strait.door.opening(wire.read_datagram(opening), opening, ("192.0.2.77", port))
        assert invite is not None and len(invite) < len(opening) / 3
        invites.add(invite)
    assert len(invites) == 1000, "a cookie is of one address"
    assert vars(strait.door) == before
    wrong = wire.write_opening(b"t" * 8, b"p" * 32, wire.door_key(bytes(32)))
    assert strait.door.opening(wire.read_datagram(wrong), wrong, CALLER) is None


def entry_of(strait: Strait) -> wire.Entry:
    strait.records = True
    strait.run(60, lambda: strait.called is not None)
    (entry, *_) = [read for *_, sent in strait.sent if isinstance(read := wire.read_datagram(sent), wire.Entry)]
    return entry


def test_an_entry_is_good_from_its_address_and_for_four_minutes():
    strait = Strait()
    entry = entry_of(strait)

    def enter(source: tuple[str, int] = CALLER, free: bool = True) -> Connection | None:
        return strait.door.entry(entry, source, strait.now, bytes(32), lambda id: free)

    assert enter() is not None
    assert enter(VICTIM) is None and enter((CALLER[0], CALLER[1] + 1)) is None and enter(free=False) is None
    strait.door.renew(b"1" * DOOR_ENTROPY, strait.now)
    assert enter() is not None
    strait.door.renew(b"2" * DOOR_ENTROPY, strait.now)
    assert enter() is None


@pytest.mark.parametrize("shown", [CALLER, ELSEWHERE])
def test_who_was_invited_by_another_way_enters_at_once_or_where_it_was_for_another_place_a_little_later(shown):
    strait = Strait(delay=0.02)
    tag, public = opening_of(entropy := bytes(range(CALL_ENTROPY)))
    settings = Settings(reset_secret=KEY)
    caller = strait.caller = Connection.call(CALLED, wire.door_key(KEY), settings, entropy, strait.now)
    assert caller.tag == tag
    assert caller.invited(wire.Invite(tag, *strait.door.invite(tag, public, shown)), strait.now)
    began = strait.now
    caller.write(b"message 1")
    strait.run(PATIENCE, lambda: strait.called is not None and strait.called.readable)
    took = strait.now - began
    assert strait.called is not None
    assert strait.called.readable == 9
    assert (took < 0.03) is (shown == CALLER)
    assert strait.called.read_into(memoryview(bytearray(100)), strait.now) == 9
    exchange(strait, 100_000)


def test_what_is_not_sealed_with_the_keys_that_were_agreed_makes_no_pipe():
    strait = Strait()
    entry = entry_of(strait)
    sealed = bytearray(entry.sealed)
    sealed[-1] ^= 1
    forged = wire.Entry(entry.tag, entry.public, entry.cookie, entry.id, memoryview(sealed))
    assert strait.door.entry(forged, CALLER, strait.now, bytes(32), lambda id: True) is None


def test_an_invite_for_another_call_is_not_followed():
    strait = Strait()
    caller = strait.caller
    strait.speak()
    assert not caller.invited(wire.Invite(b"x" * 8, b"p" * 32, bytes(16)), strait.now)
    assert not caller.invited(wire.Invite(caller.tag, bytes(32), bytes(16)), strait.now), "a key of small order"
    assert caller.stage is Stage.CALLING
    strait.meet()


def test_data_beyond_what_was_allowed_ends_it():
    strait = Strait()
    called = strait.meet()
    strait.caller._limit = 1 << 40
    talk = Talk(strait, strait.caller, called, 5 * MEGABYTE)
    while talk.written < talk.size:
        talk.written += strait.caller.write(bytes(65536)) or talk.size
        strait.run(0.05)
    strait.run(5)
    assert called.stage is strait.caller.stage is Stage.OVER
    assert strait.caller.why == "more data than was allowed"


FRAME = st.one_of(
    st.integers(0, 1 << 60).map(fr.write_limit),
    st.integers(0, 1 << 56).map(lambda end: fr.write_fin(end & (1 << 56) - 1)),
    st.integers(0, 1 << 40).map(fr.write_past),
    st.lists(st.integers(0, 300), min_size=1, max_size=4, unique=True).map(
        lambda lows: fr.write_ack(sorted(lows)[:1], [max(lows) + 1], 0.0)
    ),
    st.binary(min_size=8, max_size=8).map(fr.write_challenge),
    st.binary(min_size=8, max_size=8).map(fr.write_echo),
    st.just(fr.PINGS),
    st.binary(max_size=40),
)


@given(
    st.lists(st.tuples(st.lists(FRAME, min_size=1, max_size=4), st.integers(0, 3_000_000), st.booleans()), max_size=30)
)
@settings(max_examples=100, deadline=None)
def test_whatever_a_peer_seals_the_pipe_goes_on_or_ends_with_a_reason(datagrams):
    strait = Strait()
    called = strait.meet()
    strait.run(0.1)
    called.write(bytes(5000))
    for at, (parts, offset, with_data) in enumerate(datagrams):
        plain = b"".join(parts) + (fr.data_head(offset) + b"data" if with_data else b"")
        say(strait, called, 1000 + at, plain, ELSEWHERE if at % 5 == 4 else CALLER)
        strait.speak()
        strait.now += 0.01
        if (deadline := called.next_deadline()) is not None and deadline <= strait.now:
            called.handle_timeout(strait.now)
    called.read_into(memoryview(bytearray(1 << 16)), strait.now)
    strait.speak()
    assert called.stage is Stage.OPEN or called.why
    assert len(called._inbox._ahead) <= 30 and len(called._paths._candidates) <= 8


def say(strait: Strait, called: Connection, number: int, plain: bytes, source: tuple[str, int] = CALLER) -> None:
    """The caller seals these frames, as its ``number``, and sends them from ``source``."""
    assert strait.caller._sealer is not None
    head = wire.sealed_head(called.id, number)
    sealed = bytearray(head + bytes(len(plain) + wire.SEAL))
    strait.caller._sealer.seal(head, number, plain, memoryview(sealed)[16:])
    called.receive(memoryview(sealed), source, strait.now)


def test_a_question_from_elsewhere_is_answered_and_followed_by_nothing():
    strait = Strait()
    called = strait.meet()
    strait.run(1)
    strait.records = True
    say(strait, called, 500, fr.write_challenge(b"12345678"), ELSEWHERE)
    strait.run(5)
    assert [to for _, _, to, _ in strait.sent] == [ELSEWHERE]
    say(strait, called, 501, fr.PINGS, ELSEWHERE)
    strait.run(0.1)
    assert [to for _, _, to, _ in strait.sent[1:]].count(ELSEWHERE) == 1, "a challenge, now that it speaks from there"
    assert called.address == CALLER


def test_an_ack_of_what_was_never_sent_ends_it():
    strait = Strait()
    called = strait.meet()
    say(strait, called, 500, fr.write_ack([0], [1 << 20], 0.0))
    assert called.stage is Stage.OVER and called.why == "an ack of what was never sent"


def test_the_key_before_opens_what_comes_late_and_no_older_one(monkeypatch):
    monkeypatch.setattr(keys, "_STEP", 2)
    sealer, opener, room = keys.Sealer(b"s" * 32), keys.Opener(b"s" * 32), memoryview(bytearray(100))
    sealed = []
    for number in range(12):
        head, into = wire.sealed_head(7, number), memoryview(bytearray(5 + wire.SEAL))
        sealer.seal(head, number, b"%5d" % number, into)
        sealed.append((head, number, into))
    for number in (0, 4, 3, 8, 5, 11, 6):
        assert opener.open(*sealed[number], room) == 5 and int(bytes(room[:5])) == number
    for number in (2, 1):
        with pytest.raises(BadWire):
            opener.open(*sealed[number], room)


def test_keys_step_in_both_directions_and_late_datagrams_open(monkeypatch):
    monkeypatch.setattr(keys, "_STEP", 6)
    strait = Strait(3, loss=0.02, jitter=0.002, rate=2e6)
    exchange(strait, MEGABYTE)
    assert strait.caller._sealer is not None and strait.caller._sealer._epoch > 5


def test_the_two_directions_have_keys_of_their_own():
    strait = Strait()
    strait.records = True
    called = strait.meet()
    strait.run(1)
    own = [sent for _, source, _, sent in strait.sent if source == CALLED and sent[0] == wire.SEALED]
    seen = called._highest
    assert own
    for datagram in own:
        called.receive(memoryview(wire.sealed_head(called.id, 1 << 10) + datagram[16:]), CALLER, strait.now)
    assert called._highest == seen


def test_an_idle_pipe_holds_no_bytes():
    strait = Strait()
    exchange(strait, MEGABYTE)
    strait.run(1)
    for pipe in (strait.caller, strait.called):
        assert pipe is not None and pipe._outbox._blocks == {} and not pipe._inbox._pieces
        assert len(pipe._recovery._sent) == 0


def test_secrets_do_not_show():
    strait = Strait()
    assert "secret" not in repr(strait.caller._settings) + repr(Settings(reset_secret=b"shh" * 8))
