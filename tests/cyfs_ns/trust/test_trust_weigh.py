"""Who is believed, how far, and who is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, dev_did, parse_did
from cyfs_ns.identity.documents import DeviceMini, ZoneDoc
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.oods import read_ood
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


def test_a_device_of_a_chain_name_whose_document_says_that_without_its_method_is_believed_still() -> None:
    zone = Did("bns", "alice")
    for told, trust in (("alice", Trust.OWNER_SIGNED), ("did:bns:alice", Trust.OWNER_SIGNED), ("bob", None)):
        old = DeviceMini(name="ood1", key=NAS.public, iat=NOW - DAY, exp=NOW + DAY, extra={"z": told})
        token = read_token(sign_token(old.claims(), ALICE))
        weighed = weigh([found(token, under=zone)], Anchors([pin(ALICE, zone)]), NOW)
        assert trust_of(weighed, device_did("ood1", zone)) == trust, told
    token = read_token(sign_token(replace(old, extra={"z": "home.example"}).claims(), ALICE))
    other = Did("bns", "home.example")
    assert not weigh([found(token, under=other)], Anchors([pin(ALICE, other)]), NOW).claims


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


def zone_document(*oods: str, iat: int = NOW - 2 * DAY, **more: str) -> Token:
    document = ZoneDoc(
        id=HOME,
        key=ALICE.public,
        owner=dev_did(ALICE.public),
        oods=tuple(read_ood(ood) for ood in oods),
        iat=iat,
        exp=NOW + DAY,
        **more,  # type: ignore[arg-type]
    )
    return read_token(sign_token(document.claims(), ALICE))


def values(weighed: Weighed, about: Did, kind: str) -> set[object]:
    return {claim.value for claim in weighed.claims if claim.about == about and claim.kind == kind}


def mark_of(token: Token, about: Did, kind: str) -> Mark:
    return Mark(about, kind, ALICE.public, revision_of(read_document(token.claims), token))


@pytest.mark.parametrize("trust", [Trust.PLAIN_DNS, Trust.HOST_SNAPSHOT])
def test_an_old_zone_document_does_not_undo_a_newer_boot_document(trust: Trust) -> None:
    newer = found(boot(ALICE, "ood1:192.0.2.2"), trust=trust)
    older = found(zone_document("ood1:203.0.113.66", "ood2:203.0.113.67", hostname="home.example"))
    for order in ([newer, older], [older, newer]):
        weighed = weigh(order, Anchors([pin(ALICE)]), NOW)
        assert values(weighed, OOD, "address") == {"192.0.2.2"}
        assert not values(weighed, device_did("ood2", HOME), "address")
        # What only the older one states goes on.
        (kept,) = (claim for claim in weighed.claims if claim.key == "zone")
        assert isinstance(kept.value, ZoneDoc) and kept.value.oods == () and kept.value.hostname == "home.example"
        assert values(weighed, HOME, "key") == {ALICE.public} and kept.trust == Trust.OWNER_SIGNED
        assert {accepted.document.kind for accepted in weighed.accepted} == {"boot", "zone"}
        (told,) = weighed.notices
        assert f"issued {NOW - 2 * DAY}: its machines are superseded by the boot document issued {NOW - DAY}" in told
        assert not weighed.faults and not weighed.conflicts


def test_a_newer_zone_document_speaks_instead_of_an_old_boot_document() -> None:
    claims = [found(boot(ALICE, "ood1:203.0.113.66")), found(zone_document("ood1:192.0.2.2", iat=NOW - 1))]
    weighed = weigh(claims, Anchors([pin(ALICE)]), NOW)
    assert values(weighed, OOD, "address") == {"192.0.2.2"} and values(weighed, HOME, "address") == {"192.0.2.2"}


def test_two_forms_that_state_the_same_both_speak_whatever_their_dates() -> None:
    claims = [found(boot(ALICE, "ood2", "ood1:192.0.2.2")), found(zone_document("ood1:192.0.2.2", "ood2"))]
    weighed = weigh(claims, Anchors([pin(ALICE)]), NOW)
    assert not weighed.notices and not weighed.faults
    assert trust_of(weighed, HOME, "document", "zone") == Trust.OWNER_SIGNED


def test_a_machine_that_was_dropped_from_the_newer_list_is_no_member_by_the_older() -> None:
    nameless = found(mini("ood2", NAS, ALICE, zone=None))
    older = found(zone_document("ood1", "ood2"))
    ood2 = device_did("ood2", HOME)
    assert trust_of(weigh([older, nameless], Anchors([pin(ALICE)]), NOW), ood2) == Trust.OWNER_SIGNED
    weighed = weigh([older, nameless, found(boot(ALICE, "ood1"))], Anchors([pin(ALICE)]), NOW)
    assert trust_of(weighed, ood2) is None and any("no boot document" in fault for fault in weighed.faults)


def test_a_newer_boot_document_that_only_its_mark_tells_of_still_counts() -> None:
    mark = mark_of(boot(ALICE, "ood1:192.0.2.2"), HOME, "boot")
    older = [found(zone_document("ood1:203.0.113.66")), found(mini("ood1", NAS, ALICE, zone=None))]
    weighed = weigh(older, Anchors([pin(ALICE)], [mark]), NOW)
    assert not values(weighed, OOD, "address") and trust_of(weighed, OOD) is None
    assert any(said.about == HOME and "is newer, and not heard now" in said.why for said in weighed.refused)
    lost = weigh(older, Anchors([pin(ALICE)], lost={mark.id: "damaged"}), NOW)
    assert not values(lost, OOD, "address") and "at a time that is lost" in lost.notices[0]
    for others in ([], [replace(mark, revision=replace(mark.revision, iat=NOW - 3 * DAY))]):
        assert values(weigh(older, Anchors([pin(ALICE)], others), NOW), OOD, "address") == {"203.0.113.66"}


@pytest.mark.parametrize("id", [OOD, None])
def test_an_old_device_document_brings_no_old_key_back(id: Did | None) -> None:
    named = {} if id is None else {"id": id}
    older = found(device("ood1", PI, ALICE, iat=NOW - 2 * DAY, zone=HOME, ips=("203.0.113.66",), **named))
    short = mini("ood1", NAS, ALICE)
    weighed = weigh([older, found(short)], Anchors([pin(ALICE)]), NOW)
    assert values(weighed, OOD, "key") == {NAS.public} and not values(weighed, OOD, "address")
    assert not weighed.conflicts and "its key is superseded by the device-mini document" in weighed.notices[0]
    marked = weigh([older], Anchors([pin(ALICE)], [mark_of(short, OOD, "device-mini")]), NOW)
    assert not values(marked, OOD, "key") and not values(marked, OOD, "address")
    assert any(said.about == OOD for said in marked.refused)


def test_of_one_key_an_older_device_document_still_says_where_the_machine_is() -> None:
    older = found(device("ood1", NAS, ALICE, iat=NOW - 2 * DAY, zone=HOME, ips=("192.0.2.9",), rtcp_port=2980))
    weighed = weigh([older, found(mini("ood1", NAS, ALICE, rtcp_port=2981))], Anchors([pin(ALICE)]), NOW)
    assert values(weighed, OOD, "address") == {"192.0.2.9"} and values(weighed, OOD, "key") == {NAS.public}
    assert "its port is superseded" in weighed.notices[0]


def test_two_forms_of_one_second_that_differ_are_a_conflict() -> None:
    claims = [found(boot(ALICE, "ood1:192.0.2.2")), found(zone_document("ood1:203.0.113.66", iat=NOW - DAY))]
    weighed = weigh(claims, Anchors([pin(ALICE)]), NOW)
    (sides,) = weighed.conflicts
    assert {side.key for side in sides} == {"boot", "zone"} and not weighed.accepted
    assert "both issued" in weighed.notices[0] and "differ in machines" in weighed.notices[0]


def test_a_document_about_a_key_speaks_for_its_name_by_the_zones_pin_alone() -> None:
    token = device("ood1", NAS, ALICE, zone=HOME)
    for place in (OOD, HOME, dev_did(NAS.public)):
        weighed = weigh([found(token, under=place)], Anchors([pin(ALICE)]), NOW)
        assert trust_of(weighed, OOD) == trust_of(weighed, dev_did(NAS.public)) == Trust.OWNER_SIGNED
        assert values(weighed, OOD, "did") == {str(dev_did(NAS.public))}
    for anchors in (Anchors(), Anchors([pin(ALICE, dev_did(ALICE.public))]), Anchors([pin(MALLORY)])):
        assert trust_of(weigh([pkx(ALICE), found(token, under=OOD)], anchors, NOW), OOD) is None


def test_a_document_about_a_key_goes_not_back_behind_its_name() -> None:
    new, old = device("ood1", NAS, ALICE, zone=HOME), device("ood1", PI, ALICE, zone=HOME, iat=NOW - 2 * DAY)
    weighed = weigh([found(old)], Anchors([pin(ALICE)], [mark_of(new, OOD, "device")]), NOW)
    assert trust_of(weighed, OOD) is None and any(said.about == OOD for said in weighed.refused)


def test_an_old_device_document_brings_no_old_address_back() -> None:
    older = found(device("ood1", NAS, ALICE, zone=HOME, ips=("203.0.113.66", "192.168.1.5"), iat=NOW - 2 * DAY))
    for list_ in (boot(ALICE, "ood1:192.0.2.2"), zone_document("ood1:192.0.2.2", iat=NOW - DAY)):
        for order in ([found(list_), older], [older, found(list_)]):
            weighed = weigh([*order, found(mini("ood1", NAS, ALICE))], Anchors([pin(ALICE)]), NOW)
            assert values(weighed, OOD, "address") == {"192.0.2.2"} and values(weighed, OOD, "key") == {NAS.public}
            assert any("its addresses are superseded by the" in said for said in weighed.notices)
    mark = mark_of(boot(ALICE, "ood1:192.0.2.2"), HOME, "boot")
    assert not values(weigh([older], Anchors([pin(ALICE)], [mark]), NOW), OOD, "address")
    # A list that agrees, says nothing of it, or is older takes nothing away.
    for text, iat in (("ood1:203.0.113.66", NOW - DAY), ("ood1", NOW - DAY), ("ood1:192.0.2.2", NOW - 3 * DAY)):
        weighed = weigh([older, found(boot(ALICE, text, iat=iat))], Anchors([pin(ALICE)]), NOW)
        assert values(weighed, OOD, "address") >= {"203.0.113.66", "192.168.1.5"} and not weighed.notices
