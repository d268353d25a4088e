"""Lookups without a chain: what is asked, in which order, and each way to go wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from enschain import selector
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.ens import asks, lookup
from cyfs_ns.ens.abi import Array, Fields, encode
from cyfs_ns.ens.lookup import (
    Answer,
    Call,
    Fetch,
    Fetched,
    NoResolver,
    Resolver,
    Returned,
    Reverted,
    Steps,
    Together,
    ask_resolver,
    ask_universal,
    ask_universal_many,
    find_resolver,
)
from cyfs_ns.ens.namehash import dns_encoded, namehash
from cyfs_ns.errors import BadWire, Unreachable

REGISTRY, RESOLVER, UNIVERSAL = "0x" + "01" * 20, "0x" + "02" * 20, "0x" + "03" * 20
OFFCHAIN = ("address", Array("string"), "bytes", "bytes4", "bytes")


def run(steps: Steps[Any], world: Callable[[Call | Fetch], Any]) -> Any:
    """Carries out a lookup in a world of one function."""
    reply: Any = None
    while True:
        try:
            step = steps.send(reply)
        except StopIteration as end:
            return end.value
        if isinstance(step, Together):
            reply = []
            for each in step.lookups:
                try:
                    reply.append(run(each, world))
                except (BadWire, Unreachable) as fault:
                    reply.append(fault)
        else:
            reply = world(step)


def registry(names: dict[str, str], extended: frozenset[str] = frozenset(), seen: list[Call] | None = None) -> Any:
    nodes = {namehash(name): address for name, address in names.items()}

    def world(step: Any) -> Any:
        assert isinstance(step, Call)
        if seen is not None:
            seen.append(step)
        if step.to == REGISTRY:
            assert step.data[:4] == selector("resolver(bytes32)")
            return Returned(encode(("address",), (nodes.get(step.data[4:], "0x" + "0" * 40),)))
        assert step.data == selector("supportsInterface(bytes4)") + bytes.fromhex("9061b923") + bytes(28)
        return Returned(encode(("bool",), (step.to in extended,)))

    return world


def test_the_selectors_are_those_of_the_signatures() -> None:
    for code, signature in [
        (lookup._RESOLVER_OF, "resolver(bytes32)"),
        (lookup._SUPPORTS, "supportsInterface(bytes4)"),
        (lookup._RESOLVE, "resolve(bytes,bytes)"),
        (lookup._OFFCHAIN, "OffchainLookup(address,string[],bytes,bytes4,bytes)"),
        (lookup._BATCH, "query((address,string[],bytes)[])"),
        (lookup._HTTP_ERROR, "HttpError(uint16,string)"),
        (lookup._UNSUPPORTED, "UnsupportedResolverProfile(bytes4)"),
        (lookup._MULTICALL, "multicall(bytes[])"),
        (asks.coin_address().selector, "addr(bytes32)"),
        (asks.coin_address(0).selector, "addr(bytes32,uint256)"),
        (asks.text("x").selector, "text(bytes32,string)"),
        (asks.blob("x").selector, "data(bytes32,string)"),
        (asks.contenthash().selector, "contenthash(bytes32)"),
        (asks.pubkey().selector, "pubkey(bytes32)"),
        (asks.reverse_name().selector, "name(bytes32)"),
        (asks.dns_record(b"\0", 1).selector, "dnsRecord(bytes32,bytes32,uint16)"),
        (asks.has_dns_records(b"\0").selector, "hasDNSRecords(bytes32,bytes32)"),
    ]:
        assert code == selector(signature), signature
    assert set(lookup._NO_RESOLVER) == {
        selector("ResolverNotFound(bytes)"),
        selector("ResolverNotContract(bytes,address)"),
    }


def test_the_nearest_resolver_wins_and_parents_must_speak_for_names_below() -> None:
    own = {"a.b.eth": RESOLVER, "eth": UNIVERSAL}
    assert run(find_resolver("a.b.eth", REGISTRY), registry(own)) == Resolver(RESOLVER, "a.b.eth", False)
    parent = {"b.eth": RESOLVER}
    with pytest.raises(NoResolver, match=r"'b\.eth' does not answer for names below it"):
        run(find_resolver("a.b.eth", REGISTRY), registry(parent))
    wild = registry(parent, frozenset({RESOLVER}))
    assert run(find_resolver("a.b.eth", REGISTRY), wild) == Resolver(RESOLVER, "b.eth", True)
    with pytest.raises(NoResolver, match="neither it nor a name above it"):
        run(find_resolver("a.b.eth", REGISTRY), registry({}))


def test_a_name_far_below_is_walked_in_groups() -> None:
    seen: list[Call] = []
    deep = ".".join(["x"] * 10) + ".eth"
    found = run(find_resolver(deep, REGISTRY), registry({"eth": RESOLVER}, frozenset({RESOLVER}), seen))
    assert found.of == "eth"
    assert len(seen) == 12


def test_a_registry_that_is_none_is_told() -> None:
    for reply in (Returned(b""), Reverted(b"")):
        with pytest.raises(BadWire, match="there is no registry of ENS at"):
            run(find_resolver("a.eth", REGISTRY), lambda step, reply=reply: reply)


@pytest.mark.parametrize(
    "says", [Reverted(b""), Returned(b""), Returned(b"\1"), Returned(bytes(32)), Returned(b"\xff" * 32)]
)
def test_odd_answers_about_interfaces_mean_no(says: Any) -> None:
    world = registry({"a.eth": RESOLVER})
    found = run(find_resolver("a.eth", REGISTRY), lambda step: world(step) if step.to == REGISTRY else says)
    assert not found.extended


def test_an_extended_resolver_is_asked_with_the_whole_name() -> None:
    data = asks.coin_address().data(namehash("a.b.eth"))

    def world(step: Any) -> Any:
        expected = selector("resolve(bytes,bytes)") + encode(("bytes", "bytes"), (dns_encoded("a.b.eth"), data))
        assert step == Call(RESOLVER, expected)
        return Returned(encode(("bytes",), (b"inner",)))

    answer = run(ask_resolver("a.b.eth", data, Resolver(RESOLVER, "b.eth", True)), world)
    assert answer == Answer(b"inner", RESOLVER)


def test_a_resolver_without_that_record_has_nothing() -> None:
    for extended in (True, False):
        for reply in (Reverted(b""), Reverted(b"\x08\xc3\x79\xa0"), Returned(b"")):
            steps = ask_resolver("a.eth", b"data", Resolver(RESOLVER, "a.eth", extended))
            assert run(steps, lambda step, reply=reply: reply).data == b""


def sent(urls: tuple[str, ...], *, sender: str = RESOLVER, data: bytes = b"ask") -> Reverted:
    error = selector("OffchainLookup(address,string[],bytes,bytes4,bytes)")
    return Reverted(error + encode(OFFCHAIN, (sender, urls, data, b"back", b"extra")))


def test_a_gateways_answer_goes_back_with_what_the_contract_wanted_to_remember() -> None:
    seen: list[Any] = []

    def world(step: Any) -> Any:
        seen.append(step)
        if isinstance(step, Fetch):
            return Fetched(200, b'{"data": "0x6f6b", "more": [1]}')
        if step.data[:4] == b"back":
            assert step.data[4:] == encode(("bytes", "bytes"), (b"ok", b"extra"))
            return Returned(b"proven")
        return sent(("https://one.example/{sender}/{data}.json?{data}", "https://two.example"))

    answer = run(ask_resolver("a.eth", b"data", Resolver(RESOLVER, "a.eth", False)), world)
    assert answer == Answer(b"proven", RESOLVER, ("one.example",))
    assert [step for step in seen if isinstance(step, Fetch)] == [
        Fetch(f"https://one.example/{RESOLVER}/0x61736b.json?0x61736b")
    ]


def test_at_most_eight_urls_are_tried() -> None:
    asked: list[Any] = []

    def world(step: Any) -> Any:
        if isinstance(step, Fetch):
            asked.append(step)
            return Fetched(0, why="down")
        return sent(tuple(f"https://{number}.example" for number in range(50)))

    with pytest.raises(Unreachable, match=r"0\.example: down; 1\.example: down"):
        run(ask_resolver("a.eth", b"data", Resolver(RESOLVER, "a.eth", False)), world)
    assert len(asked) == 8
    assert json.loads(asked[0].body) == {"data": "0x61736b", "sender": RESOLVER}


BATCH = (Array(Fields(("address", Array("string"), "bytes"))),)


def batch(*requests: tuple[str, tuple[str, ...], bytes]) -> bytes:
    return selector("query((address,string[],bytes)[])") + encode(BATCH, (requests,))


def test_a_batch_is_taken_apart_here_and_each_failure_keeps_its_place() -> None:
    data = batch(
        (RESOLVER, ("https://right.example/{data}",), b"one"),
        (RESOLVER, ("https://down.example/{data}",), b"two"),
        (RESOLVER, ("x-batch-gateway:true",), batch((RESOLVER, ("https://right.example/{data}",), b"in"))),
    )
    back: list[bytes] = []

    def world(step: Any) -> Any:
        if isinstance(step, Fetch):
            assert "x-batch" not in step.url
            return Fetched(200, b'{"data": "0x01"}') if "right" in step.url else Fetched(503)
        if step.data[:4] == b"back":
            back.append(step.data)
            return Returned(encode(("bytes", "address"), (b"all", RESOLVER)))
        return sent(("https://spy.example", "x-batch-gateway:true"), sender=UNIVERSAL, data=data)

    answer = run(ask_universal("a.eth", b"data", UNIVERSAL), world)
    assert answer == Answer(b"all", RESOLVER, ("right.example", "down.example"))
    failed = selector("HttpError(uint16,string)") + encode(
        ("uint256", "string"), (502, f"no gateway of {RESOLVER} helps: down.example: status 503")
    )
    inner = encode((Array("bool"), Array("bytes")), ((False,), (b"\1",)))
    result = encode((Array("bool"), Array("bytes")), ((False, True, False), (b"\1", failed, inner)))
    assert back == [b"back" + encode(("bytes", "bytes"), (result, b"extra"))]


def test_batches_have_their_limits() -> None:
    deep = b""
    for _ in range(5):
        deep = batch((RESOLVER, ("x-batch-gateway:true",), deep))
    for data in (deep, batch(*[(RESOLVER, ("https://a.example",), b"")] * 17), b"query", b""):
        returned: list[bytes] = []

        def world(step: Any, data: bytes = data, returned: list[bytes] = returned) -> Any:
            assert isinstance(step, Call)
            if step.data[:4] == b"back":
                returned.append(step.data)
                return Returned(encode(("bytes", "address"), (b"", RESOLVER)))
            return sent(("x-batch-gateway:true",), sender=UNIVERSAL, data=data)

        try:
            run(ask_universal("a.eth", b"data", UNIVERSAL), world)
        except BadWire:
            assert returned == []
        else:
            assert b"within each other" in returned[0]


def test_the_universal_resolvers_errors_are_told_apart() -> None:
    def outcome(error: bytes) -> Any:
        return run(ask_universal("a.eth", b"data", UNIVERSAL), lambda step: Reverted(error))

    with pytest.raises(NoResolver, match="knows no resolver"):
        outcome(selector("ResolverNotFound(bytes)") + encode(("bytes",), (b"",)))
    with pytest.raises(NoResolver, match="no contract"):
        outcome(selector("ResolverNotContract(bytes,address)"))
    with pytest.raises(Unreachable, match="status 504, 'late'"):
        outcome(selector("HttpError(uint16,string)") + encode(("uint256", "string"), (504, "late")))
    assert outcome(selector("UnsupportedResolverProfile(bytes4)")).data == b""
    assert outcome(b"").data == b""
    with pytest.raises(BadWire):
        run(ask_universal("a.eth", b"data", UNIVERSAL), lambda step: Returned(b""))


def test_many_records_in_one_call_keep_their_places() -> None:
    down = selector("HttpError(uint16,string)") + encode(("uint256", "string"), (500, "no"))
    results = (bytes(32), selector("UnsupportedResolverProfile(bytes4)") + bytes(32), down, b"")

    def world(step: Any) -> Any:
        many = selector("multicall(bytes[])") + encode((Array("bytes"),), ((b"1", b"2", b"3", b"4"),))
        assert step.data[4:] == encode(("bytes", "bytes"), (dns_encoded("a.eth"), many))
        return Returned(encode(("bytes", "address"), (encode((Array("bytes"),), (results,)), RESOLVER)))

    found = run(ask_universal_many("a.eth", [b"1", b"2", b"3", b"4"], UNIVERSAL), world)
    assert [each.data for each in found if isinstance(each, Answer)] == [bytes(32), b"", b""]
    assert isinstance(found[2], Unreachable)
    with pytest.raises(BadWire, match="4 answers to 1 questions"):
        run(ask_universal_many("a.eth", [b"1"], UNIVERSAL), lambda step: world_of(results))
    with pytest.raises(BadWire, match="does not take several questions"):
        run(ask_universal_many("a.eth", [b"1"], UNIVERSAL), lambda step: Reverted(b""))


def world_of(results: tuple[bytes, ...]) -> Returned:
    return Returned(encode(("bytes", "address"), (encode((Array("bytes"),), (results,)), RESOLVER)))


REPLIES = st.one_of(
    st.binary(max_size=300).map(Returned),
    st.binary(max_size=300).map(Reverted),
    st.binary(max_size=300).map(
        lambda rest: Reverted(selector("OffchainLookup(address,string[],bytes,bytes4,bytes)") + rest)
    ),
    st.lists(st.text(max_size=20), max_size=3).map(lambda urls: sent(tuple(urls))),
    st.binary(max_size=100).map(
        lambda data: sent(("x-batch-gateway:true",), data=selector("query((address,string[],bytes)[])") + data)
    ),
)
FETCHED = st.builds(Fetched, st.integers(0, 999), st.one_of(st.binary(max_size=50), st.just(b'{"data": "0x"}')))


@given(st.data(), st.sampled_from(["find", "own", "extended", "universal", "many"]))
@settings(max_examples=200, deadline=None)
def test_in_any_world_a_lookup_ends_with_a_value_or_an_error_of_ours(data: st.DataObject, which: str) -> None:
    steps: dict[str, Steps[Any]] = {
        "find": find_resolver("a.b.eth", REGISTRY),
        "own": ask_resolver("a.eth", b"data", Resolver(RESOLVER, "a.eth", False)),
        "extended": ask_resolver("a.eth", b"data", Resolver(RESOLVER, "a.eth", True)),
        "universal": ask_universal("a.eth", b"data", RESOLVER),
        "many": ask_universal_many("a.eth", [b"data"], RESOLVER),
    }
    taken = 0

    def world(step: Any) -> Any:
        nonlocal taken
        taken += 1
        assert taken < 200
        return data.draw(FETCHED if isinstance(step, Fetch) else REPLIES)

    with suppress(BadWire, Unreachable, NoResolver):
        run(steps[which], world)
