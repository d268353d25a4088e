"""Owners, machines and the SN that the tests of accounts share: real keys and signatures, a clock that is a number."""

from __future__ import annotations

from dataclasses import dataclass, field

from cyfs_gateway.sn.accounts import NEVER, Stamp
from cyfs_gateway.sn.admission import Circumstances, Policy, Registrar, Verdict
from cyfs_gateway.sn.registry import Registry
from cyfs_gateway.sn.requests import Action, Admit, Request, read_request, sign_request
from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.documents import DeviceDoc
from cyfs_ns.identity.issue import Issuer
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.token import Token, read_token

SN = "sn.example"
NOW = 1_795_000_000.0
"""In November 2026."""
HERE = Circumstances(bytes([192, 0, 2, 7]))


def secret(seed: int) -> SecretKey:
    return SecretKey(seed.to_bytes(32, "big"))


@dataclass
class Person:
    """Somebody with a key, who remembers what they signed last."""

    key: SecretKey
    did: Did
    last: Stamp = field(default=NEVER)

    def sign(self, action: Action, now: float = NOW, sn: str = SN) -> str:
        text, self.last = sign_request(action, self.did, self.key, sn, now, self.last)
        return text

    def ask(self, action: Action, now: float = NOW) -> Request:
        return read_request(self.sign(action, now), SN, now).proven(self.key.public)

    def device(self, machine: Person, name: str = "ood1", now: float = NOW, days: int = 365) -> Token:
        """The document that makes ``machine`` one of this person's."""
        issuer = Issuer(key=self.key, id=self.did, iat=int(now), exp=int(now) + days * 86_400)
        key = machine.key.public
        document = DeviceDoc(id=dev_did(key), key=key, name=name, owner=self.did, iat=issuer.iat, exp=issuer.exp)
        return read_token(issuer.sign(document))


def person(seed: int) -> Person:
    key = secret(seed)
    return Person(key, dev_did(key.public))


class Office:
    """An SN without a disk: what is decided is applied at once."""

    def __init__(self, **policy: object) -> None:
        self.registry = Registry()
        self.registrar = Registrar(self.registry, Policy(domain=SN, **policy))  # type: ignore[arg-type]

    def __call__(self, who: Person, action: Action, now: float = NOW, around: Circumstances = HERE) -> Verdict:
        return self.carry_out(who.ask(action, now), now, around)

    def carry_out(self, request: Request, now: float = NOW, around: Circumstances = HERE) -> Verdict:
        verdict = self.registrar.decide(request, around, now)
        self.registry.apply(verdict.changes)
        return verdict

    def admit(self, owner: Person, machine: Person, name: str = "ood1", now: float = NOW) -> Verdict:
        return self(machine, Admit(owner.device(machine, name, now)), now)
