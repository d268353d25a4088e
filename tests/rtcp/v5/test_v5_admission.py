"""Names at the door of version 5: whom a caller means, whose name it goes by, and that nobody looks up a bare claim."""

from __future__ import annotations

import dataclasses

import pytest

from cyfs_ns.identity.did import Did, dev_did
from rtcp.admission import Policy, Proven
from rtcp.v5.admission import examine
from rtcp.v5.closing import Close, CloseCode
from tests.rtcp.pair import ALICE, ALICES_NAME, BOB, BOB_HERE, BOBS_NAME, MALLORY, NAMED_ONLY, device_document
from tests.rtcp.v5.people import ALICE_SAYS

ANONYMOUS = Proven(ALICE.public, dev_did(ALICE.public))


def verdict(policy: Policy = Policy(), **said: str) -> Proven | CloseCode:  # noqa: B008
    found = examine(dataclasses.replace(ALICE_SAYS, **said), BOB_HERE, policy)
    return found.code if isinstance(found, Close) else found


@pytest.mark.parametrize("to", ["", str(BOBS_NAME), str(dev_did(BOB.public))])
def test_a_caller_may_mean_us_by_any_name_we_have(to):
    assert verdict(to=to) == ANONYMOUS


@pytest.mark.parametrize("to", ["did:web:somebody.example", str(dev_did(MALLORY.public)), "responder.example", "\0"])
def test_a_caller_who_means_somebody_else_is_told_so(to):
    assert verdict(to=to) is CloseCode.UNKNOWN_NAME


@pytest.mark.parametrize("sender", ["", str(dev_did(ALICE.public))])
def test_a_key_without_a_document_is_anonymous(sender):
    assert verdict(sender=sender) == ANONYMOUS
    assert verdict(NAMED_ONLY, sender=sender) is CloseCode.REFUSED


@pytest.mark.parametrize("sender", ["", str(dev_did(ALICE.public))])
def test_a_key_may_bring_its_owners_word(sender):
    found = verdict(NAMED_ONLY, sender=sender, document=device_document(ALICE))
    assert (found.named, found.anonymous) == (dev_did(ALICE.public), False)
    for other in ("no.document.at-all", device_document(MALLORY)):
        assert verdict(sender=sender, document=other) is CloseCode.REFUSED


def test_a_name_comes_with_a_document_of_the_proven_key():
    found = verdict(NAMED_ONLY, sender=str(ALICES_NAME), document=device_document(ALICE))
    assert (found.named, found.key, found.anonymous) == (ALICES_NAME, ALICE.public, False)
    assert found.document.text == device_document(ALICE)


@pytest.mark.parametrize("document", ["", "no.document.at-all", device_document(MALLORY)])
@pytest.mark.parametrize("sender", [ALICES_NAME, Did("web", "victim.example"), dev_did(MALLORY.public)])
def test_a_name_without_its_document_is_refused(sender, document):
    assert verdict(sender=str(sender), document=document) is CloseCode.REFUSED


@pytest.mark.parametrize("sender", ["laptop.alice.example", "did:", "did:web:", "x" * 512])
def test_a_name_that_is_no_did_breaks_the_rules(sender):
    assert verdict(sender=sender) is CloseCode.FAULT
