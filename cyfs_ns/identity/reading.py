"""What a stranger's claims say: any generation of any document, read into one value.

Two generations of shapes exist: the current one looks like a DID document, the old one has ``did`` and ``auth_key``.
Both become the same values (``documents.py``), told apart by the fields that only one kind has.  A field of the wrong
type ends the reading; one that is not known here goes to ``extra``.

Reading believes nothing: it says what the document *claims*, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.documents import (
    CORE_CONTEXT,
    DeviceDoc,
    DeviceInfo,
    DeviceMini,
    Document,
    OwnerDoc,
    PlainDoc,
    ZoneBoot,
    ZoneDoc,
)
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.oods import Ood, read_ood
from cyfs_ns.identity.strictjson import Json

LIFETIME = 10 * 365 * 86400
"""Seconds a document of the forerunner lasts: the ones without ``iat`` count back from ``exp`` by it."""

_MOST_OODS = 64
_MOST_DEVICES = 256


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
    if first not in (None, CORE_CONTEXT):
        raise fields.wrong("@context", f"does not start with {CORE_CONTEXT}")
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
        key=_matching(fields, subject, _needed(fields, key)),
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
        key=None if key is None else _matching(fields, subject, key),
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
