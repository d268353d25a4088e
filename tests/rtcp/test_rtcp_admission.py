"""Who is let in: each check by itself, and the memory of nonces."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire, Refused
from cyfs_ns.identity.did import dev_did
from rtcp.admission import Policy, Proven, Relation, Standing, decide, examine
from rtcp.handshake import greet
from rtcp.nonces import NonceMemory
from rtcp.packet import Hello
from rtcp.tokens import HelloClaims, sign_hello
from tests.rtcp.pair import (
    ALICE,
    ALICE_HERE,
    ALICES_DICE,
    ALICES_NAME,
    BOB_HERE,
    MALLORY,
    TO_BOB,
    WALL,
    device_document,
    local,
)

NAMED = dataclasses.replace(ALICE_HERE, did=ALICES_NAME, device_doc_jwt=device_document(ALICE))


def hello_of(here=ALICE_HERE, change: Callable[[HelloClaims], HelloClaims] = lambda claims: claims, key=ALICE) -> Hello:
    hello, claims = greet(here, TO_BOB, ALICES_DICE, WALL)
    return dataclasses.replace(hello, tunnel_token=sign_hello(change(claims), key))


def seen(hello: Hello, policy: Policy = Policy()) -> Proven:  # noqa: B008
    return examine(hello, BOB_HERE, WALL, policy)


def test_a_key_proves_itself():
    proven = seen(hello_of())
    assert (proven.key, proven.device, proven.anonymous) == (ALICE.public, dev_did(ALICE.public), True)


def test_a_name_comes_with_a_document_and_proves_only_its_key():
    proven = seen(hello_of(NAMED), Policy(anonymous=False))
    assert (proven.key, proven.named, proven.anonymous) == (ALICE.public, ALICES_NAME, False)


def test_host_names_stand_for_identities():
    hello = dataclasses.replace(hello_of(NAMED), from_id="Laptop.Alice.example", to_id="responder.example")
    assert seen(hello).named == ALICES_NAME


def wrong(**claims: object) -> Hello:
    return hello_of(change=lambda told: dataclasses.replace(told, **claims))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        (wrong(sender="somebody.example"), "another's"),
        (wrong(listen_port=1), "another port"),
        (wrong(exp=WALL + 61), "allowed"),
        (wrong(iat=WALL - 200, exp=WALL - 140), "expired"),
        (wrong(to="other.example"), "another name"),
        (wrong(canonical_to=str(dev_did(MALLORY.public))), "another device"),
        (hello_of(key=MALLORY), "not signed"),
        (dataclasses.replace(hello_of(), to_id="did:web:other.example"), "another name"),
        (dataclasses.replace(hello_of(), to_id="did:nothing"), "DID"),
        (dataclasses.replace(hello_of(), from_id=str(dev_did(MALLORY.public))), "another's"),
        (hello_of(dataclasses.replace(NAMED, device_doc_jwt=None)), "device document"),
        (hello_of(dataclasses.replace(NAMED, device_doc_jwt=device_document(MALLORY))), "not signed"),
        (hello_of(dataclasses.replace(ALICE_HERE, device_doc_jwt=device_document(MALLORY))), "another key"),
        (hello_of(dataclasses.replace(NAMED, device_doc_jwt="x")), "three parts"),
        (dataclasses.replace(hello_of(), tunnel_token="a.b.c"), "tunnel token"),
    ],
)
def test_each_check_refuses(hello, why):
    with pytest.raises(BadWire, match=why):
        seen(hello)


def test_nobody_who_holds_anothers_document_passes_for_them():
    stolen = hello_of(dataclasses.replace(NAMED, key=MALLORY), key=MALLORY)
    with pytest.raises(BadWire, match="not signed"):
        seen(stolen)


def test_a_device_may_be_called_by_several_names():
    assert seen(hello_of()).claims.to == "responder.example"
    with pytest.raises(BadWire, match="another name"):
        examine(hello_of(), local(BOB_HERE.key), WALL, Policy())


VOUCHED = Standing(key=ALICE.public, relation=Relation.KNOWN_OWNER)


@pytest.mark.parametrize(
    ("standing", "policy", "why"),
    [
        (VOUCHED, Policy(), None),
        (VOUCHED, Policy(least=Relation.KNOWN_OWNER), None),
        (VOUCHED, Policy(least=Relation.SAME_ZONE), "near"),
        (dataclasses.replace(VOUCHED, key=None), Policy(), "vouches"),
        (dataclasses.replace(VOUCHED, key=MALLORY.public), Policy(), "another key"),
        (dataclasses.replace(VOUCHED, disowned=True), Policy(), "disowned"),
        (dataclasses.replace(VOUCHED, disowned=True, fresh_word=True), Policy(), None),
        (dataclasses.replace(VOUCHED, bound_to=dev_did(ALICE.public)), Policy(), None),
        (dataclasses.replace(VOUCHED, bound_to=dev_did(MALLORY.public)), Policy(), "another device"),
        (Standing(key=None, disowned=True), Policy(), "disowned"),
    ],
)
def test_a_name_is_judged_by_what_the_resolver_found(standing, policy, why):
    proven = seen(hello_of(NAMED))
    if why is None:
        decide(proven, standing, policy)
        return
    with pytest.raises(Refused, match=why):
        decide(proven, standing, policy)


def test_who_has_no_name_is_judged_by_policy_alone():
    decide(seen(hello_of()), Standing(key=None), Policy())
    with pytest.raises(Refused):
        decide(seen(hello_of()), Standing(key=None), Policy(anonymous=False))


# Nonces


def test_a_nonce_counts_once_a_device_until_nobody_would_take_it():
    memory = NonceMemory()
    assert memory.remember("a", b"n", 60, 0)
    assert not memory.remember("a", b"n", 60, 0)
    assert memory.remember("b", b"n", 60, 0)
    assert not memory.remember("a", b"n", 60, 120)
    assert memory.remember("a", b"m", 500, 121)
    assert len(memory) == 1


def test_a_clock_that_is_set_back_revives_no_nonce():
    memory = NonceMemory()
    assert memory.remember("a", b"n", 60, 0)
    assert memory.remember("a", b"m", 10_000, 9_990)
    assert not memory.remember("a", b"n", 60, 0)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 20)), max_size=60), st.integers(1, 5))
def test_a_full_memory_never_takes_a_hello_twice(hellos, most):
    memory, taken, now = NonceMemory(most), set(), 0
    for wait, nonce, exp in hellos:
        now += wait
        hello = ("a", bytes((nonce,)), exp)
        if memory.remember(*hello, now):
            assert hello not in taken or now > exp + 60
            taken.add(hello)
        assert len(memory) <= most


def test_a_flood_of_short_lived_hellos_keeps_out_no_later_one():
    memory = NonceMemory(8)
    for number in range(1000):
        assert memory.remember("mallory", number.to_bytes(2, "big"), 60 + number, number)
    assert memory.remember("alice", b"fresh", 1061, 1001)
