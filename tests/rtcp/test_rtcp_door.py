"""A flood at the door: places and rates are bounded, the slow make room, and who is known comes in all the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcp.door import Door, DoorLimits, Place, Stage

SMALL = DoorLimits(knocking=8, proving=8, deciding=8, standing=8, anonymous=2, deciding_each=2, long_hellos=2)


def address(n: int) -> str:
    return f"203.0.{n >> 8}.{n & 255}"


def evicted(door: Door) -> list[Place]:
    gone = []
    while (place := door.next_evicted()) is not None:
        gone.append(place)
    return gone


def entered(door: Door, count: int, now: float = 0, *, start: int = 0) -> list[Place]:
    places = [door.enter(address(start + n), now) for n in range(count)]
    assert None not in places
    return places


def stand(door: Door, source: str, now: float = 0, *, anonymous: bool = False) -> Place | None:
    """A tunnel from ``source``, by all the steps; None if there was no place for it."""
    place = door.enter(source, now)
    assert place is not None
    steps = door.begin_proof(place, now) and door.begin_decision(place, now)
    return place if steps and door.stand(place, now, anonymous=anonymous) else None


def test_the_oldest_who_says_nothing_makes_room():
    door = Door(0, SMALL)
    places = entered(door, 6)
    assert evicted(door) == []
    newcomer = door.enter(address(99), 1)
    assert newcomer is not None and evicted(door) == [places[0]]
    assert not door.begin_proof(places[0], 1)  # it is too late for whoever had to go
    door.leave(places[0], 1)
    assert door.begin_proof(places[1], 1)


def test_who_waits_for_us_is_not_pushed_out():
    door = Door(0, SMALL)
    places = entered(door, 6)
    for place in places[:5]:
        door.hear(place)
    assert door.enter(address(90), 1) is not None and evicted(door) == [places[5]]
    door.hear(last := door.enter(address(91), 1))
    assert len(evicted(door)) == 1 and door.enter(address(92), 1) is None
    assert door.is_busy(1)
    assert door.begin_proof(places[0], 1)
    door.leave(last, 1)
    assert entered(door, 2, 1, start=93) and evicted(door) == []
    assert stand(door, address(95), 1) is not None and len(evicted(door)) == 1, "those who are silent go"


def test_who_proves_itself_has_a_second():
    door = Door(0, SMALL)
    first = [place for n in range(6) if door.begin_proof(place := door.enter(address(n), 0), 0)]
    late = door.enter(address(50), 0.9)
    assert not door.begin_proof(late, 0.9) and evicted(door) == []
    assert door.begin_proof(late, 1.1) and evicted(door) == [first[0]]


def test_who_is_decided_about_is_not_pushed_out():
    door = Door(0, SMALL)
    for n in range(6):
        place = door.enter(address(n), 0)
        assert door.begin_proof(place, 0) and door.begin_decision(place, 0)
    late = door.enter(address(50), 100)
    assert door.begin_proof(late, 100) and not door.begin_decision(late, 100)
    assert evicted(door) == []


def test_one_source_does_not_take_all_decisions():
    door = Door(0, SMALL)
    places = [door.enter("203.0.113.9", 0) for _ in range(3)]
    assert [door.begin_proof(place, 0) and door.begin_decision(place, 0) for place in places] == [True, True, False]
    door.leave(places[0], 0)
    assert door.begin_decision(places[2], 0)


def test_the_anonymous_are_a_part_of_all():
    door = Door(0, SMALL)
    assert [stand(door, address(n), anonymous=True) is not None for n in range(3)] == [True, True, False]
    assert stand(door, address(9)) is not None


def test_one_source_does_not_take_all_tunnels():
    door = Door(0, DoorLimits(standing=8, standing_each=2))
    assert [stand(door, "203.0.113.9") is not None for _ in range(3)] == [True, True, False]
    assert stand(door, "203.0.113.10") is not None


def test_a_tunnel_that_ends_gives_its_place_back():
    door = Door(0, DoorLimits(standing=4, anonymous=1))
    for n in range(20):
        place = stand(door, address(n), anonymous=True)
        assert place is not None
        door.leave(place, 0)
        door.leave(place, 0)


def test_large_hellos_are_few():
    door = Door(0, SMALL)
    places = entered(door, 3)
    for place in places:
        door.long_hello(place)
        door.long_hello(place)
    assert evicted(door) == [places[0]]
    assert door.begin_proof(places[1], 0)
    door.long_hello(places[1])  # it is past that
    door.long_hello(entered(door, 1, start=40)[0])
    assert evicted(door) == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:0:0:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("did:dev:abc", "did:dev:abc", True),
        ("did:dev:abc", "did:dev:abd", False),
    ],
)
def test_a_source_comes_so_often_and_no_oftener(one, other, same):
    door = Door(0, DoorLimits(burst=3, per_second=2))
    assert [door.enter(one, 0) is not None for _ in range(4)] == [True, True, True, False]
    assert (door.enter(other, 0) is None) == same
    assert door.enter(one, 0.5) is not None
    assert door.enter(one, 0.5) is None


def test_so_many_sources_are_remembered_and_no_more():
    door = Door(0, DoorLimits(sources=50, burst=1, per_second=0.001, door_per_second=1e6))
    for n in range(60):
        assert door.enter(address(n), 0) is not None
    assert len(door._buckets) == 50
    assert door.enter(address(59), 0) is None and door.enter(address(0), 0) is not None


def test_the_door_as_a_whole_has_its_rate():
    door = Door(0, DoorLimits(door_per_second=100))
    came = [door.enter(address(n), 0) for n in range(200)]
    assert sum(place is not None for place in came) == 75


def test_a_flood_of_strangers_does_not_shut_out_who_is_known():
    limits = DoorLimits(knocking=40, proving=40, door_per_second=100)
    door = Door(0, limits)
    friend = stand(door, "198.51.100.7")
    assert friend is not None
    now, came = 0.0, 0
    for n in range(1000):
        now += 0.001
        came += door.enter(address(n), now) is not None
    assert came <= 75 + 75 * now + 1
    visits = [door.enter("198.51.100.7", now) for _ in range(8)]
    assert None not in visits and all(door.may_shake_hands(place, now) for place in visits)
    gone = evicted(door)
    for n in range(1000, 1400):
        now += 0.01
        door.enter(address(n), now)
    gone = evicted(door)
    assert gone and not set(visits) & set(gone)
    assert all(door.begin_proof(place, now) for place in visits)


def test_who_was_here_within_ten_minutes_is_known():
    door = Door(0)
    place = stand(door, "2001:db8::1", 0)
    door.leave(place, 100)
    assert door.is_known("2001:db8::2", 699) and not door.is_known("2001:db8::2", 700)
    assert not door.is_known("2001:db8:1::2", 200)


def test_the_known_pay_for_handshakes_alone_and_four_times_as_often():
    door = Door(0, DoorLimits(burst=2, per_second=0.001, knocking=1000))
    stand(door, "192.0.2.1")
    visits = [door.enter("192.0.2.1", 0) for _ in range(100)]  # the streams of version 4
    assert None not in visits
    assert [door.may_shake_hands(place, 0) for place in visits[:10]] == [True] * 8 + [False] * 2


def test_the_door_is_busy_over_half_of_its_places_or_its_rate():
    door = Door(0, SMALL)
    entered(door, 4)
    assert not door.is_busy(0)
    entered(door, 1, start=30)
    assert door.is_busy(0)
    door = Door(0, DoorLimits(door_per_second=10))
    entered(door, 5)
    assert not door.is_busy(0)
    entered(door, 1, start=30)
    assert door.is_busy(0) and not door.is_busy(1)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["enter", "hear", "long", "prove", "decide", "stand", "leave", "wait"]),
            st.integers(0, 60),
            st.booleans(),
        ),
        max_size=150,
    )
)
def test_whatever_happens_no_stage_holds_more_than_it_may(steps):
    limits = DoorLimits(
        knocking=8, proving=8, deciding=4, standing=8, anonymous=2, deciding_each=2, long_hellos=2, sources=5, burst=500
    )
    door, now, places = Door(0, limits), 0.0, []
    for what, which, flag in steps:
        place = places[which % len(places)] if places else None
        match what:
            case "enter":
                if (new := door.enter(address(which % 7), now)) is not None:
                    places.append(new)
            case "wait":
                now += which / 10
            case _ if place is None:
                pass
            case "hear":
                door.hear(place)
            case "long":
                door.long_hello(place)
            case "prove" if place.stage is Stage.KNOCKING:
                door.begin_proof(place, now)
            case "decide" if place.stage is Stage.PROVING:
                door.begin_decision(place, now)
            case "stand" if place.stage is Stage.DECIDING:
                door.stand(place, now, anonymous=flag)
            case "leave":
                door.leave(place, now)
        for gone in evicted(door):
            assert gone.stage is None
        inside = [place.stage for place in places]
        for stage, most in zip(Stage, (8, 8, 4, 8), strict=True):
            assert inside.count(stage) <= most
        assert sum(place.anonymous for place in places if place.stage is Stage.STANDING) <= 2
        assert max(len(door._buckets), len(door._known_until)) <= 5
    for place in places:
        door.leave(place, now)
    assert [len(room.common) + len(room.reserve) for room in door._rooms.values()] == [0] * 4
    assert not door._long and not door._deciding_from and not door._standing_from and door._anonymous == 0


def test_members_come_back_through_a_storm_from_everywhere():
    """Ten thousand members at as many addresses, and a flood of whole first messages from as many others."""
    door, now = Door(0), 0.0
    members = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(10_000)]
    for source in members:
        place = stand(door, source, now)
        assert place is not None
        door.leave(place, now)
        now += 0.01
    for n in range(20_000):
        now += 0.0005
        place = door.enter(address(n), now)
        if place is not None:
            door.hear(place)
        if n % 10 == 0:
            back = door.enter(members[n // 10], now)
            assert back is not None and door.may_shake_hands(back, now)
            assert door.begin_proof(back, now)
            door.leave(back, now)
    assert not evicted(door)
