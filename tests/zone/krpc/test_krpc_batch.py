"""Batches: references and steps, order and failure, and what a batch may cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import Misuse
from zone.krpc.batch import MOST_CALLS, MOST_COST, MOST_STEPS, Plain, Run, read_batch, write_batch
from zone.krpc.faults import Code, KrpcFault


def call(method="f", params=None, **more):
    return {"method": method, "params": params or {}, **more}


def ref(index, *steps):
    return {"$ref": [index, *steps]}


def evaluated(value, *steps):
    """What ``steps`` give of ``value``, which a first call has given."""
    run = Run(read_batch({"calls": [call()], "results": [ref(0, *steps)]}))
    run.ready()
    run.finish(0, Plain(value))
    (outcome,) = run.results()
    return outcome.value if isinstance(outcome, Plain) else outcome


PEOPLE = [{"name": "ann", "age": 7, "pets": ["cat"]}, {"name": "bob", "pets": []}, {"name": "eve", "age": 40.5}]


@pytest.mark.parametrize(
    ("value", "steps", "found"),
    [
        ({"a": {"b": [1, 2]}}, ["a", "b", 1], 2),
        (PEOPLE, [{"map": ["name"]}], ["ann", "bob", "eve"]),
        (PEOPLE, [{"limit": 2}, {"map": ["name"]}], ["ann", "bob"]),
        (PEOPLE, [{"map": ["age", {"or_else": 0}]}], [7, 0, 40.5]),
        (PEOPLE, [{"flat_map": ["pets", {"or_else": ["dog"]}]}], ["cat", "dog"]),
        (PEOPLE, [{"filter": [["age"], ">", 8]}, 0, "name"], "eve"),
        (PEOPLE, [{"filter": [["name"], "!=", "bob"]}, {"map": ["name"]}], ["ann", "eve"]),
        (PEOPLE, [{"filter": [["name"], "<=", "bob"]}, {"map": ["name"]}], ["ann", "bob"]),
        (PEOPLE, [{"filter": [["pets", 0], "==", "cat"]}, {"map": ["name"]}], ["ann"]),
        ([1, True, "1", None, 1.0], [{"filter": [[], "==", 1]}], [1, 1.0]),
        ([1, True, "1", None, 2], [{"filter": [[], ">=", 1]}], [1, 2]),
        ([1, True, None], [{"filter": [[], "==", None]}], [None]),
        (None, [{"or_else": 5}], 5),
        ({}, ["a", "b", "c", {"or_else": {"d": 1}}, "d"], 1),
        (5, [{"map": ["x"]}, {"or_else": []}], []),
        (0, [{"or_else": 5}], 0),
        ([], [{"limit": 0}], []),
    ],
)
def test_steps(value, steps, found):
    assert evaluated(value, *steps) == found


@pytest.mark.parametrize("steps", [["a"], [0], [{"map": ["x"]}], [{"limit": 1}], [{"filter": [[], "==", 1]}]])
@pytest.mark.parametrize("value", [None, 5, "text", {}, True])
def test_where_there_is_nothing(value, steps):
    outcome = evaluated(value, *steps)
    assert isinstance(outcome, KrpcFault)
    assert outcome.code == Code.MISSING


def test_one_element_without_it_fails_a_map():
    assert evaluated(PEOPLE, {"map": ["age"]}).code == Code.MISSING
    assert evaluated(PEOPLE, {"flat_map": ["name"]}).code == Code.MISSING


@pytest.mark.parametrize(
    "calls",
    [
        None,
        [],
        {},
        [5],
        [call(more=1)],
        [call(method="")],
        [call(method=5)],
        [call(params=[1])],
        [call(params={"$value": 5})],
        [call(service="Time!")],
        [call(params={"x": ref(0)})],
        [call(), call(params={"x": ref(1)})],
        [call(), call(params={"x": ref(-1)})],
        [call(), call(params={"x": ref(True)})],
        [call(), call(params={"x": {"$ref": []}})],
        [call(), call(params={"x": {"$ref": 0}})],
        [call(), call(params={"x": {"$ref": [0], "y": 1}})],
        [call(), call(params={"x": {"$eval": "1"}})],
        [call(), call(params={"x": ref(0, None)})],
        [call(), call(params={"x": ref(0, -1)})],
        [call(), call(params={"x": ref(0, {"eval": "1"})})],
        [call(), call(params={"x": ref(0, {"map": "name"})})],
        [call(), call(params={"x": ref(0, {"limit": -1})})],
        [call(), call(params={"x": ref(0, {"limit": True})})],
        [call(), call(params={"x": ref(0, {"filter": [[], "=~", 1]})})],
        [call(), call(params={"x": ref(0, {"filter": [[], "==", []]})})],
        [call(), call(params={"x": ref(0, {"filter": [[], "=="]})})],
        [call(), call(after=[1])],
        [call(), call(after=0)],
    ],
)
def test_what_is_no_batch(calls):
    with pytest.raises(KrpcFault) as caught:
        read_batch({"calls": calls})
    assert caught.value.code == Code.INVALID


def test_a_batch_has_an_end():
    for batch in (
        {"calls": [call()] * (MOST_CALLS + 1)},
        {"calls": [call()], "results": [ref(0)] * (MOST_CALLS + 1)},
        {"calls": [call()], "results": [ref(0, *["x"] * MOST_STEPS)]},
    ):
        with pytest.raises(KrpcFault) as caught:
            read_batch(batch)
        assert caught.value.code == Code.TOO_LARGE


def test_calls_begin_when_what_they_need_has_ended():
    batch = {
        "calls": [call(), call(), call(params={"x": ref(0), "y": [ref(1, "b")]}), call(after=[1]), call(params=ref(2))]
    }
    run = Run(read_batch(batch))
    assert [one.index for one in run.ready()] == [0, 1]
    assert run.ready() == []
    run.finish(1, Plain({"b": 2}))
    assert [one.index for one in run.ready()] == [3]
    run.finish(0, Plain("a"))
    (third,) = run.ready()
    assert third.params == {"x": "a", "y": [2]}
    run.finish(2, Plain({"z": 1}))
    (last,) = run.ready()
    assert last.params == {"z": 1}
    with pytest.raises(Misuse):
        run.finish(2, Plain(None))


def test_a_failure_is_told_to_those_that_need_it_and_to_nobody_else():
    run = Run(read_batch({"calls": [call(), call(), call(params={"x": ref(0)}), call(after=[2]), call(after=[1])]}))
    run.ready()
    run.finish(0, KrpcFault(Code.DENIED, "not yours"))
    assert run.ready() == []
    run.finish(1, Plain(1))
    assert [one.index for one in run.ready()] == [4]
    run.finish(4, Plain(4))
    first, second, third, fourth, fifth = run.results()
    assert (second, fifth) == (Plain(1), Plain(4))
    assert first.code == Code.DENIED
    for outcome in (third, fourth):
        assert (outcome.code, outcome.data["call"], outcome.data["code"]) == (Code.NEEDED, 0, Code.DENIED)


def test_params_that_are_referred_to_have_to_be_an_object():
    run = Run(read_batch({"calls": [call(), call(params=ref(0))]}))
    run.ready()
    run.finish(0, Plain([1]))
    assert run.ready() == []
    assert run.results()[1].code == Code.INVALID


# -- what it costs


def test_a_value_that_is_handed_on_again_and_again_is_too_much():
    calls = [call()] + [call(params={"x": ref(0)}) for _ in range(MOST_CALLS - 1)]
    run = Run(read_batch({"calls": calls}))
    run.ready()
    run.finish(0, Plain([0] * (MOST_COST // 8)))
    began = run.ready()
    assert len(began) == 6
    for one in began:
        run.finish(one.index, Plain(None))
    assert [outcome.code for outcome in run.results() if isinstance(outcome, KrpcFault)].count(Code.TOO_LARGE) >= 56


def test_elements_that_multiply_are_too_much():
    wide = [[0] * 1000] * 4
    step = {"flat_map": [{"flat_map": [{"or_else": 0}]}]}
    assert evaluated(wide, step).code == Code.MISSING
    many = {"map": [{"or_else": ["x" * 1000] * 100}]}
    assert evaluated([None] * 1000, many).code == Code.TOO_LARGE


def test_a_result_that_is_too_much_fails_its_call_alone():
    run = Run(read_batch({"calls": [call(), call()]}))
    run.ready()
    run.finish(1, Plain(5))
    run.finish(0, Plain("x" * (64 * MOST_COST)))
    first, second = run.results()
    assert first.code == Code.TOO_LARGE
    assert "it was done" in first.message
    assert isinstance(second, Plain | KrpcFault)


def test_values_that_grow_deeper_by_each_call_are_too_much():
    calls = [call(), *(call(params={"a": {"a": {"a": ref(index)}}}) for index in range(MOST_CALLS - 1))]
    run = Run(read_batch({"calls": calls, "results": [ref(MOST_CALLS - 1)]}))
    while began := run.ready():
        for one in began:
            run.finish(one.index, Plain(one.params))
    (outcome,) = run.results()
    assert outcome.code == Code.NEEDED
    nested = {}
    for _ in range(5000):
        nested = [nested]
    assert evaluated(nested).code == Code.TOO_LARGE


# -- whatever is drawn


STEPS = st.recursive(
    st.sampled_from(["a", "b", 0, 1, {"limit": 2}, {"or_else": 1}, {"or_else": [{"a": 1}]}]),
    lambda below: st.lists(below, max_size=3).flatmap(
        lambda steps: st.sampled_from(
            [{"map": steps}, {"flat_map": steps}, {"filter": [steps, "==", 1]}, {"filter": [steps, "<", "b"]}]
        )
    ),
    max_leaves=6,
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["a", "b"]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from("ab"), below, max_size=2),
)


@st.composite
def batches(draw):
    count = draw(st.integers(1, 8))
    calls = []
    for place in range(count):
        if not place:
            calls.append(call(params=draw(st.dictionaries(st.sampled_from("xyz"), VALUES))))
            continue
        known = st.integers(0, place - 1)
        refs = st.tuples(known, st.lists(STEPS, max_size=3)).map(lambda told: ref(told[0], *told[1]))
        params = draw(st.dictionaries(st.sampled_from("xyz"), refs | VALUES, max_size=3))
        calls.append(call(params=params, after=draw(st.lists(known, max_size=2))))
    return {"calls": calls}


@given(batches())
def test_what_is_written_is_what_was_read(plain):
    batch = read_batch(plain)
    assert read_batch(write_batch(batch)) == batch


@given(batches(), st.data())
def test_every_batch_ends_in_every_order(plain, data):
    """Each call is begun once at most and after what it needs; what a call fails by is its own or one it needs."""
    batch = read_batch(plain)
    run = Run(batch)
    open_, ended = [], {}
    while True:
        for one in run.ready():
            assert batch.calls[one.index].needs <= {index for index, good in ended.items() if good}
            assert one.index not in ended
            open_.append(one.index)
        if not open_:
            break
        index = open_.pop(data.draw(st.integers(0, len(open_) - 1)))
        ended[index] = data.draw(st.integers(0, 4)) > 0
        run.finish(index, Plain(data.draw(VALUES)) if ended[index] else KrpcFault(Code.DENIED, "no"))
    for index, outcome in enumerate(run.results()):
        if index in ended:
            assert isinstance(outcome, Plain) == ended[index]
        else:
            assert isinstance(outcome, KrpcFault)
            assert batch.calls[index].needs
