"""Which instance is called: a pure choice, fair by weight, from what the scheduler tells."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import parse_did
from zone.krpc.selector import Instance, order, read_selector

DID = parse_did("did:web:home.example")


def told(**nodes: object) -> str:
    return json.dumps({"selector_type": "random", "node_list": nodes})


def node(**more: object) -> dict[str, object]:
    return {"node_did": str(DID), "node_net_id": "", "state": "Started", "weight": 100, "service_port": {}} | more


@pytest.mark.parametrize(
    ("ports", "port"),
    [({}, None), ({"kapi": 5, "www": 6}, 5), ({"www": 6}, 6)],
)
def test_the_port_that_answers_calls(ports, port):
    assert read_selector(told(a=node(service_port=ports))) == (Instance(node="a", did=DID, weight=100, port=port),)


def test_instances_that_make_no_sense_are_read_past():
    wrong = [
        5,
        {},
        node(state="Stopped"),
        node(weight=0),
        node(weight=True),
        node(weight=1 << 40),
        node(service_port={"a": 1, "b": 2}),
        node(service_port={"a": 70000}),
        node(service_port={"kapi": "5"}),
    ]
    nodes = {f"n{place}": one for place, one in enumerate(wrong)}
    assert read_selector(told(good=node(), **nodes)) == (Instance(node="good", did=DID, weight=100),)
    assert read_selector(told(a=node(node_did="nonsense")))[0].did is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"node_list": []}', "null"])
def test_what_is_no_selector(text):
    with pytest.raises(BadWire):
        read_selector(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(st.sampled_from(["state", "weight", "service_port", "node_did", "kapi"]), below, max_size=4)
    ),
)


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=3))
def test_whatever_stands_there_fails_in_one_way(nodes):
    try:
        read_selector(json.dumps({"node_list": nodes}))
    except BadWire:
        return


def test_here_comes_first_and_the_doubted_last():
    ones = [Instance(node=name, did=DID) for name in "abcd"] + [Instance(node="unknown", did=None)]
    found = order(ones, "b", {"c"}, [0.5] * 9)
    assert [one.node for one in found] == ["b", "a", "d", "c"]
    assert [one.node for one in order(ones, "b", {"b", "a", "d"}, [0.5] * 9)][:2] == ["c", "b"]
    assert order([], "b", (), []) == ()


def test_the_others_are_chosen_by_weight():
    ones = [Instance(node=name, did=DID, weight=weight) for name, weight in (("a", 100), ("b", 300))]
    draw = random.Random(5)
    firsts = Counter(order(ones, "z", (), iter(draw.random, None))[0].node for _ in range(10_000))
    assert 7300 < firsts["b"] < 7700
