"""Promises: what is planned, what comes back, and what is refused before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import Misuse
from zone.krpc.batch import Plain, Run, read_batch, write_batch
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.promise import Plan


class Server:
    """Carries batches out with one method that gives what its params say."""

    def __init__(self) -> None:
        self.batches: list[Any] = []

    async def send(self, batch):
        plain = write_batch(batch)
        self.batches.append(plain)
        run = Run(read_batch(plain))
        while ready := run.ready():
            for one in ready:
                denied = one.method == "deny"
                run.finish(one.index, KrpcFault(Code.DENIED, "no") if denied else Plain(one.params.get("gives")))
        return run.results()


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def plan(server):
    return Plan(server.send)


NOTES = [{"title": "a", "year": 1, "tags": ["x", "y"]}, {"title": "b", "year": 2, "tags": []}, {"title": "c"}]


async def test_operators_are_carried_out_where_the_calls_are(server, plan):
    notes = plan.call("", "list", {"gives": NOTES})
    recent = notes.filter(lambda note: note.year >= 2).map(lambda note: note.title)
    ones, trues = (plan.call("", "f", {"gives": [1, True]}) for _ in range(2))
    alike = ones.filter(lambda one: one == 1), ones.filter(lambda one: one == True)  # noqa: E712
    tags = notes.flat_map(lambda note: note.tags.or_else([])).limit(1)
    years = notes.map(lambda note: note.year.or_else(0))
    first = notes[0]["title"]
    not_a = notes.filter(lambda note: note.title != "a").map(lambda note: note.tags.or_else([]).map(lambda tag: tag))
    await plan.send()
    assert await recent == ["b"]
    assert await tags == ["x"]
    assert [(await one)[0] is True for one in alike] == [False, True]
    assert await trues == [1, True]
    assert await years == [1, 2, 0]
    assert await first == await first == "a"
    assert await not_a == [[], []]
    assert len(server.batches) == 1


async def test_what_comes_back_is_what_was_made_narrow(server, plan):
    notes, other, kept = (plan.call("", "list", {"gives": NOTES}) for _ in range(3))
    title = notes[0].title
    year = kept.keep()[0].year
    await plan.send()
    assert len(server.batches[0]["results"]) == 4
    assert (await title, await year, await other, await kept) == ("a", 1, NOTES, NOTES)
    assert await other[1].title == "b"
    assert await title == await notes[0].title
    with pytest.raises(Misuse, match="keep"):
        await notes
    with pytest.raises(KrpcFault) as caught:
        await other[7].title
    assert caught.value.code == Code.MISSING
    with pytest.raises(AttributeError):
        _ = title.__deepcopy__


@dataclass(frozen=True)
class Place:
    name: str


async def test_params_may_hold_promises_anywhere(server, plan):
    one = plan.call("", "f", {"gives": {"x": 5, "map": 6}})
    two = plan.call("", "f", {"gives": {"a": [one.x, Place("here"), {"$odd": 1}], "b": {"c": one["map"]}, "d": [1, 2]}})
    await plan.send()
    assert await two == {"a": [5, {"name": "here"}, {"$odd": 1}], "b": {"c": 6}, "d": [1, 2]}


async def test_a_fault_is_raised_as_often_as_it_is_asked_for(plan):
    denied = plan.call("", "deny", {})
    later = plan.call("", "f", {"gives": denied.x})
    ordered = plan.call("", "f", {}).after(denied)
    await plan.send()
    for promise, code in ((denied.x, Code.DENIED), (later, Code.NEEDED), (ordered, Code.NEEDED)):
        for _ in range(2):
            with pytest.raises(KrpcFault) as caught:
                await promise
            assert caught.value.code == code


async def test_nothing_planned_is_nothing_sent(server, plan):
    await plan.send()
    assert not server.batches


async def test_what_makes_no_sense_is_told_at_once(server, plan):
    one, two = plan.call("", "f", {}), plan.call("", "f", {})
    for wrong in (
        lambda: one.after(two),
        lambda: one.filter(lambda note: note.year),
        lambda: one.filter(lambda note: note.year > 1 and note.year < 5 if note.year else note.year > 2),
        lambda: one.filter(lambda note: note.year == [1]),
        lambda: one.map(lambda note: 5),
        lambda: plan.call("", "f", {"x": object()}),
        lambda: plan.call("", "f", {"x": {"$x": one}}),
        lambda: plan.call("", "f", {"x": Plan(server.send).call("", "f", {})}),
    ):
        with pytest.raises(Misuse):
            wrong()
    with pytest.raises(Misuse, match="not sent"):
        await one
    await plan.send()
    for late in (lambda: plan.call("", "f", {}), lambda: two.after(one)):
        with pytest.raises(Misuse, match="sent already"):
            late()
    with pytest.raises(Misuse):
        await plan.send()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab$", max_size=3),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text("ab$", max_size=3), below, max_size=3),
)


@given(JSON, JSON)
async def test_any_value_goes_there_and_back(first, second):
    plan = Plan(Server().send)
    one = plan.call("", "f", {"gives": first})
    two = plan.call("", "f", {"gives": {"one": one, "two": second}})
    await plan.send()
    assert await two == {"one": first, "two": second}
