"""What is said in other words: the claims that a believed document makes, and the key that a claim gives."""

from __future__ import annotations

from dataclasses import replace

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, dev_did, parse_did
from cyfs_ns.identity.documents import DeviceDoc, DeviceInfo, DeviceMini, OwnerDoc, ZoneBoot, ZoneDoc
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.token import Token
from cyfs_ns.trust.evidence import Claim, Kind
from cyfs_ns.trust.places import device_did


def spoken(claim: Claim) -> list[Claim]:
    """What a document that is believed says."""
    document, said = claim.value, []

    def say(kind: Kind, key: str, value: str | PublicKey, about: Did, what: str) -> None:
        evidence = replace(claim.evidence, what=what, because=(claim.evidence,))
        said.append(Claim(about=about, kind=kind, key=key, value=value, evidence=evidence))

    if isinstance(document, DeviceInfo):
        for address in document.all_ips:
            say("address", "", address, claim.about, f"{claim.about} reports {address}")
        return said
    if isinstance(document, DeviceDoc | DeviceMini | OwnerDoc) or (isinstance(document, ZoneDoc) and document.key):
        key = document.main_key
        assert key is not None
        say("key", "self", key, claim.about, f"{claim.about} has the key {key.x}")
        if claim.about.key is None:
            say("did", "", str(dev_did(key)), claim.about, f"{claim.about} is {dev_did(key)}")
    if isinstance(document, DeviceDoc):
        for address in document.ips:
            say("address", "", address, claim.about, f"{document.name} is at {address}")
    if isinstance(document, ZoneBoot | ZoneDoc):
        for ood in document.oods:
            if ood.ip is not None:
                say("address", "", ood.ip, device_did(ood.name, claim.about), f"{ood.name} is at {ood.ip}")
            if ood.ip is not None and ood.is_gateway and ood.on_wan:
                say("address", "", ood.ip, claim.about, f"{ood.name}, a gateway, is at {ood.ip}")
    return said


def key_in(claim: Claim) -> PublicKey | None:
    """The key that an unsigned claim gives whom it is about, said in one way or another."""
    value = claim.value
    if isinstance(value, PublicKey):
        return value
    if claim.kind == "did" and isinstance(value, str):
        try:
            return parse_did(value).key
        except BadWire:
            return None
    return None if isinstance(value, str | bytes | Token) else value.main_key
