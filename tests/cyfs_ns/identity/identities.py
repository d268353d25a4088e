"""People and machines for tests: keys from small numbers, and documents signed with them."""

from __future__ import annotations

from typing import Any

from cyfs_ns.identity.did import Did, dev_did, parse_did, short_form
from cyfs_ns.identity.documents import DeviceDoc, DeviceMini, ZoneBoot
from cyfs_ns.identity.keys import PublicKey, SecretKey
from cyfs_ns.identity.oods import read_ood
from cyfs_ns.identity.token import Token, read_token, sign_token
from cyfs_ns.trust.outcome import Found, Outcome

NOW = 1_790_000_000
DAY = 86_400


def secret(number: int) -> SecretKey:
    return SecretKey(bytes([number]) * 32)


ALICE, MALLORY, NAS, PI = (secret(number) for number in (1, 2, 3, 4))
HOME = parse_did("did:web:home.example")


def mini(
    name: str, device: SecretKey, owner: SecretKey, zone: Did | None = HOME, iat: int = NOW - DAY, **more: Any
) -> Token:
    extra = {} if zone is None else {"z": short_form(zone)}
    document = DeviceMini(name=name, key=device.public, iat=iat, exp=more.pop("exp", NOW + DAY), extra=extra, **more)
    return read_token(sign_token(document.claims(), owner))


def boot(owner: SecretKey, *oods: str, zone: Did | None = HOME, iat: int = NOW - DAY, exp: int = NOW + DAY) -> Token:
    document = ZoneBoot(
        id=zone, oods=tuple(read_ood(ood) for ood in oods), owner=dev_did(owner.public), iat=iat, exp=exp
    )
    return read_token(sign_token(document.claims(), owner))


def device(name: str, key: SecretKey, owner: SecretKey, iat: int = NOW - DAY, **more: Any) -> Token:
    document = DeviceDoc(
        id=more.pop("id", dev_did(key.public)),
        key=key.public,
        name=name,
        owner=more.pop("whose", dev_did(owner.public)),
        iat=iat,
        exp=more.pop("exp", NOW + DAY),
        **more,
    )
    return read_token(sign_token(document.claims(), owner))


def own_key(outcome: Outcome) -> PublicKey | None:
    """The subject's own key, the strongest claim."""
    assert isinstance(outcome, Found)
    return next((claim.value for claim in outcome.of("key", "self") if isinstance(claim.value, PublicKey)), None)
