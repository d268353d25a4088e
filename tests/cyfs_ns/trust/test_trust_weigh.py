"""Who is believed, how far, and who is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, dev_did, parse_did
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.revision import revision_of
from cyfs_ns.identity.token import Token, read_token, sign_token
from cyfs_ns.trust.anchors import Anchors, Mark, Pin
from cyfs_ns.trust.evidence import Claim, Evidence
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.places import device_did
from cyfs_ns.trust.weigh import Weighed, weigh
from tests.cyfs_ns.identity.identities import ALICE, DAY, HOME, MALLORY, NAS, NOW, PI, boot, device, mini

OOD = device_did("ood1", HOME)


def channel(trust: Trust = Trust.PLAIN_DNS, source: str = "TXT of home.example") -> Evidence:
    return Evidence(trust=trust, what="published", source=source, at=NOW, until=NOW + 300)


def pkx(owner: SecretKey, zone: Did = HOME, trust: Trust = Trust.PLAIN_DNS) -> Claim:
    return Claim(about=zone, kind="key", key="owner", value=owner.public, evidence=channel(trust))


def found(token: Token, under: Did = HOME, trust: Trust = Trust.PLAIN_DNS) -> Claim:
    return Claim(about=under, kind="token", value=token, evidence=channel(trust))


def pin(owner: SecretKey, about: Did = HOME, **more: int | bool) -> Pin:
    return Pin(about=about, key=owner.public, source="owners/home.example", at=NOW - DAY, **more)  # type: ignore[arg-type]


def trust_of(weighed: Weighed, about: Did, kind: str = "key", key: str = "self") -> Trust | None:
    return next((c.trust for c in weighed.claims if c.about == about and c.kind == kind and c.key == key), None)


def test_a_device_of_a_pinned_zone_is_owner_signed() -> None:
    weighed = weigh(
        [pkx(ALICE), found(boot(ALICE, "ood1:192.0.2.1")), found(mini("ood1", NAS, ALICE))], Anchors([pin(ALICE)]), NOW
    )
    assert not weighed.faults and not weighed.conflicts
    assert trust_of(weighed, OOD) == Trust.OWNER_SIGNED
    key = next(c for c in weighed.claims if c.about == OOD and c.kind == "key")
    assert key.value == NAS.public
    assert [fact.source for fact in key.evidence.walk()].count("owners/home.example") == 1
    assert trust_of(weighed, OOD, "address", "") == Trust.OWNER_SIGNED
    assert {accepted.document.kind for accepted in weighed.accepted} == {"boot", "device-mini"}


def test_without_a_pin_the_same_records_are_worth_their_channel() -> None:
    for trust in (Trust.PLAIN_DNS, Trust.AUTH_CHANNEL, Trust.DNSSEC):
        claims = [pkx(ALICE, trust=trust), found(mini("ood1", NAS, ALICE), trust=trust)]
        assert trust_of(weigh(claims, Anchors(), NOW), OOD) == trust


def test_a_zone_document_in_its_old_shape_counts_like_a_new_one() -> None:
    old = {"owner_name": "did:ens:alice", "oods": ["ood1@192.0.2.1"], "iat": NOW - DAY, "exp": NOW + DAY}
    claims = {"did": str(HOME), "auth_key": ALICE.public.jwk(), **old}
    weighed = weigh([found(read_token(sign_token(claims, ALICE)))], Anchors([pin(ALICE)]), NOW)
    assert trust_of(weighed, HOME) == trust_of(weighed, OOD, "address", "") == Trust.OWNER_SIGNED
    forged = weigh([found(read_token(sign_token(claims, MALLORY)))], Anchors([pin(ALICE)]), NOW)
    assert not forged.claims and "not signed by" in forged.faults[0]


def test_a_pin_for_another_zone_is_no_word_for_this_one() -> None:
    friend = Anchors([pin(MALLORY, parse_did("did:web:friend.example")), pin(MALLORY, dev_did(MALLORY.public))])
    weighed = weigh([pkx(MALLORY), found(boot(MALLORY, "ood1")), found(mini("ood1", PI, MALLORY))], friend, NOW)
    assert trust_of(weighed, OOD) == Trust.PLAIN_DNS


def test_a_pinned_zone_hears_nobody_else() -> None:
    claims = [pkx(MALLORY), found(boot(MALLORY, "ood1")), found(mini("ood1", PI, MALLORY))]
    weighed = weigh(claims, Anchors([pin(ALICE)]), NOW)
    assert weighed.claims == ()
    assert any("is pinned" in fault and MALLORY.public.x in fault for fault in weighed.faults)
    assert sum("not signed by" in fault for fault in weighed.faults) == 2


def test_one_byte_changed_is_refused() -> None:
    good = mini("ood1", NAS, ALICE).text
    at = good.index(".") + 12
    bad = good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :]
    try:
        token = read_token(bad)
    except BadWire:
        return
    weighed = weigh([found(token)], Anchors([pin(ALICE)]), NOW)
    assert weighed.claims == () and weighed.faults


@pytest.mark.parametrize("zone", [None, parse_did("did:web:lab.example")])
def test_a_device_of_another_zone_of_the_same_owner_is_not_carried_over(zone: Did | None) -> None:
    claims = [found(boot(ALICE, "ood2")), found(mini("ood1", NAS, ALICE, zone=zone))]
    assert trust_of(weigh(claims, Anchors([pin(ALICE)]), NOW), OOD) is None


def test_a_boot_document_of_another_zone_is_refused() -> None:
    for zone in (parse_did("did:web:lab.example"), None):
        weighed = weigh([found(boot(ALICE, "ood1:192.0.2.9", zone=zone))], Anchors([pin(ALICE)]), NOW)
        assert weighed.claims == () and len(weighed.faults) == 1


def test_a_device_document_may_not_take_a_name_outside_its_zone() -> None:
    victim = parse_did("did:web:ood1.victim.example")
    token = device("ood1", NAS, ALICE, id=victim, whose=HOME, zone=HOME)
    weighed = weigh([found(token, under=victim)], Anchors([pin(ALICE)]), NOW)
    assert weighed.claims == () and "is not 'ood1' of" in weighed.faults[0]


def test_what_a_key_says_of_itself_does_not_depend_on_the_channel() -> None:
    about = dev_did(NAS.public)
    weighed = weigh([found(device("ood1", NAS, NAS), under=about)], Anchors(), NOW)
    assert trust_of(weighed, about, "document", "device") == Trust.KEY_PROVEN
    token = device("ood1", NAS, ALICE)
    weighed = weigh([found(token, under=about)], Anchors(), NOW)
    assert trust_of(weighed, about, "document", "device") == Trust.PLAIN_DNS
    pinned = weigh([found(token, under=about)], Anchors([pin(ALICE, dev_did(ALICE.public))]), NOW)
    assert trust_of(pinned, about, "document", "device") == Trust.OWNER_SIGNED


def test_the_key_of_a_zone_is_its_owners_whatever_the_owners_name() -> None:
    document = replace(read_document(boot(ALICE, "ood1").claims), owner=parse_did("did:bns:alice"))
    named = read_token(sign_token(document.claims(), ALICE))
    pinned = weigh([pkx(ALICE), found(named), found(mini("ood1", NAS, ALICE))], Anchors([pin(ALICE)]), NOW)
    assert not pinned.faults and trust_of(pinned, OOD) == Trust.OWNER_SIGNED
    assert not weigh([pkx(ALICE), found(named)], Anchors(), NOW).faults


def test_what_was_kept_here_is_a_snapshot() -> None:
    kept = [
        found(boot(ALICE, "ood1"), trust=Trust.HOST_SNAPSHOT),
        found(mini("ood1", NAS, ALICE), trust=Trust.HOST_SNAPSHOT),
    ]
    assert trust_of(weigh(kept, Anchors([pin(ALICE)]), NOW), OOD) == Trust.HOST_SNAPSHOT


def test_of_two_the_newer_stays_and_gives_the_key() -> None:
    old, new = mini("ood1", NAS, ALICE, iat=NOW - 2 * DAY), mini("ood1", PI, ALICE, iat=NOW - DAY)
    for order in ((old, new), (new, old)):
        weighed = weigh([found(token) for token in order], Anchors([pin(ALICE)]), NOW)
        keys = [c.value for c in weighed.claims if c.kind == "key" and c.about == OOD]
        assert keys == [PI.public] and not weighed.conflicts


def test_two_for_the_same_second_are_a_conflict_that_names_both() -> None:
    weighed = weigh([found(mini("ood1", NAS, ALICE)), found(mini("ood1", PI, ALICE))], Anchors([pin(ALICE)]), NOW)
    (sides,) = [group for group in weighed.conflicts if group[0].kind == "document"]
    assert len(sides) == 2


def test_going_back_is_refused() -> None:
    new, old = mini("ood1", PI, ALICE), mini("ood1", NAS, ALICE, iat=NOW - 2 * DAY)
    mark = revision_of(read_document(new.claims), new)
    anchors = Anchors([pin(ALICE)], [Mark(OOD, "device-mini", ALICE.public, mark)])
    weighed = weigh([found(old)], anchors, NOW)
    assert weighed.claims == () and "older than one we have believed" in weighed.faults[0]
    assert trust_of(weigh([found(new)], anchors, NOW), OOD) == Trust.OWNER_SIGNED
    other = mini("ood1", NAS, ALICE)
    assert "same second" in weigh([found(other)], anchors, NOW).faults[0]


def test_the_least_iat_of_an_owner_revokes_what_is_older() -> None:
    anchors = Anchors([pin(ALICE, least_iat=NOW - DAY // 2)])
    weighed = weigh([found(mini("ood1", NAS, ALICE))], anchors, NOW)
    assert weighed.claims == () and weighed.revoked
    assert weigh([found(mini("ood1", NAS, ALICE))], Anchors([pin(ALICE, revoked=True)]), NOW).revoked


@pytest.mark.parametrize(("iat", "exp", "fault"), [(NOW - DAY, NOW, "expired"), (NOW + 61, NOW + DAY, "in the future")])
def test_outside_its_time_a_document_is_nothing(iat: int, exp: int, fault: str) -> None:
    weighed = weigh([found(mini("ood1", NAS, ALICE, iat=iat, exp=exp))], Anchors([pin(ALICE)]), NOW)
    assert weighed.claims == () and fault in weighed.faults[0]
