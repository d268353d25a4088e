"""An owner and machines for tests of activation: keys from small numbers, requests, and what is signed for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cyfs_ns.identity.did import dev_did, parse_did
from cyfs_ns.identity.documents import ZoneDoc
from cyfs_ns.identity.issue import Issuer
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.request import DeviceRequest
from cyfs_ns.identity.token import read_token
from node.activation.signing import Signed, Wish, plan_entry, plan_removal, sign_entry, sign_removal
from zone.membership import Membership, read_membership

NOW = 1_790_000_000
YEAR = 365 * 86_400
HOME = parse_did("did:web:home.example")


def secret(number: int) -> SecretKey:
    return SecretKey(bytes([number]) * 32)


ALICE, MALLORY, BOX, NAS, PI = (secret(number) for number in (1, 2, 11, 12, 13))


@dataclass
class Owner:
    """Signs one zone, each time a second later."""

    key: SecretKey = ALICE
    iat: int = NOW
    last: ZoneDoc | None = None
    issuer: Issuer = field(init=False)

    def _next(self) -> str:
        self.iat += 1
        self.issuer = Issuer(key=self.key, id=dev_did(self.key.public), iat=self.iat, exp=self.iat + YEAR)
        return self.issuer.sign(self.issuer.owner("alice"))

    def _signed(self, signed: Signed) -> Signed:
        document = read_document(read_token(signed.zone).claims)
        assert isinstance(document, ZoneDoc)
        self.last = document
        return signed

    def sign(self, name: str, key: SecretKey, zone: Any = HOME, ips: tuple[str, ...] = (), **wish: Any) -> bytes:
        request = DeviceRequest(name=name, key=key.public, ips=ips, zone=zone, iat=NOW, exp=NOW + 60)
        plan = plan_entry(self.last, Wish(request=request, zone=HOME, **wish))
        owner = self._next()
        membership = self._signed(sign_entry(self.issuer, owner, plan, request)).membership
        assert membership is not None
        return membership

    def enter(self, name: str, key: SecretKey, **wish: Any) -> Membership:
        return read_membership(self.sign(name, key, **wish))

    def remove(self, name: str) -> Signed:
        assert self.last is not None
        plan = plan_removal(self.last, name)
        self._next()
        return self._signed(sign_removal(self.issuer, plan))
