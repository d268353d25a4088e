"""The three documents of a machine hold together, or are refused with a sentence about the one that does not."""

from __future__ import annotations

import json
import random
from contextlib import suppress

import pytest
from zones import ALICE, DAY, HOME, MALLORY, NAS, NOW, OOD1, PI, secret, sign

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import parse_did
from cyfs_ns.identity.oods import read_ood
from zone.membership import (
    MOST_MEMBERSHIP,
    Role,
    name_of,
    ood_names,
    read_membership,
    role_of,
    stranger,
    write_membership,
)

ZONE = sign("ood1:192.0.2.1", "#gate@nat", nodes=["nas"], keys={"ood1": OOD1, "gate": PI, "nas": NAS})


def test_it_reads_back_as_it_was_written() -> None:
    found = read_membership(ZONE.text("nas"), NOW)
    assert (found.name, found.device.key, found.owner.key) == ("nas", NAS.public, ALICE.public)
    assert found.zone.id == HOME
    assert read_membership(found.text(), NOW) == found
    assert OOD1.seed.hex() not in found.text().hex()


def test_roles_come_from_the_list_of_the_zone() -> None:
    zone = ZONE.of("nas").zone
    assert [role_of(zone.oods, name) for name in ("ood1", "gate", "nas", "nobody")] == [
        Role.OOD,
        Role.GATEWAY,
        Role.NODE,
        Role.NODE,
    ]
    assert role_of([read_ood("$quiet")], "quiet") is Role.OOD
    assert ood_names(zone) == ("ood1",)


def test_an_old_key_is_a_stranger_to_who_sees_the_new_document() -> None:
    new = sign("ood1", nodes=["nas"], keys={"ood1": OOD1, "nas": PI}, iat=NOW - 5).of("ood1").zone
    assert stranger(ZONE.of("nas").zone, "nas", NAS.public) == ""
    assert "replaced" in stranger(new, "nas", NAS.public)
    assert "no machine" in stranger(new, "gate", PI.public)
    assert stranger(new, "nas", PI.public) == ""
    assert (name_of(new, PI.public), name_of(new, NAS.public)) == ("nas", None)


OTHER = sign("ood1", nodes=["nas"], iat=NOW - 5)
REFUSED = {
    "the owner's is another's": (
        write_membership(sign("ood1", owner=MALLORY).owner, ZONE.zone, ZONE.devices["nas"]),
        "signed",
    ),
    "the zone's is another owner's": (
        write_membership(ZONE.owner, sign("ood1", owner=MALLORY).zone, ZONE.devices["nas"]),
        "not signed",
    ),
    "the machine's is another owner's": (
        write_membership(ZONE.owner, ZONE.zone, sign("ood1", nodes=["nas"], owner=MALLORY).devices["nas"]),
        "not signed",
    ),
    "the machine's is of another zone": (
        write_membership(
            ZONE.owner, ZONE.zone, sign("ood1", nodes=["nas"], zone=parse_did("did:web:other.example")).devices["nas"]
        ),
        "not for did:web:home.example",
    ),
    "the machine's is of another day": (write_membership(ZONE.owner, ZONE.zone, OTHER.devices["nas"]), "another 'nas'"),
    "the zone does not name the machine": (
        write_membership(ZONE.owner, sign("ood1").zone, ZONE.devices["nas"]),
        "another 'nas'",
    ),
    "nobody carries the zone": (write_membership(ZONE.owner, sign("#ood1").zone, ZONE.devices["nas"]), "no machine"),
    "two names have one key": (
        write_membership(ZONE.owner, sign("ood1", "ood2", keys={"ood1": OOD1, "ood2": OOD1}).zone, ZONE.devices["nas"]),
        "same key",
    ),
    "documents in each other's place": (write_membership(ZONE.owner, ZONE.devices["nas"], ZONE.zone), "token|document"),
    "something else beside them": (
        json.dumps({**json.loads(ZONE.text("nas")), "owner_key": "x"}).encode(),
        "does not belong",
    ),
    "another kind of file": (json.dumps({**json.loads(ZONE.text("nas")), "kind": "x"}).encode(), "kind"),
    "one is missing": (json.dumps({"kind": "membership", "owner": ZONE.owner, "zone": ZONE.zone}).encode(), "missing"),
    "longer than any": (b" " * (MOST_MEMBERSHIP + 1), "at most"),
    "no JSON": (b"\xff{", "JSON"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_does_not_hold_together_is_refused(why: str) -> None:
    untrusted, words = REFUSED[why]
    with pytest.raises(BadWire, match=words):
        read_membership(untrusted, NOW)


@pytest.mark.parametrize(("now", "words"), [(NOW + 2 * DAY, "expired"), (NOW - 2 * DAY, "in the future")])
def test_documents_have_their_time(now: float, words: str) -> None:
    with pytest.raises(BadWire, match=words):
        read_membership(ZONE.text("nas"), now)
    assert read_membership(ZONE.text("nas"), None).name == "nas"


def test_whatever_is_changed_in_it_is_noticed() -> None:
    dice, whole = random.Random(7), ZONE.text("nas")
    for _ in range(1500):
        broken = bytearray(whole)
        for _ in range(dice.choice((1, 1, 2, 8))):
            broken[dice.randrange(len(broken))] = dice.randrange(256)
        cut = bytes(broken[: dice.randrange(len(broken))] if dice.random() < 0.2 else broken)
        with suppress(BadWire):
            assert read_membership(cut, NOW) == ZONE.of("nas")


def test_any_owner_may_have_a_zone_so_the_caller_looks_whose_it_is() -> None:
    theirs = sign("ood1", nodes=["nas"], owner=MALLORY).of("nas", NOW)
    assert theirs.owner.key == MALLORY.public != secret(1).public
