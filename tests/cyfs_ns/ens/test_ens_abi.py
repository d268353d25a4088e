"""The contract ABI against eth_abi, and strangers' results."""

from __future__ import annotations

from typing import Any

import eth_abi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.ens import asks
from cyfs_ns.ens.abi import Array, Fields, Type, decode, encode
from cyfs_ns.errors import BadWire, Misuse

BASIC = {
    "address": st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex()),
    "bool": st.booleans(),
    "uint256": st.integers(0, 2**256 - 1),
    "bytes4": st.binary(min_size=4, max_size=4),
    "bytes32": st.binary(min_size=32, max_size=32),
    "bytes": st.binary(max_size=70),
    "string": st.text(max_size=20),
}


def named(of: Type) -> str:
    if isinstance(of, Array):
        return named(of.of) + "[]"
    if isinstance(of, Fields):
        return f"({','.join(map(named, of.types))})"
    return of


def values(of: Type) -> st.SearchStrategy[Any]:
    if isinstance(of, Array):
        return st.lists(values(of.of), max_size=3).map(tuple)
    if isinstance(of, Fields):
        return st.tuples(*map(values, of.types))
    return BASIC[of]


TYPES = st.recursive(
    st.sampled_from(sorted(BASIC)),
    lambda inner: st.one_of(inner.map(Array), st.lists(inner, min_size=1, max_size=3).map(tuple).map(Fields)),
    max_leaves=5,
)
ARGUMENTS = st.lists(TYPES, min_size=1, max_size=4).flatmap(
    lambda types: st.tuples(st.just(tuple(types)), st.tuples(*map(values, types)))
)


@given(ARGUMENTS)
@settings(max_examples=200, deadline=None)
def test_it_writes_and_reads_what_eth_abi_does(arguments: tuple[tuple[Type, ...], tuple[Any, ...]]) -> None:
    types, given_values = arguments
    written = encode(types, given_values)
    assert written == eth_abi.encode([named(of) for of in types], given_values)
    assert decode(types, written) == given_values


RESULTS: list[tuple[Type, ...]] = [
    ("address",),
    ("bytes", "address"),
    ("string",),
    (Array("bool"), Array("bytes")),
    ("address", Array("string"), "bytes", "bytes4", "bytes"),
    (Array(Fields(("address", Array("string"), "bytes"))),),
]
WORDS = st.lists(
    st.one_of(st.integers(0, 300).map(lambda number: number.to_bytes(32, "big")), st.binary(min_size=32, max_size=32)),
    max_size=20,
).map(b"".join)


@given(st.sampled_from(RESULTS), st.one_of(WORDS, st.binary(max_size=200)))
@settings(max_examples=200, deadline=None)
def test_any_result_is_values_or_the_one_error(types: tuple[Type, ...], untrusted: bytes) -> None:
    try:
        found = decode(types, untrusted)
    except BadWire:
        return
    assert len(found) == len(types)


@given(
    st.sampled_from(
        [asks.coin_address(), asks.coin_address(0), asks.text("a"), asks.blob("a"), asks.contenthash(), asks.pubkey()]
    ),
    st.one_of(WORDS, st.binary(max_size=200)),
)
@settings(max_examples=200, deadline=None)
def test_any_record_is_a_value_nothing_or_the_one_error(record: asks.RecordAsk, untrusted: bytes) -> None:
    try:
        value = record.read(untrusted)
    except BadWire:
        return
    assert value is None or len(value) > 0


def word(number: int) -> bytes:
    return number.to_bytes(32, "big")


@pytest.mark.parametrize(
    ("types", "result", "why"),
    [
        (("address",), word(1 << 160), "more than 20 octets"),
        (("bytes4",), word(1), "more than 4 octets"),
        (("bool",), word(2), "neither 0 nor 1"),
        (("bytes",), word(33), "ends within|points beyond"),
        (("bytes",), word(1 << 255), "points beyond"),
        (("bytes",), word(32) + word(33), "ends before|points beyond"),
        (("string",), word(32) + word(1) + b"\xff" + bytes(31), "no UTF-8"),
        ((Array("bytes"),), word(32) + word(1 << 60), "points beyond"),
        (("address",), b"", "ends within a value"),
    ],
)
def test_what_is_wrong_with_a_result_is_told(types: tuple[Type, ...], result: bytes, why: str) -> None:
    with pytest.raises(BadWire, match=why):
        decode(types, result)


def test_many_offsets_to_one_place_do_not_add_up() -> None:
    """An array of arrays that all point at one another would be exponential; of strings, far larger than the result."""
    nested, many = word(32), 20
    types: Type = "bytes"
    for _ in range(6):
        nested, types = nested + word(many) + word(32 * many) * many, Array(types)
    with pytest.raises(BadWire, match="more than 4096 values"):
        decode((types,), nested + word(0))
    big = 1 << 18
    count = 4000
    shared = word(32) + word(count) + word(32 * count) * count + word(big) + bytes(big)
    with pytest.raises(BadWire, match="ends before what it announces"):
        decode((Array("bytes"),), shared)


def test_a_type_we_do_not_have_is_our_own_mistake() -> None:
    with pytest.raises(Misuse):
        encode(("uint8[3]",), (1,))
