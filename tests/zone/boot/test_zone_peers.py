"""Whom the zone's newest document lets in by name, and whom it keeps out."""

from __future__ import annotations

import pytest
from zones import ALICE, HOME, MALLORY, NAS, NOW, OOD1, PI, sign

from cyfs_gateway.flow import Identity
from cyfs_ns.identity.did import dev_did, parse_did
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.trust.level import Trust
from zone.boot.known import Known, take
from zone.boot.peers import barred, machine_of, vouched

OWNER = ALICE.public
OLD = sign("ood1", nodes=["nas"])
NEW = sign("ood1", "ood2", nodes=["nas"], keys={"ood1": OOD1, "ood2": MALLORY, "nas": PI}, iat=NOW - 100)


def peer(did: str, key: SecretKey | None) -> Identity:
    return Identity(did=did, host="", trust=Trust.OWNER_SIGNED, device=str(dev_did(key.public)) if key else "")


@pytest.fixture
def known() -> Known:
    """Of a machine that has seen the new document, which is not in force."""
    own = OLD.of("ood1")
    after, _ = take(Known(zone=OLD.state(own), booted=True), NEW.state(own), own.device)
    assert after.ahead is not None
    return after


@pytest.mark.parametrize(
    ("did", "key", "name", "words"),
    [
        (f"did:web:nas.{HOME.id}", PI, "nas", ""),
        (f"did:web:nas.{HOME.id}", NAS, None, "replaced"),
        (f"did:web:nas.{HOME.id}", None, None, "proven"),
        (f"did:web:gone.{HOME.id}", NAS, None, "no machine"),
        (f"did:web:a.nas.{HOME.id}", PI, "nas", "no machine"),
        (f"did:web:{HOME.id}", NAS, None, ""),
        ("did:web:nas.other.example", NAS, None, ""),
        (str(dev_did(PI.public)), PI, "nas", ""),
        (str(dev_did(NAS.public)), NAS, None, ""),
        (str(dev_did(PI.public)), None, "nas", ""),
        ("", None, None, ""),
    ],
)
def test_a_name_of_the_zone_is_the_key_that_its_document_has(
    known: Known, did: str, key: SecretKey | None, name: str | None, words: str
) -> None:
    identity = peer(did, key)
    assert machine_of(known, identity) == name
    assert (words in barred(known, identity)) if words else barred(known, identity) == ""


def test_the_newest_document_says_which_key_a_machine_has(known: Known) -> None:
    def key(did: str) -> object:
        found = vouched(known, OWNER, parse_did(did))
        return None if found is None else found.document.key

    assert key(f"did:web:nas.{HOME.id}") == PI.public
    assert key(f"did:web:ood2.{HOME.id}") == MALLORY.public
    for nobody in (
        f"did:web:gone.{HOME.id}",
        f"did:web:a.nas.{HOME.id}",
        f"did:web:{HOME.id}",
        "did:web:nas.other.example",
    ):
        assert key(nobody) is None
    # It never goes back.
    back, _ = take(known, OLD.state(OLD.of("ood1")), OLD.of("ood1").device)
    found = vouched(back, OWNER, parse_did(f"did:web:nas.{HOME.id}"))
    assert found is not None
    assert found.document.key == PI.public
