"""Who answers first: addresses in their order, UDP beside them, relays a moment later."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from cyfs_ns.errors import Refused, Unreachable
from rtcp.io.dialling import Road, Roads
from rtcp.nat.candidates import Kind, Transport
from rtcp.nat.race import Way
from rtcp.paths import Paths


class Pipe:
    def __init__(self, name: str) -> None:
        self.name = name
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Map:
    """Roads by name: after how many seconds each answers; a fault: so long until it fails; None: never."""

    def __init__(self) -> None:
        self.tried: dict[str, float] = {}
        self.pipes: list[Pipe] = []
        self.began = trio.current_time()

    def road(self, name: str, answers: float | None, *, fails: bool = False, kind: Kind = Kind.HOST) -> Road:
        async def connect():
            self.tried[name] = round(trio.current_time() - self.began, 2)
            await trio.sleep(float("inf") if answers is None else answers)
            if fails:
                raise Unreachable(name)
            self.pipes.append(Pipe(name))
            return self.pipes[-1]

        address = (name, 1) if kind is Kind.HOST else None
        return Road(Way(name, kind, Transport.TCP), connect, address)

    def relays(self, *names: str, after: float = 0.0, answers: float = 0.1):
        async def find():
            await trio.sleep(after)
            return [self.road(name, answers, kind=Kind.RELAY) for name in names]

        return find


async def test_the_first_that_answers_wins_and_a_later_one_is_closed(autojump_clock):
    map_ = Map()
    roads = Roads([map_.road("a", None), map_.road("b", 0.2), map_.road("c", 0.01)])
    pipe, road = await roads.race(Paths())
    assert (pipe.name, road.way.name) == ("b", "b")
    assert map_.tried == {"a": 0, "b": 0.25}


async def test_one_that_fails_lets_the_next_begin_and_none_is_the_last_fault(autojump_clock):
    map_ = Map()
    roads = Roads([map_.road("a", 0.01, fails=True), map_.road("b", 0.01, fails=True)])
    with pytest.raises(Unreachable, match="b"):
        await roads.race(Paths())
    assert map_.tried == {"a": 0, "b": 0.01}


async def test_a_relay_begins_a_moment_later_and_at_once_where_no_address_is_known(autojump_clock):
    map_ = Map()
    pipe, road = await Roads([map_.road("a", None)], relays=map_.relays("sn")).race(Paths())
    assert pipe.name == "sn"
    assert road.way.relayed
    assert map_.tried == {"a": 0, "sn": 0.02}
    map_ = Map()
    await Roads([], relays=map_.relays("sn")).race(Paths())
    assert map_.tried == {"sn": 0}


async def test_a_direct_way_that_is_as_quick_beats_the_relay(autojump_clock):
    map_ = Map()
    pipe, _ = await Roads([map_.road("a", 0.1)], relays=map_.relays("sn")).race(Paths())
    assert pipe.name == "a"


async def test_addresses_that_come_late_join_and_the_relay_does_not_wait_for_them(autojump_clock):
    map_ = Map()

    async def late():
        await trio.sleep(0.05)
        return Roads([map_.road("a", None), map_.road("b", 0.1)], [map_.road("udp", None)])

    roads = Roads([map_.road("a", None)], relays=map_.relays("sn", answers=2), late=late)
    pipe, road = await roads.race(Paths())
    assert pipe.name == "b"
    assert map_.tried == {"a": 0, "sn": 0.02, "b": 0.05, "udp": 0.06}, "none is tried twice at a time"
    roads.drop(road)
    assert [each.way.name for each in roads.first + roads.udp] == ["a", "udp"]


async def test_no_late_addresses_end_nothing_and_nobody_is_left_waiting_for_them(autojump_clock):
    map_ = Map()

    async def late():
        raise Refused("not any more")

    pipe, _ = await Roads([], relays=map_.relays("sn"), late=late).race(Paths())
    assert pipe.name == "sn"
    with pytest.raises(Refused, match="not any more"):
        await Roads([], late=late).race(Paths())


async def test_udp_goes_beside_and_does_not_make_failing_slow(autojump_clock):
    map_ = Map()
    pipe, _ = await Roads([map_.road("tcp", None)], [map_.road("udp", 0.05)]).race(Paths())
    assert pipe.name == "udp"
    assert map_.tried == {"tcp": 0, "udp": 0.01}
    map_ = Map()
    with pytest.raises(Unreachable, match="tcp"):
        await Roads([map_.road("tcp", 0.01, fails=True)], [map_.road("udp", None)]).race(Paths())
    assert trio.current_time() - map_.began < 0.7


async def test_a_road_that_was_dropped_is_not_tried_again_and_relays_are_found_once(autojump_clock):
    map_ = Map()
    roads = Roads([map_.road("a", 0.01)], relays=map_.relays("sn", "other"))
    for name in ("a", "sn", "other"):
        pipe, road = await roads.race(Paths())
        assert pipe.name == name
        roads.drop(road)
    assert roads.is_empty


async def test_nobody_answers_and_that_has_an_end(autojump_clock):
    map_ = Map()
    with pytest.raises(Unreachable, match="nobody answered"):
        await Roads([map_.road("a", None)], relays=map_.relays("sn", answers=100)).race(Paths())


async def test_whoever_can_tell_the_peer_races_up_to_there_and_a_liar_holds_nobody_up(autojump_clock):
    map_ = Map()

    async def greet(pipe, road):
        await trio.sleep(0.05)
        if pipe.name == "liar":
            raise Unreachable("somebody else")
        return pipe

    roads = Roads([map_.road("liar", 0.01)], relays=map_.relays("sn", "other"))
    met, road = await roads.meet(Paths(), greet)
    assert (met.name, road.way.name) == ("sn", "sn")
    assert map_.tried == {"liar": 0, "sn": 0.06}, "a second handshake begins when the first has failed"
    with pytest.raises(Unreachable, match="somebody else"):
        await Roads([map_.road("liar", 0.01)]).meet(Paths(), greet)


async def test_only_who_can_tell_the_peer_takes_what_may_lead_nowhere(autojump_clock):
    map_ = Map()
    slow = map_.road("sn", 0.3, kind=Kind.RELAY)
    quick = map_.road("hastened", 0.0, kind=Kind.RELAY)
    road = replace(slow, hasten=quick.connect)

    async def greet(pipe, road):
        return pipe

    met, _ = await Roads([road]).meet(Paths(), greet)
    assert met.name == "hastened"
    pipe, _ = await Roads([road]).race(Paths())
    assert pipe.name == "sn"


async def test_a_loser_that_met_the_peer_too_is_closed(autojump_clock):
    map_ = Map()

    async def greet(pipe, road):
        with trio.CancelScope(shield=True):
            await trio.sleep(0.3 if pipe.name == "a" else 0.2)
        return pipe

    met, _ = await Roads([map_.road("a", 0.0)], [map_.road("b", 0.0)]).meet(Paths(), greet)
    assert met.name == "a"
    assert [pipe.is_closed for pipe in map_.pipes] == [False, True]


async def test_one_that_answers_and_then_is_mute_holds_the_others_up_for_a_moment_only(autojump_clock):
    map_ = Map()

    async def greet(pipe, road):
        await trio.sleep(float("inf") if pipe.name == "mute" else 0.01)
        return pipe

    roads = Roads([map_.road("mute", 0.0)], [map_.road("udp", None)], relays=map_.relays("sn", answers=0.0))
    met, _ = await roads.meet(Paths(), greet)
    assert met.name == "sn"
    assert map_.tried == {"mute": 0, "udp": 0.25, "sn": 0.25}
