"""Who a peer is, as far as what was found proves it, and what it may do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import NoReturn

import pytest

from cyfs_gateway.config.model import KeptTunnel, RtcpConfig, ServiceConfig
from cyfs_gateway.flow import PEER, Flow, Identity
from cyfs_gateway.host import Vouched
from cyfs_gateway.peers import (
    Known,
    PeerRules,
    brought_along,
    check_not_revoked,
    gateways_for,
    gateways_of,
    joined,
    known_as,
    known_by,
    known_of,
    known_still,
    level_needed,
    may_bootstrap,
    nobody_but,
)
from cyfs_gateway.rules.parse import parse_condition, parse_rule
from cyfs_ns.errors import ConfigFault, Refused
from cyfs_ns.identity.did import Did, dev_did, parse_did
from cyfs_ns.identity.documents import DeviceDoc
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.token import Token
from cyfs_ns.trust import outcome
from cyfs_ns.trust.anchors import Anchors, Pin
from cyfs_ns.trust.evidence import Claim, Evidence
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.places import device_did
from cyfs_ns.trust.weigh import weigh
from tests.cyfs_ns.identity.identities import ALICE, DAY, HOME, MALLORY, NAS, NOW, boot, device, mini
from tunnels.endpoint import Target

PHOTOS, DEV = device_did("photos", HOME), dev_did(NAS.public)
OWNER = dev_did(ALICE.public)
BOB = parse_did("did:web:bob.example")


def pin(about: Did, key: SecretKey, *, revoked: bool = False) -> Pin:
    return Pin(about=about, key=key.public, revoked=revoked, source="test", at=NOW)


def told(*tokens: Token, anchors: Anchors, trust: Trust = Trust.PLAIN_DNS, about: Did = HOME) -> Sequence[Claim]:
    fact = Evidence(trust=trust, what="found", source="test", at=NOW)
    return weigh([Claim(about=about, kind="token", value=one, evidence=fact) for one in tokens], anchors, NOW).claims


def known(*tokens: Token, anchors: Anchors, peer: Did = PHOTOS, least: Trust = Trust.HOST_SNAPSHOT) -> Known | None:
    return known_by(peer, told(*tokens, anchors=anchors), least, anchors, {})


PINNED = Anchors([pin(HOME, ALICE)])


def test_a_machine_of_a_pinned_zone_is_its_owners() -> None:
    found = known(boot(ALICE, "photos"), mini("photos", NAS, ALICE, rtcp_port=2981), anchors=PINNED)
    assert found is not None
    assert (found.key, found.port) == (NAS.public, 2981)
    assert found.identity == Identity(
        did=str(PHOTOS), host="photos.home.example", owner=str(OWNER), zone=str(HOME), trust=Trust.OWNER_SIGNED
    )


def test_without_a_pin_nobody_is_anybodys() -> None:
    nobody = Anchors()
    tokens = (boot(ALICE, "photos"), mini("photos", NAS, ALICE))
    assert known(*tokens, anchors=nobody) is None
    found = known(*tokens, anchors=nobody, least=Trust.PLAIN_DNS)
    # Without the owner's key even the DNS proves nothing of it.
    assert found is None or (found.identity.owner, found.identity.zone) == ("", "")


def test_a_key_says_of_itself_whose_it_is_and_that_counts_for_nothing() -> None:
    boast = device("photos", NAS, NAS, whose=DEV, zone=HOME)
    for anchors in (Anchors(), PINNED):
        found = known(boast, anchors=anchors, peer=DEV, least=Trust.KEY_PROVEN)
        assert found is not None
        assert found.identity == nobody_but(DEV, {})


@pytest.mark.parametrize(
    ("pins", "whose", "owner", "zone"),
    [
        ([pin(HOME, ALICE)], OWNER, OWNER, HOME),
        ([pin(OWNER, ALICE)], OWNER, OWNER, None),
        ([pin(HOME, ALICE), pin(BOB, MALLORY)], OWNER, OWNER, HOME),
        ([pin(HOME, ALICE)], BOB, OWNER, HOME),
        ([pin(HOME, ALICE, revoked=True)], OWNER, None, None),
    ],
)
def test_an_owner_is_whose_key_is_pinned(pins: list[Pin], whose: Did, owner: Did | None, zone: Did | None) -> None:
    anchors = Anchors(pins)
    token = device("photos", NAS, ALICE, whose=whose, zone=HOME)
    found = known_by(DEV, told(token, anchors=anchors), Trust.KEY_PROVEN, anchors, {})
    assert found is not None
    assert (found.identity.owner, found.identity.zone) == (str(owner or ""), str(zone or ""))


def test_what_is_brought_along_is_a_snapshot_and_only_under_a_pin() -> None:
    token = device("photos", NAS, ALICE, zone=HOME)
    claims = brought_along(token, PHOTOS, PINNED, NOW)
    assert {claim.trust for claim in claims} == {Trust.HOST_SNAPSHOT}
    found = known_by(PHOTOS, claims, Trust.HOST_SNAPSHOT, PINNED, {})
    assert found is not None
    assert (found.key, found.identity.owner, found.identity.trust) == (NAS.public, str(OWNER), Trust.HOST_SNAPSHOT)
    assert known_by(PHOTOS, claims, Trust.OWNER_SIGNED, PINNED, {}) is None
    other = device_did("other", HOME)
    assert known_by(other, brought_along(token, other, PINNED, NOW), Trust.HOST_SNAPSHOT, PINNED, {}) is None
    for forged, anchors in (
        (device("photos", NAS, MALLORY, zone=HOME), PINNED),
        (token, Anchors()),
        (token, Anchors([pin(HOME, ALICE, revoked=True)])),
        (device("photos", NAS, ALICE, zone=HOME, iat=NOW - 2 * DAY, exp=NOW - DAY), PINNED),
    ):
        assert not brought_along(forged, PHOTOS, anchors, NOW)


def test_how_sure_is_sure_enough() -> None:
    assert level_needed(PHOTOS, "authority_current") == Trust.OWNER_SIGNED
    assert level_needed(PHOTOS, "trusted_snapshot") == Trust.HOST_SNAPSHOT
    assert level_needed(DEV, "authority_current") == Trust.KEY_PROVEN
    assert not may_bootstrap(PHOTOS, PINNED)
    assert may_bootstrap(BOB, PINNED)


# What they may


def service(name: str, port: int, *allow: str, network: str = "tcp") -> ServiceConfig:
    conditions = tuple(parse_condition(one) for one in allow)
    target = Target("127.0.0.1", 1)
    return ServiceConfig(name=name, port=port, network=network, target=target, allow=conditions)  # type: ignore[arg-type]


def rules(*services: ServiceConfig, admission: Sequence[str] = (), keep: Sequence[Did] = (), more: Sequence[str] = ()):
    config = RtcpConfig(
        services=services,
        admission=tuple(parse_rule(line) for line in admission),
        keep=tuple(KeptTunnel(peer=peer) for peer in keep),
    )
    return PeerRules(config, [parse_rule(line) for line in more], None)  # type: ignore[arg-type]


FRIEND = Identity(did=str(PHOTOS), host="photos.home.example", zone=str(HOME), trust=Trust.OWNER_SIGNED)
STRANGER = nobody_but(DEV, {})


def wish(identity: Identity, port: int = 80, network: str = "tcp") -> Flow:
    return Flow(network, PEER, "", 0, "", "127.0.0.1", port, identity=identity)


def test_conditions_of_the_speed_test_are_judged_when_they_are_read() -> None:
    class NoGeo:
        def __getattr__(self, name: str) -> NoReturn:
            raise ConfigFault("the database is missing")

    config = RtcpConfig(speedtest=(parse_condition("GEOIP,CN"),))
    with pytest.raises(ConfigFault, match="the database is missing"):
        PeerRules(config, [], NoGeo())


def test_a_service_is_asked_for_by_port_or_name_and_serves_whom_it_allows() -> None:
    mine = rules(service("web", 80, f"DID,{PHOTOS}"), service("dns", 80, "ZONE,home.example", network="udp"))
    for flow, name in ((wish(FRIEND), ""), (wish(FRIEND, 9), "web")):
        found = mine.service(flow, name)
        assert found is not None and found[0].name == "web"
        assert found[1].why.startswith("service web, rule 0: DID,")
    found = mine.service(wish(FRIEND, network="udp"), "")
    assert found is not None and found[0].name == "dns"
    assert mine.service(wish(FRIEND, 81), "") is None
    assert mine.service(wish(FRIEND), "other") is None
    with pytest.raises(Refused, match="web is not for did:dev"):
        mine.service(wish(STRANGER), "")


@pytest.mark.parametrize(
    "named",
    [
        rules(service("web", 80, f"DID,{DEV}")),
        rules(service("web", 80, f"AND,((DID,{DEV}),(TRUST,key-proven))")),
        rules(keep=[DEV]),
        rules(more=[f"DID,{DEV},DIRECT"]),
        rules(admission=["TRUST,key-proven,ACCEPT"]),
    ],
)
def test_who_is_let_in(named: PeerRules) -> None:
    named.admit("192.0.2.1", STRANGER)
    rules().admit("192.0.2.1", FRIEND)
    with pytest.raises(Refused, match="a stranger here"):
        rules().admit("192.0.2.1", STRANGER)
    with pytest.raises(Refused, match="no tunnel for did:web:photos"):
        rules(admission=[f"DID,{PHOTOS},REJECT", "MATCH,ACCEPT"]).admit("192.0.2.1", FRIEND)
    with pytest.raises(Refused, match="no rule matched"):
        rules(admission=["SRC-IP-CIDR,198.51.100.0/24,ACCEPT"]).admit("192.0.2.1", FRIEND)


# Of those who are inside


def outcome_of(*tokens: Token, anchors: Anchors, least: Trust = Trust.OWNER_SIGNED, trust: Trust = Trust.PLAIN_DNS):
    """What a resolver makes of ``tokens`` about PHOTOS."""
    claims = tuple(told(*tokens, anchors=anchors, trust=trust))
    mine = [claim.trust for claim in claims if claim.about.canonical == PHOTOS]
    if max(mine, default=Trust.NONE) < least:
        return outcome.TooWeak(subject=PHOTOS, asked=least, found=claims)
    return outcome.Found(subject=PHOTOS, claims=tuple(claim for claim in claims if claim.trust >= least))


STRICT, BOOTSTRAP = RtcpConfig(), RtcpConfig(txt_bootstrap=True)
DOCUMENTS = boot(ALICE, "photos"), mini("photos", NAS, ALICE)
SILENCE = outcome.Unreachable(subject=PHOTOS, why="nobody answers")
NOTHING = outcome.Absent(
    subject=PHOTOS, why="no such name", evidence=Evidence(trust=Trust.PLAIN_DNS, what="x", source="x", at=NOW)
)
ENDED = outcome.Revoked(subject=PHOTOS, why="its owner ended it", evidence=NOTHING.evidence)
AGAINST = outcome.Refused(subject=PHOTOS, why="goes against a pin")
SAID = outcome_of(*DOCUMENTS, anchors=PINNED)
NO_PIN = outcome.TooWeak(
    subject=PHOTOS,
    asked=Trust.OWNER_SIGNED,
    found=(Claim(about=PHOTOS, kind="key", key="self", value=NAS.public, evidence=NOTHING.evidence),),
)
MOVED = outcome_of(boot(ALICE, "photos"), mini("photos", MALLORY, ALICE), anchors=PINNED)


@pytest.mark.parametrize(
    ("before", "said", "config", "anchors", "stays"),
    [
        (Trust.OWNER_SIGNED, SAID, STRICT, PINNED, True),
        (Trust.HOST_SNAPSHOT, SAID, STRICT, PINNED, True),
        (Trust.OWNER_SIGNED, MOVED, STRICT, PINNED, False),
        (Trust.OWNER_SIGNED, ENDED, STRICT, PINNED, False),
        (Trust.OWNER_SIGNED, AGAINST, STRICT, PINNED, False),
        (Trust.OWNER_SIGNED, NO_PIN, STRICT, Anchors(), False),
        (Trust.OWNER_SIGNED, SILENCE, STRICT, PINNED, False),
        (Trust.OWNER_SIGNED, NOTHING, STRICT, PINNED, False),
        (Trust.PLAIN_DNS, NO_PIN, BOOTSTRAP, Anchors(), True),
        (Trust.PLAIN_DNS, NO_PIN, STRICT, Anchors(), False),
        (Trust.PLAIN_DNS, SILENCE, BOOTSTRAP, Anchors(), True),
        (Trust.PLAIN_DNS, SILENCE, STRICT, Anchors(), False),
        (Trust.PLAIN_DNS, SILENCE, BOOTSTRAP, PINNED, False),
    ],
)
def test_who_may_stay(before: Trust, said: outcome.Outcome, config: RtcpConfig, anchors: Anchors, stays: bool) -> None:
    with nullcontext() if stays else pytest.raises(Refused):
        known_still(PHOTOS, NAS.public, before, said, config, anchors, {})


def test_what_is_kept_keeps_a_tunnel_and_opens_none() -> None:
    """Nobody can be asked, and the files here say what they said: as much as before, and no more."""
    kept = outcome.TooWeak(
        subject=PHOTOS,
        asked=Trust.OWNER_SIGNED,
        found=tuple(
            replace(claim, evidence=replace(claim.evidence, trust=min(claim.trust, Trust.HOST_SNAPSHOT)))
            for claim in told(*DOCUMENTS, anchors=PINNED)
        ),
    )
    assert known_of(PHOTOS, kept, STRICT, PINNED, {}) is None
    assert known_still(PHOTOS, NAS.public, Trust.OWNER_SIGNED, kept, STRICT, PINNED, {}) is None
    for key, before in ((MALLORY, Trust.OWNER_SIGNED), (NAS, Trust.HOST_SNAPSHOT)):
        with pytest.raises(Refused):
            known_still(PHOTOS, key.public, before, kept, STRICT, PINNED, {})


def test_what_a_module_has_verified_decides_whose_key_it_is() -> None:
    document = read_document(device("photos", NAS, ALICE, zone=HOME).claims, DeviceDoc.kind)
    assert isinstance(document, DeviceDoc)
    vouched = Vouched(document, ALICE.public, ("192.0.2.7",))
    known = known_as(PHOTOS, vouched, PINNED, {})
    assert known is not None
    assert (known.key, known.addresses[0]) == (NAS.public, "192.0.2.7")
    assert (known.identity.zone, known.identity.trust) == (str(HOME), Trust.HOST_SNAPSHOT)
    # Another key that is said, however surely, is nobody's; where it was said to be is one more place.
    said = known_by(PHOTOS, told(*DOCUMENTS, anchors=PINNED), Trust.OWNER_SIGNED, PINNED, {})
    assert said is not None
    old = replace(said, key=MALLORY.public, addresses=("192.0.2.8",))
    both = joined(old, known)
    assert both is not None
    assert (both.key, both.identity) == (known.key, known.identity)
    assert both.addresses == (*known.addresses, "192.0.2.8")
    # The same key is as sure as it is said to be.
    sure = joined(said, known)
    assert sure is not None
    assert sure.identity == said.identity
    assert joined(None, known) == known
    assert joined(said, None) == said
    # What is pinned here counts more.
    owners = pin(HOME, ALICE)
    for pins in (
        [],
        [pin(HOME, MALLORY)],
        [pin(HOME, ALICE, revoked=True)],
        [replace(owners, least_iat=document.iat + 1)],
        [owners, pin(OWNER, ALICE, revoked=True)],
        [owners, pin(PHOTOS, MALLORY)],
        [owners, pin(PHOTOS, NAS, revoked=True)],
    ):
        assert known_as(PHOTOS, vouched, Anchors(pins), {}) is None


def test_a_key_that_is_revoked_is_so_by_every_name() -> None:
    for held in ([], [pin(HOME, ALICE)], [pin(DEV, NAS)], [pin(PHOTOS, NAS, revoked=True), pin(DEV, NAS)]):
        check_not_revoked(NAS.public, Anchors(held))
    for held in ([pin(DEV, NAS, revoked=True)], [pin(PHOTOS, NAS, revoked=True)]):
        with pytest.raises(Refused, match="revoked"):
            check_not_revoked(NAS.public, Anchors(held))


def test_the_gateways_of_a_zone_are_those_its_documents_name() -> None:
    def led(*machines: str, signer: SecretKey = ALICE, anchors: Anchors = PINNED) -> list[str]:
        found = gateways_of(HOME, told(boot(signer, *machines), anchors=anchors), Trust.OWNER_SIGNED)
        return [str(one) for one in found]

    assert led("photos") == ["did:web:photos.home.example"]
    assert led("$photos", "#door", "nas@nat") == ["did:web:door.home.example", "did:web:nas.home.example"]
    assert led("nas@nat", "#door:192.0.2.1") == ["did:web:door.home.example", "did:web:nas.home.example"]
    assert led("photos", anchors=Anchors()) == led("photos", signer=MALLORY) == led("$photos") == []
    assert gateways_of(PHOTOS, told(*DOCUMENTS, anchors=PINNED), Trust.OWNER_SIGNED) == ()


def test_a_name_below_a_zone_is_its_gateways_unless_it_may_be_a_machines() -> None:
    claims = told(boot(ALICE, "photos", "$disk"), anchors=PINNED)
    for name, led in (("www", True), ("photos", False), ("disk", False), ("cam.disk", False), ("disk.garden", True)):
        below = device_did(name, HOME)
        assert gateways_for(below, HOME, claims, Trust.OWNER_SIGNED) == ((PHOTOS,) if led else ()), name
    assert gateways_for(HOME, HOME, claims, Trust.OWNER_SIGNED) == (PHOTOS,)
    fact = Evidence(trust=Trust.PLAIN_DNS, what="found", source="test", at=NOW)
    listed = read_document(boot(MALLORY, "www").claims, "boot")
    weak = Claim(about=HOME, kind="document", key="boot", value=listed, evidence=fact)
    assert gateways_for(device_did("www", HOME), HOME, [*claims, weak], Trust.OWNER_SIGNED) == ()
