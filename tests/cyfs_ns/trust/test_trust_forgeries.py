"""Somebody who wants another key believed for a name that is not his, or a level he has not earned.

He has keys of his own and may put whatever he likes on any line, whose evidence then says what the line is worth; what
he lacks is the owner's key.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, dev_did, did_of_host, host_of_did, parse_did
from cyfs_ns.identity.documents import DeviceInfo, OwnerDoc, PlainDoc, ZoneDoc
from cyfs_ns.identity.keys import Multikey, PublicKey, SecretKey
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.revision import Revision
from cyfs_ns.identity.strictjson import Json, read_object
from cyfs_ns.identity.token import Token, read_token, sign_token
from cyfs_ns.trust.anchors import Anchors, Mark, Pin
from cyfs_ns.trust.evidence import IDENTITY, Claim, Evidence
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Conflicted, Found, Outcome, Refused, Revoked, Unreachable
from cyfs_ns.trust.places import device_did
from cyfs_ns.trust.plan import Ask, Card, Cost, Privacy, plan
from cyfs_ns.trust.resolution import Resolution
from cyfs_ns.trust.weigh import KEPT, Weighed, weigh
from tests.cyfs_ns.identity.identities import (
    ALICE,
    DAY,
    HOME,
    MALLORY,
    NAS,
    NOW,
    PI,
    boot,
    device,
    mini,
    own_key,
    secret,
)

OOD = device_did("ood1", HOME)
EVIL = parse_did("did:web:evil.example")
NAS_ID, MALLORY_ID, ALICE_ID = (dev_did(key.public) for key in (NAS, MALLORY, ALICE))


def fact(trust: Trust, source: str = "a line") -> Evidence:
    return Evidence(trust=trust, what="said", source=source, at=NOW, until=NOW + 300)


def brought(token: Token, under: Did, trust: Trust = Trust.AUTH_CHANNEL, key: str = "") -> Claim:
    return Claim(about=under, kind="token", key=key, value=token, evidence=fact(trust))


def key_of(whom: Did, key: SecretKey, trust: Trust = Trust.AUTH_CHANNEL, role: str = "self") -> Claim:
    return Claim(about=whom, kind="key", key=role, value=key.public, evidence=fact(trust))


def pin(about: Did = HOME, owner: SecretKey = ALICE, *, least_iat: int = 0, revoked: bool = False) -> Pin:
    return Pin(about=about, key=owner.public, least_iat=least_iat, revoked=revoked, source="pins", at=NOW - DAY)


def signed(document: PlainDoc | OwnerDoc | ZoneDoc | DeviceInfo, key: SecretKey) -> Token:
    return read_token(sign_token(document.claims(), key))


def level(weighed: Weighed, about: Did) -> Trust:
    return max(
        (claim.trust for claim in weighed.claims if claim.about.canonical == about.canonical), default=Trust.NONE
    )


def concluded(subject: Did, anchors: Anchors, *answers: Outcome, least: Trust = Trust.NONE) -> Outcome:
    """What comes of it when providers answer so."""
    card = Card(name="it", methods=frozenset(), best=Trust.OWNER_SIGNED, cost=Cost.NEAR, privacy=Privacy.RESOLVER)
    resolution = Resolution(plan(Ask(subject=subject, least=least), [card]), anchors)
    for answer in answers:
        resolution.take("it", answer)
    return resolution.outcome(NOW)


def told(subject: Did, *claims: Claim) -> Found:
    return Found(subject=subject, claims=claims)


# --- documents of somebody else, of another place, by another signer


def test_a_stranger_who_calls_himself_the_owner_of_a_key_is_worth_his_line() -> None:
    taken = device("ood1", NAS, MALLORY, ips=("203.0.113.6",))
    for trust in (Trust.PLAIN_DNS, Trust.AUTH_CHANNEL):
        assert level(weigh([brought(taken, NAS_ID, trust)], Anchors(), NOW), NAS_ID) == trust
    own = device("ood1", NAS, NAS)
    assert level(weigh([brought(own, NAS_ID, Trust.PLAIN_DNS)], Anchors(), NOW), NAS_ID) == Trust.KEY_PROVEN


@pytest.mark.parametrize("trust", [Trust.AUTH_CHANNEL, Trust.DNSSEC, Trust.QUORUM])
def test_a_place_speaks_for_itself_and_its_machines_alone(trust: Trust) -> None:
    """Mallory's own zone, honestly delivered, says who a machine of Alice's zone is."""
    stray = device("ood1", PI, MALLORY, id=OOD, zone=HOME)
    for under in (EVIL, parse_did("did:ens:mallory.eth"), parse_did("did:web:ood1.home.example.evil.example"), NAS_ID):
        weighed = weigh([brought(stray, under, trust)], Anchors(), NOW)
        assert level(weighed, OOD) == Trust.NONE and "cannot speak for" in weighed.faults[0]
    below = Did("web", "evil.home.example")
    parent = device("home", PI, MALLORY, id=HOME, zone=Did("web", "example"))
    assert level(weigh([brought(parent, below, trust)], Anchors(), NOW), HOME) == Trust.NONE


def test_a_provider_may_not_speak_about_others() -> None:
    other = told(EVIL, key_of(HOME, MALLORY), key_of(EVIL, MALLORY))
    outcome = concluded(EVIL, Anchors(), other)
    assert isinstance(outcome, Found) and {claim.about for claim in outcome.claims} == {EVIL}
    assert any("not asked" in fault for fault in outcome.faults)


def test_the_level_of_an_answer_is_the_level_of_its_subject() -> None:
    """Beside a weak claim stand strong ones about others: the zone above is pinned, a key proves itself."""
    victim = Did("web", "mallory.home.example")
    zone = Claim(about=HOME, kind="key", key="owner", value=ALICE.public, evidence=pin().evidence)
    proven = brought(device("x", MALLORY, MALLORY), victim, Trust.PLAIN_DNS)
    outcome = concluded(victim, Anchors([pin()]), told(victim, zone, proven, key_of(victim, MALLORY, Trust.PLAIN_DNS)))
    assert isinstance(outcome, Found) and outcome.trust == Trust.PLAIN_DNS


def test_a_friend_who_is_pinned_cannot_take_a_machine_into_my_zone() -> None:
    anchors = Anchors([pin(), pin(MALLORY_ID, MALLORY)])
    claimed = device("nas", NAS, MALLORY, zone=HOME)
    weighed = weigh([brought(claimed, NAS_ID)], anchors, NOW)
    assert weighed.claims == () and weighed.faults
    mine = device("nas", NAS, ALICE, zone=HOME)
    assert level(weigh([brought(mine, NAS_ID)], anchors, NOW), NAS_ID) == Trust.OWNER_SIGNED


def test_a_friend_who_is_pinned_cannot_take_my_machine_by_a_later_date() -> None:
    anchors = Anchors([pin(dev_did(ALICE.public), ALICE), pin(MALLORY_ID, MALLORY)])
    mine, theirs = device("nas", NAS, ALICE), device("nas", NAS, MALLORY, iat=NOW - 10)
    for order in ([mine, theirs], [theirs, mine]):
        outcome = concluded(NAS_ID, anchors, told(NAS_ID, *(brought(token, NAS_ID) for token in order)))
        assert isinstance(outcome, Conflicted) and len(outcome.sides) == 2
    newer = device("nas", NAS, ALICE, iat=NOW - 5)
    weighed = weigh([brought(token, NAS_ID) for token in (mine, newer)], anchors, NOW)
    assert not weighed.conflicts and level(weighed, NAS_ID) == Trust.OWNER_SIGNED


def test_a_document_of_one_kind_is_not_taken_for_another() -> None:
    for token in (boot(ALICE, "ood1"), mini("ood1", NAS, ALICE), device("ood1", NAS, ALICE)):
        for kind in ("owner", "zone", "boot", "device", "device-mini", "info", "did"):
            try:
                assert read_document(token.claims, kind).kind == kind
            except BadWire:
                continue
    info = DeviceInfo(
        device=read_document(device("ood1", NAS, ALICE).claims),  # type: ignore[arg-type]
        arch="x",
        os="x",
        update_time=NOW - 5,
        all_ips=("203.0.113.6",),
    )
    weighed = weigh([brought(signed(info, ALICE), NAS_ID)], Anchors([pin(ALICE_ID)]), NOW)
    assert weighed.claims == () and "not signed by" in weighed.faults[0]


def test_two_names_in_one_document_are_one_name() -> None:
    both = {**boot(ALICE, "ood1").claims, "did": str(EVIL), "id": str(HOME), "oods": ["ood1"]}
    token = read_token(sign_token({**both, "verificationMethod": []}, ALICE))
    assert weigh([brought(token, EVIL)], Anchors([pin(), pin(EVIL, MALLORY)]), NOW).claims == ()
    with pytest.raises(BadWire, match="twice"):
        read_object(b'{"id":"did:web:home.example","id":"did:web:evil.example"}')


def method(fragment: str, key: SecretKey, **more: str) -> dict[str, Json]:
    return {"id": fragment, "type": "Ed25519VerificationKey2020", "publicKeyJwk": key.public.jwk(), **more}


@pytest.mark.parametrize(
    "methods",
    [
        [method("#main_key", MALLORY, controller=str(EVIL)), method("#main_key", NAS)],
        [method("#a", NAS), method("#main_key", MALLORY, controller=str(EVIL))],
        [method(f"{HOME}#main_key", NAS), method("#other", MALLORY)],
    ],
)
def test_the_key_of_a_document_is_its_subjects_own(methods: list[Json]) -> None:
    document = read_document({"id": str(HOME), "verificationMethod": methods, "exp": NOW + DAY})
    assert document.main_key == NAS.public


def test_a_main_key_of_another_identity_is_not_the_subjects() -> None:
    methods: list[Json] = [method(f"{EVIL}#main_key", MALLORY), method(f"{HOME}#main_key", NAS)]
    for order in permutations(methods):
        document = read_document({"id": str(HOME), "verificationMethod": list(order)})
        assert document.main_key == NAS.public


@pytest.mark.parametrize("kid", [str(EVIL), f"{EVIL}#main_key", MALLORY.public.x, "#other", str(HOME) + ".#main_key"])
def test_a_kid_that_names_somebody_else_is_refused(kid: str) -> None:
    token = read_token(sign_token(mini("ood1", NAS, ALICE).claims, ALICE, kid))
    assert weigh([brought(token, HOME)], Anchors([pin()]), NOW).claims == ()


# --- spellings of one identity


def test_a_key_in_its_other_spelling_is_the_same_somebody() -> None:
    alias = parse_did("did:key:" + str(Multikey("Ed25519", NAS.public.raw)))
    true = brought(device("nas", NAS, ALICE, ips=("192.0.2.1",)), NAS_ID)
    lie = Claim(
        about=alias,
        kind="document",
        key="device",
        value=read_document(device("nas", NAS, MALLORY).claims),
        evidence=fact(Trust.AUTH_CHANNEL),
    )
    for subject in (NAS_ID, alias):
        outcome = concluded(subject, Anchors([pin(ALICE_ID)]), told(subject, lie, true))
        assert isinstance(outcome, Found)
        (document,) = outcome.of("document", "device")
        assert document.trust == Trust.OWNER_SIGNED and own_key(outcome) == NAS.public


@pytest.mark.parametrize(
    "text",
    [
        "did:web:alice.eth",
        "did:web:" + "a" * 52 + ".dev.did",
        "did:web:x.bns.did",
        "did:web:did",
        "did:web:EVIL.eth.",
        "did:web:home.example:a%2Fb%zz",
        "did:web:home.example:%2e%2e",
        "did:web:Undefined",
    ],
)
def test_a_web_host_cannot_wear_the_host_name_of_another_method(text: str) -> None:
    with pytest.raises(BadWire):
        parse_did(text)


@pytest.mark.parametrize("text", ["did:ens:alice.eth", "did:ens:home.example", "did:bns:a.b", "did:web:home.example"])
def test_a_host_form_stands_for_one_identity(text: str) -> None:
    did = parse_did(text)
    assert did_of_host(host_of_did(did)) == did


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("did:web:HOME.Example", "did:web:home.example."),
        ("did:web:home.example%3a8443", "did:web:home.example%3A8443"),
        ("did:web:home.example%3A443", "did:web:home.example"),
        ("did:web:home.example:%75ser:a%2fb", "did:web:home.example:user:a%2Fb"),
    ],
)
def test_spellings_of_one_identity_are_equal(one: str, other: str) -> None:
    assert parse_did(one) == parse_did(other)


@pytest.mark.parametrize("name", ["did:web:hоme.example", "did:bns:аlice", "did:web:home。example"])
def test_letters_that_only_look_alike_are_no_part_of_a_did(name: str) -> None:
    with pytest.raises(BadWire):
        parse_did(name)
    if "。" not in name:
        assert did_of_host(name.rpartition(":")[2]).id.startswith(("xn--", "home.xn--"))


# --- older, newer, at once


def test_an_older_word_of_the_owner_does_not_win_by_coming_from_farther() -> None:
    """The newer lies here, the older is replayed over DNS, where it looks current."""
    here = brought(mini("ood1", PI, ALICE, iat=NOW - 100), HOME, Trust.HOST_SNAPSHOT)
    replayed = brought(mini("ood1", NAS, ALICE, iat=NOW - DAY), HOME, Trust.DNSSEC)
    for order in permutations([here, replayed]):
        weighed = weigh(order, Anchors([pin()]), NOW)
        assert {c.value for c in weighed.claims if c.kind == "key" and c.about == OOD} == {PI.public}
        assert [accepted.revision.iat for accepted in weighed.accepted] == [NOW - 100]


def test_a_newer_document_settles_what_two_left_open_in_any_order() -> None:
    tokens = [mini("ood1", NAS, ALICE), mini("ood1", PI, ALICE), mini("ood1", secret(9), ALICE, iat=NOW - 50)]
    for order in permutations(tokens):
        weighed = weigh([brought(token, HOME) for token in order], Anchors([pin()]), NOW)
        assert not weighed.conflicts
        assert {c.value for c in weighed.claims if c.kind == "key" and c.about == OOD} == {secret(9).public}


def test_neither_of_two_truths_is_kept() -> None:
    two = [brought(mini("ood1", key, ALICE), HOME) for key in (NAS, PI)]
    weighed = weigh(two, Anchors([pin()]), NOW)
    assert weighed.conflicts and not weighed.accepted


def test_a_mark_counts_for_the_key_that_made_it() -> None:
    """A thief of the old key signed far ahead; the owner has pinned a new one since."""
    mark = Mark(OOD, "device-mini", MALLORY.public, Revision(NOW + 10**6, "00"))
    weighed = weigh([brought(mini("ood1", NAS, ALICE), HOME)], Anchors([pin()], [mark]), NOW)
    assert level(weighed, OOD) == Trust.OWNER_SIGNED


def test_what_was_kept_falls_with_its_pin() -> None:
    kept = brought(boot(ALICE, "ood1:192.0.2.1"), HOME, Trust.HOST_SNAPSHOT, KEPT)
    assert level(weigh([kept], Anchors([pin()]), NOW), HOME) == Trust.HOST_SNAPSHOT
    for anchors in (Anchors(), Anchors([pin(owner=MALLORY)]), Anchors([pin(ALICE_ID)])):
        assert weigh([kept], anchors, NOW).claims == ()


def test_an_unsigned_document_ends_too() -> None:
    for iat, exp in ((NOW - DAY, NOW - 1), (NOW + 3600, NOW + DAY)):
        document = read_document({"id": str(HOME), "verificationMethod": [], "iat": iat, "exp": exp})
        claim = Claim(about=HOME, kind="document", key="did", value=document, evidence=fact(Trust.HOST_SNAPSHOT))
        assert weigh([claim], Anchors(), NOW).claims == ()


# --- pins and revocation


def test_beside_a_pin_no_line_gives_another_key_in_any_dress() -> None:
    lies = [
        key_of(HOME, MALLORY, Trust.QUORUM),
        Claim(about=HOME, kind="did", value=str(MALLORY_ID), evidence=fact(Trust.QUORUM)),
        Claim(
            about=HOME,
            kind="document",
            key="did",
            value=PlainDoc(id=HOME, key=MALLORY.public, exp=NOW + DAY),
            evidence=fact(Trust.AUTH_CHANNEL),
        ),
    ]
    weighed = weigh(lies, Anchors([pin()]), NOW)
    assert weighed.claims == () and weighed.faults


def test_a_revoked_pin_gives_no_key_and_signs_for_nobody() -> None:
    own = Claim(about=HOME, kind="key", key="self", value=ALICE.public, evidence=pin().evidence)
    revoked = Anchors([pin(revoked=True)])
    outcome = concluded(HOME, revoked, told(HOME, own))
    assert isinstance(outcome, Revoked)
    elsewhere = device("nas", PI, ALICE)
    assert level(weigh([brought(elsewhere, dev_did(PI.public))], revoked, NOW), dev_did(PI.public)) == Trust.NONE


def test_an_old_document_of_another_machine_does_not_revoke_this_one() -> None:
    anchors = Anchors([pin(least_iat=NOW - DAY // 2)])
    outcome = concluded(OOD, anchors, told(OOD, brought(mini("ood2", NAS, ALICE), HOME)))
    assert isinstance(outcome, Unreachable)
    outcome = concluded(OOD, anchors, told(OOD, brought(mini("ood1", NAS, ALICE), HOME)))
    assert isinstance(outcome, Revoked)


def test_a_resolver_that_says_deactivated_does_not_outweigh_the_owner() -> None:
    gone = Revoked(subject=OOD, why="deactivated", evidence=fact(Trust.AUTH_CHANNEL))
    true = told(OOD, brought(mini("ood1", NAS, ALICE), HOME))
    both: list[Outcome] = [gone, true]
    for answers in permutations(both):
        outcome = concluded(OOD, Anchors([pin()]), *answers)
        assert isinstance(outcome, Found) and own_key(outcome) == NAS.public
    weak = told(OOD, key_of(OOD, NAS, Trust.PLAIN_DNS))
    assert isinstance(concluded(OOD, Anchors(), gone, weak), Revoked)


def test_a_claim_with_two_truths_is_none() -> None:
    """Something else of the subject is sure; its key is disputed by two lines of one weight."""
    sure = brought(boot(ALICE, "ood1"), HOME)
    outcome = concluded(
        HOME, Anchors([pin()]), told(HOME, sure, key_of(HOME, ALICE), *(_text(key) for key in ("one", "other")))
    )
    assert isinstance(outcome, Found) and not list(outcome.of("text"))


def _text(value: str) -> Claim:
    return Claim(about=HOME, kind="text", key="url", value=value, evidence=fact(Trust.AUTH_CHANNEL))


def test_refused_is_not_absent() -> None:
    nothing = Absent(subject=OOD, why="nothing", evidence=fact(Trust.PLAIN_DNS), until=NOW + 60)
    forged = told(OOD, brought(mini("ood1", PI, MALLORY), HOME))
    both: list[Outcome] = [nothing, forged]
    for answers in permutations(both):
        assert isinstance(concluded(OOD, Anchors([pin()]), *answers), Refused)


# --- whatever he says

_LIAR = SecretKey(bytes([77]) * 32)
_LIAR_2 = SecretKey(bytes([78]) * 32)
_ALICE_MINI = mini("ood1", NAS, ALICE)
_HONEST = (
    brought(boot(ALICE, "ood1:192.0.2.1"), HOME),
    brought(_ALICE_MINI, HOME),
    brought(device("nas", NAS, ALICE, zone=HOME, ips=("192.0.2.2",)), NAS_ID),
)
_TRUTHS = weigh(_HONEST, Anchors([pin(), pin(ALICE_ID)]), NOW)
_VICTIMS = (HOME, OOD, NAS_ID, ALICE_ID)
_HIS_ADDRESS = "203.0.113.66"

_dids = st.sampled_from(
    [*_VICTIMS, EVIL, dev_did(_LIAR.public), parse_did("did:key:" + str(Multikey("Ed25519", NAS.public.raw)))]
)
_keys = st.sampled_from([_LIAR, _LIAR_2])
_lines = st.sampled_from([Trust.NONE, Trust.PLAIN_DNS, Trust.AUTH_CHANNEL])
_iats = st.sampled_from([0, NOW - 2 * DAY, NOW - DAY, NOW - DAY + 1, NOW - 1, NOW, NOW + 59, NOW + 61])


@st.composite
def _forged(draw: st.DrawFn) -> Token:
    """A document of any kind about anybody, with his values, signed with a key of his."""
    signer, iat = draw(_keys), draw(_iats)
    about, issuer = draw(_dids), draw(st.none() | _dids)
    times = {"iat": iat, "exp": draw(st.sampled_from([NOW + 1, NOW + DAY, NOW - 1]))}
    methods = [method(draw(st.sampled_from(["#main_key", f"{HOME}#main_key", "#x"])), draw(_keys))]
    envelope = {"id": str(about), "verificationMethod": methods, **times}
    owner = {} if issuer is None else {"owner": str(issuer)}
    shapes: list[dict[str, object]] = [
        {"n": draw(st.sampled_from(["ood1", "x"])), "x": signer.public.x, **times},
        {"n": "ood1", "x": signer.public.x, "z": draw(_dids).id, **times},
        {"id": str(about), "oods": [f"ood1:{_HIS_ADDRESS}"], **owner, **times},
        {"oods": [f"ood1:{_HIS_ADDRESS}"], **times},
        {**envelope, "oods": [f"ood1:{_HIS_ADDRESS}"], "hostname": "home.example", **owner},
        {**envelope, "name": "x", "full_name": "x"},
        envelope,
        *(
            {
                **envelope,
                "name": draw(st.sampled_from(["ood1", "home", "nas"])),
                "device_type": "ood",
                "ips": [_HIS_ADDRESS],
                "zone_did": str(draw(_dids)),
                **more,
                **owner,
            }
            for more in ({}, {"update_time": iat, "arch": "x", "os": "x", "all_ip": [_HIS_ADDRESS]})
        ),
        {"did": str(about), "auth_key": signer.public.jwk(), "name": "x", "nickname": "x", **times},
    ]
    claims = draw(st.sampled_from(shapes))
    return read_token(sign_token(claims, signer, draw(st.none() | st.just("#main_key"))))  # type: ignore[arg-type]


@st.composite
def _lie(draw: st.DrawFn) -> Claim:
    about, evidence, key = draw(_dids), fact(draw(_lines), "liar"), draw(_keys).public
    match draw(st.sampled_from(["token", "token", "replay", "key", "did", "address", "document"])):
        case "token":
            return Claim(about=about, kind="token", value=draw(_forged()), evidence=evidence)
        case "replay":
            return Claim(about=about, kind="token", value=draw(st.sampled_from(_HONEST)).value, evidence=evidence)
        case "key":
            role = draw(st.sampled_from(["self", "owner"]))
            return Claim(about=about, kind="key", key=role, value=key, evidence=evidence)
        case "did":
            return Claim(about=about, kind="did", value=str(dev_did(key)), evidence=evidence)
        case "address":
            return Claim(about=about, kind="address", value=_HIS_ADDRESS, evidence=evidence)
    document = PlainDoc(id=about, key=key, exp=NOW + DAY)
    return Claim(about=about, kind="document", key="did", value=document, evidence=evidence)


def _is_his(value: object) -> bool:
    his = {_LIAR.public, _LIAR_2.public, str(dev_did(_LIAR.public)), str(dev_did(_LIAR_2.public)), _HIS_ADDRESS}
    if isinstance(value, str | PublicKey):
        return value in his
    return any(text in repr(value) for text in (_HIS_ADDRESS, repr(_LIAR.public), repr(_LIAR_2.public)))


@settings(max_examples=200, deadline=None)
@given(lies=st.lists(_lie(), max_size=8), first=st.booleans())
def test_no_lie_rises_above_its_line_and_no_truth_falls(lies: list[Claim], first: bool) -> None:
    anchors = Anchors([pin(), pin(ALICE_ID)])
    weighed = weigh([*lies, *_HONEST] if first else [*_HONEST, *lies], anchors, NOW)
    line = max((lie.trust for lie in lies), default=Trust.NONE)
    for claim in weighed.claims:
        if claim.about.canonical in _VICTIMS:
            assert claim.trust <= line or not _is_his(claim.value), claim
    for truth in _TRUTHS.claims:
        assert any(
            (c.about, c.kind, c.key, c.value) == (truth.about, truth.kind, truth.key, truth.value)
            and c.trust == truth.trust
            for c in weighed.claims
        ), truth
    assert not any(side.trust > line for sides in weighed.conflicts for side in sides)
    assert {one.revision for one in weighed.accepted if one.pinned} == {one.revision for one in _TRUTHS.accepted}


@settings(max_examples=100, deadline=None)
@given(lies=st.lists(_lie(), max_size=6), subject=st.sampled_from(_VICTIMS))
def test_an_unpinned_victim_is_never_known_above_the_line(lies: list[Claim], subject: Did) -> None:
    outcome = concluded(subject, Anchors(), told(subject, *lies))
    if isinstance(outcome, Found):
        line = max(lie.trust for lie in lies)
        assert all(c.trust <= line or not _is_his(c.value) for c in outcome.claims if c.about.canonical == subject)
        assert all(c.kind in IDENTITY | {"address"} for c in outcome.claims)


def test_the_honest_claims_are_what_they_should_be() -> None:
    assert not _TRUTHS.faults and all(claim.trust == Trust.OWNER_SIGNED for claim in _TRUTHS.claims)
    assert len(_TRUTHS.accepted) == 4 and replace(_TRUTHS.accepted[0]) == _TRUTHS.accepted[0]
