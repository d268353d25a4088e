"""What makes a machine one of a zone: three documents that its owner signed, which hold together or not at all.

    owner     who the owner is, signed by the key it names
    zone      the zone: which machines carry it, and the document of every machine
    device    this machine: its key and its name, as the zone's document has them

They travel together, as one JSON object of three tokens, from the owner to the machine, and are kept so.  The one door
to them is :func:`read_membership`; behind it every signature held, and each document agrees with the two others.  Which
owner that may be is for the caller to know: a person who compared a key, or what the machine held before.

The owner's secret key is nowhere in it.  A machine that was replaced keeps all its signatures and is refused all the
same: under its name the newest document of the zone has another key (:func:`stranger`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.documents import DeviceDoc, OwnerDoc, ZoneBoot, ZoneDoc
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.oods import Ood
from cyfs_ns.identity.proof import verify
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.revision import Revision, revision_of
from cyfs_ns.identity.strictjson import read_object, write_json
from cyfs_ns.identity.token import MOST_TOKEN, Token, read_token

KIND: Final = "membership"
MOST_MEMBERSHIP: Final = MOST_TOKEN + 2 * 16_384 + 1024
"""Bytes of the longest that is read."""
_MOST_SMALL: Final = 16_384
"""Characters of an owner's or a device's token."""

_AGAIN: Final = "its owner signs it again: node sign"

D = TypeVar("D", OwnerDoc, ZoneDoc, DeviceDoc)


class Role(StrEnum):
    """What a machine is in its zone."""

    OOD = "ood"
    """It carries the zone: its state is here too."""
    GATEWAY = "gateway"
    """It lets the outside in, and carries no state."""
    NODE = "node"


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """The three documents, each with the token it stands in."""

    owner: OwnerDoc
    zone: ZoneDoc
    device: DeviceDoc
    owner_token: Token
    zone_token: Token
    device_token: Token

    @property
    def name(self) -> str:
        """What this machine is called in its zone."""
        return self.device.name

    @property
    def revision(self) -> Revision:
        """Where the zone's document stands among those of the zone."""
        return revision_of(self.zone, self.zone_token)

    def text(self) -> bytes:
        """As it travels and is kept."""
        return write_membership(self.owner_token.text, self.zone_token.text, self.device_token.text)


def write_membership(owner: str, zone: str, device: str) -> bytes:
    """The object of three tokens."""
    return write_json({"kind": KIND, "owner": owner, "zone": zone, "device": device}) + b"\n"


def read_membership(untrusted: bytes, now: float | None = None) -> Membership:
    """The documents in ``untrusted``, which hold together at ``now``, in seconds since 1970.

    None: at the moment the newest of them was issued, for what held once and is looked at again.  Raises ``BadWire``,
    which says which document breaks which rule and what to do.
    """
    if len(untrusted) > MOST_MEMBERSHIP:
        raise BadWire(f"{KIND}: {len(untrusted)} bytes, at most {MOST_MEMBERSHIP} are read")
    fields = Fields(read_object(untrusted, KIND), KIND)
    if fields.text("kind") != KIND:
        raise fields.wrong("kind", f"is not {KIND!r}; the file is another one")
    owner_token = _token(fields, "owner", _MOST_SMALL)
    zone_token = _token(fields, "zone", MOST_TOKEN)
    device_token = _token(fields, "device", _MOST_SMALL)
    if unknown := [*fields.rest()]:
        raise BadWire(f"{KIND}: {unknown[0][:40]!r} does not belong there")
    if now is None:
        now = max(_issued(token) for token in (owner_token, zone_token, device_token))
    owner = read_owner(owner_token, now)
    zone = read_zone(zone_token, owner, now)
    device = _of(DeviceDoc, verify(device_token, DeviceDoc.kind, owner.key, now, issuer=owner.id))
    if device.owner is None or device.zone is None or device.zone.canonical != zone.id.canonical:
        raise BadWire(f"device document: it is not for {zone.id}; {_AGAIN}")
    listed = zone.devices.get(device.name)
    if listed is None or listed.claims() != device.claims():
        raise BadWire(f"zone document: it has another {device.name!r} than the device document; {_AGAIN}")
    return Membership(
        owner=owner,
        zone=zone,
        device=device,
        owner_token=owner_token,
        zone_token=zone_token,
        device_token=device_token,
    )


def read_owner(token: Token, now: float) -> OwnerDoc:
    """The owner's document in ``token``, signed by the key in it.  Raises ``BadWire``."""
    claimed = _of(OwnerDoc, read_document(token.claims, OwnerDoc.kind))
    return _of(OwnerDoc, verify(token, OwnerDoc.kind, claimed.key, now, issuer=claimed.id))


def read_zone(token: Token, owner: OwnerDoc, now: float) -> ZoneDoc:
    """The zone's document in ``token``, which ``owner`` signed, whole in itself.  Raises ``BadWire``."""
    zone = _of(ZoneDoc, verify(token, ZoneDoc.kind, owner.key, now, issuer=owner.id))
    if zone.owner is None:
        raise BadWire(f"zone document: it does not say whose it is; {_AGAIN}")
    if not any(ood.is_ood for ood in zone.oods):
        raise BadWire(f"zone document: no machine carries the zone; {_AGAIN}")
    for name, device in zone.devices.items():
        if device.name != name or device.zone is None or device.zone.canonical != zone.id.canonical:
            raise BadWire(f"zone document: what stands under {name!r} is not that machine's of {zone.id}; {_AGAIN}")
    if len({device.key for device in zone.devices.values()}) != len(zone.devices):
        raise BadWire(f"zone document: two names have the same key; {_AGAIN}")
    boot = verify(read_token(zone.boot_jwt, "boot document"), ZoneBoot.kind, owner.key, zone.iat, issuer=owner.id)
    if not isinstance(boot, ZoneBoot) or boot.id is None or boot.id.canonical != zone.id.canonical:
        raise BadWire(f"boot document: it is not {zone.id}'s; {_AGAIN}")
    return zone


def role_of(oods: Iterable[Ood], name: str) -> Role:
    """What the machine called ``name`` is, by the list of a zone's document."""
    found = next((ood for ood in oods if ood.name == name), None)
    if found is None:
        return Role.NODE
    return Role.OOD if found.is_ood else Role.GATEWAY


def ood_names(zone: ZoneDoc) -> tuple[str, ...]:
    """The machines that carry ``zone``, in the order of its document."""
    return tuple(ood.name for ood in zone.oods if ood.is_ood)


def stranger(zone: ZoneDoc, name: str, key: PublicKey) -> str:
    """Why the holder of ``key`` is not the machine ``name`` of ``zone``; empty: it is."""
    device = zone.devices.get(name)
    if device is None:
        return f"{zone.id} has no machine {name!r}"
    if device.key != key:
        return f"{name!r} of {zone.id} has another key since {device.iat}: this one was replaced"
    return ""


def name_of(zone: ZoneDoc, key: PublicKey) -> str | None:
    """What the holder of ``key`` is called in ``zone``; None: no machine of it."""
    return next((name for name, device in zone.devices.items() if device.key == key), None)


def _token(fields: Fields, name: str, most: int) -> Token:
    text = fields.text_or_none(name, most=most)
    if text is None:
        raise fields.wrong(name, "is missing")
    return read_token(text, f"{name} document", most)


def _issued(token: Token) -> int:
    found = token.claims.get("iat")
    return found if isinstance(found, int) else 0


def _of(kind: type[D], document: object) -> D:
    assert isinstance(document, kind)  # ``verify`` was told the kind
    return document
