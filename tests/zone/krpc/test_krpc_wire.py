"""The wire of kRPC: what one side writes the other reads, the forerunner's forms are read, and strangers' bytes fail in
one way."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zone.krpc.batch import Batch, BatchCall, Get, Limit, Plain, Ref
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.wire import (
    MOST_DATA,
    MOST_REPLY,
    MOST_REQUEST,
    Request,
    Single,
    plain_outcomes,
    read_fault,
    read_outcomes,
    read_reply,
    read_request,
    write_reply,
    write_request,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | TEXTS
JSON = st.recursive(LEAVES, lambda below: st.lists(below, max_size=4) | st.dictionaries(TEXTS, below, max_size=4))
SPECIAL = st.sampled_from(["$ref", "$value", "map", "filter", "or_else", "limit", "method", "params", "calls", "sys"])
HOSTILE = st.recursive(
    LEAVES | SPECIAL, lambda below: st.lists(below, max_size=4) | st.dictionaries(SPECIAL | TEXTS, below, max_size=4)
)


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


@given(params=st.dictionaries(TEXTS, JSON, max_size=4), seq=st.integers(0, 2**53 - 1))
def test_a_call_arrives_as_it_was_sent(params, seq):
    sent = Request(asked=Single("put", params), seq=seq, token="a.b.c", trace="tr", seconds=2.5)
    assert read_request(write_request(sent)) == sent


@pytest.mark.parametrize(
    ("sys", "seq", "token", "trace"),
    [
        ([7], 7, "", ""),
        ([7, "a.b.c"], 7, "a.b.c", ""),
        ([7, None, "tr"], 7, "", "tr"),
        ([7, "a.b.c", "tr"], 7, "a.b.c", "tr"),
        ([7, None, None], 7, "", ""),
        ([7, "tr"], 7, "", "tr"),
        (None, 0, "", ""),
    ],
)
def test_both_forms_of_sys(sys, seq, token, trace):
    found = read_request(body(method="get", params={}, sys=sys))
    assert (found.seq, found.token, found.trace) == (seq, token, trace)


def test_what_is_not_sent_is_left_out():
    assert write_request(Request(asked=Single("get", {}), seq=3)) == b'{"method":"get","params":{},"sys":[3]}'
    told = write_request(Request(asked=Single("get", {}), seq=3, trace="tr"))
    assert b'"sys":[3,null,"tr"]' in told


@pytest.mark.parametrize(
    "untrusted",
    [
        b"",
        b"\xff",
        b"[]",
        body(),
        body(method=""),
        body(method="a b"),
        body(method="get", params=[]),
        body(method="get", params={}, id=1),
        body(method="get", sys=[]),
        body(method="get", sys=["7"]),
        body(method="get", sys=[True]),
        body(method="get", sys=[-1]),
        body(method="get", sys=[2**53]),
        body(method="get", sys=[1, "a.b.c", "t", 4]),
        body(method="get", sys=[1, "a.b.c", "a b"]),
        body(method="get", sys=[1, 5]),
        body(method="get", deadline=0),
        body(method="get", deadline=True),
        body(method="get", deadline="soon"),
        body(method="get", calls=[{"method": "get"}]),
        body(method="get", results=[]),
        b'{"method":"get","method":"put"}',
        b'{"method":"get","params":{"x":NaN}}',
        b'{"method":"get","params":' + b'{"a":' * 40 + b"1" + b"}" * 41,
    ],
)
def test_what_is_no_request(untrusted):
    with pytest.raises(KrpcFault) as caught:
        read_request(untrusted)
    assert caught.value.code == Code.INVALID


def test_a_request_has_an_end():
    with pytest.raises(KrpcFault) as caught:
        read_request(b" " * (MOST_REQUEST + 1))
    assert caught.value.status == 413
    with pytest.raises(KrpcFault) as caught:
        write_request(Request(asked=Single("put", {"x": "y" * MOST_REQUEST})))
    assert caught.value.code == Code.TOO_LARGE


@given(st.binary(max_size=200) | HOSTILE.map(lambda value: json.dumps(value).encode()))
def test_strangers_bytes_fail_in_one_way(untrusted):
    for read in (read_request, lambda data: read_reply(200, data, 1)):
        with suppress(KrpcFault):
            read(untrusted)


@given(st.dictionaries(st.sampled_from(["method", "params", "calls", "results", "sys", "deadline"]), HOSTILE))
def test_strangers_objects_fail_in_one_way(untrusted):
    try:
        read_request(json.dumps(untrusted).encode())
    except KrpcFault as fault:
        assert fault.code in (Code.INVALID, Code.TOO_LARGE)


# -- answers


@given(JSON)
def test_a_result_arrives_as_it_was_given(result):
    status, sent = write_reply(5, "tr", Plain(result))
    assert status == 200
    assert json.loads(sent)["sys"] == [5, "tr"]
    assert read_reply(status, sent, 5) == result


def test_a_fault_arrives_as_it_was_raised():
    status, sent = write_reply(5, "", KrpcFault("too-cold", "bring a coat", retryable=True, data={"degrees": -20}))
    assert status == 422
    with pytest.raises(KrpcFault) as caught:
        read_reply(status, sent, 5)
    fault = caught.value
    assert (fault.code, fault.message, fault.retryable, fault.data) == (
        "too-cold",
        "bring a coat",
        True,
        {"degrees": -20},
    )


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("Token expired: at noon", Code.EXPIRED, "at noon"),
        ("UnknownMethod: put", Code.UNKNOWN_METHOD, "put"),
        ("No permission", Code.DENIED, "No permission"),
        ("Service not valid: gone", Code.UNAVAILABLE, "gone"),
        ("Reason Error: it rains", Code.UNSPECIFIED, "Reason Error: it rains"),
        ("something else", Code.UNSPECIFIED, "something else"),
    ],
)
def test_errors_that_are_a_text(text, code, message):
    with pytest.raises(KrpcFault) as caught:
        read_reply(200, body(error=text, sys=[1]), 1)
    assert (caught.value.code, caught.value.message, caught.value.retryable) == (code, message, False)


@pytest.mark.parametrize("untrusted", [5, [], {}, {"code": "NO!", "message": 5, "retryable": "yes"}])
def test_errors_that_are_none_are_faults_all_the_same(untrusted):
    fault = read_fault(untrusted)
    assert (fault.code, fault.retryable) == (Code.UNSPECIFIED, False)


@pytest.mark.parametrize(
    ("status", "sent", "code"),
    [
        (200, b"<html>", Code.UNCERTAIN),
        (200, body(result=1, sys=[2]), Code.UNCERTAIN),
        (200, body(result=1, sys=[True]), Code.UNCERTAIN),
        (200, body(result=1), Code.UNCERTAIN),
        (200, body(sys=[1]), Code.UNCERTAIN),
        (502, b"bad gateway", Code.UNCERTAIN),
        (503, b"", Code.UNAVAILABLE),
        (413, body(message="Body too large"), Code.TOO_LARGE),
        (404, body(message="Resource not found"), Code.UNKNOWN_SERVICE),
        (200, b"[" * (MOST_REPLY + 1), Code.UNCERTAIN),
    ],
)
def test_what_is_no_answer(status, sent, code):
    with pytest.raises(KrpcFault) as caught:
        read_reply(status, sent, 1)
    assert caught.value.code == code


@pytest.mark.parametrize("result", [object(), float("nan"), "\ud800", 2**60, {1: 2}, "x" * MOST_REPLY])
def test_what_cannot_be_sent_is_a_fault_of_the_service(result):
    if result == {1: 2}:
        assert json.loads(write_reply(1, "", Plain(result))[1])["result"] == {"1": 2}
        return
    with pytest.raises(KrpcFault) as caught:
        read_reply(*write_reply(1, "", Plain(result)), 1)
    assert caught.value.code == (Code.TOO_LARGE if result == "x" * MOST_REPLY else Code.INTERNAL)


@pytest.mark.parametrize("data", [object(), "x" * MOST_DATA, 2**60])
def test_data_that_cannot_be_sent_is_left_out(data):
    with pytest.raises(KrpcFault) as caught:
        read_reply(*write_reply(1, "", KrpcFault(Code.MISSING, "half \ud800", data=data)), 1)
    assert (caught.value.code, caught.value.message, caught.value.data) == (Code.MISSING, "half ?", None)


# -- batches


def test_a_batch_arrives_as_it_was_sent():
    batch = Batch(
        (
            BatchCall(method="list", params=Plain({"$odd": 1})),
            BatchCall(method="get", params=Plain({}), service="time", needs=frozenset({0})),
        ),
        (Ref(0, (Get("names"), Limit(3))), Plain({"x": 1})),
    )
    sent = Request(asked=batch, seq=1)
    assert read_request(write_request(sent)) == sent


def test_results_of_a_batch_arrive_one_by_one():
    outcomes = [Plain(None), KrpcFault(Code.MISSING, "gone"), Plain(object()), Plain("x" * MOST_REPLY), Plain([1])]
    found = read_outcomes(read_reply(*write_reply(1, "", Plain(plain_outcomes(outcomes))), 1), 5)
    assert [one.value if isinstance(one, Plain) else one.code for one in found] == [
        None,
        Code.MISSING,
        Code.INTERNAL,
        Code.TOO_LARGE,
        [1],
    ]


def test_results_that_are_too_large_together_are_faults_from_there():
    found = read_outcomes(
        read_reply(*write_reply(1, "", Plain(plain_outcomes([Plain("x" * (MOST_REPLY // 3))] * 64))), 1), 64
    )
    assert [isinstance(one, Plain) for one in found] == [True, True] + [False] * 62


@pytest.mark.parametrize("untrusted", [None, [], [1], [{}], [{"result": 1}, {"result": 2}]])
def test_an_answer_to_something_else_than_this_batch(untrusted):
    with pytest.raises(KrpcFault) as caught:
        read_outcomes(untrusted, 1)
    assert caught.value.code == Code.UNCERTAIN
