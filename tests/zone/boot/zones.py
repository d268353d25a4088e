"""Zones for tests: machines with keys from small numbers, and what their owner signed for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cyfs_ns.identity.did import Did, dev_did, parse_did
from cyfs_ns.identity.documents import DeviceDoc
from cyfs_ns.identity.issue import Issuer
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.oods import read_ood
from cyfs_ns.identity.request import DeviceRequest
from cyfs_ns.identity.strictjson import Json
from zone.boot.known import ZoneState, read_state
from zone.membership import Membership, read_membership, write_membership

NOW = 1_790_000_000
DAY = 86_400
HOME = parse_did("did:web:home.example")


def secret(number: int) -> SecretKey:
    return SecretKey(bytes([number]) * 32)


ALICE, MALLORY = secret(1), secret(2)
OOD1, OOD2, OOD3, NAS, PI = (secret(number) for number in range(11, 16))
KEYS = {"ood1": OOD1, "ood2": OOD2, "ood3": OOD3, "nas": NAS, "pi": PI}


@dataclass(frozen=True)
class Signed:
    """What an owner signed at one moment: the zone's token, and each machine's."""

    owner: str
    zone: str
    devices: Mapping[str, str]

    def text(self, name: str) -> bytes:
        return write_membership(self.owner, self.zone, self.devices[name])

    def of(self, name: str, now: float | None = None) -> Membership:
        return read_membership(self.text(name), now)

    def state(self, membership: Membership) -> ZoneState:
        return read_state(self.zone, membership)


def sign(
    *oods: str,
    nodes: Sequence[str] = (),
    iat: int = NOW - DAY,
    exp: int = NOW + DAY,
    owner: SecretKey = ALICE,
    zone: Did = HOME,
    keys: Mapping[str, SecretKey] = KEYS,
    extra: Mapping[str, Json] | None = None,
    sn: str | None = None,
    ports: Mapping[str, int] | None = None,
) -> Signed:
    """The zone of ``oods``, as a zone's document names them, and of ``nodes``.  ``ports``: where they take tunnels."""
    issuer = Issuer(key=owner, id=dev_did(owner.public), iat=iat, exp=exp)
    machines = [read_ood(ood) for ood in oods]
    devices: dict[str, DeviceDoc] = {}
    for name in [*(machine.name for machine in machines), *nodes]:
        wish = DeviceRequest(name=name, key=keys[name].public, zone=zone, iat=iat, exp=exp)
        devices[name] = replace(issuer.device(wish, zone), rtcp_port=(ports or {}).get(name), extra=extra or {})
    boot = issuer.boot(zone, machines, sn)
    document = issuer.zone(boot, issuer.sign(boot), devices)
    tokens = {name: issuer.sign(device) for name, device in devices.items()}
    return Signed(issuer.sign(issuer.owner("alice")), issuer.sign(document), tokens)
