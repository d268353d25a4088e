"""What users ask of an SN: signed, dated, meant for this SN alone, and obeyed once.

A request is a token (``cyfs_ns/identity/token.py``) of its owner or of a machine::

    {"op": "sn.register", "aud": "sn.example", "iss": "did:dev:…", "iat": …, "exp": …, "seq": …, "name": "alice"}

``op`` starts with ``sn.``, so that nothing else that was ever signed with these keys can be taken for a request.
``aud`` is the SN's domain: what was said to one SN is worth nothing at another.  It is good for minutes.  Once-only
needs no memory of what was seen: of each issuer only what is later (by ``iat``, then ``seq``) than the last obeyed is
obeyed.  A client that asks twice within a second counts ``seq`` up.

Reading believes nothing.  :class:`Claimed` becomes a :class:`Request` by the key that its issuer is known by, and that
key the reader does not choose: a DID that is a key has its own, any other one's comes from the books or from
whoever resolves names.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from cyfs_gateway.sn.accounts import NEVER, Stamp
from cyfs_ns import names
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.keys import PublicKey, SecretKey
from cyfs_ns.identity.proof import CLOCK_SKEW
from cyfs_ns.identity.strictjson import Json
from cyfs_ns.identity.token import Token, read_token, sign_token
from cyfs_ns.identity.txt import MOST_TXT

MOST_REQUEST = 16384
"""Characters of the longest request: one with a device document inside."""

LIFETIME = 600
"""Seconds for which a request may be good."""

_MOST_DOCUMENT = 8192
_MOST_CODE = 64
_MOST_ADDRESSES = 8
_MOST_SEQ = 1 << 31
_MOST_ISSUERS = 8
_ISSUER = re.compile(r"[!-~][ -~]{0,199}\Z").match


@dataclass(frozen=True, slots=True)
class Register:
    """The owner wants the name ``name``, and an account if they have none yet; ``code`` is their invitation."""

    name: str
    code: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Bind:
    """The owner wants their own domain ``domain`` served."""

    domain: str


@dataclass(frozen=True, slots=True)
class Release:
    """The owner gives the name or domain ``name`` up."""

    name: str


@dataclass(frozen=True, slots=True)
class Point:
    """The owner wants ``device`` to answer for ``name``; None: the machine that was admitted first."""

    name: str
    device: Did | None


@dataclass(frozen=True, slots=True)
class Publish:
    """The owner wants this, and no more, to stand in DNS beside ``name``: the ``boot`` document of the zone that bears
    it, and the certificate authorities ``issuers`` (RFC 8659 §4.2; none: the SN's usual ones)."""

    name: str
    boot: Token | None = None
    issuers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Admit:
    """A machine shows the ``document`` its owner signed; ``owner`` says who that is where the document does not."""

    document: Token
    owner: Did | None = None


@dataclass(frozen=True, slots=True)
class Remove:
    """The owner's machine ``device`` is to be known no more."""

    device: Did


@dataclass(frozen=True, slots=True)
class Report:
    """A machine says at which ``addresses`` it is, canonical."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rekey:
    """The owner has another key: ``document`` is the owner document that says so, signed with it."""

    document: Token


@dataclass(frozen=True, slots=True)
class Recover:
    """The owner starts again: all machines go, and no document issued until now brings one back."""


@dataclass(frozen=True, slots=True)
class Close:
    """The owner gives everything up."""


Action: TypeAlias = Register | Bind | Release | Point | Publish | Admit | Remove | Report | Rekey | Recover | Close


@dataclass(frozen=True, slots=True)
class Request:
    """``issuer``, who holds ``key``, wants ``action``.  Only :meth:`Claimed.proven` makes one."""

    issuer: Did
    key: PublicKey
    stamp: Stamp
    action: Action


@dataclass(frozen=True, slots=True)
class Claimed:
    """A request that is well formed and in time.  Nothing of it may be acted on before :meth:`proven`."""

    issuer: Did
    stamp: Stamp
    _action: Action
    _token: Token

    @property
    def code(self) -> str:
        """The invitation it comes with; empty: none."""
        return self._action.code if isinstance(self._action, Register) else ""

    def proven(self, key: PublicKey) -> Request:
        """The request, if the holder of ``key``, who is known to be the issuer, made it.  Raises ``BadWire``."""
        if self.issuer.key not in (None, key) or not self._token.verify(key):
            raise BadWire(f"request: not signed by {self.issuer}")
        return Request(self.issuer, key, self.stamp, self._action)


def read_request(untrusted: str, audience: str, now: float) -> Claimed:
    """The request in ``untrusted``, for the SN of the domain ``audience`` at ``now``.  Raises ``BadWire``."""
    token = read_token(untrusted, "request", MOST_REQUEST)
    told = Fields(dict(token.claims), "request")
    op = told.text("op")
    reader = _READERS.get(op)
    if reader is None:
        raise told.wrong("op", f"{op[:40]!r} is not known here")
    if names.name(told.text("aud")) != audience:
        raise told.wrong("aud", f"is not {audience}: this was meant for another SN")
    issuer = told.did("iss").canonical
    iat, exp = told.number("iat"), told.number("exp")
    seq = told.number("seq") if "seq" in told else 0
    if seq > _MOST_SEQ:
        raise told.wrong("seq", "is too large")
    if iat > now + CLOCK_SKEW:
        raise BadWire(f"request: signed {int(iat - now)} s in the future; check the clocks")
    if exp <= now or not 0 < exp - iat <= LIFETIME:
        raise BadWire(f"request: out of its time; sign it again, for at most {LIFETIME} s")
    action = reader(told)
    if unknown := sorted(told.rest()):
        raise BadWire(f"request: {unknown[0][:40]!r} is not known here, and nobody should obey what they cannot read")
    return Claimed(issuer, Stamp(iat, seq), action, token)


def sign_request(
    action: Action, issuer: Did, key: SecretKey, audience: str, now: float, last: Stamp = NEVER
) -> tuple[str, Stamp]:
    """``action`` as :func:`read_request` reads it, and its stamp; ``last`` is that of the request before this one."""
    stamp = Stamp(int(now), 0) if int(now) > last.iat else Stamp(last.iat, last.seq + 1)
    claims: dict[str, Json] = {
        "op": _OPS[type(action)],
        "aud": audience,
        "iss": str(issuer),
        "iat": stamp.iat,
        "exp": stamp.iat + LIFETIME,
        **({"seq": stamp.seq} if stamp.seq else {}),
        **_told(action),
    }
    return sign_token(claims, key), stamp


def described(action: Action) -> str:
    """``action`` in a few words for the audit log, without what is secret or long: ``register alice``."""
    match action:
        case Register(about) | Bind(about) | Release(about) | Point(about) | Publish(about):
            about = ascii(about)[1:81]
        case Remove(device):
            about = str(device)
        case _:
            about = ""
    return f"{_OPS[type(action)].removeprefix('sn.')} {about}".rstrip("' ")


def _told(action: Action) -> Mapping[str, Json]:
    match action:
        case Register(name, code):
            return {"name": name, "code": code} if code else {"name": name}
        case Bind(domain):
            return {"domain": domain}
        case Release(name):
            return {"name": name}
        case Point(name, device):
            return {"name": name} if device is None else {"name": name, "device": str(device)}
        case Publish(name, boot, issuers):
            more: dict[str, Json] = {} if boot is None else {"boot": boot.text}
            return {"name": name, **more, **({"issuers": list(issuers)} if issuers else {})}
        case Admit(document, owner):
            return {"document": document.text} if owner is None else {"document": document.text, "owner": str(owner)}
        case Remove(device):
            return {"device": str(device)}
        case Report(addresses):
            return {"addresses": list(addresses)}
        case Rekey(document):
            return {"document": document.text}
        case Recover() | Close():
            return {}


def _document(told: Fields) -> Token:
    text = told.text_or_none("document", most=_MOST_DOCUMENT)
    if not text:
        raise told.wrong("document", "is missing")
    return read_token(text, "request: document")


def _publish(told: Fields) -> Publish:
    name, boot = names.name(told.text("name")), told.text_or_none("boot", most=MOST_TXT - len("BOOT=;"))
    issuers = tuple(told.texts("issuers", most=_MOST_ISSUERS))
    if not all(map(_ISSUER, issuers)):
        raise told.wrong("issuers", "has one that is no certificate authority")
    return Publish(name, read_token(boot, "request: boot") if boot else None, issuers)


def _did_or_none(told: Fields, name: str) -> Did | None:
    did = told.did_or_none(name)
    return None if did is None else did.canonical


def _domain(told: Fields) -> str:
    domain = names.name(told.text("domain"))
    if "." not in domain or "_" in domain:
        raise told.wrong("domain", f"{domain[:80]!r} is no domain of somebody's own")
    return domain


def _addresses(told: Fields) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for text in told.texts("addresses", most=_MOST_ADDRESSES):
        address = ipaddress.ip_address(names.ip(text))
        if address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local:
            raise told.wrong("addresses", f"{text[:60]!r} leads nobody to a machine")
        found[str(address)] = None
    return tuple(found)


_READERS: Mapping[str, Callable[[Fields], Action]] = {
    "sn.register": lambda told: Register(told.text("name"), told.text_or_none("code", most=_MOST_CODE) or ""),
    "sn.bind": lambda told: Bind(_domain(told)),
    "sn.release": lambda told: Release(names.name(told.text("name"))),
    "sn.point": lambda told: Point(names.name(told.text("name")), _did_or_none(told, "device")),
    "sn.publish": _publish,
    "sn.admit": lambda told: Admit(_document(told), _did_or_none(told, "owner")),
    "sn.remove": lambda told: Remove(told.did("device").canonical),
    "sn.report": lambda told: Report(_addresses(told)),
    "sn.rekey": lambda told: Rekey(_document(told)),
    "sn.recover": lambda told: Recover(),
    "sn.close": lambda told: Close(),
}
_OPS: Mapping[type[Action], str] = {
    Register: "sn.register",
    Bind: "sn.bind",
    Release: "sn.release",
    Point: "sn.point",
    Publish: "sn.publish",
    Admit: "sn.admit",
    Remove: "sn.remove",
    Report: "sn.report",
    Rekey: "sn.rekey",
    Recover: "sn.recover",
    Close: "sn.close",
}
