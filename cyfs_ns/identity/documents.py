"""The documents of the house: who an owner is, what a zone consists of, which key a device has.

All are JSON objects, all but the plain one travel as tokens (``token.py``).  Two generations of shapes exist: the
current one looks like a DID document (``id``, ``verificationMethod`` with ``#main_key``), the old one has ``did`` and
``auth_key``.  Both are read into the same values; only the current one is written, with the forerunner's names for its
fields (``assertion_method`` and ``capbilities`` are spelt so there).  What we do not know is kept in ``extra`` and
written back, so that a document survives a machine that is older than it.

Reading a document believes nothing: it says what the document *claims*.  :func:`verify` is the door to belief.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Protocol

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.oods import Ood, read_ood
from cyfs_ns.identity.revision import Revision
from cyfs_ns.identity.strictjson import Json
from cyfs_ns.identity.token import Token

LIFETIME = 10 * 365 * 86400
"""Seconds a document lasts unless it says otherwise; the ones without ``iat`` count back from ``exp`` by it."""

CLOCK_SKEW = 60
"""Seconds by which two honest clocks may differ."""

_CORE = "https://www.w3.org/ns/did/v1"
_CONTEXT = "https://buckyos.org/ns/{}/v1"
_KEY = "#main_key"
_MOST_OODS = 64
_MOST_DEVICES = 256


class Document(Protocol):
    """What all documents have.  ``subject`` is whom it is about, ``issuer`` who has to sign it (None: not said)."""

    kind: ClassVar[str]

    @property
    def subject(self) -> Did | None: ...
    @property
    def issuer(self) -> Did | None: ...
    @property
    def main_key(self) -> PublicKey | None: ...
    @property
    def iat(self) -> int: ...
    @property
    def exp(self) -> int: ...
    def claims(self) -> dict[str, Json]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerDoc:
    """A person: the root that signs everything of theirs.  Signed by the key it names."""

    kind: ClassVar[str] = "owner"
    id: Did
    key: PublicKey
    name: str
    full_name: str = ""
    default_zone: Did | None = None
    iat: int
    exp: int
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def subject(self) -> Did:
        return self.id

    @property
    def issuer(self) -> Did:
        return self.id

    @property
    def main_key(self) -> PublicKey:
        return self.key

    def claims(self) -> dict[str, Json]:
        zone: dict[str, Json] = {} if self.default_zone is None else {"default_zone_did": str(self.default_zone)}
        return {**_envelope(self), "name": self.name, "full_name": self.full_name, **zone}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDoc:
    """A machine of an owner: its key, and how it may be reached.  Signed by the owner."""

    kind: ClassVar[str] = "device"
    id: Did
    key: PublicKey
    name: str
    owner: Did | None
    zone: Did | None = None
    device_type: str = "ood"
    rtcp_port: int | None = None
    ips: tuple[str, ...] = ()
    net: str | None = None
    ddns_sn_url: str | None = None
    support_container: bool = True
    mini_jwt: str | None = field(default=None, repr=False)
    iat: int
    exp: int
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def subject(self) -> Did:
        return self.id

    @property
    def issuer(self) -> Did | None:
        return self.owner

    @property
    def main_key(self) -> PublicKey:
        return self.key

    def claims(self) -> dict[str, Json]:
        told: dict[str, Json] = {
            "name": self.name,
            "owner": "did:undefined:undefined" if self.owner is None else str(self.owner),
            "device_type": self.device_type,
            "zone_did": None if self.zone is None else str(self.zone),
            "rtcp_port": self.rtcp_port,
            "ips": list(self.ips) or None,
            "net_id": self.net,
            "ddns_sn_url": self.ddns_sn_url,
            "support_container": None if self.support_container else False,
            "device_mini_config_jwt": self.mini_jwt,
        }
        return {**_envelope(self), **{name: value for name, value in told.items() if value is not None}}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMini:
    """A device in the fewest characters, for a TXT record.  Signed by the owner of the zone it stands under."""

    kind: ClassVar[str] = "device-mini"
    name: str
    key: PublicKey
    rtcp_port: int | None = None
    iat: int
    exp: int
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def subject(self) -> Did:
        return dev_did(self.key)

    @property
    def issuer(self) -> None:
        return None

    @property
    def main_key(self) -> PublicKey:
        return self.key

    def claims(self) -> dict[str, Json]:
        port: dict[str, Json] = {} if self.rtcp_port is None else {"p": self.rtcp_port}
        return {**self.extra, "n": self.name, "x": self.key.x, **port, **_times(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneBoot:
    """The least that lets a machine find its zone, for a TXT record.  Signed by the owner; the key stands beside it."""

    kind: ClassVar[str] = "boot"
    id: Did | None
    oods: tuple[Ood, ...]
    sn: str | None = None
    owner: Did | None = None
    iat: int
    exp: int
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def subject(self) -> Did | None:
        return self.id

    @property
    def issuer(self) -> Did | None:
        return self.owner

    @property
    def main_key(self) -> None:
        return None

    def claims(self) -> dict[str, Json]:
        told: dict[str, Json] = {
            "id": None if self.id is None else str(self.id),
            "oods": [str(ood) for ood in self.oods],
            "sn": self.sn,
            "owner": None if self.owner is None else str(self.owner),
        }
        return {**self.extra, **{name: value for name, value in told.items() if value is not None}, **_times(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneDoc:
    """A zone: its owner, its machines, and the device documents among them.  Signed by the owner."""

    kind: ClassVar[str] = "zone"
    id: Did
    key: PublicKey | None
    owner: Did | None
    oods: tuple[Ood, ...]
    hostname: str | None = None
    sn: str | None = None
    boot_jwt: str = field(default="", repr=False)
    devices: Mapping[str, DeviceDoc] = field(default_factory=dict)
    hub_key: PublicKey | None = None
    iat: int
    exp: int
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def subject(self) -> Did:
        return self.id

    @property
    def issuer(self) -> Did | None:
        return self.owner

    @property
    def main_key(self) -> PublicKey | None:
        return self.key

    def claims(self) -> dict[str, Json]:
        told: dict[str, Json] = {
            "hostname": self.hostname,
            "owner": "did:undefined:undefined" if self.owner is None else str(self.owner),
            "oods": [str(ood) for ood in self.oods],
            "sn": self.sn,
            "boot_jwt": self.boot_jwt,
            "devices": {name: device.claims() for name, device in self.devices.items()},
            "verify_hub_info": None if self.hub_key is None else {"public_key": self.hub_key.jwk()},
        }
        return {**_envelope(self), **{name: value for name, value in told.items() if value is not None}}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """A device as it is just now: its document and what it reports of itself.  Signed by the device."""

    kind: ClassVar[str] = "info"
    device: DeviceDoc
    arch: str
    os: str
    update_time: int
    all_ips: tuple[str, ...] = ()

    @property
    def subject(self) -> Did:
        return self.device.id

    @property
    def issuer(self) -> Did:
        return dev_did(self.device.key)

    @property
    def main_key(self) -> PublicKey:
        return self.device.key

    @property
    def iat(self) -> int:
        return self.update_time

    @property
    def exp(self) -> int:
        return self.device.exp

    def claims(self) -> dict[str, Json]:
        ips: dict[str, Json] = {"all_ip": list(self.all_ips)} if self.all_ips else {}
        return {**self.device.claims(), "arch": self.arch, "os": self.os, "update_time": self.update_time, **ips}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainDoc:
    """A DID document of somebody who is none of ours (W3C DID Core §5); ``key`` if it has one we can use."""

    kind: ClassVar[str] = "did"
    id: Did
    key: PublicKey | None
    iat: int = 0
    exp: int
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def subject(self) -> Did:
        return self.id

    @property
    def issuer(self) -> Did:
        return self.id

    @property
    def main_key(self) -> PublicKey | None:
        return self.key

    def claims(self) -> dict[str, Json]:
        return {**self.extra, "id": str(self.id)}


def kind_of(claims: Mapping[str, Json]) -> str:
    """Which document ``claims`` are, by the fields that only this kind has."""
    if "n" in claims and "x" in claims:
        return DeviceMini.kind
    if "device_type" in claims:
        return DeviceInfo.kind if "update_time" in claims else DeviceDoc.kind
    if "oods" in claims or "hostname" in claims:
        return ZoneDoc.kind if "verificationMethod" in claims or "did" in claims else ZoneBoot.kind
    if "full_name" in claims or "nickname" in claims:
        return OwnerDoc.kind
    return PlainDoc.kind


def read_document(claims: Mapping[str, Json], kind: str | None = None) -> Document:
    """What ``claims`` say.  ``kind`` is what it has to be, where the caller knows.  Raises ``BadWire``."""
    found = kind_of(claims)
    if kind is not None and kind != found:
        raise BadWire(f"{kind} document: this is one of kind {found!r}")
    return _READERS[found](Fields(dict(claims), f"{found} document"))


def verify(
    token: Token, kind: str, key: PublicKey, now: float, *, issuer: Did | None = None, least_iat: int = 0
) -> Document:
    """The document in ``token``, signed with ``key`` and in force at ``now`` (seconds since 1970).

    ``issuer`` is whose key that is, for documents that name their issuer and for tokens with a ``kid``.  Raises
    ``BadWire``, which names the document, the rule it broke and what to do.
    """
    if not token.verify(key):
        raise BadWire(f"{kind} document: not signed by {key.x}; get it again from whoever issued it")
    if token.kid is not None and token.kid not in _names_of(key, issuer):
        raise BadWire(f"{kind} document: kid {token.kid[:60]!r} is not its issuer's; it has to be issued again")
    document = read_document(token.claims, kind)
    told = document.issuer
    if issuer is not None and told is not None and told.canonical not in (issuer.canonical, dev_did(key)):
        raise BadWire(f"{kind} document: says it is {told}'s, signed by {issuer}; ask {told} for one")
    if document.iat > now + CLOCK_SKEW:
        raise BadWire(f"{kind} document: issued {int(document.iat - now)} s in the future; check the clocks")
    if document.exp <= now:
        raise BadWire(f"{kind} document: expired {int(now - document.exp)} s ago; its owner has to issue a new one")
    if document.iat < least_iat:
        raise BadWire(f"{kind} document: issued before {least_iat}, revoked by its owner; get the new one")
    return document


def revision_of(document: Document, token: Token) -> Revision:
    """Where the document stands among those of its subject."""
    return Revision(document.iat, token.digest)


def _names_of(key: PublicKey, issuer: Did | None) -> frozenset[str]:
    """All the ways a ``kid`` may name ``key``."""
    whose = [dev_did(key)] if issuer is None else [dev_did(key), issuer]
    return frozenset({key.x, _KEY, *(str(did) for did in whose), *(f"{did}{_KEY}" for did in whose)})


def _envelope(document: OwnerDoc | DeviceDoc | ZoneDoc) -> dict[str, Json]:
    method: list[Json] = []
    if document.key is not None:
        method.append(
            {
                "type": "Ed25519VerificationKey2020",
                "id": _KEY,
                "controller": str(document.id),
                "publicKeyJwk": document.key.jwk(),
            }
        )
    return {
        "@context": [_CORE, _CONTEXT.format(document.kind)],
        **document.extra,
        "id": str(document.id),
        "verificationMethod": method,
        "authentication": [_KEY],
        "assertion_method": [_KEY],
        **_times(document),
    }


def _times(document: Document) -> dict[str, Json]:
    return {"iat": document.iat, "exp": document.exp}


def _iat_exp(fields: Fields) -> tuple[int, int]:
    exp = fields.number("exp")
    iat = fields.number_or_none("iat")
    return (max(0, exp - LIFETIME) if iat is None else iat), exp


def _id_and_key(fields: Fields) -> tuple[Did, PublicKey | None]:
    """Whom the document is about and the key it gives them, in the current shape or the old one."""
    if "did" in fields and "id" not in fields:
        return fields.did("did"), fields.jwk_or_none("auth_key")
    subject = fields.did("id")
    key = fields.main_key(subject)
    context = fields.take("@context")
    first = context[0] if isinstance(context, list) and context else context
    if first not in (None, _CORE):
        raise fields.wrong("@context", f"does not start with {_CORE}")
    for name in ("authentication", "assertion_method", "assertionMethod"):
        fields.take(name)
    return subject, key


def _needed(fields: Fields, key: PublicKey | None) -> PublicKey:
    if key is None:
        raise fields.wrong("verificationMethod", "has no Ed25519 key")
    return key


def _read_owner(fields: Fields) -> OwnerDoc:
    subject, key = _id_and_key(fields)
    iat, exp = _iat_exp(fields)
    return OwnerDoc(
        id=subject,
        key=_needed(fields, key),
        name=fields.text("name"),
        full_name=fields.text_or_none("full_name") or fields.text_or_none("nickname") or "",
        default_zone=fields.did_or_none("default_zone_did"),
        iat=iat,
        exp=exp,
        extra=fields.rest(),
    )


def _read_device(fields: Fields) -> DeviceDoc:
    subject, key = _id_and_key(fields)
    iat, exp = _iat_exp(fields)
    ips = fields.ips("ips") or fields.ips("ip")
    return DeviceDoc(
        id=subject,
        key=_matching(fields, subject, _needed(fields, key)),
        name=fields.label("name"),
        owner=fields.did_or_none("owner") or fields.did_or_none("iss"),
        zone=fields.did_or_none("zone_did"),
        device_type=fields.text("device_type"),
        rtcp_port=fields.port_or_none("rtcp_port"),
        ips=ips,
        net=fields.text_or_none("net_id"),
        ddns_sn_url=fields.text_or_none("ddns_sn_url"),
        support_container=fields.flag("support_container", True),
        mini_jwt=fields.text_or_none("device_mini_config_jwt", most=2048),
        iat=iat,
        exp=exp,
        extra=fields.rest(),
    )


def _matching(fields: Fields, subject: Did, key: PublicKey) -> PublicKey:
    """A ``did:dev`` or ``did:key`` *is* a key; a document that gives it another one lies."""
    own = subject.key
    if own is not None and own != key:
        raise fields.wrong("id", f"is {subject}, but the key in it is {key.x}")
    return key


def _read_mini(fields: Fields) -> DeviceMini:
    iat, exp = _iat_exp(fields)
    return DeviceMini(
        name=fields.label("n"),
        key=fields.x("x"),
        rtcp_port=fields.port_or_none("p"),
        iat=iat,
        exp=exp,
        extra=fields.rest(),
    )


def _read_boot(fields: Fields) -> ZoneBoot:
    iat, exp = _iat_exp(fields)
    return ZoneBoot(
        id=fields.did_or_none("id"),
        oods=_oods(fields),
        sn=fields.text_or_none("sn"),
        owner=fields.did_or_none("owner"),
        iat=iat,
        exp=exp,
        extra=fields.rest(),
    )


def _read_zone(fields: Fields) -> ZoneDoc:
    subject, key = _id_and_key(fields)
    iat, exp = _iat_exp(fields)
    hub = fields.take("verify_hub_info")
    hub_key = (
        Fields(dict(hub), f"{fields.what}: verify_hub_info").jwk_or_none("public_key")
        if isinstance(hub, dict)
        else None
    )
    return ZoneDoc(
        id=subject,
        key=key,
        owner=fields.did_or_none("owner") or fields.did_or_none("owner_name"),
        oods=_oods(fields),
        hostname=fields.text_or_none("hostname"),
        sn=fields.text_or_none("sn"),
        boot_jwt=fields.text_or_none("boot_jwt", most=8192) or "",
        devices=_devices(fields),
        hub_key=hub_key,
        iat=iat,
        exp=exp,
        extra=fields.rest(),
    )


def _oods(fields: Fields) -> tuple[Ood, ...]:
    oods = tuple(read_ood(text) for text in fields.texts("oods", most=_MOST_OODS))
    if len({ood.name for ood in oods}) != len(oods):
        raise fields.wrong("oods", "names one machine twice")
    return oods


def _devices(fields: Fields) -> Mapping[str, DeviceDoc]:
    written = fields.take("devices")
    if written is None:
        return MappingProxyType({})
    if not isinstance(written, dict) or len(written) > _MOST_DEVICES:
        raise fields.wrong("devices", f"is not a mapping of at most {_MOST_DEVICES} names")
    found = {}
    for name, below in written.items():
        if not isinstance(below, dict):
            raise fields.wrong("devices", f"{name[:40]!r} is not a device document")
        found[name] = _read_device(Fields(dict(below), f"{fields.what}: device {name[:40]!r}"))
    return MappingProxyType(found)


def _read_info(fields: Fields) -> DeviceInfo:
    arch, system = fields.text("arch"), fields.text("os")
    update_time, all_ips = fields.number("update_time"), fields.ips("all_ip")
    return DeviceInfo(device=_read_device(fields), arch=arch, os=system, update_time=update_time, all_ips=all_ips)


def _read_plain(fields: Fields) -> PlainDoc:
    subject = fields.did("id")
    whole = fields.rest()
    key = fields.main_key(subject)
    exp = fields.number_or_none("exp")
    return PlainDoc(
        id=subject,
        key=None if key is None else _matching(fields, subject, key),
        iat=fields.number_or_none("iat") or 0,
        exp=1 << 52 if exp is None else exp,
        extra=whole,
    )


_READERS: Mapping[str, Callable[[Fields], Document]] = {
    OwnerDoc.kind: _read_owner,
    DeviceDoc.kind: _read_device,
    DeviceMini.kind: _read_mini,
    ZoneBoot.kind: _read_boot,
    ZoneDoc.kind: _read_zone,
    DeviceInfo.kind: _read_info,
    PlainDoc.kind: _read_plain,
}
