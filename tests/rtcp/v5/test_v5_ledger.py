"""What all tunnels hold together is bounded, and whoever holds most gives way; nobody is counted after its end."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rtcp.events import End
from rtcp.v5.closing import CloseCode
from rtcp.v5.credit import Window
from rtcp.v5.frames import Stop
from rtcp.v5.ledger import SMALL, Ledger, Room, Share
from tests.rtcp.v5.duet import BULK, FLOW, WEB, Duet, standing

KIB = 1024


def shares(ledger: Ledger, *held: int, anonymous: bool = False) -> list[Share]:
    made = [ledger.open(anonymous=anonymous) for _ in held]
    for share, kept in zip(made, held, strict=True):
        share.settle(kept, held=False)
    return made


def test_nobody_gives_way_while_there_is_room():
    ledger = Ledger(Room(all=100, anonymous=50))
    shares(ledger, 50, 50)
    assert not ledger.is_over and ledger.debtors() == []


def test_whoever_holds_most_gives_way_first():
    ledger = Ledger(Room(all=100, anonymous=50))
    small, large, middle = shares(ledger, 20, 60, 30)
    assert ledger.is_over and ledger.debtors() == [large]
    large.settle(50, held=False)
    assert not ledger.is_over
    small.settle(80, held=False)
    assert ledger.debtors() == [small]
    small.close()
    assert ledger.debtors() == [] and not ledger.is_over
    assert middle.holds == 30


def test_as_many_give_way_as_have_to():
    ledger = Ledger(Room(all=100))
    made = shares(ledger, *[10] * 12)
    assert len(ledger.debtors()) == 2
    assert set(ledger.debtors()) <= set(made)


def test_the_anonymous_have_a_part_and_give_way_before_others():
    ledger = Ledger(Room(all=100, anonymous=30))
    (named,) = shares(ledger, 65)
    first, second = shares(ledger, 10, 15, anonymous=True)
    assert ledger.debtors() == []
    first.settle(20, held=False)
    assert ledger.debtors() == [first]
    second.settle(5, held=False)
    assert ledger.debtors() == []
    named.settle(80, held=False)
    assert ledger.debtors() == [first]
    first.close()
    second.close()
    named.settle(101, held=False)
    assert ledger.debtors() == [named]


def test_of_tunnels_without_a_carrier_the_longest_held_gives_way():
    ledger = Ledger(Room(held=100))
    first, second, third = shares(ledger, 50, 40, 50)
    for share, kept in ((second, 40), (first, 50), (third, 50)):
        share.settle(kept, held=True)
    assert ledger.debtors() == [second]
    second.settle(40, held=False)
    assert ledger.debtors() == []
    second.settle(40, held=True)
    assert ledger.debtors() == [first]
    first.close()
    assert ledger.debtors() == []


def read_fast(window: Window, times: int) -> None:
    for _ in range(times):
        size = window.limit - window.received
        window.arrived(size)
        window.consumed(size, 1.0, 0)


def test_windows_grow_out_of_one_stock_and_shrink_when_it_is_used_up():
    ledger = Ledger(Room(windows=4096 * KIB))
    share = ledger.open(anonymous=False)
    one, other, late = (Window(64 * KIB, 4096 * KIB, share, 0) for _ in range(3))
    read_fast(one, 6)
    assert one.size == 4096 * KIB and ledger.windows == 4096 * KIB - SMALL
    read_fast(other, 6)
    assert other.size == SMALL and ledger.windows <= 4096 * KIB
    read_fast(one, 1)
    assert one.size == SMALL and ledger.windows == 0
    read_fast(late, 4)
    assert late.size == 1024 * KIB
    late.close()
    assert ledger.windows == 0


def test_windows_do_not_grow_when_little_room_is_left():
    ledger = Ledger(Room(all=100))
    share = ledger.open(anonymous=False)
    window = Window(64 * KIB, 4096 * KIB, share, 0)
    (full,) = shares(ledger, 76)
    read_fast(window, 6)
    assert window.size == SMALL
    full.close()
    read_fast(window, 2)
    assert window.size == 1024 * KIB


def unread(duet: Duet) -> int:
    """What Bob's tunnel counts."""
    duet.bob.tunnel.settle()
    assert duet.bob.tunnel.share.holds == duet.bob.tunnel.kept + duet.bob.tunnel.share.unread
    return duet.bob.tunnel.share.unread


def test_the_stream_with_the_most_unread_gives_way():
    duet = standing()
    duet.bob.reads = False
    little, much = (duet.alice.tunnel.open(WEB, duet.now) for _ in range(2))
    duet.send(duet.alice, little, bytes(10_000), finish=False)
    duet.send(duet.alice, much, bytes(40_000))
    duet.talk()
    assert unread(duet) == 50_000
    duet.bob.tunnel.make_room(duet.now)
    duet.talk()
    assert duet.bob.told(much).reset == Stop.STALLED and duet.alice.told(much).reset == Stop.STALLED
    assert unread(duet) == 10_000 and duet.bob.told(little).reset is None
    duet.bob.read(little)
    assert unread(duet) == 0


def test_what_waits_unread_is_counted_though_its_leg_is_over():
    duet = standing()
    duet.bob.reads = False
    stream = duet.alice.tunnel.open(BULK, duet.now)
    duet.talk()
    duet.send(duet.alice, stream, bytes(60_000))
    duet.sleep(1)
    duet.bob.tunnel.finish(stream, duet.now)
    duet.sleep(40)
    assert not duet.bob.tunnel._legs and unread(duet) == 60_000
    duet.bob.read(stream)
    assert unread(duet) == 0 and not duet.bob.tunnel.conversations


def test_datagrams_that_wait_for_the_rules_are_counted():
    duet = standing()
    duet.bob.answers = lambda side, asked: None
    flow = duet.alice.tunnel.open(FLOW, duet.now)
    duet.talk()
    for _ in range(40):
        duet.alice.tunnel.send_datagram(flow, None, bytes(5000), duet.now)
        duet.talk()
    assert unread(duet) == 32 * 5001
    duet.bob.tunnel.make_room(duet.now)
    duet.talk()
    assert unread(duet) == 0 and duet.bob.told(flow).reset == Stop.STALLED


def test_whoever_acknowledges_nothing_gives_way_whole():
    duet = standing()
    stream = duet.bob.tunnel.open(WEB, duet.now)
    duet.talk()
    duet.deaf.add(duet.alice)
    duet.bob.tunnel.send(stream, bytes(50_000), duet.now)
    duet.talk()
    assert unread(duet) == 0 and duet.bob.tunnel.share.holds > 50_000
    duet.deaf.clear()
    duet.bob.tunnel.make_room(duet.now)
    duet.talk()
    assert duet.bob.ended is not None and duet.bob.ended.code is CloseCode.LIMIT
    assert duet.bob.tunnel.share.holds == 0


def test_a_tunnel_that_is_held_gives_way_whole():
    duet = standing()
    duet.calls = "lost"
    stream = duet.bob.tunnel.open(WEB, duet.now)
    duet.talk()
    duet.cut()
    duet.bob.tunnel.send(stream, bytes(30_000), duet.now)
    duet.bob.tunnel.settle()
    assert duet.bob.tunnel.share.held >= 30_000
    duet.bob.tunnel.make_room(duet.now)
    duet.talk()
    assert duet.bob.ended is not None and duet.bob.ended.end is End.LOST and duet.bob.tunnel.share.held == 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.sampled_from(["arrive", "read", "drop", "end", "keep", "hold", "close"]),
            st.integers(1, 400),
        ),
        max_size=120,
    )
)
def test_every_byte_is_counted_once(steps):
    room = Room(all=2000 * KIB, anonymous=500 * KIB, windows=800 * KIB, held=300 * KIB)
    ledger = Ledger(room)
    tunnels = [ledger.open(anonymous=bool(n & 1)) for n in range(6)]
    windows = [[Window(64 * KIB, 1024 * KIB, share, 0)] for share in tunnels]
    kept, held, over = [0] * 6, [False] * 6, [False] * 6
    for which, what, size in steps:
        if over[which]:
            continue
        share, window = tunnels[which], windows[which][-1]
        match what:
            case "arrive":
                window.arrived(min(size * KIB, window.limit - window.received))
            case "read":
                window.consumed(min(size * KIB, window.unread), 1.0, 0)
            case "drop":
                window.drop()
            case "end":
                window.close()
                windows[which].append(Window(64 * KIB, 1024 * KIB, share, 0))
            case "keep":
                kept[which] = size * KIB
            case "hold":
                held[which] = not held[which]
            case "close":
                share.close()
                over[which] = True
                continue
        share.settle(kept[which], held=held[which])
        assert share.unread == windows[which][-1].unread
        assert ledger.windows <= room.windows
        alive = [n for n in range(6) if not over[n]]
        assert ledger._all == sum(kept[n] + tunnels[n].unread for n in alive)
        assert ledger._anonymous == sum(kept[n] + tunnels[n].unread for n in alive if n & 1)
        assert ledger._held == sum(kept[n] for n in alive if held[n])
        assert bool(ledger.debtors()) == ledger.is_over
    for n, share in enumerate(tunnels):
        if not over[n]:
            share.close()
    assert ledger._all == ledger._anonymous == ledger._held == ledger.windows == 0
    assert not ledger._shares and not ledger._held_by
