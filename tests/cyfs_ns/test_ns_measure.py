"""Measuring: pace, loss, and what is asked; the clock is trio's own clock."""

from __future__ import annotations

import dnslib
import pytest
import trio
from dnsfakes import Counted, udp_server, zone

from cyfs_ns.io.measure import Course, Line, Wish, measure, steps_of
from cyfs_ns.upstream import parse_upstream
from cyfs_ns.wire import name_wire

ZONE = zone("a.example. 60 IN A 192.0.2.1", "b.example. 60 IN A 192.0.2.2")


def name_of(query: bytes) -> str:
    return str(dnslib.DNSRecord.parse(query).q.qname)


async def test_known_and_made_up_names_take_turns_after_a_first_round() -> None:
    seen = Counted(ZONE)
    course = Course(names=("a.example", "b.example"), count=3, rate=1000)
    steps = []
    async with udp_server(seen) as server:
        (found,) = await measure([server], course, lambda: steps.append(1))
    asked = [name_of(query) for query in seen.queries]
    assert asked[:2] == ["a.example.", "b.example."]
    assert asked[3::2] == ["a.example.", "b.example.", "a.example."]
    made_up = asked[2::2]
    assert len(set(made_up)) == 3
    assert [name.partition(".")[2] for name in made_up] == ["a.example.", "b.example.", "a.example."]
    assert (len(found.cached), len(found.uncached), found.set_up) == (3, 3, [])
    assert len(steps) == steps_of(course) == 8


async def test_no_server_is_asked_faster_than_it_may_be() -> None:
    times: list[float] = []

    def answer(query: bytes) -> bytes:
        times.append(trio.current_time())
        return bytes(ZONE(query) or b"")

    async with udp_server(answer) as server:
        await measure([server], Course(names=("a.example",), count=10, rate=200))
    # A machine that stood still between a question and its arrival makes the next two come at once; from the third on
    # the schedule goes by when that question was sent, which was after the first arrived.
    assert len(times) == 21
    assert times[-1] - times[0] >= (len(times) - 3) / 200


async def test_silence_is_loss_and_is_not_asked_again() -> None:
    seen = Counted(lambda query: None)
    async with udp_server(seen) as server:
        (found,) = await measure([server], Course(names=("a.example",), count=2, rate=1000, timeout=0.05))
    assert len(seen.queries) == 5 and found.lost == {"cached": 2, "uncached": 2, "set-up": 0}
    assert "no answer" in found.fault
    assert found.summaries()["cached"].loss == 1


async def test_a_slow_server_holds_nobody_up() -> None:
    quick = Counted(ZONE)
    async with udp_server(quick) as good, udp_server(lambda query: None) as bad:
        found = await measure([bad, good], Course(names=("a.example",), count=2, rate=1000, timeout=0.2))
    assert len(found[1].cached) == 2 and found[0].lost["cached"] == 2


@pytest.mark.parametrize("text", ["quic://127.0.0.1", "rcode://refused"])
def test_what_cannot_be_asked_says_so(text: str) -> None:
    from cyfs_ns.errors import Unreachable

    with pytest.raises(Unreachable):
        Line(parse_upstream(text))


async def test_a_reply_too_short_to_be_one_is_an_error() -> None:
    from cyfs_ns.errors import BadWire

    async with udp_server(lambda query: query[:2]) as server, Line(server) as line:
        with pytest.raises(BadWire):
            await line.ask(Wish(name=name_wire("a.example"), rtype=1))
