"""What another document is to the one in force, and that nothing ever goes back."""

from __future__ import annotations

import random

import pytest
from zones import NAS, NOW, OOD1, OOD2, OOD3, PI, Signed, sign

from cyfs_ns.errors import BadWire
from zone.boot.known import MOST_KNOWN, REPLACES, Finding, Known, first_known, read_known, read_state, replaced, take

KEYS = {"ood1": OOD1, "ood2": OOD2, "ood3": OOD3, "nas": NAS, "pi": PI}
LATER = NOW - 100


def up(signed: Signed, name: str = "ood1") -> Known:
    """What a machine knows whose zone is up."""
    known = first_known(signed.of(name))
    return Known(zone=known.zone, booted=True)


ONE, THREE = sign("ood1", nodes=["nas"]), sign("ood1", "ood2", "ood3", nodes=["nas"])
CASES = {
    "itself": (ONE, ONE, "ood1", Finding.SAME),
    "another address": (ONE, sign("ood1:192.0.2.7", nodes=["nas"], iat=LATER), "ood1", Finding.COMPATIBLE),
    "another relay": (ONE, sign("ood1", nodes=["nas"], sn="sn.example", iat=LATER), "ood1", Finding.COMPATIBLE),
    "a node joins": (ONE, sign("ood1", nodes=["nas", "pi"], iat=LATER), "ood1", Finding.COMPATIBLE),
    "another node leaves": (ONE, sign("ood1", iat=LATER), "ood1", Finding.COMPATIBLE),
    "another node is replaced": (
        ONE,
        sign("ood1", nodes=["nas"], keys={**KEYS, "nas": PI}, iat=LATER),
        "ood1",
        Finding.COMPATIBLE,
    ),
    "issued before": (ONE, sign("ood1", nodes=["nas"], iat=NOW - 200_000), "ood1", Finding.ROLLBACK),
    "the same second": (ONE, sign("ood1", nodes=["nas", "pi"]), "ood1", Finding.CONFLICT),
    "one becomes three": (ONE, sign("ood1", "ood2", "ood3", nodes=["nas"], iat=LATER), "ood1", Finding.CONSENSUS_MODEL),
    "three become one": (THREE, sign("ood1", nodes=["nas"], iat=LATER), "nas", Finding.CONSENSUS_MODEL),
    "a fourth": (THREE, sign("ood1", "ood2", "ood3", "pi", nodes=["nas"], iat=LATER), "ood1", Finding.MEMBERS),
    "an OOD is replaced": (
        THREE,
        sign("ood1", "ood2", "ood3", nodes=["nas"], keys={**KEYS, "ood3": PI}, iat=LATER),
        "ood1",
        Finding.MEMBERS,
    ),
    "this one becomes an OOD": (THREE, sign("ood1", "ood2", "ood3", "nas", iat=LATER), "nas", Finding.ROLE),
    "this one carries it no more": (
        sign("ood1", "ood2", "nas"),
        sign("ood1", "ood2", nodes=["nas"], iat=LATER),
        "nas",
        Finding.ROLE,
    ),
    "this one becomes a gateway": (ONE, sign("ood1", "#nas", iat=LATER), "nas", Finding.COMPATIBLE),
    "this one is replaced": (
        ONE,
        sign("ood1", nodes=["nas"], keys={**KEYS, "nas": PI}, iat=LATER),
        "nas",
        Finding.REPLACED,
    ),
    "this one has left": (ONE, sign("ood1", iat=LATER), "nas", Finding.REPLACED),
}


@pytest.mark.parametrize("what", CASES)
def test_what_a_document_is_to_the_one_in_force(what: str) -> None:
    held, new, name, finding = CASES[what]
    known, own = up(held, name), held.of(name)
    after, found = take(known, new.state(own), own.device)
    assert found is finding
    changes = finding is Finding.COMPATIBLE
    waits = finding in (Finding.CONSENSUS_MODEL, Finding.MEMBERS, Finding.ROLE, Finding.REPLACED)
    assert (after.zone != known.zone, after.ahead is not None) == (changes, waits)
    assert bool(replaced(after, own.device)) == (finding is Finding.REPLACED)
    assert read_known(after.text(), own) == after
    # Once it was seen, what was before is refused, also while it only waits.
    if changes or waits:
        assert take(after, held.state(own), own.device) == (after, Finding.ROLLBACK)
        assert take(after, new.state(own), own.device)[0] == after


def test_before_the_zone_is_up_the_newest_document_is_in_force() -> None:
    own, new = ONE.of("ood1"), CASES["one becomes three"][1]
    after, found = take(first_known(own), new.state(own), own.device)
    assert found is Finding.COMPATIBLE
    assert after == Known(zone=new.state(own))
    back, found = take(after, ONE.state(own), own.device)
    assert (back, found) == (after, Finding.ROLLBACK)


def test_what_was_ahead_is_in_force_when_it_was_brought_about() -> None:
    own, new = ONE.of("ood1"), CASES["one becomes three"][1]
    after, _ = take(up(ONE), new.state(own), own.device)
    assert after.zone == up(ONE).zone
    assert after.caught_up() == Known(zone=new.state(own), booted=True)


def test_the_only_ood_may_have_a_new_key() -> None:
    new = sign("ood1", nodes=["nas"], keys={**KEYS, "ood1": PI}, iat=LATER)
    own = new.of("ood1")
    after, found = take(Known(zone=ONE.state(own), booted=True), new.state(own), own.device)
    assert (found, after.zone) == (Finding.COMPATIBLE, new.state(own))


def test_one_that_takes_anothers_place_knows_that_the_zone_was_up() -> None:
    assert not first_known(ONE.of("ood1")).booted
    assert first_known(sign("ood1", extra={REPLACES: OOD2.public.x}).of("ood1")).booted


def test_nobody_elses_documents_are_looked_at() -> None:
    from zones import MALLORY

    from cyfs_ns.identity.did import parse_did

    own = ONE.of("ood1")
    for other in (
        sign("ood1", owner=MALLORY, iat=LATER),
        sign("ood1", zone=parse_did("did:web:other.example"), iat=LATER),
    ):
        with pytest.raises(BadWire):
            read_state(other.zone, own)


def test_a_clock_that_is_behind_does_not_undo_what_was_kept() -> None:
    own = ONE.of("ood1")
    assert read_known(up(ONE).text(), own) == up(ONE)
    with pytest.raises(BadWire, match="future"):
        read_state(ONE.zone, own, 0.0)


def test_a_damaged_file_is_refused_whatever_is_wrong_with_it() -> None:
    own, whole, dice = ONE.of("ood1"), up(ONE).text(), random.Random(3)
    for bad in (b"", b"{}", b"[]", b" " * (MOST_KNOWN + 1), THREE.text("nas"), whole.replace(b"known", b"unknow")):
        with pytest.raises(BadWire):
            read_known(bad, own)
    for _ in range(500):
        broken = bytearray(whole)
        broken[dice.randrange(len(broken))] ^= 1 << dice.randrange(8)
        try:
            found = read_known(bytes(broken), own)
        except BadWire:
            continue
        assert found.zone == up(ONE).zone
